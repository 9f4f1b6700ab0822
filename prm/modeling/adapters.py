"""LoRA in the dtype of the weights below it, without passes over memory that hold nothing new.

PEFT's `lora.Linear` computes `result + lora_B(lora_A(x)) * scaling`: it casts the input to the adapter's
float32 where the backbone is bfloat16, multiplies, adds, casts back, and keeps what each of them needs for
the gradients. Beside a small backbone these passes cost as much as the arithmetic. Here the scaling goes into
B, and the second product is added onto the output where it stands. The adapter's own weights, gradients and
optimizer states stay float32, and checkpoints are PEFT's.

Whatever is not plain LoRA over a plain linear layer (DoRA, dropout, several adapters, merged or quantised
weights, weights that an engine has cut up, autocast over float32 weights) is left to PEFT.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners import lora
from torch import nn
from torch.autograd.function import once_differentiable

from prm.modeling.products import linear
from prm.modeling.sharding import is_cut_up


def lean_adapters(model: nn.Module) -> None:
    """Let the plain LoRA layers of a PEFT model compute as the module docstring says."""
    for module in model.modules():
        if type(module) is lora.Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = _LeanLinear


class _LeanLinear(lora.Linear):
    """PEFT's layer with a shorter way where nothing but one LoRA adapter is at work (Hu et al. 2021)."""

    base_layer: nn.Linear  # see `lean_adapters`

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        name = self._plain_adapter(x.device.type)
        if name is None or args or kwargs:
            return super().forward(x, *args, **kwargs)
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        x = x.to(base.weight.dtype)
        return _LowRank.apply(x, base.weight, base.bias, a, b, self.scaling[name])

    def _plain_adapter(self, device: str) -> str | None:
        """The one adapter at work, if all else is plain."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return None
        dropout, weight, bias = self.lora_dropout[name], self.base_layer.weight, self.base_layer.bias
        if self.training and not isinstance(dropout, nn.Identity):
            return None
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != weight.dtype:
            return None
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return None
        a = cast(torch.Tensor, self.lora_A[name].weight)  # of a ModuleDict: no hint says so
        return None if is_cut_up(weight) or is_cut_up(a) else name


class _LowRank(torch.autograd.Function):
    """`x @ weight.T + bias + scaling * x @ a.T @ b.T`, of frozen `weight` (out, in) and `bias` (out,).

    `x` (…, in) has the dtype of `weight`, and so have the result (…, out) and the gradient of `x`; `a`
    (rank, in) and `b` (out, rank) have one of their own.
    """

    @staticmethod
    def forward(ctx: Any, x, weight, bias, a, b, scaling: float) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, b = a.to(x.dtype), (b * scaling).to(x.dtype)
        inner = rows @ a.T
        out = linear(rows, weight, bias).addmm_(inner, b.T)
        ctx.save_for_backward(rows, weight, a, b, inner)
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        rows, weight, a, b, inner = ctx.saved_tensors
        shape, gradient = gradient.shape, gradient.reshape(-1, gradient.shape[-1])
        to_inner = gradient @ b
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = linear(gradient, weight.T).addmm_(to_inner, a).view(*shape[:-1], -1)
        # Autograd casts them to the dtype of the parameters.
        return to_x, None, None, to_inner.T @ rows, (gradient.T @ inner).mul_(ctx.scaling), None
