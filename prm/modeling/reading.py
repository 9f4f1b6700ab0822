"""The states of a backbone at the step ends of many traces, where nothing is learned: each token once.

All traces are one forest (`prm.traces.tree`), and its tokens in their order one row. The row is read in
windows of `max_tokens`: what a window needs of those before it are the ancestors of its first token, so the
keys and values of that one path, and nothing else, are kept from window to window. Memory depends on the
window and the longest trace, never on how many traces there are, and no prefix is read twice (where gradients
are wanted it is: `plan_forwards` cuts trees).

What shares nothing, and backbones that read no trees, get plain rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from prm.modeling.process_reward_model import ProcessRewardModel
from prm.modeling.tree_attention import Keys, TreeMask
from prm.traces.encoding import EncodedTrace
from prm.traces.tree import collate, plan_forwards, worth_sharing

States = Iterator[tuple[list[int], list[torch.Tensor]]]


@torch.no_grad()
def step_states(
    model: ProcessRewardModel, traces: Sequence[EncodedTrace], *, pad_id: int, max_tokens: int
) -> States:
    """Read all traces, at most `max_tokens` tokens in a forward.

    Yields:
        (numbers of traces in `traces`, (n_steps, hidden_size) of each), each trace once, as soon as it is
        read to its end; on the model's device, in the backbone's dtype.
    """
    if model.reads_trees and worth_sharing(traces):
        yield from _of_forest(model, traces, max_tokens)
        return
    for rows in plan_forwards(traces, max_tokens=max_tokens, share=False):
        inputs = collate(rows, traces, pad_id, share=False)
        members = inputs.pop("index").tolist()
        del inputs["labels"]
        states = model.features(**{name: value.to(model.device) for name, value in inputs.items()})
        yield members, [row[: len(traces[k].step_ends)] for k, row in zip(members, states, strict=True)]


def _of_forest(model: ProcessRewardModel, traces: Sequence[EncodedTrace], max_tokens: int) -> States:
    (trees,) = plan_forwards(traces, max_tokens=None)
    batch = collate(trees, traces, 0)
    ids, depths, ends = (batch[name][0].numpy() for name in ("input_ids", "position_ids", "subtree_ends"))
    starts = np.cumsum([0, *map(len, trees[:-1])])
    # Depth first, traces end in the order of the trees' members.
    waiting = [
        (member, step_ends + start)
        for tree, start in zip(trees, starts, strict=True)
        for member, step_ends in zip(tree.members, tree.step_ends, strict=True)
    ]
    marks = np.unique(np.concatenate([step_ends for _, step_ends in waiting]))
    path = np.empty(0, dtype=np.int64)  # the ancestors of what comes …
    keys: Keys = []  # … and their keys and values
    known_at, known = path, torch.empty(0)  # step ends on the path or in this window, and their states
    done = 0
    windows = -(-len(ids) // max_tokens)
    for window in range(windows):
        begin, end = (k * len(ids) // windows for k in (window, window + 1))
        here = marks[np.searchsorted(marks, begin) : np.searchsorted(marks, end)]
        states, path, keys = _window(model, ids, depths, ends, begin, end, here, path, keys)
        kept = np.flatnonzero(ends[known_at] > begin)
        known = torch.cat([known[torch.from_numpy(kept)], states]) if len(kept) else states
        known_at = np.concatenate([known_at[kept], here])
        until = done
        while until < len(waiting) and waiting[until][1][-1] < end:
            until += 1
        if until > done:
            places = [torch.from_numpy(np.searchsorted(known_at, at)) for _, at in waiting[done:until]]
            yield [member for member, _ in waiting[done:until]], [known[at] for at in places]
        done = until


def _window(
    model: ProcessRewardModel,
    ids: np.ndarray,
    depths: np.ndarray,
    ends: np.ndarray,
    begin: int,
    end: int,
    wanted: np.ndarray,
    path: np.ndarray,
    keys: Keys,
) -> tuple[torch.Tensor, np.ndarray, Keys]:
    """The states of the tokens `wanted` among those from `begin` to `end`, which are read, and path and keys
    for the window behind it."""
    device = model.device

    def row(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    # The deepest ancestors end first: behind each such place, the tokens see fewer of the path.
    past, start = [], 0
    for stop in np.unique(np.minimum(ends[path], end)):
        depth = int((ends[path] > begin + start).sum())
        past.append((slice(start, int(stop) - begin), [(k[:, :, :depth], v[:, :, :depth]) for k, v in keys]))
        start = int(stop) - begin
    own = np.minimum(ends[begin:end], end) - begin
    kept = np.flatnonzero(ends[begin:end] > end)
    read: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    tree = TreeMask(row(own), past, kept=read, keep=row(kept))
    states = model.states(
        row(wanted - begin),
        input_ids=row(ids[begin:end])[None],
        position_ids=row(depths[begin:end])[None],
        attention_mask=tree.as_argument(),
    )
    still = int((ends[path] > end).sum())  # the upper part of the path
    new = [read[layer] for layer in sorted(read)]
    if still:
        new = [
            (torch.cat([k[:, :, :still], new_k], dim=2), torch.cat([v[:, :, :still], new_v], dim=2))
            for (k, v), (new_k, new_v) in zip(keys, new, strict=True)
        ]
    return states, np.concatenate([path[:still], kept + begin]), new
