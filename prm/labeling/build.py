"""Labelled traces out of databases, questions and gold SQL: nobody has to label a step by hand.

A gold query is cut into a chain of small steps (`prm.sql.decompose`), and the chain is run: only if its
result equals gold's does it become the question's right trace. A wrong trace is made from the right one by
changing the syntax tree inside ONE step (`prm.sql.mutate`) and is kept only if its result differs from
gold's by execution. So both labels are facts about the database, not opinions: up to the changed step
everything is right, from it on the answer can no longer be.

What would give a wrong trace away without reading its meaning is kept out: right and wrong steps come from
the same renderer, names of steps and columns follow the same rules, the changed position is drawn evenly
over the steps, and the category evenly over what the step allows.

The same bytes come out for any number of workers: each question has a random generator of its own, seeded
by `--seed` and its id, and lines are written in the order of the questions.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote as percent_quoted
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sqlglot import exp

from prm.errors import InputError
from prm.sql.chain import Known, Link, known_at, links_of, respelled, tables_of, with_variant
from prm.sql.compare import is_ordered, results_equal
from prm.sql.database import DatabasePool, Rows, SQLError, open_database, without_password
from prm.sql.decompose import DecomposeError, assemble, decompose, parse_fragment, render_fragment
from prm.sql.describe import describe
from prm.sql.dialect import TranslationError, Translator
from prm.sql.mutate import CATEGORIES, variants
from prm.sql.schema import quote, read_schema, schema_text
from prm.traces.formats import atomic_write
from prm.traces.trace import Step, Trace

#: Why a question gave no traces; the keys of `skipped` in the statistics.
SKIP_REASONS = {
    "gold_fails": "gold SQL does not run",
    "gold_timeout": "gold SQL outlives its time",
    "gold_too_large": "gold gives too many rows",
    "gold_empty": "gold gives no rows, so nothing could tell right from wrong",
    "not_translated": "gold SQL cannot be translated into the dialect in which it is taken apart",
    "translation_differs": "the translation of gold gives another result",
    "not_decomposed": "gold SQL cannot be cut into steps",
    "chain_fails": "the chain of steps does not run",
    "chain_differs": "the chain of steps gives another result than gold",
}

_CHUNK = 16  # questions a worker takes at once
_OPEN_DATABASES = 4  # known to a worker; questions come mostly database by database
_VALUES_ROWS = 5_000  # rows of a table that are looked at for frequent values


@dataclass(frozen=True)
class Question:
    """One entry of a data set: `id` is unique in it (the `group` of its traces), `database` the SQLite file
    or the URL."""

    id: str
    question: str
    sql: str
    db_id: str
    database: Path | str
    evidence: str | None = None


def build(
    layout: str,
    root: str | Path,
    split: str | None,
    output: str | Path,
    *,
    seed: int = 0,
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
    wrong_per_question: int = 4,
    limit: int | None = None,
    timeout: float = 5.0,
    database_url: str | None = None,
) -> dict[str, Any]:
    """Write the labelled traces of a data set to `output` (JSONL) and its statistics to
    `<output>.stats.json`.

    `layout` and `root` as in `read_questions`. `shard=(i, n)` takes the questions whose index leaves i - 1
    on division by n (so that the shards together are the whole), of the first `limit`. `timeout` is in
    seconds a statement. `database_url` (as `open_database` takes it, `{db_id}` standing for the question's
    database) takes the place of the layout's SQLite files; gold is in the dialect of that database, and so
    is all SQL in the traces. With more than one worker, processes are started afresh: a script that calls
    this needs the usual `if __name__ == "__main__":`.

    Returns the statistics.

    Raises:
        InputError: the layout is not there, an entry is malformed, a database is missing, no question falls
            into the shard, or none gives a trace (the statistics then say why, and `output` is not written).
    """
    questions = read_questions(layout, root, split, database_url)[:limit]
    part = questions[shard[0] - 1 :: shard[1]]
    if not part:
        raise InputError(
            f"no question falls into this shard ({shard[0]}/{shard[1]} of {len(questions)} questions); "
            "make fewer shards"
        )
    if timeout <= 0:
        raise InputError("--timeout must be more than 0 seconds")
    job = _Job(seed, wrong_per_question, timeout)
    statistics = Statistics()
    with atomic_write(output) as stream:
        for labelled in _progress(_label_all(part, job, workers), len(part)):
            statistics.add(labelled)
            for line in labelled.lines:
                stream.write(line + "\n")
        summary = statistics.summary() | {"seed": seed, "shard": f"{shard[0]}/{shard[1]}"}
        with atomic_write(f"{output}.stats.json") as beside:
            json.dump(summary, beside, indent=2)
            beside.write("\n")
        if not statistics.traces:  # inside the block: an empty file of traces is of use to nobody
            reasons = ", ".join(f"{n} x {SKIP_REASONS[reason]}" for reason, n in summary["skipped"].items())
            raise InputError(
                f"none of {len(part)} questions gives a trace ({reasons}), so nothing was written; "
                f"see {output}.stats.json and check the gold SQL and the databases",
                file=str(root),
            )
    _show(summary, str(output))
    return summary


# --- reading questions --------------------------------------------------------------------------------------


def read_questions(
    layout: str, root: str | Path, split: str | None, database_url: str | None = None
) -> list[Question]:
    """The questions of a data set, in its own order.

    `layout`: "spider" (`train_spider.json` with `train_others.json`, or `<split>.json`;
    `database/<db>/<db>.sqlite`, `test_database/` for test), "bird" (`<split>.json` with `evidence` and
    `SQL`, `<split>_databases/`, in `root` or a folder `<split>…` of it), "table" (`root` is a JSONL or CSV
    file with question, sql and database, a path relative to the file; id and evidence if you have them).
    With `database_url` the files of the databases are not looked for, and a table may go without them.

    Raises:
        InputError: naming the file and entry or line, and the mend.
    """
    root = Path(root)
    if layout == "table":
        questions = _read_table(root, database_url)
    elif layout in ("spider", "bird"):
        if not split:
            raise InputError(f"--layout {layout} needs --split (train, dev, test …)")
        if not root.is_dir():
            raise InputError("no such folder; --root is the folder of the data set", file=str(root))
        questions = (_read_spider if layout == "spider" else _read_bird)(root, split, database_url)
    else:
        raise InputError(f"unknown layout {layout!r}; there are spider, bird and table")
    if not questions:
        raise InputError("holds no questions", file=str(root))
    return questions


def _read_spider(root: Path, split: str, database_url: str | None) -> list[Question]:
    files = [root / f"{split}.json"]
    if split == "train" and not files[0].exists():
        files = [f for f in (root / "train_spider.json", root / "train_others.json") if f.exists()]
    if not files or not files[0].exists():
        wanted = "train.json or train_spider.json" if split == "train" else f"{split}.json"
        raise InputError(f"has no {wanted}; --root is the folder that holds it", file=str(root))
    folders = [root / "database", root / "test_database"]
    if split == "test":
        folders.reverse()
    return _read_entries(files, folders, split, "query", database_url)


def _read_bird(root: Path, split: str, database_url: str | None) -> list[Question]:
    name = f"{split}.json"
    homes = [root, root / split, *sorted(root.glob(f"{split}_*"))]
    home = next((home for home in homes if (home / name).is_file()), None)
    if home is None:
        raise InputError(
            f"has no {name}, nor has a folder {split} in it; --root is BIRD's folder", file=str(root)
        )
    return _read_entries([home / name], [home / f"{split}_databases"], split, "SQL", database_url)


def _read_entries(
    files: list[Path], folders: list[Path], split: str, sql_key: str, database_url: str | None
) -> list[Question]:
    questions: list[Question] = []
    databases: dict[str, Path | str] = {}
    for file in files:
        entries = _read_json(file)
        if not isinstance(entries, list):
            raise InputError("must hold a list of questions", file=str(file))
        for i, entry in enumerate(entries):
            where = f"entry {i} (from 0)"
            if not isinstance(entry, dict):
                raise InputError(
                    f"{where} must be an object with 'db_id', 'question' and '{sql_key}'", file=str(file)
                )
            db_id, question, sql = (
                _text_of(entry, key, where, file) for key in ("db_id", "question", sql_key)
            )
            if db_id not in databases:
                databases[db_id] = (
                    _find_database(db_id, folders, where, file)
                    if database_url is None
                    else _with_name(database_url, db_id)
                )
            evidence = entry.get("evidence")
            if evidence is not None and not isinstance(evidence, str):
                raise InputError(f"{where}: 'evidence' must be a text", file=str(file))
            questions.append(
                Question(
                    f"{split}-{len(questions)}", question, sql, db_id, databases[db_id], evidence or None
                )
            )
    return questions


def _find_database(db_id: str, folders: list[Path], where: str, file: Path) -> Path:
    if db_id in (".", "..") or "/" in db_id or "\\" in db_id or "\0" in db_id:
        raise InputError(f"{where}: 'db_id' must be the name of a folder, not {db_id!r}", file=str(file))
    for folder in folders:
        path = folder / db_id / f"{db_id}.sqlite"
        if path.is_file():
            return path
    raise InputError(
        f"{where} asks database {db_id!r}, but there is no {folders[0] / db_id / db_id}.sqlite; "
        "fetch the data set's databases, too",
        file=str(file),
    )


def _with_name(database_url: str, db_id: str) -> str:
    return database_url.replace("{db_id}", percent_quoted(db_id, safe=""))


def _read_table(file: Path, database_url: str | None) -> list[Question]:
    questions: list[Question] = []
    lines: dict[str, int] = {}
    needed = ["question", "sql", "database"]
    if database_url is not None and "{db_id}" not in database_url:
        needed.remove("database")
    for line, row in _rows_of(file, needed):
        values = [_text_of(row, key, "", file, line) for key in needed[:2]]
        path = _text_of(row, "database", "", file, line) if "database" in needed else ""
        for key in ("id", "evidence"):
            value = row.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and key == "id":
                value = str(value)
            if value is not None and not isinstance(value, str):
                raise InputError(f"'{key}' must be a text", file=str(file), line=line)
            values.append(value or None)
        question, sql, given, evidence = values
        database: Path | str = file.parent / path
        db_id = Path(path).stem
        if database_url is not None:
            database = _with_name(database_url, db_id)
            db_id = db_id or Path(urlsplit(database).path).stem
        elif not database.is_file():
            raise InputError(
                f"there is no database {database}; 'database' is a path relative to this file",
                file=str(file),
                line=line,
            )
        name = given or f"{file.stem}-{len(questions)}"
        if name in lines:
            raise InputError(
                f"the id {name!r} also stands in line {lines[name]}; make it unique",
                file=str(file),
                line=line,
            )
        lines[name] = line
        questions.append(Question(name, question, sql, db_id, database, evidence))
    return questions


def _rows_of(file: Path, needed: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line from 1, row) of a JSONL or CSV file."""
    if not file.is_file():
        raise InputError("no such file; --layout table wants a JSONL or CSV file as --root", file=str(file))
    if file.suffix.lower() == ".csv":
        try:
            with open(file, encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream, strict=True)
                missing = set(needed) - set(reader.fieldnames or ())
                if missing:
                    raise InputError(
                        f"the first line must name the column {sorted(missing)[0]!r}", file=str(file), line=1
                    )
                line = reader.line_num + 1
                for row in reader:
                    if None in row:
                        raise InputError(
                            "has more cells than the first line names", file=str(file), line=line
                        )
                    yield line, {key: value for key, value in row.items() if value}
                    line = reader.line_num + 1
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"no readable CSV ({error}); save it as UTF-8 CSV", file=str(file)) from None
        return
    with open(file, "rb") as stream:
        for line, raw in enumerate(stream, 1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig"))
            except (UnicodeDecodeError, ValueError, RecursionError) as error:
                raise InputError(
                    f"no JSON object ({error}); one object a line", file=str(file), line=line
                ) from None
            if not isinstance(row, dict):
                raise InputError("no JSON object; one object a line", file=str(file), line=line)
            yield line, row


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"no valid JSON ({error.msg}); fetch it again", file=str(file), line=error.lineno
        ) from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"no valid JSON ({error}); fetch it again", file=str(file)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=str(file)) from None


