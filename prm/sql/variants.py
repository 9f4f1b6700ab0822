"""Variants of a database, on which queries that are equal by accident give different results.

That two queries give the same rows on one database says little: on Spider's small ones a forgotten DISTINCT,
a `>=` for a `>` or a missing condition often changes nothing. So equality is asked for on variants, too: small
databases with the tables, keys and constraints of the original and other rows (the distilled test suites of
Zhong, Yu and Klein, "Semantic Evaluation for Text-to-SQL with Distilled Test Suites", EMNLP 2020):

    with Suite(database, gold_sql, folder=folder) as suite:
        suite.distil(neighbours(gold_sql, schema))
        suite.verdict(sql)  # equal, different (and where), or undecided

**What is kept.** The tables are made by the original's own statements; a row that breaks a NOT NULL, UNIQUE,
PRIMARY KEY or CHECK constraint does not get in, and rows whose foreign key leads nowhere go out. Foreign keys
that nobody declared, but that the data obeys and gold joins on or the names tell, are kept as well: otherwise
a join that cannot lose rows would seem to. A value is one of its column, or a constant of gold or a near miss
of it, of the same type. A column of numbers without negative ones gets none, a column of few values (a flag)
no new ones, a column without NULL no NULL: there the schema may allow what nobody who writes SQL reckons with.

**When a variant counts.** Only where gold itself says something (a result of nothing, NULLs or zeros is equal
to too much), and where it leaves nothing to chance: with ties at its LIMIT broken one way and the other, and
with bare columns of a group read from one row and another, gold must give the same rows. So no answer is ever
blamed for another choice among ties. Where merely the order of tied rows is open, order does not count there.

**Making it again.** Variant number `INDEX` hangs on the original's contents, gold's text, the seed and the
index, and on nothing else: no other variant, no neighbour, no clock. Its name, `variant:SEED:INDEX:DIGEST`,
is all that a trace has to carry; `remake` makes the file again and compares the digest of its rows, so that
another original or another version of this code is noticed instead of giving another answer.

**Size.** At most `MAX_ROWS` rows a table are read from the original (with the parents their keys ask for; by
probing row ids, so that gigabytes cost what kilobytes do), and a variant has a few hundred rows, some 100 kB
and 5 ms. Distilling keeps a variant only if it tells gold from a neighbour that all variants before it left
equal; the others are deleted at once.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from prm.errors import InputError
from prm.sql.compare import Undecided, is_ordered, results_equal
from prm.sql.database import Database, Rows, SQLError, database_uri, open_database
from prm.sql.decompose import to_sql
from prm.sql.schema import Schema, read_schema

#: Kinds of variants; variant INDEX is of the kind at INDEX modulo their number.
KINDS = ("mixed", "boundary", "groups", "shuffled", "ties", "duplicates", "nulls", "dropped")
MAX_ROWS = 60
MAX_CELL = 2_000  # characters or bytes; longer texts and blobs are cut
CANDIDATES = 32  # variants tried for one gold query
KEPT = 8
_SCANNED = 100_000  # rows of a table that may be read from end to end

Row = list[Any]


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
        timeout: float = 5.0,
        equivalence: str = "spider",
    ) -> None:
        """Raises: SQLError if gold does not run on the database."""
        self.database, self.gold_sql, self.seed = database, gold_sql, seed
        self.folder, self.timeout, self.equivalence = Path(folder), timeout, equivalence
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
        kinds: Sequence[str] = KINDS,
    ) -> list[str]:
        """Add the variants that tell gold from its neighbours; the neighbours that all of them leave equal.

        `limit` bounds the variants of the suite, `candidates` those tried for it. Neighbours that differ on
        the database itself, and those that do not run, are left aside.
        """
        left = [sql for sql in dict.fromkeys(neighbours) if self.verdict(sql).equal]
        while left and len(self.variants) < limit and self._tried < candidates:
            index, self._tried = self._tried, self._tried + 1
            if KINDS[index % len(KINDS)] not in kinds:
                continue
            made = self._make(index)
            if made is None:
                continue
            variant, opened = made
            alike = [sql for sql in left if self._equal(opened, variant.gold, sql, variant.ordered) is not False]
            if len(alike) == len(left):
                opened.close()
                variant.path.unlink(missing_ok=True)
                continue
            left = alike
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
        open_at: Verdict | None = None
        for variant, opened in zip(self.variants, self._open, strict=True):
            try:
                if not self._same(opened, variant.gold, sql, variant.ordered):
                    return Verdict(False, variant.name)
            except (SQLError, Undecided) as error:
                open_at = open_at or Verdict(None, variant.name, str(error))
        return open_at or Verdict(True)

    def close(self) -> None:
        """End the variants' workers and delete their files."""
        for variant, opened in zip(self.variants, self._open, strict=True):
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
            digest = _write(self.database.path, self.gold_sql, self.seed, index, path)
            opened = open_database(path, timeout=self.timeout)
            gold, ordered = _gold_there(opened, self.gold_sql)
        except (_Unusable, SQLError, Undecided, sqlite3.Error):
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
    database: str | os.PathLike[str], gold_sql: str, name: str, folder: str | os.PathLike[str], timeout: float = 5.0
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
        digest = _write(Path(database), gold_sql, seed, index, path)
        if digest != match[3]:
            raise _Unusable(f"its rows have the digest {digest}")
        with open_database(path, timeout=timeout) as opened:
            gold, ordered = _gold_there(opened, gold_sql)
    except (_Unusable, SQLError, Undecided, sqlite3.Error) as error:
        path.unlink(missing_ok=True)
        raise InputError(
            f"{name} cannot be made again ({error}); take the database, the gold SQL and the version of prm "
            "that it was made with",
            file=str(database),
        ) from None
    return Variant(name, KINDS[index % len(KINDS)], path, gold, ordered)


class _Unusable(Exception):
    """No variant comes of this candidate."""


# --- gold on a variant --------------------------------------------------------------------------------------


