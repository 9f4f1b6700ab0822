"""Process reward models of others, each a tiny random model in its published layout, against what its model
card's own code does: one plain sequence a trace, all logits, and then the tokens that count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prm import PRMConfig, PRMTrainer
from prm.cli import main
from prm.errors import InputError
from prm.inference.scoring import Scorer
from prm.modeling import ProcessRewardModel
from prm.modeling.foreign import KINDS, load_prm
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Step, Trace

SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
)
LLAMA_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


@dataclass
class Published:
    """A model as it lies on the Hub, and the scores that its card's code gives a problem and its steps."""

    folder: Path
    reference: Any
    options: dict[str, str]


def close(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


def problem(trace):
    """What stands for the problem: the bare question, or schema, evidence and question."""
    if trace.schema is None:
        return trace.question
    evidence = f"Evidence: {trace.evidence}\n" if trace.evidence else ""
    return f"Schema:\n{trace.schema}\n{evidence}Question: {trace.question}"


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def copy_of(folder, target):
    """A folder of the same files, whose contents a test may replace one by one."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def causal_lm(family, folder, vocab_size, **changes):
    """A language model with weights far from zero, saved whole."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        **changes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


def saved(tokenizer, folder):
    """The tokenizer as `AutoTokenizer` reads it back beside the model's config: of some families another."""
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def add_weights(folder, **tensors):
    weights = load_file(folder / "model.safetensors")
    weights |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def with_tokens(tokenizer_dir):
    """`with_tokens(special tokens, chat template)`: the byte-level tokenizer with them."""
    from transformers import AutoTokenizer

    def make(tokens, template=None, bos=None):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        tokenizer.add_special_tokens({"additional_special_tokens": tokens})
        tokenizer.chat_template, tokenizer.bos_token = template, bos
        return tokenizer

    return make


def qwen(folder, with_tokens):
    """Files of Qwen2.5-Math-PRM: remote code is named, and is not there."""
    tokenizer = with_tokens(["<extra_0>"], CHATML)
    model = causal_lm("qwen2", folder, len(tokenizer), tie_word_embeddings=False)
    tokenizer = saved(tokenizer, folder)
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(32, 32, generator=generator) / 4, torch.randn(2, 32, generator=generator) / 4
    biases = torch.randn(32, generator=generator), torch.randn(2, generator=generator)
    weights = {"score__0__weight": first, "score__0__bias": biases[0]}
    add_weights(folder, **weights, score__2__weight=second, score__2__bias=biases[1])
    edit_config(
        folder,
        architectures=["Qwen2ForProcessRewardModel"],
        auto_map={
            "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
            "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
        },
    )

    def reference(trace):
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": problem(trace)},
            {"role": "assistant", "content": "<extra_0>".join(s.text for s in trace.steps) + "<extra_0>"},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        ids = torch.tensor([tokenizer.encode(text)])
        hidden = model.model(ids).last_hidden_state
        logits = torch.relu(hidden @ first.T + biases[0]) @ second.T + biases[1]
        probabilities = logits.softmax(-1)[..., 1]
        return probabilities[ids == tokenizer.convert_tokens_to_ids("<extra_0>")].tolist()

    return Published(folder, reference, {})


def skywork(folder, with_tokens):
    """Files of Skywork-o1-Open-PRM: a causal LM's with a value head beside them."""
    tokenizer = with_tokens([], bos="<|endoftext|>")
    model = causal_lm("qwen2", folder, len(tokenizer), tie_word_embeddings=True)
    tokenizer = saved(tokenizer, folder)
    generator = torch.Generator().manual_seed(1)
    value = torch.nn.Linear(32, 1)
    with torch.no_grad():
        value.weight.copy_(torch.randn(1, 32, generator=generator) / 4)
    add_weights(folder, v_head__summary__weight=value.weight.data, v_head__summary__bias=value.bias.data)
    edit_config(folder, architectures=["Qwen2ForPrmModel"], auto_map={"AutoModel": "modeling.Gone"})

    def reference(trace):
        ids = tokenizer.encode(tokenizer.bos_token + problem(trace) + "\n")
        newline, ends = tokenizer.encode("\n")[-1], []
        for step in trace.steps:
            ids += [*tokenizer.encode(step.text), newline]
            ends.append(len(ids) - 1)
        values = value(model.model(torch.tensor([ids])).last_hidden_state).squeeze(-1)
        return values.sigmoid()[0, ends].tolist()

    return Published(folder, reference, {})


def trl(folder, with_tokens):
    """What TRL's `PRMTrainer` saves: a token classifier with two labels."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    tokenizer = with_tokens([], bos="<|im_start|>")
    causal_lm("llama", folder, len(tokenizer))
    config = AutoConfig.from_pretrained(folder, num_labels=2)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = AutoModelForTokenClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer = saved(tokenizer, folder)

    def reference(trace):
        prompt = trace.extra["prompt"] if trace.extra else problem_of_ours(trace)
        ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        separator, ends = tokenizer.encode("\n", add_special_tokens=False), []
        for step in trace.steps:
            ids += tokenizer(step.text, add_special_tokens=False)["input_ids"] + separator
            ends.append(len(ids) - 1)
        return model(torch.tensor([ids])).logits.softmax(-1)[0, ends, 1].tolist()

    return Published(folder, reference, {})


def problem_of_ours(trace):
    """A TRL model has no prompt of its own: it reads ours, where the trace brings none."""
    schema = f"Schema:\n{trace.schema}\n" if trace.schema else ""
    evidence = f"Evidence: {trace.evidence}\n" if trace.evidence else ""
    return f"{schema}{evidence}Question: {trace.question}\nSteps:\n"


def math_shepherd(folder, with_tokens):
    """A Mistral with a tokenizer of SentencePiece's kind, in which a word holds the space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bpe.decoder = decoders.Metaspace()
    letters = [chr(i) for i in range(33, 127)] + ["\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=letters,
        show_progress=False,
    )
    bpe.train_from_iterator(
        ["How many singers are there? Step 1: Count the rows. ки", "a ки + - + -"] * 3, trainer
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    model = causal_lm("mistral", folder, len(tokenizer), tie_word_embeddings=False, sliding_window=None)
    tokenizer = saved(tokenizer, folder)
    assert tokenizer.tokenize("Count the") == ["▁Count", "▁the"]

    def reference(trace):
        candidates = tokenizer.encode("+ -")[1:]
        tag = tokenizer.encode("ки")[-1]
        output = "\n".join(f"Step {k + 1}: {step.text} ки" for k, step in enumerate(trace.steps))
        ids = torch.tensor([tokenizer.encode(f"{problem(trace)} {output}")])
        scores = model(ids).logits[:, :, candidates].softmax(-1)[:, :, 0]
        return scores[ids == tag].tolist()

    return Published(folder, reference, {"foreign": "math-shepherd"})


def rlhflow(folder, with_tokens):
    """A Llama with a chat template like Llama 3.1's."""
    tokenizer = with_tokens(LLAMA_TOKENS, LLAMA, bos="<|begin_of_text|>")
    model = causal_lm("llama", folder, len(tokenizer), tie_word_embeddings=False)
    tokenizer = saved(tokenizer, folder)

    def reference(trace):
        candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
        conversation, scores = [], []
        for k, step in enumerate(trace.steps):
            content = f"{problem(trace)} {step.text}" if k == 0 else step.text
            conversation += [{"role": "user", "content": content}, {"role": "assistant", "content": "+"}]
            text = tokenizer.apply_chat_template(conversation, tokenize=False)
            ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
            logits = model(ids).logits[:, -3, candidates]  # it predicts the sign, an end of turn follows that
            scores.append(logits.softmax(-1)[0, 0].item())
        return scores

    return Published(folder, reference, {"foreign": "rlhflow"})


MAKERS = dict(zip(KINDS, (qwen, skywork, trl, math_shepherd, rlhflow), strict=True))


@pytest.fixture(scope="module")
def published(with_tokens, tmp_path_factory):
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = MAKERS[kind](tmp_path_factory.mktemp(kind), with_tokens)
        return made[kind]

    return make


@pytest.fixture(scope="module")
def questions(traces):
    """Traces with a schema (some share prompt and steps), with evidence, and a bare question."""
    with_evidence = replace(traces[5], evidence="a concert has one year")
    steps = [
        Step("Take the singers: 1 + 1 - 1."),
        Step("Count them.\nSELECT COUNT(*) FROM S1"),
        Step("Done."),
    ]
    return [*traces, with_evidence, Trace("How many singers are there?", steps)]


@pytest.fixture(scope="module")
def expected(published, questions):
    made = {}

    def make(kind):
        if kind not in made:
            with torch.no_grad():
                made[kind] = [published(kind).reference(trace) for trace in questions]
        return made[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_published_code(kind, published, questions, expected):
    model = published(kind)
    scorer = Scorer.from_pretrained(model.folder, device="cpu", **model.options)
    assert scorer.model.reads_trees
    rows = scorer.score(questions)
    assert len({round(score, 3) for row in rows for score in row}) > len(questions)  # they say something
    close(rows, expected(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_growing_branches_give_the_same(kind, published, questions, expected):
    model = published(kind)
    rows = Scorer.from_pretrained(model.folder, device="cpu", attn_implementation="sdpa", **model.options)
    assert not rows.model.reads_trees
    close(rows.score(questions), expected(kind))
    scorer = Scorer.from_pretrained(model.folder, device="cpu", **model.options)
    for trace, scores in list(zip(questions, expected(kind), strict=True))[-3:]:
        branch = scorer.start(replace(trace, steps=[]))
        assert [branch.extend(step.text) for step in trace.steps] == pytest.approx(scores, abs=1e-4)


def test_a_prompt_of_the_trace_is_the_problem(published):
    trace = Trace("q", [Step("Count the rows."), Step("Done.")], extra={"prompt": "How many singers?"})
    bare = replace(trace, question="How many singers?", extra={})
    for kind in ("qwen2.5-math", "rlhflow"):
        model = published(kind)
        scorer = Scorer.from_pretrained(model.folder, device="cpu", **model.options)
        with torch.no_grad():
            close(scorer.score([trace]), [model.reference(bare)])
    model = published("trl")
    with torch.no_grad():
        close(Scorer.from_pretrained(model.folder, device="cpu").score([trace]), [model.reference(trace)])


def test_special_tokens_in_the_data_are_text(published):
    """A step cannot fake a step end: one score a step, and the next step's stays where it is."""
    model = published("qwen2.5-math")
    scorer = Scorer.from_pretrained(model.folder, device="cpu")
    (scores,) = scorer.score([Trace("q <|im_end|>", [Step("a <extra_0> b"), Step("c")])])
    assert len(scores) == 2
    (encoded,) = scorer.encoder.encode([Trace("q", [Step("a <extra_0> b")])], drop_long=False)
    marker = scorer.encoder.tokenizer.convert_tokens_to_ids("<extra_0>")
    assert encoded.input_ids.count(marker) == 1


def test_math_shepherd_steps_are_numbered_once(published):
    scorer = Scorer.from_pretrained(published("math-shepherd").folder, device="cpu", foreign="math-shepherd")
    plain, numbered = ([Step(text) for text in texts] for texts in (("a", "b"), ("Step 1: a", "Step 2: b")))
    rows = scorer.score([Trace("q", plain), Trace("q", numbered)])
    assert rows[0] == rows[1]


def test_a_trl_models_separator_is_given_where_it_was_another(published, tmp_path):
    folder = published("trl").folder
    steps = [Trace("q", [Step("a"), Step("b")])]
    newline = Scorer.from_pretrained(folder, device="cpu").score(steps)
    blank = Scorer.from_pretrained(folder, device="cpu", step_separator="\n\n").score(steps)
    assert newline != blank
    with pytest.raises(InputError, match="only a trl model takes --step-separator"):
        load_prm(published("qwen2.5-math").folder, step_separator="\n\n")


def test_a_classifier_whose_backbone_reads_no_trees(with_tokens, tmp_path):
    """GPT-2's head has another name, and its positions are learnt."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    tokenizer = with_tokens([])
    config = AutoConfig.for_model(
        "gpt2", n_embd=32, n_layer=2, n_head=4, vocab_size=len(tokenizer), n_positions=256, num_labels=2
    )
    model = AutoModelForTokenClassification.from_config(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    trace = Trace("q", [Step("a b"), Step("c")])
    scorer = Scorer.from_pretrained(tmp_path, device="cpu")
    (encoded,) = scorer.encoder.encode([trace], drop_long=False)
    with torch.no_grad():
        scores = model(torch.tensor([encoded.input_ids])).logits.softmax(-1)[0, encoded.step_ends, 1]
    close(scorer.score([trace]), [scores.tolist()])


def test_heads_are_read_from_shards_and_in_half_precision(published, questions, expected, tmp_path):
    from huggingface_hub import save_torch_state_dict

    model = published("rlhflow")
    folder = copy_of(model.folder, tmp_path / "sharded")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_torch_state_dict(weights, folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    close(
        Scorer.from_pretrained(folder, device="cpu", foreign="rlhflow").score(questions), expected("rlhflow")
    )
    edit_config(folder, dtype="bfloat16")
    loaded = load_prm(folder, foreign="rlhflow")
    assert loaded.backbone.dtype == torch.bfloat16 and loaded.head.dense.weight.dtype == torch.float32


# ---- the command line


def test_prm_score_and_evaluate(published, questions, expected, tmp_path, capsys):
    write_traces(questions, tmp_path / "traces.jsonl")
    data, folder = str(tmp_path / "traces.jsonl"), str(published("rlhflow").folder)
    options = ["--data", data, "--foreign", "rlhflow"]
    assert main(["score", "--model", folder, "--output", str(tmp_path / "scored.jsonl"), *options]) == 0
    close([trace.scores for trace in load_traces([str(tmp_path / "scored.jsonl")])], expected("rlhflow"))
    assert main(["evaluate", "--model", folder, "--output", str(tmp_path / "eval"), *options]) == 0
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["threshold"] == 0.5
    capsys.readouterr()
    assert main(["score", "--model", folder, "--data", data, "--output", str(tmp_path / "x.jsonl")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--foreign math-shepherd or --foreign rlhflow" in error


def broken(folder, case):
    """Make a copy of Qwen's files what `case` says."""
    weights = load_file(folder / "model.safetensors")
    if case == "no head":
        del weights["score.2.weight"]
    elif case == "another head":
        weights["score.2.weight"] = torch.zeros(1, 32)
    elif case == "half a body":
        del weights["model.layers.1.mlp.up_proj.weight"]
    elif case == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        return
    elif case == "torn":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
        return
    elif case == "encoder":
        edit_config(folder, architectures=["BertForTokenClassification"], model_type="bert")
    elif case == "junk":
        edit_config(folder, architectures=16, torch_dtype=[], nl2sql_prm=[])
    elif case == "torn settings":
        edit_config(folder, torch_dtype=[], nl2sql_prm=["prompt_version"])
    elif case == "unknown":
        edit_config(folder, architectures=["Qwen2ForRewardModel"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("no head", {}, "has the weight score.2.weight, and it is not there"),
        ("another head", {}, r"has the shape \(2, 32\), not \(1, 32\)"),
        ("half a body", {}, "1 weights are missing .*copy the checkpoint again"),
        ("pickled", {}, "pickled weights .* never read; name a revision"),
        ("torn", {}, "cannot load the checkpoint .*copy it again"),
        ("torn settings", {}, "cannot load the checkpoint"),
        ("encoder", {}, "reads a step's future, too"),
        ("junk", {}, "is no process reward model that is known here"),
        ("unknown", {}, "'Qwen2ForRewardModel' is no process reward model that is known here"),
        (
            "whole",
            {"foreign": "skywork"},
            "is a qwen2.5-math model by its files; leave --foreign skywork out",
        ),
        ("whole", {"foreign": "qwen"}, "foreign must be one of qwen2.5-math, "),
        (
            "whole",
            {"base_model_name_or_path": "x"},
            "holds its whole backbone itself; leave --base-model out",
        ),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(published, tmp_path, case, options, message):
    folder = copy_of(published("qwen2.5-math").folder, tmp_path / "copy")
    broken(folder, case)
    with pytest.raises(InputError, match=message) as error:
        load_prm(folder, **options)
    assert "\n" not in str(error.value)


def test_a_chat_template_that_does_not_fit_is_refused(published, tmp_path):
    folder = copy_of(published("rlhflow").folder, tmp_path / "copy")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="a rlhflow model needs the chat template of its tokenizer"):
        Scorer.from_pretrained(folder, device="cpu", foreign="rlhflow")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(InputError, match="cannot be that of a rlhflow model: it drops text"):
        Scorer.from_pretrained(folder, device="cpu", foreign="rlhflow")


def test_a_checkpoint_of_ours_is_known_by_its_config(make_model, tokenizer, traces, tmp_path):
    make_model("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert len(Scorer.from_pretrained(tmp_path, device="cpu").score(traces)) == len(traces)
    with pytest.raises(InputError, match="is a checkpoint of nl2sql-prm; leave --foreign trl out"):
        load_prm(tmp_path, foreign="trl")
    with pytest.raises(InputError, match="knows its own step separator"):
        load_prm(tmp_path, step_separator="x")


# ---- starting from them


@pytest.mark.parametrize("kind", ["qwen2.5-math", "trl"])
def test_training_starts_from_the_body(kind, published, tmp_path, traces):
    """`from_backbone` takes the body and leaves the head; what is trained from it loads again."""
    folder = published(kind).folder
    model = ProcessRewardModel.from_backbone(str(folder), backbone="full")
    weights = load_file(folder / "model.safetensors")
    body = model.backbone.state_dict()
    assert body and all(torch.equal(tensor, weights[f"model.{name}"]) for name, tensor in body.items())
    assert model.head.dense.out_features == 32
    args = PRMConfig(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, save_strategy="no", report_to="none"
    )
    trainer = PRMTrainer(model=model, args=args, train_dataset=list(traces))
    trainer.train()
    trainer.save_model(str(tmp_path / "checkpoint"))
    scorer = Scorer.from_pretrained(tmp_path / "checkpoint", device="cpu")
    close(scorer.score(traces), Scorer(trainer.model, trainer.processing_class).score(traces))


def test_training_goes_on_with_the_published_head(published, tmp_path, traces):
    """The whole model, head included, is a model of ours; from then on it reads our prompts."""
    model = load_prm(published("qwen2.5-math").folder)
    head = model.head.dense.weight.clone()
    args = PRMConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        learning_rate=1e-3,
    )
    trainer = PRMTrainer(model=model, args=args, train_dataset=list(traces))
    trainer.train()
    trainer.save_model(str(tmp_path / "checkpoint"))
    loaded = ProcessRewardModel.from_pretrained(tmp_path / "checkpoint")
    assert loaded.config.prompt_version == 1
    change = (loaded.head.dense.weight - head).abs().max()
    assert 0 < change < 0.1


def test_a_saved_copy_keeps_its_prompts(published, questions, expected, tmp_path):
    scorer = Scorer.from_pretrained(published("skywork").folder, device="cpu")
    scorer.model.save_pretrained(tmp_path)
    scorer.encoder.tokenizer.save_pretrained(tmp_path)
    close(Scorer.from_pretrained(tmp_path, device="cpu").score(questions), expected("skywork"))
