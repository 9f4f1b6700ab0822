"""`prm plan`: the memory of a training step from a configuration, beside what real tensors take."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prm.cli import main
from prm.errors import InputError
from prm.modeling.planning import RESERVE, Way, _Memory, memory_size, plan
from prm.modeling.planning import TracedModel as Traced
from prm.recipe import read_recipe

ROOT = Path(__file__).parent.parent
GIB = 2**30


def recipe(model, **keys):
    keys = {"model_name_or_path": model, "train_data": "-", "output_dir": "-", "max_length": 64} | keys
    sections = read_recipe([f"--{key}={value}" for key, value in keys.items()] + ["--use_cpu=true"])
    return sections[0], sections[2]


def way(model, **changes):
    return replace(Way(model, None, False, None, None, "cpu"), **changes)


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * GIB), ("80GB", 80 * 10**9), ("24G", 24 * GIB), ("512 MiB", GIB // 2), ("1024", 1024),
     ("1.5gib", 3 * GIB // 2)],
)  # fmt: skip
def test_sizes(text, size):
    assert memory_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "24 apples", "-1GiB", "0GiB", "1e9", "nan"])
def test_sizes_that_are_none(text):
    with pytest.raises(InputError, match="must be a size like 24GiB"):
        memory_size(text)


def test_memory_is_counted_from_making_to_freeing():
    weight = torch.zeros(10)
    with _Memory([weight]) as memory:
        a = torch.zeros(100)  # 400 bytes
        b = a.view(10, 10)[0] + weight  # 40 bytes; views are not memory
        weight += 1
        assert (memory.live, memory.peak) == (440, 440)
        del a
        assert (memory.live, memory.peak) == (40, 440)
        del b
    assert memory.live == 0


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("backbone", ["frozen", "lora", "full"])
def test_parameters_are_those_of_the_real_model(tiny_model_dir, family, backbone):
    from prm.modeling import ProcessRewardModel

    folder = str(tiny_model_dir(family))
    config, args = recipe(folder, backbone=backbone)
    real = ProcessRewardModel.from_backbone(folder, backbone=backbone, peft_config=config.peft_config())
    frozen, adapted, head = Traced(way(config), args).counts
    learning = [p for p in real.parameters() if p.requires_grad]
    assert head == sum(p.numel() for p in real.head.parameters())
    assert adapted + head == sum(p.numel() for p in learning)
    held = [*real.parameters(), *real.buffers()]
    assert frozen == sum(t.numel() for t in held if not t.requires_grad)


@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
@pytest.mark.parametrize(("autocast", "checkpointing"), [(None, False), ("bf16", False), (None, True)])
def test_what_is_saved_is_what_autograd_saves(tiny_model_dir, attention, autocast, checkpointing):
    """Of a real model on real tokens, as torch's own hook for saved tensors sees it."""
    from prm.modeling import ProcessRewardModel

    rows, length = (1, 256) if attention is None else (4, 64)
    keys = {} if attention is None else {"attn_implementation": attention}
    folder = str(tiny_model_dir("qwen2"))
    config, args = recipe(folder, backbone="lora", **keys)
    dtype = torch.bfloat16 if autocast else None
    traced = Traced(way(config, autocast=dtype, checkpointing=checkpointing), args).step(256, 64)

    real = ProcessRewardModel.from_backbone(
        folder, backbone="lora", peft_config=config.peft_config(), attn_implementation=attention
    ).train()
    if checkpointing:
        real.activation_checkpointing_enable()
    ids = torch.randint(3, 400, (rows, length))
    inputs = {
        "input_ids": ids,
        "position_ids": torch.arange(length).expand(rows, length),
        "step_ends": torch.arange(31, 256, 32)[None],
        "labels": torch.ones(1, 8),
    }
    if attention is None:
        inputs["subtree_ends"] = torch.full((1, length), length)
    else:
        mask = torch.ones_like(ids)
        mask[0, -1] = 0  # padding, as in any batch of rows
        inputs["attention_mask"] = mask
    held = {t.untyped_storage().data_ptr() for t in (*real.parameters(), *real.buffers(), *inputs.values())}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    context = torch.autocast("cpu", dtype=dtype, enabled=dtype is not None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), context:
        real(**inputs).loss.item()
    measured = sum(size for _, size in saved.values())
    # A checkpoint's inputs are kept by the hooks of checkpoint itself, which hide them from ours.
    if checkpointing:
        assert traced.saved >= measured and traced.saved < 0.2 * traced.peak
    else:
        assert traced.saved == pytest.approx(measured, rel=0.05)


