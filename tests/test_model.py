"""`ProcessRewardModel`: logits at step ends, what a checkpoint holds, and that loading is bit-exact."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

from prm.errors import InputError
from prm.inference.scoring import Scorer
from prm.modeling import PRMHead, ProcessRewardConfig, ProcessRewardModel
from prm.modeling.tree_attention import TreeMask
from prm.traces.encoding import Encoder
from prm.traces.trace import Step, Trace
from prm.traces.tree import collate, plan_forwards


@pytest.fixture(scope="module")
def batch(tokenizer, traces):
    encoded = Encoder(tokenizer).encode(traces, drop_long=False)
    (trees,) = plan_forwards(encoded, max_tokens=None)
    inputs = collate(trees, encoded, pad_id=2)
    del inputs["index"]
    return inputs


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Logits


def test_logits_stand_at_step_ends_only(make_model, batch):
    model = make_model("llama").eval()
    output = model(**batch)
    assert output.logits.shape == batch["step_ends"].shape
    assert output.logits.dtype == torch.float32
    hidden = model.backbone(
        input_ids=batch["input_ids"],
        attention_mask=TreeMask(batch["subtree_ends"].flatten()).as_argument(),
        position_ids=batch["position_ids"],
    ).last_hidden_state.flatten(0, 1)
    there = batch["step_ends"] >= 0
    by_hand = model.head(hidden[batch["step_ends"][there]])
    torch.testing.assert_close(output.logits[there], by_hand)
    assert not any("lm_head" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("backbone", ["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_last_mlp_sees_step_ends_only_and_every_gradient_is_that_of_the_whole(
    make_model, batch, family, backbone
):
    model = make_model(family, backbone=backbone).train()
    inputs = {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "attention_mask": TreeMask(batch["subtree_ends"].flatten()).as_argument(),
    }
    tokens = batch["step_ends"].clamp(min=0)
    assert len(tokens.unique()) < tokens.numel()  # traces share steps
    last = f"layers.{model.backbone.config.num_hidden_layers - 1}.mlp"
    (mlp,) = (module for name, module in model.named_modules() if name.endswith(last))
    seen = []
    hook = mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].flatten(0, -2).shape[0]))
    weights = torch.randn(*tokens.shape, 1)

    def gradients(states):
        model.zero_grad()
        (states * weights).pow(2).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    states = model.states(tokens, **inputs)
    hidden = model.backbone(**inputs).last_hidden_state.flatten(0, 1)[tokens]
    hook.remove()
    assert seen == [tokens.numel(), batch["input_ids"].numel()]
    torch.testing.assert_close(states, hidden)
    few, whole = gradients(states), gradients(hidden)
    assert few.keys() == whole.keys() and any(last in name for name in few)
    for name, gradient in whole.items():
        torch.testing.assert_close(few[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


#: layers that differ: mixtures (of the second the MLP gives its router's scores, too), norms behind the MLP,
#: attention and MLP side by side, and one that has no `mlp`
OTHERS = {
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": {},
    "gpt_neox": {},
    "gpt2": {},
}


@pytest.mark.parametrize("kind", OTHERS)
@torch.no_grad()
def test_states_of_layers_of_other_kinds(kind):
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0, **OTHERS[kind],
    )  # fmt: skip
    torch.manual_seed(0)
    model = ProcessRewardModel.from_backbone(AutoModel.from_config(config)).eval()
    ids, tokens = torch.randint(3, 64, (2, 12)), torch.tensor([[3, 7, 7], [12, 20, 23]])
    hidden = model.backbone(input_ids=ids).last_hidden_state.flatten(0, 1)[tokens]
    torch.testing.assert_close(model.states(tokens, input_ids=ids), hidden, rtol=1e-4, atol=1e-5)


def test_threads_may_use_one_model(make_model, batch):
    model = make_model("llama").eval()
    alone, whole = logits(model, batch), batch["input_ids"].repeat(1, 8)

    @torch.no_grad()
    def all_states():
        return model.backbone(input_ids=whole).last_hidden_state

    expected = all_states()
    with ThreadPoolExecutor(4) as pool:
        theirs = [pool.submit(all_states) for _ in range(40)]
        ours = [pool.submit(logits, model, batch) for _ in range(40)]
        for future in theirs:
            torch.testing.assert_close(future.result(), expected)
        for future in ours:
            torch.testing.assert_close(future.result(), alone)


def test_features_instead_of_tokens_give_the_same(make_model, batch):
    model = make_model("llama", backbone="frozen").eval()
    states = model.features(**{key: value for key, value in batch.items() if key != "labels"})
    assert not states.requires_grad
    from_states = model(step_features=states, labels=batch["labels"])
    from_tokens = model(**batch)
    assert torch.equal(from_states.logits, from_tokens.logits)
    assert torch.equal(from_states.loss, from_tokens.loss)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_later_steps_never_change_earlier_scores(make_model, tokenizer, traces, family):
    scorer = Scorer(make_model(family), tokenizer)
    full = traces[4]
    whole = scorer.score([full])[0]
    for n in range(1, len(full.steps)):
        part = type(full)(full.question, full.steps[:n], schema=full.schema, group="x")
        assert scorer.score([part])[0] == pytest.approx(whole[:n], abs=1e-6)


def test_a_new_head_begins_at_one_half(tiny_model_dir, batch):
    torch.manual_seed(0)
    model = ProcessRewardModel.from_backbone(str(tiny_model_dir("llama")), backbone="frozen")
    assert logits(model, batch).abs().max() < 0.05


def test_what_learns(make_model):
    def trainable(backbone):
        model = make_model("llama", backbone=backbone).train()
        return {
            name.split(".")[0] if "lora" not in name else "lora"
            for name, p in model.named_parameters()
            if p.requires_grad
        }, model.backbone.training

    assert trainable("frozen") == ({"head"}, False)  # no dropout in features that nothing adapts to
    assert trainable("lora") == ({"lora", "head"}, True)
    assert trainable("full") == ({"backbone", "head"}, True)


def test_the_head_is_float32_whatever_surrounds_it(make_model, batch):
    model = make_model("llama", backbone="frozen", dtype="bfloat16").eval()
    assert model.backbone.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in model.head.parameters())
    states = model.features(**{key: value for key, value in batch.items() if key != "labels"})
    exact = model.head(states)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = model.head(states)
    assert exact.dtype == under_autocast.dtype == torch.float32
    assert torch.equal(exact, under_autocast)
    model.to(torch.bfloat16)  # rounds the weights, as some engines do; the arithmetic stays
    assert model.head(states).dtype == torch.float32
    torch.testing.assert_close(model.head(states), exact, rtol=0.02, atol=0.02)


# Saving and loading

ADAPTER = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", ["frozen", "lora", "qlora", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_reloaded_model_gives_the_same_bits(
    make_model, tokenizer, traces, tmp_path, monkeypatch, family, backbone, dtype
):
    model = make_model(family, backbone=backbone, dtype=dtype)
    before = Scorer(model, tokenizer).score(traces)
    assert len({score for row in before for score in row}) > 8  # not one constant
    folder = save(model, tokenizer, tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path.parent)
    loaded = ProcessRewardModel.from_pretrained(folder)
    assert not loaded.training
    assert Scorer(loaded, tokenizer).score(traces) == before
    assert Scorer.from_pretrained(folder, device="cpu").score(traces) == before
    auto = AutoModelForTokenClassification.from_pretrained(folder)
    assert type(auto) is ProcessRewardModel
    assert Scorer(auto, tokenizer).score(traces) == before
    # and a second round trip loses nothing either
    save(loaded, tokenizer, tmp_path / "again")
    assert (tmp_path / "again/config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert Scorer.from_pretrained(tmp_path / "again", device="cpu").score(traces) == before


@pytest.mark.parametrize(
    ("backbone", "files"),
    [
        ("frozen", ["config.json", "head.safetensors"]),
        ("lora", [*ADAPTER, "config.json", "head.safetensors"]),
        ("qlora", [*ADAPTER, "config.json", "head.safetensors"]),
        ("full", ["config.json", "head.safetensors", "model.safetensors"]),
    ],
)
def test_a_checkpoint_holds_what_was_trained_and_nothing_else(make_model, tmp_path, backbone, files):
    model = make_model("qwen2", backbone=backbone)
    model.save_pretrained(tmp_path)
    found = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert found == files  # safetensors and JSON only: no pickle, and no adapter_config.json at the root
    head = load_file(tmp_path / "head.safetensors")
    assert sorted(head) == ["dense.bias", "dense.weight", "out.bias", "out.weight", "scale", "shift"]
    assert all(weight.dtype == torch.float32 for weight in head.values())
    if backbone != "full":
        whole = sum(p.numel() for p in model.parameters()) * 4
        assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < whole / 2
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "process_reward_model"


def test_a_model_cast_after_training_is_loaded_as_it_was_saved(make_model, tokenizer, traces, tmp_path):
    model = make_model("llama")
    model.backbone.to(torch.bfloat16)
    loaded = ProcessRewardModel.from_pretrained(save(model, tokenizer, tmp_path))
    assert loaded.backbone.dtype == torch.bfloat16
    for (name, weight), (_, other) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(weight, other), name
    # (to within the rotary frequencies, which .to() has rounded and loading has not)
    for one, other in zip(
        Scorer(model, tokenizer).score(traces), Scorer(loaded, tokenizer).score(traces), strict=True
    ):
        assert one == pytest.approx(other, abs=0.02)
    assert ProcessRewardModel.from_pretrained(tmp_path, dtype="float32").backbone.dtype == torch.float32


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("wanted", [torch.bfloat16, "bfloat16"])
def test_the_dtype_by_both_of_its_names(make_model, tokenizer, tmp_path, name, wanted):
    save(make_model("llama", backbone="frozen"), tokenizer, tmp_path)
    for load in (ProcessRewardModel, AutoModelForTokenClassification):
        assert load.from_pretrained(tmp_path, **{name: wanted}).backbone.dtype == torch.bfloat16
    assert Scorer.from_pretrained(tmp_path, **{name: wanted}).model.backbone.dtype == torch.bfloat16


def test_unknown_arguments_are_refused(make_model, tokenizer, tmp_path, caplog):
    """A typing error never passes; what transformers takes and we do not heed is said."""
    save(make_model("llama", backbone="frozen"), tokenizer, tmp_path)
    for load in (ProcessRewardModel, AutoModelForTokenClassification, Scorer):
        with pytest.raises(
            TypeError, match="'bas_model_name_or_path'; did you mean 'base_model_name_or_path'"
        ):
            load.from_pretrained(tmp_path, bas_model_name_or_path="zzz")
    with pytest.raises(TypeError, match=r"unknown argument 'zzz'$"):
        ProcessRewardModel.from_pretrained(tmp_path, zzz=1)
    assert not caplog.messages
    AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=1, cache_dir=None)
    assert not caplog.messages
    AutoModelForTokenClassification.from_pretrained(tmp_path, use_safetensors=True, low_cpu_mem_usage=True)
    assert caplog.messages == ["low_cpu_mem_usage, use_safetensors: no effect on a process reward model"]


OTHER_NAMES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 300},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 300},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 300},
    "bloom": {"n_layer": 2, "n_head": 4},  # no limit
}


@pytest.mark.parametrize("family", OTHER_NAMES)
def test_families_with_names_of_their_own(tokenizer, traces, tmp_path, family):
    """For the hidden size and the number of positions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {"vocab_size": 400, "hidden_size": 32} | OTHER_NAMES[family]
    if "hidden_size" not in AutoConfig.for_model(family).to_dict():
        del settings["hidden_size"]
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    save(base, tokenizer, tmp_path / "base")
    model = ProcessRewardModel.from_backbone(str(tmp_path / "base"), backbone="frozen", head_hidden_size=8)
    assert model.config.hidden_size == model.head.dense.in_features == 32
    assert model.longest == (None if family == "bloom" else 300)
    torch.nn.init.normal_(model.head.out.weight)
    before = Scorer(model, tokenizer).score(traces)
    save(model, tokenizer, tmp_path / "saved")
    loaded = Scorer.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.score(traces) == before
    long = Trace("q", [Step("Count the rows. " * 100)])
    if family == "bloom":
        assert len(loaded.score([long])[0]) == 1
    else:
        with pytest.raises(InputError, match="the model reads 300"):
            loaded.score([long])


