"""Choosing one of several answers to a question: `prm rerank`, and the same on plain lists.

A text-to-SQL model that is asked several times gives several answers, and the right one is among them far
more often than it comes first. Two witnesses tell which it is. Execution: answers that give the same result
vote for each other (self-consistency). The PRM: each answer has a score. They see different things, so the
weighted vote, in which a result's weight is the sum over its answers of votes times score, is mostly better
than either (Lightman et al. 2023, arXiv:2305.20050; Beeching et al. 2024, "Scaling test-time compute").

    rerank(scorer, "How many singers?", ["SELECT …", ["step", "step"]], database="singers.sqlite")

Equal answers are scored once, and all answers to a question in one pass over what they share.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from prm.errors import InputError
from prm.inference.choosing import Aggregate, Choose, Rule, aggregate_scores, choose
from prm.inference.rerank_report import (
    Judged,
    accuracy_table,
    changed_choices,
    difference_table,
    measure,
    render,
)
from prm.jobs.journal import Journal
from prm.jobs.last_used import LastUsed
from prm.jobs.progress import progress
from prm.jobs.workers import each_finished
from prm.sql.chain import Known, links_of, tables_of
from prm.sql.compare import Undecided, is_ordered, results_equal
from prm.sql.database import DatabasePool, Rows, SQLError, check_reachable, open_steadily
from prm.sql.hardness import hardness
from prm.sql.pieces import Piece, pieces_of_sql, pieces_of_steps, pieces_unchecked, statement_of
from prm.sql.schema import read_schema, schema_text
from prm.traces.answer import checked_answer, split_answer
from prm.traces.formats import Tally, atomic_write, rows_of
from prm.traces.provenance import fingerprint, output_file
from prm.traces.questions import find_database
from prm.traces.trace import Step, Trace

if TYPE_CHECKING:
    from prm.inference.scoring import Ensemble, Scorer

_CHUNK = 8  # questions that a worker takes at once, and that are scored in one pass
_WORTH_A_SPLIT = re.compile(r"```|</?(?:think|answer|sql)>", re.IGNORECASE)


# --- from Python --------------------------------------------------------------------------------------------


def result_classes(results: Sequence[Rows | None], ordered: bool) -> list[int | None]:
    """A number for each result, the same for equal ones (`prm.sql.compare`, rule `spider`); None for None.

    Results that cannot be compared count as different.
    """
    numbers: list[int | None] = []
    firsts: list[Rows] = []
    known: dict[tuple[Any, ...], int] = {}  # results that are the same in every cell need no comparing
    for rows in results:
        if rows is None:
            numbers.append(None)
            continue
        key = tuple(map(tuple, rows))
        if key not in known:
            same = (k for k, first in enumerate(firsts) if _equal(first, rows, ordered))
            known[key] = next(same, len(firsts))
            if known[key] == len(firsts):
                firsts.append(rows)
        numbers.append(known[key])
    return numbers


def _equal(rows: Rows, others: Rows, ordered: bool) -> bool:
    try:
        return results_equal(rows, others, ordered=ordered)
    except Undecided:
        return False


@dataclass(frozen=True)
class Reranked:
    """`chosen`: an index; the rest are lists with one entry for each candidate.

    `step_scores` and `scores` are None for a candidate that is too long for the model. `results` (equal
    numbers for equal results, None for one that does not run) and `n_rows` are None without a database.
    """

    chosen: int
    scores: list[float | None]
    step_scores: list[list[float] | None]
    results: list[int | None] | None
    n_rows: list[int | None] | None


def rerank(
    scorer: Scorer | Ensemble,
    question: str,
    candidates: Sequence[str | Sequence[str] | dict[str, Any]],
    *,
    schema: str | None = None,
    evidence: str | None = None,
    database: str | Path | None = None,
    votes: Sequence[int] | None = None,
    how: Choose = "best",
    aggregate: Aggregate = "last",
    drop_failing: bool = False,
    drop_empty: bool = False,
    timeout: float = 5.0,
) -> Reranked:
    """Choose one of the answers to a question.

    Args:
        candidates: SQL, or a list of steps as texts, or an object as in a file of candidates (`{"sql": …}`,
            `{"steps": […]}`).
        schema: as the model shall read it; that of the database by default.
        database: path of an SQLite file, or a URL; answers are run on it, read-only, each `timeout` seconds
            at most.
        how, aggregate, votes, drop_failing, drop_empty: as in `choose` and `aggregate_scores`.

    Raises:
        InputError: a candidate is malformed, the database cannot be read, or no candidate fits the model.
    """
    row: dict[str, Any] = {"question": question, "schema": schema, "evidence": evidence}
    row["candidates"] = [_as_object(each) for each in candidates]
    if votes is not None:
        if len(votes) != len(candidates):
            raise InputError(f"{len(votes)} votes for {len(candidates)} answers; give one for each")
        for i, n in enumerate(votes):
            if isinstance(row["candidates"][i], dict):
                row["candidates"][i] = row["candidates"][i] | {"votes": n}
    asked = read_asked(row, None)
    preparer = Preparer(timeout)
    try:
        prepared = preparer.prepare(asked, database)
    finally:
        preparer.close()
    (step_scores,) = score_prepared(scorer, [(asked, prepared)])
    scores = [None if steps is None else aggregate_scores(steps, aggregate) for steps in step_scores]
    chosen = choose(
        scores, prepared.results, how=how, votes=asked.votes, n_rows=prepared.n_rows,
        drop_failing=drop_failing, drop_empty=drop_empty,
    )  # fmt: skip
    return Reranked(chosen, scores, step_scores, prepared.results, prepared.n_rows)


def _as_object(candidate: Any) -> Any:
    if isinstance(candidate, str):
        return {"sql": candidate}
    return {"steps": list(candidate)} if isinstance(candidate, (list, tuple)) else candidate


# --- a file of candidates -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A question with its answers, as they stand in a line: `answers` are {"sql": …} or {"steps": …, "sql"?},
    `database` is None where nothing is run."""

    question: str
    answers: tuple[dict[str, Any], ...]
    votes: tuple[int, ...]
    database: Path | None = None
    db_id: str | None = None
    schema: str | None = None
    evidence: str | None = None
    prompt: str | None = None
    gold_sql: str | None = None


