"""Variants of a database, on which queries that are equal by accident give different results.

That two queries give the same rows on one database says little: on Spider's small ones a forgotten DISTINCT,
a `>=` for a `>` or a missing condition often changes nothing. So equality is asked for on variants, too:
small databases with the tables, keys and constraints of the original and other rows (the distilled test
suites of Zhong, Yu and Klein, "Semantic Evaluation for Text-to-SQL with Distilled Test Suites", EMNLP 2020):

    with Suite(database, gold_sql, folder=folder) as suite:
        suite.distil(neighbours(gold_sql, database.path))
        suite.verdict(sql)  # equal, different (and where), or undecided

**What is kept.** The tables are made by the original's own statements; a row that breaks a NOT NULL, UNIQUE,
PRIMARY KEY or CHECK constraint does not get in, and rows whose foreign key leads nowhere go out (but where it
leads to a table without any rows: then it is kept in the original neither). Foreign keys
that nobody declared, but that the data obeys and gold joins on or the names tell, are kept as well: otherwise
a join that cannot lose rows would seem to. A value is one of its column, or a constant of gold or a near miss
of it, of the same type. A column of numbers without negative ones gets none, a column of few values (a flag)
no new ones, a column without NULL no NULL, and names that all differ stay different: there the schema allows
what nobody who writes SQL reckons with.

**When a variant counts.** Only where gold itself says something (a result of nothing, NULLs or zeros is equal
to too much), and where it leaves nothing to chance: none of its LIMITs cuts through rows that tie, and bare
columns of a group may be read from any of its rows without a difference. So no answer is ever blamed for
another choice among ties. Where merely the order of tied rows is open, order does not count there.

**Making it again.** Variant number `INDEX` hangs on the original's contents, gold's text, the seed and the
index, and on nothing else: no other variant, no neighbour, no clock. Its name, `variant:SEED:INDEX:DIGEST`,
is all that a trace has to carry; `remake` makes the file again and compares the digest of its rows, so that
another original or another version of this code is noticed instead of giving another answer.

**Size.** At most 60 rows a table are read from the original (and the parents their keys ask for; by probing
row ids, so that gigabytes cost what kilobytes do), and a variant has a few hundred rows: some 10 to 100 kB
and 1 to 5 ms, besides the worker that runs queries on it (20 ms where it is not one of a pool). Distilling
keeps the first of each kind, and then only what tells gold from a neighbour that all variants before left
equal; the others are deleted at once.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from sqlglot import exp

from prm.errors import InputError
from prm.sql.compare import Undecided, is_ordered, results_equal
from prm.sql.database import Database, Rows, SQLError, open_database
from prm.sql.decompose import to_sql
from prm.sql.neighbours import neighbours
from prm.sql.variant_rows import KINDS, Unusable, aggregates, parsed, write_variant

__all__ = ["FEW", "KINDS", "Suite", "Variant", "Verdict", "neighbours", "remake"]

#: Kinds of which one variant each unmasks nearly all that distilling does, at a tenth of its cost:
#: `suite.distil((), kinds=FEW)`, for where thousands of queries claim to be equal.
FEW = ("mixed", "boundary", "groups", "dropped")
CANDIDATES = 48  # variants tried for one gold query
KEPT = 16
PATIENCE = 2 * len(KINDS)

Opener = Callable[[Path], Database]


@dataclass(frozen=True)
class Variant:
    """A variant of a database: its file, and what gold gives there (`ordered`: in an order that counts)."""

    name: str
    kind: str
    path: Path
    gold: Rows
    ordered: bool


@dataclass(frozen=True)
class Verdict:
    """`equal`: True on the database and all variants, False where a result differs, None where that was not
    found out. `on`: where it differs or stays open, "database" or a variant's name. `reason` says why not
    (an error's text), for people."""

    equal: bool | None
    on: str = ""
    reason: str = ""


class Suite:
    """Gold on a database and on variants of it; a context manager, or to be closed.

    `database` stays the caller's. Variants are written to `folder` and deleted with the suite.
    """

    def __init__(
        self,
        database: Database,
        gold_sql: str,
        *,
        folder: str | os.PathLike[str],
        seed: int = 0,
        opener: Opener = open_database,
        equivalence: str = "spider",
    ) -> None:
        """`opener` opens the variants: `partial(open_database, timeout=1)`, or with a pool of workers.

        Raises:
            SQLError: gold does not run on the database.
        """
        self.database, self.gold_sql, self.seed = database, gold_sql, seed
        self.folder, self.opener, self.equivalence = Path(folder), opener, equivalence
        self.gold = database.execute(gold_sql)
        self.ordered = is_ordered(gold_sql)
        self.variants: list[Variant] = []
        self._open: list[Database] = []
        self._tried = 0

    def distil(
        self,
        neighbours: Sequence[str],
        *,
        limit: int = KEPT,
        candidates: int = CANDIDATES,
        patience: int = PATIENCE,
        kinds: Sequence[str] = KINDS,
    ) -> list[str]:
        """Add variants: the first of each kind that can be used (a real answer may be none of the
        neighbours), then those that tell gold from a neighbour that is still equal to it. Gives the
        neighbours that stay equal.

        `limit` bounds the variants of the suite, `candidates` those tried for it, `patience` those tried in
        a row to no avail. Neighbours that differ on the database itself, and those that do not run, are left
        aside.
        """
        left = [sql for sql in dict.fromkeys(neighbours) if self.verdict(sql).equal]
        idle = 0
        while self._tried < candidates and len(self.variants) < limit:
            index, self._tried = self._tried, self._tried + 1
            kind = KINDS[index % len(KINDS)]
            if kind not in kinds:
                continue
            if (idle >= patience or not left) and index >= len(KINDS):
                break
            made = self._make(index)
            idle += 1
            if made is None:
                continue
            variant, opened = made
            still = [
                sql for sql in left if self._equal(opened, variant.gold, sql, variant.ordered) is not False
            ]
            twin = any(v.name.rpartition(":")[2] == variant.name.rpartition(":")[2] for v in self.variants)
            if len(still) == len(left) and (twin or kind in {v.kind for v in self.variants}):
                opened.close()
                variant.path.unlink(missing_ok=True)
                continue
            idle = idle if len(still) == len(left) else 0
            left = still
            self.variants.append(variant)
            self._open.append(opened)
        return left

    def verdict(self, sql: str) -> Verdict:
        """Whether a query is equal to gold on the database and on every variant."""
        try:
            if not self._same(self.database, self.gold, sql, self.ordered):
                return Verdict(False, "database")
        except (SQLError, Undecided) as error:
            return Verdict(None, "database", str(error))
        return self.verdict_on_variants(sql)

    def verdict_on_variants(self, sql: str) -> Verdict:
        """The same on the variants alone."""
        open_at: Verdict | None = None
        for variant, opened in self.opened:
            try:
                if not self._same(opened, variant.gold, sql, variant.ordered):
                    return Verdict(False, variant.name)
            except (SQLError, Undecided) as error:
                open_at = open_at or Verdict(None, variant.name, str(error))
        return open_at or Verdict(True)

    @property
    def opened(self) -> list[tuple[Variant, Database]]:
        """The variants with the databases that they are; they end with the suite."""
        return list(zip(self.variants, self._open, strict=True))

    def close(self) -> None:
        """End the variants' workers and delete their files."""
        for variant, opened in self.opened:
            opened.close()
            variant.path.unlink(missing_ok=True)
        self.variants, self._open = [], []

    def __enter__(self) -> Suite:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _same(self, database: Database, gold: Rows, sql: str, ordered: bool) -> bool:
        return results_equal(gold, database.execute(sql), ordered=ordered, equivalence=self.equivalence)

    def _equal(self, database: Database, gold: Rows, sql: str, ordered: bool) -> bool | None:
        try:
            return self._same(database, gold, sql, ordered)
        except (SQLError, Undecided):
            return None

    def _make(self, index: int) -> tuple[Variant, Database] | None:
        """Candidate number `index`, if it can be made and gold says something there."""
        path = self.folder / f"variant-{os.getpid()}-{id(self):x}-{index}.sqlite"
        opened = None
        try:
            digest = write_variant(Path(self.database.path), self.gold_sql, self.seed, index, path)
            opened = self.opener(path)
            gold, ordered = _gold_there(opened, self.gold_sql)
        except (Unusable, SQLError, Undecided, sqlite3.Error):
            if opened is not None:
                opened.close()
            path.unlink(missing_ok=True)
            return None
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        name = f"variant:{self.seed}:{index}:{digest}"
        return Variant(name, KINDS[index % len(KINDS)], path, gold, ordered), opened


def remake(
    database: str | os.PathLike[str],
    gold_sql: str,
    name: str,
    folder: str | os.PathLike[str],
    *,
    opener: Opener = open_database,
) -> Variant:
    """Make the variant of that name again, as a file in `folder`, which is the caller's to delete.

    Raises:
        InputError: the name is none, or another database, gold or version of this code made it.
    """
    match = re.fullmatch(r"variant:(-?\d{1,18}):(\d{1,6}):([0-9a-f]{8})", name)
    if match is None:
        raise InputError(f"{name!r} names no variant; write variant:SEED:INDEX:DIGEST")
    seed, index = int(match[1]), int(match[2])
    path = Path(folder) / (name.replace(":", "-") + ".sqlite")
    try:
        digest = write_variant(Path(database), gold_sql, seed, index, path)
        if digest != match[3]:
            raise Unusable(f"its rows have the digest {digest}")
        with opener(path) as opened:
            gold, ordered = _gold_there(opened, gold_sql)
    except (Unusable, SQLError, Undecided, sqlite3.Error) as error:
        path.unlink(missing_ok=True)
        raise InputError(
            f"{name} cannot be made again ({error}); take the database, the gold SQL and the version of prm "
            "that it was made with",
            file=str(database),
        ) from None
    return Variant(name, KINDS[index % len(KINDS)], path, gold, ordered)


# --- gold on a variant --------------------------------------------------------------------------------------


def _gold_there(database: Database, gold_sql: str) -> tuple[Rows, bool]:
    """Gold's rows on a variant, and whether their order counts there.

    Raises:
        Unusable: they say nothing, or hang on chance.
    """
    gold = database.execute(gold_sql)
    if all(value is None or value == 0 for row in gold for value in row):
        raise Unusable("gold says nothing there")
    return gold, order_counts(database, gold_sql, gold)


def order_counts(database: Database, gold_sql: str, gold: Rows) -> bool:
    """Whether gold says how its rows are ordered on a database: it orders them, and none of them tie.

    Raises:
        Unusable: what rows it gives there hangs on chance, or may do so.
        SQLError, Undecided: that was not found out.
    """
    for cut in _cuts(gold_sql):
        rows = [row[-cut.keys :] if cut.keys else () for row in database.execute(cut.sql)]
        if any(0 < at < len(rows) and rows[at - 1] == rows[at] for at in cut.at):
            raise Unusable("gold's LIMIT cuts through rows that tie")
    ordered = is_ordered(gold_sql) and not _orders_by_hidden(parsed(gold_sql))
    turned = _turned(gold_sql, len(gold.columns) or (len(gold[0]) if gold else 0))
    if turned is None:
        return ordered
    ups, downs = (database.execute(sql) for sql in turned)
    if not all(results_equal(gold, rows, ordered=False) for rows in (ups, downs)):
        raise Unusable("gold leaves its rows to chance there")
    return ordered and list(ups) == list(downs)


def _orders_by_hidden(query: exp.Expr) -> bool:
    """Whether a SELECT DISTINCT is ordered by what it does not show: a row may stand for several others, and
    which of them gives it its place is chance."""
    if not isinstance(query, exp.Select) or not (query.args.get("distinct") and query.args.get("order")):
        return False

    def spelled(node: exp.Expr) -> str:
        return (node.name if isinstance(node, exp.Column) else to_sql(node)).lower()

    shown = {spelled(p.unalias()) for p in query.selects}
    keys = [order_key(key.this, query) for key in query.args["order"].expressions]
    return not (any(p.is_star for p in query.selects) or shown >= set(map(spelled, keys)))


@dataclass(frozen=True)
class _Cut:
    """A query with a LIMIT, on its own and one row longer: its last `keys` columns are what it is ordered by,
    and its rows before and after each place of `at` must differ there."""

    sql: str
    keys: int
    at: tuple[int, ...]


@lru_cache(maxsize=64)
def _cuts(gold_sql: str) -> tuple[_Cut, ...]:
    """Where gold's LIMITs cut. Raises: Unusable."""
    tree = parsed(gold_sql)
    found = []
    for query in tree.find_all(exp.Query):
        if query.args.get("limit") is None:
            continue
        limit, offset = (_whole(query.args.get(clause)) for clause in ("limit", "offset"))
        if _orders_by_hidden(query):
            raise Unusable("a LIMIT of distinct rows, ordered by what they do not show")
        longer = query.copy()
        longer.set("offset", None)
        longer.set("limit", exp.Limit(expression=exp.Literal.number(limit + offset + 1)))
        keys = [
            order_key(key.this, query)
            for key in (query.args["order"].expressions if query.args.get("order") else ())
        ]
        if isinstance(longer, exp.Select):
            longer.set("expressions", [*longer.expressions, *(key.copy() for key in keys)])
        elif keys:  # the columns of a set operation are all there is to order by
            longer = exp.select(*(exp.column(key.alias_or_name, quoted=True) for key in keys)).from_(
                longer.subquery("q")
            )
        if query is not tree and tree.args.get("with_") is not None and longer.args.get("with_") is None:
            longer.set("with_", tree.args["with_"].copy())
        found.append(_Cut(to_sql(longer), len(keys), (offset, offset + limit)))
    return tuple(found)


def _whole(clause: exp.Expr | None) -> int:
    """The number of a LIMIT or OFFSET, 0 where there is none."""
    if clause is None:
        return 0
    if not isinstance(clause.expression, exp.Literal) or not clause.expression.name.isdigit():
        raise Unusable("a LIMIT that is no number")
    return int(clause.expression.name)


def order_key(key: exp.Expr, query: exp.Query) -> exp.Expr:
    """What a term of ORDER BY means: the column it counts out or names, or itself."""
    shown = query.selects
    if (
        isinstance(key, exp.Literal)
        and not key.is_string
        and key.name.isdigit()
        and int(key.name) <= len(shown)
    ):
        found = shown[int(key.name) - 1]
    else:
        named = [p for p in shown if isinstance(p, exp.Alias) and p.alias.lower() == key.name.lower()]
        found = named[0] if named and isinstance(key, exp.Column) and not key.table else key
    return found.unalias() if isinstance(query, exp.Select) else found


def group_keys(select: exp.Select) -> list[exp.Expr]:
    """What a SELECT groups by: the terms of its GROUP BY, and what they mean where they count a column out or
    name it by its alias."""
    group = select.args.get("group")
    written = group.expressions if group is not None else []
    return [*written, *(order_key(key, select) for key in written)]


#: What calls something that may change without the data.
CHANCE = re.compile(
    r"\b(?:random|randomblob|group_concat|string_agg|json_group_\w+|changes|total_changes|last_insert_rowid|"
    r"current_(?:date|time|timestamp)|rowid|_rowid_|oid)\b|'now'", re.I
)  # fmt: skip


@lru_cache(maxsize=64)
def _turned(gold_sql: str, width: int) -> tuple[str, str] | None:
    """Gold with everything that it leaves open settled in one way and in the opposite way, None where it
    leaves nothing open.

    Raises:
        Unusable: it cannot be settled.
    """
    tree = parsed(gold_sql)
    if CHANCE.search(gold_sql):
        raise Unusable("gold calls what may change without the data")
    settled = [_settled(tree.copy(), width, last) for last in (False, True)]
    if settled[0] == tree:
        return None
    return to_sql(settled[0]), to_sql(settled[1])


def _settled(tree: exp.Expr, width: int, last: bool) -> exp.Expr:
    """Ties go to the lowest rows (`last`: the highest), bare columns of groups to the lowest value."""
    for select in tree.find_all(exp.Select):
        _spell_windows(select)
    for query in list(tree.find_all(exp.Query)):
        if isinstance(query, exp.Select):
            _settle_bare_columns(query, last)
        if query.args.get("limit") is None and (query is not tree or query.args.get("order") is None):
            continue
        n = len(query.selects)
        if any(selected.is_star for selected in query.selects):
            if query is not tree:
                raise Unusable("a LIMIT over columns that are not named")
            n = width
        keys = [
            exp.Ordered(this=exp.Literal.number(i + 1), desc=last, nulls_first=not last) for i in range(n)
        ]
        order = query.args.get("order")
        query.set("order", exp.Order(expressions=[*(order.expressions if order else []), *keys]))
    for window in list(tree.find_all(exp.Window)):
        _settle_window(window, last)
    return tree


def _settle_bare_columns(select: exp.Select, last: bool) -> None:
    group = select.args.get("group")
    clauses = [*select.expressions, *(select.args[k] for k in ("having", "order") if select.args.get(k))]
    if group is None and not any(aggregates(p, select) for p in select.expressions):
        return
    grouped = group_keys(select)
    names = {key.name.lower() for key in grouped if isinstance(key, exp.Column)}
    keys = {to_sql(key).lower() for key in grouped}
    aliases = {p.alias.lower() for p in select.expressions if isinstance(p, exp.Alias)}
    names |= {"1", *aliases}
    for clause in clauses:
        for column in list(clause.find_all(exp.Column)):
            inside = column.find_ancestor(exp.AggFunc, exp.Filter, exp.Window)
            if column.parent_select is not select or (inside and inside.parent_select is select):
                continue
            around = column
            while around is not clause and to_sql(around).lower() not in keys:
                around = around.parent
            if column.name.lower() in names or to_sql(around).lower() in keys or column.is_star:
                continue
            column.replace((exp.Max if last else exp.Min)(this=column.copy()))
    if any(isinstance(p, exp.Star) or p.is_star for p in select.expressions):
        raise Unusable("all columns of a group")


def _spell_windows(select: exp.Select) -> None:
    """`OVER w` with what the WINDOW clause says of w."""
    named = {window.name.lower(): window for window in select.args.get("windows") or []}
    if not named:
        return
    for window in list(select.find_all(exp.Window)):
        meant = named.get(window.alias.lower())
        if meant is not None and window is not meant and window.parent_select is select:
            for part in ("partition_by", "order", "spec"):
                found = meant.args.get(part)
                copy = [node.copy() for node in found] if isinstance(found, list) else found and found.copy()
                window.set(part, copy)
            window.set("alias", None)
    select.set("windows", None)


def _settle_window(window: exp.Window, last: bool) -> None:
    function, select = window.this, window.parent_select
    if isinstance(function, (exp.Rank, exp.DenseRank, exp.PercentRank, exp.CumeDist)):
        return
    if isinstance(function, exp.AggFunc) and not window.args.get("spec") and not window.args.get("alias"):
        ranked = isinstance(function, (exp.FirstValue, exp.LastValue, exp.NthValue, exp.Lag, exp.Lead))
        if not ranked and not isinstance(function, exp.RowNumber):
            return  # whole peer groups are added at once
    if select is None or window.args.get("alias") or any(p.is_star for p in select.expressions):
        raise Unusable("a window over columns that are not named")
    shown = [p.unalias() for p in select.expressions if not p.find(exp.Window)]
    keys = [exp.Ordered(this=column.copy(), desc=last, nulls_first=not last) for column in shown]
    order = window.args.get("order")
    window.set("order", exp.Order(expressions=[*(order.expressions if order else []), *keys]))