def test_the_configuration_survives(make_model, tmp_path):
    model = make_model("llama", backbone="frozen", loss="first_error", head_hidden_size=12)
    assert model.config.score_kind == "hazard"
    values = {
        "threshold": 0.31,
        "threshold_from": "best f1 on dev",
        "score_temperature": 1.7,
        "position_means": [0.9, 0.5],
        "max_trace_length": 77,
        "max_completion_length": 33,
        "step_separator": "\n\n",
    }
    for name, value in values.items():
        setattr(model.config, name, value)
    model.save_pretrained(tmp_path)
    config = ProcessRewardModel.from_pretrained(tmp_path).config
    assert {name: getattr(config, name) for name in values} == values
    assert (config.loss, config.score_kind, config.head_hidden_size) == ("first_error", "hazard", 12)


def test_hazards_multiply_into_scores(make_model, tokenizer, traces):
    model = make_model("llama")
    single = Scorer(model, tokenizer).score(traces)
    model.config.score_kind = "hazard"
    for row, hazards in zip(Scorer(model, tokenizer).score(traces), single, strict=True):
        product = 1.0
        for score, hazard in zip(row, hazards, strict=True):
            product *= hazard
            assert score == pytest.approx(product, rel=1e-12)


def test_a_loaded_adapter_is_trainable_on_request_only(make_model, tmp_path):
    make_model("llama", backbone="lora").save_pretrained(tmp_path)
    for wanted in (False, True):
        model = ProcessRewardModel.from_pretrained(tmp_path, is_trainable=wanted)
        learns = [p.requires_grad for name, p in model.named_parameters() if "lora" in name]
        assert len(learns) == 2 * 7 * 2 and all(value == wanted for value in learns)