def _text_of(entry: dict[str, Any], key: str, where: str, file: Path, line: int | None = None) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{where}{': ' if where else ''}'{key}' must be a non-empty text", file=str(file), line=line
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{where}{': ' if where else ''}'{key}' holds half a character (a lone surrogate such as "
            "\\ud800); write it as UTF-8",
            file=str(file),
            line=line,
        ) from None
    return value


# --- labelling questions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    seed: int
    wrong_per_question: int
    timeout: float


@dataclass
class Labelled:
    """What came of one question: its traces as JSON lines, (steps, first error, category) of each, or why
    there are none."""

    lines: list[str] = dataclass_field(default_factory=list)
    traces: list[tuple[int, int, str | None]] = dataclass_field(default_factory=list)
    skipped: str | None = None
    unexpected: str | None = None  # the error that nobody foresaw, if that is why


class _Skip(Exception):
    """This question gives no traces; the argument is a key of `SKIP_REASONS`."""


class _Workplace:
    """One database with what is known of it: its schema, its dialect, frequent values."""

    def __init__(self, path: Path | str, timeout: float, pool: DatabasePool) -> None:
        self.schema = read_schema(path)
        self.translator = Translator(self.schema)
        self.database = open_database(path, timeout=timeout, pool=pool)
        self.columns = {table.name: [c.name for c in table.columns] for table in self.schema.tables}
        self.known = Known(tables_of(self.schema), links_of(self.schema), self.values)
        self._values: dict[tuple[str, str], list[tuple[object, int]]] = {}

    def run(self, sql: str) -> Rows:
        """The rows of a statement in the database's own dialect; raises SQLError, unless it is the database
        itself that cannot be reached: that says nothing against the statement."""
        try:
            return self.database.execute(sql)
        except SQLError as error:
            if error.kind == "unavailable":
                raise InputError(str(error), file=without_password(str(self.database.path))) from None
            raise

    def run_steps(self, fragments: list[str]) -> Rows:
        """The rows of a chain of steps; raises SQLError."""
        try:
            return self.run(assemble([self.translator.outward(fragment) for fragment in fragments]))
        except TranslationError as error:
            raise SQLError(str(error)) from None

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


