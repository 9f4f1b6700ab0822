"""What the steps of an answer hold: of each column, which table's it is or what it is computed of.

A step is a SELECT over tables and earlier steps. Followed back through them, each of its columns is a column
of a base table or an expression over such, whatever it is called on the way; with that, a step can be set
beside a part of another query (`prm.labeling.blocks`) that never heard of its names.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from prm.sql.decompose import to_sql
from prm.sql.describe import FROM, WITH
from prm.sql.schema import Schema

Tree = exp.Expr


@dataclass(frozen=True)
class Holding:
    """What a step holds: `columns` as (name, key), where a key is `"table.column"` or an expression over
    such; `tables` are those of its FROM, also through earlier steps, and `within` those that its conditions
    read in nested queries. A table that it reads twice is there as `table` and `table~2`."""

    name: str
    columns: tuple[tuple[str, str], ...]
    tables: frozenset[str]
    within: frozenset[str]
    reads: frozenset[str]
    aggregated: bool
    keys: int  # columns that are no aggregates
    grouped: frozenset[str] = frozenset()  # keys of its GROUP BY, or of that of the step that it reads
    equal: tuple[frozenset[str], ...] = ()  # keys that its inner joins make equal
    step: bool = True  # False: a table of the database
    single: bool = True  # one SELECT, not a set operation

    @property
    def scalar(self) -> bool:
        """Whether it is one value, that of an aggregate."""
        return self.aggregated and self.keys == 0 and len(self.columns) == 1


def holdings(steps: Sequence[tuple[str, Tree | None]], schema: Schema) -> list[Holding | None]:
    """What each (name, tree) of a chain holds; None where the tree is not understood."""
    known = tables_held(schema)
    found: list[Holding | None] = []
    for name, tree in steps:
        held = None if tree is None else _holding(name, tree, known)
        found.append(held)
        if held is not None and name:
            known[name.strip('"').lower()] = held
        elif name:
            known.pop(name.strip('"').lower(), None)
    return found


def tables_held(schema: Schema) -> dict[str, Holding]:
    """What the base tables hold, by their names in lower case."""
    known = {}
    for table in schema.tables:
        name = table.name.lower()
        columns = tuple((c.name, column_key(name, c.name)) for c in table.columns)
        known[name] = Holding(
            table.name, columns, frozenset({name}), frozenset(), frozenset(), False, len(columns), step=False
        )
    return known


def column_key(instance: str, column: str) -> str:
    """The key of a table's column; `PLAIN` takes it apart again."""
    return f'"{instance}.{column.lower()}"'


def quoted(name: str) -> exp.Identifier:
    """A name in quotes, for a tree."""
    return exp.Identifier(this=name, quoted=True)


PLAIN = re.compile(r'"([^".]*)\.([^"]*)"\Z')


