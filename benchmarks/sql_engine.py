"""Queries and labelled traces per second beside a plain loop over `sqlite3`, on a data set's gold queries.

    python benchmarks/sql_engine.py --root DIR [--split dev] [--layout spider] [--repeat 3] [--questions 500]

The plain loop opens each database once, runs every query and fetches its rows: no time limit, no memory
limit, one process. The engine does the same through killable workers with all of its limits, uncached and
(last line) with what it remembers. Queries that fail or outlive their time are left out of all measurements
beforehand. Prints a markdown table; the best of the repetitions counts, as other programs disturb single
ones. Processor time (of this process, and of the workers) is less disturbed by them than the clock is.

With `--questions N`, `prm build` makes the traces of the first N questions, with one worker and with two, and
a second table says how many come in a second.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing

from prm.labeling.build import build, read_questions
from prm.sql.database import database_uri, open_database
from prm.sql.pool import DatabasePool
from prm.sql.results import SQLError

Job = tuple[str, str]  # path of the database, SQL


def plain(jobs: list[Job]) -> list[list[tuple]]:
    connections, results = {}, []
    for path, sql in jobs:
        if path not in connections:
            connections[path] = sqlite3.connect(database_uri(path), uri=True)
            connections[path].text_factory = lambda raw: raw.decode("utf-8", "replace")
        results.append(connections[path].execute(sql).fetchall())
    for connection in connections.values():
        connection.close()
    return results


def engine(jobs: list[Job], workers: int, at_once: int, cache: bool = False) -> list[list[tuple]]:
    results = []
    with DatabasePool(workers) as pool:
        databases = {path: open_database(path, pool=pool, cache=cache) for path in {path for path, _ in jobs}}
        for i in range(0, len(jobs), at_once):
            results += pool.execute_all([(databases[path], sql) for path, sql in jobs[i : i + at_once]])
    return results


def usable(jobs: list[Job]) -> tuple[list[Job], int]:
    """The jobs that give rows, and how many do not."""
    with closing(DatabasePool(1)) as pool:
        databases = {path: open_database(path, pool=pool, cache=False) for path in {path for path, _ in jobs}}
        results = pool.execute_all([(databases[path], sql) for path, sql in jobs])
    good = [job for job, result in zip(jobs, results, strict=True) if not isinstance(result, SQLError)]
    return good, len(jobs) - len(good)


def processor_times() -> tuple[float, float]:
    """Seconds that this process has used, and those of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    mine, theirs = (usage.ru_utime + usage.ru_stime for usage in used)
    return mine, theirs


def traces(args: argparse.Namespace, workers: int) -> tuple[int, int, float]:
    """Questions, traces and seconds of `prm build`."""
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/traces.jsonl"
        start = time.perf_counter()
        made = build(args.layout, args.root, args.split, output, workers=workers, limit=args.questions)
        return made["questions"], made["traces"], time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", required=True, help="the data set's folder")
    parser.add_argument("--layout", default="spider", choices=["spider", "bird"])
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int, help="only the first questions")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--questions", type=int, help="also build traces, of so many questions")
    args = parser.parse_args()
    questions = read_questions(args.layout, args.root, args.split)[: args.limit]
    jobs, left_out = usable([(str(question.database), question.sql) for question in questions])
    ways: list[tuple[str, Callable[[], list]]] = [
        ("plain `sqlite3` loop, one process", lambda: plain(jobs)),
        ("engine, 1 worker, one statement at a time", lambda: engine(jobs, 1, 1)),
        ("engine, 1 worker", lambda: engine(jobs, 1, 1000)),
        ("engine, 2 workers", lambda: engine(jobs, 2, 1000)),
        ("engine, remembered results", lambda: engine(jobs, 1, 1000, cache=True)),
    ]
    expected = plain(jobs)
    found = [(float("inf"), 0.0, 0.0)] * len(ways)  # seconds, processor seconds here and of the workers
    for _ in range(args.repeat):  # in turn, so that no way has the quiet minutes for itself
        for i, (name, way) in enumerate(ways):
            start, before = time.perf_counter(), processor_times()
            results = way()
            seconds, after = time.perf_counter() - start, processor_times()
            found[i] = min(found[i], (seconds, after[0] - before[0], after[1] - before[1]))
            if results != expected:
                sys.exit(f"{name}: not the results of the plain loop")
    n = len(jobs)
    print(f"{n} gold queries of {args.split} ({left_out} left out), best of {args.repeat}\n")
    print("| | queries/s | of the plain loop | processor µs a query: here | in workers |")
    print("|---|---:|---:|---:|---:|")
    for (name, _), (seconds, here, there) in zip(ways, found, strict=True):
        share = found[0][0] / seconds
        print(f"| {name} | {n / seconds:,.0f} | {share:.2f} | {1e6 * here / n:.0f} | {1e6 * there / n:.0f} |")
    if args.questions:
        print("\n| `prm build` | questions | traces | questions/s | traces/s |\n|---|---:|---:|---:|---:|")
        built = {1: (0, 0, float("inf")), 2: (0, 0, float("inf"))}
        for _ in range(args.repeat):
            for workers, best in built.items():
                built[workers] = min(best, traces(args, workers), key=lambda made: made[2])
        for workers, (asked, made, seconds) in built.items():
            row = f"{asked:,} | {made:,} | {asked / seconds:.0f} | {made / seconds:.0f}"
            print(f"| {workers} worker{'s' * (workers > 1)} | {row} |")


if __name__ == "__main__":
    main()
