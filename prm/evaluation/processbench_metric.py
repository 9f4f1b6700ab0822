"""The first-error metrics as a metric of the `evaluate` library.

By path, offline: `evaluate.load("prm/evaluation/processbench_metric.py")`; by class, without the copy into
the modules cache that `load` makes: `ProcessBenchMetric(keep_in_memory=True)`. Both have
`.compute(predictions=, references=, threshold=, rule=)`. The definitions live in `prm.evaluation.metrics`;
`error_acc`, `correct_acc` and `f1` are those of ProcessBench (arXiv:2412.06559).

This file imports `evaluate`, which takes seconds and imports torch, so nothing else in `prm.evaluation`
imports this file. The loader of `evaluate` reads import lines by pattern: one module a line, or it fails.
"""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate

from prm.evaluation.metrics import first_error_metrics

_CITATION = """\
@article{zheng2024processbench,
  title = {ProcessBench: Identifying Process Errors in Mathematical Reasoning},
  author = {Zheng, Chujie and Zhang, Zhenru and Zhang, Beichen and Lin, Runji and Lu, Keming and Yu, Bowen
            and Liu, Dayiheng and Zhou, Jingren and Lin, Junyang},
  journal = {arXiv preprint arXiv:2412.06559},
  year = {2024}
}
"""

_DESCRIPTION = """\
Measures how well the step scores of a process reward model find the first wrong step of each answer, and how
well they rank and calibrate single steps.
"""

_INPUTS = """
Args:
    predictions: one list per answer, one score in [0, 1] per step: P(no error up to and including this step).
    references: one list per answer, one label per step: 1 right, 0 wrong, a float between (right from 0.5
        up), None or -100 where unlabelled. An unlabelled step can be predicted as the first error, so cut
        padding off.
    threshold: a step scored below it is flagged (0.5).
    rule: 'threshold' (the first flagged step) or 'most-likely' (the most probable first error).
Returns:
    A dict with first_error_acc, error_acc, correct_acc, f1, false_early_rate, exact_rate, late_rate,
    miss_rate, false_alarm_rate, step_auc, step_auc_to_first_error, average_precision_error, brier, ece,
    n_traces, n_erroneous, n_steps, threshold and rule. None where a denominator is empty.
Examples:
    >>> metric = evaluate.load("prm/evaluation/processbench_metric.py")
    >>> metric.compute(predictions=[[0.9, 0.2], [0.8, 0.7]], references=[[1, 0], [1, 1]])["f1"]
    1.0
"""


class ProcessBenchMetric(evaluate.Metric):
    """See `_INPUTS`. In a trainer, `keep_in_memory=True` in every process: then no cache file is shared."""

    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.Sequence(
            datasets.Value("float64")
        )  # float32 would round scores across the threshold
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": numbers, "references": numbers}),
            reference_urls=["https://arxiv.org/abs/2412.06559"],
        )

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[list[float | None]],
        threshold: float = 0.5,
        rule: str = "threshold",
    ) -> dict[str, Any]:
        labels = [
            [None if label is None or math.isnan(label) or label == -100 else label for label in row]
            for row in references
        ]
        return first_error_metrics(predictions, labels, threshold=threshold, rule=rule)
