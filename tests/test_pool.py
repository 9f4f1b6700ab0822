"""Many statements on many databases through few workers: whose answer is whose, and what a death costs."""

import os
import signal
import sqlite3
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from prm.sql import SQLError
from prm.sql import open_database as open_any
from prm.sql import pool as pool_module
from prm.sql.pool import AHEAD, MOST_AHEAD, DatabasePool
from prm.sql.worker import CONNECTIONS

open_database = partial(open_any, cache=False)
FOREVER = "WITH RECURSIVE t(x) AS (SELECT {} UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t"


def make(path: Path, number: int) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pet AS SELECT ? AS number", (number,))
    connection.close()
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [make(tmp_path / f"{i}.sqlite", i) for i in range(2 * CONNECTIONS)]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_answer_comes_to_its_statement(paths: list[Path], workers: int) -> None:
    """More databases than a worker keeps open, results of all sizes, errors among them."""
    with DatabasePool(workers) as pool:
        databases = [open_database(path, pool=pool) for path in paths]
        jobs = [(i % len(paths), i) for i in range(400)]
        results = pool.execute_all(
            (
                databases[d],
                f"SELECT number, {i}, hex(zeroblob({i % 7 * 40_000})) FROM pet{'s' * (i % 11 == 0)}",
            )
            for d, i in jobs
        )
        assert len(pool.pids) == workers
    for (d, i), result in zip(jobs, results, strict=True):
        if i % 11 == 0:
            assert isinstance(result, SQLError) and "no such table: pets" in str(result)
        else:
            assert result == [(d, i, "0" * (i % 7 * 80_000))]


def test_a_worker_holds_many_quick_statements_but_few_slow_ones(paths: list[Path], monkeypatch) -> None:
    """Those behind a slow statement would wait for it, though another worker is idle."""
    held: list[int] = []  # after each reading of answers, so many statements may the worker hold

    def noted(worker, todo) -> None:
        read(worker, todo)
        held.append(worker.ahead)

    read = pool_module._read
    monkeypatch.setattr(pool_module, "_read", noted)
    count = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t LIMIT {}) SELECT count(*) FROM t"
    with DatabasePool(1) as pool:
        database, (worker,) = open_database(paths[0], pool=pool), pool._workers
        assert worker.ahead == AHEAD
        pool.execute_all([(database, f"SELECT {i}") for i in range(2000)])
        assert AHEAD < max(held) <= MOST_AHEAD
        held.clear()
        pool.execute_all([(database, count.format(300_000 + i)) for i in range(MOST_AHEAD + 10)])
        assert statistics.median(held) == AHEAD  # a busy machine may read two answers at once now and then


def test_nothing_to_do(paths: list[Path]) -> None:
    with DatabasePool() as pool:
        assert pool.execute_all([]) == [] and pool.pids == []
    with pytest.raises(ValueError, match="at least one"):
        DatabasePool(0)


def test_workers_work_at_the_same_time(paths: list[Path]) -> None:
    """Four statements that never end cost two workers two time limits, not four."""
    with DatabasePool(2) as pool:
        database = open_database(paths[0], timeout=0.6, pool=pool)
        database.execute("SELECT 1")
        start = time.monotonic()
        results = pool.execute_all([(database, FOREVER.format(i)) for i in range(4)])
        assert [result.kind for result in results] == ["timeout"] * 4
        assert 1.2 <= time.monotonic() - start < 2.2


def test_what_waits_behind_a_killed_statement_is_run_by_the_next_worker(paths: list[Path]) -> None:
    with DatabasePool(1) as pool:
        database = open_database(paths[3], timeout=0.3, pool=pool)
        jobs = [
            "SELECT number FROM pet",
            FOREVER.format(1),
            "SELECT number + 1 FROM pet",
            "SELECT number + 2 FROM pet",
        ]
        first, never, second, third = pool.execute_all([(database, sql) for sql in jobs])
        assert (first, second, third) == ([(3,)], [(4,)], [(5,)]) and never.kind == "timeout"


def test_a_statement_that_loses_every_worker_is_crashed_and_the_others_are_not(paths: list[Path]) -> None:
    stop = threading.Event()
    with DatabasePool(2) as pool:
        database = open_database(paths[0], timeout=2.0, pool=pool)
        sleepy = "SELECT instr(zeroblob(16000000), CAST(zeroblob(8000000) || x'01' AS BLOB))"

        def kill_the_slow() -> None:
            """A worker that has been at work for long is at work on the slow statement."""
            times: dict[int, int] = {}
            while not stop.wait(0.02):
                for pid in pool.pids:
                    with suppress(OSError):
                        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
                        if ticks - times.setdefault(pid, ticks) > 15:
                            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_the_slow)
        killer.start()
        try:
            jobs = [sleepy, *(f"SELECT number + {i} FROM pet" for i in range(100))]
            slow, *quick = pool.execute_all([(database, sql) for sql in jobs])
        finally:
            stop.set()
            killer.join()
        assert slow.kind == "crashed"
        assert quick == [[(i,)] for i in range(100)]


def test_a_database_that_cannot_be_opened_harms_no_other(paths: list[Path]) -> None:
    paths[1].write_bytes(paths[1].read_bytes()[:100] + b"\xff" * 8000)
    with DatabasePool(1) as pool:
        good, bad = open_database(paths[0], pool=pool), open_database(paths[1], pool=pool)
        results = pool.execute_all([(good, "SELECT number FROM pet"), (bad, "SELECT 1"), (good, "SELECT 2")])
        assert results[0] == [(0,)] and results[2] == [(2,)]
        assert results[1].kind == "unavailable"


def test_limits_are_each_database_handles_own(paths: list[Path]) -> None:
    sql = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t LIMIT 50) SELECT x FROM t"
    with DatabasePool(1) as pool:
        handles = [open_database(paths[0], max_rows=n, pool=pool) for n in (49, 50)]
        few, all_rows = pool.execute_all([(handle, sql) for handle in handles])
        assert few.kind == "too_large" and len(all_rows) == 50


def test_threads_share_a_pool(paths: list[Path]) -> None:
    with DatabasePool(2) as pool, ThreadPoolExecutor(6) as threads:
        databases = [open_database(path, pool=pool) for path in paths[:5]]

        def ask(i: int) -> bool:
            return databases[i % 5].execute(f"SELECT number, {i} FROM pet") == [(i % 5, i)]

        assert all(threads.map(ask, range(300)))


def test_closing(paths: list[Path]) -> None:
    """A handle on a shared pool closes alone; the pool closes for all."""
    pool = DatabasePool(1)
    one, other = open_database(paths[0], pool=pool), open_database(paths[1], pool=pool)
    one.close()
    with pytest.raises(ValueError, match="closed"):
        one.execute("SELECT 1")
    assert other.execute("SELECT number FROM pet") == [(1,)]
    pool.close()
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        other.execute("SELECT 1")
    assert pool.pids == []
