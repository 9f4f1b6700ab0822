"""How well does a PRM find the first error? Every number of `metrics.json`, in numpy alone.

With g the labelled first error of a trace and p the predicted one (indices from 0, -1 for none), everything
is counted from pairs (g, p); step metrics (AUC, Brier, ECE, average precision) look at labelled steps one by
one.

Two rules turn scores into p:

- `threshold`: the first step whose score is below the threshold, unlabelled steps included.
- `most-likely`: scores are survival probabilities s_t = P(no error up to step t), so with s_0 = 1 before the
  first step P(first error = t) = s_{t-1} - s_t, which is s_{t-1} times the hazard h_t = 1 - s_t / s_{t-1},
  and P(no error) is the last score. p is the most probable of these. Scores that rise are first cut to their
  running minimum. It needs no threshold. A tie goes to "none", then to the earlier step.

The threshold is swept without trying: only the running minimum m_t = min(s_0 … s_t) decides, since p = t
exactly where m_t < T <= m_{t-1}. A trace with an error at g is thus answered right for the thresholds in one
interval (m_g, m_{g-1}], a clean one up to its m_last; sorting the interval ends once gives all counts at all
thresholds.

Labels are read as right from 0.5 up. Unlabelled steps (None, or NaN as data frames have it) count in no step
metric, traces without any label in no metric at all. All comparisons are in float64. An empty denominator
gives None.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from prm.errors import InputError
from prm.traces.trace import Trace, first_error

Scores = Sequence[Sequence[float]]
Labels = Sequence[Sequence[Any]]

RULES = ("threshold", "most-likely")
#: Rates over traces, and metrics over labelled steps, in the order in which they are shown.
RATES = (
    "first_error_acc", "error_acc", "correct_acc", "f1",
    "false_early_rate", "exact_rate", "late_rate", "miss_rate", "false_alarm_rate",
)  # fmt: skip
STEP_METRICS = ("step_auc", "step_auc_to_first_error", "average_precision_error", "brier", "ece")

#: Ten bins: [0, 0.1), [0.1, 0.2) … [0.9, 1]. Compared as written, since 10 * score rounds at the edges.
BIN_EDGES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
N_BINS = len(BIN_EDGES) + 1


def predict_first_error(scores: Sequence[float], threshold: float = 0.5, rule: str = "threshold") -> int:
    """Predicted first error of one trace: an index from 0, or -1 for none.

    Args:
        scores: one score in [0, 1] per step: P(no error up to and including this step).
        threshold: for the rule `threshold`: a step is flagged where its score is below it.
        rule: `threshold` or `most-likely` (see the module docstring).
    """
    if rule not in RULES:
        raise InputError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    if rule == "threshold":
        return next((i for i, score in enumerate(scores) if float(score) < threshold), -1)
    survival = np.minimum.accumulate(np.asarray([1.0, *scores], dtype=np.float64))
    drops = survival[:-1] - survival[1:]
    if len(drops) == 0 or survival[-1] >= drops.max():
        return -1
    return int(drops.argmax())


def first_error_metrics(
    scores: Scores,
    labels: Labels,
    *,
    threshold: float = 0.5,
    rule: str = "threshold",
    threshold_from: str = "given",
) -> dict[str, Any]:
    """All single numbers of `metrics.json` (intervals, baselines and groups have their own functions below).

    Args:
        scores: one list per trace, one score in [0, 1] per step.
        labels: the same shape: 1, 0, a soft label between them, or None.
        threshold: a step scored below it is flagged.
        rule: `threshold` or `most-likely`; with the latter, `threshold` and `threshold_from` are None in the
            result.
        threshold_from: how the threshold was chosen, in words; kept in the result.

    Returns:
        `n_traces`, `n_erroneous`, `n_steps`, `threshold`, `threshold_from`, `rule`, the RATES and the
        STEP_METRICS; floats in [0, 1], None where a denominator is empty.

    Raises:
        InputError: scores and labels of different shape, a score or label outside [0, 1], an unknown rule.
    """
    pairs, steps = _read(scores, labels)
    predicted = np.array([predict_first_error(s, threshold, rule) for _, s, _ in pairs], dtype=np.int64)
    labelled = np.array([g for _, _, g in pairs], dtype=np.int64)
    result: dict[str, Any] = {
        "n_traces": len(pairs),
        "n_erroneous": int((labelled >= 0).sum()),
        "n_steps": len(steps.scores),
        "threshold": float(threshold) if rule == "threshold" else None,
        "threshold_from": threshold_from if rule == "threshold" else None,
        "rule": rule,
    }
    rates = _rates({name: column.sum() for name, column in _outcomes(labelled, predicted).items()})
    metrics = {**rates, **steps.metrics()}
    return result | {name: _number(metrics[name]) for name in (*RATES, *STEP_METRICS)}


def rates_by_threshold(
    scores: Scores, labels: Labels, thresholds: Sequence[float] | np.ndarray
) -> dict[str, np.ndarray]:
    """All RATES at many thresholds at once: name -> array of shape (len(thresholds),), NaN for None."""
    return _rates(_counts_at(_sweep(scores, labels), np.asarray(thresholds, dtype=np.float64)))


def best_threshold(scores: Scores, labels: Labels, by: str = "f1") -> tuple[float, float | None]:
    """The threshold in [0, 1] at which `by` is highest, and that value.

    Exact: every stretch of thresholds between two neighbouring decision points is looked at, O(n log n). All
    thresholds of a stretch answer alike; the middle of it is given, so that the choice is as far as possible
    from the scores on both sides. Of several best stretches, neighbours are joined, then the widest is taken,
    then the lowest.

    Where `by` is undefined (f1 where all traces are erroneous, or none is) the threshold is chosen by
    `first_error_acc` and the value is None; without any labelled trace it is 0.5.

    Args:
        scores, labels: as in `first_error_metrics`.
        by: one of RATES; the highest is taken, so rates of mistakes make no sense here.
    """
    if by not in ("f1", "first_error_acc", "error_acc", "correct_acc"):
        raise InputError(
            f"a threshold is chosen by f1, first_error_acc, error_acc or correct_acc, not {by!r}"
        )
    sweep = _sweep(scores, labels)
    if not len(sweep["last"]) + len(sweep["clean"]):
        return 0.5, None
    points = np.unique(np.concatenate([sweep["before"], sweep["at"], sweep["clean"]]))
    points = points[(points > 0) & (points < 1)]
    # Stretches [0, points[0]], (points[0], points[1]], …, (points[-1], 1]: their upper ends stand for them. A
    # score of exactly 0 is flagged by all but T = 0, which gets a stretch of its own where such scores exist.
    low, high = np.concatenate([[0.0], points]), np.concatenate([points, [1.0]])
    if any((sweep[name] == 0).any() for name in ("before", "at", "clean")):
        low, high = np.concatenate([[0.0], low]), np.concatenate([[0.0], high])
    rates = _rates(_counts_at(sweep, high))
    defined = not np.isnan(rates[by]).all()
    values = rates[by] if defined else rates["first_error_acc"]
    best = values.max()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values == best, [False]]).astype(np.int8)))
    starts, ends = low[edges[::2]], high[edges[1::2] - 1]
    widest = int((ends - starts).argmax())
    middle = (starts[widest] + ends[widest]) / 2
    if middle <= starts[widest]:  # neighbouring floats
        middle = ends[widest]
    return float(middle), float(best) if defined else None


def bootstrap_intervals(
    scores: Scores,
    labels: Labels,
    *,
    groups: Sequence[Hashable] | None = None,
    threshold: float = 0.5,
    rule: str = "threshold",
    n: int = 1000,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of all RATES and STEP_METRICS, by resampling questions.

    Traces of one question share schema, question and often steps, so questions are drawn (with replacement),
    each with all its traces; drawing traces would give intervals that are too narrow. A resample in which a
    metric is undefined counts for the others only. 10,000 traces of five steps take about three seconds.

    Args:
        scores, labels, threshold, rule: as in `first_error_metrics`.
        groups: the question of each trace (`Trace.question_key`); each trace its own if None.
        n: number of resamples.
        seed: equal seeds give equal intervals.

    Returns:
        name -> [low, high]; None where the metric is undefined, or there are fewer than two questions.
    """
    if groups is not None and len(groups) != len(scores):
        raise InputError(f"{len(groups)} groups for {len(scores)} traces; give one per trace")
    pairs, steps = _read(scores, labels)
    keys = [i if groups is None else groups[i] for i, _, _ in pairs]
    number = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    if len(number) < 2:
        return dict.fromkeys((*RATES, *STEP_METRICS))
    group = np.array([number[key] for key in keys])
    outcomes = _outcomes(
        np.array([g for _, _, g in pairs]),
        np.array([predict_first_error(s, threshold, rule) for _, s, _ in pairs]),
    )
    per_group = np.stack([np.bincount(group, column, minlength=len(number)) for column in outcomes.values()])
    rng = np.random.default_rng(seed)
    sums = np.empty((len(outcomes), n))
    step_values: dict[str, list[float]] = {name: [] for name in STEP_METRICS}
    for i in range(n):
        times = np.bincount(rng.integers(len(number), size=len(number)), minlength=len(number))
        sums[:, i] = per_group @ times
        for name, value in steps.metrics(times[group].astype(np.float64)).items():
            step_values[name].append(value)
    drawn = _rates(dict(zip(outcomes, sums, strict=True))) | {k: np.array(v) for k, v in step_values.items()}
    result: dict[str, list[float] | None] = {}
    for name in (*RATES, *STEP_METRICS):
        values = drawn[name][~np.isnan(drawn[name])]
        result[name] = [float(q) for q in np.percentile(values, [2.5, 97.5])] if len(values) else None
    return result


