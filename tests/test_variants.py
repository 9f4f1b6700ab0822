"""Variants of databases: what only they tell apart, what they must never tell apart, and what they keep."""

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prm.errors import InputError
from prm.sql import SQLError, open_database, results_equal
from prm.sql.neighbours import neighbours
from prm.sql.variant_rows import KINDS, write_variant
from prm.sql.variants import Suite, Variant, remake

SCHEMA = """
CREATE TABLE stadium(stadium_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, city TEXT, capacity INT);
CREATE TABLE singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INT, country TEXT NOT NULL, rating REAL);
CREATE TABLE concert(concert_id INTEGER PRIMARY KEY, title TEXT, year INT NOT NULL,
    stadium_id INT NOT NULL REFERENCES stadium(stadium_id), fee INT CHECK (fee >= 0));
CREATE TABLE appearance(concert_id INT REFERENCES concert(concert_id),
    singer_id INT REFERENCES singer(singer_id), slot INT, PRIMARY KEY (concert_id, singer_id));
CREATE INDEX by_year ON concert(year);
CREATE VIEW adults AS SELECT * FROM singer WHERE age >= 18;
INSERT INTO stadium VALUES (1, 'Arena', 'Ayr', 5000), (2, 'Bowl', 'Bonn', 8000), (3, 'Court', 'Cork', 3000);
INSERT INTO singer VALUES (1, 'Ann', 30, 'France', 4.5), (2, 'Bea', 41, 'France', 3.5),
    (3, 'Cem', 25, 'Spain', 4.0), (4, 'Dai', 19, 'Wales', NULL), (5, 'Eva', 52, 'Spain', 2.5);
INSERT INTO concert VALUES (1, 'Spring', 2014, 1, 100), (2, 'Summer', 2015, 2, 200),
    (3, 'Autumn', 2015, 1, 0), (4, 'Winter', 2016, 3, 300);
INSERT INTO appearance VALUES (1, 1, 1), (1, 2, 2), (2, 3, 1), (3, 1, 1), (4, 5, 1), (4, 3, 2);
"""


def make_database(path: Path, script: str = SCHEMA) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    return make_database(tmp_path_factory.mktemp("music") / "music.sqlite")


# gold, a query that gives the same rows on the database above and is wrong
ACCIDENTS = [
    # a condition is missing, is too many, or is put otherwise
    ("SELECT name FROM singer WHERE age > 20", "SELECT name FROM singer WHERE age > 19"),
    ("SELECT name FROM singer WHERE age >= 25", "SELECT name FROM singer WHERE age > 20"),
    ("SELECT name FROM singer WHERE age < 41", "SELECT name FROM singer WHERE age <= 30"),
    ("SELECT title FROM concert WHERE year = 2016", "SELECT title FROM concert WHERE year >= 2016"),
    ("SELECT title FROM concert WHERE year = 2016", "SELECT title FROM concert WHERE year > 2015"),
    (
        "SELECT title FROM concert WHERE year = 2015 AND fee > 100",
        "SELECT title FROM concert WHERE fee > 100 AND year < 2016",
    ),
    ("SELECT title FROM concert WHERE year = 2014 OR fee > 200", "SELECT title FROM concert WHERE fee IN (100, 300)"),
    ("SELECT title FROM concert WHERE fee BETWEEN 100 AND 200", "SELECT title FROM concert WHERE fee > 0 AND fee < 300"),
    ("SELECT name FROM singer WHERE name LIKE '%va'", "SELECT name FROM singer WHERE name LIKE '%v%'"),
    ("SELECT name FROM singer WHERE name LIKE 'A%'", "SELECT name FROM singer WHERE name LIKE '%nn'"),
    # DISTINCT, duplicates
    ("SELECT DISTINCT stadium_id FROM concert WHERE year <> 2015", "SELECT stadium_id FROM concert WHERE year <> 2015"),
    ("SELECT count(*) FROM concert WHERE fee > 100", "SELECT count(DISTINCT fee) FROM concert WHERE fee > 100"),
    ("SELECT city FROM stadium UNION ALL SELECT title FROM concert", "SELECT city FROM stadium UNION SELECT title FROM concert"),
    # groups
    (
        "SELECT stadium_id FROM concert GROUP BY stadium_id HAVING count(*) >= 2",
        "SELECT stadium_id FROM concert GROUP BY stadium_id HAVING count(*) = 2",
    ),
    (
        "SELECT country, count(*) FROM singer GROUP BY country HAVING count(*) > 1",
        "SELECT country, 2 FROM singer GROUP BY country HAVING count(*) > 1",
    ),
    ("SELECT country, min(age) FROM singer WHERE country = 'Wales' GROUP BY country", "SELECT country, max(age) FROM singer WHERE country = 'Wales' GROUP BY country"),
    # NULL, where the database has some
    ("SELECT count(*) FROM singer WHERE country = 'Spain'", "SELECT count(rating) FROM singer WHERE country = 'Spain'"),
    # joins
    (
        "SELECT s.name FROM singer s JOIN appearance a ON a.singer_id = s.singer_id WHERE a.slot = 2",
        "SELECT DISTINCT s.name FROM singer s JOIN appearance a ON a.singer_id = s.singer_id WHERE a.slot = 2",
    ),
    (
        "SELECT name FROM stadium WHERE stadium_id IN (SELECT stadium_id FROM concert)",
        "SELECT name FROM stadium",
    ),
    # order and LIMIT
    ("SELECT name FROM singer ORDER BY age DESC LIMIT 1", "SELECT name FROM singer ORDER BY singer_id DESC LIMIT 1"),
    ("SELECT title FROM concert ORDER BY year, fee DESC", "SELECT title FROM concert ORDER BY concert_id"),
    ("SELECT name FROM singer WHERE age > 40 ORDER BY age LIMIT 3", "SELECT name FROM singer WHERE age > 40 ORDER BY age"),
    # accidents of this database alone
    ("SELECT name FROM singer WHERE country = 'Wales'", "SELECT name FROM singer WHERE rating IS NULL"),
    ("SELECT max(capacity) FROM stadium", "SELECT 8000"),
    ("SELECT name FROM stadium ORDER BY capacity LIMIT 1", "SELECT name FROM stadium WHERE name = 'Court'"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "wrong"), ACCIDENTS)
