"""Sandboxed execution: what comes back, what is refused, what survives. The worker processes are real."""

import bisect
import hashlib
import math
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prm.errors import InputError
from prm.sql import SQLError
from prm.sql.database import MAX_SQL_BYTES, Database
from prm.sql.database import open_database as open_any
from prm.sql.pool import LONGEST_WAIT

#: Every statement reaches a worker; what is remembered is the business of test_results.py.
open_database = partial(open_any, cache=False)


FOREVER = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t"
#: One call of one C function for hours: 8 million comparisons of 8 MB; no progress handler fires inside it.
ONE_LONG_CALL = "SELECT instr(zeroblob(16000000), CAST(zeroblob(8000000) || x'01' AS BLOB))"

WORDS = [
    "SELECT", "WITH", "VALUES", "FROM", "pet", "name", "id", "*", "(", ")", ",", ";", "1", "'x'", "'", '"',
    "--", "/*", "*/", "\0", "\ud800", "AS", "UNION", "ORDER", "BY", "?", "DELETE",
]  # fmt: skip


def make(path: Path, script: str = "") -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "PRAGMA synchronous = OFF; CREATE TABLE pet(id INTEGER PRIMARY KEY, name TEXT, weight REAL);"
            "INSERT INTO pet VALUES (1, 'Rex', 31.5), (2, 'Mia', NULL), (3, 'Bo', 4.0);" + script
        )
    connection.close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "pets.sqlite")


@pytest.fixture
def database(path: Path):
    with open_database(path, timeout=5.0) as opened:
        yield opened


def kind_of(database: Database, sql: str) -> str:
    with pytest.raises(SQLError) as error:
        database.execute(sql)
    assert str(error.value)
    return error.value.kind


def worker_pid(database: Database) -> int:
    database.execute("SELECT 1")
    return database.pool.pids[0]


