"""Data cards of what models label: each figure of a card is counted again from the traces beside it.

Those of `prm build` and `prm label` are in test_resume_build.py and test_resume_label.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex

import pytest
import yaml
from scripted_server import chat, serving
from test_judge import C, I, said
from test_monte_carlo import EARLY, LATE, RIGHT, in_turn

from prm.cli import _parser, main
from prm.labeling.judge import consensus
from prm.traces.formats import load_traces, write_traces
from prm.traces.provenance import SOURCES, command, made_by, source_kind
from prm.traces.trace import Trace


@pytest.fixture
def labelled(zoo, tmp_path):
    """The files of `prm rollout`, `prm judge` and `prm consensus` on the same three answers: name -> card."""
    write_traces([RIGHT, LATE, EARLY], tmp_path / "answers.jsonl")
    with serving(in_turn()) as server:
        rollout = ["rollout", "--data", str(tmp_path / "answers.jsonl"), "--databases", str(zoo)]
        rollout += ["--output", str(tmp_path / "mc.jsonl"), "--model", "org/policy", "--rollouts", "4"]
        assert main([*rollout, "--seed", "7", "--base-url", server.url, "--concurrency", "1"]) == 0
    verdicts = [said(C, C, C), said(C, I, C), "Hm."]
    with serving(lambda _, number: chat(verdicts[min(number, 2)])) as server:
        judge = ["judge", "--data", str(tmp_path / "mc.jsonl"), "--output", str(tmp_path / "judged.jsonl")]
        judge += ["--model", "a judge", "--tries", "1"]
        assert main([*judge, "--base-url", server.url, "--concurrency", "1"]) == 0
    files = [str(tmp_path / name) for name in ("mc.jsonl", "judged.jsonl")]
    assert main(["consensus", *files, "--output", str(tmp_path / "agreed.jsonl")]) == 0
    return {
        name: (tmp_path / f"{name}.jsonl.md").read_text(encoding="utf-8")
        for name in ("mc", "judged", "agreed")
    }


SAID = {
    "mc": [
        r"3 answers to 1 questions over 1 databases, each cut into reasoning steps \(8 in all\)",
        r"A policy \(`org/policy`\) went on from prefixes of every answer, 4 times from each",
        r"A label is 1 where any of these rollouts, or the answer itself, reached gold's result, on the "
        "database and on variants of it",
        r"\| monte-carlo \| 3 \| by a policy that went on",
        r"\| traces \| 3, 1 of them right to the end \|",
        r"\| labels \| right: 5, wrong: 3, soft: 0, unknown: 0 \|",
        r"\| rollouts \| 12 of 3 prefixes, 33\.3% of them right \|",
        r"\| what became of them \| right: 4, wrong: 4, error: 2, no_answer: 1, starts_over: 1 \|",
        r"prm rollout --data answers\.jsonl --databases databases --output mc\.jsonl --rollouts 4 .*--seed 7",
        r"Whether the last label of every trace holds can be checked",
        r"- Labels say what this policy could finish, not what can be finished",
    ],
    "judged": [
        r"A model \(`a judge`\) read schema, question and steps .+ Nothing was run",
        r"\| judge \| 3 \| by a model that read the steps \|",
        r"\| without a wrong step \| 1 \|\n\| with a wrong step \| 1 \|\n\| without a verdict \| 1 \|",
        r"\| answers that could not be read \| 1 of 3 \|",
        r"prm judge --data mc\.jsonl --output judged\.jsonl --tries 1 --model 'a judge' "
        r"--base-url http://127\.0\.0\.1:\d+/v1",
        r"- A judge believes what sounds right, and what it says was not checked by execution",
    ],
    "agreed": [
        r"Only traces in which both put the first error at the same step, or find none, were kept",
        r"\| consensus \| 1 \| by two sources that agree \|",
        r"\| agreed that no step is wrong \| 1 \|\n\| agreed on the first wrong step \| 0 \|",
        r"\| put it at different steps \| 1 \|",
        r"\| had no label where the error would be \| 1 \|",
        r"\| traces kept \| 1 \|\n\| labels kept \| 3 \|",
        r"prm consensus mc\.jsonl judged\.jsonl --output agreed\.jsonl --keep traces",
        r"- What both sources get wrong alike is still here",
    ],
}


def test_cards_of_what_models_label(labelled, tmp_path):
    for name, expected in SAID.items():
        card, output = labelled[name], tmp_path / f"{name}.jsonl"
        for words in expected:
            assert re.search(words, card), f"{words}\n\n{card}"
        assert str(tmp_path) not in card
        assert hashlib.sha256(output.read_bytes()).hexdigest() in card
        front = yaml.safe_load(card.split("---\n")[1])
        assert front["configs"][0]["data_files"] == [{"split": name, "path": f"{name}.jsonl"}]
        for line in re.findall(r"^prm (.+)$", card, re.M):
            assert _parser().parse_args(shlex.split(line)).run
        assert ("prm inspect --databases" in card) == (name == "mc")
        statistics = json.loads((tmp_path / f"{name}.jsonl.stats.json").read_text())
        assert statistics["traces"] == len(load_traces(output))


def test_every_trace_says_what_made_its_labels_last(labelled, tmp_path):
    made = {name: load_traces(tmp_path / f"{name}.jsonl") for name in SAID}
    told = {name: {trace.extra["made_by"] for trace in traces} for name, traces in made.items()}
    assert told == {
        "mc": {made_by("rollout", 7)}, "judged": {made_by("judge", 0)}, "agreed": {made_by("consensus")},
    }  # fmt: skip
    assert {source_kind(t.label_source) for traces in made.values() for t in traces} <= SOURCES.keys()


def test_what_old_labels_rested_on_goes_with_them(zoo, tmp_path):
    old = {"label_evidence": "equal", "parent": "q-0", "votes": 3, "made_by": "prm label 0"}
    trace = Trace.from_dict(LATE.to_dict() | old)
    write_traces([trace], tmp_path / "t.jsonl")
    with serving(lambda *_: chat(said(C, C, C))) as server:
        data = ["--data", str(tmp_path / "t.jsonl"), "--output", str(tmp_path / "j.jsonl")]
        assert main(["judge", *data, "--model", "j", "--base-url", server.url]) == 0
    (judged,) = load_traces(tmp_path / "j.jsonl")
    assert judged.extra.keys() == {"votes", "judge", "made_by"}


def test_called_from_python_there_is_no_command(tmp_path):
    trace = Trace.from_dict({"question": "q", "steps": [{"text": "t", "label": 1}]})
    consensus([trace], [trace], tmp_path / "c.parquet")
    card = (tmp_path / "c.parquet.md").read_text()
    assert "Called from Python." in card and "prm consensus" not in card
    assert "  - split: c\n    path: c.parquet\n" in card


def test_the_command_names_files_by_their_last_name_only(tmp_path):
    options = {
        "data": [tmp_path / "a b.jsonl", tmp_path / "c"],
        "seed": 0,
        "price": (1.0, 2.5),
        "limit": None,
    }
    options |= {"trust_remote_code": False, "hard_negatives": True, "root": tmp_path / "x" / ".."}
    assert command("any", options, [tmp_path / "f"]) == (
        "prm any f --data 'a b.jsonl' c --seed 0 --price 1.0 2.5 --hard-negatives --root .."
    )


@pytest.mark.parametrize("output", ["/dev/null", "."])
@pytest.mark.parametrize(
    "verb",
    [
        ["consensus", "t.jsonl", "t.jsonl"],
        ["judge", "--data", "t.jsonl", "--model", "m", "--base-url", "http://127.0.0.1:9/v1"],
        [
            "rollout", "--data", "t.jsonl", "--databases", ".", "--model", "m",
            "--base-url", "http://127.0.0.1:9/v1",
        ],
    ],
)  # fmt: skip
def test_what_is_no_file_is_no_output(zoo, tmp_path, monkeypatch, verb, output, capsys):
    monkeypatch.chdir(tmp_path)
    write_traces([RIGHT], tmp_path / "t.jsonl")
    (tmp_path / "zoo.sqlite").symlink_to(zoo / "zoo" / "zoo.sqlite")
    assert main([*verb, "--output", output]) == 2
    assert capsys.readouterr().err.startswith(f"prm: {output}: is ")
