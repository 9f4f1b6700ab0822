"""Engines, ways to train and numbers of processes side by side: the same losses, what they cost.

    python benchmarks/engines.py --output runs/engines
    python benchmarks/engines.py --weights models/smollm2-135m

Every run trains the same questions by the same global batches, as a user would launch it: `accelerate launch`
with a file of `accelerate_configs/`, on CPU processes over gloo where there is no GPU. Each line of the table
says how far the losses are from those of one process (the largest relative difference over all steps), how
large the checkpoint is, how long the launch took and the largest resident memory of a process. qlora is
compared with qlora: its base is rounded; ZeRO-3 would shard that base, and is refused.

--weights prints what the weights of a model take in memory under lora and qlora instead.
Without --model a small random Qwen2 is made (2 layers of width 128).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: engine, processes, modes; of each mode the first line is what the others are compared with
RUNS = [
    ("single", 1, ("frozen", "lora", "full", "qlora-4", "qlora-8")),
    ("ddp", 2, ("frozen", "lora", "full", "qlora-4")),
    ("zero2", 2, ("frozen", "lora", "full", "qlora-4")),
    ("zero3", 2, ("frozen", "lora", "full")),
]
#: A process of the launch writes its largest resident memory when it ends.
MEASURED = """
import atexit, os, resource, runpy, sys
sys.argv = sys.argv[1:]
peak, script = sys.argv[0], sys.argv[1]
sys.argv = sys.argv[1:]
def write():
    with open(f"{peak}-{os.environ.get('RANK', '0')}", "w") as file:
        file.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
atexit.register(write)
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


