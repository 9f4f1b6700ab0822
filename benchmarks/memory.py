"""`prm plan` beside measured memory: real training steps, each setting in a process of its own.

    python benchmarks/memory.py --model models/smollm2-135m --output memory.json [--only lora]

A process first trains a tiny model in the same way, so that every library is loaded and warm; what it holds
then, with the tokenizer and the traces, is the baseline. It goes on to train the setting for two optimiser
steps of two forwards each, through `PRMTrainer`, on traces of random words that fill the token budget: a
prompt and three answers to it, which make one token tree, or two rows. Measured is the highest resident
memory of training less the baseline (`VmHWM`, reset when the model is there: while it is read, the mapped
file counts as resident, too). Freed blocks go back to the system at once (`MALLOC_MMAP_THRESHOLD_`), and each
weight is read once before training: of a mapped file only those rows of the embeddings would be resident
that the traces' words need. The plan's figure is that of one process on a CPU without its reserve.

Two more models are random ones, made on the spot: one of Qwen2's shape (grouped keys, biases), and a small
one for the tests. `--model` gives the tokenizer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: name, model, backbone, dtype, bf16, checkpointing, attention, tokens a forward
SETTINGS: list[tuple[str, str, str, bool, bool, str | None, int]] = [
    ("small", "lora", "float32", False, False, None, 512),
    ("qwen2", "lora", "float32", False, False, None, 512),
    ("smollm2", "lora", "float32", False, False, None, 256),
    ("smollm2", "full", "float32", False, False, None, 256),
    ("smollm2", "lora", "bfloat16", True, False, None, 1024),
    ("smollm2", "lora", "float32", False, True, None, 512),
    ("smollm2", "frozen", "bfloat16", False, False, None, 4096),
    ("smollm2", "qlora", "bfloat16", True, False, None, 512),
    ("smollm2", "full", "float32", True, False, None, 512),
    ("qwen2", "full", "float32", True, True, None, 512),
    ("smollm2", "lora", "float32", False, False, "sdpa", 256),
    ("smollm2", "lora", "float32", False, False, "eager", 256),
    ("smollm2", "lora", "bfloat16", False, False, None, 512),
    ("smollm2", "full", "float32", False, True, None, 256),
    ("smollm2", "full", "bfloat16", False, False, None, 512),
    ("qwen2", "lora", "bfloat16", True, True, None, 1024),
    ("qwen2", "full", "float32", False, False, None, 256),
    ("smollm2", "frozen", "float32", False, False, None, 1024),
    ("smollm2", "lora", "float32", False, False, None, 512),
    ("smollm2", "lora", "float32", False, False, None, 1024),
]
KEYS = ("model", "backbone", "dtype", "bf16", "activation_checkpointing", "attn_implementation", "tokens")


def resident(key: str) -> int:
    """`VmRSS` (now) or `VmHWM` (highest), in bytes."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(key))


