"""Statements that hang, eat memory, write, or lie in wait: the engine survives every one of them.

All of them run on one database through one pool, and then it is asked whether each ended as it should, in its
time, with nothing written anywhere and no worker lost. The last tests fuzz, and kill workers at random.
"""

import hashlib
import os
import random
import signal
import sqlite3
import string
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from prm.sql.database import open_database
from prm.sql.pool import MAX_MEMORY, DatabasePool
from prm.sql.results import SQLError

LIMIT = 0.5  # seconds a statement may run

NUMBERS = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t {})"
FOREVER = NUMBERS.format("")


def doubling(levels: int, body: str = "SELECT * FROM c{0} UNION ALL SELECT * FROM c{0}") -> str:
    ctes = ["c0 AS (SELECT * FROM pet)", *(f"c{i + 1} AS ({body.format(i)})" for i in range(levels))]
    return f"WITH {', '.join(ctes)} SELECT count(*) FROM c{levels}"


def nested(levels: int) -> str:
    sql = "SELECT * FROM pet"
    for _ in range(levels):
        sql = f"SELECT * FROM ({sql}) JOIN ({sql})"
    return sql


#: (statement, how it may end). What is too much for the time on one machine may be too much for the memory on
#: another; a faster one may even finish.
HOSTILE = [
    # endless recursion
    (FOREVER + " SELECT count(*) FROM t", "timeout"),
    (FOREVER + " SELECT x FROM t", "too_large"),
    (FOREVER + " SELECT x FROM t WHERE x < 0", "timeout"),
    (FOREVER + " SELECT max(x), min(x), avg(x), group_concat(NULL) FROM t", "timeout"),
    (FOREVER + " SELECT x FROM t ORDER BY x DESC", "timeout too_large"),
    (FOREVER + " SELECT DISTINCT x % 10 FROM t", "timeout"),
    (FOREVER + " SELECT group_concat(x) FROM t", "timeout too_large"),
    (FOREVER + " SELECT json_group_array(x) FROM t", "timeout too_large"),
    (FOREVER + " SELECT sum(x) OVER (ORDER BY x) FROM t", "timeout too_large"),
    (FOREVER + " SELECT * FROM t EXCEPT SELECT * FROM t", "timeout too_large"),
    (FOREVER + " SELECT 1 WHERE 0 IN (SELECT x FROM t)", "timeout too_large"),
    (FOREVER + " SELECT EXISTS (SELECT 1 FROM t WHERE x < 0)", "timeout"),
    ("WITH RECURSIVE t(x) AS (SELECT 1 UNION SELECT x + 1 FROM t) SELECT * FROM t", "too_large timeout"),
    (
        "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t) SELECT length(s) FROM t",
        "timeout too_large",
    ),
    (
        "WITH RECURSIVE t(b) AS (SELECT zeroblob(1000000) UNION ALL SELECT zeroblob(1000000) FROM t) "
        "SELECT b FROM t ORDER BY b",
        "timeout too_large",
    ),
    (
        "WITH RECURSIVE t(x) AS (VALUES (1), (2) UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t",
        "timeout too_large",
    ),
    ("SELECT (" + FOREVER + " SELECT max(x) FROM t)", "timeout"),
    ("SELECT 1 LIMIT (" + FOREVER + " SELECT max(x) FROM t)", "timeout"),
    (FOREVER + ", u AS (SELECT value FROM t, json_each('[1, 2]')) SELECT count(*) FROM u", "timeout"),
    # cartesian products
    ("SELECT count(*) FROM pet" + "".join(f", pet AS p{i}" for i in range(25)), "timeout"),
    ("SELECT * FROM pet" + "".join(f", pet AS p{i}" for i in range(25)), "too_large timeout"),
    ("SELECT count(*) FROM pet" + "".join(f" JOIN pet AS p{i}" for i in range(60)), "timeout"),
    ("SELECT count(*) FROM pet" + ", pet" * 80, "error"),
    ("SELECT count(DISTINCT a.note || b.note || c.note) FROM pet a, pet b, pet c", "rows timeout too_large"),
    (NUMBERS.format("LIMIT 9999") + " SELECT count(*) FROM t a, t b, t c WHERE a.x < b.x", "timeout"),
    (NUMBERS.format("LIMIT 9999") + " SELECT a.x FROM t a, t b ORDER BY a.x * b.x", "timeout too_large"),
    ("SELECT (SELECT count(*) FROM " + "pet, " * 20 + "pet p) FROM pet", "timeout"),
    # one call of one function that runs for minutes
    ("SELECT instr(zeroblob(16000000), CAST(zeroblob(8000000) || x'01' AS BLOB))", "timeout"),
    ("SELECT replace(printf('%.*c', 9000000, 'a'), printf('%.*c', 4000000, 'a') || 'b', '')", "timeout"),
    ("SELECT printf('%.*c', 900000, 'a') LIKE '" + "%a" * 40 + "%b'", "timeout rows"),
    ("SELECT printf('%.*c', 900000, 'a') GLOB '" + "*a" * 40 + "*b'", "timeout rows"),
    ("SELECT printf('%.*c', 900000, 'a') LIKE '" + "%_a" * 9000 + "b'", "timeout error rows"),
    ("SELECT trim(printf('%.*c', 900000, 'a'), printf('%.*c', 900000, 'b') || 'a')", "timeout rows"),
    # huge values
    ("SELECT hex(randomblob(400000000))", "too_large timeout"),
    ("SELECT randomblob(2000000000)", "too_large"),
    ("SELECT zeroblob(9223372036854775807)", "too_large"),
    ("SELECT printf('%.*c', 2000000000, 'x')", "too_large rows timeout"),
    ("SELECT printf('%2000000000d', 1)", "too_large rows error timeout"),
    ("SELECT replace(hex(zeroblob(1000000)), '0', printf('%.*c', 1000, 'x'))", "too_large"),
    ("SELECT quote(zeroblob(15000000)) || quote(zeroblob(15000000))", "too_large"),
    ("SELECT json_array(" + ", ".join(["hex(zeroblob(8000000))"] * 8) + ")", "too_large timeout"),
    ("SELECT char(" + ", ".join(["1114111"] * 900) + ")", "error rows"),
    (
        NUMBERS.format("LIMIT 90") + " SELECT group_concat(hex(randomblob(500000))) FROM t",
        "too_large timeout",
    ),
    (NUMBERS.format("LIMIT 900") + " SELECT x, hex(randomblob(100000)) FROM t", "too_large timeout"),
    (NUMBERS.format("LIMIT 99") + " SELECT group_concat(hex(zeroblob(500000))) FROM t", "timeout too_large"),
    # memory, time or stack while the statement is prepared
    (doubling(40), "timeout too_large error"),
    (doubling(24), "timeout too_large error"),
    (doubling(12, "SELECT a.* FROM c{0} a, c{0} b"), "timeout too_large error"),
    (doubling(30, "SELECT a.* FROM c{0} a LEFT JOIN c{0} b USING (id)"), "timeout too_large error"),
    (nested(10), "timeout too_large error"),
    ("SELECT " + "(" * 40_000 + "1" + ")" * 40_000, "error"),
    ("SELECT " + "-" * 50_000 + "1", "refused error rows"),
    ("SELECT " + "- " * 40_000 + "1", "error"),
    ("SELECT " + "NOT " * 20_000 + "1", "error"),
    ("SELECT 1" + " + 1" * 20_000, "error"),
    ("SELECT 1" + " UNION ALL SELECT 1" * 5000, "error"),
    ("SELECT " + ", ".join(["1"] * 30_000), "error"),
    ("SELECT 1 IN (" + ", ".join(map(str, range(15_000))) + ")", "rows"),
    ("SELECT CASE " + "WHEN 1 THEN 1 " * 6000 + "END", "rows error"),
    ("SELECT " + "CASE WHEN 1 THEN " * 3000 + "1" + " END" * 3000, "error"),
    ("SELECT 1 FROM " + "(SELECT * FROM " * 3000 + "pet" + ")" * 3000, "error"),
    ("SELECT '" + "x" * 99_000 + "'", "rows"),
    ("SELECT '" + "x" * 1_000_000 + "'", "refused"),
    ("SELECT 1 /*" + " padding" * 200_000 + "*/", "refused"),
    # writing
    ("ATTACH 'made.sqlite' AS made", "refused"),
    ("ATTACH DATABASE 'file:made.sqlite?mode=rwc' AS made", "refused"),
    ("VACUUM", "refused"),
    ("VACUUM INTO 'made.sqlite'", "refused"),
    ("SELECT 1; VACUUM INTO 'made.sqlite'", "refused"),
    ("CREATE TABLE made AS SELECT * FROM pet", "refused"),
    ("CREATE TEMP TABLE made AS SELECT * FROM pet", "refused"),
    ("CREATE VIRTUAL TABLE made USING fts5(a)", "refused"),
    ("INSERT INTO pet VALUES (99, 'x', 1, NULL) RETURNING *", "refused"),
    ("WITH a AS (SELECT 1) UPDATE pet SET name = 'x' RETURNING id", "refused"),
    ("WITH a AS (SELECT 1) DELETE FROM pet RETURNING id", "refused"),
    ("REPLACE INTO pet VALUES (1, 'x', 1, NULL)", "refused"),
    ("PRAGMA writable_schema = 1", "refused"),
    ("PRAGMA journal_mode = wal", "refused"),
    ("SELECT * FROM pragma_journal_mode('wal')", "refused"),
    ("SELECT * FROM pragma_user_version(7)", "refused error"),
    ("SELECT load_extension('./made.so')", "refused error"),
    ("SELECT writefile('made', 'x')", "refused error"),
    ("SELECT readfile('/etc/passwd')", "refused error"),
    ("SELECT fts3_tokenizer('simple', x'00')", "refused error"),
    ("SELECT * FROM dbstat", "refused error"),
    ("SELECT * FROM pragma_database_list", "refused"),
    ("SELECT * FROM pragma_table_info('pet')", "refused"),
    ("SELECT * FROM pragma_wal_checkpoint('truncate')", "refused error"),
    ("SELECT * FROM fsdir('/')", "refused error"),
    ("SELECT \"load_extension\"('./made.so', 'x')", "refused error"),
    ("SELECT * FROM pet FOR UPDATE", "error"),
    ("SELECT * FROM sqlite_dbpage", "refused error"),
    ("REINDEX", "refused"),
    ("ANALYZE", "refused"),
    # transactions, several statements, none
    ("BEGIN IMMEDIATE", "refused"),
    ("COMMIT", "refused"),
    ("SAVEPOINT a", "refused"),
    ("SELECT 1; SELECT 2", "refused"),
    ("SELECT 1;;SELECT 2", "refused"),
    ("EXPLAIN QUERY PLAN SELECT 1", "refused"),
    ("/**/ EXPLAIN /**/ SELECT 1", "refused"),
    ("", "refused"),
    (" \n;\t", "refused"),
    ("--", "refused"),
    ("/* SELECT 1 */", "refused"),
    ("/* open", "refused"),
    # texts that are none
    ("SELECT '\ud800'", "error"),
    ("SELECT \0", "refused"),
    ("SELECT 1\0; DROP TABLE pet", "refused"),
    ("\x1b[2JSELECT 1", "refused"),
    ("ＳＥＬＥＣＴ 1", "refused"),
    ("SELECT 1 -- \N{RIGHT-TO-LEFT OVERRIDE}", "rows"),
    # odd values, which must come through
    ("SELECT CAST(x'ff00fe' AS TEXT), CAST(x'c328' AS TEXT)", "rows"),
    ("SELECT note FROM pet", "rows"),
    ('SELECT 1 AS "a\nb"', "rows"),
    ("SELECT 9e999, -9e999, 0.0 / 0.0, abs(-9223372036854775807), -9223372036854775808", "rows"),
    ("SELECT abs(-9223372036854775808)", "error"),
    ("SELECT sum(x) FROM (SELECT 9223372036854775807 AS x UNION ALL SELECT 1)", "error"),
    ("SELECT ?", "error"),
    ("SELECT :a, @b, $c", "error"),
]  # fmt: skip


