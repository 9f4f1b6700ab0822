"""What a prompt says of a database: its tables, columns, keys and a few example values, from the data itself.

The text has one line a table, so that a prompt that is too long can be cut by dropping comments (the example
values) and then whole lines, without parsing anything:

    singer(singer_id INTEGER PRIMARY KEY, name TEXT /* 'Joe Sharp' | 'Timbaland' */, age INTEGER)
    concert(concert_id INTEGER PRIMARY KEY, singer_id INTEGER)
    foreign keys: concert.singer_id = singer.singer_id

The example values hang on the database and the question alone, never on an answer: that would leak it. Values
that occur in the question come first, for they show how the database spells what the question means. Only the
first rows of a table are read (`SAMPLE_ROWS`), so a table of many gigabytes costs no more than a small one.

Views are left out: they hold no data and no keys of their own, and what they show can be asked of the tables.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote as percent_quoted

from prm.errors import InputError
from prm.sql.catalog import TIMEOUT, first_values, read_tables
from prm.sql.database import database_uri, locate, open_database, without_password
from prm.sql.tables import Column, ForeignKey, Table, quote

SAMPLE_ROWS = 5_000
EXAMPLES = 2
MAX_VALUE_LENGTH = 40


@dataclass
class Schema:
    """The tables of one database, in the order of its catalogue; `path` is that of the file, or a server's
    URL."""

    path: Path | str
    tables: tuple[Table, ...]
    dialect: str = "sqlite"
    #: table -> column -> {value as a question would spell it: value}, in row order; filled when first wanted
    _samples: dict[str, dict[str, dict[str, str]]] | None = field(default=None, repr=False, compare=False)

    def table(self, name: str) -> Table | None:
        """The table of that name, upper and lower case alike, or None."""
        return next((t for t in self.tables if t.name.lower() == name.lower()), None)

    @property
    def foreign_keys(self) -> list[ForeignKey]:
        return [key for table in self.tables for key in table.foreign_keys]


def read_schema(path: str | os.PathLike[str]) -> Schema:
    """The tables, columns, types and keys of a database, given as `open_database` takes it.

    Foreign keys whose parent table or columns do not exist are left out; those that name no parent columns
    mean the parent's primary key. Virtual tables are left out like views.

    Raises:
        InputError: the file is missing, empty, broken or no database, the server cannot be reached, or there
            is no table.
    """
    dialect, where, _ = locate(path)
    if dialect == "sqlite":
        tables = _read_tables(where)
    else:
        with open_database(path, TIMEOUT, cache=False) as database:
            tables = read_tables(database)
    if not tables:
        raise InputError(
            "the database has no tables; fetch or build it again", file=without_password(str(path))
        )
    return Schema(where, tables, dialect)


def _read_tables(path: Path | str) -> tuple[Table, ...]:
    with _reading(path) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 "
                "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid"
            )
        ]
        bare = {name: _table(connection, name) for name in names}
        return tuple(
            Table(t.name, t.columns, t.primary_key, tuple(_foreign_keys(connection, t, bare)))
            for t in bare.values()
        )


def schema_text(schema: Schema, question: str | None = None) -> str:
    """The schema as prompts show it, one line a table, then one line of foreign keys if there are any.

    Text columns (whatever their declared type: what counts is that the values are text) carry at most two
    examples: values that occur in the question as whole words, longest first, then the first values of the
    column. Empty, long (over 40 characters) and unprintable values and those holding `*/` are never shown. A
    table or column whose name would break the one-line format is left out.
    """
    if schema._samples is None:
        schema._samples = _read_samples(schema)
    phrases = _phrases(question) if question else {}
    lines = []
    for table in schema.tables:
        if not _fits_a_line(table.name):
            continue
        samples = schema._samples.get(table.name, {})
        parts = []
        for column in table.columns:
            if not _fits_a_line(column.name):
                continue
            part = " ".join(
                [quote(column.name, schema.dialect), *re.sub(r"/\*|\*/", " ", column.type).split()]
            )
            if table.primary_key == (column.name,):
                part += " PRIMARY KEY"
            if values := _examples(samples.get(column.name, {}), phrases):
                part += " /* " + " | ".join("'" + value.replace("'", "''") + "'" for value in values) + " */"
            parts.append(part)
        if len(table.primary_key) > 1 and all(map(_fits_a_line, table.primary_key)):
            parts.append(
                "PRIMARY KEY (" + ", ".join(quote(name, schema.dialect) for name in table.primary_key) + ")"
            )
        lines.append(f"{quote(table.name, schema.dialect)}({', '.join(parts)})")
    if keys := [text for key in schema.foreign_keys if (text := _foreign_key_text(key, schema.dialect))]:
        lines.append("foreign keys: " + "; ".join(keys))
    return "\n".join(lines)


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    """A read-only connection for our own statements; what SQLite says against the file is an InputError."""
    connection = sqlite3.connect(database_uri(path), uri=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        yield connection
    except sqlite3.Error as error:
        raise InputError(
            f"cannot read the database ({error}); fetch or build it again", file=str(path)
        ) from None
    finally:
        connection.close()


def _table(connection: sqlite3.Connection, name: str) -> Table:
    columns, key = [], []
    for _, column, kind, not_null, _, key_index, hidden in connection.execute(
        "SELECT * FROM pragma_table_xinfo(?)", (name,)
    ):
        if hidden == 1:  # 2 and 3 are generated columns, which can be asked for like any other
            continue
        columns.append(Column(column, kind, key_index > 0, bool(not_null)))
        if key_index:
            key.append((key_index, column))
    return Table(name, tuple(columns), tuple(column for _, column in sorted(key)))


def _foreign_keys(
    connection: sqlite3.Connection, table: Table, tables: dict[str, Table]
) -> Iterator[ForeignKey]:
    by_name = {name.lower(): found for name, found in tables.items()}
    keys: dict[int, tuple[str, list[tuple[int, str, str | None]]]] = {}
    for number, index, parent, column, to, *_ in connection.execute(
        "SELECT * FROM pragma_foreign_key_list(?)", (table.name,)
    ):
        keys.setdefault(number, (parent, []))[1].append((index, column, to))
    for number in sorted(keys, reverse=True):  # SQLite numbers them from the last declared to the first
        parent = by_name.get(keys[number][0].lower())
        pairs = sorted(keys[number][1])
        if parent is None:
            continue
        wanted = [to for _, _, to in pairs if to is not None]
        if len(wanted) < len(pairs):
            wanted = list(parent.primary_key)
        children = [found.name for _, column, _ in pairs if (found := table.column(column))]
        parents = [found.name for to in wanted if (found := parent.column(to))]
        if len(children) == len(pairs) == len(wanted) == len(parents):
            yield ForeignKey(table.name, tuple(children), parent.name, tuple(parents))


def _foreign_key_text(key: ForeignKey, dialect: str) -> str | None:
    if not all(map(_fits_a_line, (key.table, *key.columns, key.parent, *key.parent_columns))):
        return None
    return " and ".join(
        f"{quote(key.table, dialect)}.{quote(column, dialect)} = "
        f"{quote(key.parent, dialect)}.{quote(parent, dialect)}"
        for column, parent in zip(key.columns, key.parent_columns, strict=True)
    )


def _fits_a_line(name: str) -> bool:
    return name.isprintable() and "/*" not in name and "*/" not in name


def _read_samples(schema: Schema) -> dict[str, dict[str, dict[str, str]]]:
    samples: dict[str, dict[str, dict[str, str]]] = {}
    if schema.dialect != "sqlite":
        url = (
            f"duckdb:///{percent_quoted(str(schema.path))}" if isinstance(schema.path, Path) else schema.path
        )
        with open_database(url, TIMEOUT, cache=False) as database:
            return {
                table.name: _first_spellings(
                    table, first_values(database, table, SAMPLE_ROWS, MAX_VALUE_LENGTH)
                )
                for table in schema.tables
            }
    with _reading(schema.path) as connection:
        for table in schema.tables:
            columns = [_always_quoted(column.name) for column in table.columns]
            # The row limit bounds the work; NOT INDEXED keeps the table's own order, whatever indexes it has.
            cells = ", ".join(
                f"CASE WHEN typeof({c}) = 'text' AND length({c}) <= {MAX_VALUE_LENGTH} THEN {c} END"
                for c in columns
            )
            rows = connection.execute(
                f"SELECT {cells} FROM {_always_quoted(table.name)} NOT INDEXED LIMIT {SAMPLE_ROWS}"
            )
            samples[table.name] = _first_spellings(table, rows)
    return samples


def _first_spellings(table: Table, rows: Iterable[tuple[str | None, ...]]) -> dict[str, dict[str, str]]:
    found: list[dict[str, str]] = [{} for _ in table.columns]
    for row in rows:
        for values, value in zip(found, row, strict=True):
            if value is not None and _showable(value):
                values.setdefault(_spelling(value), value)
    return {column.name: values for column, values in zip(table.columns, found, strict=True)}


def _always_quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _showable(value: str) -> bool:
    return bool(value.strip()) and value.isprintable() and "*/" not in value and "\ufffd" not in value


def _spelling(value: str) -> str:
    """What a question must contain to name the value: case, spacing and outer punctuation do not count."""
    folded = " ".join(value.casefold().split())
    return re.sub(r"^\W+|\W+$", "", folded) or folded


#: Words. Chinese and Japanese are written without spaces, so that every character of theirs counts as one.
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def _phrases(question: str) -> dict[str, tuple[int, str]]:
    """Every run of words in the question that may be a value: as `_spelling` has it -> (start, original)."""
    text = " ".join(question.split())
    words = list(_WORD.finditer(text))
    phrases: dict[str, tuple[int, str]] = {}
    for i, first in enumerate(words):
        for last in words[i:]:
            if last.end() - first.start() > MAX_VALUE_LENGTH:
                break
            phrase = text[first.start() : last.end()]
            phrases.setdefault(phrase.casefold(), (first.start(), phrase))
    return phrases


def _examples(values: dict[str, str], phrases: dict[str, tuple[int, str]]) -> list[str]:
    """At most `EXAMPLES` values of a column. One or two letters must agree in case: "a" is not grade 'A'."""
    named = [
        key
        for key, (_, phrase) in phrases.items()
        if key in values and (len(key) > 2 or values[key] == phrase)
    ]
    chosen = sorted(named, key=lambda key: (-len(key), phrases[key][0]))[:EXAMPLES]
    for key in values:
        if len(chosen) == EXAMPLES:
            break
        if key not in chosen:
            chosen.append(key)
    return [values[key] for key in chosen]
