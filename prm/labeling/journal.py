"""What a model has been asked, kept line by line, so that no answer is paid for twice.

A journal is an append-only JSONL file beside the output of a long run. Its first line holds the settings that
decide the answers, every other line one request's answer under a key made of all that the request says. A run
that was killed at any moment goes on from it: a last line that was cut is dropped and asked again, and since
every request has a seed of its own, the rest comes out as if nothing had happened. It stays after the run:
the same command with more rollouts asks only for those that are new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prm.errors import InputError
from prm.inference.policies import Answered, Failed, Policy, Request

#: A run ends after so many requests in a row that no server answers …
MAX_UNANSWERED = 3
#: … and after so many that are refused before any is answered. Not fewer: the prompts of one large database
#: may all be too long for a model that reads the others.
MAX_REFUSED = 200

Record = dict[str, Any]


class Journal:
    """The answers of the runs so far; use it as a context manager.

    Raises:
        InputError: the file cannot be written, belongs to other settings, is in use, or is no journal.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.resumed = 0
        self._at: dict[str, int] = {}  # key -> where its line begins; a million texts would fill the memory
        self._size = 0
        self._answered = False
        self._unanswered = 0
        self._refused: list[tuple[str, Record]] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(self.path, "a+b")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", file=str(self.path)) from None
        try:
            self._lock()
            self._read(settings)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def ask(
        self,
        policy: Policy,
        requests: Sequence[tuple[str, Request]],
        record: Callable[[int, Answered], Record],
    ) -> Iterator[tuple[int, Record]]:
        """(index, record) of every request, those of earlier runs first, the others as they are answered.

        `record` makes of an answer what is remembered. A request that the model refuses gives
        `{"refused": why}`, one that nobody answers `{"unanswered": why}`, which is not remembered.

        Raises:
            InputError: the server gives no answer several times in a row, or refuses whatever it is asked.
        """
        new: dict[str, list[int]] = {}
        for i, (key, _) in enumerate(requests):
            if key in self._at:
                self.resumed += 1
                yield i, self._record(key)
            else:
                new.setdefault(key, []).append(i)
        firsts = [indexes[0] for indexes in new.values()]
        with contextlib.closing(policy.answer([requests[i][1] for i in firsts])) as answers:
            for n, answer in answers:
                key = requests[firsts[n]][0]
                if isinstance(answer, Failed):
                    made = self._failed(key, answer)
                else:
                    made = record(firsts[n], answer)
                    self._answered, self._unanswered = True, 0
                    for waiting in self._refused:
                        self._add(*waiting)
                    self._refused.clear()
                    self._add(key, made)
                for i in new[key]:
                    yield i, made

    def _failed(self, key: str, failed: Failed) -> Record:
        if not failed.refused:
            self._unanswered += 1
            if self._unanswered >= MAX_UNANSWERED:
                raise InputError(f"{failed.why}; run the same command again to go on where this ended")
            return {"unanswered": failed.why}
        made = {"refused": failed.why}
        if self._answered:
            self._add(key, made)
        else:
            self._refused.append((key, made))
            if len(self._refused) >= MAX_REFUSED:
                self.check()
        return made

    def check(self) -> None:
        """At the end of a run: that something was answered, if anything was asked.

        Raises:
            InputError: the model has refused all of it. It is not remembered, so that it can be mended.
        """
        if self._refused:
            raise InputError(
                f"the model refuses whatever it is asked: {self._refused[-1][1]['refused']}; check --model "
                "and --max-new-tokens, and whether the server knows this --api (chat-ask is the plainest)"
            )

    def _record(self, key: str) -> Record:
        self._file.seek(self._at[key])
        return {name: value for name, value in json.loads(self._file.readline()).items() if name != "key"}

    def _add(self, key: str, record: Record) -> None:
        self._at[key] = self._size
        self._write({"key": key} | record)

    def _write(self, line: Record) -> None:
        raw = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        try:
            self._file.write(raw)  # at the end, wherever was read last
            self._file.flush()
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", file=str(self.path)) from None
        self._size += len(raw)

    def _read(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):
                break  # the run was killed while it wrote this
            try:
                line = json.loads(raw)
                if number == 1:
                    _same_settings(line["journal"], settings, self.path)
                else:
                    self._at[line["key"]] = self._size
                    self._answered = self._answered or "refused" not in line
            except InputError:
                raise
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                what = "the first line of no journal" if number == 1 else "no line of a journal"
                raise InputError(
                    f"{what}; {'take another --output' if number == 1 else 'delete the line'}",
                    file=str(self.path),
                    line=number,
                ) from None
            self._size += len(raw)
        self._file.truncate(self._size)
        if self._size == 0:
            self._write({"journal": settings})

    def _lock(self) -> None:
        with contextlib.suppress(ImportError):  # not on Windows
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    "another command is writing here; wait for it, or take another --output",
                    file=str(self.path),
                ) from None


def _same_settings(then: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    now = json.loads(json.dumps(now))
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            raise InputError(
                f"was begun with {name} {then.get(name)!r}, not {now.get(name)!r}; take the old setting, "
                "another --output, or remove the file",
                file=str(path),
            )


def digest(*parts: object) -> str:
    """A name for what the parts say, in order; for keys and seeds."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:32]


def seed_of(*parts: object) -> int:
    """A seed of 31 bits (what every server takes) from what the parts say."""
    return int(digest(*parts)[:12], 16) & 0x7FFFFFFF


def progress_bar(unit: str) -> Progress:
    """A bar on stderr, where that is a terminal; tasks have a field `so_far`, a text."""
    console = Console(stderr=True)
    return Progress(
        TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[so_far]}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip
