"""What a step has lost of that which gold needs, seen by running SQL.

Each function sets a step beside one SELECT of gold for whose tables it may stand:

- rows: gold over nothing but those of its rows that the step has kept gives another result. Filtering and
  joining what is left cannot bring them back;
- columns: the step carries neither what gold still needs (of rows that it has too many, or for the output)
  nor a column that tells the rows of that table apart, or of one that refers to it, by which a later step
  could look it up;
- values: the step groups by gold's own keys, has but plain columns and aggregates, and none of them has the
  values of gold's. Not their spelling counts, and what is computed of an aggregate (a rank) may be all it
  needs.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

import sqlglot
from sqlglot import exp

from prm.labeling.blocks import Block, aggregate_key, groups_alike, place_key
from prm.labeling.gold import Gold, equal_rows, with_prefix
from prm.labeling.grafts import Impossible, graft
from prm.labeling.holdings import PLAIN, Holding, column_key, own_aggregates, quoted, sources_of
from prm.sql.compare import results_equal
from prm.sql.database import SQLError
from prm.sql.decompose import to_sql
from prm.sql.tables import quote

Tree = exp.Expr


def rows_kept(gold: Gold, prefix: str, index: int, cover: dict[str, str], held: Holding) -> bool | None:
    """Whether gold over those rows alone that the step has kept is still gold, or another choice that gold
    leaves open; None where no column tells."""
    block = Block(gold, index)
    pairs = []
    for name, key in held.columns:
        plain = PLAIN.match(key)
        if plain and plain[1] in cover:
            alias = quoted(cover[plain[1]])
            pairs.append(
                exp.Is(
                    this=exp.column(quoted(name), table=quoted(held.name)),
                    expression=exp.column(quoted(plain[2]), table=alias),
                )
            )
    if not pairs:
        return None
    there = exp.select("1").from_(exp.Table(this=quoted(held.name))).where(*pairs)
    condition = exp.Exists(this=there)
    where = block.select.args.get("where")
    block.select.set("where", exp.Where(this=exp.and_(where.this, condition) if where else condition))
    excluded = gold.excludes(with_prefix(prefix, block.tree))
    return None if excluded is None else not excluded


def columns_lost(gold: Gold, prefix: str, index: int, cover: dict[str, str], held: Holding) -> bool:
    """Whether the step has all rows that gold needs, but too few columns to go on from there."""
    block = Block(gold, index)
    try:
        _, missing = graft(gold, index, cover, held, distinct=False)
        if not _has_more_rows(gold, prefix, index, cover, held):
            return False  # it differs from gold in how often its rows are there
    except Impossible as impossible:
        missing = set(impossible.args)
    # What a column that tells a table's rows apart can look up: that table, and those that it refers to.
    instance_of = {alias: instance for instance, alias in cover.items()}
    lacking = [f'"{instance_of[alias]}.' for alias in missing if alias in instance_of]
    if any(
        not PLAIN.match(key) and (re.search(r"\bSELECT\b", key) or any(name in key for name in lacking))
        for _, key in held.columns
    ):
        return False  # it has computed something of these tables, and that may be all that is needed
    keys = {key for _, key in held.columns}
    keys |= {key for equal in held.equal if equal & keys for key in equal}
    found = {
        alias
        for alias, name in block.aliases.items()
        if alias not in instance_of
        or any(
            column_key(instance_of[alias], c.name) in keys and gold.unique(name, c.name)
            for table in [gold.schema.table(name)]
            if table is not None
            for c in table.columns
        )
    }
    for _ in block.aliases:
        for places in block.classes:
            if any(alias in found for alias, _ in places):
                found |= {a for a, column in places if gold.unique(block.aliases[a], column)}
    return bool(missing - found)


def _has_more_rows(gold: Gold, prefix: str, index: int, cover: dict[str, str], held: Holding) -> bool:
    """Whether the step has rows that gold's SELECT has not before it groups and cuts."""
    block = Block(gold, index)
    plain = [(name, PLAIN.match(key)) for name, key in held.columns]
    pairs = [(name, cover[key[1]], key[2]) for name, key in plain if key and key[1] in cover]
    if not pairs:
        return False
    for clause in ("group", "having", "order", "limit", "offset", "distinct"):
        block.select.set(clause, None)
    block.select.set("expressions", [exp.column(quoted(c), table=quoted(alias)) for _, alias, c in pairs])
    mine = ", ".join(f"{quote(held.name)}.{quote(name)}" for name, _, _ in pairs)
    try:
        more = gold.database.execute(
            f"{prefix}\nSELECT {mine} FROM {quote(held.name)} EXCEPT {to_sql(block.select)}"
        )
    except SQLError:
        return False
    return bool(more)


