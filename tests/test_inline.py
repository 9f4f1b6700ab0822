"""CTEs and derived tables merged into plain SELECTs: what goes in, what comes out, with the same rows."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
import sqlglot
from small_databases import SINGERS

from prm.sql import open_database, read_schema
from prm.sql.decompose import to_sql
from prm.sql.inline import inlined

#: a query with `singer(name, country, age)`, `appearance(singer_id, fee …)` -> itself, inlined; g1, g2 … are
#: the names of its sources
INLINED = {
    "WITH old AS (SELECT name, age FROM singer WHERE age > 30) SELECT name FROM old ORDER BY age": (
        "SELECT g1.name AS name FROM singer AS g1 WHERE g1.age > 30 ORDER BY g1.age"
    ),
    "WITH a AS (SELECT * FROM singer), b AS (SELECT * FROM a WHERE age > 30) "
    "SELECT name FROM b WHERE age < 60": (
        "SELECT g1.name AS name FROM singer AS g1 WHERE g1.age > 30 AND g1.age < 60"
    ),
    "SELECT o.name FROM (SELECT name, age + 1 AS next FROM singer) AS o WHERE o.next * 2 > 70": (
        "SELECT g1.name AS name FROM singer AS g1 WHERE (g1.age + 1) * 2 > 70"
    ),
    # what is grouped and read alone: conditions go into HAVING
    "WITH n AS (SELECT country, COUNT(*) AS n FROM singer GROUP BY country) "
    "SELECT country FROM n WHERE n > 1": (
        "SELECT g1.country AS country FROM singer AS g1 GROUP BY g1.country HAVING COUNT(*) > 1"
    ),
    "WITH n AS (SELECT country, COUNT(*) AS n FROM singer GROUP BY country HAVING MAX(age) < 60), "
    "top AS (SELECT * FROM n ORDER BY n DESC, country LIMIT 1) SELECT country FROM top": (
        "SELECT g1.country AS country FROM singer AS g1 GROUP BY g1.country HAVING MAX(g1.age) < 60 "
        "ORDER BY COUNT(*) DESC, g1.country LIMIT 1"
    ),
    # what is grouped and joined stays; what is plain beside it does not
    "WITH n AS (SELECT singer_id, SUM(fee) AS fee FROM appearance GROUP BY singer_id), "
    "s AS (SELECT singer_id, name FROM singer WHERE age > 25) "
    "SELECT s.name, n.fee FROM n JOIN s ON n.singer_id = s.singer_id": (
        "SELECT g3.name AS name, g1.fee AS fee FROM (SELECT g2.singer_id AS singer_id, SUM(g2.fee) AS fee "
        "FROM appearance AS g2 GROUP BY g2.singer_id) AS g1, singer AS g3 "
        "WHERE g3.age > 25 AND g1.singer_id = g3.singer_id"
    ),
    # joins over joins
    "WITH c AS (SELECT concert_id, title FROM concert WHERE year = 2014), a AS (SELECT ap.singer_id, c.title "
    "FROM appearance ap JOIN c ON ap.concert_id = c.concert_id) "
    "SELECT s.name, a.title FROM singer s JOIN a ON a.singer_id = s.singer_id": (
        "SELECT g1.name AS name, g3.title AS title FROM singer AS g1, appearance AS g2, concert AS g3 "
        "WHERE (g3.year = 2014 AND g2.concert_id = g3.concert_id) AND g2.singer_id = g1.singer_id"
    ),
    # one CTE read twice, under names that clash
    "WITH s AS (SELECT name, country, age FROM singer) "
    "SELECT a.name, b.name FROM s AS a JOIN s AS b ON a.country = b.country WHERE a.age < b.age": (
        "SELECT g1.name AS name, g2.name AS name FROM singer AS g1, singer AS g2 "
        "WHERE g1.country = g2.country AND g1.age < g2.age"
    ),
    # aggregates of a whole table
    "WITH m AS (SELECT MAX(age) AS age FROM singer) SELECT name FROM singer JOIN m ON singer.age = m.age": (
        "SELECT g1.name AS name FROM singer AS g1 WHERE g1.age = (SELECT MAX(g2.age) FROM singer AS g2)"
    ),
    "WITH m AS (SELECT AVG(age) AS age FROM singer) "
    "SELECT name FROM singer WHERE age > (SELECT age FROM m)": (
        "SELECT g1.name AS name FROM singer AS g1 "
        "WHERE g1.age > (SELECT AVG(g2.age) AS age FROM singer AS g2)"
    ),
    # nested queries and set operations
    "WITH a AS (SELECT singer_id FROM appearance WHERE fee > 100) "
    'SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM a) AND country <> "Peru"': (
        "SELECT g1.name AS name FROM singer AS g1 WHERE g1.singer_id NOT IN "
        "(SELECT g2.singer_id AS singer_id FROM appearance AS g2 WHERE g2.fee > 100) AND g1.country <> 'Peru'"
    ),
    "WITH a AS (SELECT country FROM singer WHERE age > 35), b AS (SELECT country FROM singer WHERE age < 25) "
    "SELECT country FROM a INTERSECT SELECT country FROM b": (
        "SELECT g1.country AS country FROM singer AS g1 WHERE g1.age > 35 INTERSECT "
        "SELECT g2.country AS country FROM singer AS g2 WHERE g2.age < 25"
    ),
    # distinct, and what it forbids
    "WITH a AS (SELECT DISTINCT country FROM singer) SELECT country FROM a ORDER BY country LIMIT 2": (
        "SELECT DISTINCT g1.country AS country FROM singer AS g1 ORDER BY country LIMIT 2"
    ),
    "WITH a AS (SELECT DISTINCT country, age FROM singer) SELECT country FROM a": (
        "SELECT g1.country AS country FROM (SELECT DISTINCT g2.country AS country, g2.age AS age "
        "FROM singer AS g2) AS g1"
    ),
    "WITH a AS (SELECT DISTINCT country FROM singer) SELECT COUNT(*) FROM a": (
        "SELECT COUNT(*) AS c FROM (SELECT DISTINCT g1.country AS country FROM singer AS g1) AS g2"
    ),
    # a cut that something is done to afterwards
    "WITH a AS (SELECT name, age FROM singer ORDER BY age DESC LIMIT 2) SELECT name FROM a": (
        "SELECT g1.name AS name FROM singer AS g1 ORDER BY g1.age DESC LIMIT 2"
    ),
    "WITH a AS (SELECT name, age FROM singer ORDER BY age DESC LIMIT 2) SELECT name FROM a WHERE age < 60": (
        "SELECT g1.name AS name FROM (SELECT g2.name AS name, g2.age AS age FROM singer AS g2 "
        "ORDER BY age DESC LIMIT 2) AS g1 WHERE g1.age < 60"
    ),
    # conditions of what is joined from outside must not leave it
    "WITH a AS (SELECT singer_id, fee FROM appearance WHERE fee > 100) "
    "SELECT s.name, a.fee FROM singer s LEFT JOIN a ON s.singer_id = a.singer_id": (
        "SELECT g1.name AS name, g2.fee AS fee FROM singer AS g1 LEFT JOIN "
        "(SELECT g3.singer_id AS singer_id, g3.fee AS fee FROM appearance AS g3 WHERE g3.fee > 100) AS g2 "
        "ON g1.singer_id = g2.singer_id"
    ),
    # ranks are not computed after a filter
    "WITH r AS (SELECT name, RANK() OVER (ORDER BY age) AS r FROM singer) SELECT name FROM r WHERE r > 2": (
        "SELECT g1.name AS name FROM (SELECT g2.name AS name, RANK() OVER (ORDER BY g2.age) AS r "
        "FROM singer AS g2) AS g1 WHERE g1.r > 2"
    ),
    "WITH a(x, n) AS (SELECT country, age FROM singer) SELECT x, COUNT(n) FROM a GROUP BY x": (
        "SELECT g1.country AS x, COUNT(g1.age) AS c FROM singer AS g1 GROUP BY g1.country"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inline") / "singers.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(SINGERS)
    connection.close()
    return path


def plain(sql: str, path: Path) -> str | None:
    tree = inlined(sqlglot.parse_one(sql, dialect="sqlite"), read_schema(path))
    return None if tree is None else to_sql(tree)


def numbered(sql: str) -> str:
    """Its sources named g1, g2 … in the order in which FROM and JOIN name them."""
    names = dict.fromkeys(re.findall(r"\bAS (gold_\d+|g\d+)\b", sql))
    numbers = {name: f"g{n}" for n, name in enumerate(names, 1)}
    sql = re.sub(r"\b(gold_\d+|g\d+)\b", lambda match: numbers[match[1]], sql)
    return re.sub(r"(COUNT\([^()]*\)) AS \w+", r"\1 AS c", sql)


@pytest.mark.parametrize("sql", INLINED)
def test_inlined(sql: str, path: Path) -> None:
    found = plain(sql, path)
    assert numbered(found) == numbered(INLINED[sql])
    with open_database(path) as database:
        assert sorted(database.execute(found), key=repr) == sorted(database.execute(sql), key=repr) != []


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
        "WITH a AS (VALUES (1), (2)) SELECT * FROM a",
        "SELECT value FROM json_each('[1]')",
    ],
)
def test_what_is_not_understood_is_left_alone(sql: str, path: Path) -> None:
    assert plain(sql, path) is None
