"""Products with frozen weights, by the library that computes them fastest.

PyTorch multiplies float32 matrices by MKL, which knows the CPUs of its own maker best: on an AMD EPYC oneDNN,
which PyTorch holds for other dtypes, is 1.1 to 1.2 times as fast (`benchmarks/products.py`). Both are exact
to float32's rounding.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional as F


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` of (…, in) and (out, in) -> (…, out), without gradients."""
    float32 = x.dtype == weight.dtype == torch.float32
    if float32 and x.device.type == "cpu" and prefers_onednn() and not torch.is_autocast_enabled("cpu"):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


@functools.cache
def prefers_onednn() -> bool:
    """Whether this CPU's float32 products go by oneDNN. Older versions of PyTorch do not say which
    CPU it is: MKL stays."""
    if not hasattr(torch.cpu, "get_capabilities") or not torch.backends.mkldnn.is_available():
        return False
    return str(torch.cpu.get_capabilities().get("cpu_name", "")).startswith("AMD")


def use_fastest_products(model: nn.Module) -> None:
    """Let the linear layers of a model compute by `linear` wherever no gradient is wanted."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Linear


class _Linear(nn.Linear):
    """PyTorch's layer with the faster product; parameters, names and gradients are as ever."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() or type(self.weight) is not nn.Parameter:  # some tensor of a library
            return super().forward(input)
        return linear(input, self.weight, self.bias)
