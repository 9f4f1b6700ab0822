"""Questions that stand in two splits, word for word or nearly: what is trained on cannot measure.

Two questions to one database are the same here where

- their words are (case, white space and punctuation aside),
- their words are but for the numbers ("born after 1960", "born after 1970"),
- one word was put in, left out or replaced, in questions of eight words and more,
- their gold SQL is: a paraphrase, whose traces repeat each other, or
- their `group` is.

One word is found without comparing all with all: of each question every text that lacks one word is
remembered, and two questions that are one word apart share such a text. That takes some dozen hashes a
question, 100,000 traces in seconds. Eight words are where one word less stops being another question
altogether ("How many singers are there?", "How many stadiums are there?").

Traces without a database (TRL's data) are compared by all that the model reads in place of the steps, word
for word: a long prompt that differs in one word may well ask something else.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prm.errors import InputError
from prm.traces.trace import Trace

#: Numbers; characters of scripts that put no spaces between words; words.
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d\u3040-\u30ff\u3400-\u9fff]+")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ONE_WORD = range(8, 65)  # lengths of questions, in words, in which one word may differ


@dataclass
class Overlap:
    """What two splits share. `kinds`: how many of the `questions` (different ones, of `second`) are in
    `first`, too, by the closest likeness; `example` in words; `databases` that both ask."""

    first: str
    second: str
    kinds: Counter[str] = field(default_factory=Counter)
    questions: int = 0
    example: str | None = None
    databases: int = 0

    def to_dict(self) -> dict:
        return {**vars(self), "kinds": dict(self.kinds)}


def overlaps(splits: dict[str, Iterable[Trace]]) -> list[Overlap]:
    """What each two of `splits` (name -> traces) share, in their order."""
    index = OverlapIndex()
    for name, traces in splits.items():
        for trace in traces:
            index.add(name, trace)
    return index.overlaps()


def refuse_overlap(splits: dict[str, Iterable[Trace]]) -> None:
    """Raises InputError, with an example and the mend, where two of `splits` (recipe key -> traces) share
    questions; a shared database is none."""
    for found in overlaps(splits):
        shared = found.kinds.total()
        if shared:
            raise InputError(
                f"{shared} of {found.questions} questions of {found.second} are in {found.first}, too, such "
                f"as {found.example}: what was trained or chosen on cannot measure; take them out of one of "
                "the two (prm inspect FILE FILE counts them), or set allow_overlap: true"
            )


class OverlapIndex:
    """`overlaps`, for traces that come one at a time."""

    def __init__(self) -> None:
        self._splits: dict[str, int] = {}
        self._known: dict[int, tuple[int, ...]] = {}  # hash of a likeness -> numbers of questions
        self._questions: list[tuple[int, str]] = []  # split and text
        self._counted: set[int] = set()  # hashes of (split, question)
        self._asked: dict[int, set[int]] = {}  # split -> hashes of its databases
        self._pairs: dict[tuple[int, int], Overlap] = {}
        self._totals: Counter[int] = Counter()

    def add(self, split: str, trace: Trace) -> None:
        number = self._splits.setdefault(split, len(self._splits))
        if trace.db_id is not None:
            self._asked.setdefault(number, set()).add(hash(trace.db_id))
        prompt = _prompt(trace) if trace.db_id is None else trace.question
        once = hash((number, trace.db_id, prompt, trace.gold_sql, trace.group))
        if once in self._counted:
            return
        self._counted.add(once)
        self._totals[number] += 1
        me, met = len(self._questions), set()
        self._questions.append((number, trace.question))
        for kind, key in _likenesses(trace, prompt):
            known = self._known.get(key, ())
            for other in known:
                where, text = self._questions[other]
                if where != number and where not in met:
                    met.add(where)
                    pair = self._pair(where, number)
                    pair.kinds[kind] += 1
                    if pair.example is None:
                        database = f", database {trace.db_id}" if trace.db_id is not None else ""
                        pair.example = f"{_short(trace.question)} ({kind}{database})"
                        if kind not in ("same question", "same group") and text != trace.question:
                            pair.example = f"{_short(trace.question)} and {_short(text)} ({kind}{database})"
            if all(self._questions[other][0] != number for other in known):
                self._known[key] = (*known, me)

    def overlaps(self) -> list[Overlap]:
        """Every pair of splits that was seen, whether it shares anything or not."""
        names = list(self._splits)
        for second in range(len(names)):
            for first in range(second):
                pair = self._pair(first, second)
                pair.questions = self._totals[second]
                pair.databases = len(self._asked.get(first, set()) & self._asked.get(second, set()))
        return [self._pairs[key] for key in sorted(self._pairs)]

    def _pair(self, a: int, b: int) -> Overlap:
        names, (first, second) = list(self._splits), sorted((a, b))
        return self._pairs.setdefault((first, second), Overlap(names[first], names[second]))


def _prompt(trace: Trace) -> str:
    return trace.extra.get("prompt") or "\n".join((trace.schema or "", trace.question, trace.evidence or ""))


def _likenesses(trace: Trace, prompt: str) -> Iterator[tuple[str, int]]:
    """(kind, hash) of all that a question may share with another one, the closest first."""
    if trace.db_id is None:
        words = unicodedata.normalize("NFKC", prompt).casefold().translate(_PUNCTUATION).split()
        yield "same question", hash(tuple(words))
        return
    database = trace.db_id
    words = _TOKEN.findall(unicodedata.normalize("NFKC", prompt).casefold())
    yield "same question", hash((database, "words", *words))
    words = ["0" if word[0].isdigit() else word for word in words]
    yield "same but for numbers", hash((database, "but numbers", *words))
    if trace.gold_sql is not None:
        gold = " ".join(trace.gold_sql.casefold().rstrip("; \n").split())
        yield "same gold SQL", hash((database, "gold", gold))
    if trace.group is not None:
        yield "same group", hash((database, "group", trace.group))
    # A word replaced: both lack it. A word more: the one that lacks it is the other as it stands.
    if len(words) in _ONE_WORD:
        yield "one word differs", hash((database, *words))
        for i in range(len(words)):
            yield "one word differs", hash((database, *words[:i], *words[i + 1 :]))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 80 else text[:77] + "…")