def test_loading_an_adapter_says_nothing(make_model, tmp_path):
    """Libraries warn each other of their next versions: no business of whoever loads a checkpoint."""
    make_model(backbone="lora").save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProcessRewardModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("backbone", ["frozen", "lora", "qlora", "full"])
def test_load_checkpoint_puts_the_trained_weights_back(make_model, batch, tmp_path, backbone):
    model = make_model("llama", backbone=backbone)
    before = logits(model, batch)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    assert not torch.equal(logits(model, batch), before)
    model.load_checkpoint(tmp_path)
    assert torch.equal(logits(model, batch), before)


def test_saving_a_gathered_state_dict(make_model, batch, tmp_path):
    """What sharded engines hand over: the whole state with the model's own keys."""
    for backbone in ("frozen", "lora", "full"):
        model = make_model("llama", backbone=backbone)
        state = {name: weight.clone() for name, weight in model.state_dict().items()}
        before = logits(model, batch)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.zero_()
        model.save_pretrained(tmp_path / backbone, state_dict=state)
        loaded = ProcessRewardModel.from_pretrained(tmp_path / backbone)
        assert torch.equal(logits(loaded, batch), before), backbone


# Where the base model is


def test_a_base_named_by_a_relative_path_is_found_from_elsewhere(tiny_model_dir, tmp_path, monkeypatch):
    base = tiny_model_dir("llama")
    monkeypatch.chdir(base.parent)
    model = ProcessRewardModel.from_backbone(base.name, backbone="frozen")
    model.save_pretrained(tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    assert ProcessRewardModel.from_pretrained("c").config.base_model_name_or_path == str(base)


def test_a_loaded_base_named_by_a_relative_path_too(tiny_model_dir, tmp_path, monkeypatch):
    from transformers import AutoModel

    base = tiny_model_dir("llama")
    monkeypatch.chdir(base.parent)
    model = ProcessRewardModel.from_backbone(AutoModel.from_pretrained(base.name), backbone="frozen")
    assert model.config.base_model_name_or_path == str(base)


def test_a_base_that_has_moved(make_model, tiny_model_dir, batch, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_model_dir("llama"), base)
    model = ProcessRewardModel.from_backbone(str(base), backbone="frozen")
    before = logits(model, batch)
    model.save_pretrained(tmp_path / "c")
    base.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"base model {base} is gone; give .* base_model_name_or_path"):
        ProcessRewardModel.from_pretrained(tmp_path / "c")
    moved = ProcessRewardModel.from_pretrained(
        tmp_path / "c", base_model_name_or_path=str(tmp_path / "moved")
    )
    assert torch.equal(logits(moved, batch), before)


