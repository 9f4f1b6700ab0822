"""Monte-Carlo labels: from estimates to labels, and runs with a scripted policy on a real database."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from scripted_server import asked, chat, serving
from test_answers import killing

from prm.cli import main
from prm.errors import InputError
from prm.inference.policies import Sampling, ServerPolicy
from prm.jobs.journal import Journal
from prm.labeling.monte_carlo import (
    _SAY_NOTHING,
    Estimate,
    Plan,
    _Answer,
    _Rollouts,
    _Work,
    label_answers,
    labels_of,
    wanted,
)
from prm.sql.database import DatabasePool
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Step, Trace

# From estimates to labels. "8+3": 8 tried, 3 right.


def known(**found):
    """`_2="8+3"` or `_0="4+0"`: number of steps -> tried + right."""
    return {int(name[1:]): Estimate(*map(int, value.split("+"))) for name, value in found.items()}


HARD, SOFT, BINARY = Plan(), Plan(label="soft"), Plan(search="binary")


@pytest.mark.parametrize(
    ("plan", "n", "right", "found", "lengths"),
    [
        (HARD, 4, False, {}, [1, 2, 3]),
        (HARD, 4, False, known(_2="8+0"), [1, 3]),
        (HARD, 4, True, {}, []),  # the answer itself is a right ending of every prefix
        (HARD, 1, False, {}, []),
        (SOFT, 3, True, {}, [1, 2]),
        (SOFT, 3, True, known(_1="8+1", _2="0+0"), []),  # nothing came back: it is not asked for ever again
        (BINARY, 8, False, {}, [0]),  # can the policy solve the question at all?
        (BINARY, 8, False, known(_0="8+0"), []),
        (BINARY, 8, False, known(_0="0+0"), []),
        (BINARY, 8, False, known(_0="8+1"), [4]),
        (BINARY, 8, False, known(_0="8+1", _4="8+2"), [6]),
        (BINARY, 8, False, known(_0="8+1", _4="8+0"), [2]),
        (BINARY, 8, False, known(_0="8+1", _4="8+2", _6="8+0"), [5]),
        (BINARY, 8, False, known(_0="8+1", _4="8+2", _5="8+0", _6="8+0"), []),
        (BINARY, 8, False, known(_0="8+1", _4="0+0"), []),
        (
            BINARY,
            8,
            False,
            known(_0="8+1", _1="8+0", _5="8+1"),
            [6],
        ),  # of another answer: a longer good one counts
        (BINARY, 8, True, {}, []),
        (BINARY, 1, False, {}, []),
    ],
)
def test_which_prefixes_are_tried_next(plan, n, right, found, lengths):
    assert wanted(n, right, found, plan) == lengths


@pytest.mark.parametrize(
    ("plan", "n", "right", "found", "labels"),
    [
        (HARD, 4, True, {}, [1, 1, 1, 1]),
        (HARD, 4, False, known(_1="8+8", _2="8+1", _3="8+0"), [1, 1, 0, 0]),
        (HARD, 4, False, known(_1="8+0", _2="8+0", _3="8+0"), [0, 0, 0, 0]),
        (
            HARD,
            4,
            False,
            known(_1="8+0", _2="8+0", _3="8+2"),
            [1, 1, 1, 0],
        ),  # who comes back from 3 was there at 1
        (HARD, 4, False, known(_2="8+1"), [1, 1, None, 0]),  # the budget was spent
        (HARD, 4, False, known(_1="8+1", _2="8+0"), [1, 0, 0, 0]),  # behind a bad prefix all is bad
        (HARD, 4, False, known(_1="8+1", _2="0+0", _3="0+0"), [1, None, None, 0]),
        (HARD, 1, False, {}, [0]),
        (SOFT, 4, False, known(_1="8+6", _2="8+2", _3="8+0"), [0.75, 0.25, 0, 0]),
        (SOFT, 3, True, known(_1="8+8", _2="4+1"), [1, 0.25, 1]),
        (SOFT, 3, True, known(_1="8+0", _2="4+0"), [1 / 9, 1 / 5, 1]),  # not 0: the answer came through there
        (SOFT, 4, False, known(_1="8+0", _2="8+0", _3="8+4"), [1 / 9, 1 / 9, 0.5, 0]),
        (SOFT, 3, False, known(_1="8+0", _2="8+0"), [0, 0, 0]),
        (SOFT, 3, False, known(_2="0+0"), [None, None, 0]),
        (BINARY, 4, False, known(_0="8+1", _2="8+1", _3="8+0"), [1, 1, 0, 0]),
        (BINARY, 4, False, known(_0="8+1", _2="8+0", _1="8+0"), [0, 0, 0, 0]),
        (BINARY, 4, False, known(_0="8+1"), [None, None, None, 0]),
        (BINARY, 4, False, known(_0="8+0"), [None, None, None, 0]),  # a policy that cannot do it cannot judge
        (BINARY, 4, False, known(_0="8+1", _2="8+0"), [None, 0, 0, 0]),
        (BINARY, 4, False, known(_0="8+0", _2="8+0"), [None, None, None, 0]),
        (BINARY, 4, True, {}, [1, 1, 1, 1]),
    ],
)
def test_labels_from_estimates(plan, n, right, found, labels):
    assert labels_of(n, right, found, plan) == labels


def test_labels_never_contradict_each_other():
    """Whatever comes of the rollouts, the labels are a valid trace, and a binary search ends."""
    rng = random.Random(0)
    for _ in range(3000):
        plan = rng.choice([HARD, SOFT, BINARY])
        n, right, found = rng.randint(1, 9), rng.random() < 0.3, {}
        rounds = 0
        while lengths := wanted(n, right, found, plan):
            rounds += 1
            for length in lengths[: rng.randint(1, len(lengths))]:
                tried = rng.choice([0, 4, 4, 4])
                found[length] = Estimate(tried, rng.randint(0, tried) if rng.random() < 0.5 else 0)
        labels = labels_of(n, right, found, plan)
        assert len(labels) == n and labels[-1] == int(right)
        Trace.from_dict({"question": "q", "steps": [{"text": "t", "label": label} for label in labels]})
        if plan is BINARY:
            assert rounds <= 5  # 1 + log2(9)


@pytest.mark.parametrize(
    "settings",
    [
        {"label": "soft", "search": "binary"},
        {"label": "odd"},
        {"search": "all"},
        {"form": "x"},
        {"timeout": 0},
    ],
)
def test_bad_plans(settings):
    with pytest.raises(InputError):
        Plan(**settings)


# Whole runs. Six animals; the cats heavier than 4 are Tom and Kit, so gold gives 2.

GOLD = "SELECT COUNT(*) FROM animal WHERE species = 'cat' AND weight > 4"
CATS = ("Keep cats.", "cats AS (SELECT * FROM animal WHERE species = 'cat')")
DOGS = ("Keep dogs.", "dogs AS (SELECT * FROM animal WHERE species = 'dog')")
HEAVY = ("Keep heavy ones.", "heavy AS (SELECT * FROM cats WHERE weight > 4)")
LIGHT = ("Keep light ones.", "light AS (SELECT * FROM cats WHERE weight < 4)")
COUNT_HEAVY = ("Count.", "SELECT COUNT(*) FROM heavy")
COUNT_LIGHT = ("Count.", "SELECT COUNT(*) FROM light")
COUNT_DOGS = ("Count.", "SELECT COUNT(*) FROM dogs WHERE weight > 10")  # 1


def text_of(*steps):
    return "\n\n".join(f"{sentence}\n{sql}" for sentence, sql in steps)


def prefix_of(*steps):
    return text_of(*steps) + "\n\n"


def answer_of(*steps, **about):
    made = [Step(f"{sentence}\n{sql}", sql=sql) for sentence, sql in steps]
    about = {"db_id": "zoo", "gold_sql": GOLD, "group": "q"} | about
    return Trace("How many heavy cats?", made, **about)


RIGHT = answer_of(CATS, HEAVY, COUNT_HEAVY, id="right")
LATE = answer_of(CATS, LIGHT, COUNT_LIGHT, id="late")
EARLY = answer_of(DOGS, COUNT_DOGS, id="early")
OOPS = "SELECT COUNT(* FROM"
#: What the policy says after each prefix, in turn. Of four rollouts 3, 1, 0, 2 and 2 are right (by hand).
TABLE = {
    prefix_of(CATS): [
        text_of(HEAVY, COUNT_HEAVY),
        text_of(COUNT_LIGHT),  # there is no table `light`
        "SELECT COUNT(*) FROM cats WHERE weight > 4",
        "These are.\nSELECT COUNT(weight) FROM cats WHERE weight > 4;",
    ],
    prefix_of(CATS, LIGHT): [
        text_of(COUNT_LIGHT),
        "I do not know.",
        "SELECT COUNT(*) FROM cats WHERE weight > 4",
        "WITH cats AS (SELECT 1) SELECT 2",  # starts over: it counts neither way
    ],
    prefix_of(DOGS): [text_of(COUNT_DOGS), OOPS, "SELECT 0", "SELECT 'two'"],
    prefix_of(CATS, HEAVY): [text_of(COUNT_HEAVY), "SELECT 7", text_of(COUNT_HEAVY), "SELECT 8"],
    "": [text_of(CATS, HEAVY, COUNT_HEAVY), text_of(CATS, LIGHT, COUNT_LIGHT), "No idea.", GOLD],
}


def in_turn(table=TABLE):
    """A policy that says what the table holds, one entry after the other."""
    said = Counter()

    def answer(body, _):
        _, prefix = asked(body)
        texts = table[prefix]
        n = body.get("n", 1)
        first = said[prefix]
        said[prefix] += n
        return chat(*(texts[(first + k) % len(texts)] for k in range(n)))

    return answer


def rolled(zoo, traces, plan, answer=None, concurrency=8, **options):
    """(labelled traces by id, statistics, what the server was asked)."""
    output = zoo.parent / "out.jsonl"
    with serving(answer or in_turn()) as server:
        policy = ServerPolicy(
            server.url, "scripted", Sampling(), tries=1, timeout=10, concurrency=concurrency
        )
        statistics = label_answers(traces, zoo, policy, output, plan, **options)
        return {t.id: t for t in load_traces(output)}, statistics, server.log


def test_hard_labels_of_given_answers(zoo):
    made, statistics, log = rolled(zoo, [RIGHT, LATE, EARLY], Plan(rollouts=4))
    assert {name: trace.labels for name, trace in made.items()} == {
        "right": [1, 1, 1],  # by its own result, without a rollout
        "late": [1, 1, 0],  # 1 of the 3 that count comes back from LIGHT
        "early": [0, 0],
    }
    assert [step.extra for step in made["late"].steps] == [
        {"rollouts": 4, "right": 3}, {"rollouts": 3, "right": 1}, {},
    ]  # fmt: skip
    assert made["late"].label_source == "monte-carlo"
    about = made["late"].extra["monte_carlo"]
    assert (about["policy"], about["rollouts"], about["seed"], about["temperature"]) == (
        "scripted",
        4,
        0,
        0.8,
    )
    assert len(log) == 12  # three prefixes, four rollouts each
    assert len({body["seed"] for _, _, body in log}) == 12
    assert made["late"].steps[0].text in log[0][2]["messages"][1]["content"]
    assert "animal(name TEXT" in log[0][2]["messages"][0]["content"]  # the schema, read from the database
    assert statistics["rollouts"] == 12 and statistics["outcomes"] == {
        "right": 4, "wrong": 4, "error": 2, "no_answer": 1, "starts_over": 1,
    }  # fmt: skip
    assert (statistics["answers"], statistics["answers_right"]) == (3, 1)
    assert (statistics["prompt_tokens"], statistics["tokens"]) == (1200, 60)
    assert json.loads((zoo.parent / "out.jsonl.stats.json").read_text()) == statistics


def test_soft_labels(zoo):
    made, statistics, _ = rolled(zoo, [RIGHT, LATE, EARLY], Plan(rollouts=4, label="soft"), price=(2.0, 10.0))
    assert {name: trace.labels for name, trace in made.items()} == {
        "right": [0.75, 0.5, 1],
        "late": [0.75, pytest.approx(1 / 3), 0],
        "early": [0, 0],
    }
    # the prefix that RIGHT and LATE share was tried once: four prefixes
    assert (statistics["prefixes"], statistics["rollouts"]) == (4, 16)
    assert statistics["cost"] == pytest.approx((1600 * 2 + 80 * 10) / 1e6)


def test_binary_search(zoo):
    table = {prefix: list(texts) for prefix, texts in TABLE.items()}
    steps = [(f"Step {i}.", f"s{i} AS (SELECT {i} AS x)") for i in range(7)]
    long = answer_of(*steps, ("Last.", "SELECT 9"), id="long")
    for i in range(1, 8):
        table[prefix_of(*steps[:i])] = [GOLD] if i <= 4 else ["SELECT 3"]
    made, statistics, log = rolled(zoo, [long], Plan(rollouts=4, search="binary"), in_turn(table))
    assert made["long"].labels == [1, 1, 1, 1, 0, 0, 0, 0]
    tried = [asked(body)[1].count(" AS (") for _, _, body in log][::4]
    assert tried == [0, 4, 6, 5]  # the question itself, then halves
    assert statistics["rollouts"] == 16
    table[""] = ["SELECT 5"]
    os.remove(zoo.parent / "out.jsonl.journal")
    made, statistics, _ = rolled(zoo, [long], Plan(rollouts=4, search="binary"), in_turn(table))
    assert made["long"].labels == [None] * 7 + [0]
    assert (statistics["rollouts"], statistics["questions_never_solved"]) == (4, 1)


def test_the_output_keeps_the_order_of_the_input(zoo):
    steps = [(f"Step {i}.", f"s{i} AS (SELECT {i} AS x)") for i in range(3)]
    first = answer_of(
        *steps, ("Last.", "SELECT 9"), id="first", group="a"
    )  # takes three rounds, the other none
    table = {"": [GOLD], prefix_of(*steps[:1]): [GOLD], prefix_of(*steps[:2]): ["SELECT 3"]}
    made, _, log = rolled(
        zoo, [first, replace(RIGHT, group="b")], Plan(rollouts=1, search="binary"), in_turn(table)
    )
    assert list(made) == ["first", "right"] and len(log) == 3
    assert made["first"].labels == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("gold", "sql", "right"),
    [
        ("SELECT name FROM animal", "SELECT name FROM animal ORDER BY name DESC", True),
        ("SELECT name FROM animal ORDER BY name", "SELECT name FROM animal ORDER BY name DESC", False),
        ("SELECT name FROM animal ORDER BY name", "SELECT name FROM animal ORDER BY lower(name)", True),
        (
            "SELECT weight FROM animal WHERE name = 'Tom'",
            "SELECT weight + 0 FROM animal WHERE 'Tom' = name",
            True,
        ),
        ("SELECT weight FROM animal WHERE name = 'Tom'", "SELECT 5", False),  # by accident
    ],
)
def test_what_counts_as_right(zoo, gold, sql, right):
    made, _, _ = rolled(zoo, [answer_of(("Name.", sql), id="x", gold_sql=gold)], Plan())
    assert made["x"].labels == [int(right)]


FIRST = "SELECT name FROM animal WHERE species = 'cat' ORDER BY species LIMIT 1"


@pytest.mark.parametrize(
    ("gold", "other", "wrong"),
    [
        (FIRST, FIRST.replace("species LIMIT", "name LIMIT"), FIRST.replace("'cat'", "'dog'")),
        (
            "SELECT name FROM animal ORDER BY species",
            "SELECT name FROM animal ORDER BY species, name DESC",
            "SELECT name FROM animal ORDER BY species DESC",
        ),
        (
            "WITH a AS (SELECT name, species FROM animal) SELECT name FROM a ORDER BY species",
            "SELECT name FROM animal ORDER BY species, name DESC",
            "SELECT name FROM animal ORDER BY species DESC",
        ),
        (
            "SELECT species, name FROM animal GROUP BY species",
            "SELECT species, MIN(name) FROM animal GROUP BY species",
            "SELECT species, COUNT(*) FROM animal GROUP BY species",
        ),
    ],
)
def test_another_choice_among_those_that_gold_leaves_open_is_no_error(zoo, gold, other, wrong):
    """As `prm label` judges: neither an error nor gold's result, so it says nothing of its prefix."""
    table = {prefix_of(CATS): [gold, other, wrong, other]}
    traces = [
        answer_of(CATS, ("All.", sql), id=name, gold_sql=gold)
        for name, sql in {"other": other, "wrong": wrong}.items()
    ]
    made, statistics, _ = rolled(zoo, traces, Plan(rollouts=4, label="soft"), in_turn(table))
    assert statistics["outcomes"] == {"right": 1, "wrong": 1, "tied": 2}
    assert list(made) == ["wrong"] and made["wrong"].labels == [0.5, 0]
    assert statistics["skipped"] == {"tied": 1}