def label_question(question: Question, place: _Workplace, job: _Job) -> list[Trace]:
    """The right trace of a question and up to `wrong_per_question` wrong ones.

    Raises:
        _Skip: the question gives no traces.
    """
    gold = _gold_rows(question.sql, place)
    ordered = is_ordered(question.sql)
    try:
        steps = decompose(_inner_sql(question.sql, gold, ordered, place), place.columns)
    except DecomposeError:
        raise _Skip("not_decomposed") from None
    chain = respelled([Link(*parse_fragment(step.sql)) for step in steps], place.known)
    right = [_written(link) for link in chain]
    try:
        rows = place.run_steps([fragment for _, fragment in right])
    except SQLError:
        raise _Skip("chain_fails") from None
    if not results_equal(gold, rows, ordered=ordered):
        raise _Skip("chain_differs")
    schema = schema_text(place.schema, question.question)

    def trace(k: int, texts: list[tuple[str, str]], first_error: int, category: str | None) -> Trace:
        fragments = [place.translator.outward(fragment) for _, fragment in texts]
        made = [
            Step(
                f"{sentence}\n{fragment}",
                0 if 0 <= first_error <= i else 1,
                fragment,
                category if i == first_error else None,
            )
            for i, ((sentence, _), fragment) in enumerate(zip(texts, fragments, strict=True))
        ]
        return Trace(
            question.question,
            made,
            id=f"{question.id}-{k}",
            group=question.id,
            db_id=question.db_id,
            schema=schema,
            evidence=question.evidence,
            sql=assemble(fragments),
            gold_sql=question.sql,
            label_source="execution",
        )

    digest = hashlib.sha256(f"{job.seed}\x1f{question.id}".encode()).digest()
    rng = Random(int.from_bytes(digest[:8], "big"))
    traces = [trace(0, right, -1, None)]
    for at, category, texts in _wrong_chains(chain, right, rows, ordered, place, rng, job):
        traces.append(trace(len(traces), texts, at, category))
    return traces


