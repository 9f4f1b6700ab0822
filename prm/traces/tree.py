"""Token trees: every distinct token of a batch is computed once.

The answers to one question share its prompt and often their first steps. Merged on their token prefixes they
form a tree; laid out in one row, a token may see its ancestors only, and its position is its depth. Causal
attention cannot tell this from one sequence a trace, so scores, loss and gradients stay what they were, and
the shared part is paid for once (on Spider's answer pools four tokens in five are repeats).

A trace is known in the tree by its step ends alone: flat indices which `ProcessRewardModel.forward` reads.
Two traces that share a step name the same index, and the loss counts it twice, as it should.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from prm.traces.encoding import IGNORE, EncodedTrace


@dataclass
class TokenTree:
    """Traces merged on their token prefixes.

    `ids` are the distinct tokens in the order in which they were added (parents before children),
    `parents[i]` the index of the token before token i (-1 for a first token), `step_ends[k]` the indices of
    trace k's step ends.
    """

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    step_ends: list[list[int]] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    _children: list[dict[int, int]] = field(default_factory=list)
    _roots: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def new_tokens(self, trace: EncodedTrace) -> int:
        """How many tokens adding this trace would add."""
        children, node = self._roots, -1
        for depth, token in enumerate(trace.input_ids):
            node = children.get(token, -1)
            if node < 0:
                return len(trace.input_ids) - depth
            children = self._children[node]
        return 0

    def add(self, trace: EncodedTrace, member: int) -> None:
        """Merge a trace in; `member` is the caller's number for it."""
        path = []
        children, parent = self._roots, -1
        for depth, token in enumerate(trace.input_ids):
            node = children.get(token, -1)
            if node < 0:
                node = children[token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
                self._children.append({})
            path.append(node)
            children, parent = self._children[node], node
        self.step_ends.append([path[end] for end in trace.step_ends])
        self.members.append(member)

    @property
    def branches(self) -> bool:
        return any(parent != i - 1 for i, parent in enumerate(self.parents))

    def attention_mask(self, size: int) -> torch.Tensor:
        """(size, size) bool: row i may see column j where j is i or an ancestor of i. Padding sees itself
        only.
        """
        mask = torch.eye(size, dtype=torch.bool)
        start = 0
        for i in range(1, len(self) + 1):
            # A run of single children sees what the parent of its first sees, and itself.
            if i < len(self) and self.parents[i] == i - 1:
                continue
            if self.parents[start] >= 0:
                mask[start:i] = mask[self.parents[start]]
            mask[start:i, start:i] = torch.ones(i - start, i - start, dtype=torch.bool).tril()
            start = i
        return mask


def merge(
    traces: Sequence[EncodedTrace], *, max_tokens: int | None = None, share: bool = True
) -> list[TokenTree]:
    """Trees over `traces` in the order given: neighbours with the same question share one, up to
    `max_tokens`.

    `share=False` keeps one row a trace: for backbones whose attention cannot take a tree mask.
    """
    trees: list[TokenTree] = []
    question = None
    for member, trace in enumerate(traces):
        fits = trees and (max_tokens is None or len(trees[-1]) + trees[-1].new_tokens(trace) <= max_tokens)
        if not (share and fits and trace.question_key == question):
            trees.append(TokenTree())
            question = trace.question_key
        trees[-1].add(trace, member)
    return trees


def pack(trees: Iterable[TokenTree], max_tokens: int | None) -> list[list[TokenTree]]:
    """Trees into forwards of at most `max_tokens` tokens, padding counted; a tree larger than that stands
    alone.
    """
    forwards: list[list[TokenTree]] = []
    for tree in sorted(trees, key=len, reverse=True):  # neighbours of like length: little padding
        rows = forwards[-1] if forwards else []
        if rows and (max_tokens is None or (len(rows) + 1) * len(rows[0]) <= max_tokens):
            rows.append(tree)
        else:
            forwards.append([tree])
    return forwards


def collate(
    trees: Sequence[TokenTree], traces: Sequence[EncodedTrace], pad_id: int
) -> dict[str, torch.Tensor]:
    """The inputs of one forward.

    Returns:
        `input_ids` and `position_ids` (rows, tokens); `attention_mask` (rows, tokens), or (rows, 1, tokens,
        tokens) bool where any row branches; `step_ends`, `labels` (n_traces, n_steps) padded by -1 and -100;
        `index` (n_traces,): each trace's number in `traces`.
    """
    size = max(len(tree) for tree in trees)
    input_ids = torch.full((len(trees), size), pad_id)
    position_ids = torch.zeros(len(trees), size, dtype=torch.long)
    members = [
        (row, m, ends) for row, t in enumerate(trees) for m, ends in zip(t.members, t.step_ends, strict=True)
    ]
    n_steps = max(len(ends) for _, _, ends in members)
    step_ends = torch.full((len(members), n_steps), -1)
    labels = torch.full((len(members), n_steps), IGNORE)
    for row, tree in enumerate(trees):
        input_ids[row, : len(tree)] = torch.tensor(tree.ids)
        position_ids[row, : len(tree)] = torch.tensor(tree.depths)
    for k, (row, member, ends) in enumerate(members):
        step_ends[k, : len(ends)] = torch.tensor(ends) + row * size
        values = [IGNORE if label is None else float(label) for label in traces[member].labels]
        labels[k, : len(values)] = torch.tensor(values)
    if any(tree.branches for tree in trees):
        mask = torch.stack([tree.attention_mask(size) for tree in trees]).unsqueeze(1)
    else:
        mask = (torch.arange(size) < torch.tensor([len(tree) for tree in trees]).unsqueeze(1)).long()
    return {
        "input_ids": input_ids,
        "attention_mask": mask,
        "position_ids": position_ids,
        "step_ends": step_ends,
        "labels": labels,
        "index": torch.tensor([member for _, member, _ in members]),
    }
