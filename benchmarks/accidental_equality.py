"""How many answers are equal to gold by accident, and what unmasks them: the figures of docs/results.md.

    python benchmarks/accidental_equality.py --root SPIDER_FOLDER --predictions FILE.jsonl [--questions 60]

`FILE.jsonl` has one answer a line: `{"id", "db_id", "system", "sql"}`, and if known `variants_ok` and
`variants_n` (on how many copies of the database with rows left out the answer equals gold); `SPIDER_FOLDER`
has `dev.json` with the same ids and the databases. With `--questions N`, a seeded choice of N gold queries.

Every gold query gets a suite distilled against its one-clause neighbours, which then judges the answers that
are equal on the database itself; then the answers join the neighbours; and, to compare the kinds, every kind
alone is set against the answers.
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
from functools import partial
from pathlib import Path

from prm.sql import SQLError, open_database
from prm.sql.compare import EQUIVALENCES
from prm.sql.variants import CANDIDATES, KINDS, Suite, Verdict, neighbours


def measure(root: Path, gold: str, db_id: str, answers: list[dict], counts: Counter) -> list[dict]:
    """Count what becomes of the neighbours and answers of one gold query; the answers that were unmasked."""
    path = root / "database" / db_id / f"{db_id}.sqlite"
    texts = list(dict.fromkeys(answer["sql"] for answer in answers))
    with tempfile.TemporaryDirectory() as folder, open_database(path) as database:
        opener = partial(open_database, pool=database.pool)  # one worker reads all variants
        try:
            suite = Suite(database, gold, folder=folder, opener=opener)
        except SQLError:
            counts["gold fails"] += 1
            return []
        with suite:
            start = time.perf_counter()
            slips = neighbours(gold, path)
            alike = [sql for sql in slips if suite.verdict(sql).equal]
            left = suite.distil(slips)
            counts["seconds"] += time.perf_counter() - start
            counts["gold"] += 1
            counts["neighbours"] += len(slips)
            counts["alike"] += len(alike)
            counts["left"] += len(left)
            counts["variants"] += len(suite.variants)
            counts["no variant"] += not suite.variants
            verdicts: dict[str, dict[str, Verdict]] = {}
            for name in EQUIVALENCES:
                suite.equivalence = name
                verdicts[name] = {sql: suite.verdict(sql) for sql in texts}
            suite.equivalence = "spider"
            suite.distil(texts)
            last = {sql: suite.verdict(sql) for sql in texts}
        equal = [sql for sql in texts if last[sql].on != "database"]
        by_kind = {}
        for kind in KINDS:
            with Suite(database, gold, folder=folder, opener=opener) as alone:
                by_kind[kind] = set(equal) - set(alone.distil(equal, kinds=[kind], patience=CANDIDATES))
    found = []
    for answer in answers:
        sql = answer["sql"]
        for name in EQUIVALENCES:
            if (verdict := verdicts[name][sql]).on != "database":
                counts[name, "equal"] += 1
                counts[name, "unmasked"] += verdict.equal is False
                counts[name, "open"] += verdict.equal is None
        if sql not in equal:
            continue
        first, second = verdicts["spider"][sql].equal is False, last[sql].equal is False
        kinds = [kind for kind in KINDS if sql in by_kind[kind]]
        hinted = answer.get("variants_n") is not None and answer["variants_ok"] < answer["variants_n"]
        for counted, name in ((True, ""), (hinted, "hinted")):
            counts["all", name] += counted
            counts["slips", name] += counted and first
            counts["answers", name] += counted and second
            counts["any", name] += counted and (second or bool(kinds))
        for kind in kinds:
            counts["kind", kind] += 1
            counts["only kind", kind] += len(kinds) == 1
        if second or kinds or hinted:
            known = {key: answer.get(key) for key in ("id", "db_id", "system", "sql")}
            by = {"gold": gold, "on": last[sql].on, "kinds": kinds, "hinted": hinted, "unmasked": second}
            found.append(known | by)
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

    print(f"{counts['gold']} gold queries, {counts['gold fails']} fail; {counts['seconds']:.0f} s to distil,")
    print(f"{counts['variants']} variants kept, none for {counts['no variant']} gold queries\n")
    print("| neighbours | equal on the database | undecided on all variants |\n|---|---|---|")
    print(f"| {counts['neighbours']} | {counts['alike']} | {counts['left']} |\n")
    print("| equivalence | answers equal on the database | unmasked | stay open |\n|---|---|---|---|")
    for name in EQUIVALENCES:
        row = (counts[name, "equal"], counts[name, "unmasked"], counts[name, "open"])
        print("|", name, "|", " | ".join(map(str, row)), "|")
    print("\n| answers equal on the database | all | that row-dropped copies unmask |\n|---|---|---|")
    for key, text in (
        ("all", "all"),
        ("slips", "unmasked by variants distilled against neighbours"),
        ("answers", "and against the answers"),
        ("any", "by any candidate"),
    ):
        print("|", text, "|", counts[key, ""], "|", counts[key, "hinted"], "|")
    print("\n| kind | unmasks, set against the answers alone | no other kind does |\n|---|---|---|")
    for kind in KINDS:
        print("|", kind, "|", counts["kind", kind], "|", counts["only kind", kind], "|")


if __name__ == "__main__":
    main()
