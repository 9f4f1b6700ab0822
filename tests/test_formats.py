"""Files in and out: every known format, hostile files, files that survive a failed write."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import random
import re
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prm.errors import InputError
from prm.traces import formats
from prm.traces.converters import FORMATS
from prm.traces.formats import (
    atomic_write,
    convert,
    from_rows,
    load_traces,
    read_traces,
    traces_from_dataset,
    write_traces,
)
from prm.traces.trace import TRACE_FIELDS, Step, Trace

GOOD = b'{"question": "q", "steps": [{"text": "a", "label": 1}]}'
TRL = {"prompt": "p\n", "completions": ["a", "b", "c"], "labels": [True, False, True]}


def labels_of(trace):
    return [(step.text, step.label) for step in trace.steps]


# Formats: foreign row -> native rows

MATH_SHEPHERD = {
    "input": "1 + 1, Step 1: is it? Step 1: add ки\nStep 2: 1 + 1 = 3 ки\nStep 3: so 2 ки",
    "label": "1 + 1, Step 1: is it? Step 1: add +\nStep 2: 1 + 1 = 3 -\nStep 3: so 2 +",
    "task": "GSM8K",
}
PROCESSBENCH = {"id": "gsm8k-3", "generator": "g", "problem": "P", "steps": ["a", "b", "c"], "label": 1}
VERDICT = {
    "question": "q",
    "schema": "t(a)",
    "reasoning": {"step_2": "y", "Step_1": "x", "step_10": None, "step_3": "z"},
    "analysis": {
        "analysis_step_1": {"verification_result": "Correct", "Why": "fits"},
        "Analysis_Step_2": {"Verification_Result": " INCORRECT "},
    },
}
COCTE = (
    "Sure:\n```sql\nWITH cats AS (SELECT * FROM t)\n\nSELECT COUNT(*) FROM cats;\n```\nIt counts t's cats."
)


def completion(text, rating):
    return {"text": text, "rating": rating, "flagged": None}


def prm800k(*steps, **label):
    keys = ("completions", "chosen_completion", "human_completion")
    return {
        "labeler": "l",
        "question": {"problem": "P", "ground_truth_answer": "3", "pre_generated_answer": None},
        "label": {"steps": [dict(zip(keys, step, strict=True)) for step in steps]} | label,
    }


@pytest.mark.parametrize(
    ("format", "row", "steps", "about"),
    [
        (
            "trl",
            TRL | {"id": "x", "note": "n"},
            [[("a", 1), ("b", 0), ("c", 1)]],
            {"question": "p\n", "id": "x", "label_scheme": "step", "extra": {"prompt": "p\n", "note": "n"}},
        ),
        (
            "trl",
            {"prompt": "p", "completions": ["a"], "labels": [0.25]},
            [[("a", 0.25)]],
            {"question": "p"},
        ),
        (
            "math-shepherd",
            MATH_SHEPHERD,
            [[("Step 1: add", 1), ("Step 2: 1 + 1 = 3", 0), ("Step 3: so 2", 1)]],
            {
                "question": "1 + 1, Step 1: is it?",
                "label_scheme": "step",
                "label_source": "monte-carlo",
                "extra": {"task": "GSM8K"},
            },
        ),
        (
            "math-shepherd",
            {"input": "Q Step 1: a ки Step 2: b", "label": "Q Step 1: a - Step 2: b"},
            [[("Step 1: a", 0), ("Step 2: b", None)]],  # nobody has judged what follows the last mark
            {"question": "Q"},
        ),
        (
            "openrlhf",
            {"input": "Q? Step 1: a ки Step 2: b ки", "value": ["+", "-"], "task": "GSM8K"},
            [[("Step 1: a", 1), ("Step 2: b", 0)]],
            {"question": "Q?", "label_scheme": "step", "extra": {"prompt": "Q? ", "task": "GSM8K"}},
        ),
        (
            "openrlhf",  # RewardSQL's mark; CTEs; numbers; a row that says where its prompt ends
            {"input": "Q WITH?\nWITH a AS (x), и SELECT 1; и", "labels": [0.75, 0.25], "prompt": "Q WITH?\n"},
            [[("WITH a AS (x),", 0.75), ("SELECT 1;", 0.25)]],
            {"question": "Q WITH?", "extra": {"prompt": "Q WITH?\n"}},
        ),
        (
            "prm800k",  # found an error: three rated ends, and an alternative to the first step
            prm800k(
                ([completion("a", 1), completion("a2", -1)], 0, None),
                ([completion("b", 0), completion("b2", -1), completion("b3", None)], None, None),
                finish_reason="found_error",
            ),
            [
                [("a2", 0)],
                [("a", 1), ("b", 1)],  # 0, neutral, counts as right
                [("a", 1), ("b2", 0)],
                [("a", 1), ("b3", None)],
            ],
            {
                "question": "P",
                "label_scheme": "step",
                "label_source": "human",
                "extra": {"labeler": "l", "ground_truth_answer": "3", "finish_reason": "found_error"},
            },
        ),
        (
            "prm800k",  # a solution: the whole path comes first; a step of the labeler counts as right
            prm800k(
                ([completion("a", -1)], None, {"text": "h", "rating": None, "source": "human"}),
                ([completion("b", 1)], 0, None),
            ),
            [[("h", 1), ("b", 1)], [("a", 0)]],
            {"question": "P"},
        ),
        ("prm800k", prm800k(finish_reason="bad_problem"), [], {}),
        ("prm800k", prm800k((None, None, None)), [], {}),
        (
            "processbench",
            PROCESSBENCH,
            [[("a", 1), ("b", 0), ("c", 0)]],
            {
                "question": "P",
                "id": "gsm8k-3",
                "label_scheme": None,
                "label_source": "human",
                "extra": {"generator": "g", "subset": "gsm8k"},
            },
        ),
        ("processbench", PROCESSBENCH | {"label": -1}, [[("a", 1), ("b", 1), ("c", 1)]], {}),
        ("processbench", PROCESSBENCH | {"label": 0}, [[("a", 0), ("b", 0), ("c", 0)]], {}),
        (
            "verdict",
            VERDICT,
            [[("x", 1), ("y", 0), ("z", None)]],
            {"question": "q", "schema": "t(a)", "label_scheme": "step", "label_source": "judge", "extra": {}},
        ),
        (
            "verdict",  # what a model answers: JSON as text, perhaps fenced
            {
                "question": "q",
                "reasoning": '{"step_1": "x"}',
                "analysis": '```json\n{"analysis_step_1": "incorrect"}\n```',
            },
            [[("x", 0)]],
            {},
        ),
        ("verdict", {"question": "q", "reasoning": {"step 1": "x"}}, [[("x", None)]], {}),
        (
            "cocte",
            {"question": "q", "db": "zoo", "gold_sql": "SELECT 5", "output": COCTE},
            [[("cats AS (SELECT * FROM t)", None), ("SELECT COUNT(*) FROM cats", None)]],
            {
                "question": "q",
                "db_id": "zoo",
                "gold_sql": "SELECT 5",
                "sql": "WITH cats AS (SELECT * FROM t)\nSELECT COUNT(*) FROM cats",
                "label_source": None,
                "extra": {},
            },
        ),
        (
            "cocte",  # labels of its own; `sql` beside the answer may be anything
            {"question": "q", "response": COCTE, "labels": [1, 0], "sql": "SELECT 5", "label_source": "x"},
            [[("cats AS (SELECT * FROM t)", 1), ("SELECT COUNT(*) FROM cats", 0)]],
            {"label_source": "x", "extra": {"row_sql": "SELECT 5"}},
        ),
        (
            "cocte",  # several answers to one question
            {"question": "q", "id": 7, "completion": ["SELECT 1", COCTE], "labels": [[0], None], "t": 1.0},
            [[("SELECT 1", 0)], [("cats AS (SELECT * FROM t)", None), ("SELECT COUNT(*) FROM cats", None)]],
            {"group": "7", "extra": {"t": 1.0}},
        ),
        (
            "candidates",
            {
                "id": "x",
                "question": "q",
                "scores": [0.5, 0.7],
                "candidates": [{"sql": "SELECT 1", "votes": 2}, {"steps": [{"text": "a"}], "votes": 2}],
            },
            [[("SELECT 1", None)], [("a", None)]],
            {"group": "x", "question": "q", "scores": None, "extra": {"votes": 2}},
        ),
        (
            "native",  # sequences as `datasets` stores them
            {"question": "q", "steps": {"text": ["a", "b"], "label": [1, 0]}},
            [[("a", 1), ("b", 0)]],
            {},
        ),
    ],
)  # fmt: skip
def test_foreign_rows(format, row, steps, about):
    before = json.dumps(row)
    traces = from_rows([row], format=format)
    assert [labels_of(trace) for trace in traces] == steps
    for trace in traces:
        assert {name: getattr(trace, name) for name in about} == about
    assert from_rows([row]) == traces  # its columns tell the same
    assert json.dumps(row) == before  # the caller's row is as it was


def test_the_judges_other_words_stay_with_their_step():
    (trace,) = from_rows([VERDICT])
    assert [step.extra for step in trace.steps] == [{"analysis": {"why": "fits"}}, {}, {}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "a row must be a JSON object"),
        (
            {"text": 1, "tokens": 2},
            "no known format has the columns text, tokens; a trace needs question and steps",
        ),
        ({}, "no known format has the columns none"),
        ({"question": "q"}, "'steps' missing"),
        (
            {"question": "q", "steps": {"text": ["a", "b"], "label": [1]}},
            "the lists in 'steps' differ in length",
        ),
        ({"prompt": "p", "completions": ["a"]}, "'labels' missing"),
        (TRL | {"labels": [True]}, "3 completions but 1 labels"),
        (TRL | {"labels": "+-+"}, "must be lists"),
        (TRL | {"labels": ["1", "0", "0"]}, "'label' of step 0 must be .* not the string '1'"),
        (TRL | {"completions": ["a", 1, "c"]}, "'text' of step 1"),
        (TRL | {"completions": [], "labels": []}, "'steps' must be a non-empty list"),
        (
            TRL | {"prompt": [{"role": "user", "content": "p"}]},
            "'prompt' must be one string; render .* template",
        ),
        ({"input": "Q Step 1: a", "label": "Q Step 1: a"}, "no step mark"),
        ({"input": "Q Step 1: a", "value": ["+"]}, "no step mark; known are 'ки'"),
        ({"input": "Q Step 1: a ки", "value": ["+", "-"]}, "1 step marks, but 'value' holds 2 labels"),
        ({"input": "Q Step 1: a ки", "value": ["good"]}, "label"),
        ({"input": "Q. a ки b ки", "value": ["+", "-"]}, "where the prompt in 'input' ends is unknown"),
        ({"input": ["Q"], "value": ["+"]}, "'input' must be a string"),
        ({"input": "Q a ки", "label": "Q a +"}, "no 'Step 1:'"),
        ({"input": "Q Step 1: a ки", "label": "Q Step 1: a ?"}, "step 0 differs"),
        ({"input": "Q Step 1: a ки b ки", "label": "Q Step 1: a + c -"}, "step 1 differs"),
        ({"input": "Q Step 1: a ки b", "label": "Q Step 1: a +"}, "the text after it differs"),
        ({"input": None, "label": "x"}, "must be strings"),
        (
            prm800k(([completion("a", 2)], 0, None)),
            "a rating in label step 0 must be -1, 0, 1 or null, not '2'",
        ),
        (prm800k(([completion("a", True)], 0, None)), "a rating in label step 0"),
        (prm800k(([completion("a", 1)], 1, None)), "'chosen_completion' of label step 0"),
        (prm800k(([completion(None, 1)], 0, None)), "'text' of step 0"),
        (prm800k((["a"], 0, None)), "'completions' of label step 0 must be a list of objects"),
        ({"question": {"problem": "P"}, "label": {"steps": None}}, "'label' must be an object with a list"),
        ({"question": {}, "label": {"steps": []}}, "the text 'problem'"),
        (PROCESSBENCH | {"label": 3}, r"'label' must be the index of the first wrong step \(0 to 2\)"),
        (PROCESSBENCH | {"label": True}, "'label' must be the index"),
        (PROCESSBENCH | {"label": "1"}, "'label' must be the index"),
        (PROCESSBENCH | {"steps": "abc"}, "'steps' must be a list of strings"),
        (PROCESSBENCH | {"steps": ["a", {}, "c"]}, "'text' of step 1"),
        (VERDICT | {"question": None}, "'question' must be a non-empty string"),
        (VERDICT | {"reasoning": {"step_1": "x", "step_3": "y"}}, "without a gap"),
        (VERDICT | {"reasoning": {}}, "must hold step_1"),
        (VERDICT | {"reasoning": "think hard"}, "'reasoning' is text, but not a JSON object"),
        (VERDICT | {"reasoning": "[" * 10**5}, "'reasoning' is text, but not a JSON object"),
        (VERDICT | {"reasoning": {"step_1": "x", "final": "y"}}, "the key 'final' in 'reasoning'"),
        (VERDICT | {"reasoning": {"step_1": "x", "STEP 1": "y"}}, "the key 'STEP 1' in 'reasoning'"),
        (
            VERDICT | {"analysis": {"analysis_step_4": "Correct"}},
            "judges step 4, which 'reasoning' does not have",
        ),
        (
            VERDICT | {"analysis": {"analysis_step_1": "Maybe"}},
            "the verdict on step 1 must be Correct or Incorrect",
        ),
        ({"question": "q", "output": "No."}, "no SQL statement in 'output'; an answer ends with a SELECT"),
        ({"question": "q", "output": 5}, "'output' must be the text of an answer, or a list of such texts"),
        ({"question": "q", "output": []}, "'output' must be the text of an answer"),
        ({"question": "q", "output": ["SELECT 1", None]}, "'output' must be the text of an answer"),
        (
            {"question": "q", "answer": "WITH a AS (SELECT (1"},
            r"the SQL in 'answer' is cut off: the text ends inside a AS \(…; restore it",
        ),
        ({"question": "q", "answer": "WITH a AS (SELECT 1)"}, "is cut off: it has no final SELECT"),
        ({"question": "q", "output": ["SELECT 1", "No."]}, "no SQL statement in answer 1 in 'output'"),
        (
            {"question": "q", "output": COCTE, "labels": [1]},
            "'labels' must be a list of one label a step; the answer has 2",
        ),
        ({"question": "q", "output": COCTE, "labels": "++"}, "'labels' must be a list of one label a step"),
        (
            {"question": "q", "output": [COCTE], "labels": [[1, 1], [0]]},
            "one list of labels for each of the 1",
        ),
        ({"question": "q", "output": COCTE, "labels": [0, 1]}, "step 1 is labelled right after"),
        ({"question": "q", "output": COCTE, "labels": [1, 2]}, "'label' of step 1 must be"),
        ({"question": "q", "candidates": {}}, "'candidates' must be a list of objects"),
        ({"question": "q", "candidates": ["SELECT 1"]}, "'candidates' must be a list of objects"),
        ({"question": "q", "candidates": [{"votes": 1}]}, "candidate 0 must have 'steps', or its 'sql'"),
        (
            {"question": "q", "candidates": [{"sql": "DROP TABLE t"}]},
            "no SQL statement in 'sql' of candidate 0",
        ),
        ({"question": "q", "candidates": [{"steps": []}]}, "'steps' must be a non-empty list"),
    ],
)
def test_malformed_rows_are_refused_with_their_place(row, message):
    with pytest.raises(InputError, match=message) as caught:
        from_rows([TRL, row], name="rows.jsonl")
    assert (caught.value.file, caught.value.line) == ("rows.jsonl", 2)
    assert len(from_rows([row, TRL], on_bad_rows="skip")) == 1


# Hostile files


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": "q", "steps": [{"text": "\xff"}]}', "byte 39 of the line is not UTF-8; save"),
        (b"\x00\x00\x00", "not JSON: Expecting value at column 1"),
        (b'{"question": "a\x00b", "steps": []}', "not JSON: Invalid control character"),
        (b'{"question": "q", "question": "r"}', "the key 'question' stands twice"),
        (b'{"question": "q", "steps": [{"text": "a", "label": NaN}]}', "NaN is no JSON number"),
        (b'{"question": "q", "steps": [{"text": "a", "label": -Infinity}]}', "-Infinity is no JSON number"),
        (b'{"question": "q", "steps": [{"text": "a", "label": 1e999}]}', "1e999 is too large"),
        (
            b'{"question": "q", "steps": [{"text": "a", "label": ' + b"1" * 5000 + b"}]}",
            "not JSON that can be read",
        ),
        (b'{"question": "q", "steps": [{"text": "cut \\ud83d"}]}', "half of a surrogate pair"),
        (b'{"question": "q", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"question,steps", "not JSON: Expecting value"),
        (GOOD + GOOD, "not JSON: Extra data at column"),
        (b'"a string"', "a row must be a JSON object"),
        (b"[" + GOOD + b"]", "a row must be a JSON object"),
    ],
)
def test_hostile_lines(tmp_path, caplog, line, message):
    file = tmp_path / "hostile.jsonl"
    file.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    with pytest.raises(InputError, match=message) as caught:
        load_traces(file)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert "\n" not in str(caught.value)
    assert len(load_traces(file, on_bad_rows="skip")) == 2
    (warning,) = caplog.messages
    assert warning.startswith("skipped 1 of 3 rows: 1 x ")
    assert f"{file}:2" in warning


def test_skipped_rows_are_counted_by_reason(tmp_path, caplog):
    file = tmp_path / "many.jsonl"
    bad = [b'{"question": "q", "steps": [{"text": "a", "label": %d}]}' % n for n in (2, 3, 4)]
    file.write_bytes(b"\n".join([bad[0], GOOD, bad[1], b"{", bad[2]]))
    assert len(load_traces(str(file), on_bad_rows="skip")) == 1
    (warning,) = caplog.messages
    assert warning.startswith("skipped 4 of 5 rows: 3 x 'label' of step N must be")
    assert f"(first: {file}:1); 1 x not JSON" in warning
    assert f"(first: {file}:4)" in warning


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n  \r\n" + GOOD,  # BOM, CRLF, blank lines, no newline at the end
        b"\n\n" + GOOD + b"\n" + GOOD + b"\n\n",
        GOOD
        + b"\n"
        + GOOD.replace(b'"q"', '"a\u2028b\x85"'.encode())
        + b"\n",  # line ends of Unicode end no line
    ],
)
def test_harmless_oddities(tmp_path, content):
    file = tmp_path / "odd.jsonl"
    file.write_bytes(content)
    assert [labels_of(trace) for trace in load_traces(file)] == [[("a", 1)]] * 2


def test_a_cut_last_line_says_so(tmp_path):
    file = tmp_path / "cut.jsonl"
    file.write_bytes(GOOD + b"\n" + GOOD[:30])
    with pytest.raises(InputError, match=r"cut.jsonl:2: .*the file ends within this line"):
        load_traces(file)


def test_a_huge_line_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 2**20)
    file = tmp_path / "huge.jsonl"
    file.write_bytes(b'{"question": "' + b"x" * (5 * 2**20) + b'"}\n' + GOOD)
    with pytest.raises(InputError, match=r"huge.jsonl:1: the line is longer than 1 MiB"):
        load_traces(file)
    assert len(load_traces(file, on_bad_rows="skip")) == 1


def test_rows_are_read_one_at_a_time(tmp_path):
    file = tmp_path / "f.jsonl"
    file.write_bytes(GOOD + b"\n{")
    reader = read_traces(file)
    assert next(reader).question == "q"  # the broken second line is not reached yet
    with pytest.raises(InputError, match=":2:"):
        next(reader)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.jsonl", b"", "holds no traces"),
        ("e.json", b" \n", "holds no traces"),
        ("e.json", b"[]", "holds no traces"),
        ("e.jsonl.gz", gzip.compress(b"", mtime=0), "holds no traces"),
        ("e.jsonl.gz", gzip.compress(GOOD * 1000, mtime=0)[:-20], "the gzip stream is cut or broken"),
        ("e.jsonl.gz", b"\x1f\x8b" + b"x" * 30, "the gzip stream is cut or broken"),
        ("e.parquet", b"PAR1 and nothing more PAR1", "is not a whole Parquet file"),
        ("e.parquet", GOOD, "is not a whole Parquet file"),
        ("e.json", b"[" + GOOD, "e.json:1: not JSON: a comma or ] is missing"),
        ("e.json", b"[\n" + GOOD + b"\n" + GOOD + b"]", "e.json:3: not JSON: a comma or ] is missing"),
        ("e.json", b"[\n" + GOOD + b",\n\n" + b"nope]", "e.json:4: not JSON: Expecting value"),
        ("e.json", b"[" + GOOD + b"]\n]", "e.json:1: not JSON: more text after the end"),
        ("e.json", b"[\n" + GOOD + b',\n{"question": NaN}]', "e.json:3: NaN is no JSON number"),
        ("e.json", b"[" * 100_000, "e.json:1: nested too deeply"),
        ("e.json", b'[\n"\xff"]', "e.json:2: byte 2 of the line is not UTF-8"),
    ],
)
def test_files_that_hold_nothing_or_cannot_be_read_on(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    for on_bad_rows in ("stop", "skip"):
        with pytest.raises(InputError, match=message) as caught:
            load_traces(file, on_bad_rows=on_bad_rows)
        assert str(caught.value).startswith(str(file))


def test_where_all_rows_are_skipped_there_are_no_traces(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b"{\n{\n")
    with pytest.raises(InputError, match=r"holds no traces \(skipped 2 of 2 rows: 2 x not JSON"):
        load_traces(tmp_path / "f.jsonl", on_bad_rows="skip")


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.jsonl", GOOD + b"\n" + GOOD, 2),
        ("a.json", GOOD + b"\n" + GOOD, 2),  # JSON lines by another name
        ("a.json", GOOD, 1),
        ("a.json", json.dumps(json.loads(GOOD), indent=2).encode(), 1),
        ("a.json", b"[" + GOOD + b",\n" + GOOD + b"]\n", 2),
        ("a.json", b"\xef\xbb\xbf [\r\n" + GOOD + b"\r\n]", 1),
        ("a.txt", GOOD, 1),
        ("a.jsonl.gz", gzip.compress(GOOD + b"\n" + GOOD, mtime=0), 2),
        ("a.json.gz", gzip.compress(b"[" + GOOD + b"," + GOOD + b"]", mtime=0), 2),
    ],
)
def test_kinds_of_json_files(tmp_path, name, content, lines):
    (tmp_path / name).write_bytes(content)
    traces = load_traces(tmp_path / name)
    assert [labels_of(trace) for trace in traces] == [[("a", 1)]] * lines


def test_rows_of_a_json_list_have_lines_and_can_be_skipped(tmp_path):
    file = tmp_path / "l.json"
    bad = b'{"question": "q",\n "steps": []}'
    file.write_bytes(b"[\n" + GOOD + b",\n" + bad + b",\n" + GOOD + b"]")
    with pytest.raises(InputError, match=r"l.json:3: 'steps' must be"):
        load_traces(file)
    assert len(load_traces(file, on_bad_rows="skip")) == 2


def spoilt(value, rng, p):
    """`value` with some of its parts replaced or left out."""
    if rng.random() < p:
        return rng.choice(
            [None, True, -1, 1.5, 10**400, "", "ки", "{", [], {}, [None], ["a"], {"step_1": [1]}, {3: 4}]
        )
    if isinstance(value, dict):
        return {key: spoilt(item, rng, p) for key, item in value.items() if rng.random() > p / 3}
    if isinstance(value, list):
        return [spoilt(item, rng, p) for item in value if rng.random() > p / 3]
    return value


def test_spoilt_rows_raise_nothing_but_input_errors():
    rng = random.Random(0)
    solved = prm800k(([completion("a", 1), completion("b", -1)], 0, None), (None, None, {"text": "h"}))
    good = [TRL, MATH_SHEPHERD, PROCESSBENCH, VERDICT, solved, json.loads(GOOD) | {"scores": [0.5]}]
    outcomes = Counter()
    for _ in range(5000):
        row = spoilt(rng.choice(good), rng, rng.choice([0.03, 0.1, 0.3]))
        try:
            from_rows([row], format=rng.choice(["auto", "auto", *FORMATS]))
            outcomes["read"] += 1
        except InputError as error:
            assert str(error).startswith("rows:1: ")
            assert len(str(error)) < 400
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 500  # both happen


@pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.jsonl.gz", "f.parquet"])
def test_spoilt_files_raise_nothing_but_input_errors(tmp_path, name):
    rng = random.Random(1)
    rows = [TRL, MATH_SHEPHERD, PROCESSBENCH, VERDICT, json.loads(GOOD)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    write_traces(from_rows(rows), tmp_path / "f.parquet")
    whole = {
        "f.jsonl": lines,
        "f.json": json.dumps(rows, indent=1).encode(),
        "f.jsonl.gz": gzip.compress(lines, mtime=0),
        "f.parquet": (tmp_path / "f.parquet").read_bytes(),
    }[name]
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 3, 10])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        (tmp_path / name).write_bytes(content)
        try:
            load_traces(tmp_path / name, on_bad_rows=rng.choice(["stop", "skip"]))
        except InputError as error:
            assert str(error).startswith(str(tmp_path / name))
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30


# Sources


def test_paths_that_lead_nowhere(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    for source, message in [
        (tmp_path / "trian.jsonl", "there is no such file; did you mean .*train.jsonl"),
        (tmp_path / "zzz", "there is no such file in "),
        (tmp_path / "no" / "train.jsonl", "the folder .* does not exist"),
        ("nowhere/train.jsonl", "the folder nowhere does not exist"),  # a suffix of ours: no Hub id
        (tmp_path / ("x" * 5000), "there is no such file in "),
        ([], "no files given"),
        ("", "is no file name"),
        ("a\0b", "is no file name"),
        (7, "not from int"),
    ]:
        with pytest.raises(InputError, match=message):
            load_traces(source)


def test_unknown_words_are_refused(tmp_path):
    for more, message in [
        ({"labels": "fold"}, "labels must be 'strict' or 'prefix'"),
        ({"on_bad_rows": "ignore"}, "on_bad_rows must be"),
        (
            {"format": "prm80k"},
            "unknown format 'prm80k'; known are auto, native, trl, .*; did you mean prm800k",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            from_rows([TRL], **more)


def test_a_list_of_files_and_a_folder(tmp_path):
    for name, question in [("b.jsonl", b"b"), ("a.json", b"a"), (".hidden.jsonl", b"h"), ("notes.md", b"n")]:
        (tmp_path / name).write_bytes(GOOD.replace(b'"q"', b'"' + question + b'"'))
    assert [t.question for t in load_traces(tmp_path)] == ["a", "b"]
    files = [tmp_path / "b.jsonl", str(tmp_path / "a.json"), tmp_path / "b.jsonl"]
    assert [t.question for t in load_traces(files)] == ["b", "a", "b"]


def test_splits_of_a_folder(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_traces([Trace(name, [Step("a", 1)])], tmp_path / "data" / f"{name}.parquet")
    message = re.escape(f"has the splits test, train; name a file, or one, as {tmp_path}:test (split= in")
    with pytest.raises(InputError, match=message):
        load_traces(tmp_path)
    assert [t.question for t in load_traces(f"{tmp_path}:test")] == ["test-00000-of-00001"]
    both = load_traces([f"{tmp_path}:test", f"{tmp_path}/:train"], split="dev")  # its own goes before
    assert [t.question[:5] for t in both] == ["test-", "train", "train"]
    with pytest.raises(InputError, match="no split 'dev', only test-00000"):
        load_traces(f"{tmp_path}:dev")
    assert [t.question for t in load_traces(tmp_path, split="test")] == ["test-00000-of-00001"]
    assert len(load_traces(tmp_path, split="train")) == 2
    with pytest.raises(InputError, match="no split 'dev', only test-00000"):
        load_traces(tmp_path, split="dev")


def test_subsets_of_a_folder_that_are_no_splits(tmp_path):
    for name in ("gsm8k", "math"):
        (tmp_path / f"{name}.json").write_text(json.dumps([PROCESSBENCH | {"id": f"{name}-0"}]))
    assert [t.extra["subset"] for t in load_traces(tmp_path)] == ["gsm8k", "math"]
    assert [t.id for t in load_traces(tmp_path, split="math")] == ["math-0"]


def test_a_split_is_named_only_where_there_can_be_some(tmp_path):
    """A colon in the name of a file or folder that exists is a colon; a file has no splits."""
    for name in ("a:train", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.jsonl").write_bytes(GOOD.replace(b'"q"', f'"{name}"'.encode()))
    assert [t.question for t in load_traces(tmp_path / "a:train")] == ["a:train"]
    for wrong in (f"{tmp_path}/b/t.jsonl:train", f"{tmp_path}/b:", f"{tmp_path}/none:train"):
        with pytest.raises(InputError, match="there is no such file"):
            load_traces(wrong)


def test_a_split_of_a_hub_data_set(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train", "test"])
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, split: asked.append((name, split)) or datasets.Dataset.from_list([TRL]),
    )
    assert len(load_traces(["owner/name:train", "owner/name:test"])) == 2
    assert asked == [("owner/name", "train"), ("owner/name", "test")]
    with pytest.raises(
        InputError, match=r"^owner/name: has the splits train, test; name one, as owner/name:"
    ):
        load_traces("owner/name")


@pytest.mark.parametrize("beside", ["train.jsonl.stats.json", "train.jsonl.journal", "my.journal.jsonl"])
def test_what_labelling_writes_beside_its_traces_is_no_data(tmp_path, beside):
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    (tmp_path / beside).write_text('{"traces": 1}')
    assert len(load_traces(tmp_path)) == 1
    with pytest.raises(InputError, match="traces"):
        load_traces(tmp_path / beside)  # named, it is read


def test_the_folder_of_a_build_is_a_data_source(tmp_path):
    from prm.cli import main

    with sqlite3.connect(tmp_path / "a.sqlite") as database:
        database.executescript(
            "CREATE TABLE pet(name TEXT, age INT); INSERT INTO pet VALUES ('a', 1), ('b', 3)"
        )
    row = {"question": "Which pets are older than 2?", "sql": "SELECT name FROM pet WHERE age > 2"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row | {"database": "a.sqlite"}))
    output = tmp_path / "built" / "train.jsonl"
    build = ["build", "--layout", "table", "--root", str(tmp_path / "q.jsonl"), "--output", str(output)]
    assert main(build) == 0
    assert (output.parent / "train.jsonl.stats.json").exists()
    assert load_traces(output.parent) == load_traces(output)


def test_a_folder_without_data(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(InputError, match="the folder has no data"):
        load_traces(tmp_path)


def test_datasets_of_trl_and_of_native_columns(tmp_path):
    trl = datasets.Dataset.from_list([TRL, {"prompt": "p2", "completions": ["x"], "labels": [False]}])
    traces = traces_from_dataset(trl)
    assert [labels_of(t) for t in traces] == [[("a", 1), ("b", 0), ("c", 1)], [("x", 0)]]
    assert traces[0].extra == {"prompt": "p\n"}
    assert load_traces(trl.with_format("numpy")) == traces
    assert load_traces(trl.to_iterable_dataset()) == traces
    assert load_traces(trl.to_iterable_dataset().with_format("torch")) == traces

    full = Trace("q", [Step("a", 1, sql="S"), Step("b", 0, error="join")], db_id="d", extra={"k": "v"})
    bare = Trace("r", [Step("c")], extra={"k": "w"})
    native = datasets.Dataset.from_list([full.to_dict(), bare.to_dict()])
    assert traces_from_dataset(native) == [full, bare]  # the columns that `bare` lacks come back as absent

    native.save_to_disk(tmp_path / "one")
    assert load_traces(tmp_path / "one") == [full, bare]
    both = datasets.DatasetDict(train=native, test=trl)
    both.save_to_disk(tmp_path / "two")
    assert load_traces(f"{tmp_path / 'two'}:train") == [full, bare]
    for source in (both, tmp_path / "two"):
        assert load_traces(source, split="train") == [full, bare]
        with pytest.raises(InputError, match="has the splits train, test; name one"):
            load_traces(source)
        with pytest.raises(InputError, match="has no split 'dev', only train, test"):
            load_traces(source, split="dev")


def test_a_broken_saved_dataset(tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(InputError, match="cannot be loaded as a saved data set"):
        load_traces(tmp_path)


def test_parquet_of_other_people(tmp_path):
    table = pa.Table.from_pylist(
        [TRL | {"day": datetime.date(2024, 5, 1), "score": float("nan")}, TRL | {"labels": [True]}]
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t.parquet:2: 3 completions but 1 labels"):
        load_traces(tmp_path / "t.parquet")
    traces = load_traces(tmp_path / "t.parquet", on_bad_rows="skip")
    write_traces(traces, tmp_path / "t.jsonl")
    assert load_traces(tmp_path / "t.jsonl")[0].extra == {"prompt": "p\n", "day": "2024-05-01", "score": None}


# Writing

words = st.text(min_size=1, max_size=8).filter(str.strip)
known = {"question", "steps", "text", "label", "error", "prompt", *TRACE_FIELDS}
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
extras = st.dictionaries(
    (st.text(max_size=6) | st.just("extra_json")).filter(lambda key: key not in known), values, max_size=3
)
labels = st.none() | st.sampled_from([0, 1]) | st.floats(0, 1)
steps = st.lists(
    st.builds(Step, words, labels, sql=st.none() | words, error=st.none() | words, extra=extras),
    min_size=1,
    max_size=4,
)


@st.composite
def traces(draw):
    trace = Trace(draw(words), draw(steps), label_scheme="step", extra=draw(extras))
    for name in TRACE_FIELDS:
        if name not in ("scores", "label_scheme"):
            setattr(trace, name, draw(st.none() | st.text(max_size=6)))
    if draw(st.booleans()):
        trace.scores = draw(st.lists(st.floats(0, 1), min_size=len(trace.steps), max_size=len(trace.steps)))
    return trace


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(traces(), min_size=1, max_size=4))
def test_what_is_written_is_read_back(tmp_path, suffix, written):
    file = tmp_path / f"t.{suffix}"
    assert write_traces(written, file) == len(written)
    assert load_traces(file) == written


def test_parquet_has_the_native_columns_and_more_than_one_group(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "GROUP_SIZE", 2)
    written = [Trace(f"q{i}", [Step("a", i % 2)], extra={"n": [i, str(i)][i % 2]}) for i in range(5)]
    write_traces(iter(written), tmp_path / "t.parquet")
    assert pq.read_schema(tmp_path / "t.parquet").names == ["question", "steps", *TRACE_FIELDS, "extra_json"]
    assert load_traces(tmp_path / "t.parquet") == written


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_half_surrogates_and_nan_from_python_are_written_readably(tmp_path, suffix):
    file = tmp_path / f"t.{suffix}"
    write_traces([Trace("a\ud83d", [Step("\ud83d\ude00", 1)], extra={"x": [float("nan"), "\udc00"]})], file)
    (trace,) = load_traces(file)
    assert (trace.question, trace.steps[0].text) == ("a\ufffd", "\U0001f600")
    assert trace.extra == {"x": [None, "\ufffd"]}


def test_jsonl_is_plain_utf8(tmp_path):
    write_traces([Trace("每个<|im_end|>", [Step("é", 1)])], tmp_path / "t.jsonl")
    expected = '{"question": "每个<|im_end|>", "steps": [{"text": "é", "label": 1}]}\n'
    assert (tmp_path / "t.jsonl").read_bytes() == expected.encode()


def one(question="q"):
    return Trace(question, [Step("a", 1)])


def broken():
    yield one("new")
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_the_old_file_survives_an_interrupt(tmp_path, name):
    write_traces([one("old")], tmp_path / name)
    with pytest.raises(KeyboardInterrupt):
        write_traces(broken(), tmp_path / name)
    assert load_traces(tmp_path / name) == [one("old")]
    assert os.listdir(tmp_path) == [name]


def test_the_old_file_survives_a_full_disk(tmp_path):
    file = tmp_path / "t.jsonl"
    write_traces([one("old")], file)
    script = """
        import resource, signal, sys
        from prm.traces.formats import write_traces
        from prm.traces.trace import Step, Trace
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_traces((Trace("new", [Step("a" * 1000)]) for _ in range(1000)), sys.argv[1])
        except OSError as error:
            print("OSError")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "OSError\n"
    assert load_traces(file) == [one("old")]
    assert os.listdir(tmp_path) == ["t.jsonl"]


