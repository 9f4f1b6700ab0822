"""What a recipe may say: three dataclasses, read from YAML and overridden on the command line.

`ModelConfig` (backbone, LoRA, head), `DataConfig` (which traces) and `PRMConfig` (every `TrainingArguments`
field, plus the loss and the lengths). A recipe is flat: section comments are for people, keys are unique. The
file becomes a list of `--key value` arguments in front of those of the command line and one
`HfArgumentParser` reads them all: types are checked and converted in one place ("1e-4" is a number, though
YAML reads it as text), and the last word wins.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from prm.errors import InputError


@dataclass
class ModelConfig:
    """The backbone, how it is adapted, and the head."""

    model_name_or_path: str = field(metadata={"help": "Backbone: Hub id or folder of a decoder model."})
    model_revision: str | None = field(
        default=None, metadata={"help": "Revision of the backbone on the Hub."}
    )
    backbone: str = field(
        default="lora",
        metadata={
            "help": "frozen: only the head learns, features are computed once. lora: adapters. qlora: adapters on "
            "4-bit weights. full: everything.",
            "choices": ["frozen", "lora", "qlora", "full"],
        },
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Of the backbone's weights; adapters and head are float32. bfloat16 halves memory and is fast "
            "where the processor has it; for backbone: full use float32 with bf16: true.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "sdpa, eager, flash_attention_2 …; only sdpa reads token trees."},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that the model's repository brings."}
    )
    head_hidden_size: int | None = field(
        default=None,
        metadata={"help": "Width of the head's hidden layer; default: the backbone's hidden size."},
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapters (times 1 / rank)."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Names of the layers that get an adapter."}
    )

    def peft_config(self) -> Any:
        """PEFT's `LoraConfig`, or None where nothing is adapted."""
        if self.backbone not in ("lora", "qlora"):
            return None
        from peft import LoraConfig

        targets = self.lora_target_modules
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=targets[0] if targets == ["all-linear"] else targets,
            task_type="FEATURE_EXTRACTION",
        )


@dataclass
class DataConfig:
    """Which traces are trained on, chosen by, and measured on: files, folders or Hub ids."""

    train_data: list[str] = field(metadata={"help": "Traces to train on."})
    eval_data: list[str] = field(
        default_factory=list, metadata={"help": "Dev traces: best checkpoint, temperature and threshold."}
    )
    test_data: list[str] = field(
        default_factory=list,
        metadata={"help": "Traces that are measured once, with that threshold, at the end."},
    )
    labels: str = field(
        default="strict",
        metadata={"help": "prefix folds labels that return to 1 after a 0.", "choices": ["strict", "prefix"]},
    )
    on_bad_rows: str = field(
        default="stop",
        metadata={"help": "stop, or skip and count, malformed rows.", "choices": ["stop", "skip"]},
    )
    max_train_traces: int | None = field(
        default=None,
        metadata={"help": "Train on a seeded choice of whole questions with at most so many traces."},
    )


@dataclass
class PRMConfig(TrainingArguments):
    """`TrainingArguments` for step losses.

    `per_device_train_batch_size` counts traces. Changed defaults: `metric_for_best_model` is f1 at the best
    dev threshold, `logging_steps` is 1, `remove_unused_columns` is False, `save_total_limit` is 2.
    """

    loss: str = field(
        default="bce",
        metadata={
            "help": "bce: each step's label. first_error: steps after the first error are masked and the head gives "
            "hazards; scores are their running product.",
            "choices": ["bce", "first_error"],
        },
    )
    class_balance: bool = field(
        default=False, metadata={"help": "Weigh right and wrong steps so that both sides count equally."}
    )
    max_length: int = field(
        default=2048, metadata={"help": "Tokens of a trace; longer ones are dropped, counted."}
    )
    max_completion_length: int | None = field(
        default=None,
        metadata={
            "help": "Room kept for the steps; the prompt is cut to the rest. Default: a quarter of max_length."
        },
    )
    max_tokens_per_batch: int = field(
        default=4096, metadata={"help": "Tokens of one forward; splits a batch without changing its loss."}
    )
    step_separator: str = field(
        default="\n", metadata={"help": "Text after each step; its last token is scored."}
    )
    train_on_last_step_only: bool = field(
        default=False,
        metadata={"help": "Only the last step of each trace is trained on (an outcome reward model)."},
    )
    disable_dropout: bool = field(
        default=True, metadata={"help": "No dropout in the backbone (adapters keep theirs)."}
    )
    metric_for_best_model: str | None = field(
        default="f1", metadata={"help": "Ties go to the higher step_auc."}
    )
    logging_steps: float = field(default=1, metadata={"help": "Log every so many steps."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Traces have no unused columns."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints kept, the best one besides."}
    )

    def __post_init__(self) -> None:
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith(
                ("loss", "brier", "ece", "_rate")
            ) or self.metric_for_best_model.endswith("exact_rate")
        super().__post_init__()


SECTIONS = (ModelConfig, DataConfig, PRMConfig)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(message)


def read_recipe(argv: Sequence[str]) -> tuple[ModelConfig, DataConfig, PRMConfig]:
    """`[RECIPE.yaml] [--key value …]` to the three sections.

    Raises:
        InputError: no such file, not a flat mapping, an unknown key (names the nearest), or a value of a
            wrong type.
    """
    argv = list(argv)
    recipe = argv.pop(0) if argv and not argv[0].startswith("--") else None
    known = {f.name for section in SECTIONS for f in dataclasses.fields(section) if f.init}
    arguments = _file_arguments(recipe, known) if recipe is not None else []
    for word in argv:
        if word.startswith("--"):
            _check_key(word[2:].partition("=")[0], known, file=None)
    parser = _Parser(SECTIONS, allow_abbrev=False)
    try:
        return parser.parse_args_into_dataclasses(args=[*arguments, *argv], look_for_args_file=False)
    except (ValueError, TypeError, ImportError) as error:
        message = str(error).strip()
        raise (
            error if isinstance(error, InputError) and recipe is None else InputError(message, file=recipe)
        ) from error


def _file_arguments(recipe: str, known: set[str]) -> list[str]:
    try:
        content = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such recipe; see the folder recipes/", file=recipe) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", file=recipe) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(
            f"is not YAML: {getattr(error, 'problem', None) or error}",
            file=recipe,
            line=mark.line + 1 if mark else None,
        ) from error
    if not isinstance(content, dict):
        raise InputError("a recipe is a flat list of `key: value` lines", file=recipe)
    arguments = []
    for key, value in content.items():
        _check_key(str(key), known, file=recipe)
        if value is None:
            continue
        values = (
            value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        )
        arguments += [f"--{key}", *map(str, values)]
    return arguments


def _check_key(key: str, known: set[str], file: str | None) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        raise InputError(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""), file=file)
