"""Other people's ways to write down step labels: one foreign row in, native rows out.

A converter only moves values to their native place; whether they are valid is for `Trace.from_dict` to say.
Keys that it does not know are handed on, so that nothing is lost on the way.

| format | columns | labels become |
|---|---|---|
| native | `question`, `steps` | what they are |
| trl | `prompt`, `completions`, `labels` | step-wise; `prompt` stays, and is what the model reads |
| math-shepherd | `input` with a `ки` behind each step, `label` with `+` or `-` in its place | step-wise |
| openrlhf | `input` with `ки`, `<extra_0>` or ` и` behind each step, `value`: a list | step-wise, or none |
| prm800k | `question.problem`, `label.steps[].completions[].rating` | step-wise; -1 wrong, 0 and 1 right |
| processbench | `problem`, `steps` (strings), `label`: index of the first error or -1 | cumulative |
| verdict | `question`, `reasoning.step_1`, `analysis.analysis_step_1.verification_result` | step-wise |
| cocte | `question`, an answer `WITH a AS (…),` `b AS (…)` `SELECT …` (`ANSWER_KEYS`) | `labels`, or none |
| candidates | `question`, `candidates[]`, each with `steps` or `sql` | what they are |

"Step-wise" traces say `label_scheme: step`: each label judges its step alone and may return to right after an
error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from prm.errors import InputError
from prm.traces.answer import Answer, split_answer

Row = dict[str, Any]

#: Stands behind every step in Math-Shepherd's `input`, where `label` has + or -.
STEP_MARK = "ки"
#: What stands there in inputs for OpenRLHF and RewardSQL (` и`), the likeliest first.
STEP_MARKS = (STEP_MARK, "<extra_0>", " и")
_STEP_KEY = re.compile(r"\s*(?:analysis[\s_-]*)?step[\s_-]*(\d{1,6})\s*", re.IGNORECASE)
_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL | re.IGNORECASE)


def native_rows(row: Any, format: str = "auto") -> list[Row]:
    """The native rows of one row in `format`, a key of `FORMATS`; `auto` recognises it by its columns.

    Raises:
        InputError: the row is not of that format, or of none that is known. The reader adds file and line.
    """
    if not isinstance(row, dict):
        raise InputError(f"a row must be a JSON object, not {str(row)[:40]!r}")
    columns, convert = FORMATS[recognise(row) if format == "auto" else format]
    missing = [name for name in columns if name not in row]
    if missing:
        raise InputError(f"{', '.join(map(repr, missing))} missing: a row must have {' and '.join(columns)}")
    return convert(dict(row))


def recognise(row: Row) -> str:
    """Name of the format that a row's columns tell."""
    if "question" in row and "steps" in row:
        return "native"
    if "prompt" in row and "completions" in row:
        return "trl"
    if isinstance(row.get("question"), dict) and isinstance(row.get("label"), dict):
        return "prm800k"
    if "reasoning" in row and ("question" in row or "analysis" in row):
        return "verdict"
    if "question" in row and "candidates" in row:
        return "candidates"
    if "problem" in row and "steps" in row:
        return "processbench"
    if "input" in row and any(isinstance(row.get(key), list) for key in _LISTS_OF_LABELS):
        return "openrlhf"
    if "input" in row and "label" in row:
        return "math-shepherd"
    if "question" in row and any(key in row for key in ANSWER_KEYS if key != "sql"):
        return "cocte"  # not by `sql` alone: lists of questions with their gold SQL look like that
    if "question" in row or "steps" in row:
        return "native"  # a faulty one: what it lacks is said there
    columns = ", ".join(str(name)[:30] for name in list(row)[:8]) or "none"
    raise InputError(f"no known format has the columns {columns}; a trace needs question and steps")


def _native(row: Row) -> list[Row]:
    steps = row["steps"]
    if isinstance(steps, dict) and steps and all(isinstance(values, list) for values in steps.values()):
        lengths = {len(values) for values in steps.values()}  # one list a key, as `datasets` stores sequences
        if len(lengths) > 1:
            raise InputError("the lists in 'steps' differ in length; give one entry a step in each")
        row["steps"] = [dict(zip(steps, values, strict=True)) for values in zip(*steps.values(), strict=True)]
    return [row]


def _trl(row: Row) -> list[Row]:
    prompt, completions, labels = row["prompt"], row.pop("completions"), row.pop("labels")
    if not isinstance(prompt, str):
        raise InputError(
            "'prompt' must be one string; render a list of messages with its chat template first"
        )
    if not isinstance(completions, list) or not isinstance(labels, list):
        raise InputError("'completions' and 'labels' must be lists, one entry a step")
    if len(completions) != len(labels):
        raise InputError(
            f"{len(completions)} completions but {len(labels)} labels; give one label a completion"
        )
    steps = [{"text": text, "label": label} for text, label in zip(completions, labels, strict=True)]
    return [{"question": prompt, "label_scheme": "step", **row, "steps": steps}]


