"""The SELECTs of gold into which a step can be put, and which of their tables it would stand for.

`cover` maps a table that the step reads to the alias in gold's SELECT that it stands for (`covers_of` gives
all ways); `instance_of` is the same the other way round. Columns of gold are known by their *place*: alias
and column.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Set

from sqlglot import exp

from prm.labeling.gold import Gold
from prm.labeling.holdings import Holding, column_key, conjuncts, quoted, sources_of, united
from prm.sql.decompose import to_sql

Tree = exp.Expr


Place = tuple[str, str]  # alias in gold's SELECT, column


class Block:
    """One SELECT of a fresh copy of gold, whose sources are tables, and derived tables beside them, that are
    joined by INNER JOINs. `aliases` of derived tables have the name ""."""

    def __init__(self, gold: Gold, index: int) -> None:
        self.tree: Tree = gold.tree.copy()
        self.select: exp.Select = list(self.tree.find_all(exp.Select))[index]
        self.known, self.schema = gold.known, gold.schema
        self.aliases = {node.alias_or_name.lower(): node.name.lower() for node in sources_of(self.select)}
        self.owners: dict[int, Place] = {}  # by id(), so the columns are kept: …
        self._kept: list[exp.Column] = []  # … a node that is gone leaves its id to a new one
        for column in self.select.find_all(exp.Column):
            owner = self._owner(column)
            if owner is not None:
                self.add(column, owner)
        self.conditions = [
            part
            for clause in [
                *(join.args.get("on") for join in self.select.args.get("joins") or []),
                self.select.args["where"].this if self.select.args.get("where") else None,
            ]
            if clause is not None
            for part in conjuncts(clause)
        ]
        self.classes = self._equal_columns()

    def add(self, column: exp.Column, place: Place) -> None:
        """The column stands for a place of gold's SELECT."""
        self.owners[id(column)] = place
        self._kept.append(column)

    def _owner(self, column: exp.Column) -> Place | None:
        select = column.parent_select
        while select is not None:
            if isinstance(select, exp.Select):
                for node in sources_of(select):
                    alias = node.alias_or_name.lower()
                    if column.table and column.table.lower() != alias:
                        continue
                    table = self.known.get(node.name.lower()) if isinstance(node, exp.Table) else None
                    if column.table or (table and _has(table, column.name)):
                        return (alias, column.name.lower()) if select is self.select else None
            if select is self.select:
                return None
            select = select.parent_select
        return None

    def _equal_columns(self) -> list[frozenset[Place]]:
        equations = [part for part in self.conditions if isinstance(part, exp.EQ)]
        pairs = [{self.owners.get(id(e)) for e in (part.this, part.expression)} for part in equations]
        return united(pair for pair in pairs if None not in pair)

    def mates(self, place: Place) -> list[Place]:
        """The place and those that gold's join conditions make equal to it."""
        others = next((c for c in self.classes if place in c), {place})
        return [place, *sorted(others - {place})]

    def own(self, node: Tree) -> list[tuple[exp.Column, Place]]:
        return [(c, self.owners[id(c)]) for c in node.find_all(exp.Column) if id(c) in self.owners]


def _has(table: Holding, column: str) -> bool:
    return any(name.lower() == column.lower() for name, _ in table.columns)


def usable_blocks(gold: Gold) -> list[int]:
    """Which SELECTs of gold a step can be put into."""
    if gold.plain is None:
        return []
    found = []
    for i, select in enumerate(gold.tree.find_all(exp.Select)):
        tables = [n for n in sources_of(select) if isinstance(n, exp.Table)]
        derived = [n for n in sources_of(select) if isinstance(n, exp.Subquery) and n.alias]
        known = all(n.name.lower() in gold.known for n in tables)
        joins = select.args.get("joins") or []
        inner = not any(j.side or j.method or j.args.get("using") for j in joins)
        names = [n.alias_or_name.lower() for n in sources_of(select)]
        if tables and known and len(tables) + len(derived) == len(names) == len(set(names)) and inner:
            found.append(i)
    return found


