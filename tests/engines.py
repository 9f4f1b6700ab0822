"""One small database on each engine: the same tables and rows, and the URL by which to reach them.

`duckdb_file` and `postgres_server` are fixtures (`conftest.py` hands them on): a file, and a server of our
own. `ENGINES` says what the specification in `test_engines.py` wants to know of each.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

DUCKDB = """
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
POSTGRES = """
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


@dataclass(frozen=True)
class Engine:
    """The database `pets` on an engine: its `url`, the same with `{db_id}` for its name, and everything that
    a statement might have changed. Statements are given `timeout` seconds."""

    name: str
    url: str
    named: str
    content: Callable[[], object]
    timeout: float


def make_duckdb(path: Path) -> Path:
    import duckdb

    connection = duckdb.connect(str(path))
    connection.execute(DUCKDB)
    connection.close()
    return path


@pytest.fixture(scope="session")
def duckdb_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_duckdb(tmp_path_factory.mktemp("duck") / "pets.duckdb")


@pytest.fixture(scope="session")
def postgres_server():
    """`server(user)` is the URL of the database `pets` on a server of our own, on a Unix socket."""
    import psycopg

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
        as_user = [shutil.which("runuser") or "/usr/sbin/runuser", "-u", "postgres", "--"]

    def control(*arguments: str) -> None:
        program = str(Path(initdb).with_name("pg_ctl"))
        command = [*as_user, program, "-D", str(folder / "data"), "-w", *arguments]
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
                connection.execute(POSTGRES)
            url.restart = lambda: control("restart", "-m", "fast", "-l", str(folder / "log"))
            yield url
        finally:
            control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", params=["duckdb", "postgres"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """The database on each engine that is installed."""
    if request.param == "duckdb":
        file = request.getfixturevalue("duckdb_file")
        return Engine(
            "duckdb",
            f"duckdb:///{file}",
            f"duckdb:///{file.parent}/{{db_id}}.duckdb",
            lambda: {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in file.parent.iterdir()},
            2.0,
        )
    server = request.getfixturevalue("postgres_server")
    return Engine(
        "postgres",
        server(),
        server().replace("/pets?", "/{db_id}?"),
        lambda: _server_content(server()),
        0.8,
    )


def _server_content(url: str) -> list[object]:
    import psycopg

    queries = [
        "SELECT count(*), sum(id) FROM pet",
        "SELECT last_value, is_called FROM counter",
        "SELECT count(*) FROM pg_class",
        "SELECT count(*) FROM pg_largeobject_metadata",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
    ]
    with psycopg.connect(url) as connection:
        return [*(connection.execute(query).fetchone() for query in queries), Path("/tmp/made").exists()]