@dataclass(frozen=True)
class Given:
    """What a line says already, so that neither a model nor a database is needed; None where it does not."""

    step_scores: list[list[float] | None] | None = None
    scores: list[float | None] | None = None
    results: list[int | str | None] | None = None
    n_rows: list[int | None] | None = None
    correct: list[bool] | None = None


@dataclass(frozen=True)
class Line:
    """A line of a file of candidates: its number (from 1), the object, and what was read from it."""

    number: int
    row: dict[str, Any]
    asked: Asked
    given: Given


@dataclass
class Prepared:
    """What is known of a question's answers before any model reads them; a list has an entry an answer.

    `gold` says why gold cannot judge ("" if it can, None where there is none); `correct` is then None.
    """

    texts: list[list[str]]
    schema: str | None = None
    results: list[int | None] | None = None
    n_rows: list[int | None] | None = None
    correct: list[bool] | None = None
    gold: str | None = None


def read_candidates(
    data: str | Path, databases: str | Path | None, tally: Tally, on_bad_rows: str = "stop"
) -> list[Line]:
    """The lines of a file.

    Raises:
        InputError: the file is missing or empty; with `databases`, the folder or a database is; or (with
            `on_bad_rows="stop"`) a line is malformed.
    """
    folder = None if databases is None else Path(databases)
    if folder is not None and not folder.is_dir():
        raise InputError("no such folder; --databases is the data set's folder", file=str(folder))
    if not Path(data).is_file():
        raise InputError("there is no such file", file=str(data))
    lines: list[Line] = []
    for line, row in rows_of(data):
        tally.rows += 1
        try:
            if isinstance(row, InputError):
                raise row
            asked = read_asked(row, folder)
            lines.append(Line(line, row, asked, _given(row)))
        except InputError as error:
            if on_bad_rows == "stop":
                raise InputError(str(error), file=str(data), line=line) from None
            tally.skip(error, str(data), line)
    if not lines:
        raise InputError("; ".join(["holds no candidates", *tally.report()]), file=str(data))
    return lines


