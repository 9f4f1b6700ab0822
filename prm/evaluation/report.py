"""Scored traces in; `metrics.json`, `predictions.jsonl`, `report.html` and a table for the terminal out.

`evaluate_traces` is the one road: `prm evaluate --predictions` (here), `prm evaluate --model` and the
trainer's closing evaluation all end in it. The threshold is never chosen on the evaluated data unless
"oracle" is asked for, and `threshold_from` always says where it comes from. Equal input gives equal files:
the bootstrap is seeded, the shown traces are drawn by a hash of their content, and no file holds a date.

The report is one HTML file without a single script or outside address: charts are SVG drawn here, the rest is
CSS. Whatever comes from the data is escaped, and a content security policy forbids scripts on top.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prm import __version__
from prm.errors import InputError
from prm.evaluation import metrics as m
from prm.evaluation.calibration import reliability
from prm.traces.formats import atomic_write, load_traces, write_traces
from prm.traces.trace import Trace

log = logging.getLogger("prm")

ORACLE = "oracle: chosen on the evaluated data"
N_SHOWN = 20
#: Longer texts of single traces are cut in the report (never in the other files).
MAX_SHOWN_CHARS = 6000

#: What the tables show of `metrics.json`, with a short definition; the arrow says which way is better.
HEADLINES = {
    "first_error_acc": ("↑", "first error found, or absence confirmed"),
    "f1": ("↑", "harmonic mean of the next two"),
    "error_acc": ("↑", "of erroneous traces: first error found (= exact_rate)"),
    "correct_acc": ("↑", "of clean traces: none flagged"),
    "false_early_rate": ("↓", "of erroneous traces: flagged too early"),
    "late_rate": ("↓", "of erroneous traces: flagged too late"),
    "miss_rate": ("↓", "of erroneous traces: not flagged"),
    "false_alarm_rate": ("↓", "of clean traces: flagged"),
    "step_auc": ("↑", "a right step scores above a wrong one"),
    "step_auc_to_first_error": ("↑", "the same, up to the first error"),
    "average_precision_error": ("↑", "wrong steps, ranked by 1 - score"),
    "brier": ("↓", "mean squared error of the scores"),
    "ece": ("↓", "calibration error, ten bins"),
}
BASELINES = {"never_flag": "never flag", "flag_first": "flag first", "position_only": "position only"}


def evaluate_traces(
    traces: Sequence[Trace],
    output_dir: str | Path,
    *,
    threshold: float | str | None = None,
    threshold_from: str | None = None,
    rule: str = "threshold",
    position_means: Sequence[float] | None = None,
    model: str | None = None,
    info: dict[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure scored traces; write `metrics.json`, `predictions.jsonl` and `report.html` into `output_dir`.

    Args:
        traces: with `scores`; those without any label are written back and count in no metric.
        threshold: a number; "oracle" to choose it by f1 on these very traces; None for 0.5.
        threshold_from: where a number comes from ("given", the name of the dev file, "checkpoint" …).
        rule: `threshold` or `most-likely`; the latter uses no threshold.
        position_means: of the training data, for the baseline `position_only` (see `metrics.position_means`).
        model: name of what gave the scores.
        info: more keys for `metrics.json`, such as the data files; shown in the report's head.
        seed: of the bootstrap.

    Returns:
        What stands in `metrics.json`: `first_error_metrics` with `ci`, `baselines`, `by`, `n_questions`.

    Raises:
        InputError: a trace without scores, no labelled trace at all, an output that cannot be written.
    """
    scores = [trace.scores for trace in traces if trace.scores is not None]
    if len(scores) < len(traces):
        at = next(i for i, trace in enumerate(traces) if trace.scores is None)
        raise InputError(f"trace {at} has no 'scores'; score the traces first, with prm score")
    labels, keys = [trace.labels for trace in traces], [trace.question_key for trace in traces]
    if isinstance(threshold, str):
        if threshold != "oracle":
            raise InputError(f"the threshold must be a number or 'oracle', not {threshold!r}")
        threshold, threshold_from = m.best_threshold(scores, labels)[0], ORACLE
    elif threshold is None:
        threshold, threshold_from = 0.5, "default"
    choice: dict[str, Any] = {"threshold": threshold, "rule": rule}
    result = m.first_error_metrics(scores, labels, threshold_from=threshold_from or "given", **choice)
    if not result["n_traces"]:
        raise InputError("no trace has a label, so there is nothing to measure; give labelled traces")
    single = sum(trace.label_scheme == "step" for trace in traces)
    if single:
        log.warning(
            "%d traces are labelled step by step, while scores mean 'no error so far'; "
            "--labels prefix folds their labels",
            single,
        )
    labelled = [key for key, row in zip(keys, labels, strict=True) if any(x is not None for x in row)]
    result = {"model": model, **(info or {}), **result, "n_questions": len(set(labelled))}
    result["ci"] = m.bootstrap_intervals(scores, labels, groups=keys, seed=seed, **choice)
    result["baselines"] = m.baselines(position_means, labels, rule=rule)
    result["by"] = m.breakdowns(traces, **choice)

    predicted = [m.predict_first_error(row, threshold, rule) for row in scores]
    output = Path(output_dir)
    write_traces(
        (
            replace(trace, extra={**trace.extra, "predicted_first_error": p})
            for trace, p in zip(traces, predicted, strict=True)
        ),
        output / "predictions.jsonl",
    )
    with atomic_write(output / "report.html") as handle:
        handle.write(render_report(traces, predicted, result, info or {}))
    # Last: where metrics.json stands, the other two are complete.
    with atomic_write(output / "metrics.json") as handle:
        json.dump(result, handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")
    return result


def evaluate_predictions(
    files: Sequence[str],
    output: str,
    *,
    threshold: float | str | None = None,
    threshold_data: Sequence[str] | None = None,
    rule: str = "threshold",
    train_data: Sequence[str] | None = None,
    labels: str = "strict",
    on_bad_rows: str = "stop",
) -> dict[str, Any]:
    """`prm evaluate --predictions`: measure scores from anywhere, without torch; print table and paths.

    Args:
        files: scored traces.
        output: folder to write into.
        threshold: number or "oracle"; without it, and without `threshold_data`, 0.5.
        threshold_data: scored dev traces; the threshold with the best f1 on them is taken.
        rule: `threshold` or `most-likely`.
        train_data: labelled traces, for the baseline `position_only`.
        labels, on_bad_rows: as in `prm.traces.formats.load_traces`; traces without scores are bad rows, too.
    """
    check_threshold_options(threshold, threshold_data, rule)
    reading = {"labels": labels, "on_bad_rows": on_bad_rows}
    traces = [trace for file in files for trace in _scored(file, **reading)]
    threshold_from = "given"
    if threshold_data:
        dev = [trace for file in threshold_data for trace in _scored(file, **reading)]
        threshold, threshold_from = choose_threshold(dev, threshold_data)
    means = None
    if train_data:
        train = [trace for file in train_data for trace in load_traces(file, **reading)]
        means = m.position_means([trace.labels for trace in train])
    result = evaluate_traces(
        traces,
        output,
        threshold=threshold,
        threshold_from=threshold_from,
        rule=rule,
        position_means=means,
        info={"data": list(files)},
    )
    print_metrics(result, output)
    return result


def check_threshold_options(
    threshold: float | str | None, threshold_data: Sequence[str] | None, rule: str
) -> None:
    """Refuse options of `prm evaluate` that contradict each other."""
    if threshold is not None and threshold_data:
        raise InputError("--threshold and --threshold-data both set the threshold; give one of them")
    if rule == "most-likely" and (threshold is not None or threshold_data):
        raise InputError("--rule most-likely uses no threshold; leave out --threshold and --threshold-data")


def check_labelled(traces: Sequence[Trace], name: str) -> None:
    """For callers whose scores are still to be computed: refuse what could not be measured then."""
    if all(label is None for trace in traces for label in trace.labels):
        raise InputError(
            f"{name}: no trace has a label, so there is nothing to measure; give labelled traces"
        )


def choose_threshold(dev: Sequence[Trace], files: Sequence[str]) -> tuple[float, str]:
    """The best threshold on scored dev traces, and in words how it was chosen."""
    check_labelled(dev, ", ".join(files))
    threshold, f1 = m.best_threshold([trace.scores or [] for trace in dev], [trace.labels for trace in dev])
    return threshold, f"best {'f1' if f1 is not None else 'first_error_acc'} on {', '.join(files)}"


def _scored(file: str, *, labels: str, on_bad_rows: str) -> list[Trace]:
    traces = load_traces(file, labels=labels, on_bad_rows=on_bad_rows)
    scored = [trace for trace in traces if trace.scores is not None]
    missing = len(traces) - len(scored)
    first = next((trace.place for trace in traces if trace.scores is None), None)
    if missing and (on_bad_rows == "stop" or not scored):
        raise InputError(
            f"has no 'scores' ({missing} of {len(traces)} traces); score it with prm score, or add one "
            "number in [0, 1] per step",
            file=first and first[0],
            line=first and first[1],
        )
    if missing:
        log.warning("%s: skipped %d traces without 'scores'", file, missing)
    return scored


# The table in the terminal


def metrics_table(metrics: dict[str, Any], title: str | None = None) -> Table:
    """The metrics with their intervals beside the three baselines, to be printed by rich."""
    caption = Text(threshold_words(metrics))  # Text, for brackets in file names are no markup
    # Without side borders everything fits into 80 columns, the width of output that goes to a file.
    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("metric", no_wrap=True)
    table.add_column("model", justify="right", no_wrap=True, style="bold")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for words in BASELINES.values():
        table.add_column(words.replace(" ", "\n"), justify="right", no_wrap=True)
    for name, (arrow, _) in HEADLINES.items():
        interval = (metrics.get("ci") or {}).get(name)
        table.add_row(
            f"{name} {arrow}",
            figure(metrics.get(name)),
            "" if interval is None else f"{interval[0]:.3f} – {interval[1]:.3f}",
            *(figure((metrics["baselines"][key] or {}).get(name)) for key in BASELINES),
        )
    return table


def print_metrics(metrics: dict[str, Any], output: str | Path) -> None:
    """The table, and under it the paths of the files."""
    console = Console(highlight=False)
    console.print(metrics_table(metrics))
    for name in ("metrics.json", "predictions.jsonl", "report.html"):
        console.print(Text(str(Path(output) / name)), soft_wrap=True)


def threshold_words(metrics: dict[str, Any]) -> str:
    """One sentence: what was measured and by which rule."""
    if metrics["rule"] == "most-likely":
        return f"{counts_words(metrics)}; rule: most likely first error"
    return f"{counts_words(metrics)}; threshold {metrics['threshold']:.4g} ({metrics['threshold_from']})"


def counts_words(metrics: dict[str, Any]) -> str:
    """What was measured."""
    erroneous, steps = metrics["n_erroneous"], metrics["n_steps"]
    return f"{metrics['n_traces']:,} traces ({erroneous:,} erroneous), {steps:,} steps"


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


# The report


def render_report(
    traces: Sequence[Trace], predicted: Sequence[int], metrics: dict[str, Any], info: dict[str, Any]
) -> str:
    """The whole of `report.html`.

    Args:
        traces: scored; `predicted` holds the predicted first error of each.
        metrics: what `evaluate_traces` returns.
        info: keys and values shown in the head.
    """
    scores, labels = [trace.scores or [] for trace in traces], [trace.labels for trace in traces]
    steps, right = m.labelled_steps(scores, labels)
    threshold = metrics["threshold"]
    grid = np.linspace(0, 1, 201)
    rates = m.rates_by_threshold(scores, labels, grid)
    return template("report.html").render(
        version=__version__,
        metrics=metrics,
        info={key: ", ".join(map(str, v)) if isinstance(v, list) else v for key, v in info.items()},
        headlines=HEADLINES,
        baselines=BASELINES,
        measured=threshold_words(metrics),
        best_baselines=_best_baselines(metrics),
        roc=_roc(steps, right, threshold),
        precision_recall=_precision_recall(steps, right, threshold),
        reliability=_reliability(steps, right),
        by_threshold=_by_threshold(grid, rates, threshold),
        histogram=_histogram(steps, right, threshold),
        confusion=_confusion(traces, predicted),
        by={name: metrics["by"].get(name, {}) for name in ("error", "db_id", "n_steps", "subset")},
        f1_mean=metrics["by"].get("f1_mean"),
        shown=_shown_traces(traces, predicted),
    )


def template(name: str) -> Template:
    """A page of this folder; whatever is put into it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    return environment.get_template(name)


def _best_baselines(metrics: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """The strongest baseline of each metric in which more is better."""
    best = {}
    for name in ("first_error_acc", "f1", "step_auc"):
        known = [
            (row[name], words)
            for key, words in BASELINES.items()
            if (row := metrics["baselines"][key]) is not None and row[name] is not None
        ]
        if known:
            value, words = max(known)
            best[name] = (words, value)
    return best


def _shown_traces(traces: Sequence[Trace], predicted: Sequence[int]) -> list[dict[str, Any]]:
    """Twenty labelled traces, dealt in turn from all that can happen to one, drawn by a hash of their text.

    Each comes from another question while there are enough.
    """
    kinds: dict[str, list[tuple[str, int]]] = {
        "miss": [], "exact": [], "early": [], "right": [], "late": [], "alarm": []
    }  # fmt: skip
    for i, (trace, p) in enumerate(zip(traces, predicted, strict=True)):
        if any(label is not None for label in trace.labels):
            content = "\x1f".join([trace.question_key, *(step.text for step in trace.steps)])
            digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
            kinds[_kind(trace.first_error, p)].append((digest, i))
    decks = [[i for _, i in sorted(deck)] for deck in kinds.values()]
    drawn: list[int] = []
    seen: set[str] = set()
    while len(drawn) < N_SHOWN and any(decks):
        for deck in [deck for deck in decks if deck][: N_SHOWN - len(drawn)]:
            fresh = (k for k, i in enumerate(deck) if traces[i].question_key not in seen)
            drawn.append(deck.pop(next(fresh, 0)))
            seen.add(traces[drawn[-1]].question_key)
    order = list(kinds)
    drawn.sort(key=lambda i: order.index(_kind(traces[i].first_error, predicted[i])))
    return [_shown(traces[i], predicted[i]) for i in drawn]


def _kind(g: int, p: int) -> str:
    if g < 0:
        return "right" if p < 0 else "alarm"
    return "exact" if p == g else "miss" if p < 0 else "early" if p < g else "late"


def _shown(trace: Trace, p: int) -> dict[str, Any]:
    def cut(text: str) -> str:
        return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + " … (cut)"

    steps = []
    for i, (step, score) in enumerate(zip(trace.steps, trace.scores or [], strict=True)):
        sentence, _, rest = step.text.partition("\n")
        steps.append(
            {
                "score": score,
                "strength": abs(2 * score - 1),
                "label": step.label,
                "sentence": cut(sentence),
                "rest": cut(rest),
                "error": step.error if i == trace.first_error else None,
                "labelled_first": i == trace.first_error,
                "predicted_first": i == p,
            }
        )
    return {
        "kind": _kind(trace.first_error, p),
        "question": cut(trace.question),
        "db_id": trace.db_id,
        "evidence": cut(trace.evidence or ""),
        "schema": cut(trace.schema or ""),
        "gold_sql": cut(trace.gold_sql or ""),
        "steps": steps,
    }


# Charts: both axes run from 0 to 1 in a square of 240 units, 40 units from the left and 12 from the top

LEFT, TOP, SIDE = 40, 12, 240


def _x(value: float) -> str:
    return f"{LEFT + SIDE * value:.1f}"


def _y(value: float) -> str:
    return f"{TOP + SIDE * (1 - value):.1f}"


def _text(x: float, y: float, words: str, css: str = "", anchor: str = "middle", turn: str = "") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{words}</text>'


Ticks = Sequence[tuple[float, str]]
QUARTERS: Ticks = ((0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1, "1"))


def chart(
    title: str, x_label: str, y_label: str, *marks: str, x_ticks: Ticks = QUARTERS, y_ticks: Ticks = QUARTERS
) -> Markup:
    """Grid, ticks and labels around `marks` (SVG elements); none of the texts comes from the data."""
    bottom, middle = TOP + SIDE, TOP + SIDE / 2
    parts = [f'<svg viewBox="0 0 292 296" role="img" aria-label="{title}">']
    for at, name in x_ticks:
        parts.append(f'<path class="grid" d="M{_x(at)} {_y(0)}V{_y(1)}"/>')
        parts.append(_text(LEFT + SIDE * at, bottom + 15, name))
    for at, name in y_ticks:
        parts.append(f'<path class="grid" d="M{_x(0)} {_y(at)}H{_x(1)}"/>')
        parts.append(_text(LEFT - 6, TOP + SIDE * (1 - at) + 3.5, name, anchor="end"))
    parts.append(_text(LEFT + SIDE / 2, bottom + 34, x_label, "axis"))
    parts.append(_text(9, middle, y_label, "axis", turn=f' transform="rotate(-90 9 {middle})"'))
    return Markup("".join([*parts, *marks, "</svg>"]))


def line(xs: np.ndarray, ys: np.ndarray, css: str) -> str:
    """A polyline; NaN breaks it, and points that would be drawn on the same spot are left out."""
    path, last, pen = [], "", "M"
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if np.isnan(x) or np.isnan(y):
            pen = "M"
            continue
        point = f"{_x(x)} {_y(y)}"
        if point != last or pen == "M":
            path.append(pen + point)
        last, pen = point, "L"
    return f'<path class="line {css}" d="{"".join(path)}"/>'


def _dot(x: float, y: float, css: str = "chosen", radius: float = 4) -> str:
    return f'<circle class="{css}" cx="{_x(x)}" cy="{_y(y)}" r="{radius}"/>'


def _rule_line(threshold: float | None) -> str:
    if threshold is None:
        return ""
    at = min(threshold, 1.0)
    side, shift = ("end", -4) if at > 0.5 else ("start", 4)
    words = _text(LEFT + SIDE * at + shift, TOP + 10, f"T = {threshold:.3g}", "chosen-text", side)
    return f'<path class="chosen-line" d="M{_x(at)} {_y(0)}V{_y(1)}"/>{words}'


def _flagged(steps: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, ascending, and how many wrong and right steps score at most that much."""
    values, starts = np.unique(steps, return_index=True)
    ends = np.append(starts[1:], len(steps))
    return values, np.cumsum(~right)[ends - 1], np.cumsum(right)[ends - 1]


def _roc(steps: np.ndarray, right: np.ndarray, threshold: float | None) -> Markup | None:
    if right.all() or not right.any():
        return None
    _, wrong_flagged, right_flagged = _flagged(steps, right)
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    marks = [
        line(np.array([0, 1.0]), np.array([0, 1.0]), "chance"),
        line(np.append(0, right_flagged / n_right), np.append(0, wrong_flagged / n_wrong), "c1"),
    ]
    if threshold is not None:
        below = steps < threshold
        marks.append(_dot((below & right).sum() / n_right, (below & ~right).sum() / n_wrong))
    return chart("ROC curve", "right steps flagged", "wrong steps flagged", *marks)


def _precision_recall(steps: np.ndarray, right: np.ndarray, threshold: float | None) -> Markup | None:
    if right.all():
        return None
    _, wrong_flagged, right_flagged = _flagged(steps, right)
    n_wrong = int((~right).sum())
    base = n_wrong / len(right)
    precision = wrong_flagged / (wrong_flagged + right_flagged)
    marks = [
        line(np.array([0, 1.0]), np.array([base, base]), "chance"),
        line(np.append(0, wrong_flagged / n_wrong), np.append(precision[0], precision), "c2"),
    ]
    if threshold is not None and (below := steps < threshold).any():
        marks.append(_dot((below & ~right).sum() / n_wrong, (below & ~right).sum() / below.sum()))
    return chart(
        "Precision-recall curve", "wrong steps flagged (recall)", "flagged steps wrong (precision)", *marks
    )


def _reliability(steps: np.ndarray, right: np.ndarray) -> Markup:
    rows = reliability(steps, right)
    most = max(row["n"] for row in rows)
    marks = []
    for row in rows:
        height = 0.25 * row["n"] / most
        marks.append(
            f'<rect class="count" x="{_x(row["low"] + 0.01)}" y="{_y(height)}" width="{SIDE * 0.08:.1f}" '
            f'height="{SIDE * height:.1f}"/>'
        )
    marks.append(line(np.array([0, 1.0]), np.array([0, 1.0]), "chance"))
    points = [(row["mean_score"], row["share_right"]) for row in rows if row["n"]]
    marks.append(line(np.array([x for x, _ in points]), np.array([y for _, y in points]), "c3"))
    marks += [_dot(x, y, "fill3", 3) for x, y in points]
    return chart("Reliability diagram", "mean score", "share of steps labelled right", *marks)


#: The curves of the threshold chart; the template's legend names them in the same order.
THRESHOLD_CURVES = ("first_error_acc", "error_acc", "correct_acc", "f1")


def _by_threshold(grid: np.ndarray, rates: dict[str, np.ndarray], threshold: float | None) -> Markup:
    lines = [line(grid, rates[name], f"c{i}") for i, name in enumerate(THRESHOLD_CURVES, start=1)]
    return chart("Rates by threshold", "threshold", "rate", *lines, _rule_line(threshold))


def _histogram(steps: np.ndarray, right: np.ndarray, threshold: float | None) -> Markup:
    """Right steps upwards, wrong steps downwards, each as a share of its own class."""
    edges = np.linspace(0, 1, 26)
    shares = [np.histogram(steps[part], edges)[0] / max(part.sum(), 1) for part in (right, ~right)]
    top = max(share.max() for share in shares)
    marks = []
    for css, share, sign in (("bar1", shares[0], 1), ("bar2", shares[1], -1)):
        for low, value in zip(edges[:-1].tolist(), share.tolist(), strict=True):
            height = 0.5 * value / top
            y = 0.5 + height if sign > 0 else 0.5
            marks.append(
                f'<rect class="{css}" x="{_x(low + 0.002)}" y="{_y(y)}" width="{SIDE * 0.036:.1f}" '
                f'height="{SIDE * height:.1f}"/>'
            )
    marks.append(f'<path class="zero" d="M{_x(0)} {_y(0.5)}H{_x(1)}"/>')
    shares_at = (top, top / 2, 0, top / 2, top)
    ticks = [(at, f"{share:.0%}") for (at, _), share in zip(QUARTERS, shares_at, strict=True)]
    return chart(
        "Histogram of scores", "score", "share of steps", *marks, _rule_line(threshold), y_ticks=ticks
    )


#: Positions from here on share a row and a column of the confusion chart.
LAST_POSITION = 6


def _confusion(traces: Sequence[Trace], predicted: Sequence[int]) -> Markup:
    """Labelled against predicted first error: counts, shaded by their share of the row."""
    pairs = [
        (trace.first_error, p)
        for trace, p in zip(traces, predicted, strict=True)
        if any(label is not None for label in trace.labels)
    ]
    last = min(LAST_POSITION, max(max(pair) for pair in pairs))
    size = last + 2  # -1 (none) first
    counts = np.zeros((size, size), dtype=int)
    for g, p in pairs:
        counts[min(g, last) + 1, min(p, last) + 1] += 1
    names = ["none", *map(str, range(last)), f"{last}+" if last == LAST_POSITION else str(last)][:size]
    cell = SIDE / size
    marks = []
    for row in range(size):
        total = max(int(counts[row].sum()), 1)
        for column in range(size):
            x, y, n = LEFT + column * cell, TOP + row * cell, int(counts[row, column])
            box = f'x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}"'
            css = "hit" if row == column else "off"
            marks.append(f'<rect class="cell" {box}/>')
            marks.append(f'<rect class="cell {css}" {box} fill-opacity="{0.85 * n / total:.3f}"/>')
            if n:
                marks.append(_text(x + cell / 2, y + cell / 2 + 3.5, str(n), "n"))
    middles = [(i + 0.5) / size for i in range(size)]
    return chart(
        "Labelled against predicted first error",
        "predicted first error",
        "labelled first error",
        *marks,
        x_ticks=list(zip(middles, names, strict=True)),
        y_ticks=list(zip(middles, reversed(names), strict=True)),
    )
