"""SQLite inside the worker process: a connection that can read one immutable file and do nothing else.

Every fence is here: the connection is read-only and immutable, the authorizer lets nothing pass but reading,
SQLite's own limits bound the size of a value, of a statement and of its heap, and sorts that would spill to
disk stay in memory.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from worker import BATCH, Unavailable, packed

MIN_LENGTH = 16 << 20  # bytes; SQLite applies its limit to whole stored rows too, shown or not
MAX_HEAP = 800 << 20  # bytes; below the limit of the process, and kept where that has none
#: A statement that reads, after white space and comments (EXPLAIN would pass the authorizer and give rows).
#: What was taken for a comment is not given back (`(?>…)*+`), or EXPLAIN could hide between two of them.
READS = re.compile(
    r"(?>[ \t\n\f\r\ufeff]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*+(SELECT|WITH|VALUES)\b", re.I | re.S
)
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
#: Functions that reach beyond the query; all are off or absent in a stock SQLite, but builds differ.
FORBIDDEN = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
#: Functions whose value may be another one the next time. Those of dates are, if they are asked for 'now',
#: which may come out of a column or an expression.
FLEETING = {
    "random", "randomblob", "changes", "total_changes", "last_insert_rowid", "date", "time", "datetime",
    "julianday", "unixepoch", "strftime", "timediff", "current_date", "current_time", "current_timestamp",
}  # fmt: skip
STRIDE = 10_000  # steps of SQLite's machine (some 0.1 ms) after which they are counted
TOO_LARGE = ("string or blob too big", "out of memory", "database or disk is full")


class SQLiteConnection:
    """One open file. `_lasting` says of the statement at work whether the file alone decides its result."""

    def __init__(self, uri: str, max_sql: int) -> None:
        self._lasting = True
        # No cache of prepared statements: the authorizer must see every statement, and 128 hold memory.
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=0
        )
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute(f"PRAGMA hard_heap_limit = {MAX_HEAP}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cache_size = -8192")  # 8 MiB
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # a broken file fails here
        with contextlib.suppress(sqlite3.Error):  # made here, for the authorizer lets nothing be made
            connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')").fetchone()
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, max_sql)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(self._authorize)
        self._connection = connection

    def _authorize(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        if action not in ALLOWED:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION:
            name = (second or "").lower()
            if name in FORBIDDEN:
                return sqlite3.SQLITE_DENY
            if name in FLEETING:
                self._lasting = False
        return sqlite3.SQLITE_OK

    def run(
        self, sql: str, timeout: float, max_rows: int, max_bytes: int, max_steps: int | None
    ) -> tuple[Any, ...]:
        if not READS.match(sql):
            message = "not a statement that reads: only SELECT, WITH and VALUES are run, one at a time"
            return "refused", message
        self._lasting = True
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(max_bytes, MIN_LENGTH))
        self._count_steps(max_steps)
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
            columns = tuple(entry[0] for entry in cursor.description or ())
            return packed(columns, _batches(cursor), self._lasting, max_rows, max_bytes)
        except MemoryError:
            return "too_large", "the statement needs more memory than it may have"
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            message = str(error)
            if message.startswith("You can only execute one statement"):
                return "refused", "more than one statement"
            if message.startswith("not authorized"):
                return "refused", f"the statement does more than read ({message})"
            if message == "interrupted":
                return "timeout", f"the statement takes more than {max_steps:,} steps of SQLite's machine"
            return "too_large" if message in TOO_LARGE else "error", message
        finally:
            cursor.close()

    def _count_steps(self, most: int | None) -> None:
        """Interrupt the next statement after so many steps of SQLite's machine."""
        left = 0 if most is None else -(-most // STRIDE)

        def one_more() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        self._connection.set_progress_handler(None if most is None else one_more, STRIDE)

    def close(self) -> None:
        self._connection.close()


def _batches(cursor: sqlite3.Cursor) -> Iterator[list[tuple]]:
    while rows := cursor.fetchmany(BATCH):
        yield rows


def connect(uri: str, max_sql: int) -> SQLiteConnection:
    try:
        return SQLiteConnection(uri, max_sql)
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(f"cannot open the database ({error})") from None
