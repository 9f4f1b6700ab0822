"""What a trace is: which rows are one, what labels mean, and that nothing is lost on the way through."""

from __future__ import annotations

import pytest

from prm.errors import InputError
from prm.traces.trace import Step, Trace, first_error, fold_labels, returning_label


def row(*labels, **more):
    return {
        "question": "How many?",
        "steps": [{"text": f"s{i}", "label": y} for i, y in enumerate(labels)],
    } | more


@pytest.mark.parametrize(
    ("labels", "first", "returns"),
    [
        ([1, 1, 1], -1, None),
        ([1, 0, 0], 1, None),
        ([0], 0, None),
        ([None, None], -1, None),
        ([1, None, 0], 2, None),
        ([1, 0, None, 0], 1, None),
        ([1, 0.49, 0.5], 1, None),
        ([1, 0.5], -1, None),
        ([1, 0, 1], 1, 2),
        ([0, None, 1], 0, 2),
        ([0, 0.9], 0, None),  # soft labels may rise
    ],
)
def test_first_error_and_returning_label(labels, first, returns):
    assert first_error(labels) == first
    assert returning_label(labels) == returns


def test_a_full_row_comes_back_key_for_key():
    full = {
        "question": "q",
        "steps": [
            {"text": "a", "label": 1, "sql": "SELECT 1", "depth": 3},
            {"text": "b", "label": 0, "error": "join"},
        ],
        "id": "7", "group": "g", "db_id": "d", "schema": "t(a)", "evidence": "e", "sql": "S", "gold_sql": "G",
        "label_source": "execution", "scores": [0.5, 0.25], "mine": {"nested": [None, 1]},
    }  # fmt: skip
    trace = Trace.from_dict(full)
    assert trace.to_dict() == full
    assert trace.extra == {"mine": {"nested": [None, 1]}}
    assert trace.steps[0].extra == {"depth": 3}
    assert trace.first_error == 1


def test_values_are_brought_into_one_form():
    trace = Trace.from_dict(row(True, 1.0, False, None, id=12, group=3, scores=[1, 0, 0.5, 1], db_id=None))
    assert trace.labels == [1, 1, 0, None]
    assert all(type(label) is int for label in trace.labels[:3])
    assert (trace.id, trace.group, trace.db_id) == ("12", "3", None)
    assert trace.scores == [1.0, 0.0, 0.5, 1.0]
    assert Trace.from_dict(row(0.25)).labels == [0.25]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "a trace is a JSON object, not a list"),
        (None, "not null"),
        ({"steps": [{"text": "a"}]}, "'question' must be a non-empty string"),
        ({"question": " ", "steps": [{"text": "a"}]}, "'question' must be a non-empty string"),
        ({"question": "q"}, "'steps' must be a non-empty list"),
        ({"question": "q", "steps": []}, "'steps' must be a non-empty list"),
        ({"question": "q", "steps": ["a"]}, "step 0 must be an object"),
        ({"question": "q", "steps": [{"text": "a"}, {"label": 1}]}, "'text' of step 1 must be a non-empty"),
        ({"question": "q", "steps": [{"text": "a", "sql": 3}]}, "'sql' of step 0 must be a string, not 3"),
        (row("1"), "'label' of step 0 must be 1, 0, .* not the string '1'"),
        (row(1, 2), "'label' of step 1 must be .* not 2"),
        (row(-0.1), "not -0.1"),
        (row(float("nan")), "not nan"),
        (row(float("inf")), "not inf"),
        (row(10**400), "'label' of step 0 must be"),
        (row([1]), "not a list"),
        (row("x" * 10**6), "not the string 'x{40}'$"),  # the message stays one short line
        (row(1, db_id=3), "'db_id' must be a string, not 3"),
        (row(1, id=True), "'id' must be a string, not True"),
        (row(1, scores=[0.1, 0.2]), "'scores' must hold one number per step \\(1\\)"),
        (row(1, scores=[1.5]), "entry 0 is 1.5"),
        (row(1, scores=[float("nan")]), "entry 0 is nan"),
        (row(1, scores=[True]), "entry 0 is True"),
        (row(1, label_scheme="cumulative"), "'label_scheme' must be 'step' or 'prefix', not .*cumulative"),
        (row(1, prompt=["system", "user"]), "'prompt', which the model reads .* must be a string"),
        (row(1, 0, 1), "step 2 is labelled right after an earlier one .* --labels prefix"),
    ],
)
def test_what_is_no_trace_is_refused_with_file_line_and_mend(bad, message):
    with pytest.raises(InputError, match=message) as caught:
        Trace.from_dict(bad, file="f.jsonl", line=3)
    assert str(caught.value).startswith("f.jsonl:3: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("labels", "scheme", "strict", "folded"),
    [
        ([1, 0, 1], "step", [1, 0, 1], [1, 0, 0]),
        ([1, 0, None, 0.7, 1], "step", [1, 0, None, 0.7, 1], [1, 0, None, 0, 0]),
        ([1, 1], "step", [1, 1], [1, 1]),
        ([1, 0, None], None, [1, 0, None], [1, 0, None]),
        ([1, 0, 0.7], None, [1, 0, 0.7], [1, 0, 0.7]),  # native soft labels mean what they say
        ([0, 1], None, None, [0, 0]),
        ([0, 1], "prefix", None, [0, 0]),
    ],
)
def test_folding(labels, scheme, strict, folded):
    given = row(*labels, **({"label_scheme": scheme} if scheme else {}))
    if strict is None:
        with pytest.raises(InputError):
            Trace.from_dict(given)
    else:
        kept = Trace.from_dict(given)
        assert (kept.labels, kept.label_scheme) == (strict, scheme)
    trace = Trace.from_dict(given, prefix=True)
    assert trace.labels == folded
    assert trace.label_scheme != "step"


def test_fold_labels_says_whether_it_changed_anything():
    trace = Trace("q", [Step("a", 0), Step("b", 1)])
    assert fold_labels(trace)
    assert trace.labels == [0, 0]
    assert not fold_labels(trace)


def test_question_key():
    assert Trace("q", [], db_id="a").question_key != Trace("q", [], db_id="b").question_key
    assert Trace("q", [], group="g", db_id="a").question_key == Trace("p", [], group="g").question_key
