"""Decomposition measured: how many queries become chains with the query's own result, and of how many steps.

    python benchmarks/decomposition.py --spider SPIDER_FOLDER train dev
    python benchmarks/decomposition.py --questions QUESTIONS.jsonl --databases DIR [--key sql]
    python benchmarks/decomposition.py --plans PLANS.jsonl --databases DIR

`--spider` reads Spider's own layout (`database/<db>/<db>.sqlite`, `train_spider.json`, `dev.json`);
`--questions` reads lines with `db_id` and the query under `--key`, gold or written by models; `--plans` reads
lines with `db_id`, `sql` and the plan of a person or another program as `n_steps`, and compares the numbers
of steps. Queries that are the same on the same database are measured once (`--distinct`) or as often as they
are there.

A query counts as runnable if it runs within `--timeout` seconds. Its chain is right if it gives the same
result (in order where the query orders, see `prm.sql.compare`); where the query gives no rows that says
little, so those are counted apart. Every chain that is not right is listed with the reason:

    undetermined   the query itself has several results: another one comes when SQLite visits unordered rows
                   backwards, or when ties in ORDER BY are broken otherwise
    refused        not one SELECT that the parser reads
    fails          the chain does not run
    slow           the chain takes longer than the timeout
    order          the same rows in another order
    rows           other rows
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp

from prm.sql.compare import is_ordered, results_equal
from prm.sql.database import SQLError, database_uri, open_database
from prm.sql.decompose import DecomposeError, SQLStep, assemble, decompose, to_sql
from prm.sql.schema import read_schema


@dataclass(frozen=True)
class Case:
    """One query on one database; `plan` is the number of steps somebody else took."""

    database: Path
    sql: str
    plan: int | None = None


@dataclass
class Outcome:
    """`reason` says why the chain is not right ("" where it is); `steps` is empty where there is none."""

    case: Case
    steps: list[SQLStep]
    reason: str
    empty: bool = False
    detail: str = ""


def spider_cases(root: Path, split: str) -> list[Case]:
    name = {"train": "train_spider.json"}.get(split, f"{split}.json")
    entries = json.loads((root / name).read_text(encoding="utf-8"))
    return [Case(_database(root / "database", entry["db_id"]), entry["query"]) for entry in entries]


def line_cases(file: Path, databases: Path, key: str) -> list[Case]:
    with file.open(encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines if line.strip()]
    return [Case(_database(databases, entry["db_id"]), entry[key], entry.get("n_steps")) for entry in entries]


def _database(folder: Path, name: str) -> Path:
    inner = folder / name / f"{name}.sqlite"
    return inner if inner.exists() else folder / f"{name}.sqlite"


def measure(cases: Iterable[Case], timeout: float) -> Iterator[Outcome]:
    """The outcome of every runnable case, database by database."""
    for path in sorted({case.database for case in cases}):
        columns = {table.name: [c.name for c in table.columns] for table in read_schema(path).tables}
        with open_database(path, timeout=timeout) as database:
            for case in (case for case in cases if case.database == path):
                try:
                    gold = database.execute(case.sql)
                except SQLError:
                    continue
                steps: list[SQLStep] = []
                try:
                    steps = decompose(case.sql, columns)
                    rows = database.execute(assemble([step.sql for step in steps]))
                    reason, detail = _difference(case.sql, gold, rows), ""
                except DecomposeError as error:
                    reason, detail = "refused", str(error)
                except SQLError as error:
                    reason, detail = "slow" if error.kind == "timeout" else "fails", str(error)
                if reason in ("order", "rows") and not determined(path, case.sql):
                    reason = "undetermined"
                yield Outcome(case, steps, reason, not gold, detail)


def _difference(sql: str, gold: list, rows: list) -> str:
    if results_equal(gold, rows, ordered=is_ordered(sql)):
        return ""
    return "order" if results_equal(gold, rows, ordered=False) else "rows"


def determined(path: Path, sql: str) -> bool:
    """Whether the query has one result, whatever SQLite does where the query leaves the order open.

    It is run with unordered rows visited backwards, and with ties of every ORDER BY broken either way.
    """
    results = []
    for statement, reverse in (
        (sql, "OFF"),
        (sql, "ON"),
        (_ties(sql, False), "OFF"),
        (_ties(sql, True), "OFF"),
    ):
        with closing(sqlite3.connect(database_uri(path), uri=True)) as connection:
            connection.text_factory = lambda value: value.decode("utf-8", "replace")
            connection.execute(f"PRAGMA reverse_unordered_selects = {reverse}")
            with suppress(sqlite3.Error):  # a tie-break that a SELECT DISTINCT does not allow
                results.append(connection.execute(statement).fetchall())
    return all(results_equal(results[0], other, ordered=is_ordered(sql)) for other in results[1:])


def _ties(sql: str, descending: bool) -> str:
    """The query with its groups, or its output columns, as the last terms of every ORDER BY."""
    tree = sqlglot.parse_one(sql, dialect="sqlite")
    for order in tree.find_all(exp.Order):
        select = order.parent
        if isinstance(select, exp.Select):
            group = select.args.get("group")
            terms = group.expressions if group else [e.unalias() for e in select.expressions if not e.is_star]
            for term in terms:
                order.append("expressions", exp.Ordered(this=term.copy(), desc=descending))
    return to_sql(tree)


def decompose_rate(cases: list[Case]) -> float:
    """Queries that one process takes apart in a second of processor time, without running anything."""
    columns = {
        path: {table.name: [c.name for c in table.columns] for table in read_schema(path).tables}
        for path in {case.database for case in cases}
    }
    start = time.process_time()
    for case in cases:
        with suppress(DecomposeError):
            decompose(case.sql, columns[case.database])
    return len(cases) / (time.process_time() - start)


def summarise(outcomes: list[Outcome]) -> dict[str, Any]:
    rows = [o for o in outcomes if not o.empty]
    right = [o for o in outcomes if not o.reason]
    sizes = Counter(len(o.steps) for o in right)
    summary: dict[str, Any] = {
        "runnable": len(outcomes),
        "right": _share(len(right), len(outcomes)),
        "right, where there are rows": _share(sum(not o.reason for o in rows), len(rows)),
        "right, where the result is determined": _share(
            len(right), sum(o.reason != "undetermined" for o in outcomes)
        ),
        "not right, by reason": dict(Counter(o.reason for o in outcomes if o.reason).most_common()),
        "wrapped whole in one CTE": sum(wrapped(o.steps) for o in outcomes),
        "steps, median": statistics.median(len(o.steps) for o in right) if right else None,
        "steps, distribution": {n: round(sizes[n] / len(right), 3) for n in sorted(sizes)},
    }
    planned = [o for o in outcomes if o.case.plan is not None]
    if planned:
        away = Counter(len(o.steps) - o.case.plan for o in planned)
        summary["within one step of the plan"] = _share(sum(away[d] for d in (-1, 0, 1)), len(planned))
        summary["steps more than the plan"] = {d: away[d] for d in sorted(away)}
    return summary


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} = {part / whole:.1%}" if whole else "none"


def wrapped(steps: list[SQLStep]) -> bool:
    """Whether the answer only reads one step as it is: a query put into a CTE is not taken apart."""
    if len(steps) < 2:
        return False
    final, last = steps[-1].sql, steps[-2].name
    return len(steps) == 2 and final.startswith("SELECT") and final == f"SELECT * FROM {last}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spider", nargs="+", metavar=("FOLDER", "SPLIT"))
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--plans", type=Path)
    parser.add_argument("--databases", type=Path)
    parser.add_argument("--key", default="sql", help="key of the query in --questions (default: sql)")
    parser.add_argument("--distinct", action="store_true", help="measure equal queries once")
    parser.add_argument("--every", type=int, default=1, help="measure one query in so many")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds a statement (default: 10)")
    parser.add_argument("--output", type=Path, help="write every chain that is not right here, as JSONL")
    given = parser.parse_args(arguments)
    sets: dict[str, list[Case]] = {}
    if given.spider:
        root, splits = Path(given.spider[0]), given.spider[1:] or ["train", "dev"]
        sets |= {f"spider {split}": spider_cases(root, split) for split in splits}
    for file in (given.questions, given.plans):
        if file is not None:
            sets[file.stem] = line_cases(file, given.databases, given.key)
    if not sets:
        parser.error("nothing to measure: --spider, --questions or --plans")
    failures = []
    for name, cases in sets.items():
        cases = list(dict.fromkeys(cases)) if given.distinct else cases
        cases = cases[:: given.every]
        start = time.perf_counter()
        outcomes = list(measure(cases, given.timeout))
        seconds = time.perf_counter() - start
        summary = {"queries": len(cases), **summarise(outcomes)}
        summary["queries a processor second, taken apart"] = round(decompose_rate(cases), 1)
        summary["queries a second, run, taken apart, and run again"] = round(len(cases) / seconds, 1)
        print(f"## {name}", *(f"{key}: {value}" for key, value in summary.items()), "", sep="\n", flush=True)
        failures += [(name, outcome) for outcome in outcomes if outcome.reason]
    if given.output:
        with given.output.open("w", encoding="utf-8") as file:
            for name, o in failures:
                line = {"set": name, "db": o.case.database.stem, "reason": o.reason, "detail": o.detail}
                line |= {"sql": o.case.sql, "steps": [step.sql for step in o.steps]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