def _holding(name: str, tree: Tree, known: dict[str, Holding]) -> Holding | None:
    if tree.args.get(WITH):
        return None
    if isinstance(tree, exp.Subquery):
        return _holding(name, tree.this, known)
    if isinstance(tree, exp.SetOperation):
        left, right = (_holding(name, arm, known) for arm in (tree.this, tree.expression))
        if left is None or right is None:
            return None
        return Holding(
            name,
            left.columns,
            left.tables | right.tables,
            left.within | right.within,
            left.reads | right.reads,
            left.aggregated,
            left.keys,
            single=False,
        )
    if not isinstance(tree, exp.Select):
        return None
    sources: dict[str, dict[str, str]] = {}
    tables: set[str] = set()
    within: set[str] = set()
    reads: set[str] = set()
    aggregated = False
    inherited: list[frozenset[str]] = []
    pairs: list[frozenset[str]] = []
    for node in sources_of(tree):
        if isinstance(node, exp.Table):
            held = known.get(node.name.lower())
            if held is not None and held.step:
                reads.add(node.name.lower())
        else:
            held = _holding("", node.this, known) if isinstance(node, exp.Subquery) else None
        if held is None:
            return None
        columns = {c.lower(): key for c, key in held.columns}
        equal, grouped = held.equal, held.grouped
        for instance in sorted(held.tables):
            if instance in tables:
                n = next(n for n in itertools.count(2) if f"{instance}~{n}" not in tables)
                old, new = f'"{instance}.', f'"{instance}~{n}.'
                columns = {c: key.replace(old, new) for c, key in columns.items()}
                equal = tuple(frozenset(key.replace(old, new) for key in keys) for keys in equal)
                grouped = frozenset(key.replace(old, new) for key in grouped)
                instance = f"{instance}~{n}"
            tables.add(instance)
        pairs += equal
        within |= held.within
        reads |= held.reads
        aggregated = aggregated or held.aggregated
        inherited += [grouped] if held.aggregated else []
        sources[node.alias_or_name.lower()] = columns
    for node in tree.find_all(exp.Table):
        if node.parent_select is tree and isinstance(node.parent, (exp.From, exp.Join)):
            continue
        held = known.get(node.name.lower())
        if held is not None:
            within |= held.tables | held.within
            reads |= held.reads | ({node.name.lower()} if held.step else set())

    def key_of(node: Tree) -> str:
        def keyed(part: Tree) -> Tree:
            if not isinstance(part, exp.Column) or isinstance(part.this, exp.Star):
                return part
            owners = [
                columns[part.name.lower()]
                for alias, columns in sources.items()
                if part.table.lower() in ("", alias) and part.name.lower() in columns
            ]
            text = owners[0] if len(owners) == 1 else f'"?.{part.name.lower()}"'
            plain = PLAIN.match(text)
            name = f"{plain[1]}.{plain[2]}" if plain else text
            return exp.Column(this=exp.Identifier(this=name, quoted=True))

        if isinstance(node, exp.Column):
            owners = [
                columns[node.name.lower()]
                for alias, columns in sources.items()
                if node.table.lower() in ("", alias) and node.name.lower() in columns
            ]
            return owners[0] if len(owners) == 1 else f'"?.{node.name.lower()}"'
        return to_sql(node.copy().transform(keyed))

    joins = tree.args.get("joins") or []
    if not any(join.side or join.method for join in joins):
        clauses = [join.args.get("on") for join in joins] + [
            tree.args["where"].this if tree.args.get("where") else None
        ]
        for part in (part for clause in clauses if clause is not None for part in conjuncts(clause)):
            if isinstance(part, exp.EQ) and all(
                isinstance(e, exp.Column) for e in (part.this, part.expression)
            ):
                pairs.append(frozenset({key_of(part.this), key_of(part.expression)}))
    listed: list[tuple[str, str]] = []
    keys = 0
    for projection in tree.expressions:
        inner = projection.unalias()
        if is_star(inner):
            for alias, columns in sources.items():
                if isinstance(inner, exp.Star) or inner.table.lower() == alias:
                    listed += columns.items()
                    keys += len(columns)
            continue
        listed.append((projection.alias_or_name or to_sql(inner), key_of(inner)))
        keys += inner.find(exp.AggFunc) is None
    group = tree.args.get("group")
    grouped = frozenset(key_of(e) for e in group.expressions) if group else frozenset()
    aggregates = any(own_aggregates(e, tree) for e in tree.expressions)
    if group is None and not aggregates and len(inherited) == 1:
        grouped = inherited[0]
    aggregated = aggregated or bool(group) or aggregates
    return Holding(
        name.strip('"'),
        tuple(listed),
        frozenset(tables),
        frozenset(within),
        frozenset(reads),
        aggregated,
        keys,
        grouped,
        tuple(united(pairs)),
    )


def united(sets: Iterable[Set[Any]]) -> list[frozenset[Any]]:
    """The sets, those with something in common made one."""
    merged: list[frozenset[Any]] = []
    for one in sets:
        joined = [m for m in merged if m & one]
        merged = [m for m in merged if not m & one] + [frozenset(one).union(*joined)]
    return merged


def is_star(node: Tree) -> bool:
    return isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star))


def sources_of(select: exp.Select) -> list[Tree]:
    """What a SELECT reads: FROM and JOINs."""
    first = select.args.get(FROM)
    return ([] if first is None else [first.this]) + [join.this for join in select.args.get("joins") or []]


def own_aggregates(node: Tree, select: exp.Select) -> list[Tree]:
    """The aggregates that make a SELECT group; those of windows and of nested SELECTs do not."""
    return [
        a
        for a in node.find_all(exp.AggFunc)
        if a.parent_select is select and a.find_ancestor(exp.Window, exp.Select) is select
    ]


def conjuncts(condition: Tree) -> Iterator[Tree]:
    """The parts of a condition that all have to hold."""
    if isinstance(condition, exp.Paren) and isinstance(condition.this, exp.And):
        condition = condition.this
    if isinstance(condition, exp.And):
        yield from conjuncts(condition.this)
        yield from conjuncts(condition.expression)
    else:
        yield condition
