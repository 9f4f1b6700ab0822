"""Attention over token trees: each token sees its ancestors, and nothing is computed for nobody.

A tree mask as large as the square of the tokens would be exact, and slow: most of it is masked, kernels that
take a mask do not skip what it hides, and on a CPU it costs more than all else from two thousand tokens on.
Here the attention of a row of trees is put together from blocks instead. A chain of tokens that all its
descendants share is one block of keys for all of them (no mask: they see every token of it), and one causal
block for itself; what hangs below, once it is small, is one block with a mask of its own. Softmax over the
keys of several blocks is exact: each gives its output and the logarithm of its weights' sum, by which the
outputs are merged. Backwards the kernel gets the merged output and sum, and its gradients add up (as in ring
attention, Liu et al. 2023).

Three ways to the same result, by what is at hand:

* CPU: blocks, by PyTorch's own flash kernel.
* CUDA: FlexAttention, whose block mask skips what no token sees (not timed: no GPU was at hand).
* elsewhere, and with attention dropout: a mask, by scaled dot product attention.

`ATTENTION` is the name under which transformers' models find it; for inputs that are no trees it is their
`sdpa`. The mask that a model passes through its layers is `subtree_ends` itself (see `prm.traces.tree`) in
the four dimensions that transformers asks of a ready-made mask.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "prm_tree"

#: Trees and subtrees up to this size are one block with a mask, so that there are few calls; in larger ones
#: the mask hides too much (two chains of 60 tokens in one block: 1.4 times as slow as in two).
SMALL = 64
#: A longer chain is read in pieces of this size, each with the tokens of the chain before it: PyTorch's
#: kernel computes the whole square below 512 keys, causal or not (500 tokens: 1.4 to 1.8 times as fast).
PIECE = 128

#: The steps of a search are short and many: up to so many pairs of new tokens and keys, those before are read
#: in one call with the new ones.
JOINED_PAIRS = 1 << 18

Keys = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of some tokens, one pair a layer


@dataclass(frozen=True)
class Block:
    """Queries `queries` read keys `keys`: all of them, causally (the two are the same then), or by a mask."""

    queries: slice
    keys: slice
    causal: bool = False
    mask: torch.Tensor | None = None  # (queries, keys) bool


@dataclass
class TreeMask:
    """Who sees whom in one row of trees, and how it is computed.

    Attributes:
        subtree_ends: (tokens,) int64, on the device of the model.
        past: keys and values of tokens that were computed before (`Scorer.start`), each seen by one range of
            the new tokens and by nobody else.
        kept: where each layer leaves the keys and values of the new tokens, if somebody wants them.
    """

    subtree_ends: torch.Tensor
    past: Sequence[tuple[slice, Keys]] = ()
    kept: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None
    _made: dict[Any, Any] = field(default_factory=dict)

    def as_argument(self) -> torch.Tensor:
        """What to give a transformers model as its `attention_mask`."""
        argument = self.subtree_ends.view(1, 1, 1, -1)
        argument.tree = self
        return argument

    @property
    def blocks(self) -> list[Block]:
        if "blocks" not in self._made:
            self._made["blocks"] = tree_blocks(self.subtree_ends.tolist())
        return self._made["blocks"]

    def bias(self, block: Block, dtype: torch.dtype) -> torch.Tensor | None:
        """The mask of a block as the kernel takes it: (1, 1, queries, keys), 0 or minus infinity."""
        if block.mask is None:
            return None
        key = (block.queries.start, dtype)
        if key not in self._made:
            hidden = torch.zeros(block.mask.shape, dtype=dtype).masked_fill_(~block.mask, -torch.inf)
            self._made[key] = hidden[None, None]
        return self._made[key]

    @property
    def joined(self) -> list[int]:
        """Which of the past is read together with the new tokens, by one mask."""
        if "joined" not in self._made:
            sizes = {k: keys[0][0].shape[-2] for k, (_, keys) in enumerate(self.past)}
            short = [k for k, size in sizes.items() if size <= PIECE]
            n = len(self.subtree_ends)
            few = n * (n + sum(sizes[k] for k in short)) <= JOINED_PAIRS
            self._made["joined"] = short if few else []
        return self._made["joined"]

    def joined_bias(self, dtype: torch.dtype) -> torch.Tensor:
        """The mask of `joined` and of the new tokens, as `bias`."""
        key = ("joined", dtype)
        if key not in self._made:
            columns = torch.cat([
                torch.full((keys[0][0].shape[-2],), k in self.joined) for k, (_, keys) in enumerate(self.past)
            ] + [torch.ones(len(self.subtree_ends), dtype=torch.bool)])  # fmt: skip
            mask = self.dense[..., columns]
            self._made[key] = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)
        return self._made[key]

    @property
    def dense(self) -> torch.Tensor:
        """(1, 1, tokens, past + tokens) bool."""
        if "dense" not in self._made:
            ends = self.subtree_ends
            at = torch.arange(len(ends), device=ends.device)
            mask = (at[None, :] <= at[:, None]) & (at[:, None] < ends[None, :])
            seen = [mask.new_zeros(len(ends), keys[0][0].shape[-2]) for _, keys in self.past]
            for (queries, _), part in zip(self.past, seen, strict=True):
                part[queries] = True
            self._made["dense"] = torch.cat([*seen, mask], dim=1)[None, None]
        return self._made["dense"]

    @property
    def flex(self) -> Any:
        """A BlockMask for FlexAttention."""
        if "flex" not in self._made:
            from torch.nn.attention.flex_attention import create_block_mask

            ends = self.subtree_ends

            def sees(_batch: Any, _head: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
                return (j <= i) & (i < ends[j])

            n = len(ends)
            self._made["flex"] = create_block_mask(sees, None, None, n, n, device=ends.device)
        return self._made["flex"]


def tree_blocks(subtree_ends: Sequence[int], small: int = SMALL) -> list[Block]:
    """Blocks in which every token meets each of its ancestors, and itself, exactly once.

    The first block of a token is the one that holds itself; those of its ancestors' chains follow.
    """
    own: list[Block] = []
    chains: list[Block] = []
    todo = [(0, len(subtree_ends))]
    while todo:
        start, end = todo.pop()
        at = start
        while at < end:
            until = at  # as many trees as make one small block
            while until < end and subtree_ends[until] - at <= small:
                until = subtree_ends[until]
            if until > at:
                own += _small_blocks(subtree_ends, at, until)
                at = until
                continue
            # A chain: every token of it is the only child of the one before, so all end alike.
            tree_end, chain_end = subtree_ends[at], at + 1
            while chain_end < tree_end and subtree_ends[chain_end] == tree_end:
                chain_end += 1
            own += _chain_blocks(at, chain_end)
            if chain_end < tree_end:
                chains.append(Block(slice(chain_end, tree_end), slice(at, chain_end)))
                todo.append((chain_end, tree_end))
            at = tree_end
    return own + chains


def _chain_blocks(start: int, end: int) -> list[Block]:
    """Of a chain's tokens among themselves."""
    blocks = []
    for begin in range(start, end, PIECE):
        until = min(begin + PIECE, end)
        if begin == start:
            blocks.append(Block(slice(begin, until), slice(begin, until), causal=True))
        else:
            mask = torch.ones(until - begin, until - start, dtype=torch.bool).tril(begin - start)
            blocks.append(Block(slice(begin, until), slice(start, until), mask=mask))
    return blocks


