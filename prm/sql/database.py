"""Read-only execution of SQL that nobody has checked, on SQLite files that nobody may change.

Statements come from models, from mutations and from other people's data sets: some never end, some want
gigabytes, some write. Inside a process none of that can be stopped for certain (a progress handler does not
fire within one long call such as `'aaa…' LIKE '%a%a%a%a%b'`), so every `Database` has a worker process of its
own (`sqlite_worker.py`), which reads and does nothing else, and is killed and replaced when a statement
outlives its time. The detour costs some 30 µs a statement, and 20 ms where a worker has to be started.

The file is opened with `immutable=1`: SQLite then takes no locks and never leaves a `-journal`, `-wal` or
`-shm` file beside it, works in folders where nothing may be written, and is quicker. The price is that the
file must not be written while it is open, and that a write-ahead log beside it would be overlooked; such a
file is therefore refused.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from prm.errors import InputError

MAX_ROWS = 100_000
MAX_BYTES = 32 << 20
MAX_SQL_BYTES = 100_000
MAX_MEMORY = 1 << 30
START_TIMEOUT = 60.0

_HEADER = struct.Struct("!Q")
_WORKER = str(Path(__file__).with_name("sqlite_worker.py"))


class SQLError(Exception):
    """A statement gave no result. `kind` says why:

    `error` (SQLite cannot run it: syntax, unknown names …), `timeout`, `too_large` (rows, bytes or memory),
    `refused` (more than one statement, none, or one that does not just read), `crashed` (the worker process
    died of it).
    """

    def __init__(self, message: str, kind: str = "error") -> None:
        super().__init__(message)
        self.kind = kind


class Rows(list):
    """The rows of a result, a list of tuples; `columns` are the names of its columns."""

    columns: tuple[str, ...] = ()


def open_database(
    path: str | os.PathLike[str], timeout: float = 5.0, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES
) -> Database:
    """Open an SQLite file for reading; use it as a context manager or close it.

    `timeout` is in seconds of wall-clock time for each statement, `max_rows` and `max_bytes` bound its
    result.

    Raises:
        InputError: the file is missing, no SQLite database, empty, or has unfinished writes beside it.
    """
    return Database(path, timeout=timeout, max_rows=max_rows, max_bytes=max_bytes)


class Database:
    """One SQLite file and the worker process that reads it (see the module docstring).

    The worker starts with the first statement, and ends with `close()`, with the `with` block, or with this
    process. Threads may share a `Database` (statements run one after the other); a process forked from this
    one gets a worker of its own.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float, max_rows: int, max_bytes: int
    ) -> None:
        self.path = Path(path)
        self.timeout, self.max_rows, self.max_bytes = timeout, max_rows, max_bytes
        self._uri = database_uri(path)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._closed = False
        _OPEN.add(self)

    def execute(self, sql: str) -> Rows:
        """Run one statement and return its rows, as tuples of None, int, float, str and bytes.

        Text that is no valid UTF-8 comes back with U+FFFD in the place of the bad bytes.

        Raises:
            SQLError: its `kind` says why there is no result. The next statement can be run whatever happened.
        """
        if not isinstance(sql, str):
            raise TypeError(f"a statement is a string, not {type(sql).__name__}")
        try:
            length = len(sql.encode())
        except UnicodeEncodeError as error:
            raise SQLError(f"the statement is no valid text ({error.reason})", "error") from None
        if length > MAX_SQL_BYTES:
            raise SQLError(f"the statement has {length} bytes; at most {MAX_SQL_BYTES} are run", "refused")
        if "\0" in sql:
            raise SQLError("the statement contains a NUL character", "refused")
        with self._lock:
            if self._closed:
                raise ValueError("the database is closed")
            try:
                answer = self._ask(sql)
                if answer is None:  # the worker died, perhaps killed from outside: reading twice does no harm
                    answer = self._ask(sql)
            except BaseException:
                # Also after Ctrl-C: an answer that is under way must not be taken for the next one's.
                self._end_worker()
                raise
        if answer is None:
            raise SQLError("the process that ran the statement died", "crashed")
        if answer[0] != "rows":
            raise SQLError(answer[1], answer[0])
        rows = Rows()
        rows.columns = answer[1]
        for batch in answer[2]:
            rows += marshal.loads(batch)
        return rows

    def close(self) -> None:
        """End the worker; statements after this are a ValueError. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            self._end_worker()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_lock"):  # absent where the path was refused
            self._end_worker()

    def _ask(self, sql: str) -> Any:
        """The worker's answer to one statement; None where the worker died over it."""
        if self._process is None or self._process.poll() is not None:
            self._start_worker()
        deadline = time.monotonic() + self.timeout
        try:
            self._send(sql, deadline)
            return self._receive(deadline)
        except TimeoutError:
            self._end_worker()
            raise SQLError(f"the statement ran longer than {self.timeout:g} s", "timeout") from None
        except (ConnectionError, EOFError):
            self._end_worker()
            return None

    def _start_worker(self) -> None:
        self._end_worker()
        self._link, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _WORKER, str(os.getpid())],
                stdin=other,
                stdout=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + START_TIMEOUT
        try:
            self._send((self._uri, self.max_rows, self.max_bytes, MAX_SQL_BYTES, MAX_MEMORY), deadline)
            answer = self._receive(deadline)
        except (ConnectionError, EOFError, TimeoutError) as error:
            raise SQLError("the process that runs statements did not start", "crashed") from error
        if answer[0] != "ready":
            raise SQLError(f"cannot open {self.path}: {answer[1]}", answer[0])

    def _end_worker(self) -> None:
        process, self._process = self._process, None
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()

    def _forget_worker(self) -> None:
        """In a forked child: the worker is the parent's, so drop our copy of the link and leave it alone."""
        self._lock = threading.Lock()
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            self._process.returncode = 0  # it is not ours to wait for
        self._link = self._process = None

    def _send(self, message: Any, deadline: float) -> None:
        data = marshal.dumps(message)
        self._link.settimeout(max(deadline - time.monotonic(), 0.001))
        self._link.sendall(_HEADER.pack(len(data)) + data)

    def _receive(self, deadline: float) -> Any:
        data, need = bytearray(), _HEADER.size
        while len(data) < need:
            self._link.settimeout(max(deadline - time.monotonic(), 0.001))
            piece = self._link.recv(1 << 18)
            if not piece:
                raise EOFError
            data += piece
            if need == _HEADER.size and len(data) >= need:
                need += _HEADER.unpack_from(data)[0]
        return marshal.loads(memoryview(data)[_HEADER.size :])


