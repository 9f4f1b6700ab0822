"""DuckDB and PostgreSQL through the same interface as SQLite: one specification, run on a real file and on a
real server (which the tests start where PostgreSQL is installed). What only one of them has stands in
`test_duckdb.py` and `test_postgres.py`.
"""

from __future__ import annotations

import contextlib
import json
import time
from functools import partial
from pathlib import Path

import pytest
from engines import Engine

from prm.cli import main
from prm.sql import SQLError, read_schema, schema_text
from prm.sql import open_database as open_any
from prm.sql.compare import is_ordered, results_equal

open_database = partial(open_any, cache=False)


@pytest.fixture(scope="module")
def database(engine: Engine, tmp_path_factory: pytest.TempPathFactory):
    """Its workers run in an empty folder, so that what they write there is seen."""
    folder = tmp_path_factory.mktemp("empty")
    with (
        contextlib.chdir(folder),
        open_database(engine.url, timeout=engine.timeout, max_rows=5000) as opened,
    ):
        yield opened
        assert list(folder.iterdir()) == []


def test_rows_columns_and_dialect(engine: Engine, database) -> None:
    rows = database.execute("SELECT id, name AS who, weight, tame FROM pet ORDER BY id")
    assert rows == [(1, "Rex", 31.5, 1), (2, "Mia", None, 1), (3, "Bo", 4, 0), (4, "Zoe", 4.25, 0)]
    assert rows.columns == ("id", "who", "weight", "tame")
    nothing = database.execute("SELECT name, weight FROM pet WHERE id > 9")
    assert nothing == [] and nothing.columns == ("name", "weight")
    joined = database.execute('SELECT name, born FROM pet JOIN "Owner" USING (owner_id, name)')
    assert joined == [] and joined.columns == ("name", "born")
    assert database.dialect == engine.name


#: a statement, its only row
VALUES = {
    "duckdb": (
        "SELECT NULL, true, 2::HUGEINT ** 0, 1.50::DECIMAL(9, 2), 3.00::DECIMAL(9, 2), 'ä', '\\xFF'::BLOB, "
        "DATE '2020-02-29', TIMESTAMP '2020-02-29 10:30:00', TIME '10:30:00', [1, 2], 'inf'::DOUBLE, "
        "10::UBIGINT",
        (
            None, 1, 1.0, 1.5, 3, "ä", b"\xff", "2020-02-29", "2020-02-29 10:30:00", "10:30:00", "[1, 2]",
            float("inf"), 10,
        ),
    ),
    "postgres": (
        "SELECT NULL, true, 9223372036854775807, 1.50::numeric, 3.00::numeric, 1e300::float8, "
        "'NaN'::float8 = 'NaN', 'ä', '\\xff00'::bytea, date '2020-02-29', date '0044-03-15 BC', "
        "'infinity'::timestamp, timestamp '2020-02-29 10:30', array[1, 2], '{\"a\": 1}'::jsonb, 7::oid, "
        "'%s % '",
        (
            None, 1, 2**63 - 1, 1.5, 3, 1e300, 1, "ä", b"\xff\0", "2020-02-29", "0044-03-15 BC", "infinity",
            "2020-02-29 10:30:00", "{1,2}", '{"a": 1}', 7, "%s % ",
        ),
    ),
}  # fmt: skip


def test_values_are_those_of_sqlite(engine: Engine, database) -> None:
    sql, expected = VALUES[engine.name]
    (row,) = database.execute(sql)
    assert row == expected
    assert {type(value) for value in row} <= {type(None), int, float, str, bytes}


