"""Labelled traces out of real answers: models write, gold judges, nobody labels by hand.

An answer that gives gold's result is right, and so are all of its steps. A wrong one is right up to the first
step from which gold can no longer be reached, and execution finds that step (`prm.labeling.reach` says how).
Where it cannot tell, the steps in question have no label: a step before which everything was fine keeps its
1, the last step of a wrong answer has its 0, and between them stands null.

An answer that is given as SQL is cut into steps by `prm.sql.decompose`, if the steps give its result; one
that is given as steps stays as its author cut it. Each trace names its evidence in `label_evidence`:

- `equal`: the result is gold's, on the database and on all variants of it
- `single_step`: wrong, and there is but one step
- `completed`, `matched`: everything before the last step can still be completed to gold, the whole is not it
- `lost`: the first wrong step has lost what gold needs, and everything before it could be completed
- `does_not_run`: the first wrong step fails to run, and everything before it could be completed
- `unknown`: the first wrong step is one of those without a label, or the first after them

`variants` is the number of variants that judged: with 0, as where gold leaves its rows to chance, `equal`
says no more than that the results are the same on the database.

A label says whether gold can still be reached, and a later step may mend an error: `prm build` calls 0 the
step in which it has put one, this module may call that step 1 and the first 0 the one that leaves it so.

`label_source` is `execution`, or the name of the variant of the database on which the answer differs from
gold where it does not on the database itself.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlglot import exp

from prm.errors import InputError
from prm.jobs.last_used import LastUsed
from prm.labeling.cards import label_card
from prm.labeling.choices import OPEN, left_open
from prm.labeling.databases import GOLD_FAULTS, UNDECIDED, gold_fault
from prm.labeling.gold import Gold
from prm.labeling.holdings import Holding, holdings
from prm.labeling.reach import is_subtracted, judge
from prm.labeling.whole_run import label_all
from prm.sql.chain import Known, links_of, tables_of
from prm.sql.database import DatabasePool, Rows, SQLError, check_reachable, open_steadily
from prm.sql.decompose import assemble
from prm.sql.pieces import Piece, pieces_of_sql, pieces_of_steps, statement_of
from prm.sql.schema import read_schema, schema_text
from prm.sql.scratch import ScratchFolder
from prm.traces.answer import checked_answer
from prm.traces.formats import Tally, rows_of
from prm.traces.provenance import command, fingerprint, made_by, output_file, source_kind, versions
from prm.traces.questions import find_database
from prm.traces.trace import Step, Trace

#: Why a question or an answer gave no trace; the keys of `skipped` in the statistics.
SKIP_REASONS = GOLD_FAULTS | {
    "answer_empty": "the answer is empty",
    "answer_unfinished": "the answer's steps are no chain: CTEs, then one final SELECT",
    "answer_timeout": "the answer outlives its time",
    "answer_too_large": "the answer gives too many rows",
    "answer_crashed": "the answer ends the process that runs it",
    "unexpected": "an error that nobody foresaw",
    "undecided": UNDECIDED,
    **OPEN,
}
EVIDENCE = ("equal", "single_step", "completed", "matched", "lost", "does_not_run", "unknown")

_CHUNK = 4  # questions a worker takes at once


@dataclass(frozen=True)
class Asked:
    """One question with its answers, as they stand in the file: `answers` are {"steps": …} or {"sql": …}."""

    question: str
    db_id: str
    database: Path
    gold_sql: str
    answers: tuple[dict[str, Any], ...]
    ids: tuple[str | None, ...]
    group: str | None = None
    schema: str | None = None
    evidence: str | None = None


@dataclass
class Labelled:
    """What came of one question: lines of JSON, (labels, evidence, label source, variants) of each, skipped
    reasons."""

    db_id: str
    answers: int
    lines: list[str] = field(default_factory=list)
    traces: list[tuple[list[int | None], str, str, int]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unexpected: str | None = None


def label(
    data: str | Path,
    databases: str | Path,
    output: str | Path,
    *,
    workers: int = 1,
    timeout: float = 5.0,
    on_bad_rows: str = "stop",
) -> dict[str, Any]:
    """Write the labelled traces of a file of candidates to `output` (JSONL), statistics to
    `<output>.stats.json` and a data card to `<output>.md`.

    `data` holds a question with its candidates in a line, or an answer in a line (question, db_id, gold_sql,
    sql or steps); `databases` is the data set's folder (`locate_database`). `timeout` is in
    seconds a statement. What is finished stands in `<output>.journal` until all is; the same call goes on
    from there. With more than one worker, processes are started afresh: a script that calls this needs the
    usual `if __name__ == "__main__":`.

    Returns the statistics.

    Raises:
        InputError: a row is malformed (with `on_bad_rows="stop"`), the output cannot be written, or no answer
            could be labelled (the statistics then say why, and `output` is not written).
    """
    if not timeout > 0:
        raise InputError("--timeout must be more than 0 seconds")
    output = output_file(output, lines_only=True)
    tally = Tally()
    questions = read_answers(data, databases, tally, on_bad_rows)
    options = {
        "data": Path(data), "databases": Path(databases), "timeout": timeout, "on_bad_rows": on_bad_rows,
        "output": output,
    }  # fmt: skip
    summary = label_all(
        "label", questions, partial(_Worker, timeout), Labelled, Statistics(), label_card, output=output,
        workers=workers, chunk=_CHUNK,
        settings={"timeout": timeout, "versions": versions()} | fingerprint(questions),
        about={"versions": versions(), "command": command("label", options)},
    )  # fmt: skip
    if not summary["traces"]:
        reasons = ", ".join(f"{n} x {SKIP_REASONS[reason]}" for reason, n in summary["skipped"].items())
        raise InputError(
            f"no answer could be labelled ({reasons}), so nothing was written; see {output}.stats.json",
            file=str(data),
        )
    for line in tally.report():
        Console(stderr=True, highlight=False).print(line, soft_wrap=True, markup=False)
    _show(summary, str(output))
    return summary


# --- reading ------------------------------------------------------------------------------------------------


def read_answers(
    data: str | Path, databases: str | Path, tally: Tally, on_bad_rows: str = "stop"
) -> list[Asked]:
    """The questions of a file in its order; answers to one question that follow each other come together.

    Raises:
        InputError: the file or a database is missing or (with `stop`) a row is malformed.
    """
    folder = Path(databases)
    if not folder.is_dir():
        raise InputError("no such folder; --databases is the data set's folder", file=str(folder))
    rows: list[Asked] = []
    for line, row in rows_of(data):
        tally.rows += 1
        try:
            if isinstance(row, InputError):
                raise row
            rows.append(_asked(row, folder))
        except InputError as error:
            if on_bad_rows == "stop":
                raise InputError(str(error), file=str(data), line=line) from None
            tally.skip(error, str(data), line)
    if not rows:
        raise InputError("; ".join(["holds no answers", *tally.report()]), file=str(data))
    together = []
    for _, same in itertools.groupby(
        rows, key=lambda a: (a.question, a.database, a.gold_sql, a.group, a.schema, a.evidence)
    ):
        first, *more = same
        if more:
            answers = sum((other.answers for other in more), first.answers)
            ids = sum((other.ids for other in more), first.ids)
            first = Asked(
                first.question, first.db_id, first.database, first.gold_sql, answers, ids, first.group,
                first.schema, first.evidence,
            )  # fmt: skip
        together.append(first)
    return together


def _asked(row: Any, folder: Path) -> Asked:
    if not isinstance(row, dict):
        raise InputError("a row is a JSON object with question, db_id, gold_sql and candidates")
    needed: dict[str, str] = {}
    for key in ("question", "db_id", "gold_sql"):
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"'{key}' must be a non-empty text")
        needed[key] = value
    optional: dict[str, str | None] = {}
    for key in ("id", "group", "schema", "evidence"):
        value = row.get(key)
        if key in ("id", "group") and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not isinstance(value, str):
            raise InputError(f"'{key}' must be a text")
        optional[key] = value or None
    database = find_database(folder, needed["db_id"])
    group = optional["group"]
    answers: tuple[dict[str, Any], ...]
    ids: tuple[str | None, ...]
    listed = row.get("candidates")
    if listed is None:
        if "sql" not in row and "steps" not in row:
            raise InputError("has neither 'candidates' nor an answer of its own in 'sql' or 'steps'")
        kept = {key: row[key] for key in ("sql", "steps") if row.get(key) is not None}
        answers, ids = (checked_answer(kept, ""),), (optional["id"],)
    else:
        if not isinstance(listed, list) or not listed:
            raise InputError("'candidates' must be a non-empty list")
        answers = tuple(checked_answer(raw, f"candidate {i} (from 0): ") for i, raw in enumerate(listed))
        group = group or optional["id"]
        ids = tuple(None if group is None else f"{group}-{i}" for i in range(len(answers)))
    return Asked(
        needed["question"], needed["db_id"], database, needed["gold_sql"], answers, ids, group,
        optional["schema"], optional["evidence"],
    )  # fmt: skip


# --- labels -------------------------------------------------------------------------------------------------


class _Skip(Exception):
    """No trace; the argument is a key of `SKIP_REASONS`."""


class _Place:
    """One database, what is known of it, and a folder for its variants."""

    def __init__(self, path: Path, timeout: float, pool: DatabasePool) -> None:
        self.timeout = timeout
        self.schema = read_schema(path)
        self.folder = ScratchFolder()
        self.database = open_steadily(path, timeout=timeout, pool=pool)
        self.columns = {table.name: [c.name for c in table.columns] for table in self.schema.tables}
        self.known = Known(tables_of(self.schema), links_of(self.schema))

    def pieces_of(self, sql: str, rows: Rows | None, *, ordered: bool) -> list[Piece]:
        return pieces_of_sql(sql, rows, self.database, self.columns, self.known, ordered=ordered)

    def close(self) -> None:
        self.database.close()
        self.folder.cleanup()


@dataclass(frozen=True)
class Verdict:
    """The labels of an answer's pieces, the evidence, and the `label_source`."""

    pieces: list[Piece]
    labels: list[int | None]
    evidence: str
    source: str = "execution"