def read_asked(row: Any, folder: Path | None) -> Asked:
    """One line of a file of candidates, or the body of a request; `folder` holds the databases to run on.

    Raises:
        InputError: it is malformed, or there is no such database.
    """
    if not isinstance(row, dict):
        raise InputError("a row is a JSON object with question and candidates")
    texts: dict[str, str | None] = {}
    for key in ("question", "db_id", "schema", "evidence", "prompt", "gold_sql"):
        value = row.get(key)
        if not isinstance(value, (str, type(None))):
            raise InputError(f"'{key}' must be a text")
        texts[key] = value if value and value.strip() else None
    question = texts.pop("question")
    if question is None:
        raise InputError("'question' must be a non-empty text")
    listed = row.get("candidates")
    if not isinstance(listed, list) or not listed:
        raise InputError("'candidates' must be a non-empty list")
    answers, votes = [], []
    for i, raw in enumerate(listed):
        where = f"candidate {i} (from 0): "
        answer = checked_answer(raw, where)
        if "steps" in answer and isinstance(raw.get("sql"), str):
            answer["sql"] = raw["sql"]
        answers.append(answer)
        n = raw.get("votes", 1)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(f"{where}'votes' must be a whole number of at least 1")
        votes.append(n)
    database = None
    if folder is not None:
        if texts["db_id"] is None:
            raise InputError("'db_id' must name the database that --databases holds")
        database = find_database(folder, texts["db_id"])
    return Asked(question, tuple(answers), tuple(votes), database, **texts)


