"""Do the labels of a trace file hold? Whoever has the databases can see for themselves.

`prm inspect --databases DIR FILE…` (`--database-url URL` for what was built from DuckDB or PostgreSQL) runs
every answer and its gold again and checks, in each trace that has what it takes,

- labels:   once wrong, a trace never returns to right;
- whole:    what `prm build` made (`made_by`) has all that it makes, and an `id` of its group;
- once:     no trace stands there twice, under the same `id`; of `prm build` no `id` twice in a file;
- parent:   a wrong trace is, before its first error, word for word the right one it was made from, asks the
            same of the same schema in the same group, and differs from it at the error, in its text and in
            its SQL (where labels are missing before the first 0: somewhere there). One that does not tell
            what it was made from (a real answer) is not checkable, nor one whose right trace is not in the
            files, unless `prm build` made it, which writes both into one file;
- assembly: the steps' SQL put together is `sql` (white space aside, but for that in quotes);
- text:     what a step of `prm build` says is its SQL, or the sentence for it, or both (sentences are checked
            of SQLite, where this version has written them);
- answer:   the rows of `sql` differ from gold's exactly when the last label is 0 (in order where gold
            orders), on the trace's database, or on the variant of it that the trace names. SQL that does not
            run is another answer; gold that does not run is an error of the file. What outlives --timeout
            or another limit here is not checkable.

What counts as the same answer is what `prm build` itself goes by: `same_answer`. Files that do not fit into
memory can be checked: of a trace only hashes of its steps are kept, some 500 bytes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prm.errors import InputError
from prm.jobs.progress import progress
from prm.jobs.workers import each_finished
from prm.labeling.build import STYLES
from prm.labeling.chains import same_answer
from prm.sql.compare import Undecided, is_ordered
from prm.sql.database import (
    Database,
    DatabasePool,
    Rows,
    SQLError,
    locate,
    open_database,
    without_password,
)
from prm.sql.decompose import DecomposeError, assemble, parse_fragment
from prm.sql.describe import describe
from prm.sql.scratch import ScratchFolder
from prm.sql.variants import remake
from prm.traces.formats import atomic_write, located_traces
from prm.traces.inspection import inspect
from prm.traces.provenance import made_by, origins
from prm.traces.questions import database_at, locate_database
from prm.traces.trace import ReturningLabel, Trace

CHECKS = ("labels", "whole", "once", "parent", "assembly", "text", "answer")
_BATCH = 64  # answers to one database that a worker takes at once
_SHOWN = 60  # characters of a text in a message

#: A database by its name: the path of an SQLite file, a URL, or None where there is none.
Finder = Callable[[str | None], Path | str | None]


@dataclass(frozen=True, order=True)
class Violation:
    """What does not hold, and where; `check` is one of `CHECKS`, or "malformed": no trace at all."""

    file: str
    line: int
    check: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.check}: {self.message}"


@dataclass
class Findings:
    """`checked` traces by check; `unchecked` ones by check and reason."""

    violations: list[Violation] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    unchecked: dict[str, Counter[str]] = field(default_factory=lambda: {check: Counter() for check in CHECKS})

    def to_dict(self) -> dict[str, Any]:
        found = Counter(violation.check for violation in self.violations)
        checks = {
            check: {
                "checked": self.checked[check],
                "violations": found[check],
                "not_checkable": dict(self.unchecked[check]),
            }
            for check in CHECKS
        }
        return {
            "malformed": found["malformed"],
            "checks": checks,
            "violations": [asdict(violation) for violation in self.violations],
        }


def verify(
    files: list[str],
    databases: str | Path | None = None,
    *,
    database_url: str | None = None,
    workers: int = 1,
    timeout: float = 5.0,
    split: str | None = None,
    labels: str = "strict",
    json_output: str | Path | None = None,
) -> dict[str, Any]:
    """`inspect` files, then check their labels against the databases, and print a line for each violation.
    Malformed rows are violations, too. The databases are SQLite files in the folder `databases` (see
    `locate_database`), or behind `database_url` (as `build` takes it).

    Returns the statistics, with the findings under `malformed`, `checks` and `violations`; they are written
    to `json_output` where it is given. `timeout` is in seconds a statement.

    Raises:
        InputError: something is violated, nothing can be checked, or the files or databases are not there.
    """
    if database_url is not None:
        find: Finder = partial(database_at, database_url)
    elif databases is not None and Path(databases).is_dir():
        find = partial(locate_database, databases)
    else:
        raise InputError("no such folder; --databases is a data set's folder", file=str(databases))
    if not timeout > 0:
        raise InputError("--timeout must be more than 0 seconds")
    statistics = inspect(files, split=split, labels=labels, on_bad_rows="skip")
    traces = located_traces(files, split=split, labels=labels)
    findings = check_traces(traces, find, workers=workers, timeout=timeout, total=statistics["rows"])
    statistics |= findings.to_dict()
    if json_output is not None:
        with atomic_write(json_output) as handle:
            handle.write(json.dumps(statistics, ensure_ascii=False, indent=2) + "\n")
    _show(findings)
    if findings.violations:
        first = findings.violations[0]
        kinds = Counter(violation.check for violation in findings.violations)
        raise InputError(
            f"{first.check} violated first here; in all {len(findings.violations)} violations "
            f"({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}), listed above; build the file "
            "anew, or take these traces out",
            file=first.file,
            line=first.line,
        )
    if not findings.checked["answer"]:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in findings.unchecked["answer"].most_common())
        where = str(databases) if database_url is None else without_password(database_url)
        raise InputError(f"no answer can be checked ({reasons})", file=where)
    return statistics


def check_traces(
    traces: Iterator[tuple[str, int, Trace | InputError]],
    find: Finder,
    *,
    workers: int = 1,
    timeout: float = 5.0,
    total: int | None = None,
) -> Findings:
    """What holds and what does not, the violations by file and line; `traces` as `located_traces` gives
    them, `find` gives a database by its name.

    Raises:
        InputError: a database cannot be reached.
    """
    findings, kinship, seen = Findings(), _Kinship(), _Seen()

    def read(advance: Callable[[int], None]) -> Iterator[_Batch]:
        """Check what takes no database on the way; hand out the rest, by database."""
        waiting: dict[tuple[Path | str, str | None, str | None], list[_Answer]] = {}
        places: dict[str | None, Path | str | None] = {}
        for file, line, trace in traces:
            if isinstance(trace, InputError):
                check = "labels" if isinstance(trace, ReturningLabel) else "malformed"
                findings.checked["labels"] += check == "labels"
                findings.violations.append(Violation(file, line, check, str(trace)))
                advance(1)
                continue
            _check_alone(file, line, trace, findings)
            seen.check(file, line, trace, findings)
            kinship.add(file, line, trace)
            reason = _why_not(trace)
            if reason is None:
                if trace.db_id not in places:
                    places[trace.db_id] = _place(find, trace.db_id)
                path = places[trace.db_id]
                if path is None:
                    reason = "no such database"
                elif isinstance(path, str) and variant_of(trace) is not None:
                    reason = "a variant of a database that is no SQLite file"
            if reason is not None:
                findings.unchecked["answer"][reason] += 1
                findings.unchecked["text"][reason] += 1
                advance(1)
                continue
            # Without one of these there would be a reason.
            assert path is not None and trace.sql is not None and trace.gold_sql is not None
            errors = tuple(step.error for step in trace.steps if step.error is not None)
            style = str(trace.extra.get("style")) if _is_built(trace) else None
            told = tuple((step.text, step.sql or "") for step in trace.steps) if style else ()
            answer = _Answer(
                file, line, trace.gold_sql, trace.sql, trace.labels[-1] == 1, errors, style, told,
                _is_of_our_version(trace),
            )  # fmt: skip
            variant = variant_of(trace)  # made for one gold query
            where = (path, variant, None if variant is None else trace.gold_sql)
            waiting.setdefault(where, []).append(answer)
            if len(waiting[where]) == _BATCH:
                yield _Batch(path, variant, waiting.pop(where))
        for (path, variant, _), answers in waiting.items():
            yield _Batch(path, variant, answers)

    with progress("traces", total) as advance:
        for verdicts in each_finished(partial(_Runner, timeout), read(advance), workers):
            for answer, check, message, reason in verdicts:
                if reason is not None:
                    findings.unchecked[check][reason] += 1
                    continue
                findings.checked[check] += 1
                if message is not None:
                    findings.violations.append(Violation(answer.file, answer.line, check, message))
            advance(len({id(answer) for answer, *_ in verdicts}))
    kinship.check(findings)
    findings.violations.sort()
    return findings


def _place(find: Finder, db_id: str | None) -> Path | str | None:
    """The path of an SQLite file, or the URL of another database."""
    found = find(db_id)
    if found is None:
        return None
    dialect, path, _ = locate(found)
    return path if dialect == "sqlite" else str(found)


# --- what a trace says of itself ----------------------------------------------------------------------------


def _check_alone(file: str, line: int, trace: Trace, findings: Findings) -> None:
    if trace.label_scheme == "step":
        findings.unchecked["labels"]["labels that judge their step alone"] += 1
    elif all(label is None for label in trace.labels):
        findings.unchecked["labels"]["no labels"] += 1
    else:  # the reader has refused those that rise
        findings.checked["labels"] += 1
    if _is_built(trace):
        findings.checked["whole"] += 1
        if fault := _fault_of_built(trace):
            findings.violations.append(Violation(file, line, "whole", fault))
    else:
        findings.unchecked["whole"]["not made by prm build"] += 1
    fragments = [step.sql for step in trace.steps if step.sql is not None]
    if trace.sql is None or len(fragments) < len(trace.steps):
        findings.unchecked["assembly"]["no sql of the steps or the whole"] += 1
        return
    findings.checked["assembly"] += 1
    whole = assemble(fragments)
    if _spaced_alike(whole) != _spaced_alike(trace.sql):
        same = _short(whole) == _short(trace.sql)
        how = ", as sql does but for white space in quotes" if same else f", but sql is {_short(trace.sql)}"
        message = f"the steps give {_short(whole)}{how}"
        findings.violations.append(Violation(file, line, "assembly", message))


class _Seen:
    """Where each trace stands, for what stands there twice."""

    def __init__(self) -> None:
        self.traces: dict[int, tuple[str, int]] = {}  # by the hash of a trace
        self.ids: dict[int, int] = {}  # lines of built ones, by the hash of file and id

    def check(self, file: str, line: int, trace: Trace, findings: Findings) -> None:
        if trace.id is None:  # two models, or one twice, may give the same answer
            findings.unchecked["once"]["no id"] += 1
            return
        findings.checked["once"] += 1
        first = self.traces.setdefault(hash(json.dumps(trace.to_dict(), sort_keys=True)), (file, line))
        named = self.ids.setdefault(hash((file, trace.id)), line) if _is_built(trace) else line
        if first != (file, line):
            message = f"the trace of {first[0]}:{first[1]} once more (id {_short(trace.id)})"
            findings.violations.append(Violation(file, line, "once", message))
        elif named != line:
            message = f"has the id of line {named} ({_short(trace.id)})"
            findings.violations.append(Violation(file, line, "once", message))


def _is_built(trace: Trace) -> bool:
    return str(trace.extra.get("made_by", "")).startswith("prm build")


def _is_of_our_version(trace: Trace) -> bool:
    """Whether what made the trace would write the same sentences as this code."""
    told, ours = re.sub(r", seed -?\d+", "", str(trace.extra.get("made_by"))), made_by("build")
    return told.partition(", SQLite")[0] == ours.partition(", SQLite")[0]


def _fault_of_built(trace: Trace) -> str | None:
    """What a trace of `prm build` lacks or has, as no such trace does."""
    for name in ("id", "group", "db_id", "sql", "gold_sql"):
        if getattr(trace, name) is None:
            return f"has no {name}"
    assert trace.id is not None and trace.group is not None
    if trace.id.rpartition("-")[0] != trace.group:
        return f"the id {_short(trace.id)} is not of the group {_short(trace.group)}"
    if any(step.sql is None or step.label not in (0, 1) for step in trace.steps):
        return "a step has no SQL, or a label that is neither 0 nor 1"
    if trace.label_source != "execution" and not (trace.label_source or "").startswith("variant:"):
        return f"its label_source is {trace.label_source}, neither execution nor a variant"
    if trace.label_scheme is not None:
        return "has labels that judge their step alone"
    if trace.extra.get("style") not in STYLES:
        return "its style is none"
    return None


def _why_not(trace: Trace) -> str | None:
    """Why an answer cannot be checked, as far as its trace tells."""
    if trace.sql is None or trace.gold_sql is None:
        return "no sql or no gold_sql"
    if trace.label_scheme == "step":
        return "labels that judge their step alone"
    if trace.labels[-1] not in (0, 1):
        return "a last label that is neither 0 nor 1"
    if not any(map(_by_execution, *zip(*origins(trace), strict=True))):
        return f"labels not by execution ({trace.label_source})"
    return None


def _by_execution(source: str | None, maker: str | None) -> bool:
    """Whether a last label comes from running the answer: that of `prm rollout` does, too."""
    if source is None or "execution" in source or "variant" in source:
        return True
    return str(maker).startswith("prm rollout")


def _made_from_right(trace: Trace) -> bool:
    """Whether a wrong trace without `parent` was made from a right one of its group, for all it tells: its
    error has a name, or `prm build` made it. A real answer shares no step with anybody's."""
    made_by = str(trace.extra.get("made_by", ""))
    named = trace.steps[trace.first_error].error is not None and not made_by.startswith("prm label")
    return trace.group is not None and (named or _is_built(trace))