def label_answer(answer: dict[str, Any], gold: Gold, place: _Place) -> Verdict:
    """Label one answer.

    Raises:
        _Skip: it gives no trace.
    """
    pieces, source = None, "execution"
    if "steps" in answer:
        pieces = pieces_of_steps(answer["steps"])
        sql = statement_of(pieces)
        if sql is None:
            raise _Skip("answer_unfinished")
    else:
        sql = answer["sql"]
        if not sql.strip():
            raise _Skip("answer_empty")
    try:
        rows: Rows | None = place.database.execute(sql)
    except SQLError as error:
        check_reachable(error, place.database)
        if error.kind not in ("error", "refused"):
            raise _Skip(f"answer_{error.kind}") from None
        rows = None
    if rows is not None:
        same = gold.same(sql)
        if same.equal is None:
            raise _Skip("undecided")
        if same.equal:
            pieces = pieces or place.pieces_of(sql, rows, ordered=gold.ordered)
            return Verdict(pieces, [1] * len(pieces), "equal")
        if same.on != "database":
            source = same.on
        elif reason := left_open(gold.choices, rows, ordered=gold.ordered):
            raise _Skip(reason)
    pieces = pieces or place.pieces_of(sql, rows, ordered=gold.ordered)
    labels, evidence = _first_error(pieces, rows is not None, gold, place)
    return Verdict(pieces, labels, evidence, source)