def _given(row: dict[str, Any]) -> Given:
    """What an earlier run, or somebody else, has written into the line."""
    candidates = row["candidates"]

    def column(name: str, fits: Any, words: str, *, of_each: bool = False) -> Any:
        values = [each[name] for each in candidates if name in each] if of_each else row.get(name)
        if values is None or (of_each and len(values) < len(candidates)):
            return None
        if not isinstance(values, list) or len(values) != len(candidates) or not all(map(fits, values)):
            raise InputError(f"'{name}' must hold {words} for each of the {len(candidates)} candidates")
        return values

    def is_score(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1

    def is_count(value: Any) -> bool:
        return value is None or (isinstance(value, int) and not isinstance(value, bool))

    def are_scores(value: Any) -> bool:
        return value is None or (isinstance(value, list) and len(value) > 0 and all(map(is_score, value)))

    correct = column("correct", lambda v: isinstance(v, bool), "true or false")
    if correct is None:
        of_each = column(
            "correct", lambda v: isinstance(v, (bool, type(None))), "true or false", of_each=True
        )
        correct = None if of_each is None or None in of_each else of_each
    return Given(
        column("scores", are_scores, "a list of numbers in [0, 1]", of_each=True),
        column("scores", lambda v: v is None or is_score(v), "a number in [0, 1] or null"),
        column("results", lambda v: is_count(v) or isinstance(v, str), "a number, a text or null"),
        column("n_rows", is_count, "a whole number or null"),
        correct,
    )


class _Place:
    """One database and what is known of it."""

    def __init__(self, path: str | Path, timeout: float, pool: DatabasePool) -> None:
        self.schema = read_schema(path)
        self.database = open_steadily(path, timeout=timeout, pool=pool)
        self.columns = {table.name: [c.name for c in table.columns] for table in self.schema.tables}
        self.known = Known(tables_of(self.schema), links_of(self.schema))

    def close(self) -> None:
        self.database.close()


class Preparer:
    """Runs the answers of questions and cuts them into steps; a worker for `each_finished`."""

    def __init__(self, timeout: float) -> None:
        self.pool = DatabasePool(1)
        self.places = LastUsed(partial(_Place, timeout=timeout, pool=self.pool))

    def __call__(self, chunk: list[tuple[int, Asked]]) -> list[tuple[int, Prepared]]:
        return [(i, self.prepare(asked, asked.database)) for i, asked in chunk]

    def prepare(self, asked: Asked, database: str | Path | None) -> Prepared:
        given = [pieces_of_steps(a["steps"]) if "steps" in a else None for a in asked.answers]
        statements = [
            _bare(a["sql"]) if "sql" in a else statement_of(pieces or [])
            for a, pieces in zip(asked.answers, given, strict=True)
        ]
        if database is None:
            cut = [
                pieces or _cut(pieces_unchecked, sql or "")
                for pieces, sql in zip(given, statements, strict=True)
            ]
            return Prepared(_texts(cut), asked.schema)
        place = self.places[database]
        rows = self._run(place, statements)
        ordered = _mostly_ordered(statements, rows, asked.votes)
        cut = []
        for pieces, sql, its in zip(given, statements, rows, strict=True):
            known = place.database, place.columns, place.known
            cut.append(pieces or _cut(partial(pieces_of_sql, ordered=ordered), sql or "", its, *known))
        prepared = Prepared(
            _texts(cut),
            asked.schema or schema_text(place.schema, asked.question),
            result_classes(rows, ordered),
            [None if its is None else len(its) for its in rows],
        )
        if asked.gold_sql is not None:
            (gold,) = self._run(place, [_bare(asked.gold_sql)])
            prepared.gold = "" if gold is not None else "gold SQL does not run"
            if gold is not None:
                orders = is_ordered(asked.gold_sql)
                prepared.correct = [its is not None and _equal(gold, its, orders) for its in rows]
        return prepared

    def _run(self, place: _Place, statements: Sequence[str | None]) -> list[Rows | None]:
        """The rows of every statement; None where it gives none (an error, too long, too many)."""
        distinct = [sql for sql in dict.fromkeys(statements) if sql]
        found: dict[str | None, Rows | None] = {}
        answers = self.pool.execute_all([(place.database, sql) for sql in distinct])
        for sql, answer in zip(distinct, answers, strict=True):
            if isinstance(answer, SQLError):
                check_reachable(answer, place.database)
            found[sql] = None if isinstance(answer, SQLError) else answer
        return [found.get(sql) for sql in statements]

    def close(self) -> None:
        self.places.close()
        self.pool.close()


def _bare(text: str) -> str:
    """The SQL in what a model wrote, where fences, tags or thoughts stand around it."""
    if _WORTH_A_SPLIT.search(text):
        answer = split_answer(text)
        if answer is not None and answer.whole:
            return answer.sql
    return text.strip()


def _cut(pieces: Any, sql: str, *more: Any) -> list[Piece]:
    """SQL in steps, or as the only one: SQL has more forms than anyone foresees."""
    try:
        return pieces(sql, *more)
    except (InputError, OSError):
        raise
    except Exception:
        return [Piece(sql, sql)]


def _texts(cut: Sequence[Sequence[Piece]]) -> list[list[str]]:
    return [[piece.text for piece in pieces] for pieces in cut]


def _mostly_ordered(
    statements: Sequence[str | None], rows: Sequence[Rows | None], votes: Sequence[int]
) -> bool:
    """Whether the question asks for an order: gold is not known here, so the answers that run vote on it.
    One rule for all answers of a question makes equality hold between them in whatever way they are paired.
    """
    running = [(sql, n) for sql, its, n in zip(statements, rows, votes, strict=True) if its is not None]
    ordered = sum(n for sql, n in running if is_ordered(sql or ""))
    return 2 * ordered > sum(n for _, n in running)


def score_prepared(
    scorer: Scorer | Ensemble, questions: Sequence[tuple[Asked, Prepared]]
) -> list[list[list[float] | None]]:
    """The step scores of every answer to each question, in one pass; equal answers are read once.

    None for an answer that is too long for the model.

    Raises:
        InputError: all of them are.
    """
    traces: list[Trace] = []
    places: list[list[int]] = []
    for number, (asked, prepared) in enumerate(questions):
        distinct: dict[tuple[str, ...], int] = {}
        for texts in prepared.texts:
            if tuple(texts) not in distinct:
                distinct[tuple(texts)] = len(traces)
                traces.append(
                    Trace(
                        asked.question,
                        [Step(text) for text in texts],
                        group=str(number),
                        schema=prepared.schema,
                        evidence=asked.evidence,
                        extra={} if asked.prompt is None else {"prompt": asked.prompt},
                    )
                )
        places.append([distinct[tuple(texts)] for texts in prepared.texts])
    scores = scorer.score(traces, drop_long=True)
    return [[scores[i] for i in each] for each in places]


# --- the command --------------------------------------------------------------------------------------------


def rerank_file(
    data: str,
    output: str,
    rule: Rule,
    *,
    models: Sequence[str] = (),
    databases: str | None = None,
    workers: int = 1,
    timeout: float = 5.0,
    on_bad_rows: str = "stop",
    seed: int = 0,
    **loading: Any,
) -> dict[str, Any] | None:
    """`prm rerank`: the lines of `data` with what was chosen, and of gold SQL the accuracy of every choice.

    A line is written back with `chosen` (an index), `scores`, `results`, `n_rows` and `correct` (lists with
    an entry a candidate, as far as they are known), and a candidate with the `scores` of its steps. What a
    line has of these is used where no model or no database is given. With gold, `<output>.metrics.json` and
    `<output>.html` hold what `prm.inference.rerank_report` measures. What is finished stands in
    `<output>.journal` until all is: the same call goes on from there.

    Args:
        workers: processes that run and cut SQL; with more than one they are started afresh, so that a script
            needs the usual `if __name__ == "__main__":`.
        timeout: seconds that one statement may run.
        seed: of bootstrap and draws.
        loading: as in `prm.inference.scoring.load_scorer`.

    Returns:
        The metrics, None without gold.

    Raises:
        InputError: a line is malformed or lacks what the choice needs; model, databases or output fail.
    """
    if not timeout > 0:
        raise InputError("--timeout must be more than 0 seconds")
    file, tally = output_file(output, lines_only=True), Tally()
    lines = read_candidates(data, databases, tally, on_bad_rows)
    for line in lines:
        _check_enough(line, data, rule, scored=bool(models), executed=databases is not None)
    settings = {
        "models": [_state_of(model) for model in models],
        "timeout": timeout,
        "loading": {name: str(value) for name, value in loading.items()},
    } | _fingerprint([line.asked for line in lines], databases)
    with Journal(f"{file}.journal", "rerank", settings) as journal:
        if models or databases is not None:
            _work(lines, journal, models, workers, timeout, loading)
        judged = [_judged(line, journal, str(i), rule) for i, line in enumerate(lines)]
        with atomic_write(file) as handle:
            for line, each in zip(lines, judged, strict=True):
                written = json.dumps(_written(line.row, each), ensure_ascii=False, default=str)
                handle.write(written + "\n")
        about = {"data": str(data), "models": list(models), "output": str(file)}
        metrics = _measured(lines, judged, rule, file, about, seed)
        journal.remove()
    for words in tally.report():
        print(words, file=sys.stderr)
    return metrics


def _check_enough(line: Line, data: str, rule: Rule, *, scored: bool, executed: bool) -> None:
    given = line.given
    has_scores = scored or given.scores is not None or given.step_scores is not None
    missing = None
    if rule.how != "vote" and not has_scores:
        missing = f"--choose {rule.how} needs scores: give --model, or 'scores' in every candidate"
    elif rule.how != "best" and not executed and given.results is None:
        missing = f"--choose {rule.how} needs results: give --databases, or 'results' in every line"
    elif rule.drop_failing and not executed and given.results is None:
        missing = "--drop-failing needs results: give --databases, or 'results' in every line"
    elif rule.drop_empty and not executed and given.n_rows is None:
        missing = "--drop-empty needs results: give --databases, or 'n_rows' in every line"
    if missing:
        raise InputError(missing, file=str(data), line=line.number)


def _fingerprint(questions: Sequence[Asked], databases: str | None) -> dict[str, str]:
    if databases is not None:
        return fingerprint(questions)
    digest = hashlib.sha256()
    for asked in questions:
        digest.update(repr(asked).encode())
    return {"questions": digest.hexdigest()[:16]}


def _state_of(model: str) -> list[Any]:
    """What tells a checkpoint from one that was trained anew under its name."""
    files = sorted(Path(model).rglob("*")) if os.path.isdir(model) else []
    states = [(str(f.relative_to(model)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return [model, *states]


def _work(
    lines: Sequence[Line],
    journal: Journal,
    models: Sequence[str],
    workers: int,
    timeout: float,
    loading: dict[str, Any],
) -> None:
    """Run, cut and score what the journal does not hold yet, and put it there."""
    todo = [(i, line.asked) for i, line in enumerate(lines) if str(i) not in journal]
    if len(journal):
        n = f"{len(journal)} of {len(lines)}"
        print(f"prm: {n} questions are done already: going on", file=sys.stderr)
    scorer = None
    if models and todo:
        from prm.inference.scoring import load_scorer

        scorer = load_scorer(models, **loading)
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    each = each_finished(partial(Preparer, timeout), chunks, min(workers, len(chunks)) or 1)
    schemaless = 0
    with contextlib.closing(each), progress("questions", len(lines), len(journal)) as advance:
        for done in each:
            asked = [(lines[i].asked, prepared) for i, prepared in done]
            schemaless += sum(prepared.schema is None and one.prompt is None for one, prepared in asked)
            rows = score_prepared(scorer, asked) if scorer is not None else [None] * len(done)
            for (i, prepared), step_scores in zip(done, rows, strict=True):
                found = asdict(prepared)
                del found["texts"], found["schema"]  # the model has read them
                journal.add(str(i), found | {"step_scores": step_scores})
            advance(len(done))
    if schemaless and scorer is not None:
        print(
            f"prm: {schemaless} questions have no schema, so that the model read the question alone; give "
            "--databases, or 'schema' in every line",
            file=sys.stderr,
        )


def _judged(line: Line, journal: Journal, key: str, rule: Rule) -> Judged:
    """All that is known of a line's candidates, and the choice."""
    given: Given = line.given
    found: dict[str, Any] = {}
    if key in journal:
        found = journal[key]
    step_scores = found.get("step_scores") or given.step_scores
    scores = given.scores
    if step_scores is not None:
        scores = [None if steps is None else aggregate_scores(steps, rule.aggregate) for steps in step_scores]
    executed = found.get("results") is not None
    source: Any = found if executed else asdict(given)
    gold = found.get("gold") if executed else None
    level = hardness(line.asked.gold_sql) if line.asked.gold_sql else None
    return Judged(
        chosen=choose(
            scores, source["results"], how=rule.how, votes=line.asked.votes, n_rows=source["n_rows"],
            drop_failing=rule.drop_failing, drop_empty=rule.drop_empty,
        ),
        step_scores=step_scores,
        scores=scores,
        results=source["results"],
        n_rows=source["n_rows"],
        votes=list(line.asked.votes),
        correct=source["correct"] if not gold else None,
        gold=gold,
        hardness=level,
    )  # fmt: skip


def _written(row: dict[str, Any], judged: Judged) -> dict[str, Any]:
    row = dict(row) | {"chosen": judged.chosen}
    for name in ("scores", "results", "n_rows", "correct"):
        row.pop(name, None)
        if getattr(judged, name) is not None:
            row[name] = getattr(judged, name)
    if judged.step_scores is not None:
        row["candidates"] = [
            candidate | {"scores": steps}
            for candidate, steps in zip(row["candidates"], judged.step_scores, strict=True)
        ]
    return row


def _measured(
    lines: Sequence[Line],
    judged: Sequence[Judged],
    rule: Rule,
    file: Path,
    about: dict[str, Any],
    seed: int,
) -> dict[str, Any] | None:
    """Metrics, report and closing words."""
    console = Console(highlight=False)
    n = sum(len(each.votes) for each in judged)
    moved = sum(each.chosen != 0 for each in judged)
    words = f"{n:,} candidates of {len(lines):,} questions; another than the first is chosen for {moved:,}"
    console.print(Text(f"{words} -> {file}"), soft_wrap=True)
    if all(each.correct is None for each in judged):
        if any(line.asked.gold_sql for line in lines) and about["models"]:
            console.print(Text("no accuracy: gold SQL is compared where --databases is given"))
        return None
    metrics = about | asdict(rule) | measure(judged, rule, seed=seed)
    shown = changed_choices([line.row for line in lines], judged, rule)
    with atomic_write(f"{file}.html") as handle:
        handle.write(render(metrics, shown))
    with atomic_write(f"{file}.metrics.json") as handle:
        json.dump(metrics, handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")
    console.print(accuracy_table(metrics), difference_table(metrics))
    for suffix in (".metrics.json", ".html"):
        console.print(Text(f"{file}{suffix}"), soft_wrap=True)
    return metrics
