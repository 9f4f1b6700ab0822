"""Recipes, accelerate files and DeepSpeed files: what is shipped is read by what will read it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from prm.recipe import SECTIONS, DataConfig, ModelConfig, PRMConfig, read_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml"))
FAMILIES = {"smollm2": "llama", "qwen2.5": "qwen2", "quickstart": "llama"}


def family(recipe):
    return next(name for key, name in FAMILIES.items() if key in recipe)


def settings(recipe):
    return yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8"))


@pytest.fixture
def arguments(tmp_path, tiny_model_dir, traces):
    """`arguments(recipe, …)`: its command line on a tiny model and two questions' traces, without a GPU."""
    from prm.traces.formats import write_traces

    def make(recipe, *more):
        write_traces(traces, tmp_path / "traces.jsonl")
        sources = [key for key in ("train_data", "eval_data", "test_data") if key in settings(recipe)]
        data = [word for key in sources for word in (f"--{key}", str(tmp_path / "traces.jsonl"))]
        layers = (settings(recipe).get("backbone_layers") or 1) + 1
        model = str(tiny_model_dir(family(recipe), num_hidden_layers=layers))
        places = ["--model_name_or_path", model, "--output_dir", str(tmp_path / "run"), *data]
        return [str(ROOT / recipe), *places, "--use_cpu", "true", *more]

    return make