def _first_error(pieces: list[Piece], runs: bool, gold: Gold, place: _Place) -> tuple[list[int | None], str]:
    """The labels of a wrong answer's pieces and the evidence for them."""
    n = len(pieces)
    fragments = {i: piece.sql for i, piece in enumerate(pieces) if piece.sql is not None}  # not prose
    at = list(fragments)
    prefixes = {i: "WITH " + ",\n".join(fragments[j] for j in at if j <= i) for i in at[:-1]}
    failing = at[-1]
    if not runs:
        for i in at[:-1]:
            if not _runs(f"{prefixes[i]}\nSELECT * FROM {pieces[i].name} LIMIT 1", place):
                failing = i
                break
    if at[0] == failing:
        evidence = "single_step" if runs else "does_not_run"
        return [None] * failing + [0] * (n - failing), evidence
    earlier = [i for i in at if i < failing]
    held = dict(zip(at, holdings([(pieces[i].name, pieces[i].tree) for i in at], place.schema), strict=True))
    subtracted = _subtracted([pieces[i] for i in at])
    scalars = [i for i in earlier if (h := held[i]) is not None and h.scalar]
    found = {
        i: judge(
            gold,
            prefixes[i],
            held[i],
            subtracted=pieces[i].name.strip('"').lower() in subtracted,
            beside=any(j != i for j in scalars),
        )
        for i in earlier
    }
    fine, evidence = -1, "unknown"
    for i in earlier:
        ends = [j for j in earlier if j <= i and not _is_read(pieces[j].name, held, j, i)]
        if all(found[j] in ("completed", "matched") for j in ends):
            fine = i
    lost = next((i for i in earlier if found[i] == "lost"), None)
    if lost is not None and lost <= fine:  # the two contradict each other: nothing is known from there on
        fine = max((i for i in earlier if i < lost), default=-1)
        found[lost], lost = "unknown", None
        decided = False
    else:
        decided = True
    first = failing if lost is None else lost
    between = [i for i in at if fine < i < first]
    labels: list[int | None] = [1 if i <= fine else 0 if i >= first else None for i in range(n)]
    if decided and not between:
        if lost is not None:
            evidence = "lost"
        elif not runs:
            evidence = "does_not_run"
        else:
            evidence = found[fine]
    return labels, evidence


