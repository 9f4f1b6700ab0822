"""What gold leaves to chance: which other results it could have given, and which it could not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlglot

from prm.labeling.choices import Choices
from prm.sql.database import open_database

SINGERS = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, country TEXT);
INSERT INTO singer VALUES
    (1, 'Ann', 20, 'F'), (2, 'Bob', 30, 'G'), (3, 'Cid', 30, 'F'), (4, 'Dan', 40, 'H'), (5, 'Eve', 25, 'I');
"""

#: gold, another result, whether gold could have given it. Bob and Cid are 30, Ann and Cid are of F.
RESULTS = [
    ("SELECT name FROM singer", "SELECT country FROM singer", False),
    ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age, name DESC", True),
    ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC", False),
    ("SELECT name, age FROM singer ORDER BY 2", "SELECT age, name FROM singer ORDER BY 1, 2 DESC", True),
    (
        "SELECT DISTINCT name FROM singer ORDER BY age",
        "SELECT name FROM singer ORDER BY age, name DESC",
        True,
    ),
    ("SELECT DISTINCT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC", False),
    # F stands for Ann's age and Cid's: its place is open
    (
        "SELECT DISTINCT country FROM singer ORDER BY age",
        "SELECT country FROM singer WHERE id > 1 ORDER BY age DESC",
        True,
    ),
    (
        "SELECT name, age FROM singer UNION SELECT name, age FROM singer ORDER BY age",
        "SELECT name, age FROM singer ORDER BY age, name DESC",
        True,
    ),
    (
        "SELECT name, age FROM singer UNION SELECT name, age FROM singer ORDER BY age",
        "SELECT name, age FROM singer ORDER BY age DESC",
        False,
    ),
    ("SELECT name FROM singer ORDER BY age DESC LIMIT 1 OFFSET 1", "SELECT 'Cid'", True),
    ("SELECT name FROM singer ORDER BY age DESC LIMIT 1 OFFSET 1", "SELECT 'Dan'", False),
    ("SELECT name FROM singer ORDER BY age DESC LIMIT 2", "VALUES ('Dan'), ('Cid')", True),
    ("SELECT name FROM singer ORDER BY age DESC LIMIT 2", "VALUES ('Cid'), ('Dan')", False),
    ("SELECT name FROM singer ORDER BY age DESC LIMIT 2", "VALUES ('Bob'), ('Cid')", False),
    ("SELECT name FROM singer LIMIT 2", "VALUES ('Eve'), ('Bob')", True),
    ("SELECT name FROM singer LIMIT 2", "VALUES ('Eve'), ('Eve')", False),
    ("SELECT name FROM singer LIMIT 2", "VALUES ('Eve'), ('Bob'), ('Dan')", False),
    ("SELECT name FROM singer LIMIT 2", "VALUES ('Eve', 1), ('Bob', 1)", False),
    ("SELECT name FROM singer ORDER BY random() LIMIT 1", "SELECT 'Dan'", True),
    ("SELECT name FROM singer ORDER BY random() LIMIT 1", "SELECT 'nobody'", False),
    ("SELECT name FROM singer WHERE random() % 2 LIMIT 1", "SELECT 'nobody'", True),  # not understood
    (
        "SELECT name FROM singer WHERE random() IS NULL LIMIT 1",
        "SELECT 'nobody'",
        True,
    ),  # nor where it has no rows
    ("SELECT name FROM singer WHERE age > 1000 ORDER BY random()", "SELECT 'nobody', 1", False),
    # bare columns of groups
    (
        "SELECT country, name FROM singer GROUP BY country",
        "SELECT country, MAX(name) FROM singer GROUP BY country",
        True,
    ),
    (
        "SELECT country, name FROM singer GROUP BY country",
        "SELECT country, age FROM singer GROUP BY country",
        False,
    ),
    ("SELECT country, name FROM singer GROUP BY country", "SELECT country, name FROM singer", False),
    ("SELECT MAX(age), name FROM singer", "SELECT 'Eve', 40", True),
    ("SELECT MAX(age), name FROM singer", "SELECT 30, 'Ann'", False),
    ("SELECT MAX(age), name FROM singer", "SELECT 40, 40", False),
    # a LIMIT inside
    ("SELECT name FROM singer WHERE id = (SELECT id FROM singer LIMIT 1)", "SELECT 'Cid'", True),
    ("SELECT name FROM singer WHERE id = (SELECT id FROM singer LIMIT 1)", "SELECT 'Cid', 1", False),
    (
        "SELECT name FROM singer WHERE id = (SELECT id FROM singer ORDER BY age LIMIT 1)",
        "SELECT 'Cid'",
        False,
    ),
]


@pytest.mark.parametrize(("gold", "other", "open_"), RESULTS)
def test_what_gold_could_have_given(gold: str, other: str, open_: bool, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "singers.sqlite") as connection:
        connection.executescript(SINGERS)
    connection.close()
    with open_database(tmp_path / "singers.sqlite") as database:
        choices = Choices(database, sqlglot.parse_one(gold, dialect="sqlite"), database.execute(gold))
        assert choices.allow(database.execute(other)) == open_
