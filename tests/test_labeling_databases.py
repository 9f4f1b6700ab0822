"""Databases as all ways of labelling use them: the last ones at hand, and why gold cannot judge."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

import pytest

from prm.errors import InputError
from prm.jobs.last_used import LastUsed
from prm.labeling.databases import GOLD_FAULTS, gold_fault
from prm.sql.database import SQLError, check_reachable, open_database


@dataclass
class Opened:
    name: str
    closed: list[str] = field(repr=False)

    def close(self) -> None:
        self.closed.append(self.name)


def test_the_last_used_stay_open_and_the_others_are_closed():
    made, closed = [], []

    def make(name):
        made.append(name)
        return Opened(name, closed)

    at_hand = LastUsed(make, limit=2)
    assert [at_hand[name].name for name in "aabacb"] == list("aabacb")
    assert made == ["a", "b", "c", "b"]  # b was used before a when c came
    assert closed == ["b", "a"]
    at_hand.close()
    assert sorted(closed) == ["a", "b", "b", "c"]


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("SELECT nothing", "gold_fails"),
        ("DELETE FROM t", "gold_fails"),
        (f"{ENDLESS} SELECT MAX(i) FROM n", "gold_timeout"),
        (f"{ENDLESS} SELECT i FROM n", "gold_too_large"),
    ],
)
def test_why_gold_gives_no_rows(tmp_path, sql, fault):
    connection = sqlite3.connect(tmp_path / "t.sqlite")
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    with open_database(tmp_path / "t.sqlite", timeout=0.5) as database, pytest.raises(SQLError) as error:
        database.execute(sql)
    assert gold_fault(error.value) == fault and fault in GOLD_FAULTS
    check_reachable(error.value, database)


def test_a_database_that_has_gone_is_no_fault_of_the_sql(tmp_path):
    file = tmp_path / "t.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    with open_database(file) as database:
        file.unlink()
        with pytest.raises(SQLError) as error:
            database.execute("SELECT a FROM t")
        with pytest.raises(InputError, match=r"t\.sqlite: .*unable to open"):
            check_reachable(error.value, database)