def position_means(labels: Labels) -> list[float]:
    """Share of right steps at each step index of the training data: what the position alone tells.

    An index at which nothing is labelled takes the share of the index before it (the first ones, of the next
    that has one). [] where nothing is labelled at all.
    """
    right: list[int] = []
    total: list[int] = []
    for row in labels:
        for t, label in enumerate(_label_row(row)):
            if t == len(total):
                right.append(0)
                total.append(0)
            if label is not None:
                right[t] += label >= 0.5
                total[t] += 1
    known = [r / n if n else None for r, n in zip(right, total, strict=True)]
    last = next((share for share in known if share is not None), None)
    if last is None:
        return []
    means = []
    for share in known:
        last = share if share is not None else last
        means.append(last)
    return means


def baselines(
    train_position_means: Sequence[float] | None, labels: Labels, *, rule: str = "threshold"
) -> dict[str, dict[str, Any] | None]:
    """What someone who reads no step would reach: the metrics of three constant scorers, at threshold 0.5.

    `never_flag` scores every step 1, `flag_first` scores every step 0, `position_only` scores each step by
    the share of right steps at its index in the training data (`position_means`; indices beyond the last take
    the last) and is None where that is unknown. f1 is 0 for the first two by definition.
    """

    def constant(means: Sequence[float]) -> dict[str, Any]:
        scores = [[means[min(t, len(means) - 1)] for t in range(len(row))] for row in labels]
        return first_error_metrics(scores, labels, rule=rule, threshold_from="fixed for baselines")

    return {
        "never_flag": constant([1.0]),
        "flag_first": constant([0.0]),
        "position_only": constant(train_position_means) if train_position_means else None,
    }