def test_checkpointing_trees_and_4_bit_say_what_they_save(tiny_model_dir):
    config, args = recipe(str(tiny_model_dir("qwen2", hidden_size=256, head_dim=64, num_hidden_layers=8)))
    plain = Traced(way(config), args)
    kept = Traced(way(config, checkpointing=True), args)
    assert kept.step(512, 64).peak < 0.5 * plain.step(512, 64).peak
    eager = Traced(way(replace(config, attn_implementation="eager")), args)
    assert eager.step(512, 512).saved > 1.3 * plain.step(512, 512).saved  # attention weights of all pairs
    packed = Traced(way(replace(config, backbone="qlora"), bits=4), args)
    linear = sum(
        m.weight.numel()
        for m in plain.model.backbone.modules()
        if type(m) is torch.nn.Linear and m.bias is None
    )
    assert plain.frozen - packed.frozen > 0.5 * linear and packed.counts == plain.counts


@pytest.mark.parametrize(
    ("optim", "states"),
    [("adamw_torch_fused", 2), ("adamw_torch", 2), ("adafactor", 0.02), ("sgd", 0), ("adamw_bnb_8bit", 0.51)],
)
def test_optimiser_states_are_those_of_the_optimiser(tiny_model_dir, optim, states):
    """In units of the weights, all of which are float32 and learn."""
    folder = str(tiny_model_dir("llama", hidden_size=256, intermediate_size=1024))
    config, args = recipe(folder, backbone="full", optim=optim)
    model = Traced(way(config), args)
    assert model.optimizer().saved / model.learning == pytest.approx(states, abs=0.02)


def test_engines_share_out_what_can_be_shared(tiny_model_dir):
    config, args = recipe(str(tiny_model_dir("llama")), backbone="full", bf16="true")
    one = plan(config, args, memory=8 * GIB, others=False, search=False).engines[0]
    rows = {
        row.name: row
        for row in plan(config, args, memory=8 * GIB, processes=4, others=False, search=False).engines
    }
    assert list(rows) == ["DDP", "ZeRO-1", "ZeRO-2", "ZeRO-2 offload", "ZeRO-3", "ZeRO-3 offload", "FSDP 2"]
    ddp = rows["DDP"]
    assert (ddp.weights, ddp.gradients, ddp.optimizer) == (one.weights, one.gradients, one.optimizer)
    assert ddp.engine == one.gradients  # a bucket as large as the gradients
    n = one.weights / 4  # parameters: all learn, in float32
    assert rows["ZeRO-1"].weights == pytest.approx(2 * n, rel=0.01)  # bfloat16
    assert rows["ZeRO-1"].gradients == pytest.approx(2 * n, rel=0.01)
    assert rows["ZeRO-2"].gradients == pytest.approx(2 * n / 4, rel=0.01)
    assert rows["ZeRO-2"].optimizer == pytest.approx(12 * n / 4, rel=0.01)  # float32 copy and two moments
    assert rows["ZeRO-3"].weights == pytest.approx(2 * n / 4, rel=0.01)
    offload = rows["ZeRO-3 offload"]
    assert (offload.weights, offload.gradients, offload.optimizer) == (0, 0, 0)
    assert offload.host == pytest.approx((2 + 4 + 8 + 4) * n / 4, rel=0.01)
    assert rows["FSDP 2"].weights == pytest.approx(4 * n / 4, rel=0.01)


@pytest.mark.parametrize("attention", ["", "sdpa", "eager"])
def test_the_largest_budget_fits_and_a_larger_one_does_not(tiny_model_dir, attention):
    keys = {"attn_implementation": attention} if attention else {}
    config, args = recipe(str(tiny_model_dir("llama")), max_tokens_per_batch=128, **keys)
    room = RESERVE + 30 * 2**20
    row = plan(config, args, memory=room, others=False).engines[0]
    budget = row.largest_budget
    assert budget % 64 == 0 and budget > 128
    for share, fits in ((1, True), (1.1, False)):
        _, args = recipe(config.model_name_or_path, max_tokens_per_batch=round(budget * share), **keys)
        row = plan(config, args, memory=room, others=False, search=False).engines[0]
        assert (row.total <= room) is fits


