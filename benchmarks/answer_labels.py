"""Real answers, labelled step by step: which evidence decided how many, and how fast.

    python benchmarks/answer_labels.py --predictions predictions_dev.jsonl --questions dev.json \
        --databases database --output runs/answer_labels [--sample 100] [--workers 2]

`--predictions`: JSONL with id, db_id, sql (and correct: by default only the wrong ones are taken, each SQL of
a question once); `--questions`: Spider's dev.json, whose entries have the same ids, or stand in their order.
Writes candidates.jsonl (the input of `prm label`), traces.jsonl and a table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random

from prm.labeling.answers import label


def candidates(predictions: Path, questions: Path, right_too: bool) -> list[dict]:
    """One line a question, with its distinct answers in the order of the file."""
    golds = {}
    for i, entry in enumerate(json.loads(questions.read_text())):
        golds[str(entry.get("id", i))] = entry
    lines: dict[str, dict] = {}
    with open(predictions) as stream:
        for raw in stream:
            answer = json.loads(raw)
            if answer["correct"] and not right_too:
                continue
            gold = golds[answer["id"]]
            line = lines.setdefault(
                answer["id"],
                {
                    "id": answer["id"],
                    "question": gold["question"],
                    "db_id": answer["db_id"],
                    "gold_sql": gold["query"],
                    "candidates": [],
                },
            )
            one = {"sql": answer["sql"].strip().rstrip(";").strip()}
            if one not in line["candidates"]:
                line["candidates"].append(one)
    return list(lines.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--databases", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--sample", type=int, help="questions drawn with seed 0")
    parser.add_argument("--right-too", action="store_true", help="take the right answers as well")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    lines = candidates(args.predictions, args.questions, args.right_too)
    if args.sample and args.sample < len(lines):
        drawn = set(Random(0).sample(range(len(lines)), args.sample))
        lines = [line for i, line in enumerate(lines) if i in drawn]
    args.output.mkdir(parents=True, exist_ok=True)
    data = args.output / "candidates.jsonl"
    data.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    start = time.perf_counter()
    summary = label(data, args.databases, args.output / "traces.jsonl", workers=args.workers)
    seconds = time.perf_counter() - start
    print("| what | answers | share |\n|---|---|---|")
    for name, n in summary["evidence"].items():
        print(f"| {name} | {n} | {n / summary['traces']:.1%} |")
    decided = sum(summary["first_error_positions"].values())
    for at, n in summary["first_error_positions"].items():
        print(f"| first error known, at step {at} | {n} | {n / decided:.1%} |")
    for reason, n in summary["skipped"].items():
        print(f"| skipped: {reason} | {n} | |")
    share = summary["steps_without_label"] / summary["steps"]
    print(f"\n{summary['steps']} steps, {share:.1%} without label")
    print(
        f"{summary['answers'] / seconds:.1f} answers a second with {args.workers} worker(s), {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
