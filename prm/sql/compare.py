"""When are two results equal, and when does their order count: the three rules that people publish with.

| name | rows | columns | order of rows | cells |
|---|---|---|---|---|
| `bird` | a set | in order | never counts | Python's `==` |
| `spider` | a multiset | in any order, one for all rows | counts where gold orders | forgiving, see below |
| `strict` | a multiset | in order | counts where gold orders | same type and same value |

`bird` is the execution accuracy of the BIRD benchmark as its script computes it, `set(rows) == set(gold)`: a
row too often, or in the wrong place, is forgiven, and so is nothing else. `spider` is the execution match of
Spider's test-suite script, made exact where that script guesses: gold orders where the statement itself has
an ORDER BY (there: where the letters occur anywhere), and sums that differ in the last bits are equal. It is
what this package labels with. Its cells are equal when

- both are NULL,
- both are numbers and equal; an integer equals a float of the same value, and where a fraction is involved
  1e-12 (relative or absolute) is forgiven, which is what summing in another order can do, and less than a
  second of a Julian day. Whole numbers must agree exactly: a count of 3,000,001 is not 3,000,002,
- both are text, or both are blobs, and identical. 1 is not '1', and 'a' is not x'61', as in SQLite's own
  comparisons.

Other engines have more types than SQLite. `bird` and `spider` see them as SQLite would hold them: true is 1,
a decimal is a number, a date or time is its ISO text, anything else (lists, structs) the text Python shows
for it.

Finding the order of the columns by trial is factorial in their number. Here rows and columns are told apart
by what they hold, then by what the rows and columns that they meet hold, until nothing more comes of it (the
colour refinement of graph isomorphism, which the problem is as hard as). On real results that settles every
column at once; where columns still look alike, one is chosen and the others follow. What is left are
incidence matrices made to be hard: those end as `Undecided`, never as unequal.
"""

from __future__ import annotations

import bisect
import datetime
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from decimal import Decimal
from typing import Any

EQUIVALENCES = ("bird", "spider", "strict")
TOLERANCE = 1e-12
_EXACT = 2**53  # below this every whole number has a float of its own
_BUDGET = 2_000_000  # cells looked at while searching for the order of the columns: some two seconds
_SQLITE_TYPES = {int, str, bytes, type(None)}  # what needs no translation; floats need the tolerance

Row = Sequence[Any]


class Undecided(Exception):
    """Whether two results are equal was not found out: their columns are alike in too many ways."""


def results_equal(
    gold_rows: Sequence[Row], rows: Sequence[Row], *, ordered: bool, equivalence: str = "spider"
) -> bool:
    """Whether two results are equal by one of the `EQUIVALENCES`; `ordered`: gold orders its rows.

    Two results without rows are equal whatever their columns. With `ordered`, rows that tie in gold's ORDER
    BY have to come in the same order, too: a result does not say which of its rows tie.

    Raises:
        Undecided: `spider` gave up on columns that are made to look alike; no result of a real query has
            been seen to do it.
    """
    if equivalence not in EQUIVALENCES:
        raise ValueError(f"equivalence is one of {', '.join(EQUIVALENCES)}, not {equivalence!r}")
    if equivalence == "bird":
        return {tuple(map(_as_sqlite, row)) for row in gold_rows} == {
            tuple(map(_as_sqlite, row)) for row in rows
        }
    if len(gold_rows) != len(rows):
        return False
    if not gold_rows:
        return True
    if len(gold_rows[0]) != len(rows[0]):
        return False
    if equivalence == "strict":
        exact = [[tuple(map(_typed, row)) for row in result] for result in (gold_rows, rows)]
        return exact[0] == exact[1] if ordered else Counter(exact[0]) == Counter(exact[1])
    gold, other = _columns(gold_rows, rows)
    if ordered:
        return Counter(gold) == Counter(other)
    return _same_up_to_order(gold, other)