def _gold_there(database: Database, gold_sql: str) -> tuple[Rows, bool]:
    """Gold's rows on a variant, and whether their order counts there.

    Raises:
        _Unusable: they say nothing, or hang on chance.
    """
    gold = database.execute(gold_sql)
    if all(value is None or value == 0 for row in gold for value in row):
        raise _Unusable("gold says nothing there")
    ordered = is_ordered(gold_sql)
    turned = _turned(gold_sql, len(gold.columns) or len(gold[0]))
    if turned is None:
        return gold, ordered
    ups, downs = (database.execute(sql) for sql in turned)
    if not all(results_equal(gold, rows, ordered=False, equivalence="spider") for rows in (ups, downs)):
        raise _Unusable("gold leaves its rows to chance there")
    return gold, ordered and list(ups) == list(downs)


_CHANCE = re.compile(
    r"\b(?:random|randomblob|group_concat|string_agg|json_group_\w+|changes|total_changes|last_insert_rowid|"
    r"current_(?:date|time|timestamp)|rowid|_rowid_|oid)\b|'now'", re.I
)  # fmt: skip


@lru_cache(maxsize=64)
def _turned(gold_sql: str, width: int) -> tuple[str, str] | None:
    """Gold with everything that it leaves open settled in one way and in the opposite way, None where it
    leaves nothing open.

    Raises:
        _Unusable: it cannot be settled.
    """
    tree = _parsed(gold_sql)
    if _CHANCE.search(gold_sql):
        raise _Unusable("gold calls what may change without the data")
    settled = [_settled(tree.copy(), width, last) for last in (False, True)]
    if settled[0] == tree:
        return None
    return to_sql(settled[0]), to_sql(settled[1])


def _settled(tree: exp.Expression, width: int, last: bool) -> exp.Expression:
    """Ties go to the lowest rows (`last`: the highest), bare columns of groups to the lowest value."""
    for query in list(tree.find_all(exp.Query)):
        if isinstance(query, exp.Select):
            _settle_bare_columns(query, last)
        if query.args.get("limit") is None and (query is not tree or query.args.get("order") is None):
            continue
        n = len(query.selects)
        if any(selected.is_star for selected in query.selects):
            if query is not tree:
                raise _Unusable("a LIMIT over columns that are not named")
            n = width
        keys = [exp.Ordered(this=exp.Literal.number(i + 1), desc=last) for i in range(n)]
        order = query.args.get("order")
        query.set("order", exp.Order(expressions=[*(order.expressions if order else []), *keys]))
    for window in list(tree.find_all(exp.Window)):
        _settle_window(window, last)
    return tree


def _settle_bare_columns(select: exp.Select, last: bool) -> None:
    group = select.args.get("group")
    clauses = [*select.expressions, *(select.args[k] for k in ("having", "order") if select.args.get(k))]
    if group is None and not any(_aggregates(p, select) for p in select.expressions):
        return
    keys = {to_sql(key).lower() for key in group.expressions} if group else set()
    names = {key.name.lower() for key in group.expressions if isinstance(key, exp.Column)} if group else set()
    aliases = {p.alias.lower() for p in select.expressions if isinstance(p, exp.Alias)}
    names |= {"1", *aliases}
    for clause in clauses:
        for column in list(clause.find_all(exp.Column)):
            inside = column.find_ancestor(exp.AggFunc, exp.Window)
            if column.parent_select is not select or (inside and inside.parent_select is select):
                continue
            around = column
            while around is not clause and to_sql(around).lower() not in keys:
                around = around.parent
            if column.name.lower() in names or to_sql(around).lower() in keys or column.is_star:
                continue
            column.replace((exp.Max if last else exp.Min)(this=column.copy()))
    if any(isinstance(p, exp.Star) or p.is_star for p in select.expressions):
        raise _Unusable("all columns of a group")


def _aggregates(node: exp.Expression, select: exp.Select) -> bool:
    return any(
        found.parent_select is select and not isinstance(found.parent, exp.Window)
        for found in node.find_all(exp.AggFunc)
    )


def _settle_window(window: exp.Window, last: bool) -> None:
    function, select = window.this, window.parent_select
    if isinstance(function, (exp.Rank, exp.DenseRank, exp.PercentRank, exp.CumeDist)):
        return
    if isinstance(function, exp.AggFunc) and not window.args.get("spec") and not window.args.get("alias"):
        ranked = isinstance(function, (exp.FirstValue, exp.LastValue, exp.NthValue, exp.Lag, exp.Lead))
        if not ranked and not isinstance(function, exp.RowNumber):
            return  # whole peer groups are added at once
    if select is None or window.args.get("alias") or any(p.is_star for p in select.expressions):
        raise _Unusable("a window over columns that are not named")
    shown = [p.unalias() for p in select.expressions if not p.find(exp.Window)]
    keys = [exp.Ordered(this=column.copy(), desc=last) for column in shown]
    order = window.args.get("order")
    window.set("order", exp.Order(expressions=[*(order.expressions if order else []), *keys]))


@lru_cache(maxsize=64)
def _parsed(sql: str) -> exp.Expression:
    """Gold's tree. Raises: _Unusable."""
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="sqlite") if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise _Unusable(f"gold is not understood: {error}") from None
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise _Unusable("gold is no query")
    return trees[0]


# --- what is read of the original ---------------------------------------------------------------------------


@dataclass
class _Column:
    """A column and what its values have in common. `fixed`: part of a key, so that only links move it."""

    name: str
    kind: str  # "int", "real" or "text"
    fixed: bool
    nullable: bool
    domain: list[Any] = field(default_factory=list)  # the values read, without NULL, in order

    @property
    def few(self) -> bool:
        """A flag or a category, as far as one can tell: new values would be none of it."""
        return 0 < len(self.domain) <= 5


