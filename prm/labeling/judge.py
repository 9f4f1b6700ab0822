"""Labels by reading instead of running: a model judges every step, and what it and the rollouts agree on is
kept.

A judge reads schema, question and numbered steps and writes a verdict a step, in the JSON that `prm convert
--from verdict` knows. It errs in other ways than Monte-Carlo labels: rollouts call a step right from which a
policy happens to recover and wrong where the policy is weak; a judge believes what sounds right. Zhang et al.
2025 ("The Lessons of Developing Process Reward Models in Mathematical Reasoning") keep only the traces in
which both put the first error at the same step, and train better models on the 40 % that remain. `consensus`
does that for any two labelled files.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from prm import __version__
from prm.errors import InputError
from prm.inference.policies import Answered, Policy, Request
from prm.jobs.journal import Journal
from prm.jobs.progress import progress
from prm.labeling.asking import Answers, Record, digest, seed_of
from prm.labeling.cards import consensus_card, judge_card, write_labelled
from prm.sql.schema import read_schema, schema_text
from prm.traces.converters import native_rows
from prm.traces.prompting import prompt_text
from prm.traces.provenance import made_by, origins, output_file, relabelled
from prm.traces.questions import find_database
from prm.traces.trace import Label, Step, Trace, first_error, fold_labels

JUDGE_PROMPT_VERSION = 1

_TASK = """\
You check the reasoning of a text-to-SQL system. Below are a database schema, a question, and the numbered
steps of an answer. A step is wrong where it, or its SQL, can no longer lead to the right result for the
question, given the steps before it. Another way to the same result is not wrong.

Write one JSON object and nothing else, with one entry for every step, in order:
{"analysis": {"analysis_step_1": {"reason": "...", "verification_result": "Correct"},
 "analysis_step_2": {"reason": "...", "verification_result": "Incorrect"}}}

"""
_MAX_TRIED_OBJECTS = 50


def judge_prompt(trace: Trace) -> str:
    """What the judge reads of a trace; its labels are not in it."""
    steps = "\n\n".join(f"Step {number}:\n{step.text.strip()}" for number, step in enumerate(trace.steps, 1))
    return f"{_TASK}{prompt_text(trace).rstrip()}\n\n{steps}\n\nJSON:\n"


def read_verdicts(text: str, trace: Trace) -> list[Step] | None:
    """The trace's steps with the labels that a judge's answer gives them; None where it gives none that are
    clear.

    The last JSON object of the text that `prm convert --from verdict` understands counts, whatever stands
    around it. Every step up to the first wrong one must have its verdict; from there on all are wrong.
    """
    reasoning = {f"step_{number}": step.text for number, step in enumerate(trace.steps, 1)}
    for found in reversed(_objects(text.rpartition("</think>")[2])):
        analysis = found.get("analysis", found)
        with suppress(InputError):
            (row,) = native_rows({"question": "-", "reasoning": reasoning, "analysis": analysis}, "verdict")
            labels: list[Label] = [step["label"] for step in row["steps"]]
            wrong = first_error(labels)
            if None in labels[: wrong if wrong >= 0 else None]:
                continue
            return [
                replace(
                    step,
                    label=0 if 0 <= wrong <= i else 1,
                    error=None,
                    extra=step.extra | ({"analysis": told["analysis"]} if "analysis" in told else {}),
                )
                for i, (step, told) in enumerate(zip(trace.steps, row["steps"], strict=True))
            ]
    return None


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that stand in a text, outermost ones."""
    decoder, found, at = json.JSONDecoder(), [], text.find("{")
    for _ in range(_MAX_TRIED_OBJECTS):
        if at < 0:
            break
        end = at + 1
        with suppress(ValueError, RecursionError):
            value, end = decoder.raw_decode(text, at)
            found.append(value)
        at = text.find("{", end)
    return found


