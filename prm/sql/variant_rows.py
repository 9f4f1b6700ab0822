"""The rows that a variant of a database has, and the file they go into (see `variants.py` for the idea).

A variant is made in three steps: a few rows are read from the original (`read_base`, once for a database),
gold's constants, groups and joins are looked up (`_wanted`, once for a gold query), and the rows are changed
in one of the `KINDS` of ways by a generator of random numbers that hangs on seed, index and gold alone:

- `boundary`: values become constants of gold or near misses of them, so that a row meets all its conditions
  or all but one,
- `groups`: rows go to other parents and groups, in sizes around those that gold's HAVING counts,
- `shuffled`: the values of a column go to other rows,
- `ties`: a column keeps two to five of its values,
- `duplicates`: rows come again under another key,
- `nulls`: more NULLs where there are some,
- `dropped`: rows are left out,
- `mixed`: several of these at once.

The statements run here are our own and the schema's; nobody's query does.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from prm.sql.database import database_uri
from prm.sql.decompose import statements
from prm.sql.schema import Schema, read_schema

#: Kinds of variants; variant INDEX is of the kind at INDEX modulo their number.
KINDS = ("mixed", "boundary", "groups", "shuffled", "ties", "duplicates", "nulls", "dropped")
MAX_ROWS = 60
MAX_CELL = 2_000  # characters or bytes; longer texts and blobs are cut
_SCANNED = 100_000  # rows of a table that may be read from end to end

Row = list[Any]


class Unusable(Exception):
    """No variant comes of this candidate."""


@lru_cache(maxsize=64)
def parsed(sql: str) -> exp.Expr:
    """Gold's tree. Raises: Unusable."""
    try:
        trees = statements(sql)
    except (SqlglotError, RecursionError) as error:
        raise Unusable(f"gold is not understood: {error}") from None
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise Unusable("gold is no query")
    return trees[0]


def aggregates(node: exp.Expr, select: exp.Select) -> bool:
    return any(
        found.parent_select is select and not isinstance(found.parent, exp.Window)
        for found in node.find_all(exp.AggFunc)
    )


# --- what is read of the original ---------------------------------------------------------------------------


@dataclass
class Column:
    """A column and what its values have in common. `fixed`: part of a key, so that only links move it."""

    name: str
    kind: str  # "int", "real" or "text"
    fixed: bool
    nullable: bool
    domain: list[Any] = field(default_factory=list)  # the values read, without NULL, in order
    distinct: bool = False  # a name: no two rows share it, though nobody declared that
    few: bool = False  # a flag or a category of small numbers: a new value would be none of it


@dataclass
class Table:
    name: str
    statement: str
    columns: list[Column]
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
class Base:
    tables: list[Table]
    links: list[_Link]
    others: list[str]  # the statements of indexes and views