#: Errors that are nothing but an order of rows; for all others an order of tied rows that differs proves
#: nothing.
_ABOUT_ORDER = frozenset({"order_direction", "order_key", "order_missing"})
#: Errors that nearly every step allows; they are drawn less often, so that the others are not rare.
_EVERYWHERE = frozenset({"column", "extra_column", "condition_extra", "table"})
_TRIES = 8  # statements run for each wrong trace wanted


def _wrong_chains(
    chain: list[Link],
    right: list[tuple[str, str]],
    rows: Rows,
    ordered: bool,
    place: _Workplace,
    rng: Random,
    job: _Job,
) -> Iterator[tuple[int, str, list[tuple[str, str]]]]:
    """(changed step, category, sentence and fragment of every step) of the wrong chains.

    Steps take turns in random order, and within a step the categories do, so that neither has a preference;
    a step or category without a variant that changes the result drops out.
    """
    seen = {tuple(fragment for _, fragment in right)}
    untried: list[deque[tuple[str, Iterator[exp.Expression]]]] = []
    for at, link in enumerate(chain):
        known = known_at(chain, at, place.known)
        drawn = {name: rng.random() * (0.3 if name in _EVERYWHERE else 1.0) for name in CATEGORIES}
        names = sorted(drawn, key=lambda name: -drawn[name])
        untried.append(deque((name, variants(name, link.tree, known, rng)) for name in names))
    steps = list(range(len(chain)))
    rng.shuffle(steps)
    turn, found, tries = deque(steps), 0, _TRIES * job.wrong_per_question
    while turn and found < job.wrong_per_question and tries > 0:
        at = turn.popleft()
        while untried[at] and tries > 0:
            category, makers = untried[at].popleft()
            variant = next(makers, None)
            if variant is None:
                continue
            untried[at].append((category, makers))
            links = with_variant(chain, at, variant, place.known)
            if links is None:
                continue
            pairs = zip(chain[at:], links[at:], right[at:], strict=True)
            texts = right[:at] + [was if new is old else _written(new) for old, new, was in pairs]
            key = tuple(fragment for _, fragment in texts)
            if key in seen or texts[at][0] == right[at][0]:
                continue
            seen.add(key)
            tries -= 1
            if _is_wrong(category, links, chain, texts, rows, ordered, place):
                yield at, category, texts
                found += 1
                turn.append(at)
                break