def small_model(folder: Path) -> Path:
    """A random Qwen2 with the starter model's way of making tokens out of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

    if (folder / "config.json").exists():
        return folder
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    files = sorted((ROOT / "examples/starter").rglob("*.py"))
    tokenizer.train_from_iterator([file.read_text(encoding="utf-8") for file in files], trainer)
    special = {"eos_token": "<|end|>", "pad_token": "<|end|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=2000, hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.05, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def launch(engine: str, processes: int, mode: str, folder: Path, arguments: list[str]) -> dict:
    backbone, _, bits = mode.partition("-")
    output = folder / f"{engine}-{processes}-{mode}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    measured = folder / "measured.py"
    measured.write_text(MEASURED)
    words = [
        "--config_file",
        str(ROOT / f"accelerate_configs/{engine}.yaml"),
        "--num_processes",
        str(processes),
    ]
    words += [
        "--main_process_port",
        str(port),
        str(measured),
        str(output) + ".peak",
        str(ROOT / "prm/train.py"),
    ]
    words += [str(folder / "recipe.yaml"), "--backbone", backbone, "--output_dir", str(output), *arguments]
    words += ["--per_device_train_batch_size", str(8 // processes)]
    words += ["--quantization_bits", bits] if bits else []
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{engine}, {mode}:\n{done.stderr[-4000:]}")
    log = json.loads((output / "checkpoint/trainer_state.json").read_text())["log_history"]
    weights = [f.stat().st_size for f in (output / "checkpoint").rglob("*.safetensors")]
    (said,) = (
        line for line in done.stdout.splitlines() if line.startswith("prm: ") and "process(es)" in line
    )
    return {
        "engine": engine, "processes": processes, "mode": mode, "said": said,
        "losses": [entry["loss"] for entry in log if "loss" in entry],
        "eval_losses": [entry["eval_loss"] for entry in log if "eval_loss" in entry],
        "checkpoint_bytes": sum(weights), "seconds": round(seconds, 1),
        "train_seconds": json.loads((output / "train_results.json").read_text())["train_seconds"],
        "peak_bytes": [int(Path(f"{output}.peak-{rank}").read_text()) for rank in range(processes)],
    }  # fmt: skip


def weights_in_memory(model: str) -> None:
    """Bytes of all tensors that make up the weights: parameters, buffers, and scales of quantised ones."""
    from peft import LoraConfig

    from prm.modeling import ProcessRewardModel

    for mode, bits in (("lora", 4), ("qlora", 4), ("qlora", 8)):
        prm = ProcessRewardModel.from_backbone(
            model,
            backbone=mode,
            quantization_bits=bits,
            peft_config=LoraConfig(r=16, target_modules="all-linear"),
        )
        found = [*prm.parameters(), *prm.buffers()]
        for weight in prm.parameters():
            state = getattr(weight, "quant_state", None)  # of 4 bits
            if state is not None:
                found += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
            found.append(getattr(weight, "SCB", None))  # of 8 bits
        sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found if t is not None}
        bits_of = f" {bits} bits" if mode == "qlora" else ""
        print(f"{mode}{bits_of}: {sum(sizes.values()) / 2**20:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a base model; default: a small random one")
    parser.add_argument("--data", help="traces to train on (default: those of make quickstart)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--engines", nargs="+", default=[engine for engine, *_ in RUNS])
    parser.add_argument("--modes", nargs="+", default=["frozen", "lora", "full", "qlora-4", "qlora-8"])
    parser.add_argument("--weights", metavar="MODEL", help="only show what the weights of this model take")
    parser.add_argument("--output", default=ROOT / "runs/engines", type=Path)
    options = parser.parse_args()
    if options.weights:
        weights_in_memory(options.weights)
        return
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model = options.model or small_model(folder / "model")
    data = Path(options.data or ROOT / "runs/quickstart/data/train.jsonl").resolve()
    lines = Path(data).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "dev.jsonl").write_text("".join(lines[-5:]), encoding="utf-8")  # an odd number to be measured
    (folder / "recipe.yaml").write_text(
        f"model_name_or_path: {Path(model).resolve()}\ntrain_data: {data}\n"
        f"eval_data: {folder / 'dev.jsonl'}\nallow_overlap: true\n"
        f"max_steps: {options.steps}\nmax_train_traces: 24\nmax_length: 512\n"
        "eval_strategy: 'no'\nsave_strategy: 'no'\n"
        "learning_rate: 1e-4\nlr_scheduler_type: constant\nmax_tokens_per_batch: 2048\nreport_to: none\n"
        "disable_tqdm: true\n"
    )
    results = []
    for engine, processes, modes in RUNS:
        for mode in modes if engine in options.engines else ():
            if mode not in options.modes:
                continue
            line = launch(engine, processes, mode, folder, [])
            results.append(line)
            first = next(one for one in results if one["mode"] == mode)
            line["largest_difference"] = max(
                abs(a - b) / abs(a) for a, b in zip(first["losses"], line["losses"], strict=True)
            )
            print(
                f"{engine:7} {processes} {mode:8} loss {line['losses'][0]:.4f} -> "
                f"{line['losses'][-1]:.4f}, off by {line['largest_difference']:.1e}; "
                f"{line['checkpoint_bytes'] / 1e6:.2f} MB; {line['seconds']} s; "
                f"{max(line['peak_bytes']) / 2**20:.0f} MiB",
                flush=True,
            )
            (folder / "engines.json").write_text(json.dumps(results, indent=1))
    columns = ("engine", "processes", "mode", "losses off by", "checkpoint, MB", "launch, s", "training, s")
    print("\n| " + " | ".join((*columns, "peak, MiB")) + " |")
    print("|---|---|---|---|---|---|---|---|")
    for line in results:
        print(
            f"| {line['engine']} | {line['processes']} | {line['mode']} | {line['largest_difference']:.0e} | "
            f"{line['checkpoint_bytes'] / 1e6:.2f} | {line['seconds']:.0f} | {line['train_seconds']:.1f} | "
            f"{max(line['peak_bytes']) / 2**20:.0f} |"
        )
    print(f"\n{folder / 'engines.json'}")


if __name__ == "__main__":
    main()