@lru_cache(maxsize=8)
def read_base(path: Path, size: int, mtime: int) -> Base:
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
            columns = tuple(i for c in key.columns if (i := tables[child].at(c)) is not None)
            parent_columns = tuple(i for c in key.parent_columns if (i := tables[parent].at(c)) is not None)
            complete = len(columns) == len(key.columns) == len(parent_columns)
            if complete and tables[parent].rows:  # or nothing could refer to it
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
    base = Base(tables, links, others)
    _repair(base, [table.rows for table in tables], Random(0), drop=False)
    for t, table in enumerate(tables):
        for j, column in enumerate(table.columns):
            values = [row[j] for row in table.rows]
            column.nullable = column.nullable and None in values
            column.domain = _sorted({_frozen(v): v for v in values if v is not None}.values())
            kinds = [type(v) for v in column.domain]
            if kinds:
                column.kind = (
                    "text" if kinds.count(str) * 2 > len(kinds) else "real" if float in kinds else "int"
                )
                if column.kind == "real" and all(
                    not isinstance(v, float) or v.is_integer() for v in column.domain
                ):
                    column.kind = "int"
            small = all(isinstance(v, (int, float)) and -10 <= v <= 10 for v in column.domain)
            column.few = small and 0 < len(column.domain) <= min(5, max(2, len(values) // 2))
            linked = any(link.child == t and j in link.columns for link in links)
            if len(values) > 1 and len(column.domain) == len(values) and not linked:
                own = table.name.lower().removesuffix("s")
                named = _NAMES.search(column.name) or column.name.lower() in (own, table.name.lower())
                named = column.kind == "text" and (named or len(values) >= _MANY)
                column.distinct = bool(named or _IDS.search(column.name))
    return base


#: Columns whose values one takes for keys where they all differ; of any text column where they are `_MANY`.
_NAMES = re.compile(r"name|title|code|descr|mail|phone|abbr|address|url", re.I)
_MANY = 20
_IDS = re.compile(r"(?:^|_)[iI][dD]$|[a-z]I[Dd]$|^ID$")


def _frozen(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=lambda v: (isinstance(v, str), isinstance(v, bytes), v))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _read_table(connection: sqlite3.Connection, schema: Schema, index: int) -> Table:
    table = schema.tables[index]
    (statement,) = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table.name,)
    ).fetchone()
    info = connection.execute("SELECT name FROM pragma_table_xinfo(?) WHERE hidden > 1", (table.name,))
    generated = {name for (name,) in info}
    unique = set(table.primary_key)
    for _, name, is_unique, *_ in connection.execute("SELECT * FROM pragma_index_list(?)", (table.name,)):
        if is_unique:
            unique |= {c for _, _, c in connection.execute("SELECT * FROM pragma_index_info(?)", (name,))}
    columns = [
        Column(c.name, _kind(c.type), c.name in unique, not c.not_null and not c.primary_key)
        for c in table.columns
        if c.name not in generated
    ]
    names = ", ".join(_quoted(c.name) for c in columns) or "NULL"
    rows = [[_cut(v) for v in row] for row in _sample(connection, table.name, names)]
    key = [i for i, c in enumerate(columns) if c.name in table.primary_key]
    return Table(table.name, statement, columns, rows, key)


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


def _links_by_name(tables: list[Table]) -> Iterator[_Link]:
    """Foreign keys that only the names tell: to a key of one column, from a column of the same name, or
    named after the table (`singer.id` from `singer_id`)."""
    for p, parent in enumerate(tables):
        if len(parent.key) != 1:
            continue
        name = parent.columns[parent.key[0]].name.lower()
        if name == "id":
            names = {
                f"{form}{glue}id"
                for form in (parent.name.lower(), parent.name.lower().rstrip("s"))
                for glue in ("_", "")
            }
        else:
            names = {name}
        for c, child in enumerate(tables):
            for j, column in enumerate(child.columns):
                if c != p and column.name.lower() in names and child.key != [j]:
                    yield _Link(c, (j,), p, (parent.key[0],))


def _holds(connection: sqlite3.Connection, tables: list[Table], link: _Link) -> bool:
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
        twice = (
            f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL GROUP BY {column} HAVING count(*) > 1 LIMIT 1"
        )
        if connection.execute(twice).fetchone():
            return False
    seek = f"SELECT 1 FROM {table} WHERE {column} = ? LIMIT 1"
    return all(connection.execute(seek, (value,)).fetchone() for value in values)


def _small(connection: sqlite3.Connection, table: str) -> bool:
    (n,) = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {_quoted(table)} LIMIT {_SCANNED + 1})"
    ).fetchone()
    return n <= _SCANNED


