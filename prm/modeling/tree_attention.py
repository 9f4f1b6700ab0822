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
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "prm_tree"

#: Trees and subtrees up to this size are one block with a mask, so that there are few calls; in larger ones
#: the mask hides too much (forests of 1,200 tokens: 64 is 1.07 times as slow, 512 1.12, 1,024 1.3 times).
SMALL = 128
#: A longer chain is cut into pieces of this size, each of which reads those before it: PyTorch's kernel
#: computes what a mask hides (500 tokens in one: 1.4 to 1.8 times as slow).
PIECE = 128
#: A chain this short, under another or above it, is not read alone: many queries for few keys cost more to
#: merge than to compute. The keys of both are put side by side, if so many tokens below read them.
SHORT, MANY = 64, 512

#: The steps of a search are short and many: up to so many pairs of new tokens and keys, those before are read
#: in one call with the new ones …
JOINED_PAIRS = 1 << 18
#: … and branches that see different ones in a call of their own, if that spares so many pairs which a mask
#: would hide.
CALL_PAIRS = 1 << 12

Keys = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of some tokens, one pair a layer


@dataclass(frozen=True)
class Block:
    """Queries `queries` read the tokens of all ranges `keys`, or those of them that `mask` shows."""

    queries: slice
    keys: tuple[slice, ...]
    mask: torch.Tensor | None = None  # (queries, keys) bool


@dataclass(frozen=True)
class Joined:
    """New tokens `queries` that read one another and the short ones `past` of `TreeMask.past` in one call."""

    queries: slice
    past: list[int]


