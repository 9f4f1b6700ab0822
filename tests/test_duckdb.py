"""DuckDB through the same interface as SQLite: a real file, a real worker, nothing else reachable."""

import hashlib
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from prm.cli import main
from prm.errors import InputError
from prm.sql import SQLError, read_schema, schema_text
from prm.sql import open_database as open_any
from prm.sql.compare import is_ordered, results_equal

duckdb = pytest.importorskip("duckdb")
open_database = partial(open_any, cache=False)

SCRIPT = """
CREATE TABLE "Owner"(owner_id INTEGER PRIMARY KEY, name VARCHAR, "order" VARCHAR, born DATE);
CREATE TABLE pet(id INTEGER PRIMARY KEY, name VARCHAR, weight DECIMAL(8, 2), tame BOOLEAN,
    owner_id INTEGER REFERENCES "Owner"(owner_id));
CREATE TABLE visit(pet_id INTEGER, number INTEGER, cost DOUBLE, PRIMARY KEY (pet_id, number));
CREATE VIEW tame AS SELECT * FROM pet WHERE tame;
INSERT INTO "Owner" VALUES (1, 'Ada', 'first', '1980-05-01'), (2, 'Ben', 'second', '1991-01-31');
INSERT INTO pet VALUES (1, 'Rex', 31.5, true, 1), (2, 'Mia', NULL, true, 1), (3, 'Bo', 4, false, 2),
    (4, 'Zoe', 4.25, false, NULL);
INSERT INTO visit SELECT 1 + i % 4, i, i * 2.5 FROM range(20) AS r(i);
"""


def make(path: Path) -> Path:
    connection = duckdb.connect(str(path))
    connection.execute(SCRIPT)
    connection.close()
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("duck") / "pets.duckdb")


@pytest.fixture(scope="module")
def database(path: Path):
    with open_database(f"duckdb:///{path}", timeout=2.0) as opened:
        yield opened


def test_rows_columns_and_dialect(database) -> None:
    rows = database.execute(
        'SELECT name AS who, weight, tame, born FROM pet JOIN "Owner" USING (owner_id, name)'
    )
    assert rows == [] and rows.columns == ("who", "weight", "tame", "born")
    assert database.execute("SELECT id, name, weight, tame FROM pet ORDER BY id") == [
        (1, "Rex", 31.5, 1), (2, "Mia", None, 1), (3, "Bo", 4, 0), (4, "Zoe", 4.25, 0)
    ]  # fmt: skip
    assert database.dialect == "duckdb" and database.path.name == "pets.duckdb"


def test_values_are_those_of_sqlite(database) -> None:
    (row,) = database.execute(
        "SELECT NULL, true, 2::HUGEINT ** 0, 1.50::DECIMAL(9, 2), 3.00::DECIMAL(9, 2), 'ä', '\\xFF'::BLOB, "
        "DATE '2020-02-29', TIMESTAMP '2020-02-29 10:30:00', TIME '10:30:00', [1, 2], 'inf'::DOUBLE, "
        "10::UBIGINT"
    )
    assert row == (
        None, 1, 1.0, 1.5, 3, "ä", b"\xff", "2020-02-29", "2020-02-29 10:30:00", "10:30:00", "[1, 2]",
        float("inf"), 10,
    )  # fmt: skip
    assert {type(value) for value in row} <= {type(None), int, float, str, bytes}


