"""When are two results equal: a table worked by hand, then properties over random results."""

import datetime
import itertools
import math
import random
import sqlite3
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm.sql import is_ordered, results_equal
from prm.sql.compare import EQUIVALENCES, Undecided, part_of

# gold, other, equal as multisets, equal in order
TABLE = [
    # rows
    ([], [], True, True),
    ([(1,)], [], False, False),
    ([(1,)], [(1,)], True, True),
    ([(1,), (2,)], [(2,), (1,)], True, False),
    ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),  # a multiset, not a set
    ([(1,), (1,)], [(1,)], False, False),
    ([(1, 2)], [(1, 2, 3)], False, False),
    ([[1, "a"]], [(1, "a")], True, True),  # lists are rows as well
    # columns
    ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], True, True),
    ([(1, "a"), (2, "b")], [("b", 1), ("a", 2)], False, False),  # the same columns, other rows
    ([(1, 2), (2, 1)], [(2, 1), (1, 2)], True, True),  # in order only with the columns exchanged
    ([(1, 2), (3, 4)], [(2, 1), (3, 4)], False, False),  # one order of columns for all rows
    ([(1, 1), (2, 2)], [(1, 2), (2, 1)], False, False),
    ([(0, 0, 1), (0, 1, 0)], [(0, 1, 0), (1, 0, 0)], True, True),
    ([(1, 1, 2), (1, 2, 2)], [(1, 2, 1), (2, 2, 1)], True, True),
    ([(1, 1, 2)], [(1, 2, 2)], False, False),
    # cells
    ([(None,)], [(None,)], True, True),
    ([(None,)], [(0,)], False, False),
    ([(None,)], [("",)], False, False),
    ([("None",)], [(None,)], False, False),
    ([(1,)], [(1.0,)], True, True),
    ([(1,)], [("1",)], False, False),
    ([(1.5,)], [("1.5",)], False, False),
    ([("a",)], [("A",)], False, False),
    ([("a",)], [("a ",)], False, False),
    ([("a",)], [(b"a",)], False, False),
    ([(b"a",)], [(b"a",)], True, True),
    ([(0.1 + 0.2,)], [(0.3,)], True, True),
    ([(1 / 3,)], [(0.3333333333333,)], True, True),
    ([(1 / 3,)], [(0.333333,)], False, False),  # ROUND(x, 6) is another answer
    ([(2460311.0,)], [(2460311.0 + 1 / 86400,)], False, False),  # a second of julianday()
    ([(1600000000.25,)], [(1600000000.5,)], False, False),
    ([(1600000000 + i / 4,) for i in range(9)], [(1600000000.25,)] * 9, False, False),
    ([(i * 9e-13,) for i in range(1000)], [(0.0,)] * 1000, False, False),  # small differences add up to none
    # two counts are two counts, also beside a fraction between them
    ([(10**13, 10**13 + 0.5)], [(10**13 + 1, 10**13 + 0.5)], False, False),
    ([(2.9999999999999996,)], [(3,)], True, True),
    ([(1234567.89,)], [(1234567.88,)], False, False),  # a cent in a million
    ([(1e-12,)], [(0,)], True, True),  # what sums may leave of nothing
    ([(3000001,)], [(3000002,)], False, False),
    ([(3000001.0,)], [(3000002.0,)], False, False),
    ([(12345678901,)], [(12345678902.0,)], False, False),
    ([(2**63 - 1,)], [(2**63 - 2,)], False, False),
    ([(2**63 - 1, 0.5)], [(2**63 - 2, 0.5)], False, False),  # a float elsewhere does not blur them
    ([(1e300,)], [(1e300 * (1 + 1e-15),)], True, True),
    ([(math.inf,)], [(math.inf,)], True, True),
    ([(math.inf,)], [(-math.inf,)], False, False),
    ([(math.inf,)], [(1e308,)], False, False),
    ([(math.nan,)], [(math.nan,)], True, True),
    ([(math.nan,)], [(None,)], False, False),
    # rounding must not come between rows that differ elsewhere
    ([(0.3, "b"), (0.1 + 0.2, "a")], [(0.3, "a"), (0.3, "b")], True, False),
    ([(0.3, "b"), (0.1 + 0.2, "a")], [("b", 0.3), ("a", 0.3)], True, True),
]


@pytest.mark.parametrize(("gold", "other", "multiset", "ordered"), TABLE)
def test_table(gold: list, other: list, multiset: bool, ordered: bool) -> None:
    assert results_equal(gold, other, ordered=False) is multiset
    assert results_equal(other, gold, ordered=False) is multiset
    assert results_equal(gold, other, ordered=True) is ordered
    assert results_equal(other, gold, ordered=True) is ordered


