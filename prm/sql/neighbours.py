"""Queries that differ from gold in one clause, as slips do: what a test suite must tell from gold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlglot import exp

from prm.sql.chain import edited
from prm.sql.decompose import to_sql
from prm.sql.variant_rows import Base, Table, Unusable, aggregates, parsed, read_base, version_of


def neighbours(gold_sql: str, database: str | os.PathLike[str], limit: int = 64) -> list[str]:
    """Queries that differ from gold in one clause, as slips do; some are equivalent to it.

    Raises:
        InputError: of the database.
    """
    base = read_base(*version_of(Path(database)))
    try:
        tree = parsed(gold_sql)
    except Unusable:
        return []
    found = dict.fromkeys(to_sql(changed) for changed in _one_clause_changes(tree, base))
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


def _one_clause_changes(tree: exp.Expr, base: Base) -> Iterator[exp.Expr]:
    nodes = list(tree.walk())
    for node in nodes:
        if isinstance(node, exp.Select):
            yield from _changed_select(tree, node)
            yield from _more_conditions(tree, node, base)
        if isinstance(node, (exp.Where, exp.Having)):
            yield _with(tree, node, None)
        if isinstance(node, exp.Connector):
            yield _with(tree, node, node.this)
            yield _with(tree, node, node.expression)
            connector = exp.Or if isinstance(node, exp.And) else exp.And
            yield _with(tree, node, connector(this=node.this.copy(), expression=node.expression.copy()))
        if isinstance(node, _COMPARISONS) and not isinstance(node.parent, exp.Join):
            for flip in _FLIPS[type(node)]:
                yield _with(tree, node, flip(this=node.this.copy(), expression=node.expression.copy()))
        if isinstance(node, exp.Like) and isinstance(node.expression, exp.Literal):
            pattern = node.expression.name
            for new in dict.fromkeys(
                [
                    pattern.strip("%"),
                    pattern.lstrip("%"),
                    pattern.rstrip("%"),
                    f"%{pattern.strip('%')}%",
                ]
            ):
                yield _with(tree, node.expression, exp.Literal.string(new))
        if isinstance(node, exp.Not) and isinstance(node.this, (exp.In, exp.Exists, exp.Like, exp.Between)):
            yield _with(tree, node, node.this)
        elif isinstance(node, (exp.In, exp.Exists)) and not isinstance(node.parent, exp.Not):
            yield _with(tree, node, exp.Not(this=node.copy()))
        number = isinstance(node, exp.Literal) and not node.is_string and node.name.isdigit()
        if number and not isinstance(node.parent, (exp.Ordered, exp.Group)):  # there it counts columns
            yield _with(tree, node, exp.Literal.number(int(node.name) + 1))
            if int(node.name) > isinstance(node.parent, exp.Limit):
                yield _with(tree, node, exp.Literal.number(int(node.name) - 1))
        if isinstance(node, exp.Ordered):
            turned = node.copy()
            turned.set("desc", None if node.args.get("desc") else True)
            turned.set("nulls_first", bool(node.args.get("desc")))
            yield _with(tree, node, turned)
        if isinstance(node, exp.Order) and isinstance(node.parent, exp.Query):
            yield _with(tree, node, None)
            if len(node.expressions) > 1:
                for key in node.expressions:
                    yield _with(tree, key, None)
        if isinstance(node, (exp.Avg, exp.Sum, exp.Min, exp.Max)):
            for function in (exp.Avg, exp.Sum, exp.Min, exp.Max):
                if not isinstance(node, function):
                    yield _with(tree, node, function(this=node.this.copy()))
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
            for operation in (exp.Union, exp.Intersect, exp.Except):
                if not isinstance(node, operation):
                    yield _with(tree, node, operation(**{**_copies(node), "distinct": True}))
            if isinstance(node, exp.Union):
                changed = node.copy()
                changed.set("distinct", not node.args.get("distinct"))
                yield _with(tree, node, changed)
            yield _with(tree, node, node.this)
            yield _with(tree, node, node.expression)
        if isinstance(node, exp.Column):
            yield from _other_columns(tree, node, base)


def _changed_select(tree: exp.Expr, select: exp.Select) -> Iterator[exp.Expr]:
    group = select.args.get("group")
    if group is not None or not any(aggregates(p, select) for p in select.expressions):
        changed = select.copy()
        changed.set("distinct", None if select.args.get("distinct") else exp.Distinct())
        yield _with(tree, select, changed)
    if select.args.get("limit") is not None:
        yield _with(tree, select.args["limit"], None)
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


def _more_conditions(tree: exp.Expr, select: exp.Select, base: Base) -> Iterator[exp.Expr]:
    """A condition too many, on a value that half the rows or so have."""
    for table, alias in _sources(select, base):
        for j, column in enumerate(table.columns):
            values = [row[j] for row in table.rows if isinstance(row[j], (str, int))]
            if column.fixed or not values or len(set(values)) * 2 > len(values):
                continue
            value = max(column.domain, key=lambda v: (values.count(v), str(v)))
            literal = exp.Literal.string(value) if isinstance(value, str) else exp.Literal.number(str(value))
            condition = exp.EQ(this=exp.column(column.name, table=alias, quoted=True), expression=literal)
            yield _with(tree, select, select.where(condition))
            break


def _other_columns(tree: exp.Expr, column: exp.Column, base: Base) -> Iterator[exp.Expr]:
    """The next two columns of the same table and type in the place of one."""
    for table, alias in _sources(tree, base):
        if (j := table.at(column.name)) is None or column.table.lower() not in ("", alias.lower()):
            continue
        alike = [
            c for c in table.columns if c.name != table.columns[j].name and c.kind == table.columns[j].kind
        ]
        for other in alike[:2]:
            changed = column.copy()
            changed.set("this", exp.to_identifier(other.name, quoted=not other.name.isidentifier()))
            yield _with(tree, column, changed)
        return


def _sources(tree: exp.Expr, base: Base) -> Iterator[tuple[Table, str]]:
    for node in tree.find_all(exp.Table):
        if isinstance(tree, exp.Select) and node.parent_select is not tree and tree.parent is not None:
            continue
        for table in base.tables:
            if table.name.lower() == node.name.lower():
                yield table, node.alias_or_name


def _copies(node: exp.Expr) -> dict[str, Any]:
    return {key: value for key, value in node.copy().args.items() if value is not None}


def _with(tree: exp.Expr, node: exp.Expr, new: exp.Expr | None) -> exp.Expr:
    """A copy of the tree with another node, or none, in the place of `node`."""
    return edited(tree, (node, new))
