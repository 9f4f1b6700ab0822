"""How many answers are equal to gold by accident, and what unmasks them: the figures of docs/results.md.

    python benchmarks/accidental_equality.py --root SPIDER_FOLDER --predictions FILE.jsonl [--questions 60]

`FILE.jsonl` has one answer a line: `{"id", "db_id", "system", "sql"}`, and if known `variants_ok` and
`variants_n` (on how many copies of the database with rows left out the answer equals gold); `SPIDER_FOLDER`
has `dev.json` with the same ids and the databases. With `--questions N`, a seeded choice of N gold queries.

Every gold query gets a suite distilled against its one-clause neighbours, which then judges the answers that
are equal on the database itself; and, to compare the kinds, every kind alone is set against the same answers.
`--output FILE` takes one line for each answer that was equal and is unmasked, to be read.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from prm.sql import SQLError, open_database
from prm.sql.compare import EQUIVALENCES
from prm.sql.variants import CANDIDATES, KINDS, Suite, neighbours


def measure(root: Path, gold: str, db_id: str, answers: list[dict], counts: Counter) -> list[dict]:
    """Count what becomes of the neighbours and answers of one gold query; the answers that were unmasked."""
    path = root / "database" / db_id / f"{db_id}.sqlite"
    found = []
    with tempfile.TemporaryDirectory() as folder, open_database(path) as database:
        try:
            suite = Suite(database, gold, folder=folder)
        except SQLError:
            counts["gold fails"] += 1
            return []
        slips = neighbours(gold, path)
        start = time.perf_counter()
        alike = [sql for sql in slips if suite.verdict(sql).equal]
        left = suite.distil(slips)
        counts["seconds"] += time.perf_counter() - start
        counts += Counter(
            {"gold": 1, "slips": len(slips), "slips alike": len(alike), "slips left": len(left)}
            | {"variants": len(suite.variants), "no variant": not suite.variants and bool(alike)}
        )
        kinds = {variant.name: variant.kind for variant in suite.variants}
        texts = list(dict.fromkeys(answer["sql"] for answer in answers))
        verdicts = {}
        for name in EQUIVALENCES:
            suite.equivalence = name
            verdicts[name] = {sql: suite.verdict(sql) for sql in texts}
        suite.close()
        equal = [sql for sql in texts if verdicts["spider"][sql].on != "database"]
        by_kind = {}
        for kind in KINDS:
            with Suite(database, gold, folder=folder) as alone:
                by_kind[kind] = set(equal) - set(alone.distil(equal, kinds=[kind], patience=CANDIDATES))
    for answer in answers:
        for name in EQUIVALENCES:
            verdict = verdicts[name][answer["sql"]]
            if verdict.on == "database":
                continue
            counts[name, "equal"] += 1
            counts[name, "unmasked"] += verdict.equal is False
            counts[name, "open"] += verdict.equal is None
        verdict = verdicts["spider"][answer["sql"]]
        if verdict.on == "database":
            continue
        unmasked = verdict.equal is False
        hinted = answer.get("variants_n") is not None and answer["variants_ok"] < answer["variants_n"]
        counts["hinted"] += hinted
        counts["hinted and unmasked"] += hinted and unmasked
        hit = {kind for kind in KINDS if answer["sql"] in by_kind[kind]}
        counts["by any candidate"] += bool(hit) or unmasked
        counts["hinted, by any candidate"] += hinted and (bool(hit) or unmasked)
        for kind in hit:
            counts["kind", kind] += 1
            counts["only kind", kind] += len(hit) == 1
        if unmasked:
            counts["distilled kind", kinds[verdict.on]] += 1
        if unmasked or hit or hinted:
            known = {key: answer.get(key) for key in ("id", "db_id", "system", "sql")}
            found.append(
                known
                | {
                    "gold": gold,
                    "on": verdict.on,
                    "kinds": sorted(hit),
                    "hinted": hinted,
                    "unmasked": unmasked,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, type=Path, help="Spider folder")
    parser.add_argument("--predictions", required=True, type=Path)
    parser.add_argument("--questions", type=int, help="a seeded choice of so many gold queries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSONL of the unmasked answers")
    args = parser.parse_args()

    gold = {q["id"]: q for q in json.loads((args.root / "dev.json").read_text())}
    grouped: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for line in args.predictions.read_text().splitlines():
        answer = json.loads(line)
        grouped[answer["db_id"], gold[answer["id"]]["query"]].append(answer)
    keys = sorted(grouped)
    if args.questions:
        keys = random.Random(args.seed).sample(keys, min(args.questions, len(keys)))
    counts: Counter = Counter()
    found = []
    for n, (db_id, sql) in enumerate(keys):
        if sys.stderr.isatty():
            print(f"\r{n}/{len(keys)}", end="", file=sys.stderr)
        found += measure(args.root, sql, db_id, grouped[db_id, sql], counts)
    if args.output:
        args.output.write_text("".join(json.dumps(line) + "\n" for line in found))

    print(
        f"{counts['gold']} gold queries, {counts['gold fails']} fail; {counts['seconds']:.0f} s to distil, "
    )
    print(f"{counts['variants']} variants kept, none for {counts['no variant']} that need one\n")
    print("| neighbours | equal on the database | undecided on all variants |\n|---|---|---|")
    print(f"| {counts['slips']} | {counts['slips alike']} | {counts['slips left']} |\n")
    print("| equivalence | answers equal on the database | unmasked | stay open |\n|---|---|---|---|")
    for name in EQUIVALENCES:
        print(f"| {name} | {counts[name, 'equal']} | {counts[name, 'unmasked']} | {counts[name, 'open']} |")
    print(
        f"\n{counts['by any candidate']} by any candidate; row-dropped copies: {counts['hinted']} answers, "
    )
    print(f"of which distilled {counts['hinted and unmasked']}, any {counts['hinted, by any candidate']}\n")
    print("| kind | unmasks alone | no other kind does | first in the suites |\n|---|---|---|---|")
    for kind in KINDS:
        row = (counts["kind", kind], counts["only kind", kind], counts["distilled kind", kind])
        print("|", kind, "|", " | ".join(map(str, row)), "|")


if __name__ == "__main__":
    main()
