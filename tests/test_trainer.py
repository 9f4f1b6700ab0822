"""`PRMTrainer`: what its loss is, what it takes, what it writes, and how it goes on after an interruption."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_traces import make_traces
from datasets import Dataset, DatasetDict
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForTokenClassification, PrinterCallback, TrainerCallback

from prm import PRMConfig, PRMTrainer, ProcessRewardModel, Scorer, Step, Trace
from prm.errors import InputError
from prm.evaluation.metrics import best_threshold, first_error_metrics
from prm.modeling import process_reward_model
from prm.traces.encoding import EncodedTrace
from prm.training.batching import QuestionBatches
from prm.training.trainer import (
    COMPLETE_FILE,
    INCOMPLETE_FILE,
    _standardise_sample,
    last_complete_checkpoint,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_trainer(tmp_path, make_model):
    """`make_trainer(backbone, model=…, **args)`: a trainer on 24 questions, quiet, nothing saved."""

    def make(backbone="lora", *, train=None, dev=None, model=None, trainer=None, **args):
        model_options = {"lora_dropout": 0.1 if backbone == "dropout" else 0.0, **(model or {})}
        prm = make_model(backbone="lora" if backbone == "dropout" else backbone, **model_options)
        settings = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "disable_tqdm": True,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "save_strategy": "no",
        }
        made = PRMTrainer(
            prm,
            PRMConfig(**settings | args),
            train_dataset=make_traces(8) if train is None else train,
            eval_dataset=dev,
            **trainer or {},
        )
        made.remove_callback(PrinterCallback)
        return made

    return make


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(trainer):
    """The weights that learn, by name."""
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        if tolerance:
            torch.testing.assert_close(a[name], b[name], **tolerance)
        else:
            assert torch.equal(a[name], b[name]), name


def test_the_scale_of_the_states_is_measured_on_short_traces_of_several_questions():
    def encoded(question, length, n):
        return [EncodedTrace([1] * length, [length - 1], [1.0], f"q{question}") for _ in range(n)]

    many = [trace for k in range(30) for trace in encoded(k, 100 - k, 8)]
    chosen = _standardise_sample(many)
    assert [trace.question_key for trace in chosen] == [f"q{k}" for k in (29, 28, 27, 26) for _ in range(3)]
    single = [trace for k in range(40) for trace in encoded(k, 50 + k, 1)]  # TRL's data
    assert [trace.question_key for trace in _standardise_sample(single)] == [f"q{k}" for k in range(12)]
    assert len(_standardise_sample(encoded(0, 10, 5))) == 5  # all there is


# The loss


@pytest.mark.parametrize("loss", ["bce", "first_error"])
def test_the_first_logged_loss_by_hand(make_trainer, loss):
    """Batch 8 x accumulation 2: the sum over the labelled steps of 16 traces, one by one, / their number."""
    trainer = make_trainer(gradient_accumulation_steps=2, max_steps=1, loss=loss)
    trainer._standardise_head()  # as train() does first
    batches = iter(trainer.get_train_dataloader().batch_sampler)
    chosen = [trainer.train_dataset.traces[i] for i in next(batches) + next(batches)]
    total, steps = 0.0, 0
    for trace in chosen:
        with torch.no_grad():
            logits = trainer.model(
                input_ids=torch.tensor([trace.input_ids]), step_ends=torch.tensor([trace.step_ends])
            ).logits[0]
        for logit, label in zip(logits.tolist(), trace.labels, strict=True):
            if label is not None:
                total -= np.log(1 / (1 + np.exp(-logit if label else logit)))
                steps += 1
                if label == 0 and loss == "first_error":
                    break
    trainer.train()
    assert len(chosen) == 16 and steps > 20
    assert losses(trainer)[0] == pytest.approx(total / steps, rel=1e-5)


@pytest.mark.parametrize("loss", ["bce", "first_error"])
def test_neither_accumulation_nor_forwards_nor_trees_change_the_loss(make_trainer, loss):
    """The same losses and weights however the global batch of eight traces is dealt and computed."""
    ways = {
        "in one": {},
        "4 x 2": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        "1 x 8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        "a trace a forward": {"max_tokens_per_batch": 1},
        "small forwards": {
            "max_tokens_per_batch": 150,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
        },
        "no trees": {"model": {"attn_implementation": "eager"}},
    }
    reference = None
    for name, way in ways.items():
        trainer = make_trainer(
            loss=loss, class_balance=True, optim="sgd", learning_rate=0.5, num_train_epochs=1, **way
        )
        assert trainer.share_prefixes == (name != "no trees")
        trainer.train()
        assert trainer.state.global_step == 4
        found = losses(trainer), trained(trainer)
        reference = reference or found
        assert found[0] == pytest.approx(reference[0], rel=2e-4), name
        assert_same(found[1], reference[1], rtol=2e-3, atol=2e-4)
    assert len(set(reference[0])) > 3  # it learns, so the comparison could fail


def test_batches_are_whole_questions_dealt_out():
    """Each epoch another seeded order of the questions; an optimiser step holds the same traces however they
    are dealt, every trace once, as many micro-batches for each process.
    """
    questions = [trace.question_key for trace in make_traces(12)]
    n = len(questions)

    def steps(epoch, batch, accumulation, processes, seed=3):
        dealt = []
        for rank in range(processes):
            batches = QuestionBatches(
                questions,
                batch_size=batch,
                accumulation=accumulation,
                seed=seed,
                rank=rank,
                processes=processes,
            )
            batches.set_epoch(epoch)
            mine = list(batches)
            assert len(mine) == len(batches) == -(-n // (batch * accumulation * processes)) * accumulation
            dealt.append([mine[k : k + accumulation] for k in range(0, len(mine), accumulation)])
        return [
            sorted(i for part in step for micro in part for i in micro if i >= 0)
            for step in zip(*dealt, strict=True)
        ]

    whole = steps(0, 8, 1, 1)
    assert whole == steps(0, 2, 4, 1) == steps(0, 1, 2, 4) == steps(0, 4, 1, 2)
    assert [len(step) for step in whole] == [8] * (n // 8) + [n % 8] * (n % 8 > 0)
    assert sorted(i for step in whole for i in step) == list(range(n))
    assert steps(1, 8, 1, 1) != whole != steps(0, 8, 1, 1, seed=4)
    one = QuestionBatches(questions, batch_size=1, accumulation=1, seed=3, rank=0, processes=1)
    order = [questions[i] for batch in one for i in batch]
    assert sum(a != b for a, b in pairwise(order)) == len(set(questions)) - 1


def test_each_epoch_has_another_order(make_trainer, monkeypatch):
    """Also the epoch in the midst of which a run is resumed."""
    seen = []
    real = PRMTrainer.training_step

    def look(self, model, inputs, num_items_in_batch=None):
        seen.append((self.state.global_step, inputs["labels"].tolist()))
        return real(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(PRMTrainer, "training_step", look)
    make_trainer(save_strategy="steps", save_steps=5, max_steps=8).train()
    whole = dict(seen)
    assert len(whole) == 8 and [whole[k] for k in range(4)] != [whole[k] for k in range(4, 8)]
    seen.clear()
    shutil.rmtree(f"{make_trainer().args.output_dir}/checkpoint-8")
    make_trainer(save_strategy="steps", save_steps=5, max_steps=8).train(resume_from_checkpoint=True)
    assert dict(seen) == {k: whole[k] for k in (5, 6, 7)}


def test_losses_by_hand(make_trainer):
    """Evaluation's loss of known logits, on hard, soft and missing labels, under both losses."""
    labels = [[1, 0, 0], [0.3, None, 1], [None, None]]
    traces = [
        Trace(f"q{k}", [Step(f"step {i}", y) for i, y in enumerate(row)], label_scheme="step")
        for k, row in enumerate(labels)
    ]
    for loss, counted in (
        ("bce", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]),
        ("first_error", [(0, 0), (0, 1), (1, 0)]),
    ):
        trainer = make_trainer(loss=loss, dev=traces)
        metrics = trainer.evaluate()
        scores = Scorer(trainer.model, trainer.processing_class).score(traces)
        hazards = [
            [s / (row[i - 1] if i and loss == "first_error" else 1) for i, s in enumerate(row)]
            for row in scores
        ]
        terms = [
            -labels[k][i] * np.log(hazards[k][i]) - (1 - labels[k][i]) * np.log(1 - hazards[k][i])
            for k, i in counted
        ]
        assert metrics["eval_loss"] == pytest.approx(np.mean(terms), rel=1e-4)
        assert trainer.model.config.score_kind == {"bce": "prefix", "first_error": "hazard"}[loss]
        assert metrics["eval_n_traces"] == 2


