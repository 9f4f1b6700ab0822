"""The one data structure that every room speaks: a question, its reasoning steps, and what is known of each.

A trace is right up to its *first error*: label 1 means "still correct after this step", 0 "an error has
happened at or before this step", a float in [0, 1] is a soft label (read as 1 from 0.5 up wherever a decision
is needed), None is unlabelled. In the native scheme hard labels never return: after the first 0 come only 0
and None. Formats whose labels judge each step alone (TRL, Math-Shepherd, PRM800K) carry `label_scheme="step"`
and keep their labels until they are folded with `fold_labels`.

The model reads schema, question and evidence; a trace with the unknown key `prompt` (as TRL's data has it)
brings its own prompt, which is read verbatim in their place.

This module turns one JSON object into a `Trace` and back without losing a key; files, folders, Hub data sets
and other people's formats are the business of `prm.traces.formats` and `prm.traces.converters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prm.errors import InputError

Label = float | int | None


class ReturningLabel(InputError):
    """A native trace whose hard labels return to 1 after a 0."""


@dataclass
class Step:
    """One unit of reasoning.

    `text` is what the model reads (an English sentence, SQL, or both); `sql` repeats the SQL fragment of the
    step where it is known (`name AS (SELECT …)`, or the final `SELECT …`); `error` names the category of an
    injected error.
    """

    text: str
    label: Label = None
    sql: str | None = None
    error: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        known = {"text": self.text, "label": self.label, "sql": self.sql, "error": self.error}
        return {k: v for k, v in known.items() if v is not None or k == "label"} | self.extra


@dataclass
class Trace:
    """One question with an ordered list of steps; see the module docstring for what the labels mean."""

    question: str
    steps: list[Step]
    id: str | None = None
    group: str | None = None
    db_id: str | None = None
    schema: str | None = None
    evidence: str | None = None
    sql: str | None = None
    gold_sql: str | None = None
    label_source: str | None = None
    label_scheme: str | None = None
    scores: list[float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    #: File and line (from 1) it was read from, for errors that show later. Never written, never compared.
    place: tuple[str, int] | None = field(default=None, compare=False, repr=False)

    @property
    def labels(self) -> list[Label]:
        return [step.label for step in self.steps]

    @property
    def first_error(self) -> int:
        """Index (from 0) of the first step labelled wrong; -1 where there is none."""
        return first_error(self.labels)

    @property
    def question_key(self) -> str:
        """What "the same question" means: the group where given, else database and question together."""
        return self.group if self.group is not None else f"{self.db_id or ''}\x1f{self.question}"

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"question": self.question, "steps": [step.to_dict() for step in self.steps]}
        for name in TRACE_FIELDS:
            if getattr(self, name) is not None:
                row[name] = getattr(self, name)
        return row | self.extra

    @classmethod
    def from_dict(
        cls, row: Any, *, file: str | None = None, line: int | None = None, prefix: bool = False
    ) -> Trace:
        """Check one native JSON object and make a `Trace` of it; `prefix` folds labels that return to 1.

        Raises:
            InputError: naming `file` and `line`, the faulty key and the mend.
        """

        def bad(message: str) -> InputError:
            return InputError(message, file=file, line=line)

        if not isinstance(row, dict):
            raise bad(f"a trace is a JSON object, not {_kind(row)}")
        row = dict(row)
        question, steps = row.pop("question", None), row.pop("steps", None)
        if not isinstance(question, str) or not question.strip():
            raise bad("'question' must be a non-empty string")
        if not isinstance(steps, (list, tuple)) or not steps:
            raise bad('\'steps\' must be a non-empty list of {"text": …, "label": 1, 0 or null}')
        trace = cls(question, [_step(raw, i, bad) for i, raw in enumerate(steps)])
        for name in TRACE_FIELDS:
            value = row.pop(name, None)
            if name == "scores":
                value = _scores(value, len(steps), bad)
            elif name in ("id", "group") and isinstance(value, int) and not isinstance(value, bool):
                value = str(value)  # numbers are common as ids; everything downstream compares text
            elif value is not None and not isinstance(value, str):
                raise bad(f"'{name}' must be a string, not {_kind(value)}")
            setattr(trace, name, value)
        if trace.label_scheme not in (None, "step", "prefix"):
            raise bad(f"'label_scheme' must be 'step' or 'prefix', not {_kind(trace.label_scheme)}")
        if not isinstance(row.get("prompt"), (str, type(None))):
            raise bad("'prompt', which the model reads in place of schema and question, must be a string")
        trace.extra = row
        if trace.label_scheme != "step":
            back = returning_label(trace.labels)
            if back is not None:
                if not prefix:
                    raise ReturningLabel(
                        f"step {back} is labelled right after an earlier one was labelled wrong, but a label "
                        "says 'no error so far': fold the labels with --labels prefix, or, where each judges "
                        'its step alone, set "label_scheme": "step"',
                        file=file,
                        line=line,
                    )
                fold_labels(trace)
        elif prefix:
            fold_labels(trace)
        return trace


#: The keys of a trace beside `question` and `steps`, in the order in which they are written.
TRACE_FIELDS = (
    "id", "group", "db_id", "schema", "evidence", "sql", "gold_sql", "label_source", "label_scheme", "scores",
)  # fmt: skip


def first_error(labels: Sequence[Label]) -> int:
    """Index of the first label below 0.5; -1 where there is none. Unlabelled steps are passed over."""
    return next((i for i, label in enumerate(labels) if label is not None and label < 0.5), -1)


def returning_label(labels: Sequence[Label]) -> int | None:
    """Index of the first hard 1 that stands after a hard 0, or None; soft labels may rise."""
    wrong = False
    for i, label in enumerate(labels):
        if label == 1 and wrong:
            return i
        wrong = wrong or label == 0
    return None


def fold_labels(trace: Trace) -> bool:
    """Make step-wise labels cumulative in place: every label after the first error becomes 0.

    Returns whether a label or the scheme changed.
    """
    at, changed = trace.first_error, trace.label_scheme == "step"
    trace.label_scheme = None
    if at >= 0:
        for step in trace.steps[at + 1 :]:
            if step.label is not None and step.label != 0:
                step.label, changed = 0, True
    return changed


def _step(raw: Any, i: int, bad: Any) -> Step:
    if not isinstance(raw, dict):
        raise bad(f"step {i} must be an object with 'text' and 'label', not {_kind(raw)}")
    raw = dict(raw)
    text = raw.pop("text", None)
    if not isinstance(text, str) or not text.strip():
        raise bad(f"'text' of step {i} must be a non-empty string")
    label = raw.pop("label", None)
    if isinstance(label, bool):
        label = int(label)
    if label is not None:
        if not isinstance(label, (int, float)) or not 0 <= label <= 1:  # NaN compares false
            raise bad(f"'label' of step {i} must be 1, 0, a number between them, or null, not {_kind(label)}")
        label = int(label) if label in (0, 1) else float(label)
    step = Step(text, label)
    for name in ("sql", "error"):
        value = raw.pop(name, None)
        if value is not None and not isinstance(value, str):
            raise bad(f"'{name}' of step {i} must be a string, not {_kind(value)}")
        setattr(step, name, value)
    step.extra = raw
    return step


def _scores(value: Any, n: int, bad: Any) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != n:
        raise bad(f"'scores' must hold one number per step ({n})")
    for i, score in enumerate(value):
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise bad(f"'scores' must be numbers in [0, 1]; entry {i} is {_kind(score)}")
    return [float(score) for score in value]


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    named = {list: "a list", dict: "an object", type(None): "null"}
    return named.get(type(value)) or repr(value)[:40]
