"""What a build has finished so far, kept beside its output, so that a killed one goes on where it stopped.

Every question's result is appended as one line the moment it is there: a checksum, the question's index, and
the result as JSON. Whatever ends the program (kill -9 in the middle of a write, a full disk, a power cut)
can only spoil the end of the file, and a line that its checksum does not vouch for is cut off with all
behind it, and done again. The first line says which run this is: seed, options, fingerprint of questions,
databases and code. A journal of another run is never mixed in.

The output itself is written from the journal in the order of the questions, in one go, when all are done;
so it is there whole or not at all, with the same bytes however often the work was cut off and by however
many processes it was done. A line costs a single write without waiting for the disk, 0.1 ms beside
the 20 ms and more that the question took.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from prm.errors import InputError

CANNOT_GO_ON = "make room and run the same command again: it goes on where it stopped"


class BuildJournal:
    """Results by index (from 0) of the run that `run` describes; use it as a context manager.

    A lock is held until it is left: two programs that write the same output would spoil it. Left without
    any result, the file is removed.

    Raises:
        InputError: the file cannot be written there, another program writes it right now, or it is something
            else by that name.
    """

    def __init__(self, path: str | os.PathLike[str], run: dict[str, Any]) -> None:
        self.path = Path(path)
        self._places: dict[int, tuple[int, int]] = {}  # of each finished index: offset and length of its line
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
        except BlockingIOError:
            raise InputError(
                "another prm build writes this output right now; wait for it, or give another --output",
                file=str(path),
            ) from None
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror or error}", file=str(path)) from None
        try:
            self._open(json.loads(json.dumps(run)))
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def add(self, index: int, result: dict[str, Any]) -> None:
        """Put a result away.

        Raises:
            InputError: the disk is full, or gone; all results before this one are safe.
        """
        self._places[index] = self._append(f"{index} {json.dumps(result, ensure_ascii=False)}")

    def results(self) -> Iterator[dict[str, Any]]:
        """All results in the order of their indices."""
        for index in sorted(self._places):
            offset, length = self._places[index]
            line = os.pread(self._file.fileno(), length, offset)
            yield json.loads(line.split(b" ", 2)[2])

    def remove(self) -> None:
        """The output is there: nothing is left to go on with."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> BuildJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._places:
            self.remove()
        self._file.close()

    def _locked(self) -> Any:
        while True:
            file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed by __exit__)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise
            except OSError:  # a file system without locks
                return file
            # The one who held the lock may have finished and removed this very file in between.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    return file
            file.close()

    def _open(self, run: dict[str, Any]) -> None:
        """Read what is there and cut off what is spoilt; begin anew where it is another run's."""
        end, before = 0, None
        with open(self.path, "rb") as lines:
            for line in lines:
                body = _checked(line)
                if body is None:
                    if before is None and line.endswith(b"\n"):
                        raise InputError(
                            "is no journal of prm build; remove it, or give another --output",
                            file=str(self.path),
                        )
                    break
                if before is None:
                    before = json.loads(body)
                    if before != run:
                        break
                else:
                    self._places[int(body.split(b" ", 1)[0])] = (end, len(line))
                end += len(line)
        if before is not None and before != run:
            changed = [key for key in run.keys() | before.keys() if run.get(key) != before.get(key)]
            named = ", ".join(sorted(key.replace("_", " ") for key in changed))
            print(
                f"prm: {self.path} is of an unfinished build with other settings ({named}): starting afresh",
                file=sys.stderr,
            )
        self._file.truncate(end)
        if end == 0:
            self._append(json.dumps(run, ensure_ascii=False))

    def _append(self, text: str) -> tuple[int, int]:
        body = text.encode() + b"\n"
        line = b"%08x %b" % (zlib.crc32(body), body)
        offset = os.lseek(self._file.fileno(), 0, os.SEEK_END)
        try:
            written = self._file.write(line)
            if written != len(line):
                self._file.write(line[written:])  # what is in the way says so now
        except OSError as error:
            message = f"cannot be written ({error.strerror or error}); {CANNOT_GO_ON}"
            raise InputError(message, file=str(self.path)) from None
        return offset, len(line)


def _checked(line: bytes) -> bytes | None:
    """The line without its checksum; None where it is torn."""
    checksum, _, body = line.partition(b" ")
    return body if line.endswith(b"\n") and checksum == b"%08x" % zlib.crc32(body) else None