def test_only_a_variant_tells_them_apart(gold: str, wrong: str, music: Path, tmp_path: Path) -> None:
    with open_database(music) as database, Suite(database, gold, folder=tmp_path) as suite:
        assert suite.verdict(wrong).equal, "the table wants queries that are equal on the database itself"
        assert suite.distil([wrong]) == []
        verdict = suite.verdict(wrong)
        assert verdict.equal is False
        assert verdict.on in {variant.name for variant in suite.variants}
        assert suite.verdict(gold).equal


# gold, another choice of what gold leaves open: no error, whatever it gives
CHOICES = [
    ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age, name LIMIT 1"),
    ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age, singer_id DESC LIMIT 1"),
    ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer WHERE age = (SELECT min(age) FROM singer)"),
    ("SELECT name, age FROM singer ORDER BY country", "SELECT name, age FROM singer ORDER BY country, age, rating"),
    ("SELECT name FROM singer ORDER BY rating DESC LIMIT 3", "SELECT name FROM singer ORDER BY rating DESC, singer_id DESC LIMIT 3"),
    (
        "SELECT country FROM singer GROUP BY country ORDER BY count(*) DESC LIMIT 1",
        "SELECT country FROM singer GROUP BY country ORDER BY count(*) DESC, country DESC LIMIT 1",
    ),
    (
        "SELECT name FROM stadium WHERE stadium_id = (SELECT stadium_id FROM concert GROUP BY 1 ORDER BY count(*) DESC LIMIT 1)",
        "SELECT s.name FROM stadium s JOIN concert c USING (stadium_id) GROUP BY stadium_id ORDER BY count(*) DESC, s.name LIMIT 1",
    ),
    ("SELECT name FROM singer LIMIT 2", "SELECT name FROM singer ORDER BY singer_id LIMIT 2"),
    # what nothing looks like
    ("SELECT max(age) FROM singer WHERE country = 'Wales'", "SELECT age FROM singer WHERE country = 'Wales' ORDER BY age DESC LIMIT 1"),
    ("SELECT count(*) FROM singer WHERE country = 'Spain'", "SELECT count(*) FROM singer WHERE country = 'Spain' GROUP BY country"),
    # a bare column of a group
    ("SELECT name, count(*) FROM singer GROUP BY country", "SELECT max(name), count(*) FROM singer GROUP BY country"),
]  # fmt: skip

