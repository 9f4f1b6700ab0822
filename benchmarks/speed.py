"""How fast: training, features, scoring and guided scoring, beside plain rows and the hardware's limit.

    python benchmarks/speed.py [--quick] [--root SPIDER_FOLDER] --json FILE [--plot docs/speed.svg]
        [--works scoring incremental lora frozen growth] [--dtypes float32 bfloat16] [--default-malloc]
        [--peer "trl-env/bin/python trl_prm_peer.py"] [--predictions PREDICTIONS.jsonl] [--questions 48]

Every figure is measured in a process of its own, the two sides of a row one right after the other.

* *Ours* is the toolkit as it is: token trees, kept features, branches.
* *plain* is what a careful user would write: one sequence a trace, by transformers' sdpa, in batches sorted
  by length; a frozen backbone runs in every epoch; each prefix is scored anew. Same model, data,
  precision, and the same products with frozen weights (`prm.modeling.products`).
* *TRL* is its last PRMTrainer, by a peer script with the command line of `benchmarks/trl_peer.py` (and
  `--mode frozen`), in an interpreter that has it. In bfloat16 it keeps float32 weights under autocast, as it
  is used; ours and plain keep bfloat16 weights.
* The *limit* is the number of distinct tokens by the best rate at which this backbone reads any plain batch
  (forward, or with LoRA forward and backward): what computes every token once cannot be faster. It is
  measured anew between the two sides of a row, for the speed of a shared machine moves; each batch is
  repeated for seconds, as the sides take seconds, and not its luckiest moment taken. The batches are of 64
  or 128 tokens a row, where attention costs next to nothing. Under a long prompt it does not: *with
  attention* is the limit plus the arithmetic of each token's attention to its ancestors, at the speed that
  the best batch's linear layers run at.

*Repeats* says how often the rows hold each distinct token: sharing alone makes it that many times as fast as
rows that cost the same a token. A frozen backbone that is read once, not in each of five epochs, gains five
times that.

`growth` is how scoring gains with the traces of a question and with the length of the prompt, in float32,
which every machine computes at full speed.

Without `--root` the starter corpus is used. Traces come from `prm build`: errors and rewrites of gold.
With `--predictions` (answers of real systems to the dev questions of `--root`, in the form that
`benchmarks/rerank_spider.py` describes, with `correct` besides) training takes the distinct answers to a
question, each as one step, as a pool of candidates has them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prm.jobs.memory import M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD, SETTINGS
from prm.sql.schema import read_schema, schema_text
from prm.traces.formats import load_traces, rows_of, write_traces
from prm.traces.trace import Step, Trace

MODEL = "models/smollm2-135m"
#: What `prm.jobs.memory` sets for our commands, in the form that TRL's process can be given, too.
MALLOC = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_TRIM_THRESHOLD_": str(SETTINGS[M_TRIM_THRESHOLD]),
    "MALLOC_TOP_PAD_": str(SETTINGS[M_TOP_PAD]),
    "MALLOC_MMAP_THRESHOLD_": str(SETTINGS[M_MMAP_THRESHOLD]),
}
WORKS = ("scoring", "incremental", "lora", "frozen", "growth")
DTYPES = ("float32", "bfloat16")
BATCH = 8  # traces of an optimiser step, ours and TRL's
PREFIXES = {"steps": 8, "branches": 4}
RATE_SECONDS = 3.0  # of each batch shape that the limit is measured by
COLUMNS = (
    "work", "against", "dtype", "prompt tokens", "traces a question", "s", "other s", "ratio", "repeats",
    "of limit", "with attention", "peak MiB", "other MiB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer traces and shapes; within 15 minutes")
    parser.add_argument("--root", help="Spider folder; default: the starter corpus")
    parser.add_argument("--predictions", type=Path, help="train on these answers, instead of built traces")
    parser.add_argument("--questions", type=int, help="that is trained on; default: 12, of --quick 2")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, help="only these rows")
    parser.add_argument("--plot", type=Path, help="an SVG file: the growth, drawn")
    parser.add_argument("--peer", help="command of the TRL peer: its interpreter and script")
    parser.add_argument("--default-malloc", action="store_true", help="memory as glibc handles it by itself")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one measurement, in this process
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(json.loads(args.measure))))
        return
    if args.json is None:
        parser.error("--json FILE is missing")
    if args.predictions and not args.root:
        parser.error("--predictions: --root is missing, the folder of their questions and databases")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        rows = list(bench.rows())
    report = {"machine": machine(), "model": args.model, "rows": rows}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        plot(rows, args.plot)


class Bench:
    """The measurements of one call of the benchmark."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        needed = not args.predictions or {*args.works} - {"lora", "frozen"}
        self.questions = built(args.root, folder, limit=60 if args.quick else 300) if needed else []
        self.answers = answered(Path(args.root), args.predictions) if args.predictions else self.questions
        print("|", " | ".join(COLUMNS), "|\n" + "|---" * len(COLUMNS) + "|", flush=True)

    def rows(self) -> Iterator[dict[str, Any]]:
        works, few = self.args.works, self.args.quick
        for dtype in self.args.dtypes:
            if "scoring" in works:
                yield from self.race("scoring", dtype, questions=2 if few else 6, traces=16, prompt=500)
            if "incremental" in works:
                yield from self.race("incremental", dtype, questions=2 if few else 4, traces=1, prompt=500)
            for work in ("lora", "frozen"):
                if work in works:
                    yield from self.race(
                        work, dtype, questions=self.args.questions or (2 if few else 12), traces=8
                    )
        if "growth" in works:
            for traces in (1, 4, 16) if few else (1, 2, 4, 8, 16, 32):
                questions = max(1, 16 // traces)
                yield from self.race("scoring", "float32", questions=questions, traces=traces, prompt=500)
            for prompt in (200, 1000) if few else (200, 1000, 2000, 4000):
                yield from self.race("scoring", "float32", questions=1, traces=8, prompt=prompt)

    def race(
        self, work: str, dtype: str, *, questions: int, traces: int, prompt: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows of one work: against plain, and against TRL where it does such work."""
        data = self.folder / f"{work}-{questions}-{traces}-{prompt}.jsonl"
        if not data.exists():
            write_traces(self.choose(work, questions, traces, prompt), data)
        spec = {"work": work, "dtype": dtype, "model": self.args.model, "data": str(data), "rows": False}
        kind = "lora" if work == "lora" else "forward"
        ours = self.run(spec)
        rate = self.run({"work": "rate", "kind": kind, "dtype": dtype, "model": self.args.model})
        plain = self.run(spec | {"rows": True})
        limit = ours["distinct_tokens"] / rate["tokens_per_second"]
        per_pair = rate["flops_per_pair"] / rate["flops_per_token"]
        row = {
            "work": work,
            "against": "plain",
            "dtype": dtype,
            "prompt_tokens": ours["prompt_tokens"],
            "traces_per_question": traces,
            "traces": ours["traces"],
            "tokens": ours["tokens"],
            "distinct_tokens": ours["distinct_tokens"],
            "repeats": ours["tokens"] / ours["distinct_tokens"],
            "seconds": ours["seconds"],
            "other_seconds": plain["seconds"],
            "limit_seconds": limit,
            "attention_seconds": limit * per_pair * ours["pairs"] / ours["distinct_tokens"],
            "peak_mib": ours["peak_mib"],
            "other_peak_mib": plain["peak_mib"],
        }
        yield finished(row)
        if self.args.peer and work in ("lora", "frozen") and traces == BATCH:
            peer = self.peer(work, dtype, data)
            yield finished(row | {"against": "TRL", **peer})

    def choose(self, work: str, questions: int, traces: int, prompt: int | None) -> list[Trace]:
        """So many traces of so many questions, under prompts of at least `prompt` tokens."""
        questions_of = self.answers if work in ("lora", "frozen") else self.questions
        wanted = [group for group in questions_of if len(group) >= traces]
        # The schemas of the largest row are those of the smallest, too: questions are taken in one order.
        chosen = [trace for group in wanted[:questions] for trace in group[:traces]]
        if len(chosen) < questions * traces:
            raise SystemExit(f"only {len(wanted)} questions have {traces} traces; build more")
        if work == "incremental":
            chosen = [replace(trace, steps=steps_to_take(self.questions, trace)) for trace in chosen]
        return chosen if prompt is None else lengthened(chosen, self.questions, prompt, self.args.model)

    def run(self, spec: dict[str, Any]) -> dict[str, Any]:
        return self.report_of([sys.executable, __file__, "--measure", json.dumps(spec)])

    def peer(self, work: str, dtype: str, data: Path) -> dict[str, Any]:
        """What TRL's trainer takes for the same rows: same prompt text, batch, epochs, precision."""
        with_prompts = data.with_suffix(".prompts.jsonl")
        if not with_prompts.exists():
            from prm.traces.prompting import prompt_text

            rows = [trace.to_dict() | {"prompt": prompt_text(trace)} for trace in load_traces(data)]
            with_prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        words = {
            "model": self.args.model, "train": with_prompts, "prompt-field": "prompt", "mode": work,
            "lr": 1e-4, "epochs": epochs(work), "batch": BATCH, "max-length": 8192,
        }  # fmt: skip
        command = [*shlex.split(self.args.peer), *(w for k, v in words.items() for w in (f"--{k}", str(v)))]
        command += ["--fp32"] if dtype == "float32" else []
        # The peak is that of the peer's own process.
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        seconds = self.report_of(command)["train_s"]
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return {"other_seconds": seconds, "other_peak_mib": round(peak / 1024) if peak > before else None}

    def report_of(self, command: Sequence[str]) -> dict[str, Any]:
        """The JSON object that a measuring command prints last."""
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | ({} if self.args.default_malloc else MALLOC),
        )
        return json.loads(done.stdout.strip().splitlines()[-1])


def finished(row: dict[str, Any]) -> dict[str, Any]:
    row |= {
        "ratio": row["other_seconds"] / row["seconds"],
        "share_of_limit": row["limit_seconds"] / row["seconds"],
        "share_with_attention": (row["limit_seconds"] + row["attention_seconds"]) / row["seconds"],
    }
    row = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
    cells = [
        row["work"], row["against"], row["dtype"], row["prompt_tokens"], row["traces_per_question"],
        f"{row['seconds']:.1f}", f"{row['other_seconds']:.1f}", f"{row['ratio']:.1f}x",
        f"{row['repeats']:.1f}",
        f"{row['share_of_limit']:.0%}", f"{row['share_with_attention']:.0%}", row["peak_mib"],
        row["other_peak_mib"],
    ]  # fmt: skip
    print("|", " | ".join(map(str, cells)), "|", flush=True)
    return row


def epochs(work: str) -> int:
    return 5 if work == "frozen" else 1


# --- data ---


def built(root: str | None, folder: Path, limit: int) -> list[list[Trace]]:
    """Traces of each question, in a seeded order of the questions; up to 32 of each."""
    if root is None:
        root = str(folder / "corpus")
        subprocess.run([sys.executable, "examples/starter/make.py", "--output", root], check=True)
    output = folder / "built.jsonl"
    words = ["--layout", "spider", "--root", root, "--split", "train", "--output", str(output)]
    words += [
        "--right-per-question",
        "8",
        "--wrong-per-question",
        "32",
        "--limit",
        str(limit),
        "--workers",
        "2",
    ]
    subprocess.run(
        [sys.executable, "-m", "prm.cli", "build", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    groups: dict[str, list[Trace]] = {}
    for trace in load_traces(output):
        groups.setdefault(trace.question_key, []).append(trace)
    return shuffled(groups)


def answered(root: Path, predictions: Path) -> list[list[Trace]]:
    """The distinct answers to each dev question, SQL as its only step, in a seeded order of the questions."""
    entries = json.loads((root / "dev.json").read_text(encoding="utf-8"))
    asked = {str(entry.get("id", f"dev_{number:04d}")): entry for number, entry in enumerate(entries)}
    schemas = {
        db: read_schema(root / "database" / db / f"{db}.sqlite") for db in {e["db_id"] for e in entries}
    }
    groups: dict[str, list[Trace]] = {}
    for _, row in rows_of(predictions):
        entry, group = asked[row["id"]], groups.setdefault(row["id"], [])
        step = Step(" ".join(row["sql"].split()), int(row["correct"]))
        if step not in (trace.steps[0] for trace in group):
            schema = schema_text(schemas[entry["db_id"]], entry["question"])
            group.append(
                Trace(entry["question"], [step], group=row["id"], db_id=entry["db_id"], schema=schema)
            )
    return shuffled(groups)


def shuffled(groups: dict[str, list[Trace]]) -> list[list[Trace]]:
    questions = list(groups.values())
    random.Random(0).shuffle(questions)
    for group in questions:
        random.Random(0).shuffle(group)  # right and wrong ones, near and far ones
    return questions


def lengthened(
    traces: Sequence[Trace], questions: Sequence[list[Trace]], tokens: int, model: str
) -> list[Trace]:
    """Schemas with tables of other databases, until a prompt has so many tokens, as warehouses have them; of
    schemas that are too long the last tables go."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    others = list(dict.fromkeys(line for group in questions for line in (group[0].schema or "").splitlines()))
    longer: dict[str, str] = {}
    for trace in traces:
        if trace.schema in longer:
            continue
        lines = list(dict.fromkeys([*(trace.schema or "").splitlines(), *others]))
        size, kept = 0, []
        for line in lines:
            size += len(tokenizer(line + "\n")["input_ids"])
            kept.append(line)
            if size >= tokens:
                break
        longer[trace.schema or ""] = "\n".join(kept)
    return [replace(trace, schema=longer[trace.schema or ""]) for trace in traces]


def steps_to_take(questions: Sequence[list[Trace]], trace: Trace) -> list[Step]:
    """Steps for a search over this question: those of its traces, then of others, each once."""
    group = next(g for g in questions if g[0].question_key == trace.question_key)
    texts = dict.fromkeys(step.text for t in [*group, *(g[0] for g in questions)] for step in t.steps)
    return [Step(text) for text in list(texts)[: PREFIXES["steps"] * PREFIXES["branches"]]]


# --- one measurement, in a process of its own ---


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)
    if spec["work"] == "rate":
        return best_rate(spec)
    traces = load_traces(spec["data"])
    works: dict[str, Callable[..., tuple[float, int, int, int]]] = {
        "scoring": scoring, "incremental": incremental, "lora": training, "frozen": training
    }  # fmt: skip
    seconds, tokens, distinct, pairs = works[spec["work"]](spec, traces)
    encoder = scorer_of(spec | {"rows": True}, load=False)
    prompts = [len(encoder.prompt_ids(trace)) for trace in traces]
    return {
        "seconds": seconds,
        "tokens": tokens,
        "distinct_tokens": distinct,
        "pairs": pairs,
        "traces": len(traces),
        "prompt_tokens": round(sum(prompts) / len(prompts)),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def model_of(spec: dict[str, Any], backbone: str = "frozen") -> Any:
    from prm.modeling import ProcessRewardModel

    lora = None
    if backbone == "lora":
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    return ProcessRewardModel.from_backbone(
        spec["model"],
        backbone=backbone,
        dtype=spec["dtype"],
        peft_config=lora,
        attn_implementation="sdpa" if spec.get("rows") else None,
        max_trace_length=8192,
        max_completion_length=2048,
    )


def scorer_of(spec: dict[str, Any], load: bool = True) -> Any:
    """A `Scorer`, or its `Encoder` alone."""
    from transformers import AutoTokenizer

    from prm.inference.scoring import Scorer
    from prm.traces.encoding import Encoder

    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    if not load:
        return Encoder(tokenizer, max_length=8192, max_completion_length=2048)
    return Scorer(model_of(spec), tokenizer)


def count(encoded: Sequence[Any], parts: Sequence[Sequence[Any]]) -> tuple[int, int, int]:
    """(tokens, distinct tokens within each part, pairs of such a token and one that it sees)."""
    from prm.traces.tree import collate, plan_forwards

    depths = []
    for part in parts:
        (trees,) = plan_forwards(part, max_tokens=None)
        depths.append(collate(trees, part, 0)["position_ids"])
    pairs = sum(int((each + 1).sum()) for each in depths)
    return sum(len(e.input_ids) for e in encoded), sum(each.numel() for each in depths), pairs


def scoring(spec: dict[str, Any], traces: list[Trace]) -> tuple[float, int, int, int]:
    scorer = scorer_of(spec)
    scorer.score(traces[:2])
    start = time.perf_counter()
    scorer.score(traces)
    seconds = time.perf_counter() - start
    encoded = scorer.encoder.encode(traces, drop_long=False)
    return seconds, *count(encoded, [encoded])


def incremental(spec: dict[str, Any], traces: list[Trace]) -> tuple[float, int, int, int]:
    """Beam searches side by side, as `prm decode` makes them: each branch takes a step, then the better half
    is forked over the worse half."""
    scorer, n = scorer_of(spec), PREFIXES["branches"]
    scorer.score([replace(traces[0], steps=traces[0].steps[:1])])
    prefixes: list[list[Trace]] = [[] for _ in traces]
    steps = [iter(trace.steps) for trace in traces]
    start = time.perf_counter()
    if spec["rows"]:
        answers: list[list[list[Step]]] = [[[]] * n for _ in traces]
        for _ in range(PREFIXES["steps"]):
            answers = [
                [[*one, next(more)] for one in beam] for beam, more in zip(answers, steps, strict=True)
            ]
            wanted = [
                [replace(trace, steps=one) for one in beam]
                for trace, beam in zip(traces, answers, strict=True)
            ]
            scorer.score([prefix for beam in wanted for prefix in beam])
            for mine, beam in zip(prefixes, wanted, strict=True):
                mine += beam
            answers = [beam[: n // 2] * 2 for beam in answers]
    else:
        roots = [scorer.start(replace(trace, steps=[])) for trace in traces]
        beams = [[root, *(root.fork() for _ in range(n - 1))] for root in roots]
        for _ in range(PREFIXES["steps"]):
            scorer.extend(
                [
                    (branch, next(more).text)
                    for beam, more in zip(beams, steps, strict=True)
                    for branch in beam
                ]
            )
            for k, beam in enumerate(beams):
                prefixes[k] += [replace(traces[k], steps=[Step(s) for s in b.steps]) for b in beam]
                for branch in beam[n // 2 :]:
                    branch.drop()
                beams[k] = [*beam[: n // 2], *(branch.fork() for branch in beam[: n // 2])]
    seconds = time.perf_counter() - start
    parts = [scorer.encoder.encode(part, drop_long=False) for part in prefixes]
    return seconds, *count([one for part in parts for one in part], parts)


def training(spec: dict[str, Any], traces: list[Trace]) -> tuple[float, int, int, int]:
    import torch
    from transformers import AutoTokenizer

    from prm.recipe import PRMConfig
    from prm.training.trainer import PRMTrainer

    class EveryEpoch(PRMTrainer):
        """A frozen backbone that runs in every epoch."""

        def _add_features(self, dataset: Any) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:
        trainer = (EveryEpoch if spec["rows"] else PRMTrainer)(
            model_of(spec, spec["work"]),
            PRMConfig(
                output_dir=folder,
                num_train_epochs=epochs(spec["work"]),
                per_device_train_batch_size=BATCH,
                learning_rate=1e-4,
                max_length=8192,
                max_completion_length=2048,
                bf16=spec["dtype"] == "bfloat16",
                use_cpu=not torch.accelerator.is_available(),
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=traces,
            processing_class=AutoTokenizer.from_pretrained(spec["model"]),
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    encoded = trainer.train_dataset.traces
    groups: dict[str, list[Any]] = {}
    for one in encoded:
        groups.setdefault(one.question_key, []).append(one)
    # Weights change from step to step, so that only a frozen backbone can share across steps.
    parts = [encoded] if spec["work"] == "frozen" else list(groups.values())
    return seconds, *count(encoded, parts)


def best_rate(spec: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second of the best of several plain batches, each repeated for `RATE_SECONDS`."""
    import torch

    from prm.modeling.losses import step_loss

    model = model_of(spec | {"rows": True}, "lora" if spec["kind"] == "lora" else "frozen")
    learns = spec["kind"] == "lora"
    model.train(learns)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=spec["dtype"] == "bfloat16")

    def read(ids: torch.Tensor) -> None:
        with autocast, torch.set_grad_enabled(learns):
            # The backbone as transformers runs it: `model` would leave out the last MLP.
            mask = torch.ones_like(ids)
            states = model.backbone(ids, attention_mask=mask, use_cache=False).last_hidden_state
            loss = step_loss(model.head(states[:, -1:]), torch.ones(len(ids), 1), loss=model.config.loss)
        if learns:
            loss.backward()

    best = 0.0
    for shape in ((16, 64), (16, 128)):
        ids = torch.randint(100, 40_000, shape)
        read(ids)  # once without the clock: memory is asked for
        done, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < RATE_SECONDS:
            read(ids)
            done += ids.numel()
        best = max(best, done / seconds)
    layers = [
        m
        for name, m in model.backbone.named_modules()
        if isinstance(m, torch.nn.Linear) and "lora" not in name
    ]
    config = model.backbone.config
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    # Forward: two products of queries, keys, values and weights; backward: five.
    linear, attention = (4, 14) if learns else (2, 4)
    weights = sum(m.weight.numel() for m in layers)
    return {
        "tokens_per_second": best,
        "flops_per_token": linear * weights,
        "flops_per_pair": attention * width,
    }


def machine() -> str:
    names = [
        line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{os.cpu_count()} cores of {names[0].strip() if names else platform.processor()}"


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """How many times as fast as plain rows scoring is, by traces a question and by tokens of the prompt."""
    import math

    import numpy as np

    from prm.evaluation.report import chart, line

    kept = [r for r in rows if (r["work"], r["dtype"], r["against"]) == ("scoring", "float32", "plain")]
    highest = max(r["ratio"] for r in kept)
    heights = [(v / highest, f"{v}x") for v in (1, *range(2, math.ceil(highest), 2))]
    panels = []
    for title, key, points in (
        ("traces a question", "traces_per_question", [r for r in kept if 400 < r["prompt_tokens"] < 700]),
        ("tokens of the prompt", "prompt_tokens", [r for r in kept if r["traces_per_question"] == 8]),
    ):
        at: dict[float, list[float]] = {}
        for r in points:  # 16 traces are measured twice
            at.setdefault(math.log2(r[key]), []).append(r["ratio"])
        found = sorted((x, sum(ratios) / len(ratios)) for x, ratios in at.items())
        low, high = found[0][0], found[-1][0]
        xs = np.array([(x - low) / (high - low) for x, _ in found])
        ticks = [(float(x), f"{2**v:.0f}") for x, (v, _) in zip(xs, found, strict=True)]
        marks = line(xs, np.array([ratio / highest for _, ratio in found]), "ours")
        panels.append(
            chart(title, title, "times as fast as plain rows", marks, x_ticks=ticks, y_ticks=heights)
        )
    left, right = (str(panel) for panel in panels)
    style = "svg{font:11px sans-serif}.grid{stroke:#ddd}.line{fill:none;stroke:#1665c1;stroke-width:2}"
    right = right.replace("<svg ", '<svg x="300" width="292" ', 1)
    left = left.replace("<svg ", '<svg width="292" ', 1)
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 610 296" width="915"><style>{style}</style>'
        f"{left}{right}</svg>\n"
    )


if __name__ == "__main__":
    main()
