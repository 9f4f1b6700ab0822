"""When are two results equal, and when does their order count.

The rules are those of Spider's execution match, made exact and quick: a result is a multiset of rows (a
sequence where gold orders), and the columns may stand in any order, one order for all rows. Cells are equal
when

- both are NULL,
- both are numbers and equal; an integer equals a float of the same value, and where a fraction is involved
  1e-9 (relative or absolute) is forgiven, which is what summing in another order can do. Whole numbers must
  agree exactly: a count of 3,000,001 is not 3,000,002,
- both are text, or both are blobs, and identical. 1 is not '1', and 'a' is not x'61', as in SQLite's own
  comparisons.

Finding the order of the columns by trial is factorial in their number. Here a column can only stand for one
with the same multiset of values, and each choice splits the rows into finer classes that the next one has to
respect, so that real results are settled without ever going back. A search that is made to go back all the
same ends after `_BUDGET` cells, and the results count as different.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

TOLERANCE = 1e-9
_EXACT = 2**53  # below this every whole number has a float of its own
_BUDGET = 2_000_000  # cells looked at while searching for the order of the columns

Row = Sequence[Any]


def results_equal(gold_rows: Sequence[Row], rows: Sequence[Row], *, ordered: bool) -> bool:
    """Whether two results are equal by the rules above; `ordered` makes the order of the rows count.

    Two results without rows are equal whatever their columns. With `ordered`, rows that tie in gold's ORDER
    BY have to come in the same order, too: a result does not say which of its rows tie.
    """
    if len(gold_rows) != len(rows):
        return False
    if not gold_rows:
        return True
    if len(gold_rows[0]) != len(rows[0]):
        return False
    gold, other = _columns(gold_rows, rows)
    if ordered:
        return Counter(gold) == Counter(other)
    return _match(gold, other)


def _columns(gold_rows: Sequence[Row], rows: Sequence[Row]) -> tuple[list[tuple], list[tuple]]:
    """Both results as columns; numbers that count as equal are replaced by one of them."""
    gold, other = list(zip(*gold_rows, strict=True)), list(zip(*rows, strict=True))
    if not any(isinstance(value, float) for column in gold + other for value in column):
        return gold, other
    numbers = {value for column in gold + other for value in column if isinstance(value, (int, float))}
    stand_in: dict[Any, Any] = {}
    last: Any = None
    for value in sorted(value for value in numbers if value == value):
        stand_in[value] = stand_in[last] if last is not None and _close(last, value) else value
        last = value

    def canonical(value: Any) -> Any:
        if isinstance(value, (int, float)):
            return stand_in[value] if value == value else "\0nan"
        return value

    return [tuple(map(canonical, c)) for c in gold], [tuple(map(canonical, c)) for c in other]


def _close(a: float, b: float) -> bool:
    if all(isinstance(x, int) or (abs(x) < _EXACT and x.is_integer()) for x in (a, b)):
        return a == b
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _match(gold: list[tuple], other: list[tuple]) -> bool:
    """Whether some order of `other`'s columns gives the same multiset of rows as `gold`."""
    signatures = [frozenset(Counter(column).items()) for column in other]
    candidates = []
    for i, column in enumerate(gold):
        signature = frozenset(Counter(column).items())
        fits = [j for j, s in enumerate(signatures) if s == signature]
        if not fits:
            return False
        candidates.append((len(fits), i, sorted(fits, key=lambda j: j != i)))
    candidates.sort()
    budget = _BUDGET + len(gold) ** 2 * len(gold[0])

    def search(depth: int, classes: list[int], other_classes: list[int], used: frozenset[int]) -> bool:
        nonlocal budget
        if depth == len(candidates):
            return True
        _, i, fits = candidates[depth]
        pairs = list(zip(classes, gold[i], strict=True))
        wanted = Counter(pairs)
        number = {pair: k for k, pair in enumerate(wanted)}
        finer = [number[pair] for pair in pairs]
        tried: set[tuple] = set()
        for j in fits:
            if j in used or other[j] in tried:
                continue
            tried.add(other[j])
            budget -= len(finer)
            if budget < 0:
                return False
            other_pairs = list(zip(other_classes, other[j], strict=True))
            if Counter(other_pairs) == wanted and search(
                depth + 1, finer, [number[pair] for pair in other_pairs], used | {j}
            ):
                return True
        return False

    same = [0] * len(gold[0])
    return search(0, same, same, frozenset())


#: SQLite's lexical units, as far as finding a keyword outside strings, comments and parentheses takes them.
_TOKEN = re.compile(
    r"""'[^']*(?:'|\Z) | "[^"]*(?:"|\Z) | `[^`]*(?:`|\Z) | \[[^\]]*(?:\]|\Z) | --[^\n]* | /\*.*?(?:\*/|\Z)
    | (?P<word>[^\W\d][\w$]*) | (?P<paren>[()])""",
    re.X | re.S,
)


def is_ordered(sql: str) -> bool:
    """Whether the statement as a whole has an ORDER BY (not a subquery, CTE, window or aggregate of it)."""
    depth, last = 0, ""
    for token in _TOKEN.finditer(sql):
        word, paren = token["word"], token["paren"]
        if paren:
            depth += 1 if paren == "(" else -1
        elif word and depth == 0:
            if word.upper() == "BY" and last == "ORDER":
                return True
        elif not word and token[0][:2] in ("--", "/*"):
            continue
        last = word.upper() if word else ""
    return False
