"""Text to token ids and step ends, piece by piece.

The prompt, each step and each separator are tokenised apart and put together: `[bos] prompt (step
separator)*`. So a step's tokens never depend on its neighbours, traces that share text share ids (which token
trees live on), and the step end is known by position: the last token of its separator. Special tokens that
occur in the text of a data set (`<|im_end|>` …) are split like any other text; nothing in the data is ever
control. The separator alone may be a special token, for it comes from the recipe.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prm.errors import InputError
from prm.traces.prompting import PROMPT_VERSION, prompt_text, shorter_schemas
from prm.traces.trace import Label, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

#: Label value of steps that count in no loss and no metric: padding, and steps without a label.
IGNORE = -100.0


@dataclass(slots=True)
class EncodedTrace:
    """Token ids; a step's last token and its label (or None), for each step; the key of the question."""

    input_ids: list[int]
    step_ends: list[int]
    labels: list[Label]
    question_key: str


@dataclass
class Encoder:
    """Traces to `EncodedTrace`s under one length policy.

    The prompts of other people's models (`prm.modeling.foreign`) are subclasses: they override `prompt_text`,
    `step_text`, `step_ids` and what stands around a prompt.

    Attributes:
        max_length: tokens of a whole trace that the prompt is cut for.
        max_completion_length: room kept for the steps: the prompt is cut to `max_length -
            max_completion_length`, by the same rule for every trace of a question. None keeps a quarter of
            `max_length`.
        step_separator: text after each step; it may be a special token of the tokenizer.
        longest: what the backbone can read at all (its position limit), if it has one.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int = 2048
    max_completion_length: int | None = None
    step_separator: str = "\n"
    prompt_version: int | str = PROMPT_VERSION
    longest: int | None = None

    version: ClassVar[int | str] = PROMPT_VERSION

    def __post_init__(self) -> None:
        if self.prompt_version != self.version:
            raise InputError(
                f"this checkpoint reads prompts of version {self.prompt_version}, this package writes "
                f"version {self.version}; install the package version that trained it"
            )
        if self.max_completion_length is None:
            self.max_completion_length = self.max_length // 4
        if not 0 < self.max_completion_length < self.max_length:
            raise InputError(
                f"max_completion_length ({self.max_completion_length}) must lie between 0 and max_length "
                f"({self.max_length})"
            )
        self._separator = self.tokenizer(self.step_separator, add_special_tokens=False)["input_ids"]
        if not self._separator:
            raise InputError(
                f"step_separator {self.step_separator!r} is no token of this tokenizer; use '\\n'"
            )
        bos = self.tokenizer.bos_token_id
        self._before: list[int] = [] if bos is None else [bos]  # the text of a prompt
        self._after: list[int] = []
        self._pieces: dict[str, list[int]] = {}
        self._prompts: dict[tuple[str, ...], list[int]] = {}

    def encode(
        self, traces: Sequence[Trace], *, drop_long: bool, limit: int | None = None
    ) -> list[EncodedTrace | None]:
        """One entry a trace, in order.

        Args:
            drop_long: give None for a trace that is too long, and warn once with their number.
            limit: what is too long, in tokens (`max_length` in training); never more than the backbone reads.
                By default just that: traces longer than `max_length` have scores, too.

        Raises:
            InputError: a trace is too long, and `drop_long` is False (names its file and line if known); or
                all are.
        """
        texts = [self.prompt_text(trace) for trace in traces]
        self._tokenize(
            texts + [self.step_text(s.text, k) for trace in traces for k, s in enumerate(trace.steps)]
        )
        limit = min((n for n in (limit, self.longest) if n is not None), default=None)
        encoded: list[EncodedTrace | None] = []
        too_long: list[Trace] = []
        for trace in traces:
            one = self._encode(trace)
            if limit is None or len(one.input_ids) <= limit:
                encoded.append(one)
                continue
            if not drop_long:
                file, line = trace.place or (None, None)
                raise InputError(
                    f"trace {trace.id or trace.question[:60]!r} has {len(one.input_ids)} tokens, the model "
                    f"reads {limit}; shorten its steps or its schema, or leave it out (--on-bad-rows skip)",
                    file=file,
                    line=line,
                )
            too_long.append(trace)
            encoded.append(None)
        if too_long:
            first = too_long[0].place
            allowed, mend = f"max_length={limit}", "raise it"
            if limit == self.longest:
                allowed, mend = f"the {limit} tokens the backbone reads", "shorten their steps or schemas"
            if len(too_long) == len(traces):
                raise InputError(f"no trace is left within {allowed}; {mend}", file=first and first[0])
            logger.warning(
                "%d of %d traces are longer than %s, with the shortest prompt, and were dropped%s",
                len(too_long), len(traces), allowed, f" (first: {first[0]}:{first[1]})" if first else "",
            )  # fmt: skip
        self._pieces.clear()
        return encoded

    def _encode(self, trace: Trace) -> EncodedTrace:
        ids = list(self.prompt_ids(trace))
        ends = []
        for k, step in enumerate(trace.steps):
            ids += self.step_ids(step.text, k)
            ends.append(len(ids) - 1)
        return EncodedTrace(ids, ends, trace.labels, trace.question_key)

    def prompt_text(self, trace: Trace, schema: str | None = None) -> str:
        """The text of a prompt; `schema` replaces the trace's own (a shortened one)."""
        return prompt_text(trace, schema)

    def step_text(self, text: str, index: int) -> str:
        """What is tokenised of a step, the `index`-th (from 0) of its trace."""
        return text

    def step_ids(self, text: str, index: int) -> list[int]:
        """The tokens of the `index`-th step, its separator included; the last one is scored."""
        return self._ids(self.step_text(text, index)) + self._separator

    def prompt_ids(self, trace: Trace) -> list[int]:
        """The prompt, cut by question alone to the room it has; remembered, as a question has many traces."""
        text = self.prompt_text(trace)
        verbatim = isinstance(trace.extra.get("prompt"), str)
        key = (text, trace.question, trace.evidence or "", str(verbatim))
        if key not in self._prompts:
            room = self.max_length - (self.max_completion_length or 0)
            ids = self._before + self._ids(text) + self._after
            if len(ids) > room and trace.schema and not verbatim:
                for schema in shorter_schemas(trace.schema, trace.question, trace.evidence):
                    ids = self._before + self._ids(self.prompt_text(trace, schema)) + self._after
                    if len(ids) <= room:
                        break
            if len(self._prompts) > 10_000:
                self._prompts.clear()
            self._prompts[key] = ids
        return self._prompts[key]

    def _ids(self, text: str) -> list[int]:
        if text not in self._pieces:
            if len(self._pieces) > 10_000:
                self._pieces.clear()
            self._tokenize([text])
        return self._pieces[text]

    def _tokenize(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._pieces]
        if new:
            ids = self.tokenizer(
                new,
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                verbose=False,
            )["input_ids"]
            self._pieces.update(zip(new, ids, strict=True))
