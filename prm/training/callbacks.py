"""What a run shows while it trains: TensorBoard beyond scalars, and a quiet progress bar.

Besides every metric, each evaluation writes loss by step position, histograms of the scores of right and of
wrong steps, and a precision-recall curve of finding wrong steps; each epoch its mean training loss.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback


class PRMProgressCallback(ProgressCallback):
    """Takes the place of transformers' callback: the loss of a step stands in the bar, for TensorBoard keeps
    every one of them; a line is printed for each evaluation and epoch.
    """

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if "loss" in logs and state.epoch != round(state.epoch or 0):
            if self.training_bar is not None:
                self.training_bar.set_postfix(loss=f"{logs['loss']:.4g}", refresh=False)
            return
        super().on_log(args, state, control, logs=logs, **kwargs)


class PRMTensorBoardCallback(TensorBoardCallback):
    """Takes the place of transformers' callback; the trainer hands it each evaluation's scores by
    `write_scores`.
    """

    @staticmethod
    def folder(args: TrainingArguments) -> str:
        """Where the events go: $TENSORBOARD_LOGGING_DIR, else `tensorboard` in the run's folder."""
        assert args.output_dir is not None  # `TrainingArguments` has a default of its own
        folder = os.environ.get("TENSORBOARD_LOGGING_DIR") or os.path.join(args.output_dir, "tensorboard")
        return os.path.expanduser(folder)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and self.tb_writer is None:
            # What an interrupted run wrote after the checkpoint is written again: TensorBoard drops the old.
            resumed = state.global_step + 1 if state.global_step else None
            self.tb_writer = self._SummaryWriter(log_dir=self.folder(args), purge_step=resumed)
        super().on_train_begin(args, state, control, **kwargs)

    def _init_summary_writer(self, args: TrainingArguments) -> None:
        self.tb_writer = self._SummaryWriter(log_dir=self.folder(args))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.logging_strategy != "no":
            control.should_log = True  # so that no logged mean spans two epochs

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        numbers = {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float))}
        super().on_log(args, state, control, logs=numbers, **kwargs)
        if "loss" in numbers and self.tb_writer is not None and state.epoch == round(state.epoch or 0):
            self.tb_writer.add_scalar("train/epoch_loss", _epoch_loss(state), int(state.epoch))

    def write_scores(
        self,
        args: TrainingArguments,
        state: TrainerState,
        prefix: str,
        scores: list[list[float]],
        labels: list[list[float | None]],
    ) -> None:
        """Histograms, curve and loss by position of one evaluation (`prefix`: eval, test …)."""
        if not state.is_world_process_zero:
            return
        if self.tb_writer is None:  # evaluation outside training
            self._init_summary_writer(args)
        writer = self.tb_writer
        pairs = [
            (k, s, float(y >= 0.5), y)
            for row, truth in zip(scores, labels, strict=True)
            for k, (s, y) in enumerate(zip(row, truth, strict=True))
            if y is not None
        ]
        if not pairs:
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


def _epoch_loss(state: TrainerState) -> float:
    """Mean training loss over the optimiser steps of the epoch that ends now.

    Taken from the log, which resuming restores: each entry is the mean since the one before.
    """
    total = steps = before = 0.0
    for entry in state.log_history:
        if "loss" in entry:
            if entry["epoch"] > state.epoch - 1:
                total += entry["loss"] * (entry["step"] - before)
                steps += entry["step"] - before
            before = entry["step"]
    return total / max(steps, 1)
