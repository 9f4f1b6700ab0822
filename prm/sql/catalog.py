"""The tables of a DuckDB or PostgreSQL database, asked of its own catalogue (`schema.py` reads SQLite's).

The questions run like everybody's: in a worker, read-only, with a time limit. Of PostgreSQL one sees the
tables that stand in the search path and that the role may read, partitions as the one table that they make
up.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from prm.errors import InputError
from prm.sql.database import Database, Rows, SQLError, without_password
from prm.sql.tables import Column, ForeignKey, Table, quote

TIMEOUT = 60.0  # seconds for each question: a catalogue may be large, and a server far

#: (table, column, type, whether NULL is allowed), tables as the catalogue lists them, columns in their order.
COLUMNS = {
    "duckdb": """
        SELECT table_name, column_name, data_type, is_nullable
        FROM duckdb_columns() JOIN duckdb_tables() AS t USING (database_name, schema_name, table_name)
        WHERE NOT t.internal AND schema_name = current_schema() AND database_name = current_database()
        ORDER BY t.table_oid, column_index""",
    "postgres": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
        AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
        AND pg_table_is_visible(c.oid) AND has_table_privilege(c.oid, 'SELECT')
        ORDER BY c.oid, a.attnum""",
}
#: (number of the key, table, column, parent, parent's column), parents NULL for primary keys.
KEYS = {
    "duckdb": """
        SELECT row_number() OVER (ORDER BY table_oid, constraint_index), table_name,
        unnest(constraint_column_names), CASE WHEN constraint_type = 'FOREIGN KEY' THEN referenced_table END,
        CASE WHEN constraint_type = 'FOREIGN KEY' THEN unnest(referenced_column_names) END
        FROM duckdb_constraints() WHERE constraint_type IN ('PRIMARY KEY', 'FOREIGN KEY')
        AND schema_name = current_schema() AND database_name = current_database()""",
    "postgres": """
        SELECT k.oid, c.relname, a.attname, p.relname, b.attname
        FROM pg_catalog.pg_constraint AS k JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
        CROSS JOIN LATERAL unnest(k.conkey, k.confkey) WITH ORDINALITY AS u(child, parent, i)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.child
        LEFT JOIN pg_catalog.pg_class AS p ON p.oid = k.confrelid
        LEFT JOIN pg_catalog.pg_attribute AS b ON b.attrelid = k.confrelid AND b.attnum = u.parent
        WHERE k.contype IN ('p', 'f') AND k.conparentid = 0 AND pg_table_is_visible(c.oid)
        AND (p.oid IS NULL OR pg_table_is_visible(p.oid)) ORDER BY k.oid, u.i""",
}
#: Types whose values are no examples for a prompt: numbers speak for themselves, and blobs not at all.
SILENT = ("int", "numeric", "decimal", "double", "float", "real", "bool", "bytea", "blob", "bit")


def read_tables(database: Database) -> tuple[Table, ...]:
    """The tables of a DuckDB file or a PostgreSQL database.

    Raises:
        InputError: it cannot be reached or read.
    """
    columns: dict[str, list[tuple[str, str, bool]]] = {}
    for table, column, kind, nullable in _ask(database, COLUMNS[database.dialect]):
        columns.setdefault(table, []).append((column, kind, not nullable))
    primary: dict[str, tuple[str, ...]] = {}
    foreign: dict[str, list[ForeignKey]] = {}
    for _, group in groupby(_ask(database, KEYS[database.dialect]), key=lambda row: row[0]):
        rows = list(group)
        table, parent = rows[0][1], rows[0][3]
        names = tuple(row[2] for row in rows)
        if parent is None:
            primary[table] = names
        elif parent in columns:
            foreign.setdefault(table, []).append(
                ForeignKey(table, names, parent, tuple(row[4] for row in rows))
            )
    return tuple(
        Table(
            table,
            tuple(
                Column(name, kind, name in primary.get(table, ()), required) for name, kind, required in found
            ),
            primary.get(table, ()),
            tuple(foreign.get(table, ())),
        )
        for table, found in columns.items()
    )


def first_values(
    database: Database, table: Table, rows: int, max_length: int
) -> list[tuple[str | None, ...]]:
    """The first rows of a table as text; None for what is no text, date or the like, or is too long.

    Raises:
        InputError: the table cannot be read.
    """
    as_text: Callable[[str], str] = (
        "CAST({} AS VARCHAR)" if database.dialect == "duckdb" else "CAST({} AS TEXT)"
    ).format
    cells = []
    for column in table.columns:
        text = as_text(quote(column.name, database.dialect))
        silent = any(word in column.type.lower() for word in SILENT) and "char" not in column.type.lower()
        cells.append("NULL" if silent else f"CASE WHEN length({text}) <= {max_length} THEN {text} END")
    found = _ask(
        database, f"SELECT {', '.join(cells)} FROM {quote(table.name, database.dialect)} LIMIT {rows}"
    )
    return list(found)


def _ask(database: Database, sql: str) -> Rows:
    try:
        return database.execute(sql)
    except SQLError as error:
        raise InputError(
            f"cannot read the database ({error}); check that it is there and may be read",
            file=without_password(str(database.path)),
        ) from None