# gold, other, equal by (bird, spider, strict) where gold does not order
NAMED = [
    ([(1,), (2,)], [(2,), (1,)], (True, True, True)),
    ([(1,), (1,)], [(1,)], (True, False, False)),  # BIRD compares sets of rows
    ([(1, "a")], [("a", 1)], (False, True, False)),  # only Spider's lets columns change places
    ([(1,)], [(1.0,)], (True, True, False)),  # strict: same type
    ([(1,)], [(True,)], (True, True, False)),
    ([(1,)], [("1",)], (False, False, False)),
    ([(0.1 + 0.2,)], [(0.3,)], (False, True, False)),  # only Spider's forgives rounding here
    ([], [], (True, True, True)),
    ([], [(None,)], (False, False, False)),
    ([(None,)], [(None,)], (True, True, True)),
    # other engines: a decimal is a number, a date its text
    ([(Decimal("2.50"),)], [(2.5,)], (True, True, False)),
    ([(Decimal("0.1"),)], [(0.1,)], (True, True, False)),
    ([(Decimal("3"),)], [(3,)], (True, True, False)),
    ([(Decimal("3.00"),)], [(Decimal("3"),)], (True, True, True)),
    ([(Decimal("1e500"),)], [(math.inf,)], (True, True, False)),
    ([(Decimal("12345678901234567890.5"),)], [(2,)], (False, False, False)),
    ([(datetime.date(2024, 2, 29),)], [("2024-02-29",)], (True, True, False)),
    ([(datetime.datetime(2024, 2, 29, 7, 5),)], [("2024-02-29 07:05:00",)], (True, True, False)),
    ([(datetime.time(7, 5),)], [("07:05:00",)], (True, True, False)),
    ([(bytearray(b"a"),)], [(b"a",)], (True, True, False)),
    ([([1, 2],)], [([1, 2],)], (True, True, True)),
    ([({"a": 1},)], [({"a": 2},)], (False, False, False)),
    ([(10**400,)], [(0.5,)], (False, False, False)),
]


@pytest.mark.parametrize(("gold", "other", "equal"), NAMED)
def test_equivalences_by_name(gold: list, other: list, equal: tuple[bool, bool, bool]) -> None:
    for name, expected in zip(EQUIVALENCES, equal, strict=True):
        assert results_equal(gold, other, ordered=False, equivalence=name) is expected, name
        assert results_equal(other, gold, ordered=False, equivalence=name) is expected, name


def test_order_counts_for_all_but_bird() -> None:
    gold, other = [(1,), (2,)], [(2,), (1,)]
    assert [results_equal(gold, other, ordered=True, equivalence=e) for e in EQUIVALENCES] == [
        True,
        False,
        False,
    ]


def test_an_unknown_equivalence_is_refused() -> None:
    with pytest.raises(ValueError, match="bird, spider, strict"):
        results_equal([], [], ordered=False, equivalence="exact")


def by_definition(gold: list[tuple], other: list[tuple], ordered: bool) -> bool:
    """The rule as it is told: some order of the columns makes the rows the same."""
    if len(gold) != len(other):
        return False
    if not gold:
        return True
    if len(gold[0]) != len(other[0]):
        return False
    for order in itertools.permutations(range(len(gold[0]))):
        turned = [tuple(row[i] for i in order) for row in other]
        if turned == gold if ordered else sorted(turned) == sorted(gold):
            return True
    return False


@st.composite
def results(draw: st.DrawFn, values: st.SearchStrategy, max_columns: int = 4) -> list[tuple]:
    width = draw(st.integers(1, max_columns))
    return draw(st.lists(st.tuples(*[values] * width), min_size=1, max_size=6))


bits = st.integers(0, 1)  # few values: many ties and many columns that look alike
cells = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.text("ab", max_size=2),
    st.binary(max_size=1),
)


@settings(max_examples=300, deadline=None)
@given(results(bits), results(bits), st.booleans())
def test_agrees_with_the_definition(gold: list[tuple], other: list[tuple], ordered: bool) -> None:
    assert results_equal(gold, other, ordered=ordered) is by_definition(gold, other, ordered)


@settings(max_examples=200, deadline=None)
@given(results(cells), st.randoms(use_true_random=False))
def test_turning_rows_and_columns_changes_nothing(gold: list[tuple], rng: random.Random) -> None:
    columns = rng.sample(range(len(gold[0])), len(gold[0]))
    turned = [tuple(row[i] for i in columns) for row in gold]
    assert results_equal(gold, turned, ordered=True)
    rng.shuffle(turned)
    assert results_equal(gold, turned, ordered=False)