def test_another_base_is_refused(make_model, tiny_model_dir, tmp_path):
    make_model("llama", backbone="frozen").save_pretrained(tmp_path)
    wide = tiny_model_dir("llama", hidden_size=48)
    with pytest.raises(InputError, match=r"has hidden size 48, the checkpoint .* was trained on one with 32"):
        ProcessRewardModel.from_pretrained(tmp_path, base_model_name_or_path=str(wide))


@pytest.mark.parametrize("frozen", [True, False])
def test_of_a_loaded_token_classifier_the_headless_part_is_taken(tiny_model_dir, batch, tmp_path, frozen):
    """As TRL's trainer was given it: AutoModelForTokenClassification of a base model."""
    classifier = AutoModelForTokenClassification.from_pretrained(tiny_model_dir("qwen2"), num_labels=2)
    assert type(classifier).__name__ == "Qwen2ForTokenClassification"
    model = ProcessRewardModel.from_backbone(classifier, backbone="frozen" if frozen else "full")
    assert model.backbone is classifier.model
    assert [name for name, _ in model.named_children()] == ["backbone", "head"]
    assert model.config.base_model_name_or_path == str(tiny_model_dir("qwen2"))
    before = logits(model, batch)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(ProcessRewardModel.from_pretrained(tmp_path), batch), before)


