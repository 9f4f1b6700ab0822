"""Choosing one of several answers by scores and results, on plain lists.

    aggregate_scores([0.9, 0.7], "last")                                  # 0.7
    choose([0.2, 0.9, 0.3], [0, 1, 0], how="vote")                        # 2: result 0 has two votes
    choose([0.2, 0.9, 0.3], [0, 1, 0], how="weighted-vote")               # 1: 0.9 against 0.5

Every tie is broken the same way: by the better score, then by the lower index.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from prm.errors import InputError

Aggregate = Literal["last", "min", "mean", "product", "length-normalised-product", "no-error"]
Choose = Literal["best", "vote", "weighted-vote"]


@dataclass(frozen=True)
class Rule:
    """How `prm rerank` chooses: the arguments of `aggregate_scores` and `choose`."""

    how: Choose = "best"
    aggregate: Aggregate = "last"
    drop_failing: bool = False
    drop_empty: bool = False


def aggregate_scores(scores: Sequence[float], how: Aggregate = "last") -> float:
    """One score of an answer out of those of its steps, each in [0, 1].

    - `last`: what a score means here, P(no error up to and including this step), at the last step
    - `min`, `mean`, `product`; `length-normalised-product`: the geometric mean, which does not fall with the
      number of steps. For models whose scores judge each step alone
    - `no-error`: the survival reading. Of the answers that were right up to a step, the share that the next
      score leaves is their ratio, and never more than 1: what was lost does not come back. The product of
      these is P(no error). It equals `last` where the scores never rise, as those of a model of hazards.
    """
    if not scores:
        raise InputError("an answer without steps has no score")
    if how == "last":
        return float(scores[-1])
    if how == "min":
        return float(min(scores))
    if how == "mean":
        return math.fsum(scores) / len(scores)
    if how == "product":
        return math.prod(map(float, scores))
    if how == "length-normalised-product":
        return math.exp(math.fsum(map(math.log, scores)) / len(scores)) if min(scores) > 0 else 0.0
    if how == "no-error":
        survival, before = 1.0, 1.0
        for score in scores:
            if score < before:
                survival *= score / before
            before = score
        return survival
    raise InputError(f"scores are aggregated by {', '.join(get_args(Aggregate))}, not {how!r}")


def choose(
    scores: Sequence[float | None] | None,
    results: Sequence[Hashable] | None = None,
    *,
    how: Choose = "best",
    votes: Sequence[float] | None = None,
    n_rows: Sequence[int | None] | None = None,
    drop_failing: bool = False,
    drop_empty: bool = False,
) -> int:
    """The index of the answer to take.

    Args:
        scores: of each answer; None for one that has none (it comes last). None: no answer has a score.
        results: of each answer, what stands for its result (equal for equal results, see `result_classes`),
            or None where it fails to run. For votes and `drop_failing`.
        how: `best` score; `vote`: the result with most votes; `weighted-vote`: the result with the largest
            sum of votes times score. Answers that fail have no vote. Of the result's answers, the one with
            the best score is taken. Where no answer runs, the best score decides.
        votes: how many samples gave each answer; 1 by default.
        n_rows: of each answer's result, for `drop_empty`.
        drop_failing, drop_empty: pass over answers that fail, or whose result has no rows, unless nothing
            were left.
    """
    n = len(scores if scores is not None else results or ())
    if n == 0:
        raise InputError("there is no answer to choose from")
    for name, given in (("results", results), ("votes", votes), ("n_rows", n_rows)):
        if given is not None and len(given) != n:
            raise InputError(f"{len(given)} {name} for {n} answers; give one for each")
    if how not in get_args(Choose):
        raise InputError(f"an answer is chosen by {', '.join(get_args(Choose))}, not {how!r}")
    if results is None and (how != "best" or drop_failing):
        raise InputError(f"a {how if how != 'best' else 'filter'} needs the results of the answers")
    if scores is None and how == "weighted-vote":
        raise InputError("a weighted vote needs scores")
    score = [-1.0 if s is None else s for s in scores] if scores is not None else [0.0] * n
    result: Sequence[Hashable] = results if results is not None else [None] * n
    allowed: Sequence[int] = range(n)
    if drop_failing:
        allowed = [i for i in allowed if result[i] is not None] or allowed
    if drop_empty:
        if n_rows is None:
            raise InputError("passing over empty results needs the number of rows of each")
        allowed = [i for i in allowed if n_rows[i] != 0] or allowed
    voters = [] if how == "best" else [i for i in allowed if result[i] is not None]
    if not voters:
        return min(allowed, key=lambda i: (-score[i], i))
    groups: dict[Hashable, list[int]] = {}
    for i in voters:
        groups.setdefault(result[i], []).append(i)
    ranked = []
    for members in groups.values():
        best = min(members, key=lambda i: (-score[i], i))
        weights = [
            (1.0 if votes is None else votes[i]) * (max(score[i], 0.0) if how == "weighted-vote" else 1.0)
            for i in members
        ]
        # A tie is a tie in whatever order the scores are added, and 0.1 + 0.2 is 0.3.
        ranked.append((-round(math.fsum(weights), 12), -score[best], best))
    return min(ranked)[2]