def _fetch_parents(connection: sqlite3.Connection, tables: list[Table], link: _Link) -> None:
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
            f"SELECT {names} FROM {_quoted(parent.name)} WHERE {where} LIMIT 1",
            [row[j] for j in link.columns],
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
    groups it asks for; the columns that it shows, groups or sorts by; the tables it reads; the links that its
    joins tell; the columns it sorts by last, where ties would leave the order open."""

    hits: dict[tuple[int, int], list[Any]]
    misses: dict[tuple[int, int], list[Any]]
    sizes: list[int]
    columns: list[tuple[int, int]]
    tables: list[int]
    links: list[_Link]
    ranked: set[tuple[int, int]]


@lru_cache(maxsize=32)
def _wanted(path: Path, size: int, mtime: int, gold_sql: str) -> _Wanted:
    base, tree = read_base(path, size, mtime), parsed(gold_sql)
    number = {table.name.lower(): i for i, table in enumerate(base.tables)}
    sources: dict[str, set[int]] = {}
    for source in tree.find_all(exp.Table):
        if (i := number.get(source.name.lower())) is not None:
            sources.setdefault(source.alias_or_name.lower(), set()).add(i)
    used = sorted(set().union(*sources.values())) if sources else []

    def places(column: exp.Column) -> list[tuple[int, int]]:
        candidates = sorted(sources.get(column.table.lower(), ())) if column.table else used
        return [(i, j) for i in candidates if (j := base.tables[i].at(column.name)) is not None]

    wanted = _Wanted({}, {}, [], [], used, [], set())
    for node in _without_aliases(tree, places).find_all(exp.Predicate):
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
                wanted.links += [
                    _Link(c, (j,), p, (k,)) for c, j in places(a) for p, k in places(b) if c != p
                ]
    for clause in tree.find_all(exp.Group, exp.Order):
        wanted.columns += [place for c in clause.find_all(exp.Column) for place in places(c)]
    for select in tree.find_all(exp.Select):
        wanted.columns += [
            place for p in select.expressions for c in p.find_all(exp.Column) for place in places(c)
        ]
    for order in tree.find_all(exp.Order):
        columns = [c for c in order.find_all(exp.Column) if places(c)]
        wanted.ranked |= set(places(columns[-1])) if columns else set()
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


def _without_aliases(tree: exp.Expr, places: Any) -> exp.Expr:
    """A query whose conditions say what the names of computed columns in them stand for (`HAVING n > 20`)."""
    tree = tree.copy()
    for select in list(tree.find_all(exp.Select)):
        meant = {p.alias.lower(): p.this for p in select.expressions if isinstance(p, exp.Alias)}
        for clause in (select.args.get("where"), select.args.get("having")):
            for column in list(clause.find_all(exp.Column)) if clause is not None else ():
                named = None if column.table or places(column) else meant.get(column.name.lower())
                if named is not None and column.parent_select is select:
                    column.replace(named.copy())
    return tree


def _constant(node: exp.Expr, places: Any) -> Any:
    """The value of a literal, or of "text" in double quotes, which is text where it names no column."""
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


def _near(node: exp.Expr, value: Any, column: Column) -> tuple[list[Any], list[Any]]:
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
    return [value], near or [f"{value} b", f"A {value}"]  # a column of one value would satisfy any condition


def _as_text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _near_number(node: exp.Expr, value: float, column: Column, step: float) -> tuple[list, list]:
    below, above = value - step, value + step
    if isinstance(node, (exp.GT, exp.GTE, exp.LT, exp.LTE)) and isinstance(node.expression, exp.Column):
        greater = isinstance(node, (exp.LT, exp.LTE))
    else:
        greater = isinstance(node, (exp.GT, exp.GTE))
    if isinstance(node, (exp.GT, exp.GTE, exp.LT, exp.LTE)):
        hits, misses = (
            ([above, above + 3 * step], [below]) if greater else ([below, below - 3 * step], [above])
        )
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


def write_variant(database: Path, gold_sql: str, seed: int, index: int, path: Path) -> str:
    """Write candidate number `index` to `path`; the digest of its rows.

    Raises:
        Unusable: gold is not understood, or the original's own statements do not run.
        sqlite3.Error: likewise.
        InputError: of the original database.
    """
    version = version_of(database)
    base, wanted = read_base(*version), _wanted(*version, gold_sql)
    digest = hashlib.sha256(f"{seed}\x1f{index}\x1f{gold_sql}".encode("utf-8", "replace")).digest()
    rng = Random(int.from_bytes(digest[:8], "big"))
    rows = _changed(base, wanted, KINDS[index % len(KINDS)], rng)
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return _fill(connection, base, [*base.links, *wanted.links], rows)
    finally:
        connection.close()


def version_of(database: Path) -> tuple[Path, int, int]:
    """What tells whether a file is still the one that was read. A missing one is refused on reading."""
    try:
        status = database.stat()
    except OSError:
        return database, 0, 0
    return database.resolve(), status.st_size, status.st_mtime_ns


def _changed(base: Base, wanted: _Wanted, kind: str, rng: Random) -> list[list[Row]]:
    """The rows of all tables after the changes of one kind."""
    tables = [[list(row) for row in table.rows] for table in base.tables]
    if kind == "dropped":
        for rows in tables:
            share = rng.choice((0.3, 0.5, 0.7, 0.9))
            rows[:] = [row for row in rows if rng.random() < share] or rows[:1]
    elif kind == "boundary":
        _enlarge(base, tables, wanted, rng)
        _move(base, tables, wanted, rng)
        _place(base, tables, wanted, rng)
    elif kind == "groups":
        _enlarge(base, tables, wanted, rng)
        _regroup(base, tables, wanted, rng)
        _place(base, tables, wanted, rng, share=0.5)
    elif kind == "shuffled":
        _shuffle(base, tables, rng)
        _place(base, tables, wanted, rng, share=0.5)
    elif kind == "ties":
        _place(base, tables, wanted, rng, share=0.5)
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
        if rng.random() < 0.5:
            _move(base, tables, wanted, rng)
        if rng.random() < 0.7:
            _tie(base, tables, wanted, rng)
        _regroup(base, tables, wanted, rng)
        if rng.random() < 0.5:
            _forget(base, tables, rng)
        _place(base, tables, wanted, rng)
    keys = {(link.parent, k) for link in wanted.links for k in link.parent_columns}
    if rng.random() < 0.7:
        keys |= wanted.ranked
    _tell_apart(base, tables, keys)
    _repair(Base(base.tables, [*base.links, *wanted.links], []), tables, rng, drop=kind == "dropped")
    return tables


def _tell_apart(base: Base, tables: list[list[Row]], keys: set[tuple[int, int]]) -> None:
    """Names that changes have made two of become different again, and so do `keys` that nobody declared."""
    for t, (table, rows) in enumerate(zip(base.tables, tables, strict=True)):
        for j, column in enumerate(table.columns):
            if not column.distinct and (t, j) not in keys:
                continue
            fresh, seen = _fresh([row[j] for row in rows]), set()
            for row in rows:
                if row[j] is not None and row[j] in seen:
                    row[j] = next(fresh)
                seen.add(row[j])


def _place(base: Base, tables: list[list[Row]], wanted: _Wanted, rng: Random, share: float = 0.8) -> None:
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


def _enlarge(base: Base, tables: list[list[Row]], wanted: _Wanted, rng: Random) -> None:
    """Copies of rows where a table of gold's is too small for groups and ties to come about."""
    least = min(MAX_ROWS, max([12, *(4 * n + 4 for n in wanted.sizes)]))
    for t in wanted.tables:
        for _ in range(6):
            if not tables[t] or len(tables[t]) >= least:
                break
            _duplicate(base, tables, [t], rng, share=1.0)