def _math_shepherd(row: Row) -> list[Row]:
    text, labelled = row.pop("input"), row.pop("label")
    if not isinstance(text, str) or not isinstance(labelled, str):
        raise InputError("'input' and 'label' must be strings")
    *parts, tail = text.split(STEP_MARK)
    if not parts:
        raise InputError(f"'input' has no step mark {STEP_MARK!r}")
    labels: list[int | None] = []
    at = 0
    for i, part in enumerate(parts):
        at += len(part)
        if labelled[at - len(part) : at] != part or labelled[at : at + 1] not in ("+", "-"):
            raise InputError(f"'label' must repeat 'input' with + or - for {STEP_MARK!r}; step {i} differs")
        labels.append(int(labelled[at] == "+"))
        at += 1
    if labelled[at:].strip() != tail.strip():
        raise InputError(
            f"'label' must repeat 'input' with + or - for {STEP_MARK!r}; the text after it differs"
        )
    start = parts[0].rfind("Step 1:")
    if start < 0:
        raise InputError(f"no 'Step 1:' before the first {STEP_MARK!r}: where the question ends is unknown")
    question, parts[0] = parts[0][:start].strip(), parts[0][start:]
    if tail.strip():
        parts.append(tail)
        labels.append(None)  # the solution goes on after its last mark: nobody has judged that part
    steps = [{"text": part.strip(), "label": label} for part, label in zip(parts, labels, strict=True)]
    return [_from(row, "monte-carlo", question=question, steps=steps, label_scheme="step")]


#: What people call the list of labels beside a text with step marks (OpenRLHF: `--label_key`).
_LISTS_OF_LABELS = ("value", "values", "labels", "label")


def _openrlhf(row: Row) -> list[Row]:
    """One text with a mark behind every step; without a list of labels its steps are unlabelled."""
    text = row.pop("input")
    if not isinstance(text, str):
        raise InputError("'input' must be a string")
    mark = next((mark for mark in STEP_MARKS if mark in text), None)
    if mark is None:
        raise InputError(f"'input' has no step mark; known are {', '.join(map(repr, STEP_MARKS))}")
    *parts, tail = text.split(mark)
    key = next((key for key in _LISTS_OF_LABELS if isinstance(row.get(key), list)), None)
    labels = [None] * len(parts) if key is None else [_plus_or_number(label) for label in row.pop(key)]
    if len(labels) != len(parts):
        raise InputError(f"'input' has {len(parts)} step marks, but {key!r} holds {len(labels)} labels")
    prompt, parts[0] = _prompt_and_step(parts[0], row)
    if tail.strip():
        parts.append(tail)
        labels.append(None)  # nobody has judged what stands behind the last mark
    steps = [{"text": part.strip(), "label": label} for part, label in zip(parts, labels, strict=True)]
    # `prompt` is read as it stands: it has been rendered for a model already.
    scheme = {} if key is None else {"label_scheme": "step"}
    return [scheme | row | {"question": prompt.strip(), "prompt": prompt, "steps": steps}]


def _plus_or_number(label: Any) -> Any:
    return {"+": 1, "-": 0}.get(label.strip(), label) if isinstance(label, str) else label


def _prompt_and_step(text: str, row: Row) -> tuple[str, str]:
    """Where the prompt ends and the first step begins: at a key of the row that holds the prompt, at the
    last "Step 1", or where a chain of CTEs opens.
    """
    for key in ("prompt", "question", "instruction"):
        given = row.get(key)
        if isinstance(given, str) and given and text.startswith(given):
            return given, text[len(given) :]
    found = list(re.finditer(r"Step 1\b|\bWITH\s", text))
    if not found or not text[: found[-1].start()].strip():
        raise InputError(
            "where the prompt in 'input' ends is unknown: no 'Step 1' or 'WITH' stands before the first step "
            "mark; give the prompt as 'prompt', too"
        )
    return text[: found[-1].start()], text[found[-1].start() :]