def test_no_budget_fits(tiny_model_dir, capsys):
    config, args = recipe(str(tiny_model_dir("llama")))
    assert plan(config, args, memory=RESERVE, others=False).engines[0].largest_budget is None


def test_the_command_writes_tables_for_people_and_a_file_for_programs(tiny_model_dir, tmp_path, capsys):
    folder = str(tiny_model_dir("qwen2"))
    command = ["plan", str(ROOT / "recipes/qwen2.5-7b/qlora.yaml"), "--gpu-memory", "24GiB"]
    command += ["--model_name_or_path", folder, "--processes", "2", "--json", str(tmp_path / "plan.json")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "ZeRO-2 offload" in shown and "backbone: full (float32)" in shown
    assert "4-bit weights" in shown and "the largest budget is --max_tokens_per_batch" in shown
    table = shown[: shown.index("learning: gradients")].splitlines()[1:]
    assert max(map(len, table)) <= 80 and "…" not in shown
    told = json.loads((tmp_path / "plan.json").read_text())
    assert told["memory"] == 24 * GIB and told["processes"] == 2
    names = [row["name"] for row in told["engines"]]
    assert names == [
        "DDP",
        "ZeRO-1",
        "ZeRO-2",
        "ZeRO-2 offload",
    ]  # what cannot cut up 4-bit weights is left out
    parts = ("weights", "gradients", "optimizer", "activations", "working", "engine", "reserve")
    for row in told["engines"] + told["others"]:
        assert row["total"] == sum(row[part] for part in parts) and row["fits"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu-memory", "lots"], "must be a size like 24GiB"),
        ([], "wants --gpu-memory"),
        (["--gpu-memory", "8GiB", "--no_such_key", "1"], "unknown key 'no_such_key'"),
        (["--gpu-memory", "8GiB", "--model_name_or_path", "/nowhere/model"], "cannot read the configuration"),
        (["--gpu-memory", "8GiB", "--model_name_or_path", "{empty}"], "has no config.json"),
        (["--gpu-memory", "8GiB", "--max_length", "99999"], "is more than .* can read"),
        (["--gpu-memory", "8GiB", "--lora_target_modules", "nothing"], "cannot be set up"),
        (["--gpu-memory", "8GiB", "--optim", "galore_adamw"], "optim"),
    ],
)
def test_mistakes_are_one_line(tiny_model_dir, tmp_path, capsys, words, message):
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(f"model_name_or_path: {tiny_model_dir('llama')}\ntrain_data: a\noutput_dir: b\n")
    words = [word.format(empty=tmp_path) for word in words]
    assert main(["plan", str(recipe_file), *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and re.search(message, said[0]), said


def test_a_trained_prm_is_sent_to_its_base(make_model, tmp_path):
    make_model("llama", backbone="lora").save_pretrained(tmp_path)
    config, args = recipe(str(tmp_path))
    with pytest.raises(InputError, match="is a trained PRM; name its base model"):
        plan(config, args, memory=GIB)


def test_a_model_that_asks_for_contents_is_planned(tmp_path):
    """Long rotary embeddings of Phi-3 look at the positions, and a mixture of experts at its router."""
    from transformers import AutoConfig

    shape = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
    factors = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
    }
    for kind, changes in {
        "phi3": {"rope_parameters": factors, "original_max_position_embeddings": 32,
                 "max_position_embeddings": 256},
        "mixtral": {"num_local_experts": 4},
    }.items():  # fmt: skip
        AutoConfig.for_model(kind, **shape | changes).save_pretrained(tmp_path / kind)
        config, args = recipe(str(tmp_path / kind), backbone="full")
        step = Traced(way(config), args).step(128, 64)
        assert step.peak > step.saved > 0


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_plan_is_within_15_per_cent_of_a_real_run(tiny_model_dir, tmp_path):
    """One setting of benchmarks/memory.py, on a small random model; docs/results.md has the others."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/memory.py"), "--model", str(tiny_model_dir("llama")),
         "--only", "small lora", "--output", str(tmp_path / "memory.json")],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    (row,) = json.loads((tmp_path / "memory.json").read_text())
    assert row["planned"] == pytest.approx(row["measured"], rel=0.15)