def _duplicate(base: Base, tables: list[list[Row]], which: Iterable[int], rng: Random, share: float) -> None:
    """Copies of rows, under keys of their own."""
    for t in which:
        table, rows = base.tables[t], tables[t]
        linked = {j for link in base.links if link.child == t for j in link.columns}
        own = [j for j, c in enumerate(table.columns) if c.fixed and j not in linked]
        shared = [
            link
            for link in base.links
            if link.child == t and any(table.columns[j].fixed for j in link.columns)
        ]
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


def _shuffle(base: Base, tables: list[list[Row]], rng: Random) -> None:
    """The values of a column go to other rows: what two columns had in common by accident is gone."""
    for table, rows in zip(base.tables, tables, strict=True):
        for j, column in enumerate(table.columns):
            if column.fixed or rng.random() < 0.3:
                continue
            values = [row[j] for row in rows]
            rng.shuffle(values)
            for row, value in zip(rows, values, strict=True):
                row[j] = value


def _regroup(base: Base, tables: list[list[Row]], wanted: _Wanted, rng: Random) -> None:
    """Rows go to parents, and to values that gold groups by, in groups of sizes that make a difference."""
    sizes = sorted({1, 2, 3} | {n + d for n in wanted.sizes for d in (-1, 0, 1) if n + d > 0})
    for link in [*base.links, *wanted.links]:
        if rng.random() < 0.8:
            keys = [[row[k] for k in link.parent_columns] for row in tables[link.parent]]
            _deal(tables[link.child], link.columns, keys, sizes, rng)
    linked = {(link.child, j) for link in [*base.links, *wanted.links] for j in link.columns}
    for t, j in wanted.columns:
        column = base.tables[t].columns[j]
        if not (column.fixed or column.distinct) and (t, j) not in linked and rng.random() < 0.5:
            _deal(tables[t], (j,), [[value] for value in column.domain], sizes, rng)


