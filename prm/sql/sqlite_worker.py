"""The process that runs other people's SQL, started by `prm.sql.database`, which it talks to over its stdin.

It is started as a plain script with `python -I -S` (no site-packages, no user code, nothing but the standard
library), so it is up in some 15 ms, weighs 10 MB, and never runs the `__main__` of the program that uses it.
Messages are an 8-byte length and a `marshal` value: as exact as pickle for everything SQLite can hold (NULL,
64-bit integers, inf, text, blobs) and, unlike pickle, nothing in it runs code.

Every fence is here: the connection is read-only and immutable, the authorizer lets nothing pass but reading,
SQLite's own limits and `RLIMIT_AS` bound memory, sorts that would spill to disk stay in memory, files cannot
grow. What no fence can bound from inside, the time of one long call in C, is the parent's business: it kills
this process.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import re
import select
import signal
import socket
import sqlite3
import struct
import sys
import threading

HEADER = struct.Struct("!Q")
BATCH = 512  # rows fetched, counted and packed at once
MIN_LENGTH = 16 << 20  # bytes; SQLite applies its limit to whole stored rows too, shown or not
#: A statement that reads, after white space and comments (EXPLAIN would pass the authorizer and give rows).
READS = re.compile(
    r"(?:[ \t\n\f\r\ufeff]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*(SELECT|WITH|VALUES)\b", re.I | re.S
)
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
#: Functions that reach beyond the query; all are off or absent in a stock SQLite, but builds differ.
FORBIDDEN = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}


def authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
    if action not in ALLOWED or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FORBIDDEN):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def limit_process(memory: int) -> None:
    """Bound memory, file size and core dumps where the system can (it is a second fence, not the first)."""
    try:
        import resource
    except ImportError:
        return
    for what, wanted in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (limit, limit))


def connect(uri: str, max_bytes: int, max_sql: int) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cache_size = -65536")  # 64 MiB: many statements read the same pages
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # a broken file fails here
    if hasattr(connection, "setlimit"):  # Python 3.11
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(max_bytes, MIN_LENGTH))
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, max_sql)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_authorizer(authorize)
    return connection


def run(connection: sqlite3.Connection, sql: str, max_rows: int, max_bytes: int) -> tuple:
    """("rows", column names, packed batches of rows), or (kind of error, message)."""
    if not READS.match(sql):
        return "refused", "not a statement that reads: only SELECT, WITH and VALUES are run, one at a time"
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        columns = tuple(entry[0] for entry in cursor.description or ())
        batches, n, size = [], 0, 0
        while rows := cursor.fetchmany(BATCH):
            n += len(rows)
            if n > max_rows:
                return "too_large", f"the result has more than {max_rows} rows"
            batches.append(marshal.dumps(rows))
            size += len(batches[-1])
            if size > max_bytes:
                return "too_large", f"the result has more than {max_bytes} bytes"
        return "rows", columns, batches
    except MemoryError:
        return "too_large", "the statement needs more memory than it may have"
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        message = str(error)
        if message.startswith("You can only execute one statement"):
            return "refused", "more than one statement"
        if message.startswith("not authorized"):
            return "refused", f"the statement does more than read ({message})"
        if message in ("string or blob too big", "out of memory", "database or disk is full"):
            return "too_large", message
        return "error", message
    finally:
        cursor.close()


def die_with_parent(link: socket.socket, parent: int) -> None:
    """End this process as soon as the other end of the link is closed or the parent is gone.

    A thread, because a long statement must end as well (sqlite3 drops the GIL while it works). The parent's
    id is looked at twice a second because processes forked from the parent may hold the other end open after
    its death. The kernel's own "signal at parent's death" will not do: it fires when the *thread* that
    started the child ends.
    """
    poll = select.poll()
    poll.register(link, 0)  # hang-up and errors are always reported
    while not poll.poll(500) and os.getppid() == parent:
        pass
    os._exit(0)


def receive(link: socket.socket) -> object:
    data = bytearray()
    need = HEADER.size
    while len(data) < need:
        piece = link.recv(1 << 16)
        if not piece:
            os._exit(0)
        data += piece
        if need == HEADER.size and len(data) >= need:
            need += HEADER.unpack_from(data)[0]
    return marshal.loads(memoryview(data)[HEADER.size :])


def send(link: socket.socket, message: tuple) -> None:
    data = marshal.dumps(message)
    link.sendall(HEADER.pack(len(data)) + data)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the link
    link = socket.socket(fileno=0)
    threading.Thread(target=die_with_parent, args=(link, int(sys.argv[1])), daemon=True).start()
    uri, max_rows, max_bytes, max_sql, max_memory = receive(link)
    limit_process(max_memory)
    try:
        connection = connect(uri, max_bytes, max_sql)
    except (sqlite3.Error, OSError) as error:
        send(link, ("error", str(error)))
        return
    send(link, ("ready",))
    while True:
        sql = receive(link)
        try:
            answer = run(connection, sql, max_rows, max_bytes)
            send(link, answer)
        except MemoryError:
            send(link, ("too_large", "the result needs more memory than it may have"))


if __name__ == "__main__":
    main()
