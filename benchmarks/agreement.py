"""Does our comparison of results agree with a recorded one? A line for every answer where it does not.

    python benchmarks/agreement.py --root SPIDER_FOLDER --predictions FILE.jsonl

`FILE.jsonl` has one answer a line: `{"id", "db_id", "system", "sql", "correct"}`; an answer that does not run
counts as wrong. `SPIDER_FOLDER` has `dev.json` with the same ids, and the databases.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

from prm.sql import Rows, SQLError, is_ordered, open_database, results_equal
from prm.sql.compare import EQUIVALENCES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, type=Path, help="Spider folder")
    parser.add_argument("--predictions", required=True, type=Path)
    args = parser.parse_args()
    gold = {q["id"]: q["query"] for q in json.loads((args.root / "dev.json").read_text())}
    answers = defaultdict(list)
    for line in args.predictions.read_text().splitlines():
        answer = json.loads(line)
        answers[answer["db_id"]].append(answer)
    agree: Counter = Counter()
    differing = []
    for db_id, group in answers.items():
        with open_database(args.root / "database" / db_id / f"{db_id}.sqlite", timeout=20) as database:
            results: dict[str, Rows | SQLError] = {}
            for answer in group:
                wanted = gold[answer["id"]]
                for sql in (wanted, answer["sql"]):
                    if sql not in results:
                        try:
                            results[sql] = database.execute(sql)
                        except SQLError as error:
                            results[sql] = error
                rows, given = results[wanted], results[answer["sql"]]
                for name in EQUIVALENCES:
                    equal = not isinstance(rows, SQLError) and not isinstance(given, SQLError)
                    equal = equal and results_equal(rows, given, ordered=is_ordered(wanted), equivalence=name)
                    agree[name, equal is answer["correct"]] += 1
                    if name == "spider" and equal is not answer["correct"]:
                        differing.append((answer["id"], answer["system"], db_id, answer["correct"], equal))
    print("| equivalence | agree | differ | agreement |\n|---|---|---|---|")
    for name in EQUIVALENCES:
        yes, no = agree[name, True], agree[name, False]
        print(f"| {name} | {yes} | {no} | {yes / (yes + no):.2%} |")
    print("\n| id | system | database | recorded | ours |\n|---|---|---|---|---|")
    for row in differing:
        print("|", " | ".join(map(str, row)), "|")


if __name__ == "__main__":
    main()
