"""A small policy guided by a small PRM: greedy, best-of-N, beam, DVTS and particles at equal budgets.

    make quickstart
    python benchmarks/guided_decoding.py --train --minutes 4     # several times: it goes on where it stopped
    python benchmarks/guided_decoding.py --questions 32 --minutes 4

The PRM is the quickstart's, the questions are those of the starter corpus' held-out databases. Untrained,
SmolLM2-135M writes no right step, so it is first taught the form on the right traces of the *train*
databases: a plain transformers `Trainer` with LoRA. Its prompt has the schema without example values, which
makes it a third as long; the PRM reads the prompt that it was trained on.

Every method may spend the same number of new tokens on a question; what it did spend stands in the table.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from prm.traces.formats import load_traces
from prm.traces.prompting import prompt_text, shorter_schemas
from prm.traces.trace import Trace

RUN = Path("runs/guided_decoding")
DATA = Path("runs/quickstart/data")
LONGEST = 400  # tokens of prompt and answer; longer ones are not taught


def policy_prompt(trace: Trace) -> str:
    """Tables with their columns, and the question."""
    bare = next(shorter_schemas(trace.schema or "", trace.question), trace.schema) or ""
    tables = [line for line in bare.splitlines() if not line.startswith("foreign keys:")]
    named = [re.sub(r"(\w+)(?: [A-Z]+)+(?=[,)])", r"\1", line) for line in tables]
    return prompt_text(trace, "\n".join(named))


# --- teaching the policy the form ---------------------------------------------------------------------------


def _rows(policy: Any, traces: list[Trace]) -> Iterator[dict[str, list[int]]]:
    for trace in traces:
        prompt, answer = policy_prompt(trace), "\n\n".join(step.text for step in trace.steps)
        asked = len(policy._ids(prompt, ""))
        ids = [*policy._ids(prompt, answer), policy.tokenizer.eos_token_id]
        if len(ids) <= LONGEST:
            yield {"input_ids": ids, "labels": [-100] * asked + ids[asked:]}


def _collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """One answer a batch: without padding there is no mask, which makes attention several times as
    fast."""
    import torch

    (row,) = rows
    return {name: torch.tensor([ids]) for name, ids in row.items()}


def train(model: str, *, limit: int, epochs: int, minutes: float, seed: int) -> None:
    """Fine-tune, for so many minutes at a time; the last call leaves `RUN/policy`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    from prm.inference.policies import Sampling, TransformersPolicy

    class Clock(TrainerCallback):
        began = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if time.monotonic() - self.began > 60 * minutes:
                control.should_save = control.should_training_stop = True

    class AnswersOnly(Trainer):
        """Logits where there is a label alone: the vocabulary head would take as long as the layers."""

        def compute_loss(self, model: Any, inputs: dict[str, Any], **_: Any) -> Any:
            labels = inputs.pop("labels")[0, 1:]
            hidden = model.get_base_model().model(**inputs, use_cache=False).last_hidden_state[0, :-1]
            logits = model.get_output_embeddings()(hidden[labels >= 0])
            return torch.nn.functional.cross_entropy(logits.float(), labels[labels >= 0])

    policy = TransformersPolicy(model, Sampling(), dtype="bfloat16")
    right = [trace for trace in load_traces(DATA / "train.jsonl") if trace.first_error < 0]
    rows = list(_rows(policy, right))
    Random(seed).shuffle(rows)
    rows = rows[:limit]
    tokens, databases = sum(len(row["input_ids"]) for row in rows), len({trace.db_id for trace in right})
    print(
        f"{len(rows)} of {len(right)} right traces of {databases} databases, {tokens:,} tokens an epoch",
        flush=True,
    )
    arguments = TrainingArguments(
        output_dir=str(RUN / "sft"),
        num_train_epochs=epochs,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        save_strategy="no",
        logging_steps=5,
        seed=seed,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),
    )
    layers = policy.model.config.num_hidden_layers
    lora = LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(layers // 3, layers)),
    )
    adapted = get_peft_model(policy.model, lora)
    trainer = AnswersOnly(adapted, arguments, train_dataset=rows, data_collator=_collate, callbacks=[Clock()])
    last = get_last_checkpoint(str(RUN / "sft")) if (RUN / "sft").is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    if trainer.state.global_step < trainer.state.max_steps:
        print(f"step {trainer.state.global_step} of {trainer.state.max_steps}: run it again to go on")
        return
    adapted.merge_and_unload().save_pretrained(RUN / "policy")
    policy.tokenizer.save_pretrained(RUN / "policy")
    print(f"policy -> {RUN / 'policy'}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="teach the policy; otherwise: search")
    parser.add_argument("--model", default="models/smollm2-135m", help="the policy before it is taught")
    parser.add_argument("--traces", type=int, default=1000, help="that the policy is taught with, at most")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--minutes", type=float, default=4.0, help="stop after so long; run it again to go on"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.train:
        train(args.model, limit=args.traces, epochs=args.epochs, minutes=args.minutes, seed=args.seed)


if __name__ == "__main__":
    main()