def make(path: Path) -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE pet(id INTEGER PRIMARY KEY, name TEXT, weight REAL, note TEXT);"
            "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t LIMIT 300) "
            "INSERT INTO pet SELECT x, 'pet ' || (x % 50), x / 7.0, CAST(x'80ff' || x AS TEXT) FROM t;"
        )
    connection.close()
    return path


def digest(folder: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*")}


def ending(result) -> str:
    return result.kind if isinstance(result, SQLError) else "rows"


def memory(pid: int, what: str) -> int:
    """Bytes of `VmHWM` (the most so far) or `VmRSS` (now) of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(what)).split()[1])


@pytest.fixture(scope="module")
def tortured(tmp_path_factory):
    """What every hostile statement gave, how long all took, and the folder before and after."""
    folder = tmp_path_factory.mktemp("torture")
    path = make(folder / "pets.sqlite")
    before, home = digest(folder), os.getcwd()
    os.chdir(folder)
    try:
        with DatabasePool(2) as pool:
            database = open_database(path, timeout=LIMIT, pool=pool, cache=False)
            start = time.monotonic()
            results = pool.execute_all([(database, sql) for sql, _ in HOSTILE])
            seconds = time.monotonic() - start
            afterwards = pool.execute_all([(database, f"SELECT count(*) + {i} FROM pet") for i in range(50)])
    finally:
        os.chdir(home)
    return results, seconds, before, digest(folder), afterwards


def test_there_are_many_and_no_two_alike() -> None:
    assert len({sql for sql, _ in HOSTILE}) == len(HOSTILE) >= 100


@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=lambda n: f"{n}: {HOSTILE[n][0][:50]!r}")
def test_it_ends_as_it_should(tortured, number: int) -> None:
    result = tortured[0][number]
    assert ending(result) in HOSTILE[number][1].split(), result


def test_nothing_hangs(tortured) -> None:
    results, seconds, *_ = tortured
    timeouts = sum(ending(result) == "timeout" for result in results)
    assert timeouts >= 15
    assert seconds < (timeouts * (LIMIT + 0.5)) / 2 + 25  # two workers; what ends by itself takes the rest


def test_no_byte_is_written(tortured) -> None:
    assert tortured[2] == tortured[3] and len(tortured[2]) == 1


def test_no_worker_is_lost(tortured) -> None:
    assert tortured[4] == [[(300 + i,)] for i in range(50)]


def test_memory_is_bounded_and_given_back(tortured, tmp_path: Path) -> None:
    """What the worker takes at most, over everything that was too large; and what it keeps of it."""
    bombs = [sql for (sql, _), was in zip(HOSTILE, tortured[0], strict=True) if ending(was) == "too_large"]
    most = []
    with open_database(make(tmp_path / "pets.sqlite"), timeout=10, cache=False) as database:
        for sql in bombs:
            with suppress(SQLError):
                database.execute(sql)
            database.execute("SELECT 1")
            most.append(memory(database.pool.pids[0], "VmHWM"))
        assert max(most) < MAX_MEMORY
        assert memory(database.pool.pids[0], "VmRSS") < 200 << 20


# --- fuzz ---------------------------------------------------------------------------------------------------

PIECES = [
    "SELECT", "WITH", "RECURSIVE", "t(x) AS", "VALUES", "FROM", "pet", "name", "weight", "*", "(", ")", ",",
    ";", "1", "1e9", "'x'", "'", '"', "x'00'", "--", "/*", "*/", "\0", "\ud800", "AS", "UNION ALL", "EXCEPT",
    "ORDER BY",
    "LIMIT", "OFFSET -1", "?1", "OVER ()", "PARTITION BY", "randomblob(9e8)", "zeroblob(1e9)", "hex(",
    "ATTACH",
    "PRAGMA", "EXPLAIN", "CAST(", "AS BLOB)", "CASE", "END", "IN", "LIKE", "GLOB", "NOT", "JOIN", "ON",
    "USING",
    "DELETE", "INTO", "RETURNING", "sqlite_master", "group_concat(", "json_each(", "generate_series(1, 1e9)",
]  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("fuzz") / "pets.sqlite")
    with open_database(path, timeout=0.3, cache=False) as database:
        yield database


def check_fuzz(database, sql: str) -> None:
    """Rows or an error in time; and the next statement gets its own answer."""
    before = digest(database.path.parent)
    start = time.monotonic()
    mark = random.random()
    first, second = database.pool.execute_all([(database, sql), (database, f"SELECT {mark!r}")])
    assert time.monotonic() - start < 10
    assert isinstance(first, SQLError) or all(len(row) == len(first.columns) for row in first)
    assert second == [(mark,)]
    assert digest(database.path.parent) == before


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join)))
def test_any_text(fuzzed, sql: str) -> None:
    check_fuzz(fuzzed, sql)


def expressions() -> st.SearchStrategy[exp.Expression]:
    """Syntax trees of sqlglot: right in form, without sense in content."""
    columns = st.sampled_from(["id", "name", "weight", "note", "p.id", "rowid", "nope"]).map(exp.column)
    literals = st.one_of(
        st.integers(-(2**70), 2**70).map(exp.Literal.number),
        st.floats().map(lambda value: exp.Literal.number(repr(value))),
        st.text(alphabet=string.printable + "äß\N{SNOWMAN}", max_size=8).map(exp.Literal.string),
        st.just(exp.null()),
    )
    functions = st.sampled_from(
        ["abs", "hex", "randomblob", "zeroblob", "printf", "replace", "substr", "instr", "max", "sum",
         "total", "group_concat", "json", "json_group_array", "char", "unicode", "nullif", "date",
         "strftime", "quote"]
    )  # fmt: skip
    binary = st.sampled_from(
        [exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.DPipe, exp.EQ, exp.LT, exp.Like, exp.Glob, exp.And,
         exp.Or, exp.Is, exp.BitwiseAnd]
    )  # fmt: skip

    def deeper(inner: st.SearchStrategy) -> st.SearchStrategy:
        return st.one_of(
            st.builds(
                lambda kind, a, b: kind(this=exp.paren(a), expression=exp.paren(b)), binary, inner, inner
            ),
            st.builds(
                lambda f, a: exp.Anonymous(this=f, expressions=a), functions, st.lists(inner, max_size=3)
            ),
            st.builds(lambda a, b, c: exp.Case().when(a, b).else_(c), inner, inner, inner),
            st.builds(lambda a: exp.select(a).from_("pet").limit(3).subquery(), inner),
            st.builds(lambda a: exp.Not(this=exp.paren(a)), inner),
            st.builds(lambda a, t: exp.cast(a, t), inner, st.sampled_from(["text", "int", "real", "blob"])),
        )

    return st.recursive(st.one_of(columns, literals), deeper, max_leaves=12)


@st.composite
def queries(draw) -> exp.Expression:
    some = expressions()
    query = exp.select(*draw(st.lists(some, min_size=1, max_size=3))).from_("pet AS p")
    for alias in draw(st.lists(st.sampled_from(["a", "b"]), max_size=2)):
        query = query.join(f"pet AS {alias}", on=draw(some))
    if draw(st.booleans()):
        query = query.where(draw(some))
    if draw(st.booleans()):
        query = query.group_by(draw(some)).having(draw(some))
    if draw(st.booleans()):
        query = query.order_by(draw(some))
    if draw(st.booleans()):
        query = draw(st.sampled_from([exp.union, exp.except_, exp.intersect]))(query, draw(queries()))
    return query


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(query=queries())
def test_any_syntax_tree(fuzzed, query: exp.Expression) -> None:
    check_fuzz(fuzzed, query.sql(dialect="sqlite"))


# --- killed workers -----------------------------------------------------------------------------------------


def mixed_statements(count: int, rng: random.Random) -> list[tuple[int, str, object]]:
    """(database, statement, rows or kind of error) of every sort, each with an answer of its own."""
    made = []
    for i in range(count):
        database, n = rng.randrange(5), rng.randrange(1, 300)
        kind = rng.random()
        if kind < 0.6:
            sql = f"SELECT id, name, {i} FROM pet WHERE id = {n}"
            answer = [(n, f"pet {n % 50} of {database}", i)]
        elif kind < 0.7:
            sql = f"SELECT {i}, count(*), sum(a.id) FROM pet a JOIN pet b ON a.id < b.id WHERE b.id = {n}"
            answer = [(i, n - 1, n * (n - 1) // 2 if n > 1 else None)]
        elif kind < 0.8:  # some 10 ms
            sql = f"SELECT {i}, count(*) FROM pet a, pet b WHERE (a.id + b.id) % 2 = 0"
            answer = [(i, 300 * 300 // 2)]
        elif kind < 0.9:
            length = rng.choice([10, 1000, 300_000])
            sql = f"SELECT {i}, hex(zeroblob({length}))"
            answer = [(i, "00" * length)]
        elif kind < 0.95:
            sql, answer = f"SELECT {i} FROM nowhere", "error"
        elif kind < 0.98:
            sql, answer = f"SELECT {i}; DELETE FROM pet", "refused"
        elif kind < 0.998:
            sql, answer = f"SELECT {i}, zeroblob(2000000000)", "too_large"
        else:
            sql, answer = f"{FOREVER} SELECT {i}, count(*) FROM t", "timeout"
        made.append((database, sql, answer))
    return made


@pytest.mark.parametrize(("count", "workers"), [(1500, 2), pytest.param(10_000, 4, marks=pytest.mark.slow)])
def test_every_result_is_right_while_workers_are_killed(tmp_path: Path, count: int, workers: int) -> None:
    """kill -9 of random workers while statements on five databases run. A worker is spared while it runs what
    never ends: that is repeated as often as it is killed, and answered only when its time is over."""
    paths = [make(tmp_path / f"{i}.sqlite") for i in range(5)]
    for i, path in enumerate(paths):
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE pet SET name = name || ' of ' || ?", (i,))
        connection.close()
    before = digest(tmp_path)
    rng = random.Random(count)
    statements = mixed_statements(count, rng)
    killed, stop = 0, threading.Event()
    with DatabasePool(workers) as pool:
        databases = [open_database(path, timeout=0.5, pool=pool, cache=False) for path in paths]

        def kill_at_random() -> None:
            nonlocal killed
            while not stop.wait(rng.uniform(0.005, 0.1)):
                worker = rng.choice(pool._workers)
                with suppress(
                    ProcessLookupError, RuntimeError
                ):  # it ends, or its queue changes, at this moment
                    if (pid := worker.pid) and not any(FOREVER in s.sql for s in worker.waiting):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1

        killer = threading.Thread(target=kill_at_random)
        killer.start()
        try:
            results = []
            for i in range(0, count, 2500):
                results += pool.execute_all([(databases[d], sql) for d, sql, _ in statements[i : i + 2500]])
        finally:
            stop.set()
            killer.join()
        for (_, sql, answer), result in zip(statements, results, strict=True):
            assert (result.kind if isinstance(result, SQLError) else list(result)) == answer, sql
        assert killed >= count // 500
        # A worker that was killed when its work was done is started again when there is more of it.
        assert pool.execute_all([(databases[0], "SELECT 1")] * 500) == [[(1,)]] * 500
        assert len(pool.pids) == workers
    assert digest(tmp_path) == before
