"""Small SQLite databases that several modules of tests ask: singers with their concerts, and a zoo."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

SINGERS = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, title TEXT, year INTEGER, seats INTEGER);
CREATE TABLE appearance (
    appearance_id INTEGER PRIMARY KEY, singer_id INTEGER REFERENCES singer (singer_id),
    concert_id INTEGER REFERENCES concert (concert_id), fee INTEGER
);
INSERT INTO singer VALUES
    (1, 'Ada', 'France', 30), (2, 'Bo', 'Norway', 22), (3, 'Cid', 'France', 51), (4, 'Dag', 'Norway', 40),
    (5, 'Eve', 'Spain', 22), (6, 'Fay', 'Peru', 19), (7, 'Ada', 'Norway', 61);
INSERT INTO concert VALUES
    (1, 'Spring', 2014, 500), (2, 'Summer', 2014, 900), (3, 'Autumn', 2015, 400), (4, 'Winter', 2016, 900),
    (5, 'Encore', 2016, 250);
INSERT INTO appearance VALUES
    (1, 1, 1, 100), (2, 1, 2, 250), (3, 2, 1, 80), (4, 3, 3, 300), (5, 4, 4, 90), (6, 4, 2, 120),
    (7, 5, 3, 60),
    (8, 2, 3, 75), (9, 2, 4, 200), (10, 7, 1, 40);
"""
ANIMALS = [
    ("Tom", "cat", 5.0), ("Kit", "cat", 4.5), ("Mia", "cat", 3.0), ("Rex", "dog", 20.0), ("Bo", "dog", 4.0),
    ("Pip", "hen", 2.0),
]  # fmt: skip


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("databases")
    (folder / "singers").mkdir()
    with sqlite3.connect(folder / "singers" / "singers.sqlite") as connection:
        connection.executescript(SINGERS)
    connection.close()
    return folder


@pytest.fixture
def zoo(tmp_path):
    folder = tmp_path / "databases"
    (folder / "zoo").mkdir(parents=True)
    with sqlite3.connect(folder / "zoo" / "zoo.sqlite") as connection:
        connection.execute("CREATE TABLE animal (name TEXT, species TEXT, weight REAL)")
        connection.executemany("INSERT INTO animal VALUES (?, ?, ?)", ANIMALS)
    connection.close()
    return folder
