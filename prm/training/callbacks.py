"""TensorBoard beyond scalars: what a PRM's curves do not show.

Besides every metric, each evaluation writes loss by step position, histograms of the scores of right and of
wrong steps, and a precision-recall curve of finding wrong steps; each epoch its mean training loss.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback


class PRMTensorBoardCallback(TensorBoardCallback):
    """Takes the place of transformers' callback; the trainer hands it each evaluation's scores by
    `write_scores`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch_losses: list[float] = []

    def _writer(self, args: TrainingArguments, state: TrainerState) -> Any:
        if state.is_world_process_zero and self.tb_writer is None:  # evaluation outside training
            self._init_summary_writer(args)
        return self.tb_writer

    def _init_summary_writer(self, args: TrainingArguments) -> None:
        self.logging_dir = os.environ.get("TENSORBOARD_LOGGING_DIR") or os.path.join(
            args.output_dir, "tensorboard"
        )
        super()._init_summary_writer(args)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._epoch_losses.append(logs["loss"])
        numbers = {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float))}
        super().on_log(args, state, control, logs=numbers, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._epoch_losses and (writer := self._writer(args, state)) is not None:
            writer.add_scalar("train/epoch_loss", float(np.mean(self._epoch_losses)), round(state.epoch or 0))
        self._epoch_losses.clear()

    def write_scores(
        self,
        args: TrainingArguments,
        state: TrainerState,
        prefix: str,
        scores: list[list[float]],
        labels: list[list[float | None]],
    ) -> None:
        """Histograms, curve and loss by position of one evaluation (`prefix`: eval, test …)."""
        writer = self._writer(args, state)
        pairs = [
            (k, s, float(y >= 0.5), y)
            for row, truth in zip(scores, labels, strict=True)
            for k, (s, y) in enumerate(zip(row, truth, strict=True))
            if y is not None
        ]
        if writer is None or not pairs:
            return
        position, score, right, target = (np.array(column) for column in zip(*pairs, strict=True))
        step = state.global_step
        for name, value in (("right", 1.0), ("wrong", 0.0)):
            if (right == value).any():
                writer.add_histogram(f"{prefix}/scores_of_{name}_steps", score[right == value], step)
        writer.add_pr_curve(f"{prefix}/wrong_steps", 1 - right, 1 - score, step)
        inside = np.clip(score, 1e-7, 1 - 1e-7)
        losses = -(target * np.log(inside) + (1 - target) * np.log(1 - inside))
        for k in np.unique(position):
            writer.add_scalar(f"{prefix}_loss_by_step/{k:02d}", losses[position == k].mean(), step)
        writer.flush()
