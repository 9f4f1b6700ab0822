"""Weights and optimizer states that DeepSpeed's ZeRO has cut up, put together where they are needed.

ZeRO-3 leaves every process a slice of each weight; a layer has them whole only while the engine runs it. Four
things are done outside the engine and need them: reading a frozen backbone's states before the engine exists,
naming a backbone by its weights, saving, and loading. ZeRO-2 and ZeRO-3 also slice the states of the
optimizer, over as many processes as there happen to be.

DeepSpeed's own checkpoints keep those slices, one file a process, with the frozen base among them, and go on
with the same number of processes only. Ours hold what one process would write: the weights that learn, and
`optimizer.pt` in torch's own layout. So any engine goes on from any other's checkpoint, with any number of
processes. The price: while it is written, every value passes through all processes, one parameter at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import distributed as dist
from torch import nn


class _CutUp(nn.Parameter):
    """What DeepSpeed adds to a parameter that it cuts up; nothing is made of this class."""

    ds_numel: int
    ds_shape: torch.Size
    ds_process_group: dist.ProcessGroup
    partition_numel: Callable[[], int]


def is_cut_up(weight: torch.Tensor) -> TypeGuard[_CutUp]:
    """Whether ZeRO-3 has sliced this parameter."""
    return hasattr(weight, "ds_id")  # DeepSpeed's own mark; it has no function to ask


def size_of(weight: torch.Tensor) -> int:
    """Number of elements, of a parameter that is cut up, too."""
    return weight.ds_numel if is_cut_up(weight) else weight.numel()


@contextlib.contextmanager
def whole(weights: Iterable[torch.Tensor], *, change: bool = False) -> Iterator[None]:
    """These parameters are whole within the block; what process 0 writes into them stays, with `change`.

    All processes must enter together. Without ZeRO-3 it does nothing.
    """
    sliced = [weight for weight in weights if is_cut_up(weight)]
    if not sliced:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(sliced, modifier_rank=0 if change else None):
        yield


@contextlib.contextmanager
def whole_layer_by_layer(model: nn.Module) -> Iterator[None]:
    """Within the block every module has its own parameters whole while it runs, and no longer.

    For forwards without gradients before the engine is there. All processes must run the same modules.
    """
    handles = []
    for module in model.modules():
        own = [weight for weight in module.parameters(recurse=False) if is_cut_up(weight)]
        if not own:
            continue
        open_: list[Any] = []

        def gather(*_: Any, own: Sequence[torch.Tensor] = own, open_: list[Any] = open_) -> None:
            open_.append(whole(own))
            open_[-1].__enter__()

        def release(*_: Any, open_: list[Any] = open_) -> None:
            open_.pop().__exit__(None, None, None)

        handles += [module.register_forward_pre_hook(gather), module.register_forward_hook(release)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trained_weights(model: nn.Module, *, keep: bool) -> dict[str, torch.Tensor]:
    """What `model.state_dict()` has of parameters that learn and of buffers, whole and on the CPU; where not
    `keep`, nothing: the process only takes part.
    """
    found: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if weight.requires_grad:
            with whole([weight]):
                if keep:
                    found[name] = weight.detach().cpu().clone()
    if keep:
        buffers = dict(model.named_buffers())
        found |= {name: value.cpu() for name, value in model.state_dict().items() if name in buffers}
    return found


def renew_master_weights(model: nn.Module) -> None:
    """After weights were loaded into a model in its engine: the float32 copies that the optimizer steps."""
    for weight in model.parameters():
        if weight.requires_grad:
            with whole([weight]):
                value = weight.detach().float().clone()
            _set(weight, value)


def optimizer_state(zero: Any, groups: Sequence[Sequence[nn.Parameter]], *, keep: bool) -> dict[str, Any]:
    """The optimizer's state in the layout of `torch.optim.Optimizer.state_dict`, with each parameter's
    float32 `master` where its own weight is coarser.

    Args:
        zero: DeepSpeed's ZeRO optimizer.
        groups: the parameters of each group, in the order in which the optimizer was made of them.
        keep: False: the process only takes part, and the result is empty.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    inner = zero.optimizer
    flat = _flat_weights(zero)
    of_one = inner.state.get(flat[0], {})
    _link(zero)
    sliced = [k for k, v in of_one.items() if torch.is_tensor(v) and v.shape == flat[0].shape]
    step = of_one.get("step")
    state: dict[int, dict[str, Any]] = {}
    at = 0
    for group in groups:
        for weight in group:
            entry = {key: safe_get_full_optimizer_state(weight, key) for key in sliced}
            if weight.dtype != torch.float32:
                entry["master"] = safe_get_full_fp32_param(weight)
            if step is not None:
                entry["step"] = torch.tensor(float(step))  # of its own: a shared one would count for all
            if keep and entry:
                state[at] = {key: value.detach().cpu().clone() for key, value in entry.items()}
            at += 1
    if not keep:
        return {}
    settings, at = [], 0
    for group, values in zip(groups, inner.param_groups, strict=True):
        settings.append(
            {key: value for key, value in values.items() if key != "params"}
            | {"params": list(range(at, at + len(group)))}
        )
        at += len(group)
    return {"state": state, "param_groups": settings}


