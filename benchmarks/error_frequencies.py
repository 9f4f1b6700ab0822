"""How often real wrong answers go wrong how: the tables at the end of `prm.labeling.chains`.

`FREQUENCIES` and `ERRORS_PER_ANSWER` come from two sources, neither of which is part of this project:

- the annotations of NL2SQL-BUGs (Liu et al. 2025): people named the types of error in wrong SQL of models for
  BIRD's questions, by a taxonomy of 31 subtypes. They give the weight of every subtype, and how many errors
  stand in one answer. All of that SQL runs.
- what systems answered for Spider's dev questions, with whether it was right: a JSONL file with `id`
  (`dev_0007`), `sql`, `exec` ("ok" or the database's message), `correct`. The messages give the weights of
  the kinds of error that do not run. And where several of our categories share a subtype, the clauses in
  which wrong answers differ from gold say how the subtype's weight is divided among them.

`REACH` says in how many steps a kind of error is possible at all, tried on every n-th train question of
Spider.

    python benchmarks/error_frequencies.py --bugs nl2sql_bugs.jsonl --answers predictions_dev.jsonl \
        --gold dev.json --root SPIDER

prints the tables as Python.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import sqlglot
from sqlglot import exp

from prm.labeling.build import _Skip as Skip
from prm.labeling.build import _Workplace as Workplace
from prm.labeling.build import right_chain
from prm.labeling.chains import Errors, Mill
from prm.sql.database import DatabasePool
from prm.sql.decompose import to_sql
from prm.sql.mutate import CATEGORIES, FAILING
from prm.traces.questions import read_questions

#: What the database says -> category; the first pattern that matches. Broken syntax has no category: a step
#: is made from a syntax tree.
MESSAGES = {
    "ambiguous column name": "ambiguous_column",
    "no such column": "unknown_column",
    "no such table": "unknown_table",
    "no such function": "unknown_function",
    "misuse of aggregate": "aggregate_misuse",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bugs", type=Path, required=True, help="NL2SQL-BUGs as JSONL with error_types")
    parser.add_argument("--answers", type=Path, required=True, help="JSONL with id, sql, exec, correct")
    parser.add_argument("--gold", type=Path, required=True, help="the questions: a list with id and query")
    parser.add_argument("--root", type=Path, required=True, help="Spider's folder")
    parser.add_argument("--every", type=int, default=20, help="which train questions are tried")
    args = parser.parse_args()
    bugs = rows(args.bugs)
    gold = {row["id"]: row["query"] for row in json.loads(args.gold.read_text(encoding="utf-8"))}
    wrong = [row for row in rows(args.answers) if not row["correct"]]
    subtypes = Counter((e["error_type"], e["sub_error_type"]) for row in bugs for e in row["error_types"])
    annotated = Counter(len(row["error_types"]) for row in bugs if row["error_types"])
    failed, signs = Counter(), Counter()
    for row in wrong:
        if row["exec"] == "ok":
            signs.update(differences(gold[row["id"]], row["sql"]))
        else:
            failed.update(name for said, name in MESSAGES.items() if said in row["exec"])
    share = failed.total() / len(wrong)
    print(
        f"# {len(wrong)} wrong answers, {failed.total()} do not run (broken syntax not counted): {share:.3f}"
    )
    print(f"# {subtypes.total()} annotations of {annotated.total()} wrong answers")
    weights = {}
    for name, kind in CATEGORIES.items():
        if name in FAILING:
            alike, n, whole = FAILING, failed, share
        else:
            alike = {other for other, k in CATEGORIES.items() if k == kind and other not in FAILING}
            n, whole = signs, (1 - share) * subtypes[kind] / subtypes.total()
        # Add one: what was never seen here is seen elsewhere.
        weights[name] = whole * (n[name] + 1) / sum(n[other] + 1 for other in alike)
    print("FREQUENCIES = {")
    for name, weight in weights.items():
        print(f'    "{name}": {100 * weight:.2f},')
    print("}\nERRORS_PER_ANSWER =", dict(sorted(annotated.items())))
    print("REACH =", reach(args.root, args.every))


def reach(root: Path, every: int) -> dict[str, float]:
    """Share of the steps in which one of the first four variants of a category makes a wrong chain."""
    steps, found = 0, Counter()
    places: dict[Path | str, Workplace] = {}
    pool, folder = DatabasePool(1), TemporaryDirectory()
    for question in read_questions("spider", root, "train")[::every]:
        place = places.get(question.database)
        if place is None:
            place = places[question.database] = Workplace(question.database, 5.0, pool, folder.name)
        try:
            first, rows = right_chain(question, place)
        except Skip:
            continue
        with place.grounds(question.sql, rows, seed=0) as grounds:
            mill = Mill([first], grounds, place.known, Random(0), Errors())
            for at in range(len(first.links)):
                steps += 1
                for category in CATEGORIES:
                    mill.tries = 4
                    found[category] += mill.next(0, at, category) is not None
    pool.close()
    folder.cleanup()
    return {category: round(found[category] / steps, 2) for category in CATEGORIES}


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def differences(gold_sql: str, sql: str) -> set[str]:
    """The categories that tell a wrong answer's clauses from gold's; none where it cannot be parsed."""
    try:
        gold, other = (clauses(sqlglot.parse_one(text, dialect="sqlite")) for text in (gold_sql, sql))
    except sqlglot.errors.SqlglotError:
        return set()
    found = {name for name in ("group", "order", "limit") if gold[name] != other[name]}
    named = set()
    for name in found:
        if not other[name]:
            named.add(f"{name}_missing")
        elif not gold[name]:
            named.add(f"{name}_extra")
        elif name == "group":
            longer = other[name] > gold[name]
            named.add("group_extra" if longer else "group_key")
        elif name == "order":
            named.add("order_direction" if other["order keys"] == gold["order keys"] else "order_key")
        else:
            named.add("limit")
    if gold["shown"] != other["shown"]:
        sizes = gold["shown"].total(), other["shown"].total()
        named.add(
            "column" if sizes[0] == sizes[1] else "missing_column" if sizes[0] > sizes[1] else "extra_column"
        )
    for name in ("like_pattern", "having", "logic", "negation", "condition_column", "rounding", "arithmetic"):
        if gold[name] != other[name]:
            named.add(name)
    if gold["value"] != other["value"] and gold["value"].total() == other["value"].total():
        named.add("value")
    return named & set(CATEGORIES)


def clauses(tree: exp.Expression) -> dict[str, Counter[str]]:
    """What stands in each clause, as multisets of texts without table names, case and aliases."""
    for node in tree.find_all(exp.Column):
        node.set("table", None)
    selects = list(tree.find_all(exp.Select))

    def texts(nodes: Iterator[exp.Expression] | list[exp.Expression]) -> Counter[str]:
        return Counter(re.sub(r"\s+", " ", to_sql(node)).lower() for node in nodes)

    def inside(kind: type[exp.Expression], *wanted: type[exp.Expression]) -> list[exp.Expression]:
        return [node for clause in tree.find_all(kind) for node in clause.find_all(*wanted)]

    keys = [key for order in tree.find_all(exp.Order) for key in order.expressions]
    likes = [like.expression for like in tree.find_all(exp.Like)]
    comparisons = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
    return {
        "shown": texts([p.unalias() for p in selects[0].expressions]),
        "group": texts([key for group in tree.find_all(exp.Group) for key in group.expressions]),
        "order": texts(keys),
        "order keys": texts([key.this for key in keys]),
        "limit": texts(list(tree.find_all(exp.Limit))),
        "like_pattern": texts(likes),
        "value": texts([n for n in inside(exp.Where, exp.Literal) if not any(n is like for like in likes)]),
        "having": texts(list(tree.find_all(exp.Having))),
        "logic": Counter(type(n).__name__ for n in inside(exp.Where, exp.Or)),
        "negation": Counter(type(n).__name__ for n in inside(exp.Where, exp.Not)),
        "condition_column": texts(
            [
                n.this
                for n in inside(exp.Where, *comparisons, exp.Like, exp.Between)
                if isinstance(n.this, exp.Column)
            ]
        ),
        "rounding": texts(list(tree.find_all(exp.Round, exp.Abs))),
        "arithmetic": texts(list(tree.find_all(exp.Add, exp.Sub, exp.Mul, exp.Div))),
    }


if __name__ == "__main__":
    main()
