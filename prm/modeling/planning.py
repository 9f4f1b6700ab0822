"""Will it fit? The memory of a training step, from the model's configuration alone: no weights are loaded.

A formula for activations is wrong for the next architecture. So the step itself is run, on tensors that have
shapes but no contents (`FakeTensorMode`): the backbone of transformers, PEFT's adapters, our head and loss,
autocast, activation checkpointing, backward and the optimiser are the real ones, and `_Memory` notes when
each block of memory appears and when it goes. A 7B model takes seconds. What is counted:

* weights, gradients and optimiser states: of the tensors themselves.
* activations: what is alive when the forward ends: what autograd keeps for the backward.
* working memory: what comes on top of that at the worst moment of the forward, the backward or the optimiser.

What the trace does not see is put in by hand. Attention over token trees keeps queries, keys, values, output
and one logarithm a head and token, as all fused kernels do (Dao et al. 2022); 4-bit and 8-bit layers hold
packed weights, unpack one layer at a time, and 8-bit ones keep their input (bitsandbytes). Engines share out
what is traced: DDP adds a bucket as large as the gradients; ZeRO 1, 2, 3 cut optimiser states, gradients and
weights (Rajbhandari et al. 2020), add a float32 copy of what learns, and cast all to the 16-bit type if the
recipe has one; ZeRO-3 keeps up to `stage3_max_live_parameters` gathered; FSDP 2 gathers what stands outside
the layers, the present layer and the next. CUDA itself, its libraries and fragmentation are not computed but
assumed (`RESERVE`).

Checked against real runs by `benchmarks/memory.py`; the figures stand in docs/results.md.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoConfig, AutoModel, PretrainedConfig, Trainer
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.training_args import OptimizerNames

from prm.errors import InputError
from prm.modeling.losses import step_loss
from prm.modeling.process_reward_model import (
    UNTRUSTED,
    ProcessRewardConfig,
    ProcessRewardModel,
    _first_layers,
    _reason,
    read_trees,
)
from prm.modeling.tree_attention import ATTENTION
from prm.recipe import ModelConfig, PRMConfig, read_recipe
from prm.traces.formats import atomic_write

#: CUDA's context, the workspaces of its libraries, NCCL's buffers, fragmentation. Assumed, not measured.
RESERVE = 1 << 30
#: One step end in so many tokens: chains of CTEs on Spider have one in 30 to 60.
TOKENS_A_STEP = 32
#: What a head learns from at once on a frozen backbone, beside `per_device_train_batch_size` traces.
STEPS_A_TRACE = 16
#: Name of the setting without token trees; a batch whose traces share nothing is read in this way, too.
ROWS = "attn_implementation: sdpa"
#: DeepSpeed's default `stage3_max_live_parameters`.
LIVE_PARAMETERS = 10**9
#: Suggested budgets are multiples of this, up to `LARGEST_BUDGET`.
ROUND, LARGEST_BUDGET = 64, 1 << 19

_RESERVED = {"cuda": "CUDA, its libraries and fragmentation", "cpu": "Python and its libraries"}

_UNITS = {"": 1, "B": 1} | {
    name: base**power
    for power, letter in enumerate("KMGT", start=1)
    for name, base in ((f"{letter}IB", 1024), (f"{letter}B", 1000), (letter, 1024))
}


def memory_size(text: str) -> int:
    """Bytes in `24GiB`, `24GB`, `24G` (the first), or a plain number.

    Raises:
        InputError: it is none of these, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise InputError(f"--gpu-memory must be a size like 24GiB or 80GB, not {text!r}")
    return int(float(match[1]) * unit)


# ---- tracing one step