def test_numbers_as_text_are_no_error(zoo):
    gold = "SELECT weight FROM animal WHERE name = 'Tom'"
    traces = [answer_of(("It.", sql), id=sql, gold_sql=gold) for sql in ("SELECT '5.0'", "SELECT '6.0'")]
    made, statistics, _ = rolled(zoo, traces, Plan())
    assert list(made) == ["SELECT '6.0'"] and statistics["skipped"] == {"typed": 1}


def test_equal_by_accident_is_wrong(zoo):
    """Two cats are heavy, and two animals are lighter than 4; a policy may also just say "2"."""
    light = "SELECT COUNT(*) FROM animal WHERE weight < 4"
    table = {prefix_of(CATS): ["SELECT 2", light, text_of(HEAVY, COUNT_HEAVY), "SELECT 9"]}
    traces = [answer_of(CATS, ("Count.", light), id="lucky"), answer_of(CATS, COUNT_DOGS, id="other")]
    made, statistics, _ = rolled(zoo, traces, Plan(rollouts=4, label="soft"), in_turn(table))
    assert made["lucky"].labels == [0.25, 0] and made["other"].labels == [0.25, 0]
    assert statistics["outcomes"] == {"right": 1, "wrong": 1, "variant": 2}
    assert re.fullmatch(r"monte-carlo:variant:0:\d+:[0-9a-f]{8}", made["lucky"].label_source)
    assert made["other"].label_source == "monte-carlo"  # its own SQL does not even run
    assert statistics["label_sources"] == {"monte-carlo": 1, "monte-carlo:variant": 1}