def test_a_peft_config_for_a_token_classifier_is_adapted(tiny_model_dir):
    from peft import LoraConfig, TaskType

    given = LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], task_type=TaskType.TOKEN_CLS, modules_to_save=["score"]
    )
    model = ProcessRewardModel.from_backbone(str(tiny_model_dir("qwen2")), backbone="lora", peft_config=given)
    learns = {name.split(".")[-3] for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert learns == {"lora_A", "lora_B"}
    assert given.modules_to_save == ["score"]  # the caller's config stays as it is


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "partial"}, "backbone must be one of frozen, lora, qlora, full, not 'partial'"),
        ({"backbone": "lora"}, "backbone: lora goes with a peft_config"),
        ({"loss": "mse"}, "loss must be one of bce, first_error, not 'mse'"),
        ({"backbone": "full", "peft_config": object()}, "backbone: full goes without a peft_config"),
    ],
)
def test_options_that_do_not_fit(tiny_model_dir, options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        ProcessRewardModel.from_backbone(str(tiny_model_dir("llama")), **options)


def test_no_such_base(tmp_path):
    with pytest.raises(InputError, match=r"the base model .*/none is gone"):
        ProcessRewardModel.from_backbone(str(tmp_path / "none"), backbone="frozen")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"cannot load the model .*/empty \(.*\); give its folder or Hub id"):
        ProcessRewardModel.from_backbone(str(tmp_path / "empty"), backbone="frozen")


def test_qlora_without_bitsandbytes_says_how_to_get_it(tiny_model_dir, monkeypatch):
    from peft import LoraConfig

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a)
    )
    with pytest.raises(InputError, match=r"needs bitsandbytes, .*: pip install 'nl2sql-prm\[qlora\]'$"):
        ProcessRewardModel.from_backbone(
            str(tiny_model_dir("llama")),
            backbone="qlora",
            peft_config=LoraConfig(target_modules="all-linear"),
        )


def test_qlora_gradients_do_not_depend_on_an_evaluation_before(make_model):
    """bitsandbytes repacks 4-bit weights for faster inference on some CPUs, which would ruin training."""
    ids = torch.arange(5, 25).reshape(1, -1)
    inputs = {"input_ids": ids, "step_ends": torch.tensor([[9, 19]]), "labels": torch.tensor([[1.0, 0.0]])}
    gradients = []
    for evaluate_first in (False, True):
        model = make_model("llama", backbone="qlora")
        if evaluate_first:
            with torch.no_grad():
                model.eval()(**inputs)
        model.train()(**inputs).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    plain, after = gradients
    assert any("lora_A" in name for name in plain) and plain.keys() == after.keys()
    assert all(plain[name].abs().max() > 0 and plain[name].equal(after[name]) for name in plain)


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def drop_weight(file):
    weights = load_file(file)
    save_file(dict(sorted(weights.items())[1:]), file)


BROKEN = [
    ("frozen", "config.json", lambda f: f.unlink(), "is no PRM checkpoint: config.json is missing"),
    ("frozen", "head.safetensors", lambda f: f.unlink(), "is no PRM checkpoint: head.safetensors is missing"),
    ("frozen", "config.json", lambda f: f.write_text("{"), "config.json: cannot be read .*copy"),
    ("frozen", "config.json", lambda f: f.write_text("[]"), "config.json: is that of a None model"),
    ("frozen", "config.json", lambda f: rewrite(f, model_type="llama"), "is that of a 'llama' model"),
    ("frozen", "config.json", lambda f: rewrite(f, score_kind="value"), "scores of kind 'value' is unknown"),
    ("frozen", "config.json", lambda f: rewrite(f, backbone="x"), "backbone 'x' .* install a newer"),
    ("frozen", "config.json", lambda f: rewrite(f, base_model_name_or_path=None), "does not say which base"),
    ("frozen", "head.safetensors", lambda f: f.write_bytes(f.read_bytes()[:-9]), "cannot load the check"),
    ("frozen", "head.safetensors", drop_weight, "cannot load the checkpoint .*copy it again"),
    ("lora", ADAPTER[0], lambda f: f.unlink(), "adapter_config.json is missing; copy"),
    ("lora", ADAPTER[1], lambda f: f.unlink(), "adapter_model.safetensors is missing"),
    ("lora", ADAPTER[0], lambda f: f.write_text("{"), "cannot load the checkpoint"),
    ("lora", ADAPTER[1], lambda f: f.write_bytes(b"x"), "cannot load the checkpoint"),
    ("lora", ADAPTER[1], drop_weight, "cannot load the checkpoint .*missing"),
    ("full", "model.safetensors", lambda f: f.unlink(), "cannot load the model"),
    ("full", "model.safetensors", lambda f: f.write_bytes(b"x" * 99), "cannot load the model"),
    ("full", "model.safetensors", drop_weight, "1 weights are missing"),
]  # fmt: skip


