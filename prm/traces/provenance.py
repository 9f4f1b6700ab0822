"""Where labels come from: the versions and settings of a run, and what every trace carries of them.

A trace that is copied into another file still says how its labels came to be (`label_source`) and what made
it (`made_by`, some 70 characters: command, seed, versions). What would be the same in every line stands once
in the data card beside the file (`prm.labeling.cards`): options, statistics, limits.

A `label_source` may say more behind a colon, the name of a variant: the answer has gold's result on the
database itself and another one on that variant of it, so its last label is 0. `variant:SEED:INDEX:DIGEST` is
of `prm label`, `monte-carlo:variant:SEED:INDEX:DIGEST` of `prm rollout`, where the labels before the last
come from rollouts. Of a `consensus`, the sources that agree stand in `consensus`, and what made their labels
in `consensus_made_by`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlglot

import prm
from prm.errors import InputError
from prm.traces.inspection import SOURCES as SOURCES
from prm.traces.trace import Step, Trace

#: What a trace says of the labels that it has.
_OF_LABELS = ("label_evidence", "variants", "parent", "consensus", "consensus_made_by")


def source_kind(label_source: str | None) -> str:
    """A `label_source` without the name of a variant's seed, index and digest."""
    return re.sub(r":-?\d.*", "", label_source or "not given")


def origins(trace: Trace) -> list[tuple[str | None, str | None]]:
    """The `label_source` and `made_by` of a trace's labels: of each of the sources where several agree."""
    if trace.label_source != "consensus" or not isinstance(trace.extra.get("consensus"), list):
        return [(trace.label_source, trace.extra.get("made_by"))]
    sources = trace.extra["consensus"]
    makers = trace.extra.get("consensus_made_by")
    if not isinstance(makers, list) or len(makers) != len(sources):
        makers = [None] * len(sources)
    return [
        (None if source is None else str(source), maker)
        for source, maker in zip(sources, makers, strict=True)
    ]


def versions() -> dict[str, str]:
    """Versions that labels may depend on."""
    return {
        "nl2sql-prm": prm.__version__,
        "sqlglot": sqlglot.__version__,
        "SQLite": sqlite3.sqlite_version,
        "Python": platform.python_version(),
    }


def made_by(verb: str, seed: int | None = None) -> str:
    """The `made_by` of a trace: `prm build 0.1.0, seed 0, sqlglot 30.1.0, SQLite 3.45.1`."""
    known = versions()
    seeded = "" if seed is None else f", seed {seed}"
    return f"prm {verb} {prm.__version__}{seeded}, sqlglot {known['sqlglot']}, SQLite {known['SQLite']}"


def relabelled(
    trace: Trace, steps: list[Step], label_source: str, verb: str, seed: int | None, **about: Any
) -> Trace:
    """A trace whose labels are no longer those that it came with: what the old ones rested on goes, `about`
    is added to its other keys."""
    kept = {key: value for key, value in trace.extra.items() if key not in _OF_LABELS}
    return replace(
        trace,
        steps=steps,
        label_source=label_source,
        label_scheme=None,
        scores=None,
        extra=kept | about | {"made_by": made_by(verb, seed)},
    )


def fingerprint(questions: Iterable[Any]) -> dict[str, str]:
    """Hashes of what the labels are made from: questions (dataclasses with a `database`), databases (size,
    time and header), our own code."""
    asked = hashlib.sha256()
    files: dict[Path | str, None] = {}
    for question in questions:
        asked.update(repr(question).encode())
        files[question.database] = None
    stored = hashlib.sha256()
    for path in files:
        stored.update(repr(_state(path)).encode())
    code = hashlib.sha256()
    for room in ("sql", "labeling", "traces"):
        for file in sorted((Path(prm.__file__).parent / room).glob("*.py")):
            code.update(file.read_bytes())
    parts = {"questions": asked, "databases": stored, "code": code}
    return {name: part.hexdigest()[:16] for name, part in parts.items()}


def _state(path: Path | str) -> tuple[object, ...]:
    """What changes when a database does; SQLite counts the writes in the file's header."""
    try:
        state = os.stat(path)
        with open(path, "rb") as stream:
            return str(path), state.st_size, state.st_mtime_ns, stream.read(100)
    except OSError:  # said later, by whoever opens it
        return (str(path),)


def command(verb: str, options: dict[str, Any], files: Sequence[Path] = ()) -> str:
    """The line that one types: folders and files (paths) by their last name only, for cards are published;
    `files` are those that stand without an option."""
    words = ["prm", verb, *map(_shown, files)]
    for key, value in options.items():
        option = f"--{key.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, *map(_shown, value if isinstance(value, (list, tuple)) else [value])]
    return shlex.join(words)


def _shown(value: Any) -> str:
    return str(value.name or value) if isinstance(value, Path) else str(value)


def output_file(output: str | Path, *, lines_only: bool = False) -> Path:
    """Where an output is written; other files are to stand beside it. `lines_only`: as JSON lines, whatever
    its name.

    Raises:
        InputError: it is a folder, a device or a pipe, or named as something else.
    """
    path = Path(output).expanduser()
    if lines_only and path.suffix.lower() in (".parquet", ".gz", ".csv"):
        raise InputError(
            f"JSON lines are written here, not {path.suffix}; name a .jsonl, and see prm convert",
            file=str(output),
        )
    if path.is_dir():
        raise InputError("is a folder; name a file to write", file=str(output))
    if path.exists() and not path.is_file():
        raise InputError(
            "is no regular file, and statistics and a data card are written beside it; name a file",
            file=str(output),
        )
    return path
