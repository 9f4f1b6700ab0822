"""`prm decode`: the questions of a file answered by a policy that a PRM guides, and what came of it.

`prm.inference.search` searches; here are the files. Lines of candidates come out, in the order of the
questions, with `chosen`, `scores` (one a candidate) and the PRM's `scores` of each candidate's steps, so that
`prm rerank` and `prm label` read them. What the policy wrote and the questions that are finished are kept in
`<output>.journal`: the same command goes on where a killed one stopped, and nothing is paid for twice.

With gold SQL and databases the accuracy is reported as search-and-learn does, over the first 1, 2, 4 … n
candidates of each question: *naive* takes the best score, *majority* the result that most of them have,
*weighted* the result with the largest sum of scores; beside them the share of questions with any right
candidate.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from prm import __version__
from prm.errors import InputError
from prm.evaluation.search_report import render
from prm.inference.choosing import Choose, choose
from prm.inference.policies import PROMPT_FORM_VERSION, Policy
from prm.inference.reranking import result_classes
from prm.inference.search import PRM, Found, Plan, Task, search
from prm.jobs.journal import Journal
from prm.jobs.progress import progress
from prm.labeling.cards import write_statistics
from prm.sql.compare import is_ordered
from prm.sql.database import Database, DatabasePool, Rows, SQLError, open_steadily
from prm.sql.schema import Schema, read_schema, schema_text
from prm.traces.formats import Tally, atomic_write, rows_of
from prm.traces.provenance import output_file
from prm.traces.questions import Question, find_database
from prm.traces.trace import Trace

Row = dict[str, Any]
#: What a line of traces says of its question; the rest is of its answer.
_OF_QUESTION = ("question", "group", "db_id", "schema", "evidence", "gold_sql", "prompt", "policy_prompt")
#: What earlier choices have left in a line of candidates.
_OF_CHOICE = ("candidates", "chosen", "scores", "results", "n_rows", "correct", "spent")
VOTES: dict[str, Choose] = {"naive": "best", "majority": "vote", "weighted": "weighted-vote"}


@dataclass(frozen=True)
class Asked:
    """A question: its line as it is written back, and the database that it is about, None where there is
    none."""

    row: Row
    database: Path | str | None

    @property
    def about(self) -> Trace:
        """What the PRM reads of it."""
        row = self.row
        group = row.get("group") or row.get("id")
        extra = {"prompt": row["prompt"]} if row.get("prompt") else {}
        return Trace(
            row["question"], [], group=group, db_id=row.get("db_id"), schema=row.get("schema"),
            evidence=row.get("evidence"), extra=extra,
        )  # fmt: skip


# --- questions ----------------------------------------------------------------------------------------------


def read_questions_file(
    data: Sequence[str], databases: str | None, *, on_bad_rows: str = "stop", limit: int | None = None
) -> list[Asked]:
    """The questions of files: a question a line, with or without candidates, or traces, whose questions count
    once each. `policy_prompt` in a line is what the policy reads, verbatim; `prompt` what the PRM reads.

    Raises:
        InputError: a file or database is missing, no question is there, or (with "stop") a line is malformed.
    """
    if databases is not None and not Path(databases).is_dir():
        raise InputError("no such folder; --databases is the data set's folder", file=databases)
    asked: list[Asked] = []
    seen: set[str] = set()
    tally = Tally()
    for file in data:
        for line, row in rows_of(file):
            if limit is not None and len(asked) >= limit:
                break
            tally.rows += 1
            try:
                if isinstance(row, InputError):
                    raise row
                of_trace = isinstance(row, dict) and "steps" in row
                one = _question(row, databases)
                key = one.about.question_key
                if of_trace and key in seen:
                    continue
                seen.add(key)
                asked.append(one)
            except InputError as error:
                if on_bad_rows == "stop":
                    raise InputError(str(error), file=file, line=line) from None
                tally.skip(error, file, line)
    for told in tally.report():
        print(told, file=sys.stderr)
    if not asked:
        raise InputError("holds no questions", file=", ".join(data))
    return asked


def _question(row: Any, databases: str | None) -> Asked:
    if not isinstance(row, dict):
        raise InputError("a question is a JSON object with at least 'question'")
    kept = _OF_QUESTION if "steps" in row else [key for key in row if key not in _OF_CHOICE]
    of_trace, row = "steps" in row, {key: row[key] for key in kept if row.get(key) is not None}
    for key in ("id", "group"):
        if isinstance(row.get(key), int) and not isinstance(row[key], bool):
            row[key] = str(row[key])
    for key in (*_OF_QUESTION, "id"):
        if key in row and not isinstance(row[key], str):
            raise InputError(f"'{key}' must be a text")
    if not row.get("question", "").strip():
        raise InputError("'question' must be a non-empty text")
    if of_trace and "group" in row:
        row = {"id": row["group"]} | row
    if databases is None:
        return Asked(row, None)
    if "db_id" not in row:
        raise InputError("has no 'db_id', which --databases needs")
    return Asked(row, find_database(databases, row["db_id"]))


def of_layout(questions: Sequence[Question]) -> list[Asked]:
    """The questions of a data set (`prm.traces.questions`)."""
    asked = []
    for q in questions:
        row: Row = {"id": q.id, "question": q.question, "db_id": q.db_id}
        row |= {"evidence": q.evidence, "gold_sql": q.sql}
        asked.append(Asked({key: value for key, value in row.items() if value is not None}, q.database))
    return asked


# --- the run ------------------------------------------------------------------------------------------------


def decode(
    questions: Sequence[Asked],
    policy: Policy,
    prm: PRM,
    output: str | Path,
    plan: Plan,
    *,
    prm_name: str,
    trees: str | Path | None = None,
    report: str | Path | None = None,
    timeout: float = 5.0,
    price: tuple[float, float] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Answer every question and write the lines to `output`, statistics to `<output>.stats.json`, a data card
    to `<output>.md`, and, if asked for, the search trees (a JSON object a line) and a report of one HTML
    file. Returns the statistics.

    Args:
        prm_name: what the lines and the statistics call the PRM.
        timeout: seconds that one statement may run.
        price: of a million prompt tokens and a million new tokens of the policy.
        command: the line that was typed.

    Raises:
        InputError: the output cannot be written, the policy fails for good, or no question has any answer.
    """
    if not timeout > 0:
        raise InputError("--timeout must be more than 0 seconds")
    output = output_file(output, lines_only=True)
    for other in (trees, report):
        if other is not None:
            output_file(other)
    settings = policy.settings() | dataclasses.asdict(plan)
    settings |= {"prm": prm_name, "prompt": PROMPT_FORM_VERSION, "sql_timeout": timeout}
    settings["databases"] = any(one.database is not None for one in questions)
    began = time.monotonic()
    with Journal(f"{output}.journal", "decode", settings, paid=True) as journal, DatabasePool(2) as pool:
        databases = _Databases(pool, timeout)
        lines = _found(questions, policy, prm, plan, journal, databases)
        statistics: dict[str, Any] = {
            "method": plan.method, "policy": policy.settings()["policy"], "prm": prm_name,
            "plan": dataclasses.asdict(plan), "questions": len(questions), "version": __version__,
            "command": command,
        }  # fmt: skip
        statistics |= _costs([line["spent"] for line in lines], price)
        answered = [line for line in lines if line["candidates"]]
        statistics["answered"] = sum(line["failed"] is None for line in lines)
        statistics["failed"] = dict(
            Counter(line["failed"] for line in lines if line["failed"]).most_common(20)
        )
        statistics |= accuracies(questions, lines, databases, plan.n)
        statistics["seconds"] = round(time.monotonic() - began, 1)
        if not answered:
            write_statistics(statistics, output)
            why = next(iter(statistics["failed"]), "no questions")
            raise InputError(f"no question has an answer ({why}), so nothing was written")
        with atomic_write(output) as handle:
            for one, line in zip(questions, lines, strict=True):
                if line["candidates"]:
                    handle.write(_json(one.row | _written(line)) + "\n")
        drawn = [
            {"id": one.row.get("id"), "question": one.row["question"], "failed": line["failed"]}
            | line["tree"]
            for one, line in zip(questions, lines, strict=True)
        ]
        if trees is not None:
            with atomic_write(trees) as handle:
                handle.writelines(_json(tree) + "\n" for tree in drawn)
        if report is not None:
            with atomic_write(report) as handle:
                handle.write(render(statistics, drawn))
        write_statistics(statistics, output)
        with atomic_write(f"{output}.md") as handle:
            handle.write(card(statistics, output))
    _show(statistics, output, trees, report)
    return statistics


