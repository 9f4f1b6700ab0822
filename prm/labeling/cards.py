"""The data card beside a file of labelled traces: how the labels came to be, what is in the file, what made
it, and what the labels do not say.

A card is one of the Hugging Face Hub (Markdown with YAML in front); as `README.md` of a repository, its first
lines make the Hub and `datasets` read the file as a split. All that it says is taken from the statistics
beside it, so that it cannot be truer than they are, nor stay behind.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prm.traces.formats import atomic_write, write_traces
from prm.traces.provenance import SOURCES, output_file, source_kind, versions
from prm.traces.trace import Trace

Card = Callable[[dict[str, Any], Path], str]

_FACTS = (
    "A label is a fact about results on these databases and variants of them. Answers that are equal by an "
    "accident that shows on none of them pass for right; where gold is wrong, so are labels."
)
_SAME_BYTES = "The same command on the same data gives the same bytes, with any number of `--workers`"
_FROM_JOURNAL = (
    "What the model wrote is kept in `<output>.journal`: with it, the same command gives the same bytes and "
    "asks nothing"
)


def write_labelled(
    traces: list[Trace], output: str | Path, statistics: dict[str, Any], card: Card, command: str | None
) -> dict[str, Any]:
    """Write traces, statistics (`<output>.stats.json`) and card (`<output>.md`). Returns the statistics with
    what all cards ask for; `command` is None where no command was typed.

    Raises:
        InputError: the output cannot be written.
    """
    output = output_file(output)
    write_traces(traces, output)
    with open(output, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    sources = Counter(source_kind(trace.label_source) for trace in traces)
    statistics = statistics | {
        "traces": len(traces),
        "questions_with_traces": len({(trace.db_id, trace.question_key) for trace in traces}),
        "databases": len({trace.db_id for trace in traces}),
        "steps": sum(len(trace.steps) for trace in traces),
        "label_sources": dict(sorted(sources.items())),
        "versions": versions(),
        "command": command,
        "sha256": digest,
    }
    write_statistics(statistics, output)
    with atomic_write(f"{output}.md") as beside:
        beside.write(card(statistics, output))
    return statistics


def write_statistics(statistics: dict[str, Any], output: str | Path) -> None:
    """Write `<output>.stats.json`."""
    with atomic_write(f"{Path(output).expanduser()}.stats.json") as beside:
        json.dump(statistics, beside, indent=2)
        beside.write("\n")


# --- one for each verb --------------------------------------------------------------------------------------


def build_card(summary: dict[str, Any], output: str | Path) -> str:
    """The card of a file that `prm build` has written."""
    skipped = sum(summary["skipped"].values())
    return _card(
        summary,
        output,
        "A question's gold SQL was cut into a chain of steps, which was run: it gives gold's result, on the "
        "database and (SQLite) on variants of it, so all of its steps are right; so are those of rewrites of "
        "the chain that give the same. Wrong answers change the syntax tree of a right one, their `parent` "
        "(`steps[].error` names the kind), and were kept only where the result is another one by execution. "
        "Nobody labelled by hand, no model judged.",
        {
            "questions asked": f"{summary['questions']:,}",
            "questions that gave no trace": f"{skipped:,}{_reasons(summary['skipped'])}",
            "questions with a right answer only": f"{summary['questions_without_wrong_trace']:,}",
            "traces": f"{summary['traces']:,}, {summary['share_wrong']:.1%} of them wrong",
            "traces by number of steps": _counts(summary["traces_by_steps"]),
            "first errors by step (from 0)": _counts(summary["first_error_positions"]),
            "right answers beside the first of a question": f"{summary['right_alternatives']:,}",
            "wrong traces by number of errors": _counts(summary["errors_per_wrong_trace"]),
            "styles of the steps' text": _counts(summary["styles"]),
            "kinds of errors": _counts(summary["categories"]),
        },
        _SAME_BYTES,
        [
            "A label is a fact about results on these databases and variants of them. Where two queries "
            "still give the same result by accident, the changed one is missing; where gold is wrong, so are "
            "labels.",
            "Wrong answers are made by changing right ones. Models make other mistakes, too.",
            "Gold queries without rows, and those that could not be cut into an equal chain, are left out, "
            "so the rest is somewhat easier than the whole.",
        ],
        checked="every label",
    )


def label_card(summary: dict[str, Any], output: str | Path) -> str:
    """The card of a file that `prm label` has written."""
    skipped = sum(summary["skipped"].values())
    unknown = summary["share_unknown_of_wrong"]
    return _card(
        summary,
        output,
        "Every answer was run beside gold. One that gives gold's result, on the database and on variants of "
        "it that unmask accidental equality, is right, and so are all of its steps. In a wrong one the first "
        "step was looked for from which gold can no longer be reached, by running what the steps give; where "
        "that was not found out, the steps in question have no label. `label_evidence` says what each trace "
        "rests on. Nobody labelled by hand, no model judged.",
        {
            "answers to be labelled": f"{summary['answers']:,}, to {summary['questions']:,} questions",
            "answers that gave no trace": f"{skipped:,}{_reasons(summary['skipped'])}",
            "traces": f"{summary['traces']:,}, {summary['wrong']:,} of them wrong",
            "traces by evidence": _counts(summary["evidence"]),
            "right answers by the variants they were compared on": _counts(summary["right_by_variants"]),
            "first errors by step (from 0), where known": _counts(summary["first_error_positions"]),
            "steps without a label": f"{summary['steps_without_label']:,}",
        },
        _SAME_BYTES,
        [
            _FACTS,
            "A step is called right where gold's own operations complete it to gold's result, and wrong "
            "where it has lost what gold needs; on what other way its author may have been, nobody asked.",
            "Where the first wrong step was not found"
            + (f" ({unknown:.1%} of the wrong answers)" if unknown is not None else "")
            + ", the trace says only where it is not. Answers without a trace (counted above) are missing.",
        ],
        checked="the last label of every trace",
    )


def rollout_card(summary: dict[str, Any], output: str | Path) -> str:
    """The card of a file that `prm rollout` has written."""
    skipped = sum(summary["skipped"].values())
    soft, n = summary["label"] == "soft", summary["rollouts_per_prefix"]
    share = "" if summary["share_right"] is None else f", {summary['share_right']:.1%} of them right"
    return _card(
        summary,
        output,
        f"A policy (`{summary['policy']}`) went on from prefixes of every answer, {n} times from each, and "
        "what it wrote was run. "
        + (
            "A label is the share of these rollouts that reached"
            if soft
            else "A label is 1 where any of these rollouts, or the answer itself, reached"
        )
        + " gold's result, on the database and on variants of it that unmask accidental equality. "
        + (
            "The first error was looked for by halving, so most labels follow from others. "
            if summary["search"] == "binary"
            else ""
        )
        + "The last label of an answer needs no rollout: it is what the answer's own SQL gives. "
        "`steps[].rollouts` and `steps[].right` are the counts, `monte_carlo` has the settings.",
        {
            "questions asked": f"{summary['questions']:,}",
            "answers that gave no trace": f"{skipped:,}{_reasons(summary['skipped'])}",
            "traces": f"{summary['traces']:,}, {summary['answers_right']:,} of them right to the end",
            "labels": _counts(summary["labels"]),
            "rollouts": f"{summary['rollouts']:,} of {summary['prefixes']:,} prefixes{share}",
            "what became of them": _counts(summary["outcomes"]),
            "questions that the policy never solved": f"{summary['questions_never_solved']:,}",
            "questions that ran out of their budget": f"{summary['questions_over_budget']:,}",
        },
        _FROM_JOURNAL,
        [
            "Labels say what this policy could finish, not what can be finished: a weak one calls right "
            "steps wrong, a strong one mends small errors. Where it never solved a question (counted above), "
            "its labels say little.",
            f"A label rests on at most {n} rollouts; few of them miss what a policy reaches seldom.",
            _FACTS,
        ],
        checked="the last label of every trace",
    )


def judge_card(summary: dict[str, Any], output: str | Path) -> str:
    """The card of a file that `prm judge` has written."""
    return _card(
        summary,
        output,
        f"A model (`{summary['policy']}`) read schema, question and steps and gave every step a verdict; "
        "from the first wrong one on, all steps are labelled 0. A verdict that could not be read was asked "
        "for again; where none came, the steps have no labels. Nothing was run, and gold SQL was not shown.",
        {
            "traces": f"{summary['traces']:,}",
            "without a wrong step": f"{summary['right']:,}",
            "with a wrong step": f"{summary['wrong']:,}",
            "without a verdict": f"{summary['unlabelled']:,}",
            "answers that could not be read": f"{summary['malformed']:,} of {summary['answers']:,}",
        },
        _FROM_JOURNAL,
        [
            "A judge believes what sounds right, and what it says was not checked by execution. "
            "`prm consensus` keeps what it and another source agree on.",
        ],
    )


def consensus_card(summary: dict[str, Any], output: str | Path) -> str:
    """The card of a file that `prm consensus` has written."""
    kept = (
        "Only traces in which both put the first error at the same step, or find none, were kept."
        if summary["keep"] == "traces"
        else "Labels on which they do not agree were taken out, and traces of which none was left."
    )
    return _card(
        summary,
        output,
        "The same traces had been labelled by two sources (`consensus` in each trace names them; labels and "
        f"all else are the first one's). {kept} The cards of the two files say how their labels came to be.",
        {
            "agreed that no step is wrong": f"{summary['agree_right']:,}",
            "agreed on the first wrong step": f"{summary['agree_wrong']:,}",
            "put it at different steps": f"{summary['first_earlier'] + summary['second_earlier']:,}",
            "found an error in one of them only": f"{summary['only_first'] + summary['only_second']:,}",
            "had no label where the error would be": f"{summary['undecided']:,}",
            "of the first, not in the second": f"{summary['unmatched']:,}",
            "traces kept": f"{summary['traces_kept']:,}",
            "labels kept": f"{summary['labels_kept']:,}",
            "labels taken out of traces that both have": f"{summary['labels_dropped']:,}",
        },
        "The same command on the same files gives the same bytes",
        [
            "What both sources get wrong alike is still here.",
            "They agree on easy traces more often than on hard ones, so the rest is easier than the whole.",
        ],
    )


# --- what they have in common -------------------------------------------------------------------------------


def _card(
    summary: dict[str, Any],
    output: str | Path,
    origin: str,
    contents: Mapping[str, str],
    again: str,
    limits: Sequence[str],
    *,
    checked: str | None = None,
) -> str:
    """`origin` says how the labels came to be, `again` what the same command gives, `checked` what
    `prm inspect --databases` can check."""
    name, n = Path(output).name, summary["traces"]
    split = "".join(c if c.isalnum() else "_" for c in name.split(".")[0]) or "train"
    front = {
        "pretty_name": f"Step-labelled text-to-SQL traces ({name})",
        "task_categories": ["token-classification"],
        "tags": ["process-reward-model", "text-to-sql", "step-labels"],
        "size_categories": [_size(n)],
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": name}]}],
    }
    known = ", ".join(f"{what} {version}" for what, version in summary["versions"].items())
    made = "Called from Python." if summary["command"] is None else f"```bash\n{summary['command']}\n```"
    lines = [
        "---",
        "# license: fill in; it is that of the questions and databases, which this file is made from",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        f"# {front['pretty_name']}",
        f"{n:,} answers to {summary['questions_with_traces']:,} questions over {summary['databases']:,} "
        f"databases, each cut into reasoning steps ({summary['steps']:,} in all), and each step labelled: 1 "
        "still correct, 0 an error has happened at or before it, null where that is not known. For training "
        "and measuring process reward models.",
        "## How the labels came to be",
        origin,
        _table(
            ("label_source", "traces", "meaning"),
            [(source, f"{k:,}", SOURCES.get(source, "")) for source, k in summary["label_sources"].items()],
        ),
        "## What is in it",
        _table(("", ""), list(contents.items())),
        "## How it was made",
        made,
        f"Versions: {known}. {again}; sha256 `{summary['sha256']}`."
        + (
            ""
            if checked is None
            else f" Whether {checked} holds can be checked by anyone who has the databases:"
        ),
    ]
    if checked is not None:
        lines.append(f"```bash\nprm inspect --databases DATABASES {shlex.quote(name)}\n```")
    lines += ["## Limits", "\n".join(f"- {limit}" for limit in limits)]
    return "\n".join(lines[:3]) + "\n\n" + "\n\n".join(lines[3:]) + "\n"


def _size(n: int) -> str:
    """The Hub's classes of size."""
    bounds = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M")]
    below = None
    for bound, name in bounds:
        if n < bound:
            return f"n<{name}" if below is None else f"{below}<n<{name}"
        below = name
    return "n>10M"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in counts.items()) or "none"


def _reasons(skipped: dict[str, int]) -> str:
    return f" ({_counts(skipped)})" if skipped else ""