def breakdowns(
    traces: Sequence[Trace], *, threshold: float = 0.5, rule: str = "threshold", scores: Scores | None = None
) -> dict[str, Any]:
    """The metrics by group, where the data has it: `by[key][value]` -> RATES, STEP_METRICS and counts.

    Keys: `db_id`; `n_steps`; `error` (the category of the first wrong step; erroneous traces only); `subset`
    (from the traces' own key "subset"), which adds `f1_mean`, the unweighted mean of the subsets' f1 (those
    that have one), as ProcessBench reports it (arXiv:2412.06559). Values are strings, as JSON keys are, in
    natural order. Traces that lack a key are left out of its groups.

    Args:
        traces: with labels.
        scores: one list per trace; the traces' own `scores` if None.
    """
    if scores is None:
        scores = [trace.scores or [] for trace in traces]

    def category(trace: Trace) -> str | None:
        at = trace.first_error
        return trace.steps[at].error if at >= 0 else None

    keys: dict[str, list[Any]] = {
        "db_id": [trace.db_id for trace in traces],
        "n_steps": [len(trace.steps) for trace in traces],
        "error": [category(trace) for trace in traces],
        "subset": [trace.extra.get("subset") for trace in traces],
    }
    by: dict[str, Any] = {}
    for name, values in keys.items():
        members: dict[Any, list[int]] = {}
        for i, value in enumerate(values):
            if isinstance(value, (str, int)):
                members.setdefault(value, []).append(i)
        table = {}
        for value in sorted(members, key=lambda v: (isinstance(v, str), v)):
            own = members[value]
            row = first_error_metrics(
                [scores[i] for i in own], [traces[i].labels for i in own], threshold=threshold, rule=rule
            )
            if row["n_traces"]:
                table[str(value)] = {k: v for k, v in row.items() if k not in _SETTINGS}
        if table:
            by[name] = table
    if "subset" in by:
        f1 = [row["f1"] for row in by["subset"].values() if row["f1"] is not None]
        by["f1_mean"] = sum(f1) / len(f1) if f1 else None
    return by


