"""What a table is, whichever engine holds it, and how SQL writes its names."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: The keywords that SQLite does not take as a name without quotes (tried out one by one as table and column),
#: and those of joins and literals, which other parsers stumble over.
RESERVED = frozenset(
    [
        "ADD", "ALL", "ALTER", "AND", "AS", "AUTOINCREMENT", "BETWEEN", "CASE", "CAST", "CHECK", "COLLATE",
        "COMMIT", "CONSTRAINT", "CREATE", "CROSS", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP",
        "DEFAULT", "DEFERRABLE", "DELETE", "DISTINCT", "DROP", "ELSE", "ESCAPE", "EXCEPT", "EXISTS", "FALSE",
        "FOREIGN", "FROM", "FULL", "GROUP", "HAVING", "IN", "INDEX", "INNER", "INSERT", "INTERSECT", "INTO",
        "IS", "ISNULL", "JOIN", "LEFT", "LIMIT", "NATURAL", "NOT", "NOTHING", "NOTNULL", "NULL", "ON", "OR",
        "ORDER", "OUTER", "PRIMARY", "RAISE", "REFERENCES", "RETURNING", "RIGHT", "SELECT", "SET", "TABLE",
        "THEN", "TO", "TRANSACTION", "TRUE", "UNION", "UNIQUE", "UPDATE", "USING", "VALUES", "WHEN", "WHERE",
        "WINDOW", "WITH",
    ]
)  # fmt: skip

#: What PostgreSQL or DuckDB reserve beyond that (their own lists: pg_get_keywords, duckdb_keywords).
RESERVED_ELSEWHERE = RESERVED | frozenset(
    [
        "ANALYSE", "ANALYZE", "ANY", "ARRAY", "ASC", "ASYMMETRIC", "AUTHORIZATION", "BINARY", "BOTH",
        "COLLATION", "COLUMN", "CONCURRENTLY", "CURRENT_CATALOG", "CURRENT_ROLE", "CURRENT_SCHEMA",
        "CURRENT_USER", "DESC", "DESCRIBE", "DO", "END", "FETCH", "FOR", "FREEZE", "GRANT", "ILIKE",
        "INITIALLY", "LAMBDA", "LATERAL", "LEADING", "LIKE", "LOCALTIME", "LOCALTIMESTAMP", "OFFSET", "ONLY",
        "OVERLAPS", "PIVOT", "PIVOT_LONGER", "PIVOT_WIDER", "PLACING", "QUALIFY", "SESSION_USER", "SHOW",
        "SIMILAR", "SOME", "SUMMARIZE", "SYMMETRIC", "TABLESAMPLE", "TRAILING", "UNPIVOT", "USER", "VARIADIC",
        "VERBOSE",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """`type` is the declared type, "" where there is none; `primary_key` also where it is one of several."""

    name: str
    type: str
    primary_key: bool = False
    not_null: bool = False


@dataclass(frozen=True)
class ForeignKey:
    """`table.columns[i]` refers to `parent.parent_columns[i]`; names are spelled as in their tables."""

    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """`primary_key` holds column names in key order, () where the table declares none."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()

    def column(self, name: str) -> Column | None:
        """The column of that name, upper and lower case alike, or None."""
        return next((c for c in self.columns if c.name.lower() == name.lower()), None)


def quote(name: str, dialect: str = "sqlite") -> str:
    """The name as SQL writes it: bare where that is allowed, else in double quotes.

    PostgreSQL reads a bare name as lower case.
    """
    plain = r"[a-z_][a-z0-9_]*" if dialect == "postgres" else r"[^\W\d]\w*"
    reserved = RESERVED if dialect == "sqlite" else RESERVED_ELSEWHERE
    if re.fullmatch(plain, name) and name.upper() not in reserved:
        return name
    return '"' + name.replace('"', '""') + '"'