def test_class_balance(make_trainer):
    """Three right steps to one wrong: each side has half of the weight, the mean weight is one."""
    traces = [Trace("q", [Step("a", 1), Step("b", 1), Step("c", 1), Step("d", 0)])]
    assert make_trainer(train=traces, class_balance=True).class_weights == (2.0, pytest.approx(2 / 3))
    assert make_trainer(train=traces).class_weights is None
    assert make_trainer(train=[Trace("q", [Step("a", 1)])], class_balance=True).class_weights == (1.0, 1.0)


def test_soft_labels_are_learnt_as_shares(make_trainer):
    """One step labelled 0.25 over and over: its score goes to 0.25."""
    trace = Trace("q", [Step("a", 0.25)])
    trainer = make_trainer("full", train=[trace] * 8, num_train_epochs=40)
    trainer.train()
    assert Scorer(trainer.model, trainer.processing_class).score([trace])[0] == [
        pytest.approx(0.25, abs=0.03)
    ]


def test_only_the_last_step(make_trainer):
    trainer = make_trainer(train_on_last_step_only=True)
    for trace, raw in zip(trainer.train_dataset.traces, make_traces(8), strict=True):
        assert trace.labels == [None] * (len(raw.steps) - 1) + [raw.labels[-1]]


def test_no_label_to_learn_from(make_trainer):
    with pytest.raises(InputError, match="no step of the training data has a label"):
        make_trainer(train=[Trace("q", [Step("a"), Step("b")])])