@dataclass
class _Table:
    name: str
    statement: str
    columns: list[_Column]
    rows: list[Row]
    key: list[int]  # positions of the primary key

    def at(self, name: str) -> int | None:
        return next((i for i, c in enumerate(self.columns) if c.name.lower() == name.lower()), None)


@dataclass(frozen=True)
class _Link:
    """Rows of `child` refer to rows of `parent` (positions of tables and columns)."""

    child: int
    columns: tuple[int, ...]
    parent: int
    parent_columns: tuple[int, ...]


@dataclass
class _Base:
    tables: list[_Table]
    links: list[_Link]
    others: list[str]  # the statements of indexes and views


@lru_cache(maxsize=8)
def _base(path: Path, size: int, mtime: int) -> _Base:
    """What variants are made of: the statements of the original, some rows, the keys that lead to others."""
    schema = read_schema(path)
    connection = sqlite3.connect(database_uri(path), uri=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        tables = [_read_table(connection, schema, i) for i in range(len(schema.tables))]
        number = {table.name: i for i, table in enumerate(tables)}
        links = []
        for key in schema.foreign_keys:
            child, parent = number[key.table], number[key.parent]
            columns = tuple(tables[child].at(c) for c in key.columns)
            parent_columns = tuple(tables[parent].at(c) for c in key.parent_columns)
            if None not in columns + parent_columns:
                links.append(_Link(child, columns, parent, parent_columns))
        taken = {(link.child, link.columns) for link in links}
        for link in _links_by_name(tables):
            if (link.child, link.columns) not in taken and _holds(connection, tables, link):
                links.append(link)
        for _ in range(3):
            for link in links:
                _fetch_parents(connection, tables, link)
        others = [
            sql
            for (sql,) in connection.execute(
                "SELECT sql FROM sqlite_master WHERE type IN ('index', 'view') AND sql IS NOT NULL "
                "ORDER BY type, rowid"
            )
        ]
    finally:
        connection.close()
    base = _Base(tables, links, others)
    _repair(base, [table.rows for table in tables], Random(0), drop=False)
    for table in tables:
        for j, column in enumerate(table.columns):
            values = [row[j] for row in table.rows]
            column.nullable = column.nullable and None in values
            column.domain = _sorted({_frozen(v): v for v in values if v is not None}.values())
            kinds = [type(v) for v in column.domain]
            if kinds:
                column.kind = "text" if kinds.count(str) * 2 > len(kinds) else "real" if float in kinds else "int"
                if column.kind == "real" and all(not isinstance(v, float) or v.is_integer() for v in column.domain):
                    column.kind = "int"
    return base


def _frozen(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=lambda v: (isinstance(v, str), isinstance(v, bytes), v))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _read_table(connection: sqlite3.Connection, schema: Schema, index: int) -> _Table:
    table = schema.tables[index]
    (statement,) = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table.name,)
    ).fetchone()
    generated = {
        name for name, hidden in connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (table.name,))
        if hidden > 1
    }  # fmt: skip
    unique = set(table.primary_key)
    for _, name, is_unique, *_ in connection.execute("SELECT * FROM pragma_index_list(?)", (table.name,)):
        if is_unique:
            unique |= {c for _, _, c in connection.execute("SELECT * FROM pragma_index_info(?)", (name,))}
    columns = [
        _Column(c.name, _kind(c.type), c.name in unique, not c.not_null and not c.primary_key)
        for c in table.columns
        if c.name not in generated
    ]
    names = ", ".join(_quoted(c.name) for c in columns) or "NULL"
    rows = [[_cut(v) for v in row] for row in _sample(connection, table.name, names)]
    key = [i for i, c in enumerate(columns) if c.name in table.primary_key]
    return _Table(table.name, statement, columns, rows, key)


def _kind(declared: str) -> str:
    declared = declared.upper()
    if "INT" in declared or "BOOL" in declared:
        return "int"
    return "real" if any(word in declared for word in ("REAL", "FLOA", "DOUB", "NUM", "DEC")) else "text"


def _cut(value: Any) -> Any:
    return value[:MAX_CELL] if isinstance(value, (str, bytes)) else value


