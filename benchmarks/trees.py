"""Does training on token trees end where training on single sequences ends? LoRA on the quickstart's data.

    make quickstart && python benchmarks/trees.py [--seeds 0 1 2] [--traces 240]

The loss and gradients of a step are the same up to rounding (tests/test_tree.py), but rounding grows over
many steps. So the two are trained side by side from the same seeds; prints test metrics, mean and deviation
over the seeds, and the seconds that each took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RECIPE = "recipes/smollm2-135m/lora.yaml"
SHOWN = ("first_error_acc", "f1", "step_auc", "brier")


def result(kind: str, seed: int, traces: int, folder: Path) -> dict[str, Any]:
    """Test metrics and training seconds of one run; done already, they are read."""
    run = folder / f"{kind}-{seed}"
    if not (run / "eval" / "metrics.json").exists():
        data = Path("runs/quickstart/data")
        words = {
            "model_name_or_path": "models/smollm2-135m", "backbone_layers": 12,
            "train_data": data / "train.jsonl", "eval_data": data / "dev.jsonl",
            "test_data": data / "test.jsonl", "max_train_traces": traces,
            "max_length": 512, "max_completion_length": 352, "per_device_train_batch_size": 8,
            "num_train_epochs": 1, "eval_strategy": "no", "save_strategy": "no",
            "load_best_model_at_end": "false", "report_to": "none", "seed": seed, "output_dir": run,
        }  # fmt: skip
        if kind == "rows":
            words["attn_implementation"] = "sdpa"
        command = [sys.executable, "prm/train.py", RECIPE]
        command += [word for key, value in words.items() for word in (f"--{key}", str(value))]
        subprocess.run(command, check=True)
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    seconds = json.loads((run / "train_results.json").read_text())["train_seconds"]
    return metrics | {"seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--traces", type=int, default=240)
    parser.add_argument("--output", type=Path, default=Path("runs/trees"))
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"trees": [], "rows": []}
    for seed in args.seeds:
        for kind, runs in found.items():
            runs.append(result(kind, seed, args.traces, args.output))
    print("| metric |", " | ".join(found), "|\n|---|---|---|")
    for key in (*SHOWN, "seconds"):
        cells = []
        for runs in found.values():
            values = [run[key] for run in runs]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {key} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