def part_of(gold_rows: Sequence[Row], rows: Sequence[Row], fixed: int = 0) -> bool:
    """Whether `rows` are some of `gold_rows`, none of them more often, by the cells of `spider`. Columns come
    in any order, one for all rows, but for the first `fixed`, which keep their place.

    Raises:
        Undecided: too many columns look alike.
    """
    if not rows:
        return True
    if not gold_rows or len(gold_rows[0]) != len(rows[0]):
        return False
    gold, other = _columns(gold_rows, rows)
    counts = [Counter(column) for column in gold]
    stands_for = [
        [j for j in range(len(gold)) if (i == j or min(i, j) >= fixed) and Counter(column) <= counts[j]]
        for i, column in enumerate(other)
    ]
    whole = Counter(zip(*gold, strict=True))
    for tried, order in enumerate(_each_once(stands_for), 1):
        if tried * len(rows) * len(other) > _BUDGET:
            raise Undecided(f"{len(other)} columns that look alike")
        places = sorted(range(len(order)), key=order.__getitem__)
        if Counter(zip(*(other[i] for i in places), strict=True)) <= whole:
            return True
    return False


def _each_once(options: Sequence[Sequence[int]], taken: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """All ways to take one of each of the options, none twice."""
    if len(taken) == len(options):
        yield taken
    for one in options[len(taken)] if len(taken) < len(options) else ():
        if one not in taken:
            yield from _each_once(options, (*taken, one))


# --- cells --------------------------------------------------------------------------------------------------


def _as_sqlite(value: Any) -> Hashable:
    """A cell of any engine as SQLite would hold it: None, int, float, str or bytes."""
    if type(value) in _SQLITE_TYPES or isinstance(value, float):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            return float(value)
        return int(value) if value == value.to_integral_value() and value.adjusted() < 400 else float(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return value if isinstance(value, (int, str, bytes)) else str(value)


def _typed(value: Any) -> Hashable:
    if isinstance(value, float) and value != value:
        return "float", "nan"
    known = type(value) in _SQLITE_TYPES or isinstance(value, (float, bool, Decimal, datetime.date))
    return type(value).__name__, value if known else str(value)


def _columns(gold_rows: Sequence[Row], rows: Sequence[Row]) -> tuple[list[tuple], list[tuple]]:
    """Both results as columns; cells that count as equal are replaced by one of them."""
    gold, other = list(zip(*gold_rows, strict=True)), list(zip(*rows, strict=True))
    types = {type(value) for column in gold + other for value in column}
    if types <= _SQLITE_TYPES:
        return gold, other
    if not types <= _SQLITE_TYPES | {float}:
        gold, other = ([tuple(map(_as_sqlite, column)) for column in side] for side in (gold, other))
    numbers = [v for column in gold + other for v in column if isinstance(v, (int, float)) and v == v]
    wholes = sorted({value for value in numbers if _is_whole(value)})
    stand_in: dict[Any, Any] = dict(zip(wholes, wholes, strict=True))
    first: Any = None  # of the fractions that are taken for one
    for value in sorted({value for value in numbers if value not in stand_in}):
        at = bisect.bisect(wholes, value)
        near = [whole for whole in wholes[max(at - 1, 0) : at + 1] if _close(whole, value)]
        if near:
            stand_in[value] = min(near, key=lambda whole: abs(whole - value))
        elif first is not None and _close(first, value):
            stand_in[value] = first
        else:
            stand_in[value] = first = value

    def canonical(value: Any) -> Any:
        if isinstance(value, (int, float)):
            return stand_in[value] if value == value else _NAN
        return value

    return [tuple(map(canonical, c)) for c in gold], [tuple(map(canonical, c)) for c in other]


_NAN = object()


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or (abs(value) < _EXACT and value.is_integer())


def _close(a: float, b: float) -> bool:
    try:
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # a whole number beyond every float
        return False


# --- the order of the columns -------------------------------------------------------------------------------

Colours = list[int]


def _same_up_to_order(gold: list[tuple], other: list[tuple]) -> bool:
    """Whether some order of `other`'s columns gives the same multiset of rows as `gold`."""
    budget = _BUDGET + 20 * len(gold) * len(gold[0])

    def spend() -> None:
        nonlocal budget
        budget -= len(gold) * len(gold[0])
        if budget < 0:
            raise Undecided(f"{len(gold)} columns and {len(gold[0])} rows that look alike")

    def search(columns: tuple[Colours, Colours], rows: tuple[Colours, Colours]) -> bool:
        while True:
            if (order := _settled(gold, other, *columns)) is not None:
                spend()
                return Counter(zip(*gold, strict=True)) == Counter(zip(*order, strict=True))
            spend()
            finer_rows = _refined(rows, (_across(gold, columns[0]), _across(other, columns[1])))
            if finer_rows is None:
                return False
            finer = _refined(columns, (_along(gold, finer_rows[0]), _along(other, finer_rows[1])))
            if finer is None:
                return False
            stable = len(set(finer[0])) == len(set(columns[0])) and len(set(finer_rows[0])) == len(
                set(rows[0])
            )
            columns, rows = finer, finer_rows
            if stable:
                break
        # Columns still look alike: one of gold's must be some of the other's in its class, so try them.
        sizes = Counter(columns[0])
        mixed = [c for c in sizes if len({gold[i] for i, k in enumerate(columns[0]) if k == c}) > 1]
        if not mixed:  # gold's are the same within every class, the other's are not
            return False
        chosen = min(mixed, key=lambda c: (sizes[c], c))
        new = len(gold)
        i = columns[0].index(chosen)
        left = [*columns[0][:i], new, *columns[0][i + 1 :]]
        tried: set[tuple] = set()
        for j, colour in enumerate(columns[1]):
            if colour != chosen or other[j] in tried:
                continue
            tried.add(other[j])
            if search((left, [*columns[1][:j], new, *columns[1][j + 1 :]]), rows):
                return True
        return False

    same = [0] * len(gold[0])
    first = _refined(([0] * len(gold), [0] * len(gold)), (_along(gold, same), _along(other, same)))
    return first is not None and search(first, (same, same))


def _settled(gold: list[tuple], other: list[tuple], left: Colours, right: Colours) -> list[tuple] | None:
    """`other`'s columns in gold's order, where within every class of columns all are the same."""
    one_of: dict[int, tuple] = {}
    for column, colour in zip(other, right, strict=True):
        if one_of.setdefault(colour, column) != column:
            return None
    if any(len({gold[i] for i in range(len(gold)) if left[i] == c}) > 1 for c in one_of):
        return None
    return [one_of[colour] for colour in left]


def _refined(
    colours: tuple[Colours, Colours], seen: tuple[list[Hashable], list[Hashable]]
) -> tuple[Colours, Colours] | None:
    """The classes split by what their members see; None where the two sides no longer agree."""
    left, right = (list(zip(c, s, strict=True)) for c, s in zip(colours, seen, strict=True))
    counts = Counter(left)
    if counts != Counter(right):
        return None
    number = {key: n for n, key in enumerate(counts)}
    return [number[key] for key in left], [number[key] for key in right]


def _along(columns: list[tuple], rows: Colours) -> list[Hashable]:
    """For every column, which values it holds in rows of which class."""
    return [frozenset(Counter(zip(rows, column, strict=True)).items()) for column in columns]


def _across(columns: list[tuple], colours: Colours) -> list[Hashable]:
    """For every row, which values it holds in columns of which class."""
    if len(set(colours)) == len(colours):  # no two columns alike: the row itself says it, and is quicker
        columns = [columns[i] for i in sorted(range(len(colours)), key=colours.__getitem__)]
        return list(zip(*columns, strict=True))
    return [frozenset(Counter(zip(colours, row, strict=True)).items()) for row in zip(*columns, strict=True)]


# --- does order count ---------------------------------------------------------------------------------------

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
