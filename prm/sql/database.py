"""Read-only execution of SQL that nobody has checked, on databases that nobody may change.

Statements come from models, from mutations and from other people's data sets: some never end, some want
gigabytes, some write. They run in killable worker processes (`pool.py`) behind every fence that the engine
has, and come back as rows or as an `SQLError` that says what went wrong.

    with open_database("pets.sqlite") as database:
        rows = database.execute("SELECT name FROM pet")

SQLite is the default; DuckDB and PostgreSQL are reached by URL. All of them give the same plain values (None,
int, float, str, bytes), so that results can be compared across engines.

An SQLite file is opened with `immutable=1`: SQLite then takes no locks and never leaves a `-journal`, `-wal`
or `-shm` file beside it, works in folders where nothing may be written, and is quicker. The price is that the
file must not be written while a statement reads it, and that a write-ahead log beside it would be overlooked;
such a file is therefore refused. A file that was replaced or written between two statements is noticed.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

from prm.errors import InputError
from prm.sql.pool import MAX_SQL_BYTES, DatabasePool
from prm.sql.results import Rows, SQLError, file_fingerprint

__all__ = ["MAX_SQL_BYTES", "Database", "DatabasePool", "Rows", "SQLError", "open_database", "open_steadily"]

MAX_ROWS = 100_000
MAX_BYTES = 32 << 20
#: Steps of SQLite's machine that a busy computer does in a second; an idle one does 100 million.
STEPS_PER_SECOND = 20_000_000
#: Seconds beyond a statement's own that a server has to cancel it, before its worker is killed.
GRACE = 1.0


def open_database(
    database: str | os.PathLike[str],
    timeout: float = 5.0,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
    *,
    pool: DatabasePool | None = None,
    cache: bool = True,
    max_steps: int | None = None,
) -> Database:
    """Open a database for reading; use it as a context manager or close it.

    `database` is the path of an SQLite file, or a URL: `sqlite:///relative.sqlite`, `duckdb:////abs.duckdb`
    (pip extra `duckdb`), `postgresql://user@host/name` (pip extra `postgres`). `timeout` is in seconds of
    wall-clock time for each statement, `max_rows` and `max_bytes` bound its result. Without `pool` it has a
    worker process of its own. `cache=False` runs every statement anew (see `results.py`).

    `max_steps` bounds the steps of SQLite's own machine that a statement may take, some 100 million a second.
    Time ends one statement here and another there; steps end the same ones on every machine, busy or not, so
    that what is built from results does not hang on the clock. DuckDB and PostgreSQL do not count.

    PostgreSQL: statements run in read-only transactions, the server cancels them in time, and functions that
    it declares volatile are refused. What a statement may see or do beyond that is decided by the role that
    connects: give it the right to read the tables in question and no other, for that is the real fence.

    Raises:
        InputError: the file is missing, of another kind, empty, or has unfinished writes beside it; the URL
            is malformed; the engine's driver is not installed.
    """
    return Database(
        database,
        timeout=timeout,
        max_rows=max_rows,
        max_bytes=max_bytes,
        pool=pool,
        cache=cache,
        max_steps=max_steps,
    )


def open_steadily(
    database: str | os.PathLike[str], timeout: float = 5.0, *, pool: DatabasePool | None = None
) -> Database:
    """`open_database` for what becomes a label: an SQLite statement ends after `timeout` times
    `STEPS_PER_SECOND` steps, so that the same statements end in every run. Time goes on to end what takes no
    steps (one long call of a function), but on a busy machine it is the worker's own processor time."""
    return open_database(database, timeout, pool=pool, max_steps=int(timeout * STEPS_PER_SECOND))


