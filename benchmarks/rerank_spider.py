"""Reranking on Spider: answers of real systems to dev questions, and a PRM that has seen no dev database.

    python benchmarks/rerank_spider.py --root SPIDER_FOLDER --predictions PREDICTIONS.jsonl \\
        --model CHECKPOINT [--questions 100] [-- options of prm rerank]

PREDICTIONS holds one answer a line, with `id` (that of the question in dev.json, or `dev_` and its number
there from 0, in four digits), `system` and `sql`. The systems' answers to a question become its candidates,
in the order of the file, one vote each; then `prm rerank` runs and scores them and prints the table. The
checkpoint must come from train databases alone. That of docs/results.md was made so:

    prm build --layout spider --root SPIDER_FOLDER --split train --output runs/rerank/built.jsonl --workers 2
    python benchmarks/rerank_spider.py --training-data runs/rerank/built.jsonl
    prm train benchmarks/rerank_spider.yaml
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from prm.cli import main as prm
from prm.traces.formats import atomic_write, rows_of


def candidates(root: Path, predictions: Path) -> list[dict[str, Any]]:
    """A line a question of dev.json for which there are answers."""
    entries = json.loads((root / "dev.json").read_text(encoding="utf-8"))
    questions = {}
    for number, entry in enumerate(entries):
        name = str(entry.get("id", f"dev_{number:04d}"))
        questions[name] = {
            "id": name,
            "question": entry["question"],
            "db_id": entry["db_id"],
            "gold_sql": entry["query"],
            "candidates": [],
        }
    for line, row in rows_of(predictions):
        if row["id"] not in questions:
            sys.exit(f"{predictions}:{line}: dev.json has no question {row['id']!r}")
        questions[row["id"]]["candidates"].append({"sql": row["sql"], "system": row["system"]})
    return [question for question in questions.values() if question["candidates"]]


def training_data(built: Path, output: Path) -> None:
    """700 questions for training, and 50 on other databases for the threshold: those whose steps have a
    sentence and its SQL, as the steps of bare SQL get them, under schemas that are not long."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for _, row in rows_of(built):
        if row["style"] == "both" and len(row["schema"]) < 1600:
            groups.setdefault(row["group"], []).append(row)
    databases = sorted({rows[0]["db_id"] for rows in groups.values()})
    random.Random(0).shuffle(databases)
    held_out = set(databases[:14])
    for name, size, held in (("train", 700, False), ("dev", 50, True)):
        chosen = [rows for rows in groups.values() if (rows[0]["db_id"] in held_out) == held]
        random.Random(0).shuffle(chosen)
        with atomic_write(output / f"{name}.jsonl") as handle:
            handle.writelines(json.dumps(row) + "\n" for rows in chosen[:size] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training-data", type=Path, metavar="BUILT", help="choose training data, and stop")
    parser.add_argument("--root", type=Path, help="Spider folder")
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--model", action="append", default=[], help="checkpoint; several make an ensemble")
    parser.add_argument("--output", type=Path, default=Path("runs/rerank"))
    parser.add_argument("--questions", type=int, help="a seeded choice of so many questions")
    parser.add_argument("more", nargs="*", metavar="-- OPTIONS", help="of prm rerank")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    if args.training_data is not None:
        training_data(args.training_data, args.output)
        return
    if args.root is None or args.predictions is None:
        parser.error("--root and --predictions are missing")
    rows = candidates(args.root, args.predictions)
    if args.questions is not None and args.questions < len(rows):
        kept = sorted(random.Random(0).sample(range(len(rows)), args.questions))
        rows = [rows[i] for i in kept]
    data = args.output / "candidates.jsonl"
    with atomic_write(data) as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    models = [word for model in args.model for word in ("--model", model)]
    choice = ["--choose", "weighted-vote" if models else "vote"]
    start = time.perf_counter()
    places = ["--data", str(data), "--output", str(args.output / "reranked.jsonl")]
    status = prm(["rerank", *models, *places, "--databases", str(args.root), *choice, *args.more])
    print(f"{time.perf_counter() - start:.0f} s")
    sys.exit(status)


if __name__ == "__main__":
    main()