def traces(encoder: Any, length: int, branches: int, questions: int) -> list[Any]:
    """For each question so many traces of as nearly `length` tokens as may be, the first half of them the
    shared prompt."""
    from prm import Step, Trace

    words = ["table", "column", "singer", "year", "count", "rows", "where", "group", "name", "country"]

    def trace(question: int, branch: int, n: int) -> Trace:
        prompt = random.Random(question).choices(words, k=n // 2)
        answer = random.Random(1000 * question + branch + 1).choices(words, k=n // 2)
        size = max(1, n // 16)
        steps = [Step(" ".join(answer[i : i + size]), 1) for i in range(0, n // 2, size)]
        return Trace(f"{question} {' '.join(prompt)}", steps, group=str(question))

    low, high = 16, 2 * length
    while high - low > 1:
        middle = (low + high) // 2
        fits = len(encoder.encode([trace(0, 0, middle)], drop_long=False)[0].input_ids) <= length - 2
        low, high = (middle, high) if fits else (low, middle)
    return [trace(question, branch, low) for question in range(questions) for branch in range(branches)]


def train(setting: dict[str, Any], folder: str, length: int, tokenizer: Any) -> tuple[Any, Any]:
    """Two optimiser steps of two forwards; returns the sections of the recipe."""
    from prm.modeling import ProcessRewardModel
    from prm.recipe import read_recipe
    from prm.traces.encoding import Encoder
    from prm.training.trainer import PRMTrainer

    # A tree of a prompt and three answers, each as long; or rows.
    branches = 3 if setting["attn_implementation"] is None else setting["tokens"] // length
    argv = ["--model_name_or_path", setting["folder"], "--train_data", "-", "--output_dir", folder]
    options = {
        "backbone": setting["backbone"],
        "dtype": setting["dtype"],
        "bf16": setting["bf16"],
        "activation_checkpointing": setting["activation_checkpointing"],
        "max_length": length,
        "max_completion_length": length * 3 // 4,
        "max_tokens_per_batch": setting["tokens"],
        "per_device_train_batch_size": 2 * branches,
        "max_steps": 2,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if setting["attn_implementation"] is not None:
        options["attn_implementation"] = setting["attn_implementation"]
    model, _, args = read_recipe([*argv, *(f"--{key}={value}" for key, value in options.items())])
    encoder = Encoder(tokenizer, max_length=length, max_completion_length=length * 3 // 4)
    data = traces(encoder, length, branches, questions=4)
    prm = ProcessRewardModel.from_backbone(
        model.model_name_or_path,
        backbone=model.backbone,
        quantization_bits=model.quantization_bits,
        dtype=model.dtype,
        attn_implementation=model.attn_implementation,
        peft_config=model.peft_config(),
    )
    trainer = PRMTrainer(prm, args, train_dataset=data, processing_class=tokenizer)
    for weight in prm.parameters():
        weight.detach().view(-1)[::1024].sum()  # touches every page
    give_back()
    Path("/proc/self/clear_refs").write_text("5")  # the highest is what is resident now
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    return model, args


def give_back() -> None:
    """Freed memory goes back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def measure(setting: dict[str, Any], tiny: str) -> dict[str, Any]:
    """In a process of its own: the highest memory of training beyond what a tiny training leaves."""
    import torch

    from prm.modeling.process_reward_model import load_tokenizer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    length = setting["tokens"] // 2
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(tiny)
        train(setting | {"folder": tiny, "tokens": 128}, f"{folder}/tiny", 64, tokenizer)
        give_back()
        before = resident("VmRSS")
        model, args = train(setting, f"{folder}/run", length, tokenizer)
        highest = resident("VmHWM") - before
    from prm.modeling.planning import plan

    figures = plan(model, args, memory=1 << 50, device="cpu", others=False, search=False).engines[0]
    planned = figures.total - figures.reserve
    return {"measured": highest, "planned": planned, "ratio": planned / highest}


def tiny_model(folder: Path, tokenizer: str, **settings: Any) -> str:
    """A random causal LM with somebody's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    kind = settings.pop("kind")
    words = AutoTokenizer.from_pretrained(tokenizer)
    config = AutoConfig.for_model(kind, vocab_size=len(words), max_position_embeddings=8192, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/smollm2-135m")
    parser.add_argument("--output", default="memory.json")
    parser.add_argument("--only", default="", help="settings whose name holds this text")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no setting after so many")
    parser.add_argument("--setting", help=argparse.SUPPRESS)  # what a process of its own is given
    options = parser.parse_args()
    if options.setting is not None:
        setting = json.loads(options.setting)
        print(json.dumps(measure(setting, setting["tiny"])))
        return
    # Freed blocks go back to the system at once, so that resident memory is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    output, start = Path(options.output), time.monotonic()
    rows = json.loads(output.read_text()) if output.exists() else []  # an interrupted run goes on
    with tempfile.TemporaryDirectory() as folder:
        shape = {"num_attention_heads": 4, "num_key_value_heads": 2}
        tiny = tiny_model(
            Path(folder) / "tiny", options.model, kind="llama", hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, **shape,
        )  # fmt: skip
        qwen2 = tiny_model(
            Path(folder) / "qwen2", options.model, kind="qwen2", hidden_size=512, intermediate_size=2816,
            num_hidden_layers=10, num_attention_heads=8, num_key_value_heads=2,
        )  # fmt: skip
        small = tiny_model(
            Path(folder) / "small", options.model, kind="llama", hidden_size=256, intermediate_size=1024,
            num_hidden_layers=6, **shape,
        )  # fmt: skip
        where = {"smollm2": options.model, "qwen2": qwen2, "small": small}
        for values in SETTINGS:
            setting = dict(zip(KEYS, values, strict=True))
            name = " ".join(
                str(key if value is True else value)
                for key, value in setting.items()
                if value not in (False, None)
            )
            known = any(all(row[key] == value for key, value in setting.items()) for row in rows)
            late = time.monotonic() - start > options.seconds
            if known or late or options.only not in name:
                continue
            told = setting | {"folder": where[setting["model"]], "tiny": tiny}
            run = subprocess.run(
                [sys.executable, __file__, "--setting", json.dumps(told)],
                stdout=subprocess.PIPE, text=True, env=environment,
            )  # fmt: skip
            if run.returncode:
                sys.exit(f"{name}: failed")
            row = setting | json.loads(run.stdout.splitlines()[-1])
            rows.append(row)
            measured, planned = row["measured"] / 2**20, row["planned"] / 2**20
            print(
                f"{name:50} measured {measured:7.0f} MiB, planned {planned:7.0f}, ratio {row['ratio']:.3f}",
                flush=True,
            )
            output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