class _Kinship:
    """Wrong traces beside the right ones that they were made from, which may stand anywhere in the files."""

    def __init__(self) -> None:
        self.right: dict[tuple[str, str], list[_Kin]] = {}  # ("id" or "group", its value) -> right traces
        self.wrong: list[_Kin | None] = []  # None: one that does not tell what it was made from

    def add(self, file: str, line: int, trace: Trace) -> None:
        at = trace.first_error
        if trace.label_scheme == "step" or (at < 0 and trace.labels[-1] != 1):
            return
        right = [i for i, label in enumerate(trace.labels[:at]) if label is not None]
        parent = trace.extra.get("parent")
        kin = _Kin(
            file,
            line,
            right[-1] + 1 if right else 0,
            at,
            hash((trace.question, trace.db_id, trace.schema, trace.evidence, trace.group, trace.gold_sql)),
            tuple((hash(step.text), None if step.sql is None else hash(step.sql)) for step in trace.steps),
            ("id", str(parent)) if parent is not None else ("group", trace.group or ""),
            _is_built(trace),
        )
        if at >= 0:
            self.wrong.append(kin if parent is not None or _made_from_right(trace) else None)
            return
        for key, value in (("id", trace.id), ("group", trace.group)):
            if value is not None:
                self.right.setdefault((key, value), []).append(kin)

    def check(self, findings: Findings) -> None:
        for kin in self.wrong:
            if kin is None:
                findings.unchecked["parent"]["it does not tell what it was made from"] += 1
                continue
            candidates = self.right.get(kin.of)
            if not candidates and not kin.built:
                findings.unchecked["parent"]["its right trace is not in the files"] += 1
                continue
            findings.checked["parent"] += 1
            if not candidates:
                message = f"no right trace with the {kin.of[0]} {_short(kin.of[1])} is in the files"
                findings.violations.append(Violation(kin.file, kin.line, "parent", message))
                continue
            faults = [fault for right in candidates if (fault := kin.fault(right)) is not None]
            if len(faults) == len(candidates):
                # Of several right ones it was made from the one that it follows longest.
                message = max(faults)[1]
                findings.violations.append(Violation(kin.file, kin.line, "parent", message))