def _runs(sql: str, place: _Place) -> bool:
    try:
        place.database.execute(sql)
    except SQLError as error:
        check_reachable(error, place.database)
        return error.kind not in ("error", "refused")
    return True


def _is_read(name: str, held: dict[int, Holding | None], step: int, until: int) -> bool:
    """Whether a step after `step` and up to `until` reads it."""
    name = name.strip('"').lower()
    return any(h is not None and name in h.reads for i, h in held.items() if step < i <= until)


def _subtracted(pieces: list[Piece]) -> set[str]:
    """Names of the steps that later ones use for what they do not want, also through other steps."""
    found: set[str] = set()
    for piece in reversed(pieces):
        if piece.tree is None:
            continue
        whole = piece.name.strip('"').lower() in found
        for table in piece.tree.find_all(exp.Table):
            if whole or is_subtracted(table):
                found.add(table.name.lower())
    return found


# --- traces -------------------------------------------------------------------------------------------------


def label_question(asked: Asked, place: _Place) -> Labelled:
    """The traces of a question's answers."""
    labelled = Labelled(asked.db_id, len(asked.answers))
    try:
        gold = Gold(asked.gold_sql, place.database, place.schema, place.folder.name, place.timeout)
    except SQLError as error:
        check_reachable(error, place.database)
        labelled.skipped = [gold_fault(error)] * len(asked.answers)
        return labelled
    with gold:
        if not gold.rows:
            labelled.skipped = ["gold_empty"] * len(asked.answers)
            return labelled
        schema = asked.schema or schema_text(place.schema, asked.question)
        for answer, name in zip(asked.answers, asked.ids, strict=True):
            try:
                verdict = label_answer(answer, gold, place)
            except _Skip as skip:
                labelled.skipped.append(str(skip))
                continue
            variants = len(gold.suite.variants)
            trace = _trace(asked, name, schema, verdict, variants)
            labelled.lines.append(json.dumps(trace.to_dict(), ensure_ascii=False))
            labelled.traces.append((verdict.labels, verdict.evidence, verdict.source, variants))
    return labelled


def _trace(asked: Asked, name: str | None, schema: str, verdict: Verdict, variants: int) -> Trace:
    steps = [
        Step(piece.text, label, piece.sql)
        for piece, label in zip(verdict.pieces, verdict.labels, strict=True)
    ]
    return Trace(
        asked.question,
        steps,
        id=name,
        group=asked.group,
        db_id=asked.db_id,
        schema=schema,
        evidence=asked.evidence,
        sql=assemble([piece.sql for piece in verdict.pieces if piece.sql is not None]),
        gold_sql=asked.gold_sql,
        label_source=verdict.source,
        extra={"label_evidence": verdict.evidence, "variants": variants, "made_by": made_by("label")},
    )


# --- processes and statistics -------------------------------------------------------------------------------