def _deal(
    rows: list[Row], columns: tuple[int, ...], values: list[list], sizes: list[int], rng: Random
) -> None:
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


def _move(base: Base, tables: list[list[Row]], wanted: _Wanted, rng: Random) -> None:
    """Numbers become a little larger or smaller, but never smaller than all that were there."""
    linked = {(link.child, j) for link in [*base.links, *wanted.links] for j in link.columns}
    for t in wanted.tables:
        for j, column in enumerate(base.tables[t].columns):
            numbers = [v for v in column.domain if isinstance(v, (int, float))]
            if column.fixed or column.few or (t, j) in linked or not numbers or column.kind == "text":
                continue
            step = 1 if column.kind == "int" else 0.5
            for row in tables[t]:
                if isinstance(row[j], (int, float)) and abs(row[j]) < 1e15 and rng.random() < 0.5:
                    row[j] = max(row[j] + step * rng.choice((-2, -1, 1, 2)), numbers[0])


def _tie(base: Base, tables: list[list[Row]], wanted: _Wanted, rng: Random) -> None:
    """A column has but two or three of its values left."""
    linked = {(link.child, j) for link in [*base.links, *wanted.links] for j in link.columns}
    for t in wanted.tables:
        for j, column in enumerate(base.tables[t].columns):
            if column.fixed or column.distinct or (t, j) in linked or not column.domain or rng.random() < 0.4:
                continue
            few = rng.sample(column.domain, min(len(column.domain), rng.choice((2, 3, 5))))
            for row in tables[t]:
                if row[j] is not None and rng.random() < 0.8:
                    row[j] = rng.choice(few)


def _forget(base: Base, tables: list[list[Row]], rng: Random) -> None:
    """More NULLs in the columns that have some."""
    for table, rows in zip(base.tables, tables, strict=True):
        for j, column in enumerate(table.columns):
            if column.nullable and not column.fixed and rng.random() < 0.7:
                for row in rows:
                    if rng.random() < 0.3:
                        row[j] = None


def _repair(base: Base, tables: list[list[Row]], rng: Random, *, drop: bool) -> None:
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


def _fill(connection: sqlite3.Connection, base: Base, links: list[_Link], rows: list[list[Row]]) -> str:
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
            raise Unusable("a statement of the schema creates nothing")
        connection.execute(statement)
    for table, values in zip(base.tables, rows, strict=True):
        if not table.columns:
            continue
        names = ", ".join(_quoted(c.name) for c in table.columns)
        marks = ", ".join("?" * len(table.columns))
        insert = f"INSERT OR IGNORE INTO {_quoted(table.name)} ({names}) VALUES ({marks})"
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
        empty = {table.name.lower() for table in base.tables if not table.rows}  # in the original, too
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        if any(parent.lower() not in empty for _, _, parent, _ in broken):
            raise Unusable("a foreign key leads nowhere")
    digest = hashlib.sha256()
    for table in base.tables:
        content = connection.execute(f"SELECT * FROM {_quoted(table.name)} NOT INDEXED").fetchall()
        digest.update(repr((table.name, content)).encode("utf-8", "replace"))
    return digest.hexdigest()[:8]


def _delete_orphans(base: Base, link: _Link) -> str:
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
