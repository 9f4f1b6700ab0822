"""A whole run over questions, killable at any moment: what `prm build` and `prm label` share.

Questions are dealt out to processes, and what comes of each is put into a journal the moment it is there
(`prm.jobs.journal`). The output is written from the journal in the order of the questions, in one go,
when all are done, with its statistics and its data card; so it is there whole or not at all, with the same
bytes however often the work was cut off and by however many processes it was done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from prm.errors import InputError
from prm.jobs.journal import CANNOT_GO_ON, Journal
from prm.jobs.progress import progress
from prm.jobs.workers import each_finished
from prm.traces.formats import atomic_write


class Labelled(Protocol):
    """What came of one question, a dataclass of plain values: its traces as JSON, and what is counted."""

    lines: list[str]


class Statistics(Protocol):
    """Counts over what came of the questions."""

    def add(self, labelled: Any) -> None: ...
    def summary(self) -> dict[str, Any]: ...


def label_all(
    verb: str,
    questions: Sequence[Any],
    start: Callable[[], Any],
    labelled: type[Labelled],
    statistics: Statistics,
    card: Callable[[dict[str, Any], Path], str],
    *,
    output: Path,
    workers: int,
    chunk: int,
    settings: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Label the questions, and write the traces to `output`, the statistics to `<output>.stats.json` and
    `card` of them to `<output>.md`. Returns the statistics.

    `start()` makes a worker as `each_finished` wants it, which takes a question and gives a `labelled`; a
    process takes `chunk` questions at once. `settings` say which run this is, `about` is added to the
    statistics. Without any trace, only the statistics are written.

    Raises:
        InputError: the output cannot be written (a full disk, too), or a worker raises it.
    """
    with Journal(f"{output}.journal", verb, settings) as journal:
        if len(journal):
            n = f"{len(journal)} of {len(questions)}"
            print(f"prm: {n} questions are done already: going on", file=sys.stderr)
        todo = [(i, question) for i, question in enumerate(questions) if str(i) not in journal]
        size = chunk if workers > 1 else 1
        chunks = [todo[i : i + size] for i in range(0, len(todo), size)]
        each = each_finished(partial(_Chunks, start), chunks, min(workers, len(chunks)) or 1)
        with contextlib.closing(each), progress("questions", len(questions), len(journal)) as advance:
            for done in each:
                for i, made in done:
                    journal.add(str(i), asdict(made))
                advance(len(done))
        results = (labelled(**journal[str(i)]) for i in range(len(questions)))
        summary = _write(output, results, statistics, card, about)
        journal.remove()
    return summary


class _Chunks:
    """A worker for several questions at once."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self.worker = start()

    def __call__(self, chunk: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        return [(i, self.worker(question)) for i, question in chunk]

    def close(self) -> None:
        self.worker.close()


def _write(
    output: Path,
    results: Iterator[Labelled],
    statistics: Statistics,
    card: Callable[[dict[str, Any], Path], str],
    about: dict[str, Any],
) -> dict[str, Any]:
    """The output with its statistics and its card; no output and no card where there is no trace.

    The journal's lock keeps others away, so unfinished files have fixed names: those of a killed run are
    overwritten.
    """

    def written(path: str) -> contextlib.AbstractContextManager[IO[str]]:
        return atomic_write(path, part=f".{Path(path).name}.part")

    digest = hashlib.sha256()
    try:
        with contextlib.suppress(_NoTrace), written(str(output)) as stream:
            for made in results:
                statistics.add(made)
                for line in made.lines:
                    stream.write(line + "\n")
                    digest.update(line.encode() + b"\n")
            summary = statistics.summary() | about | {"sha256": digest.hexdigest()}
            with written(f"{output}.stats.json") as beside:
                json.dump(summary, beside, indent=2)
                beside.write("\n")
            if not summary["traces"]:
                raise _NoTrace  # out of the block that would put the empty file in its place
            with written(f"{output}.md") as beside:
                beside.write(card(summary, output))
    except OSError as error:
        message = f"cannot be written ({error.strerror or error}); {CANNOT_GO_ON}"
        raise InputError(message, file=str(output)) from None
    return summary


class _NoTrace(Exception):
    """No question gives a trace."""
