"""What DuckDB has beyond the specification of all engines (`test_engines.py`): a file, memory, a driver."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import duckdb
import pytest
from engines import make_duckdb as make

from prm.errors import InputError
from prm.sql import SQLError, read_schema, schema_text
from prm.sql import open_database as open_any

open_database = partial(open_any, cache=False)


def test_memory_is_bounded(duckdb_file: Path) -> None:
    with open_database(f"duckdb:///{duckdb_file}", timeout=20) as database:
        sql = "SELECT count(*) FROM (SELECT DISTINCT a.range, b.range FROM range(20000) a, range(20000) b)"
        with pytest.raises(SQLError) as error:
            database.execute(sql)
        assert error.value.kind == "too_large"
        status = Path(f"/proc/{database.pool.pids[0]}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 1 << 20  # kB


def test_what_lasts_is_remembered(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("prm.sql.results.GRAIN", 0.05)
    path = make(tmp_path / "pets.duckdb")
    time.sleep(0.1)
    with open_any(f"duckdb:///{path}") as database:
        assert database.execute("SELECT count(*) FROM pet") == [(4,)]
        assert database.execute("SELECT random()") != database.execute("SELECT random()")
        assert database.execute("SELECT uuid() AS u") != database.execute("SELECT uuid() AS u")
    with open_any(f"duckdb:///{path}") as database:
        assert database.execute("SELECT count(*) FROM pet") == [(4,)]
        assert database.pool.pids == []


def test_a_changed_file_gives_its_new_rows(tmp_path: Path) -> None:
    path = make(tmp_path / "pets.duckdb")
    with open_database(f"duckdb:///{path}") as database:
        assert database.execute("SELECT count(*) FROM pet") == [(4,)]
        other = make(tmp_path / "other.duckdb")
        connection = duckdb.connect(str(other))
        connection.execute("DELETE FROM pet WHERE id > 1")
        connection.close()
        other.replace(path)
        assert database.execute("SELECT count(*) FROM pet") == [(1,)]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no such database"), (b"", "empty"), (b"SQLite format 3\0", "not a DuckDB database")],
)
def test_no_database(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "x.duckdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        open_database(f"duckdb:///{path}")


def test_odd_names_relative_paths_and_logs(tmp_path: Path, monkeypatch) -> None:
    make(tmp_path / "a b %25.duckdb")
    monkeypatch.chdir(tmp_path)
    with open_database("duckdb:///a%20b%20%2525.duckdb") as database:
        assert database.execute("SELECT count(*) FROM pet") == [(4,)]
    assert "pet(" in schema_text(read_schema("duckdb:///a%20b%20%2525.duckdb"))
    (tmp_path / "a b %25.duckdb.wal").write_bytes(b"more")
    with pytest.raises(InputError, match="write-ahead log"):
        open_database("duckdb:///a%20b%20%2525.duckdb")


def test_without_the_driver_the_mend_is_named(duckdb_file: Path) -> None:
    code = (
        "import sys; sys.modules['duckdb'] = None\n"
        "import importlib.util; importlib.util.find_spec = lambda name: None\n"
        "from prm.sql import open_database\n"
        "try: open_database(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", code, f"duckdb:///{duckdb_file}"]
    assert 'pip install "nl2sql-prm[duckdb]"' in subprocess.check_output(command, text=True)


def test_what_hides_chance_is_not_remembered(tmp_path: Path, monkeypatch) -> None:
    """In a view, a view on it, a macro, or a string that is run as SQL."""
    monkeypatch.setattr("prm.sql.results.GRAIN", 0.05)
    path = make(tmp_path / "pets.duckdb")
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE VIEW dice AS SELECT random() AS face")
        connection.execute("CREATE VIEW two AS SELECT face, 2 FROM dice")
        connection.execute("CREATE MACRO roll() AS random()")
    time.sleep(0.1)
    with open_any(f"duckdb:///{path}") as database:
        for sql in (
            "SELECT * FROM dice",
            "SELECT * FROM two",
            "SELECT roll()",
            "SELECT * FROM query('SELECT ran' || 'dom()')",
        ):
            assert database.execute(sql) != database.execute(sql)
        assert database.execute("SELECT * FROM tame") == database.execute("SELECT * FROM tame")
    with open_any(f"duckdb:///{path}") as database:
        assert len(database.execute("SELECT * FROM tame")) == 2
        assert database.pool.pids == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT $$a  b$$ AS x", "SELECT $$a b$$ AS x"),
        ("SELECT 1 --\r + 1 AS x\n", "SELECT 1"),
        ("SELECT E'\\'a  b' AS x", "SELECT E'\\'a b' AS x"),
        ("SELECT $$ -- $$ AS x", "SELECT $$ -- other $$ AS x"),
    ],
)
def test_texts_that_sqlite_would_read_alike_share_no_result(
    tmp_path: Path, monkeypatch, one: str, other: str
) -> None:
    monkeypatch.setattr("prm.sql.results.GRAIN", 0.05)
    path = make(tmp_path / "pets.duckdb")
    time.sleep(0.1)
    with open_any(f"duckdb:///{path}") as remembering, open_database(f"duckdb:///{path}") as plain:
        for sql in (one, other):
            assert remembering.execute(sql) == plain.execute(sql)
        assert plain.execute(one) != plain.execute(other)
