"""Killable processes that run statements on any database, many at once.

Inside a process no time limit on SQL is certain: a progress handler fires neither within one long call such
as `'aaa…' LIKE '%a%a%a%a%b'` nor while a statement is prepared. So statements run in worker processes
(`worker.py`), which read and do nothing else, and a worker whose statement outlives its time is killed and
replaced. The detour costs some 50 µs of processor time a statement, and 20 ms where a worker is started.

A worker gets its next statements before it has answered the last one, so that it need not wait for this
process in between; since it answers in order, the oldest unanswered statement is the one that runs. How many
it holds goes by its pace, work for some four naps (`NAP`): this process sleeps while all workers have enough,
so that it neither wakes up for every answer nor takes a core away from them. Slow statements do not pile up
behind each other: of those it holds `AHEAD`.
When a worker dies, that one is blamed and repeated: once if the process failed by itself, more often if it
was killed from outside (`kill -9`, a system short of memory), which may say nothing of the statement. Those
behind it go back to the queue. No threads are used here: whoever wants answers waits for them, in one `poll`
over all workers.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from prm.sql.results import RESULTS, Answer, Rows, SQLError, is_settled, unpack

if TYPE_CHECKING:
    from prm.sql.database import Database

MAX_SQL_BYTES = 100_000
MAX_MEMORY = 1 << 30  # bytes of address space of a worker
OPEN_TIMEOUT = 60.0  # seconds to start a worker and to open a database
AHEAD = 4  # statements that a worker holds at least: one runs, the others wait
MOST_AHEAD = 64
NAP = 0.001  # seconds
DEATHS = 10  # workers that may be killed while they run a statement …
LONGEST_WAIT = 60  # times its timeout that a statement may take whose steps are counted
FAILURE = 5  # … and one that fails by itself, then or while it opens the database, counts for so many

_HEADER = struct.Struct("!Q")
_WORKER = str(Path(__file__).with_name("worker.py"))


class Statement:
    """One statement on its way: where it runs, its limits, and in the end its result."""

    __slots__ = ("address", "database", "deaths", "lasting", "limits", "result", "since", "sql", "used")

    def __init__(self, database: Database, sql: str) -> None:
        self.database, self.sql = database, sql
        fingerprint = database.fingerprint()
        self.address = (database.target, fingerprint)
        self.limits = (database.timeout, database.max_rows, database.max_bytes, database.max_steps)
        self.lasting = database.cache and fingerprint is not None and is_settled(fingerprint)
        self.result: Rows | SQLError | None = None
        self.deaths = 0  # of workers while it ran, or its database was opened
        self.since = 0.0  # when a worker first began with it
        self.used: float | None = None  # processor time of its worker when its time was up

    @property
    def normal(self) -> bool:
        return self.database.dialect == "sqlite"

    def look_up(self) -> bool:
        """Whether the result is there without running anything: the text is refused, or is remembered."""
        self.result = _refused(self.sql)
        if self.result is None and self.lasting:
            answer = RESULTS.get((self.address, self.limits), self.sql, normal=self.normal)
            self.result = None if answer is None else unpack(answer)
        return self.result is not None

    def answered(self, answer: Answer) -> None:
        """Take the result, and remember what lasts.

        A statement that outlived its time counts as lasting: it is not tried again under the same limits.
        """
        self.result = unpack(answer)
        if answer[0] == "rows":
            self.lasting = self.lasting and answer[3]
        elif answer[0] not in ("error", "refused", "too_large", "timeout"):
            self.lasting = False
        if self.lasting and self.database.fingerprint() == self.address[1]:
            RESULTS.put((self.address, self.limits), self.sql, answer, normal=self.normal)


class WorkerProcess:
    """One worker process, and the statements under way to and from it, the one that runs first.

    It is started with its first statement, and again when it has died.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self.was_killed = False  # whether the last process of it ended by SIGKILL
        self._forget_messages()

    def _forget_messages(self) -> None:
        self.waiting: deque[Statement] = deque()
        self.deadline = 0.0  # of the statement that runs
        self.opened: set[Any] = set()  # addresses of the databases that it has opened
        self.ahead = AHEAD  # statements that it may hold
        self._incoming = bytearray()
        self._outgoing = bytearray()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def link(self) -> socket.socket:
        assert self._link is not None
        return self._link

    @property
    def events(self) -> int:
        """What to poll its link for."""
        return select.POLLIN | (select.POLLOUT if self._outgoing else 0)

    def processor_time(self) -> float | None:
        """Seconds of processor time that the process has used; None where the system does not say."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None

    def ensure_started(self) -> None:
        """Start the process unless it is there."""
        if self._process is not None and (self.waiting or self._process.poll() is None):
            return
        self.end()
        self._link, other = socket.socketpair()
        self._link.setblocking(False)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _WORKER, str(os.getpid())],
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
            )
        paths = [path for path in sys.path if os.path.isabs(path) and os.path.isdir(path)]
        self.put((MAX_MEMORY, MAX_SQL_BYTES, paths))

    def put(self, message: Any) -> None:
        """Lay a message in for `flush`."""
        data = marshal.dumps(message)
        self._outgoing += _HEADER.pack(len(data)) + data

    def flush(self) -> None:
        """Send what can be sent at once."""
        with contextlib.suppress(BlockingIOError, ConnectionError):  # a lost link shows in `receive`
            while self._outgoing:
                del self._outgoing[: self.link.send(self._outgoing)]

    def receive(self) -> tuple[list[Any], bool]:
        """The messages that have come, and whether the worker still lives."""
        alive = True
        try:
            piece = self.link.recv(1 << 18)
            alive = bool(piece)
            self._incoming += piece
        except BlockingIOError:
            pass
        except ConnectionError:
            alive = False
        messages, start, data = [], 0, self._incoming
        while len(data) - start >= _HEADER.size:
            end = start + _HEADER.size + _HEADER.unpack_from(data, start)[0]
            if len(data) < end:
                break
            messages.append(marshal.loads(data[start + _HEADER.size : end]))
            start = end
        del data[:start]
        return messages, alive

    def end(self) -> list[Statement]:
        """Kill the process; returns the statements that it has not answered."""
        process, self._process = self._process, None
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            self.was_killed = process.wait() == -signal.SIGKILL
        waiting = list(self.waiting)
        self._forget_messages()
        return waiting

    def let_go(self) -> None:
        """In a forked child: the worker is the parent's, so drop our copy of the link and leave it alone."""
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            self._process.returncode = 0  # it is not ours to wait for
        self._process = self._link = None
        self._forget_messages()

    def __del__(self) -> None:
        self.end()


