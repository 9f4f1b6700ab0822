"""Score, then measure: `prm evaluate --model`, for one checkpoint or for all of a run's.

`prm.inference.scoring` knows how to score and `prm.evaluation` how to measure scores from anywhere; the two
meet here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from prm.errors import InputError
from prm.evaluation.report import check_threshold_options, choose_threshold, evaluate_traces, print_metrics
from prm.inference.scoring import Scorer, scored
from prm.traces.formats import atomic_write, load_traces
from prm.training.trainer import COMPLETE_FILE


def evaluate_model(
    model: str,
    data: Sequence[str],
    output: str,
    *,
    all_checkpoints: bool,
    threshold: float | str | None,
    threshold_data: Sequence[str] | None,
    rule: str,
    max_tokens_per_batch: int,
    dtype: str,
    revision: str | None,
    base_model: str | None,
    trust_remote_code: bool,
    labels: str,
    on_bad_rows: str,
) -> None:
    """`prm evaluate --model`: score, then measure as `prm.evaluation.report` does.

    The threshold is the given one, else the best on `threshold_data`, else the one in the checkpoint. With
    `all_checkpoints`, every complete `checkpoint-N` of the run folder `model` is measured into a folder of
    its own below `output`, beside a table (`checkpoints.json`) and TensorBoard curves over the steps.
    """
    check_threshold_options(threshold, threshold_data, rule)
    traces = load_traces(list(data), labels=labels, on_bad_rows=on_bad_rows)
    dev = (
        load_traces(list(threshold_data), labels=labels, on_bad_rows=on_bad_rows) if threshold_data else None
    )
    options = {
        "revision": revision,
        "dtype": dtype,
        "max_tokens_per_batch": max_tokens_per_batch,
        "base_model_name_or_path": base_model,
        "trust_remote_code": trust_remote_code,
    }

    def measure(checkpoint: str, folder: str | Path) -> dict[str, Any]:
        scorer = Scorer.from_pretrained(checkpoint, **options)
        config = scorer.model.config
        chosen, source = threshold, "given"
        if threshold is None and dev is not None:
            scored_dev = list(scored(scorer, dev, on_bad_rows=on_bad_rows))
            chosen, source = choose_threshold(scored_dev, threshold_data or [])
        elif threshold is None:
            chosen, source = config.threshold, f"checkpoint: {config.threshold_from}"
        return evaluate_traces(
            list(scored(scorer, traces, on_bad_rows=on_bad_rows)),
            folder,
            threshold=chosen,
            threshold_from=None if threshold == "oracle" else source,
            rule=rule,
            position_means=config.position_means,
            model=str(checkpoint),
            info={"data": list(data)},
        )

    if not all_checkpoints:
        print_metrics(measure(model, output), output)
        return
    steps = {}
    for folder in Path(model).glob("checkpoint-*"):
        if (number := folder.name.removeprefix("checkpoint-")).isdigit():
            if (folder / COMPLETE_FILE).is_file():
                steps[int(number)] = folder
            else:
                print(f"prm: {folder} is not complete; skipped", file=sys.stderr)
    if not steps:
        raise InputError(
            f"{model}: no complete checkpoint-* folders; --all-checkpoints wants the run folder of a training"
        )
    results = {step: measure(str(steps[step]), Path(output) / steps[step].name) for step in sorted(steps)}
    _compare_checkpoints(results, Path(output))


def _compare_checkpoints(results: dict[int, dict[str, Any]], output: Path) -> None:
    """Print the table of a run's checkpoints; write `checkpoints.json` and the curves of every rate."""
    shown = (
        "first_error_acc",
        "f1",
        "error_acc",
        "correct_acc",
        "step_auc",
        "false_early_rate",
        "miss_rate",
        "threshold",
    )
    rows = {
        step: {k: v for k, v in metrics.items() if v is None or isinstance(v, (int, float))}
        for step, metrics in results.items()
    }
    with atomic_write(output / "checkpoints.json") as file:
        json.dump(rows, file, indent=1)
    with SummaryWriter(str(output / "tensorboard")) as writer:
        for step, row in rows.items():
            for key, value in row.items():
                if value is not None:
                    writer.add_scalar(f"checkpoints/{key}", value, step)
    table = Table("step", *shown)
    for step, row in rows.items():
        table.add_row(str(step), *("–" if row.get(key) is None else f"{row[key]:.3f}" for key in shown))
    console = Console()
    console.print(table)
    console.print(f"{output / 'checkpoints.json'}\n{output / 'tensorboard'}", soft_wrap=True, highlight=False)