def _prm800k(row: Row) -> list[Row]:
    """One trace for every way that was rated: the path that was gone, and each alternative that left it.

    A step holds the model's completions with their ratings; the labeller went on with `chosen_completion`, or
    with a `human_completion` of their own, which counts as right. All other completions end where they stand.
    Rows without any step (bad problems, given up at once) give no trace.
    """
    question, label = row.pop("question"), row.pop("label")
    if not isinstance(question, dict) or not isinstance(question.get("problem"), str):
        raise InputError("'question' must be an object with the text 'problem'")
    if not isinstance(label, dict) or not isinstance(label.get("steps"), list):
        raise InputError("'label' must be an object with a list of 'steps'")
    path: list[Row] = []
    ways: list[list[Row]] = []
    for i, step in enumerate(label["steps"]):
        if not isinstance(step, dict):
            raise InputError(f"label step {i} must be an object with 'completions'")
        completions = step.get("completions") or []
        chosen, human = step.get("chosen_completion"), step.get("human_completion")
        if not isinstance(completions, list) or not all(isinstance(c, dict) for c in completions):
            raise InputError(
                f"'completions' of label step {i} must be a list of objects with 'text' and 'rating'"
            )
        if chosen is not None and (not isinstance(chosen, int) or not 0 <= chosen < len(completions)):
            raise InputError(
                f"'chosen_completion' of label step {i} must be null or an index into its completions"
            )
        rated = [{"text": c.get("text"), "label": _rating(c.get("rating"), i)} for c in completions]
        ways += [[*path, other] for n, other in enumerate(rated) if n != chosen]
        if chosen is not None:
            path = [*path, rated[chosen]]
        elif isinstance(human, dict):
            path = [*path, {"text": human.get("text"), "label": 1, "by_human": True}]
        else:
            break
    if path and not any(way[: len(path)] == path for way in ways):
        ways.insert(0, path)
    about = {key: value for key, value in question.items() if key != "problem" and value is not None}
    about |= {key: value for key, value in label.items() if key != "steps" and value is not None}
    return [
        _from(about | row, "human", question=question["problem"], steps=way, label_scheme="step")
        for way in ways
    ]


def _rating(rating: Any, i: int) -> int | None:
    if rating is None:
        return None
    if isinstance(rating, bool) or rating not in (-1, 0, 1):
        raise InputError(f"a rating in label step {i} must be -1, 0, 1 or null, not {str(rating)[:40]!r}")
    return int(rating >= 0)


def _processbench(row: Row) -> list[Row]:
    problem, texts, label = row.pop("problem"), row.pop("steps"), row.pop("label")
    if not isinstance(texts, list):
        raise InputError("'steps' must be a list of strings")
    if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(texts):
        raise InputError(
            f"'label' must be the index of the first wrong step (0 to {len(texts) - 1}), or -1: all right"
        )
    steps = [{"text": text, "label": int(label < 0 or i < label)} for i, text in enumerate(texts)]
    subset = re.fullmatch(r"(.+)-\d+", str(row.get("id")))  # ids are gsm8k-0, math-17 …
    if subset is not None:
        row.setdefault("subset", subset[1])
    return [_from(row, "human", question=problem, steps=steps)]


def _verdict(row: Row) -> list[Row]:
    reasoning = _numbered(row.pop("reasoning"), "reasoning")
    analysis = row.pop("analysis", None)
    analysis = {} if analysis is None else _numbered(analysis, "analysis")
    if not reasoning or sorted(reasoning) != list(range(min(reasoning), min(reasoning) + len(reasoning))):
        raise InputError("'reasoning' must hold step_1, step_2 … without a gap")
    beyond = analysis.keys() - reasoning.keys()
    if beyond:
        raise InputError(f"'analysis' judges step {min(beyond)}, which 'reasoning' does not have")
    steps = []
    for number in sorted(reasoning):
        step: Row = {"text": reasoning[number]}
        verdict = analysis.get(number)
        if isinstance(verdict, dict):
            told = {str(key).strip().lower(): value for key, value in verdict.items()}
            verdict = told.pop("verification_result", None)
            step |= {"analysis": told} if told else {}
        if verdict is not None and str(verdict).strip().lower() not in ("correct", "incorrect"):
            raise InputError(
                f"the verdict on step {number} must be Correct or Incorrect, not {str(verdict)[:40]!r}"
            )
        step["label"] = None if verdict is None else int(str(verdict).strip().lower() == "correct")
        steps.append(step)
    return [_from(row, "judge", question=row.pop("question", None), steps=steps, label_scheme="step")]


def _numbered(value: Any, name: str) -> dict[int, Any]:
    """`{"step_2": x}` as `{2: x}`; models answer with such an object as text, so a string is parsed."""
    if isinstance(value, str):
        fenced = _FENCE.fullmatch(value)
        try:
            value = json.loads(fenced[1] if fenced else value)
        except (ValueError, RecursionError):
            raise InputError(f"'{name}' is text, but not a JSON object of steps") from None
    if not isinstance(value, dict):
        raise InputError(f"'{name}' must be an object with the keys step_1, step_2 …")
    numbered: dict[int, Any] = {}
    for key, item in value.items():
        match = _STEP_KEY.fullmatch(str(key))
        if match is None or int(match[1]) in numbered:
            raise InputError(f"the key {str(key)[:40]!r} in '{name}' must be a step's own, like step_1")
        numbered[int(match[1])] = item
    # columns (Parquet, `datasets`) give every row the keys of the longest one, with null
    return {number: item for number, item in numbered.items() if item is not None}


