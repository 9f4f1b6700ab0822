"""Where labels come from: the versions and settings of a run, the words that every trace carries of them, and
the data card beside the file.

A trace that is copied into another file still says how its labels came to be (`label_source`) and what made
it (`made_by`, some 70 characters: command, seed, versions). What would be the same in every line stands once
in the card: options, statistics, limits. The card is one of the Hugging Face Hub; as `README.md` of a
repository, its first lines make the Hub and `datasets` read the file as a split.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlglot
import yaml

import prm
from prm.labeling.questions import Question

#: What a `label_source` means; a source may say more behind a colon.
SOURCES = {
    "execution": "by running the SQL on the database: wrong from the changed step on where its result "
    "differs from gold's, right where it equals it there and (SQLite) on variants with other rows",
    "variant": "by running the SQL on the variant that the trace names: on the database itself its result "
    "happens to be gold's, and is not right",
}


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


def fingerprint(questions: Iterable[Question]) -> dict[str, str]:
    """Hashes of what the labels are made from: questions, databases (size, time and header), our own code."""
    asked, files = hashlib.sha256(), {}
    for question in questions:
        words = (question.id, question.question, question.sql, question.db_id, question.evidence or "")
        asked.update(repr(words).encode())
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


def _state(path: Path) -> tuple:
    """What changes when a database does; SQLite counts the writes in the file's header."""
    try:
        state = os.stat(path)
        with open(path, "rb") as stream:
            return str(path), state.st_size, state.st_mtime_ns, stream.read(100)
    except OSError:  # said later, by whoever opens it
        return (str(path),)


def data_card(summary: dict[str, Any], output: str | Path) -> str:
    """The card (Markdown with YAML in front) of a file that `prm build` has written, from its statistics."""
    name, n = Path(output).name, summary["traces"]
    split = "".join(c if c.isalnum() else "_" for c in name.split(".")[0]) or "train"
    front = {
        "pretty_name": f"Step-labelled text-to-SQL traces ({name})",
        "task_categories": ["token-classification"],
        "tags": ["process-reward-model", "text-to-sql", "step-labels"],
        "size_categories": [_size(n)],
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": name}]}],
    }
    skipped = sum(summary["skipped"].values())
    lines = [
        "---",
        "# license: fill in; it is that of the questions and databases, which this file is made from",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        f"# {front['pretty_name']}",
        f"{n:,} answers to {summary['questions_with_traces']:,} questions over {summary['databases']:,} "
        f"databases, each cut into reasoning steps ({summary['steps']:,} in all), and each step labelled: 1 "
        "still correct, 0 an error has happened at or before it. For training and measuring process reward "
        "models.",
        "## How the labels came to be",
        "A question's gold SQL was cut into a chain of steps, which was run: it gives gold's result, so all "
        "of its steps are right; so are those of rewrites of the chain that give this result. Wrong answers "
        "change the syntax tree of a right one, their `parent` (`steps[].error` names the kind), and were "
        "kept only where the result is another one by execution. Nobody labelled by hand, no model judged.",
        _table(
            ("label_source", "traces", "meaning"),
            [(s, f"{k:,}", SOURCES.get(s.split(":")[0], "")) for s, k in summary["label_sources"].items()],
        ),
        "## What is in it",
        _table(
            ("", ""),
            [
                ("questions asked", f"{summary['questions']:,}"),
                ("questions that gave no trace", f"{skipped:,}{_reasons(summary['skipped'])}"),
                ("questions with a right answer only", f"{summary['questions_without_wrong_trace']:,}"),
                ("traces", f"{n:,}, {summary['share_wrong']:.1%} of them wrong"),
                ("traces by number of steps", _counts(summary["traces_by_steps"])),
                ("first errors by step (from 0)", _counts(summary["first_error_positions"])),
                ("right answers beside the first of a question", f"{summary['right_alternatives']:,}"),
                ("wrong traces by number of errors", _counts(summary["errors_per_wrong_trace"])),
                ("styles of the steps' text", _counts(summary["styles"])),
                ("kinds of errors", _counts(summary["categories"])),
            ],
        ),
        "## How it was made",
        f"```bash\n{summary['command']}\n```",
        "Versions: " + ", ".join(f"{what} {version}" for what, version in summary["versions"].items()) + ". "
        "The same command on the same data gives the same bytes, with any number of `--workers`; sha256 "
        f"`{summary['sha256']}`. Whether every label holds can be checked by anyone who has the databases:",
        f"```bash\nprm inspect --databases DATABASES {shlex.quote(name)}\n```",
        "## Limits",
        "- A label is a fact about results on these databases and variants of them. Where two queries still "
        "give the same result by accident, the changed one is missing; where gold is wrong, so are labels.\n"
        "- Wrong answers are made by changing right ones. Models make other mistakes, too.\n"
        "- Gold queries without rows, and those that could not be cut into an equal chain, are left out, so "
        "the rest is somewhat easier than the whole.",
    ]
    return "\n".join(lines[:3]) + "\n\n" + "\n\n".join(lines[3:]) + "\n"


def command(verb: str, options: dict[str, Any]) -> str:
    """The line that one types: folders and files by their last name only, for cards are published."""
    words = ["prm", verb]
    for key, value in options.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, Path):
            value = value.name or value
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return shlex.join(words)


def _size(n: int) -> str:
    """The Hub's classes of size."""
    bounds = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M")]
    below = None
    for bound, name in bounds:
        if n < bound:
            return f"n<{name}" if below is None else f"{below}<n<{name}"
        below = name
    return "n>10M"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in counts.items()) or "none"


def _reasons(skipped: dict[str, int]) -> str:
    return f" ({_counts(skipped)})" if skipped else ""
