"""Gold that is written in CTEs or derived tables labels the steps of an answer as plain gold does."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlglot import exp
from test_answers import WORKED, labelled

from prm.labeling.blocks import Block
from prm.labeling.gold import Gold
from prm.sql import open_database, read_schema
from prm.sql.decompose import assemble, decompose

FEES = "fees AS (SELECT singer_id, SUM(fee) AS total FROM appearance GROUP BY singer_id)"
DEAR = "dear AS (SELECT singer_id FROM appearance WHERE fee > 100)"

#: gold, the answer's steps, labels, evidence
IN_CTES = {
    "the filter of gold's first CTE, then another output column": (
        "WITH old AS (SELECT name, age FROM singer WHERE age > 30) SELECT name FROM old",
        ["old AS (SELECT name, country FROM singer WHERE age > 30)", "SELECT country FROM old"],
        [1, 0],
        "completed",
    ),
    "a filter on the wrong side of gold's": (
        "WITH old AS (SELECT name, age FROM singer WHERE age > 30) SELECT name FROM old",
        ["young AS (SELECT name FROM singer WHERE age < 30)", "SELECT name FROM young"],
        [0, 0],
        "lost",
    ),
    "half of the filter in a CTE of gold, half of it behind": (
        "WITH old AS (SELECT * FROM singer WHERE age > 20) SELECT name FROM old WHERE country = 'France'",
        ["f AS (SELECT name, age, country FROM singer WHERE country = 'France')", "SELECT country FROM f"],
        [1, 0],
        "completed",
    ),
    "the step is between gold's CTEs, not equal to any": (
        "WITH c AS (SELECT concert_id FROM concert WHERE year = 2014), "
        "a AS (SELECT singer_id FROM appearance JOIN c ON appearance.concert_id = c.concert_id) "
        "SELECT s.name FROM singer s JOIN a ON s.singer_id = a.singer_id",
        [
            "these AS (SELECT a.singer_id, c.title FROM appearance a JOIN concert c "
            "ON a.concert_id = c.concert_id WHERE c.year = 2014)",
            "wrong AS (SELECT title FROM these WHERE title = 'Spring')",
            "SELECT title FROM wrong",
        ],
        [1, 0, 0],
        "lost",
    ),
    "the right groups, the wrong bound": (
        f"WITH {FEES} SELECT singer_id, total FROM fees WHERE total > 100",
        [FEES, "SELECT singer_id, total FROM fees WHERE total > 300"],
        [1, 0],
        "completed",
    ),
    "groups that gold joins further on": (
        f"WITH {FEES} SELECT s.name, f.total FROM fees f JOIN singer s ON s.singer_id = f.singer_id "
        "WHERE f.total > 100",
        [FEES, "SELECT s.name FROM fees f JOIN singer s ON s.singer_id = f.singer_id"],
        [1, 0],
        "completed",
    ),
    "what gold joins to its groups": (
        f"WITH {FEES} SELECT s.name, f.total FROM fees f JOIN singer s ON s.singer_id = f.singer_id "
        "WHERE s.age > 35",
        [
            "old AS (SELECT singer_id, name FROM singer WHERE age > 35)",
            "SELECT name, COUNT(*) FROM old JOIN appearance USING (singer_id) GROUP BY name",
        ],
        [1, 0],
        "completed",
    ),
    "rows that gold joins to its groups, lost": (
        f"WITH {FEES} SELECT s.name, f.total FROM fees f JOIN singer s ON s.singer_id = f.singer_id "
        "WHERE s.age > 35",
        [
            "young AS (SELECT singer_id, name FROM singer WHERE age < 35)",
            "SELECT name, COUNT(*) FROM young JOIN appearance USING (singer_id) GROUP BY name",
        ],
        [0, 0],
        "lost",
    ),
    "the wrong aggregate of gold's groups": (
        f"WITH {FEES} SELECT s.name, f.total FROM fees f JOIN singer s ON s.singer_id = f.singer_id",
        [
            "f AS (SELECT singer_id, MAX(fee) AS total FROM appearance GROUP BY singer_id)",
            "SELECT s.name, f.total FROM f JOIN singer s ON s.singer_id = f.singer_id",
        ],
        [0, 0],
        "lost",
    ),
    "a table that gold reads in two SELECTs, of which one takes no step": (
        # without 'Fay', whom nothing but the outer join needs
        f"WITH {DEAR} SELECT s.name, d.singer_id FROM singer s LEFT JOIN dear d ON s.singer_id = d.singer_id "
        "WHERE s.singer_id IN (SELECT singer_id FROM singer WHERE age > 20) OR s.country = 'Peru'",
        [
            "old AS (SELECT singer_id, name FROM singer WHERE age <= 20)",
            "SELECT name, singer_id FROM old",
        ],
        [None, 0],
        "unknown",
    ),
    "an average that stands in a CTE beside the rows": (
        "WITH m AS (SELECT AVG(age) AS age FROM singer) SELECT s.name FROM singer s JOIN m ON s.age > m.age",
        [
            "mean AS (SELECT AVG(age) AS age FROM singer WHERE country = 'Norway')",
            "SELECT name FROM singer WHERE age > (SELECT age FROM mean)",
        ],
        [0, 0],
        "lost",
    ),
    "the right average": (
        "WITH m AS (SELECT AVG(age) AS age FROM singer) SELECT s.name FROM singer s JOIN m ON s.age > m.age",
        [
            "mean AS (SELECT AVG(age) AS age FROM singer)",
            "SELECT country FROM singer WHERE age > (SELECT age FROM mean)",
        ],
        [1, 0],
        "completed",
    ),
    "what gold's CTE holds is subtracted in another way": (
        f"WITH {DEAR} SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM dear)",
        [DEAR, "SELECT country FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM dear)"],
        [1, 0],
        "completed",
    ),
    "gold subtracts what is dear, the answer keeps what is cheap": (
        f"WITH {DEAR} SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM dear)",
        [
            "cheap AS (SELECT singer_id FROM appearance WHERE fee <= 100)",
            "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM cheap)",
        ],
        [0, 0],
        "lost",
    ),
    "an arm of a set operation, in a CTE each": (
        "WITH a AS (SELECT country FROM singer WHERE age > 35), "
        "b AS (SELECT country FROM singer WHERE age < 25) "
        "SELECT country FROM a INTERSECT SELECT country FROM b",
        [
            "old AS (SELECT country FROM singer WHERE age > 35)",
            "young AS (SELECT country FROM singer WHERE age < 25)",
            "SELECT country FROM old UNION SELECT country FROM young",
        ],
        [1, 1, 0],
        "completed",
    ),
    "gold counts a column that is never NULL, the step keeps the rows without it": (
        "WITH sang AS (SELECT s.singer_id, s.name, a.appearance_id FROM singer s JOIN appearance a "
        "ON s.singer_id = a.singer_id) SELECT name, COUNT(appearance_id) FROM sang GROUP BY singer_id",
        [
            "sang AS (SELECT s.singer_id, s.name FROM singer s JOIN appearance a USING (singer_id))",
            "SELECT singer_id, COUNT(*) FROM sang GROUP BY singer_id",
        ],
        [1, 0],
        "completed",
    ),
    "gold that calls itself takes no step": (
        "WITH RECURSIVE n(i) AS (SELECT MIN(age) FROM singer UNION ALL SELECT i + 10 FROM n WHERE i < 40) "
        "SELECT i FROM n",
        ["m AS (SELECT MIN(age) AS age FROM singer)", "SELECT age FROM m"],
        [None, 0],
        "unknown",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def in_ctes(databases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    rows = [
        {"id": case, "question": gold, "db_id": "singers", "gold_sql": gold, "steps": steps}
        for case, (gold, steps, _, _) in IN_CTES.items()
    ]
    traces, _ = labelled(rows, databases, tmp_path_factory.mktemp("in_ctes"))
    return {trace.id: trace for trace in traces}


@pytest.mark.parametrize("case", IN_CTES)
def test_gold_in_ctes(case: str, in_ctes: dict) -> None:
    _, _, labels, evidence = IN_CTES[case]
    assert (in_ctes[case].labels, in_ctes[case].extra["label_evidence"]) == (labels, evidence)


def forms(gold: str, tables: dict[str, list[str]]) -> dict[str, str]:
    """Gold in other words: as the chain that it is cut into, and as the rows of a CTE or a derived table."""
    chain = [step.sql for step in decompose(gold, tables)]
    return {
        "chain": assemble(chain),
        "whole": f"WITH whole AS ({gold}) SELECT * FROM whole",
        "derived": f"SELECT * FROM ({gold}) AS whole",
    }


def test_plain_gold_in_ctes(databases: Path, tmp_path: Path) -> None:
    """The examples of plain gold once more: no form of gold ever says the contrary, and few say less."""
    schema = read_schema(databases / "singers" / "singers.sqlite")
    tables = {table.name: [column.name for column in table.columns] for table in schema.tables}
    rows = [
        {"id": f"{case} / {form}", "question": sql, "db_id": "singers", "gold_sql": sql, "steps": steps}
        for case, (gold, steps, _, _) in WORKED.items()
        for form, sql in forms(gold, tables).items()
    ]
    traces, _ = labelled(rows, databases, tmp_path)
    assert len(traces) == len(rows)
    known = silent = 0
    for trace in traces:
        case, _, form = trace.id.rpartition(" / ")
        for step, (label, plain) in enumerate(zip(trace.labels, WORKED[case][2], strict=True)):
            if None not in (label, plain):
                assert label == plain, (case, form, step)
            known += plain is not None
            silent += plain is not None and label is None
    assert known > 130 and silent <= 0


@pytest.mark.parametrize(
    ("gold", "plain"),
    [
        (f"WITH {FEES} SELECT singer_id FROM fees WHERE total > 100", True),
        (f"WITH {FEES} SELECT s.name FROM singer s JOIN fees ON s.singer_id = fees.singer_id", True),
        # the first of several rows that tie: two forms of gold may take another one each
        ("WITH a AS (SELECT name, age FROM singer ORDER BY age = 22 DESC LIMIT 1) SELECT name FROM a", True),
        ("WITH a AS (SELECT singer_id, random() AS r FROM singer) SELECT singer_id + r FROM a", False),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
            False,
        ),
    ],
)
def test_only_what_is_still_gold_takes_steps(gold: str, plain: bool, databases: Path, tmp_path: Path) -> None:
    path = databases / "singers" / "singers.sqlite"
    with open_database(path) as database, Gold(gold, database, read_schema(path), tmp_path) as judge:
        assert (judge.plain is not None) == plain


def test_new_columns_are_never_taken_for_golds(databases: Path, tmp_path: Path) -> None:
    """Columns of gold that have been replaced are gone; new ones may come to lie where they lay."""
    path = databases / "singers" / "singers.sqlite"
    columns = ", ".join(f"name || {i}" for i in range(200))
    sql = f"SELECT {columns} FROM singer"
    with open_database(path) as database, Gold(sql, database, read_schema(path), tmp_path) as judge:
        block = Block(judge, 0)
        assert len(block.own(block.tree)) == 200
        for column, _ in block.own(block.tree):
            column.replace(exp.Literal.number(1))
        del column
        new = exp.Tuple(expressions=[exp.column("other") for _ in range(2000)])
        assert block.own(new) == []
