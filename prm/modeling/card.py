"""The model card of a checkpoint: what it is, what it was made from, how good it is, and what nobody knows.

A card is one of the Hugging Face Hub (Markdown with YAML in front, the results as `model-index`). All that it
says is read from files in the checkpoint, so that it cannot be truer than they are: `config.json`, the
trainer's `trainer_state.json`, `training.json` (data, recipe, settings, versions: `keep_training`), and
`metrics.json` (`keep_metrics`). The same files give the same card.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from prm import __version__
from prm.traces.formats import atomic_write
from prm.traces.inspection import SOURCES, trace_statistics
from prm.traces.trace import Trace

#: Stands in a card for the repository's name, until it is pushed to one.
PLACEHOLDER = "this/repository"

TRAINING_FILE, METRICS_FILE = "training.json", "metrics.json"

_RATES = {
    "first_error_acc": "first error found, or absence confirmed",
    "f1": "harmonic mean of the next two",
    "error_acc": "of erroneous traces: first error found",
    "correct_acc": "of clean traces: none flagged",
    "false_early_rate": "of erroneous traces: flagged too early",
    "late_rate": "of erroneous traces: flagged too late",
    "miss_rate": "of erroneous traces: not flagged",
    "step_auc": "a right step scores above a wrong one",
    "ece": "calibration error, ten bins",
}
_BASELINES = ("never_flag", "flag_first", "position_only")
_DATA = {"train_data": "training", "eval_data": "dev", "test_data": "test"}
_STATISTICS = ("traces", "questions", "databases", "steps", "step_labels", "trace_labels", "label_sources")
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub")
#: Keys of a recipe that are nobody's business but of whoever ran it.
_PRIVATE = ("hub_token", "push_to_hub_token")

#: What the Hub takes for the id of a model or a data set.
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

_HOLDS = {
    "frozen": "the head alone; the backbone was not trained and is loaded from its own repository",
    "lora": "the head and a LoRA adapter; the backbone is loaded from its own repository",
    "qlora": "the head and a LoRA adapter trained on 4-bit (NF4) weights; the backbone is loaded from its "
    "own repository, in 4 bits",
    "full": "the whole model",
}
_LOSSES = {
    "bce": "`bce`: binary cross entropy on the label of every labelled step",
    "first_error": "`first_error`: a survival model; steps after the first error do not count, and a score "
    "is the running product of the steps' own",
}


# --- what a checkpoint keeps --------------------------------------------------------------------------------


def describe_traces(traces: Iterable[Trace]) -> dict[str, Any]:
    """The counts of a data set that its card tells (see `prm.traces.inspection.trace_statistics`)."""
    statistics = trace_statistics(traces)
    return {key: statistics[key] for key in _STATISTICS}


def keep_training(
    folder: Path,
    *,
    name: str,
    data: Mapping[str, dict[str, Any]],
    recipe: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    hardware: str,
) -> None:
    """Write `training.json` into a checkpoint.

    Args:
        name: of the run.
        data: `describe_traces` of `train_data`, `eval_data` and `test_data`, of those there were.
        recipe: keys and values as they were given, None where no recipe was. Of paths that are absolute the
            last name is kept, of tokens nothing.
        settings: what the weights depend on, and how long the training was.
        hardware: what it ran on.
    """
    versions = {"nl2sql-prm": __version__, "Python": platform.python_version()}
    versions |= {library: importlib.metadata.version(library) for library in _LIBRARIES}
    kept = {
        "name": name,
        "data": dict(data),
        "recipe": None
        if recipe is None
        else {key: _shown(value) for key, value in recipe.items() if key not in _PRIVATE},
        "hub_datasets": [name for key in _DATA for name in _split_names(recipe or {}, key) if _on_hub(name)],
        "settings": {key: _shown(value) for key, value in settings.items()},
        "hardware": hardware,
        "versions": versions,
    }
    _write_json(folder / TRAINING_FILE, kept)


def keep_metrics(folder: Path, metrics: Mapping[str, Any], *, split: str) -> None:
    """Write what `evaluate_traces` returned into a checkpoint; `split` is the key of the recipe whose data
    was measured. The breakdowns stay with the run: they name its databases."""
    left_out = ("by", "model", "data")
    kept = {"split": split, **{key: value for key, value in metrics.items() if key not in left_out}}
    _write_json(folder / METRICS_FILE, kept)


def write_card(folder: Path) -> None:
    """Write `README.md` into a checkpoint."""
    with atomic_write(folder / "README.md") as handle:
        handle.write(render_card(folder))


def _shown(value: Any) -> Any:
    """A value of a recipe as a card may show it."""
    if isinstance(value, (list, tuple)):
        return [_shown(one) for one in value]
    text = str(value)
    is_path = isinstance(value, (str, os.PathLike)) and (os.path.isabs(text) or text.startswith("~"))
    return os.path.basename(text.rstrip("/")) or text if is_path else value


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    with atomic_write(file) as handle:
        json.dump(values, handle, indent=1, ensure_ascii=False, default=str)
        handle.write("\n")


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


# --- the card -----------------------------------------------------------------------------------------------


def render_card(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    repo_id: str = PLACEHOLDER,
) -> str:
    """The card of a checkpoint.

    Args:
        config: in place of the folder's `config.json`.
        metrics: in place of the folder's `metrics.json`: what `prm evaluate` wrote, one for each data set.
        repo_id: where it will be loaded from.
    """
    config = config or _read_json(folder / "config.json")
    training, state = _read_json(folder / TRAINING_FILE), _read_json(folder / "trainer_state.json")
    if metrics is None:
        metrics = [_read_json(folder / METRICS_FILE)] if (folder / METRICS_FILE).is_file() else []
    name = repo_id.rpartition("/")[2] if repo_id != PLACEHOLDER else training.get("name") or "prm"
    sections = [
        f"# {name}: a process reward model for text-to-SQL",
        "It reads a database schema, a question and the reasoning steps of an answer, and gives each step a "
        "score in [0, 1]: the probability that no error has happened up to and including this step. The "
        "first step whose score is below the threshold is where the answer is taken to have gone wrong.",
        *_intended_use(),
        *_loading(config, training, repo_id),
        *_data(training),
        *_measured(metrics, training),
        *_threshold(config),
        *_training(config, training, state),
        *_unmeasured(metrics, training),
        *_versions(training),
    ]
    return f"---\n{_metadata(config, training, metrics, name)}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    name: str,
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base = _hub_base(config)
    kind = training.get("merged_from") or config["backbone"]
    results = [
        EvalResult(
            task_type="token-classification",
            task_name="First error in the steps of a text-to-SQL answer",
            dataset_type=_dataset_type(of, training),
            dataset_name=_dataset_name(of, training),
            dataset_split=_DATA.get(of.get("split", "")),
            metric_type=rate,
            metric_name=f"{rate} ({words})",
            metric_value=round(of[rate], 4),
        )
        for of in metrics
        for rate, words in _RATES.items()
        if of.get(rate) is not None
    ]
    options: dict[str, Any] = {}
    if base is not None:
        options["base_model"] = base
        options["base_model_relation"] = "finetune" if config["backbone"] == "full" else "adapter"
    trained_on = [name for name in _names(training, "train_data") if _is_hub_id(name, training)]
    if trained_on:
        options["datasets"] = trained_on
    if results:
        options |= {"eval_results": results, "model_name": name}
    tags = ["process-reward-model", "reward-model", "text-to-sql", *([kind] if "lora" in kind else [])]
    data = ModelCardData(library_name="nl2sql-prm", pipeline_tag="token-classification", tags=tags, **options)
    return data.to_yaml() + "\n"


def _intended_use() -> list[str]:
    return [
        "## Intended use",
        "Choosing among candidate queries, stopping a wrong chain of thought before it is finished, rewards "
        "in reinforcement learning, and finding out at which kind of step a text-to-SQL model fails.\n\n"
        "A high score is no proof that a query is right, and says nothing about whether it is safe to run. "
        "Scores of answers whose steps look unlike those of the data below, or in another language, may mean "
        "little.",
    ]


def _loading(config: Mapping[str, Any], training: Mapping[str, Any], repo_id: str) -> list[str]:
    base, revision = config.get("base_model_name_or_path"), config.get("base_model_revision")
    local = base is None or os.path.isabs(base)
    shown = "unknown" if base is None else f"`{os.path.basename(base) if local else base}`"
    holds = _HOLDS[config["backbone"]]
    if merged := training.get("merged_from"):
        holds = {
            "frozen": "the whole model: the backbone as it was, and the head",
            "lora": "the whole model: a LoRA adapter was merged into the backbone",
            "qlora": "the whole model: a LoRA adapter was merged into what its quantised weights stand for",
        }[merged]
    about = f"This repository holds {holds}. Backbone: {shown}"
    if revision is not None and not local:
        about += f" at revision `{revision}`"
    if config.get("backbone_layers") is not None:
        about += f", its first {config['backbone_layers']} layers"
    about += "."
    needs = ""
    if local and config["backbone"] != "full":
        needs = ', base_model_name_or_path="FOLDER or Hub id"'
        about += (
            " That was a folder on the machine of the training and is not part of this repository: give the "
            "same model as `base_model_name_or_path` (`--base-model` on the command line)."
        )
    flag = " --base-model MODEL" if needs else ""
    return [
        "## How to load",
        f"With nl2sql-prm installed:\n\n```bash\nprm evaluate --model {repo_id}{flag} --data traces.jsonl "
        "--output eval\n```",
        "```python\n"
        "from prm import Scorer, Step, Trace\n\n"
        f'scorer = Scorer.from_pretrained("{repo_id}"{needs})\n'
        'schema = "singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER)"\n'
        'steps = [Step("Count the rows of singer.\\nSELECT COUNT(*) FROM singer")]\n'
        'scores = scorer.score([Trace("How many singers are there?", steps, schema=schema)])[0]\n'
        "```",
        about + " All weights are safetensors; no code comes with them, and none is run.",
    ]


def _data(training: Mapping[str, Any]) -> list[str]:
    data = training.get("data") or {}
    if not data:
        return ["## Data", "The checkpoint does not say what it was trained on."]
    rows = []
    for key, of in data.items():
        labels, steps = of["trace_labels"], of["step_labels"]
        rows.append(
            (
                _split_name(key),
                ", ".join(_names(training, key)) or "not named",
                f"{of['traces']:,}",
                f"{labels['wrong']:,}",
                f"{of['questions']:,}",
                f"{of['databases']:,}",
                f"{sum(n for kind, n in steps.items() if kind != 'unlabelled'):,} of {of['steps']:,}",
            )
        )
    sources = sorted({source for of in data.values() for source in of["label_sources"]})
    return [
        "## Data",
        _table(
            ("split", "from", "traces", "with an error", "questions", "databases", "steps labelled"), rows
        ),
        "How the labels came to be:",
        _table(
            ("label_source", *(f"{_split_name(key)} traces" for key in data), "meaning"),
            [
                (
                    source,
                    *(f"{of['label_sources'].get(source, 0):,}" for of in data.values()),
                    SOURCES.get(source, "the data does not say" if source == "not given" else ""),
                )
                for source in sources
            ],
        ),
    ]


def _measured(metrics: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> list[str]:
    if not metrics:
        return ["## Metrics", "This checkpoint was not measured."]
    sections = ["## Metrics"]
    for of in metrics:
        rows = []
        for rate, words in _RATES.items():
            interval = (of.get("ci") or {}).get(rate)
            rows.append(
                (
                    f"`{rate}`",
                    _figure(of.get(rate)),
                    "–" if interval is None else f"{interval[0]:.3f} – {interval[1]:.3f}",
                    *(_figure(((of.get("baselines") or {}).get(key) or {}).get(rate)) for key in _BASELINES),
                    words,
                )
            )
        rule = (
            "by the rule `most-likely`, without a threshold"
            if of.get("rule") == "most-likely"
            else f"at threshold {of['threshold']:.3f} ({of['threshold_from']})"
        )
        sections += [
            f"On {_dataset_name(of, training)}: {of['n_traces']:,} labelled traces, {of['n_erroneous']:,} of "
            f"them with an error, {of['n_steps']:,} labelled steps; {rule}.",
            _table(("metric", "value", "95 % interval", *_BASELINES, "meaning"), rows),
        ]
    sections.append(
        "The intervals are bootstrapped over questions. The baselines know nothing of the answers: "
        "`never_flag` and `flag_first` say the same of every trace, `position_only` scores a step by its "
        "index alone."
    )
    return sections


def _threshold(config: Mapping[str, Any]) -> list[str]:
    temperature = config.get("score_temperature", 1.0)
    scaled = (
        "the logits are not scaled"
        if temperature == 1.0
        else f"the logits are divided by {temperature:.3f} before they become scores"
    )
    return [
        "## Threshold",
        f"{config['threshold']:.3f}, chosen so: {config['threshold_from']}; {scaled}. Choose another on data "
        "of your own with `prm evaluate --threshold-data`; a lower one flags fewer steps.",
    ]


def _training(config: Mapping[str, Any], training: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    settings = training.get("settings") or {}
    lines = [f"- loss {_LOSSES.get(config['loss'], '`' + str(config['loss']) + '`')}"]
    if state.get("global_step"):
        epochs = f", {state['epoch']:.2f} epochs" if state.get("epoch") else ""
        best = (
            f"; the best by the dev split was after step {state['best_global_step']:,}"
            if state.get("best_global_step")
            else ""
        )
        lines.append(f"- {state['global_step']:,} optimiser steps{epochs}{best}")
    learnt = settings.get("learning parameters")
    if learnt is not None:
        lines.append(f"- {learnt:,} parameters learned, {settings['traces of a step']:,} traces a step")
    lines.append(
        f"- traces of at most {config['max_trace_length']:,} tokens, prompts of version "
        f"{config['prompt_version']}, steps ended by {json.dumps(config['step_separator'])}"
    )
    if training.get("hardware"):
        lines.append(f"- on {training['hardware']}")
    sections = ["## Training", "\n".join(lines)]
    if training.get("recipe"):
        sections.append(
            f"The recipe, as it was given (of absolute paths the last name):\n\n{_fenced(training['recipe'])}"
        )
    elif settings:
        sections.append(f"Called from Python, with these settings:\n\n{_fenced(settings)}")
    return sections


def _unmeasured(metrics: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> list[str]:
    """What the reader of a table may take for granted, and must not."""
    points = []
    recipe = training.get("recipe") or {}
    if any(of.get("split") == "eval_data" for of in metrics):
        points.append(
            "The figures above are of the dev split, on which the threshold (and with it the best "
            "checkpoint) was chosen, so they flatter; there was no test split."
        )
    for of in metrics:
        mine, theirs = of.get("first_error_acc"), {}
        for key in _BASELINES:
            rate = ((of.get("baselines") or {}).get(key) or {}).get("first_error_acc")
            if rate is not None:
                theirs[key] = rate
        if mine is not None and theirs and mine <= max(theirs.values()):
            best = max(theirs, key=lambda key: theirs[key])
            points.append(
                f"By `first_error_acc` it is no better on {_dataset_name(of, training)} than `{best}` "
                f"({theirs[best]:.3f})."
            )
    if str(recipe.get("allow_overlap", "false")).lower() == "true":
        points.append("Questions of the splits may overlap: the check for that was switched off.")
    if metrics:
        points += [
            "One training run was measured; how much another seed would change is not in the intervals.",
            "Nothing was measured on schemas, SQL dialects and languages that the data above does not have, "
            "nor on answers of other models than those the data comes from.",
        ]
    points += [
        "What it does for a text-to-SQL model, by reranking, guided decoding or as a reward, was not "
        "measured by this training.",
        "Whether it can be fooled by answers that are written to please it was not measured.",
        "The labels are as good as their source (see above); no person checked them for this training.",
        "Energy use was not measured.",
    ]
    return ["## What was not measured", "\n".join(f"- {point}" for point in points)]


def _versions(training: Mapping[str, Any]) -> list[str]:
    versions = training.get("versions")
    if not versions:
        return []
    known = ", ".join(f"{library} {version}" for library, version in versions.items())
    return ["## Versions", f"{known}. The licences of the base model and of the data apply."]


# --- small parts --------------------------------------------------------------------------------------------


def _hub_base(config: Mapping[str, Any]) -> str | None:
    base = config.get("base_model_name_or_path")
    return base if base is not None and not os.path.isabs(base) and _HUB_ID.fullmatch(base) else None


def _on_hub(name: str) -> bool:
    """Whether data of that name was read from the Hub: where there is no such file or folder."""
    return name.count("/") == 1 and bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def _is_hub_id(name: str, training: Mapping[str, Any]) -> bool:
    return name in training.get("hub_datasets", [])


def _names(training: Mapping[str, Any], key: str) -> list[str]:
    """The names of a split's data in the recipe."""
    return _split_names(training.get("recipe") or {}, key)