def covers_of(block: Block, held: Holding, alone: bool) -> Iterator[dict[str, str]]:
    """Which of gold's tables the step stands for: its own table -> gold's alias, in all ways.

    `alone`: none if the step also reads a table that another part of gold is about, for it may hold, or
    leave out, what that other part shall; gold would be completed whatever it does with that table.
    """
    derived = {
        id(t) for n in sources_of(block.select) if not isinstance(n, exp.Table) for t in n.find_all(exp.Table)
    }
    here = {table.name.lower() for table in block.select.find_all(exp.Table) if id(table) not in derived}
    elsewhere = {table.name.lower() for table in block.tree.find_all(exp.Table)} - here
    options: list[list[tuple[str, str | None]]] = []
    for instance in sorted(held.tables | held.within):
        table = instance.split("~")[0]
        if alone and table in elsewhere:
            return
        aliases = [alias for alias, name in block.aliases.items() if name == table]
        none: list[tuple[str, str | None]] = [(instance, None)]
        of_from = instance in held.tables
        options.append([(instance, alias) for alias in aliases] + ([] if of_from and aliases else none))
    seen = set()
    for chosen in itertools.product(*options):
        cover = {instance: alias for instance, alias in chosen if alias is not None}
        if cover and len(set(cover.values())) == len(cover) and tuple(cover.items()) not in seen:
            seen.add(tuple(cover.items()))
            yield cover


def place_key(place: Place, instance_of: dict[str, str]) -> str:
    alias, column = place
    return column_key(
        instance_of.get(alias, f"~{alias}"), column
    )  # "~": a table that the step does not stand for


def _group_keys(block: Block, instance_of: dict[str, str]) -> list[str]:
    """What gold's SELECT groups by, as a step's `grouped` would name it."""
    group = block.select.args.get("group")
    return [
        place_key(block.owners[id(key)], instance_of)
        if id(key) in block.owners
        else aggregate_key(key, block, instance_of)
        for key in (group.expressions if group is not None else [])
    ]


def groups_alike(block: Block, held: Holding, instance_of: dict[str, str], gold: Gold | None = None) -> bool:
    """Whether the step's groups are gold's: the keys of each follow from those of the other, by gold's
    conditions, the step's joins, and primary keys. With `gold`, also by columns that tell the rows of their
    table apart in the data: for what is checked by execution afterwards."""
    equal = [
        *held.equal,
        *(frozenset(place_key(place, instance_of) for place in places) for places in block.classes),
    ]
    rows = [  # the key that tells the rows of a table apart, and all its columns
        (
            {column_key(instance, c.lower()) for c in table.primary_key},
            {column_key(instance, c.name) for c in table.columns},
        )
        for instance in held.tables
        for table in [block.schema.table(instance.split("~")[0])]
        if table is not None and table.primary_key
    ]

    def following(keys: Set[str]) -> set[str]:
        found, before = set(keys), -1
        while len(found) != before:
            before = len(found)
            for given, more in [*((same & found, same) for same in equal), *rows]:
                if given and given <= found:
                    found |= more
        return found

    one_value = {  # that gold's conditions leave
        place_key(block.owners[id(part.this)], instance_of)
        for part in block.conditions
        if isinstance(part, exp.EQ)
        and isinstance(part.expression, exp.Literal)
        and id(part.this) in block.owners
    }
    golds = one_value | set(_group_keys(block, instance_of))
    if gold is not None:
        rows += [
            ({key}, {column_key(instance, c.name) for c in table.columns})
            for instance in held.tables
            for table in [block.schema.table(instance.split("~")[0])]
            if table is not None
            for column in table.columns
            if (key := column_key(instance, column.name)) in golds | held.grouped
            and gold.unique(table.name, column.name)
        ]
    return golds <= following(held.grouped | one_value) and held.grouped <= following(golds)


def aggregate_key(node: Tree, block: Block, instance_of: dict[str, str]) -> str:
    """An expression of gold as a step that computes it would hold it (`Holding.columns`)."""
    copy = node.copy()
    for column, original in zip(copy.find_all(exp.Column), node.find_all(exp.Column), strict=True):
        place = block.owners.get(id(original))
        if place is not None and not isinstance(column.this, exp.Star):
            name = f"{instance_of.get(place[0], place[0])}.{place[1]}"
            column.replace(exp.Column(this=quoted(name)))
    return to_sql(copy)