class _Worker:
    """What a process keeps between questions: the databases that it has used last, and what runs their
    SQL."""

    def __init__(self, timeout: float) -> None:
        self.pool = DatabasePool(1)
        self.places = LastUsed(partial(_Place, timeout=timeout, pool=self.pool))

    def __call__(self, asked: Asked) -> Labelled:
        place = self.places[asked.database]
        try:
            return label_question(asked, place)
        except (InputError, OSError):  # of the database or the machine, not of this question
            raise
        except Exception as error:  # SQL has more forms than anyone foresees: one must not end hours of work
            text = f"{asked.question!r}: {type(error).__name__}: {error}"
            n = len(asked.answers)
            return Labelled(asked.db_id, n, skipped=["unexpected"] * n, unexpected=text)

    def close(self) -> None:
        self.places.close()
        self.pool.close()


class Statistics:
    """Counts over what came of the questions."""

    def __init__(self) -> None:
        self.questions = self.answers = self.steps = self.unlabelled = self.wrong = self.with_traces = 0
        self.databases: set[str] = set()
        self.evidence: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.positions: Counter[int] = Counter()
        self.variants: Counter[int] = Counter()  # that right answers were compared on
        self.skipped: Counter[str] = Counter()
        self.unexpected: str | None = None

    def add(self, labelled: Labelled) -> None:
        self.questions += 1
        self.answers += labelled.answers
        self.skipped.update(labelled.skipped)
        self.unexpected = self.unexpected or labelled.unexpected
        if labelled.traces:
            self.with_traces += 1
            self.databases.add(labelled.db_id)
        for labels, evidence, source, variants in labelled.traces:
            self.evidence[evidence] += 1
            self.steps += len(labels)
            self.unlabelled += labels.count(None)
            self.sources[source_kind(source)] += 1
            if evidence == "equal":
                self.variants[variants] += 1
            else:
                self.wrong += 1
                if evidence != "unknown":
                    self.positions[labels.index(0)] += 1

    def summary(self) -> dict[str, Any]:
        """What `<output>.stats.json` holds."""
        traces = sum(self.evidence.values())
        return {
            "questions": self.questions,
            "questions_with_traces": self.with_traces,
            "databases": len(self.databases),
            "answers": self.answers,
            "traces": traces,
            "wrong": self.wrong,
            "wrong_by_variant": self.sources["variant"],
            "right_by_variants": {str(n): self.variants[n] for n in sorted(self.variants)},
            "steps": self.steps,
            "steps_without_label": self.unlabelled,
            "evidence": {name: self.evidence[name] for name in EVIDENCE if self.evidence[name]},
            "share_unknown_of_wrong": self.evidence["unknown"] / self.wrong if self.wrong else None,
            "first_error_positions": {str(k): v for k, v in sorted(self.positions.items())},
            "label_sources": dict(sorted(self.sources.items())),
            "skipped": {reason: self.skipped[reason] for reason in SKIP_REASONS if self.skipped[reason]},
            "first_unexpected_error": self.unexpected,
        }


def _show(summary: dict[str, Any], output: str) -> None:
    """The closing statistics on stderr."""
    console = Console(stderr=True, highlight=False)
    unmasked = summary["wrong_by_variant"]
    console.print(
        f"{summary['answers']} answers to {summary['questions']} questions, {summary['traces']} traces, "
        f"{summary['wrong']} of them wrong ({unmasked} only on a variant of the database), "
        f"{summary['steps']} steps, {summary['steps_without_label']} without label -> {output}",
        soft_wrap=True,
        markup=False,
    )
    if unseen := summary["right_by_variants"].get("0"):
        console.print(f"{unseen} right ones were compared on no variant, only on the database itself")
    table = Table("evidence", "traces", "first error at step", "traces ", box=None, pad_edge=False)
    evidence, positions = (list(summary[k].items()) for k in ("evidence", "first_error_positions"))
    for i in range(max(len(evidence), len(positions))):
        left = evidence[i] if i < len(evidence) else ("", "")
        right = positions[i] if i < len(positions) else ("", "")
        table.add_row(*map(str, (*left, *right)))
    if table.row_count:
        console.print(table)
    for reason, n in summary["skipped"].items():
        console.print(f"skipped {n}: {SKIP_REASONS[reason]}")
    if summary["first_unexpected_error"]:
        console.print(
            f"please report this error: {summary['first_unexpected_error']}", soft_wrap=True, markup=False
        )
