"""LoRA layers compute what PEFT's own do, with less."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import nn

from prm.modeling.adapters import _LeanLinear, _LowRank, lean_adapters


class Two(nn.Module):
    """Two layers, one with a bias, so that a gradient goes through one to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 40), nn.Linear(40, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)))


def adapted(dtype: torch.dtype = torch.float32, **settings) -> tuple[nn.Module, nn.Module]:
    """The same model with the same adapter, by PEFT and by us."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": ["up", "down"]} | settings)
    theirs = get_peft_model(Two().to(dtype), config)
    for name, weight in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)  # at first it is 0, and would hide everything
    ours = copy.deepcopy(theirs)
    lean_adapters(ours)
    return theirs, ours


def run(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Output, gradient of the input, gradients of the weights."""
    x = x.clone().requires_grad_()
    out = model(x)
    out.float().square().sum().backward()
    return out.detach(), x.grad, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def test_output_and_gradients_are_those_of_peft():
    theirs, ours = adapted()
    assert all(type(m) is not lora.Linear for m in ours.modules())
    x = torch.randn(2, 5, 24)
    (out, to_x, grads), (our_out, our_to_x, our_grads) = run(theirs, x), run(ours, x)
    torch.testing.assert_close(our_out, out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_to_x, to_x, rtol=1e-5, atol=1e-4)
    assert our_grads.keys() == grads.keys() and len(grads) == 4
    for name, gradient in grads.items():
        assert gradient.abs().max() > 1
        torch.testing.assert_close(our_grads[name], gradient, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_it_is_as_near_to_float32_as_peft_is():
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(0))
    exact = run(adapted()[0], x)
    theirs, ours = adapted(torch.bfloat16)
    for model in (theirs, ours):  # the adapter stays in float32, as PEFT keeps it
        assert {p.dtype for n, p in model.named_parameters() if "lora" in n} == {torch.float32}
    them, us = run(theirs, x.bfloat16()), run(ours, x.bfloat16())
    assert us[0].dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in us[2].values())

    def far(found: torch.Tensor, wanted: torch.Tensor) -> float:
        return float((found.float() - wanted).norm() / wanted.norm())

    for theirs_, ours_, wanted in [
        (them[0], us[0], exact[0]),
        (them[1], us[1], exact[1]),
        *((them[2][n], us[2][n], exact[2][n]) for n in exact[2]),
    ]:
        assert far(ours_, wanted) < max(0.01, 1.5 * far(theirs_, wanted))


@pytest.mark.parametrize(
    "mode", ["disabled", "merged", "dropout", "dora", "two adapters", "autocast", "bias"]
)
def test_what_is_not_plain_is_left_to_peft(mode, monkeypatch):
    settings = {
        "dropout": {"lora_dropout": 0.5},
        "dora": {"use_dora": True},
        "bias": {"lora_bias": True, "target_modules": ["up"]},  # the other layer has none
    }
    theirs, ours = adapted(**settings.get(mode, {}))
    x = torch.randn(4, 24)

    def outputs(model: nn.Module) -> torch.Tensor:
        torch.manual_seed(1)  # of the dropout
        if mode == "disabled":
            with model.disable_adapter():
                return model(x)
        if mode == "merged":
            model.merge_adapter()
        if mode == "two adapters":
            model.add_adapter("second", model.peft_config["default"])
            for name, weight in model.named_parameters():
                if "lora_B.second" in name:
                    nn.init.constant_(weight, 0.1)
            model.base_model.set_adapter(["default", "second"])
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            return model(x)

    wanted = outputs(theirs)
    with monkeypatch.context() as patch:  # whatever it gives, it does not come from us
        patch.setattr(_LowRank, "apply", None)
        found = outputs(ours)
    assert torch.equal(found, wanted)


def test_dropout_is_for_training_only():
    theirs, ours = adapted(lora_dropout=0.5)
    x = torch.randn(4, 24)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert any(isinstance(module, _LeanLinear) for module in ours.modules())
