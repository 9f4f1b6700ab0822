"""Scores of many small requests: their traces share what was computed for earlier ones.

`Scorer.score` merges the traces of one call on their token prefixes. A server sees the same schemas, prompts
and first steps again and again, in calls of their own. Here the keys and values of what was read stay, as a
radix tree over tokens (as RadixAttention keeps them for generation: Zheng et al. 2024, arXiv:2312.07104): a
trace costs the tokens behind its longest known prefix, those of others in its batch included. Beside its keys
a piece keeps the logit at each of its tokens (a head is small), so that what was scored before costs nothing.

The memory is bounded: pieces unused for longest go first, leaves before what they stand on. No score depends
on what is in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from prm.inference.scoring import Scorer
from prm.modeling.tree_attention import Keys, TreeMask
from prm.traces.encoding import EncodedTrace
from prm.traces.tree import collate, plan_forwards


class _Piece:
    """Tokens behind those of `parent`; `keys` and `logits` of them once they are computed."""

    __slots__ = ("bytes", "children", "depth", "ids", "keys", "logits", "parent", "used")

    def __init__(self, parent: _Piece | None, ids: np.ndarray) -> None:
        self.parent, self.ids = parent, ids
        self.depth: int = 0 if parent is None else parent.depth + len(parent.ids)
        self.children: dict[int, _Piece] = {}  # by their first token
        self.keys: Keys | None = None
        self.logits: torch.Tensor | None = None  # (tokens,) float32 on the CPU
        self.bytes = 0
        self.used = 0

    def path(self) -> list[_Piece]:
        """From the first token to this piece, without the empty root."""
        path: list[_Piece] = []
        piece = self
        while piece.parent is not None:
            path.append(piece)
            piece = piece.parent
        return path[::-1]


class PrefixCache:
    """A scorer and the keys and values of what it has read. Not thread-safe: one thread owns it.

    Args:
        cache_bytes: what keys and values may take between two batches. During a batch its new tokens come on
            top.

    Attributes:
        bytes: what they take now.
    """

    def __init__(self, scorer: Scorer, *, cache_bytes: int) -> None:
        self.scorer, self.cache_bytes = scorer, cache_bytes
        self.bytes = 0
        self._root = _Piece(None, np.empty(0, dtype=np.int64))
        self._kept: set[_Piece] = set()
        self._clock = itertools.count(1)
        self._bytes_per_token = 0  # known after the first batch

    def batch(self, waiting: Sequence[EncodedTrace], max_tokens: int) -> Batch:
        """The first traces of `waiting` that fit together into one forward of `max_tokens` new tokens; at
        least one. `run` it before the next one is made.
        """
        return Batch(self, waiting, max_tokens)

    def clear(self) -> None:
        """Forget everything."""
        self._root = _Piece(None, np.empty(0, dtype=np.int64))
        self._kept.clear()
        self.bytes = 0

    def _insert(self, ids: np.ndarray) -> tuple[_Piece, int]:
        """The piece with which `ids` end, and the number of their tokens that nobody has asked for yet."""
        piece, at = self._root, 0
        while at < len(ids):
            child = piece.children.get(int(ids[at]))
            if child is None:
                child = _Piece(piece, ids[at:])
                piece.children[int(ids[at])] = child
                return child, len(child.ids)
            n = min(len(child.ids), len(ids) - at)
            different = child.ids[:n] != ids[at : at + n]
            same = int(different.argmax()) if different.any() else n
            piece, at = self._split(child, same), at + same
        return piece, 0

    def _split(self, piece: _Piece, n: int) -> _Piece:
        """Cut a piece behind its first `n` tokens; the upper part."""
        if n == len(piece.ids):
            return piece
        parent = piece.parent
        assert parent is not None
        upper = _Piece(parent, piece.ids[:n])
        parent.children[int(upper.ids[0])] = upper
        piece.parent, piece.ids, piece.depth = upper, piece.ids[n:], piece.depth + n
        upper.children[int(piece.ids[0])] = piece
        upper.used = piece.used
        if piece.keys is not None and piece.logits is not None:
            # Copies: a view would keep the whole in memory for as long as one part is there.
            upper.keys = [(k[:, :, :n].clone(), v[:, :, :n].clone()) for k, v in piece.keys]
            piece.keys = [(k[:, :, n:].clone(), v[:, :, n:].clone()) for k, v in piece.keys]
            upper.logits, piece.logits = piece.logits[:n].clone(), piece.logits[n:].clone()
            upper.bytes, piece.bytes = self._bytes_per_token * n, self._bytes_per_token * len(piece.ids)
            self._kept.add(upper)
        return upper

    def _remove(self, piece: _Piece) -> None:
        """Take a piece without children out of the tree."""
        parent = piece.parent
        assert parent is not None
        del parent.children[int(piece.ids[0])]
        self._kept.discard(piece)
        self.bytes -= piece.bytes

    def _make_room(self, most: int, needed: set[_Piece]) -> None:
        """Forget leaves, longest unused first, down to `most` bytes; none of `needed`, which stand in the
        batch under way."""
        free = [piece for piece in self._kept if not piece.children and piece not in needed]
        while self.bytes > most and free:
            free.sort(key=lambda piece: -piece.used)
            while self.bytes > most and free:
                gone = free.pop()
                self._remove(gone)
                parent = gone.parent
                if parent is not self._root and parent not in needed and parent and not parent.children:
                    free.append(parent)
                    break  # it may be older than the rest


class Batch:
    """Traces that are scored in one forward.

    Attributes:
        size: how many of the waiting traces are in it.
        tokens: of those traces, each counted whole.
        new_tokens: of them, those that are computed.
    """

    def __init__(self, cache: PrefixCache, waiting: Sequence[EncodedTrace], max_tokens: int) -> None:
        self._cache = cache
        self.traces: list[EncodedTrace] = []
        self._ends: list[_Piece] = []
        self.tokens = self.new_tokens = 0
        if not cache.scorer.model.reads_trees:
            self._take_rows(waiting, max_tokens)
            return
        for trace in waiting:
            end, new = cache._insert(np.asarray(trace.input_ids, dtype=np.int64))
            if self.traces and new and self.new_tokens + new > max_tokens:
                cache._remove(end)  # it waits for the next forward
                break
            self.traces.append(trace)
            self._ends.append(end)
            self.tokens += len(trace.input_ids)
            self.new_tokens += new

    @property
    def size(self) -> int:
        return len(self.traces)

    def _take_rows(self, waiting: Sequence[EncodedTrace], max_tokens: int) -> None:
        """For backbones that cannot read trees: as many rows as fit, padding counted; nothing is kept."""
        longest = 0
        for trace in waiting:
            longest = max(longest, len(trace.input_ids))
            if self.traces and longest * (len(self.traces) + 1) > max_tokens:
                break
            self.traces.append(trace)
            self.tokens += len(trace.input_ids)
        self.new_tokens = self.tokens

    @torch.inference_mode()
    def run(self) -> list[list[float]]:
        """The scores of each trace, as `Scorer.score` gives them."""
        cache, model = self._cache, self._cache.scorer.model
        if not model.reads_trees:
            return self._run_rows()
        needed = {piece for end in self._ends for piece in end.path()}
        # A piece that was cut after its trace was inserted is new in both parts: so look for them now.
        new = [piece for piece in needed if piece.logits is None]
        try:
            cache._make_room(cache.cache_bytes - cache._bytes_per_token * self.new_tokens, needed)
            if new:
                self._compute(new)
        except BaseException:
            self._forget(new)
            raise
        now = next(cache._clock)
        for piece in needed:
            piece.used = now
        scores = []
        for trace, end in zip(self.traces, self._ends, strict=True):
            logits = torch.cat([piece.logits for piece in end.path() if piece.logits is not None])
            scores.append(model.scores(logits[trace.step_ends]).tolist())
        cache._make_room(cache.cache_bytes, set())
        return scores

    def _compute(self, new: list[_Piece]) -> None:
        cache, model = self._cache, self._cache.scorer.model
        wanted = set(new)
        row: list[_Piece] = []
        starts: dict[_Piece, int] = {}
        ranges: dict[_Piece, tuple[int, int]] = {}  # of the row, what stands on a piece
        n = 0
        for piece in _depth_first(cache._root, {piece for one in new for piece in one.path()}):
            if piece in wanted:
                row.append(piece)
                starts[piece] = n
                n += len(piece.ids)
                for above in piece.path():
                    ranges[above] = (ranges.get(above, (starts[piece], 0))[0], n)
        device = model.device
        past = [(slice(*ranges[piece]), piece.keys) for piece in ranges if piece not in wanted and piece.keys]
        subtree_ends = np.repeat([ranges[piece][1] for piece in row], [len(piece.ids) for piece in row])
        ids = np.concatenate([piece.ids for piece in row])
        positions = np.concatenate([piece.depth + np.arange(len(piece.ids)) for piece in row])
        tree = TreeMask(torch.from_numpy(subtree_ends).to(device), past, kept={})
        hidden = model.backbone(
            input_ids=torch.from_numpy(ids)[None].to(device),
            position_ids=torch.from_numpy(positions)[None].to(device),
            attention_mask=tree.as_argument(),
            use_cache=False,
        ).last_hidden_state[0]
        logits = model.head(hidden).cpu()
        assert tree.kept is not None
        layers = [tree.kept[layer] for layer in sorted(tree.kept)]
        cache._bytes_per_token = sum(k[:, :, 0].nbytes + v[:, :, 0].nbytes for k, v in layers)
        for piece in row:
            here = slice(starts[piece], starts[piece] + len(piece.ids))
            piece.logits = logits[here].clone()
            piece.keys = [(k[:, :, here].clone(), v[:, :, here].clone()) for k, v in layers]
            piece.bytes = cache._bytes_per_token * len(piece.ids)
            cache.bytes += piece.bytes
            cache._kept.add(piece)

    def _forget(self, new: list[_Piece]) -> None:
        """After a failure: nothing that was not computed stays in the tree."""
        for piece in sorted(new, key=lambda piece: -piece.depth):
            self._cache._remove(piece)

    def _run_rows(self) -> list[list[float]]:
        scorer = self._cache.scorer
        scores: list[list[float]] = [[]] * len(self.traces)
        for forward in plan_forwards(self.traces, max_tokens=None, share=False):
            inputs = collate(forward, self.traces, scorer.pad_id, share=False)
            index = inputs.pop("index").tolist()
            del inputs["labels"]
            inputs = {name: value.to(scorer.model.device) for name, value in inputs.items()}
            logits = scorer.model(**inputs).logits.cpu()
            for member, row in zip(index, logits, strict=True):
                n = len(self.traces[member].step_ends)
                scores[member] = scorer.model.scores(row[:n]).tolist()
        return scores


def _depth_first(root: _Piece, among: set[_Piece]) -> Iterator[_Piece]:
    todo = [root]
    while todo:
        piece = todo.pop()
        if piece.parent is not None:
            yield piece
        todo += [child for child in piece.children.values() if child in among]
