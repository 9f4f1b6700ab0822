"""Scoring answers while they are written: each new step costs its own tokens only.

Guided decoding extends a few answers by a step, keeps the best, forks them and goes on. A `Branch` is such an
answer: `Scorer.start` begins one, `extend` scores its next step, `fork` makes a second one of it, `drop`
forgets it. What the branches share (the prompt, the first steps) is computed once and stands in memory once:
their keys and values form a tree of pieces, and a new step's attention reads the pieces above it where they
lie, without copying them into rows (`prm.modeling.tree_attention`).

The memory is bounded. Pieces that were not used for longest go first, and are computed again when a branch
that stands on them goes on; no score depends on it.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Sequence

import torch

from prm.errors import InputError
from prm.modeling.process_reward_model import ProcessRewardModel
from prm.modeling.tree_attention import Keys, TreeMask
from prm.traces.encoding import EncodedTrace, Encoder
from prm.traces.trace import Trace
from prm.traces.tree import collate, plan_forwards


class Branch:
    """An answer in the making: a prompt and the steps so far. Made by `Scorer.start` and `fork`.

    >>> branch = scorer.start(Trace("How many singers are there?", [], schema="…"))  # doctest: +SKIP
    >>> branch.extend("Count the rows of singer.")
    0.97
    """

    def __init__(self, branches: Branches, piece: _Piece) -> None:
        self._branches = branches
        self._piece: _Piece | None = piece

    def extend(self, step: str) -> float:
        """Add a step; its score, in [0, 1]. Several branches at once are cheaper: `Scorer.extend`."""
        (score,) = self._branches.extend([(self, step)])
        return score

    def fork(self) -> Branch:
        """A second branch with the same prompt and steps; nothing is copied."""
        return Branch(self._branches, self.piece)

    def drop(self) -> None:
        """Forget the branch; what no other branch stands on leaves the memory. (So it does when the last
        reference to the branch goes.)"""
        self._piece = None

    @property
    def steps(self) -> list[str]:
        return [piece.text for piece in self.piece.path() if piece.text is not None]

    @property
    def scores(self) -> list[float]:
        """P(no error up to and including each step), as `Scorer.score` gives them."""
        return self._branches.scores(self.piece)

    @property
    def piece(self) -> _Piece:
        if self._piece is None:
            raise ValueError("this branch was dropped")
        return self._piece


class _Piece:
    """The tokens of a prompt or of one step, behind those of `parent`."""

    __slots__ = ("__weakref__", "bytes", "depth", "ids", "keys", "logit", "number", "parent", "text", "used")
    numbers = itertools.count()

    def __init__(self, parent: _Piece | None, ids: list[int], text: str | None) -> None:
        self.parent, self.ids, self.text = parent, ids, text
        self.depth: int = 0 if parent is None else parent.depth + len(parent.ids)
        self.number = next(_Piece.numbers)
        self.keys: Keys | None = None  # of each layer, (1, key heads, tokens, width), while in memory
        self.bytes = 0  # of them
        self.logit: float | None = None  # of a step, once computed
        self.used = 0

    def path(self) -> list[_Piece]:
        """From the prompt to this piece."""
        path = []
        piece: _Piece | None = self
        while piece is not None:
            path.append(piece)
            piece = piece.parent
        return path[::-1]


class Branches:
    """All branches of a scorer, and the memory that they share.

    Args:
        cache_bytes: what keys and values may take between two calls. During a call its new tokens come on
            top; a call whose branches do not fit together is worked off in parts.
    """

    def __init__(self, model: ProcessRewardModel, encoder: Encoder, *, pad_id: int, cache_bytes: int) -> None:
        self.model, self.encoder, self.pad_id, self.cache_bytes = model, encoder, pad_id, cache_bytes
        self._kept: weakref.WeakSet[_Piece] = weakref.WeakSet()
        self._clock = itertools.count(1)
        self._bytes_per_token = 0  # known after the first call

    @property
    def bytes(self) -> int:
        """What keys and values take now."""
        return sum(piece.bytes for piece in self._kept)

    def start(self, trace: Trace) -> Branch:
        """A branch with the prompt of `trace` and the steps that it has. Nothing is computed before a step is
        asked for."""
        branch = Branch(self, _Piece(None, self.encoder.prompt_ids(trace), None))
        for step in trace.steps:
            self._add(branch, step.text)
        return branch

    def extend(self, steps: Sequence[tuple[Branch, str]]) -> list[float]:
        """Add a step to each of the branches, in one forward; their scores.

        Raises:
            InputError: a branch becomes longer than the backbone can read. Then none is extended.
            ValueError: a branch was dropped, or is named twice.
        """
        branches = [branch for branch, _ in steps]
        if len({id(branch) for branch in branches}) < len(branches):
            raise ValueError("a branch is named twice; fork it")
        before = [branch.piece for branch in branches]
        try:
            for branch, text in steps:
                self._add(branch, text)
            self._compute([branch.piece for branch in branches])
        except BaseException:
            for branch, piece in zip(branches, before, strict=True):
                branch._piece = piece
            raise
        return [self.scores(branch.piece)[-1] for branch in branches]

    def scores(self, piece: _Piece) -> list[float]:
        path = piece.path()
        if any(one.logit is None for one in path[1:]):
            self._compute([piece])
        return self.model.scores(torch.tensor([one.logit for one in path[1:]])).tolist()

    def _add(self, branch: Branch, text: str) -> None:
        index = len(branch.piece.path()) - 1  # steps so far: the path begins with the prompt
        piece = _Piece(branch.piece, self.encoder.step_ids(text, index), text)
        longest = self.model.longest
        if longest is not None and piece.depth + len(piece.ids) > longest:
            raise InputError(
                f"the branch would have {piece.depth + len(piece.ids)} tokens, the model reads {longest}"
            )
        branch._piece = piece

    def _compute(self, pieces: Sequence[_Piece]) -> None:
        """Give every piece its logit, and those of their paths that are not in memory."""
        if not self.model.reads_trees:
            self._compute_rows(pieces)
            return
        paths = [piece.path() for piece in pieces]
        needed = {piece for path in paths for piece in path}
        new = [piece for piece in needed if piece.keys is None]
        size = sum(piece.bytes for piece in needed) + self._bytes_per_token * sum(len(p.ids) for p in new)
        if size > self.cache_bytes and len(pieces) > 1:
            half = len(pieces) // 2
            self._compute(pieces[:half])
            self._compute(pieces[half:])
            return
        self._make_room(self.cache_bytes - self._bytes_per_token * sum(len(p.ids) for p in new), needed)
        self._run(new)
        now = next(self._clock)
        for piece in needed:
            piece.used = now
        self._make_room(self.cache_bytes, ())

    @torch.inference_mode()
    def _run(self, new: Iterable[_Piece]) -> None:
        """One forward over pieces that are not in memory, on top of those that are."""
        # Sorted by their paths, whatever stands on one piece is one range of the row.
        row = sorted(new, key=lambda piece: [one.number for one in piece.path()])
        starts = dict(zip(row, itertools.accumulate((len(p.ids) for p in row), initial=0), strict=False))
        ends: dict[_Piece, int] = {}  # behind the last token of whatever stands on a piece
        begins: dict[_Piece, int] = {}
        for piece in row:
            for one in piece.path():
                begins.setdefault(one, starts[piece])
                ends[one] = starts[piece] + len(piece.ids)
        device = self.model.device
        past = [(slice(begins[p], ends[p]), p.keys) for p in begins if p.keys is not None and p.ids]
        subtree_ends = torch.tensor([ends[p] for p in row for _ in p.ids], device=device)
        kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        tree = TreeMask(subtree_ends, past, kept)
        states = self.model.states(
            torch.tensor([starts[p] + len(p.ids) - 1 for p in row], device=device),
            input_ids=torch.tensor([[i for p in row for i in p.ids]], device=device),
            position_ids=torch.tensor([[p.depth + k for p in row for k in range(len(p.ids))]], device=device),
            attention_mask=tree.as_argument(),
        )
        layers = [kept[layer] for layer in sorted(kept)]
        self._bytes_per_token = sum(k[:, :, 0].nbytes + v[:, :, 0].nbytes for k, v in layers)
        for piece, logit in zip(row, self.model.head(states).tolist(), strict=True):
            piece.logit = logit
            here = slice(starts[piece], starts[piece] + len(piece.ids))
            piece.keys = [(k[:, :, here].clone(), v[:, :, here].clone()) for k, v in layers]
            piece.bytes = self._bytes_per_token * len(piece.ids)
            self._kept.add(piece)

    def _make_room(self, most: int, needed: Iterable[_Piece]) -> None:
        """Take pieces out of memory, longest unused first, but none under another that stays."""
        used = self.bytes
        needed = set(needed)
        while used > most:
            parents = {piece.parent for piece in self._kept}
            free = [piece for piece in self._kept if piece not in parents and piece not in needed]
            if not free:
                return
            oldest = min(free, key=lambda piece: (piece.used, -piece.depth))
            used -= oldest.bytes
            oldest.keys, oldest.bytes = None, 0
            self._kept.discard(oldest)

    @torch.inference_mode()
    def _compute_rows(self, pieces: Sequence[_Piece]) -> None:
        """Each branch read anew from its first token: for backbones that cannot read trees."""
        for piece in pieces:
            path = piece.path()
            ends = list(itertools.accumulate(len(one.ids) for one in path))[1:]
            ids = [i for one in path for i in one.ids]
            trace = EncodedTrace(ids, [n - 1 for n in ends], [None] * len(ends), "")
            ((row,),) = plan_forwards([trace], max_tokens=None, share=False)
            inputs = collate([row], [trace], self.pad_id, share=False)
            del inputs["index"], inputs["labels"]
            logits = self.model(**{k: v.to(self.model.device) for k, v in inputs.items()}).logits
            for one, logit in zip(path[1:], logits[0].tolist(), strict=True):
                one.logit = logit