def _written(link: Link) -> tuple[str, str]:
    """The sentence and the fragment of a step: right ones and wrong ones come from here."""
    return describe(link.tree, link.name or None), render_fragment(link.name, link.tree)


def _is_wrong(
    category: str,
    links: list[Link],
    chain: list[Link],
    texts: list[tuple[str, str]],
    rows: Rows,
    ordered: bool,
    place: _Workplace,
) -> bool:
    """Whether the changed chain runs and its result differs from gold's for certain."""
    try:
        result = place.run_steps([fragment for _, fragment in texts])
        if results_equal(rows, result, ordered=ordered and category in _ABOUT_ORDER):
            return False
        if category not in _ABOUT_ORDER | {"limit"} and all(
            c[-1].tree.args.get("limit") for c in (links, chain)
        ):
            # Which of several tied rows LIMIT keeps is chance: the results must differ without it, too.
            return not results_equal(_unlimited(chain, place), _unlimited(links, place), ordered=False)
    except SQLError:
        return False
    return True


def _unlimited(links: list[Link], place: _Workplace) -> Rows:
    last = links[-1].tree.copy()
    last.set("limit", None)
    last.set("offset", None)
    fragments = [render_fragment(link.name, link.tree) for link in links[:-1]]
    return place.run_steps([*fragments, render_fragment("", last)])


def _gold_rows(sql: str, place: _Workplace) -> Rows:
    try:
        rows = place.run(sql)
    except SQLError as error:
        kind = {"timeout": "gold_timeout", "too_large": "gold_too_large"}.get(error.kind, "gold_fails")
        raise _Skip(kind) from None
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
    if not results_equal(gold, rows, ordered=ordered):
        raise _Skip("translation_differs")
    return inner


# --- processes and statistics -------------------------------------------------------------------------------


class _Worker:
    """What a process keeps between chunks: the databases that it has used last, and what runs their SQL."""

    def __init__(self) -> None:
        self.pool = DatabasePool(1)
        self.places: OrderedDict[Path | str, _Workplace] = OrderedDict()

    def place(self, path: Path | str, timeout: float) -> _Workplace:
        place = self.places.pop(path, None) or _Workplace(path, timeout, self.pool)
        self.places[path] = place
        if len(self.places) > _OPEN_DATABASES:
            self.places.popitem(last=False)
        return place

    def label(self, questions: list[Question], job: _Job) -> list[Labelled]:
        return [self._label(question, job) for question in questions]

    def _label(self, question: Question, job: _Job) -> Labelled:
        place = self.place(question.database, job.timeout)
        try:
            traces = label_question(question, place, job)
        except _Skip as skip:
            return Labelled(skipped=str(skip))
        except RecursionError:  # thousands of nested terms
            return Labelled(skipped="not_decomposed")
        except (InputError, OSError):  # of the database or the machine, not of this query
            raise
        except Exception as error:  # SQL has more forms than anyone foresees: one must not end hours of work
            text = f"{question.id}: {type(error).__name__}: {error}"
            return Labelled(skipped="not_decomposed", unexpected=text)
        lines = [json.dumps(trace.to_dict(), ensure_ascii=False) for trace in traces]
        return Labelled(lines, [(len(t.steps), t.first_error, _category(t)) for t in traces])

    def close(self) -> None:
        self.pool.close()


