"""What a long run has finished so far, kept beside its output, so that a killed one goes on where it stopped.

Every result is appended as one line the moment it is there: a checksum, its key, and the result as JSON. The
first line has the verb for a key and the settings for a result. Whatever ends the program (kill -9 in the
middle of a write, a full disk, a power cut) can only spoil the end of the file, which is cut off and done
again; a line further up that its checksum does not vouch for is passed over, and done again, too. A line
costs a single write without waiting for the disk, 0.1 ms beside the 20 ms and more that a question takes.

A journal of other settings is never mixed in. `prm build` and `prm label` then begin afresh, for what they
lose is computing time; answers of models have been paid for (`paid`), and nothing is thrown away unasked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import zlib
from pathlib import Path
from typing import IO, Any

from prm.errors import InputError

CANNOT_GO_ON = "make room and run the same command again: it goes on where it stopped"


class Journal:
    """Results by key (a text without spaces) of the run of `prm VERB` with these settings; use it as a
    context manager.

    A lock is held until it is left: two programs that write the same output would spoil it. Left without
    any result, the file is removed. Of a result only its place in the file is kept in memory.

    Raises:
        InputError: the file cannot be written, another program writes it right now, it is no journal of
            this verb, or (where it is `paid` for) it was begun with other settings.
    """

    def __init__(
        self, path: str | os.PathLike[str], verb: str, settings: dict[str, Any], *, paid: bool = False
    ) -> None:
        self.path = Path(path)
        self._places: dict[str, tuple[int, int]] = {}  # of each key's line: offset and length
        self._end = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
        except BlockingIOError:
            raise InputError(
                "another command writes this output right now; wait for it, or give another --output",
                file=str(path),
            ) from None
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror or error}", file=str(path)) from None
        try:
            self._read(verb, json.loads(json.dumps(settings)), paid)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        offset, length = self._places[key]
        return json.loads(os.pread(self._file.fileno(), length, offset).split(b" ", 2)[2])

    def add(self, key: str, result: Any) -> None:
        """Put a result away.

        Raises:
            InputError: the disk is full, or gone; all results before this one are safe.
        """
        self._places[key] = self._append(_line(key, result))

    def remove(self) -> None:
        """The output is there: nothing is left to go on with."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._places:
            self.remove()
        self._file.close()

    def _locked(self) -> IO[bytes]:
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

    def _read(self, verb: str, settings: dict[str, Any], paid: bool) -> None:
        """Read what is there and cut off what is spoilt; begin anew where it is another run's."""
        header, size = _line(verb, settings), 0
        with open(self.path, "rb") as lines:
            for line in lines:
                found = _checked(line)
                if size == 0 and not self._may_go_on(line, found, header, verb, settings, paid):
                    break
                size += len(line)
                if found is not None:
                    if size > len(line):
                        self._places[found[0]] = (size - len(line), len(line))
                    self._end = size
        self._file.truncate(self._end)
        if self._end == 0:
            self._append(header)

    def _may_go_on(
        self,
        line: bytes,
        found: tuple[str, bytes] | None,
        header: bytes,
        verb: str,
        settings: dict[str, Any],
        paid: bool,
    ) -> bool:
        """Whether the first line says that this run may go on from the file, or begin it anew."""
        if found is None and header.startswith(line.rstrip(b"\0")):
            return False  # it was cut off itself
        if found is None or found[0] != verb:
            raise InputError(
                f"is no journal of prm {verb}; remove it, or give another --output", file=str(self.path)
            )
        then = json.loads(found[1])
        changed = sorted(name for name in then.keys() | settings if then.get(name) != settings.get(name))
        if not changed:
            return True
        if paid:
            name, *_ = changed
            raise InputError(
                f"was begun with {name} {then.get(name)!r}, not {settings.get(name)!r}; take the old "
                "setting, another --output, or remove the file",
                file=str(self.path),
            )
        named = ", ".join(name.replace("_", " ") for name in changed)
        print(
            f"prm: {self.path} is of an unfinished prm {verb} with other settings ({named}): starting afresh",
            file=sys.stderr,
        )
        return False

    def _append(self, line: bytes) -> tuple[int, int]:
        try:
            written = self._file.write(line)
            if written != len(line):
                self._file.write(line[written:])  # what is in the way says so now
        except OSError as error:
            message = f"cannot be written ({error.strerror or error}); {CANNOT_GO_ON}"
            raise InputError(message, file=str(self.path)) from None
        place = (self._end, len(line))
        self._end += len(line)
        return place


def _line(key: str, result: Any) -> bytes:
    body = f"{key} {json.dumps(result, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")
    return b"%08x %b" % (zlib.crc32(body), body)


def _checked(line: bytes) -> tuple[str, bytes] | None:
    """Key and JSON of a line; None where it is torn or spoilt."""
    checksum, _, body = line.partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    key, _, result = body.partition(b" ")
    return key.decode(), result