@dataclass
class TreeMask:
    """Who sees whom in one row of trees, and how it is computed.

    Attributes:
        subtree_ends: (tokens,) int64, on the device of the model.
        past: keys and values of tokens that were computed before (`Scorer.start`), each seen by one range of
            the new tokens and by nobody else.
        kept: where each layer leaves the keys and values of the new tokens, if somebody wants them: of all,
            or of those that `keep` numbers.
    """

    subtree_ends: torch.Tensor
    past: Sequence[tuple[slice, Keys]] = ()
    kept: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None
    keep: torch.Tensor | None = None
    _made: dict[Any, Any] = field(default_factory=dict)

    def as_argument(self) -> torch.Tensor:
        """What to give a transformers model as its `attention_mask`."""
        argument = self.subtree_ends.view(1, 1, 1, -1)
        argument.tree = self  # type: ignore[attr-defined]  # tensors take attributes of ours
        return argument

    @property
    def blocks(self) -> list[Block]:
        if "blocks" not in self._made:
            self._made["blocks"] = tree_blocks(self.subtree_ends.tolist())
        return self._made["blocks"]

    def bias(self, block: Block, dtype: torch.dtype, times: int) -> torch.Tensor | None:
        """The mask of a block as the kernel takes it: (1, 1, queries x times, keys), 0 or minus infinity."""
        if block.mask is None:
            return None
        key = (block.queries.start, dtype, times)
        if key not in self._made:
            self._made[key] = _bias(block.mask, dtype, times)
        return self._made[key]

    @property
    def joined(self) -> list[Joined]:
        """One for each branch of a search, or for several, if all of them are small."""
        if "joined" not in self._made:
            ends = self.subtree_ends.tolist()
            apart = _apart([part for part, _ in self.past], ends, slice(0, len(ends)))
            found = [one for part in apart for one in self._cheapest(part, ends)]
            small = any(one.past for one in found) and all(self._pairs(j) <= JOINED_PAIRS for j in found)
            self._made["joined"] = found if small else []
        return self._made["joined"]

    def _cheapest(self, part: slice, ends: Sequence[int]) -> list[Joined]:
        """`part`, a range of new tokens, as one call, or as several for those that have no new token in
        common: of these each reads its own of the past only, and again what all of them see."""
        short = [(k, seen) for k, (seen, keys) in enumerate(self.past) if keys[0][0].shape[-2] <= PIECE]
        # Two ranges of new tokens that see something lie apart, or one within the other.
        here = [(k, seen) for k, seen in short if max(seen.start, part.start) < min(seen.stop, part.stop)]
        whole = [Joined(part, [k for k, _ in here])]
        below = _apart(
            [seen for _, seen in here if seen.start > part.start or seen.stop < part.stop], ends, part
        )
        if len(below) == 1:
            return whole
        split = [one for each in below for one in self._cheapest(each, ends)]
        cost = sum(self._pairs(one) + CALL_PAIRS for one in split)
        return split if cost < self._pairs(whole[0]) + CALL_PAIRS else whole

    def _pairs(self, joined: Joined) -> int:
        n = joined.queries.stop - joined.queries.start
        return n * (n + sum(self.past[k][1][0][0].shape[-2] for k in joined.past))

    def joined_bias(self, joined: Joined, dtype: torch.dtype, times: int) -> torch.Tensor:
        """The mask of `joined`, as `bias`."""
        key = ("joined", joined.queries.start, dtype, times)
        if key not in self._made:
            first, last = self.seen_by
            starts = [0, *itertools.accumulate(keys[0][0].shape[-2] for _, keys in self.past)]
            columns = [*(slice(starts[k], starts[k + 1]) for k in joined.past)]
            columns.append(slice(starts[-1] + joined.queries.start, starts[-1] + joined.queries.stop))
            first, last = (torch.cat([x[part] for part in columns]) for x in (first, last))
            at = torch.arange(joined.queries.start, joined.queries.stop, device=first.device)[:, None]
            self._made[key] = _bias((first <= at) & (at < last), dtype, times)
        return self._made[key]

    @property
    def seen_by(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each key, the past first, the new tokens that see it: the first, and behind the last."""
        if "seen_by" not in self._made:
            ends = self.subtree_ends
            sizes = [keys[0][0].shape[-2] for _, keys in self.past]
            first = [ends.new_full((n,), part.start) for (part, _), n in zip(self.past, sizes, strict=True)]
            last = [ends.new_full((n,), part.stop) for (part, _), n in zip(self.past, sizes, strict=True)]
            at = torch.arange(len(ends), device=ends.device)
            self._made["seen_by"] = torch.cat([*first, at]), torch.cat([*last, ends])
        return self._made["seen_by"]

    @property
    def dense(self) -> torch.Tensor:
        """(1, 1, tokens, past + tokens) bool."""
        if "dense" not in self._made:
            first, last = self.seen_by
            at = torch.arange(len(self.subtree_ends), device=first.device)[:, None]
            self._made["dense"] = ((first[None] <= at) & (at < last[None]))[None, None]
        return self._made["dense"]

    @property
    def flex(self) -> Any:
        """A BlockMask for FlexAttention."""
        if "flex" not in self._made:
            from torch.nn.attention.flex_attention import create_block_mask

            first, last = self.seen_by

            def sees(_batch: Any, _head: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
                return (first[j] <= i) & (i < last[j])

            n = len(self.subtree_ends)
            self._made["flex"] = create_block_mask(sees, None, None, n, len(first), device=first.device)
        return self._made["flex"]


def _apart(seen: Sequence[slice], subtree_ends: Sequence[int], part: slice) -> list[slice]:
    """The ranges of new tokens within `part` that have nothing in common: no token, and none of the ranges
    `seen`."""
    reach = list(subtree_ends[part])
    for one in seen:
        if one.start < one.stop:
            reach[one.start - part.start] = max(reach[one.start - part.start], one.stop)
    found, start, until = [], part.start, part.start
    for at, end in enumerate(reach, part.start):
        if at == until and at > start:
            found.append(slice(start, at))
            start = at
        until = max(until, end)
    return [*found, slice(start, part.stop)]


def _bias(mask: torch.Tensor, dtype: torch.dtype, times: int) -> torch.Tensor:
    hidden = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)
    return hidden.repeat_interleave(times, 0)[None, None]


def tree_blocks(subtree_ends: Sequence[int], small: int = SMALL) -> list[Block]:
    """Blocks in which every token meets each of its ancestors, and itself, exactly once.

    The first block of a token is the one that holds itself; those of its ancestors follow.
    """
    own: list[Block] = []
    above: list[Block] = []
    # Ranges of sibling trees, with the keys above them that they have not read yet.
    todo: list[tuple[int, int, tuple[slice, ...]]] = [(0, len(subtree_ends), ())]
    while todo:
        start, end, unread = todo.pop()
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
            below, chain = tree_end - chain_end, slice(at, chain_end)
            shorter = min(chain_end - at, sum(keys.stop - keys.start for keys in unread))
            if unread and shorter < SHORT and below >= MANY:
                above.append(Block(slice(start, chain_end), unread))
                start = tree_end  # the tree below reads both together
                todo.append((chain_end, tree_end, _side_by_side(unread, chain)))
            elif below:
                todo.append((chain_end, tree_end, (chain,)))
            at = tree_end
        if unread and start < end:
            above.append(Block(slice(start, end), unread))
    return own + above


def _side_by_side(ranges: tuple[slice, ...], more: slice) -> tuple[slice, ...]:
    *before, last = ranges
    if last.stop == more.start:
        return (*before, slice(last.start, more.stop))
    return (*ranges, more)


def _chain_blocks(start: int, end: int) -> list[Block]:
    """Of a chain's tokens among themselves."""
    blocks = []
    for begin in range(start, end, PIECE):
        until = min(begin + PIECE, end)
        mask = torch.ones(until - begin, until - begin, dtype=torch.bool).tril()
        blocks.append(Block(slice(begin, until), (slice(begin, until),), mask))
        if begin > start:
            blocks.append(Block(slice(begin, until), (slice(start, begin),)))
    return blocks


def _small_blocks(subtree_ends: Sequence[int], start: int, end: int) -> list[Block]:
    part = slice(start, end)
    ends = torch.tensor(subtree_ends[start:end]) - start
    at = torch.arange(end - start)
    return [Block(part, (part,), (at[None, :] <= at[:, None]) & (at[:, None] < ends[None, :]))]


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
    tree: TreeMask = attention_mask.tree  # type: ignore[attr-defined]  # from `as_argument`
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings may have left float32
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if tree.kept is not None:
        keep = slice(None) if tree.keep is None else tree.keep
        tree.kept[cast(int, module.layer_idx)] = (key[:, :, keep], value[:, :, keep])
    past = [(queries, keys[cast(int, module.layer_idx)]) for queries, keys in tree.past]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    blocks_fit = query.device.type == "cpu" and query.shape[-1] == value.shape[-1] and not dropout
    with torch.autocast(query.device.type, enabled=False):
        if blocks_fit and torch.is_grad_enabled():
            out = _BlockAttention.apply(query, key, value, tree, scale)
        elif blocks_fit:
            out = _attend(query, key, value, tree, scale, past)[0]
        elif query.device.type == "cuda" and not dropout:
            out = flex_attention(query, key, value, tree, scale, past)
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
    key, value = _with_past(key, value, past)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=tree.dense, dropout_p=dropout, scale=scale, enable_gqa=True
    )


