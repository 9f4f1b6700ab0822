"""Spider, end to end: build rates, a LoRA PRM on unseen databases, and the same data through a peer trainer.

    python benchmarks/spider.py --root SPIDER_FOLDER [--traces 400] [--seeds 0 1 2] [--peer COMMAND]

1. `prm build` over all train databases: rate, and what was skipped.
2. A LoRA PRM on a seeded choice of whole train questions; temperature and threshold from other train
   databases; measured on traces of the dev databases, none of which it has seen.
3. `--peer "PYTHON benchmarks/trl_peer.py"`: TRL's trainer in an interpreter of its own (see there). It gets
   the same prompt text, steps, backbone, epochs, batch and learning rate; its scores are measured by the same
   code, its threshold is chosen on the same traces.

Every seed trains both anew on the same traces: means and standard deviations over them are printed side by
side, for one seed says little where a threshold sits on a narrow peak. Writes `results.json`. Finished parts
are not done again.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prm.evaluation.metrics import best_threshold
from prm.evaluation.report import evaluate_traces
from prm.recipe import read_recipe
from prm.traces.encoding import Encoder
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Trace
from prm.train import choose_questions

RECIPE = "benchmarks/spider.yaml"
SHOWN = (
    "first_error_acc",
    "f1",
    "error_acc",
    "correct_acc",
    "step_auc",
    "step_auc_to_first_error",
    "false_early_rate",
    "miss_rate",
    "brier",
)


def run(command: list[str]) -> tuple[float, str]:
    """Seconds and standard output of a command that must succeed."""
    print("$", shlex.join(command), flush=True)
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, done.stdout


def build(root: str, split: str, output: Path, *, workers: int) -> dict[str, Any]:
    """Build a split once; its statistics with the seconds it took."""
    record = output.with_suffix(".time.json")
    if not record.exists():
        command = [
            sys.executable,
            "-m",
            "prm.cli",
            "build",
            "--layout",
            "spider",
            "--root",
            root,
            "--split",
            split,
        ]
        seconds, _ = run([*command, "--workers", str(workers), "--output", str(output)])
        statistics = json.loads(Path(f"{output}.stats.json").read_text())
        record.write_text(json.dumps({"seconds": seconds, "workers": workers, "statistics": statistics}))
    return json.loads(record.read_text())


def split_databases(traces: list[Trace], share: float, seed: int) -> tuple[list[Trace], list[Trace]]:
    """(training, threshold) traces: a seeded `share` of the databases is kept out of training."""
    names = sorted({trace.db_id or "" for trace in traces})
    random.Random(seed).shuffle(names)
    held = set(names[: max(1, round(share * len(names)))])
    return [t for t in traces if t.db_id not in held], [t for t in traces if t.db_id in held]


def with_prompts(traces: list[Trace], encoder: Encoder) -> list[dict[str, Any]]:
    """The traces as JSON objects with the very prompt text that our encoder reads, cut included."""
    tokenizer = encoder.tokenizer
    rows = []
    for trace, encoded in zip(traces, encoder.encode(traces, drop_long=False), strict=True):
        steps = [
            tokenizer(s.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            for s in trace.steps
        ]
        n_steps = sum(map(len, steps)) + len(steps) * len(tokenizer(encoder.step_separator)["input_ids"])
        prompt = (
            encoded.input_ids[1:-n_steps]
            if tokenizer.bos_token_id is not None
            else encoded.input_ids[:-n_steps]
        )
        rows.append(trace.to_dict() | {"prompt": tokenizer.decode(prompt)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="Spider folder")
    parser.add_argument("--output", default="runs/spider", type=Path)
    parser.add_argument("--traces", type=int, default=400, help="train traces (whole questions)")
    parser.add_argument("--dev-traces", type=int, default=400, help="dev traces measured (whole questions)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer", help="command of the peer: its interpreter and script")
    args = parser.parse_args()
    data = args.output / "data"
    data.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "build": build(args.root, "train", data / "all_train.jsonl", workers=args.workers),
        "build_dev": build(args.root, "dev", data / "all_dev.jsonl", workers=args.workers),
    }
    train, held = split_databases(load_traces(data / "all_train.jsonl"), share=0.1, seed=0)
    train = choose_questions(train, args.traces, seed=0)
    held = choose_questions(held, 200, seed=0)
    test = choose_questions(load_traces(data / "all_dev.jsonl"), args.dev_traces, seed=0)
    for name, traces in (("train", train), ("dev", held), ("test", test)):
        write_traces(traces, data / f"{name}.jsonl")

    for seed in args.seeds:  # one after the other, so that a noisy hour meets both
        results.setdefault("ours", []).append(ours(args, seed))
        if args.peer:
            results.setdefault("peer", []).append(peer(args, seed, train, held, test))
    (args.output / "results.json").write_text(json.dumps(results, indent=1))

    columns = [name for name in ("ours", "peer") if name in results]
    print(
        f"{len(train)} train traces, {len({t.db_id for t in train})} databases; {len(test)} dev traces of "
        f"{len({t.db_id for t in test})}; seeds {args.seeds}"
    )
    print("| metric |", " | ".join(columns), "|")
    for key in SHOWN:
        cells = [mean_and_deviation([run["metrics"][key] for run in results[c]]) for c in columns]
        print(f"| {key} |", " | ".join(cells), "|")
    for words, key in (("training, s", "train_s"), ("scoring the dev traces, s", "score_s")):
        cells = [f"{statistics.mean(run[key] for run in results[c]):.0f}" for c in columns]
        print(f"| {words} |", " | ".join(cells), "|")


def mean_and_deviation(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def recipe_words(args: argparse.Namespace, seed: int) -> list[str]:
    """The recipe of one run, with this benchmark's data, folder and seed."""
    values = {
        "train_data": args.output / "data/train.jsonl",
        "eval_data": args.output / "data/dev.jsonl",
        "test_data": args.output / "data/test.jsonl",
        "output_dir": args.output / f"ours-{seed}",
        "seed": seed,
    }
    return [RECIPE, *(word for key, value in values.items() for word in (f"--{key}", str(value)))]


