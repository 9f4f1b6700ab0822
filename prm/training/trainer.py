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
* Under DeepSpeed it holds the same files as of one process (`prm.modeling.sharding`), and any engine goes on
  from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ProgressCallback, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, PredictionOutput, TrainOutput

from prm.errors import InputError
from prm.evaluation.calibration import fit_temperature
from prm.evaluation.metrics import best_threshold, position_means
from prm.modeling.card import describe_traces, keep_training, write_card
from prm.modeling.hub import push_checkpoint
from prm.modeling.losses import SCORE_KINDS, loss_mask, step_loss
from prm.modeling.process_reward_model import ProcessRewardModel, load_tokenizer
from prm.modeling.reading import step_states
from prm.modeling.sharding import (
    is_cut_up,
    load_optimizer_state,
    optimizer_state,
    renew_master_weights,
    size_of,
    trained_weights,
    whole_layer_by_layer,
)
from prm.recipe import PRMConfig
from prm.traces.encoding import IGNORE, EncodedTrace, Encoder
from prm.traces.formats import traces_from_dataset
from prm.traces.trace import Trace
from prm.training.batching import (
    EncodedTraces,
    EpochLoader,
    ForwardCollator,
    Forwards,
    QuestionBatches,
)
from prm.training.callbacks import PRMProgressCallback, PRMTensorBoardCallback
from prm.training.features import FeatureStore, spread

#: Stands in a checkpoint folder from the first moment on, and at last is renamed to `COMPLETE_FILE`. A folder
#: with the first is half a checkpoint and is cleared away, one with neither is not ours and is not touched.
INCOMPLETE_FILE, COMPLETE_FILE = "incomplete", "complete.json"

#: Where the backbone is not frozen, so many traces of so many questions show the head the scale of its input.
STANDARDISE_TRACES, STANDARDISE_QUESTIONS = 12, 4
#: How many states do it where it is frozen, and they are all there.
STANDARDISE_STEPS = 50_000

