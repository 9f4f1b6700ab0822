"""What a recipe may say: three dataclasses, read from YAML and overridden on the command line.

`ModelConfig` (backbone, LoRA, head), `DataConfig` (which traces) and `PRMConfig` (every `TrainingArguments`
field, plus the loss and the lengths). A recipe is flat: section comments are for people, keys are unique. The
file becomes a list of `--key value` arguments in front of those of the command line and one
`HfArgumentParser` reads them all: types are checked and converted in one place, and the last word wins.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from transformers import HfArgumentParser, TrainingArguments

from prm.errors import InputError
from prm.evaluation.metrics import RATES, STEP_METRICS


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
            "help": "frozen: only the head learns, features are computed once. lora: adapters. qlora: "
            "adapters on 4-bit weights. full: everything.",
            "choices": ["frozen", "lora", "qlora", "full"],
        },
    )
    quantization_bits: int = field(
        default=4,
        metadata={"help": "Of the weights below the adapters of qlora: 4 (NF4) or 8 (LLM.int8)."},
    )
    backbone_layers: int | None = field(
        default=None,
        metadata={"help": "Use only the first so many layers of the backbone: cheaper, often not worse."},
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Of the backbone's weights; adapters and head are float32. bfloat16 halves memory and is "
            "fast where the processor has it; for backbone: full use float32 with bf16: true.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Default: token trees, where the backbone can read them. sdpa, eager, "
            "flash_attention_2 …: one row a trace."
        },
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
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Names of the layers that get an adapter, or one regular expression."},
    )

    def __post_init__(self) -> None:
        for name in ("lora_r", "lora_alpha", "head_hidden_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if self.quantization_bits not in (4, 8):
            raise InputError(f"quantization_bits must be 4 or 8, not {self.quantization_bits}")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"lora_dropout must be at least 0 and below 1, not {self.lora_dropout}")
        for target in self.lora_target_modules:
            try:
                re.compile(target)
            except re.error as error:
                raise InputError(
                    f"lora_target_modules {target!r} is neither a name nor a regular expression ({error})"
                ) from error

    def peft_config(self) -> Any:
        """PEFT's `LoraConfig`, or None where nothing is adapted."""
        if self.backbone not in ("lora", "qlora"):
            return None
        from peft import LoraConfig

        targets: list[str] | str = self.lora_target_modules
        if len(targets) == 1 and not re.fullmatch(r"[\w.]+", targets[0]):
            targets = targets[0]  # "all-linear" or a regular expression: PEFT reads neither in a list
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=targets,
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
    allow_overlap: bool = field(
        default=False,
        metadata={"help": "Train even where the same or nearly the same question is in two of the three."},
    )


@dataclass
class PRMConfig(TrainingArguments):
    """`TrainingArguments` for step losses.

    `per_device_train_batch_size` counts traces. Changed defaults: `metric_for_best_model` is f1 at the best
    dev threshold, `logging_steps` is 1, `remove_unused_columns` is False, `save_total_limit` is 2.
    """

    if TYPE_CHECKING:
        output_dir: str  # never None: `TrainingArguments` has a default of its own

    loss: str = field(
        default="bce",
        metadata={
            "help": "bce: each step's label. first_error: steps after the first error are masked and the "
            "head gives hazards; scores are their running product.",
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
        metadata={"help": "Room kept for the steps; the prompt is cut to the rest. Default: max_length / 4."},
    )
    max_tokens_per_batch: int = field(
        default=4096, metadata={"help": "Tokens of one forward; splits a batch without changing its loss."}
    )
    features_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where the states of a frozen backbone are kept; runs that name one folder share them. "
            "Default: features in output_dir."
        },
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
        if self.loss not in ("bce", "first_error"):
            raise InputError(f"loss must be bce or first_error, not {self.loss!r}")
        for name, least in (
            ("max_length", 2),  # a token of the prompt and one of a step
            ("max_tokens_per_batch", 1),
            ("per_device_train_batch_size", 1),
            ("gradient_accumulation_steps", 1),
        ):
            value = getattr(self, name)
            if value is None or value < least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        if not 0 <= self.learning_rate < math.inf:  # NaN, too
            raise InputError(f"learning_rate must be a number from 0 up, not {self.learning_rate}")
        defaults = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
        for name, why in REFUSED.items():
            if getattr(self, name) != defaults[name]:
                raise InputError(f"{name} {why}")
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith(
                ("loss", "brier", "ece", "_rate")
            ) or self.metric_for_best_model.endswith("exact_rate")
        for name in ("activation_checkpointing_kwargs", "lr_scheduler_kwargs"):
            if isinstance(text := getattr(self, name), str):
                with contextlib.suppress(ValueError):
                    setattr(self, name, json.loads(text))
                if not isinstance(getattr(self, name), dict):
                    raise InputError(f"{name} must be a mapping, like {{key: value}}, not {text!r}")
        super().__post_init__()