def gone(pid: int, within: float = 5.0) -> bool:
    """Whether a process ends in time; a zombie that nobody has waited for counts as ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_rows_and_columns(database: Database) -> None:
    rows = database.execute("SELECT id, name AS who, weight FROM pet ORDER BY id")
    assert rows == [(1, "Rex", 31.5), (2, "Mia", None), (3, "Bo", 4.0)]
    assert rows.columns == ("id", "who", "weight")
    assert isinstance(rows, list)
    nothing = database.execute("SELECT name FROM pet WHERE id > 9")
    assert nothing == [] and nothing.columns == ("name",)


def test_every_value_survives(database: Database) -> None:
    (row,) = database.execute(
        "SELECT NULL, 9223372036854775807, -9223372036854775808, 0.1, 9e999, -9e999, x'00ff', '', 'ä'"
        ", 'a' || char(0) || 'b', -0.0"
    )
    assert row == (
        None, 2**63 - 1, -(2**63), 0.1, math.inf, -math.inf, b"\x00\xff", "", "ä", "a\0b", 0.0,
    )  # fmt: skip
    assert [type(value) for value in row[1:7]] == [int, int, float, float, float, bytes]


def test_bad_utf8_is_marked_not_fatal(path: Path) -> None:
    make(path.with_name("bad.sqlite"), "INSERT INTO pet VALUES (9, CAST(x'ff41' AS TEXT), 1)")
    with open_database(path.with_name("bad.sqlite")) as database:
        assert database.execute("SELECT name FROM pet WHERE id = 9") == [("\ufffdA",)]


def test_double_quoted_text_as_sqlite_reads_it(database: Database) -> None:
    assert database.execute('SELECT id FROM pet WHERE name = "Rex"') == [(1,)]


def test_json_is_read(database: Database) -> None:
    assert database.execute("SELECT value FROM json_each('[2, 3]')") == [(2,), (3,)]
    assert database.execute("SELECT count(*) FROM json_tree('[1, [2]]'), pet") == [(12,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1;",
        " \n\t SELECT 1 ; -- done",
        "-- first\n/* then ; */ SELECT 1",
        "/**/WITH a AS (SELECT 1) SELECT * FROM a",
        "VALUES (1)",
        "sElEcT 1 /* open",
        "\ufeffSELECT 1",
    ],
)
def test_one_reading_statement_runs(database: Database, sql: str) -> None:
    assert database.execute(sql) == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "   \n",
        ";",
        "-- SELECT 1",
        "/* SELECT 1 */",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE pet",
        "SELECT\0 1",
        "INSERT INTO pet VALUES (9, 'x', 1)",
        "WITH a AS (SELECT 1) INSERT INTO pet SELECT 9, 'x', 1 FROM a",
        "WITH a AS (SELECT 1) DELETE FROM pet",
        "UPDATE pet SET name = 'x'",
        "DELETE FROM pet",
        "DROP TABLE pet",
        "CREATE TABLE t(a)",
        "CREATE TEMP TABLE t(a)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        "ATTACH 'other.sqlite' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "PRAGMA table_info(pet)",
        "PRAGMA writable_schema = 1",
        "SELECT * FROM pragma_table_info('pet')",
        "SELECT * FROM pragma_journal_mode('delete')",
        "SELECT load_extension('evil')",
        "SELECT fts3_tokenizer('simple')",
        "VACUUM",
        "VACUUM INTO 'copy.sqlite'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "BEGIN EXCLUSIVE",
        "COMMIT",
        "SAVEPOINT s",
        "SELEC 1",
        "(SELECT 1)",
        "EXPLAIN SELECT 1",
        "EXPLAIN QUERY PLAN SELECT 1",
        "/**/ EXPLAIN /**/ SELECT 1",
        "-- a\nEXPLAIN -- b\nSELECT 1",
        "SELECT 1 --" + "x" * MAX_SQL_BYTES,
        "SELECT " + "1 + " * 300_000 + "1",
    ],
    ids=lambda sql: repr(sql[:40]),
)
def test_refused(database: Database, sql: str) -> None:
    assert kind_of(database, sql) == "refused"
    assert database.execute("SELECT count(*) FROM pet") == [(3,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT",
        "SELECT FROM WHERE",
        "SELECT nme FROM pet",
        "SELECT * FROM not_authorized",
        "SELECT fullname FROM pet",
        "SELECT ?",
        "SELECT :name",
        "SELECT abs(-9223372036854775808)",
        "SELECT * FROM pet LIMIT 'many'",
        "SELECT '\ud800'",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT " + "1 + " * 5000 + "1",
        "SELECT 1" + " UNION ALL SELECT 1" * 900,
        "SELECT * FROM pet" + ", pet" * 80,
    ],
    ids=lambda sql: repr(sql[:40]),
)
def test_error(database: Database, sql: str) -> None:
    assert kind_of(database, sql) == "error"
    assert database.execute("SELECT 1") == [(1,)]


def test_sql_must_be_text(database: Database) -> None:
    with pytest.raises(TypeError):
        database.execute(b"SELECT 1")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT hex(randomblob(400000000))",
        "SELECT zeroblob(1000000000)",
        "SELECT replace(hex(zeroblob(1000000)), '0', printf('%.*c', 1000, 'x'))",
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT x FROM t",
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t LIMIT 900) "
        "SELECT x, hex(randomblob(100000)) FROM t",
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t LIMIT 90) "
        "SELECT group_concat(hex(randomblob(500000))) FROM t",
    ],
)
def test_too_large(database: Database, sql: str) -> None:
    assert kind_of(database, sql) == "too_large"
    assert database.execute("SELECT 1") == [(1,)]


def test_sorting_may_not_eat_the_memory_or_the_disk(path: Path, tmp_path: Path) -> None:
    """A sort of 3 GB: SQLite would spill it to a temporary file; here the memory limit stops it."""
    with open_database(path, timeout=30) as database:
        sql = (
            "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t LIMIT 3000) "
            "SELECT length(b) FROM (SELECT zeroblob(1000000) || x AS b FROM t ORDER BY b DESC)"
        )
        assert kind_of(database, sql) == "too_large"
        assert database.execute("SELECT 1") == [(1,)]


def test_row_cap_is_exact(path: Path) -> None:
    sql = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t LIMIT {}) SELECT x FROM t"
    with open_database(path, max_rows=1000) as database:
        assert len(database.execute(sql.format(1000))) == 1000
        assert kind_of(database, sql.format(1001)) == "too_large"


def test_byte_cap_counts_the_result_only(path: Path) -> None:
    make(path.with_name("wide.sqlite"), "INSERT INTO pet VALUES (9, printf('%.*c', 50000, 'x'), 1)")
    with open_database(path.with_name("wide.sqlite"), max_bytes=10_000) as database:
        assert database.execute("SELECT length(name) FROM pet WHERE id = 9") == [(50_000,)]
        assert kind_of(database, "SELECT name FROM pet") == "too_large"


@pytest.mark.parametrize(
    "sql",
    [
        FOREVER,
        ONE_LONG_CALL,
        "SELECT count(*) FROM pet" + ", pet AS p{}" * 25,
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT x FROM t WHERE x < 0",
    ],
    ids=["recursive", "one long call", "cartesian", "no row ever"],
)
def test_timeout_ends_and_the_next_statement_runs(path: Path, sql: str) -> None:
    with open_database(path, timeout=0.3) as database:
        pid = worker_pid(database)
        start = time.monotonic()
        assert kind_of(database, sql.format(*range(25))) == "timeout"
        assert 0.25 < time.monotonic() - start < 3
        assert gone(pid)
        assert database.execute("SELECT name FROM pet WHERE id = 3") == [("Bo",)]


def test_steps_end_the_same_statements_however_fast_the_machine_is(path: Path) -> None:
    """A statement of n steps runs under n and ends under a stride less, every time."""

    def runs(database: Database, n: int) -> bool:
        try:
            database.execute(
                f"WITH RECURSIVE t(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM t LIMIT {n}) SELECT x FROM t"
            )
        except SQLError as error:
            assert error.kind == "timeout" and "500,000 steps" in str(error)
            return False
        return True

    with open_database(path, timeout=60.0, cache=False, max_steps=500_000) as database:
        most = bisect.bisect_left(range(100_000), True, key=lambda n: not runs(database, n)) - 1
        assert most > 10_000
        assert [(runs(database, most), runs(database, most + 1)) for _ in range(5)] == [(True, False)] * 5
        assert runs(database, 1)  # the count begins anew with every statement
    with open_database(path, timeout=60.0) as database:
        assert runs(database, most + 1)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processor time of another process")
def test_a_machine_that_is_busy_elsewhere_ends_no_statement_whose_steps_are_counted(path: Path) -> None:
    """Its worker is stopped for longer than its time, and then needs little of it."""
    sql = FOREVER.replace("FROM t)", "FROM t LIMIT 10000)")
    with open_database(path, timeout=0.2, cache=False, max_steps=10**9) as database:
        database.execute("SELECT 1")
        (pid,) = database.pool.pids
        os.kill(pid, signal.SIGSTOP)
        wake = threading.Timer(0.8, os.kill, (pid, signal.SIGCONT))
        wake.start()
        assert database.execute(sql) == [(10_000,)]
        wake.join()
        assert database.pool.pids == [pid]
        # One call that takes no steps is ended all the same.
        stuck = "SELECT instr(zeroblob(16000000), CAST(zeroblob(8000000) || x'01' AS BLOB))"
        start = time.monotonic()
        assert kind_of(database, stuck) == "timeout" and time.monotonic() - start < 0.2 * LONGEST_WAIT


def test_worker_starts_with_the_first_statement_and_ends_with_the_block(path: Path) -> None:
    with open_database(path) as database:
        assert database.pool.pids == []
        pid = worker_pid(database)
        assert worker_pid(database) == pid  # one worker for all statements
    assert gone(pid, within=1)
    with pytest.raises(ValueError, match="closed"):
        database.execute("SELECT 1")
    database.close()


def test_a_forgotten_database_takes_its_worker_along(path: Path) -> None:
    database = open_database(path)
    pid = worker_pid(database)
    del database
    assert gone(pid)


def test_killed_worker_is_replaced(database: Database) -> None:
    for _ in range(5):
        os.kill(worker_pid(database), signal.SIGKILL)
        assert database.execute("SELECT count(*) FROM pet") == [(3,)]


def test_worker_killed_during_statements(path: Path) -> None:
    """Killed once, the statement is run again; killed each time, it is `crashed`. Then all is well again."""
    with open_database(path, timeout=1.0) as database:
        first = worker_pid(database)
        threading.Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
        assert kind_of(database, FOREVER) == "timeout"
        assert gone(first)

        stop = threading.Event()

        def kill_all() -> None:
            while not stop.wait(0.1):
                (worker,) = database.pool._workers
                if worker.opened and worker.pid is not None:  # it has begun to run the statement
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_all)
        killer.start()
        assert kind_of(database, FOREVER) == "crashed"
        stop.set()
        killer.join()
        assert database.execute("SELECT 1") == [(1,)]


def test_stopped_worker_counts_as_slow(path: Path) -> None:
    with open_database(path, timeout=0.3) as database:
        os.kill(worker_pid(database), signal.SIGSTOP)
        assert kind_of(database, "SELECT 1 --" + "x" * 90_000) == "timeout"
        assert database.execute("SELECT 1") == [(1,)]


def test_interrupt_leaves_no_stale_answer(database: Database) -> None:
    """Ctrl-C in the middle of a statement: its late answer must not be taken for that of the next one."""
    pid = worker_pid(database)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        database.execute(FOREVER)
    assert gone(pid)
    assert database.execute("SELECT 2") == [(2,)]


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in folder.iterdir()
    }


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_nothing_is_written_anywhere(tmp_path: Path, journal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "pets.sqlite", f"PRAGMA journal_mode = {journal};")
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    with open_database(path, timeout=0.3) as database:
        for sql in (
            "SELECT * FROM pet ORDER BY name",
            "ATTACH 'made.sqlite' AS a",
            "VACUUM INTO 'made.sqlite'",
            "WITH a AS (SELECT 1) DELETE FROM pet",
            "DELETE FROM pet",
            "PRAGMA journal_mode = wal",
            "CREATE TABLE made(a)",
            FOREVER,
            "SELECT count(*) FROM pet",
        ):
            try:
                database.execute(sql)
            except SQLError:
                assert sql != "SELECT count(*) FROM pet"
            assert snapshot(tmp_path) == before
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["a b.sqlite", "50%25?mode=rwc#x.sqlite", "ü'\"&;.sqlite", "no_suffix"])
def test_odd_paths(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder #1? 100%"
    folder.mkdir()
    path = make(folder / name)
    with open_database(str(path)) as database:
        assert database.execute("SELECT count(*) FROM pet") == [(3,)]
    assert [file.name for file in folder.iterdir()] == [name]


def test_relative_path_and_a_later_chdir(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    database = open_database("pets.sqlite")
    monkeypatch.chdir("/")
    with database:
        assert database.execute("SELECT count(*) FROM pet") == [(3,)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such database"),
        ("folder", "a folder"),
        (b"", "empty"),
        (b"id,name\n1,Rex\n", "not an SQLite database"),
        (b"SQLite format 2\0", "not an SQLite database"),
    ],
)
def test_no_database(tmp_path: Path, content: bytes | str | None, says: str) -> None:
    path = tmp_path / "x.sqlite"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        open_database(path)
    assert error.value.file == str(path)
    assert list(tmp_path.iterdir()) == ([] if content is None else [path])


def test_a_pipe_is_no_database_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no such database"):
        open_database(tmp_path / "pipe")


def test_broken_inside(path: Path) -> None:
    """A file with the right header and rubbish behind it opens, and every statement says what is wrong."""
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 8000)
    with open_database(path) as database:
        assert kind_of(database, "SELECT 1") == "unavailable"


def test_unfinished_writes_are_not_overlooked(tmp_path: Path) -> None:
    """With immutable=1 SQLite would silently read the state before the log: such a file is refused."""
    writer = sqlite3.connect(tmp_path / "live.sqlite")
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("CREATE TABLE t(a)")
    writer.commit()
    with pytest.raises(InputError, match="write-ahead log"):
        open_database(tmp_path / "live.sqlite")
    writer.close()
    with open_database(tmp_path / "live.sqlite") as database:
        assert database.execute("SELECT count(*) FROM t") == [(0,)]

    make(tmp_path / "cut.sqlite")
    (tmp_path / "cut.sqlite-journal").write_bytes(b"\xd9\xd5\x05\xf9 and more")
    with pytest.raises(InputError, match="hot journal"):
        open_database(tmp_path / "cut.sqlite")
    (tmp_path / "cut.sqlite-journal").write_bytes(b"\0" * 512)  # what journal_mode=persist leaves behind
    open_database(tmp_path / "cut.sqlite").close()


def test_threads_share_a_database(database: Database) -> None:
    def ask(i: int) -> bool:
        return database.execute(f"SELECT {i}, name FROM pet WHERE id = {i % 3 + 1}") == [
            (i, ("Rex", "Mia", "Bo")[i % 3])
        ]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))


def test_worker_outlives_the_thread_that_started_it(database: Database) -> None:
    with ThreadPoolExecutor(1) as pool:
        pid = pool.submit(worker_pid, database).result()
    time.sleep(0.7)  # longer than the worker's look at its parent
    assert worker_pid(database) == pid


def _square_ids(path: str) -> list[tuple]:
    with open_database(path) as database:
        return list(database.execute("SELECT id * id FROM pet"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_process_pools(path: Path, database: Database, method: str) -> None:
    database.execute("SELECT 1")  # the parent has a worker of its own while it forks
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_square_ids, [str(path)] * 4) == [[(1,), (4,), (9,)]] * 4
    assert database.execute("SELECT 2") == [(2,)]


def test_a_forked_child_does_not_take_over_its_parents_worker(database: Database) -> None:
    pid = worker_pid(database)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            own = worker_pid(database)
            if own != pid and database.execute("SELECT 5") == [(5,)]:
                code = 0
            database.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker_pid(database) == pid


SCRIPT = """
import os, sys, time
from prm.sql import open_database
database = open_database(sys.argv[1], timeout=60)
database.execute("SELECT 1")
if sys.argv[2] == "fork" and os.fork() == 0:  # a child that holds the parent's end of the link open
    time.sleep(30)
