"""SQL on its way from a database's dialect to the inner one and back: what goes in, what comes out."""

from pathlib import Path

import pytest

from prm.sql.dialect import TranslationError, Translator
from prm.sql.schema import Schema
from prm.sql.tables import Column, Table


def translator(dialect: str) -> Translator:
    tables = {
        "Owner": ("owner_id", "name", "order", "born"),
        "pet": ("id", "name", "weight", "owner_id", "tame"),
        "visit": ("pet_id", "number", "cost"),
    }
    made = (Table(name, tuple(Column(column, "") for column in columns)) for name, columns in tables.items())
    return Translator(Schema(Path("x"), tuple(made), dialect))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM pet WHERE weight > 3 AND name LIKE 'R%'",
        "SELECT number / 2 FROM visit",
        "SELECT name FROM pet ORDER BY weight",
        "SELECT name FROM pet ORDER BY weight DESC",
        'SELECT EXTRACT(YEAR FROM born) FROM "Owner" WHERE "order" = \'first\'',
        "SELECT CAST(weight AS DOUBLE PRECISION), CAST(weight AS DECIMAL(6, 1)) FROM pet",
        "SELECT STRING_AGG(name, ',') FROM pet",
        "SELECT COUNT(*) FILTER(WHERE tame) FROM pet",
        "SELECT owner_id, COUNT(*) FROM pet GROUP BY owner_id HAVING COUNT(*) > 1",
        "SELECT name FROM pet WHERE owner_id IS NOT DISTINCT FROM 3",
        "SELECT DATE_TRUNC('MONTH', born) FROM \"Owner\"",
        'WITH a AS (SELECT name FROM pet) SELECT name FROM a UNION SELECT name FROM "Owner"',
    ],
)
def test_through_and_back(sql: str) -> None:
    there = translator("postgres")
    assert there.outward(there.inward(sql)) == sql


@pytest.mark.parametrize(
    ("dialect", "inner", "outer"),
    [
        ("postgres", "SELECT NAME FROM OWNER", 'SELECT name FROM "Owner"'),
        ("postgres", "SELECT FROM", None),
        ("postgres", 'SELECT T1."order" FROM owner AS T1', 'SELECT t1."order" FROM "Owner" AS t1'),
        ("duckdb", 'SELECT T1."order" FROM owner AS T1', 'SELECT t1."order" FROM Owner AS t1'),
        ("postgres", "light AS (SELECT id FROM pet)", "light AS (SELECT id FROM pet)"),
        ("postgres", '"user" AS (SELECT id FROM pet)', '"user" AS (SELECT id FROM pet)'),
        ("postgres", "SELECT weight / 0 FROM pet", "SELECT weight / 0 FROM pet"),
        (
            "postgres",
            "SELECT CAST(weight AS REAL) FROM pet",
            "SELECT CAST(weight AS DOUBLE PRECISION) FROM pet",
        ),
        # a column beside an aggregate is grouped by, but not what is grouped by already, nor an alias
        (
            "postgres",
            "SELECT name, COUNT(*) FROM pet GROUP BY id",
            "SELECT name, COUNT(*) FROM pet GROUP BY id, name",
        ),
        ("duckdb", "SELECT name AS n FROM pet GROUP BY id", "SELECT name AS n FROM pet GROUP BY id, name"),
        ("postgres", "SELECT name AS n FROM pet GROUP BY n", "SELECT name AS n FROM pet GROUP BY n"),
        ("postgres", "SELECT name FROM pet GROUP BY 1", "SELECT name FROM pet GROUP BY 1"),
        ("postgres", "SELECT id + 1 FROM pet GROUP BY id + 1", "SELECT id + 1 FROM pet GROUP BY id + 1"),
        (
            "postgres",
            "SELECT id, SUM(weight) AS s FROM pet GROUP BY id HAVING name > 'a' ORDER BY s NULLS LAST",
            "SELECT id, SUM(weight) AS s FROM pet GROUP BY id, name HAVING name > 'a' ORDER BY s",
        ),
        (
            "postgres",
            "SELECT id, (SELECT MAX(cost) FROM visit) FROM pet GROUP BY id",
            "SELECT id, (SELECT MAX(cost) FROM visit) FROM pet GROUP BY id",
        ),
        ("sqlite", "SELECT  NAME from pet GROUP BY id", "SELECT  NAME from pet GROUP BY id"),
    ],
)
def test_outward(dialect: str, inner: str, outer: str | None) -> None:
    if outer is None:
        with pytest.raises(TranslationError):
            translator(dialect).outward(inner)
    else:
        assert translator(dialect).outward(inner) == outer


@pytest.mark.parametrize(
    "sql", ["", "SELECT 1; SELECT 2", "DELETE FROM pet", "SELECT FROM WHERE", "SELECT to_char(1, 'a') FROM"]
)
def test_what_is_not_one_query_is_not_translated(sql: str) -> None:
    with pytest.raises(TranslationError):
        translator("duckdb").inward(sql)
