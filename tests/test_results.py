"""What is remembered of results, under which name, and what is not."""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import pytest

from prm.sql import SQLError, open_database
from prm.sql.results import GRAIN, ResultCache, normalised


def make(path: Path, names=("Rex", "Mia"), age: float = 60.0) -> Path:
    """A database that was written `age` seconds ago, as far as its times tell."""
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pet(id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO pet(name) VALUES (?)", [(name,) for name in names])
    connection.close()
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The time of the inode's last change cannot be set back, so the grain of the clock is made small."""
    monkeypatch.setattr("prm.sql.results.GRAIN", 0.05)
    made = make(tmp_path / "pets.sqlite")
    time.sleep(0.1)
    return made


def runs(database, sql: str) -> int:
    """How often a worker was asked, when the statement is executed twice."""
    asked = 0
    take = database.pool._take

    def count(wanted):
        nonlocal asked
        asked += 1
        return take(wanted)

    database.pool._take = count
    try:
        for _ in range(2):
            with suppress(SQLError):
                database.execute(sql)
    finally:
        del database.pool._take
    return asked


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM pet",
        "SELECT count(*), 'random()', max(name) FROM pet",
        "SELECT nowhere FROM pet",
        "SELECT zeroblob(2000000000)",
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t",
    ],
)
def test_remembered(path: Path, sql: str) -> None:
    with open_database(path, timeout=0.4) as database:
        assert runs(database, sql) == 1
    with open_database(path, timeout=0.4) as another:
        assert runs(another, sql) == 0
    with open_database(path, timeout=0.3) as other_limits:
        assert runs(other_limits, sql) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT random()",
        "SELECT hex(RandomBlob(4))",
        "SELECT name FROM pet ORDER BY random()",
        "SELECT date('now')",
        "SELECT date('n' || 'ow')",
        "SELECT strftime('%s')",
        "SELECT current_timestamp",
        "SELECT CURRENT_DATE FROM pet",
        "SELECT changes()",
    ],
)
def test_what_may_change_by_itself_is_not_remembered(path: Path, sql: str) -> None:
    with open_database(path) as database:
        assert runs(database, sql) == 2
        assert runs(database, sql) == 2  # also where the connection has prepared it before


def test_without_cache_every_statement_runs(path: Path) -> None:
    with open_database(path, cache=False) as database:
        assert runs(database, "SELECT name FROM pet") == 2


def test_a_file_written_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    assert GRAIN >= 1
    with open_database(make(tmp_path / "new.sqlite", age=0)) as database:
        assert runs(database, "SELECT name FROM pet") == 2


def test_a_changed_file_gives_its_new_rows(path: Path) -> None:
    """Overwritten in place, replaced by another file, and with the old times set again."""
    times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
    sql = "SELECT name FROM pet ORDER BY id"
    with open_database(path) as database:
        assert database.execute(sql) == [("Rex",), ("Mia",)]
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE pet SET name = 'Tim' WHERE id = 1")
        connection.close()
        os.utime(path, ns=times)
        time.sleep(0.1)
        assert database.execute(sql) == [("Tim",), ("Mia",)]
        make(path.with_name("other.sqlite"), ["Zoe"]).replace(path)
        os.utime(path, ns=times)
        time.sleep(0.1)
        assert database.execute(sql) == [("Zoe",)]
        assert runs(database, sql) == 0


def test_nobody_can_change_what_others_get(path: Path) -> None:
    with open_database(path) as database:
        first = database.execute("SELECT name FROM pet ORDER BY id")
        first.clear()
        first.columns = ()
        again = database.execute("SELECT name FROM pet ORDER BY id")
        assert again == [("Rex",), ("Mia",)] and again.columns == ("name",)


@pytest.mark.parametrize(
    ("sql", "key"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  SELECT\n\t1 ; ", "SELECT 1"),
        ("SELECT/* a ; */1 -- end", "SELECT 1"),
        ("SELECT 'a  --b'  ,  \"c  d\"", "SELECT 'a  --b' , \"c  d\""),
        ("SELECT 'it''s  ;' ;", "SELECT 'it''s  ;'"),
        ("SELECT [a  b], `c  d`", "SELECT [a  b], `c  d`"),
        ("SELECT Name", "SELECT Name"),
        ("SELECT 1 - -1", "SELECT 1 - -1"),
        ("SELECT '' ;  '", "SELECT '' ; '"),
        ("; SELECT 1", "; SELECT 1"),  # refused, as is the next: not the same as SELECT 1
        ("SELECT 1;;", "SELECT 1;"),
    ],
)
def test_normalised(sql: str, key: str) -> None:
    assert normalised(sql) == key


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("SELECT name FROM pet", "SELECT  name\nFROM pet ;", True),
        ("SELECT name FROM pet", "SELECT name AS Name FROM pet", False),
        ("SELECT id +  1 FROM pet", "SELECT id + 1 FROM pet", False),  # SQLite names the column by its text
        ("SELECT id+1 FROM pet", "SELECT id+1   FROM pet", True),
        ("SELECT id + 1 FROM pet", "SELECT id  +  1 FROM pet", False),
        ("SELECT 'a b' AS x", "SELECT 'a  b' AS x", False),
        (
            'SELECT "id +1" AS x FROM (SELECT id +1 FROM pet)',
            'SELECT "id +1" AS x FROM (SELECT id  +1 FROM pet)',
            False,
        ),
    ],
)
def test_which_texts_share_a_result(path: Path, one: str, other: str, shared: bool) -> None:
    with open_database(path) as database:
        database.execute(one)
        assert runs(database, other) == (0 if shared else 1)
    with open_database(path, cache=False) as plain, open_database(path) as remembering:
        again = remembering.execute(other)
        assert (again, again.columns) == (plain.execute(other), plain.execute(other).columns)


def test_what_was_remembered_under_its_own_text_is_found_by_no_other(path: Path) -> None:
    """A closing semicolon goes with normalising; a second one is a statement too many."""
    with open_database(path) as database:
        for _ in range(2):
            assert database.execute("SELECT 1 + 1;") == [(2,)]
            with pytest.raises(SQLError):
                database.execute("SELECT 1 + 1;;")


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    cache = ResultCache(max_bytes=80_000)
    answers = [("rows", ("a",), [bytes(5000)], True) for _ in range(30)]
    for i, answer in enumerate(answers):
        cache.put(("db",), f"SELECT {i}", answer, normal=True)
        cache.get(("db",), "SELECT 0", normal=True)
        assert cache.size <= 80_000
    assert cache.get(("db",), "SELECT 0", normal=True) is answers[0]
    assert cache.get(("db",), "SELECT 1", normal=True) is None
    assert cache.get(("db",), "SELECT 29", normal=True) is answers[29]
    cache.put(("db",), "SELECT 'large'", ("rows", ("a",), [bytes(11_000)], True), normal=True)
    assert cache.get(("db",), "SELECT 'large'", normal=True) is None