class DatabasePool:
    """Up to `workers` processes, started when there is work, for statements on any number of databases.

    Use it as a context manager or close it; it ends with this process at the latest. Threads may share it;
    a process forked from this one gets workers of its own.

        with DatabasePool(2) as pool:
            pets = open_database("pets.sqlite", pool=pool)
            cats, dogs = pool.execute_all([(pets, "SELECT * FROM cat"), (pets, "SELECT * FROM dog")])
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError("a pool needs at least one worker")
        self._workers = [WorkerProcess() for _ in range(workers)]
        self._idle = list(self._workers)
        self._freed = threading.Condition()
        self._closed = False
        _POOLS.add(self)

    @property
    def pids(self) -> list[int]:
        """The worker processes that have been started."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def execute_all(self, statements: Iterable[tuple[Database, str]]) -> list[Rows | SQLError]:
        """What each statement gives on its database, in the order of the statements; errors are not raised.

        The results of one call are all held in memory: hand in what belongs together, not a whole data set.
        """
        if self._closed:
            raise ValueError("the database is closed")
        every = [Statement(database, sql) for database, sql in statements]
        todo = deque(statement for statement in every if not statement.look_up())
        if todo:
            workers = self._take(len(todo))
            try:
                _run(todo, workers)
            finally:
                self._give_back(workers)
        results = []
        for statement in every:
            assert statement.result is not None  # looked up or run
            results.append(statement.result)
        return results

    def close(self) -> None:
        """End the workers; statements after this are a ValueError. Closing twice is allowed."""
        with self._freed:
            self._closed = True
            for worker in self._idle:
                worker.end()
            self._freed.notify_all()

    def __enter__(self) -> DatabasePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, wanted: int) -> list[WorkerProcess]:
        """At least one worker, as soon as one is idle, and up to `wanted`."""
        with self._freed:
            while not self._idle and not self._closed:
                self._freed.wait()
            if self._closed:
                raise ValueError("the database is closed")
            taken, self._idle = self._idle[-wanted:], self._idle[:-wanted]
            return taken

    def _give_back(self, workers: Sequence[WorkerProcess]) -> None:
        with self._freed:
            for worker in workers:
                # Unanswered statements are left only where this was interrupted: their late answers must not
                # be taken for those of the next ones.
                if worker.waiting or self._closed:
                    worker.end()
            self._idle += workers
            self._freed.notify_all()

    def _after_fork(self) -> None:
        self._freed = threading.Condition()
        for worker in self._workers:
            worker.let_go()
        self._idle = list(self._workers)


# --- statements on their way through workers ----------------------------------------------------------------


