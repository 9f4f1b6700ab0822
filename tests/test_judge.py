"""Judges and consensus: what a judge reads, which of its words are a verdict, on what two files agree."""

from __future__ import annotations

import json
import sqlite3

import pytest
from scripted_server import asked, chat, serving

from prm.cli import main
from prm.errors import InputError
from prm.labeling.judge import consensus, error_position, judge_prompt, read_verdicts
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Step, Trace


def trace(*labels, question="How many?", **about):
    return Trace(question, [Step(f"Step text {i}", label) for i, label in enumerate(labels)], **about)


def said(*verdicts, **more):
    told = {f"analysis_step_{i}": {"verification_result": v} | more for i, v in enumerate(verdicts, 1)}
    return json.dumps({"analysis": told})


def test_the_judge_reads_the_steps_and_no_label():
    prompt = judge_prompt(trace(1, 0, schema="t(a)", evidence="e", gold_sql="SELECT gold"))
    assert "Schema:\nt(a)\nEvidence: e\nQuestion: How many?" in prompt
    assert "Step 1:\nStep text 0\n\nStep 2:\nStep text 1" in prompt
    assert "gold" not in prompt
    assert judge_prompt(trace(0, 1, schema="t(a)", evidence="e")) == prompt


C, I = "Correct", "Incorrect"  # noqa: E741


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (said(C, C, C), [1, 1, 1]),
        (said(C, I, C), [1, 0, 0]),  # behind an error nothing is right
        (said(C, I), [1, 0, 0]),  # and nothing need be said
        (said(I), [0, 0, 0]),
        (f"Let me see {{x}}.\n```json\n{said(C, ' incorrect ', C)}\n```\nThat is {{all}}.", [1, 0, 0]),
        (f"<think>{said(I, I, I)}</think>{said(C, C, C)}", [1, 1, 1]),
        (f"{said(C, C, C)} No, wait: {said(C, C, I)}", [1, 1, 0]),
        (json.dumps({"step_1": C, "step_2": C, "step_3": I}), [1, 1, 0]),
        (json.dumps({"Analysis_Step_1": C, "analysis step 2": I}), [1, 0, 0]),
        (
            '{"analysis": ' + json.dumps(said(C, C, I)) + "}",
            None,
        ),  # a string with an object that has "analysis"
        (json.dumps({"analysis": json.dumps({"step_1": C, "step_2": C, "step_3": C})}), [1, 1, 1]),
        (said(C, C), None),  # a step without a verdict, and no error before it
        (said(C, "Maybe", C), None),
        (said(C, C, C, C), None),  # a step that is not there
        (json.dumps({"analysis": {"step_2": I}}), None),
        (json.dumps({"analysis": {"step_1": C, "final": I}}), None),
        ("All steps are correct.", None),
        ("", None),
        ("{" * 100_000, None),
        ('{"a":' * 100_000, None),
        (said(C, C, C)[:-5], None),
        ("{} " * 10 + said(C, C, C), [1, 1, 1]),
    ],
)
def test_verdicts(text, labels):
    steps = read_verdicts(text, trace(None, None, None))
    assert (steps and [step.label for step in steps]) == labels


def test_the_judges_reasons_stay_with_their_steps():
    steps = read_verdicts(said(C, I, reason="so"), trace(0, 0))
    assert [step.extra for step in steps] == [{"analysis": {"reason": "so"}}] * 2


@pytest.fixture
def judged(tmp_path):
    """Run `prm judge` against a scripted server: (traces by id, statistics, number of requests)."""

    def run(traces, answer, *options, status=0):
        data, output = tmp_path / "in.jsonl", tmp_path / "judged.jsonl"
        write_traces(traces, data)
        with serving(answer) as server:
            command = ["judge", "--data", str(data), "--output", str(output), "--model", "j"]
            assert main([*command, "--base-url", server.url, "--concurrency", "1", *options]) == status
            made = load_traces(output)
            statistics = json.loads((tmp_path / "judged.jsonl.stats.json").read_text())
            return {t.id: t for t in made}, statistics, len(server.log)

    return run


TRACES = [
    trace(1, 1, id="a"),
    trace(1, 0.5, question="Which?", id="b", label_source="execution", scores=[1.0, 0.2]),
]


def test_prm_judge(judged, capsys):
    made, statistics, n = judged(TRACES, lambda body, _: chat(said(C, I if "Which" in asked(body)[0] else C)))
    assert {name: t.labels for name, t in made.items()} == {"a": [1, 1], "b": [1, 0]}
    assert {t.label_source for t in made.values()} == {"judge"} and made["b"].scores is None
    assert made["a"].extra["judge"]["policy"] == "j" and made["a"].extra["judge"]["seed"] == 0
    assert (n, statistics["right"], statistics["wrong"], statistics["unlabelled"]) == (2, 1, 1, 0)
    assert "2 traces judged: 1 right, 1 wrong, 0 without a verdict" in capsys.readouterr().err
    made_again, statistics, n = judged(TRACES, lambda *_: (500, {}, b""))
    assert made_again == made and n == 0  # all from the journal


def test_a_schema_may_come_from_the_database(judged, tmp_path, capsys):
    with sqlite3.connect(tmp_path / "zoo.sqlite") as connection:
        connection.execute("CREATE TABLE animal (name TEXT)")
    connection.close()
    prompts = []

    def answer(body, _):
        prompts.append(asked(body)[0])
        return chat(said(C))

    made, _, _ = judged(
        [trace(1, id="a", db_id="zoo"), trace(1, id="b")], answer, "--databases", str(tmp_path)
    )
    assert "animal(name TEXT)" in prompts[0] and made["a"].schema == "animal(name TEXT)"
    assert "Schema:" not in prompts[1]
    assert "1 traces were judged without a schema; --databases gives them one" in capsys.readouterr().err