def test_activation_checkpointing_changes_nothing(make_trainer):
    plain, checkpointed = make_trainer(max_steps=3), make_trainer(max_steps=3, activation_checkpointing=True)
    plain.train()
    checkpointed.train()
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-5)
    assert checkpointed.model.backbone.base_model.model.is_gradient_checkpointing


def test_no_data_parallel(make_trainer, tmp_path):
    """Two GPUs, one process: DataParallel would hand the second one step ends of the first one's tokens."""
    args = PRMConfig(output_dir=str(tmp_path / "x"), use_cpu=True)
    assert args.n_gpu == 0
    args._n_gpu = 2
    trainer = PRMTrainer(make_trainer().model, args, train_dataset=make_traces(1))
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == args.per_device_train_batch_size


# What it takes: as TRL's trainer did

TRL_ROWS = {
    "prompt": ["Which is larger, 9.8 or 9.11?", "Count the singers.", "Count the concerts."] * 3,
    "completions": [["9.8 is 9.80.", "So 9.8."], ["Read singer.", "Count.", "Five."], ["Read singer."]] * 3,
    "labels": [[True, True], [True, False, True], [False]] * 3,
}


@pytest.mark.parametrize("peft", [True, False])
def test_trl_scripts(tiny_model_dir, tmp_path, peft):
    """The usual script: a loaded token classifier, TRL's columns, LoRA with `score` in modules_to_save."""
    folder = tiny_model_dir("qwen2")
    from transformers import AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2)
    lora = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["score"], task_type="TOKEN_CLS")
    trainer = PRMTrainer(
        model=model,
        args=PRMConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            disable_tqdm=True,
            max_steps=2,
            eval_strategy="steps",
            eval_steps=2,
        ),
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_dict(TRL_ROWS),
        eval_dataset=Dataset.from_dict(TRL_ROWS),
        peft_config=lora if peft else None,
    )
    trainer.train()
    assert trainer.model.config.backbone == ("lora" if peft else "full")
    assert any("eval_f1" in entry for entry in trainer.state.log_history)
    trainer.save_model(str(tmp_path / "saved"))
    again = Scorer.from_pretrained(tmp_path / "saved", device="cpu")
    traces = [
        Trace(
            "Count the singers.",
            [Step("Read singer."), Step("Count.")],
            extra={"prompt": "Count the singers."},
        )
    ]
    expected = Scorer(trainer.model, trainer.processing_class).score(traces)
    assert again.score(traces) == expected


def test_a_model_by_name_begins_at_the_same_head(tiny_model_dir, tmp_path):
    """Only `args.seed` decides, not what the program did before."""
    heads = []
    for draws in (0, 3):
        torch.rand(draws)
        args = PRMConfig(output_dir=str(tmp_path), use_cpu=True, seed=5)
        trainer = PRMTrainer(str(tiny_model_dir()), args, train_dataset=make_traces(2))
        heads.append(trainer.model.head.dense.weight)
        assert trainer.model.config.backbone == "full"
    assert torch.equal(*heads)


def test_a_model_without_gradients_stays_frozen(tiny_model_dir, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(tiny_model_dir())
    model.requires_grad_(False)
    args = PRMConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, max_steps=1)
    trainer = PRMTrainer(model, args, train_dataset=make_traces(2))
    assert trainer.model.config.backbone == "frozen"
    trainer.train()
    assert {name.split(".")[0] for name in trained(trainer)} == {"head"}