def _written(line: Row) -> Row:
    """What the output says of a question's answers."""
    names = ("candidates", "chosen", "scores", "spent", *(["correct"] if "correct" in line else []))
    return {name: line[name] for name in names}


def _found(
    questions: Sequence[Asked],
    policy: Policy,
    prm: PRM,
    plan: Plan,
    journal: Journal,
    databases: _Databases,
) -> list[Row]:
    """What was found for every question, in their order; those that the journal has are not searched
    again."""
    keys = [sha256(_json(one.row).encode()).hexdigest()[:32] + f"-{i}" for i, one in enumerate(questions)]
    lines: dict[int, Row] = {i: journal[key] for i, key in enumerate(keys) if key in journal}
    todo = [i for i in range(len(questions)) if i not in lines]
    for one in questions:
        if one.row.get("schema") is None and one.database is not None:
            one.row["schema"] = databases.schema(one.database, one.row["question"])
    tasks = [
        Task(questions[i].about, questions[i].row.get("policy_prompt"), databases.open(questions[i].database))
        for i in todo
    ]
    tokens = sum(line["spent"]["tokens"] for line in lines.values())
    with progress("questions", len(questions), done=len(lines)) as advance:
        for k, found in search(tasks, policy, prm, plan, pool=databases.pool, memory=journal):
            line = lines[todo[k]] = _line(found)
            if not found.spent["unanswered"]:
                journal.add(keys[todo[k]], line)
            tokens += found.spent["tokens"]
            advance(so_far=f"{tokens:,} tokens")
    return [lines[i] for i in range(len(questions))]