#: (statement, how it may end): the same on both, then what each engine knows
HOSTILE = {
    "both": [
        ("SELECT 1; SELECT 2", "refused"),
        ("", "refused"),
        ("-- SELECT 1", "refused"),
        ("INSERT INTO pet VALUES (9, 'x', 1, true, 1)", "refused"),
        ("BEGIN", "refused"),
        ("SELECT nowhere FROM pet", "error"),
        ("SELECT 1; DROP TABLE pet", "refused"),
        ("WITH a AS (SELECT 1) INSERT INTO pet(id) SELECT 9", "refused"),
        ("SELECT * FROM pet WHERE name = 'a\0b'", "refused"),
        ("SELECT '\ud800'", "error"),
        ("SELECT '" + "x" * 1_000_000 + "'", "refused"),
        ("SELECT " + "-" * 50_000 + "1", "refused error"),
        ("SELECT 1" + " + 1" * 20_000, "error rows timeout"),
        ("SELECT 1" + " UNION ALL SELECT 1" * 5000, "error rows timeout"),
        ("SELECT " + ", ".join(["1"] * 30_000), "error rows timeout"),
        ("SELECT " + "(SELECT " * 2000 + "1" + ")" * 2000, "error timeout"),
        ("SELECT " + "CASE WHEN true THEN " * 3000 + "1" + " END" * 3000, "error timeout"),
        ("SELECT i FROM generate_series(1, 1000000) AS t(i)", "too_large"),
        ("SELECT repeat('x', 1000000) FROM generate_series(1, 50)", "too_large timeout"),
        ("SELECT count(*) FROM (SELECT i FROM generate_series(1, 1000000000) AS t(i) ORDER BY 1 DESC) AS s",
         "timeout too_large"),
        ("SELECT lpad('x', 2000000000, 'y')", "too_large timeout"),
        ("WITH RECURSIVE t(x) AS (SELECT 'aa' UNION ALL SELECT x || x FROM t) SELECT length(x) FROM t",
         "timeout too_large error"),
        ("SELECT (WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT count(*) FROM t)",
         "timeout"),
        ("DROP VIEW tame", "refused"),
        ("TRUNCATE pet", "refused"),
        ("ALTER TABLE pet ADD COLUMN made integer", "refused"),
        ("VACUUM", "refused"),
        ("SHOW TABLES", "refused"),
    ],
    "duckdb": [
        ("WITH a AS (SELECT 1) DELETE FROM pet", "refused"),
        ("CREATE TABLE made(a INT)", "refused"),
        ("CREATE TEMP TABLE made(a INT)", "refused"),
        ("ATTACH 'made.duckdb'", "refused"),
        ("COPY pet TO 'made.csv'", "refused"),
        ("COPY (SELECT 1) TO 'made.parquet'", "refused"),
        ("EXPORT DATABASE 'made'", "refused"),
        ("INSTALL httpfs", "refused"),
        ("LOAD json", "refused"),
        ("SET memory_limit = '99GB'", "refused"),
        ("PRAGMA database_list", "refused"),
        ("CHECKPOINT", "refused"),
        ("CALL pragma_version()", "refused"),
        ("EXPLAIN SELECT 1", "refused"),
        ("/**/ COPY /**/ (SELECT 1) TO 'made.csv'", "refused"),
        ("DESCRIBE pet", "refused"),
        ("PREPARE a AS SELECT 1", "refused"),
        ("SELECT * FROM read_csv('/etc/passwd')", "refused"),
        ("SELECT * FROM read_text('/etc/passwd')", "refused"),
        ("SELECT * FROM read_blob('*')", "refused"),
        ("SELECT * FROM glob('/etc/*')", "refused"),
        ("SELECT * FROM '/etc/passwd'", "error"),
        ("FROM 'pets.csv'", "error refused"),
        ("SELECT * FROM 'https://example.org/x.csv'", "error refused"),
        ("SELECT getenv('HOME')", "error"),
        ("SELECT * FROM sys", "error"),
        ("SELECT nextval('s')", "refused"),
        ("SELECT write_log('x')", "refused"),
        ("SELECT * FROM query('DROP TABLE pet')", "error"),
        ("SELECT ?", "error"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "error"),
        ("SELECT count(*) FROM range(10000000) a, range(10000000) b", "timeout"),
        ("WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t", "timeout"),
        ("SELECT repeat('x', 3000000000)", "too_large"),
        ("SELECT list_sum(range(900000000))", "too_large"),
        ("SELECT string_agg(repeat('x', 10000), ',') FROM range(300000)", "too_large timeout"),
        ("SELECT * FROM range(10000000)", "too_large"),
        ("SELECT repeat('x', 1000000) FROM range(50)", "too_large"),
        ("SELECT * FROM read_parquet('made.parquet')", "refused error"),
        ("SELECT * FROM sniff_csv('/etc/passwd')", "refused"),
        ("SELECT * FROM read_json('/etc/passwd')", "refused error"),
        ("SELECT * FROM query('COPY pet TO ''made.csv''')", "error"),
        ("SELECT * FROM enable_logging()", "error refused"),
        ("SELECT * FROM force_checkpoint()", "error refused"),
        ("SELECT * FROM duckdb_secrets()", "refused"),
        ("SELECT * FROM sqlite_scan('/etc/passwd', 'a')", "error refused"),
        ("WITH x AS (SELECT 1) INSERT INTO pet SELECT 9, 'x', 1, true, 1", "refused"),
        ("(COPY pet TO 'made.csv')", "error refused"),
        ("DETACH pets", "refused"),
        ("USE memory", "refused"),
        ("RESET threads", "refused"),
        ("IMPORT DATABASE 'made'", "refused"),
        ("CREATE SECRET made (TYPE s3)", "refused"),
        ("SET VARIABLE a = 1", "refused"),
        ("SELECT array_agg(i) FROM range(100000000) t(i)", "too_large timeout"),
        ("SELECT printf('%*d', 2000000000, 1)", "too_large timeout"),
        ("SELECT bitstring('1', 2000000000)", "too_large timeout"),
        ("SELECT sleep_ms(60000)", "timeout error"),
    ],
    "postgres": [
        ("COMMIT", "refused"),
        ("SET statement_timeout = 0", "refused"),
        ("WITH a AS (DELETE FROM pet RETURNING id) SELECT * FROM a", "refused"),
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
        ("SELECT 1 / 0", "error"),
        ("SELECT chr(0)", "error"),
        ("SELECT $1", "error"),
        ("SELECT " + "(" * 40_000 + "1" + ")" * 40_000, "error"),
        ("SELECT pg_sleep(60)", "timeout"),
        ("SELECT pg_sleep(0.01) FROM generate_series(1, 1000000)", "timeout"),
        ("SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b", "timeout"),
        ("WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT count(*) FROM t", "timeout"),
        ("SELECT repeat('x', 2000000000)", "too_large"),
        ("SELECT repeat('x', 40000000)", "too_large timeout"),
        ("SELECT i FROM generate_series(1, 5001) AS i", "too_large"),
        ("SELECT ('/etc/passwd'::text).pg_read_file", "refused"),
        ("SELECT (path).pg_read_file FROM (SELECT '/etc/passwd'::text AS path) AS x", "refused"),
        ("SELECT ('/etc/passwd'::text) . \"pg_read_file\"", "refused"),
        ("SELECT ('/etc/passwd'::text)./* /* */ */pg_read_file", "refused"),
        ("SELECT ('/etc/passwd'::text).--\n PG_READ_FILE", "refused"),
        ("SELECT (ARRAY['/etc/passwd'::text])[1].pg_read_file", "refused"),
        ("SELECT '\"', \"pg_read_file\"('/etc/passwd')", "refused"),
        ("SELECT ('/etc/passwd'::text).lo_import", "refused"),
        ("SELECT (1::bigint).pg_advisory_lock", "refused"),
        ("SELECT (pid).pg_terminate_backend FROM pg_stat_activity", "refused"),
        ("SELECT ('counter'::regclass).nextval", "refused"),
        ("SELECT txid_current()", "refused"),
        ("SELECT pg_advisory_xact_lock(1)", "refused"),
        ("SELECT pg_create_restore_point('made')", "refused"),
        ("SELECT pg_logical_emit_message(true, 'a', 'b')", "refused"),
        ("SELECT pg_stat_reset()", "refused"),
        ("SELECT pg_export_snapshot()", "refused"),
        ("SELECT currval('counter')", "refused"),
        ("SELECT ts_stat('SELECT 1')", "refused"),
        ("SELECT database_to_xml(true, true, '') IS NULL", "rows"),
        ("SELECT * FROM pet FOR NO KEY UPDATE SKIP LOCKED", "refused"),
        ("SELECT FROM pet", "refused"),
        ("DECLARE a CURSOR FOR SELECT 1", "refused"),
        ("RESET ALL", "refused"),
        ("REFRESH MATERIALIZED VIEW tame", "refused"),
        ("SELECT string_agg('x', '') FROM generate_series(1, 300000000)", "timeout too_large"),
        ("SELECT " + '"' * 90_000, "error timeout"),
        ("SELECT " + "a$" * 45_000, "error"),
        ("SELECT E'\\xff'", "error"),
        ("SELECT U&'\\d800'", "error"),
    ],
}  # fmt: skip
CASES = [(name, *case) for name in ("duckdb", "postgres") for case in HOSTILE["both"] + HOSTILE[name]]