#: Fields of `PRMConfig` that the weights depend on; a run does not resume with another value in one of them.
RUN_FIELDS = (
    "seed", "data_seed", "loss", "class_balance", "train_on_last_step_only", "disable_dropout",
    "learning_rate", "weight_decay", "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon",
    "max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "bf16", "fp16",
)  # fmt: skip

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
            by default the metrics of the README at the best threshold, through `evaluate`.
    """

    # Narrower than Trainer's own.
    args: PRMConfig
    model: nn.Module
    processing_class: PreTrainedTokenizerBase
    train_dataset: EncodedTraces | None
    eval_dataset: EncodedTraces | dict[str, EncodedTraces] | None
    optimizer: Any  # under DeepSpeed a wrapper
    lr_scheduler: Any

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
        if args.n_gpu > 1:
            args._n_gpu = 1  # DataParallel would cut a batch without its step ends: one process, one GPU
        set_seed(args.seed)  # the new head of `_as_prm`
        model = _as_prm(model, args, peft_config)
        config = model.config
        if processing_class is None:
            if config.base_model_name_or_path is None:
                raise InputError(
                    "the model does not say which base model it stands on; give processing_class"
                )
            processing_class = load_tokenizer(
                config.base_model_name_or_path,
                revision=config.base_model_revision,
                trust_remote_code=model.trust_remote_code,
            )
        self.encoder = Encoder(
            processing_class,
            max_length=args.max_length,
            max_completion_length=args.max_completion_length,
            step_separator=args.step_separator,
            longest=model.longest,
        )
        config.loss, config.score_kind = args.loss, SCORE_KINDS[args.loss]
        config.max_trace_length, config.max_completion_length = (
            args.max_length,
            self.encoder.max_completion_length,
        )
        config.step_separator = args.step_separator
        config.prompt_version = self.encoder.prompt_version  # a foreign model learns to read our prompts
        if args.disable_dropout:
            _disable_dropout(model)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, getattr(processing_class, name))  # as Trainer would, with a warning
        self.pad_id = processing_class.pad_token_id if processing_class.pad_token_id is not None else 0
        self.share_prefixes = model.reads_trees
        self.class_weights: tuple[float, float] | None = None
        self._store: FeatureStore | None = None
        #: What the card tells of the data, by key of the recipe, and the recipe; `prm/train.py` adds to it.
        self.described: dict[str, dict[str, Any]] = {}
        self.recipe: dict[str, Any] | None = None
        # Kept out of Trainer's reach: it would treat a bare list as a torch data set of finished examples.
        train: EncodedTraces | None = None
        evals: EncodedTraces | dict[str, EncodedTraces] | None = None
        if train_dataset is not None:
            traces = list(_traces(train_dataset))
            config.position_means = position_means([t.labels for t in traces])
            self.described["train_data"] = describe_traces(traces)
            encoded = self.encoder.encode(traces, drop_long=True, limit=args.max_length)
            train = EncodedTraces([one for one in encoded if one is not None])
            if args.train_on_last_step_only:
                for trace in train.traces:
                    trace.labels = [*[None] * (len(trace.labels) - 1), *trace.labels[-1:]]
            if not any(label is not None for trace in train.traces for label in trace.labels):
                raise InputError("no step of the training data has a label; label the steps first")
            if args.class_balance:
                self.class_weights = _balance(train.traces, args.loss)
        if eval_dataset is not None:
            if isinstance(eval_dataset, Mapping):  # a DatasetDict, too
                evals = {name: self.encoded(data) for name, data in eval_dataset.items()}
            else:
                evals = self.encoded(eval_dataset)
            named = evals if isinstance(evals, dict) else {"": evals}
            for name, one in named.items():
                self.described[f"eval_data.{name}" if name else "eval_data"] = describe_traces(one.sources)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=evals,
            processing_class=processing_class,
            compute_metrics=compute_metrics or _Metrics(),
            callbacks=callbacks,
            optimizers=optimizers,
        )
        sliced = self.is_fsdp_enabled or any(map(is_cut_up, model.parameters()))
        if sliced and config.backbone == "qlora":
            raise InputError(
                "backbone: qlora goes with engines that leave weights whole: take "
                "accelerate_configs/ddp.yaml, or backbone: lora"
            )
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(PRMProgressCallback)
        self.tensorboard: PRMTensorBoardCallback | None = None
        if self.pop_callback(TensorBoardCallback) is not None:
            self.tensorboard = PRMTensorBoardCallback()
            self.add_callback(self.tensorboard)

    # ---- data

    def encoded(self, data: Data) -> EncodedTraces:
        """Traces to be measured. What the backbone cannot read is dropped, and a warning says how many.

        Raises:
            InputError: there are none, or the backbone can read none of them.
        """
        traces = _some_traces(data)
        encoded = self.encoder.encode(traces, drop_long=True)
        kept = [(one, trace) for one, trace in zip(encoded, traces, strict=True) if one is not None]
        return EncodedTraces([one for one, _ in kept], [trace for _, trace in kept])

    def _add_features(self, dataset: EncodedTraces) -> None:
        if self._prm.config.backbone != "frozen":
            return
        if self._store is None:
            self._store = FeatureStore(
                Path(self.args.features_dir or Path(self.args.output_dir) / "features"),
                self._prm,
                pad_id=self.pad_id,
                max_tokens=self.args.max_tokens_per_batch,
                progress=not self.args.disable_tqdm,
            )
        with self._readable():
            self._store.add_to(dataset)

    def _readable(self) -> contextlib.AbstractContextManager[None]:
        """Within it the model runs though ZeRO-3 has cut it up and no engine is there yet."""
        return contextlib.nullcontext() if self.deepspeed is not None else whole_layer_by_layer(self.model)

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
        return EpochLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=collator,
            num_workers=self.args.dataloader_num_workers,
        )

    def get_eval_dataloader(  # type: ignore[override]  # gives `Forwards`
        self, eval_dataset: Data | EncodedTraces | str | None = None
    ) -> Forwards:
        """All forwards over an eval set. No DataLoader: starting one draws from training's random numbers."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            assert isinstance(self.eval_dataset, dict), f"no eval set has the name {dataset!r}"
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise ValueError("evaluation needs an eval_dataset")
        if not isinstance(dataset, EncodedTraces):
            dataset = self.encoded(dataset)
        self._add_features(dataset)
        return Forwards(
            dataset, pad_id=self.pad_id, max_tokens=self.args.max_tokens_per_batch, share=self.share_prefixes
        )

    def get_test_dataloader(self, test_dataset: Data) -> Forwards:  # type: ignore[override]  # as above
        """Of every trace: predictions are told apart by their place in the data set."""
        traces = _some_traces(test_dataset)
        encoded = self.encoder.encode(traces, drop_long=False)  # raises where it would drop one
        return self.get_eval_dataloader(EncodedTraces([one for one in encoded if one is not None], traces))

    # ---- loss

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
        num_items_in_batch: torch.Tensor | int | None = None,
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
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        inputs = {key: value for key, value in inputs.items() if key != "index"}
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch, class_weights=self.class_weights)
        loss = outputs.loss
        if num_items_in_batch is not None:
            # Data-parallel engines average gradients; ours is a sum already.
            loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    # ---- evaluation

    def evaluation_loop(  # type: ignore[override]  # takes `Forwards`, not a DataLoader
        self,
        dataloader: Forwards,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Scores and metrics of all traces, in the order of the data set, on every process."""
        traces = dataloader.dataset.traces
        logits = self._step_logits(dataloader, description)
        labels = _padded_labels(traces)
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

    def _step_logits(self, forwards: Forwards, description: str) -> np.ndarray:
        """(n_traces, n_steps) logits of the data set's traces, padded by -100, from all processes."""
        traces = forwards.dataset.traces
        self.model.eval()
        rows: list[tuple[int, list[float]]] = []
        processes = self.args.world_size
        quiet = self.args.disable_tqdm or not self.is_world_process_zero()
        # No inference mode: weights that ZeRO-3 puts together in it could not be trained with afterwards.
        with torch.no_grad(), self._readable(), self.compute_loss_context_manager():
            for start in tqdm(
                range(0, len(forwards), processes), desc=description, leave=False, disable=quiet
            ):
                # Sharded engines exchange parameters in every forward: a process with none left repeats one.
                k = start + self.args.process_index
                forward = forwards[min(k, len(forwards) - 1)]
                index = forward.pop("index").tolist()
                inputs = self._prepare_inputs({key: v for key, v in forward.items() if key != "labels"})
                logits = self.model(**inputs).logits.float().cpu().tolist()
                if k < len(forwards):
                    rows += zip(index, logits, strict=True)
        if processes > 1:
            rows = gather_object(rows)
        return _padded([row[: len(traces[i].step_ends)] for i, row in sorted(rows)])

    @property
    def _prm(self) -> ProcessRewardModel:
        return self.accelerator.unwrap_model(self.model)

    def calibrate(self, dev: Data | EncodedTraces) -> None:
        """Fit the temperature on dev traces, then choose the threshold with the highest f1 there; both go
        into the config.
        """
        config = self._prm.config
        forwards = self.get_eval_dataloader(dev)
        traces = forwards.dataset.traces
        logits = torch.tensor(self._step_logits(forwards, "Calibration"))
        labels = torch.tensor(_padded_labels(traces))
        # What the head says of a step is fitted on the steps the loss taught it about.
        taught = loss_mask(labels, self.args.loss)
        probabilities = torch.sigmoid(logits).tolist()
        truth = torch.where(taught, labels, math.nan).tolist()
        lengths = [len(trace.step_ends) for trace in traces]
        config.score_temperature = fit_temperature(
            [row[:n] for row, n in zip(probabilities, lengths, strict=True)],
            [[None if math.isnan(y) else y for y in row[:n]] for row, n in zip(truth, lengths, strict=True)],
        )
        scores = self._prm.scores(logits).tolist()
        config.threshold, f1 = best_threshold(
            [row[:n] for row, n in zip(scores, lengths, strict=True)], [trace.labels for trace in traces]
        )
        by = "f1" if f1 is not None else "first_error_acc"
        config.threshold_from = f"best {by} on the dev split ({len(lengths)} traces)"

    def scored(self, data: Data | EncodedTraces) -> list[Trace]:
        """Copies of the traces with their scores; without those that `encoded` drops."""
        forwards = self.get_eval_dataloader(data)
        scores = self._prm.scores(torch.tensor(self._step_logits(forwards, "Scoring"))).tolist()
        traces = forwards.dataset.sources
        return [replace(t, scores=row[: len(t.steps)]) for t, row in zip(traces, scores, strict=True)]

    def save_final(self, folder: str | Path) -> Path:
        """Write the checkpoint that users load, with tokenizer and trainer state; the old one stays until it
        is whole.
        """
        folder = Path(folder)
        partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
        with _full_disk_named(partial):
            self.save_model(str(partial), _internal_call=True)
        if self.args.should_save:
            self.state.save_to_json(str(partial / "trainer_state.json"))
            keep_training(
                partial,
                name=Path(self.args.output_dir).name,
                data=self.described,
                recipe=self.recipe,
                settings={} if self.train_dataset is None else self._what_is_trained(),
                hardware=_hardware(self.args),
            )
            write_card(partial)
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        return folder

    def predict(
        self, test_dataset: Data, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Scores (n_traces, n_steps) of a data set, padded by -100, with its labels and metrics.

        Raises:
            InputError: a trace is longer than the backbone can read.
        """
        output = self.evaluation_loop(
            self.get_test_dataloader(test_dataset), "Prediction", metric_key_prefix=metric_key_prefix
        )
        return PredictionOutput(output.predictions, output.label_ids, output.metrics)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Highest `metric_for_best_model` wins, ties by step AUC.

        Of several eval sets the first one counts unless the metric names one. Also puts the threshold of this
        evaluation into the checkpoints.
        """
        sets = list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else []
        prefixes = [f"eval_{name}_" for name in sets] or ["eval_"]
        if metrics.get(prefixes[0] + "threshold") is not None:
            self._prm.config.threshold = metrics[prefixes[0] + "threshold"]
            self._prm.config.threshold_from = f"best on the dev split at step {self.state.global_step}"
        if self.args.metric_for_best_model is None:
            return False
        name = "eval_" + self.args.metric_for_best_model.removeprefix("eval_")
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), prefixes[0])
        name = prefix + name.removeprefix("eval_" if not name.startswith(prefix) else prefix)
        if name not in metrics:
            if not self.args.load_best_model_at_end and self.args.save_strategy != "best":
                return False  # nobody asks for a best model: f1 is only our default
            known = ", ".join(sorted(key.removeprefix("eval_") for key in metrics))
            raise InputError(f"metric_for_best_model: there is no metric {name!r}; there are {known}")
        auc = prefix + "step_auc"
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

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            _mark_incomplete(folder)
        self.accelerator.wait_for_everyone()
        with self._keeping_all(), _full_disk_named(folder):  # nothing old goes before this one is whole
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            text = json.dumps(self._what_is_trained(), indent=1)
            (folder / INCOMPLETE_FILE).write_text(text, encoding="utf-8")
            (folder / INCOMPLETE_FILE).rename(folder / COMPLETE_FILE)
            self._rotate()

    def _rotate(self) -> None:
        """Remove the oldest checkpoints beyond `save_total_limit`; the last and the best one stay."""
        limit = self.args.save_total_limit
        if limit is None or limit < 1:
            return
        best = f"checkpoint-{self.state.best_global_step}"
        for folder in _complete_checkpoints(self.args.output_dir)[:-limit]:
            if folder.name != best:
                _remove(folder)

    @contextlib.contextmanager
    def _keeping_all(self) -> Iterator[None]:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        # With save_total_limit 1, Trainer would remove the last checkpoint here if another is the best; but
        # the same command, run again, must find the run finished.
        with self._keeping_all():
            return super()._finalize_training(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run resumed at its last step has none to take, be it in the middle of an epoch; Trainer takes one.
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """As Trainer's; True resumes from the last complete checkpoint in `output_dir`.

        Raises:
            InputError: the checkpoint is incomplete, or comes from another model, data set or optimisation
                than this trainer's: going on would give neither run's result; or `output_dir` holds
                checkpoints of another program.
        """
        if self.args.save_strategy != "no":
            _check_ours(self.args.output_dir)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(
                self.args.output_dir, clean=self.args.should_save
            )
            if resume_from_checkpoint is None:
                raise InputError(f"{self.args.output_dir} holds no complete checkpoint to resume from")
        if resume_from_checkpoint:
            self._check_same_run(Path(resume_from_checkpoint))
        elif self.train_dataset is not None and not self._prm.head.is_standardised:
            self._standardise_head()
        return super().train(resume_from_checkpoint or None, *args, **kwargs)

    def _standardise_head(self) -> None:
        """Show the head the scale of its input: all frozen features, or those of a sample before training."""
        dataset = self.train_dataset
        assert dataset is not None  # nothing is trained without
        self._add_features(dataset)
        if dataset.features is not None:
            self._prm.head.standardise(spread(dataset.features, STANDARDISE_STEPS))
            return
        sample = _standardise_sample(dataset.traces)
        self.model.eval()
        with torch.no_grad(), self._readable(), self.compute_loss_context_manager():
            read = step_states(
                self._prm, sample, pad_id=self.pad_id, max_tokens=self.args.max_tokens_per_batch
            )
            states = [row for _, rows in read for row in rows]
        self._prm.head.standardise(torch.cat(states))

    def _what_is_trained(self) -> dict[str, Any]:
        """What the weights at a given step depend on, and so may not change when a run goes on.

        How long it is, how it is dealt to processes, and what is logged, measured or kept may.
        """
        assert self.train_dataset is not None  # nothing is trained without
        args, config = self.args, self._prm.config
        base = config.base_model_name_or_path
        chosen: dict[str, Any] = {name: getattr(args, name) for name in RUN_FIELDS}
        chosen |= {
            "model": os.path.basename(base) if base and os.path.isabs(base) else base,
            "model_revision": config.base_model_revision,
            "backbone": config.backbone,
            "quantization_bits": config.quantization_bits if config.backbone == "qlora" else None,
            "backbone_layers": config.backbone_layers,
            "dtype": config.backbone_dtype,
            "head_hidden_size": config.head_hidden_size,
            **_lora_settings(self._prm),
            "learning parameters": sum(size_of(p) for p in self._prm.parameters() if p.requires_grad),
            "traces of a step": args.per_device_train_batch_size
            * args.gradient_accumulation_steps
            * args.world_size,
            "training data": _fingerprint(self.train_dataset.traces),
        }
        return json.loads(json.dumps(chosen, default=str))

    def _check_same_run(self, folder: Path) -> None:
        try:
            before = json.loads((folder / COMPLETE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(
                f"{folder} is no complete checkpoint; name one with a file {COMPLETE_FILE!r}"
            ) from None
        for key, now in self._what_is_trained().items():
            if before.get(key) != now:
                raise InputError(
                    f"{folder} was trained with another {key} ({before.get(key)}, now {now}): "
                    "set it back, or give another output_dir"
                )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.is_deepspeed_enabled:
            return super().save_model(output_dir, _internal_call)
        self._save(output_dir, trained_weights(self._prm, keep=self.args.should_save))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = output_dir or self.args.output_dir
        if self.args.should_save:
            self._prm.save_pretrained(folder, state_dict=state_dict)
            self.processing_class.save_pretrained(folder)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_deepspeed_enabled:  # which will know slices of them only
            self._optimizer_groups = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any
    ) -> Any:
        if not self.is_deepspeed_enabled or resume_from_checkpoint is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self._prm.load_checkpoint(resume_from_checkpoint)  # the engine takes its weights from the model
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        file = Path(resume_from_checkpoint) / "optimizer.pt"
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        load_optimizer_state(self.optimizer.optimizer, self._optimizer_groups, saved)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)  # under DeepSpeed: the scheduler
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        zero, keep = self.optimizer.optimizer, self.args.should_save
        state = optimizer_state(zero, self._optimizer_groups, keep=keep)
        if keep:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:  # sharded weights are read by the engine that wrote them
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._prm.load_checkpoint(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        checkpoint = self.state.best_model_checkpoint
        assert checkpoint is not None  # else Trainer does not call this
        if self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._prm.load_checkpoint(checkpoint)
            if self.is_deepspeed_enabled:
                renew_master_weights(self._prm)
        file = Path(checkpoint) / "config.json"
        best = json.loads(file.read_text(encoding="utf-8"))
        for name in ("threshold", "threshold_from"):  # those of the weights, not of the last evaluation
            setattr(self._prm.config, name, best[name])

    # ---- the Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing: only a finished checkpoint goes to the Hub."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing, see `init_hf_repo`."""

    def push_to_hub(  # type: ignore[override]  # gives the address alone
        self, commit_message: str | None = None, **_: Any
    ) -> str | None:
        """Save the model with a card into `output_dir/checkpoint`, upload just that folder, give its address.

        Raises:
            InputError: the Hub cannot be reached or refuses; the folder is there all the same.
        """
        folder = self.save_final(Path(self.args.output_dir) / "checkpoint")
        if not self.args.should_save:
            return None
        return self.push_folder(folder, commit_message)

    def push_folder(self, folder: Path, commit_message: str | None = None) -> str:
        """Upload a checkpoint folder to `hub_model_id` (default: the name of `output_dir`)."""
        args = self.args
        return push_checkpoint(
            folder,
            args.hub_model_id or Path(args.output_dir).name,
            private=args.hub_private_repo,
            token=args.hub_token,
            revision=args.hub_revision,
            commit_message=commit_message,
        )


@contextlib.contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """A full disk surfaces as whatever the library that writes raises, some of them without its name."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = "No space left" in str(error) or shutil.disk_usage(folder.parent).free < 1 << 20
        if not full:
            raise
        raise InputError(
            f"{folder} cannot be written, the disk is full; make room and run the same command again: it "
            "goes on from the last whole checkpoint"
        ) from error


def _complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoint-N folders, oldest first."""
    steps = {
        int(name): folder
        for folder, name in _checkpoint_folders(output_dir)
        if (folder / COMPLETE_FILE).exists()
    }
    return [steps[step] for step in sorted(steps)]


def _checkpoint_folders(output_dir: str | Path) -> Iterator[tuple[Path, str]]:
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if step.isdigit() and folder.is_dir():
            yield folder, step


def _mark_incomplete(folder: Path) -> None:
    if (folder / COMPLETE_FILE).exists():
        (folder / COMPLETE_FILE).rename(folder / INCOMPLETE_FILE)
    else:
        (folder / INCOMPLETE_FILE).write_text("", encoding="utf-8")


def _remove(folder: Path) -> None:
    """Remove a checkpoint; if this is interrupted, what is left is marked as half a checkpoint, or empty."""
    _mark_incomplete(folder)
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != INCOMPLETE_FILE:
            entry.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _check_ours(output_dir: str | Path) -> None:
    """Raises InputError where a checkpoint-N is none of ours: it might be removed or written over."""
    for folder, _ in _checkpoint_folders(output_dir):
        if (folder / COMPLETE_FILE).exists() or (folder / INCOMPLETE_FILE).exists():
            continue
        with contextlib.suppress(FileNotFoundError):  # the main process clears away meanwhile
            if any(folder.iterdir()):
                raise InputError(f"{folder} was not written by this toolkit; give another output_dir")


def last_complete_checkpoint(output_dir: str | Path, *, clean: bool = True) -> str | None:
    """The newest checkpoint-N below `output_dir` that was written to its end; `clean` removes half-written
    ones.

    Raises:
        InputError: a checkpoint-N is not of this toolkit.
    """
    _check_ours(output_dir)
    if clean:
        for folder, _ in list(_checkpoint_folders(output_dir)):
            if not (folder / COMPLETE_FILE).exists():
                _remove(folder)
    complete = _complete_checkpoints(output_dir)
    return str(complete[-1]) if complete else None


class _Metrics:
    """Default `compute_metrics`: the metrics at the threshold with the highest f1 on the very data
    (`threshold`).
    """

    def __init__(self) -> None:
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


def _some_traces(data: Data) -> list[Trace]:
    traces = _traces(data)
    if not traces:
        raise InputError("a data set to be measured holds no traces; give some, or leave it out")
    return traces


def _lora_settings(model: ProcessRewardModel) -> dict[str, Any]:
    """What the size of the adapter does not tell, `lora_alpha` above all."""
    settings: dict[str, Any] = {}
    for adapter in getattr(model.backbone, "peft_config", {}).values():
        for name in ("r", "lora_alpha", "lora_dropout", "target_modules"):
            value = getattr(adapter, name, None)
            key = name if name.startswith("lora_") else f"lora_{name}"
            settings[key] = sorted(value) if isinstance(value, (set, list)) else value
    return settings


def _hardware(args: PRMConfig) -> str:
    """For people: `1 process, cpu` or `8 processes, NVIDIA H100 80GB HBM3`."""
    kind = args.device.type
    name = torch.cuda.get_device_name(args.device) if kind == "cuda" else kind
    return f"{args.world_size} process{'es' if args.world_size > 1 else ''}, {name}"


def _disable_dropout(model: ProcessRewardModel) -> None:
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _balance(traces: list[EncodedTrace], loss: str) -> tuple[float, float]:
    """(weight of wrong, weight of right) steps: equal sums, mean 1 over the steps that count."""
    labels = _padded_labels(traces)
    counted = labels[loss_mask(torch.tensor(labels), loss).numpy()]
    right = float(counted.sum())
    wrong = len(counted) - right
    if right == 0 or wrong == 0:
        return 1.0, 1.0
    return len(counted) / (2 * wrong), len(counted) / (2 * right)


def _fingerprint(traces: list[EncodedTrace]) -> str:
    digest = hashlib.sha256()
    for trace in traces:
        digest.update(json.dumps([trace.input_ids, trace.step_ends, trace.labels]).encode())
    return digest.hexdigest()[:16]


def _standardise_sample(traces: list[EncodedTrace]) -> list[EncodedTrace]:
    """Traces to measure the states' scale by: several of a question, for they share its prompt; but of
    several questions, for their states are alike. Of questions all over the data the shortest say as
    much as any.
    """
    questions: dict[str, list[EncodedTrace]] = {}
    for trace in traces:
        questions.setdefault(trace.question_key, []).append(trace)
    wanted = max(STANDARDISE_QUESTIONS, round(STANDARDISE_TRACES * len(questions) / len(traces)))
    spaced = list(questions.values())[:: max(1, len(questions) // (6 * wanted))]
    chosen = sorted(spaced, key=lambda group: len(group[0].input_ids))[:wanted]
    return [trace for group in chosen for trace in group[: -(-STANDARDISE_TRACES // len(chosen))]]


def _padded_labels(traces: list[EncodedTrace]) -> np.ndarray:
    return _padded([[IGNORE if y is None else float(y) for y in trace.labels] for trace in traces])


def _padded(rows: list[list[float]]) -> np.ndarray:
    """(n, longest) float64, padded by -100."""
    array = np.full((len(rows), max(map(len, rows))), IGNORE)
    for k, row in enumerate(rows):
        array[k, : len(row)] = row
    return array
