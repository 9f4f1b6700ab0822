"""`PRMTrainer`: transformers' Trainer with a loss at step ends.

It reads like TRL's former class, `PRMTrainer(model=, args=, processing_class=, train_dataset=, eval_dataset=,
peft_config=)`, and takes TRL's stepwise format or native traces. What differs from a plain Trainer:

* The loss of an optimiser step is the sum over its labelled steps divided by their number, over all
  processes, micro-batches and forwards. None of these three changes it.
* Batches are whole questions (`prm.training.batching`), merged into token trees where the backbone's
  attention allows.
* A frozen backbone runs once (`prm.training.features`).
* Evaluation gathers every trace exactly once, whatever the number of processes, and measures first errors at
  the threshold that is best on that very data; the best checkpoint is the one with the highest f1, ties by
  step AUC.
* A checkpoint folder counts only once it is complete, so a run may be killed while saving.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, PredictionOutput, rotate_checkpoints

from prm.errors import InputError
from prm.evaluation.calibration import fit_temperature
from prm.evaluation.metrics import best_threshold, position_means
from prm.modeling.losses import SCORE_KINDS, loss_mask, step_loss
from prm.modeling.process_reward_model import ProcessRewardModel
from prm.recipe import PRMConfig
from prm.traces.encoding import IGNORE, EncodedTrace, Encoder
from prm.traces.formats import traces_from_dataset
from prm.traces.trace import Trace
from prm.traces.tree import collate, merge, pack
from prm.training.batching import EncodedTraces, EpochLoader, ForwardCollator, QuestionBatches, feature_batch
from prm.training.callbacks import PRMTensorBoardCallback
from prm.training.features import add_features

#: Written into a checkpoint folder last of all: without it the folder is half a checkpoint.
COMPLETE_FILE = "complete"

Data = Any  # a list of Trace, a datasets.Dataset in TRL's or the native format, or a mapping of names to such


class PRMTrainer(Trainer):
    """Trains a `ProcessRewardModel`.

    Args:
        model: a `ProcessRewardModel`; or a backbone (Hub id, folder, or loaded transformers model, of which
            the headless part is taken): it is trained whole, with `peft_config` by adapters, and if its
            parameters do not require gradients it stays frozen.
        args: a `prm.PRMConfig`.
        train_dataset, eval_dataset: traces, or `datasets` in TRL's stepwise or the native format;
            `eval_dataset` may be a dict of them, each is then measured under its name.
        processing_class: the tokenizer; by default the backbone's.
        peft_config: a PEFT config for the backbone; the head is always trained whole and always saved.
        compute_metrics: takes an `EvalPrediction` of (n_traces, n_steps) scores and labels, padded by -100;
            by default the metrics of DESIGN at the best threshold, through `evaluate`.
    """

    def __init__(
        self,
        model: ProcessRewardModel | PreTrainedModel | str,
        args: PRMConfig | None = None,
        *,
        train_dataset: Data | None = None,
        eval_dataset: Data | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        args = args or PRMConfig(output_dir="prm_output")
        if not isinstance(args, PRMConfig):
            raise TypeError(
                f"args must be a prm.PRMConfig, not {type(args).__name__}: it has the loss and the lengths"
            )
        model = _as_prm(model, args, peft_config)
        config = model.config
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(
                config.base_model_name_or_path, revision=config.base_model_revision
            )
        self.encoder = Encoder(
            processing_class,
            max_length=args.max_length,
            max_completion_length=args.max_completion_length,
            step_separator=args.step_separator,
            longest=config.base_config.get("max_position_embeddings"),
        )
        config.loss, config.score_kind = args.loss, SCORE_KINDS[args.loss]
        config.max_trace_length, config.max_completion_length = (
            args.max_length,
            self.encoder.max_completion_length,
        )
        config.step_separator = args.step_separator
        if args.disable_dropout:
            _disable_dropout(model)
        self.pad_id = processing_class.pad_token_id if processing_class.pad_token_id is not None else 0
        self.share_prefixes = model.reads_trees
        self.class_weights: tuple[float, float] | None = None
        # Kept out of Trainer's reach: it would treat a bare list as a torch data set of finished examples.
        train, evals = None, None
        if train_dataset is not None:
            traces = list(_traces(train_dataset))
            config.position_means = position_means([t.labels for t in traces])
            train = self._encoded(traces, drop_long=True)
            if args.train_on_last_step_only:
                for trace in train.traces:
                    trace.labels = [None] * (len(trace.labels) - 1) + trace.labels[-1:]
            if not any(label is not None for trace in train.traces for label in trace.labels):
                raise InputError("no step of the training data has a label; label the steps first")
            if args.class_balance:
                self.class_weights = _balance(train.traces, args.loss)
        if eval_dataset is not None:
            named = isinstance(eval_dataset, Mapping) and not hasattr(eval_dataset, "column_names")
            evals = (
                {name: self._encoded(data, drop_long=False) for name, data in eval_dataset.items()}
                if named
                else self._encoded(eval_dataset, drop_long=False)
            )
        super().__init__(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=evals,
            processing_class=processing_class,
            compute_metrics=compute_metrics or _Metrics(args.metric_for_best_model),
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.tensorboard: PRMTensorBoardCallback | None = None
        if self.pop_callback(TensorBoardCallback) is not None:
            self.tensorboard = PRMTensorBoardCallback()
            self.add_callback(self.tensorboard)

    # ---- data
    # -----------------------------------------------------------------------------------------------------

    def _encoded(self, data: Data, *, drop_long: bool) -> EncodedTraces:
        encoded = self.encoder.encode(list(_traces(data)), drop_long=drop_long)
        kept = [trace for trace in encoded if trace is not None]
        if not kept:
            raise InputError(f"no trace is left within max_length={self.encoder.max_length}; raise it")
        return EncodedTraces(kept)

    def _add_features(self, dataset: EncodedTraces) -> None:
        if self.model.config.backbone == "frozen":
            add_features(
                dataset,
                self._prm,
                folder=Path(self.args.output_dir) / "features",
                pad_id=self.pad_id,
                max_tokens=self.args.max_tokens_per_batch,
                share=self.share_prefixes,
            )

    def get_train_dataloader(self) -> DataLoader:
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        self._add_features(self.train_dataset)
        batches = QuestionBatches(
            [trace.question_key for trace in self.train_dataset.traces],
            batch_size=self.args.per_device_train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            rank=self.args.process_index,
            processes=self.args.world_size,
        )
        collator = ForwardCollator(
            pad_id=self.pad_id, max_tokens=self.args.max_tokens_per_batch, share=self.share_prefixes
        )
        return EpochLoader(self.train_dataset, batch_sampler=batches, collate_fn=collator)

    def get_eval_dataloader(self, eval_dataset: Data | str | None = None) -> DataLoader:
        """The forwards of this process: a loader of model inputs whose `index` numbers the traces of the data
        set.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise ValueError("evaluation needs an eval_dataset")
        if not isinstance(dataset, EncodedTraces):
            dataset = self._encoded(dataset, drop_long=False)
        self._add_features(dataset)
        rank, processes, budget = (
            self.args.process_index,
            self.args.world_size,
            self.args.max_tokens_per_batch,
        )
        if dataset.features is not None:
            mine = [range(k, min(k + 256, len(dataset))) for k in range(0, len(dataset), 256)][
                rank::processes
            ]
            forwards = [
                feature_batch([dataset.traces[i] for i in part], [dataset.features[i] for i in part])
                | {"index": torch.tensor(part)}
                for part in mine
            ]
        else:
            trees = merge(dataset.traces, max_tokens=budget, share=self.share_prefixes)
            packs = pack(trees[rank::processes], budget)
            forwards = [_Lazy(rows, dataset.traces, self.pad_id) for rows in packs]
        loader = DataLoader(
            forwards, batch_size=None, collate_fn=lambda f: f() if isinstance(f, _Lazy) else f
        )
        loader.traces = dataset.traces
        return loader

    def get_test_dataloader(self, test_dataset: Data) -> DataLoader:
        return self.get_eval_dataloader(test_dataset)

    # ---- loss
    # -----------------------------------------------------------------------------------------------------

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Number of steps that count in this optimiser step, over all processes (at least 1)."""
        counts = [
            loss_mask(forward["labels"], self.args.loss).sum()
            for batch in batch_samples
            for forward in batch["forwards"]
        ]
        total = (
            torch.stack(counts).sum().to(device)
            if counts
            else torch.zeros((), dtype=torch.long, device=device)
        )
        if self.args.world_size > 1:
            total = self.accelerator.gather(total.reshape(1)).sum()
        return total.clamp(min=1)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """All forwards and backwards of one micro-batch; gradients are exchanged at most once, after the
        last.
        """
        forwards = self._evened(inputs["forwards"])
        sync = self.accelerator.sync_gradients
        total = torch.zeros((), device=self.args.device)
        for k, forward in enumerate(forwards):
            last = k == len(forwards) - 1
            self.accelerator.gradient_state._set_sync_gradients(sync and last)
            quiet = not last and self.accelerator.distributed_type != DistributedType.DEEPSPEED
            with self.accelerator.no_sync(model) if quiet else contextlib.nullcontext():
                total += super().training_step(model, forward, num_items_in_batch)
        return total

    def _evened(self, forwards: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """As many forwards as the process with the most has: sharded engines exchange parameters in every
        one.
        """
        if self.args.world_size == 1:
            return forwards
        mine = torch.tensor([len(forwards)], device=self.args.device)
        missing = int(self.accelerator.gather(mine).max()) - len(forwards)
        empty = forwards[-1] | {"labels": torch.full_like(forwards[-1]["labels"], IGNORE)}
        return [empty] * missing + forwards

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        inputs = {key: value for key, value in inputs.items() if key != "index"}
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch, class_weights=self.class_weights)
        loss = outputs.loss
        if num_items_in_batch is not None:
            loss = (
                loss * self.args.world_size
            )  # data-parallel engines average gradients; ours is a sum already
        return (loss, outputs) if return_outputs else loss

    # ---- evaluation
    # -----------------------------------------------------------------------------------------------

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Scores and metrics of all traces, in the order of the data set, on every process."""
        traces: list[EncodedTrace] = dataloader.traces
        logits = self._step_logits(dataloader, description)
        labels = _padded([[IGNORE if y is None else float(y) for y in trace.labels] for trace in traces])
        mask = np.arange(labels.shape[1]) < np.array([len(trace.step_ends) for trace in traces])[:, None]
        scores = np.where(mask, self._prm.scores(torch.tensor(logits)).numpy(), IGNORE)
        loss = step_loss(torch.tensor(logits), torch.tensor(labels), loss=self.args.loss).item()
        metrics: dict[str, Any] = {"loss": loss}
        if self.compute_metrics is not None and not prediction_loss_only:
            metrics |= self.compute_metrics(EvalPrediction(predictions=scores, label_ids=labels))
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in metrics.items()}
        if self.tensorboard is not None:
            pairs = [
                (list(s[m]), [None if y == IGNORE else y for y in truth[m]])
                for s, truth, m in zip(scores, labels, mask, strict=True)
            ]
            self.tensorboard.write_scores(
                self.args, self.state, metric_key_prefix, [s for s, _ in pairs], [y for _, y in pairs]
            )
        return EvalLoopOutput(predictions=scores, label_ids=labels, metrics=metrics, num_samples=len(traces))

    def _step_logits(self, dataloader: DataLoader, description: str) -> np.ndarray:
        """(n_traces, n_steps) logits of the data set's traces, padded by -100, gathered over all processes."""
        traces: list[EncodedTrace] = dataloader.traces
        self.model.eval()
        rows: list[tuple[int, list[float]]] = []
        quiet = self.args.disable_tqdm or not self.is_world_process_zero()
        with (
            tqdm(total=len(dataloader), desc=description, leave=False, disable=quiet) as bar,
            torch.inference_mode(),
            self.compute_loss_context_manager(),
        ):
            for forward in self._eval_forwards(dataloader):
                index = forward.pop("index")
                inputs = self._prepare_inputs({k: v for k, v in forward.items() if k != "labels"})
                logits = self.model(**inputs).logits
                if index is not None:
                    rows += zip(index.tolist(), logits.float().cpu().tolist(), strict=True)
                bar.update()
        if self.args.world_size > 1:
            rows = gather_object(rows)
        return _padded([row[: len(traces[i].step_ends)] for i, row in sorted(rows)])

    @property
    def _prm(self) -> ProcessRewardModel:
        return self.accelerator.unwrap_model(self.model)

    def calibrate(self, dev: Data) -> None:
        """Fit the temperature on dev traces, then choose the threshold with the highest f1 there; both go
        into the config.
        """
        config = self._prm.config
        loader = self.get_eval_dataloader(dev)
        logits = torch.tensor(self._step_logits(loader, "Calibration"))
        labels = torch.tensor(
            _padded([[IGNORE if y is None else float(y) for y in t.labels] for t in loader.traces])
        )
        # What the head says of a step is fitted on the steps the loss taught it about.
        taught = loss_mask(labels, self.args.loss)
        probabilities = torch.sigmoid(logits).tolist()
        truth = torch.where(taught, labels, math.nan).tolist()
        lengths = [len(t.step_ends) for t in loader.traces]
        config.score_temperature = fit_temperature(
            [row[:n] for row, n in zip(probabilities, lengths, strict=True)],
            [[None if math.isnan(y) else y for y in row[:n]] for row, n in zip(truth, lengths, strict=True)],
        )
        scores = self._prm.scores(logits).tolist()
        config.threshold, _ = best_threshold(
            [row[:n] for row, n in zip(scores, lengths, strict=True)], [t.labels for t in loader.traces]
        )
        config.threshold_from = f"best f1 on the dev split ({len(lengths)} traces)"

    def scored(self, traces: list[Trace]) -> list[Trace]:
        """Copies of `traces` with their scores."""
        loader = self.get_eval_dataloader(traces)
        scores = self._prm.scores(torch.tensor(self._step_logits(loader, "Scoring"))).tolist()
        return [replace(t, scores=row[: len(t.steps)]) for t, row in zip(traces, scores, strict=True)]

    def save_final(self, folder: str | Path) -> Path:
        """Write the checkpoint that users load, with tokenizer and trainer state; the old one stays until it
        is whole.
        """
        folder = Path(folder)
        partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
        shutil.rmtree(partial, ignore_errors=True)
        self.save_model(str(partial), _internal_call=True)
        if self.args.should_save:
            self.state.save_to_json(str(partial / "trainer_state.json"))
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        return folder

    def _eval_forwards(self, dataloader: DataLoader) -> Iterator[dict[str, Any]]:
        """This process's forwards, and repeats of its last one until every process has done as many."""
        count, last = 0, None
        for last in dataloader:
            count += 1
            yield last
        if self.args.world_size > 1:
            most = max(gather_object([count]))
            if last is None:  # no trace fell to this process; any forward keeps the others from waiting
                dataset = EncodedTraces(dataloader.traces[:1])
                self._add_features(dataset)
                last = ForwardCollator(pad_id=self.pad_id, max_tokens=10**9, share=False)([dataset[0]])[
                    "forwards"
                ][0]
            for _ in range(most - count):
                yield last | {"index": None}

    def predict(
        self, test_dataset: Data, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Scores (n_traces, n_steps) of a data set, padded by -100, with its labels and metrics."""
        output = self.evaluation_loop(
            self.get_test_dataloader(test_dataset), "Prediction", metric_key_prefix=metric_key_prefix
        )
        return PredictionOutput(output.predictions, output.label_ids, output.metrics)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Highest `metric_for_best_model` wins, ties by step AUC; of several eval sets the first one counts."""
        name = self.args.metric_for_best_model
        if name is None:
            return False
        if isinstance(self.eval_dataset, dict) and f"eval_{name.removeprefix('eval_')}" not in metrics:
            first = next(iter(self.eval_dataset))
            name = f"{first}_{name.removeprefix('eval_')}"
        name = f"eval_{name.removeprefix('eval_')}"
        if name not in metrics:
            known = ", ".join(sorted(key.removeprefix("eval_") for key in metrics))
            raise InputError(f"metric_for_best_model: there is no metric {name!r}; there are {known}")
        auc = name.rpartition("_")[0] + "_step_auc"
        sign = 1 if self.args.greater_is_better else -1

        def key(values: Mapping[str, Any]) -> tuple[float, float]:
            value, tie = values.get(name), values.get(auc)
            return (-math.inf if value is None else sign * value, -math.inf if tie is None else tie)

        best = next(
            (
                log
                for log in self.state.log_history
                if log.get("step") == self.state.best_global_step and name in log
            ),
            None,
        )
        if best is not None and key(metrics) <= key(best):
            return False
        self.state.best_metric = metrics[name]
        self.state.best_global_step = self.state.global_step
        return True

    # ---- checkpoints
    # ----------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        limit, self.args.save_total_limit = (
            self.args.save_total_limit,
            None,
        )  # nothing old goes before this is whole
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / COMPLETE_FILE).touch()
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = output_dir or self.args.output_dir
        if self.args.should_save:
            self._prm.save_pretrained(folder, state_dict=state_dict)
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._prm.load_checkpoint(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._prm.load_checkpoint(self.state.best_model_checkpoint)


def last_complete_checkpoint(output_dir: str | Path, *, clean: bool = True) -> str | None:
    """The newest checkpoint-N below `output_dir` that was written to its end; `clean` removes half-written
    ones.
    """
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if not step.isdigit():
            continue
        if (folder / COMPLETE_FILE).exists():
            found.append((int(step), folder))
        elif clean:
            shutil.rmtree(folder, ignore_errors=True)
    return str(max(found)[1]) if found else None


class _Lazy:
    """One evaluation forward, put together when it is its turn (a tree mask is quadratic in its tokens)."""

    def __init__(self, rows: list[Any], traces: list[EncodedTrace], pad_id: int) -> None:
        self.arguments = (rows, traces, pad_id)

    def __call__(self) -> dict[str, torch.Tensor]:
        return collate(*self.arguments)


class _Metrics:
    """Default `compute_metrics`: the metrics at the threshold with the highest f1 on the very data
    (`threshold`).
    """

    def __init__(self, metric_for_best_model: str | None) -> None:
        self.metric: Any = None

    def __call__(self, prediction: EvalPrediction) -> dict[str, Any]:
        if self.metric is None:
            from prm.evaluation.processbench_metric import ProcessBenchMetric

            self.metric = ProcessBenchMetric(keep_in_memory=True)
        labels = [[None if y == IGNORE else float(y) for y in row] for row in prediction.label_ids]
        scores = [[float(s) for s in row if s != IGNORE] for row in prediction.predictions]
        labels = [row[: len(s)] for row, s in zip(labels, scores, strict=True)]
        threshold, _ = best_threshold(scores, labels)
        found = self.metric.compute(predictions=scores, references=labels, threshold=threshold)
        return {k: v for k, v in found.items() if v is None or isinstance(v, (int, float))} | {
            "threshold": threshold
        }


def _as_prm(model: Any, args: PRMConfig, peft_config: Any) -> ProcessRewardModel:
    if isinstance(model, ProcessRewardModel):
        if peft_config is not None:
            raise InputError("peft_config goes with a backbone; this ProcessRewardModel is built already")
        return model
    if not isinstance(model, (str, PreTrainedModel)):
        raise TypeError(
            f"model must be a ProcessRewardModel, a transformers model or its name, not {type(model)}"
        )
    backbone = "full" if peft_config is None else "lora"
    if isinstance(model, PreTrainedModel) and peft_config is None:
        body = model.base_model
        if not any(parameter.requires_grad for parameter in body.parameters()):
            backbone = "frozen"
    return ProcessRewardModel.from_backbone(model, backbone=backbone, peft_config=peft_config, loss=args.loss)


def _traces(data: Data) -> list[Trace]:
    if isinstance(data, list) and all(isinstance(trace, Trace) for trace in data):
        return data
    return traces_from_dataset(data)


def _disable_dropout(model: ProcessRewardModel) -> None:
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _balance(traces: list[EncodedTrace], loss: str) -> tuple[float, float]:
    """(weight of wrong, weight of right) steps: equal sums, mean 1 over the steps that count."""
    labels = _padded([[IGNORE if y is None else float(y) for y in trace.labels] for trace in traces])
    counted = labels[loss_mask(torch.tensor(labels), loss).numpy()]
    right = float(counted.sum())
    wrong = len(counted) - right
    if right == 0 or wrong == 0:
        return 1.0, 1.0
    return len(counted) / (2 * wrong), len(counted) / (2 * right)


def _padded(rows: list[list[float]]) -> np.ndarray:
    """(n, longest) float64, padded by -100."""
    array = np.full((len(rows), max(map(len, rows))), IGNORE)
    for k, row in enumerate(rows):
        array[k, : len(row)] = row
    return array
