"""What PostgreSQL has beyond the specification of all engines (`test_engines.py`): a server and its roles."""

import os
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest

from prm.cli import main
from prm.errors import InputError
from prm.sql import SQLError, read_schema
from prm.sql import open_database as open_any
from prm.sql.pool import DatabasePool

open_database = partial(open_any, cache=False)


@pytest.fixture(scope="module")
def server(postgres_server):
    return postgres_server


@pytest.fixture(scope="module")
def database(server):
    with open_database(server(), timeout=0.8, max_rows=5000) as opened:
        yield opened


def test_settings_do_not_stay(database) -> None:
    """A setting that a function without the mark of side effects might have made ends with the statement."""
    assert database.execute("SELECT current_setting('transaction_read_only')") == [("on",)]
    assert database.execute("SELECT current_setting('statement_timeout')") == [("800ms",)]


def test_the_servers_own_time_limit_keeps_the_worker(database) -> None:
    database.execute("SELECT 1")
    pids = database.pool.pids
    with pytest.raises(SQLError, match=r"longer than 0\.8 s"):
        database.execute("SELECT pg_sleep(9)")
    assert database.pool.pids == pids


def test_nothing_is_remembered_of_a_server(server) -> None:
    with open_any(server()) as database, psycopg.connect(server(), autocommit=True) as writer:
        writer.execute("CREATE TABLE extra(a integer)")
        for n in range(3):
            assert database.execute("SELECT count(*) FROM extra") == [(n,)]
            writer.execute("INSERT INTO extra VALUES (1)")
        writer.execute("DROP TABLE extra")


def test_killed_workers_and_a_restarted_server(server) -> None:
    with DatabasePool(2) as pool:
        database = open_database(server(), pool=pool)
        for i in range(4):
            results = pool.execute_all([(database, f"SELECT {i}, {k}") for k in range(40)])
            assert results == [[(i, k)] for k in range(40)]
            os.kill(pool.pids[i % 2], signal.SIGKILL)
        server.restart()
        assert database.execute("SELECT count(*) FROM pet") == [(4,)]


def test_a_killed_worker_leaves_no_statement_on_the_server(server) -> None:
    stop = threading.Event()
    with open_database(server(), timeout=30) as database:
        (worker,) = database.pool._workers

        def kill_again_and_again() -> None:
            while not stop.wait(0.4):
                if worker.opened and worker.pid is not None:  # it is connected, and the statement has begun
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_again_and_again)
        killer.start()
        try:
            with pytest.raises(SQLError) as error:
                database.execute("SELECT pg_sleep(25)")
        finally:
            stop.set()
            killer.join()
        assert error.value.kind == "crashed"
    deadline = time.monotonic() + 10
    with psycopg.connect(server(), autocommit=True) as watcher:
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(25)%'"
        while watcher.execute(running).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_role_sees_what_it_may_read(server) -> None:
    assert [table.name for table in read_schema(server("reader")).tables] == ["pet"]
    with open_database(server("reader")) as database:
        assert database.execute("SELECT count(*) FROM pet") == [(4,)]
        with pytest.raises(SQLError, match="permission denied") as error:
            database.execute("SELECT * FROM visit")
        assert error.value.kind == "refused"


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    url = f"postgresql://me:top-secret@/pets?host={tmp_path}"
    with open_database(url) as database, pytest.raises(SQLError) as error:
        database.execute("SELECT 1")
    assert error.value.kind == "unavailable" and "top-secret" not in str(error.value)
    with pytest.raises(InputError, match=r"me:\*\*\*@.*cannot connect") as failed:
        read_schema(url)
    assert "top-secret" not in str(failed.value)
    with pytest.raises(InputError, match="unknown kind of database 'mysql'"):
        open_database("mysql://me:top-secret@localhost/pets")
    with pytest.raises(InputError, match="no URL"):
        open_database("postgresql://localhost:many/pets")


def test_a_build_without_its_server_is_bad_input(tmp_path: Path, capsys) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "q", "sql": "SELECT 1"}\n')
    url = f"postgresql://me:top-secret@/pets?host={tmp_path}"
    arguments = ["build", "--layout", "table", "--root", str(tmp_path / "q.jsonl"), "--database-url", url]
    assert main([*arguments, "--output", str(tmp_path / "out.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "cannot connect" in said and "top-secret" not in said and said.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_a_large_result_keeps_the_worker(database) -> None:
    """It is cut off in time, and the connection is of use for the next statement."""
    database.execute("SELECT 1")
    pids = database.pool.pids
    for sql in (
        "SELECT generate_series(1, 3000000)",
        "SELECT repeat('x', 99000) FROM generate_series(1, 4000)",
    ):
        with pytest.raises(SQLError) as error:
            database.execute(sql)
        assert error.value.kind == "too_large"
    assert database.execute("SELECT count(*) FROM pet") == [(4,)]
    assert database.pool.pids == pids
