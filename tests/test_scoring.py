"""`Scorer`, `prm score`, `prm evaluate --model`: what a score depends on, order of output, exit statuses."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from prm.cli import main
from prm.errors import InputError
from prm.inference.scoring import Scorer
from prm.modeling.losses import scores_from_logits
from prm.traces.encoding import Encoder
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Step, Trace


@pytest.fixture(scope="module")
def checkpoint(make_model, tokenizer, tmp_path_factory):
    """A LoRA checkpoint with a threshold and position means, as training leaves it."""
    model = make_model("qwen2", backbone="lora")
    model.config.threshold, model.config.threshold_from = 0.62, "best f1 on the dev split (9 traces)"
    model.config.position_means = [0.8, 0.4]
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(checkpoint):
    return Scorer.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def one_by_one(scorer, tokenizer, traces):
    """Scores by the plainest road: a forward for each trace, no mask, no padding, no tree."""
    rows = []
    with torch.no_grad():
        for encoded in Encoder(tokenizer).encode(traces, drop_long=False):
            hidden = scorer.model.backbone(torch.tensor([encoded.input_ids])).last_hidden_state[0]
            logits = scorer.model.head(hidden[encoded.step_ends])
            rows.append(scores_from_logits(logits, score_kind="prefix").tolist())
    return rows


def close(rows, expected, tolerance=1e-4):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, abs=tolerance)


def test_one_score_a_step_in_the_order_given(scorer, traces, one_by_one):
    rows = scorer.score(traces)
    assert [len(row) for row in rows] == [len(trace.steps) for trace in traces]
    assert all(isinstance(score, float) and 0 <= score <= 1 for row in rows for score in row)
    close(rows, one_by_one)


@pytest.mark.parametrize("max_tokens", [1, 200, 8192])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [7, 2, 5, 0, 4, 1, 6, 3], [3], [6, 3]])
def test_a_score_does_not_depend_on_what_else_is_in_the_batch(
    scorer, tokenizer, traces, one_by_one, order, max_tokens
):
    other = Scorer(scorer.model, tokenizer, max_tokens_per_batch=max_tokens)
    close(other.score([traces[i] for i in order]), [one_by_one[i] for i in order])


def test_labels_and_gold_are_not_read(scorer, traces):
    blind = [
        replace(t, steps=[Step(s.text) for s in t.steps], gold_sql="SELECT 1", sql="x", id=None)
        for t in traces
    ]
    assert scorer.score(blind) == scorer.score(traces)


def test_nothing_to_score(scorer):
    assert scorer.score([]) == []


def test_temperature_divides_the_logits(make_model, tokenizer, traces):
    model = make_model("llama")
    plain = Scorer(model, tokenizer).score(traces[:1])[0]
    model.config.score_temperature = 2.0
    for score, warm in zip(plain, Scorer(model, tokenizer).score(traces[:1])[0], strict=True):
        logit = torch.logit(torch.tensor(score, dtype=torch.float64))
        assert warm == pytest.approx(torch.sigmoid(logit / 2).item(), rel=1e-9)


def test_the_lengths_and_separator_of_training_are_used(make_model, tokenizer, traces):
    model = make_model("llama")
    config = model.config
    config.max_trace_length, config.max_completion_length, config.step_separator = 90, 40, "<|im_end|>"
    scorer = Scorer(model, tokenizer)
    (encoded,) = scorer.encoder.encode(traces[:1], drop_long=False)
    text = tokenizer.decode(encoded.input_ids)
    assert "Joe Sharp" not in text  # the schema is cut to 90 - 40 tokens as it was in training
    assert text.endswith("SELECT COUNT(*) FROM S1<|im_end|>")
    assert (
        len(scorer.score(traces[:1])[0]) == 2
    )  # and the trace, longer than 90 tokens or not, has its scores


def test_a_trace_that_the_backbone_cannot_read(make_model, tokenizer):
    scorer = Scorer(make_model("llama", changes={"max_position_embeddings": 64}), tokenizer)
    long, short = Trace("q", [Step("Count the rows. " * 50)], id="t1"), Trace("q", [Step("Count.")])
    with pytest.raises(InputError, match=r"trace 't1' has \d+ tokens, the model reads 64"):
        scorer.score([short, long])
    (expected,) = scorer.score([short])
    assert scorer.score([long, short, long], drop_long=True) == [None, expected, None]


def test_a_frozen_bf16_backbone_scores_alike_in_every_batch_up_to_rounding(make_model, tokenizer, traces):
    scorer = Scorer(make_model("qwen3", backbone="frozen", dtype="bfloat16"), tokenizer)
    close(scorer.score(traces), [scorer.score([t])[0] for t in traces], 0.05)


def damaged(checkpoint, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    damage(folder)
    return str(folder)


def set_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: set_config(f, prompt_version=7), "this checkpoint reads prompts of version 7"),
        (lambda f: (f / "tokenizer_config.json").unlink(), "cannot load the tokenizer"),
        (lambda f: (f / "tokenizer.json").unlink(), "cannot load the tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot load the tokenizer"),
        (lambda f: (f / "head.safetensors").unlink(), "is no PRM checkpoint"),
        (
            lambda f: set_config(f, base_model_name_or_path="/nowhere/base"),
            "/nowhere/base is gone; give its folder or Hub id as base_model_name_or_path (--base-model)",
        ),
    ],
)
def test_damaged_checkpoints_end_with_2_and_one_line(checkpoint, traces, tmp_path, capsys, damage, message):
    data, output = tmp_path / "t.jsonl", tmp_path / "o.jsonl"
    write_traces(traces, data)
    model = damaged(checkpoint, tmp_path, damage)
    assert main(["score", "--model", model, "--data", str(data), "--output", str(output)]) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("prm: ")]
    assert len(lines) == 1 and message in lines[0] and err.rstrip().endswith(lines[0])
    assert not output.exists()


# The command line


def command(verb, checkpoint, data, output, *more):
    return main([verb, "--model", str(checkpoint), "--data", *map(str, data), "--output", str(output), *more])


def test_prm_score_writes_the_lines_back_in_order_with_scores(
    checkpoint, traces, one_by_one, tmp_path, capsys
):
    shuffled = [traces[i] for i in (5, 0, 7, 2)]
    shuffled[1] = replace(shuffled[1], extra={"mine": {"kept": [1]}}, scores=[0.1, 0.2])  # old scores
    write_traces(shuffled, tmp_path / "a.jsonl")
    write_traces([traces[1]], tmp_path / "b.parquet")
    output = tmp_path / "new" / "scored.jsonl"
    assert command("score", checkpoint, [tmp_path / "a.jsonl", tmp_path / "b.parquet"], output) == 0
    assert f"5 scored traces -> {output}" in capsys.readouterr().out
    scored = load_traces(output)
    assert [t.id for t in scored] == ["b0", "a0", "b2", "a2", "a1"]
    close([t.scores for t in scored], [one_by_one[i] for i in (5, 0, 7, 2, 1)])
    assert scored[1].extra == {"mine": {"kept": [1]}}
    assert [replace(t, scores=None) for t in scored] == [
        replace(t, scores=None) for t in [*shuffled, traces[1]]
    ]


@pytest.mark.parametrize("verb", ["score", "evaluate"])
def test_a_trace_too_long_for_the_backbone_is_a_bad_row(
    make_model, tokenizer, traces, tmp_path, capsys, caplog, verb
):
    """Refused with file and line, or left out and counted."""
    folder, data, output = tmp_path / "short", tmp_path / "t.jsonl", tmp_path / "o"
    make_model("qwen2", backbone="frozen", changes={"max_position_embeddings": 256}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    long = Trace("q", [Step("Count the rows. " * 200, 1)], id="long")
    write_traces([*traces[:2], long, *traces[2:]], data)
    assert command(verb, folder, [data], output) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("prm: ")]
    assert line.startswith(f"prm: {data}:3: trace 'long' has ") and "the model reads 256" in line
    assert not output.exists()
    caplog.clear()
    assert command(verb, folder, [data], output, "--on-bad-rows", "skip") == 0
    written = load_traces(output / "predictions.jsonl" if verb == "evaluate" else output)
    assert [t.id for t in written] == [t.id for t in traces] and all(t.scores for t in written)
    (warning,) = caplog.messages
    assert warning.startswith("1 of 9 traces are longer than the 256 tokens") and f"{data}:3" in warning
    write_traces([long], data)
    assert command(verb, folder, [data], output, "--on-bad-rows", "skip") == 2
    assert f"prm: {data}: no trace is left within the 256 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["score", "evaluate"])
def test_a_base_model_that_has_moved(checkpoint, traces, tiny_model_dir, one_by_one, tmp_path, verb):
    folder = damaged(checkpoint, tmp_path, lambda f: set_config(f, base_model_name_or_path="/nowhere/base"))
    write_traces(traces, tmp_path / "t.jsonl")
    output = tmp_path / "o"
    base = ["--base-model", str(tiny_model_dir("qwen2"))]
    assert command(verb, folder, [tmp_path / "t.jsonl"], output, *base) == 0
    close(
        [t.scores for t in load_traces(output / "predictions.jsonl" if verb == "evaluate" else output)],
        one_by_one,
    )


def test_trusted_code(checkpoint, traces, tmp_path, capsys):
    """`--trust-remote-code` reaches the model and the tokenizer; without it nothing of theirs runs."""
    folder = with_own_tokenizer(checkpoint, tmp_path / "own")
    write_traces(traces, tmp_path / "t.jsonl")
    places = folder, [tmp_path / "t.jsonl"], tmp_path / "o.jsonl"
    assert command("score", *places) == 2
    message = f"prm: {folder} brings code of its own: pass trust_remote_code only if you trust it\n"
    assert capsys.readouterr().err.endswith(message) and not (tmp_path / "ran").exists()
    assert command("score", *places, "--trust-remote-code") == 0
    assert (tmp_path / "ran").exists()


def with_own_tokenizer(source, folder):
    """A copy whose tokenizer is code in the folder, which leaves a file `ran` beside it."""
    shutil.copytree(source, folder)
    (folder / "own_tokenizer.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        f"open({str(folder.parent / 'ran')!r}, 'w').close()\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    file = folder / "tokenizer_config.json"
    own = {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]},
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    return folder


def test_the_trainer_trusts_the_tokenizer_as_the_model(tiny_model_dir, traces, tmp_path):
    from prm import PRMConfig, PRMTrainer, ProcessRewardModel

    base = str(with_own_tokenizer(tiny_model_dir("qwen2"), tmp_path / "own"))
    args = PRMConfig(output_dir=str(tmp_path / "run"), use_cpu=True, save_strategy="no")
    for trusted in (False, True):
        model = ProcessRewardModel.from_backbone(base, backbone="frozen", trust_remote_code=trusted)
        trainer = PRMTrainer(model, args, train_dataset=traces)
        assert (type(trainer.processing_class).__name__ == "OwnTokenizer") == trusted
        assert (tmp_path / "ran").exists() == trusted


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    checkpoint, traces, tmp_path, capsys, monkeypatch
):
    write_traces(traces, tmp_path / "t.jsonl")
    monkeypatch.setattr(Scorer, "score", None)  # must not be reached
    assert command("score", checkpoint, [tmp_path / "t.jsonl"], tmp_path) == 2
    assert f"prm: {tmp_path}: is a folder; name a file to write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "threshold", "threshold_from"),
    [
        ([], 0.62, "checkpoint: best f1 on the dev split (9 traces)"),
        (["--threshold", "0.7"], 0.7, "given"),
        (["--threshold", "oracle"], None, "oracle: chosen on the evaluated data"),
        (["--threshold-data", "{dev}"], None, "best f1 on {dev}"),
    ],
)
def test_prm_evaluate_by_model(
    checkpoint, traces, one_by_one, tmp_path, capsys, more, threshold, threshold_from
):
    data, dev, output = tmp_path / "t.jsonl", tmp_path / "dev.jsonl", tmp_path / "eval"
    write_traces(traces, data)
    write_traces(traces[2:], dev)
    more = [word.format(dev=dev) for word in more]
    assert command("evaluate", checkpoint, [data], output, *more) == 0
    assert sorted(file.name for file in output.iterdir()) == [
        "metrics.json", "predictions.jsonl", "report.html",
    ]  # fmt: skip
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["threshold_from"] == threshold_from.format(dev=dev)
    assert threshold is None or metrics["threshold"] == threshold
    assert (metrics["n_traces"], metrics["n_erroneous"], metrics["n_steps"]) == (8, 4, 14)
    assert (metrics["model"], metrics["data"]) == (str(checkpoint), [str(data)])
    # the checkpoint's position means make the baseline
    assert metrics["baselines"]["position_only"]["step_auc"] is not None
    predictions = load_traces(output / "predictions.jsonl")
    assert [t.id for t in predictions] == [t.id for t in traces]
    close([t.scores for t in predictions], one_by_one)
    for trace in predictions:
        below = [i for i, score in enumerate(trace.scores) if score < metrics["threshold"]]
        assert trace.extra["predicted_first_error"] == (below[0] if below else -1)
    shown = capsys.readouterr().out
    assert "first_error_acc" in shown and str(output / "report.html") in shown


def test_prm_evaluate_gives_what_scoring_first_gives(checkpoint, traces, tmp_path):
    write_traces(traces, tmp_path / "t.jsonl")
    options = ["--threshold", "0.62"]
    assert command("score", checkpoint, [tmp_path / "t.jsonl"], tmp_path / "s.jsonl") == 0
    assert command("evaluate", checkpoint, [tmp_path / "t.jsonl"], tmp_path / "a", *options) == 0
    predictions = ["--predictions", str(tmp_path / "s.jsonl"), "--output", str(tmp_path / "b")]
    assert main(["evaluate", *predictions, *options]) == 0
    one, other = (json.loads((tmp_path / x / "metrics.json").read_text()) for x in "ab")
    for key in ("model", "data", "baselines"):  # a file of scores knows neither
        del one[key], other[key]
    assert one == other


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--threshold", "0.5", "--threshold-data", "{t}"], "both set the threshold; give one of them"),
        (["--rule", "most-likely", "--threshold", "0.5"], "--rule most-likely uses no threshold"),
        (["--threshold-data", "{u}"], "{u}: no trace has a label, so there is nothing to measure"),
        (["--all-checkpoints"], "no complete checkpoint-* folders; --all-checkpoints wants the run folder"),
        (["--predictions", "{t}"], "wants either --model with --data, or --predictions"),
    ],
)
def test_bad_usage_of_prm_evaluate(checkpoint, traces, tmp_path, capsys, more, message):
    names = {"t": str(tmp_path / "t.jsonl"), "u": str(tmp_path / "u.jsonl")}
    write_traces(traces, names["t"])
    write_traces([Trace("q", [Step("a")])], names["u"])
    more = [word.format(**names) for word in more]
    assert command("evaluate", checkpoint, [names["t"]], tmp_path / "o", *more) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("prm: ")]
    assert message.format(**names) in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("option", ["--data", "--threshold-data"])
def test_unlabelled_data_is_refused_before_it_is_scored(traces, tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr(Scorer, "from_pretrained", lambda *_, **__: pytest.fail("scored first"))
    write_traces(traces, tmp_path / "t.jsonl")
    write_traces([Trace("q", [Step("a")])], tmp_path / "u.jsonl")
    data = {"--data": "t.jsonl", "--threshold-data": "t.jsonl"} | {option: "u.jsonl"}
    words = [word for key, name in data.items() for word in (key, str(tmp_path / name))]
    assert main(["evaluate", "--model", "m", *words, "--output", str(tmp_path / "o")]) == 2
    assert f"{tmp_path / 'u.jsonl'}: no trace has a label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "threshold_from", "said"),
    [
        (
            [],
            ["checkpoint: dev, step 2", "checkpoint: dev, step 10"],
            "threshold: each checkpoint's own, see",
        ),
        (["--threshold", "0.4"], ["given"] * 2, "threshold: given"),
        (["--threshold", "oracle"], ["oracle: chosen on the evaluated data"] * 2, None),
        (["--rule", "most-likely"], [None] * 2, "rule: most likely first error"),
    ],
)
def test_prm_evaluate_all_checkpoints(checkpoint, traces, tmp_path, capsys, more, threshold_from, said):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, data, output = tmp_path / "run", tmp_path / "t.jsonl", tmp_path / "eval"
    for step in (2, 10):
        shutil.copytree(checkpoint, run / f"checkpoint-{step}")
        set_config(run / f"checkpoint-{step}", threshold=step / 20, threshold_from=f"dev, step {step}")
        (run / f"checkpoint-{step}" / "complete.json").write_text("{}")
    shutil.copytree(checkpoint, run / "checkpoint-12")  # looks whole, but is not known to be
    (run / "checkpoint-best").mkdir()
    write_traces(traces, data)
    assert command("evaluate", run, [data], output, "--all-checkpoints", *more) == 0
    assert sorted(x.name for x in output.iterdir()) == [
        "checkpoint-10", "checkpoint-2", "checkpoints.json", "tensorboard",
    ]  # fmt: skip
    rows = json.loads((output / "checkpoints.json").read_text())
    assert list(rows) == ["2", "10"]  # in the order of the steps
    if not more:
        assert [row["threshold"] for row in rows.values()] == [0.1, 0.5]
    assert [row["threshold_from"] for row in rows.values()] == threshold_from
    for step, row in rows.items():
        metrics = json.loads((output / f"checkpoint-{step}" / "metrics.json").read_text())
        assert row.items() <= metrics.items()
        assert set(row["baselines"]) == {"never_flag", "flag_first", "position_only"}
    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    curve = events.Scalars("checkpoints/step_auc")
    assert [(point.step, pytest.approx(point.value)) for point in curve] == [
        (int(step), row["step_auc"]) for step, row in rows.items()
    ]
    out, err = capsys.readouterr()
    skipped = [line for line in err.splitlines() if line.startswith("prm: ")]
    assert skipped == [f"prm: {run / 'checkpoint-12'} is not complete; skipped"]
    table = [line.split() for line in out.splitlines() if "\u2500" not in line]
    shown = {words[0]: words[1:] for words in table if words and words[0] in rows}
    assert list(shown) == list(rows)
    for step, row in rows.items():
        assert shown[step][:2] == [f"{row[name]:.3f}" for name in ("first_error_acc", "f1")]
    baseline = next(words for words in table if words[:2] == ["position", "only"])
    assert baseline[2] == f"{rows['10']['baselines']['position_only']['first_error_acc']:.3f}"
    assert "…" not in out and {"threshold", "correct", "early"} <= {word for words in table for word in words}
    caption = " ".join(out.split())
    assert f"8 traces (4 erroneous), 14 steps; {said or f'threshold: {threshold_from[0]}'}" in caption


NOTEBOOK = """
from prm import Scorer, Step, Trace
from prm.inference.reranking import rerank
---
scorer = Scorer.from_pretrained({checkpoint!r}, device="cpu")
trace = Trace("How many singers?", [Step("Count the rows of singer.")], schema="singer(name TEXT)")
scores = scorer.score([trace], progress=True)
---
import asyncio
later = asyncio.get_running_loop().create_task(asyncio.sleep(0, scorer.score([trace])))
---
answers = ["SELECT COUNT(*) FROM singer", "SELECT 1"]
chosen = rerank(scorer, "How many singers?", answers, database={database!r})
assert len(scores[0]) == 1 and later.result() == scores and chosen.results == [0, 1]
"""


def test_it_works_in_a_notebook(checkpoint, tmp_path):
    """Cells as a kernel runs them: inside its event loop, without a terminal, with the kernel's arguments."""
    with contextlib.closing(sqlite3.connect(tmp_path / "music.sqlite")) as connection:
        connection.executescript(
            "CREATE TABLE singer(name TEXT); INSERT INTO singer VALUES ('Ann'), ('Bob');"
        )
    names = {"checkpoint": str(checkpoint), "database": str(tmp_path / "music.sqlite")}
    kernel = textwrap.dedent("""
        import asyncio, sys
        sys.argv = ["ipykernel_launcher.py", "-f", "kernel.json"]

        async def main(cells):
            user = {"__name__": "__main__"}
            for cell in cells:
                exec(compile(cell, "<cell>", "exec"), user)
                await asyncio.sleep(0.01)

        asyncio.run(main(sys.stdin.read().split("---\\n")))
    """)
    ran = subprocess.run(
        [sys.executable, "-c", kernel],
        input=NOTEBOOK.format(**names),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