#: Every database of this process, so that a forked child can let go of its parent's workers.
_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork() -> None:
    for database in list(_OPEN):
        database._forget_worker()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def database_uri(path: str | os.PathLike[str]) -> str:
    """The `file:` URI that opens an SQLite file read-only and immutable, after a look at the file itself.

    Raises:
        InputError: the file is missing, no SQLite database, empty, or has unfinished writes beside it.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError("a folder; give the .sqlite file inside it", file=str(file))
    if not file.is_file():
        raise InputError("no such database; check the path", file=str(file))
    try:
        with open(file, "rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise InputError(
            f"cannot read the database ({error.strerror}); check its permissions", file=str(file)
        ) from None
    if not head:
        raise InputError("the database is empty; fetch or build it again", file=str(file))
    if head != b"SQLite format 3\0":
        raise InputError("not an SQLite database; give a file that sqlite3 can open", file=str(file))
    file = file.resolve()
    if _holds_data(f"{file}-wal"):
        raise InputError(
            "has a write-ahead log beside it, so it is in use or was not closed; close its writer, or run "
            f"sqlite3 '{file}' 'PRAGMA wal_checkpoint(TRUNCATE)'",
            file=str(path),
        )
    if _holds_data(f"{file}-journal"):
        raise InputError(
            "has a hot journal beside it: a write was cut off; "
            f"run sqlite3 '{file}' 'PRAGMA integrity_check' once to roll it back",
            file=str(path),
        )
    return file.as_uri() + "?mode=ro&immutable=1"


def _holds_data(path: str) -> bool:
    """Whether a log or journal holds anything; a finished journal left in place starts with a zero."""
    try:
        with open(path, "rb") as stream:
            return stream.read(1) not in (b"", b"\0")
    except OSError:
        return False
