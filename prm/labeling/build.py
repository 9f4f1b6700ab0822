"""Labelled traces out of databases, questions and gold SQL: nobody has to label a step by hand.

A gold query is cut into a chain of small steps (`prm.sql.decompose`), and the chain is run: only if its
result equals gold's, on the database and on variants of it with other rows (`prm.sql.variants`), does it
become a right trace of the question. Rewrites of it with the same results (`prm.sql.rewrite`) are right
traces, too, so that another form is not taken for an error. A wrong trace is made from a right one (its
`parent`) by changing the syntax tree inside one step, or two (`prm.sql.mutate`), and is kept only if its
result differs from gold's by execution (on the database, or on the variant that its `label_source` names),
or if the database refuses it. So all labels are facts about results, not opinions: up to the changed step
everything is right, from it on the answer can no longer be. How the chains are chosen is said in
`prm.labeling.chains`.

The text of a step is an English sentence with the SQL, or one of the two: a PRM should read steps as policies
write them, not the template of this builder.

The same bytes come out for any number of workers: each question has a random generator of its own, seeded
by `--seed` and its id, lines are written in the order of the questions, and what is too slow is told by
SQLite's steps, not by the clock. A build that was killed goes on where it stopped (`prm.labeling.whole_run`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlglot import exp

from prm.errors import InputError
from prm.jobs.last_used import LastUsed
from prm.labeling.cards import build_card
from prm.labeling.chains import (
    Chain,
    Errors,
    Ground,
    is_right,
    right_chains,
    same_answer,
    written,
    wrong_chains,
)
from prm.labeling.databases import GOLD_FAULTS, gold_fault
from prm.labeling.whole_run import label_all
from prm.sql.chain import Known, Link, links_of, respelled, tables_of
from prm.sql.compare import is_ordered
from prm.sql.database import (
    Database,
    DatabasePool,
    Rows,
    SQLError,
    check_reachable,
    open_steadily,
    without_password,
)
from prm.sql.decompose import DecomposeError, assemble, decompose, parse_fragment
from prm.sql.dialect import TranslationError, Translator
from prm.sql.mutate import CATEGORIES
from prm.sql.schema import read_schema, schema_text
from prm.sql.scratch import ScratchFolder
from prm.sql.tables import quote
from prm.sql.variants import FEW, Suite
from prm.traces.provenance import command, fingerprint, made_by, output_file, versions
from prm.traces.questions import Question, read_questions
from prm.traces.trace import Step, Trace

#: Why a question gave no traces; the keys of `skipped` in the statistics.
SKIP_REASONS = GOLD_FAULTS | {
    "not_translated": "gold SQL cannot be translated into the dialect in which it is taken apart",
    "translation_differs": "the translation of gold gives another result",
    "not_decomposed": "gold SQL cannot be cut into steps",
    "gold_unseen": "gold SQL reads a view or a virtual table, and prompts show tables alone",
    "chain_fails": "the chain of steps does not run",
    "chain_differs": "the chain of steps gives another result than gold",
}

#: How the text of a step is made of its sentence and its SQL fragment.
STYLES = {"both": "{}\n{}", "sql": "{1}", "english": "{0}"}

_CHUNK = 16  # questions a worker takes at once
_VALUES_ROWS = 5_000  # rows of a table that are looked at for frequent values


def build(
    layout: str,
    root: str | Path,
    split: str | None,
    output: str | Path,
    *,
    seed: int = 0,
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
    right_per_question: int = 2,
    wrong_per_question: int = 4,
    errors: str = "natural",
    max_errors: int = 2,
    hard_negatives: bool = False,
    styles: Sequence[str] = tuple(STYLES),
    limit: int | None = None,
    timeout: float = 5.0,
    database_url: str | None = None,
) -> dict[str, Any]:
    """Write the labelled traces of a data set to `output` (JSONL), its statistics to `<output>.stats.json`
    and a data card to `<output>.md`.

    `layout` and `root` as in `read_questions`. `shard=(i, n)` takes the questions whose index leaves i - 1
    on division by n (so that the shards together are the whole), of the first `limit`. `errors` is "natural"
    (kinds of errors as often as in real wrong answers, as far as a step allows them) or "uniform"; up to
    `max_errors` of them stand in one wrong trace, in different steps; `hard_negatives` prefers wrong results
    close to gold's; `styles` are keys of `STYLES`, one is drawn for each question. `timeout` is in seconds a
    statement (`open_steadily` says what that means). `database_url` (as `open_database` takes it, `{db_id}`
    standing for the question's database) takes the place of the layout's SQLite files; gold is in the dialect
    of that database, and so is all SQL in the traces. With more than one worker, processes are started
    afresh: a script that calls this needs the usual `if __name__ == "__main__":`.

    What is finished stands in `<output>.journal` until all is; the same call goes on from there.

    Returns the statistics.

    Raises:
        InputError: the layout is not there, an entry is malformed, a database is missing, no question falls
            into the shard, the output cannot be written (a full disk, too), or no question gives a trace
            (the statistics then say why, and `output` is not written).
    """
    questions = read_questions(layout, root, split, database_url)[:limit]
    part = questions[shard[0] - 1 :: shard[1]]
    if not part:
        raise InputError(
            f"no question falls into this shard ({shard[0]}/{shard[1]} of {len(questions)} questions); "
            "make fewer shards"
        )
    if not timeout > 0:
        raise InputError("--timeout must be more than 0 seconds")
    if not styles or set(styles) - set(STYLES):
        raise InputError(f"styles are one or more of {', '.join(STYLES)}, not {list(styles)}")
    if errors not in ("natural", "uniform"):
        raise InputError(f"errors are 'natural' or 'uniform', not {errors!r}")
    output = output_file(output, lines_only=True)
    job = _Job(
        seed,
        right_per_question,
        wrong_per_question,
        errors,
        max_errors,
        hard_negatives,
        tuple(dict.fromkeys(styles)),
        timeout,
    )
    options = {
        "layout": layout, "root": Path(root), "split": split, **asdict(job),
        "shard": f"{shard[0]}/{shard[1]}", "limit": limit, "output": output,
        "database_url": None if database_url is None else without_password(database_url),
    }  # fmt: skip
    settings = {key: value for key, value in options.items() if key not in ("root", "output")}
    settings |= {"versions": versions()} | fingerprint(part)
    about = {
        "seed": seed, "shard": options["shard"], "versions": versions(), "command": command("build", options),
    }  # fmt: skip
    summary = label_all(
        "build", part, partial(_Worker, job), Labelled, Statistics(), build_card, output=output,
        workers=workers, chunk=_CHUNK, settings=settings, about=about,
    )  # fmt: skip
    if not summary["traces"]:  # an empty file of traces is of use to nobody
        reasons = ", ".join(f"{n} x {SKIP_REASONS[reason]}" for reason, n in summary["skipped"].items())
        raise InputError(
            f"none of {len(part)} questions gives a trace ({reasons}), so nothing was written; "
            f"see {output}.stats.json and check the gold SQL and the databases",
            file=str(root),
        )
    _show(summary, str(output))
    return summary


# --- labelling questions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    seed: int = 0
    right_per_question: int = 2
    wrong_per_question: int = 4
    errors: str = "natural"
    max_errors: int = 2
    hard_negatives: bool = False
    styles: tuple[str, ...] = ("both", "sql", "english")
    timeout: float = 5.0


@dataclass
class Labelled:
    """What came of one question: its traces as JSON lines, what the statistics count of each (steps, first
    error, categories of its errors, style, label source), or why there are none."""

    db_id: str
    lines: list[str] = dataclass_field(default_factory=list)
    traces: list[tuple[int, int, list[str], str, str]] = dataclass_field(default_factory=list)
    skipped: str | None = None
    unexpected: str | None = None  # the error that nobody foresaw, if that is why


class _Skip(Exception):
    """This question gives no traces; the argument is a key of `SKIP_REASONS`."""


class _Workplace:
    """One database with what is known of it: its schema, its dialect, frequent values.

    Variants of it are written to `folder`, and deleted when they have been used.
    """

    def __init__(self, path: Path | str, timeout: float, pool: DatabasePool, folder: str | Path) -> None:
        self.folder, self.opener = folder, partial(open_steadily, timeout=timeout, pool=pool)
        self.schema = read_schema(path)
        self.translator = Translator(self.schema)
        self.database = self.opener(path)
        self.columns = {table.name: [c.name for c in table.columns] for table in self.schema.tables}
        self.known = Known(tables_of(self.schema), links_of(self.schema), self.values)
        self._values: dict[tuple[str, str], list[tuple[object, int]]] = {}

    def run(self, sql: str) -> Rows:
        """The rows of a statement in the database's own dialect; raises SQLError, unless it is the database
        itself that cannot be reached: that says nothing against the statement."""
        try:
            return self.database.execute(sql)
        except SQLError as error:
            check_reachable(error, self.database)
            raise

    def run_steps(self, fragments: Sequence[str]) -> Rows:
        """The rows of a chain of steps; raises SQLError."""
        try:
            return self.run(assemble([self.translator.outward(fragment) for fragment in fragments]))
        except TranslationError as error:
            raise SQLError(str(error)) from None

    @contextlib.contextmanager
    def grounds(self, gold_sql: str, gold: Rows, seed: int) -> Iterator[list[Ground]]:
        """Where chains are set against gold: this database, and variants of it (of SQLite files; a server's
        database is no file to be made anew)."""
        grounds = [Ground("execution", gold, is_ordered(gold_sql), self.run_steps)]
        if self.schema.dialect != "sqlite":
            yield grounds
            return
        with Suite(self.database, gold_sql, folder=self.folder, seed=seed, opener=self.opener) as suite:
            suite.distil((), kinds=FEW)
            for variant, opened in suite.opened:
                grounds.append(Ground(variant.name, variant.gold, variant.ordered, partial(_run_on, opened)))
            yield grounds

    def values(self, table: str, column: str) -> list[tuple[object, int]]:
        """Frequent values of a column among its table's first rows and their counts, most frequent first."""
        key = (table, column)
        if key not in self._values:
            c, t = quote(column, self.schema.dialect), quote(table, self.schema.dialect)
            sql = (
                f"SELECT v, COUNT(*) FROM (SELECT {c} AS v FROM {t} LIMIT {_VALUES_ROWS}) AS first_rows "
                "WHERE v IS NOT NULL GROUP BY v ORDER BY COUNT(*) DESC, v LIMIT 40"
            )
            try:
                self._values[key] = list(self.run(sql))
            except SQLError:
                self._values[key] = []
        return self._values[key]

    def close(self) -> None:
        self.database.close()


def _run_on(database: Database, fragments: Sequence[str]) -> Rows:
    return database.execute(assemble(fragments))


def label_question(question: Question, place: _Workplace, job: _Job) -> list[Trace]:
    """The traces of a question: up to `right_per_question` right ones (the decomposition of gold, and
    rewrites of it), then up to `wrong_per_question` wrong ones.

    All of them have their text in one style, drawn for the question: if styles were mixed within a group, a
    wrong trace and the right one it was made from could not share their first steps, and a style that
    chance gave to the wrong ones of a group would tell them apart.

    Raises:
        _Skip: the question gives no traces.
    """
    first, gold = right_chain(question, place)
    digest = hashlib.sha256(f"{job.seed}\x1f{question.id}".encode()).digest()
    rng = Random(int.from_bytes(digest[:8], "big"))
    style = rng.choice(job.styles)
    with place.grounds(question.sql, gold, job.seed) as grounds:
        if not is_right(first, grounds[1:]):
            raise _Skip("chain_differs")
        errors = Errors(job.errors, job.max_errors, job.hard_negatives)
        rights = right_chains(first, grounds, place.known, rng, n=job.right_per_question)
        wrong = wrong_chains(rights, grounds, place.known, rng, n=job.wrong_per_question, errors=errors)
        chains = [*rights, *wrong]
    schema = schema_text(place.schema, question.question)
    return [
        Trace(
            question.question,
            steps,
            id=f"{question.id}-{k}",
            group=question.id,
            db_id=question.db_id,
            schema=schema,
            evidence=question.evidence,
            sql=assemble([step.sql or "" for step in steps]),
            gold_sql=question.sql,
            label_source=chain.source,
            extra={"style": style}
            | ({} if chain.parent is None else {"parent": f"{question.id}-{chain.parent}"}),
        )
        for k, chain in enumerate(chains)
        for steps in [_steps(chain, style, place.translator)]
    ]


def right_chain(question: Question, place: _Workplace) -> tuple[Chain, Rows]:
    """The gold query taken apart, with its rows.

    Raises:
        _Skip: it cannot be, or the steps give another result.
    """
    gold = _gold_rows(question.sql, place)
    ordered = is_ordered(question.sql)
    try:
        steps = decompose(_inner_sql(question.sql, gold, ordered, place), place.columns)
    except DecomposeError:
        raise _Skip("not_decomposed") from None
    links = [Link(*parse_fragment(step.sql)) for step in steps]
    if _unseen(links, place):
        raise _Skip("gold_unseen")
    chain = written(respelled(links, place.known))
    try:
        rows = place.run_steps(chain.fragments)
    except SQLError:
        raise _Skip("chain_fails") from None
    if not same_answer(gold, rows, ordered=ordered):
        raise _Skip("chain_differs")
    return chain, gold


def _unseen(links: list[Link], place: _Workplace) -> bool:
    """Whether steps read what the prompt does not show: whoever judges them would take it for invented."""
    named = {link.name.lower() for link in links if link.name} | {table.lower() for table in place.columns}
    trees = [link.tree for link in links]
    named |= {cte.alias.lower() for tree in trees for cte in tree.find_all(exp.CTE)}
    read = {table.name.lower() for tree in trees for table in tree.find_all(exp.Table)}
    return bool(read - named - {""})  # a table-valued function has no name


def _steps(chain: Chain, style: str, translator: Translator) -> list[Step]:
    at, steps = chain.first_error, []
    for i, (sentence, inner) in enumerate(chain.written):
        fragment = translator.outward(inner)
        text = STYLES[style].format(sentence, fragment)
        steps.append(Step(text, 0 if 0 <= at <= i else 1, fragment, chain.errors.get(i)))
    return steps


def _gold_rows(sql: str, place: _Workplace) -> Rows:
    try:
        rows = place.run(sql)
    except SQLError as error:
        raise _Skip(gold_fault(error)) from None
    if not rows:
        raise _Skip("gold_empty")
    return rows


def _inner_sql(sql: str, gold: Rows, ordered: bool, place: _Workplace) -> str:
    """Gold in the dialect in which it is taken apart; it must say the same there."""
    if place.schema.dialect == "sqlite":
        return sql
    try:
        inner = place.translator.inward(sql)
        rows = place.run_steps([inner])
    except (TranslationError, SQLError):
        raise _Skip("not_translated") from None
    if not same_answer(gold, rows, ordered=ordered):
        raise _Skip("translation_differs")
    return inner


# --- processes and statistics -------------------------------------------------------------------------------


class _Worker:
    """What a process keeps between questions: the databases that it has used last, what runs their SQL, and a
    folder for their variants."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.made_by = made_by("build", job.seed)
        self.pool = DatabasePool(1)
        self.folder = ScratchFolder()
        self.places = LastUsed(
            partial(_Workplace, timeout=job.timeout, pool=self.pool, folder=self.folder.name)
        )

    def __call__(self, question: Question) -> Labelled:
        place = self.places[question.database]
        try:
            traces = label_question(question, place, self.job)
        except _Skip as skip:
            return Labelled(question.db_id, skipped=str(skip))
        except RecursionError:  # thousands of nested terms
            return Labelled(question.db_id, skipped="not_decomposed")
        except (InputError, OSError):  # of the database or the machine, not of this query
            raise
        except Exception as error:  # SQL has more forms than anyone foresees: one must not end hours of work
            text = f"{question.id}: {type(error).__name__}: {error}"
            return Labelled(question.db_id, skipped="not_decomposed", unexpected=text)
        for trace in traces:
            trace.extra["made_by"] = self.made_by
        lines = [json.dumps(trace.to_dict(), ensure_ascii=False) for trace in traces]
        return Labelled(question.db_id, lines, [_counted(trace) for trace in traces])

    def close(self) -> None:
        self.pool.close()
        self.folder.cleanup()


def _counted(trace: Trace) -> tuple[int, int, list[str], str, str]:
    categories = [step.error for step in trace.steps if step.error is not None]
    source = trace.label_source or "execution"
    return len(trace.steps), trace.first_error, categories, trace.extra["style"], source


class Statistics:
    """Counts over what came of the questions."""

    def __init__(self) -> None:
        self.questions = self.traces = self.steps = self.wrong = 0
        self.positions: Counter[int] = Counter()
        self.lengths: Counter[int] = Counter()
        self.categories: Counter[str] = Counter()
        self.errors: Counter[int] = Counter()
        self.styles: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.databases: set[str] = set()
        self.alternatives = 0
        self.skipped: Counter[str] = Counter()
        self.without_wrong = 0
        self.unexpected: str | None = None

    def add(self, labelled: Labelled) -> None:
        self.questions += 1
        if labelled.skipped is not None:
            self.skipped[labelled.skipped] += 1
            self.unexpected = self.unexpected or labelled.unexpected
            return
        right = sum(not categories for _, _, categories, _, _ in labelled.traces)
        self.alternatives += right - 1
        self.without_wrong += right == len(labelled.traces)
        self.databases.add(labelled.db_id)
        for steps, first_error, categories, style, source in labelled.traces:
            self.sources[source.partition(":")[0]] += 1
            self.traces += 1
            self.steps += steps
            self.lengths[steps] += 1
            self.styles[style] += 1
            if categories:
                self.wrong += 1
                self.positions[first_error] += 1
                self.categories.update(categories)
                self.errors[len(categories)] += 1

    def summary(self) -> dict[str, Any]:
        """What `<output>.stats.json` holds."""
        return {
            "questions": self.questions,
            "questions_with_traces": self.questions - sum(self.skipped.values()),
            "questions_without_wrong_trace": self.without_wrong,
            "databases": len(self.databases),
            "traces": self.traces,
            "steps": self.steps,
            "share_wrong": self.wrong / self.traces if self.traces else None,
            "right_alternatives": self.alternatives,
            "traces_by_steps": {str(k): v for k, v in sorted(self.lengths.items())},
            "first_error_positions": {str(k): v for k, v in sorted(self.positions.items())},
            "errors_per_wrong_trace": {str(k): v for k, v in sorted(self.errors.items())},
            "categories": _by_count(self.categories),
            "error_types": {
                kind: _by_count(subtypes) for kind, subtypes in sorted(_taxonomy(self.categories).items())
            },
            "styles": _by_count(self.styles),
            "label_sources": dict(sorted(self.sources.items())),
            "skipped": {reason: self.skipped[reason] for reason in SKIP_REASONS if self.skipped[reason]},
            "first_unexpected_error": self.unexpected,
        }


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _taxonomy(categories: Counter[str]) -> dict[str, Counter[str]]:
    """Type -> subtype -> errors, after NL2SQL-BUGs."""
    found: dict[str, Counter[str]] = {}
    for category, n in categories.items():
        kind, subtype = CATEGORIES[category]
        found.setdefault(kind, Counter())[subtype] += n
    return found


def _show(summary: dict[str, Any], output: str) -> None:
    """The closing statistics on stderr."""
    console = Console(stderr=True, highlight=False)
    share = summary["share_wrong"]
    console.print(
        f"{summary['questions']} questions, {summary['traces']} traces with {summary['steps']} steps"
        + (f", {share:.1%} of the traces wrong" if share is not None else "")
        + f" -> {output}",
        soft_wrap=True,
        markup=False,
    )
    table = Table(
        "first error at step", "traces", "kind of error", "errors", "type (NL2SQL-BUGs)", "errors ",
        box=None, pad_edge=False,
    )  # fmt: skip
    types = Counter(
        {
            kind.removesuffix(" Errors"): sum(subtypes.values())
            for kind, subtypes in summary["error_types"].items()
        }
    )
    columns = [summary["first_error_positions"], summary["categories"], _by_count(types)]
    for cells in zip_longest(*(counts.items() for counts in columns), fillvalue=("", "")):
        table.add_row(*(str(cell) for pair in cells for cell in pair))
    console.print(
        f"{summary['right_alternatives']} right traces are rewrites; wrong traces by number of errors: "
        f"{_counts(summary['errors_per_wrong_trace'])}; traces by style: {_counts(summary['styles'])}",
        soft_wrap=True,
    )
    if table.row_count:
        console.print(table)
    for reason, n in summary["skipped"].items():
        console.print(f"skipped {n}: {SKIP_REASONS[reason]}")
    if summary["first_unexpected_error"]:
        console.print(
            f"please report this error: {summary['first_unexpected_error']}", soft_wrap=True, markup=False
        )
    if summary["questions_without_wrong_trace"]:
        console.print(
            f"{summary['questions_without_wrong_trace']} questions have a right trace only: "
            "no error changed their result"
        )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