def judge(
    traces: Iterable[Trace],
    policy: Policy,
    output: str | Path,
    *,
    databases: str | Path | None = None,
    seed: int = 0,
    tries: int = 3,
    price: tuple[float, float] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Label the steps of `traces` by a model and write them to `output`, counts to `<output>.stats.json` and
    a data card to `<output>.md` (`command` is the line that was typed, for the card). Returns the counts.

    Traces without a schema are given their database's, from the folder `databases`. An answer that cannot be
    read is asked for again with another seed, `tries` times at most; the steps of a trace that none was found
    for are unlabelled. Resumable by the journal beside the output.

    Raises:
        InputError: the policy fails for good, or there are no traces.
    """
    output = output_file(output)
    traces = [_with_schema(trace, databases) for trace in traces]
    if not traces:
        raise InputError("there are no traces to judge")
    began, counts = time.monotonic(), Counter[str]()
    judged: dict[int, list[Step]] = {}
    settings = policy.settings() | {"seed": seed, "judge_prompt": JUDGE_PROMPT_VERSION}
    with (
        Journal(f"{output}.journal", "judge", settings, paid=True) as journal,
        progress("traces", len(traces)) as advance,
    ):
        answers = Answers(journal, policy)
        for attempt in range(tries):
            left = [i for i in range(len(traces)) if i not in judged]
            requests = []
            for i in left:
                prompt = judge_prompt(traces[i])
                request = Request(prompt, seed=seed_of(seed, prompt, attempt))
                requests.append((digest(prompt, request.seed), request))
            for n, made in answers.ask(requests, _record):
                counts["prompt_tokens"] += made.get("prompt_tokens", 0)
                counts["tokens"] += made.get("tokens", 0)
                if "text" not in made:
                    counts["refused" if "refused" in made else "unanswered"] += 1
                    continue
                counts["answers"] += 1
                steps = read_verdicts(made["text"], traces[left[n]])
                if steps is None:
                    counts["malformed"] += 1
                else:
                    judged[left[n]] = steps
                so_far = f"{counts['malformed']} answers malformed, {counts['tokens']:,} tokens"
                advance(int(steps is not None), so_far=so_far)
        answers.check()
    about = policy.settings() | {"seed": seed, "version": __version__}
    done = [
        relabelled(
            trace,
            judged.get(i) or [replace(step, label=None, error=None) for step in trace.steps],
            "judge",
            "judge",
            seed,
            judge=about,
        )
        for i, trace in enumerate(traces)
    ]
    wrong = sum(trace.first_error >= 0 for trace in done)
    statistics = {
        "policy": about["policy"],
        "traces": len(traces),
        "right": len(judged) - wrong,
        "wrong": wrong,
        "unlabelled": len(traces) - len(judged),
        **{name: counts[name] for name in ("answers", "malformed", "refused", "unanswered")},
        "requests_from_journal": answers.resumed,
        **{name: counts[name] for name in ("prompt_tokens", "tokens")},
        "cost": None
        if price is None
        else (counts["prompt_tokens"] * price[0] + counts["tokens"] * price[1]) / 1e6,
        "seconds": round(time.monotonic() - began, 1),
    }
    statistics = write_labelled(done, output, statistics, judge_card, command)
    blind = sum(trace.schema is None and "prompt" not in trace.extra for trace in done)
    if blind:
        print(f"{blind} traces were judged without a schema; --databases gives them one", file=sys.stderr)
    s = statistics
    print(
        f"{s['traces']} traces judged: {s['right']} right, {s['wrong']} wrong, {s['unlabelled']} without a "
        f"verdict ({s['malformed']} of {s['answers']} answers malformed) -> {output}\n"
        f"{s['prompt_tokens']:,} prompt tokens, {s['tokens']:,} new ones, {s['seconds']:g} s"
        + ("" if s["cost"] is None else f", cost {s['cost']:.2f}"),
        file=sys.stderr,
    )
    return statistics


def _with_schema(trace: Trace, databases: str | Path | None) -> Trace:
    if databases is None or trace.schema is not None or trace.db_id is None or "prompt" in trace.extra:
        return trace
    schema = read_schema(find_database(databases, trace.db_id))
    return replace(trace, schema=schema_text(schema, trace.question))


def _record(_: int, answered: Answered) -> Record:
    (completion,) = answered.completions
    return {"text": completion.text, "tokens": completion.tokens, "prompt_tokens": answered.prompt_tokens}


# --- consensus ----------------------------------------------------------------------------------------------

#: What becomes of a trace of the first file.
FATES = {
    "agree_right": "both say that no step is wrong",
    "agree_wrong": "both put the first error at the same step",
    "first_earlier": "the first file puts the error earlier",
    "second_earlier": "the second file puts the error earlier",
    "only_first": "only the first file finds an error",
    "only_second": "only the second file finds an error",
    "undecided": "labels are missing where the error would be",
    "unmatched": "not in the second file",
}


def error_position(labels: list[Label]) -> int | None:
    """The first error of cumulative labels (-1: there is none), or None where missing labels leave it open.

    A right step says that all before it are right, too, so only the label before the first wrong one counts.
    """
    at = first_error(labels)
    before = labels[at - 1] if at > 0 else labels[-1] if at < 0 else 1
    return at if before is not None and before >= 0.5 else None


def consensus(
    first: Iterable[Trace],
    second: Iterable[Trace],
    output: str | Path,
    *,
    keep: str = "traces",
    command: str | None = None,
) -> dict[str, Any]:
    """Write the traces of `first` on whose labels `second` agrees to `output`, the counts of `FATES` to
    `<output>.stats.json` and a data card to `<output>.md` (`command` is the line that was typed, for the
    card). Returns the counts.

    A trace is found in `second` by its database, question and steps. `keep="traces"`: only traces in which
    both have the first error at the same step. `keep="steps"`: all traces, with the labels on which both
    agree and null for the others; traces without any such label are left out.

    Raises:
        InputError: nothing is left.
    """
    if keep not in ("traces", "steps"):
        raise InputError(f"keep must be 'traces' or 'steps', not {keep!r}")
    output = output_file(output)
    others: dict[tuple[Any, ...], deque[Trace]] = defaultdict(deque)
    for trace in second:
        others[_same(trace)].append(trace)
    fates, kept = Counter[str](), []
    labels_kept = labels_dropped = 0
    for trace in first:
        if not others[_same(trace)]:
            fates["unmatched"] += 1
            continue
        other = others[_same(trace)].popleft()
        mine, theirs = _folded(trace), _folded(other)
        fate = _fate(error_position(mine), error_position(theirs))
        fates[fate] += 1
        labels = mine
        if keep == "steps":
            labels = [a if _agree(a, b) else None for a, b in zip(mine, theirs, strict=True)]
        elif not fate.startswith("agree"):
            labels = [None] * len(mine)
        labels_kept += sum(label is not None for label in labels)
        labels_dropped += sum(a is not None and b is None for a, b in zip(mine, labels, strict=True))
        if any(label is not None for label in labels):
            kept.append(
                replace(
                    trace,
                    steps=[replace(s, label=label) for s, label in zip(trace.steps, labels, strict=True)],
                    sql=trace.sql if trace.sql is not None else other.sql,
                    gold_sql=trace.gold_sql if trace.gold_sql is not None else other.gold_sql,
                    label_source="consensus",
                    label_scheme=None,
                    extra=trace.extra
                    | {
                        "consensus": [source for t in (trace, other) for source, _ in origins(t)],
                        "consensus_made_by": [maker for t in (trace, other) for _, maker in origins(t)],
                        "made_by": made_by("consensus"),
                    },
                )
            )
    counts: dict[str, Any] = {name: fates[name] for name in FATES} | {
        "keep": keep,
        "traces_kept": len(kept),
        "labels_kept": labels_kept,
        "labels_dropped": labels_dropped,
    }
    if not kept:
        told = "; ".join(f"{n} x {FATES[name]}" for name, n in fates.items()) or "the first file is empty"
        raise InputError(f"the two files agree on nothing, so nothing was written ({told})")
    counts = write_labelled(kept, output, counts, consensus_card, command)
    for name, n in fates.items():
        print(f"{n:>6} {FATES[name]}", file=sys.stderr)
    print(f"{len(kept)} traces with {labels_kept} labels kept -> {output}", file=sys.stderr)
    return counts


def _same(trace: Trace) -> tuple[Any, ...]:
    return trace.db_id, trace.question, tuple(step.text for step in trace.steps)


def _folded(trace: Trace) -> list[Label]:
    if trace.label_scheme != "step":
        return trace.labels
    copy = replace(trace, steps=[replace(step) for step in trace.steps])
    fold_labels(copy)
    return copy.labels


def _agree(a: Label, b: Label) -> bool:
    return a is not None and b is not None and (a >= 0.5) == (b >= 0.5)


def _fate(a: int | None, b: int | None) -> str:
    if a is None or b is None:
        return "undecided"
    if a == b:
        return "agree_right" if a < 0 else "agree_wrong"
    if a < 0 or b < 0:
        return "only_second" if a < 0 else "only_first"
    return "first_earlier" if a < b else "second_earlier"