def test_the_promised_recipes_are_there():
    promised = {f"smollm2-135m/{kind}" for kind in ("frozen", "lora", "full")}
    promised |= {f"qwen2.5-7b/{kind}" for kind in ("frozen", "lora", "qlora")}
    assert {f"recipes/{name}.yaml" for name in promised} <= set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_says_what_it_must(recipe):
    values, text = settings(recipe), (ROOT / recipe).read_text(encoding="utf-8")
    assert values["report_to"] == "tensorboard"
    _, _, args = read_recipe([str(ROOT / recipe), "--use_cpu", "true"])
    assert (args.logging_strategy, args.logging_steps) == ("steps", 1)  # the loss of every step is a point
    assert values["load_best_model_at_end"] is True
    assert values["eval_strategy"] == values["save_strategy"] != "no"
    assert values["output_dir"].startswith("runs/")
    header = text.partition("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert re.search(rf"accelerate launch .*prm/train\.py {re.escape(recipe)}", header)
    if recipe != "recipes/quickstart.yaml":
        model, kind = recipe.split("/")[1:]
        assert values["backbone"] == kind.removesuffix(".yaml")
        assert values["output_dir"] == f"runs/{model}-{values['backbone']}"
        for word in ("Needs:", "Before:", "Launch:", "Override:", "Does not work:"):
            assert f"\n# {word}" in header
        overrides = re.findall(r"--(\w+) \S+", header.partition("# Override:")[2].partition("# Does")[0])
        known = {f.name for section in SECTIONS for f in dataclasses.fields(section)}
        assert overrides and set(overrides) <= known | {"config_file", "num_processes"}


def test_the_frozen_recipe_for_7b():
    _, data, args = read_recipe([str(ROOT / "recipes/qwen2.5-7b/frozen.yaml"), "--use_cpu", "true"])
    assert (args.num_train_epochs, args.weight_decay, args.per_device_train_batch_size) == (5, 0.01, 20)
    assert args.gradient_accumulation_steps == 1 and args.max_length == 2048
    assert args.get_warmup_steps(1000) == 50  # 5 %
    assert data.train_data == ["data/spider/train.jsonl"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_trainer_is_built_and_takes_a_step(recipe, arguments, traces):
    """On a tiny model of the same family: built, a step, an evaluation, a checkpoint, the best loaded."""
    from prm.train import build_trainer

    # The first step of a warm-up has rate 0, so there is none.
    short = ("--max_steps", "1", "--warmup_steps", "0", "--eval_steps", "1", "--save_steps", "1")
    model_config, _, args = read_recipe(arguments(recipe, *short))
    trainer = build_trainer(model_config, args, train=traces, dev=traces)
    model = trainer.model
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    assert trainer.tensorboard is not None
    values = settings(recipe)
    assert model.backbone.config.num_hidden_layers == values.get("backbone_layers", 2)
    assert model.head.dense.out_features == values.get("head_hidden_size", model.config.hidden_size)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    adapters = ("head.", "lora_")
    parts = {"frozen": ("head.",), "lora": adapters, "qlora": adapters, "full": ("head.", "backbone.")}
    assert {name for name in before if any(p in name for p in parts[model_config.backbone])} == learning
    trainer.train()
    assert trainer.state.best_global_step == 1
    moved = {name for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert moved <= learning and "head.out.weight" in moved
    assert any("backbone" in name for name in moved) == (model_config.backbone != "frozen")


def test_checkpointing_changes_no_gradient(make_model, traces, tmp_path):
    """`activation_checkpointing: true`, as the 7B recipes have it, reaches the backbone below PEFT."""
    from prm.training.trainer import PRMTrainer

    learnt = []
    for checkpointing in (False, True):
        model = make_model("qwen2", backbone="lora")
        # Plain gradient descent at rate 1: a weight moves by its gradient.
        args = PRMConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            activation_checkpointing=checkpointing,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            save_strategy="no",
        )
        before = {n: w.detach().clone() for n, w in model.named_parameters() if w.requires_grad}
        PRMTrainer(model, args, train_dataset=traces).train()
        assert model.backbone.is_activation_checkpointing is checkpointing
        learnt.append({n: w.detach() - before[n] for n, w in model.named_parameters() if n in before})
    without, with_checkpointing = learnt
    for name, gradient in without.items():
        assert gradient.abs().max() > 0
        assert (gradient - with_checkpointing[name]).abs().max() <= 1e-4 * gradient.abs().max()


def test_fsdp_finds_the_layers_to_wrap(make_model):
    assert set(make_model("llama", backbone="lora")._no_split_modules) == {"LlamaDecoderLayer"}
    assert set(make_model("qwen2", backbone="full")._no_split_modules) == {"Qwen2DecoderLayer"}


def test_qlora_is_lora_in_4_bits():
    """The two recipes differ in nothing else, so that their results can be compared."""
    lora, qlora = (settings(f"recipes/qwen2.5-7b/{name}.yaml") for name in ("lora", "qlora"))
    different = {key for key in lora | qlora if lora.get(key) != qlora.get(key)}
    assert different == {"backbone", "max_tokens_per_batch", "output_dir"}


MULTI_NODE = [f"multi_node/{name}" for name in ("ddp", "zero2", "zero3", "fsdp")]
ONE_NODE = ["single", "ddp", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp"]


@pytest.mark.parametrize("name", ONE_NODE + MULTI_NODE)
def test_accelerate_file_is_read_by_accelerate(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / f"accelerate_configs/{name}.yaml"))
    engine = name.rpartition("/")[2]
    kinds = {"single": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP"}
    assert config.distributed_type.value == kinds.get(engine, "DEEPSPEED")
    assert config.use_cpu is False  # a file for GPUs; train.py knows where there is none
    several = {"deepspeed_multinode_launcher"} if name in MULTI_NODE else set()
    assert (config.num_machines, config.num_processes) == (
        (2, 16) if several else (1, 1 if engine == "single" else 8)
    )
    if engine.startswith("zero"):
        file = config.deepspeed_config["deepspeed_config_file"]
        assert Path(file).stem == engine
        stage = json.loads((ROOT / file).read_text())["zero_optimization"]["stage"]
        assert stage == int(engine[4])
        # With a DeepSpeed file, accelerate refuses these beside it.
        assert config.mixed_precision is None
        assert set(config.deepspeed_config) == {"deepspeed_config_file", "zero3_init_flag"} | several
    else:
        assert config.mixed_precision == "no"  # the recipe says
    if engine == "fsdp":
        assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("name", ["zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_deepspeed_file_leaves_to_the_recipe_what_is_the_recipes(name):
    content = json.loads((ROOT / f"ds_configs/{name}.json").read_text())
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert content[key] == "auto"
    assert content["gradient_clipping"] == content["bf16"]["enabled"] == content["fp16"]["enabled"] == "auto"
    assert "optimizer" not in content and "scheduler" not in content  # the recipe's
    zero = content["zero_optimization"]
    assert zero["stage"] == int(name[4])
    assert ("offload_optimizer" in zero) == name.endswith("offload")
    assert ("offload_param" in zero) == (name == "zero3_offload")


def test_the_slurm_script_launches_what_is_there(tmp_path):
    """Run by bash, with an `srun`, a `scontrol` and an `accelerate` that say what they were given: each of
    two machines launches a file that exists, under its own rank.
    """
    said = tmp_path / "said"
    for name, body in {
        "scontrol": "echo first; echo second",
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "accelerate": f'printf "%s\\n" "$*" >> {said}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    text = (ROOT / "examples/slurm/train.sbatch").read_text(encoding="utf-8")
    (tmp_path / "train").write_text(text.replace("source .venv/bin/activate", "true"))
    slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "64"}
    env = os.environ | slurm | {"SLURM_NNODES": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}", "GPUS": "4"}
    recipe = ["recipes/qwen2.5-7b/lora.yaml", "--output_dir", "runs/my run"]
    subprocess.run(["bash", str(tmp_path / "train"), *recipe], env=env, cwd=ROOT, check=True)
    lines = said.read_text().splitlines()
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        file = re.search(r"--config_file (\S+)", line)[1]
        assert (ROOT / file).is_file()
        assert f"--num_machines 2 --num_processes 8 --machine_rank {rank} --main_process_ip first " in line
        assert line.endswith("--main_process_port 20077 prm/train.py " + " ".join(recipe))


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readme_lists_our_keys_and_their_defaults(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    table = max(re.findall(r"(?:^\|.*\n)+", text, re.M), key=lambda t: t.count("\n| `lora"))
    rows = {key: default.strip() for key, default in re.findall(r"^\| `(\w+)` \|(.*?)\|", table, re.M)}
    own = [f for section in (ModelConfig, DataConfig) for f in dataclasses.fields(section)]
    inherited = {field.name: field for field in dataclasses.fields(PRMConfig)}
    own += [inherited[name] for name in PRMConfig.__annotations__]  # in the order they stand in the file
    assert list(rows) == [field.name for field in own]
    for field in own:
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            assert rows[field.name] == ""
        elif default == ["all-linear"]:
            assert rows[field.name] == "all-linear"
        elif isinstance(default, str) and default.strip():
            assert rows[field.name] == default
        else:
            assert json.loads(rows[field.name]) == default