def test_where_a_file_is_written(tmp_path):
    deep = tmp_path / "new" / "folders" / "t.jsonl"
    write_traces([one()], deep)
    assert load_traces(deep) == [one()]

    deep.chmod(0o640)
    link = tmp_path / "link.jsonl"
    link.symlink_to(deep)
    write_traces([one("r")], link)  # the link stays a link, the mode stays
    assert link.is_symlink()
    assert load_traces(deep) == [one("r")]
    assert stat.S_IMODE(deep.stat().st_mode) == 0o640

    umask = os.umask(0)
    os.umask(umask)
    write_traces([one()], tmp_path / "fresh.jsonl")
    assert stat.S_IMODE((tmp_path / "fresh.jsonl").stat().st_mode) == 0o666 & ~umask

    for path, message in [
        (tmp_path, "is a folder; name a file"),
        (deep / "t.jsonl", "t.jsonl is a file, not a folder to write in"),
        (deep / "a" / "t.jsonl", "cannot be written: Not a directory"),
        (tmp_path / "t.jsonl.gz", "not compressed by gzip"),
    ]:
        with pytest.raises(InputError, match=message):
            write_traces([one()], path)


def test_a_value_that_json_cannot_say(tmp_path):
    with pytest.raises(InputError, match="an unknown key holds bytes"):
        write_traces([Trace("q", [Step("a")], extra={"x": b"\x00"})], tmp_path / "t.jsonl")
    assert os.listdir(tmp_path) == []


