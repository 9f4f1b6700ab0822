"""Scores for traces: `Scorer` in Python, `prm score` and `prm evaluate --model` on the command line.

A trace's scores depend on its prompt and its own steps alone: neither on what else is in its batch (traces
that share a prefix share its computation, which changes nothing) nor on its later steps.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from prm.errors import InputError
from prm.evaluation.report import check_threshold_options, choose_threshold, evaluate_traces, print_metrics
from prm.modeling.process_reward_model import ProcessRewardModel, load_tokenizer
from prm.traces.encoding import Encoder
from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Trace
from prm.traces.tree import collate, merge, pack


class Scorer:
    """A model, its tokenizer and the lengths it was trained with.

    >>> scorer = Scorer.from_pretrained("runs/quickstart/checkpoint")  # doctest: +SKIP
    >>> scorer.score([Trace("How many singers are there?", [Step("Count the rows of singer.")], schema="…")])
    [[0.97]]
    """

    def __init__(
        self,
        model: ProcessRewardModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens_per_batch: int = 8192,
    ) -> None:
        config = model.config
        self.model = model.eval()
        self.max_tokens_per_batch = max_tokens_per_batch
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.encoder = Encoder(
            tokenizer,
            max_length=config.max_trace_length,
            max_completion_length=config.max_completion_length,
            step_separator=config.step_separator,
            prompt_version=config.prompt_version,
            longest=config.base_config.get("max_position_embeddings"),
        )

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        max_tokens_per_batch: int = 8192,
        **kwargs: Any,
    ) -> Scorer:
        """Load a checkpoint folder or Hub id onto `device`: the accelerator where there is one, else the CPU.

        Args:
            dtype: of the backbone; "auto" is the dtype in which it was saved, which gives the same scores.
            kwargs: as in `ProcessRewardModel.from_pretrained` (`base_model_name_or_path`, `token` …).

        Raises:
            InputError: the checkpoint, its base model or its tokenizer cannot be loaded.
        """
        model = ProcessRewardModel.from_pretrained(path_or_id, revision=revision, dtype=dtype, **kwargs)
        tokenizer = load_tokenizer(path_or_id, revision=revision, **kwargs)
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        if model.config.backbone != "qlora":  # bitsandbytes places its own weights
            model.to(device)
        return cls(model, tokenizer, max_tokens_per_batch=max_tokens_per_batch)

    @torch.inference_mode()
    def score(self, traces: Sequence[Trace], *, progress: bool = False) -> list[list[float]]:
        """One list a trace, one score in [0, 1] a step: P(no error up to and including this step).

        Raises:
            InputError: a trace is longer than the backbone can read.
        """
        if not traces:
            return []
        encoded = self.encoder.encode(traces, drop_long=False)
        by_question = sorted(range(len(encoded)), key=lambda i: encoded[i].question_key)
        ordered = [encoded[i] for i in by_question]
        trees = merge(ordered, max_tokens=self.max_tokens_per_batch, share=self.model.reads_trees)
        scores: list[list[float]] = [[] for _ in traces]
        with tqdm(total=len(traces), desc="scoring", unit="trace", disable=not progress) as bar:
            for forward in pack(trees, self.max_tokens_per_batch):
                inputs = collate(forward, ordered, self.pad_id)
                index = inputs.pop("index").tolist()
                del inputs["labels"]
                logits = self.model(**{k: v.to(self.model.device) for k, v in inputs.items()}).logits.cpu()
                for member, row in zip(index, logits, strict=True):
                    n = len(ordered[member].step_ends)
                    scores[by_question[member]] = self.model.scores(row[:n]).tolist()
                bar.update(len(index))
        return scores


def score_file(
    model: str,
    data: Sequence[str],
    output: str,
    *,
    max_tokens_per_batch: int,
    dtype: str,
    revision: str | None,
    base_model: str | None,
    trust_remote_code: bool,
    labels: str,
    on_bad_rows: str,
) -> None:
    """`prm score`: the traces of `data` with their `scores`, in the same order."""
    traces = load_traces(list(data), labels=labels, on_bad_rows=on_bad_rows)
    scorer = Scorer.from_pretrained(
        model,
        revision=revision,
        dtype=dtype,
        max_tokens_per_batch=max_tokens_per_batch,
        base_model_name_or_path=base_model,
        trust_remote_code=trust_remote_code,
    )
    n = write_traces(_scored(scorer, traces), output)
    print(f"{n:,} scored traces -> {output}")


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
    from prm.training.trainer import COMPLETE_FILE

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
            chosen, source = choose_threshold(list(_scored(scorer, dev)), threshold_data or [])
        elif threshold is None:
            chosen, source = config.threshold, f"checkpoint: {config.threshold_from}"
        return evaluate_traces(
            list(_scored(scorer, traces)),
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


def _scored(scorer: Scorer, traces: list[Trace]) -> Iterator[Trace]:
    """`traces` with their scores; an iterator, so that the output file is opened before the work."""
    scores = scorer.score(traces, progress=True)
    yield from (replace(trace, scores=row) for trace, row in zip(traces, scores, strict=True))


def _compare_checkpoints(results: dict[int, dict[str, Any]], output: Path) -> None:
    """Print the table of a run's checkpoints; write `checkpoints.json` and the curves of every rate."""
    import json

    from rich.console import Console
    from rich.table import Table
    from torch.utils.tensorboard import SummaryWriter

    from prm.traces.formats import atomic_write

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
