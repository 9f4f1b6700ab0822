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

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from prm.errors import InputError
from prm.evaluation.report import (
    BASELINES,
    check_labelled,
    check_threshold_options,
    choose_threshold,
    counts_words,
    evaluate_traces,
    figure,
    print_metrics,
)
from prm.inference.scoring import Scorer, load_scorer, scored
from prm.traces.formats import atomic_write, load_traces
from prm.training.trainer import COMPLETE_FILE

#: What the table of `--all-checkpoints` shows of each.
SHOWN = (
    "first_error_acc", "f1", "error_acc", "correct_acc", "step_auc", "false_early_rate", "miss_rate",
    "threshold",
)  # fmt: skip


def evaluate_model(
    models: Sequence[str],
    data: Sequence[str],
    output: str,
    *,
    all_checkpoints: bool,
    threshold: float | str | None,
    threshold_data: Sequence[str] | None,
    rule: str,
    labels: str,
    on_bad_rows: str,
    **loading: Any,
) -> None:
    """`prm evaluate --model`: score, then measure as `prm.evaluation.report` does.

    Several `models` make an ensemble; `loading` as in `load_scorer`. The threshold is the given one, else the
    best on `threshold_data`, else the one in the checkpoint; an ensemble has none of its own. With
    `all_checkpoints`, every complete `checkpoint-N` of the run folder is measured into a folder of
    its own below `output`, beside a table (`checkpoints.json`) and TensorBoard curves over the steps.
    """
    check_threshold_options(threshold, threshold_data, rule)
    if len(models) > 1:
        if all_checkpoints:
            raise InputError("--all-checkpoints compares the checkpoints of one run: give one --model")
        if rule == "threshold" and threshold is None and not threshold_data:
            raise InputError(
                "an ensemble has no threshold of its own: give --threshold-data (best), --threshold, or "
                "--rule most-likely"
            )
    traces = load_traces(list(data), labels=labels, on_bad_rows=on_bad_rows)
    dev = (
        load_traces(list(threshold_data), labels=labels, on_bad_rows=on_bad_rows) if threshold_data else None
    )
    check_labelled(traces, ", ".join(data))
    if dev is not None:
        check_labelled(dev, ", ".join(threshold_data or []))

    def measure(checkpoints: Sequence[str], folder: str | Path) -> dict[str, Any]:
        scorer = load_scorer(checkpoints, **loading)
        config = (scorer if isinstance(scorer, Scorer) else scorer.scorers[0]).model.config
        chosen, source = threshold, "given"
        if threshold is None and dev is not None:
            scored_dev = list(scored(scorer, dev, on_bad_rows=on_bad_rows))
            chosen, source = choose_threshold(scored_dev, threshold_data or [])
        elif threshold is None and isinstance(scorer, Scorer):
            chosen, source = config.threshold, f"checkpoint: {config.threshold_from}"
        return evaluate_traces(
            list(scored(scorer, traces, on_bad_rows=on_bad_rows)),
            folder,
            threshold=chosen,
            threshold_from=None if threshold == "oracle" else source,
            rule=rule,
            position_means=config.position_means,  # of an ensemble, its first model's
            model=name(checkpoints),
            info={"data": list(data)},
        )

    def name(checkpoints: Sequence[str]) -> str:
        how = "" if len(checkpoints) == 1 else f" ({loading.get('combine', 'mean')})"
        return ", ".join(checkpoints) + how

    if not all_checkpoints:
        print_metrics(measure(models, output), output)
        return
    steps = {}
    for folder in Path(models[0]).glob("checkpoint-*"):
        if (number := folder.name.removeprefix("checkpoint-")).isdigit():
            if (folder / COMPLETE_FILE).is_file():
                steps[int(number)] = folder
            else:
                print(f"prm: {folder} is not complete; skipped", file=sys.stderr)
    if not steps:
        raise InputError(
            "no complete checkpoint-* folders; --all-checkpoints wants the run folder of a training",
            file=models[0],
        )
    results = {step: measure([str(steps[step])], Path(output) / steps[step].name) for step in sorted(steps)}
    _compare_checkpoints(results, Path(output))


def _compare_checkpoints(results: dict[int, dict[str, Any]], output: Path) -> None:
    """Print the table of a run's checkpoints beside the baselines; write `checkpoints.json` and the curves of
    every rate.
    """
    kept = ("threshold_from", "rule", "baselines")
    rows = {
        step: {k: v for k, v in metrics.items() if v is None or isinstance(v, (int, float)) or k in kept}
        for step, metrics in results.items()
    }
    with atomic_write(output / "checkpoints.json") as file:
        json.dump(rows, file, indent=1)
    with SummaryWriter(str(output / "tensorboard")) as writer:
        for step, row in rows.items():
            for key, value in row.items():
                if isinstance(value, (int, float)):
                    writer.add_scalar(f"checkpoints/{key}", value, step)
    console = Console(highlight=False)
    console.print(checkpoints_table(rows))
    console.print(Text(f"{output / 'checkpoints.json'}\n{output / 'tensorboard'}"), soft_wrap=True)


def checkpoints_table(rows: dict[int, dict[str, Any]]) -> Table:
    """A line for each checkpoint, and one for each baseline: they know the data alone."""
    last = next(reversed(rows.values()))
    sources = {row["threshold_from"] for row in rows.values()}
    chosen = sources.pop() if len(sources) == 1 else "each checkpoint's own, see threshold_from in the file"
    rule = "rule: most likely first error" if last["rule"] == "most-likely" else f"threshold: {chosen}"
    table = Table(
        caption=Text(f"{counts_words(last)}; {rule}"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("step", no_wrap=True)
    for name in SHOWN:  # a word a line: everything fits into 80 columns
        table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    for step, row in rows.items():
        table.add_row(str(step), *(figure(row[name]) for name in SHOWN))
    table.add_section()
    for key, words in BASELINES.items():
        rates = last["baselines"][key] or {}
        table.add_row(words, *("" if name == "threshold" else figure(rates.get(name)) for name in SHOWN))
    return table
