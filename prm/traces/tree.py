"""Token trees: every distinct token of a batch is computed once.

The answers to one question share its prompt and often their first steps; the questions on one database share
its schema. Merged on their token prefixes they form a tree. Laid out depth first in one row, a token may see
its ancestors only, and its position is its depth. Causal attention cannot tell this from one sequence a
trace, so scores, loss and gradients stay what they were, and what is shared is paid for once (on Spider's
answer pools four tokens in five are repeats).

One number a token says everything about the tree: `subtree_ends[j]`, the index behind the last descendant of
token j. Token i may see token j if and only if `j <= i < subtree_ends[j]`. Trees stand one behind the other
in a row, without padding; `prm.modeling.tree_attention` computes the attention of such a row.

A trace is known in the tree by its step ends alone: flat indices which `ProcessRewardModel.forward` reads.
Two traces that share a step name the same index, and the loss counts it twice, as it should; if they disagree
about it, it learns their mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prm.traces.encoding import IGNORE, EncodedTrace

#: A tree that is cut needs one more prefix and one more piece to handle: a cut must save so many tokens.
CUT_COST = 32
#: Trees whose traces share less than this part of their tokens are no faster than rows.
NOT_WORTH = 0.05


@dataclass(frozen=True)
class TokenTree:
    """Traces merged on their token prefixes, laid out depth first.

    `ids`, `depths` and `subtree_ends` are (n_tokens,) int64: the distinct tokens, their positions, and where
    the descendants of each end. `step_ends[k]` are the tokens at which the steps of trace `members[k]` end;
    the members are the caller's numbers for its traces.
    """

    ids: np.ndarray
    depths: np.ndarray
    subtree_ends: np.ndarray
    step_ends: list[np.ndarray]
    members: list[int]

    def __len__(self) -> int:
        return len(self.ids)


def plan_forwards(
    traces: Sequence[EncodedTrace], *, max_tokens: int | None, share: bool = True
) -> list[list[TokenTree]]:
    """All traces, each in one forward, of at most `max_tokens` tokens each (None: no limit).

    With `share`, traces are merged into trees wherever their first tokens agree; a tree beyond the limit is
    cut where the least has to be computed twice. Without it, for backbones that cannot read trees, each trace
    is a row of its own, and padding counts as tokens. A trace is never cut: beyond the limit it stands alone.
    """
    if not share:
        return _rows([_chain(trace, k) for k, trace in enumerate(traces)], max_tokens)
    tokens, order, shared = _in_order(traces)
    lengths = [len(tokens[k]) for k in order]
    trees = []
    for start, end in _cuts(lengths, shared, max_tokens):
        members = order[start:end]
        trees.append(
            _merged([traces[k] for k in members], members, [tokens[k] for k in members], shared[start:end])
        )
    return _packed(trees, max_tokens)


def distinct_tokens(traces: Sequence[EncodedTrace]) -> int:
    """How many tokens the traces have once they are merged into trees."""
    tokens, _, shared = _in_order(traces)
    return sum(map(len, tokens)) - sum(shared)


def worth_sharing(traces: Sequence[EncodedTrace]) -> bool:
    """Whether trees have clearly fewer tokens than the traces; else plain rows are at least as fast."""
    return distinct_tokens(traces) < (1 - NOT_WORTH) * sum(len(trace.input_ids) for trace in traces)


def in_token_order(traces: Sequence[EncodedTrace]) -> list[int]:
    """Numbers of the traces, those that share most side by side."""
    return _in_order(traces)[1]


def _in_order(traces: Sequence[EncodedTrace]) -> tuple[list[np.ndarray], list[int], list[int]]:
    """Tokens of the traces; the traces in the order of their tokens; what each shares with the one before."""
    tokens = [np.asarray(trace.input_ids, dtype=np.int64) for trace in traces]
    # Big-endian bytes compare as the token ids do, and faster than lists of them.
    order = sorted(range(len(traces)), key=lambda k: tokens[k].astype(">u4").tobytes())
    shared = [0] + [_common_prefix(tokens[a], tokens[b]) for a, b in itertools.pairwise(order)]
    return tokens, order, shared


def collate(
    trees: Sequence[TokenTree], traces: Sequence[EncodedTrace], pad_id: int, *, share: bool = True
) -> dict[str, torch.Tensor]:
    """The inputs of one forward, of what `plan_forwards` gave for these `traces` and `share`.

    Returns:
        With `share`: `input_ids`, `position_ids` and `subtree_ends` (1, tokens), the trees one behind the
        other. Without: `input_ids`, `position_ids` and `attention_mask` (rows, tokens), padded.
        Always `step_ends`, `labels` (n_traces, n_steps) padded by -1 and -100, and `index` (n_traces,): each
        trace's number in `traces`.
    """
    sizes = [len(tree) for tree in trees]
    if share:
        starts = np.cumsum([0, *sizes[:-1]])
        batch = {
            "input_ids": _row([tree.ids for tree in trees]),
            "position_ids": _row([tree.depths for tree in trees]),
            "subtree_ends": _row(
                [tree.subtree_ends + start for tree, start in zip(trees, starts, strict=True)]
            ),
        }
    else:
        starts = np.arange(len(trees)) * max(sizes)
        batch = {
            "input_ids": _rows_of([tree.ids for tree in trees], pad_id),
            "position_ids": _rows_of([tree.depths for tree in trees], 0),
            "attention_mask": _rows_of([np.ones(n, dtype=np.int64) for n in sizes], 0),
        }
    ends = [ends + start for tree, start in zip(trees, starts, strict=True) for ends in tree.step_ends]
    members = [member for tree in trees for member in tree.members]
    return batch | {
        "step_ends": _rows_of(ends, -1),
        "labels": padded_labels([traces[member] for member in members]),
        "index": torch.tensor(members),
    }


def padded_labels(traces: Sequence[EncodedTrace]) -> torch.Tensor:
    """(n_traces, n_steps) float32 labels, -100 for steps without one and for padding."""
    return _rows_of(
        [np.array([IGNORE if y is None else y for y in trace.labels], dtype=np.float32) for trace in traces],
        IGNORE,
    )


def _row(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts)).unsqueeze(0)


def _rows_of(rows: Sequence[np.ndarray], padding: float) -> torch.Tensor:
    table = np.full((len(rows), max(map(len, rows))), padding, dtype=rows[0].dtype)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(table)


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    first = int(different.argmax()) if n else 0
    return first if n and different[first] else n


def _chain(trace: EncodedTrace, member: int) -> TokenTree:
    n = len(trace.input_ids)
    ids = np.asarray(trace.input_ids, dtype=np.int64)
    return TokenTree(
        ids, np.arange(n), np.full(n, n), [np.asarray(trace.step_ends, dtype=np.int64)], [member]
    )


def _merged(
    traces: Sequence[EncodedTrace],
    members: Sequence[int],
    tokens: Sequence[np.ndarray],
    shared: Sequence[int],
) -> TokenTree:
    """The tree of traces in the order of their tokens, which is that of a walk depth first."""
    longest = max(map(len, tokens))
    path = np.empty(longest, dtype=np.int64)  # where the tokens of the present trace stand
    size = len(tokens[0]) + sum(len(t) - s for t, s in zip(tokens[1:], shared[1:], strict=True))
    ids, depths, ends = (np.empty(size, dtype=np.int64) for _ in range(3))
    step_ends, n, open_until = [], 0, 0
    for k, (trace, own) in enumerate(zip(traces, tokens, strict=True)):
        kept = shared[k] if k else 0
        ends[path[kept:open_until]] = n  # what the trace does not share has no more descendants
        new = len(own) - kept
        ids[n : n + new] = own[kept:]
        depths[n : n + new] = np.arange(kept, len(own))
        path[kept : len(own)] = np.arange(n, n + new)
        open_until, n = len(own), n + new
        step_ends.append(path[np.asarray(trace.step_ends, dtype=np.int64)])
    ends[path[:open_until]] = n
    return TokenTree(ids, depths, ends, step_ends, list(members))


def _cuts(lengths: Sequence[int], shared: Sequence[int], max_tokens: int | None) -> list[tuple[int, int]]:
    """Where to cut traces in token order into trees of at most `max_tokens`, so that least is repeated.

    `best[j]` is the least cost of the first j traces; the last tree of them begins at some i, and costs its
    first trace whole and what each other trace adds: `lengths[i] + added[j] - added[i + 1]`.
    """
    n = len(lengths)
    if max_tokens is None:
        return [(0, n)] if n else []
    added = np.concatenate([[0], np.cumsum(np.array(lengths) - np.array(shared))])
    whole = np.array(lengths) - added[1:]
    best = np.zeros(n + 1)
    begin = np.zeros(n + 1, dtype=np.int64)
    low = 0  # the first trace with which a tree that ends here may begin
    for j in range(1, n + 1):
        # A tree that begins later is never larger; and a trace alone always may be one.
        while low < j - 1 and whole[low] + added[j] > max_tokens:
            low += 1
        costs = best[low:j] + whole[low:j]
        i = int(costs.argmin())
        best[j], begin[j] = costs[i] + added[j] + CUT_COST, low + i
    cuts = []
    j = n
    while j:
        cuts.append((int(begin[j]), j))
        j = int(begin[j])
    return cuts[::-1]


def _packed(trees: Sequence[TokenTree], max_tokens: int | None) -> list[list[TokenTree]]:
    """Trees into forwards of at most `max_tokens` tokens, the largest first, each where there is room."""
    forwards: list[list[TokenTree]] = []
    room: list[float] = []
    for tree in sorted(trees, key=len, reverse=True):
        k = next((k for k, left in enumerate(room) if left >= len(tree)), None)
        if k is None:
            forwards.append([tree])
            room.append(np.inf if max_tokens is None else max_tokens - len(tree))
        else:
            forwards[k].append(tree)
            room[k] -= len(tree)
    return forwards


def _rows(trees: Sequence[TokenTree], max_tokens: int | None) -> list[list[TokenTree]]:
    """Rows of like length into forwards of at most `max_tokens` tokens, padding counted."""
    forwards: list[list[TokenTree]] = []
    for tree in sorted(trees, key=len, reverse=True):
        rows = forwards[-1] if forwards else []
        if rows and (max_tokens is None or (len(rows) + 1) * len(rows[0]) <= max_tokens):
            rows.append(tree)
        else:
            forwards.append([tree])
    return forwards
