"""The process that runs other people's SQL, started by `prm.sql.pool`, which it talks to over its stdin.

It is started as a plain script with `python -I -S` (no site-packages, no user code, nothing but the standard
library), so it is up in some 15 ms, weighs 10 MB, and never runs the `__main__` of the program that uses it.
Messages are an 8-byte length and a `marshal` value: as exact as pickle for what results hold (NULL, integers
of any size, inf, text, blobs) and, unlike pickle, nothing in it runs code.

It answers one statement after the other, in the order in which they come, each on the database that it
names: the connections used last stay open. What a statement may do is the business of the three engines
beside this file (`sqlite_worker.py`, `duckdb_worker.py`, `postgres_worker.py`); here is what bounds the
process: `RLIMIT_AS` for memory, no file may grow, no core dump, and it ends with its parent. What cannot be
bounded from inside, the time of one long call in C, is the parent's business: it kills this process.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import marshal
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

HEADER = struct.Struct("!Q")
BATCH = 512  # rows packed at once
CONNECTIONS = 8  # kept open


class Connection(Protocol):
    """An open database of one of the engines."""

    def run(
        self, sql: str, timeout: float, max_rows: int, max_bytes: int, max_steps: int | None
    ) -> tuple[Any, ...]:
        """("rows", column names, packed batches, whether it may be remembered), or (kind, message)."""

    def close(self) -> None: ...


class Unavailable(Exception):
    """The database cannot be reached, whatever the statement."""


def connect(target: str, max_sql: int) -> Connection:
    """Open a database: `target` is a URL, whose scheme says the engine."""
    scheme = target.partition(":")[0]
    if scheme == "duckdb":
        import duckdb_worker as engine
    elif scheme == "postgresql":
        import postgres_worker as engine
    else:
        import sqlite_worker as engine
    return engine.connect(target, max_sql)


def packed(
    columns: tuple[str, ...], rows: Iterable[list[tuple]], lasting: bool, max_rows: int, max_bytes: int
) -> tuple[Any, ...]:
    """The answer to a statement whose rows come in batches, up to the limits."""
    batches, n, size = [], 0, 0
    for batch in rows:
        n += len(batch)
        if n > max_rows:
            return "too_large", f"the result has more than {max_rows} rows"
        batches.append(marshal.dumps(batch))
        size += len(batches[-1])
        if size > max_bytes:
            return "too_large", f"the result has more than {max_bytes} bytes"
    return "rows", columns, batches, lasting


def plain(value: Any) -> Any:
    """A value of another engine as SQLite would hold it: None, int, float, str or bytes.

    Truth values are 0 and 1, decimals are whole numbers where they can be and else floats, dates and times
    are ISO text, and everything else is its text.
    """
    if value is None or type(value) in (int, float, str, bytes):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, decimal.Decimal):
        whole = value.is_finite() and value.adjusted() < 1000 and value == value.to_integral_value()
        return int(value) if whole else float(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return str(value)


def limit_process(memory: int) -> None:
    """Bound memory, file size and core dumps where the system can (it is a second fence, not the first)."""
    limit_memory(memory)
    _limit("RLIMIT_FSIZE", 0)
    _limit("RLIMIT_CORE", 0)


def limit_memory(memory: int) -> None:
    """Bound the address space, in bytes; also to more than before."""
    _limit("RLIMIT_AS", memory)


def _limit(name: str, wanted: int) -> None:
    try:
        import resource
    except ImportError:
        return
    what = getattr(resource, name)
    hard = resource.getrlimit(what)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(what, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def die_with_parent(link: socket.socket, parent: int) -> None:
    """End this process as soon as the other end of the link is closed or the parent is gone.

    A thread, because a long statement must end as well (the engines drop the GIL while they work). The
    parent's id is looked at twice a second because processes forked from the parent may hold the other end
    open after its death. The kernel's own "signal at parent's death" will not do: it fires when the *thread*
    that started the child ends.
    """
    poll = select.poll()
    poll.register(link, 0)  # hang-up and errors are always reported
    while not poll.poll(500) and os.getppid() == parent:
        pass
    os._exit(0)


def messages(link: socket.socket) -> Iterator[Any]:
    """What the parent sends; several statements may wait in the link."""
    data = bytearray()
    while True:
        while len(data) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(data)[0]
            if len(data) < end:
                break
            message = marshal.loads(bytes(data[HEADER.size : end]))
            del data[:end]
            yield message
        piece = link.recv(1 << 16)
        if not piece:
            os._exit(0)
        data += piece


def send(link: socket.socket, message: tuple) -> None:
    data = marshal.dumps(message)
    link.sendall(HEADER.pack(len(data)) + data)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the link
    link = socket.socket(fileno=0)
    threading.Thread(target=die_with_parent, args=(link, int(sys.argv[1])), daemon=True).start()
    # The engines beside this file, and what the parent has installed; last, so that nothing there takes the
    # place of the standard library.
    sys.modules["worker"] = sys.modules["__main__"]
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    incoming = messages(link)
    memory, max_sql, paths = next(incoming)
    sys.path += paths
    limit_process(memory)
    connections: OrderedDict[tuple[Any, ...], Connection] = OrderedDict()
    for target, version, *statement in incoming:
        key = (target, version)
        known = key in connections
        if known:
            connections.move_to_end(key)
        elif len(connections) >= CONNECTIONS:
            connections.popitem(last=False)[1].close()
        try:
            try:
                answer = _open(connections, key, max_sql, link).run(*statement)
            except Unavailable:
                if not known:
                    raise
                connections.pop(key).close()  # the server may have been restarted since the last statement
                answer = _open(connections, key, max_sql, link).run(*statement)
            send(link, answer)
        except Unavailable as error:
            if key in connections:
                connections.pop(key).close()
            send(link, ("unavailable", str(error)))
        except MemoryError:
            send(link, ("too_large", "the result needs more memory than it may have"))


def _open(
    connections: OrderedDict[tuple[Any, ...], Connection],
    key: tuple[Any, ...],
    max_sql: int,
    link: socket.socket,
) -> Connection:
    """The connection to a database, opened where that has to be done: then the parent is told, for the time
    of the statement itself runs from there."""
    if key not in connections:
        for old in [old for old in connections if old[0] == key[0]]:  # the file as it was before
            connections.pop(old).close()
        connections[key] = connect(key[0], max_sql)
        send(link, ("opened",))
    return connections[key]


if __name__ == "__main__":
    main()