def _run(todo: deque[Statement], workers: Sequence[WorkerProcess]) -> None:
    """Give every statement its result."""
    while True:
        _hand_out(todo, workers)
        busy = {worker.link.fileno(): worker for worker in workers if worker.waiting}
        if not busy:
            return
        if todo and all(2 * len(worker.waiting) > worker.ahead for worker in workers):
            time.sleep(NAP)
        poll = select.poll()
        for number, worker in busy.items():
            poll.register(number, worker.events)
        wait = min(worker.deadline for worker in busy.values()) - time.monotonic()
        for number, event in poll.poll(max(wait, 0) * 1000 + 1):
            if event & select.POLLOUT:
                busy[number].flush()
            if event & ~select.POLLOUT:
                _read(busy[number], todo)
        now = time.monotonic()
        for worker in busy.values():
            if worker.waiting and worker.deadline < now:
                _time_is_up(worker, todo)


def _hand_out(todo: deque[Statement], workers: Sequence[WorkerProcess]) -> None:
    """Fill up the workers, all of them with one statement first, then with a second …"""
    for held in range(max(worker.ahead for worker in workers)):
        for worker in workers:
            if todo and len(worker.waiting) <= held < worker.ahead:
                worker.ensure_started()
                statement = todo.popleft()
                worker.waiting.append(statement)
                if len(worker.waiting) == 1:
                    _begins(worker)
                worker.put((*statement.address, statement.sql, *statement.limits))
    for worker in workers:
        if worker.waiting:
            worker.flush()


def _begins(worker: WorkerProcess) -> None:
    """Set the deadline of the statement that the worker begins now."""
    if worker.waiting:
        statement = worker.waiting[0]
        statement.since = statement.since or time.monotonic()
        statement.used = None
        opened = statement.address in worker.opened
        worker.deadline = time.monotonic() + (statement.database.patience if opened else OPEN_TIMEOUT)


def _read(worker: WorkerProcess, todo: deque[Statement]) -> None:
    messages, alive = worker.receive()
    worker.ahead = min(max(AHEAD, 4 * len(messages)), MOST_AHEAD)
    for message in messages:
        if message[0] == "opened":
            worker.opened.add(worker.waiting[0].address)
        else:
            worker.waiting.popleft().answered(message)
        _begins(worker)
    if not alive:
        _died(worker, todo)


def _died(worker: WorkerProcess, todo: deque[Statement]) -> None:
    """Blame the statement that ran; the others (and it, the first time) are run again."""
    opened = worker.opened
    statements = worker.end()
    if not statements:
        return
    first = statements[0]
    running = first.address in opened
    first.deaths += (1 if running else 0) if worker.was_killed else FAILURE
    if not running and (first.deaths >= DEATHS or time.monotonic() > first.since + OPEN_TIMEOUT):
        message = "the process that runs statements ends before it opens the database"
        first.answered(("unavailable", message))
    elif first.deaths >= DEATHS:
        first.answered(("crashed", "the statement ends every process that runs it"))
    todo.extendleft(reversed(statements if first.result is None else statements[1:]))


def _time_is_up(worker: WorkerProcess, todo: deque[Statement]) -> None:
    opened = worker.opened
    if worker.waiting[0].address in opened and (more := _time_left(worker, worker.waiting[0])) > 0:
        worker.deadline = time.monotonic() + more
        return
    first, *others = worker.end()
    if first.address in opened:
        first.answered(("timeout", f"the statement ran longer than {first.database.timeout:g} s"))
    else:
        first.answered(("unavailable", f"the database could not be opened within {OPEN_TIMEOUT:g} s"))
    todo.extendleft(reversed(others))


def _time_left(worker: WorkerProcess, statement: Statement) -> float:
    """Seconds that a statement still has when its time is up: none, unless its steps are counted. Then they
    shall end it, not a machine that was busy with something else: it has its timeout in processor time, too.
    """
    database, now = statement.database, worker.processor_time()
    if database.max_steps is None or now is None:
        return 0.0
    if time.monotonic() > statement.since + LONGEST_WAIT * database.timeout:
        return 0.0
    if statement.used is None:
        statement.used = now
    left = database.timeout - (now - statement.used)
    return max(left, 0.01) if left > 0 else 0.0


def _refused(sql: str) -> SQLError | None:
    """Why a text is not sent to any worker."""
    if not isinstance(sql, str):
        raise TypeError(f"a statement is a string, not {type(sql).__name__}")
    try:
        length = len(sql.encode())
    except UnicodeEncodeError as error:
        return SQLError(f"the statement is no valid text ({error.reason})", "error")
    if length > MAX_SQL_BYTES:
        return SQLError(f"the statement has {length} bytes; at most {MAX_SQL_BYTES} are run", "refused")
    if "\0" in sql:
        return SQLError("the statement contains a NUL character", "refused")
    return None


#: Every pool of this process, so that a forked child can let go of its parent's workers.
_POOLS: weakref.WeakSet[DatabasePool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_POOLS):
        pool._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
