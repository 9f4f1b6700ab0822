"""Folders for variants of databases, which do not outlive the process that made them.

A process that is killed cleans up nothing, and a long run of `prm label` is killed more than once. So each
folder is held by a lock (`flock`, which the system lets go with the process, however it ends), and the first
folder that a process makes takes away those whose lock nobody holds: only our own (by name, owner and being
a folder at all), and none that is younger than `SETTLED`, for it may not have its lock yet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from functools import lru_cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: what a killed process leaves is left
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

PREFIX = "prm-variants-"
SETTLED = 60.0  # seconds


class ScratchFolder:
    """A temporary folder, `name`; a context manager that gives its path, or to be cleaned up."""

    def __init__(self) -> None:
        _sweep(tempfile.gettempdir(), os.getpid())
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        self.name = self._folder.name
        self._lock = _locked(self.name)

    def cleanup(self) -> None:
        """Delete the folder with all that is in it."""
        self._folder.cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return Path(self.name)

    def __exit__(self, *exception: object) -> None:
        self.cleanup()


def _locked(folder: str) -> int | None:
    """A descriptor that holds the lock of a folder; None where another process holds it, or none can be."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


@lru_cache(maxsize=1)
def _sweep(folder: str, _process: int) -> None:
    """Delete what processes that are no more have left; once in a process."""
    with contextlib.suppress(OSError):
        for path in Path(folder).glob(f"{PREFIX}*"):
            if _is_ours(path) and (lock := _locked(str(path))) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    old = time.time() - max(status.st_mtime, status.st_ctime) > SETTLED
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and old