def _small_blocks(subtree_ends: Sequence[int], start: int, end: int) -> list[Block]:
    part = slice(start, end)
    ends = torch.tensor(subtree_ends[start:end]) - start
    if bool((ends == end - start).all()):  # a single chain
        return _chain_blocks(start, end)
    at = torch.arange(end - start)
    return [Block(part, part, mask=(at[None, :] <= at[:, None]) & (at[:, None] < ends[None, :]))]


def tree_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: (1, heads, tokens, width) queries and (1, key heads, tokens, width)
    keys and values -> (1, tokens, heads, width).
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:  # no tree
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    tree: TreeMask = attention_mask.tree
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings may have left float32
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if tree.kept is not None:
        tree.kept[module.layer_idx] = (key, value)
    past = [(queries, keys[module.layer_idx]) for queries, keys in tree.past]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    blocks_fit = query.device.type == "cpu" and query.shape[-1] == value.shape[-1] and not dropout
    with torch.autocast(query.device.type, enabled=False):
        if blocks_fit and torch.is_grad_enabled():
            out = _BlockAttention.apply(query, key, value, tree, scale)
        elif blocks_fit:
            out = _attend(query, key, value, tree, scale, past)[0]
        elif query.device.type == "cuda" and not past and not dropout:
            out = flex_attention(query, key, value, tree, scale)
        else:
            out = dense_attention(query, key, value, tree, scale, past, dropout)
    return out.transpose(1, 2), None


def dense_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tree: TreeMask,
    scale: float,
    past: Sequence[tuple[slice, tuple[torch.Tensor, torch.Tensor]]] = (),
    dropout: float = 0.0,
) -> torch.Tensor:
    """By a mask of all pairs of tokens: the definition, which the other two are tested against."""
    key = torch.cat([*(k for _, (k, _) in past), key], dim=2)
    value = torch.cat([*(v for _, (_, v) in past), value], dim=2)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=tree.dense, dropout_p=dropout, scale=scale, enable_gqa=True
    )