@dataclass(frozen=True, slots=True)
class _Kin:
    """A trace as far as its relatives go: hashes of what is asked and of each step's text and SQL. The first
    `right` steps are labelled right; that is all before `first_error`, but for missing labels."""

    file: str
    line: int
    right: int
    first_error: int
    asked: int
    steps: tuple[tuple[int, int | None], ...]
    of: tuple[str, str]
    built: bool

    def fault(self, right: _Kin) -> tuple[int, str] | None:
        """How far this wrong trace can have been made from `right`, and why no further; None: it can."""
        where = f"the right trace in line {right.line}"
        if self.asked != right.asked:
            return -1, f"its question, database, schema, evidence, group or gold is not that of {where}"
        for i in range(self.right):
            if i >= len(right.steps) or self.steps[i] != right.steps[i]:
                return (
                    i,
                    f"step {i} differs from {where}, though the first error is at step {self.first_error}",
                )
        if self.first_error >= len(right.steps):
            return None
        mine, other = self.steps[self.first_error], right.steps[self.first_error]
        same_sql = mine[1] == other[1] and mine[1] is not None
        if self.right < self.first_error:
            if mine == other and self.steps[: self.first_error] == right.steps[: self.first_error]:
                return self.first_error, f"no step up to its first 0 differs from {where}"
        elif mine[0] == other[0] or same_sql:
            what = "text" if mine[0] == other[0] else "SQL"
            return (
                self.first_error,
                f"step {self.first_error}, its first error, has the same {what} as {where}",
            )
        return None