def test_atomic_write_of_bytes(tmp_path):
    with atomic_write(tmp_path / "f", "wb") as handle:
        handle.write(b"\r\n")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f").read_bytes() == b"\r\n"


# Converting


def test_convert_into_parquet_and_back(tmp_path, capsys, caplog):
    (tmp_path / "t.json").write_text(json.dumps([TRL, MATH_SHEPHERD, prm800k(), PROCESSBENCH, VERDICT]))
    assert convert(tmp_path / "t.json", tmp_path / "t.parquet", format="auto") == 4
    assert "wrote 4 traces from 5 rows" in capsys.readouterr().err
    assert caplog.messages == ["1 rows hold no step and gave no trace"]
    convert(tmp_path / "t.parquet", tmp_path / "t.jsonl", format="native")
    assert (
        load_traces(tmp_path / "t.jsonl")
        == load_traces(tmp_path / "t.parquet")
        == load_traces(tmp_path / "t.json")
    )


def test_convert_folds_on_request_and_counts(tmp_path, caplog):
    (tmp_path / "t.json").write_text(json.dumps([TRL, TRL | {"labels": [True, True, False]}]))
    convert(tmp_path / "t.json", tmp_path / "kept.jsonl", format="trl")
    assert [t.labels for t in load_traces(tmp_path / "kept.jsonl")] == [[1, 0, 1], [1, 1, 0]]
    assert not caplog.messages
    convert(tmp_path / "t.json", tmp_path / "folded.jsonl", format="trl", labels="prefix")
    folded = load_traces(tmp_path / "folded.jsonl")
    assert [(t.labels, t.label_scheme) for t in folded] == [([1, 0, 0], None), ([1, 1, 0], None)]
    assert caplog.messages == ["folded the labels of 1 traces: after the first error all are wrong"]