def flex_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tree: TreeMask, scale: float
) -> torch.Tensor:
    """By FlexAttention: compiled on a GPU, where it skips blocks that no token sees."""
    return _flex(query.device.type)(query, key, value, block_mask=tree.flex, scale=scale, enable_gqa=True)


@functools.cache
def _flex(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention as flex

    return torch.compile(flex, dynamic=True) if device == "cuda" else flex


class _BlockAttention(torch.autograd.Function):
    """`_attend` with gradients."""

    @staticmethod
    def forward(ctx: Any, query, key, value, tree: TreeMask, scale: float) -> torch.Tensor:
        out, sums = _attend(query, key, value, tree, scale, ())
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.tree, ctx.scale = tree, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        key_heads = key.shape[1]
        key, value = _for_every_head(query, key), _for_every_head(query, value)
        total = [torch.zeros_like(x, dtype=torch.float32) for x in (query, key, value)]
        for block in ctx.tree.blocks:
            q, k = block.queries, block.keys
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient[:, :, q],
                query[:, :, q],
                key[:, :, k],
                value[:, :, k],
                out[:, :, q],
                sums[:, :, q],
                0.0,
                block.causal,
                attn_mask=ctx.tree.bias(block, query.dtype),
                scale=ctx.scale,
            )
            for whole, part, where in zip(total, parts, (q, k, k), strict=True):
                whole[:, :, where] += part
        to_query, to_key, to_value = total
        # Query heads that read the same keys: their gradients add up.
        to_key, to_value = (x.unflatten(1, (key_heads, -1)).sum(2) for x in (to_key, to_value))
        return to_query.to(query.dtype), to_key.to(key.dtype), to_value.to(value.dtype), None, None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tree: TreeMask,
    scale: float,
    past: Sequence[tuple[slice, tuple[torch.Tensor, torch.Tensor]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and logarithms of the sums of the softmax weights, of all blocks together."""
    reads: list[tuple[slice, torch.Tensor, torch.Tensor, bool, torch.Tensor | None]] = []
    if tree.joined:
        keys, values = (
            torch.cat([*(past[k][1][i] for k in tree.joined), own], dim=2)
            for i, own in enumerate((key, value))
        )
        reads.append((slice(0, query.shape[2]), keys, values, False, tree.joined_bias(query.dtype)))
    else:
        for block in tree.blocks:
            keys, values = key[:, :, block.keys], value[:, :, block.keys]
            reads.append((block.queries, keys, values, block.causal, tree.bias(block, query.dtype)))
    reads += [(part, *keys, False, None) for k, (part, keys) in enumerate(past) if k not in tree.joined]
    # (1, tokens, heads, width) in memory, as the projection behind it reads it
    out = torch.empty_like(query.transpose(1, 2), dtype=torch.float32, memory_format=torch.contiguous_format)
    out = out.transpose(1, 2)
    sums = out.new_empty(out.shape[:-1])
    merged = torch.zeros(out.shape[2], dtype=torch.bool)
    for queries, keys, values, causal, bias in reads:
        part, logarithms = _read(query[:, :, queries], keys, values, causal, bias, scale)
        if not merged[queries.start]:
            out[:, :, queries], sums[:, :, queries] = part, logarithms
            merged[queries] = True
            continue
        together = torch.logaddexp(sums[:, :, queries], logarithms)
        out[:, :, queries] *= (sums[:, :, queries] - together).exp_().unsqueeze(-1)
        out[:, :, queries] += part * (logarithms - together).exp_().unsqueeze(-1)
        sums[:, :, queries] = together
    return out.to(query.dtype), sums


def _read(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (1, heads, queries, width) and logarithms of sums (1, heads, queries) of one block."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if causal or bias is not None:
        key, value = _for_every_head(query, key), _for_every_head(query, value)
        return flash(query, key, value, 0.0, causal, attn_mask=bias, scale=scale)
    # All see all: query heads that read the same keys are one head with more queries, and no key is copied.
    shape = (key.shape[1], query.shape[1] // key.shape[1])
    out, sums = flash(query.unflatten(1, shape).flatten(2, 3), key, value, 0.0, False, scale=scale)
    return tuple(x.unflatten(2, (shape[1], -1)).flatten(1, 2) for x in (out, sums))


def _for_every_head(query: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Keys or values repeated for each query head that reads them."""
    heads, key_heads = query.shape[1], x.shape[1]
    return x if heads == key_heads else x.repeat_interleave(heads // key_heads, dim=1)


AttentionInterface.register(ATTENTION, tree_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