def test_last_labels_can_be_checked(zoo, capsys):
    """`prm inspect --databases` runs the answers again, on the variant that a trace names."""
    light = "SELECT COUNT(*) FROM animal WHERE weight < 4"
    rolled(zoo, [answer_of(("Count.", light), id="lucky"), RIGHT], Plan())
    output = zoo.parent / "out.jsonl"
    assert main(["inspect", "--databases", str(zoo), str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    named = rows[0]["label_source"]
    rows[0]["label_source"] = "monte-carlo"
    rows[1]["steps"] = rows[1]["steps"][:1]
    rows[1]["steps"][0]["label"] = 0
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    assert main(["inspect", "--databases", str(zoo), str(output)]) == 2
    told = capsys.readouterr().out
    assert told.count("labelled wrong, but its result is gold's on the database") == 2
    rows[0]["label_source"] = named[:-8] + "00000000"
    output.write_text(json.dumps(rows[0]))
    assert main(["inspect", "--databases", str(zoo), str(output)]) == 2
    assert "cannot be made again (its rows have the digest" in capsys.readouterr().out


def test_variants_are_asked_for_and_deleted_with_their_question(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []

    def answer(body, number):
        seen.append(len(list(tmp_path.glob("prm-variants-*/*.sqlite"))))
        return by_seed(body, number)

    first = replace(RIGHT, id="first", group="a")  # equal: its variants are made before anything is asked
    others = [replace(EARLY, id=f"e{i}", group=f"e{i}") for i in range(3)]  # never equal: none are made
    rolled(zoo, [first, *others], Plan(rollouts=4, label="soft"), answer, concurrency=1)
    assert 2 <= max(seen) <= 4 and seen[-1] == 0
    assert not list(tmp_path.glob("prm-variants-*"))


def test_what_fails_on_a_variant_only_says_nothing(zoo):
    """An overflow for weights that no animal of the database has, but some of a variant do."""
    odd = (
        f"{GOLD} AND CASE WHEN weight NOT IN (5.0, 4.5, 3.0, 20.0, 4.0, 2.0) "
        "THEN abs(length(name) * 0 - 9223372036854775807 - 1) ELSE 1 END"
    )
    table = {prefix_of(CATS): [GOLD, odd, "SELECT 9"]}
    traces = [answer_of(CATS, ("Count.", odd), id="x"), answer_of(CATS, COUNT_DOGS, id="other")]
    made, statistics, _ = rolled(zoo, traces, Plan(rollouts=3, label="soft"), in_turn(table))
    assert statistics["outcomes"] == {"right": 1, "wrong": 1, "undecided": 1}
    assert list(made) == ["other"] and made["other"].labels == [0.5, 0]
    assert statistics["skipped"] == {"undecided": 1}


def test_what_crashes_workers_says_nothing(zoo, tmp_path):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n"
    with DatabasePool(1) as pool:
        run = _Rollouts(None, Plan(timeout=60.0), pool, str(tmp_path), False)
        work = _Work((0,), replace(RIGHT, steps=[]), zoo / "zoo" / "zoo.sqlite", [_Answer((0,), RIGHT)])
        assert run._begin(work) and work.answers[0].outcome == "right"
        with killing(pool):
            assert run._outcome(work, endless) == "crashed"
            crashing = replace(RIGHT, sql=endless, steps=[Step(endless, sql=endless)])
            work = _Work((1,), replace(RIGHT, steps=[]), work.database, [_Answer((1,), crashing)])
            work.outcomes[endless] = "crashed"
        assert not run._begin(work) and run.skipped == {"crashed": 1}
    assert "crashed" in _SAY_NOTHING  # and is no rollout that was tried


def test_a_budget_leaves_null(zoo):
    made, statistics, log = rolled(zoo, [LATE, EARLY], Plan(rollouts=4, max_rollouts=9))
    assert made["late"].labels == [1, 1, 0] and made["early"].labels == [None, 0]
    assert len(log) == 8 and statistics["questions_over_budget"] == 1
    made, _, log = rolled(zoo, [LATE, EARLY], Plan(rollouts=4, max_rollouts=12))
    assert made["early"].labels == [0, 0] and len(log) == 4  # the rest came from the journal
    made, _, log = rolled(zoo, [LATE], Plan(rollouts=4, max_rollouts=3))
    assert made["late"].labels == [None, None, 0] and not log


def test_many_samples_in_a_request(zoo):
    made, _, log = rolled(zoo, [LATE], Plan(rollouts=4, per_request=3))
    assert [step.extra for step in made["late"].steps][:2] == [
        {"rollouts": 4, "right": 3}, {"rollouts": 3, "right": 1},
    ]  # fmt: skip
    assert sorted(body.get("n", 1) for _, _, body in log) == [1, 1, 3, 3]


def test_more_rollouts_ask_only_for_the_new_ones(zoo):
    rolled(zoo, [LATE], Plan(rollouts=2))
    _, statistics, log = rolled(zoo, [LATE], Plan(rollouts=4))
    assert len(log) == 4 and statistics["rollouts"] == 8 and statistics["requests_from_journal"] == 4


CTE_ANSWER = Trace(
    "How many heavy cats?",
    [Step(sql, sql=sql) for sql in (CATS[1], LIGHT[1], COUNT_LIGHT[1])],
    id="cte", db_id="zoo", gold_sql=GOLD,
)  # fmt: skip


def test_answers_of_ctes_alone(zoo):
    table = {
        f"WITH {CATS[1]}": [f",\n\n{HEAVY[1]}\n\n{COUNT_HEAVY[1]}"],
        f"WITH {CATS[1]},\n\n{LIGHT[1]}": [f"\n\n{COUNT_LIGHT[1]}"],
    }
    made, _, log = rolled(zoo, [CTE_ANSWER], Plan(rollouts=2), in_turn(table))
    assert made["cte"].labels == [1, 0, 0]
    assert "chain of small CTEs" in log[0][2]["messages"][0]["content"]


def test_answers_that_the_policy_writes_itself(zoo, capsys):
    table = zoo.parent / "questions.jsonl"
    question = {
        "question": "How many heavy cats?",
        "sql": GOLD,
        "database": "databases/zoo/zoo.sqlite",
        "id": "q",
    }
    empty = question | {"sql": "SELECT name FROM animal WHERE weight > 99", "id": "e"}
    broken = question | {"sql": "SELECT nothing FROM animal", "id": "b"}
    table.write_text("\n".join(map(json.dumps, (empty, question, broken))))
    output = zoo.parent / "out.jsonl"
    with serving(in_turn()) as server:
        status = main(
            ["rollout", "--layout", "table", "--root", str(table), "--output", str(output), "--model", "m",
             "--base-url", server.url, "--samples", "5", "--rollouts", "4", "--concurrency", "1"]
        )  # fmt: skip
    assert status == 0
    made = load_traces(output)
    assert [(t.id, t.group, t.labels) for t in made] == [
        ("q-0", "q", [1, 1, 1]),
        ("q-1", "q", [1, 1, 0]),
        ("q-2", "q", [1]),
    ]
    assert made[1].steps[0].text == "\n".join(CATS) and made[1].sql.startswith("WITH cats AS (")
    assert made[0].schema.startswith("animal(name TEXT")
    told = capsys.readouterr().err
    assert "3 answers to 3 questions, 2 right" in told
    assert "1 samples held no whole answer" in told and "1 samples repeated another" in told
    assert "skipped 1: gold gives no rows" in told and "skipped 1: gold SQL does not run" in told


def test_an_answer_of_the_policy_that_is_equal_by_accident(zoo):
    """Its source comes from the journal on the second run."""
    table = zoo.parent / "questions.jsonl"
    question = {"question": "How many heavy cats?", "sql": GOLD, "database": "databases/zoo/zoo.sqlite"}
    table.write_text(json.dumps(question | {"id": "q"}))
    output = zoo.parent / "out.jsonl"
    written = []
    for answer in (in_turn({"": ["SELECT 2", GOLD]}), lambda *_: (500, {}, b"")):
        with serving(answer) as server:
            status = main(
                ["rollout", "--layout", "table", "--root", str(table), "--output", str(output), "--model",
                 "m", "--base-url", server.url, "--samples", "2", "--rollouts", "1", "--concurrency", "1"]
            )  # fmt: skip
        assert status == 0
        written.append(output.read_bytes())
    assert written[0] == written[1]
    lucky, right = load_traces(output)
    assert lucky.labels == [0] and lucky.label_source.startswith("monte-carlo:variant:0:")
    assert right.labels == [1] and right.label_source == "monte-carlo"


def test_a_candidates_file(zoo, tmp_path):
    row = {
        "id": "q", "question": "How many heavy cats?", "db_id": "zoo", "gold_sql": GOLD,
        "candidates": [{"sql": GOLD, "votes": 3}, {"sql": f"WITH {CATS[1]} SELECT COUNT(*) FROM cats"}],
    }  # fmt: skip
    file, output = tmp_path / "candidates.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps(row))
    with serving(in_turn({f"WITH {CATS[1]}": [GOLD]})) as server:
        status = main(
            ["rollout", "--data", str(file), "--databases", str(zoo), "--output", str(output), "--model", "m",
             "--base-url", server.url, "--rollouts", "2"]
        )  # fmt: skip
    assert status == 0
    assert [(t.id, t.labels, t.extra.get("votes")) for t in load_traces(output)] == [
        ("q-0", [1], 3), ("q-1", [1, 0], None),
    ]  # fmt: skip


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold_sql": None}, "trace x has no 'gold_sql'"),
        ({"db_id": None}, "trace x has no 'db_id'"),
        ({"db_id": "no"}, "there is no database 'no' in .*; --databases is the data set's folder"),
        ({"db_id": "../zoo"}, r"there is no database '.*' in "),
        ({"gold_sql": "SELECT nothing"}, "nothing could be labelled .1 x gold SQL does not run"),
        ({"gold_sql": "SELECT 1 WHERE 0"}, "1 x gold gives no rows"),
        ({"steps": [Step("Think.")], "sql": None}, "1 x the answer holds no SQL"),
    ],
)
def test_what_cannot_be_labelled(zoo, change, message):
    trace = answer_of(DOGS, COUNT_DOGS, id="x")
    for name, value in change.items():
        setattr(trace, name, value)
    with pytest.raises(InputError, match=message):
        rolled(zoo, [trace], Plan(rollouts=1))
    assert not (zoo.parent / "out.jsonl").exists()


def test_a_refused_rollout_is_counted_and_kept_away_from(zoo):
    def answer(body, number):
        long = DOGS[0] in asked(body)[1]
        return (400, {}, {"error": {"message": "too long"}}) if long else in_turn()(body, number)

    made, statistics, log = rolled(zoo, [EARLY, LATE], Plan(rollouts=4), answer)
    assert made["early"].labels == [None, 0] and statistics["refused"] == 4
    _, statistics, log = rolled(zoo, [EARLY, LATE], Plan(rollouts=4), answer)
    assert not log and statistics["refused"] == 4


def test_a_model_that_refuses_everything_ends_the_run(zoo):
    with pytest.raises(InputError, match=r"refuses whatever it is asked: 422: Unexpected fields.*--api"):
        rolled(zoo, [LATE, EARLY], Plan(rollouts=4), lambda *_: (422, {}, {"detail": "Unexpected fields"}))
    assert not (zoo.parent / "out.jsonl.journal").exists()  # and may be mended


def test_a_server_that_dies_ends_the_run_and_the_next_goes_on(zoo):
    steady = in_turn()

    def dying(body, number):
        return steady(body, number) if number < 5 else (503, {}, b"")

    with pytest.raises(InputError, match=r"503: .*run the same command again to go on"):
        rolled(zoo, [LATE, EARLY], Plan(rollouts=4), dying, concurrency=1)
    assert not (zoo.parent / "out.jsonl").exists()
    _, statistics, log = rolled(zoo, [LATE, EARLY], Plan(rollouts=4))
    assert len(log) == 12 - statistics["requests_from_journal"] and statistics["requests_from_journal"] == 5


def test_requests_that_fail_here_and_there_do_not_end_the_run(zoo):
    steady = in_turn()

    def moody(body, number):
        return (500, {}, b"") if number % 3 == 2 else steady(body, number)

    _, statistics, _ = rolled(zoo, [LATE, EARLY], Plan(rollouts=4), moody, concurrency=1)
    assert (statistics["unanswered"], statistics["rollouts"]) == (4, 8)


def test_one_unanswered_request_is_asked_again_by_the_next_run(zoo):
    steady = in_turn()

    def once(body, number):
        return (500, {}, b"") if number == 2 else steady(body, number)

    _, statistics, _ = rolled(zoo, [LATE], Plan(rollouts=4), once)
    assert statistics["unanswered"] == 1 and statistics["rollouts"] == 7
    _, statistics, log = rolled(zoo, [LATE], Plan(rollouts=4))
    assert statistics["unanswered"] == 0 and statistics["rollouts"] == 8 and len(log) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "f"], "--data wants --databases"),
        ([], "wants --data with answers, or --layout and --root"),
        (["--data", "f", "--databases", "d", "--samples", "3"], "--samples goes with questions to answer"),
        (["--layout", "table", "--root", "f", "--databases", "d"], "--databases goes with --data"),
        (["--data", "f", "--databases", "d", "--labels", "soft", "--search", "binary"], "--label"),
    ],
)
def test_bad_usage(arguments, message, capsys):
    assert main(["rollout", "--output", "o", "--model", "m", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base-url", "http://h/v1", "--dtype", "bfloat16"], "--dtype is the server's business"),
        (["--concurrency", "4"], "--concurrency goes with --base-url"),
        (["--temperature", "-1", "--base-url", "http://h/v1"], "--temperature must be"),
    ],
)
def test_bad_policies(zoo, tmp_path, arguments, message, capsys):
    write_traces([LATE], tmp_path / "t.jsonl")
    given = [
        "--data",
        str(tmp_path / "t.jsonl"),
        "--databases",
        str(zoo),
        "--output",
        str(tmp_path / "o.jsonl"),
    ]
    assert main(["rollout", "--model", "m", *given, *arguments]) == 2
    assert message in capsys.readouterr().err


