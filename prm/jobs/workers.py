"""Work dealt out to processes.

Results come as they are finished, not in the order of the jobs: one slow query holds nothing back, and what
is done can be put away at once. Processes are started afresh, not forked: progress bars have threads, and
forking beside threads can deadlock.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_AHEAD = 2  # jobs handed to each process at a time: none waits idle, and few are lost with the program


def each_finished(start: Callable[[], Any], jobs: Iterable[Any], workers: int) -> Generator[Any, None, None]:
    """`worker(job)` of every job, as it is finished.

    `start` makes a worker, an object to call that has a `close()`: one in this process where `workers` is 1,
    else one in each of them, so it must be importable from there (as jobs and results must). An exception in
    a worker ends the work and is raised here.
    """
    if workers == 1:
        worker = start()
        try:
            yield from map(worker, jobs)
        finally:
            worker.close()
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(start,),
    )
    running: set[Future[Any]] = set()
    try:
        for job in jobs:
            running.add(pool.submit(_call, job))
            if len(running) >= _AHEAD * workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise RuntimeError("a worker process died (out of memory?); run with fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: Any = None  # of this process, where it is one of a pool


def _start_process(start: Callable[[], Any]) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = start()


def _end_with_parent() -> None:
    """A pool's process that waits for work does not notice by itself that its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(job: Any) -> Any:
    return _worker(job)