def _line(found: Found) -> Row:
    return {
        "candidates": [candidate.to_dict() for candidate in found.candidates],
        "chosen": found.chosen,
        "scores": [candidate.value for candidate in found.candidates],
        "spent": found.spent,
        "failed": found.failed,
        "tree": found.tree(),
    }


class _Databases:
    """The databases of the questions, each opened once, all of them read by one pool."""

    def __init__(self, pool: DatabasePool, timeout: float) -> None:
        self.pool, self.timeout = pool, timeout
        self._open: dict[str, Database] = {}
        self._schemas: dict[str, Schema] = {}

    def open(self, path: Path | str | None) -> Database | None:
        if path is None:
            return None
        if str(path) not in self._open:
            self._open[str(path)] = open_steadily(path, timeout=self.timeout, pool=self.pool)
        return self._open[str(path)]

    def schema(self, path: Path | str, question: str) -> str:
        """What a prompt says of the database."""
        if str(path) not in self._schemas:
            self._schemas[str(path)] = read_schema(path)
        return schema_text(self._schemas[str(path)], question)

    def execute(self, path: Path | str, statements: Sequence[str]) -> list[Rows | None]:
        """The rows of each statement, None where it gives none."""
        database = self.open(path)
        assert database is not None
        results = self.pool.execute_all([(database, sql) for sql in statements])
        for result in results:
            if isinstance(result, SQLError) and result.kind == "unavailable":
                raise InputError(str(result), file=str(path))
        return [None if isinstance(result, SQLError) else result for result in results]


# --- what it cost, and what it is worth ---------------------------------------------------------------------


def _costs(spent: Sequence[dict[str, int]], price: tuple[float, float] | None) -> Row:
    totals: Row = {name: sum(one[name] for one in spent) for name in spent[0]}
    totals["tokens_a_question"] = round(totals["tokens"] / len(spent), 1)
    totals["prm_calls_a_question"] = round(totals["prm_calls"] / len(spent), 1)
    cost = None
    if price is not None:
        cost = (totals["prompt_tokens"] * price[0] + totals["tokens"] * price[1]) / 1e6
    return totals | {"cost": cost}


def accuracies(
    questions: Sequence[Asked], lines: Sequence[Row], databases: _Databases, n: int
) -> dict[str, Any]:
    """Execution accuracy of what was chosen and of the votes over the first 1, 2, 4 … n candidates; {} where
    no question has gold SQL and a database. Lines get `correct`, true or false a candidate.

    A question without any candidate counts as wrong; one whose gold does not run, or gives no rows, not at
    all."""
    judged: list[dict[str, list[bool]]] = []
    without = 0
    ks = [k for k in (2**i for i in range(20)) if k < n] + [n]
    for one, line in zip(questions, lines, strict=True):
        gold_sql = one.row.get("gold_sql")
        if not gold_sql or one.database is None:
            continue
        statements = [candidate.get("sql") for candidate in line["candidates"]]
        gold, *rows = databases.execute(one.database, [gold_sql, *(sql or "" for sql in statements)])
        if not gold:
            without += 1
            continue
        golds, *theirs = result_classes([gold, *rows], is_ordered(gold_sql))
        line["correct"] = [one is not None and one == golds for one in theirs]
        running = [sql for sql, its in zip(statements, rows, strict=True) if sql and its is not None]
        results = result_classes(rows, 2 * sum(map(is_ordered, running)) > len(running))  # gold is not asked
        scores = [s if sql else None for s, sql in zip(line["scores"], statements, strict=True)]
        found: dict[str, list[bool]] = {"chosen": [bool(rows) and line["correct"][line["chosen"]]]}
        for name, how in VOTES.items():
            picks = [choose(scores[:k], results[:k], how=how) if rows else None for k in ks]
            found[name] = [pick is not None and line["correct"][pick] for pick in picks]
        found["any"] = [any(line["correct"][:k]) for k in ks]
        judged.append(found)
    if not judged:
        return {"judged": 0, "without_gold_result": without} if without else {}
    table = {name: np.array([one[name] for one in judged], dtype=float) for name in judged[0]}
    shares = {
        name: {str(k): float(column) for k, column in zip(ks, values.mean(0), strict=True)}
        for name, values in table.items()
        if name != "chosen"
    }
    draws = np.random.default_rng(0).integers(len(judged), size=(2000, len(judged)))
    means = table["chosen"][:, 0][draws].mean(1)
    return {
        "judged": len(judged),
        "without_gold_result": without,
        "accuracy": float(table["chosen"].mean()),
        "accuracy_ci": [float(x) for x in np.quantile(means, [0.025, 0.975])],
        "accuracy_at": shares,
    }