# --- what the databases say ---------------------------------------------------------------------------------


def variant_of(trace: Trace) -> str | None:
    """The name of the variant on which a trace claims to be labelled; None: on the database itself. Of
    several sources that agree, each that names one has seen the answer differ from gold there; one will do.
    """
    for source, _ in origins(trace):
        _, variant, name = (source or "").partition("variant")
        if variant:
            return variant + name
    return None


def open_variant(
    path: Path, gold_sql: str, name: str, folder: Path, timeout: float
) -> tuple[Database, Rows, bool]:
    """The variant of a database that a trace names, made again in `folder` (the caller closes and deletes
    it), gold's rows there, and whether their order counts.

    Raises:
        InputError: it cannot be made again.
    """
    opener = partial(open_database, timeout=timeout)
    variant = remake(path, gold_sql, name, folder, opener=opener)
    return opener(variant.path), variant.gold, variant.ordered


@dataclass(frozen=True)
class _Answer:
    file: str
    line: int
    gold_sql: str
    sql: str
    right: bool  # says its last label
    errors: tuple[str, ...]  # kinds of its errors
    style: str | None  # of the steps that `prm build` wrote; of other traces None
    told: tuple[tuple[str, str], ...]  # text and SQL of those steps
    same_version: bool  # as ours


@dataclass(frozen=True)
class _Batch:
    path: Path | str
    variant: str | None
    answers: list[_Answer]