@pytest.mark.parametrize(("backbone", "file", "damage", "message"), BROKEN)
def test_broken_checkpoints_are_bad_input(make_model, tmp_path, backbone, file, damage, message):
    make_model("llama", backbone=backbone).save_pretrained(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(InputError, match=message) as raised:
        ProcessRewardModel.from_pretrained(tmp_path)
    assert str(tmp_path) in str(raised.value) or "base model" in message or "which base" in message
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: no such checkpoint folder"),
        ("a/b/none", "none: no such checkpoint folder"),
        ("file.txt", "file.txt is a file; name the checkpoint's folder"),
        ("base", "base is no PRM checkpoint: head.safetensors is missing; name a folder that training wrote"),
        ("run", "run is no PRM checkpoint: config.json is missing; name .*/run/checkpoint$"),
    ],
)
def test_no_checkpoint(make_model, tiny_model_dir, tmp_path, name, message):
    (tmp_path / "file.txt").touch()
    os.symlink(tiny_model_dir("llama"), tmp_path / "base")
    make_model("llama", backbone="frozen").save_pretrained(tmp_path / "run" / "checkpoint")
    with pytest.raises(InputError, match=message):
        ProcessRewardModel.from_pretrained(tmp_path / name)


def test_an_id_that_is_not_on_the_hub(monkeypatch):
    with pytest.raises(InputError, match=r"^nobody/nothing: no such folder, and the Hub does not give it"):
        ProcessRewardModel.from_pretrained("nobody/nothing", local_files_only=True)


def test_config_defaults_are_those_of_this_version():
    from prm.traces.prompting import PROMPT_VERSION

    assert ProcessRewardConfig().prompt_version == PROMPT_VERSION


def test_the_head_standardises_its_input():
    """Mean 0 and deviation 1 in every dimension, whatever their scales; a still dimension stays small."""
    head = PRMHead(3, None)
    states = torch.tensor([[100.0, 0.01, 5.0], [300.0, 0.03, 5.0]])
    assert not head.is_standardised
    head.standardise(states)
    assert head.is_standardised
    inner = (states - head.shift) * head.scale
    assert inner[:, 0].tolist() == [-1.0, 1.0]
    assert inner[:, 1].abs().max() < 0.05  # 0.01 is far below a hundredth of the mean deviation: noise
    assert inner[:, 2].tolist() == [0.0, 0.0]
    same = PRMHead(3, None)
    same.standardise(torch.ones(4, 3))  # nothing to measure: nothing done
    assert not same.is_standardised


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_only_the_first_layers(tiny_model_dir, tmp_path, family):
    """`backbone_layers` keeps the first layers' weights and nothing of the others, also when loaded again."""
    base = tiny_model_dir(family)
    whole = ProcessRewardModel.from_backbone(str(base), backbone="frozen")
    half = ProcessRewardModel.from_backbone(str(base), backbone="frozen", backbone_layers=1)
    assert (len(whole.backbone.layers), len(half.backbone.layers)) == (2, 1)
    for name, weight in half.backbone.layers[0].state_dict().items():
        assert torch.equal(weight, whole.backbone.layers[0].state_dict()[name])
    half.save_pretrained(tmp_path)
    again = ProcessRewardModel.from_pretrained(tmp_path)
    ids, ends = torch.arange(9).unsqueeze(0), torch.tensor([[3, 8]])
    with torch.no_grad():
        assert torch.equal(again(ids, step_ends=ends).logits, half.eval()(ids, step_ends=ends).logits)
    with pytest.raises(InputError, match="between 1 and 2"):
        ProcessRewardModel.from_backbone(str(base), backbone="frozen", backbone_layers=3)