@settings(max_examples=200, deadline=None)
@given(results(cells), st.randoms(use_true_random=False))
def test_changing_one_cell_changes_the_result(gold: list[tuple], rng: random.Random) -> None:
    i, j = rng.randrange(len(gold)), rng.randrange(len(gold[0]))
    changed = [list(row) for row in gold]
    changed[i][j] = "a value that stands nowhere else"
    rng.shuffle(changed)
    assert not results_equal(gold, changed, ordered=False)
    assert not results_equal(gold, changed, ordered=True)


@pytest.mark.parametrize("seed", range(3))
def test_many_columns_that_look_alike(seed: int) -> None:
    """20 columns with the same values in each: by trial 20! orders, here settled at once either way."""
    rng = random.Random(seed)
    columns = [rng.sample(range(30), 30) for _ in range(20)]
    gold = list(zip(*columns, strict=True))
    rng.shuffle(columns)
    other = list(zip(*columns, strict=True))
    rng.shuffle(other)
    start = time.monotonic()
    assert results_equal(gold, other, ordered=False)
    other[0], other[1] = (*other[0][:7], *other[1][7:]), (*other[1][:7], *other[0][7:])
    assert not results_equal(gold, other, ordered=False)
    assert time.monotonic() - start < 10


def test_identical_columns_do_not_multiply_the_work() -> None:
    gold = [(1,) * 60 + (i % 2, i // 2) for i in range(4)]
    other = [(1,) * 60 + (i % 2, (i + i // 2) % 2) for i in range(4)]
    start = time.monotonic()
    assert results_equal(gold, gold[::-1], ordered=False)
    assert results_equal(gold, other, ordered=False)
    assert not results_equal(gold, [*other[:3], other[0]], ordered=False)
    assert time.monotonic() - start < 10


def incidence(edges: list[tuple[int, int]], n: int) -> list[tuple[int, ...]]:
    """A row an edge, a column a vertex: equal results are isomorphic graphs."""
    return [tuple(int(v in edge) for v in range(n)) for edge in edges]


def cycles(*lengths: int) -> list[tuple[int, ...]]:
    edges, first = [], 0
    for length in lengths:
        edges += [(first + i, first + (i + 1) % length) for i in range(length)]
        first += length
    return incidence(edges, first)


def shaken(rows: list[tuple], seed: int = 0) -> list[tuple]:
    rng = random.Random(seed)
    order = rng.sample(range(len(rows[0])), len(rows[0]))
    rows = [tuple(row[i] for i in order) for row in rows]
    return rng.sample(rows, len(rows))


SQUARES = [(i, j) for i in range(4) for j in range(4)]
#: Two graphs of 16 vertices in which every vertex has 6 neighbours, every two neighbours have 2 in common and
#: every two others, too: no counting of neighbours tells them apart.
ROOK = [(a, b) for a in SQUARES for b in SQUARES if a < b and (a[0] == b[0] or a[1] == b[1])]
SHRIKHANDE = [
    (a, b)
    for a in SQUARES
    for b in SQUARES
    if a < b and ((a[0] - b[0]) % 4, (a[1] - b[1]) % 4) in {(0, 1), (0, 3), (1, 0), (3, 0), (1, 1), (3, 3)}
]


@pytest.mark.parametrize(
    ("gold", "other", "equal"),
    [
        (cycles(40), cycles(40), True),
        (cycles(24), cycles(12, 12), False),  # every row and every column looks like every other
        (cycles(3, 5), cycles(4, 4), False),
        ([tuple(int(i == j) for j in range(40)) for i in range(40)], None, True),
        ([(1,) * 100] * 100, None, True),
        (list(itertools.permutations(range(6))), None, True),
    ],
)
def test_symmetric_results(gold: list, other: list | None, equal: bool) -> None:
    assert results_equal(gold, shaken(other or gold), ordered=False) is equal


def test_graphs_that_no_counting_tells_apart() -> None:
    def rows(edges: list) -> list[tuple[int, ...]]:
        return incidence([(SQUARES.index(a), SQUARES.index(b)) for a, b in edges], 16)

    assert results_equal(rows(ROOK), shaken(rows(ROOK)), ordered=False)
    assert not results_equal(rows(ROOK), shaken(rows(SHRIKHANDE)), ordered=False)


def test_giving_up_is_said() -> None:
    """Points and lines of the projective plane over Z_7: 57 columns that only a long search pairs."""
    points = [(1, a, b) for a in range(7) for b in range(7)] + [(0, 1, a) for a in range(7)] + [(0, 0, 1)]
    gold = [
        tuple(int(sum(x * y for x, y in zip(p, q, strict=True)) % 7 == 0) for p in points) for q in points
    ]
    with pytest.raises(Undecided, match="57 columns"):
        results_equal(gold, shaken(gold, 4), ordered=False)


def test_big_results() -> None:
    rng = random.Random(0)
    gold = [(i, rng.choice("abc"), rng.random(), rng.randrange(10)) for i in range(10_000)]
    other = [(d, c, a, b) for a, b, c, d in gold]
    rng.shuffle(other)
    start = time.monotonic()
    assert results_equal(gold, other, ordered=False)
    other[17] = (*other[17][:3], "d")
    assert not results_equal(gold, other, ordered=False)
    assert time.monotonic() - start < 10


ORDERED = [
    "SELECT a FROM t ORDER BY a",
    "select a from t order\n  by a desc limit 3;",
    "SELECT a FROM t ORDER /* really */ BY a -- end",
    "SELECT a FROM t UNION SELECT b FROM u ORDER BY 1",
    "WITH c AS (SELECT a FROM t) SELECT a FROM c ORDER BY a",
    "SELECT count(*) FROM t GROUP BY a ORDER BY count(*) DESC LIMIT 1",
    "SELECT ')' FROM t ORDER BY a",
    "SELECT [a)b] FROM t ORDER BY 1",
    "SELECT a -- it's (\nFROM t ORDER BY a",
    "SELECT (SELECT 1), '(' FROM t WHERE x = 'it''s (' ORDER BY a",
]
UNORDERED = [
    "SELECT a FROM t",
    "SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 3)",
    "WITH c AS (SELECT a FROM t ORDER BY a LIMIT 1) SELECT a FROM c",
    "SELECT a FROM t WHERE b = (SELECT b FROM t ORDER BY c LIMIT 1)",
    "SELECT row_number() OVER (ORDER BY a) FROM t",
    "SELECT rank() OVER w FROM t WINDOW w AS (ORDER BY a)",
    "SELECT 'ORDER BY a' FROM t",
    'SELECT "order by" FROM t',
    "SELECT a FROM t -- ORDER BY a",
    "SELECT a FROM t /* ORDER BY a */",
    "SELECT [order] FROM t GROUP BY a",
    'SELECT "order" FROM t GROUP BY "order"',
    "SELECT t.border FROM t GROUP BY a",
    "SELECT a FROM t WHERE b = ')' AND c IN (SELECT c FROM t ORDER BY c)",
    "",
]


@pytest.mark.parametrize(
    ("sql", "ordered"), [*((s, True) for s in ORDERED), *((s, False) for s in UNORDERED)]
)
def test_is_ordered(sql: str, ordered: bool) -> None:
    assert is_ordered(sql) is ordered


def test_the_table_above_is_sql() -> None:
    """Every statement of the table is one that SQLite takes, so that none of them tests nothing."""
    connection = sqlite3.connect(":memory:")
    connection.execute('CREATE TABLE t(a, b, c, x, "order", "order by", "a)b", border)')
    connection.execute("CREATE TABLE u(b)")
    for sql in ORDERED + UNORDERED:
        connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    ("gold", "rows", "fixed", "part"),
    [
        ([(1, "a"), (2, "b")], [("b", 2)], 0, True),
        ([(1, "a"), (2, "b")], [("b", 2)], 1, False),  # the first column keeps its place
        ([(1, "a"), (2, "b")], [(2, "a")], 0, False),  # the columns are there, the row is not
        ([(1, "a"), (2, "b")], [(1, "a"), (1, "a")], 0, False),  # too often
        ([(0.1 + 0.2,)], [(0.3,)], 0, True),
        ([(1, 2), (2, 1)], [(2, 1), (1, 2)], 0, True),
        ([(1,)], [(1, 1)], 0, False),
        ([], [(1,)], 0, False),
        ([(1,)], [], 0, True),
    ],
)
def test_some_of_golds_rows(gold, rows, fixed, part):
    assert part_of(gold, rows, fixed) is part


def test_columns_that_look_alike_in_too_many_ways():
    gold = [tuple(int(i == j) for j in range(12)) for i in range(12)]
    with pytest.raises(Undecided):
        part_of(gold, [(1, 1, *[0] * 10)])