#: The answer; what is checked; what is violated, if anything; why it could not be checked, if so.
_Verdict = tuple[_Answer, str, str | None, str | None]


class _Runner:
    """Runs batches, all of them by one worker process, which keeps the databases open that it used last."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.pool = timeout, DatabasePool(1)

    def __call__(self, batch: _Batch) -> list[_Verdict]:
        is_sqlite = isinstance(batch.path, Path)
        texts = [(answer, "text", *_judge_text(answer, is_sqlite)) for answer in batch.answers]
        return texts + self._answers(batch)

    def _answers(self, batch: _Batch) -> list[_Verdict]:
        if batch.variant is not None:
            return self._on_variant(batch, batch.variant)
        database = open_database(batch.path, timeout=self.timeout, pool=self.pool)
        verdicts: list[_Verdict] = []
        by_gold = sorted(batch.answers, key=lambda answer: answer.gold_sql)
        for gold_sql, answers in groupby(by_gold, key=lambda answer: answer.gold_sql):
            gold, ordered = _rows(database, gold_sql), is_ordered(gold_sql)
            verdicts += [(a, "answer", *_judge(a, gold, _rows(database, a.sql), ordered)) for a in answers]
        return verdicts

    def _on_variant(self, batch: _Batch, name: str) -> list[_Verdict]:
        with ScratchFolder() as folder:
            gold_sql = batch.answers[0].gold_sql
            try:
                database, gold, ordered = open_variant(Path(batch.path), gold_sql, name, folder, self.timeout)
            except InputError as error:
                return [(answer, "answer", str(error), None) for answer in batch.answers]
            with database:
                return [
                    (a, "answer", *_judge(a, gold, _rows(database, a.sql), ordered, on=name))
                    for a in batch.answers
                ]

    def close(self) -> None:
        self.pool.close()


def _rows(database: Database, sql: str) -> Rows | SQLError:
    try:
        return database.execute(sql)
    except SQLError as error:
        if error.kind == "unavailable":  # which says nothing against the labels
            raise InputError(str(error), file=without_password(str(database.path))) from None
        return error


#: Kinds of errors that do not tell what a statement would have given.
_LIMITS = {
    "timeout": "outlives --timeout",
    "too_large": "gives too many rows",
    "crashed": "ends the process that runs it",
}


def _judge_text(answer: _Answer, is_sqlite: bool) -> tuple[str | None, str | None]:
    """What a step says beside its SQL: (what is violated, why it cannot be told)."""
    if answer.style not in STYLES:
        return None, "not made by prm build"
    with_sentence = is_sqlite and answer.same_version
    for i, (text, sql) in enumerate(answer.told):
        if with_sentence:
            holds = text == STYLES[answer.style].format(_sentence(sql), sql)
        else:
            holds = text.endswith(sql) or answer.style == "english"
        if not holds:
            return f"the text of step {i} is not that of its SQL: {_short(text)}", None
    if not with_sentence and answer.style == "english":
        return None, "sentences of another version or dialect"
    return None, None


@lru_cache(maxsize=4096)
def _sentence(fragment: str) -> str:
    try:
        name, tree = parse_fragment(fragment)
        return describe(tree, name or None)
    except (DecomposeError, RecursionError):
        return ""


def _judge(
    answer: _Answer, gold: Rows | SQLError, rows: Rows | SQLError, ordered: bool, on: str = "the database"
) -> tuple[str | None, str | None]:
    """(what is violated, why it cannot be told): at most one of both."""
    if isinstance(gold, SQLError):
        if gold.kind in _LIMITS:
            return None, f"gold {_LIMITS[gold.kind]}"
        return f"gold does not run ({_short(str(gold))}): {_short(answer.gold_sql)}", None
    if isinstance(rows, SQLError):
        if rows.kind in _LIMITS:
            return None, f"an answer labelled {'right' if answer.right else 'wrong'} {_LIMITS[rows.kind]}"
        if not answer.right:
            return None, None
        return f"labelled right, but does not run ({_short(str(rows))}): {_short(answer.sql)}", None
    try:
        same = same_answer(gold, rows, ordered=ordered, errors=answer.errors)
    except Undecided as error:
        return None, str(error)
    if same == answer.right:
        return None, None
    told = "labelled right, but its result is not gold's" if answer.right else (
        "labelled wrong, but its result is gold's"
    )  # fmt: skip
    return f"{told} on {on} ({len(rows)} rows, gold {len(gold)}): {_short(answer.sql)}", None


# --- showing ------------------------------------------------------------------------------------------------


_QUOTED = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|(\$\w*\$).*?\2|--[^\n]*\n?)""", re.S)


def _spaced_alike(sql: str) -> list[str]:
    """A statement with single spaces for white space, but for that in quotes and at the end of comments;
    without a closing semicolon."""
    parts, at = [], 0
    for found in _QUOTED.finditer(sql):
        parts += [" ".join(sql[at : found.start()].split()), found[1]]
        at = found.end()
    return [*parts, " ".join(sql[at:].split()).rstrip("; ")]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _show(findings: Findings) -> None:
    """The violations, a line each, and the counts."""
    for violation in findings.violations:
        print(violation)
    table = Table("check", "traces", "violations", "not checkable", box=None, pad_edge=False)
    summary = findings.to_dict()
    for check, counts in summary["checks"].items():
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in counts["not_checkable"].items())
        table.add_row(check, f"{counts['checked']:,}", f"{counts['violations']:,}", reasons or "0")
    if summary["malformed"]:
        table.add_row("malformed rows", "", f"{summary['malformed']:,}", "")
    Console(soft_wrap=True, highlight=False, markup=False).print(table)