def _sample(connection: sqlite3.Connection, table: str, names: str) -> list[tuple]:
    """At most `MAX_ROWS` rows: all, or those at or after evenly spaced row ids."""
    quoted = _quoted(table)
    rows = connection.execute(f"SELECT {names} FROM {quoted} NOT INDEXED LIMIT {MAX_ROWS + 1}").fetchall()
    if len(rows) <= MAX_ROWS:
        return rows
    used = {name.lower() for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    rowid = next((name for name in ("rowid", "_rowid_", "oid") if name not in used), None)
    try:
        if rowid is None:
            raise sqlite3.OperationalError
        low, high = connection.execute(f"SELECT min({rowid}), max({rowid}) FROM {quoted}").fetchone()
    except sqlite3.OperationalError:  # a table without row ids
        return rows[:MAX_ROWS]
    found: dict[int, tuple] = {}
    for k in range(MAX_ROWS):
        probe = connection.execute(
            f"SELECT {rowid}, {names} FROM {quoted} NOT INDEXED WHERE {rowid} >= ? ORDER BY {rowid} LIMIT 1",
            (low + (high - low) * k // (MAX_ROWS - 1),),
        ).fetchone()
        found[probe[0]] = probe[1:]
    return list(found.values())


def _links_by_name(tables: list[_Table]) -> Iterator[_Link]:
    """Foreign keys that only the names tell: to a key of one column, from a column of the same name, or
    named after the table (`singer.id` from `singer_id`)."""
    for p, parent in enumerate(tables):
        if len(parent.key) != 1:
            continue
        name = parent.columns[parent.key[0]].name.lower()
        if name == "id":
            names = {f"{form}{glue}id" for form in (parent.name.lower(), parent.name.lower().rstrip("s")) for glue in ("_", "")}
        else:
            names = {name}
        for c, child in enumerate(tables):
            for j, column in enumerate(child.columns):
                if c != p and column.name.lower() in names and child.key != [j]:
                    yield _Link(c, (j,), p, (parent.key[0],))


def _holds(connection: sqlite3.Connection, tables: list[_Table], link: _Link) -> bool:
    """Whether an undeclared link is a key of the parent that every child row read here has."""
    child, parent = tables[link.child], tables[link.parent]
    (j,), (k,) = link.columns, link.parent_columns
    values = list({_frozen(row[j]): row[j] for row in child.rows if row[j] is not None}.values())
    if not values:
        return False
    table, column = _quoted(parent.name), _quoted(parent.columns[k].name)
    if parent.key != [k]:
        if not _small(connection, parent.name):
            return False
        twice = f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL GROUP BY {column} HAVING count(*) > 1 LIMIT 1"
        if connection.execute(twice).fetchone():
            return False
    seek = f"SELECT 1 FROM {table} WHERE {column} = ? LIMIT 1"
    return all(connection.execute(seek, (value,)).fetchone() for value in values)


def _small(connection: sqlite3.Connection, table: str) -> bool:
    (n,) = connection.execute(f"SELECT count(*) FROM (SELECT 1 FROM {_quoted(table)} LIMIT {_SCANNED + 1})").fetchone()
    return n <= _SCANNED


def _fetch_parents(connection: sqlite3.Connection, tables: list[_Table], link: _Link) -> None:
    """Read the parents of the child rows, so that what belongs together stays together."""
    child, parent = tables[link.child], tables[link.parent]
    if len(parent.rows) < MAX_ROWS:
        return  # all of them are there
    known = {_key_of(row, link.parent_columns) for row in parent.rows}
    names = ", ".join(_quoted(c.name) for c in parent.columns)
    where = " AND ".join(f"{_quoted(parent.columns[k].name)} = ?" for k in link.parent_columns)
    indexed = connection.execute(
        f"EXPLAIN QUERY PLAN SELECT 1 FROM {_quoted(parent.name)} WHERE {where}", [None] * len(link.columns)
    ).fetchone()
    if not indexed or "SEARCH" not in indexed[3]:
        return
    for row in child.rows:
        if len(parent.rows) >= 2 * MAX_ROWS:
            return
        key = _key_of(row, link.columns)
        if key is None or key in known:
            continue
        known.add(key)
        found = connection.execute(
            f"SELECT {names} FROM {_quoted(parent.name)} WHERE {where} LIMIT 1", [row[j] for j in link.columns]
        ).fetchone()
        if found:
            parent.rows.append([_cut(value) for value in found])


def _key_of(row: Row, columns: tuple[int, ...]) -> tuple | None:
    """The key in a row, None where part of it is NULL; 1, 1.0 and '1' are the same key, for the columns of a
    link may have different types."""
    key = tuple(row[j] for j in columns)
    if any(value is None for value in key):
        return None
    return tuple(_same_key(value) for value in key)


def _same_key(value: Any) -> Any:
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else number if math.isfinite(number) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


# --- what gold asks for -------------------------------------------------------------------------------------


@dataclass
class _Wanted:
    """Gold's constants: (table, column) -> values that its condition takes, and near misses; the sizes of
    groups it asks for; the columns it groups or sorts by; the links its joins tell."""

    hits: dict[tuple[int, int], list[Any]]
    misses: dict[tuple[int, int], list[Any]]
    sizes: list[int]
    columns: list[tuple[int, int]]
    tables: list[int]
    links: list[_Link]


@lru_cache(maxsize=32)
def _wanted(path: Path, size: int, mtime: int, gold_sql: str) -> _Wanted:
    base, tree = _base(path, size, mtime), _parsed(gold_sql)
    number = {table.name.lower(): i for i, table in enumerate(base.tables)}
    sources: dict[str, set[int]] = {}
    for node in tree.find_all(exp.Table):
        if (i := number.get(node.name.lower())) is not None:
            sources.setdefault(node.alias_or_name.lower(), set()).add(i)
    used = sorted(set().union(*sources.values())) if sources else []

    def places(column: exp.Column) -> list[tuple[int, int]]:
        candidates = sorted(sources.get(column.table.lower(), ())) if column.table else used
        return [(i, j) for i in candidates if (j := base.tables[i].at(column.name)) is not None]

    wanted = _Wanted({}, {}, [], [], used, [])
    for node in tree.find_all(exp.Predicate):
        if isinstance(node, (exp.Exists, exp.SubqueryPredicate)):
            continue
        parts = list(node.walk(prune=lambda n: isinstance(n, exp.Query)))
        columns = [c for c in parts if isinstance(c, exp.Column) and places(c)]
        values = [v for n in parts if (v := _constant(n, places)) is not None]
        if any(isinstance(n, exp.Count) for n in parts):
            wanted.sizes += [int(v) for v in values if isinstance(v, (int, float)) and 0 <= v <= 20]
        for place in dict.fromkeys(place for c in columns for place in places(c)):
            column = base.tables[place[0]].columns[place[1]]
            for value in values:
                hits, misses = _near(node, value, column)
                wanted.hits.setdefault(place, []).extend(hits)
                wanted.misses.setdefault(place, []).extend(misses)
        if isinstance(node, exp.EQ) and len(columns) == 2 and not values:
            for a, b in (columns, columns[::-1]):
                wanted.links += [_Link(c, (j,), p, (k,)) for c, j in places(a) for p, k in places(b) if c != p]
    for clause in tree.find_all(exp.Group, exp.Order):
        wanted.columns += [place for c in clause.find_all(exp.Column) for place in places(c)]
    for select in tree.find_all(exp.Select):
        wanted.columns += [place for p in select.expressions for c in p.find_all(exp.Column) for place in places(c)]
    wanted.columns = list(dict.fromkeys(wanted.columns))
    taken = {(link.child, link.columns, link.parent) for link in base.links}
    connection = sqlite3.connect(database_uri(path), uri=True)
    try:
        wanted.links = [
            link
            for link in dict.fromkeys(wanted.links)
            if (link.child, link.columns, link.parent) not in taken and _holds(connection, base.tables, link)
        ]
    finally:
        connection.close()
    return wanted


def _constant(node: exp.Expression, places: Any) -> Any:
    """The value of a literal; also of "text" in double quotes, which SQLite takes where no column is meant."""
    if isinstance(node, exp.Column) and not node.table and node.this.quoted and not places(node):
        return node.name
    if not isinstance(node, exp.Literal):
        return None
    if node.is_string:
        return node.name
    sign = -1 if isinstance(node.parent, exp.Neg) else 1
    try:
        return sign * (int(node.name) if re.fullmatch(r"\d{1,18}", node.name) else float(node.name))
    except ValueError:
        return None


def _near(node: exp.Expression, value: Any, column: _Column) -> tuple[list[Any], list[Any]]:
    """Values that a condition with this constant takes, and such as it just does not take. Which is which is
    no more than a guess: it decides how often they are used, not what they mean."""
    if isinstance(node, (exp.Like, exp.Glob)) and isinstance(value, str):
        plain = re.sub(r"[%*]", "", value).replace("_", "a").replace("?", "a")
        filled = re.sub(r"[%*]", "ab", value).replace("_", "a").replace("?", "a")
        return [filled, plain], [f"{plain}ab", f"ab{plain}", f"ab {plain} ab", plain[:-1], plain[1:]]
    if isinstance(value, str) and column.kind != "text":
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return [], []
    if isinstance(value, (int, float)) and column.kind == "text":
        if not any(isinstance(v, str) and re.fullmatch(r"-?\d+(\.\d+)?", v) for v in column.domain):
            return [], []
        hits, misses = _near_number(node, value, column, 1)
        return [_as_text(v) for v in hits], [_as_text(v) for v in misses]
    if isinstance(value, (int, float)):
        whole = column.kind == "int" and float(value).is_integer()
        hits, misses = _near_number(node, value, column, 1 if whole or column.kind == "int" else 0.5)
        if column.kind == "int":
            hits, misses = ([int(v) for v in dict.fromkeys(map(math.floor, vs))] for vs in (hits, misses))
        return hits, misses
    if re.fullmatch(r"\d{1,9}", value) and not column.few:
        return [v.zfill(len(value)) for v in map(str, _near_number(node, int(value), column, 1)[0])], [
            str(v).zfill(len(value)) for v in _near_number(node, int(value), column, 1)[1]
        ]
    if (date := re.match(r"\d{4}-\d\d-\d\d", value)) is not None:
        with contextlib.suppress(ValueError, OverflowError):
            day = datetime.date.fromisoformat(date[0])
            days = [(day + datetime.timedelta(n)).isoformat() + value[10:] for n in (-1, 1)]
            return [value], days
    others = [v for v in column.domain if isinstance(v, str) and v != value]
    near = sorted(others, key=lambda v: (v[:1] != value[:1], v))[:3]
    return [value], near


def _as_text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _near_number(node: exp.Expression, value: float, column: _Column, step: float) -> tuple[list, list]:
    below, above = value - step, value + step
    if isinstance(node, (exp.GT, exp.GTE, exp.LT, exp.LTE)) and isinstance(node.expression, exp.Column):
        greater = isinstance(node, (exp.LT, exp.LTE))
    else:
        greater = isinstance(node, (exp.GT, exp.GTE))
    if isinstance(node, (exp.GT, exp.GTE, exp.LT, exp.LTE)):
        hits, misses = ([above, above + 3 * step], [below]) if greater else ([below, below - 3 * step], [above])
        (hits if isinstance(node, (exp.GTE, exp.LTE)) else misses).append(value)
    elif isinstance(node, exp.NEQ):
        hits, misses = [below, above], [value]
    else:
        hits, misses = [value], [below, above]
    numbers = [v for v in column.domain if isinstance(v, (int, float))]
    if numbers and min(numbers) >= 0:
        hits, misses = [v for v in hits if v >= 0], [v for v in misses if v >= 0]
    if column.few and not isinstance(node, (exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between)):
        hits = [v for v in hits if v == value or v in numbers]
        misses = [v for v in misses if v == value or v in numbers] or [v for v in numbers if v != value][:3]
    return hits, misses


# --- making a variant ---------------------------------------------------------------------------------------


def _write(database: Path, gold_sql: str, seed: int, index: int, path: Path) -> str:
    """Write candidate number `index` to `path`; the digest of its rows.

    Raises:
        _Unusable: gold is not understood, or the original's own statements do not run.
        sqlite3.Error: likewise.
        InputError: of the original database.
    """
    status = database.stat() if database.is_file() else None
    version = (database.resolve(), status.st_size, status.st_mtime_ns) if status else (database, 0, 0)
    base, wanted = _base(*version), _wanted(*version, gold_sql)
    digest = hashlib.sha256(f"{seed}\x1f{index}\x1f{gold_sql}".encode("utf-8", "replace")).digest()
    rng = Random(int.from_bytes(digest[:8], "big"))
    rows = _changed(base, wanted, KINDS[index % len(KINDS)], rng)
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return _fill(connection, base, [*base.links, *wanted.links], rows)
    finally:
        connection.close()


def _changed(base: _Base, wanted: _Wanted, kind: str, rng: Random) -> list[list[Row]]:
    """The rows of all tables after the changes of one kind."""
    tables = [[list(row) for row in table.rows] for table in base.tables]
    if kind == "dropped":
        for rows in tables:
            share = rng.choice((0.3, 0.5, 0.7, 0.9))
            rows[:] = [row for row in rows if rng.random() < share] or rows[:1]
    elif kind == "boundary":
        _enlarge(base, tables, wanted, rng)
        _place(base, tables, wanted, rng)
    elif kind == "groups":
        _enlarge(base, tables, wanted, rng)
        _regroup(base, tables, wanted, rng)
        _place(base, tables, wanted, rng, share=0.5)
    elif kind == "shuffled":
        _shuffle(base, tables, rng)
        _place(base, tables, wanted, rng, share=0.3)
    elif kind == "ties":
        _place(base, tables, wanted, rng, share=0.3)
        _tie(base, tables, wanted, rng)
    elif kind == "duplicates":
        _duplicate(base, tables, range(len(tables)), rng, share=0.6)
    elif kind == "nulls":
        _place(base, tables, wanted, rng, share=0.5)
        _forget(base, tables, rng)
    else:
        _enlarge(base, tables, wanted, rng)
        if rng.random() < 0.7:
            _shuffle(base, tables, rng)
        if rng.random() < 0.7:
            _tie(base, tables, wanted, rng)
        _regroup(base, tables, wanted, rng)
        if rng.random() < 0.5:
            _forget(base, tables, rng)
        _place(base, tables, wanted, rng)
    _repair(_Base(base.tables, [*base.links, *wanted.links], []), tables, rng, drop=kind == "dropped")
    return tables


def _place(
    base: _Base, tables: list[list[Row]], wanted: _Wanted, rng: Random, share: float = 0.8
) -> None:
    """Move values to what gold's conditions take, and to near misses: a row takes all, or all but one."""
    for t in wanted.tables:
        places = [(t, j) for j in range(len(base.tables[t].columns)) if wanted.hits.get((t, j))]
        if not places:
            continue
        for row in tables[t]:
            if rng.random() >= share:
                continue
            off = rng.choice(places) if rng.random() < 0.6 else None
            for place in places:
                j = place[1]
                if base.tables[t].columns[j].fixed and rng.random() < 0.8:
                    continue  # few rows can hold one key
                if place == off:
                    pool = wanted.misses[place] + base.tables[t].columns[j].domain[:3]
                else:
                    pool = wanted.hits[place]
                if pool:
                    row[j] = rng.choice(pool)


def _enlarge(base: _Base, tables: list[list[Row]], wanted: _Wanted, rng: Random) -> None:
    """Copies of rows where a table of gold's is too small for groups and ties to come about."""
    least = min(MAX_ROWS, max([12, *(4 * n + 4 for n in wanted.sizes)]))
    for t in wanted.tables:
        for _ in range(6):
            if not tables[t] or len(tables[t]) >= least:
                break
            _duplicate(base, tables, [t], rng, share=1.0)


def _duplicate(
    base: _Base, tables: list[list[Row]], which: Iterable[int], rng: Random, share: float
) -> None:
    """Copies of rows, under keys of their own."""
    for t in which:
        table, rows = base.tables[t], tables[t]
        linked = {j for link in base.links if link.child == t for j in link.columns}
        own = [j for j, c in enumerate(table.columns) if c.fixed and j not in linked]
        shared = [link for link in base.links if link.child == t and any(table.columns[j].fixed for j in link.columns)]
        fresh = {j: _fresh([row[j] for row in rows]) for j in own}
        for row in [row for row in rows if rng.random() < share]:
            copy = list(row)
            for j in own:
                copy[j] = next(fresh[j])
            if not own and shared:  # a key made of links only: another partner
                link = rng.choice(shared)
                if tables[link.parent]:
                    partner = rng.choice(tables[link.parent])
                    for j, k in zip(link.columns, link.parent_columns, strict=True):
                        copy[j] = partner[k]
            rows.append(copy)


def _fresh(values: list[Any]) -> Iterator[Any]:
    """Values that a key column does not have yet, like those it has."""
    numbers = [v for v in values if isinstance(v, (int, float))]
    texts = [v for v in values if isinstance(v, str)]
    if numbers or not texts:
        top = max(numbers, default=0)
        start = int(top) if math.isfinite(top) and abs(top) < 2**53 else 0
        n = 0
        while True:
            n += 1
            yield type(top)(start + n)
    digits = [v for v in texts if re.fullmatch(r"\d{1,15}", v)]
    if len(digits) == len(texts):
        width, top = max(map(len, digits)), max(map(int, digits))
        n = 0
        while True:
            n += 1
            yield str(top + n).zfill(width)
    n, taken = 0, set(texts)
    while True:
        n += 1
        if (value := f"{texts[n % len(texts)]}{n}") not in taken:
            yield value


def _shuffle(base: _Base, tables: list[list[Row]], rng: Random) -> None:
    """The values of a column go to other rows: what two columns had in common by accident is gone."""
    for table, rows in zip(base.tables, tables, strict=True):
        for j, column in enumerate(table.columns):
            if column.fixed or rng.random() < 0.3:
                continue
            values = [row[j] for row in rows]
            rng.shuffle(values)
            for row, value in zip(rows, values, strict=True):
                row[j] = value


def _regroup(base: _Base, tables: list[list[Row]], wanted: _Wanted, rng: Random) -> None:
    """Rows go to parents, and to values that gold groups by, in groups of the sizes that make a difference."""
    sizes = sorted({1, 2, 3} | {n + d for n in wanted.sizes for d in (-1, 0, 1) if n + d > 0})
    for link in [*base.links, *wanted.links]:
        if rng.random() < 0.8:
            keys = [[row[k] for k in link.parent_columns] for row in tables[link.parent]]
            _deal(tables[link.child], link.columns, keys, sizes, rng)
    linked = {(link.child, j) for link in [*base.links, *wanted.links] for j in link.columns}
    for t, j in wanted.columns:
        column = base.tables[t].columns[j]
        if not column.fixed and (t, j) not in linked and rng.random() < 0.5:
            _deal(tables[t], (j,), [[value] for value in column.domain], sizes, rng)


def _deal(rows: list[Row], columns: tuple[int, ...], values: list[list], sizes: list[int], rng: Random) -> None:
    order, values = list(range(len(rows))), list(values)
    rng.shuffle(order)
    rng.shuffle(values)
    at = 0
    while order and values:
        size = rng.choice(sizes)
        for i in order[:size]:
            for j, value in zip(columns, values[at % len(values)], strict=True):
                rows[i][j] = value
        order, at = order[size:], at + 1


def _tie(base: _Base, tables: list[list[Row]], wanted: _Wanted, rng: Random) -> None:
    """A column has but two or three of its values left."""
    linked = {(link.child, j) for link in [*base.links, *wanted.links] for j in link.columns}
    for t in wanted.tables:
        for j, column in enumerate(base.tables[t].columns):
            if column.fixed or (t, j) in linked or not column.domain or rng.random() < 0.4:
                continue
            few = rng.sample(column.domain, min(len(column.domain), rng.choice((2, 3, 5))))
            for row in tables[t]:
                if row[j] is not None and rng.random() < 0.8:
                    row[j] = rng.choice(few)


def _forget(base: _Base, tables: list[list[Row]], rng: Random) -> None:
    """More NULLs in the columns that have some."""
    for table, rows in zip(base.tables, tables, strict=True):
        for j, column in enumerate(table.columns):
            if column.nullable and not column.fixed and rng.random() < 0.7:
                for row in rows:
                    if rng.random() < 0.3:
                        row[j] = None


def _repair(base: _Base, tables: list[list[Row]], rng: Random, *, drop: bool) -> None:
    """Rows whose link leads nowhere get another parent (`drop`: go out)."""
    for _ in range(6):
        changed = False
        for link in base.links:
            rows, parents = tables[link.child], tables[link.parent]
            known = {_key_of(row, link.parent_columns) for row in parents} - {None}
            partners = [row for row in parents if _key_of(row, link.parent_columns) is not None]
            kept = []
            for row in rows:
                key = _key_of(row, link.columns)
                if key is None or key in known:
                    kept.append(row)
                    continue
                changed = True
                if drop or not partners:
                    continue
                partner = rng.choice(partners)
                for j, k in zip(link.columns, link.parent_columns, strict=True):
                    row[j] = partner[k]
                kept.append(row)
            rows[:] = kept
        if not changed:
            return


def _fill(connection: sqlite3.Connection, base: _Base, links: list[_Link], rows: list[list[Row]]) -> str:
    """Make the tables, insert what their constraints let in, drop what leads nowhere; the digest."""
    steps = 0

    def tick() -> bool:  # the statements are the original's, and a CHECK can count to a billion
        nonlocal steps
        steps += 1
        return steps > 2_000

    connection.set_progress_handler(tick, 10_000)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 24)
    for setting in ("page_size = 1024", "journal_mode = OFF", "synchronous = OFF", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("BEGIN")
    for statement in (*(table.statement for table in base.tables), *base.others):
        if not re.match(r"\s*CREATE\b", statement, re.I):
            raise _Unusable("a statement of the schema creates nothing")
        connection.execute(statement)
    for table, values in zip(base.tables, rows, strict=True):
        if not table.columns:
            continue
        names = ", ".join(_quoted(c.name) for c in table.columns)
        insert = f"INSERT OR IGNORE INTO {_quoted(table.name)} ({names}) VALUES ({', '.join('?' * len(table.columns))})"
        for row in values:
            with contextlib.suppress(sqlite3.IntegrityError):  # of STRICT tables
                connection.execute(insert, row)
    deletes = [_delete_orphans(base, link) for link in links]
    for _ in range(100):
        before = connection.total_changes
        for delete in deletes:
            connection.execute(delete)
        if connection.total_changes == before:
            break
    connection.execute("COMMIT")
    with contextlib.suppress(sqlite3.OperationalError):  # a foreign key that is wrong in the original, too
        if connection.execute("PRAGMA foreign_key_check").fetchone():
            raise _Unusable("a foreign key leads nowhere")
    digest = hashlib.sha256()
    for table in base.tables:
        content = connection.execute(f"SELECT * FROM {_quoted(table.name)} NOT INDEXED").fetchall()
        digest.update(repr((table.name, content)).encode("utf-8", "replace"))
    return digest.hexdigest()[:8]


def _delete_orphans(base: _Base, link: _Link) -> str:
    child, parent = base.tables[link.child], base.tables[link.parent]
    pairs = [
        (f"c.{_quoted(child.columns[j].name)}", f"p.{_quoted(parent.columns[k].name)}")
        for j, k in zip(link.columns, link.parent_columns, strict=True)
    ]
    there = " AND ".join(f"{b} = {a}" for a, b in pairs)
    given = " AND ".join(f"{a} IS NOT NULL" for a, _ in pairs)
    return (
        f"DELETE FROM {_quoted(child.name)} AS c WHERE {given} "
        f"AND NOT EXISTS (SELECT 1 FROM {_quoted(parent.name)} AS p WHERE {there})"
    )


# --- neighbours ---------------------------------------------------------------------------------------------


def neighbours(gold_sql: str, schema: Schema | None = None, limit: int = 64) -> list[str]:
    """Queries that differ from gold in one clause, as slips do; some are equivalent to it. With a schema,
    also such as read another column of the same table."""
    try:
        tree = _parsed(gold_sql)
    except _Unusable:
        return []
    found = dict.fromkeys(to_sql(changed) for changed in _one_clause_changes(tree, schema))
    found.pop(to_sql(tree), None)
    return list(found)[:limit]


_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
_FLIPS: dict[type, tuple[type, ...]] = {
    exp.EQ: (exp.NEQ, exp.GTE, exp.LTE),
    exp.NEQ: (exp.EQ,),
    exp.GT: (exp.GTE, exp.LT),
    exp.GTE: (exp.GT, exp.LTE),
    exp.LT: (exp.LTE, exp.GT),
    exp.LTE: (exp.LT, exp.GTE),
}


def _one_clause_changes(tree: exp.Expression, schema: Schema | None) -> Iterator[exp.Expression]:
    nodes = list(tree.walk())
    for node in nodes:
        if isinstance(node, exp.Select):
            yield from _changed_select(tree, node)
        if isinstance(node, (exp.Where, exp.Having)):
            yield _with(tree, node, None)
        if isinstance(node, exp.Connector):
            yield _with(tree, node, node.this)
            yield _with(tree, node, node.expression)
            other = exp.Or if isinstance(node, exp.And) else exp.And
            yield _with(tree, node, other(this=node.this.copy(), expression=node.expression.copy()))
        if isinstance(node, _COMPARISONS) and not isinstance(node.parent, exp.Join):
            for flip in _FLIPS[type(node)]:
                yield _with(tree, node, flip(this=node.this.copy(), expression=node.expression.copy()))
        if isinstance(node, exp.Like) and isinstance(node.expression, exp.Literal):
            pattern = node.expression.name
            for new in {pattern.strip("%"), pattern.lstrip("%"), pattern.rstrip("%"), f"%{pattern.strip('%')}%"}:
                yield _with(tree, node.expression, exp.Literal.string(new))
        if isinstance(node, exp.Not) and isinstance(node.this, (exp.In, exp.Exists, exp.Like, exp.Between)):
            yield _with(tree, node, node.this)
        elif isinstance(node, (exp.In, exp.Exists)) and not isinstance(node.parent, exp.Not):
            yield _with(tree, node, exp.Not(this=node.copy()))
        if isinstance(node, exp.Literal) and not node.is_string and node.name.isdigit():
            if not isinstance(node.parent, (exp.Ordered, exp.Group)):
                yield _with(tree, node, exp.Literal.number(int(node.name) + 1))
                if int(node.name) > isinstance(node.parent, exp.Limit):
                    yield _with(tree, node, exp.Literal.number(int(node.name) - 1))
        if isinstance(node, exp.Ordered):
            turned = node.copy()
            turned.set("desc", not node.args.get("desc"))
            turned.set("nulls_first", None)
            yield _with(tree, node, turned)
        if isinstance(node, exp.Order) and isinstance(node.parent, exp.Query):
            yield _with(tree, node, None)
            if len(node.expressions) > 1:
                for key in node.expressions:
                    yield _with(tree, key, None)
        if isinstance(node, (exp.Avg, exp.Sum, exp.Min, exp.Max)):
            for other in (exp.Avg, exp.Sum, exp.Min, exp.Max):
                if not isinstance(node, other):
                    yield _with(tree, node, other(this=node.this.copy()))
        if isinstance(node, exp.Count):
            inner = node.this
            if isinstance(inner, exp.Distinct) and len(inner.expressions) == 1:
                yield _with(tree, node, exp.Count(this=inner.expressions[0].copy()))
            elif isinstance(inner, exp.Column):
                yield _with(tree, node, exp.Count(this=exp.Distinct(expressions=[inner.copy()])))
            if not isinstance(inner, exp.Star):
                yield _with(tree, node, exp.Count(this=exp.Star()))
        if isinstance(node, exp.Join) and not node.side and not node.method:
            joined = node.copy()
            joined.set("side", "LEFT")
            joined.set("kind", None)
            if node.args.get("on") or node.args.get("using"):
                yield _with(tree, node, joined)
        if isinstance(node, exp.SetOperation):
            for other in (exp.Union, exp.Intersect, exp.Except):
                if not isinstance(node, other):
                    yield _with(tree, node, other(**{**_copies(node), "distinct": True}))
            if isinstance(node, exp.Union):
                changed = node.copy()
                changed.set("distinct", not node.args.get("distinct"))
                yield _with(tree, node, changed)
            yield _with(tree, node, node.this)
            yield _with(tree, node, node.expression)
        if isinstance(node, exp.Column) and schema is not None:
            yield from _other_columns(tree, node, schema)


def _changed_select(tree: exp.Expression, select: exp.Select) -> Iterator[exp.Expression]:
    changed = select.copy()
    changed.set("distinct", None if select.args.get("distinct") else exp.Distinct())
    yield _with(tree, select, changed)
    if select.args.get("limit") is not None:
        yield _with(tree, select.args["limit"], None)
    group = select.args.get("group")
    if group is not None and len(group.expressions) > 1:
        for key in group.expressions:
            yield _with(tree, key, None)
    used = {c.table.lower() for c in tree.find_all(exp.Column)}
    for join in select.args.get("joins") or ():
        source = join.this
        elsewhere = [c for c in tree.find_all(exp.Column) if c.find_ancestor(exp.Join) is not join]
        if source.alias_or_name.lower() in used and not any(
            c.table.lower() == source.alias_or_name.lower() or not c.table for c in elsewhere
        ):
            yield _with(tree, join, None)


def _other_columns(tree: exp.Expression, column: exp.Column, schema: Schema) -> Iterator[exp.Expression]:
    """The next two columns of the same table and type in the place of one."""
    names = {t.alias_or_name.lower(): t.name for t in tree.find_all(exp.Table)}
    tables = [names[column.table.lower()]] if column.table.lower() in names else list(names.values())
    for table in map(schema.table, tables):
        here = table.column(column.name) if table else None
        if here is not None:
            alike = [c for c in table.columns if c.name != here.name and _kind(c.type) == _kind(here.type)]
            for other in alike[:2]:
                changed = column.copy()
                changed.set("this", exp.to_identifier(other.name))
                yield _with(tree, column, changed)
            return


def _copies(node: exp.Expression) -> dict[str, Any]:
    return {key: value for key, value in node.copy().args.items() if value is not None}


def _with(tree: exp.Expression, node: exp.Expression, new: exp.Expression | None) -> exp.Expression:
    """A copy of the tree with another node, or none, in the place of `node`."""
    path = []
    at = node
    while at is not tree:
        path.append((at.arg_key, at.index))
        at = at.parent
    if not path:
        return new.copy()
    copy = tree.copy()
    target = copy
    for key, index in reversed(path):
        target = target.args[key] if index is None else target.args[key][index]
    if new is None:
        target.pop()
    else:
        target.replace(new.copy())
    return copy
