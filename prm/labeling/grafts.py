"""A step in gold's place: what a rest made of gold's own operations would look like behind it.

A step is grafted into one SELECT of gold: it replaces the tables that it was made from. A condition of gold
whose columns the step still carries is applied again, which does no harm where the step has applied it
before; one whose columns it carries no more is left to the step. Where the step has grouped, gold's
aggregates are read from its columns. A scalar step (`MAX(age)`) may stand for gold's ORDER BY age DESC LIMIT
1 (`superlative`), and one that gives what a subquery or an arm of gold gives may take its place (`matches`).
Whether gold is reached in this way is for execution to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from prm.labeling.blocks import Block, Place, aggregate_key, groups_alike
from prm.labeling.gold import Gold, equal_rows
from prm.labeling.holdings import PLAIN, Holding, column_key, is_star, own_aggregates, quoted, sources_of
from prm.sql.database import SQLError
from prm.sql.decompose import to_sql
from prm.sql.describe import FROM
from prm.sql.schema import Schema
from prm.sql.tables import quote

Tree = exp.Expr


class Impossible(Exception):
    """The step cannot take this place; the arguments are the aliases of the tables whose columns it lacks."""


def graft(
    gold: Gold, index: int, cover: dict[str, str], held: Holding, distinct: bool
) -> tuple[Tree, set[str]]:
    """Gold with the step in the place of the tables that `cover` names, see the module docstring; and the
    aliases of the tables about which a condition is left to the step.

    Raises: Impossible.
    """
    block = Block(gold, index)
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
            elif (named := names.get(column_key(instance_of[alias], column))) is not None:
                found = exp.column(quoted(named[0]), table=quoted(held.name))
                plain = PLAIN.match(named[1])
                is_text = plain is not None and _is_text(gold.schema, plain[1].split("~")[0], plain[2])
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
        if table is None:
            return None
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
    aggregates = [a for e in [*select.expressions, *clauses] if e for a in own_aggregates(e, select)]
    done = held.aggregated and (grouped or bool(aggregates))  # the step has grouped already
    if done and (select.find(exp.Window) or not groups_alike(block, held, instance_of, gold)):
        raise Impossible

    mixed = 0
    for part in block.conditions:
        aliases = {place[0] for _, place in block.own(part)}
        wrapper = exp.Paren(this=part)
        missing = put(wrapper, fetch=False)
        if not missing:
            conditions.append(wrapper.this)
            mixed += bool(aliases & set(instance_of)) and bool(aliases - set(instance_of))
        elif aliases - set(instance_of):
            raise Impossible(*missing)
        left |= missing
    rest = [n for n in sources_of(select) if n.alias_or_name.lower() not in instance_of]
    if rest and not mixed:
        raise Impossible

    stars = [e for e in select.expressions if is_star(e)]
    for star in stars:
        starred = [star.table.lower()] if isinstance(star, exp.Column) else list(block.aliases)
        expanded = []
        for alias in starred:
            name = block.aliases[alias]
            table = gold.schema.table(name) if name else None
            if table is None:  # it is a derived one
                raise Impossible
            for column in table.columns:
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
        missing = finished(order, own_aggregates(order, select), fetch=True)
        if missing and select.args.get("limit") is None:
            raise Impossible(*missing)
        if missing:
            select.set("order", None)
            select.set("limit", None)
        left |= missing
    if having is not None:
        missing = finished(having, own_aggregates(having, select), fetch=False)
        if missing and not done:
            raise Impossible(*missing)
        if done:
            select.set("having", None)
            conditions += [] if missing else [having.this]
        left |= missing
    outputs = []
    for projection in select.expressions:
        name, inside = projection.alias_or_name, own_aggregates(projection, select)
        wrapper = exp.Paren(this=projection)
        missing = finished(wrapper, inside, fetch=True)
        if missing:
            raise Impossible(*missing)
        new = wrapper.this
        outputs.append(new if isinstance(new, exp.Alias) or not name else exp.alias_(new, name, quoted=True))
    select.set("expressions", outputs)
    group = select.args.get("group")
    if group is not None and done:
        select.set("group", None)
    elif group is not None:
        missing = put(group, fetch=True)
        if missing:
            raise Impossible(*missing)
    select.set(FROM, exp.From(this=exp.Table(this=quoted(held.name))))
    select.set("joins", [exp.Join(this=node) for node in rest] + list(fetched.values()))
    select.set("where", exp.Where(this=exp.and_(*conditions)) if conditions else None)
    if distinct:
        if select.args.get("distinct"):
            raise Impossible
        select.set("distinct", exp.Distinct())
    return block.tree, left


def _is_text(schema: Schema, table: str, column: str) -> bool:
    """Whether SQLite holds the column's values as text: what equals it may be a number."""
    found = schema.table(table)
    declared = found.column(column) if found is not None else None
    return declared is not None and any(word in declared.type.upper() for word in ("CHAR", "CLOB", "TEXT"))


def _aggregate_column(
    node: Tree, held: Holding, block: Block, instance_of: dict[str, str]
) -> exp.Column | None:
    """The column of a step that has grouped in which an aggregate of gold stands."""
    wanted = aggregate_key(node, block, instance_of)
    for name, key in held.columns:
        if key == wanted or (isinstance(node, exp.Count) and _is_count(key, node)):
            return exp.column(quoted(name), table=quoted(held.name))
    return None


def _is_count(key: str, node: Tree) -> bool:
    """Whether a key counts as `node` does; which column is counted rarely matters, and is found out by
    running it."""
    return key.upper().startswith("COUNT(") and ("DISTINCT" in key.upper()) == (
        node.find(exp.Distinct) is not None
    )


def superlative(gold: Gold, index: int, held: Holding) -> Tree | None:
    """ORDER BY e LIMIT 1 as e = (SELECT the step's only value)."""
    block = Block(gold, index)
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


def matches(gold: Gold, prefix: str, held: Holding) -> Iterator[Tree]:
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
        if not there or len(there[0]) != len(held.columns) or not equal_rows(there, rows):
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