def test_wrong_arguments(tiny_model_dir, tmp_path, make_model):
    from transformers import TrainingArguments

    args = PRMConfig(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(TypeError, match=r"must be a prm\.PRMConfig"):
        PRMTrainer(str(tiny_model_dir()), TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    with pytest.raises(TypeError, match="model must be"):
        PRMTrainer(torch.nn.Linear(1, 1), args)
    with pytest.raises(InputError, match="peft_config goes with a backbone"):
        PRMTrainer(make_model(), args, peft_config=LoraConfig())
    with pytest.raises(InputError, match="loss must be bce or first_error"):
        PRMConfig(output_dir=str(tmp_path), loss="mse")
    with pytest.raises(InputError, match="max_length must be at least 2, not None"):
        PRMConfig(output_dir=str(tmp_path), use_cpu=True, max_length=None)
    with pytest.raises(InputError, match="bf16_full_eval has no effect here; set dtype: bfloat16"):
        PRMConfig(output_dir=str(tmp_path), use_cpu=True, bf16_full_eval=True)


@pytest.mark.parametrize("kind", [dict, DatasetDict])
def test_several_eval_sets(make_trainer, kind):
    """Each is measured under its name; the best checkpoint goes by the first."""
    dev = kind(
        {
            "near": Dataset.from_dict(TRL_ROWS),
            "far": Dataset.from_dict({k: v[:2] for k, v in TRL_ROWS.items()}),
        }
    )
    trainer = make_trainer(dev=dev, eval_strategy="epoch", max_steps=2)
    trainer.train()
    found = {k: v for entry in trainer.state.log_history for k, v in entry.items()}
    assert found["eval_near_n_traces"] == 9 and found["eval_far_n_traces"] == 2
    assert trainer.state.best_metric == max(
        e["eval_near_f1"] for e in trainer.state.log_history if "eval_near_f1" in e
    )


def test_step_separator_and_lengths_reach_tokens_and_config(make_trainer, tokenizer):
    trainer = make_trainer(step_separator=" ###\n", max_length=300, max_completion_length=100)
    ends = tokenizer(" ###\n")["input_ids"]
    for trace in trainer.train_dataset.traces:
        assert len(trace.input_ids) <= 300
        for end in trace.step_ends:
            assert trace.input_ids[end - len(ends) + 1 : end + 1] == ends
    config = trainer.model.config
    assert (config.step_separator, config.max_trace_length, config.max_completion_length) == (
        " ###\n",
        300,
        100,
    )


def test_too_long_traces_are_dropped_and_counted(make_trainer, caplog):
    long = Trace("q", [Step("word " * 500, 1)], group="long")
    trainer = make_trainer(train=[*make_traces(2), long], max_length=300)
    assert len(trainer.train_dataset) == len(make_traces(2))
    assert f"1 of {len(make_traces(2)) + 1} traces are longer than max_length=300" in caplog.text
    with pytest.raises(InputError, match="no trace is left within max_length=300"):
        make_trainer(train=[long], max_length=300)


def test_eval_traces_too_long_for_the_backbone_are_dropped_and_counted(make_trainer, caplog):
    """Longer than `max_length` is no reason: what the backbone can read is measured."""
    dev = make_traces(6, seed=3)
    longer = replace(dev[0], steps=[Step("Keep the red rows. " * 30, 1)])  # than max_length
    long = Trace("q", [Step("word " * 700, 1)], group="long", place=("dev.jsonl", 4))
    model = {"changes": {"max_position_embeddings": 600}}
    trainer = make_trainer(dev=[*dev[:3], long, *dev[3:], longer], model=model, max_length=200)
    n = len(dev) + 1
    warning = f"1 of {n + 1} traces are longer than the 600 tokens the backbone reads"
    assert [m for m in caplog.messages if m.startswith(warning) and "dev.jsonl:4" in m] == caplog.messages
    counted = first_error_metrics(
        [[0.5] * len(t.steps) for t in [*dev, longer]], [t.labels for t in [*dev, longer]], threshold=0.5
    )
    assert trainer.evaluate()["eval_n_traces"] == counted["n_traces"]
    scored = trainer.scored([long, *dev])
    assert [t.question for t in scored] == [t.question for t in dev]
    expected = Scorer(trainer.model, trainer.processing_class).score(dev)
    assert [t.scores for t in scored] == [pytest.approx(row, abs=1e-5) for row in expected]
    # Predictions are rows without a name: none may be missing.
    with pytest.raises(InputError, match=r"dev\.jsonl:4: trace 'q' has \d+ tokens, the model reads 600"):
        trainer.predict([*dev, long])
    with pytest.raises(InputError, match=r"no trace is left within the 600 tokens the backbone reads"):
        make_trainer(dev=[long], model=model, max_length=200)


def test_disable_dropout(make_trainer):
    changes = {"attention_dropout": 0.5}
    on, off = (
        make_trainer("full", model={"changes": changes}, disable_dropout=flag, max_steps=2)
        for flag in (False, True)
    )
    plain = make_trainer("full", max_steps=2)
    for trainer in (on, off, plain):
        trainer.train()
    assert losses(off) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(on)[0] != pytest.approx(losses(plain)[0], rel=1e-3)


def test_own_metrics(make_trainer):
    """`compute_metrics` sees every trace once, in order, padded by -100; f1 is then nobody's wish."""
    seen = []

    def compute(prediction):
        seen.append(prediction)
        return {"mine": 1.0}

    dev = make_traces(3, seed=7)
    trainer = make_trainer(dev=dev, eval_strategy="epoch", max_steps=1, trainer={"compute_metrics": compute})
    trainer.train()
    (prediction,) = seen
    assert [[y for y in row if y != -100] for row in prediction.label_ids] == [
        [y for y in trace.labels if y is not None] for trace in dev
    ]
    assert (prediction.predictions != -100).sum(1).tolist() == [len(trace.steps) for trace in dev]
    trainer.args.load_best_model_at_end = True
    with pytest.raises(InputError, match=r"there is no metric 'eval_f1'; there are .*mine"):
        trainer._determine_best_metric(trainer.evaluate(), trial=None)


def test_predict_and_evaluate_outside_training(make_trainer):
    """Scores are those of `Scorer`, whatever the order of the data set and the size of a forward."""
    dev = make_traces(6, seed=3)
    random.Random(0).shuffle(dev)
    trainer = make_trainer(dev=dev, max_tokens_per_batch=200)
    expected = Scorer(trainer.model, trainer.processing_class).score(dev)
    output = trainer.predict(dev)
    found = [[s for s in row if s != -100] for row in output.predictions]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    threshold, f1 = best_threshold(expected, [t.labels for t in dev])
    metrics = trainer.evaluate()
    assert metrics["eval_f1"] == output.metrics["test_f1"] == pytest.approx(f1)
    whole = first_error_metrics(expected, [t.labels for t in dev], threshold=threshold)
    for key in ("first_error_acc", "step_auc", "brier", "n_traces", "n_steps", "miss_rate"):
        assert metrics[f"eval_{key}"] == pytest.approx(whole[key], abs=1e-4), key
    unlabelled = trainer.predict([Trace("q", [Step("a"), Step("b")])])
    assert unlabelled.predictions.shape == (1, 2) and unlabelled.metrics["test_f1"] is None


def test_nothing_to_measure(make_trainer):
    """Said at once, not by numpy at the first evaluation."""
    for empty in ([], Dataset.from_dict(TRL_ROWS).select([]), {"a": make_traces(1), "b": []}):
        with pytest.raises(InputError, match="to be measured holds no traces"):
            make_trainer(dev=empty)
    with pytest.raises(InputError, match="to be measured holds no traces"):
        make_trainer().predict([])


# A frozen backbone


def count_calls(trainer):
    calls = []
    trainer.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_frozen_backbone_runs_once(make_trainer, tmp_path):
    """Losses and weights are those of computing in every step; later epochs and a second run compute none."""
    dev = make_traces(3, seed=9)
    options = {"dev": dev, "eval_strategy": "epoch", "num_train_epochs": 3, "optim": "sgd"}
    cached = make_trainer("frozen", **options)
    calls = count_calls(cached)
    cached.train()
    once = len(calls)
    assert 0 < once <= 6 < cached.state.global_step
    anew = make_trainer("frozen", **options)
    anew._add_features = lambda dataset: None
    anew.model.head.standardise(torch.cat(cached.train_dataset.features))  # by all states, not by a sample
    calls = count_calls(anew)
    anew.train()
    assert len(calls) > 3 * once
    assert losses(cached) == pytest.approx(losses(anew), rel=1e-4)
    assert_same(trained(cached), trained(anew), rtol=1e-3, atol=1e-5)

    again = make_trainer("frozen", **options)
    calls = count_calls(again)
    again.train()
    assert not calls
    assert_same(trained(again), trained(cached))


# The best checkpoint


@pytest.mark.parametrize(
    ("metric", "rows", "best"),
    [
        ("f1", [(0.2, 0.9), (0.5, 0.6), (0.4, 0.9)], 2),
        ("f1", [(0.5, 0.6), (0.5, 0.7), (0.5, 0.65)], 2),
        ("f1", [(0.5, 0.6), (0.5, 0.6)], 1),
        ("f1", [(None, 0.9), (0.1, 0.2), (None, 0.9)], 2),
        ("f1", [(None, 0.5), (None, 0.9), (None, None)], 2),
        ("step_auc", [(0.9, 0.5), (0.1, 0.6)], 2),
        ("eval_step_auc", [(0.9, 0.5), (0.1, 0.6)], 2),
        ("loss", [(0.3, 0.5), (0.2, 0.5), (0.25, 0.6)], 2),
        ("miss_rate", [(0.3, 0.5), (0.2, 0.5)], 2),
        ("exact_rate", [(0.3, 0.5), (0.2, 0.9)], 1),
    ],
)
def test_which_evaluation_is_best(make_trainer, metric, rows, best):
    """Highest metric, ties by step AUC, then the earlier; null is the lowest."""
    trainer = make_trainer(metric_for_best_model=metric)
    for step, (value, auc) in enumerate(rows, 1):
        trainer.state.global_step = step
        metrics = {"eval_step_auc": auc, "eval_f1": 0.0, f"eval_{metric.removeprefix('eval_')}": value}
        if "step_auc" in metric:
            metrics["eval_step_auc"] = auc
        trainer.state.log_history.append(metrics | {"step": step})
        trainer._determine_best_metric(metrics, trial=None)
    assert trainer.state.best_global_step == best


def test_best_of_a_named_eval_set(make_trainer):
    trainer = make_trainer(dev={"a": make_traces(1), "b": make_traces(1)}, metric_for_best_model="b_f1")
    for step, (a, b, auc) in enumerate([(0.9, 0.1, 0.5), (0.1, 0.2, 0.5), (0.5, 0.2, 0.6)], 1):
        trainer.state.global_step = step
        metrics = {"eval_a_f1": a, "eval_b_f1": b, "eval_a_step_auc": 0.5, "eval_b_step_auc": auc}
        trainer.state.log_history.append(metrics | {"step": step})
        trainer._determine_best_metric(metrics, trial=None)
    assert trainer.state.best_global_step == 3


def test_the_best_checkpoint_is_loaded_and_its_thresholds_saved(make_trainer, tmp_path):
    dev = make_traces(6, seed=3)
    trainer = make_trainer(
        dev=dev, num_train_epochs=4, eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True, save_total_limit=1, learning_rate=3e-2,
    )  # fmt: skip
    trainer.train()
    evaluations = [e for e in trainer.state.log_history if "eval_f1" in e]
    best = max(evaluations, key=lambda e: (e["eval_f1"], e["eval_step_auc"]))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-5)
    kept = sorted(int(f.name.split("-")[1]) for f in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == sorted({best["step"], trainer.state.max_steps})

    while_training = ProcessRewardModel.from_pretrained(
        tmp_path / "run" / f"checkpoint-{best['step']}"
    ).config
    assert while_training.threshold == best["eval_threshold"]
    assert while_training.threshold_from == f"best on the dev split at step {best['step']}"

    trainer.calibrate(dev)
    scorer = Scorer.from_pretrained(trainer.save_final(tmp_path / "final"), device="cpu")
    config = scorer.model.config
    assert (
        config.score_temperature != 1.0
        and config.threshold_from == f"best f1 on the dev split ({len(dev)} traces)"
    )
    scores, labels = scorer.score(dev), [t.labels for t in dev]
    assert config.threshold == pytest.approx(best_threshold(scores, labels)[0], abs=1e-5)
    assert first_error_metrics(scores, labels, threshold=config.threshold)["f1"] == pytest.approx(
        best["eval_f1"]
    )
    train = make_traces(8)
    first = [t.labels[0] for t in train if t.labels[0] is not None]
    assert config.position_means[0] == pytest.approx(np.mean(first))
    # Two ways of reading in float32, whose last bit depends on the processor.
    for trace, row in zip(trainer.scored(dev), scorer.score(dev), strict=True):
        assert trace.scores == pytest.approx(row, abs=1e-6)


def test_the_threshold_is_that_of_the_best_checkpoint(make_trainer):
    """Also after train() alone; the worst loss counts as best here, so that the last checkpoint is not it."""
    trainer = make_trainer(
        dev=make_traces(6, seed=3), eval_strategy="epoch", save_strategy="epoch", learning_rate=3e-2,
        load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    evaluations = {e["step"]: e["eval_threshold"] for e in trainer.state.log_history if "eval_f1" in e}
    best, last = trainer.state.best_global_step, trainer.state.global_step
    assert best != last and evaluations[best] != evaluations[last]
    assert trainer.model.config.threshold == evaluations[best]
    assert trainer.model.config.threshold_from == f"best on the dev split at step {best}"


# TensorBoard


def test_a_line_for_each_epoch_and_evaluation_not_for_each_step(make_trainer, capsys):
    trainer = make_trainer(dev=make_traces(4, seed=3), disable_tqdm=False, eval_strategy="epoch")
    trainer.train()
    assert trainer.state.max_steps == 8 and len(losses(trainer)) == 8
    printed = "".join(capsys.readouterr())
    assert printed.count("'loss'") == 2 and printed.count("'eval_loss'") == 2
    assert "loss=" in printed


def test_tensorboard(make_trainer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.pr_curve.metadata import PLUGIN_NAME

    dev = make_traces(4, seed=3)
    trainer = make_trainer(dev=dev, report_to="tensorboard", eval_strategy="epoch", logging_steps=3)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    logged = [e for e in trainer.state.log_history if "loss" in e]
    assert scalars["train/loss"] == [(e["step"], pytest.approx(e["loss"])) for e in logged]

    # The epoch's mean weighs each entry by the steps it stands for; no entry spans two epochs.
    per_epoch = trainer.state.max_steps // 2
    steps = [0, *(e["step"] for e in logged)]
    assert steps == [0, 3, 4, 6, 8] and per_epoch == 4
    for epoch, (_, value) in enumerate(scalars["train/epoch_loss"], 1):
        terms = [
            (e["loss"], e["step"] - before) for e, before in zip(logged, steps, strict=False)
            if (epoch - 1) * per_epoch < e["step"] <= epoch * per_epoch
        ]  # fmt: skip
        assert value == pytest.approx(sum(x * n for x, n in terms) / per_epoch)
    assert [step for step, _ in scalars["train/epoch_loss"]] == [1, 2]

    evaluations = [e for e in trainer.state.log_history if "eval_loss" in e]
    assert len(evaluations) == 2
    for key in evaluations[-1]:
        if key.startswith("eval_") and evaluations[-1][key] is not None:
            assert scalars[f"eval/{key.removeprefix('eval_')}"][-1][1] == pytest.approx(
                evaluations[-1][key], rel=1e-5
            )

    scores = Scorer(trainer.model, trainer.processing_class).score(dev)
    pairs = [
        (k, s, y)
        for row, t in zip(scores, dev, strict=True)
        for k, (s, y) in enumerate(zip(row, t.labels, strict=True))
        if y is not None
    ]
    for k in range(4):
        terms = [-np.log(s if y else 1 - s) for i, s, y in pairs if i == k]
        assert scalars[f"eval_loss_by_step/{k:02d}"][-1] == (
            trainer.state.max_steps,
            pytest.approx(np.mean(terms), rel=1e-3),
        )
    for name, label in (("right", 1), ("wrong", 0)):
        histogram = events.Histograms(f"eval/scores_of_{name}_steps")[-1].histogram_value
        assert histogram.num == sum(y == label for _, _, y in pairs)
        assert histogram.sum == pytest.approx(sum(s for _, s, y in pairs if y == label), rel=1e-4)
    assert events.SummaryMetadata("eval/wrong_steps").plugin_data.plugin_name == PLUGIN_NAME
    # Rows: true and false positives, true and false negatives, precision, recall; column 0 is threshold 0.
    from tensorboard.util.tensor_util import make_ndarray

    curve = make_ndarray(events.Tensors("eval/wrong_steps")[-1].tensor_proto)
    wrong = sum(y == 0 for _, _, y in pairs)
    assert curve[0, 0] == wrong and curve[1, 0] == len(pairs) - wrong and curve[5, 0] == 1


def test_nothing_is_reported_unless_asked(make_trainer, tmp_path):
    trainer = make_trainer(dev=make_traces(1), eval_strategy="epoch", max_steps=1)
    trainer.train()
    assert trainer.tensorboard is None and not (tmp_path / "run" / "tensorboard").exists()


# Interruption

RESUMABLE = {
    "dev": make_traces(3, seed=3), "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps",
    "save_steps": 2, "load_best_model_at_end": True, "save_total_limit": 2,
}  # fmt: skip


class Interrupt(TrainerCallback):
    """Ctrl-C after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("backbone", "at"), [("dropout", 3), ("dropout", 4), ("frozen", 5), ("full", 5)])
def test_an_interrupted_run_ends_with_the_same_bits(make_trainer, tmp_path, backbone, at):
    """Interrupted in an epoch, at its end (step 4), after a checkpoint; dropout draws random numbers."""
    whole = make_trainer(backbone, output_dir=str(tmp_path / "whole"), **RESUMABLE)
    whole.train()
    assert whole.state.max_steps == 8
    stopped = make_trainer(backbone, **RESUMABLE, trainer={"callbacks": [Interrupt(at)]})
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = make_trainer(backbone, **RESUMABLE)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.best_global_step == whole.state.best_global_step
    assert_same(trained(resumed), trained(whole))
    last = [tmp_path / name / "checkpoint-8" / "optimizer.pt" for name in ("run", "whole")]
    assert len({path.read_bytes() for path in last}) == 1
    same = ("loss", "eval_loss", "eval_f1", "step")
    assert [{k: e[k] for k in same if k in e} for e in resumed.state.log_history[:-1]] == [
        {k: e[k] for k in same if k in e} for e in whole.state.log_history[:-1]
    ]


@pytest.mark.parametrize("steps", [8, 7, 5])
def test_a_finished_run_takes_no_further_step(make_trainer, steps):
    """Also where max_steps ends it within an epoch."""
    options = RESUMABLE | {"max_steps": steps, "save_steps": 1, "eval_steps": 1}
    first = make_trainer(**options)
    first.train()
    again = make_trainer(**options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == steps
    assert_same(trained(again), trained(first))


def test_a_longer_run_goes_on(make_trainer):
    make_trainer(**RESUMABLE).train()
    longer = make_trainer(**RESUMABLE | {"num_train_epochs": 3})
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 12


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("learning_rate", {"learning_rate": 1e-3}),
        ("seed", {"seed": 7}),
        ("loss", {"loss": "first_error"}),
        ("traces of a step", {"gradient_accumulation_steps": 2}),
        ("training data", {"train": make_traces(8, seed=5)}),
        ("backbone", {"backbone": "full"}),
        ("head_hidden_size", {"model": {"head_hidden_size": 8}}),
        ("lora_r", {"model": {"lora": {"r": 2}}}),
        ("lora_alpha", {"model": {"lora": {"lora_alpha": 16}}}),
        ("lora_dropout", {"backbone": "dropout"}),
        ("lora_target_modules", {"model": {"lora": {"target_modules": ["q_proj"]}}}),
    ],
)
def test_another_run_is_not_gone_on_with(make_trainer, key, change):
    """What the weights depend on may not change; the message names it and the mend."""
    make_trainer(**RESUMABLE | {"max_steps": 2}).train()
    with pytest.raises(
        InputError, match=f"checkpoint-2 was trained with another {key} .* another output_dir"
    ):
        make_trainer(**RESUMABLE | change).train(resume_from_checkpoint=True)


def test_how_the_batch_is_dealt_may_change(make_trainer):
    make_trainer(**RESUMABLE | {"max_steps": 2}).train()
    other = make_trainer(
        **RESUMABLE,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_tokens_per_batch=100,
        logging_steps=3,
    )
    other.train(resume_from_checkpoint=True)
    assert other.state.global_step == 8


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(make_trainer, tmp_path, monkeypatch):
    straight = make_trainer(**RESUMABLE | {"max_steps": 4})
    straight.train()
    shutil.rmtree(tmp_path / "run")
    trainer = make_trainer(**RESUMABLE | {"max_steps": 4})
    calls = []

    def save_to_a_full_disk(tensors, file, **_):
        calls.append(file)
        if len(calls) == 2:  # the second checkpoint
            with open("/dev/full", "wb") as full:
                full.write(b"0")
        save_file(tensors, file)

    monkeypatch.setattr(process_reward_model, "save_file", save_to_a_full_disk)
    with pytest.raises(InputError, match=r"checkpoint-4 cannot be written, the disk is full; make room"):
        trainer.train()
    monkeypatch.undo()
    assert last_complete_checkpoint(tmp_path / "run", clean=False) == str(tmp_path / "run" / "checkpoint-2")
    again = make_trainer(**RESUMABLE | {"max_steps": 4})
    again.train(resume_from_checkpoint=True)
    assert_same(trained(again), trained(straight))


def test_half_written_checkpoints_count_for_nothing(make_trainer, tmp_path):
    make_trainer(**RESUMABLE | {"max_steps": 4}).train()
    run = tmp_path / "run"
    half = run / "checkpoint-6"
    shutil.copytree(run / "checkpoint-4", half)
    (half / COMPLETE_FILE).rename(half / INCOMPLETE_FILE)
    (half / "optimizer.pt").unlink()
    (run / "checkpoint-8").mkdir()  # killed even before it was marked
    (run / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(run, clean=False) == str(run / "checkpoint-4") and half.exists()
    with pytest.raises(InputError, match="is no complete checkpoint"):
        make_trainer(**RESUMABLE).train(resume_from_checkpoint=str(half))
    assert last_complete_checkpoint(run) == str(run / "checkpoint-4")
    assert not half.exists() and not (run / "checkpoint-8").exists() and (run / "checkpoint-best").exists()
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        make_trainer(output_dir=str(tmp_path / "nowhere")).train(resume_from_checkpoint=True)


def test_checkpoints_of_another_program_are_left_alone(make_trainer, tmp_path):
    """Neither removed, nor written over, nor gone on from."""
    foreign = tmp_path / "run" / "checkpoint-2"
    foreign.mkdir(parents=True)
    (foreign / "model.safetensors").write_bytes(b"weeks of work")
    message = "checkpoint-2 was not written by this toolkit; give another output_dir"
    for clean in (True, False):
        with pytest.raises(InputError, match=message):
            last_complete_checkpoint(tmp_path / "run", clean=clean)
    for resume in (True, None):
        with pytest.raises(InputError, match=message):
            make_trainer(**RESUMABLE).train(resume_from_checkpoint=resume)
    assert [file.name for file in foreign.iterdir()] == ["model.safetensors"]
    make_trainer(max_steps=1).train()  # saves no checkpoints


def test_a_checkpoint_is_marked_last_and_unmarked_first(make_trainer, tmp_path, monkeypatch):
    """At every moment of saving and of clearing away, the marked folders are whole, all others known as
    halves.
    """
    files = []
    real = shutil.rmtree

    def look(folder, **options):
        checkpoint = next(f for f in (folder, *folder.parents) if f.name.startswith("checkpoint-"))
        files.append([(checkpoint / name).exists() for name in (COMPLETE_FILE, INCOMPLETE_FILE)])
        real(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", look)
    save, saving = torch.save, []

    def save_and_look(content, file, **options):
        saving.append([(Path(file).parent / name).exists() for name in (COMPLETE_FILE, INCOMPLETE_FILE)])
        save(content, file, **options)

    monkeypatch.setattr(torch, "save", save_and_look)
    trainer = make_trainer(**RESUMABLE | {"save_total_limit": 1})
    trainer.train()
    assert len(files) >= 2 and len(saving) >= 4
    assert all(state == [False, True] for state in files + saving)
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        newest = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_mtime_ns)
        assert newest.name == COMPLETE_FILE and not (folder / INCOMPLETE_FILE).exists()
        assert json.loads(newest.read_text())["traces of a step"] == 8