@pytest.mark.parametrize(
    ("sql", "ends"),
    [
        ("SELECT 1; SELECT 2", "refused"),
        ("", "refused"),
        ("-- SELECT 1", "refused"),
        ("INSERT INTO pet VALUES (9, 'x', 1, true, 1)", "refused"),
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
        ("BEGIN", "refused"),
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
        ("SELECT nowhere FROM pet", "error"),
        ("SELECT ?", "error"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "error"),
        ("SELECT count(*) FROM range(10000000) a, range(10000000) b", "timeout"),
        ("WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t", "timeout"),
        ("SELECT repeat('x', 3000000000)", "too_large"),
        ("SELECT list_sum(range(900000000))", "too_large"),
        ("SELECT string_agg(repeat('x', 10000), ',') FROM range(300000)", "too_large timeout"),
        ("SELECT * FROM range(10000000)", "too_large"),
        ("SELECT repeat('x', 1000000) FROM range(50)", "too_large"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_hostile_statements(path: Path, database, sql: str, ends: str, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    start = time.monotonic()
    with pytest.raises(SQLError) as error:
        database.execute(sql)
    assert error.value.kind in ends.split(), error.value
    assert time.monotonic() - start < 8
    assert database.execute("SELECT count(*) FROM pet") == [(4,)]
    assert [file.name for file in path.parent.iterdir()] == ["pets.duckdb"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_memory_is_bounded(path: Path) -> None:
    with open_database(f"duckdb:///{path}", timeout=20) as database:
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


def test_schema(path: Path) -> None:
    schema = read_schema(f"duckdb:///{path}")
    assert schema.dialect == "duckdb"
    assert schema_text(schema, "How heavy is Mia?").splitlines() == [
        "Owner(owner_id INTEGER PRIMARY KEY, name VARCHAR /* 'Ada' | 'Ben' */, "
        "\"order\" VARCHAR /* 'first' | 'second' */, born DATE /* '1980-05-01' | '1991-01-31' */)",
        "visit(pet_id INTEGER, number INTEGER, cost DOUBLE, PRIMARY KEY (pet_id, number))",
        "pet(id INTEGER PRIMARY KEY, name VARCHAR /* 'Mia' | 'Rex' */, weight DECIMAL(8,2), tame BOOLEAN, "
        "owner_id INTEGER)",
        "foreign keys: pet.owner_id = Owner.owner_id",
    ]


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


def test_without_the_driver_the_mend_is_named(path: Path) -> None:
    code = (
        "import sys; sys.modules['duckdb'] = None\n"
        "import importlib.util; importlib.util.find_spec = lambda name: None\n"
        "from prm.sql import open_database\n"
        "try: open_database(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", code, f"duckdb:///{path}"]
    assert 'pip install "nl2sql-prm[duckdb]"' in subprocess.check_output(command, text=True)


QUESTIONS = [
    ("Names of the tame pets", "SELECT name FROM pet WHERE tame"),
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
    ("Half the cost", "SELECT number / 2 FROM visit WHERE pet_id = 2"),
    ("Born in which year?", 'SELECT extract(year FROM born) FROM "Owner" WHERE "order" = \'first\''),
    (
        "Pets without a visit over 40",
        "SELECT name FROM pet WHERE id NOT IN (SELECT pet_id FROM visit WHERE cost > 40)",
    ),
    ("All lists", "SELECT list_transform([pet_id], x -> x + 1) FROM visit"),
]


@pytest.mark.parametrize("url", ["duckdb:///{file}", "duckdb:///{folder}/{{db_id}}.duckdb"])
def test_build(path: Path, tmp_path: Path, url: str) -> None:
    """Everything in the traces is DuckDB's dialect and was run there; also through a name in the URL."""
    questions = tmp_path / "questions.jsonl"
    url = url.format(file=path, folder=path.parent)
    rows = [{"question": question, "sql": sql} for question, sql in QUESTIONS]
    if "db_id" in url:
        rows = [row | {"database": "pets"} for row in rows]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "traces.jsonl"
    arguments = ["build", "--layout", "table", "--root", str(questions), "--database-url", url]
    assert main([*arguments, "--styles", "both", "--output", str(output)]) == 0
    traces = [json.loads(line) for line in output.read_text().splitlines()]
    assert {trace["db_id"] for trace in traces} == {"pets"}
    built = {trace["question"] for trace in traces}
    assert built >= {question for question, _ in QUESTIONS[:7]}
    with open_database(f"duckdb:///{path}") as database:
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