print(database.pool.pids[0], os.getpid(), flush=True)
if sys.argv[2] == "busy":
    database.execute(sys.argv[3])
time.sleep(30)
"""


@pytest.mark.parametrize("mode", ["idle", "busy", "fork"])
def test_worker_dies_with_a_killed_parent(path: Path, mode: str) -> None:
    """A script without a __main__ guard starts a worker; kill -9 of the script ends the worker as well."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), mode, ONE_LONG_CALL],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        pid = int(parent.stdout.readline().split()[0])
        if mode == "busy":
            time.sleep(0.2)
        assert not gone(pid, within=0.1)
        parent.kill()
        ended = gone(pid)
        if mode == "fork":
            os.killpg(parent.pid, signal.SIGKILL)
        assert ended


def test_worker_runs_nothing_of_ours(database: Database) -> None:
    """The worker is a bare interpreter: no site-packages, hence a quick start and little memory."""
    status = Path(f"/proc/{worker_pid(database)}/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident < 30_000  # kB; numpy alone would bring it over


def test_thousands_of_statements_a_second(database: Database) -> None:
    """The best of some rounds, as machines are busy at times: 500 take about 0.03 s on an idle one."""
    rounds = []
    for _ in range(5):
        start = time.monotonic()
        for _ in range(500):
            database.execute("SELECT name FROM pet WHERE id = 2")
        rounds.append(time.monotonic() - start)
    assert min(rounds) < 0.25


def test_a_script_that_forgets_to_close_ends_quietly(path: Path) -> None:
    code = (
        "import sys; from prm.sql import open_database; d = open_database(sys.argv[1]); d.execute('SELECT 1')"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(path)]
    assert subprocess.check_output(command, stderr=subprocess.STDOUT, timeout=30) == b""


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sql=st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)))
def test_any_text_gives_rows_or_an_sql_error(database: Database, sql: str) -> None:
    try:
        rows = database.execute(sql)
    except SQLError as error:
        assert error.kind in ("error", "refused", "too_large")
    else:
        assert rows.columns and all(len(row) == len(rows.columns) for row in rows)


def test_room_names_without_sqlglot() -> None:
    code = "import sys, prm.sql; prm.sql.open_database, prm.sql.SQLError; print('sqlglot' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    "code",
    [
        "from prm.sql import decompose; from prm.sql.decompose import decompose as f; assert decompose is f",
        "from prm.sql.decompose import decompose as f; import prm.sql; assert prm.sql.decompose is f",
        "import prm.sql.decompose, prm.sql, sys; assert callable(prm.sql.decompose); "
        "assert sys.modules['prm.sql.decompose'].decompose is prm.sql.decompose",
    ],
)
def test_decompose_is_the_function(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
