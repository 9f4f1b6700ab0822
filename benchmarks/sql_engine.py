"""Queries per second of the SQL engine beside a plain loop over `sqlite3`, on the gold queries of a data set.

    python benchmarks/sql_engine.py --root DIR [--split dev] [--layout spider] [--repeat 3]

The plain loop opens each database once, runs every query and fetches its rows: no time limit, no memory
limit, one process. The engine does the same through killable workers with all of its limits, uncached and
(last line) with what it remembers. Queries that fail or outlive their time are left out of all measurements
beforehand. Prints a markdown table; the best of the repetitions counts, as other programs disturb single
ones.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing

from prm.labeling.build import read_questions
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", required=True, help="the data set's folder")
    parser.add_argument("--layout", default="spider", choices=["spider", "bird"])
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int, help="only the first questions")
    parser.add_argument("--repeat", type=int, default=3)
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
    seconds: list[float] = []
    for name, way in ways:
        best = float("inf")
        for _ in range(args.repeat):
            start = time.perf_counter()
            results = way()
            best = min(best, time.perf_counter() - start)
            if results != expected:
                sys.exit(f"{name}: not the results of the plain loop")
        seconds.append(best)
    print(f"{len(jobs)} gold queries of {args.split} ({left_out} left out), best of {args.repeat}\n")
    print("| | queries/s | of the plain loop |\n|---|---:|---:|")
    for (name, _), best in zip(ways, seconds, strict=True):
        print(f"| {name} | {len(jobs) / best:,.0f} | {seconds[0] / best:.2f} |")


if __name__ == "__main__":
    main()