def load_optimizer_state(zero: Any, groups: Sequence[Sequence[nn.Parameter]], saved: dict[str, Any]) -> None:
    """Put such a state, or one of a plain torch optimizer, into DeepSpeed's; every process reads its slices.

    The learning rate is the scheduler's to set.
    """
    inner, state = zero.optimizer, saved["state"]
    if not state:
        return
    weights = [weight for group in groups for weight in group]
    shapes = [tuple(weight.ds_shape if is_cut_up(weight) else weight.shape) for weight in weights]
    first = state[0]
    sliced = [k for k, v in first.items() if k != "master" and torch.is_tensor(v) and v.shape == shapes[0]]
    of_torch = isinstance(inner, (torch.optim.Adam, torch.optim.AdamW))
    flats = _flat_weights(zero)
    for flat in flats:
        inner.state[flat] = {key: torch.zeros_like(flat) for key in sliced}
        if "step" in first:  # DeepSpeed's own Adam counts in plain numbers, torch's in tensors
            inner.state[flat]["step"] = torch.tensor(float(first["step"])) if of_torch else int(first["step"])
    _link(zero)
    device = flats[0].device
    for at, weight in enumerate(weights):
        for key in sliced:
            _set(weight, state[at][key].to(device), key)
        if "master" in state[at]:
            _set(weight, state[at]["master"].to(device))


def _set(weight: nn.Parameter, value: torch.Tensor, key: str | None = None) -> None:
    """Write a parameter's float32 copy, or its state `key` in the optimizer, from the whole value."""
    from deepspeed import utils

    if not is_cut_up(weight):
        if key is None:
            utils.safe_set_full_fp32_param(weight, value)
        else:
            utils.safe_set_full_optimizer_state(weight, value, key)
        return
    # The same functions fail under ZeRO-3 where the slices of a parameter are not of one length: its end is
    # padded there, and here.
    processes, rank = dist.get_world_size(weight.ds_process_group), dist.get_rank(weight.ds_process_group)
    length = weight.partition_numel()
    flat = nn.functional.pad(value.flatten(), (0, length * processes - value.numel()))
    mine = flat.narrow(0, rank * length, length)
    if key is None:
        utils.safe_set_local_fp32_param(weight, mine)
    else:
        utils.safe_set_local_optimizer_state(weight, mine, key)


def _link(zero: Any) -> None:
    """Let parameters find their slices of the optimizer's state. ZeRO-1 and 2 do it by themselves once, when
    only the first group has been stepped, and so leave the others without.
    """
    if not _is_stage_3(zero):
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        for group, flat in zip(zero.bit16_groups, _flat_weights(zero), strict=True):
            lazy_init_hp_params_optimizer_state(group, flat, zero.optimizer.state)


def _is_stage_3(zero: Any) -> bool:
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    return isinstance(zero, DeepSpeedZeroOptimizer_Stage3)


def _flat_weights(zero: Any) -> list[torch.Tensor]:
    """This process's slices of all weights, as the inner optimizer knows them: ZeRO-3 has one for each of its
    parts, ZeRO-1 and 2 one for each group.
    """
    return list(
        zero.fp32_partitioned_groups_flat if _is_stage_3(zero) else zero.single_partition_of_fp32_groups
    )
