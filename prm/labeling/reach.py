"""Can gold still be reached from here? One step of a wrong answer, judged by running SQL.

**What it means.** A step S of an answer is *fine* if there is a rest, built of gold's own operations, that
reads S in the place of what S stands for and gives gold's result. A rest that reads the base tables anew
beside S would complete anything, even nonsense, and is no evidence; so S has to take over at least one of
gold's tables, and the tables that it takes over are not read again (except by primary key, to fetch columns
for the output). With the steps that S itself reads, a fine S shows that all of them are fine.

**Completed.** S is grafted into one SELECT of gold: it replaces the tables that it was made from. A condition
of gold whose columns S still carries is applied again, which does no harm where S has applied it before; one
whose columns S carries no more is left to S. Where S has grouped, gold's aggregates are read from its
columns. A scalar S (`MAX(age)`) may stand for gold's ORDER BY age DESC LIMIT 1. If the whole then gives
gold's result on the database and on all its variants, S is fine.

**Matched.** S gives what a subquery or an arm of gold gives, and gold with S in its place is still gold.

**Lost.** That no completion was found proves nothing. S is called wrong only where it has lost what gold
needs, in whichever SELECT of gold, for whichever of its tables S may stand:

- rows: gold over nothing but those of its rows that S has kept gives another result. Filtering and joining
  what is left cannot bring them back;
- columns: S carries neither what gold still needs (of rows that it has too many, or for the output) nor a
  column that tells the rows of that table apart, or of one that refers to it, by which a later step could
  look it up;
- values: S groups by gold's own keys, has but plain columns and aggregates, and none of them has the values
  of gold's. Not their spelling counts, and what is computed of an aggregate (a rank) may be all it needs.

A step that a later one subtracts (NOT IN, EXCEPT, LEFT JOIN) may rightly hold what gold does not, and is
called lost only in comparison with what gold itself subtracts.

Gold that is written in CTEs or derived tables is first said in plain SELECTs (`prm.sql.inline`), where it
then is still gold by execution. What stays a derived table takes a step in its own SELECT only.

Where gold leaves its rows to chance (`prm.labeling.choices`), another choice is not lost, and not yet gold.

Everything else is unknown. That two results are equal is claimed in one place only, `Gold.same`.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import sqlglot
from sqlglot import exp

from prm.labeling.choices import Choices
from prm.sql.compare import Undecided, results_equal
from prm.sql.database import Database, Rows, SQLError, open_steadily
from prm.sql.decompose import to_sql
from prm.sql.describe import FROM, WITH
from prm.sql.schema import Schema
from prm.sql.tables import quote
from prm.sql.variants import Suite, Verdict, neighbours

Tree = exp.Expression
MAX_GRAFTS = 48  # ways to put one step into gold that are tried


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


def holdings(steps: Sequence[tuple[str, Tree | None]], schema: Schema) -> list[Holding | None]:
    """What each (name, tree) of a chain holds; None where the tree is not understood."""
    known = _tables(schema)
    found: list[Holding | None] = []
    for name, tree in steps:
        held = None if tree is None else _holding(name, tree, known)
        found.append(held)
        if held is not None and name:
            known[name.strip('"').lower()] = held
        elif name:
            known.pop(name.strip('"').lower(), None)
    return found


def _tables(schema: Schema) -> dict[str, Holding]:
    known = {}
    for table in schema.tables:
        name = table.name.lower()
        columns = tuple((c.name, _key(name, c.name)) for c in table.columns)
        known[name] = Holding(
            table.name, columns, frozenset({name}), frozenset(), frozenset(), False, len(columns), step=False
        )
    return known


def _key(instance: str, column: str) -> str:
    return f'"{instance}.{column.lower()}"'


_PLAIN = re.compile(r'"([^".]*)\.([^"]*)"\Z')


def _holding(name: str, tree: Tree, known: dict[str, Holding]) -> Holding | None:
    if tree.args.get(WITH):
        return None
    if isinstance(tree, exp.Subquery):
        return _holding(name, tree.this, known)
    if isinstance(tree, exp.SetOperation):
        arms = [_holding(name, arm, known) for arm in (tree.this, tree.expression)]
        if arms[0] is None or arms[1] is None:
            return None
        left, right = arms
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
    for node in _sources(tree):
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
            plain = _PLAIN.match(text)
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
        for part in (part for clause in clauses if clause is not None for part in _conjuncts(clause)):
            if isinstance(part, exp.EQ) and all(
                isinstance(e, exp.Column) for e in (part.this, part.expression)
            ):
                pairs.append(frozenset({key_of(part.this), key_of(part.expression)}))
    listed: list[tuple[str, str]] = []
    keys = 0
    for projection in tree.expressions:
        inner = projection.unalias()
        if _is_star(inner):
            for alias, columns in sources.items():
                if isinstance(inner, exp.Star) or inner.table.lower() == alias:
                    listed += columns.items()
                    keys += len(columns)
            continue
        listed.append((projection.alias_or_name or to_sql(inner), key_of(inner)))
        keys += inner.find(exp.AggFunc) is None
    group = tree.args.get("group")
    grouped = frozenset(key_of(e) for e in group.expressions) if group else frozenset()
    aggregates = any(_own_aggregates(e, tree) for e in tree.expressions)
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
        tuple(_merged(pairs)),
    )


def _merged(sets: Iterable[Set[Any]]) -> list[frozenset[Any]]:
    """The sets, those with something in common made one."""
    merged: list[frozenset[Any]] = []
    for one in sets:
        joined = [m for m in merged if m & one]
        merged = [m for m in merged if not m & one] + [frozenset(one).union(*joined)]
    return merged


def _is_star(node: Tree) -> bool:
    return isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star))


def _sources(select: exp.Select) -> list[Tree]:
    first = select.args.get(FROM)
    return ([] if first is None else [first.this]) + [join.this for join in select.args.get("joins") or []]


def _own_aggregates(node: Tree, select: exp.Select) -> list[Tree]:
    """The aggregates that make a SELECT group; those of windows and of nested SELECTs do not."""
    return [
        a
        for a in node.find_all(exp.AggFunc)
        if a.parent_select is select and a.find_ancestor(exp.Window, exp.Select) is select
    ]


# --- gold ---------------------------------------------------------------------------------------------------


class Gold:
    """Gold on one database and on variants of it: its rows, its SELECTs, and who gives the same.

    A context manager, or to be closed; variants are written to `folder`. `database` stays the caller's.
    """

    def __init__(
        self,
        sql: str,
        database: Database,
        schema: Schema,
        folder: str | os.PathLike[str],
        timeout: float = 5.0,
    ) -> None:
        """Raises: SQLError if gold does not run."""
        self.database, self.schema = database, schema
        # Variants are read by the worker that the database has: to start one for each would cost most.
        opener = partial(open_steadily, timeout=timeout, pool=database.pool)
        self.suite = Suite(database, sql, folder=folder, opener=opener)
        self.rows, self.ordered = self.suite.gold, self.suite.ordered
        if self.rows:
            self.suite.distil(neighbours(sql, database.path))
        self.known = _tables(schema)
        self._unique: dict[tuple[str, str], bool] = {}
        self.choices = Choices.of(self.suite, schema)
        self.tree = self.choices.plain if self.rows else None

    def same(self, sql: str) -> Verdict:
        """Whether a statement gives gold's result on the database and on all variants, and where it does not:
        the one place where anything is claimed to be equal to gold."""
        return self.suite.verdict(sql)

    def reached(self, tree: Tree, prefix: str) -> bool | None:
        """Whether a completed statement gives gold's result, None if it does not run.

        It also does where it takes others of several rows that tie, if without LIMIT it gives the same rows
        as gold, on the database and on all variants, and with LIMIT still gold's result on the variants,
        which are made without such ties.
        """
        sql = _with(prefix, tree)
        verdict = self.same(sql)
        if verdict.equal is not False or verdict.on != "database":
            return verdict.equal
        unlimited = _without_limit(self.tree), _without_limit(tree)
        if None in unlimited or self.choices.ranked is None or not self.suite.variants:
            return False
        golds, mine = to_sql(unlimited[0]), _with(prefix, unlimited[1])
        places = [self.database, *(opened for _, opened in self.suite.opened)]
        try:
            alike = all(_equal(place.execute(golds), place.execute(mine)) for place in places)
        except SQLError:
            return False
        return alike and bool(self.suite.verdict_on_variants(sql).equal)

    def excludes(self, sql: str) -> bool | None:
        """Whether a statement gives what gold cannot have given, None if it does not run. What may be another
        choice among those that gold leaves open is not excluded, if it is none on the variants either."""
        verdict = self.same(sql)
        if verdict.equal is False and verdict.on == "database":
            try:
                if not self.choices.allow(self.database.execute(sql)):
                    return True
            except SQLError:
                return None
            return self.suite.verdict_on_variants(sql).equal is False
        return None if verdict.equal is None else not verdict.equal

    def __enter__(self) -> Gold:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the variants' workers and delete their files."""
        self.suite.close()

    @cached_property
    def cuts_ties(self) -> bool:
        """Whether a LIMIT of gold keeps some of several rows that tie, or may do so."""
        nested = any(q.args.get("limit") for q in self.tree.find_all(exp.Query) if q is not self.tree)
        return nested or self.choices.cuts_ties

    def unique(self, table: str, column: str) -> bool:
        """Whether the values of a column tell the rows of its table apart, or (of a derived table, whose name
        is "") may do so."""
        if not table:
            return True
        if (table, column) not in self._unique:
            t, c = quote(table), quote(column)
            try:
                rows: Rows = self.database.execute(
                    f"SELECT COUNT(*) = COUNT(DISTINCT {c}) AND COUNT(*) > 0 FROM {t}"
                )
                self._unique[table, column] = bool(rows[0][0])
            except SQLError:
                self._unique[table, column] = True  # nothing is called lost that is not known to be
        return self._unique[table, column]