_SETTINGS = ("threshold", "threshold_from", "rule")


def bin_of(scores: np.ndarray) -> np.ndarray:
    """Bin index 0 … 9 of each score."""
    return np.searchsorted(BIN_EDGES, scores, side="right")


def expected_calibration_error(
    scores: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Sum over bins of (share of steps) * |mean score - share right|; NaN without steps.

    Args:
        scores: shape (n,), in [0, 1].
        right: shape (n,), bool: the step is labelled right.
        weights: shape (n,), how often each step counts (the bootstrap's multiplicities); once if None.
    """
    if weights is None:
        weights = np.ones(len(scores))
    total = weights.sum()
    if total == 0:
        return float("nan")
    # n_b/n * |mean score - share right| = |sum over the bin of (score - right)| / n
    gaps = np.bincount(bin_of(scores), weights * (scores - right), minlength=N_BINS)
    return float(np.abs(gaps).sum() / total)


def labelled_steps(scores: Scores, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """All labelled steps, in ascending order of score: scores (float64) and labelled right (bool)."""
    steps = _read(scores, labels)[1]
    return steps.scores, steps.right


class _Steps:
    """The labelled steps of all traces, sorted by score once, so that a resample only weighs them anew.

    Products are summed by `(a * b).sum()`: the threads of `a @ b` get in each other's way on a busy machine
    (1000 resamples of 50,000 steps on two cores at a load of 3: 17.6 s against 5.4 s).
    """

    def __init__(
        self, scores: Sequence[float], right: Sequence[bool], trace: Sequence[int], kept: Sequence[bool]
    ):
        flat = np.asarray(scores, dtype=np.float64)
        order = np.argsort(flat, kind="stable")
        self.scores, self.right = flat[order], np.asarray(right, dtype=bool)[order]
        self.trace, self.kept = np.asarray(trace, dtype=np.int64)[order], np.asarray(kept, dtype=bool)[order]
        self.squared = (self.scores - self.right) ** 2
        #: where a block of equal scores starts
        self.starts = np.flatnonzero(np.diff(self.scores, prepend=np.nan) != 0)

    def metrics(self, times: np.ndarray | None = None) -> dict[str, float]:
        """STEP_METRICS (NaN where undefined), each trace counted `times[trace]` times; shape (n_traces,)."""
        if len(self.scores) == 0:
            return dict.fromkeys(STEP_METRICS, float("nan"))
        weight = np.ones(len(self.scores)) if times is None else times[self.trace]
        right, wrong = self._blocks(weight * self.right), self._blocks(weight * ~self.right)
        weight_kept = weight * self.kept
        total = weight.sum()
        return {
            "step_auc": _auc(right, wrong),
            "step_auc_to_first_error": _auc(
                self._blocks(weight_kept * self.right), self._blocks(weight_kept * ~self.right)
            ),
            "average_precision_error": _average_precision(right, wrong),
            "brier": float((weight * self.squared).sum() / total) if total else float("nan"),
            "ece": expected_calibration_error(self.scores, self.right, weight),
        }

    def _blocks(self, weight: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weight, self.starts)


def _auc(right: np.ndarray, wrong: np.ndarray) -> float:
    """ROC AUC from the weight of right and wrong steps at each distinct score, ascending; ties count half."""
    below = np.cumsum(wrong) - wrong
    pairs = right.sum() * wrong.sum()
    return float((right * (below + wrong / 2)).sum() / pairs) if pairs else float("nan")


def _average_precision(right: np.ndarray, wrong: np.ndarray) -> float:
    """Average precision of wrong steps, lowest score first: the order of 1 - score without its rounding."""
    positives = wrong.sum()
    if not positives:
        return float("nan")
    found = np.cumsum(wrong)
    flagged = np.cumsum(wrong + right)
    return float((wrong * (found / np.maximum(flagged, 1e-300))).sum() / positives)


def _outcomes(labelled: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """What happened to each trace, as columns of 0 and 1."""
    wrong, hit, none = labelled >= 0, labelled == predicted, predicted == -1
    return {
        "erroneous": wrong,
        "clean": ~wrong,
        "early": wrong & ~none & (predicted < labelled),
        "exact": wrong & hit,
        "late": wrong & (predicted > labelled),
        "miss": wrong & none,
        "alarm": ~wrong & ~none,
    }


def _rates(counts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The RATES from counts of outcomes (numbers, or arrays of one shape); NaN where the denominator is 0."""
    c = {name: np.asarray(value, dtype=np.float64) for name, value in counts.items()}

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)

    error_acc, correct_acc = share(c["exact"], c["erroneous"]), share(c["clean"] - c["alarm"], c["clean"])
    both = error_acc + correct_acc
    return {
        "first_error_acc": share(c["exact"] + c["clean"] - c["alarm"], c["erroneous"] + c["clean"]),
        "error_acc": error_acc,
        "correct_acc": correct_acc,
        "f1": np.where(both == 0, 0.0, 2 * error_acc * correct_acc / np.where(both == 0, 1, both)),
        "false_early_rate": share(c["early"], c["erroneous"]),
        "exact_rate": error_acc,
        "late_rate": share(c["late"], c["erroneous"]),
        "miss_rate": share(c["miss"], c["erroneous"]),
        "false_alarm_rate": share(c["alarm"], c["clean"]),
    }


def _sweep(scores: Scores, labels: Labels) -> dict[str, np.ndarray]:
    """The running minima that decide: before, at and after the first error; at the end of clean traces."""
    ends: dict[str, list[float]] = {"before": [], "at": [], "last": [], "clean": []}
    for _, row, g in _read(scores, labels)[0]:
        minima = list(accumulate(row, min))
        if g < 0:
            ends["clean"].append(minima[-1])
        else:
            ends["before"].append(minima[g - 1] if g else math.inf)
            ends["at"].append(minima[g])
            ends["last"].append(minima[-1])
    return {name: np.sort(np.array(values, dtype=np.float64)) for name, values in ends.items()}


def _counts_at(sweep: Mapping[str, np.ndarray], thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Outcomes at each threshold T: flagged before g where m_{g-1} < T, by g where m_g < T."""
    below = {name: np.searchsorted(values, thresholds, side="left") for name, values in sweep.items()}
    n_wrong, n_clean = len(sweep["at"]), len(sweep["clean"])
    return {
        "erroneous": np.full_like(below["at"], n_wrong),
        "clean": np.full_like(below["at"], n_clean),
        "early": below["before"],
        "exact": below["at"] - below["before"],
        "late": below["last"] - below["at"],
        "miss": n_wrong - below["last"],
        "alarm": below["clean"],
    }


def _read(scores: Scores, labels: Labels) -> tuple[list[tuple[int, list[float], int]], _Steps]:
    """Check and flatten: (index in the input, scores, labelled first error) of each labelled trace; steps."""
    if len(scores) != len(labels):
        raise InputError(
            f"{len(scores)} lists of scores for {len(labels)} lists of labels; give one per trace"
        )
    pairs: list[tuple[int, list[float], int]] = []
    flat: list[float] = []
    right: list[bool] = []
    trace: list[int] = []
    kept: list[bool] = []
    for i, (score_row, raw) in enumerate(zip(scores, labels, strict=True)):
        row, label_row = [float(score) for score in score_row], _label_row(raw)
        if len(row) != len(label_row):
            raise InputError(
                f"trace {i} has {len(row)} scores for {len(label_row)} labels; give one per step"
            )
        for t, score in enumerate(row):
            if not 0 <= score <= 1:  # false for NaN, too
                raise InputError(f"score {t} of trace {i} is {score}; scores must be numbers in [0, 1]")
        if all(label is None for label in label_row):
            continue
        g = first_error(label_row)
        for t, label in enumerate(label_row):
            if label is not None:
                flat.append(row[t])
                right.append(label >= 0.5)
                trace.append(len(pairs))
                kept.append(g < 0 or t <= g)
        pairs.append((i, row, g))
    return pairs, _Steps(flat, right, trace, kept)


def _label_row(raw: Iterable[Any]) -> list[float | None]:
    row: list[float | None] = []
    for label in raw:
        value = None if label is None or math.isnan(label) else float(label)
        if value is not None and not 0 <= value <= 1:
            raise InputError(
                f"a label must be 1, 0, a number between them, or None for unlabelled, not {label!r}"
            )
        row.append(value)
    return row


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
