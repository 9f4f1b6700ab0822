"""PostgreSQL through the same interface as SQLite, against a real server that the tests start and stop."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from prm.cli import main
from prm.errors import InputError
from prm.sql import SQLError, read_schema, schema_text
from prm.sql import open_database as open_any
from prm.sql.compare import is_ordered, results_equal
from prm.sql.pool import DatabasePool

psycopg = pytest.importorskip("psycopg")
open_database = partial(open_any, cache=False)

SCRIPT = """
CREATE TABLE "Owner"(owner_id integer PRIMARY KEY, name text NOT NULL, "order" varchar(20), born date);
CREATE TABLE pet(id integer PRIMARY KEY, name text, weight numeric(8, 2), tame boolean,
    owner_id integer REFERENCES "Owner"(owner_id));
CREATE TABLE visit(pet_id integer, number integer, cost double precision, PRIMARY KEY (pet_id, number));
CREATE VIEW tame AS SELECT * FROM pet WHERE tame;
CREATE SEQUENCE counter;
CREATE FUNCTION grow() RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION twice(a integer) RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 2 * a $$;
INSERT INTO "Owner" VALUES (1, 'Ada', 'first', '1980-05-01'), (2, 'Ben', 'second', '1991-01-31');
INSERT INTO pet VALUES (1, 'Rex', 31.5, true, 1), (2, 'Mia', NULL, true, 1), (3, 'Bo', 4, false, 2),
    (4, 'Zoe', 4.25, false, NULL);
