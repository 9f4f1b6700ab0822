"""Do the scores mean what they say? Of all steps scored 0.8, eighty in a hundred should be right.

`reliability` puts the steps into ten equal-width bins and compares mean score with share of right steps (the
mean gap is the metric `ece`; Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599).
`fit_temperature` finds the one number that repairs a model which ranks well but speaks too boldly:
score' = sigmoid(logit(score) / T). It is fitted on the dev split and moves no step past another one, so it
changes neither the AUC nor what the best threshold can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prm.evaluation.metrics import BIN_EDGES, N_BINS, bin_of, labelled_steps

#: A fitted temperature stays between 1 / T_MAX and T_MAX: on separable data the best one would be 0.
T_MAX = 20.0


def reliability(scores: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """One row per bin for the diagram: `low`, `high`, `n`, `mean_score`, `share_right` (None where empty)."""
    bins, edges = bin_of(scores), [0.0, *BIN_EDGES.tolist(), 1.0]
    rows = []
    for b in range(N_BINS):
        inside = bins == b
        n = int(inside.sum())
        rows.append(
            {
                "low": edges[b],
                "high": edges[b + 1],
                "n": n,
                "mean_score": float(scores[inside].mean()) if n else None,
                "share_right": float(right[inside].mean()) if n else None,
            }
        )
    return rows


def fit_temperature(scores: Sequence[Sequence[float]], labels: Sequence[Sequence[Any]]) -> float:
    """The T > 0 that minimises the log loss of sigmoid(logit(score) / T) over all labelled steps.

    The loss is convex in 1/T, so bisection on its slope finds the minimum. Labels are read at 0.5 as in every
    metric. Scores of exactly 0 or 1 (float32 saturates at 17) count as 1e-7 and 1 - 1e-7.

    Args:
        scores: one list per trace, one score in [0, 1] per step.
        labels: the same shape; None where unlabelled.

    Returns:
        T in [1/20, 20]; 1.0 where there is nothing to fit (no labelled steps, or all of one class).

    Raises:
        InputError: where scores and labels do not fit together.
    """
    flat, right = labelled_steps(scores, labels)
    if not right.any() or right.all():
        return 1.0
    flat = np.clip(flat, 1e-7, 1 - 1e-7)
    logits = np.log(flat) - np.log1p(-flat)

    def slope(inverse: float) -> float:
        sigmoid = 0.5 * (1 + np.tanh(0.5 * inverse * logits))  # the form that cannot overflow
        return float(np.mean((sigmoid - right) * logits))

    low, high = np.log(1 / T_MAX), np.log(T_MAX)
    for _ in range(60):
        middle = (low + high) / 2
        if slope(np.exp(middle)) < 0:
            low = middle
        else:
            high = middle
    return float(np.exp(-(low + high) / 2))
