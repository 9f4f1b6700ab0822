"""A small policy guided by a small PRM: greedy, best-of-N, beam, DVTS and particles at equal budgets.

    make quickstart
    python benchmarks/guided_decoding.py --train
    python benchmarks/guided_decoding.py

With `--minutes 4` each stops after four, and goes on where it stopped when it is run again.

The PRM is the quickstart's, which has seen neither the starter corpus' held-out databases nor a question on
them. SmolLM2-135M writes no right step untaught, and after being taught on other questions none either (it
invents columns). So it is taught the very questions that it is then asked, by a plain transformers `Trainer`
with LoRA, and not long enough to know them by heart: a policy that is right on some and not on others, as one
worth guiding is. Its prompt names tables and columns alone, which makes it a quarter as long; the PRM reads
the prompt that it was trained on.

Every method may spend the same number of new tokens on a question. That is looked at before each round of
requests, which may pass it; what a method did spend stands in the table.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from prm.errors import InputError
from prm.traces.formats import load_traces
from prm.traces.prompting import prompt_text, shorter_schemas
from prm.traces.trace import Trace

RUN = Path("runs/guided_decoding")
DATA = Path("runs/quickstart/data")
CORPUS = Path("runs/quickstart/corpus/database")


def drawn(n: int, seed: int) -> list[Trace]:
    """The right traces of `n` questions on held-out databases: what the policy is taught, and asked."""
    right = [trace for trace in load_traces(DATA / "test.jsonl") if trace.first_error < 0]
    return Random(seed).sample(right, n)


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
        yield {"input_ids": ids, "labels": [-100] * asked + ids[asked:]}


def _collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """One answer a batch: without padding there is no mask, which makes attention several times as
    fast."""
    import torch

    (row,) = rows
    return {name: torch.tensor([ids]) for name, ids in row.items()}


def train(model: str, *, n_questions: int, dtype: str, epochs: int, minutes: float, seed: int) -> None:
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

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], *_: Any, num_items_in_batch: Any = None, **__: Any
        ) -> Any:
            labels = inputs.pop("labels")[0, 1:]
            hidden = model.get_base_model().model(**inputs, use_cache=False).last_hidden_state[0, :-1]
            logits = model.get_output_embeddings()(hidden[labels >= 0])
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[labels >= 0], reduction="sum")
            return loss / num_items_in_batch  # of the whole optimiser step

    policy = TransformersPolicy(model, Sampling(), dtype=dtype)
    right = drawn(n_questions, seed)
    rows = list(_rows(policy, right))
    tokens = sum(len(row["input_ids"]) for row in rows)
    print(f"{len(rows)} right traces, {tokens:,} tokens an epoch", flush=True)
    arguments = TrainingArguments(
        output_dir=str(RUN / "sft"),
        num_train_epochs=epochs,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
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


# --- searching ----------------------------------------------------------------------------------------------


def measure(n_questions: int, temperature: float, max_tokens: int, prm: str, seed: int) -> dict[str, Any]:
    """Every method on the same questions and budget; what is there already is not done again."""
    from prm.decode import Asked, decode
    from prm.inference.policies import Sampling, TransformersPolicy
    from prm.inference.scoring import Scorer
    from prm.inference.search import Plan

    policy = TransformersPolicy(str(RUN / "policy"), Sampling(temperature, 1.0, 256), batch_size=64)
    questions = [
        Asked(
            {
                "id": trace.group,
                "question": trace.question,
                "db_id": trace.db_id,
                "schema": trace.schema,
                "gold_sql": trace.gold_sql,
                "policy_prompt": policy_prompt(trace),
            },
            CORPUS / str(trace.db_id) / f"{trace.db_id}.sqlite",
        )
        for trace in drawn(n_questions, seed)
    ]
    scorer = Scorer.from_pretrained(prm)
    plans = {
        "greedy": Plan("greedy"),
        "best-of-8": Plan("best-of-n", n=8),
        "beam, width 4": Plan("beam", n=8, beam_width=4),
        "DVTS, width 4": Plan("dvts", n=8, beam_width=4),
        "particles": Plan("particles", n=8),
    }
    found = {}
    for name, plan in plans.items():
        plan = replace(plan, max_tokens=max_tokens, max_steps=10, seed=seed)
        files = RUN / f"{n_questions}-{max_tokens}-{temperature}"
        stem = name.split(",")[0].lower()
        with suppress(InputError):  # no method is bound to find anything
            decode(
                questions, policy, scorer, files / f"{stem}.jsonl", plan, prm_name=Path(prm).name,
                trees=files / f"{stem}.trees.jsonl", report=files / f"{stem}.html",
            )  # fmt: skip
        found[name] = json.loads((files / f"{stem}.jsonl.stats.json").read_text(encoding="utf-8"))
    return found


def show(found: dict[str, Any]) -> None:
    """The table, and `RUN/results.json`."""
    print("| method | chosen | 95 % interval | majority | weighted | any right | tokens | PRM steps |")
    print("|---|---|---|---|---|---|---|---|")
    for name, s in found.items():
        last = list(s["accuracy_at"]["naive"])[-1]
        low, high = s["accuracy_ci"]
        votes = " | ".join(f"{s['accuracy_at'][vote][last]:.3f}" for vote in ("majority", "weighted", "any"))
        print(
            f"| {name} | {s['accuracy']:.3f} | {low:.3f} – {high:.3f} | {votes} "
            f"| {s['tokens_a_question']:.0f} | {s['prm_calls_a_question']:.1f} |"
        )
    (RUN / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="teach the policy; otherwise: search")
    parser.add_argument("--model", default="models/smollm2-135m", help="the policy before it is taught")
    parser.add_argument("--dtype", default="float32", help="to teach in; bfloat16 where the machine has it")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--prm", default="runs/quickstart/checkpoint")
    parser.add_argument("--questions", type=int, default=32, help="how many, drawn by the seed")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--max-tokens", type=int, default=1000, help="new tokens for a question, each method")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="stop after so long; run it again to go on"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.train:
        train(
            args.model, n_questions=args.questions, dtype=args.dtype, epochs=args.epochs,
            minutes=args.minutes, seed=args.seed,
        )  # fmt: skip
        return
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 60 * args.minutes)
    try:
        found = measure(args.questions, args.temperature, args.max_tokens, args.prm, args.seed)
    except KeyboardInterrupt:
        sys.exit("not done; run it again to go on")
    signal.setitimer(signal.ITIMER_REAL, 0)
    show(found)


if __name__ == "__main__":
    main()
