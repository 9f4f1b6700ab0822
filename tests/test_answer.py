"""Answers as text: which of a model's words are SQL, and where its steps end."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.traces.answer import split_answer

CATS, HEAVY, LAST = "cats AS (SELECT * FROM t)", "heavy AS (SELECT * FROM cats)", "SELECT COUNT(*) FROM heavy"


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        (f"WITH {CATS},\n\n{HEAVY}\n\n{LAST}", [CATS, HEAVY, LAST]),  # Reward-SQL's form
        (f"WITH {CATS}, {HEAVY} {LAST}", [CATS, HEAVY, LAST]),
        (f"WITH {CATS},\n{HEAVY},\n{LAST};", [CATS, HEAVY, LAST]),  # a comma too many
        (f"{CATS}\n\n{HEAVY}\n\n{LAST}", [CATS, HEAVY, LAST]),
        (f",\n\n{HEAVY}\n\n{LAST}", [HEAVY, LAST]),  # how an answer goes on
        (f"with {CATS} select count(*) from cats", [CATS, "select count(*) from cats"]),
        ("SELECT a\nFROM t\n\nWHERE b = 1\n\nThis is it.", ["SELECT a\nFROM t\n\nWHERE b = 1"]),
        ("select a\n\nfrom t", ["select a\n\nfrom t"]),
        ("SELECT 1 UNION\n\nSELECT 2", ["SELECT 1 UNION\n\nSELECT 2"]),
        ("SELECT 1\n\nSELECT 2", ["SELECT 1"]),
        ("Let's see.\nFinal: SELECT a FROM t; that's all", ["SELECT a FROM t"]),
        ("1. SELECT a FROM t;", ["SELECT a FROM t"]),
        (f"Here:\n```sql\nWITH {CATS}\nSelect 1 FROM cats\n```\ndone", [CATS, "Select 1 FROM cats"]),
        ("```SELECT 1```", ["SELECT 1"]),
        ("~~~sqlite\nSELECT 1\n~~~", ["SELECT 1"]),
        (
            f"Step 1:\n```sql\n{CATS}\n```\nStep 2:\n```\nSELECT 1 FROM cats\n```",
            [CATS, "SELECT 1 FROM cats"],
        ),
        ("Draft: SELECT 1;\n```sql\nSELECT 2\n```\n```sql\nSELECT 3\n```", ["SELECT 3"]),  # the last fenced
        ("SELECT 1\n\nQuestion: next\nSELECT 2", ["SELECT 1"]),  # the first where none is
        (f"WITH {CATS}\nNo.\nWITH {CATS}, {HEAVY} {LAST}", [CATS, HEAVY, LAST]),  # written anew
        ("<think>SELECT 1</think><answer>SELECT 2</answer>", ["SELECT 2"]),
        ("<think>\nSELECT 1;\n</think>\nSELECT 2", ["SELECT 2"]),
        ("SELECT 1<|im_end|>\nmore", ["SELECT 1"]),
        ("SELECT 1</s>", ["SELECT 1"]),
        (
            "a AS (SELECT ')' AS x, \"(\", [(] FROM t) SELECT 1",
            ["a AS (SELECT ')' AS x, \"(\", [(] FROM t)", "SELECT 1"],
        ),
        (
            "a AS (SELECT 'it''s' -- )\n FROM t /* ) */) SELECT 1",
            ["a AS (SELECT 'it''s' -- )\n FROM t /* ) */)", "SELECT 1"],
        ),
        ("WITH RECURSIVE n(i) AS (SELECT 1) SELECT i FROM n", ["n(i) AS (SELECT 1)", "SELECT i FROM n"]),
        (
            'WITH "my cats" AS MATERIALIZED (SELECT 1) SELECT 2',
            ['"my cats" AS MATERIALIZED (SELECT 1)', "SELECT 2"],
        ),
        (
            "a AS (WITH b AS (SELECT 1) SELECT * FROM b) SELECT 2",
            ["a AS (WITH b AS (SELECT 1) SELECT * FROM b)", "SELECT 2"],
        ),
        ("größe AS (VALUES (1)) SELECT 2", ["größe AS (VALUES (1))", "SELECT 2"]),
    ],
)  # fmt: skip
def test_whole_answers(text, fragments):
    answer = split_answer(text)
    assert answer.whole and [step.sql for step in answer.steps] == fragments


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"WITH {CATS}", "it has no final SELECT"),
        (f"WITH {CATS}, heavy AS (SELECT (1)", "the text ends inside heavy AS (…"),
        (f"WITH {CATS}, heavy AS (SELECT 'a)", "the text ends inside heavy AS (…"),
        (f"```sql\nWITH {CATS}, heavy AS (SELECT 1\n```", "the text ends inside heavy AS (…"),
    ],
)
def test_unfinished_answers(text, why):
    answer = split_answer(text)
    assert (answer.whole, answer.why, answer.steps[0].sql) == (False, why, CATS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No SQL at all.",
        "Select the cats. With care (as ever).",
        "use AS (an alias)",
        "The SELECT clause",
        "DELETE FROM t",
    ],
)
def test_no_answer(text):
    assert split_answer(text) is None


def test_sentences_stand_before_their_steps():
    answer = split_answer(
        f"I think.\n\nSelect the cats.\n{CATS}\n\nWith these, keep the heavy.\nAll of them.\n{HEAVY}\n\n"
        f"{LAST}"
    )
    assert [step.sentence for step in answer.steps] == [
        "Select the cats.", "With these, keep the heavy.\nAll of them.", "",
    ]  # fmt: skip
    assert [step.name for step in answer.steps] == ["cats", "heavy", ""]
    fenced = split_answer(f"Keep the cats:\n```sql\n{CATS}\n```\nCount.\n```sql\nSELECT 1\n```")
    assert [step.sentence for step in fenced.steps] == ["Keep the cats:", "Count."]


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("SELECT 1", False), ("SELECT 1;", True), ("SELECT 1\n\nThat is it.", True), ("SELECT 1\n\n", False),
        ("```sql\nSELECT 1\n```", True), ("```sql\nSELECT 1", False), ("<answer>SELECT 1</answer>", True),
    ],
)  # fmt: skip
def test_whether_the_end_is_known(text, closed):
    assert split_answer(text).closed == closed


def test_the_statement():
    answer = split_answer(f"WITH {CATS},\n\n{HEAVY}\n\n{LAST}")
    assert answer.sql == f"WITH {CATS},\n{HEAVY}\n{LAST}"
    assert split_answer("SELECT 1").sql == "SELECT 1"
    assert (
        split_answer("WITH RECURSIVE n AS (SELECT 1) SELECT 2").sql
        == "WITH RECURSIVE n AS (SELECT 1)\nSELECT 2"
    )


JUNK = [
    "(", "'", '"', "[", "/*", "WITH ", "a AS (", "SELECT ", "```", "\n", ": ", "<answer>", "a AS (SELECT (",
            "SELECT 1;", "a AS (SELECT 1),", "\nSELECT 1 ", "\nSELECT 1\n\nFROM ", "a(", "-- ", "{",
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
def test_any_text_is_read_in_linear_time(junk):
    began = time.monotonic()
    split_answer(junk * (100_000 // len(junk)))
    assert time.monotonic() - began < 10  # what is quadratic takes minutes


@given(
    st.lists(
        st.sampled_from([*JUNK, CATS, HEAVY, LAST, ")", ";", "\n\n", "</think>", "x", "```\n"])
        | st.text(max_size=5),
        max_size=30,
    )
)
def test_nothing_breaks_it(parts):
    text = "".join(parts)
    answer = split_answer(text)
    if answer is not None:
        assert all(step.sql in text for step in answer.steps)
        assert answer.whole == (answer.steps != [] and answer.steps[-1].name == "")
        assert not answer.whole or all(step.name for step in answer.steps[:-1])