def _split_names(recipe: Mapping[str, Any], key: str) -> list[str]:
    """The same, without the part that picks one of several splits."""
    given = recipe.get(key) or []
    return [str(name).partition(":")[0] for name in ([given] if isinstance(given, str) else given)]


def _split_name(key: str) -> str:
    """`eval_data` -> dev; of several eval sets `eval_data.bird` -> dev (bird)."""
    split, _, which = key.partition(".")
    return _DATA.get(split, split) + (f" ({which})" if which else "")


def _dataset_name(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """In words, which data was measured."""
    split = metrics.get("split")
    names = _names(training, split) if split else [os.path.basename(str(n)) for n in metrics.get("data", [])]
    words = ", ".join(names)
    if split:
        return f"the {_split_name(split)} split" + (f" ({words})" if words else "")
    return words or "data without a name"


def _dataset_type(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """An id of the Hub, or what the Hub takes for one."""
    split = metrics.get("split")
    names = _names(training, split) if split else [str(name) for name in metrics.get("data", [])]
    if len(names) == 1 and _is_hub_id(names[0], training):
        return names[0]
    name = os.path.basename(names[0]) if names else split or "traces"
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "traces"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [
        [" ".join(str(cell).split()).replace("|", "\\|") for cell in row]
        for row in (head, ["---"] * len(head), *rows)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


class _Plain(yaml.SafeDumper):
    """Scalars as a recipe has them: `1e-4` and `no` are not quoted, since the recipe's reader knows types."""

    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]  # types-PyYAML has it of instances
        first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def _fenced(values: Mapping[str, Any]) -> str:
    text = yaml.dump(
        {key: _text(value) for key, value in values.items()},
        Dumper=_Plain,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"


def _text(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_text(one) for one in value]
    return value if value is None else str(value).lower() if isinstance(value, bool) else str(value)