#: What people call the text of a model's answer, the likeliest first.
ANSWER_KEYS = ("output", "response", "answer", "completion", "sql")
_DATABASE_KEYS = ("db_id", "db", "database")


def _cocte(row: Row) -> list[Row]:
    """One trace an answer; a row with several answers (a list) gives one each, of one group.

    The prose around the SQL is left out. `labels`, where the row has them, are one a step (for several
    answers a list of such lists).
    """
    key = next((key for key in ANSWER_KEYS if key in row), None)
    if key is None:
        raise InputError(f"no answer: the row needs its text under one of {', '.join(ANSWER_KEYS)}")
    answers, labels = row.pop(key), row.pop("labels", None)
    if isinstance(answers, str):
        answers, labels = [answers], None if labels is None else [labels]
    if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
        raise InputError(f"{key!r} must be the text of an answer, or a list of such texts")
    if labels is None:
        labels = [None] * len(answers)
    elif not isinstance(labels, list) or len(labels) != len(answers):
        raise InputError(f"'labels' must hold one list of labels for each of the {len(answers)} answers")
    database = next((row.pop(name) for name in _DATABASE_KEYS if row.get(name) is not None), None)
    if "sql" in row:  # beside another answer it may be anything, gold included: nothing of ours reads it
        row["row_sql"] = row.pop("sql")
    name = row.get("id")
    rows = []
    for number, (text, wanted) in enumerate(zip(answers, labels, strict=True)):
        answer = _whole_answer(text, f"answer {number} in {key!r}" if len(answers) > 1 else repr(key))
        steps = _unlabelled(answer)
        if wanted is not None:
            if not isinstance(wanted, list) or len(wanted) != len(steps):
                raise InputError(f"'labels' must be a list of one label a step; the answer has {len(steps)}")
            for step, label in zip(steps, wanted, strict=True):
                step["label"] = label
        made = {**row, "steps": steps, "sql": answer.sql}
        if database is not None:
            made["db_id"] = database
        if len(answers) > 1 and name is not None:
            made |= {"id": f"{name}-{number}", "group": row.get("group", name)}
        rows.append(made)
    return rows


def _whole_answer(text: str, what: str) -> Answer:
    answer = split_answer(text)
    if answer is None:
        raise InputError(f"no SQL statement in {what}; an answer ends with a SELECT")
    if not answer.whole:
        raise InputError(f"the SQL in {what} is cut off: {answer.why}; restore it or leave the row out")
    return answer


def _unlabelled(answer: Answer) -> list[Row]:
    return [{"text": step.sql, "sql": step.sql} for step in answer.steps]


def _candidates(row: Row) -> list[Row]:
    """One trace a candidate, all of one group (the row's id)."""
    candidates, group = row.pop("candidates"), row.get("group", row.get("id"))
    if not isinstance(candidates, list) or not all(isinstance(each, dict) for each in candidates):
        raise InputError("'candidates' must be a list of objects with 'steps' or 'sql'")
    row.pop("scores", None)  # `prm rerank` writes one a candidate; a trace has one a step
    rows = []
    for number, candidate in enumerate(candidates):
        made = row | candidate
        if "steps" not in candidate:
            if not isinstance(candidate.get("sql"), str):
                raise InputError(f"candidate {number} must have 'steps', or its 'sql' as text")
            made["steps"] = _unlabelled(_whole_answer(candidate["sql"], f"'sql' of candidate {number}"))
        if group is not None:
            made |= {"group": group, "id": candidate.get("id", f"{group}-{number}")}
        rows += _native(made)
    return rows


def _from(row: Row, source: str, **native: Any) -> Row:
    """The row's remaining keys, then the native ones; the row's own word on its label source counts."""
    return {"label_source": source} | row | native


#: Name of each format -> the columns that it must have, and its converter.
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Row], list[Row]]]] = {
    "native": (("question", "steps"), _native),
    "trl": (("prompt", "completions", "labels"), _trl),
    "math-shepherd": (("input", "label"), _math_shepherd),
    "openrlhf": (("input",), _openrlhf),
    "prm800k": (("question", "label"), _prm800k),
    "processbench": (("problem", "steps", "label"), _processbench),
    "verdict": (("question", "reasoning"), _verdict),
    "cocte": (("question",), _cocte),
    "candidates": (("question", "candidates"), _candidates),
}
