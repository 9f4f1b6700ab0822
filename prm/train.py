"""Train, measure and save a process reward model from a recipe.

    accelerate launch prm/train.py recipes/quickstart.yaml [--key value …]
    prm train recipes/quickstart.yaml                        # the same in one process

A run lives in `output_dir`: `checkpoint-N/` while it trains, `checkpoint/` (what `from_pretrained` loads),
`eval/` (metrics.json, predictions.jsonl, report.html), `tensorboard/`, `features/` of a frozen backbone. Run
the same command again after an interruption and it goes on from the last complete `checkpoint-N`.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script, `prm/` would be on the path and the package would not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from prm.errors import InputError
from prm.jobs.memory import keep_freed_memory


def main(argv: Sequence[str]) -> None:
    from accelerate import PartialState

    run(argv)
    # First the engine around the model, then the process group it speaks through: freed the other way round,
    # it can wait forever for a thread of the group that waits for the interpreter.
    gc.collect()
    PartialState().destroy_process_group()


def run(argv: Sequence[str]) -> None:
    keep_freed_memory()
    import torch
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    # Libraries warn each other of their next versions; whoever trains can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|accelerate|torch")
    if not sys.stderr.isatty():
        disable_progress_bar()

    from prm.evaluation.report import check_labelled
    from prm.modeling.card import describe_traces
    from prm.recipe import given_values, read_recipe
    from prm.traces.overlap import refuse_overlap

    # Recipes and accelerate's files are written for GPUs; without one, say so before devices are set up.
    fallback: list[str] = []
    if not torch.accelerator.is_available():
        _use_every_core()
        # DeepSpeed sees for itself that there is no GPU, but accelerate then needs the backend's name.
        deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        fallback = ["--ddp_backend", "gloo"] if deepspeed else ["--use_cpu", "True"]
    model_config, data, args = read_recipe([*argv, *fallback])
    check_launch(args)
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output_dir {args.output_dir} cannot be made ({error.strerror})") from error

    with args.main_process_first(desc="reading data"):
        train = _load(data.train_data, data)
        dev = _load(data.eval_data, data)
        test = _load(data.test_data, data)
    for name, traces in (("eval_data", dev), ("test_data", test)):
        if traces:
            check_labelled(traces, name)
    if data.max_train_traces is not None:
        train = choose_questions(train, data.max_train_traces, seed=args.seed)
    if not data.allow_overlap:
        refuse_overlap({"train_data": train, "eval_data": dev, "test_data": test})

    set_seed(args.seed)
    trainer = build_trainer(model_config, args, train=train, dev=dev)
    measured = trainer.encoded(test) if test else None  # now: no fault of theirs may show after the training
    trainer.recipe = given_values(argv)
    if measured is not None:
        trainer.described["test_data"] = describe_traces(measured.sources)
    if args.should_log:
        _announce(trainer)
    checkpoint = _resume_from(args)
    start = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=checkpoint)
    # Trainer's own `train_runtime` begins after the features of a frozen backbone are there.
    result.metrics["train_seconds"] = round(time.perf_counter() - start, 2)
    if checkpoint is None or not checkpoint.endswith(f"checkpoint-{trainer.state.global_step}"):
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
    elif args.should_log:
        print("prm: this run had finished training already; measuring it again", flush=True)
    finish(trainer, test=measured)


def _use_every_core() -> None:
    """As many threads as this process has cores. `accelerate launch` sets OMP_NUM_THREADS=1 where nobody has
    set it, which suits a process beside a GPU; without one it would leave all other cores idle."""
    import torch

    if "ACCELERATE_MIXED_PRECISION" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def check_launch(args) -> None:
    """Does this process belong to what the launcher was asked for?

    Raises:
        InputError: other processes or another engine than the command line or file of `accelerate launch`
            named, or more processes than GPUs.
    """
    import torch
    from accelerate import DistributedType

    state, launch = args.distributed_state, _launch_settings()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    mend = "check the file that accelerate launch was given"
    if state.num_processes != processes:
        raise InputError(
            f"launched with {processes} processes, but this one sees {state.num_processes}; {mend}"
        )
    wanted = launch.get("num_processes")
    if wanted is not None and wanted != processes:
        raise InputError(
            f"accelerate launch was asked for {wanted} processes, but started {processes}; for several on a "
            "machine without GPUs give it accelerate_configs/ddp.yaml and no --cpu"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if args.device.type == "cuda" and local > torch.cuda.device_count():
        raise InputError(
            f"launched {local} processes on a machine with {torch.cuda.device_count()} GPUs; give "
            f"accelerate launch --num_processes {torch.cuda.device_count()}"
        )
    asked = "FSDP" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else launch.get("engine")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        asked = "DEEPSPEED"
    if asked == "FSDP" and not torch.accelerator.is_available():
        raise InputError("FSDP needs GPUs, and there is none; take accelerate_configs/ddp.yaml or zero3.yaml")
    if asked == "DEEPSPEED" and state.distributed_type != DistributedType.DEEPSPEED:
        raise InputError(
            f"launched for DeepSpeed, but this process runs {state.distributed_type.value}; {mend}"
        )


def _launch_settings() -> dict[str, Any]:
    """`num_processes` and `engine` that `accelerate launch`, if this process comes from it, was asked for.

    It starts one process where it was asked for two on a CPU, and DDP where FSDP finds no GPU, and hands on
    neither wish: its own command line, that of the parent process, has them.
    """
    import psutil
    from accelerate.commands.config import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    try:
        parent = psutil.Process().parent()
        words, folder = (parent.cmdline(), parent.cwd()) if parent is not None else ([], "")
    except psutil.Error:  # of another user, or gone
        return {}
    start = next(
        (k for k, word in enumerate(words) if word in ("launch", "accelerate.commands.launch")), None
    )
    if start is None or sys.argv[0] not in words[start:] or "accelerate" not in " ".join(words[: start + 1]):
        return {}
    given, _ = launch_command_parser().parse_known_args(words[start + 1 :])
    file = given.config_file or default_config_file
    file = os.path.join(folder, file)
    config = load_config_from_file(file) if os.path.isfile(file) else None
    kind = "NO" if config is None else config.distributed_type.value
    if given.use_deepspeed or (kind == "DEEPSPEED" and not given.multi_gpu):
        kind = "DEEPSPEED"
    elif given.use_fsdp or (kind == "FSDP" and not given.multi_gpu):
        kind = "FSDP"
    return {"num_processes": given.num_processes or (config and config.num_processes), "engine": kind}


def build_trainer(model_config, args, *, train: list, dev: list):
    """The trainer of a recipe.

    Raises:
        InputError: the model cannot be loaded or adapted as the recipe wants, or a package is missing.
    """
    from prm.modeling import ProcessRewardModel
    from prm.training.trainer import PRMTrainer

    try:
        model = ProcessRewardModel.from_backbone(
            model_config.model_name_or_path,
            revision=model_config.model_revision,
            backbone=model_config.backbone,
            quantization_bits=model_config.quantization_bits,
            backbone_layers=model_config.backbone_layers,
            dtype=model_config.dtype,
            attn_implementation=model_config.attn_implementation,
            trust_remote_code=model_config.trust_remote_code,
            head_hidden_size=model_config.head_hidden_size,
            peft_config=model_config.peft_config(),
            loss=args.loss,
        )
        trainer = PRMTrainer(model, args, train_dataset=train, eval_dataset=dev or None)
        # Else a missing package would show only once the features of a frozen backbone are computed.
        PRMTrainer.get_optimizer_cls_and_kwargs(args, model)
    except InputError:
        raise
    except (ValueError, ImportError, OSError, RuntimeError) as error:  # libraries' words about the settings
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"this training cannot be set up: {reason}") from error
    return trainer


def finish(trainer, *, test) -> None:
    """Temperature and threshold from the dev traces, the final checkpoint, then the measurement of `test`
    (encoded traces; None: those of the dev split).
    """
    from prm.evaluation.report import evaluate_traces, print_metrics
    from prm.modeling.card import keep_metrics, write_card

    args, output, dev = trainer.args, Path(trainer.args.output_dir), trainer.eval_dataset
    if dev is not None:
        trainer.calibrate(dev)
    folder = trainer.save_final(output / "checkpoint")
    measured = dev if test is None else test
    start = time.perf_counter()
    scored = None if measured is None else trainer.scored(measured)
    if scored:
        trainer.save_metrics(
            "score", {"traces": len(scored), "score_seconds": round(time.perf_counter() - start, 2)}
        )
    if args.should_save:
        if scored:
            config = trainer.accelerator.unwrap_model(trainer.model).config
            metrics = evaluate_traces(
                scored,
                output / "eval",
                threshold=config.threshold,
                threshold_from=config.threshold_from
                + (", which is what is measured here" if test is None else ""),
                position_means=config.position_means,
                model=str(folder),
            )
            keep_metrics(folder, metrics, split="eval_data" if test is None else "test_data")
            write_card(folder)
            print_metrics(metrics, output / "eval")
        print(f"checkpoint   {folder}", flush=True)
        if trainer.tensorboard is not None:
            print(f"tensorboard  {trainer.tensorboard.folder(args)}", flush=True)
        if args.push_to_hub:
            print(f"pushed to    {trainer.push_folder(folder)}", flush=True)


def _resume_from(args) -> str | None:
    """The checkpoint to go on from: the named one, else the last complete one of `output_dir`, if any."""
    from prm.training.trainer import last_complete_checkpoint

    wish = (args.resume_from_checkpoint or "true").lower()
    if wish not in ("true", "false"):
        return args.resume_from_checkpoint
    last = last_complete_checkpoint(args.output_dir, clean=args.should_save)
    if last is not None and wish == "false":
        raise InputError(
            f"resume_from_checkpoint: false, but {last} exists; remove it or give another output_dir"
        )
    return last


def choose_questions(traces: list, limit: int, *, seed: int) -> list:
    """Whole questions in a seeded order, each that still fits, up to `limit` traces."""
    groups: dict[str, list] = {}
    for trace in traces:
        groups.setdefault(trace.question_key, []).append(trace)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    chosen: list = []
    for group in order:
        if len(chosen) + len(group) <= limit:
            chosen += group
    if traces and not chosen:
        raise InputError(f"max_train_traces={limit} is less than any question has; raise it")
    return chosen


def _load(sources: list[str], data) -> list:
    from prm.traces.formats import load_traces

    return load_traces(sources, labels=data.labels, on_bad_rows=data.on_bad_rows) if sources else []


def _announce(trainer) -> None:
    from prm.modeling.sharding import size_of

    trainable = sum(size_of(p) for p in trainer.model.parameters() if p.requires_grad)
    total = sum(size_of(p) for p in trainer.model.parameters())
    engine = trainer.accelerator.distributed_type.value
    if engine == "DEEPSPEED":
        plugin = trainer.accelerator.state.deepspeed_plugin
        offload = (
            plugin.deepspeed_config["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
        )
        engine += f" ZeRO-{plugin.zero_stage}" + ("" if offload == "none" else f" offloaded to {offload}")
    print(
        f"prm: {trainer.args.world_size} process(es) on {trainer.args.device.type}, "
        f"{engine}; {trainer.model.config.backbone} backbone, "
        f"{trainable:,} of {total:,} parameters learn; "
        f"{len(trainer.train_dataset):,} traces",
        flush=True,
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":  # every process has met the same
            print(f"prm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("prm: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