@pytest.mark.parametrize(
    ("engine", "sql", "ends"), CASES, indirect=["engine"], ids=lambda value: repr(str(value)[:40])
)
def test_hostile_statements(engine: Engine, database, sql: str, ends: str) -> None:
    """On the server as the superuser, whom it would let do all of it."""
    before = engine.content()
    start = time.monotonic()
    try:
        ended = "rows" if database.execute(sql) is not None else ""
    except SQLError as error:
        ended = error.kind
    assert ended in ends.split()
    assert time.monotonic() - start < 4 * engine.timeout + 1
    assert database.execute("SELECT count(*) FROM pet") == [(4,)]
    assert engine.content() == before


#: (statement, its rows)
READING = {
    "both": [
        ("(SELECT 1) UNION (SELECT 2) ORDER BY 1", [(1,), (2,)]),
        ("VALUES (1, 'a')", [(1, "a")]),
        ("SELECT count(*) FROM tame;", [(2,)]),
        ("/* a */ -- b\n/* c */ SELECT 1", [(1,)]),
        ("SELECT 1 WHERE 7 IN (" + ", ".join(map(str, range(15_000))) + ")", [(1,)]),
        ("SELECT length('" + "a" * 99_000 + "')", [(99_000,)]),
    ],
    "duckdb": [
        ("FROM pet SELECT name LIMIT 0", []),
        ("SELECT count(*) FROM (DESCRIBE pet)", [(5,)]),
    ],
    "postgres": [
        ("SELECT twice(4)", [(8,)]),
        ("TABLE visit LIMIT 0", []),
        ("SELECT random() < 2, pg_sleep(0) IS NULL", [(1, 0)]),
        ("SELECT 'pg_read_file', 1 AS nextval, 'a.grow' FROM pet AS lo_import WHERE id = 1",
         [("pg_read_file", 1, "a.grow")]),
        ("SELECT p.grow FROM (SELECT 1 AS grow) AS p", [(1,)]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "sql", "rows"),
    [(name, *case) for name in ("duckdb", "postgres") for case in READING["both"] + READING[name]],
    indirect=["engine"],
    ids=lambda value: repr(str(value)[:40]),
)
def test_reading_statements(engine: Engine, database, sql: str, rows: list) -> None:
    assert database.execute(sql) == rows


SCHEMAS = {
    "duckdb": [
        "Owner(owner_id INTEGER PRIMARY KEY, name VARCHAR /* 'Ada' | 'Ben' */, "
        "\"order\" VARCHAR /* 'first' | 'second' */, born DATE /* '1980-05-01' | '1991-01-31' */)",
        "visit(pet_id INTEGER, number INTEGER, cost DOUBLE, PRIMARY KEY (pet_id, number))",
        "pet(id INTEGER PRIMARY KEY, name VARCHAR /* 'Mia' | 'Rex' */, weight DECIMAL(8,2), tame BOOLEAN, "
        "owner_id INTEGER)",
        "foreign keys: pet.owner_id = Owner.owner_id",
    ],
    "postgres": [
        "\"Owner\"(owner_id integer PRIMARY KEY, name text /* 'Ada' | 'Ben' */, "
        "\"order\" character varying(20) /* 'first' | 'second' */, "
        "born date /* '1980-05-01' | '1991-01-31' */)",
        "pet(id integer PRIMARY KEY, name text /* 'Mia' | 'Rex' */, weight numeric(8,2), tame boolean, "
        "owner_id integer)",
        "visit(pet_id integer, number integer, cost double precision, PRIMARY KEY (pet_id, number))",
        'foreign keys: pet.owner_id = "Owner".owner_id',
    ],
}


def test_schema(engine: Engine) -> None:
    schema = read_schema(engine.url)
    assert schema.dialect == engine.name
    assert schema_text(schema, "How heavy is Mia?").splitlines() == SCHEMAS[engine.name]


# --- traces -------------------------------------------------------------------------------------------------

#: (question, gold)
QUESTIONS = {
    "both": [
        (
            "Pets of each owner",
            'SELECT o.name, COUNT(*) FROM "Owner" AS o JOIN pet AS p USING (owner_id) GROUP BY o.name',
        ),
        (
            "Owners with more than one pet",
            'SELECT o.name FROM "Owner" o JOIN pet p ON o.owner_id = p.owner_id GROUP BY o.owner_id, o.name '
            "HAVING count(*) > 1",
        ),
        ("Dearest visit", "SELECT pet_id, cost FROM visit ORDER BY cost DESC LIMIT 1"),
        ("Half the number", "SELECT number / 2 FROM visit WHERE pet_id = 2"),
        ("Born in which year?", 'SELECT extract(year FROM born) FROM "Owner" WHERE "order" = \'first\''),
        (
            "Pets without a visit over 40",
            "SELECT name FROM pet WHERE id NOT IN (SELECT pet_id FROM visit WHERE cost > 40)",
        ),
    ],
    "duckdb": [("Names of the tame pets", "SELECT name FROM pet WHERE tame")],
    "postgres": [
        ("Names of the tame pets", "SELECT Name FROM Pet WHERE tame"),
        (
            "Owners who have more than one pet",
            'SELECT o.name FROM "Owner" o JOIN pet p ON o.owner_id = p.owner_id GROUP BY o.owner_id '
            "HAVING count(*) > 1",
        ),
        ("Owners called like Ada", "SELECT name, born FROM \"Owner\" WHERE name ILIKE 'ADA%'"),
        ("A third of it", "SELECT CAST(cost / 3 AS numeric(6, 1)) FROM visit"),
    ],
}
#: (question, gold, why it is skipped, if it must be)
SKIPPED = {
    "both": [
        ("Which pets are heavy?", "SELECT nowhere FROM pet", "gold_fails"),
        ("Heaviest pet?", "SELECT name FROM pet WHERE weight > 99", "gold_empty"),
    ],
    "duckdb": [("All lists", "SELECT list_transform([pet_id], x -> x + 1) FROM visit", None)],
    "postgres": [
        ("Who sleeps?", "SELECT pg_sleep(30)", "gold_timeout"),
        ("Cost as text", "SELECT to_char(cost, '999.9') FROM visit WHERE number > 5", "not_translated"),
        ("Any number", "SELECT random()", "translation_differs"),
    ],
}


def built(engine: Engine, folder: Path, url: str, workers: str = "1") -> Path:
    """What `prm build` makes of the questions, in `folder`."""
    asked = [QUESTIONS["both"], QUESTIONS[engine.name], SKIPPED["both"], SKIPPED[engine.name]]
    rows = [{"question": case[0], "sql": case[1]} for cases in asked for case in cases]
    if "{db_id}" in url:
        rows = [row | {"database": "pets"} for row in rows]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["build", "--layout", "table", "--root", str(folder / "questions.jsonl"), "--styles", "both"]
    arguments += ["--database-url", url, "--timeout", str(engine.timeout), "--workers", workers]
    assert main([*arguments, "--output", str(folder / "traces.jsonl")]) == 0
    return folder / "traces.jsonl"


@pytest.mark.parametrize(("named", "workers"), [(False, "1"), (True, "1"), (True, "2")])
def test_build(engine: Engine, tmp_path: Path, named: bool, workers: str) -> None:
    """Everything in the traces is the engine's own dialect and was run there; also through a name in the
    URL."""
    output = built(engine, tmp_path, engine.named if named else engine.url, workers)
    traces = [json.loads(line) for line in output.read_text().splitlines()]
    assert {trace["db_id"] for trace in traces} == {"pets"}
    asked = {question for question, _ in QUESTIONS["both"] + QUESTIONS[engine.name]}
    assert {trace["question"] for trace in traces} >= asked
    skipped = json.loads(Path(f"{output}.stats.json").read_text())["skipped"]
    assert {why for _, _, why in SKIPPED["both"] + SKIPPED[engine.name] if why} <= set(skipped)
    with open_database(engine.url) as database:
        for trace in traces:
            ctes = [step["sql"] for step in trace["steps"]]
            assert trace["sql"] == ("WITH " + ",\n".join(ctes[:-1]) + "\n" if ctes[1:] else "") + ctes[-1]
            assert all(step["text"].endswith("\n" + step["sql"]) for step in trace["steps"])
            gold = database.execute(trace["gold_sql"])
            try:
                rows = database.execute(trace["sql"])
            except SQLError:
                equal = False
            else:
                equal = results_equal(gold, rows, ordered=is_ordered(trace["gold_sql"]))
            assert equal == (trace["steps"][-1]["label"] == 1), trace["sql"]


def test_build_in_spiders_layout(engine: Engine, tmp_path: Path, capsys) -> None:
    entries = [{"db_id": "pets", "question": q, "query": sql} for q, sql in QUESTIONS["both"]]
    (tmp_path / "dev.json").write_text(json.dumps(entries))
    arguments = ["build", "--layout", "spider", "--root", str(tmp_path), "--split", "dev"]
    arguments += ["--database-url", engine.named, "--output", str(tmp_path / "traces.jsonl")]
    assert main(arguments) == 0
    lines = (tmp_path / "traces.jsonl").read_text().splitlines()
    assert {json.loads(line)["db_id"] for line in lines} == {"pets"}
    (tmp_path / "dev.json").write_text(json.dumps([entries[0], entries[1] | {"db_id": "../pets"}]))
    assert main(arguments) == 2
    assert "dev.json: entry 1 (from 0): '../pets' is no name of a database" in capsys.readouterr().err


@pytest.mark.parametrize(("named", "workers"), [(False, "1"), (True, "2")])
def test_inspect(engine: Engine, tmp_path: Path, capsys, named: bool, workers: str) -> None:
    """`prm inspect --database-url` passes what was built, and finds the one label that was turned over."""
    output = built(engine, tmp_path, engine.url)
    url = engine.named if named else engine.url
    report = tmp_path / "report.json"
    arguments = ["inspect", str(output), "--database-url", url, "--workers", workers, "--json", str(report)]
    arguments += ["--timeout", str(engine.timeout)]
    assert main(arguments) == 0
    checks, rows = json.loads(report.read_text())["checks"], output.read_text().splitlines()
    assert checks["answer"] == {"checked": len(rows), "violations": 0, "not_checkable": {}}
    assert checks["assembly"]["checked"] == len(rows) > 20

    wrong = next(i for i, row in enumerate(rows) if json.loads(row)["steps"][-1]["label"] == 0)
    spoilt = json.loads(rows[wrong])
    for step in spoilt["steps"]:
        step["label"] = 1
    rows[wrong] = json.dumps(spoilt)
    rows.append(json.dumps(spoilt | {"label_source": "variant:0:0:00000000", "id": "v"}))
    rows.append(json.dumps(spoilt | {"db_id": "../pets", "id": "w"}))
    output.write_text("".join(row + "\n" for row in rows))
    capsys.readouterr()
    assert main(arguments) == 2
    assert f"{output}:{wrong + 1}: answer: labelled right, but" in capsys.readouterr().out
    found = json.loads(report.read_text())
    # Without a name in the URL every trace asks the one database.
    lines = [v["line"] for v in found["violations"] if v["check"] == "answer"]
    assert lines == ([wrong + 1] if named else [wrong + 1, len(rows)])
    reasons = {"a variant of a database that is no SQLite file": 1} | (
        {"no such database": 1} if named else {}
    )
    assert found["checks"]["answer"]["not_checkable"] == reasons


def test_inspect_without_the_database_is_bad_input(engine: Engine, tmp_path: Path, capsys) -> None:
    """What cannot be reached says nothing against the labels."""
    row = {"question": "q", "steps": [{"text": "t", "label": 1, "sql": "SELECT 1"}], "sql": "SELECT 1"}
    row |= {"gold_sql": "SELECT 1", "db_id": "elsewhere"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    url = engine.named.replace("postgres@", "postgres:top-secret@")
    assert main(["inspect", str(tmp_path / "t.jsonl"), "--database-url", url]) == 2
    out, err = capsys.readouterr()
    assert "elsewhere" in err and "top-secret" not in out + err and "labelled" not in out
    assert main(["inspect", "t.jsonl", "--database-url", "mysql://localhost/pets"]) == 2