def _category(trace: Trace) -> str | None:
    return None if trace.first_error < 0 else trace.steps[trace.first_error].error


_worker: _Worker | None = None  # of this process, where it is one of the pool


def _start_worker() -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's business
    _worker = _Worker()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's worker that waits for work does not notice by itself that its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _label_chunk(questions: list[Question], job: _Job) -> list[Labelled]:
    assert _worker is not None
    return _worker.label(questions, job)


def _label_all(questions: list[Question], job: _Job, workers: int) -> Iterator[Labelled]:
    """What came of every question, in their order."""
    chunks = [questions[i : i + _CHUNK] for i in range(0, len(questions), _CHUNK)]
    if workers == 1 or len(chunks) < 2:
        worker = _Worker()
        try:
            for chunk in chunks:
                for question in chunk:
                    yield from worker.label([question], job)
        finally:
            worker.close()
        return
    # Fresh processes, not forks: the progress bar has a thread, and forking beside threads can deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context, initializer=_start_worker)
    waiting: deque[Future[list[Labelled]]] = deque()
    try:
        # A window of chunks, so that one slow chunk does not make the results of all others pile up in
        # memory.
        for chunk in chunks:
            waiting.append(pool.submit(_label_chunk, chunk, job))
            if len(waiting) >= 4 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise RuntimeError("a worker process died (out of memory?); run with fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Statistics:
    """Counts over what came of the questions."""

    def __init__(self) -> None:
        self.questions = self.traces = self.steps = self.wrong = 0
        self.positions: Counter[int] = Counter()
        self.lengths: Counter[int] = Counter()
        self.categories: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.without_wrong = 0
        self.unexpected: str | None = None

    def add(self, labelled: Labelled) -> None:
        self.questions += 1
        if labelled.skipped is not None:
            self.skipped[labelled.skipped] += 1
            self.unexpected = self.unexpected or labelled.unexpected
            return
        self.without_wrong += len(labelled.traces) == 1
        for steps, first_error, category in labelled.traces:
            self.traces += 1
            self.steps += steps
            self.lengths[steps] += 1
            if category is not None:
                self.wrong += 1
                self.positions[first_error] += 1
                self.categories[category] += 1

    def summary(self) -> dict[str, Any]:
        """What `<output>.stats.json` holds."""
        return {
            "questions": self.questions,
            "questions_with_traces": self.questions - sum(self.skipped.values()),
            "questions_without_wrong_trace": self.without_wrong,
            "traces": self.traces,
            "steps": self.steps,
            "share_wrong": self.wrong / self.traces if self.traces else None,
            "traces_by_steps": {str(k): v for k, v in sorted(self.lengths.items())},
            "first_error_positions": {str(k): v for k, v in sorted(self.positions.items())},
            "categories": dict(sorted(self.categories.items(), key=lambda item: (-item[1], item[0]))),
            "skipped": {reason: self.skipped[reason] for reason in SKIP_REASONS if self.skipped[reason]},
            "first_unexpected_error": self.unexpected,
        }


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
    table = Table("first error at step", "traces", "kind of error", "traces ", box=None, pad_edge=False)
    positions = list(summary["first_error_positions"].items())
    categories = list(summary["categories"].items())
    for i in range(max(len(positions), len(categories))):
        left = positions[i] if i < len(positions) else ("", "")
        right = categories[i] if i < len(categories) else ("", "")
        table.add_row(*map(str, (*left, *right)))
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


def _progress(items: Iterator[Labelled], total: int) -> Iterator[Labelled]:
    """Hand the items on with a progress bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("questions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
        disable=not console.is_terminal,
    )  # fmt: skip
    with contextlib.closing(items), bar:
        task = bar.add_task("questions", total=total)
        for item in items:
            yield item
            bar.advance(task)