def flex_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tree: TreeMask,
    scale: float,
    past: Sequence[tuple[slice, tuple[torch.Tensor, torch.Tensor]]] = (),
) -> torch.Tensor:
    """By FlexAttention: compiled on a GPU, where it skips blocks that no token sees."""
    key, value = _with_past(key, value, past)
    return _flex(query.device.type)(query, key, value, block_mask=tree.flex, scale=scale, enable_gqa=True)


def _with_past(
    key: torch.Tensor,
    value: torch.Tensor,
    past: Sequence[tuple[slice, tuple[torch.Tensor, torch.Tensor]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    if not past:
        return key, value
    keys, values = zip(*(pair for _, pair in past), strict=True)
    return torch.cat([*keys, key], dim=2), torch.cat([*values, value], dim=2)


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
        # Copied keys are faster here than folded queries, and float32 than bfloat16, both 1.2 times.
        key_heads, times = key.shape[1], query.shape[1] // key.shape[1]
        dtype = query.dtype
        query, gradient, out = query.float(), gradient.float(), out.float()
        key, value = (x.float().repeat_interleave(times, dim=1) for x in (key, value))
        total = [torch.zeros_like(x) for x in (query, key, value)]
        for block in ctx.tree.blocks:
            q = block.queries
            to_query, to_key, to_value = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient[:, :, q],
                query[:, :, q],
                _gathered(key, block.keys),
                _gathered(value, block.keys),
                out[:, :, q],
                sums[:, :, q],
                0.0,
                False,
                attn_mask=ctx.tree.bias(block, torch.float32, 1),
                scale=ctx.scale,
            )
            total[0][:, :, q] += to_query
            at = 0
            for keys in block.keys:
                here = slice(at, at + keys.stop - keys.start)
                total[1][:, :, keys] += to_key[:, :, here]
                total[2][:, :, keys] += to_value[:, :, here]
                at = here.stop
        to_query, to_key, to_value = total
        # Query heads that read the same keys: their gradients add up.
        to_key, to_value = (x.unflatten(1, (key_heads, times)).sum(2) for x in (to_key, to_value))
        return to_query.to(dtype), to_key.to(dtype), to_value.to(dtype), None, None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tree: TreeMask,
    scale: float,
    past: Sequence[tuple[slice, tuple[torch.Tensor, torch.Tensor]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and logarithms of the sums of the softmax weights, of all blocks together."""
    times = query.shape[1] // key.shape[1]
    dtype = _kernel_dtype(query.dtype)
    # Query heads that read the same keys as one head with more queries, so that no key is copied: one token's
    # side by side, (1, key heads, tokens x times, width), so that those of a range are a range.
    grouped = query.unflatten(1, (-1, times)).transpose(2, 3)
    folded = torch.empty(grouped.shape, dtype=dtype).copy_(grouped).flatten(2, 3)
    reads: list[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
    if tree.joined:
        for joined in tree.joined:
            keys, values = (
                torch.cat([*(past[k][1][i] for k in joined.past), own[:, :, joined.queries]], dim=2).to(dtype)
                for i, own in enumerate((key, value))
            )
            reads.append((joined.queries, keys, values, tree.joined_bias(joined, dtype, times)))
    else:
        key, value = key.to(dtype), value.to(dtype)
        for block in tree.blocks:
            keys, values = _gathered(key, block.keys), _gathered(value, block.keys)
            reads.append((block.queries, keys, values, tree.bias(block, dtype, times)))
    read = {k for joined in tree.joined for k in joined.past}
    reads += [
        (part, k.to(dtype), v.to(dtype), None) for i, (part, (k, v)) in enumerate(past) if i not in read
    ]
    # (1, tokens, heads, width) in memory, as the projection behind it reads it
    out = torch.empty_like(query.transpose(1, 2), dtype=torch.float32, memory_format=torch.contiguous_format)
    out = out.transpose(1, 2)
    sums = out.new_empty(out.shape[:-1])
    grouped_out, grouped_sums = (x.unflatten(1, (-1, times)).transpose(2, 3) for x in (out, sums))
    for queries, keys, values, bias in reads:
        part, logarithms = (
            x.unflatten(2, (-1, times))
            for x in torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                folded[:, :, times * queries.start : times * queries.stop],
                keys,
                values,
                0.0,
                False,
                attn_mask=bias,
                scale=scale,
            )
        )
        here, sums_here = grouped_out[:, :, queries], grouped_sums[:, :, queries]
        if bias is not None:  # every token is in one block with a mask, which comes first: its own
            here.copy_(part)
            sums_here.copy_(logarithms)
            continue
        here.lerp_(part.float(), (logarithms - sums_here).sigmoid_().unsqueeze(-1))
        torch.logaddexp(sums_here, logarithms, out=sums_here)
    return out.to(query.dtype), sums


def _kernel_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which PyTorch's CPU kernel is fastest: without matrix instructions (AMX) that is float32 for smaller
    dtypes, too (20 to 1,000 queries: 1.05 to 1.7 times as fast, and more exact)."""
    narrow = dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if narrow and not torch.cpu._is_amx_tile_supported() else dtype


def _gathered(x: torch.Tensor, ranges: tuple[slice, ...]) -> torch.Tensor:
    if len(ranges) == 1:
        return x[:, :, ranges[0]]
    return torch.cat([x[:, :, one] for one in ranges], dim=2)


AttentionInterface.register(ATTENTION, tree_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
