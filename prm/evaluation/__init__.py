"""Measuring: first-error metrics, calibration, the report. Without torch, transformers or `evaluate`.

`prm.evaluation.processbench_metric` alone imports `evaluate` and is therefore not imported here.
"""

from prm.evaluation.calibration import fit_temperature
from prm.evaluation.metrics import (
    baselines,
    best_threshold,
    bootstrap_intervals,
    breakdowns,
    first_error_metrics,
    position_means,
    predict_first_error,
    rates_by_threshold,
)

__all__ = [
    "baselines",
    "best_threshold",
    "bootstrap_intervals",
    "breakdowns",
    "first_error_metrics",
    "fit_temperature",
    "position_means",
    "predict_first_error",
    "rates_by_threshold",
]