# --- one step in gold's place -------------------------------------------------------------------------------

Place = tuple[str, str]  # alias in gold's SELECT, column


class _Block:
    """One SELECT of a fresh copy of gold, whose sources are tables, and derived tables beside them, that are
    joined by INNER JOINs. `aliases` of derived tables have the name ""."""

    def __init__(self, gold: Gold, index: int) -> None:
        self.tree: Tree = gold.tree.copy()
        self.select: exp.Select = list(self.tree.find_all(exp.Select))[index]
        self.known, self.schema = gold.known, gold.schema
        self.aliases = {node.alias_or_name.lower(): node.name.lower() for node in _sources(self.select)}
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
            for part in _conjuncts(clause)
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
                for node in _sources(select):
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
        return _merged(pair for pair in pairs if None not in pair)

    def mates(self, place: Place) -> list[Place]:
        """The place and those that gold's join conditions make equal to it."""
        others = next((c for c in self.classes if place in c), {place})
        return [place, *sorted(others - {place})]

    def own(self, node: Tree) -> list[tuple[exp.Column, Place]]:
        return [(c, self.owners[id(c)]) for c in node.find_all(exp.Column) if id(c) in self.owners]


def _has(table: Holding, column: str) -> bool:
    return any(name.lower() == column.lower() for name, _ in table.columns)