def test_an_answer_that_cannot_be_read_is_asked_for_again(judged):
    seeds = []

    def answer(body, number):
        seeds.append(body["seed"])
        return chat("Hm." if number < 3 else said(C, C))

    made, statistics, n = judged(TRACES, answer)  # both, both again, and one of them for the third time
    assert n == 5 and statistics["malformed"] == 3 and len(set(seeds)) == 5
    assert [made[name].labels for name in "ab"] == [[1, 1], [1, 1]] and statistics["unlabelled"] == 0


def test_a_judge_who_never_makes_sense_labels_nothing(judged):
    made, statistics, n = judged(TRACES, lambda *_: chat("Hm."), "--tries", "2")
    assert n == 4 and statistics["unlabelled"] == 2
    assert [made[name].labels for name in "ab"] == [[None, None]] * 2


# Consensus


@pytest.mark.parametrize(
    ("labels", "position"),
    [
        ([1, 1, 1], -1), ([1, 1, 0], 2), ([0, 0], 0), ([1, 0, None], 1),
        ([None, None, 1], -1),  # right so far means right before
        ([None, 1, 0], 2), ([1, None, 0], None), ([1, None], None), ([None], None), ([None, 0], None),
        ([0.9, 0.5, 0.4], 2),
    ],
)  # fmt: skip
def test_where_the_error_is(labels, position):
    assert error_position(labels) == position


PAIRS = [  # first, second, fate, labels kept by traces and by steps
    ([1, 1, 1], [1, 1, 1], "agree_right", [1, 1, 1], [1, 1, 1]),
    ([1, 0, 0], [1, 0, 0], "agree_wrong", [1, 0, 0], [1, 0, 0]),
    ([0.8, 0.2, 0.1], [1, 0, None], "agree_wrong", [0.8, 0.2, 0.1], [0.8, 0.2, None]),
    ([0, 0, 0], [1, 0, 0], "first_earlier", None, [None, 0, 0]),
    ([1, 1, 0], [1, 0, 0], "second_earlier", None, [1, None, 0]),
    ([1, 1, 0], [1, 1, 1], "only_first", None, [1, 1, None]),
    ([1, 1, 1], [0, 0, 0], "only_second", None, None),
    ([1, None, 0], [1, 1, 0], "undecided", None, [1, None, 0]),
    ([1, 1, 1], [None, None, None], "undecided", None, None),
]


@pytest.mark.parametrize("keep", ["traces", "steps"])
def test_prm_consensus(tmp_path, keep, capsys):
    first = [
        trace(*a, question=f"q{i}", id=str(i), label_source="monte-carlo") for i, (a, *_) in enumerate(PAIRS)
    ]
    second = [trace(*b, question=f"q{i}", label_source="judge") for i, (_, b, *_) in enumerate(PAIRS)]
    first.append(trace(1, question="alone"))
    write_traces(first, tmp_path / "a.jsonl")
    write_traces(second[::-1], tmp_path / "b.jsonl")
    files = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert main(["consensus", *files, "--output", str(tmp_path / "c.jsonl"), "--keep", keep]) == 0
    made = {t.id: t for t in load_traces(tmp_path / "c.jsonl")}
    kept = {str(i): pair[3 if keep == "traces" else 4] for i, pair in enumerate(PAIRS)}
    assert {name: t.labels for name, t in made.items()} == {k: v for k, v in kept.items() if v is not None}
    assert {t.label_source for t in made.values()} == {"consensus"}
    assert made["0"].extra["consensus"] == ["monte-carlo", "judge"]
    counts = json.loads((tmp_path / "c.jsonl.stats.json").read_text())
    assert counts["agree_wrong"] == 2 and counts["undecided"] == 2 and counts["unmatched"] == 1
    assert all(counts[fate] >= 1 for _, _, fate, *_ in PAIRS)
    assert counts["traces_kept"] == len(made)
    assert counts["labels_kept"] == sum(x is not None for t in made.values() for x in t.labels)
    assert "both put the first error at the same step" in capsys.readouterr().err


def test_each_fate_by_itself(tmp_path):
    for first, second, fate, by_traces, _ in PAIRS:
        a, b = [trace(*first)], [trace(*second)]
        if by_traces is None:
            with pytest.raises(InputError, match=r"agree on nothing, so nothing was written .1 x"):
                consensus(a, b, tmp_path / "c.jsonl")
        else:
            counts = consensus(a, b, tmp_path / "c.jsonl")
            assert counts[fate] == counts["traces_kept"] == 1


def test_copies_are_matched_in_order(tmp_path):
    first = [trace(1, id="a"), trace(0, id="b")]
    consensus(first, [trace(1), trace(0)], tmp_path / "c.jsonl")
    assert [(t.id, t.labels) for t in load_traces(tmp_path / "c.jsonl")] == [("a", [1]), ("b", [0])]


def test_steps_judged_alone_are_folded_first(tmp_path):
    first = [trace(1, 0, 1, label_scheme="step")]
    consensus(first, [trace(1, 0, 0)], tmp_path / "c.jsonl")
    (made,) = load_traces(tmp_path / "c.jsonl")
    assert (made.labels, made.label_scheme, first[0].labels) == ([1, 0, 0], None, [1, 0, 1])


def test_other_steps_are_another_trace(tmp_path):
    other = trace(1)
    other.steps[0].text = "else"
    for second in ([other], [trace(1, db_id="d")], [trace(1, question="x")]):
        with pytest.raises(InputError, match="1 x not in the second file"):
            consensus([trace(1)], second, tmp_path / "c.jsonl")