def ours(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train, score and measure by `prm/train.py`."""
    run_folder = args.output / f"ours-{seed}"
    if not (run_folder / "eval" / "metrics.json").exists():
        run([sys.executable, "-m", "accelerate.commands.launch", "prm/train.py", *recipe_words(args, seed)])
    return {
        "train_s": json.loads((run_folder / "train_results.json").read_text())["train_seconds"],
        "score_s": json.loads((run_folder / "score_results.json").read_text())["score_seconds"],
        "metrics": json.loads((run_folder / "eval" / "metrics.json").read_text()),
    }


def peer(
    args: argparse.Namespace, seed: int, train: list[Trace], held: list[Trace], test: list[Trace]
) -> dict[str, Any]:
    """Train and score with the peer on the same text, then measure its scores as ours."""
    from transformers import AutoTokenizer

    model, _, config = read_recipe([*recipe_words(args, seed), "--use_cpu", "true"])
    encoder = Encoder(
        AutoTokenizer.from_pretrained(model.model_name_or_path),
        max_length=config.max_length,
        max_completion_length=config.max_completion_length,
    )
    folder = args.output / f"peer-{seed}"
    folder.mkdir(exist_ok=True)
    scores = folder / "scored.jsonl"
    if not (folder / "time.json").exists():
        for name, traces in (("train", train), ("eval", held + test)):
            rows = with_prompts(traces, encoder)
            (folder / f"{name}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
            )
        options = {
            "model": model.model_name_or_path, "train": folder / "train.jsonl", "eval": folder / "eval.jsonl",
            "scores": scores, "mode": model.backbone, "epochs": config.num_train_epochs,
            "batch": config.per_device_train_batch_size, "lr": config.learning_rate, "seed": seed,
            "max-length": 4 * config.max_length, "prompt-field": "prompt",
        }  # fmt: skip
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        words += [] if config.bf16 else ["--fp32"]
        _, printed = run([*shlex.split(args.peer), *words])
        (folder / "time.json").write_text(printed.strip().splitlines()[-1])
    scored = load_traces(scores)
    dev, rest = scored[: len(held)], scored[len(held) :]
    threshold, _ = best_threshold([t.scores for t in dev], [t.labels for t in dev])
    metrics = evaluate_traces(
        rest, folder / "eval", threshold=threshold, threshold_from="best f1 on the same traces"
    )
    times = json.loads((folder / "time.json").read_text())
    # It scored the traces of the threshold, too; its time is for as many traces as ours.
    times["score_s"] *= len(test) / len(scored)
    return times | {"metrics": metrics}


if __name__ == "__main__":
    main()
