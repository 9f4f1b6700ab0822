"""What is in a trace file: the statistics that one looks at before training on it.

The figures that most often explain a bad model are here: the share of wrong steps (nearly none, or nearly
all), where the first errors stand (a model can learn the position alone), how many traces are copies of each
other, how many say of the same steps that they are right and that they are wrong, and which questions stand
in two files.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prm.traces.formats import Tally, atomic_write, counted_traces
from prm.traces.overlap import OverlapIndex
from prm.traces.trace import Trace

log = logging.getLogger("prm")

#: What the kinds of `label_source` mean.
SOURCES = {
    "execution": "by running the SQL on the database: an answer is wrong where its result differs from "
    "gold's, right where it equals it there and (SQLite) on variants with other rows",
    "variant": "by running the SQL on the variant that the trace names: on the database itself its result "
    "happens to be gold's, and is not right",
    "monte-carlo": "by a policy that went on from every prefix; the last label by running the answer",
    "monte-carlo:variant": "the same, but the answer is wrong only on a variant of the database that the "
    "trace names",
    "judge": "by a model that read the steps",
    "consensus": "by two sources that agree",
}

_VARIANT = re.compile(r":-?\d.*")  # which variant of a database a label comes from: nearly each its own


def inspect(
    files: list[str],
    *,
    split: str | None = None,
    labels: str = "strict",
    on_bad_rows: str = "stop",
    json_output: str | Path | None = None,
) -> dict[str, Any]:
    """Check `files`, print and return their statistics, and write them to `json_output` where it is given.

    Of several files it is also said which questions two of them share (`overlaps`).
    """
    tally, shared = Tally(), OverlapIndex()

    def traces() -> Iterator[Trace]:
        for file in files:
            for trace in counted_traces(file, tally, split=split, labels=labels, on_bad_rows=on_bad_rows):
                if len(files) > 1:
                    shared.add(str(file), trace)
                yield trace

    statistics: dict[str, Any] = {"files": [str(file) for file in files]}
    statistics |= trace_statistics(traces())
    statistics |= {"rows": tally.rows, "folded": tally.folded, "skipped": dict(tally.skipped)}
    statistics["overlaps"] = [pair.to_dict() for pair in shared.overlaps()]
    for line in tally.report():
        log.warning(line)
    if json_output is not None:
        with atomic_write(json_output) as handle:
            handle.write(json.dumps(statistics, ensure_ascii=False, indent=2) + "\n")
    _show(statistics)
    return statistics


def trace_statistics(traces: Iterable[Trace]) -> dict[str, Any]:
    """Statistics of `traces`, which are read once.

    Returns a dict of plain values:
        traces, questions, databases: counts of different ones.
        steps, step_labels: all steps, and those labelled right (1), wrong (0), soft (between) or not at all.
        steps_per_trace, prompt_characters, steps_characters: min, median, mean, p95 and max over traces.
        trace_labels: traces that have a first error, are right throughout, or have no label.
        first_error: index of the first error (from 0, as text) -> traces; -1: labelled, without an error.
        error_categories, label_sources, label_schemes: name -> steps, traces, traces.
        duplicates: traces that repeat an earlier one in question, database, prompt, steps and labels.
        contradictions: traces whose question and steps occurred before with other labels.
    """
    questions, databases = set(), set()
    step_labels, trace_labels, first_errors = Counter[str](), Counter[str](), Counter[int]()
    categories, sources, schemes = Counter[str](), Counter[str](), Counter[str]()
    lengths: dict[str, list[int]] = {"steps": [], "prompt": [], "text": []}
    seen: dict[int, set[int]] = {}
    duplicates = contradictions = 0
    for trace in traces:
        questions.add(hash(trace.question_key))
        if trace.db_id is not None:
            databases.add(trace.db_id)
        step_labels.update(map(_kind_of_label, trace.labels))
        if all(label is None for label in trace.labels):
            trace_labels["unlabelled"] += 1
        else:
            trace_labels["right" if trace.first_error < 0 else "wrong"] += 1
            first_errors[trace.first_error] += 1
        categories.update(step.error for step in trace.steps if step.error is not None)
        sources[_VARIANT.sub("", trace.label_source or "not given")] += 1
        schemes["step" if trace.label_scheme == "step" else "prefix"] += 1
        prompt = trace.extra.get("prompt") or "".join(
            (trace.schema or "", trace.question, trace.evidence or "")
        )
        texts = tuple(step.text for step in trace.steps)
        lengths["steps"].append(len(texts))
        lengths["prompt"].append(len(prompt))
        lengths["text"].append(sum(map(len, texts)))
        labels_before = seen.setdefault(hash((trace.db_id, trace.question, prompt, texts)), set())
        label_hash = hash(tuple(trace.labels))
        duplicates += label_hash in labels_before
        contradictions += bool(labels_before) and label_hash not in labels_before
        labels_before.add(label_hash)
    return {
        "traces": len(lengths["steps"]),
        "questions": len(questions),
        "databases": len(databases),
        "steps": sum(lengths["steps"]),
        "step_labels": {kind: step_labels[kind] for kind in ("right", "wrong", "soft", "unlabelled")},
        "trace_labels": {kind: trace_labels[kind] for kind in ("right", "wrong", "unlabelled")},
        "steps_per_trace": _summary(lengths["steps"]),
        "first_error": {str(at): n for at, n in sorted(first_errors.items())},
        "error_categories": dict(categories.most_common()),
        "label_sources": dict(sources.most_common()),
        "label_schemes": dict(schemes.most_common()),
        "duplicates": duplicates,
        "contradictions": contradictions,
        "prompt_characters": _summary(lengths["prompt"]),
        "steps_characters": _summary(lengths["text"]),
    }


def _kind_of_label(label: float | int | None) -> str:
    return "unlabelled" if label is None else "right" if label == 1 else "wrong" if label == 0 else "soft"


def _summary(values: list[int]) -> dict[str, float]:
    ordered = sorted(values)
    n = len(ordered)
    if not n:
        return {}
    return {
        "min": ordered[0],
        "median": (ordered[(n - 1) // 2] + ordered[n // 2]) / 2,
        "mean": round(sum(ordered) / n, 2),
        "p95": ordered[(95 * n + 99) // 100 - 1],  # the smallest value that 95 % of all do not exceed
        "max": ordered[-1],
    }


def _show(statistics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, value: str) -> None:
        table.add_row(name, Text(value))  # Text: brackets in names are no markup

    def shares(counts: dict[str, int]) -> str:
        total = sum(counts.values())
        return ", ".join(f"{name} {n:,} ({n / total:.1%})" for name, n in counts.items() if n) or "none"

    def spread(summary: dict[str, float]) -> str:
        return " ".join(f"{name} {value:,g}" for name, value in summary.items())

    s = statistics
    row("files", ", ".join(s["files"]))
    row("traces", f"{s['traces']:,} from {s['rows']:,} rows")
    row("questions", f"{s['questions']:,}")
    row("databases", f"{s['databases']:,}")
    row("steps", f"{s['steps']:,}; per trace: {spread(s['steps_per_trace'])}")
    row("step labels", shares(s["step_labels"]))
    row("trace labels", shares(s["trace_labels"]))
    named = {"no error" if at == "-1" else f"step {at}": n for at, n in s["first_error"].items()}
    row("first error", shares(named))
    row("error categories", shares(s["error_categories"]))
    row("label sources", shares(s["label_sources"]))
    row("labels judge", shares({{"prefix": "all steps so far", "step": "their step alone"}[k]: n
                                for k, n in s["label_schemes"].items()}))  # fmt: skip
    row("duplicates", f"{s['duplicates']:,}")
    row("contradictions", f"{s['contradictions']:,} traces repeat steps with other labels")
    row("prompt characters", spread(s["prompt_characters"]))
    row("steps characters", spread(s["steps_characters"]))
    row("skipped rows", f"{sum(s['skipped'].values()):,}")
    row("folded traces", f"{s['folded']:,}")
    for pair in s["overlaps"]:
        n, of = sum(pair["kinds"].values()), pair["questions"]
        what = f"{n:,} of {of:,} questions of {pair['second']} are in {pair['first']}"
        what += f": {shares(pair['kinds'])}; such as {pair['example']}" if n else ""
        row("overlap", what + (f"; {pair['databases']:,} databases in both" if pair["databases"] else ""))
    Console(soft_wrap=True).print(table)
