"""Ensembles: how scores of several models become one, answers in the making, what is worth labelling next."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from dataclasses import replace

import pytest

from prm.cli import main
from prm.errors import InputError
from prm.inference.scoring import (
    Ensemble,
    Scorer,
    combine_scores,
    disagreement,
    load_scorer,
    most_worth_labelling,
)
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Step, Trace

MODELS = [[0.9, 0.5, 1.0], [0.6, 0.2, 0.0], [0.3, 0.8, 0.5]]


@pytest.mark.parametrize(
    ("combine", "k", "expected"),
    [
        ("mean", 1.0, [0.6, 0.5, 0.5]),
        ("min", 1.0, [0.3, 0.2, 0.0]),
        ("median", 1.0, [0.6, 0.5, 0.5]),
        ("lcb", 0.0, [0.6, 0.5, 0.5]),
        ("lcb", 1.0, [0.6 - math.sqrt(0.06), 0.5 - math.sqrt(0.06), 0.5 - math.sqrt(1 / 6)]),
        ("lcb", 100.0, [0.0, 0.0, 0.0]),
        ("odds", 1.0, [9 * 1.5 * 3 / 7 / (1 + 9 * 1.5 * 3 / 7), 0.5, 0.5]),
    ],
)
def test_several_scores_become_one(combine, k, expected):
    assert combine_scores(MODELS, combine, k) == pytest.approx(expected, abs=1e-9)
    assert combine_scores(MODELS[::-1], combine, k) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("combine", ["mean", "min", "median", "lcb"])
def test_models_that_agree_are_one_model(combine):
    assert combine_scores([MODELS[0]] * 3, combine) == pytest.approx(MODELS[0])
    assert disagreement([MODELS[0]] * 3) == pytest.approx([0.0] * 3)


def test_disagreement_is_the_standard_deviation_of_the_models():
    assert disagreement(MODELS) == pytest.approx(
        [statistics.pstdev(step) for step in zip(*MODELS, strict=True)]
    )


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory):
    """A tokenizer that cuts text elsewhere: bytes alone, nothing merged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    bpe = Tokenizer(models.BPE(special | {byte: i + 3 for i, byte in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


@pytest.fixture(scope="module")
def checkpoints(make_model, tokenizer, other_tokenizer, tmp_path_factory):
    """Two checkpoints of different families, tokenizers and lengths."""
    folders = []
    for name, family, its_tokenizer, longest in (
        ("a", "qwen2", tokenizer, 2048), ("b", "llama", other_tokenizer, 1200)
    ):  # fmt: skip
        model = make_model(family, backbone="lora", changes={"max_position_embeddings": longest})
        folders.append(tmp_path_factory.mktemp(name) / "checkpoint")
        model.save_pretrained(folders[-1])
        its_tokenizer.save_pretrained(folders[-1])
    return folders


@pytest.fixture(scope="module")
def members(checkpoints):
    return [Scorer.from_pretrained(folder, device="cpu") for folder in checkpoints]


@pytest.mark.parametrize("combine", ["mean", "min", "median", "lcb", "odds"])
def test_an_ensemble_scores_as_its_members_do(members, traces, combine):
    apart = [member.score(traces) for member in members]
    assert apart[0][0] != pytest.approx(apart[1][0], abs=0.01)  # they do differ
    rows = Ensemble(members, combine, k=0.5).score(traces)
    assert rows == [combine_scores(pair, combine, 0.5) for pair in zip(*apart, strict=True)]


@pytest.mark.parametrize("combine", ["mean", "lcb"])
def test_answers_in_the_making_have_the_scores_of_whole_ones(members, traces, combine):
    ensemble = Ensemble(members, combine)
    whole = ensemble.score(traces[:2])
    branch = ensemble.start(replace(traces[0], steps=[]))
    first = branch.extend(traces[0].steps[0].text)
    other = branch.fork()
    scores = ensemble.extend([(branch, traces[0].steps[1].text), (other, traces[1].steps[1].text)])
    assert [first, scores[0]] == pytest.approx(whole[0], abs=1e-4)
    assert other.scores == pytest.approx(whole[1], abs=1e-4) and scores[1] == other.scores[-1]
    assert other.steps == [step.text for step in traces[1].steps]
    apart = [member.score(traces[:1])[0] for member in members]
    assert branch.disagreement == pytest.approx(disagreement(apart), abs=1e-4)
    other.drop()
    with pytest.raises(ValueError, match="this branch was dropped"):
        other.extend("SELECT 1")
    assert branch.scores == pytest.approx(whole[0], abs=1e-4)


def test_a_step_that_one_member_cannot_read_extends_none(members):
    ensemble = Ensemble(members)  # the one that reads little comes last
    branch = ensemble.start(Trace("How many?", []))
    branch.extend("Count.")
    with pytest.raises(InputError, match="the model reads 1200"):
        branch.extend("Count the rows of singer. " * 68)
    assert branch.steps == ["Count."]
    with pytest.raises(ValueError, match="named twice"):
        ensemble.extend([(branch, "a"), (branch, "b")])
    alone = ensemble.score([Trace("How many?", [Step("Count."), Step("SELECT 1")])])[0]
    assert branch.extend("SELECT 1") == pytest.approx(alone[1], abs=1e-4)


def test_a_trace_that_one_member_cannot_read_has_no_score(members, traces):
    long = Trace("q", [Step("Count the rows of singer. " * 68)])
    assert members[0].score([long])[0] is not None
    rows = Ensemble(members).score([traces[5], long], drop_long=True)
    assert rows[0] is not None and rows[1] is None


def test_bad_ensembles_are_refused(members):
    for arguments, message in (
        (([], "mean"), "at least one model"),
        ((members, "vote"), "mean, min, median, lcb, odds, not 'vote'"),
        ((members, "lcb", -1.0), "k of at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            Ensemble(*arguments)


def test_most_worth_labelling_takes_one_trace_of_a_question():
    def trace(name, group):
        return Trace("q", [Step("a")], id=name, group=group)

    worth = [(0.1, trace("a", "1")), (0.3, trace("b", "1")), (0.2, trace("c", "2")), (0.3, trace("d", "3"))]
    assert [t.id for _, t in most_worth_labelling(worth, 10)] == ["b", "d", "c"]
    assert [t.id for _, t in most_worth_labelling(worth, 2)] == ["b", "d"]


# The command line


def test_prm_score_with_several_models(checkpoints, members, traces, tmp_path, capsys):
    """Each trace with its scores and disagreement, and a list of what to label next: of the steps without a
    label those that the models see most differently."""
    plain = [
        replace(t, steps=[replace(step, label=None) for step in t.steps]) if t.id != "b1" else t
        for t in traces
    ]
    write_traces(plain, tmp_path / "t.jsonl")
    output = tmp_path / "scored.jsonl"
    models = ["--model", str(checkpoints[0]), "--model", str(checkpoints[1])]
    command = ["score", *models, "--data", str(tmp_path / "t.jsonl"), "--output", str(output)]
    assert main([*command, "--combine", "lcb", "--k", "2", "--disagreement"]) == 0
    scored = load_traces(output)
    apart = list(zip(*(member.score(traces) for member in members), strict=True))
    assert [t.scores for t in scored] == [combine_scores(pair, "lcb", 2.0) for pair in apart]
    assert [t.extra["disagreement"] for t in scored] == [disagreement(pair) for pair in apart]
    listed = load_traces(f"{output}.to_label.jsonl")
    best = {"a": 0.0, "b": 0.0}
    for trace in scored:
        if trace.id != "b1":  # it has its label
            best[trace.group] = max(best[trace.group], *trace.extra["disagreement"])
    assert [t.group for t in listed] == sorted(best, key=best.get, reverse=True)
    assert [max(t.extra["disagreement"]) for t in listed] == sorted(best.values(), reverse=True)
    out = capsys.readouterr().out
    assert "most worth labelling next" in out and f"{max(best.values()):.3f}" in out
    assert f"{output}.to_label.jsonl" in out


@pytest.mark.parametrize(
    ("verb", "more", "message"),
    [
        ("score", ["--disagreement"], "--disagreement wants several --model"),
        ("evaluate", ["--model", "{b}"], "an ensemble has no threshold of its own"),
        ("evaluate", ["--model", "{b}", "--all-checkpoints"], "give one --model"),
        ("score", ["--model", "{b}", "--base-model", "x"], "--base-model is given 1 times for 2 --model"),
    ],
)
def test_bad_usage(checkpoints, traces, tmp_path, capsys, verb, more, message):
    write_traces(traces, tmp_path / "t.jsonl")
    more = [word.format(b=checkpoints[1]) for word in more]
    places = ["--data", str(tmp_path / "t.jsonl"), "--output", str(tmp_path / "o")]
    assert main([verb, "--model", str(checkpoints[0]), *places, *more]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("prm: ")]
    assert message in line and not (tmp_path / "o").exists()


def test_options_of_single_members(checkpoints, members, traces, tmp_path):
    """Given once for each model, and empty for one that needs none."""
    config = json.loads((checkpoints[1] / "config.json").read_text())
    moved = tmp_path / "moved"
    shutil.copytree(checkpoints[1], moved)
    (moved / "config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/nowhere"}))
    ensemble = load_scorer(
        [str(checkpoints[0]), str(moved)], base_models=["", config["base_model_name_or_path"]],
        foreign=["auto", "auto"], combine="min", device="cpu",
    )  # fmt: skip
    assert ensemble.score(traces) == Ensemble(members, "min").score(traces)


def test_prm_evaluate_measures_an_ensemble(checkpoints, members, traces, tmp_path):
    write_traces(traces, tmp_path / "t.jsonl")
    models = ["--model", *map(str, checkpoints)]
    places = ["--data", str(tmp_path / "t.jsonl"), "--output", str(tmp_path / "o"), "--combine", "min"]
    assert main(["evaluate", *models, *places, "--threshold", "oracle"]) == 0
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert metrics["model"] == f"{checkpoints[0]}, {checkpoints[1]} (min)"
    predictions = load_traces(tmp_path / "o" / "predictions.jsonl")
    assert [t.scores for t in predictions] == Ensemble(members, "min").score(traces)