def other_values(gold: Gold, prefix: str, index: int, cover: dict[str, str], held: Holding) -> bool:
    """Whether the step has gold's groups, but not the values that gold needs of them.

    That is only known of a step that has nothing beside gold's keys but columns and plain aggregates of
    columns: what has been computed of an aggregate (a rank, a share) may be all that is needed.
    """
    block = Block(gold, index)
    select, group = block.select, block.select.args.get("group")
    instance_of = {alias: instance for instance, alias in cover.items()}
    clauses = [*select.expressions, *(select.args.get(k) for k in ("having", "order"))]
    aggregates = [a for e in clauses if e is not None for a in own_aggregates(e, select)]
    if (
        group is None
        or not aggregates
        or select.find(exp.Window)
        or not groups_alike(block, held, instance_of)
    ):
        return False
    if any(isinstance(a, exp.Avg) for a in aggregates) or not all(_is_bare(key) for _, key in held.columns):
        return False
    lacking = _values_lacking(gold, prefix, block, instance_of, held, aggregates)
    if lacking is None:
        return False
    if any(a.find_ancestor(exp.Order, exp.Having) is None for a in lacking):
        return True
    try:
        tree, left = graft(gold, index, cover, held, distinct=False)
        if not left:  # gold runs over the step's values
            return bool(gold.excludes(with_prefix(prefix, tree)))
        # Which of the groups gold wants cannot be told by values that are not there; is it still to be told?
        too_many = len(gold.database.execute(with_prefix(prefix, tree))) > len(gold.rows)
    except (Impossible, SQLError):
        return False
    return bool(lacking) and too_many and select is block.tree and not gold.cuts_ties


def _values_lacking(
    gold: Gold, prefix: str, block: Block, instance_of: dict[str, str], held: Holding, aggregates: list[Tree]
) -> list[Tree] | None:
    """The aggregates of gold whose values no column of the step has, in the groups that both have; None where
    the groups cannot be compared."""
    keys = block.select.args["group"].expressions
    carried = {key: name for name, key in reversed(held.columns)}
    for same in held.equal:
        for key in same & set(carried):
            carried = dict.fromkeys(same, carried[key]) | carried
    names = []
    for key in keys:
        places = block.mates(block.owners[id(key)]) if id(key) in block.owners else []
        found = [carried[k] for k in (place_key(p, instance_of) for p in places) if k in carried]
        if not found:
            return None
        names.append(found[0])
    groups = block.select.copy()
    for clause in ("order", "limit", "offset", "distinct"):
        groups.set(clause, None)
    groups.set("expressions", [node.copy() for node in (*keys, *aggregates)])
    columns = ", ".join(quote(name) for name in (*names, *(name for name, _ in held.columns)))
    n = len(keys)
    try:
        theirs = {row[:n]: row[n:] for row in gold.database.execute(to_sql(groups))}
        mine = gold.database.execute(f"{prefix}\nSELECT {columns} FROM {quote(held.name)}")
    except SQLError:
        return None
    pairs = [(theirs[row[:n]], row[n:]) for row in mine if row[:n] in theirs]
    if not pairs:
        return None
    wanted, there = (list(zip(*side, strict=True)) for side in zip(*pairs, strict=True))
    return [
        a for a, values in zip(aggregates, wanted, strict=True) if not any(_alike(values, v) for v in there)
    ]


def _alike(values: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return results_equal([(v,) for v in values], [(v,) for v in others], ordered=True)


def _is_bare(key: str) -> bool:
    """Whether a key is a column, or an aggregate of one that says nothing of other aggregates."""
    if PLAIN.match(key):
        return True
    node = sqlglot.parse_one(key, dialect="sqlite")
    what = node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this
    return isinstance(node, (exp.Count, exp.Sum, exp.Min, exp.Max)) and isinstance(
        what, (exp.Column, exp.Star)
    )


def other_scalar(gold: Gold, prefix: str, blocks: list[tuple[int, Block]], held: Holding) -> bool:
    """Whether gold has the same aggregate of the same column with another value, and nothing else that the
    step could be meant for."""
    if any(q.args.get("limit") for q in gold.tree.find_all(exp.Query)):
        return False
    differs = False
    for _, block in blocks:
        if block.select.args.get("group") is not None:
            continue
        for projection in block.select.expressions:
            inner = projection.unalias()
            key = held.columns[0][1]
            if isinstance(inner, exp.AggFunc) and aggregate_key(inner, block, block.aliases) == key:
                alone = block.select.copy()
                alone.set("expressions", [inner.copy()])
                try:
                    rows = gold.database.execute(to_sql(alone))
                    mine = gold.database.execute(f"{prefix}\nSELECT * FROM {quote(held.name)}")
                except SQLError:
                    return False
                if equal_rows(rows, mine):
                    return False
                differs = True
    return differs


def is_read_elsewhere(gold: Gold, blocks: Set[int], held: Holding) -> bool:
    """Whether gold reads a table of the step in a SELECT that is none of `blocks`: it may belong there."""
    tables = {instance.split("~")[0] for instance in held.tables | held.within}
    return any(
        isinstance(source, exp.Table) and source.name.lower() in tables
        for i, select in enumerate(gold.tree.find_all(exp.Select))
        if i not in blocks
        for source in sources_of(select)
    )
