"""Recipes: YAML and `--key value` to the three sections; a mistake is one line that names place and mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainingArguments

from prm.errors import InputError
from prm.recipe import REFUSED, ModelConfig, read_recipe

REPO = Path(__file__).resolve().parent.parent
REQUIRED = "model_name_or_path: m\ntrain_data: t.jsonl\nuse_cpu: true\n"


@pytest.fixture
def read(tmp_path):
    """`read(yaml, *overrides)`: all values of the recipe in one dict."""

    def read(text, *overrides, required=REQUIRED):
        file = tmp_path / "recipe.yaml"
        file.write_text(required + text, encoding="utf-8")
        sections = read_recipe([str(file), *overrides])
        return {key: value for section in sections for key, value in vars(section).items()}

    return read


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),
        ("learning_rate: 2.5E-5", "learning_rate", 2.5e-5),
        ("learning_rate: 1", "learning_rate", 1.0),
        ("warmup_steps: 0.05", "warmup_steps", 0.05),
        ("lora_r: 8", "lora_r", 8),
        ("lora_dropout: 5e-2", "lora_dropout", 0.05),
        ("class_balance: true", "class_balance", True),
        ("class_balance: yes", "class_balance", True),
        ("disable_dropout: false", "disable_dropout", False),
        ("bf16: False", "bf16", False),
        ("eval_strategy: no", "eval_strategy", "no"),  # plain YAML would read False
        ("model_revision: 0123456", "model_revision", "0123456"),  # … and an octal number
        ("model_revision: 2026-01-02", "model_revision", "2026-01-02"),
        ("hub_model_id: null", "hub_model_id", None),
        ("save_total_limit: null", "save_total_limit", None),
        ("save_total_limit:", "save_total_limit", None),
        ("metric_for_best_model: ~", "metric_for_best_model", None),
        ('step_separator: "\\n\\n"', "step_separator", "\n\n"),
        ('step_separator: " - "', "step_separator", " - "),
        ('step_separator: "-x"', "step_separator", "-x"),
        ("max_steps: -1", "max_steps", -1),
        ("report_to: none", "report_to", []),
        ("report_to: tensorboard", "report_to", ["tensorboard"]),
        ("eval_data: dev.jsonl", "eval_data", ["dev.jsonl"]),
        ("eval_data: [a.jsonl, 'b c.jsonl']", "eval_data", ["a.jsonl", "b c.jsonl"]),
        ("eval_data:\n- a.jsonl\n- b/c", "eval_data", ["a.jsonl", "b/c"]),
        ("eval_data: []", "eval_data", []),
        ("lr_scheduler_kwargs: {num_cycles: 2, min_lr: 1e-5, on: true}", "lr_scheduler_kwargs",
         {"num_cycles": 2, "min_lr": 1e-5, "on": True}),
        ("# only a comment", "per_device_train_batch_size", 8),
    ],
)  # fmt: skip
def test_values(read, text, key, value):
    found = read(text)[key]
    assert found == value and (not isinstance(value, bool) or found is value)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["--learning_rate", "2e-4"], "learning_rate", 2e-4),
        (["--learning_rate=2e-4"], "learning_rate", 2e-4),
        (["--learning_rate", "1", "--learning_rate", "2"], "learning_rate", 2.0),
        (["--train_data", "a", "b"], "train_data", ["a", "b"]),
        (["--train_data=a"], "train_data", ["a"]),
        (["--class_balance"], "class_balance", True),
        (["--class_balance", "false"], "class_balance", False),
        (["--save_total_limit", "5"], "save_total_limit", 5),
        (["--backbone", "frozen"], "backbone", "frozen"),
    ],
)
def test_the_command_line_has_the_last_word(read, overrides, key, value):
    text = "learning_rate: 1e-4\nclass_balance: true\nsave_total_limit: null\nbackbone: full"
    assert read(text, *overrides)[key] == value


def test_no_file_at_all():
    model, data, args = read_recipe(["--model_name_or_path", "m", "--train_data", "t", "--use_cpu", "true"])
    assert (model.model_name_or_path, data.train_data, args.logging_steps) == ("m", ["t"], 1)
    assert (args.metric_for_best_model, args.greater_is_better) == ("f1", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1", "recipe.yaml:4: unknown key 'learning_rte'; did you mean 'learning_rate'?"),
        ("lora_alfa: 1", "recipe.yaml:4: unknown key 'lora_alfa'; did you mean 'lora_alpha'?"),
        ("zzzz: 1", "recipe.yaml:4: unknown key 'zzzz'"),
        ("1: 2", "recipe.yaml:4: unknown key '1'"),
        ("help: 2", "recipe.yaml:4: unknown key 'help'"),
        ("bf16: true\nbf16: false", "recipe.yaml:5: bf16 stands twice, first on line 4"),
        ("learning_rate: fast", "recipe.yaml:4: learning_rate: invalid float value: 'fast'"),
        ("lora_r: 8.5", "recipe.yaml:4: lora_r: invalid int value: '8.5'"),
        ("learning_rate:", "recipe.yaml:4: learning_rate has no value; give one, or drop the line"),
        ("learning_rate: [1, 2]", "recipe.yaml:4: learning_rate takes one value, not a list"),
        ("report_to: [tensorboard, wandb]", "recipe.yaml:4: report_to takes one value, not a list"),
        ("eval_data: [[a]]", "recipe.yaml:4: eval_data must be a flat list"),
        ("eval_data: [a, null]", "recipe.yaml:4: eval_data must be a flat list"),
        ("bf16: maybe", "recipe.yaml:4: bf16: Truthy value expected"),
        ("backbone: half", "recipe.yaml:4: backbone: invalid choice: 'half' (choose from"),
        ("eval_strategy: sometimes", "recipe.yaml:4: eval_strategy: invalid choice: 'sometimes'"),
        ("a: [", "recipe.yaml:4: is not YAML: "),
        ("\tbf16: true", "recipe.yaml:4: is not YAML: "),
        ("max_length: 0", "recipe.yaml:4: max_length must be at least 2, not 0"),
        (
            "load_best_model_at_end: true\nsave_strategy: epoch",
            "requires the save and eval strategy to match",
        ),
        ("label_smoothing_factor: 0.1", "label_smoothing_factor has no effect here; give soft labels"),
        (
            "per_device_eval_batch_size: 4",
            "per_device_eval_batch_size has no effect here; max_tokens_per_batch",
        ),
        ("dataloader_drop_last: true", "dataloader_drop_last has no effect here; drop the line"),
        ("train_sampling_strategy: group_by_length", "train_sampling_strategy has no effect here; drop"),
        (
            "metric_for_best_model: step_acu",
            "recipe.yaml:4: metric_for_best_model: there is no metric 'step_acu'; did you mean 'step_auc'?",
        ),
        (
            "metric_for_best_model: zzz",
            "there is no metric 'zzz'; there are loss, first_error_acc, error_acc",
        ),
        (
            "activation_checkpointing_kwargs: deep",
            "recipe.yaml:4: activation_checkpointing_kwargs must be a mapping, like {key: value}, not 'deep'",
        ),
        ("lr_scheduler_kwargs: '{\"num\": '", "recipe.yaml:4: lr_scheduler_kwargs must be a mapping"),
        ("save_only_model: true", "save_only_model would leave no optimizer, so a run that is interrupted"),
    ],
)
def test_mistakes_in_the_file(read, text, message):
    with pytest.raises(InputError) as error:
        read(text)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--lerning_rate", "1"], "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        (["--learning-rate", "1"], "unknown key 'learning-rate'; did you mean 'learning_rate'?"),
        (["--learning_rate", "fast"], "learning_rate: invalid float value: 'fast'"),
        (["--learning_rate"], "learning_rate: expected one argument"),
        (["learning_rate", "1"], "stray words ['learning_rate', '1']; overrides are written --key value"),
    ],
)
def test_mistakes_on_the_command_line(read, overrides, message):
    """They are not blamed on the file, even where it has the same key."""
    with pytest.raises(InputError) as error:
        read("learning_rate: 1e-4", *overrides)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a recipe is a flat list of"),
        (b"- a\n- b\n", "a recipe is a flat list of"),
        (b"just words", "a recipe is a flat list of"),
        (b"a: 1\n---\nb: 2\n", "is not YAML: but found another document"),
        (b"\xff\xfe\x00", "cannot be read: "),
        (b"use_cpu: true\n", "the recipe lacks the keys: model_name_or_path, train_data"),
        (b"train_data: t\n", "the recipe lacks the keys: model_name_or_path"),
        (b"model_name_or_path:\ntrain_data: t\n", ":1: model_name_or_path has no value"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, message):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_recipe([str(file)])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_refused_may_stand_there_with_its_default(read):
    assert read("".join(f"{key}: {getattr(TrainingArguments, key)}\n" for key in REFUSED))["loss"] == "bce"


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such recipe; see the folder recipes/"):
        read_recipe([str(tmp_path / "nowhere.yaml")])
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe([str(tmp_path)])


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("f1", True),
        ("step_auc", True),
        ("eval_loss", False),
        ("miss_rate", False),
        ("exact_rate", True),
        ("ece", False),
    ],
)
def test_which_way_a_metric_is_better(read, metric, greater):
    assert read(f"metric_for_best_model: {metric}")["greater_is_better"] is greater


@pytest.mark.parametrize(
    ("targets", "passed", "adapted"),
    [
        (["all-linear"], "all-linear", 14),
        (["q_proj"], {"q_proj"}, 2),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}, 4),
        (["self_attn.q_proj"], {"self_attn.q_proj"}, 2),
        ([r".*\.1\.self_attn\.(q|k|v)_proj"], r".*\.1\.self_attn\.(q|k|v)_proj", 3),
    ],
)
def test_lora_targets(tiny_model_dir, targets, passed, adapted):
    """Names in a list; a single regular expression as such: PEFT matches it against a layer's whole name."""
    from prm import ProcessRewardModel

    config = ModelConfig(
        "m", lora_target_modules=targets, lora_r=3, lora_alpha=5, lora_dropout=0.1
    ).peft_config()
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 5, 0.1)
    assert config.target_modules == passed
    model = ProcessRewardModel.from_backbone(str(tiny_model_dir()), backbone="lora", peft_config=config)
    assert sum("lora_A.default.weight" in name for name, _ in model.named_parameters()) == adapted


@pytest.mark.parametrize("backbone", ["frozen", "full"])
def test_no_adapter(backbone):
    assert ModelConfig("m", backbone=backbone).peft_config() is None


@pytest.mark.parametrize("command", [["-m", "prm.cli", "train"], [str(REPO / "prm" / "train.py")]])
def test_a_mistake_is_one_line_and_status_2(tmp_path, command):
    """No usage wall, no traceback; `prm train` and the script say the same."""
    file = tmp_path / "recipe.yaml"
    file.write_text(REQUIRED + "learning_rte: 1\n")
    run = subprocess.run([sys.executable, *command, str(file)], cwd=REPO, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"prm: {file}:4: unknown key 'learning_rte'; did you mean 'learning_rate'?\n"
