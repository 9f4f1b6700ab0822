"""Hardness by the rules of Spider's evaluation: what counts, what does not, and where the levels begin."""

from __future__ import annotations

import pytest

from prm.sql.hardness import hardness

LEVELS = {
    "easy": [
        "SELECT COUNT(*) FROM cars_data WHERE cylinders > 4",
        "SELECT name FROM t ORDER BY age",  # one clause
        "SELECT DISTINCT name FROM t",
        "SELECT MAX(a) FROM t WHERE b BETWEEN 1 AND 2",
        "SELECT a FROM t GROUP BY a HAVING COUNT(*) > 1",  # HAVING is no clause, nor is its aggregate counted
        "SELECT a FROM t AS x JOIN u AS y ON x.i = y.i",  # one join
        "SELECT a FROM t WHERE b IS NOT NULL",
    ],
    "medium": [
        "SELECT T2.name, COUNT(*) FROM concert AS T1 JOIN stadium AS T2 ON T1.i = T2.i GROUP BY T1.i",
        "SELECT a FROM t WHERE name LIKE '%a%'",  # WHERE and LIKE
        "SELECT a FROM t WHERE b = 1 OR c = 2",
        "SELECT a FROM t WHERE (b = 1 AND c = 2)",
        "SELECT name FROM t ORDER BY age DESC LIMIT 1",
        "SELECT MIN(a), MAX(a) FROM t",  # several aggregates, several columns
        "SELECT a FROM t, u WHERE t.i = u.i",  # a comma is a join
        "SELECT MAX(a) FROM t WHERE b NOT BETWEEN 1 AND 2",  # NOT counts as an aggregate
    ],
    "hard": [
        "SELECT a FROM t WHERE b = (SELECT MAX(b) FROM t)",
        "SELECT a FROM t WHERE b IN (SELECT b FROM u WHERE c IN (SELECT c FROM v))",  # only the outermost
        "SELECT a FROM t UNION SELECT a FROM u",
        "SELECT a FROM t EXCEPT SELECT a FROM u ORDER BY a LIMIT 3",  # both belong to the last arm
        "SELECT a FROM t WHERE b = 1 GROUP BY a ORDER BY COUNT(*)",
        "SELECT a, COUNT(*), MAX(b) FROM t WHERE c = 1 AND d = 2 GROUP BY a, e",
    ],
    "extra": [
        'SELECT AVG(life) FROM country WHERE name NOT IN (SELECT a FROM x WHERE b = "English")',
        "SELECT a FROM t JOIN u ON t.i = u.i WHERE b = 1 GROUP BY a ORDER BY COUNT(*) DESC LIMIT 1",
        "SELECT a FROM t WHERE b > (SELECT 1) AND c < (SELECT 2)",
        "SELECT a, b FROM t INTERSECT SELECT a, b FROM u",
        "WITH x AS (SELECT a FROM t) SELECT a, COUNT(*) FROM x GROUP BY a",
    ],
}


@pytest.mark.parametrize(("level", "sql"), [(k, sql) for k, each in LEVELS.items() for sql in each])
def test_levels(level, sql):
    assert hardness(sql) == level


@pytest.mark.parametrize("sql", ["SELECT a FROM t WHERE (", "DROP TABLE t", "", "(" * 5000])
def test_what_is_no_query_has_no_level(sql):
    assert hardness(sql) is None