INSERT INTO visit SELECT 1 + i % 4, i, i * 2.5 FROM generate_series(0, 19) AS i;
CREATE ROLE reader LOGIN PASSWORD 'top-secret';
GRANT SELECT ON pet TO reader;
"""


@pytest.fixture(scope="module")
def server():
    """`server(user)` is the URL of the database `pets` on a server of our own, on a Unix socket."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4]))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path must be short
    as_user = []
    if os.getuid() == 0:  # the server refuses to run as root
        if subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("run as root, and there is no user postgres to run a server as")
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]

    def control(*arguments: str) -> None:
        command = [
            *as_user,
            str(Path(initdb).with_name("pg_ctl")),
            "-D",
            str(folder / "data"),
            "-w",
            *arguments,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def url(user: str = "postgres", database: str = "pets") -> str:
        return f"postgresql://{user}@/{database}?host={folder}"

    try:
        subprocess.run(
            [*as_user, initdb, "-D", folder / "data", "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8",
             "--locale=C"], check=True, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        control("start", "-o", options, "-l", str(folder / "log"))
        try:
            with psycopg.connect(url(database="postgres"), autocommit=True) as connection:
                connection.execute("CREATE DATABASE pets")
            with psycopg.connect(url()) as connection:
                connection.execute(SCRIPT)
            url.restart = lambda: control("restart", "-m", "fast", "-l", str(folder / "log"))
            yield url
        finally:
            control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def database(server):
    with open_database(server(), timeout=0.8, max_rows=5000) as opened:
        yield opened


def content(server) -> list[tuple]:
    """Everything that a statement might have changed."""
    with psycopg.connect(server()) as connection:
        queries = [
            "SELECT count(*), sum(id) FROM pet",
            "SELECT last_value, is_called FROM counter",
            "SELECT count(*) FROM pg_class",
            "SELECT count(*) FROM pg_largeobject_metadata",
        ]
        return [connection.execute(query).fetchone() for query in queries]


def test_rows_columns_and_dialect(database) -> None:
    rows = database.execute("SELECT id, name AS who, weight, tame FROM pet ORDER BY id")
    assert rows == [(1, "Rex", 31.5, 1), (2, "Mia", None, 1), (3, "Bo", 4, 0), (4, "Zoe", 4.25, 0)]
    assert rows.columns == ("id", "who", "weight", "tame")
    nothing = database.execute("SELECT name, weight FROM pet WHERE id > 9")
    assert nothing == [] and nothing.columns == ("name", "weight")
    assert database.dialect == "postgres"


def test_values_are_those_of_sqlite(database) -> None:
    (row,) = database.execute(
        "SELECT NULL, true, 9223372036854775807, 1.50::numeric, 3.00::numeric, 1e300::float8, "
        "'NaN'::float8 = 'NaN', 'ä', '\\xff00'::bytea, date '2020-02-29', date '0044-03-15 BC', "
        "'infinity'::timestamp, timestamp '2020-02-29 10:30', array[1, 2], '{\"a\": 1}'::jsonb, 7::oid, "
        "'%s % '"
    )
    assert row == (
        None, 1, 2**63 - 1, 1.5, 3, 1e300, 1, "ä", b"\xff\0", "2020-02-29", "0044-03-15 BC", "infinity",
        "2020-02-29 10:30:00", "{1,2}", '{"a": 1}', 7, "%s % ",
    )  # fmt: skip
    assert {type(value) for value in row} <= {type(None), int, float, str, bytes}


@pytest.mark.parametrize(
    ("sql", "ends"),
    [
        ("SELECT 1; SELECT 2", "refused"),
        ("SELECT 1; DROP TABLE pet", "refused"),
        ("", "refused"),
        ("-- SELECT 1", "refused"),
        ("BEGIN", "refused"),
        ("COMMIT", "refused"),
        ("SET statement_timeout = 0", "refused"),
        ("INSERT INTO pet VALUES (9, 'x', 1, true, 1)", "refused"),
        ("WITH a AS (DELETE FROM pet RETURNING id) SELECT * FROM a", "refused"),
        ("WITH a AS (SELECT 1) INSERT INTO pet(id) SELECT 9", "refused"),
        ("SELECT 1 AS a INTO made", "refused"),
        ("SELECT * FROM pet FOR UPDATE", "refused"),
        ("CREATE TEMP TABLE made(a integer)", "refused"),
        ("COPY pet TO '/tmp/made'", "refused"),
        ("COPY (SELECT 1) TO PROGRAM 'touch /tmp/made'", "refused"),
        ("/**/ COPY /**/ (SELECT 1) TO PROGRAM 'touch /tmp/made'", "refused"),
        ("/* /* */ SELECT 1 */ COPY (SELECT 1) TO PROGRAM 'touch /tmp/made'", "refused"),
        ("-- \rCOPY (SELECT 1) TO PROGRAM 'touch /tmp/made' --\nWITH (FORMAT csv)", "refused"),
        ("DO $$ BEGIN PERFORM 1; END $$", "refused"),
        ("EXPLAIN ANALYZE SELECT 1", "refused"),
        ("LISTEN a", "refused"),
        ("LOCK TABLE pet", "refused"),
        ("SELECT nextval('counter')", "refused"),
        ("SELECT setval('counter', 9)", "refused"),
        ("SELECT pg_read_file('/etc/passwd')", "refused"),
        ("SELECT pg_catalog.pg_read_file('/etc/passwd')", "refused"),
        ("SELECT \"pg_read_file\" ('/etc/passwd')", "refused"),
        ("SELECT PG_READ_FILE/* hidden */('/etc/passwd')", "refused"),
        ("SELECT pg_read_file--\n('/etc/passwd')", "refused"),
        ("SELECT U&\"pg\\005fread_file\"('/etc/passwd')", "refused"),
        ("SELECT * FROM pg_ls_dir('/')", "refused"),
        ("SELECT lo_export(lo_create(0), '/tmp/made')", "refused"),
        ("SELECT lo_import('/etc/passwd')", "refused"),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity", "refused"),
        ("SELECT pg_cancel_backend(1)", "refused"),
        ("SELECT pg_reload_conf()", "refused"),
        ("SELECT pg_advisory_lock(1)", "refused"),
        ("SELECT pg_notify('a', 'b')", "refused"),
        ("SELECT set_config('statement_timeout', '0', false)", "refused"),
        ("SELECT query_to_xml('SELECT pg_reload_conf()', true, true, '')", "refused"),
        ("SELECT * FROM crosstab('SELECT 1')", "refused"),
        ("SELECT * FROM dblink('', 'DROP TABLE pet')", "refused error"),
        ("SELECT grow()", "refused"),
        ("SELECT nowhere FROM pet", "error"),
        ("SELECT 1 / 0", "error"),
        ("SELECT chr(0)", "error"),
        ("SELECT $1", "error"),
        ("SELECT '\ud800'", "error"),
        ("SELECT " + "(" * 40_000 + "1" + ")" * 40_000, "error"),
        ("SELECT 1" + " + 1" * 20_000, "error rows"),
        ("SELECT pg_sleep(60)", "timeout"),
        ("SELECT pg_sleep(0.01) FROM generate_series(1, 1000000)", "timeout"),
        ("SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b", "timeout"),
        ("WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT count(*) FROM t", "timeout"),
        ("SELECT repeat('x', 2000000000)", "too_large"),
        ("SELECT repeat('x', 40000000)", "too_large timeout"),
        ("SELECT i FROM generate_series(1, 5001) AS i", "too_large"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_hostile_statements(server, database, sql: str, ends: str) -> None:
    """As the superuser, whom the server itself would let do all of it."""
    before = content(server)
    start = time.monotonic()
    try:
        ended = "rows" if database.execute(sql) is not None else ""
    except SQLError as error:
        ended = error.kind
    assert ended in ends.split()
    assert time.monotonic() - start < 4
    assert database.execute("SELECT count(*) FROM pet") == [(4,)]
    assert content(server) == before and not Path("/tmp/made").exists()


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT twice(4)", [(8,)]),
        ("(SELECT 1) UNION (SELECT 2) ORDER BY 1", [(1,), (2,)]),
        ("TABLE visit LIMIT 0", []),
        ("VALUES (1, 'a')", [(1, "a")]),
        ("SELECT count(*) FROM tame;", [(2,)]),
        ("SELECT random() < 2, pg_sleep(0) IS NULL", [(1, 0)]),
        ("/* a */ -- b\n/* c */ SELECT 1", [(1,)]),
    ],
)
def test_reading_statements(database, sql: str, rows: list) -> None:
    assert database.execute(sql) == rows


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


def test_schema(server) -> None:
    schema = read_schema(server())
    assert schema.dialect == "postgres"
    assert schema_text(schema, "How heavy is Mia?").splitlines() == [
        "\"Owner\"(owner_id integer PRIMARY KEY, name text /* 'Ada' | 'Ben' */, "
        "\"order\" character varying(20) /* 'first' | 'second' */, "
        "born date /* '1980-05-01' | '1991-01-31' */)",
        "pet(id integer PRIMARY KEY, name text /* 'Mia' | 'Rex' */, weight numeric(8,2), tame boolean, "
        "owner_id integer)",
        "visit(pet_id integer, number integer, cost double precision, PRIMARY KEY (pet_id, number))",
        'foreign keys: pet.owner_id = "Owner".owner_id',
    ]


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


QUESTIONS = [
    ("Names of the tame pets", "SELECT Name FROM Pet WHERE tame"),
    (
        "Pets of each owner",
        'SELECT o.name, COUNT(*) FROM "Owner" AS o JOIN pet AS p USING (owner_id) GROUP BY o.name',
    ),
    (
        "Owners with more than one pet",
        'SELECT o.name FROM "Owner" o JOIN pet p ON o.owner_id = p.owner_id GROUP BY o.owner_id '
        "HAVING count(*) > 1",
    ),
    ("Dearest visit", "SELECT pet_id, cost FROM visit ORDER BY cost DESC LIMIT 1"),
    ("Half the number", "SELECT number / 2 FROM visit WHERE pet_id = 2"),
    ("Born in which year?", 'SELECT extract(year FROM born) FROM "Owner" WHERE "order" = \'first\''),
    ("Owners called like Ada", "SELECT name, born FROM \"Owner\" WHERE name ILIKE 'ADA%'"),
    ("A third of it", "SELECT CAST(cost / 3 AS numeric(6, 1)) FROM visit"),
    (
        "Pets without a visit over 40",
        "SELECT name FROM pet WHERE id NOT IN (SELECT pet_id FROM visit WHERE cost > 40)",
    ),
]
SKIPPED = [
    ("Which pets are heavy?", "SELECT nowhere FROM pet", "gold_fails"),
    ("Heaviest pet?", "SELECT name FROM pet WHERE weight > 99", "gold_empty"),
    ("Who sleeps?", "SELECT pg_sleep(30)", "gold_timeout"),
    ("Cost as text", "SELECT to_char(cost, '999.9') FROM visit WHERE number > 5", "not_translated"),
    ("Any number", "SELECT random()", "translation_differs"),
]  # fmt: skip


@pytest.mark.parametrize("workers", ["1", "2"])
def test_build(server, tmp_path: Path, workers: str) -> None:
    """Everything in the traces is PostgreSQL's dialect and was run there."""
    (tmp_path / "dev.json").write_text(
        json.dumps([{"db_id": "pets", "question": q, "query": sql} for q, sql, *_ in [*QUESTIONS, *SKIPPED]])
    )
    output = tmp_path / "traces.jsonl"
    url = server().replace("/pets?", "/{db_id}?")
    arguments = [
        "build",
        "--layout",
        "spider",
        "--root",
        str(tmp_path),
        "--split",
        "dev",
        "--database-url",
        url,
    ]
    assert main([*arguments, "--workers", workers, "--timeout", "0.8", "--output", str(output)]) == 0
    traces = [json.loads(line) for line in output.read_text().splitlines()]
    assert {trace["question"] for trace in traces} >= {question for question, _ in QUESTIONS}
    skipped = json.loads(Path(f"{output}.stats.json").read_text())["skipped"]
    assert {reason for _, _, reason in SKIPPED if reason} <= set(skipped)
    with open_database(server()) as database:
        for trace in traces:
            ctes = [step["sql"] for step in trace["steps"]]
            assert trace["sql"] == ("WITH " + ",\n".join(ctes[:-1]) + "\n" if ctes[1:] else "") + ctes[-1]
            gold = database.execute(trace["gold_sql"])
            try:
                rows = database.execute(trace["sql"])
            except SQLError:
                equal = False
            else:
                equal = results_equal(gold, rows, ordered=is_ordered(trace["gold_sql"]))
            assert equal == (trace["steps"][-1]["label"] == 1), trace["sql"]


def test_a_build_without_its_server_is_bad_input(tmp_path: Path, capsys) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "q", "sql": "SELECT 1"}\n')
    url = f"postgresql://me:top-secret@/pets?host={tmp_path}"
    arguments = ["build", "--layout", "table", "--root", str(tmp_path / "q.jsonl"), "--database-url", url]
    assert main([*arguments, "--output", str(tmp_path / "out.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "cannot connect" in said and "top-secret" not in said and said.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()
