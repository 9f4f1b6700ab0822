"""Real answers labelled: what each step's label is, and by which evidence."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from prm.cli import main
from prm.errors import InputError
from prm.labeling.answers import EVIDENCE, SKIP_REASONS, _Place, _Skip, label, label_answer
from prm.labeling.gold import Gold
from prm.sql.database import DatabasePool
from prm.traces.formats import load_traces
from prm.traces.trace import returning_label


def labelled(rows: list[dict], databases: Path, folder: Path, **options: object) -> tuple[list, dict]:
    """The traces of rows, and the statistics."""
    data, output = folder / "candidates.jsonl", folder / "traces.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = label(data, databases, output, **options)
    return load_traces(output), summary


def ask(gold: str, *answers: str | list, **more: object) -> dict:
    candidates = [{"sql": a} if isinstance(a, str) else {"steps": a} for a in answers]
    row = {"id": "q1", "question": "Who?", "db_id": "singers", "gold_sql": gold, "candidates": candidates}
    return row | more


IN_2014 = (
    "SELECT s.name FROM singer s JOIN appearance a ON s.singer_id = a.singer_id "
    "JOIN concert c ON a.concert_id = c.concert_id WHERE c.year = 2014"
)
PER_SINGER = (
    "SELECT s.name, SUM(a.fee) FROM singer s JOIN appearance a ON s.singer_id = a.singer_id "
    "GROUP BY s.singer_id HAVING SUM(a.fee) > 100"
)
MOST_SUNG = "SELECT singer_id FROM appearance GROUP BY singer_id ORDER BY COUNT(*) DESC LIMIT 1"
#: gold, the answer's steps, labels, evidence
WORKED = {
    "a filter, then another output column": (
        "SELECT name FROM singer WHERE age > 30",
        ["old AS (SELECT name, country FROM singer WHERE age > 30)", "SELECT country FROM old"],
        [1, 0],
        "completed",
    ),
    "a filter on the wrong side": (
        "SELECT name FROM singer WHERE age > 30",
        ["old AS (SELECT name FROM singer WHERE age < 30)", "SELECT name FROM old"],
        [0, 0],
        "lost",
    ),
    "a filter forgotten, and its column, and nothing left to look it up by": (
        "SELECT country FROM singer WHERE age > 30",
        ["some AS (SELECT country FROM singer)", "SELECT country FROM some"],
        [0, 0],
        "lost",
    ),
    "a filter forgotten, its column kept: the next step may still filter": (
        "SELECT country FROM singer WHERE age > 30",
        ["some AS (SELECT country, age FROM singer)", "SELECT country FROM some"],
        [1, 0],
        "completed",
    ),
    "a filter forgotten, a key kept: nothing proves either": (
        "SELECT country FROM singer WHERE age > 30",
        ["some AS (SELECT country, singer_id FROM singer)", "SELECT country FROM some"],
        [None, 0],
        "unknown",
    ),
    "semi-joins are as good as joins, but drop the repetitions that gold has": (
        IN_2014,
        [
            "these AS (SELECT concert_id FROM concert WHERE year = 2014)",
            "sang AS (SELECT singer_id FROM appearance WHERE concert_id IN (SELECT concert_id FROM these))",
            "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM sang)",
        ],
        [1, 1, 0],
        "completed",
    ),
    "the wrong year in the first of three steps": (
        IN_2014,
        [
            "these AS (SELECT concert_id FROM concert WHERE year = 2015)",
            "sang AS (SELECT singer_id FROM appearance WHERE concert_id IN (SELECT concert_id FROM these))",
            "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM sang)",
        ],
        [0, 0, 0],
        "lost",
    ),
    "a wrong join after a right filter": (
        IN_2014,
        [
            "these AS (SELECT concert_id FROM concert WHERE year = 2014)",
            "names AS (SELECT singer.name FROM these JOIN singer ON these.concert_id = singer.singer_id)",
            "SELECT name FROM names",
        ],
        [1, 0, 0],
        "lost",
    ),
    "the right groups, the wrong bound": (
        PER_SINGER,
        [
            "fees AS (SELECT singer_id, SUM(fee) AS total FROM appearance GROUP BY singer_id)",
            "SELECT s.name, f.total FROM fees f JOIN singer s ON s.singer_id = f.singer_id "
            "WHERE f.total > 300",
        ],
        [1, 0],
        "completed",
    ),
    "the wrong aggregate": (
        "SELECT singer_id, SUM(fee) FROM appearance GROUP BY singer_id",
        [
            "fees AS (SELECT singer_id, MAX(fee) AS total FROM appearance GROUP BY singer_id)",
            "SELECT singer_id, total FROM fees",
        ],
        [0, 0],
        "lost",
    ),
    "the right aggregate, but not the bare column that gold reads with it": (
        "SELECT name FROM singer GROUP BY country HAVING COUNT(*) > 1",
        [
            "n AS (SELECT country, COUNT(*) AS n FROM singer GROUP BY country)",
            "SELECT name FROM singer WHERE country IN (SELECT country FROM n WHERE n > 1)",
        ],
        [None, 0],
        "unknown",
    ),
    "the right smallest value, but not the bare column that gold reads with it": (
        "SELECT MIN(seats), title FROM concert",
        ["m AS (SELECT MIN(seats) AS seats FROM concert)", "SELECT seats, seats FROM m"],
        [None, 0],
        "unknown",
    ),
    "finer groups than gold's could still be summed up": (
        "SELECT singer_id, SUM(fee) FROM appearance GROUP BY singer_id",
        [
            "fees AS (SELECT singer_id, SUM(fee) AS total FROM appearance GROUP BY singer_id, concert_id)",
            "SELECT singer_id, total FROM fees",
        ],
        [None, 0],
        "unknown",
    ),
    "MAX stands for gold's ORDER BY … LIMIT 1": (
        "SELECT name FROM singer ORDER BY age DESC LIMIT 1",
        [
            "oldest AS (SELECT MAX(age) AS age FROM singer)",
            "SELECT country FROM singer WHERE age = (SELECT age FROM oldest)",
        ],
        [1, 0],
        "completed",
    ),
    "an average over too few rows": (
        "SELECT name FROM singer WHERE age > (SELECT AVG(age) FROM singer)",
        [
            "mean AS (SELECT AVG(age) AS age FROM singer WHERE country = 'Norway')",
            "SELECT name FROM singer WHERE age > (SELECT age FROM mean)",
        ],
        [0, 0],
        "lost",
    ),
    "the counts of two parts could be added up": (
        "SELECT COUNT(*) FROM singer WHERE age < 25 OR age > 40",
        [
            "young AS (SELECT COUNT(*) AS n FROM singer WHERE age < 25)",
            "old AS (SELECT COUNT(*) AS n FROM singer WHERE age > 40)",
            "SELECT n FROM young UNION SELECT n FROM old",
        ],
        [None, None, 0],
        "unknown",
    ),
    "what gold subtracts may be subtracted in another way": (
        "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM appearance WHERE fee > 100)",
        [
            "dear AS (SELECT singer_id FROM appearance WHERE fee > 100)",
            "SELECT country FROM singer EXCEPT SELECT country FROM singer "
            "WHERE singer_id IN (SELECT singer_id FROM dear)",
        ],
        [1, 0],
        "completed",
    ),
    "gold subtracts what is dear, the answer keeps what is cheap": (
        "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM appearance WHERE fee > 100)",
        [
            "cheap AS (SELECT singer_id FROM appearance WHERE fee <= 100)",
            "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM cheap)",
        ],
        [0, 0],
        "lost",
    ),
    "a step that is subtracted is not blamed for holding what gold has not": (
        "SELECT name FROM singer WHERE age > 30",
        [
            "young AS (SELECT singer_id FROM singer WHERE age <= 25)",
            "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM young)",
        ],
        [None, 0],
        "unknown",
    ),
    "both arms right, the wrong set operation": (
        "SELECT country FROM singer WHERE age > 35 INTERSECT SELECT country FROM singer WHERE age < 25",
        [
            "old AS (SELECT country FROM singer WHERE age > 35)",
            "young AS (SELECT country FROM singer WHERE age < 25)",
            "SELECT country FROM old UNION SELECT country FROM young",
        ],
        [1, 1, 0],
        "completed",
    ),
    "EXCEPT does not make good what another arm of gold is about": (
        "SELECT name FROM singer EXCEPT SELECT s.name FROM singer s JOIN appearance a USING (singer_id)",
        [
            "odd AS (SELECT name FROM singer WHERE singer_id NOT IN (SELECT concert_id FROM appearance))",
            "SELECT name FROM odd",
        ],
        [None, 0],
        "unknown",
    ),
    "nor does it where the step gives what the arm gives": (
        "SELECT country FROM singer "
        "EXCEPT SELECT s.country FROM singer s JOIN appearance a USING (singer_id)",
        [
            "odd AS (SELECT country FROM singer WHERE country NOT IN (SELECT concert_id FROM appearance))",
            "SELECT country FROM odd",
        ],
        [None, 0],
        "unknown",
    ),
    "an unknown column in the second step": (
        "SELECT name FROM singer WHERE age > 30",
        ["old AS (SELECT name, age FROM singer)", "o AS (SELECT nom FROM old)", "SELECT nom FROM o"],
        [1, 0, 0],
        "does_not_run",
    ),
    "prose between the steps has the label of what stands around it": (
        "SELECT name FROM singer WHERE age > 30",
        [
            "First, whom do we want?",
            "old AS (SELECT name, country FROM singer WHERE age > 30)",
            "Now their names.",
            "SELECT country FROM old",
        ],
        [1, 1, None, 0],
        "completed",
    ),
    "groups of another key, which only happen to give gold's rows": (
        "SELECT age FROM singer WHERE age < 30 GROUP BY age HAVING COUNT(*) > 1",
        [
            "g AS (SELECT age, COUNT(*) AS n FROM singer WHERE age < 30 GROUP BY age, country = 'Peru')",
            "SELECT age, n FROM g",
        ],
        [None, 0],
        "unknown",
    ),
    "a key that comes with the primary key is no further key": (
        "SELECT s.name, COUNT(*) FROM singer s JOIN appearance a ON s.singer_id = a.singer_id "
        "GROUP BY a.singer_id",
        [
            "g AS (SELECT s.singer_id, s.name, COUNT(*) AS n FROM singer s JOIN appearance a "
            "ON s.singer_id = a.singer_id GROUP BY s.singer_id, s.name)",
            "SELECT name FROM g",
        ],
        [1, 0],
        "completed",
    ),
    "gold groups by a title, the step by what the titles stand for": (
        "SELECT c.title, COUNT(*) FROM concert c JOIN appearance a ON c.concert_id = a.concert_id "
        "GROUP BY c.title",
        [
            "g AS (SELECT c.concert_id, c.title, COUNT(*) AS n FROM concert c JOIN appearance a "
            "ON c.concert_id = a.concert_id GROUP BY c.concert_id)",
            "SELECT title FROM g",
        ],
        [1, 0],
        "completed",
    ),
    "all of the groups, and nothing to choose one of them by": (
        MOST_SUNG,
        ["g AS (SELECT singer_id FROM appearance GROUP BY singer_id)", "SELECT singer_id FROM g"],
        [0, 0],
        "lost",
    ),
    "a join on what an earlier step has computed": (
        "SELECT s.singer_id FROM singer s JOIN appearance a ON s.singer_id = a.singer_id WHERE a.fee > 100",
        [
            "dear AS (SELECT singer_id + 0 AS who FROM appearance WHERE fee > 100)",
            "them AS (SELECT dear.who FROM dear JOIN singer ON dear.who = singer.singer_id)",
            "SELECT COUNT(who) FROM them",
        ],
        [1, 1, 0],
        "completed",
    ),
    "a join on the rowid, which is no column of the table": (
        "SELECT singer_id FROM appearance WHERE fee > 100",
        [
            "them AS (SELECT s.rowid AS who FROM singer s JOIN appearance a ON s.rowid = a.singer_id "
            "WHERE a.fee > 100)",
            "SELECT COUNT(who) FROM them",
        ],
        [1, 0],
        "completed",
    ),
    "right all along": (
        "SELECT name FROM singer WHERE age > 30",
        ["old AS (SELECT singer_id, name FROM singer WHERE 30 < age)", "SELECT name FROM old"],
        [1, 1],
        "equal",
    ),
}


@pytest.fixture(scope="module")
def worked(databases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """All examples labelled in one go, the answers to one question together."""
    rows = [
        {"id": case, "question": gold, "db_id": "singers", "gold_sql": gold, "steps": steps}
        for case, (gold, steps, _, _) in sorted(WORKED.items(), key=lambda item: item[1][0])
    ]
    traces, summary = labelled(rows, databases, tmp_path_factory.mktemp("worked"))
    assert summary["answers"] == summary["traces"] == len(WORKED)
    assert summary["questions"] == len({gold for gold, *_ in WORKED.values()})
    counted = Counter(evidence for *_, evidence in WORKED.values())
    assert summary["evidence"] == dict(counted)
    return {trace.id: trace for trace in traces}


@pytest.mark.parametrize("case", WORKED)
def test_worked_examples(case: str, worked: dict) -> None:
    _, steps, labels, evidence = WORKED[case]
    trace = worked[case]
    assert (trace.labels, trace.extra["label_evidence"]) == (labels, evidence)
    assert [step.text for step in trace.steps] == steps  # as their author cut them


@pytest.mark.parametrize(
    ("sql", "labels", "evidence"),
    [
        ("SELECT name FROM singer WHERE age > 30", [1], "equal"),
        ("SELECT name FROM singer WHERE NOT age <= 30", [1], "equal"),
        ("SELECT name FROM singer WHERE age > 40", [0], "single_step"),
        ("SELECT nom FROM singer", [0], "does_not_run"),
        ("SELECT name FROM singer WHERE", [0], "does_not_run"),
        ("I do not know.", [0], "does_not_run"),
        ("WITH old AS (SELECT * FROM singer WHERE age > 30) SELECT country FROM old", [1, 0], "completed"),
    ],
)
def test_sql_is_cut_into_steps(
    sql: str, labels: list, evidence: str, databases: Path, tmp_path: Path
) -> None:
    [trace], _ = labelled([ask("SELECT name FROM singer WHERE age > 30", sql)], databases, tmp_path)
    assert (trace.labels, trace.extra["label_evidence"]) == (labels, evidence)


def test_equal_by_accident_is_wrong_on_a_variant_that_the_trace_names(
    databases: Path, tmp_path: Path
) -> None:
    from prm.sql import open_database
    from prm.sql.variants import remake

    gold = "SELECT name FROM singer WHERE age > 30"
    [trace], summary = labelled([ask(gold, "SELECT name FROM singer WHERE age > 35")], databases, tmp_path)
    assert trace.labels[-1] == 0 and summary["wrong_by_variant"] == 1
    original = databases / "singers" / "singers.sqlite"
    variant = remake(original, gold, trace.label_source, tmp_path)
    with open_database(original) as here, open_database(variant.path) as there:
        assert sorted(here.execute(trace.sql)) == sorted(here.execute(gold))
        assert sorted(there.execute(trace.sql)) != sorted(there.execute(gold))


def test_which_of_tied_rows_comes_first_proves_nothing(databases: Path, tmp_path: Path) -> None:
    gold = "SELECT name FROM singer WHERE name <> 'Fay' ORDER BY age LIMIT 1"  # Bo and Eve are 22
    other = "SELECT name FROM singer WHERE name <> 'Fay' ORDER BY age, name DESC LIMIT 1"
    wrong = "SELECT name FROM singer WHERE name <> 'Fay' ORDER BY age DESC LIMIT 1"
    [trace], summary = labelled([ask(gold, other, wrong)], databases, tmp_path)
    assert "age DESC" in trace.sql and trace.labels[-1] == 0
    assert summary["skipped"] == {"tied": 1}


@pytest.mark.parametrize(
    ("gold", "other", "wrong"),
    [
        (
            "SELECT DISTINCT name FROM singer WHERE age < 60 ORDER BY age",
            "SELECT DISTINCT name FROM singer WHERE age < 60 ORDER BY age, name DESC",
            "SELECT DISTINCT name FROM singer WHERE age < 60 ORDER BY age DESC",
        ),
        (
            "SELECT name FROM singer ORDER BY age LIMIT 1 OFFSET 1",
            "SELECT name FROM singer ORDER BY age, singer_id DESC LIMIT 1 OFFSET 1",
            "SELECT name FROM singer ORDER BY age LIMIT 1",
        ),
        (
            "SELECT name, age FROM singer ORDER BY age",
            "SELECT age, name FROM singer ORDER BY age, name DESC",
            "SELECT age, name FROM singer ORDER BY age DESC",
        ),
        (
            "SELECT name FROM singer LIMIT 2",
            "SELECT name FROM singer ORDER BY name DESC LIMIT 2",
            "SELECT country FROM singer LIMIT 2",
        ),
        (
            "SELECT country, name FROM singer GROUP BY country",
            "SELECT country, MAX(name) FROM singer GROUP BY country",
            "SELECT country, age FROM singer GROUP BY country",
        ),
        (
            "SELECT name FROM singer WHERE singer_id = (SELECT singer_id FROM singer ORDER BY age = 22 DESC "
            "LIMIT 1)",
            "SELECT name FROM singer WHERE name = 'Eve'",
            "SELECT name, age FROM singer WHERE name = 'Eve'",
        ),
    ],
)
def test_another_choice_among_those_that_gold_leaves_open_proves_nothing(
    gold: str, other: str, wrong: str, databases: Path, tmp_path: Path
) -> None:
    [trace], summary = labelled([ask(gold, other, wrong)], databases, tmp_path)
    assert trace.id == "q1-1" and trace.labels[-1] == 0
    assert summary["skipped"] == {"tied": 1}


@pytest.mark.parametrize(
    "value",
    [
        "RANK() OVER (ORDER BY COUNT(*) DESC)",
        "ROW_NUMBER() OVER (ORDER BY COUNT(*) DESC)",
        "SUM(1)",
        "COALESCE(COUNT(*), 0)",
        "ABS(COUNT(*))",
        "COUNT(DISTINCT appearance_id)",
        "-COUNT(*)",
    ],
)
def test_a_value_that_is_spelled_otherwise_is_not_lost(value: str, databases: Path, tmp_path: Path) -> None:
    """The same step as gold's own but for how it counts; with gold's count in the output, too."""
    step = f"g AS (SELECT singer_id, {value} AS n FROM appearance GROUP BY singer_id)"
    shown = "SELECT singer_id, COUNT(*) FROM appearance GROUP BY singer_id"
    rows = [ask(gold, [step, "SELECT n, n, n FROM g"], id=gold) for gold in (MOST_SUNG, shown)]
    for trace in labelled(rows, databases, tmp_path)[0]:
        assert trace.labels[0] in (1, None) and trace.labels[1] == 0


def test_a_value_over_windows_is_not_lost(databases: Path, tmp_path: Path) -> None:
    gold = "SELECT country, MAX(age) FROM singer GROUP BY country"
    step = "m AS (SELECT country, MAX(age) OVER (PARTITION BY country) AS top FROM singer)"
    [trace], _ = labelled([ask(gold, [step, "SELECT country, top FROM m"])], databases, tmp_path)
    assert trace.labels == [None, 0]


def test_another_choice_among_ties_does_not_hide_lost_rows(tmp_path: Path) -> None:
    """Who is of G is 30: the condition of the step loses no row of the database, and some of variants."""
    (tmp_path / "ties").mkdir()
    with sqlite3.connect(tmp_path / "ties" / "ties.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, country TEXT);"
            "INSERT INTO singer VALUES (1, 'Ann', 20, 'F'), (2, 'Bob', 30, 'G'), (3, 'Cid', 30, 'F'),"
            "(4, 'Dan', 40, 'H'), (5, 'Eve', 25, 'I')"
        )
    connection.close()
    gold, kept = "SELECT name FROM singer ORDER BY age DESC LIMIT 2", "country <> 'G' OR age = 30"
    for condition, first in ((kept, None), ("age >= 0", 1)):
        for order in ("name", "name DESC"):
            step = f"c AS (SELECT name, age FROM singer WHERE {condition} ORDER BY {order} LIMIT 100)"
            row = ask(gold, [step, "SELECT name FROM c ORDER BY age LIMIT 2"], db_id="ties")
            [trace], _ = labelled([row], tmp_path, tmp_path)
            assert trace.labels == [first, 0], (condition, order)


def test_a_trace_tells_how_many_variants_judged(databases: Path, tmp_path: Path) -> None:
    rows = [
        ask(gold, gold)
        for gold in ("SELECT name FROM singer WHERE age > 30", "SELECT name FROM singer LIMIT 2")
    ]
    (many, none), summary = labelled(rows, databases, tmp_path)
    assert many.extra["variants"] >= 4 and none.extra["variants"] == 0
    assert summary["right_by_variants"] == {"0": 1, str(many.extra["variants"]): 1}


def test_a_database_that_breaks_is_no_fault_of_the_answer(databases: Path, tmp_path: Path) -> None:
    path = tmp_path / "singers.sqlite"
    path.write_bytes((databases / "singers" / "singers.sqlite").read_bytes())
    sql = "SELECT name FROM singer"
    with judging(path, sql) as (_, place, gold):
        path.with_suffix(".new").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
        path.with_suffix(".new").replace(path)
        with pytest.raises(InputError, match="singers"):
            label_answer({"sql": sql}, gold, place)


def test_an_answer_that_crashes_workers_is_skipped(databases: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n"
    path = databases / "singers" / "singers.sqlite"
    with (
        judging(path, "SELECT name FROM singer") as (pool, place, gold),
        killing(pool),
        pytest.raises(_Skip, match="answer_crashed"),
    ):
        label_answer({"sql": endless}, gold, place)


@contextlib.contextmanager
def judging(path: Path, sql: str) -> Iterator[tuple[DatabasePool, _Place, Gold]]:
    with (
        DatabasePool(1) as pool,
        contextlib.closing(_Place(path, 60.0, pool)) as place,
        Gold(sql, place.database, place.schema, place.folder.name) as gold,
    ):
        yield pool, place, gold


@contextlib.contextmanager
def killing(pool: DatabasePool) -> Iterator[None]:
    """Every worker of the pool is killed soon after it has begun to run something."""
    stop = threading.Event()

    def kill_all() -> None:
        while not stop.wait(0.1):
            for worker in pool._workers:
                if worker.opened and worker.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        yield
    finally:
        stop.set()
        killer.join()


def test_a_tie_that_gold_cuts_blames_no_step(databases: Path, tmp_path: Path) -> None:
    gold = "SELECT name FROM singer WHERE age < 25 AND age > 20 ORDER BY age LIMIT 1"  # Bo and Eve are 22
    steps = [
        {"text": "one AS (SELECT singer_id FROM singer WHERE age = 22 ORDER BY name DESC LIMIT 1)"},
        {"text": "SELECT country FROM singer WHERE singer_id IN (SELECT singer_id FROM one)"},
    ]
    [trace], _ = labelled([ask(gold, steps)], databases, tmp_path)
    assert trace.labels == [None, 0]


def test_a_number_as_text_proves_nothing(databases: Path, tmp_path: Path) -> None:
    rows = [
        ask("SELECT CAST(age AS TEXT) FROM singer", "SELECT age FROM singer", "SELECT singer_id FROM singer")
    ]
    [trace], summary = labelled(rows, databases, tmp_path)
    assert trace.labels == [0] and summary["skipped"] == {"typed": 1}


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        ("SELECT nom FROM singer", "gold_fails"),
        ("SELECT name FROM singer WHERE age > 99", "gold_empty"),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n",
            "gold_timeout",
        ),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n", "gold_too_large"),
    ],
)
def test_gold_that_cannot_judge_is_skipped_and_counted(
    gold: str, reason: str, databases: Path, tmp_path: Path
) -> None:
    rows = [ask(gold, "SELECT 1", "SELECT 2"), ask("SELECT name FROM singer", "SELECT name FROM singer")]
    traces, summary = labelled(rows, databases, tmp_path, timeout=1.0)
    assert len(traces) == 1 and summary["skipped"] == {reason: 2} and reason in SKIP_REASONS


HOSTILE = {
    "1 MB of SQL": "SELECT name FROM singer WHERE age IN (" + ", ".join(map(str, range(150_000))) + ")",
    "1 MB of parentheses": "SELECT " + "(" * 500_000 + "1" + ")" * 500_000,
    "several statements": "SELECT name FROM singer; DROP TABLE singer",
    "ATTACH": "ATTACH DATABASE 'new.sqlite' AS new",
    "VACUUM INTO": "VACUUM INTO 'copy.sqlite'",
    "writing": "DELETE FROM singer",
    "bytes that are no text": "SELECT CAST(x'ff00fe' AS TEXT) FROM singer",
    "NUL": "SELECT 'a\0b' FROM singer",
    "an unclosed string": "SELECT 'name FROM singer",
    "a comment": "-- nothing",
    "deeply nested": "SELECT " + "(" * 3_000 + "1" + ")" * 3_000,
    "a chain of thousands": "SELECT " + " + ".join(["1"] * 5_000) + " FROM singer",
    "a name like a table's": "WITH singer AS (SELECT name, age FROM concert, singer) SELECT name FROM singer",
    "a table that contains itself": "WITH a AS (SELECT * FROM a) SELECT * FROM a",
}


def test_hostile_answers_are_wrong_and_harm_nothing(databases: Path, tmp_path: Path) -> None:
    original = databases / "singers" / "singers.sqlite"
    before, files = original.read_bytes(), sorted(databases.rglob("*"))
    start = time.monotonic()
    traces, summary = labelled(
        [ask("SELECT name FROM singer", *HOSTILE.values())], databases, tmp_path, timeout=1.0
    )
    assert time.monotonic() - start < 30
    assert original.read_bytes() == before and sorted(databases.rglob("*")) == files
    assert not list(Path.cwd().glob("*.sqlite"))
    assert summary["traces"] == len(HOSTILE) and "unexpected" not in summary["skipped"]
    assert all(trace.labels[-1] == 0 for trace in traces)
    assert all(trace.labels == [0] for trace in traces if trace.extra["label_evidence"] == "single_step")


def test_answers_that_never_end_are_skipped_and_counted(databases: Path, tmp_path: Path) -> None:
    bomb = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"
    rows = [
        ask(
            "SELECT name FROM singer", bomb.format("MAX(i)"), bomb.format("i"), " ", "SELECT name FROM singer"
        )
    ]
    traces, summary = labelled(rows, databases, tmp_path, timeout=1.0)
    assert summary["skipped"] == {"answer_empty": 1, "answer_timeout": 1, "answer_too_large": 1}
    assert [trace.labels for trace in traces] == [[1]]


@pytest.mark.parametrize(
    "steps",
    [
        ["a AS (SELECT name FROM singer)"],
        ["SELECT name FROM singer", "SELECT name FROM singer"],
        ["a AS (SELECT name FROM singer)", "WITH b AS (SELECT name FROM a) SELECT name FROM b"],
        ["The names of all singers."],
    ],
)
def test_steps_that_are_no_chain_are_skipped(steps: list, databases: Path, tmp_path: Path) -> None:
    rows = [ask("SELECT name FROM singer", [{"text": s} for s in steps], "SELECT name FROM singer")]
    traces, summary = labelled(rows, databases, tmp_path)
    assert len(traces) == 1 and summary["skipped"] == {"answer_unfinished": 1}


@pytest.mark.parametrize(
    "steps",
    [
        ["WITH a AS (SELECT name FROM singer),", "SELECT name FROM a"],
        ["WITH a AS (SELECT name FROM singer) SELECT name FROM a;"],
        [
            "Step 1: all singers.\na AS (SELECT name FROM singer)",
            "Step 2: their names.\n```sql\nSELECT name FROM a\n```",
        ],
    ],
)
def test_how_models_write_steps(steps: list, databases: Path, tmp_path: Path) -> None:
    rows = [ask("SELECT name FROM singer", [{"text": step} for step in steps])]
    [trace], _ = labelled(rows, databases, tmp_path)
    assert trace.labels == [1] * len(steps) and [step.text for step in trace.steps] == steps


@pytest.mark.slow
def test_same_bytes_with_any_number_of_workers(databases: Path, tmp_path: Path) -> None:
    rows = [ask(gold, steps, gold, "SELECT 1", id=case) for case, (gold, steps, *_) in WORKED.items()]
    outputs = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        traces, _ = labelled(rows, databases, folder, workers=workers)
        outputs.append((folder / "traces.jsonl").read_bytes())
    assert outputs[0] == outputs[1]
    for trace in traces:
        evidence = trace.extra["label_evidence"]
        assert evidence in EVIDENCE and returning_label(trace.labels) is None
        assert set(trace.labels) == {1} if evidence == "equal" else trace.labels[-1] == 0
        fragments = [step for step in trace.steps if step.sql is not None]
        assert (evidence == "unknown") == (None in [step.label for step in fragments])


def test_answers_one_a_line_come_together_by_question(databases: Path, tmp_path: Path) -> None:
    one = {"question": "Who?", "db_id": "singers", "gold_sql": "SELECT name FROM singer WHERE age > 30"}
    rows = [one | {"sql": one["gold_sql"], "id": 7}, one | {"sql": "SELECT 1"}]
    traces, summary = labelled(rows, databases, tmp_path)
    assert [(t.id, t.labels) for t in traces] == [("7", [1]), (None, [0])]
    assert summary["questions"] == 1 and summary["answers"] == 2
    assert len({t.question_key for t in traces}) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": ""}, "'question' must be a non-empty text"),
        ({"gold_sql": None}, "'gold_sql' must be a non-empty text"),
        ({"db_id": "../singers"}, "there is no database"),
        ({"db_id": "operas"}, "there is no database"),
        ({"candidates": []}, "'candidates' must be a non-empty list"),
        ({"candidates": None}, "neither 'candidates' nor an answer"),
        ({"candidates": ["SELECT 1"]}, "candidate 0 (from 0)"),
        ({"candidates": [{"sql": 1}]}, "'sql' must be a text"),
        ({"candidates": [{"steps": []}]}, "'steps' must be a non-empty list"),
        ({"candidates": [{"steps": [{"text": " "}]}]}, "'text' of step 0"),
        ({"schema": 3}, "'schema' must be a text"),
    ],
)
def test_bad_rows_are_refused_or_skipped(
    change: dict, words: str, databases: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = ask("SELECT name FROM singer", "SELECT name FROM singer")
    data, output = tmp_path / "c.jsonl", tmp_path / "t.jsonl"
    data.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    command = ["label", "--data", str(data), "--databases", str(databases), "--output", str(output)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{data}:2: " in error and words in error and error.count("\n") == 1
    assert not output.exists()
    assert main([*command, "--on-bad-rows", "skip"]) == 0
    assert len(load_traces(output)) == 1 and "skipped 1 of 2 rows" in capsys.readouterr().err


@pytest.mark.parametrize(("data", "folder"), [("none.jsonl", "."), ("c.jsonl", "none")])
def test_missing_files(data: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "c.jsonl").write_text("")
    paths = str(tmp_path / data), str(tmp_path / folder)
    assert main(["label", "--data", paths[0], "--databases", paths[1], "--output", str(tmp_path / "o")]) == 2
    assert "none" in capsys.readouterr().err


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = "import sys, prm.labeling.answers; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
