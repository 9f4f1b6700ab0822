"""PostgreSQL behind the worker process: one connection, read-only transactions, time limits by the server.

The server refuses what writes (read-only transaction) and several statements (extended protocol), and
cancels a statement that outlives its time. What a read-only transaction does not stop are functions:
`lo_export` writes a file, `pg_terminate_backend` ends other people's work, `dblink` and `query_to_xml` run
any SQL that stands in a string. All of these are *volatile* by the server's own catalogue, the mark of a
function with side effects, so a statement that calls a volatile function is refused, but for those that only
read a clock or roll dice. A call is `f(x)` or, with one argument, `(x).f`. The names are looked for in the
whole text, strings included: better to refuse once too often than to read a text otherwise than the server
does. All the same, the rights of the role are the real fence.

Every statement ends with ROLLBACK, which also takes back settings. Values come as SQLite would hold them:
numbers, truth values (0 and 1) and bytes as such, everything else as the server's own text.

What a statement gave is never remembered: `pg_current_snapshot()` would tell which rows are visible, but a
statement may also read the clock, settings, foreign tables and the server's own state, through views, casts
and functions of which its text says nothing, and to ask for the snapshot costs as much as most statements.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql as compose
from worker import BATCH, Unavailable, packed, plain

#: A statement that reads, after white space and comments. A comment within a comment is not understood here
#: as the server does, so it is no comment; and what was taken for one is not given back (`(?>…)*+`).
READS = re.compile(
    r"(?>\s|--[^\r\n]*(?:[\r\n]|\Z)|/\*(?:(?!/\*).)*?\*/)*+(SELECT\b|WITH\b|VALUES\b|TABLE\b|\()", re.I | re.S
)
#: Volatile functions that do no harm. Sleeping ends with the statement's time.
HARMLESS = {
    "random", "clock_timestamp", "timeofday", "gen_random_uuid", "pg_sleep", "pg_sleep_for", "pg_sleep_until",
}  # fmt: skip
#: Functions that do more than read and are declared stable: those of extensions that run SQL out of a string,
#: and those that use up a transaction's number.
SAID_STABLE = {
    "crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstabn", "connectby", "xpath_table",
    "txid_current", "pg_current_xact_id",
}  # fmt: skip
#: Before a name that may be called as `(x).f`: a dot, or what may be the end of a comment.
AFTER = r"(?P<after>(?:\.|\*/|[\r\n])[^\S\r\n]*+)?"
#: After a name that may be called as `f(x)`.
BEFORE = r"(?P<before>(?=\s*+(?:\(|--|/\*)))?"
#: Whole names (`*+` gives nothing back, or texts of 100 kB would take minutes). Each quotation mark may open
#: a quoted one, for which of them do so is for the server to tell.
NAMES = (
    re.compile(AFTER + r"(?<![\w$])\d*+(?P<name>[^\W\d][\w$]*+)" + BEFORE),
    re.compile(AFTER + r'"(?=(?P<name>(?:[^"]|""){1,99})"' + BEFORE + ")"),
)
MAX_NAME = 63  # bytes; the server cuts longer ones off
NUMBERS = ("bool", "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "bytea")
CONNECT_TIMEOUT = 10  # seconds
#: Rows fetched at once; they are in memory before anyone can count their bytes.
CHUNK = 64 if psycopg.capabilities.has_stream_chunked() else 1


class PostgresConnection:
    def __init__(self, url: str) -> None:
        self._connection = connection = psycopg.connect(
            url, connect_timeout=CONNECT_TIMEOUT, application_name="nl2sql-prm"
        )
        text = psycopg.types.string.TextLoader
        for kind in psycopg.postgres.types:
            if kind.name not in NUMBERS:
                connection.adapters.register_loader(kind.oid, text)
            connection.adapters.register_loader(kind.array_oid, text)
        connection.autocommit = True
        for setting, value in (
            ("default_transaction_read_only", "on"),
            ("standard_conforming_strings", "on"),
            ("client_encoding", "UTF8"),
            ("client_connection_check_interval", "1s"),  # a statement ends when its worker has been killed
        ):
            with contextlib.suppress(psycopg.Error):  # an older server does not know the last one
                connection.execute(compose.SQL("SET {} = {}").format(compose.Identifier(setting), value))
        rows = connection.execute(
            "SELECT proname, bool_or(pronargs >= 1 AND pronargs - pronargdefaults <= 1 "
            "AND proargtypes[0] <> 'internal'::regtype) FROM pg_catalog.pg_proc WHERE provolatile = 'v' "
            "GROUP BY proname"
        ).fetchall()
        self._forbidden = ({name.lower() for name, _ in rows} | SAID_STABLE) - HARMLESS
        self._attributes = {name.lower() for name, one in rows if one} - HARMLESS  # what `(x).f` may call
        connection.autocommit, connection.read_only = False, True

    def run(self, sql: str, timeout: float, max_rows: int, max_bytes: int, _: int | None) -> tuple[Any, ...]:
        if not READS.match(sql):
            return "refused", "not a statement that reads: only SELECT, WITH, VALUES and TABLE are run"
        if re.search(r"U&\s*\"", sql, re.I):
            return "refused", "names with Unicode escapes are not run"
        if name := self._forbidden_call(sql):
            message = f"the statement calls {name}, which may do more than read"
            return "refused", message + "; if it does not, declare it STABLE"
        connection = self._connection
        try:
            connection.execute(f"SET LOCAL statement_timeout = {max(int(timeout * 1000), 1)}")
            columns = self._columns(sql)
            if not columns:
                return "refused", "the statement does more than read, for it has no columns"
            stream = connection.cursor().stream(sql, size=CHUNK)
            # Closed before the rollback: until then the cursor holds the connection's lock.
            with contextlib.closing(stream) as rows:  # type: ignore[type-var]  # a generator, hinted as iterator
                return packed(columns, _batches(rows), False, max_rows, max_bytes)
        except psycopg.errors.QueryCanceled:
            return "timeout", f"the statement ran longer than {timeout:g} s"
        except MemoryError:
            return "too_large", "the result needs more memory than it may have"
        except (
            psycopg.errors.ReadOnlySqlTransaction,
            psycopg.errors.ActiveSqlTransaction,
            psycopg.errors.InsufficientPrivilege,
        ) as error:
            return "refused", f"the statement does more than read ({_message(error)})"
        except (psycopg.Error, ValueError) as error:  # ValueError: text that is not in the declared encoding
            message = _message(error)
            if "multiple commands" in message:
                return "refused", "more than one statement"
            # Of the server or, for one row that is too large, of this process.
            if re.search("out of memory|memory alloc request|too large", message):
                return "too_large", message
            if connection.closed or connection.broken:
                raise Unavailable(f"the connection is lost ({message})") from None
            return "error", message
        finally:
            with contextlib.suppress(psycopg.Error):
                connection.rollback()

    def _forbidden_call(self, sql: str) -> str | None:
        """The name of a function that the statement calls, or may call, and must not."""
        for match in itertools.chain.from_iterable(names.finditer(sql) for names in NAMES):
            name = match["name"].replace('""', '"').lower().encode()[:MAX_NAME].decode(errors="ignore")
            if match["before"] is not None and name in self._forbidden:
                return name
            if match["after"] is not None and name in self._attributes:
                return name
        return None

    def _columns(self, sql: str) -> tuple[str, ...]:
        """What the statement would return, without running it: COPY, for one, nothing."""
        link = self._connection.pgconn
        prepared = link.prepare(b"", sql.encode())
        if prepared.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(prepared)
        described = link.describe_prepared(b"")
        return tuple((described.fname(i) or b"").decode("utf-8", "replace") for i in range(described.nfields))

    def close(self) -> None:
        self._connection.close()


def _batches(rows: Iterator[tuple]) -> Iterator[list[tuple]]:
    batch: list[tuple] = []
    for row in rows:
        batch.append(tuple(map(plain, row)))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _message(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip()


def connect(url: str, max_sql: int) -> PostgresConnection:
    try:
        return PostgresConnection(url)
    except psycopg.Error as error:
        raise Unavailable(f"cannot connect to the database ({_message(error)})") from None
