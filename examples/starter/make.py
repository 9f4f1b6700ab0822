"""Build the starter corpus: SQLite databases and Spider's tables.json from the texts beside this file.

    python examples/starter/make.py [--output DIR] [--seed 0]

Every folder `database/<db>/` holds two sources: `schema.sql` (the DDL) and `rows.py`, whose `rows(rng:
random.Random) -> dict[str, list[tuple]]` gives each table's rows in an order that respects the foreign keys.
Out of them come `database/<db>/<db>.sqlite` and `tables.json`, beside the sources or under `--output` (then
the question files are copied too, so that the output is a whole Spider folder). The same seed gives the same
bytes with the same version of SQLite. Nothing but the standard library is needed, and nothing is skipped:
whatever does not fit stops the build with a line that says what is wrong, and leaves every file that stood
there whole.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent


class CorpusError(Exception):
    """A source of the corpus that does not fit together; the message names the database and what is wrong."""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place only if the block ends well.

    A killed build leaves at most a `*.tmp` file; the process id in its name keeps parallel builds apart.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def table_names(connection: sqlite3.Connection) -> list[str]:
    """The tables in the order in which the schema creates them."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")
    return [name for (name,) in names if not name.startswith("sqlite_")]


def fill(connection: sqlite3.Connection, source: Path, seed: int) -> None:
    """Create the tables of `source/schema.sql` and insert the rows of `source/rows.py`, foreign keys on."""
    db_id = source.name
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = MEMORY")  # no journal file that a killed build would leave
    try:
        connection.executescript((source / "schema.sql").read_text(encoding="utf-8"))
    except sqlite3.Error as error:
        raise CorpusError(f"{db_id}: schema.sql does not run: {error}") from error
    # The database's name is part of the seed: a new database beside it does not change this one's rows.
    tables = runpy.run_path(str(source / "rows.py"))["rows"](random.Random(f"{seed}:{db_id}"))
    if set(tables) != set(table_names(connection)):
        difference = ", ".join(sorted(set(tables) ^ set(table_names(connection))))
        raise CorpusError(f"{db_id}: rows.py and schema.sql name different tables: {difference}")
    with connection:
        for table, rows in tables.items():
            if not rows:
                raise CorpusError(f"{db_id}: rows.py gives no rows for table {table}")
            marks = ", ".join("?" for _ in rows[0])
            try:
                connection.executemany(f"INSERT INTO {quoted(table)} VALUES ({marks})", rows)
            except sqlite3.Error as error:
                raise CorpusError(f"{db_id}: table {table} refuses a row of rows.py: {error}") from error
    dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
    if dangling:
        raise CorpusError(f"{db_id}: {len(dangling)} foreign keys point nowhere, the first: {dangling[0]}")


def spider_type(declared: str) -> str:
    """One of Spider's five column types for a declared SQLite type."""
    declared = declared.lower()
    for spider, marks in (
        ("boolean", ("bool",)),
        ("time", ("date", "time", "year")),
        ("text", ("char", "text", "clob")),
        ("number", ("int", "num", "dec", "real", "doub", "floa")),
    ):
        if any(mark in declared for mark in marks):
            return spider
    return "others"


def describe(connection: sqlite3.Connection, db_id: str) -> dict[str, object]:
    """The entry of Spider's tables.json for one database: columns are numbered through, 0 stands for `*`."""
    tables = table_names(connection)
    columns: list[tuple[int, str]] = [(-1, "*")]
    types, primary, foreign = ["text"], [], []
    for index, table in enumerate(tables):
        info = connection.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
        keys = sorted((place, len(columns) + offset) for offset, (*_, place) in enumerate(info) if place)
        primary += [column for _, column in keys]
        columns += [(index, name) for _, name, *_ in info]
        types += [spider_type(declared) for _, _, declared, *_ in info]
    number = {(tables[index].lower(), name.lower()): i for i, (index, name) in enumerate(columns) if i}
    for table in tables:
        for row in connection.execute(f"PRAGMA foreign_key_list({quoted(table)})").fetchall():
            _, _, other, column, target, *_ = row
            if target is None:
                raise CorpusError(f"{db_id}: write REFERENCES {other} (column) for {table}.{column}")
            foreign.append([number[table.lower(), column.lower()], number[other.lower(), target.lower()]])
    return {
        "db_id": db_id,
        "table_names_original": tables,
        "table_names": [name.lower().replace("_", " ") for name in tables],
        "column_names_original": [list(column) for column in columns],
        "column_names": [[index, name.lower().replace("_", " ")] for index, name in columns],
        "column_types": types,
        "primary_keys": primary,
        "foreign_keys": sorted(foreign),
    }


def make(output: Path = HERE, seed: int = 0) -> list[Path]:
    """Build every database and tables.json under `output`; returns the paths of the databases, sorted."""
    databases, entries = [], []
    for source in sorted(path for path in (HERE / "database").iterdir() if path.is_dir()):
        for name in ("schema.sql", "rows.py"):
            if not (source / name).is_file():
                raise CorpusError(f"{source.name}: {source / name} is missing")
        path = output / "database" / source.name / f"{source.name}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, closing(sqlite3.connect(temporary)) as connection:
            fill(connection, source, seed)
            entries.append(describe(connection, source.name))
        databases.append(path)
    with replacing(output / "tables.json") as temporary:
        temporary.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if output.resolve() != HERE:
        for questions in sorted(HERE.glob("*.json")):
            if questions.name != "tables.json":
                shutil.copyfile(questions, output / questions.name)
    return databases


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the databases of the starter corpus.")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to build into (default: this one)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the rows (default: 0)")
    options = parser.parse_args()
    try:
        databases = make(options.output, options.seed)
    except CorpusError as error:
        print(f"make.py: {error}", file=sys.stderr)
        return 2
    print(f"{len(databases)} databases and tables.json under {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