# The journal


def test_journals_belong_to_their_settings(zoo):
    rolled(zoo, [LATE], Plan(rollouts=1))
    with pytest.raises(InputError, match=r"out.jsonl.journal: was begun with seed 0, not 1; take the old"):
        rolled(zoo, [LATE], Plan(rollouts=1, seed=1))


def test_outcomes_from_before_variants_are_not_mixed_in(zoo):
    rolled(zoo, [LATE], Plan(rollouts=1))
    file = zoo.parent / "out.jsonl.journal"
    settings = json.loads(file.read_bytes().split(b"\n")[0].split(b" ", 2)[2])
    assert settings.pop("variants")
    file.unlink()
    with Journal(file, "rollout", settings, paid=True) as old:
        old.add("key", {"outcomes": ["right"]})
    with pytest.raises(InputError, match=r"was begun with variants None, not \['mixed', 'boundary'"):
        rolled(zoo, [LATE], Plan(rollouts=1))


def by_seed(body, _):
    """A policy whose words hang on the seed alone, as a real server's."""
    texts = TABLE[asked(body)[1]]
    return chat(texts[body["seed"] % len(texts)])


def test_a_journal_cut_at_any_byte_gives_the_same_result(zoo):
    traces, plan = [RIGHT, LATE, EARLY], Plan(rollouts=4, label="soft")
    _, statistics, log = rolled(zoo, traces, plan, by_seed)
    assert len(log) == 16
    output, journal = zoo.parent / "out.jsonl", zoo.parent / "out.jsonl.journal"
    whole, expected = journal.read_bytes(), output.read_bytes()
    rng = random.Random(1)
    cuts = {0, 1, len(whole) - 1, len(whole), whole.index(b"\n"), whole.index(b"\n") + 1}
    for cut in cuts | {rng.randrange(len(whole)) for _ in range(6)}:
        journal.write_bytes(whole[:cut])
        _, after, log = rolled(zoo, traces, plan, by_seed)
        assert output.read_bytes() == expected
        assert len(log) == 16 - max(whole[:cut].count(b"\n") - 1, 0)
        drop = ("seconds", "requests_from_journal")
        assert {k: v for k, v in after.items() if k not in drop} == {
            k: v for k, v in statistics.items() if k not in drop
        }
        assert sorted(journal.read_bytes().splitlines()) == sorted(whole.splitlines())


