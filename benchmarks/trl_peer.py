"""The peer of benchmarks/spider.py: TRL's PRMTrainer, in the last release that has it, on the same traces.

    python -m venv trl-env && trl-env/bin/pip install torch==2.13.0 trl==1.13.0 transformers==5.23.0 peft
    python benchmarks/spider.py --root data/spider --peer "trl-env/bin/python benchmarks/trl_peer.py"

It stands alone, for its interpreter has not got this package. Trains a two-class token classifier with the
same LoRA (rank 16, all linear layers) and head as TRL's documentation shows, scores each trace in one forward
(the probability of the class "right" at the separator behind each step), and prints one JSON line with the
seconds of both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForTokenClassification, AutoTokenizer
from trl.experimental.prm import PRMConfig, PRMTrainer

SEPARATOR = "\n"


def read(path: str, prompt_field: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(traces, TRL's stepwise rows)."""
    with open(path, encoding="utf-8") as file:
        traces = [json.loads(line) for line in file]
    rows = [
        {
            "prompt": trace[prompt_field],
            "completions": [step["text"] for step in trace["steps"]],
            "labels": [bool(step["label"]) for step in trace["steps"]],
        }
        for trace in traces
    ]
    return traces, rows


@torch.inference_mode()
def score(model: torch.nn.Module, tokenizer: Any, row: dict[str, Any]) -> list[float]:
    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    tokens = ([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]) + ids(row["prompt"])
    ends = []
    for step in row["completions"]:
        tokens += ids(step) + ids(SEPARATOR)
        ends.append(len(tokens) - 1)
    logits = model(input_ids=torch.tensor([tokens])).logits[0].float()
    return logits[ends].softmax(-1)[:, 1].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "train", "eval", "scores", "prompt-field"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--mode", choices=["lora"], default="lora")
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fp32", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    trainer = PRMTrainer(
        model=AutoModelForTokenClassification.from_pretrained(args.model, num_labels=2, dtype=torch.float32),
        args=PRMConfig(
            output_dir=tempfile.mkdtemp(),
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch,
            learning_rate=args.lr,
            max_length=args.max_length,
            step_separator=SEPARATOR,
            bf16=not args.fp32,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            seed=args.seed,
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(read(args.train, args.prompt_field)[1]),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="TOKEN_CLS", modules_to_save=["score"]
        ),
    )
    tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
    start = time.perf_counter()
    trainer.train()
    trained = time.perf_counter() - start

    traces, rows = read(args.eval, args.prompt_field)
    model = trainer.model.eval()
    start = time.perf_counter()
    with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=not args.fp32):
        for trace, row in zip(traces, rows, strict=True):
            trace["scores"] = score(model, tokenizer, row)
    scored = time.perf_counter() - start
    with open(args.scores, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(trace) + "\n" for trace in traces)
    print(json.dumps({"train_s": trained, "score_s": scored, "tokens": tokens, "scored": len(traces)}))


if __name__ == "__main__":
    main()