def _conjuncts(condition: Tree) -> Iterator[Tree]:
    if isinstance(condition, exp.Paren) and isinstance(condition.this, exp.And):
        condition = condition.this
    if isinstance(condition, exp.And):
        yield from _conjuncts(condition.this)
        yield from _conjuncts(condition.expression)
    else:
        yield condition


def _blocks(gold: Gold) -> list[int]:
    """Which SELECTs of gold a step can be put into."""
    if gold.tree is None:
        return []
    found = []
    for i, select in enumerate(gold.tree.find_all(exp.Select)):
        tables = [n for n in _sources(select) if isinstance(n, exp.Table)]
        derived = [n for n in _sources(select) if isinstance(n, exp.Subquery) and n.alias]
        known = all(n.name.lower() in gold.known for n in tables)
        joins = select.args.get("joins") or []
        inner = not any(j.side or j.method or j.args.get("using") for j in joins)
        names = [n.alias_or_name.lower() for n in _sources(select)]
        if tables and known and len(tables) + len(derived) == len(names) == len(set(names)) and inner:
            found.append(i)
    return found


def _covers(block: _Block, held: Holding, alone: bool) -> Iterator[dict[str, str]]:
    """Which of gold's tables the step stands for: its own table -> gold's alias, in all ways.

    `alone`: none if the step also reads a table that another part of gold is about, for it may hold, or
    leave out, what that other part shall; gold would be completed whatever it does with that table.
    """
    derived = {
        id(t) for n in _sources(block.select) if not isinstance(n, exp.Table) for t in n.find_all(exp.Table)
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


class _Impossible(Exception):
    """The step cannot take this place; the arguments are the aliases of the tables whose columns it lacks."""


def _graft(
    gold: Gold, index: int, cover: dict[str, str], held: Holding, distinct: bool
) -> tuple[Tree, set[str]]:
    """Gold with the step in the place of the tables that `cover` names, see the module docstring; and the
    aliases of the tables about which a condition is left to the step.

    Raises: _Impossible.
    """
    block = _Block(gold, index)
    select = block.select
    instance_of = {alias: instance for instance, alias in cover.items()}
    names = {key: (name, key) for name, key in reversed(held.columns)}
    for keys in held.equal:
        carrying = next((names[key] for key in sorted(keys) if key in names), None)
        if carrying is not None:
            names = dict.fromkeys(keys, carrying) | names
    fetched: dict[str, exp.Join] = {}
    conditions: list[Tree] = []
    left: set[str] = set()

    def carried(place: Place) -> Tree | None:
        wanted = _is_text(gold.schema, block.aliases[place[0]], place[1])
        for alias, column in block.mates(place):
            if alias not in instance_of:
                found = exp.column(quoted(column), table=quoted(alias))
                table = block.aliases[alias]
                is_text = _is_text(gold.schema, table, column) if table else wanted
            elif (named := names.get(_key(instance_of[alias], column))) is not None:
                found = exp.column(quoted(named[0]), table=quoted(held.name))
                plain = _PLAIN.match(named[1])
                is_text = _is_text(gold.schema, plain[1].split("~")[0], plain[2])
            else:
                continue
            if is_text == wanted:
                return found
            return exp.cast(found, "TEXT" if wanted else "NUMERIC")  # '3' = 3 where columns are compared
        return None

    def looked_up(place: Place) -> exp.Column | None:
        """The column by the primary key that the step carries."""
        alias = place[0]
        table = gold.schema.table(block.aliases[alias])
        if alias not in fetched:
            key = carried((alias, table.primary_key[0].lower())) if len(table.primary_key) == 1 else None
            if key is None:
                return None
            there = exp.column(quoted(table.primary_key[0]), table=quoted(alias))
            fetched[alias] = exp.Join(this=exp.alias_(exp.to_table(table.name), quoted(alias), table=True))
            conditions.append(exp.EQ(this=there, expression=key))
        return exp.column(quoted(place[1]), table=quoted(alias))

    def put(node: Tree, fetch: bool) -> set[str]:
        """Rewrite a tree that hangs under another one to read the step; if columns are missing, only tell
        the aliases of their tables."""
        places = [
            (c, carried(place) or (looked_up(place) if fetch else None), place[0])
            for c, place in block.own(node)
            if place[0] in instance_of
        ]
        missing = {alias for _, new, alias in places if new is None}
        for column, new, _ in places if not missing else []:
            column.replace(new)
        return missing

    clauses = [select.args.get(k) for k in ("having", "order")]
    grouped = select.args.get("group") is not None
    aggregates = [a for e in [*select.expressions, *clauses] if e for a in _own_aggregates(e, select)]
    done = held.aggregated and (grouped or bool(aggregates))  # the step has grouped already
    if done and (select.find(exp.Window) or not _groups_alike(block, held, instance_of, gold)):
        raise _Impossible

    mixed = 0
    for part in block.conditions:
        aliases = {place[0] for _, place in block.own(part)}
        wrapper = exp.Paren(this=part)
        missing = put(wrapper, fetch=False)
        if not missing:
            conditions.append(wrapper.this)
            mixed += bool(aliases & set(instance_of)) and bool(aliases - set(instance_of))
        elif aliases - set(instance_of):
            raise _Impossible(*missing)
        left |= missing
    rest = [n for n in _sources(select) if n.alias_or_name.lower() not in instance_of]
    if rest and not mixed:
        raise _Impossible

    stars = [e for e in select.expressions if _is_star(e)]
    for star in stars:
        aliases = [star.table.lower()] if isinstance(star, exp.Column) else list(block.aliases)
        expanded = []
        for alias in aliases:
            if not block.aliases[alias]:
                raise _Impossible
            for column in gold.schema.table(block.aliases[alias]).columns:
                node = exp.column(quoted(column.name), table=quoted(alias))
                block.add(node, (alias, column.name.lower()))
                expanded.append(node)
        at = select.expressions.index(star)
        select.set("expressions", [*select.expressions[:at], *expanded, *select.expressions[at + 1 :]])

    def finished(node: Tree, inside: list[Tree], fetch: bool) -> set[str]:
        """`put`, and the aggregates `inside` become columns of a step that has grouped. Of one that has not,
        a count whose column it lacks counts rows: which column is counted rarely matters."""
        for count in [] if done else inside:
            place = block.owners.get(id(count.this)) if isinstance(count, exp.Count) else None
            if place and place[0] in instance_of and not (carried(place) or (fetch and looked_up(place))):
                count.set("this", exp.Star())
        pairs = [(a, _aggregate_column(a, held, block, instance_of)) for a in inside] if done else []
        if any(new is None for _, new in pairs):
            return set(instance_of)
        for aggregate, new in pairs:
            aggregate.replace(new)
        return put(node, fetch)

    order, having = select.args.get("order"), select.args.get("having")
    if order is not None:
        missing = finished(order, _own_aggregates(order, select), fetch=True)
        if missing and select.args.get("limit") is None:
            raise _Impossible(*missing)
        if missing:
            select.set("order", None)
            select.set("limit", None)
        left |= missing
    if having is not None:
        missing = finished(having, _own_aggregates(having, select), fetch=False)
        if missing and not done:
            raise _Impossible(*missing)
        if done:
            select.set("having", None)
            conditions += [] if missing else [having.this]
        left |= missing
    outputs = []
    for projection in select.expressions:
        name, inside = projection.alias_or_name, _own_aggregates(projection, select)
        wrapper = exp.Paren(this=projection)
        missing = finished(wrapper, inside, fetch=True)
        if missing:
            raise _Impossible(*missing)
        new = wrapper.this
        outputs.append(new if isinstance(new, exp.Alias) or not name else exp.alias_(new, name, quoted=True))
    select.set("expressions", outputs)
    group = select.args.get("group")
    if group is not None and done:
        select.set("group", None)
    elif group is not None:
        missing = put(group, fetch=True)
        if missing:
            raise _Impossible(*missing)
    select.set(FROM, exp.From(this=exp.Table(this=quoted(held.name))))
    select.set("joins", [exp.Join(this=node) for node in rest] + list(fetched.values()))
    select.set("where", exp.Where(this=exp.and_(*conditions)) if conditions else None)
    if distinct:
        if select.args.get("distinct"):
            raise _Impossible
        select.set("distinct", exp.Distinct())
    return block.tree, left


def _group_keys(block: _Block, instance_of: dict[str, str]) -> list[str]:
    """What gold's SELECT groups by, as a step's `grouped` would name it."""
    group = block.select.args.get("group")
    return [
        _place_key(block.owners[id(key)], instance_of)
        if id(key) in block.owners
        else _aggregate_key(key, block, instance_of)
        for key in (group.expressions if group is not None else [])
    ]


def _place_key(place: Place, instance_of: dict[str, str]) -> str:
    alias, column = place
    return _key(instance_of.get(alias, f"~{alias}"), column)  # "~": a table that the step does not stand for


def _groups_alike(
    block: _Block, held: Holding, instance_of: dict[str, str], gold: Gold | None = None
) -> bool:
    """Whether the step's groups are gold's: the keys of each follow from those of the other, by gold's
    conditions, the step's joins, and primary keys. With `gold`, also by columns that tell the rows of their
    table apart in the data: for what is checked by execution afterwards."""
    equal = [
        *held.equal,
        *(frozenset(_place_key(place, instance_of) for place in places) for places in block.classes),
    ]
    rows = [  # the key that tells the rows of a table apart, and all its columns
        (
            {_key(instance, c.lower()) for c in table.primary_key},
            {_key(instance, c.name) for c in table.columns},
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
        _place_key(block.owners[id(part.this)], instance_of)
        for part in block.conditions
        if isinstance(part, exp.EQ)
        and isinstance(part.expression, exp.Literal)
        and id(part.this) in block.owners
    }
    golds = one_value | set(_group_keys(block, instance_of))
    if gold is not None:
        rows += [
            ({key}, {_key(instance, c.name) for c in table.columns})
            for instance in held.tables
            for table in [block.schema.table(instance.split("~")[0])]
            if table is not None
            for column in table.columns
            if (key := _key(instance, column.name)) in golds | held.grouped
            and gold.unique(table.name, column.name)
        ]
    return golds <= following(held.grouped | one_value) and held.grouped <= following(golds)


def _is_text(schema: Schema, table: str, column: str) -> bool:
    """Whether SQLite holds the column's values as text: what equals it may be a number."""
    declared = schema.table(table).column(column)
    return declared is not None and any(word in declared.type.upper() for word in ("CHAR", "CLOB", "TEXT"))


def quoted(name: str) -> exp.Identifier:
    return exp.Identifier(this=name, quoted=True)


def _aggregate_column(
    node: Tree, held: Holding, block: _Block, instance_of: dict[str, str]
) -> exp.Column | None:
    """The column of a step that has grouped in which an aggregate of gold stands."""
    wanted = _aggregate_key(node, block, instance_of)
    for name, key in held.columns:
        if key == wanted or (isinstance(node, exp.Count) and _is_count(key, node)):
            return exp.column(quoted(name), table=quoted(held.name))
    return None


def _aggregate_key(node: Tree, block: _Block, instance_of: dict[str, str]) -> str:
    copy = node.copy()
    for column, original in zip(copy.find_all(exp.Column), node.find_all(exp.Column), strict=True):
        place = block.owners.get(id(original))
        if place is not None and not isinstance(column.this, exp.Star):
            name = f"{instance_of.get(place[0], place[0])}.{place[1]}"
            column.replace(exp.Column(this=quoted(name)))
    return to_sql(copy)


def _is_count(key: str, node: Tree) -> bool:
    """Whether a key counts as `node` does; which column is counted rarely matters, and is found out by
    running it."""
    return key.upper().startswith("COUNT(") and ("DISTINCT" in key.upper()) == (
        node.find(exp.Distinct) is not None
    )


def _superlative(gold: Gold, index: int, held: Holding) -> Tree | None:
    """ORDER BY e LIMIT 1 as e = (SELECT the step's only value)."""
    block = _Block(gold, index)
    select = block.select
    order, limit = select.args.get("order"), select.args.get("limit")
    if order is None or limit is None or to_sql(limit.expression) != "1":
        return None
    by = order.expressions[0].this
    value = exp.Subquery(
        this=exp.select(exp.column(quoted(held.columns[0][0]))).from_(exp.Table(this=quoted(held.name)))
    )
    condition = exp.EQ(this=by.copy(), expression=value)
    select.set("order", None)
    select.set("limit", None)
    clause = "having" if by.find(exp.AggFunc) else "where"
    old = select.args.get(clause)
    kind = exp.Having if clause == "having" else exp.Where
    select.set(clause, kind(this=exp.and_(old.this, condition) if old else condition))
    return block.tree


def _matches(gold: Gold, prefix: str, held: Holding) -> Iterator[Tree]:
    """Gold with the step in the place of a subquery or an arm that gives the same rows."""
    rows = None
    for i, node in enumerate(gold.tree.find_all(exp.Query)):
        if node is gold.tree or isinstance(node, exp.Subquery):
            continue
        tables = {t.name.lower() for t in node.find_all(exp.Table)}
        mine = {t.split("~")[0] for t in held.tables | held.within}
        if not tables & mine or (mine - tables) & {t.name.lower() for t in gold.tree.find_all(exp.Table)}:
            continue  # it is about something else, or also about another part of gold
        try:
            there = gold.database.execute(to_sql(node))
            rows = (
                gold.database.execute(f"{prefix}\nSELECT * FROM {quote(held.name)}") if rows is None else rows
            )
        except SQLError:
            continue  # correlated, or too large
        if not there or len(there[0]) != len(held.columns) or not _equal(there, rows):
            continue
        tree = gold.tree.copy()
        target = list(tree.find_all(exp.Query))[i]
        names = [e.alias_or_name for e in target.selects]
        columns = [
            exp.alias_(exp.column(quoted(column)), name or column, quoted=True)
            for (column, _), name in zip(held.columns, names, strict=False)
        ]
        target.replace(exp.select(*columns).from_(exp.Table(this=quoted(held.name))))
        yield tree


def is_subtracted(node: Tree) -> bool:
    """Whether a query uses a part of it for what it does not want: NOT IN, EXCEPT, an outer join …"""
    while node.parent is not None:
        parent = node.parent
        if isinstance(parent, exp.Except) and parent.expression is node:
            return True
        if isinstance(parent, exp.Join) and (parent.side or parent.method):
            return True
        if isinstance(parent, exp.From) and any(join.side for join in parent.parent.args.get("joins") or []):
            return True
        if isinstance(parent, (exp.Not, exp.NEQ, exp.Case, exp.If)):
            return True
        node = parent
    return False


def _equal(rows: Rows, others: Rows) -> bool:
    try:
        return results_equal(rows, others, ordered=False)
    except Undecided:
        return False


# --- the verdict on a step ----------------------------------------------------------------------------------


def judge(gold: Gold, prefix: str, held: Holding | None, subtracted: bool) -> str:
    """Give "completed", "matched", "lost" or "unknown" for the last step of `prefix` (`WITH …, name AS (…)`).

    `subtracted`: a later step uses it for what it does not want.
    """
    if gold.tree is None or held is None or held.name.lower() in gold.known or not held.columns:
        return "unknown"
    blocks = [(i, _Block(gold, i)) for i in _blocks(gold)]
    alike = [i for i, block in blocks if is_subtracted(block.select)]
    if any(held.name.lower() in block.aliases for _, block in blocks):
        return "unknown"
    covers = [(i, cover) for i, block in blocks for cover in _covers(block, held, alone=True)][:MAX_GRAFTS]
    fitted: list[tuple[int, dict[str, str]]] = []  # those whose graft runs, and gives something else
    for i, cover in covers:
        for distinct in (False, True):
            try:
                tree, _ = _graft(gold, i, cover, held, distinct)
            except _Impossible:
                continue
            reached = gold.reached(tree, prefix)
            if reached:
                return "completed"
            if not distinct and reached is not None:
                fitted.append((i, cover))
    scalar = held.aggregated and held.keys == 0 and len(held.columns) == 1
    if scalar:
        for i, _ in blocks:
            tree = _superlative(gold, i, held)
            if tree is not None and gold.same(_with(prefix, tree)).equal:
                return "completed"
    for tree in _matches(gold, prefix, held):
        if gold.same(_with(prefix, tree)).equal:
            return "matched"
    covers = [(i, cover) for i, block in blocks for cover in _covers(block, held, alone=False)]
    if len(covers) > MAX_GRAFTS or (gold.cuts_ties and re.search(r"\bLIMIT\b", prefix, re.IGNORECASE)):
        return "unknown"
    if subtracted:
        covers = [(i, cover) for i, cover in covers if i in alike]
    if not covers or _is_read_elsewhere(gold, {i for i, _ in blocks}, held):
        return "unknown"
    if scalar:
        return "lost" if _other_scalar(gold, prefix, blocks, held) else "unknown"
    nested_limit = any(q.args.get("limit") for q in gold.tree.find_all(exp.Query) if q is not gold.tree)
    compared = False
    for i, cover in covers:
        kept = _rows_kept(gold, prefix, i, cover, held)
        compared = compared or kept is not None
        if kept is False or (kept is None and not set(cover) & held.tables):
            continue
        if kept is None or not held.single or (nested_limit and (i, cover) in fitted):
            return "unknown"
        if held.aggregated:
            if not _other_values(gold, prefix, i, cover, held):
                return "unknown"
        elif not _columns_lost(gold, prefix, i, cover, held):
            return "unknown"
    return "lost" if compared else "unknown"


def _is_read_elsewhere(gold: Gold, blocks: Set[int], held: Holding) -> bool:
    """Whether gold reads a table of the step in a SELECT that is none of `blocks`: it may belong there."""
    tables = {instance.split("~")[0] for instance in held.tables | held.within}
    return any(
        isinstance(source, exp.Table) and source.name.lower() in tables
        for i, select in enumerate(gold.tree.find_all(exp.Select))
        if i not in blocks
        for source in _sources(select)
    )


def _columns_lost(gold: Gold, prefix: str, index: int, cover: dict[str, str], held: Holding) -> bool:
    """Whether the step has all rows that gold needs, but too few columns to go on from there."""
    block = _Block(gold, index)
    try:
        _, missing = _graft(gold, index, cover, held, distinct=False)
        if not _has_more_rows(gold, prefix, index, cover, held):
            return False  # it differs from gold in how often its rows are there
    except _Impossible as impossible:
        missing = set(impossible.args)
    # What a column that tells a table's rows apart can look up: that table, and those that it refers to.
    instance_of = {alias: instance for instance, alias in cover.items()}
    lacking = [f'"{instance_of[alias]}.' for alias in missing if alias in instance_of]
    if any(
        not _PLAIN.match(key) and (re.search(r"\bSELECT\b", key) or any(name in key for name in lacking))
        for _, key in held.columns
    ):
        return False  # it has computed something of these tables, and that may be all that is needed
    keys = {key for _, key in held.columns}
    keys |= {key for equal in held.equal if equal & keys for key in equal}
    found = {
        alias
        for alias, table in block.aliases.items()
        if alias not in instance_of
        or any(
            _key(instance_of[alias], c.name) in keys and gold.unique(table, c.name)
            for c in gold.schema.table(table).columns
        )
    }
    for _ in block.aliases:
        for places in block.classes:
            if any(alias in found for alias, _ in places):
                found |= {a for a, column in places if gold.unique(block.aliases[a], column)}
    return bool(missing - found)


def _has_more_rows(gold: Gold, prefix: str, index: int, cover: dict[str, str], held: Holding) -> bool:
    """Whether the step has rows that gold's SELECT has not before it groups and cuts."""
    block = _Block(gold, index)
    plain = [(name, _PLAIN.match(key)) for name, key in held.columns]
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


def _with(prefix: str, tree: Tree) -> str:
    return f"{prefix}\n{to_sql(tree)}"


def _without_limit(tree: Tree) -> Tree | None:
    if not isinstance(tree, exp.Select) or tree.args.get("limit") is None:
        return None
    tree = tree.copy()
    tree.set("limit", None)
    tree.set("offset", None)
    return tree


def _rows_kept(gold: Gold, prefix: str, index: int, cover: dict[str, str], held: Holding) -> bool | None:
    """Whether gold over those rows alone that the step has kept is still gold, or another choice that gold
    leaves open; None where no column tells."""
    block = _Block(gold, index)
    pairs = []
    for name, key in held.columns:
        plain = _PLAIN.match(key)
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
    excluded = gold.excludes(_with(prefix, block.tree))
    return None if excluded is None else not excluded


def _other_values(gold: Gold, prefix: str, index: int, cover: dict[str, str], held: Holding) -> bool:
    """Whether the step has gold's groups, but not the values that gold needs of them.

    That is only known of a step that has nothing beside gold's keys but columns and plain aggregates of
    columns: what has been computed of an aggregate (a rank, a share) may be all that is needed.
    """
    block = _Block(gold, index)
    select, group = block.select, block.select.args.get("group")
    instance_of = {alias: instance for instance, alias in cover.items()}
    clauses = [*select.expressions, *(select.args.get(k) for k in ("having", "order"))]
    aggregates = [a for e in clauses if e is not None for a in _own_aggregates(e, select)]
    if (
        group is None
        or not aggregates
        or select.find(exp.Window)
        or not _groups_alike(block, held, instance_of)
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
        tree, left = _graft(gold, index, cover, held, distinct=False)
        if not left:  # gold runs over the step's values
            return bool(gold.excludes(_with(prefix, tree)))
        # Which of the groups gold wants cannot be told by values that are not there; is it still to be told?
        too_many = len(gold.database.execute(_with(prefix, tree))) > len(gold.rows)
    except (_Impossible, SQLError):
        return False
    return bool(lacking) and too_many and select is block.tree and not gold.cuts_ties


def _values_lacking(
    gold: Gold, prefix: str, block: _Block, instance_of: dict[str, str], held: Holding, aggregates: list[Tree]
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
        found = [carried[k] for k in (_place_key(p, instance_of) for p in places) if k in carried]
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
    if _PLAIN.match(key):
        return True
    node = sqlglot.parse_one(key, dialect="sqlite")
    what = node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this
    return isinstance(node, (exp.Count, exp.Sum, exp.Min, exp.Max)) and isinstance(
        what, (exp.Column, exp.Star)
    )


def _other_scalar(gold: Gold, prefix: str, blocks: list[tuple[int, _Block]], held: Holding) -> bool:
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
            if isinstance(inner, exp.AggFunc) and _aggregate_key(inner, block, block.aliases) == key:
                alone = block.select.copy()
                alone.set("expressions", [inner.copy()])
                try:
                    rows = gold.database.execute(to_sql(alone))
                    mine = gold.database.execute(f"{prefix}\nSELECT * FROM {quote(held.name)}")
                except SQLError:
                    return False
                if _equal(rows, mine):
                    return False
                differs = True
    return differs