class _Memory(TorchDispatchMode):
    """Counts the bytes alive: every storage from the operation that makes it to the end of its last tensor.

    `live` and `peak` are relative to what was there before (weights, inputs).
    """

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # two thirds of all calls
            return args[0].fake_device
        if func is torch.ops.aten._local_scalar_dense.default:
            # A question about contents ("is the mask all ones?", "which step is it?"): there are none.
            return False if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is torch.ops.aten._grouped_mm.default:  # experts; its rule for shapes knows bfloat16 alone
            out = _grouped_matmul(*args[:3])
        else:
            out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _grouped_matmul(a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    """What a matrix product by groups gives: groups of rows or of columns are one matrix, those of both or of
    neither one for each group.
    """
    groups = [] if a.dim() != b.dim() else [len(a) if ends is None else len(ends)]
    return a.new_empty(*groups, a.shape[-2], b.shape[-1])


@dataclass(frozen=True)
class Step:
    """Bytes of a step beyond weights, gradients and optimiser states: `saved` for the backward when the
    forward ends, and at most (`peak`)."""

    saved: int
    peak: int


class _FusedAttention(torch.autograd.Function):
    """The memory of attention by a fused kernel; no arithmetic.

    On a GPU it needs little besides what it keeps; our blocks on the CPU hold gradients in float32 for every
    query head (see `prm.modeling.tree_attention`). Where
    nothing is learned, keys and values are kept for the next window (see `prm.modeling.reading`).
    """

    @staticmethod
    def forward(ctx: Any, query, key, value, on_cpu: bool) -> torch.Tensor:
        wide = query.dtype != torch.float32 and on_cpu
        out = torch.empty_like(query, dtype=torch.float32) if wide else torch.empty_like(query)
        sums = out.new_empty(out.shape[:-1], dtype=torch.float32)
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.on_cpu = on_cpu
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        if not ctx.on_cpu:
            rows = torch.empty_like(sums)  # of output times gradient, while the rest is computed
            gradients = tuple(torch.empty_like(x) for x in (query, key, value))
            del rows
            return *gradients, None
        times = query.shape[1] // key.shape[1]
        dtype, copies = query.dtype, (1, times, times)
        query, key, value = (
            x.float().repeat_interleave(n, dim=1) for x, n in zip((query, key, value), copies, strict=True)
        )
        gradient, out = gradient.float(), out.float()
        to_query, *others = (torch.empty_like(x) for x in (query, key, value))
        to_key, to_value = (x.unflatten(1, (-1, times)).sum(2) for x in others)
        return to_query.to(dtype), to_key.to(dtype), to_value.to(dtype), None


def _fused_attention(on_cpu: bool) -> Callable[..., tuple[torch.Tensor, None]]:
    def attention(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        if torch.is_autocast_enabled("cpu"):  # as tree_attention does
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        if attention_mask is not None and attention_mask.dtype == torch.int64 and not torch.is_grad_enabled():
            attention_mask.kept += [key, value]  # type: ignore[attr-defined]  # of trees, see `_traced`
        return _FusedAttention.apply(query, key, value, on_cpu).transpose(1, 2), None

    return attention


for _device in ("cpu", "cuda"):
    AttentionInterface.register(f"prm_plan_{_device}", _fused_attention(_device == "cpu"))
    AttentionMaskInterface.register(f"prm_plan_{_device}", sdpa_mask)


class _PackedLinear(nn.Linear):
    """The memory of a bitsandbytes layer of 4 or 8 bits: packed weights, unpacked while they are used."""

    def __init__(self, layer: nn.Linear, bits: int, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bits, self.dtype, self.bias = bits, dtype, layer.bias
        n = layer.weight.numel()
        # NF4 with double quantisation: blocks of 64 share a scale of 8 bits, 256 of those one of 32 bits.
        # LLM.int8: a float32 scale a row.
        size = n // 2 + -(-n // 64) + 4 * -(-n // (64 * 256)) if bits == 4 else n + 4 * self.out_features
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.uint8, device="meta"), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (self.out_features, self.in_features)
        out = _PackedMatmul.apply(x.to(self.dtype), self.weight, self.bias, shape, self.bits)
        return out.to(x.dtype)


class _PackedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, shape: tuple[int, int], bits: int) -> torch.Tensor:
        ctx.save_for_backward(weight, *([x] if bits == 8 else []))
        ctx.shape = shape
        return nn.functional.linear(x, x.new_empty(shape), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return gradient @ gradient.new_empty(ctx.shape), None, None, None, None


@dataclass(frozen=True)
class Way:
    """What decides the memory of one process's step: how the backbone is held and run.

    `bits` are those of a quantised weight (4 or 8, else None); `cast`: everything is in this 16-bit dtype
    (DeepSpeed) in place of autocast to it; `device` is cuda or cpu.
    """

    model: ModelConfig
    bits: int | None
    checkpointing: bool
    autocast: torch.dtype | None
    cast: torch.dtype | None
    device: str


class TracedModel:
    """A model without weights, whose steps can be traced: its tensors are fake and say they are on the CPU.

    Attributes:
        trees: whether it reads token trees.
        frozen, learning: bytes of what does not learn (buffers included) and of what does.
        counts: parameters that do not learn, that learn in the backbone, and of the head.
        layer, outside: bytes of the backbone's largest layer, and of all that stands in none of them.
    """

    def __init__(self, way: Way, args: PRMConfig) -> None:
        self.way, self.args = way, args
        model, self.trees = _on_meta(way, args.loss)
        if way.cast is not None:
            model.to(way.cast)  # type: ignore[arg-type]  # mypy binds no method in functools.wraps
        if way.checkpointing:
            options = args.activation_checkpointing_kwargs or {}
            assert isinstance(options, dict)  # PRMConfig refuses others
            options = dict(options)
            every = options.pop("every_n_layers", 1)
            if options.pop("offload", False):
                raise InputError("activation_checkpointing_kwargs: plan without offload; it only needs less")
            model.activation_checkpointing_enable(
                activation_checkpointing_kwargs=options or None, every_n_layers=every
            )
        model.train()
        self.model, self.longest = model, model.longest
        self.hidden_size = model.backbone.config.hidden_size
        learns = [p for p in model.parameters() if p.requires_grad]
        still = [t for t in (*model.parameters(), *model.buffers()) if not t.requires_grad]
        self.frozen, self.learning = _bytes(still), _bytes(learns)
        head = sum(p.numel() for p in model.head.parameters())
        unpacked = sum(
            m.in_features * m.out_features - m.weight.numel()
            for m in model.modules()
            if isinstance(m, _PackedLinear)
        )
        self.counts = (
            sum(p.numel() for p in still) + unpacked,
            sum(p.numel() for p in learns) - head,
            head,
        )
        kinds = set(getattr(model, "_no_split_modules", None) or ())
        layers = [module for module in model.backbone.modules() if type(module).__name__ in kinds]
        self.layer = max((_bytes(layer.parameters()) for layer in layers), default=0)
        self.outside = _bytes(model.parameters()) - sum(_bytes(layer.parameters()) for layer in layers)
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        with self.fake:
            _make_fake(model)
        self._steps: dict[tuple[int, int], Step] = {}
        self._optimizers: dict[torch.dtype | None, Step] = {}

    def step(self, tokens: int, length: int) -> Step:
        """Of a forward and backward over `tokens` tokens: one row of trees, or rows of `length`, as many as
        fit; at least one trace of that length.

        Raises:
            InputError: this architecture cannot be traced.
        """
        tokens = max(tokens, length)
        shape = (1, tokens) if self.trees else (tokens // length, length)
        if shape not in self._steps:
            try:
                with _quiet(), self.fake:
                    self._steps[shape] = self._traced(*shape)
            except Exception as error:  # whatever a model's code meets that asks for contents
                kind = self.model.backbone.config.model_type
                raise InputError(
                    f"the activations of a {kind} model cannot be traced ({_reason(error)}); measure a run"
                ) from error
        return self._steps[shape]

    def largest(self, room: Callable[[int], bool], length: int) -> int | None:
        """The most tokens, in steps of `ROUND`, for whose peak there is `room`; None: not even for one trace
        of `length`.

        A peak is the largest of many sums, each of which grows with the tokens in proportion or faster. So a
        line between two traced points never lies below it, and what fits by the line does fit.
        """
        unit = ROUND if self.trees else length
        low, high = 0, LARGEST_BUDGET // unit * unit
        for tokens in sorted(rows * row for rows, row in self._steps):
            if room(self.step(tokens, length).peak):
                low = max(low, tokens)
            else:
                high = min(high, tokens)
        if not low:
            low = length
            if not room(self.step(low, length).peak):
                return None
        if room(self.step(high, length).peak):
            return high
        while True:
            start, end = self.step(low, length).peak, self.step(high, length).peak
            fit, over = low, high
            while over - fit > 1:
                middle = (fit + over) // 2
                on_line = start + (end - start) * (middle - low) // (high - low)
                fit, over = (middle, over) if room(on_line) else (fit, middle)
            fit = max(low, fit // unit * unit)
            if fit - low < max(unit, low // 50):
                return fit
            low = fit

    def _traced(self, rows: int, length: int) -> Step:
        model, n = self.model, rows * length
        steps = max(1, n // TOKENS_A_STEP)
        ids = torch.zeros(rows, length, dtype=torch.int64)
        ends, labels = torch.zeros(1, steps, dtype=torch.int64), torch.zeros(1, steps)
        if self.trees:  # what the model hands to every layer is as long as the row
            mask = torch.zeros(1, 1, 1, length, dtype=torch.int64)
        else:
            mask = torch.zeros(rows, length, dtype=torch.int64)
        if model.config.backbone == "frozen":
            kept: list[torch.Tensor] = []
            mask.kept = kept  # type: ignore[attr-defined]  # goes through the layers to `_fused_attention`
            with self._memory(ids, ends, mask) as memory, torch.no_grad():
                self._features(ids, mask, ends)
            # Of the window before, the keys and values of one path are still there.
            path = _bytes(kept) // length * self.args.max_length
            head = self._head_alone()
            return Step(head.saved, max(memory.peak + path, head.peak))
        for parameter in model.parameters():  # they are there from the first forward of a micro-batch on
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        memory = self._memory(ids, ends, mask, labels)
        with memory:
            with self._autocast():
                loss = self._loss(self._features(ids, mask, ends), labels)
            saved = memory.live
            loss.backward()
        return Step(saved, memory.peak)

    def _memory(self, *inputs: torch.Tensor) -> _Memory:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return _Memory([*self.model.parameters(), *self.model.buffers(), *gradients, *inputs])

    def _autocast(self) -> Any:
        dtype = self.way.autocast
        return torch.autocast("cpu", dtype=dtype) if dtype is not None else contextlib.nullcontext()

    def _features(self, ids: torch.Tensor, mask: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """As `ProcessRewardModel.features`, for whose tree mask there would have to be trees."""
        return self.model.states(ends, input_ids=ids, attention_mask=mask, position_ids=torch.zeros_like(ids))

    def _loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return step_loss(self.model.head(features), labels, loss=self.args.loss, num_items=1)

    def _head_alone(self) -> Step:
        traces = self.args.per_device_train_batch_size
        features = torch.zeros(traces, STEPS_A_TRACE, self.hidden_size)
        labels = torch.zeros(traces, STEPS_A_TRACE)
        for parameter in self.model.head.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with self._memory(features, labels) as memory:
            loss = self._loss(features, labels)
            saved = memory.live
            loss.backward()
        return Step(saved, memory.peak)

    def optimizer(self, dtype: torch.dtype | None = None) -> Step:
        """Bytes of the optimiser's states, and those at the worst moment of its step; `dtype`: for copies of
        the weights in this one."""
        if dtype not in self._optimizers:
            with _quiet(), self.fake:
                self._optimizers[dtype] = self._traced_optimizer(dtype)
        return self._optimizers[dtype]

    def _traced_optimizer(self, dtype: torch.dtype | None) -> Step:
        parameters = [
            nn.Parameter(torch.zeros(p.shape, dtype=dtype or p.dtype))
            for p in self.model.parameters()
            if p.requires_grad
        ]
        try:
            kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args, self.model)
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            with _Memory([*parameters, *(p.grad for p in parameters if p.grad is not None)]) as memory:
                optimizer = kind(parameters, **options)
                optimizer.step()
            return Step(memory.live, memory.peak)
        except Exception as error:  # a missing package, or an optimiser that asks for contents
            name = OptimizerNames(self.args.optim).value
            raise InputError(f"optim: the states of {name} cannot be traced ({_reason(error)})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what libraries say of a trace, and without the traceback that torch logs where one fails."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _make_fake(model: nn.Module) -> None:
    """Put a fake tensor in the place of every one on the meta device."""
    made: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        both: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in both:
            for name, old in tensors.items():
                if old is None:
                    continue
                if old not in made:  # tied weights stay tied
                    made[old] = torch.empty(old.shape, dtype=old.dtype)
                    if isinstance(old, nn.Parameter):
                        made[old] = nn.Parameter(made[old], requires_grad=old.requires_grad)
                tensors[name] = made[old]


def _on_meta(way: Way, loss: str) -> tuple[ProcessRewardModel, bool]:
    """The model as training makes it, on the meta device, and whether it reads token trees.

    Raises:
        InputError: there is no such configuration, or it is none of a backbone.
    """
    recipe = way.model
    config = _base_config(recipe)
    dtype = getattr(torch, recipe.dtype)
    wanted = recipe.attn_implementation
    fused = wanted is not None and wanted not in ("sdpa", "eager")
    try:
        with torch.device("meta"):
            base = AutoModel.from_config(
                config,
                dtype=dtype,
                trust_remote_code=recipe.trust_remote_code,
                **({} if wanted is None else {"attn_implementation": "sdpa" if fused else wanted}),
            )
            if wanted is None:
                read_trees(base)
            trees = base.config._attn_implementation == ATTENTION
            if trees or fused:
                base.set_attn_implementation(f"prm_plan_{way.device}")
            if way.bits is not None:
                _pack(base, way.bits, dtype)
            return ProcessRewardModel.from_backbone(
                base,
                backbone=recipe.backbone,
                attn_implementation=base.config._attn_implementation,
                head_hidden_size=recipe.head_hidden_size,
                peft_config=recipe.peft_config(),
                loss=loss,
            ), trees
    except InputError:
        raise
    except Exception as error:  # a model's code may fail on its configuration in any way
        raise InputError(
            f"{recipe.model_name_or_path}: this model cannot be set up ({_reason(error)})"
        ) from error


def _base_config(recipe: ModelConfig) -> PretrainedConfig:
    name = recipe.model_name_or_path
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise InputError(f"{name} has no config.json; give a Hub id or the folder of a model")
    try:
        config = AutoConfig.from_pretrained(
            name, revision=recipe.model_revision, trust_remote_code=recipe.trust_remote_code
        )
    except Exception as error:  # no network, no such id, broken JSON, unknown kind: each has its own
        if "trust_remote_code" in str(error):
            raise InputError(f"{name}{UNTRUSTED}") from error
        raise InputError(
            f"cannot read the configuration of {name} ({_reason(error)}); give a Hub id or the folder of a "
            "model as model_name_or_path"
        ) from error
    if config.model_type == ProcessRewardConfig.model_type:
        raise InputError(
            f"{name} is a trained PRM; name its base model, {config.base_model_name_or_path}, as "
            "model_name_or_path"
        )
    return config if recipe.backbone_layers is None else _first_layers(config, recipe.backbone_layers)


def _pack(model: nn.Module, bits: int, dtype: torch.dtype) -> None:
    """What bitsandbytes and PEFT's `prepare_model_for_kbit_training` make of a backbone."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, _PackedLinear(child, bits, dtype))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.dtype in (torch.float16, torch.bfloat16):  # norms and embeddings
            parameter.data = parameter.data.float()


# ---- engines


@dataclass(frozen=True)
class Figures:
    """Bytes of one process at the worst moment of training.

    `weights` of the whole model; `gradients` and `optimizer` (states and float32 copies) of what learns;
    `activations` kept for the backward; `working`: what comes on top; `engine`: buckets and gathered weights;
    `reserve`: see `RESERVE`. `host`: in the memory of the machine, for each process.
    `largest_budget`: the most `max_tokens_per_batch` that fits, None where nothing does.
    """

    name: str
    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    engine: int = 0
    host: int = 0
    reserve: int = RESERVE
    largest_budget: int | None = None

    @property
    def total(self) -> int:
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.working, self.engine)
        return sum(parts) + self.reserve


@dataclass(frozen=True)
class _Share:
    """What an engine leaves on a process besides activations; `moment`: what the optimiser's step needs."""

    name: str
    weights: float
    gradients: float
    optimizer: float
    moment: float
    engine: float = 0
    host: float = 0


def _data_parallel(model: TracedModel, processes: int) -> _Share:
    optimizer = model.optimizer()
    return _Share(
        "one process" if processes == 1 else "DDP",
        weights=model.frozen + model.learning,
        gradients=model.learning,
        optimizer=optimizer.saved,
        moment=optimizer.peak - optimizer.saved,
        engine=model.learning if processes > 1 else 0,
    )


def _zero(model: TracedModel, processes: int, stage: int, offload: bool) -> _Share:
    """DeepSpeed; its files in ds_configs/ leave the buckets to transformers, which takes hidden_size²."""
    n = sum(model.counts[1:])
    optimizer = model.optimizer(torch.float32)
    copies, states = 4 * n / processes, optimizer.saved / processes
    one_gradient = model.learning / n
    weights = float(model.frozen + model.learning)
    bucket = 2 * min(model.hidden_size**2, n) * one_gradient  # two: one fills while the other is sent
    gathered, host = 0.0, 0.0
    if stage == 3:
        parameters = sum(model.counts)
        gathered = weights * min(1, LIVE_PARAMETERS / parameters)
        weights /= processes
    gradients = model.learning / (processes if stage > 1 else 1)
    moment = copies + (optimizer.peak - optimizer.saved) / processes  # gradients in float32
    if offload:
        host = 2 * copies + states + (weights if stage == 3 else 0)
        weights = weights if stage < 3 else 0.0
        gradients = copies = states = moment = 0.0
    name = f"ZeRO-{stage}{' offload' if offload else ''}"
    return _Share(name, weights, gradients, copies + states, moment, bucket + gathered, host)


def _fsdp(model: TracedModel, processes: int) -> _Share:
    n, cast = sum(model.counts[1:]), model.way.cast is not None
    optimizer = model.optimizer(torch.float32 if cast else None)
    learning = 4 * n if cast else model.learning  # float32 where there is a mixed precision
    gathered = model.outside + 2 * model.layer
    everything = model.counts[0] < n  # then gradients are gathered in the same pieces
    return _Share(
        "FSDP 2",
        weights=(model.frozen + learning) / processes,
        gradients=learning / processes,
        optimizer=optimizer.saved / processes,
        moment=(optimizer.peak - optimizer.saved) / processes,
        engine=gathered * (2 if everything else 1),
    )


def _figures(
    model: TracedModel, share: _Share, args: PRMConfig, memory: int, *, search: bool = True
) -> Figures:
    step = model.step(args.max_tokens_per_batch, args.max_length)

    def made(step: Step) -> Figures:
        return Figures(
            share.name,
            weights=round(share.weights),
            gradients=round(share.gradients),
            optimizer=round(share.optimizer),
            activations=step.saved,
            working=max(step.peak, round(share.moment)) - step.saved,
            engine=round(share.engine),
            host=round(share.host),
        )

    largest = None
    if search:
        largest = model.largest(lambda peak: made(Step(peak, peak)).total <= memory, args.max_length)
    return replace(made(step), largest_budget=largest)


# ---- the plan


@dataclass(frozen=True)
class Plan:
    """What `prm plan` says; `engines` of the recipe as it stands, `others` of it with a key changed."""

    model: str
    device: str
    memory: int
    processes: int
    backbone: str
    dtype: str
    precision: str
    activation_checkpointing: bool
    token_trees: bool
    max_length: int
    max_tokens_per_batch: int
    parameters: dict[str, int]
    engines: list[Figures]
    others: list[Figures]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        made = asdict(self)
        for key in ("engines", "others"):
            for row, figures in zip(made[key], getattr(self, key), strict=True):
                row |= {"total": figures.total, "fits": figures.total <= self.memory}
        return made


def plan(
    model_config: ModelConfig,
    args: PRMConfig,
    *,
    memory: int,
    processes: int = 1,
    device: str = "cuda",
    others: bool = True,
    search: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The memory of training by a recipe on `processes` devices of `memory` bytes each; `others` also looks
    at other settings, `search` for the largest budgets.

    Raises:
        InputError: there is no such model, it cannot be set up or traced, or `max_length` is more than it
            can read.
    """
    mixed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    bits = 4 if model_config.backbone == "qlora" else None
    way = Way(model_config, bits, bool(args.activation_checkpointing), mixed, None, device)
    progress("the recipe")
    model = TracedModel(way, args)
    if model.longest is not None and args.max_length > model.longest:
        raise InputError(
            f"max_length {args.max_length} is more than {model_config.model_name_or_path} can read "
            f"({model.longest} tokens); lower it"
        )
    notes = []
    if args.max_tokens_per_batch < args.max_length:
        notes.append(
            f"a trace is never cut up: with max_length {args.max_length}, a forward may have that many "
            f"tokens, whatever max_tokens_per_batch ({args.max_tokens_per_batch}) says"
        )
    rows = [_figures(model, _data_parallel(model, processes), args, memory, search=search)]
    if device == "cuda":
        cast = model
        if mixed is not None:
            progress("the recipe under DeepSpeed and FSDP")
            cast = TracedModel(replace(way, autocast=None, cast=mixed), args)
        shares = [_zero(cast, processes, stage, offload) for stage, offload in
                  ((1, False), (2, False), (2, True), (3, False), (3, True))]  # fmt: skip
        shares.append(_fsdp(cast, processes))
        if bits is not None:
            notes.append("ZeRO-3 and FSDP are left out: they do not cut up 4-bit weights")
            shares = [share for share in shares if share.name.startswith(("ZeRO-1", "ZeRO-2"))]
        rows += [_figures(cast, share, args, memory, search=search) for share in shares]
    changed = []
    for name, other in _other_ways(way, model.trees, args) if others else ():
        progress(name)
        traced = TracedModel(other, args)
        changed.append(
            replace(
                _figures(traced, _data_parallel(traced, processes), args, memory, search=search), name=name
            )
        )
    frozen, backbone, head = model.counts
    return Plan(
        model=model_config.model_name_or_path,
        device=device,
        memory=memory,
        processes=processes,
        backbone=model_config.backbone,
        dtype=model_config.dtype,
        precision="no" if mixed is None else str(mixed).removeprefix("torch."),
        activation_checkpointing=way.checkpointing,
        token_trees=model.trees,
        max_length=args.max_length,
        max_tokens_per_batch=args.max_tokens_per_batch,
        parameters={"frozen": frozen, "learning_in_backbone": backbone, "head": head},
        engines=rows,
        others=changed,
        notes=notes,
    )


def _other_ways(way: Way, trees: bool, args: PRMConfig) -> Iterator[tuple[str, Way]]:
    """The recipe with one thing changed, and its name."""
    recipe = way.model
    if recipe.backbone != "frozen":
        name = f"{'no ' if way.checkpointing else ''}activation checkpointing"
        yield name, replace(way, checkpointing=not way.checkpointing)
    if trees:
        yield ROWS, replace(way, model=replace(recipe, attn_implementation="sdpa"))
    for backbone in ("frozen", "lora", "qlora", "full"):
        if backbone == recipe.backbone:
            continue
        # Weights that learn want float32; others do with what the arithmetic has.
        dtype = "float32" if backbone == "full" else "bfloat16" if args.bf16 else recipe.dtype
        name = f"backbone: {backbone}" + (f" ({dtype})" if dtype != recipe.dtype else "")
        model = replace(recipe, backbone=backbone, dtype=dtype)
        yield name, replace(way, model=model, bits=4 if backbone == "qlora" else None)
    if recipe.backbone != "full":
        yield "8-bit weights", replace(way, model=replace(recipe, backbone="qlora"), bits=8)


def plan_recipe(
    argv: Sequence[str],
    *,
    memory: str,
    processes: int = 1,
    device: str = "cuda",
    json_output: str | None = None,
) -> None:
    """`prm plan`: print the tables, and write them for programs."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    size = memory_size(memory)
    # Of the recipe's machine, not of this one: without a GPU here, bf16 and the like would be refused.
    recipe, _, args = read_recipe([*argv, "--use_cpu", "true"])
    console = Console(highlight=False)
    with Console(stderr=True).status("reading the configuration") as status:
        made = plan(
            recipe,
            args,
            memory=size,
            processes=processes,
            device=device,
            progress=lambda what: status.update(f"tracing a step: {what}"),
        )
    if json_output is not None:
        with atomic_write(json_output) as file:
            json.dump(made.to_dict(), file, indent=1)
    print_plan(made, console)


def gib(size: float) -> str:
    return f"{size / 2**30:.2f}" if size < 10 * 2**30 else f"{size / 2**30:.1f}"


def print_plan(made: Plan, console: Console) -> None:
    counts = made.parameters
    learning = counts["learning_in_backbone"] + counts["head"]
    console.print(
        Text(
            f"{made.model}: {_count(counts['frozen'])} parameters frozen, {_count(learning)} learn "
            f"({_count(counts['head'])} of them the head); {made.backbone}, {made.dtype}"
            f"{'' if made.precision == 'no' else f' under {made.precision} autocast'}, "
            f"{'with' if made.activation_checkpointing else 'without'} activation checkpointing, "
            f"{'token trees' if made.token_trees else 'one row a trace'}"
        ),
        soft_wrap=True,
    )
    tokens = max(made.max_length, made.max_tokens_per_batch)
    where = "GPU" if made.device == "cuda" else "process"
    console.print(_table(made.engines, made, f"GiB a {where} at {tokens:,} tokens a forward", "engine"))
    if made.others:
        first = made.engines[0].name
        console.print(_table(made.others, made, f"other settings, {first}", "setting"))
    console.print(
        Text(
            "learning: gradients, optimiser states and copies of what learns\n"
            "activations: what is kept for the backward "
            f"({gib(made.engines[0].activations)} in the first line), and working memory\n"
            f"total: with {gib(RESERVE)} assumed for {_RESERVED[made.device]}; ! is more than "
            f"{gib(made.memory)}\n"
            "budget: the largest max_tokens_per_batch that fits"
        ),
        soft_wrap=True,
    )
    for note in made.notes:
        console.print(Text(note), soft_wrap=True)
    best = made.engines[0]
    if best.total <= made.memory and best.largest_budget is not None:
        said = f"fits into {gib(made.memory)} GiB; the largest budget is"
    elif best.largest_budget is not None:
        said = f"does not fit into {gib(made.memory)} GiB; it does with"
    else:
        console.print(
            Text(
                f"{best.name}: not even one trace of max_length {made.max_length} fits into "
                f"{gib(made.memory)} GiB; lower max_length, or take a setting of the tables that fits"
            ),
            soft_wrap=True,
        )
        return
    rows = next((row.largest_budget for row in made.others if row.name == ROWS), best.largest_budget)
    if rows != best.largest_budget:
        unshared = "none" if rows is None else rows
        said_of_rows = f" ({unshared} where the traces of a batch share no prefix: they are read as rows)"
    else:
        said_of_rows = ""
    console.print(
        Text(f"{best.name}: {said} --max_tokens_per_batch {best.largest_budget}{said_of_rows}"),
        soft_wrap=True,
    )


def _table(rows: list[Figures], made: Plan, title: str, first: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column(first, no_wrap=True)
    host = any(row.host for row in rows)
    buffers = first == "engine" and any(row.engine for row in rows)
    names = ("weights", "learning", "activations", *(["buffers"] if buffers else []), "total")
    for name in (*names, *(["host"] if host else []), "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            gib(row.weights),
            gib(row.gradients + row.optimizer),
            gib(row.activations + row.working),
            *([gib(row.engine)] if buffers else []),
            gib(row.total) + ("" if row.total <= made.memory else "!"),
            *([gib(row.host)] if host else []),
            "none" if row.largest_budget is None else f"{row.largest_budget:,}",
        )
    return table


def _count(n: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}" if n < 10 * size else f"{n / size:.0f} {unit}"
    return str(n)