SECTIONS = (ModelConfig, DataConfig, PRMConfig)

#: `TrainingArguments` that keep their defaults, why, and what to do instead: the step loss or our batches
#: would silently ignore another value, or it would break a promise of ours.
REFUSED = {
    "bf16_full_eval": "has no effect here; set dtype: bfloat16",
    "fp16_full_eval": "has no effect here; set dtype: float16",
    "label_smoothing_factor": "has no effect here; give soft labels",
    "auto_find_batch_size": "has no effect here; lower max_tokens_per_batch: it bounds the memory and "
    "changes no loss",
    "per_device_eval_batch_size": "has no effect here; max_tokens_per_batch sets the size of a forward",
    "dataloader_drop_last": "has no effect here; drop the line: the last step of an epoch takes what is left",
    "train_sampling_strategy": "has no effect here; drop the line: questions are shuffled as wholes",
    "save_only_model": "would leave no optimizer, so a run that is interrupted could not go on as if it had "
    "not been; drop the line",
}


class _Parser(HfArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # raises, as argparse's exits
        raise InputError(message)


def read_recipe(argv: Sequence[str]) -> tuple[ModelConfig, DataConfig, PRMConfig]:
    """`[RECIPE.yaml] [--key value …]` to the three sections.

    Raises:
        InputError: no such file, not a flat mapping, a key that stands twice or is unknown (names the
            nearest), a required key that is missing, a value of a wrong type or out of its range, or an
            evaluation without data; with the line in the file.
    """
    argv = list(argv)
    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else None
    values, lines = _file_values(recipe) if recipe is not None else ({}, {})
    overridden = {word[2:].partition("=")[0] for word in argv if word.startswith("--")}
    for key in overridden - {"help"}:
        _check_key(key)
    arguments: list[str] = []
    nulls: dict[str, None] = {}
    for key, value in values.items():
        line = lines[key]
        _check_key(key, file=recipe, line=line)
        if value is None:
            if not _accepts(key, type(None)):
                raise InputError(f"{key} has no value; give one, or drop the line", file=recipe, line=line)
            nulls[key] = None
        elif isinstance(value, list):
            if not _accepts(key, list):
                raise InputError(f"{key} takes one value, not a list", file=recipe, line=line)
            arguments += [f"--{key}", *value] if value else []
        else:
            text = json.dumps(_typed(value)) if isinstance(value, dict) else value
            arguments.append(f"--{key}={text}")  # in one word: a value may begin with a dash
    parser = _Parser(
        SECTIONS,  # type: ignore[arg-type]  # a NewType that no dataclass is of
        prog="prm train",
        usage="%(prog)s RECIPE.yaml [--key value …]",
        allow_abbrev=False,
    )
    parser.set_defaults(**nulls)
    try:
        model, data, args = parser.parse_args_into_dataclasses(
            args=[*arguments, *argv], look_for_args_file=False
        )
        if args.eval_strategy != "no" and not data.eval_data:
            raise InputError("eval_strategy needs eval_data: give traces, or eval_strategy: no")
        _check_metric(args.metric_for_best_model)
        return model, data, args
    except (ValueError, TypeError, ImportError, argparse.ArgumentError) as error:
        message = _plain(" ".join(str(error).split()))
        key = re.split("[: ]", message)[0]
        in_file = key in lines and key not in overridden
        raise InputError(
            message, file=recipe if in_file else None, line=lines.get(key) if in_file else None
        ) from error


def given_values(argv: Sequence[str]) -> dict[str, str | list[str] | None]:
    """What the `argv` of `read_recipe` gives, key by key, as it stands there: the file's values, and those of
    the command line over them."""
    words = list(argv)
    recipe = words.pop(0) if words and not words[0].startswith("-") else None
    values = dict(_file_values(recipe)[0]) if recipe is not None else {}
    key, given = "", []
    for word in [*words, "--"]:
        if not word.startswith("--"):
            given.append(word)
            continue
        if key:
            values[key] = "true" if not given else given[0] if len(given) == 1 else given
        key, equals, value = word[2:].partition("=")
        given = [value] if equals else []
    return values


class _Loader(yaml.SafeLoader):
    """YAML whose scalars stay the text they are, but for null.

    The parser knows each key's type, YAML would only guess: `eval_strategy: no` is not False, `1e-4` is a
    number, `0123456` is a revision.
    """

    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]  # types-PyYAML has it of instances
        first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _file_values(recipe: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The values of a recipe by key, and the line on which each stands."""
    try:
        loader = _Loader(Path(recipe).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise InputError("a recipe is a flat list of `key: value` lines", file=recipe)
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(loader.construct_object(key_node, deep=True)), key_node.start_mark.line + 1
            if key in values:
                raise InputError(f"{key} stands twice, first on line {lines[key]}", file=recipe, line=line)
            value = loader.construct_object(value_node, deep=True)
            if isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
                raise InputError(f"{key} must be a flat list", file=recipe, line=line)
            values[key], lines[key] = value, line
        return values, lines
    except FileNotFoundError:
        raise InputError("no such recipe; see the folder recipes/", file=recipe) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", file=recipe) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(
            f"is not YAML: {problem}", file=recipe, line=mark.line + 1 if mark else None
        ) from error


@functools.cache
def _types() -> dict[str, Any]:
    """The type of every key."""
    return {
        field.name: hint
        for section in SECTIONS
        for field, hint in ((f, typing.get_type_hints(section)[f.name]) for f in dataclasses.fields(section))
        if field.init
    }


def _accepts(key: str, kind: type) -> bool:
    """Whether None (`kind` NoneType), or a list and nothing but one (`kind` list), is a value of this key."""
    hint = _types()[key]
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if kind is list and str in members:  # a field like `report_to`: the parser reads one word
        return False
    return any(kind in (member, typing.get_origin(member)) for member in members)


def _check_key(key: str, file: str | None = None, line: int | None = None) -> None:
    if key not in _types():
        near = difflib.get_close_matches(key, _types(), n=1, cutoff=0.5)
        message = f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        raise InputError(message, file=file, line=line)


def _check_metric(name: str | None) -> None:
    """Else a typing error would show at the first evaluation, hours later."""
    known = ("loss", *RATES, *STEP_METRICS)
    if name is not None and name.removeprefix("eval_") not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"metric_for_best_model: there is no metric {name!r}; {hint}")


def _typed(value: Any) -> Any:
    """The numbers of a nested mapping (`lr_scheduler_kwargs`), whose keys have no types to parse by."""
    if isinstance(value, dict):
        return {key: _typed(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_typed(entry) for entry in value]
    for number in (int, float):
        with contextlib.suppress(ValueError, TypeError):
            return number(value)
    return {"true": True, "false": False}.get(value, value)


def _plain(message: str) -> str:
    """argparse's words without its option syntax."""
    message = re.sub(r"^argument --(\w+)(/--[\w-]+)*: ", r"\1: ", message)
    message = re.sub(r"--(\w+)/--[\w-]+", r"\1", message)
    message = message.replace("the following arguments are required:", "the recipe lacks the keys:")
    stray = re.match(r"Some specified arguments are not used by the HfArgumentParser: (.*)", message)
    return f"stray words {stray[1]}; overrides are written --key value" if stray else message
