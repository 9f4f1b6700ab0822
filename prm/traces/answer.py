"""A model's answer as text, taken apart into its steps: CTEs and a final SELECT, with or without a sentence.

Models wrap SQL into prose, code fences and tags, write drafts before answers, and go on after them. So SQL is
looked for by what prose never says (`name AS (SELECT`, a SELECT in capitals where a line begins), and from
there its own lexical rules say where it ends: strings, comments, parentheses. Nothing is parsed: whether the
SQL is any good is for a database to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prm.errors import InputError


@dataclass(frozen=True)
class AnswerStep:
    """`sql` is `name AS (SELECT …)`, or the final `SELECT …` (named ""); `sentence` the prose before it."""

    name: str
    sql: str
    sentence: str = ""


@dataclass
class Answer:
    """The steps that a text holds; `why` says what keeps them from being a whole statement, "" if nothing.

    `closed` tells whether something stood behind the final SELECT (a semicolon, a fence, prose): where a text
    was cut at a number of tokens, only such an answer is known to be whole. `recursive`: WITH RECURSIVE.
    """

    steps: list[AnswerStep] = field(default_factory=list)
    why: str = "it has no final SELECT"
    closed: bool = False
    recursive: bool = False
    fenced: bool = False

    @property
    def whole(self) -> bool:
        return not self.why

    @property
    def sql(self) -> str:
        """The steps of a whole answer as one statement."""
        *ctes, final = [step.sql for step in self.steps]
        head = "WITH RECURSIVE " if self.recursive else "WITH "
        return head + ",\n".join(ctes) + "\n" + final if ctes else final


def split_answer(text: str) -> Answer | None:
    """The steps of a model's answer: CTEs and a final SELECT with prose, fences and tags around or between.

    Of several answers in a text the last fenced one counts (drafts come first), and where none is fenced the
    first (a model that does not know when to stop goes on with questions of its own). Where no answer is
    whole, the unfinished one is returned, and None where there is no SQL at all. Any text is read in linear
    time.
    """
    answers = list(_answers(text.rpartition("</think>")[2]))
    whole = [answer for answer in answers if answer.whole]
    fenced = [answer for answer in whole if answer.fenced]
    return fenced[-1] if fenced else whole[0] if whole else answers[-1] if answers else None


_NAME = r'(?:"[^"]{1,128}"|`[^`]{1,128}`|\[[^\]]{1,128}\]|(?<![\w$])[^\W\d][\w$]{0,127}(?![\w$]))'
_GAP = r"(?:\s|--[^\n]*\n|/\*[^*]{0,200}\*/)*"
_CTE = re.compile(
    rf"(?P<with>\bWITH\s+(?P<recursive>RECURSIVE\s+)?)?(?P<sql>(?P<name>{_NAME})\s*(?:\([^()]{{1,2000}}\)\s*)?\bAS\s*"
    rf"(?:(?:NOT\s+)?MATERIALIZED\s*)?(?P<open>\())(?={_GAP}(?:SELECT|WITH|VALUES|\())",
    re.IGNORECASE,
)
#: A SELECT on its own: at the start of a line (numbers, bullets and "Final:" may stand before it) or behind a
#: colon. "Select" begins sentences, so that inside a fence only it counts as SQL.
_LEAD = r"(?:^[ \t>*#-]*(?:\d{1,3}[.)][ \t]*)?|:[ \t*]*)"
_SELECT = re.compile(rf"{_LEAD}\b(?P<sql>SELECT|select)(?=[\s*'\"(])", re.MULTILINE)
_FENCED_SELECT = re.compile(rf"{_LEAD}\b(?P<sql>SELECT)(?=[\s*'\"(])", re.MULTILINE | re.IGNORECASE)
_SELECT_NEXT = re.compile(r"[\s,]*(?P<sql>SELECT|select)(?=[\s*'\"(])")
#: SQL's lexical units as far as finding the end of a statement takes them; an open one reaches to the end.
_UNIT = re.compile(
    r"""'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z)|--[^\n]*|/\*.*?(?:\*/|\Z)|[();]"""
    r"""|\n[ \t\r]*\n\s*""",
    re.DOTALL,
)
#: What tells, at a blank line, that a SELECT goes on: how the next line begins, how the last one ends.
_CLAUSES = (
    "FROM|WHERE|GROUP|ORDER|HAVING|LIMIT|OFFSET|UNION|EXCEPT|INTERSECT|JOIN|LEFT|RIGHT|FULL|INNER|CROSS|NATURAL|AND"
    "|OR|ON|WINDOW"
)
_GOES_ON = re.compile(rf"(?:{_CLAUSES}|{_CLAUSES.lower()})\b|--|/\*|[,()+*/=<>|]")
_WANTS_MORE = re.compile(rf"(?:\b(?:{_CLAUSES}|SELECT|DISTINCT|ALL|BY|IN|AS)|[,(+/=<>|-])\Z", re.IGNORECASE)
#: Marks that no SQL holds: code fences, tags around an answer, special tokens.
_MARK = re.compile(
    r"(?P<fence>```|~~~)(?:(?:sqlite3?|sql|postgresql|mysql|text)\b)?|(?P<tag><(?:answer|sql|output|response)>)"
    r"|</(?:answer|sql|output|response)>|<\|[^|<>\n]{1,40}\|>|</?s>",
    re.IGNORECASE,
)