# --- to the Hub ---------------------------------------------------------------------------------------------


def push(repo_id: str, output: str | Path, *, private: bool = False) -> str:
    """Put what `decode` has written into a data set on the Hub, with its card; returns its address.

    Raises:
        InputError: no network, no or a wrong token, no right to write there, a bad name.
    """
    from prm.modeling.hub import push_data

    message = "Upload answers by guided decoding"
    address = push_data(Path(output), repo_id, private=private, commit_message=message)
    print(f"pushed -> {address}", file=sys.stderr)
    return address


def card(statistics: Row, output: Path) -> str:
    """The data card: what the lines hold, how they were made, what they are worth."""
    s = statistics
    lines = [
        "---",
        "tags: [text-to-sql, process-reward-model, guided-decoding]",
        f"configs: [{{config_name: default, data_files: {json.dumps(output.name)}}}]",
        "---",
        f"# Answers by guided decoding: {s['method']}",
        f"{s['answered']} questions, each with the candidates that a policy (`{s['policy']}`) wrote, guided "
        f"by a process reward model (`{s['prm']}`): `candidates[].steps` with the PRM's `scores`, `chosen` "
        "(an index), `scores` (one a candidate), `spent`.",
        f"`{s['command'] or 'from Python'}` (nl2sql-prm {s['version']})",
        f"A question took {s['tokens_a_question']} new tokens, and the PRM read {s['prm_calls_a_question']} "
        "steps of it.",
    ]
    if "accuracy" in s:
        names = list(s["accuracy_at"])
        rows = [
            " | ".join([k, *(f"{s['accuracy_at'][name][k]:.3f}" for name in names)])
            for k in s["accuracy_at"]["naive"]
        ]
        head = " | ".join(["n", *names])
        lines.append(
            f"Execution accuracy of what was chosen: {s['accuracy']:.3f} on {s['judged']} questions. Over "
            "the first n candidates, by the best score, by majority of results, by votes weighted with "
            "scores, and whether any is right:\n\n"
            + "\n".join(f"| {row} |" for row in (head, "|".join(["---"] * (len(names) + 1)), *rows))
        )
    return "\n".join(lines[:4]) + "\n\n" + "\n\n".join(lines[4:]) + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _show(statistics: Row, output: Path, trees: Any, report: Any) -> None:
    """The closing statistics on stderr."""
    s = statistics
    cost = "" if s["cost"] is None else f", cost {s['cost']:.2f}"
    each = f"{s['tokens_a_question']:,} new tokens and {s['prm_calls_a_question']:,} steps read by the PRM"
    lines = [
        f"{s['answered']} of {s['questions']} questions answered by {s['method']} -> {output}",
        f"a question {each}; {s['requests']:,} requests, {s['prompt_tokens']:,} prompt tokens, "
        f"{s['seconds']:g} s{cost}",
    ]
    if "accuracy" in s:
        low, high = s["accuracy_ci"]
        lines.append(
            f"execution accuracy {s['accuracy']:.3f} ({low:.3f} – {high:.3f}) on {s['judged']} questions"
        )
        names = list(s["accuracy_at"])
        lines.append("  ".join(["   n", *(f"{name:>8}" for name in names)]))
        for k in s["accuracy_at"]["naive"]:
            lines.append("  ".join([f"{k:>4}", *(f"{s['accuracy_at'][name][k]:8.3f}" for name in names)]))
    lines += [f"without an answer {n}: {why}" for why, n in s["failed"].items()]
    if s["unanswered"]:
        told = "requests got no answer; run the same command again to try them once more"
        lines.append(f"{s['unanswered']} {told}")
    lines += [f"trees -> {trees}"] if trees is not None else []
    lines += [f"report -> {report}"] if report is not None else []
    print("\n".join(lines), file=sys.stderr)
