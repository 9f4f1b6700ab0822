"""The definitions of metrics.json, worked by hand, and against a plain O(n^2) reference on random data."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm.errors import InputError
from prm.evaluation import (
    baselines,
    best_threshold,
    bootstrap_intervals,
    breakdowns,
    first_error_metrics,
    fit_temperature,
    position_means,
    predict_first_error,
    rates_by_threshold,
)
from prm.evaluation.calibration import reliability
from prm.evaluation.metrics import RATES, STEP_METRICS
from prm.traces.trace import Step, Trace

# The worked example, at threshold 0.5; g: labelled, p: predicted first error.
SCORES = [
    [0.9, 0.8, 0.2],  # A  g = 2, p = 2: exact
    [0.4, 0.3],  #      B  g = 1, p = 0: early
    [0.7, 0.3],  #      C  g = 0, p = 1: late
    [0.9, 0.9, 0.6],  # D  g = 1, p = -1: miss
    [0.8, 0.6],  #      E  g = -1, p = -1: right
    [0.9, 0.45],  #     F  g = -1, p = 1: false alarm, at a step without a label
    [0.1, 0.1],  #      G  no label: counts nowhere
]
LABELS = [[1, 1, 0], [1, 0], [0, 0], [1, 0, 0], [1, 1], [1, None], [None, None]]

EXPECTED = {
    "n_traces": 6,
    "n_erroneous": 4,
    "n_steps": 3 + 2 + 2 + 3 + 2 + 1,
    "first_error_acc": 2 / 6,  # A, E
    "error_acc": 1 / 4,
    "correct_acc": 1 / 2,
    "f1": 1 / 3,  # 2 * 1/4 * 1/2 / (1/4 + 1/2)
    "false_early_rate": 1 / 4,
    "exact_rate": 1 / 4,
    "late_rate": 1 / 4,
    "miss_rate": 1 / 4,
    "false_alarm_rate": 1 / 2,
    # Right steps score .9 .9 .9 .8 .8 .6 .4, wrong ones .2 .3 .3 .6 .7 .9. Wrong below right, ties half:
    # 3 * 5.5 + 2 * 5 + 3.5 + 3 = 33 of 7 * 6 pairs.
    "step_auc": 33 / 42,
    # Up to the first error the wrong ones are .2 .3 .7 .9: 3 * 3.5 + 2 * 3 + 2 + 2 = 20.5 of 7 * 4.
    "step_auc_to_first_error": 20.5 / 28,
    # Flagging upwards: .2 finds 1 of 1 flagged, .3 two more (3 of 3), .6 one (4 of 6, .4 being right), .7 one
    # (5 of 7), .9 the last (6 of 13).
    "average_precision_error": (1 / 1 + 2 * 3 / 3 + 4 / 6 + 5 / 7 + 6 / 13) / 6,
    # Right: 3 * .1^2 + 2 * .2^2 + .4^2 + .6^2 = .63; wrong: .04 + 2 * .09 + .36 + .49 + .81 = 1.88.
    "brier": (0.63 + 1.88) / 13,
    # |sum of (score - right)| per bin: .2: .2, .3: .6, .4: .6, .6: 1.2 - 1, .7: .7, .8: .4, .9: 3.6 - 3.
    "ece": (0.2 + 0.6 + 0.6 + 0.2 + 0.7 + 0.4 + 0.6) / 13,
}


def test_worked_example():
    metrics = first_error_metrics(SCORES, LABELS)
    for name, value in EXPECTED.items():
        assert metrics[name] == pytest.approx(value, abs=1e-12), name
    assert (metrics["threshold"], metrics["threshold_from"], metrics["rule"]) == (0.5, "given", "threshold")
    assert set(metrics) == {*EXPECTED, "threshold", "threshold_from", "rule"}


@pytest.mark.parametrize(
    ("scores", "threshold", "expected"),
    [
        ([0.9, 0.4, 0.1], 0.5, 1),
        ([0.9, 0.5], 0.5, -1),  # at the threshold is not below it
        ([0.2, 0.9], 0.5, 0),
        ([0.9, 0.4], 0.0, -1),
        ([0.9, 1.0], 1.0, 0),
        ([], 0.5, -1),
        ([np.float32(0.3)], 0.3, -1),  # float32(0.3) = 0.300000012 in float64, where the comparison is made
    ],
)
def test_rule_threshold(scores, threshold, expected):
    assert predict_first_error(scores, threshold) == expected


@pytest.mark.parametrize(
    ("scores", "expected", "why"),
    [
        ([0.9, 0.3, 0.2], 1, "P: .1, .6, .1, none .2"),
        ([0.9, 0.8, 0.7], -1, "P: .1, .1, .1, none .7"),
        ([0.6, 0.3], 0, "P: .4, .3, none .3: below one half at step 1 only, yet step 0 is likelier"),
        ([0.75, 0.5, 0.25], -1, "P: .25 each: a tie goes to none"),
        ([0.5, 0.125, 0.125], 0, "P: .5, .375, 0, none .125"),
        ([0.625, 0.25, 0.25], 0, "P: .375, .375, 0, none .25: a tie between steps goes to the earlier"),
        ([0.3, 0.9], 0, "the rise is cut: .3, .3: P: .7, 0, none .3"),
        ([0.0], 0, "P: 1, none 0"),
        ([1.0], -1, "P: 0, none 1"),
        ([], -1, "nothing to flag"),
    ],
)
def test_rule_most_likely(scores, expected, why):
    assert predict_first_error(scores, rule="most-likely") == expected, why


def test_most_likely_uses_no_threshold():
    metrics = first_error_metrics(SCORES, LABELS, rule="most-likely", threshold=0.99, threshold_from="dev")
    assert metrics["threshold"] is None and metrics["threshold_from"] is None
    # A: .1 .1 .6 none .2 -> 2; B: .6 .1 none .3 -> 0; C: .3 .4 none .3 -> 1; D, E: none;
    # F: .1 .45 none .45, a tie
    assert metrics["first_error_acc"] == pytest.approx(3 / 6)


@pytest.mark.parametrize(
    ("labels", "nulls"),
    [
        ([[1, 1], [1, 1]], {"error_acc", "f1", "miss_rate", "step_auc", "average_precision_error"}),
        ([[0, 0], [0, 0]], {"correct_acc", "f1", "false_alarm_rate", "step_auc"}),
        ([[None, None], [None, None]], {*RATES, *STEP_METRICS}),
        ([[1, 0], [1, 1]], set()),
    ],
)
def test_empty_denominators_give_null(labels, nulls):
    metrics = first_error_metrics([[0.9, 0.4], [0.8, 0.7]], labels)
    assert nulls <= {name for name in metrics if metrics[name] is None}
    if not nulls:
        assert None not in metrics.values()


def test_f1_is_zero_where_both_accuracies_are():
    assert first_error_metrics([[0.1], [0.9]], [[1], [0]])["f1"] == 0


def test_no_traces_at_all():
    metrics = first_error_metrics([], [])
    assert metrics["n_traces"] == 0 and metrics["first_error_acc"] is None


def test_soft_and_missing_labels():
    # 0.5 reads as right, 0.49 as wrong; NaN is a missing label, as data frames have it
    metrics = first_error_metrics([[0.9, 0.8, 0.1]], [[0.5, math.nan, 0.49]])
    assert (metrics["n_steps"], metrics["n_erroneous"], metrics["first_error_acc"]) == (2, 1, 1.0)


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([[0.1]], [[1], [1]], "1 lists of scores for 2"),
        ([[0.1, 0.2]], [[1]], "trace 0 has 2 scores for 1 labels"),
        ([[0.1], [1.5]], [[1], [1]], "score 0 of trace 1"),
        ([[math.nan]], [[1]], r"in \[0, 1\]"),
        ([[0.1]], [[-100]], "None for unlabelled"),
        ([[0.1]], [[2]], "None for unlabelled"),
    ],
)
def test_bad_input_is_named(scores, labels, words):
    with pytest.raises(InputError, match=words):
        first_error_metrics(scores, labels)


def test_unknown_rule():
    with pytest.raises(InputError, match="most-likely"):
        first_error_metrics([[0.1]], [[1]], rule="argmax")


def test_best_threshold_worked():
    # Answered right where: A (.2, .8], B (.3, .4], C (.7, 1], D nowhere, E up to .6, F up to .45. So f1 is
    # 0 up to .2, then 2 * 1/4 / (5/4) = .4, on (.3, .4] 2 * 1/2 / (3/2) = 2/3, and at most .4 after that.
    assert best_threshold(SCORES, LABELS) == (pytest.approx(0.35), pytest.approx(2 / 3))
    # by all traces: (.3, .4] answers A, B, E, F
    assert best_threshold(SCORES, LABELS, by="first_error_acc") == (pytest.approx(0.35), pytest.approx(4 / 6))


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([[0.9, 0.2], [0.8]], [[1, 0], [1]], (0.5, 1.0)),  # (.2, .8], the decision points on both sides
        ([[0.9, 0.2], [0.8]], [[1, 0], [None]], (0.55, None)),  # f1 undefined: first_error_acc, (.2, .9]
        ([[0.6], [0.8]], [[1], [1]], (0.3, None)),  # no erroneous trace: anything up to .6
        ([[0.6], [0.8]], [[0], [0]], (0.9, None)),  # no clean trace: (.8, 1]
        # 2/3 on (.1, .15], where one error is found and both clean traces pass, and on (.6, .9], where both
        # errors are found and one clean trace passes: the wider stretch is taken
        ([[0.9], [0.1], [0.3]], [[1], [0], [1]], (0.2, 1.0)),
        ([[0.1], [0.15], [0.6], [0.9]], [[0], [1], [0], [1]], (0.75, 2 / 3)),
        ([[0.5]], [[None]], (0.5, None)),
        (
            [[0.0], [0.0]],
            [[1], [0]],
            (0.5, 0.0),
        ),  # T = 0 flags none, any other flags both: f1 is 0 throughout
        ([[0.0]], [[1]], (0.0, None)),  # only T = 0 is right
        ([[0.0], [1.0]], [[0], [1]], (0.5, 1.0)),
    ],
)
def test_best_threshold_table(scores, labels, expected):
    threshold, value = best_threshold(scores, labels)
    assert threshold == pytest.approx(expected[0]) and value == expected[1]


def test_best_threshold_between_neighbouring_floats():
    low = 0.3
    high = math.nextafter(low, 1)
    threshold, value = best_threshold([[low], [high]], [[0], [1]])
    assert value == 1.0 and low < threshold <= high


def test_best_threshold_refuses_rates_of_mistakes():
    with pytest.raises(InputError, match="first_error_acc"):
        best_threshold(SCORES, LABELS, by="miss_rate")


def test_position_means():
    # index 0: 3 of 4 right; 1: 1 of 3; 2: nothing labelled, so as before it; 3: 0 of 1
    labels = [[1, 1, None, 0], [1, 0], [0, 0.2], [0.5, None]]
    assert position_means(labels) == pytest.approx([3 / 4, 1 / 3, 1 / 3, 0])
    assert position_means([[None, 1]]) == [1, 1]
    assert position_means([[None], []]) == []


def test_baselines():
    found = baselines([0.9, 0.4], LABELS)
    never, first, position = found["never_flag"], found["flag_first"], found["position_only"]
    assert never["first_error_acc"] == pytest.approx(2 / 6) and never["miss_rate"] == 1  # E, F
    assert first["first_error_acc"] == pytest.approx(1 / 6) and first["false_alarm_rate"] == 1  # C
    assert never["f1"] == first["f1"] == 0
    assert never["step_auc"] == first["step_auc"] == 0.5
    # flags index 1 in every trace: right for B and D; index 2 takes the last mean
    assert position["first_error_acc"] == pytest.approx(2 / 6) and position["error_acc"] == pytest.approx(
        2 / 4
    )
    # scores .9 at index 0: right A B D E F, wrong C; .4 after it: right A E, wrong A B C D D.
    # pairs: 5 * (5 + .5) + 2 * (5 * .5) = 32.5 of 7 * 6
    assert position["step_auc"] == pytest.approx(32.5 / 42)
    assert baselines(None, LABELS)["position_only"] is None
    assert baselines([], LABELS)["position_only"] is None
    likely = baselines([0.9, 0.4], LABELS, rule="most-likely")
    assert likely["never_flag"]["miss_rate"] == 1 and likely["flag_first"]["false_alarm_rate"] == 1


def _trace(labels, scores, error=None, **more):
    steps = [Step(f"step {i}", label) for i, label in enumerate(labels)]
    trace = Trace("q", steps, scores=scores, **more)
    if trace.first_error >= 0:
        steps[trace.first_error].error = error
    return trace


def test_breakdowns():
    traces = [
        _trace([1, 0], [0.9, 0.1], "column", db_id="b", extra={"subset": "easy"}),
        _trace([1, 1], [0.9, 0.9], db_id="b", extra={"subset": "easy"}),
        _trace([0], [0.9], "limit", db_id="a", extra={"subset": "hard"}),
        _trace([1], [0.9], db_id="a", extra={"subset": "hard"}),
        _trace([1] * 10, [0.9] * 10, extra={"subset": "clean"}),
        _trace([None], [0.9], db_id="unlabelled"),
    ]
    by = breakdowns(traces)
    assert list(by["db_id"]) == ["a", "b"]
    assert by["db_id"]["a"]["first_error_acc"] == 0.5 and by["db_id"]["a"]["n_traces"] == 2
    assert list(by["n_steps"]) == ["1", "2", "10"]  # by number, not by text
    assert {k: row["error_acc"] for k, row in by["error"].items()} == {"column": 1.0, "limit": 0.0}
    assert by["error"]["column"]["f1"] is None and by["error"]["column"]["n_traces"] == 1
    assert {k: row["f1"] for k, row in by["subset"].items()} == {"clean": None, "easy": 1.0, "hard": 0.0}
    assert by["f1_mean"] == 0.5  # of the two subsets that have an f1
    assert set(breakdowns([_trace([1], [0.5])])) == {"n_steps"}


# Against a reference that follows the words of the definitions


def _reference(scores, labels, threshold, rule="threshold"):
    def mean(values):
        return sum(values) / len(values) if values else None

    def predict(row):
        if rule == "threshold":
            return min((t for t in range(len(row)) if row[t] < threshold), default=-1)
        survival = [1.0]
        for score in row:
            survival.append(min(score, survival[-1]))
        chance = {-1: survival[-1]}
        for t in range(len(row)):
            chance[t] = survival[t] - survival[t + 1]
        top = max(chance.values())
        return min(t for t in chance if chance[t] == top)

    def auc(right, wrong):
        return mean([(a > b) + (a == b) / 2 for a in right for b in wrong])

    pairs, steps, early_steps = [], [], []
    for row, marks in zip(scores, labels, strict=True):
        if all(x is None for x in marks):
            continue
        wrong = [t for t, x in enumerate(marks) if x is not None and x < 0.5]
        g = wrong[0] if wrong else -1
        pairs.append((g, predict(row)))
        known = [(row[t], marks[t] >= 0.5, t) for t in range(len(row)) if marks[t] is not None]
        steps += [(s, r) for s, r, _ in known]
        early_steps += [(s, r) for s, r, t in known if g == -1 or t <= g]
    erroneous, clean = [x for x in pairs if x[0] != -1], [x for x in pairs if x[0] == -1]
    right, wrong = [s for s, r in steps if r], [s for s, r in steps if not r]
    error_acc, correct_acc = mean([g == p for g, p in erroneous]), mean([p == -1 for _, p in clean])
    f1 = None
    if error_acc is not None and correct_acc is not None:
        both = error_acc + correct_acc
        f1 = 2 * error_acc * correct_acc / both if both else 0.0
    average = 0.0
    for value in set(wrong):
        flagged = [r for s, r in steps if s <= value]
        average += wrong.count(value) / len(wrong) * flagged.count(False) / len(flagged)
    gaps = 0.0
    for b in range(10):
        inside = [(s, r) for s, r in steps if b / 10 <= s and (s < (b + 1) / 10 or b == 9)]
        gaps += abs(sum(s - r for s, r in inside))
    return {
        "n_traces": len(pairs),
        "n_erroneous": len(erroneous),
        "n_steps": len(steps),
        "first_error_acc": mean([g == p for g, p in pairs]),
        "error_acc": error_acc,
        "correct_acc": correct_acc,
        "f1": f1,
        "false_early_rate": mean([p < g and p != -1 for g, p in erroneous]),
        "exact_rate": error_acc,
        "late_rate": mean([p > g for g, p in erroneous]),
        "miss_rate": mean([p == -1 for _, p in erroneous]),
        "false_alarm_rate": mean([p != -1 for _, p in clean]),
        "step_auc": auc(right, wrong),
        "step_auc_to_first_error": auc(
            [s for s, r in early_steps if r], [s for s, r in early_steps if not r]
        ),
        "average_precision_error": average if wrong else None,
        "brier": mean([(s - r) ** 2 for s, r in steps]),
        "ece": gaps / len(steps) if steps else None,
    }


_score = st.one_of(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0]), st.floats(0, 1))
_label = st.sampled_from([0, 1, 1, None, 0.2, 0.5])
_traces = st.lists(st.lists(st.tuples(_score, _label), max_size=5), max_size=12)


def _split(traces):
    return [[s for s, _ in trace] for trace in traces], [[x for _, x in trace] for trace in traces]


def _same(found, expected):
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, abs=1e-9), name


@settings(max_examples=300, deadline=None)
@given(_traces, _score, st.sampled_from(["threshold", "most-likely"]))
def test_metrics_equal_the_reference(traces, threshold, rule):
    scores, labels = _split(traces)
    metrics = first_error_metrics(scores, labels, threshold=threshold, rule=rule)
    _same(metrics, _reference(scores, labels, threshold, rule))
    if metrics["n_erroneous"]:
        parts = ("false_early_rate", "exact_rate", "late_rate", "miss_rate")
        assert sum(metrics[name] for name in parts) == pytest.approx(1)


@settings(max_examples=200, deadline=None)
@given(_traces, st.lists(_score, min_size=1, max_size=6))
def test_rates_by_threshold_equal_single_thresholds(traces, thresholds):
    scores, labels = _split(traces)
    swept = rates_by_threshold(scores, labels, thresholds)
    for i, threshold in enumerate(thresholds):
        single = first_error_metrics(scores, labels, threshold=threshold)
        for name in RATES:
            value = float(swept[name][i])
            assert (None if math.isnan(value) else value) == pytest.approx(single[name]), name


@settings(max_examples=200, deadline=None)
@given(_traces, st.sampled_from(["f1", "first_error_acc", "error_acc", "correct_acc"]))
def test_best_threshold_is_the_best(traces, by):
    scores, labels = _split(traces)
    threshold, value = best_threshold(scores, labels, by=by)
    assert 0 <= threshold <= 1
    at = first_error_metrics(scores, labels, threshold=threshold)
    # every distinct answer is reached at one of the scores, at 0, or at 1
    tried = [
        first_error_metrics(scores, labels, threshold=t)
        for t in {0.0, 1.0, *(s for row in scores for s in row)}
    ]
    target = by if at[by] is not None else "first_error_acc"
    assert value == at[by]
    if at[target] is not None:
        assert at[target] == pytest.approx(max(metrics[target] for metrics in tried))


@settings(max_examples=25, deadline=None)
@given(_traces, st.integers(1, 5), st.sampled_from(["threshold", "most-likely"]))
def test_bootstrap_equals_resampling_by_hand(traces, n_groups, rule):
    scores, labels = _split(traces)
    groups = [f"question {i % n_groups}" for i in range(len(traces))]
    found = bootstrap_intervals(scores, labels, groups=groups, threshold=0.4, rule=rule, n=12, seed=3)
    measured = [i for i in range(len(traces)) if any(x is not None for x in labels[i])]
    names = list(dict.fromkeys(groups[i] for i in measured))
    if len(names) < 2:
        assert set(found.values()) <= {None}
        return
    rng, drawn = np.random.default_rng(3), []
    for _ in range(12):
        picked = [names[k] for k in rng.integers(len(names), size=len(names))]
        rows = [i for name in picked for i in measured if groups[i] == name]
        drawn.append(
            first_error_metrics(
                [scores[i] for i in rows], [labels[i] for i in rows], threshold=0.4, rule=rule
            )
        )
    for name in (*RATES, *STEP_METRICS):
        values = [metrics[name] for metrics in drawn if metrics[name] is not None]
        if values:
            assert found[name] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-9), name
        else:
            assert found[name] is None


def test_bootstrap_draws_questions_not_traces():
    # Each trace ten times over is no more evidence than once: equal intervals, given the questions.
    rng = np.random.default_rng(0)
    scores = [[float(s) for s in rng.random(3)] for _ in range(30)]
    labels = [[1, 1, int(rng.random() < 0.5)] for _ in range(30)]
    once = bootstrap_intervals(scores, labels, groups=list(range(30)), n=200)
    often = bootstrap_intervals(scores * 10, labels * 10, groups=list(range(30)) * 10, n=200)
    naive = bootstrap_intervals(scores * 10, labels * 10, n=200)
    for name in (*RATES, *STEP_METRICS):
        assert often[name] == pytest.approx(once[name])
    width = {key: ci["first_error_acc"][1] - ci["first_error_acc"][0] for key, ci in
             (("often", often), ("naive", naive))}  # fmt: skip
    assert width["naive"] < width["often"] / 2  # about 1 / sqrt(10)


def test_bootstrap_wants_one_group_per_trace():
    with pytest.raises(InputError, match="1 groups for 2 traces"):
        bootstrap_intervals([[0.1], [0.2]], [[1], [0]], groups=["a"])


def test_ten_thousand_traces_take_seconds():
    rng = np.random.default_rng(0)
    scores = rng.random((10_000, 5)).tolist()
    labels = [[1] * k + [0] * (5 - k) for k in rng.integers(0, 6, size=10_000)]
    start = time.monotonic()
    best_threshold(scores, labels)
    bootstrap_intervals(scores, labels, groups=[i // 5 for i in range(10_000)])
    assert time.monotonic() - start < 30  # 3 s on an idle core; the slack is for busy machines


# Calibration


def test_temperature_worked():
    # Ten steps scored .9, eight of them right: .8 is the best, so T = logit(.9) / logit(.8) = ln 9 / ln 4
    assert fit_temperature([[0.9] * 10], [[1] * 8 + [0] * 2]) == pytest.approx(
        math.log(9) / math.log(4), rel=1e-6
    )
    # and below one half likewise
    assert fit_temperature([[0.1] * 10], [[0] * 8 + [1] * 2]) == pytest.approx(
        math.log(9) / math.log(4), rel=1e-6
    )


def test_temperature_is_recovered():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, size=40_000)
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-logits))).astype(int)
    bold = 1 / (1 + np.exp(-2.5 * logits))
    assert fit_temperature([bold.tolist()], [labels.tolist()]) == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([[0.6, 0.4]], [[1, 0]], 1 / 20),  # separable: as bold as allowed
        ([[0.9, 0.1]], [[0, 1]], 20),  # the wrong way round: as timid as allowed
        ([[0.9, 0.1]], [[1, 1]], 1.0),  # one class
        ([[0.9]], [[None]], 1.0),
        ([[1.0, 0.0, 1.0, 1.0]], [[1, 0, 0, 1]], None),  # saturated scores: finite
    ],
)
def test_temperature_edges(scores, labels, expected):
    found = fit_temperature(scores, labels)
    assert 1 / 20.001 <= found <= 20.001
    if expected is not None:
        assert found == pytest.approx(expected)


def test_reliability_bins():
    rows = reliability(np.array([0.0, 0.3, 0.35, 0.7, 1.0]), np.array([False, True, False, True, True]))
    assert [row["n"] for row in rows] == [1, 0, 0, 2, 0, 0, 0, 1, 0, 1]  # 0.3 and 0.7 open their bins
    assert rows[3]["mean_score"] == pytest.approx(0.325) and rows[3]["share_right"] == 0.5
    assert rows[1]["mean_score"] is None
    assert (rows[3]["low"], rows[3]["high"]) == (0.3, 0.4)