class Database:
    """One database and the pool of workers that reads it (see the module docstring).

    `path` is the file, or the URL of a server; `dialect` is its name in sqlglot. The worker starts with the
    first statement, and ends with `close()`, with the `with` block, or with this process. Threads may share
    a `Database` (on a pool of one worker statements run one after the other); a process forked from this one
    gets workers of its own.
    """

    def __init__(
        self,
        database: str | os.PathLike[str],
        *,
        timeout: float,
        max_rows: int,
        max_bytes: int,
        pool: DatabasePool | None = None,
        cache: bool = True,
        max_steps: int | None = None,
    ) -> None:
        self.timeout, self.max_rows, self.max_bytes, self.cache = timeout, max_rows, max_bytes, cache
        self.max_steps = max_steps
        self.dialect, self.path, self.target = locate(database)
        self.pool = DatabasePool(1) if pool is None else pool
        self._owns_pool = pool is None
        self._closed = False

    @property
    def patience(self) -> float:
        """Seconds after which the worker is killed over a statement."""
        return self.timeout + (GRACE if self.dialect == "postgres" else 0.0)

    def execute(self, sql: str) -> Rows:
        """Run one statement and return its rows, as tuples of None, int, float, str and bytes.

        Text that is no valid UTF-8 comes back with U+FFFD in the place of the bad bytes.

        Raises:
            SQLError: its `kind` says why there is no result. The next statement can be run whatever happened.
        """
        if self._closed:
            raise ValueError("the database is closed")
        (result,) = self.pool.execute_all([(self, sql)])
        if isinstance(result, SQLError):
            raise result
        return result

    def fingerprint(self) -> tuple[int, ...] | None:
        """What tells the present content of the file from every other; None for a server."""
        return file_fingerprint(self.path) if isinstance(self.path, Path) else None

    def close(self) -> None:
        """End the worker, if it is the database's own; statements after this are a ValueError. Closing twice
        is allowed."""
        self._closed = True
        if self._owns_pool:
            self.pool.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def locate(database: str | os.PathLike[str]) -> tuple[str, Path | str, str]:
    """Dialect, path (or a server's URL), and the target that a worker opens, of a path or URL.

    Raises:
        InputError: as `open_database`.
    """
    text = os.fspath(database)
    scheme, separator, rest = text.partition("://")
    if not separator or Path(text).exists():
        return "sqlite", Path(text), database_uri(text)
    if scheme == "sqlite":
        path = Path(unquote(rest.removeprefix("/")))
        return "sqlite", path, database_uri(path)
    if scheme == "duckdb":
        path = Path(unquote(rest.removeprefix("/")))
        return "duckdb", path, "duckdb:" + str(_duckdb_file(path))
    if scheme in ("postgresql", "postgres"):
        _needs("psycopg", "postgres", text)
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError as error:
            raise InputError(
                f"no URL of a PostgreSQL database ({error})", file=without_password(text)
            ) from None
        return "postgres", text, "postgresql" + text.removeprefix(scheme)
    raise InputError(
        f"unknown kind of database {scheme!r}; give the path of an SQLite file, or a URL that starts with "
        "sqlite:///, duckdb:/// or postgresql://",
        file=without_password(text),
    )


def without_password(url: str) -> str:
    """A URL as messages and files may show it."""
    return re.sub(
        r"(?<=://)([^/@]*?):[^/@]*@", r"\1:***@", re.sub(r"(?i)([?&]password=)[^&]*", r"\1***", url)
    )


def _needs(module: str, extra: str, database: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f'needs the package {module}; pip install "nl2sql-prm[{extra}]"', file=without_password(database)
        )


def _head(file: Path) -> bytes:
    """The first bytes of a database file.

    Raises:
        InputError: there is no such file, or it cannot be read or is empty.
    """
    if file.is_dir():
        raise InputError("a folder; give the database file inside it", file=str(file))
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
    return head


def _duckdb_file(file: Path) -> Path:
    """The absolute path of a DuckDB file, after a look at the file itself."""
    if _head(file)[8:12] != b"DUCK":
        raise InputError("not a DuckDB database; give a file that duckdb can open", file=str(file))
    _needs("duckdb", "duckdb", str(file))
    resolved = file.resolve()
    if _holds_data(f"{resolved}.wal"):
        raise InputError(
            "has a write-ahead log beside it, so it is in use or was not closed; close its writer, or run "
            f"duckdb '{resolved}' CHECKPOINT",
            file=str(file),
        )
    return resolved


def database_uri(path: str | os.PathLike[str]) -> str:
    """The `file:` URI that opens an SQLite file read-only and immutable, after a look at the file itself.

    Raises:
        InputError: the file is missing, no SQLite database, empty, or has unfinished writes beside it.
    """
    file = Path(path)
    head = _head(file)
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


def check_reachable(error: SQLError, database: Database) -> None:
    """An error that is the database's own says nothing against the SQL.

    Raises:
        InputError: it is such an error.
    """
    if error.kind == "unavailable":
        raise InputError(str(error), file=without_password(str(database.path))) from None