def _answers(text: str) -> Iterator[Answer]:
    answer, said = Answer(), ""
    names: set[str] = set()
    for part, fenced, last in _parts(text):
        at, next_is_near = 0, False
        ctes, selects = _Next(_CTE, part), _Next(_FENCED_SELECT if fenced else _SELECT, part)
        while True:
            cte = ctes.after(at)
            select = (next_is_near and _SELECT_NEXT.match(part, at)) or selects.after(at)
            if cte is not None and (select is None or cte.start() <= select.start("sql")):
                if cte["name"].lower() in names:
                    yield answer  # a draft that is written anew
                    answer, names = Answer(), set()
                names.add(cte["name"].lower())
                sentence = _sentence(said + part[at : cte.start()])
                end, closed = _end(part, cte.start("open"))
                if not closed:
                    answer.why = f"the text ends inside {cte['name']} AS (…"
                    yield answer
                    answer, names, said = Answer(), set(), ""
                    break
                answer.recursive = answer.recursive or cte["recursive"] is not None
                answer.steps.append(AnswerStep(cte["name"], part[cte.start("sql") : end].strip(), sentence))
            elif select is not None:
                sentence = _sentence(said + part[at : select.start()])
                end, closed = _end(part, select.start("sql"))
                sql = part[select.start("sql") : end].strip()
                answer.steps.append(AnswerStep("", sql, sentence))
                answer.why, answer.fenced = "", fenced
                answer.closed = closed or not last
                yield answer
                answer, names = Answer(), set()
            else:
                said += part[at:]
                break
            at, said, next_is_near = end, "", bool(answer.steps)
    if answer.steps:
        yield answer


class _Next:
    """The matches of a pattern, each looked for once however often it is asked for."""

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self.pattern, self.text, self.match = pattern, text, pattern.search(text)

    def after(self, at: int) -> re.Match[str] | None:
        if self.match is not None and self.match.start() < at:
            self.match = self.pattern.search(self.text, at)
        return self.match


def _parts(text: str) -> Iterator[tuple[str, bool, bool]]:
    """The text between marks, whether it stands inside a fence or tag, and whether it is the last."""
    at, fenced = 0, False
    for mark in _MARK.finditer(text):
        yield text[at : mark.start()], fenced, False
        at, fenced = mark.end(), not fenced if mark["fence"] else mark["tag"] is not None
    yield text[at:], fenced, True


def _end(part: str, start: int) -> tuple[int, bool]:
    """Where the parenthesis or the SELECT that begins at `start` ends, and whether something ended it."""
    depth = 0
    in_parentheses = part[start] == "("
    for unit in _UNIT.finditer(part, start):
        if unit[0] == "(":
            depth += 1
        elif unit[0] == ")":
            depth -= 1
            if in_parentheses and depth == 0:
                return unit.end(), True
            if depth < 0:
                return unit.start(), True
        elif depth == 0 and unit[0] == ";":
            return unit.start(), True
        elif depth == 0 and unit[0][0] == "\n":
            before = part[max(start, unit.start() - 20) : unit.start()]
            if not _GOES_ON.match(part, unit.end()) and not _WANTS_MORE.search(before):
                return unit.start(), unit.end() < len(part)
    return len(part), False


def _sentence(said: str) -> str:
    """The last paragraph of the prose before a step."""
    return re.split(r"\n[ \t\r]*\n", said.strip(" \t\r\n,;"))[-1].strip()


# --- an answer as JSON ---


def checked_answer(raw: Any, where: str) -> dict[str, Any]:
    """{"sql": …} or {"steps": [{"text", "sql"?}, …]}, checked; other keys are left out."""
    if not isinstance(raw, dict) or not ("sql" in raw or "steps" in raw):
        raise InputError(f'{where}an answer is {{"sql": "…"}} or {{"steps": [{{"text": "…"}}, …]}}')
    steps = raw.get("steps")
    if steps is None:
        if not isinstance(raw["sql"], str):
            raise InputError(f"{where}'sql' must be a text")
        return {"sql": raw["sql"]}
    if not isinstance(steps, list) or not steps:
        raise InputError(f"{where}'steps' must be a non-empty list")
    checked = []
    for i, step in enumerate(steps):
        step = {"text": step} if isinstance(step, str) else step
        text = step.get("text") if isinstance(step, dict) else None
        if text is None and isinstance(step, dict):
            text = step.get("sql")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}'text' of step {i} must be a non-empty text")
        if not isinstance(step.get("sql"), (str, type(None))):
            raise InputError(f"{where}'sql' of step {i} must be a text")
        checked.append({"text": text, "sql": step.get("sql")})
    return {"steps": checked}