def test_a_file_may_be_converted_into_itself(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps(TRL) + "\n")
    convert(tmp_path / "t.jsonl", tmp_path / "t.jsonl", format="trl")
    assert json.loads((tmp_path / "t.jsonl").read_text())["question"] == "p\n"


def test_every_format_has_a_case_above():
    (mark,) = [m for m in test_foreign_rows.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == set(FORMATS)


def test_cocte_answers_by_any_usual_name(tmp_path):
    """`prm convert --from cocte`: questions with nothing but `sql` are answers only when told so."""
    for key in ("output", "response", "answer", "completion", "sql"):
        row = {"question": "q", "database": "zoo", key: "SELECT 1"}
        (trace,) = from_rows([row], format="cocte")
        assert (trace.db_id, labels_of(trace), trace.sql) == ("zoo", [("SELECT 1", None)], "SELECT 1")
    with pytest.raises(InputError, match="'steps' missing"):
        from_rows([row])
    (tmp_path / "in.jsonl").write_text(json.dumps({"question": "q", "output": COCTE}))
    assert convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", format="cocte") == 1
    with pytest.raises(
        InputError, match="needs its text under one of output, response, answer, completion, sql"
    ):
        from_rows([{"question": "q", "text": "SELECT 1"}], format="cocte")
