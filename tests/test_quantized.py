"""QLoRA on 4-bit and 8-bit weights: its gradients and its training against the same weights unquantised."""

from __future__ import annotations

import pytest
import torch
from colour_traces import make_traces

from prm import PRMTrainer, ProcessRewardModel, Scorer
from prm.errors import InputError
from prm.modeling.process_reward_model import load_tokenizer
from prm.recipe import PRMConfig

IDS = torch.arange(5, 25).reshape(1, -1)
BATCH = {"input_ids": IDS, "step_ends": torch.tensor([[9, 19]]), "labels": torch.tensor([[1.0, 0.0]])}


def quantised_layers(model):
    """(name, layer, its weights as the layer computes with them) of every quantised layer."""
    import bitsandbytes as bnb

    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, bnb.nn.Linear4bit):
            yield name, module, bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float()
        elif isinstance(module, bnb.nn.Linear8bitLt):
            scale = weight.SCB if weight.SCB is not None else module.state.SCB
            yield name, module, weight.data.float() * scale.float()[:, None] / 127


@pytest.fixture(params=[4, 8])
def pair(request, make_model, tiny_model_dir, tmp_path):
    """(bits, a qlora model, a lora model on a saved base with the very weights that the first computes with,
    the folder of that base)."""
    quantised = make_model(backbone="qlora", quantization_bits=request.param)
    base = ProcessRewardModel.from_backbone(str(tiny_model_dir()), backbone="full")
    dense = dict(base.backbone.named_modules())
    layers = list(quantised_layers(quantised.backbone))
    assert len(layers) == 14  # seven projections in each of two layers
    with torch.no_grad():
        for name, _, weight in layers:
            place = name.removeprefix("base_model.model.").removesuffix(".base_layer")
            assert not torch.equal(dense[place].weight, weight)
            dense[place].weight.copy_(weight)
    base.backbone.save_pretrained(tmp_path / "base")
    load_tokenizer(tiny_model_dir()).save_pretrained(tmp_path / "base")
    quantised.save_pretrained(tmp_path / "checkpoint")
    dense = ProcessRewardModel.from_pretrained(
        tmp_path / "checkpoint",
        base_model_name_or_path=str(tmp_path / "base"),
        quantize=False,
        is_trainable=True,
    )
    assert not list(quantised_layers(dense.backbone))
    return request.param, quantised, dense, tmp_path / "base"


def gradients(model):
    model.zero_grad()
    model.train()(**BATCH).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_gradients_are_those_of_the_dequantised_model_before_and_after_an_evaluation(pair):
    """With 4 bits exactly; with 8 to within what rounding the activations does."""
    bits, quantised, dense, _ = pair
    expected = gradients(dense)
    first = gradients(quantised)
    with torch.no_grad():
        logits = quantised.eval()(**BATCH).logits
        torch.testing.assert_close(logits, dense.eval()(**BATCH).logits, rtol=0, atol=[1e-4, 0.05][bits == 8])
    second = gradients(quantised)
    assert first.keys() == expected.keys() and sum("lora_" in name for name in first) == 28
    for name, gradient in first.items():
        assert torch.equal(second[name], gradient), name  # an evaluation in between changes nothing
        error = (gradient - expected[name]).norm() / expected[name].norm().clamp(min=1e-6)
        assert error < (1e-4 if bits == 4 else 0.1), (name, error)


def test_training_with_evaluations_is_that_of_the_dequantised_model(pair, tmp_path):
    """Every loss of a run that evaluates after every step; head and adapters in float32 all along."""
    bits, quantised, dense, _ = pair
    losses = []
    for kind, model in (("quantised", quantised), ("dense", dense)):
        args = PRMConfig(
            output_dir=str(tmp_path / kind), max_steps=5, learning_rate=2e-3, lr_scheduler_type="constant",
            eval_strategy="steps", eval_steps=1, save_strategy="no", use_cpu=True, report_to="none",
            per_device_train_batch_size=8, disable_tqdm=True, activation_checkpointing=True,
        )  # fmt: skip
        trainer = PRMTrainer(model, args, train_dataset=make_traces(12), eval_dataset=make_traces(4, seed=1))
        trainer.train()
        log = trainer.state.log_history
        losses.append([entry[key] for entry in log for key in ("loss", "eval_loss") if key in entry])
        for name, weight in model.named_parameters():
            assert not weight.requires_grad or weight.dtype == torch.float32, name
    assert len(losses[0]) == 10 and losses[1][-1] != losses[1][1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if bits == 4 else 0.05)


def test_saved_and_reloaded_on_the_same_and_on_an_unquantised_base(pair, traces, tokenizer, tmp_path):
    bits, quantised, _, base = pair
    before = Scorer(quantised.eval(), tokenizer).score(traces)
    folder = tmp_path / "checkpoint"
    tokenizer.save_pretrained(folder)
    again = Scorer.from_pretrained(folder, device="cpu")
    assert again.score(traces) == before
    assert again.model.config.quantization_bits == bits
    assert {layer.weight.element_size() for _, layer, _ in quantised_layers(again.model.backbone)} == {1}
    assert all(weight.dtype == torch.float32 for weight in again.model.head.parameters())
    # The weights it was trained on, unquantised: the same scores; the true base: near them.
    same = Scorer.from_pretrained(folder, device="cpu", quantize=False, base_model_name_or_path=str(base))
    near = Scorer.from_pretrained(folder, device="cpu", quantize=False)
    for row, other in zip(same.score(traces), before, strict=True):
        assert row == pytest.approx(other, abs=1e-4 if bits == 4 else 0.05)
    flat, exact = ([score for row in rows for score in row] for rows in (near.score(traces), before))
    difference = sum(abs(a - b) for a, b in zip(flat, exact, strict=True)) / len(flat)
    assert 0 < difference < 0.2  # random weights, which round badly
    assert sum(f.stat().st_size for f in folder.rglob("*.safetensors")) < 100_000


def test_bits_are_4_or_8(tiny_model_dir):
    from prm.recipe import ModelConfig

    with pytest.raises(InputError, match="quantization_bits must be 4 or 8, not 3"):
        ModelConfig(model_name_or_path=str(tiny_model_dir()), backbone="qlora", quantization_bits=3)