# queries that mean the same wherever the constraints of the schema hold
EQUIVALENT = [
    # what a key decides
    ("SELECT name, count(*) FROM concert JOIN stadium USING (stadium_id) GROUP BY stadium_id",
     "SELECT name, count(*) FROM concert JOIN stadium USING (stadium_id) GROUP BY stadium_id, name, capacity"),
    ("SELECT singer_id FROM singer", "SELECT DISTINCT singer_id FROM singer"),
    ("SELECT count(*) FROM singer", "SELECT count(singer_id) FROM singer"),
    ("SELECT count(*) FROM singer", "SELECT count(DISTINCT singer_id) FROM singer"),
    ("SELECT name FROM stadium", "SELECT DISTINCT name FROM stadium"),
    # NOT NULL
    ("SELECT count(*) FROM concert", "SELECT count(year) FROM concert"),
    ("SELECT title FROM concert WHERE year <> 2015", "SELECT title FROM concert WHERE NOT year = 2015 OR year IS NULL"),
    ("SELECT country FROM singer", "SELECT coalesce(country, 'none') FROM singer"),
    ("SELECT name FROM stadium WHERE stadium_id NOT IN (SELECT stadium_id FROM concert)",
     "SELECT name FROM stadium AS s WHERE NOT EXISTS (SELECT 1 FROM concert AS c WHERE c.stadium_id = s.stadium_id)"),
    # foreign keys
    ("SELECT title FROM concert", "SELECT title FROM concert JOIN stadium USING (stadium_id)"),
    ("SELECT title, name FROM concert JOIN stadium USING (stadium_id)", "SELECT title, name FROM concert LEFT JOIN stadium USING (stadium_id)"),
    ("SELECT count(*) FROM appearance", "SELECT count(*) FROM appearance JOIN singer USING (singer_id) JOIN concert USING (concert_id)"),
    # CHECK
    ("SELECT title FROM concert WHERE fee > 0", "SELECT title FROM concert WHERE fee <> 0"),
    # types: a whole number has nothing between 20 and 21
    ("SELECT name FROM singer WHERE age > 20", "SELECT name FROM singer WHERE age >= 21"),
    ("SELECT name FROM singer WHERE age > 20", "SELECT name FROM singer WHERE age > 20.5"),
    # rewriting
    ("SELECT name FROM singer WHERE age BETWEEN 20 AND 30", "SELECT name FROM singer WHERE age >= 20 AND age <= 30"),
    ("SELECT name FROM singer WHERE country IN ('Spain', 'Wales')", "SELECT name FROM singer WHERE country = 'Wales' OR country = 'Spain'"),
    ("SELECT DISTINCT country FROM singer", "SELECT country FROM singer GROUP BY country"),
    ("SELECT stadium_id FROM stadium EXCEPT SELECT stadium_id FROM concert", "SELECT s.stadium_id FROM stadium s LEFT JOIN concert c ON c.stadium_id = s.stadium_id WHERE c.concert_id IS NULL"),
    ("SELECT avg(age) FROM singer", "SELECT 1.0 * sum(age) / count(age) FROM singer"),
    ("SELECT name FROM singer WHERE age = (SELECT max(age) FROM singer)", "SELECT name FROM singer AS s WHERE NOT EXISTS (SELECT 1 FROM singer AS t WHERE t.age > s.age) AND age IS NOT NULL"),
    ("WITH c AS (SELECT * FROM concert WHERE year = 2015) SELECT name FROM stadium WHERE stadium_id IN (SELECT stadium_id FROM c)",
     "SELECT DISTINCT s.name FROM stadium s JOIN concert c ON c.stadium_id = s.stadium_id AND c.year = 2015"),
]  # fmt: skip


def all_variants(database, gold: str, folder: Path, n: int = 24):
    """Every usable candidate, not only what distilling keeps; with its name."""
    for index in range(n):
        path = folder / f"{index}.sqlite"
        digest = write_variant(database.path, gold, 0, index, path)
        name = f"variant:0:{index}:{digest}"
        path.unlink()
        with contextlib.suppress(InputError):
            yield remake(database.path, gold, name, folder)


def tells_apart(database, gold: str, sql: str, folder: Path) -> list[Variant]:
    found = []
    for variant in all_variants(database, gold, folder):
        with open_database(variant.path) as there:
            rows = there.execute(sql)
        if not results_equal(variant.gold, rows, ordered=variant.ordered):
            found.append(variant)
        variant.path.unlink()
    return found


@pytest.mark.parametrize(("gold", "same"), EQUIVALENT)
def test_nothing_tells_equivalent_queries_apart(gold: str, same: str, music: Path, tmp_path: Path) -> None:
    with open_database(music) as database:
        assert tells_apart(database, gold, same, tmp_path) == []
        assert tells_apart(database, same, gold, tmp_path) == []


@pytest.mark.parametrize(("gold", "choice"), CHOICES)
def test_no_answer_is_blamed_for_what_gold_leaves_open(
    gold: str, choice: str, music: Path, tmp_path: Path
) -> None:
    with open_database(music) as database:
        assert tells_apart(database, gold, choice, tmp_path) == []