def rollout_command(zoo, url, data, output):
    return [
        sys.executable, "-m", "prm.cli", "rollout", "--data", str(data), "--databases", str(zoo), "--output",
        str(output), "--model", "m", "--base-url", url, "--rollouts", "4", "--labels", "soft",
        "--concurrency", "3",
    ]  # fmt: skip


@pytest.mark.slow
def test_kill_9_at_random_moments(zoo, tmp_path):
    traces = [
        replace(answer, id=f"{answer.id}-{i}", group=f"q{i}")
        for i in range(30)
        for answer in (RIGHT, LATE, EARLY)
    ]
    data = tmp_path / "data.jsonl"
    write_traces(traces, data)
    asked_for = defaultdict(int)

    def slow(body, number):
        asked_for[body["seed"]] += 1
        time.sleep(0.005)
        return by_seed(body, number)

    rng = random.Random(2)
    with serving(slow) as server:
        subprocess.run(rollout_command(zoo, server.url, data, tmp_path / "a.jsonl"), check=True, timeout=120)
        assert sum(asked_for.values()) == 30 * 16
        asked_for.clear()
        kills = journaled = before = 0
        while True:
            process = subprocess.Popen(
                rollout_command(zoo, server.url, data, tmp_path / "b.jsonl"), stderr=subprocess.DEVNULL
            )
            enough = sum(asked_for.values()) + rng.randint(5, 150)
            while process.poll() is None and sum(asked_for.values()) < enough:
                time.sleep(0.002)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.2)  # for what it sent last to be counted
            before = sum(asked_for.values())
            journal = tmp_path / "b.jsonl.journal"
            journaled = max(journal.read_bytes().count(b"\n") - 1, 0) if journal.exists() else 0
    assert process.returncode == 0 and kills >= 2
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()
    # what the last kill left in the journal was not asked again, and nothing else was left out
    assert sum(asked_for.values()) - before == 30 * 16 - journaled


# Real models


def test_a_transformers_policy_end_to_end(zoo, tmp_path, tiny_model_dir):
    """A model of random weights: every label is what its gibberish proves, and a second run asks nothing."""
    write_traces([RIGHT, LATE, EARLY], tmp_path / "t.jsonl")
    command = [
        "rollout", "--data", str(tmp_path / "t.jsonl"), "--databases", str(zoo),
        "--output", str(tmp_path / "o.jsonl"), "--model", str(tiny_model_dir()),
        "--rollouts", "2", "--max-new-tokens", "6", "--dtype", "float32",
    ]  # fmt: skip
    assert main(command) == 0
    made = {t.id: t.labels for t in load_traces(tmp_path / "o.jsonl")}
    assert made == {"right": [1, 1, 1], "late": [0, 0, 0], "early": [0, 0]}
    first = (tmp_path / "o.jsonl").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "o.jsonl").read_bytes() == first
    statistics = json.loads((tmp_path / "o.jsonl.stats.json").read_text())
    assert statistics["requests_from_journal"] == statistics["rollouts"] == 6
    assert statistics["outcomes"] == {"no_answer": 6} and statistics["questions_never_solved"] == 1
