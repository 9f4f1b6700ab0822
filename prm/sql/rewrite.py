"""Other ways to write the same: equivalent rewrites of a chain of steps.

A model that only ever sees one form of each right query learns that form, and takes any other for an error.
So right traces come in several forms: the order of joins and conditions, IN or EXISTS or a join, COUNT(*) or
COUNT(1), BETWEEN or two comparisons, DISTINCT or GROUP BY, a condition in a CASE or in WHERE, two steps or
one, names. What also stands in wrong steps (NOT, OR, CAST, DISTINCT, LEFT JOIN, CASE, a window) stands in
right ones here, where it changes nothing.

As in `prm.sql.mutate`, each rewrite is a small generator over syntax trees. Most are equivalences of SQL
whatever the data; those that lean on what keys promise (no NULL, no second row) are tried on keys only, and
two (`any_case`, TRIM) hold where the data is tidy.
Nothing is taken on trust: `prm.labeling.build` runs every rewritten chain and drops it unless its result is
gold's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from random import Random

from sqlglot import exp

from prm.sql.chain import (
    Attribute,
    Known,
    Link,
    Relation,
    Tree,
    column_node,
    edited,
    identifier,
    known_at,
    resolve,
    source_nodes,
    sources_of,
    with_variant,
    written_like,
)
from prm.sql.decompose import to_sql
from prm.sql.describe import FROM
from prm.sql.mutate import is_star, qualified

_SITES = 30  # in a step: conditions of hundreds of terms exist

#: How likely a rewrite is drawn where it is possible. What errors bring in often has to be common where it
#: does no harm, too (`benchmarks/shortcuts.py` shows which words are right too seldom or too often); what few
#: chains allow, weighs more where one does, as errors do (`prm.labeling.chains.REACH`).
_WEIGHTS = {
    "join_order": 0.1, "join_sides": 0.1, "join_in_where": 0.1, "left_join": 0.3, "needless_join": 1.1,
    "in_exists": 0.5, "in_join": 0.5, "not_in_except": 0.5, "sides": 0.07, "condition_order": 0.2,
    "between": 0.5, "in_list": 0.1, "implied_condition": 0.35, "negated": 0.07, "constant": 0.1,
    "count": 0.9, "average": 0.8, "distinct_group": 1.0, "group_finer": 0.45, "group_extreme": 1.5,
    "extreme": 1.5, "idle_order": 0.5, "case_count": 0.6, "group_window": 0.1, "idle_count": 0.05,
    "idle_cast": 0.2, "idle_text": 0.1, "idle_date": 2.0, "any_case": 0.6, "order_number": 0.2,
    "alias": 0.05, "step_order": 0.3, "one_step": 0.3, "derived_table": 0.1,
}  # fmt: skip

_FLIPPED: dict[type[Tree], type[Tree]] = {
    exp.EQ: exp.EQ, exp.NEQ: exp.NEQ, exp.GT: exp.LT, exp.LT: exp.GT, exp.GTE: exp.LTE, exp.LTE: exp.GTE,
}  # fmt: skip
_OPPOSITE: dict[type[Tree], type[Tree]] = {
    exp.EQ: exp.NEQ, exp.NEQ: exp.EQ, exp.GT: exp.LTE, exp.LTE: exp.GT, exp.LT: exp.GTE, exp.GTE: exp.LT,
}  # fmt: skip
_COMPARED = tuple(_FLIPPED)
_WEAKER: dict[type[Tree], list[type[Tree]]] = {
    exp.EQ: [exp.GTE, exp.LTE], exp.GT: [exp.GTE], exp.LT: [exp.LTE],
}  # fmt: skip


def alternatives(chain: Sequence[Link], known: Known, rng: Random) -> Iterator[list[Link]]:
    """Equivalent chains, each with up to three rewrites, endlessly unless nothing can be rewritten.

    `known` is what every step may read: the tables. The chains depend on the state of `rng` alone; the same
    one may come twice.
    """
    fruitless = 0
    while fruitless < 5:
        changed = list(chain)
        wanted = rng.choice((2, 2, 3))
        for _ in range(wanted):
            changed = _rewritten(changed, known, rng) or changed
        if [to_sql(link.tree) for link in changed] == [to_sql(link.tree) for link in chain]:
            fruitless += 1
            continue
        fruitless = 0
        yield changed


def _rewritten(chain: list[Link], known: Known, rng: Random) -> list[Link] | None:
    """The chain with one rewrite, any that is possible."""
    late = {kind: rng.expovariate(weight) for kind, weight in _WEIGHTS.items()}
    kinds = sorted(late, key=lambda kind: late[kind])
    for kind in kinds:
        found = next(chain_rewrites(kind, chain, known, rng), None)
        if found is not None:
            return found
    return None


def chain_rewrites(kind: str, chain: Sequence[Link], known: Known, rng: Random) -> Iterator[list[Link]]:
    """The chains that one kind of rewrite (a key of `REWRITES` or `CHAIN_REWRITES`) gives, lazily."""
    places = list(range(len(chain)))
    rng.shuffle(places)
    for at in places:
        if kind in CHAIN_REWRITES:
            links = CHAIN_REWRITES[kind](chain, at, known)
            if links is not None:
                yield links
            continue
        for tree in rewrites(kind, chain[at].tree, known_at(chain, at, known), rng):
            links = with_variant(chain, at, tree, known)
            if links is not None:
                yield links


def rewrites(kind: str, tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """The trees that one kind of rewrite makes of a step's SELECT or set operation, in a random order."""
    was = to_sql(tree)
    found = list(islice(REWRITES[kind](tree, known), _SITES))
    rng.shuffle(found)
    yield from (new for new in found if to_sql(new) != was)


# --- reading trees ------------------------------------------------------------------------------------------


def _conditions(tree: Tree) -> Iterator[Tree]:
    """Every condition in WHERE and HAVING, inside NOT, AND and OR too; not those in subqueries' heads."""
    for clause in tree.find_all(exp.Where, exp.Having):
        stack = [clause.this]
        while stack:
            node = stack.pop()
            if isinstance(node, exp.Connector):
                stack += [node.this, node.expression]
            elif isinstance(node, (exp.Paren, exp.Not)):
                stack.append(node.this)
            yield node


def _comparisons(tree: Tree) -> Iterator[Tree]:
    return (node for node in _conditions(tree) if type(node) in _FLIPPED)


def _replaced(tree: Tree, node: Tree, new: Tree) -> Tree:
    """`tree` with `new` for the condition `node`, in brackets where its neighbours need them."""
    tight = isinstance(node.parent, (exp.And, exp.Not))
    loose = isinstance(new, exp.Or) or (isinstance(new, exp.And) and isinstance(node.parent, exp.Not))
    return edited(tree, (node, exp.Paren(this=new) if tight and loose else new))


def _own(node: Tree | None, select: exp.Select, kind: type[Tree]) -> list[Tree]:
    return [] if node is None else [n for n in node.find_all(kind) if n.parent_select is select]


def _attribute(node: Tree, known: Known) -> Attribute | None:
    where = resolve(node, known) if isinstance(node, exp.Column) else None
    return None if where is None else where[1]


def _inner_joins(select: exp.Select) -> list[Tree]:
    """Its joins, if all are plain INNER JOINs ON a condition between tables or steps."""
    joins = select.args.get("joins") or []
    plain = all(
        join.args.get("on") is not None and not join.side and not join.args.get("method")
        and join.kind in ("", "INNER") and isinstance(join.this, exp.Table)
        for join in joins
    )  # fmt: skip
    return joins if plain and isinstance(source_nodes(select)[0], exp.Table) else []


def _whole_table(select: exp.Select, known: Known) -> Relation | None:
    """The one table (no step) that a SELECT reads, if it reads nothing else."""
    sources = sources_of(select, known)
    return (
        sources[0][1] if len(sources) == len(source_nodes(select)) == 1 and not sources[0][1].step else None
    )


# --- rewrites of one step: joins ----------------------------------------------------------------------------


def join_order(tree: Tree, known: Known) -> Iterator[Tree]:
    """`b JOIN a` for `a JOIN b`."""
    for select in tree.find_all(exp.Select):
        joins = _inner_joins(select)
        if joins and not any(is_star(p) for p in select.expressions):
            first = source_nodes(select)[0]
            yield edited(tree, (first, joins[0].this), (joins[0].this, first))


def join_sides(tree: Tree, known: Known) -> Iterator[Tree]:
    """`ON b.id = a.id` for `ON a.id = b.id`."""
    for join in tree.find_all(exp.Join):
        for pair in join.args["on"].find_all(exp.EQ) if join.args.get("on") is not None else ():
            yield edited(tree, (pair, exp.EQ(this=pair.expression.copy(), expression=pair.this.copy())))


def join_in_where(tree: Tree, known: Known) -> Iterator[Tree]:
    """`FROM a, b WHERE a.id = b.id` for `FROM a JOIN b ON a.id = b.id`."""
    for select in tree.find_all(exp.Select):
        joins = _inner_joins(select)
        if joins:
            new = select.copy()
            conditions = [join.args["on"] for join in joins]
            new.set("joins", [exp.Join(this=join.this.copy(), kind="CROSS") for join in joins])
            where = select.args.get("where")
            if where is not None:
                old = where.this
                conditions.append(exp.Paren(this=old.copy()) if isinstance(old, exp.Or) else old)
            new.set("where", exp.Where(this=exp.and_(*conditions, copy=True, wrap=False)))
            yield edited(tree, (select, new))


def left_join(tree: Tree, known: Known) -> Iterator[Tree]:
    """LEFT JOIN from the referring to the referred row: every row has its partner."""
    for select in tree.find_all(exp.Select):
        for join in _inner_joins(select):
            on = join.args["on"]
            sides_ = (on.this, on.expression) if isinstance(on, exp.EQ) else ()
            joined = [resolve(s, known) for s in sides_ if isinstance(s, exp.Column)]
            inner = [w for w in joined if w and w[0] == join.this.alias_or_name]
            if (
                len(joined) == 2
                and len(inner) == 1
                and _is_first(inner[0])
                and not all(map(_is_first, joined))
            ):
                new = join.copy()
                new.set("side", "LEFT")
                new.set("kind", None)
                yield edited(tree, (join, new))


def _is_first(where: tuple[str, Attribute, Relation] | None) -> bool:
    """Whether a column is the first one of its table and a key: the primary key nearly always."""
    return where is not None and where[1].key and where[1] is where[2].attributes[0]


def _identifies(attribute: Attribute, known: Known) -> bool:
    """Whether a column, of a table or handed on by a step, holds the key by which its table tells its rows
    apart: the first one, with no value seen twice."""
    if attribute.origin is None or not attribute.key:
        return False
    table_name, column_name = attribute.origin
    table = known.relations.get(table_name.lower())
    if table is None or table.attributes[0].name.lower() != column_name.lower():
        return False
    return all(n == 1 for _, n in known.values_of(attribute)[:1])


def _decided(attribute: Attribute, known: Known) -> set[str]:
    """The tables (lower case) of which one value of a column means one row: its own, if it is the key; the
    one that a foreign key refers to, if the two are joined on it."""
    place = attribute.place
    if place is None:
        return set()
    found = {place[0]} if _identifies(attribute, known) else set()
    for there in [b for a, b in known.links if a == place]:
        other = known.relations.get(there[0])
        key = other.get(there[1]) if other is not None else None
        if key is not None and _identifies(key, known):
            found.add(there[0])
    return found


def needless_join(tree: Tree, known: Known) -> Iterator[Tree]:
    """A join with the table that a foreign key refers to, or back to the table that an earlier step was made
    of, by its key: every row has one partner there."""
    for select in tree.find_all(exp.Select):
        sources = sources_of(select, known)
        if len(sources) != len(source_nodes(select)) or any(is_star(p) for p in select.expressions):
            continue
        if any(n is not select for n in select.find_all(exp.Select)):
            continue
        used = {node.name.lower() for node in tree.find_all(exp.Table)}  # also of queries around a subquery
        for alias, relation in sources:
            for attribute in relation.attributes:
                place = attribute.place
                back = [place] if place and relation.step and _identifies(attribute, known) else []
                for there in back + sorted(b for a, b in known.links if a == place):
                    other = known.relations.get(there[0])
                    if other is None or not other.attributes or other.name.lower() in used:
                        continue
                    first = other.attributes[0]
                    if first.name.lower() != there[1] or not _identifies(first, known):
                        continue
                    on = exp.EQ(
                        this=column_node(attribute.name, alias),
                        expression=column_node(first.name, other.name),
                    )
                    wider = qualified(select, known)
                    join = exp.Join(this=exp.Table(this=identifier(other.name)), on=on)
                    wider.set("joins", [*(wider.args.get("joins") or []), join])
                    yield edited(tree, (select, wider))


# --- rewrites of one step: subqueries -----------------------------------------------------------------------


def in_exists(tree: Tree, known: Known) -> Iterator[Tree]:
    """`EXISTS (… WHERE y = x)` for `x IN (SELECT y …)`; NOT EXISTS for NOT IN where both are keys, which are
    not NULL."""
    for node in tree.find_all(exp.In):
        query = node.args.get("query")
        inner = query.unnest() if query is not None else None
        if not isinstance(inner, exp.Select) or not isinstance(node.this, exp.Column):
            continue
        if len(inner.expressions) != 1 or any(
            inner.args.get(k) for k in ("group", "having", "limit", "offset")
        ):
            continue
        shown, sources = inner.expressions[0].unalias(), source_nodes(inner)
        outer, select = resolve(node.this, known), node.parent_select
        if not isinstance(shown, exp.Column) or outer is None or select is None or len(sources) != 1:
            continue
        if not isinstance(sources[0], exp.Table) or sources[0].alias:
            continue
        names = {n.name.lower() for n in source_nodes(select)}
        if sources[0].name.lower() in names or (
            node.find_ancestor(exp.Not) and not _keys(node.this, shown, known)
        ):
            continue  # the same name inside and outside would be read as the one inside
        new = inner.copy()
        pair = exp.EQ(
            this=column_node(shown.name, sources[0].name), expression=column_node(node.this.name, outer[0])
        )
        where = inner.args.get("where")
        old = where.this if where is not None else None
        conditions = (
            [exp.Paren(this=old.copy()) if isinstance(old, exp.Or) else old] if old is not None else []
        )
        new.set("where", exp.Where(this=exp.and_(*conditions, pair, copy=True, wrap=False)))
        new.set("expressions", [exp.Literal.number(1)])
        new.set("distinct", None)
        yield edited(tree, (node, exp.Exists(this=new)))


def _keys(a: Tree, b: Tree, known: Known) -> bool:
    found = [_attribute(node, known) for node in (a, b)]
    return all(x is not None and x.key for x in found)


def in_join(tree: Tree, known: Known) -> Iterator[Tree]:
    """A join with the distinct values for `x IN (SELECT y …)`."""
    for select in tree.find_all(exp.Select):
        where = select.args.get("where")
        node = where.this if where is not None else None
        if not isinstance(node, exp.In) or not isinstance(node.this, exp.Column):
            continue
        query = node.args.get("query")
        inner = query.unnest() if query is not None else None
        if not isinstance(inner, exp.Select) or len(inner.expressions) != 1:
            continue
        if inner.args.get("limit") or any(is_star(p) for p in [*select.expressions, *inner.expressions]):
            continue
        shown = inner.expressions[0]
        outer = resolve(node.this, known)
        if not shown.alias_or_name or outer is None or select.args.get("joins") or _correlated(inner, known):
            continue
        distinct = inner.copy()
        distinct.set("distinct", exp.Distinct())
        source = exp.Subquery(this=distinct, alias=exp.TableAlias(this=identifier("chosen")))
        on = exp.EQ(
            this=column_node(node.this.name, outer[0]), expression=column_node(shown.alias_or_name, "chosen")
        )
        new = qualified(select, known)
        new.set("joins", [exp.Join(this=source, on=on)])
        new.set("where", None)
        yield edited(tree, (select, new))


def _correlated(inner: exp.Select, known: Known) -> bool:
    own = {alias.lower() for alias, _ in sources_of(inner, known)}
    found = [resolve(column, known) for column in inner.find_all(exp.Column)]
    return any(where is None or where[0].lower() not in own for where in found)


def not_in_except(tree: Tree, known: Known) -> Iterator[Tree]:
    """`SELECT id FROM a EXCEPT SELECT a_id FROM b` for `… WHERE NOT id IN (SELECT a_id FROM b)`, for keys:
    EXCEPT also drops what comes twice."""
    where = tree.args.get("where")
    node = where.this.this if where is not None and isinstance(where.this, exp.Not) else None
    if not isinstance(tree, exp.Select) or not isinstance(node, exp.In) or node.args.get("query") is None:
        return
    if len(tree.expressions) != 1 or tree.expressions[0].unalias() != node.this:
        return
    inner = node.args["query"].unnest()
    if any(tree.args.get(k) for k in ("group", "order", "limit", "joins")) or not isinstance(
        inner, exp.Select
    ):
        return
    if inner.args.get("order") or inner.args.get("limit") or _correlated(inner, known):
        return
    if _whole_table(tree, known) is not None and _keys(node.this, inner.expressions[0].unalias(), known):
        left = tree.copy()
        left.set("where", None)
        yield exp.Except(this=left, expression=inner.copy(), distinct=True)


# --- rewrites of one step: conditions -----------------------------------------------------------------------


def sides(tree: Tree, known: Known) -> Iterator[Tree]:
    """`30 < age` for `age > 30`."""
    for node in _comparisons(tree):
        new = _FLIPPED[type(node)](this=node.expression.copy(), expression=node.this.copy())
        yield edited(tree, (node, new))


def condition_order(tree: Tree, known: Known) -> Iterator[Tree]:
    """`b AND a` for `a AND b`, and OR alike."""
    for node in _conditions(tree):
        if isinstance(node, (exp.And, exp.Or)):
            left, right = node.this.copy(), node.expression.copy()
            if type(right) is type(node):
                right = exp.Paren(this=right)
            yield edited(tree, (node, type(node)(this=right, expression=left)))


def between(tree: Tree, known: Known) -> Iterator[Tree]:
    """Two comparisons for BETWEEN, and the reverse."""
    for node in _conditions(tree):
        if isinstance(node, exp.Between):
            low = exp.GTE(this=node.this.copy(), expression=node.args["low"].copy())
            high = exp.LTE(this=node.this.copy(), expression=node.args["high"].copy())
            yield _replaced(tree, node, exp.And(this=low, expression=high))
        elif isinstance(node, exp.And):
            left, right = node.this, node.expression
            if isinstance(left, exp.LTE) and isinstance(right, exp.GTE):
                left, right = right, left
            if isinstance(left, exp.GTE) and isinstance(right, exp.LTE) and left.this == right.this:
                bounds = {"low": left.expression.copy(), "high": right.expression.copy()}
                yield edited(tree, (node, exp.Between(this=left.this.copy(), **bounds)))


def in_list(tree: Tree, known: Known) -> Iterator[Tree]:
    """`x IN ('a')` for `x = 'a'`; OR for IN (…), and the reverse."""
    for node in _conditions(tree):
        if isinstance(node, exp.EQ) and isinstance(node.this, exp.Column):
            if isinstance(node.expression, exp.Literal):
                yield edited(
                    tree, (node, exp.In(this=node.this.copy(), expressions=[node.expression.copy()]))
                )
        elif isinstance(node, exp.In) and 1 <= len(node.expressions) <= 4:
            equal = [exp.EQ(this=node.this.copy(), expression=value.copy()) for value in node.expressions]
            yield _replaced(tree, node, exp.or_(*equal, copy=False, wrap=False))
        elif isinstance(node, exp.Or):
            pair = (node.this, node.expression)
            same = pair[0].this == pair[1].this and isinstance(pair[0].this, exp.Column)
            if same and all(isinstance(p, exp.EQ) and isinstance(p.expression, exp.Literal) for p in pair):
                values = [p.expression.copy() for p in pair]
                yield edited(tree, (node, exp.In(this=pair[0].this.copy(), expressions=values)))


def implied_condition(tree: Tree, known: Known) -> Iterator[Tree]:
    """`year = 2014 AND year >= 2014`, `age > 30 AND NOT age IS NULL`; a key, or a number of which only
    aggregates are shown, that is not below zero (NULL would be dropped elsewhere)."""
    for select in tree.find_all(exp.Select):
        where = select.args.get("where")
        stated = _conjuncts(where.this) if where is not None else []
        found: list[Tree] = []
        for node in stated:
            if type(node) in _FLIPPED and isinstance(node.this, exp.Column):
                found += _implied(node, known)
        if not isinstance(select.parent, (exp.SetOperation, exp.Subquery, exp.In)):
            for alias, relation in sources_of(select, known):
                for attribute in relation.attributes:
                    column = written_like(select, alias, attribute.name, known)
                    if _identifies(attribute, known) or _alone_aggregated(column, select):
                        found += _never_negative(column, attribute, known)
        for new in found:
            if new in stated:
                continue
            if where is None:
                copy = select.copy()
                copy.set("where", exp.Where(this=new))
                yield edited(tree, (select, copy))
            else:
                old = where.this.copy()
                old = exp.Paren(this=old) if isinstance(old, exp.Or) else old
                yield edited(tree, (where.this, exp.And(this=old, expression=new)))


def _alone_aggregated(column: Tree, select: exp.Select) -> bool:
    """Whether a SELECT shows nothing but aggregates of one column, which pass over its NULLs."""
    calls = [p.unalias() for p in select.expressions]
    return not select.args.get("group") and all(
        isinstance(call, (exp.Sum, exp.Avg, exp.Min, exp.Max)) and call.this == column for call in calls
    )


def _never_negative(column: Tree, attribute: Attribute, known: Known) -> list[Tree]:
    values = [v for v, _ in known.values_of(attribute)]
    numbers = [v for v in values if isinstance(v, (int, float)) and v >= 0]
    if attribute.kind != "number" or not values or len(numbers) < len(values):
        return []
    kinds = [exp.GTE, exp.GT] if min(numbers) > 0 else [exp.GTE]
    return [kind(this=column.copy(), expression=_whole(0)) for kind in kinds]


def _conjuncts(node: Tree) -> list[Tree]:
    return [*_conjuncts(node.this), *_conjuncts(node.expression)] if isinstance(node, exp.And) else [node]


def _implied(node: Tree, known: Known) -> list[Tree]:
    """What follows from a comparison of a column with a constant, whatever the rows."""
    column, constant = node.this, node.expression
    if not isinstance(constant, exp.Literal):
        return []
    found = [_not_null(column)]
    weaker: list[type[Tree]] = []
    if not constant.is_string:
        weaker = _WEAKER.get(type(node), [])
    elif isinstance(node, exp.EQ):
        attribute = _attribute(column, known)
        values = known.values_of(attribute) if attribute is not None else ()
        others = [v for v, _ in values if isinstance(v, str) and v != constant.name and 0 < len(v) < 40]
        found += [exp.NEQ(this=column.copy(), expression=exp.Literal.string(v)) for v in others[:2]]
    return found + [kind(this=column.copy(), expression=constant.copy()) for kind in weaker]


def _not_null(column: Tree) -> Tree:
    return exp.Not(this=exp.Is(this=column.copy(), expression=exp.Null()))


def negated(tree: Tree, known: Known) -> Iterator[Tree]:
    """`NOT age <= 30` for `age > 30` (NULL is neither)."""
    for node in _comparisons(tree):
        if not isinstance(node.parent, exp.Not):
            opposite = _OPPOSITE[type(node)](this=node.this.copy(), expression=node.expression.copy())
            yield edited(tree, (node, exp.Not(this=opposite)))


def constant(tree: Tree, known: Known) -> Iterator[Tree]:
    """`29 + 1` or `2 * 15` for 30."""
    for node in _comparisons(tree):
        for side in (node.this, node.expression):
            if (
                isinstance(side, exp.Literal)
                and not side.is_string
                and side.name.isdigit()
                and int(side.name) > 1
            ):
                n = int(side.name)
                yield edited(tree, (side, exp.Add(this=_whole(n - 1), expression=_whole(1))))
                if n % 2 == 0:
                    yield edited(tree, (side, exp.Mul(this=_whole(2), expression=_whole(n // 2))))


def _whole(n: int) -> Tree:
    return exp.Literal.number(format(Decimal(n), "f"))


# --- rewrites of one step: groups and functions -------------------------------------------------------------


def count(tree: Tree, known: Known) -> Iterator[Tree]:
    """`COUNT(1)`, `COUNT(key)` or, where a table's rows are counted, `COUNT(DISTINCT key)` for `COUNT(*)`;
    `SUM(1)` for groups, which are never empty, `COALESCE(SUM(1), 0)` elsewhere."""
    for select in tree.find_all(exp.Select):
        stars = [n for n in _own(select, select, exp.Count) if isinstance(n.this, exp.Star)]
        if not stars:
            continue
        made: list[Tree] = [exp.Count(this=exp.Literal.number(1))]
        sources = sources_of(select, known)
        if len(sources) == len(source_nodes(select)) == 1:
            for attribute in [a for a in sources[0][1].attributes if a.key and a.origin][:2]:
                made.append(exp.Count(this=column_node(attribute.name)))
                if _identifies(attribute, known) and not sources[0][1].step:
                    made.append(exp.Count(this=exp.Distinct(expressions=[column_node(attribute.name)])))
        total = exp.Sum(this=_whole(1))
        made.append(total if select.args.get("group") else exp.Coalesce(this=total, expressions=[_whole(0)]))
        for new in made:
            yield edited(tree, *((node, new) for node in stars))


def average(tree: Tree, known: Known) -> Iterator[Tree]:
    """The sum divided by the count for AVG; AVG of numbers that are fractions from the start."""
    for node in tree.find_all(exp.Avg):
        if not isinstance(node.this, exp.Column) or isinstance(node.parent, (exp.Filter, exp.Window)):
            continue
        total, number = exp.Sum(this=node.this.copy()), exp.Count(this=node.this.copy())
        real = exp.DataType.build("REAL", dialect="sqlite")
        new: Tree = exp.Div(this=exp.Cast(this=total, to=real), expression=number)
        yield edited(tree, (node, exp.Paren(this=new) if isinstance(node.parent, exp.Binary) else new))
        yield edited(tree, (node.this, exp.Cast(this=node.this.copy(), to=real.copy())))


def distinct_group(tree: Tree, known: Known) -> Iterator[Tree]:
    """GROUP BY all columns for DISTINCT; DISTINCT where a key of the table stands among the columns, or in a
    set that is only looked into."""
    for select in tree.find_all(exp.Select):
        columns = [p.unalias() for p in select.expressions]
        plain = all(isinstance(c, exp.Column) and not isinstance(c.this, exp.Star) for c in columns)
        if not plain or select.args.get("group"):
            continue
        if select.args.get("distinct"):
            if select.args["distinct"].args.get("on") is None:
                new = select.copy()
                new.set("distinct", None)
                new.set("group", exp.Group(expressions=[c.copy() for c in columns]))
                yield edited(tree, (select, new))
            continue
        relation = _whole_table(select, known)
        first = relation.attributes[0] if relation is not None and relation.attributes else None
        keyed = first is not None and first.key and any(c.name.lower() == first.name.lower() for c in columns)
        parent = select.parent.parent if isinstance(select.parent, exp.Subquery) else select.parent
        looked_into = isinstance(parent, (exp.In, exp.Intersect, exp.Except))
        if (keyed or looked_into) and not select.args.get("limit"):
            new = select.copy()
            new.set("distinct", exp.Distinct())
            yield edited(tree, (select, new))


def group_finer(tree: Tree, known: Known) -> Iterator[Tree]:
    """GROUP BY a key and a column that the key decides; by the key, where each row is a group of its own; by
    a column that WHERE holds to one value."""
    for select in tree.find_all(exp.Select):
        group, where = select.args.get("group"), select.args.get("where")
        if group is not None:
            for key in group.expressions:
                found = resolve(key, known) if isinstance(key, exp.Column) else None
                tables = _decided(found[1], known) if found is not None else set()
                for alias, other in [(a, x) for a, r in sources_of(select, known) for x in r.attributes]:
                    if other.origin and other.origin[0].lower() in tables:
                        new = written_like(select, alias, other.name, known)
                        if new not in group.expressions:
                            keys = [k.copy() for k in group.expressions]
                            yield edited(tree, (group, exp.Group(expressions=[*keys, new])))
                            yield edited(tree, (group, exp.Group(expressions=[new, *keys])))
            continue
        if select.args.get("distinct") or any(p.find(exp.Window) for p in select.expressions):
            continue
        keys = []
        if not any(p.find(exp.AggFunc) for p in select.expressions):
            relation = _whole_table(select, known)
            first = relation.attributes[0] if relation is not None and relation.attributes else None
            keys = [column_node(first.name)] if first is not None and _identifies(first, known) else []
        elif where is not None and not any(is_star(p) for p in select.expressions):
            equal = [n for n in _conjuncts(where.this) if isinstance(n, exp.EQ)]
            fixed = [n.this for n in equal if isinstance(n.expression, exp.Literal)]
            keys = [column for column in fixed if isinstance(column, exp.Column)]
        for key in keys:
            grouped = select.copy()
            grouped.set("group", exp.Group(expressions=[key.copy()]))
            yield edited(tree, (select, grouped))


def _named_outside(select: exp.Select) -> bool:
    """Whether a SELECT is a derived table, whose columns are read by their names."""
    return isinstance(select.parent, exp.Subquery) and isinstance(select.parent.parent, (exp.From, exp.Join))


def group_extreme(tree: Tree, known: Known) -> Iterator[Tree]:
    """`MAX(name)` for a name that the group's key decides."""
    for select in tree.find_all(exp.Select):
        group = select.args.get("group")
        if group is None or _named_outside(select):
            continue
        keys = [resolve(k, known) for k in group.expressions if isinstance(k, exp.Column)]
        decided = {name for k in keys if k is not None for name in _decided(k[1], known)}
        for shown in select.expressions if decided else ():
            inner = shown.unalias()
            attribute = _attribute(inner, known)
            if attribute is None or not attribute.origin or attribute.origin[0].lower() not in decided:
                continue
            if not any(inner == key for key in group.expressions):
                yield edited(tree, (inner, exp.Max(this=inner.copy())))
                yield edited(tree, (inner, exp.Min(this=inner.copy())))


def extreme(tree: Tree, known: Known) -> Iterator[Tree]:
    """`MAX(age)` for the first age of all from the highest on, and the reverse."""
    others = ("group", "having", "distinct", "offset")
    for select in tree.find_all(exp.Select):
        order, limit, shown = select.args.get("order"), select.args.get("limit"), select.expressions
        if len(shown) != 1 or any(select.args.get(k) for k in others) or _named_outside(select):
            continue
        inner, new = shown[0].unalias(), select.copy()
        if isinstance(inner, exp.Max) and isinstance(inner.this, exp.Column) and not (order or limit):
            key = exp.Ordered(this=inner.this.copy(), desc=True, nulls_first=False)
            new.set("expressions", [inner.this.copy()])
            new.set("order", exp.Order(expressions=[key]))
            new.set("limit", exp.Limit(expression=_whole(1)))
            yield edited(tree, (select, new))
        elif isinstance(inner, exp.Column) and order is not None and limit is not None:
            key, one = order.expressions[0], to_sql(limit.expression) == "1"
            if one and len(order.expressions) == 1 and key.args.get("desc") and key.this == inner:
                new.set("expressions", [exp.Max(this=inner.copy())])
                new.set("order", None)
                new.set("limit", None)
                yield edited(tree, (select, new))


def idle_order(tree: Tree, known: Known) -> Iterator[Tree]:
    """Rows sorted where nobody asks for an order."""
    if not isinstance(tree, exp.Select) or tree.args.get("order") or tree.args.get("limit"):
        return
    group = tree.args.get("group")
    if not group and any(p.find(exp.AggFunc) for p in tree.expressions):
        return  # one row
    for shown in tree.expressions:
        inner = shown.unalias()
        if isinstance(inner, exp.Column) and not is_star(shown):
            for desc in (False, True):
                key = exp.Ordered(this=inner.copy(), desc=desc or None, nulls_first=not desc)
                new = tree.copy()
                new.set("order", exp.Order(expressions=[key]))
                yield new


def case_count(tree: Tree, known: Known) -> Iterator[Tree]:
    """`COUNT(CASE WHEN … THEN 1 END)` over all rows for `COUNT(*) … WHERE …`."""
    for select in tree.find_all(exp.Select):
        where = select.args.get("where")
        shown = [p.unalias() for p in select.expressions]
        if (
            where is None
            or select.args.get("group")
            or len(shown) != 1
            or not isinstance(shown[0], exp.Count)
        ):
            continue
        if isinstance(shown[0].this, exp.Star):
            case = exp.Case(ifs=[exp.If(this=where.this.copy(), true=exp.Literal.number(1))])
            yield edited(tree, (shown[0], exp.Count(this=case)), (where, None))


def group_window(tree: Tree, known: Known) -> Iterator[Tree]:
    """DISTINCT rows with an aggregate over each group's window for GROUP BY."""
    for select in tree.find_all(exp.Select):
        group = select.args.get("group")
        if group is None or any(select.args.get(k) for k in ("having", "order", "limit", "distinct")):
            continue
        keys = {to_sql(key).lower() for key in group.expressions}
        shown = [p.unalias() for p in select.expressions]
        calls = [e for e in shown if isinstance(e, (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max))]
        columns = {to_sql(e).lower() for e in shown if isinstance(e, exp.Column)}
        if columns == keys and calls and len(calls) + len(columns) == len(shown):
            if any(call.find(exp.Distinct) or call.expressions for call in calls):
                continue
            by = [key.copy() for key in group.expressions]
            windows = [(call, exp.Window(this=call.copy(), partition_by=by)) for call in calls]
            new = edited(select, *windows, (group, None))
            new.set("distinct", exp.Distinct())
            yield edited(tree, (select, new))


def idle_count(tree: Tree, known: Known) -> Iterator[Tree]:
    """A function that changes no count: COALESCE, ABS."""
    for node in tree.find_all(exp.Count):
        if isinstance(node.parent, (exp.Alias, exp.Select)):
            yield edited(tree, (node, exp.Coalesce(this=node.copy(), expressions=[exp.Literal.number(0)])))
            yield edited(tree, (node, exp.Abs(this=node.copy())))


def _plain_columns(tree: Tree, known: Known) -> Iterator[tuple[exp.Column, Attribute]]:
    """Columns outside joins and groups whose values come from a table: what a computed one holds is not
    known."""
    for node in tree.find_all(exp.Column):
        if isinstance(node.this, exp.Star) or node.find_ancestor(exp.Join, exp.Group):
            continue
        attribute = _attribute(node, known)
        if attribute is not None and attribute.origin is not None:
            yield node, attribute


def idle_cast(tree: Tree, known: Known) -> Iterator[Tree]:
    """CAST of a number where it is only compared or sorted, to whole numbers where all are."""
    for node, attribute in _plain_columns(tree, known):
        compared = isinstance(node.parent, (*_FLIPPED, exp.Ordered, exp.Avg))
        if attribute.kind == "number" and not attribute.key and compared:
            whole = all(type(v) is int for v, _ in known.values_of(attribute))
            for kind in ("REAL", "INTEGER") if whole else ("REAL",):
                to = exp.DataType.build(kind, dialect="sqlite")
                yield edited(tree, (node, exp.Cast(this=node.copy(), to=to)))


def idle_text(tree: Tree, known: Known) -> Iterator[Tree]:
    """A text with nothing added; TRIM where no spaces are around it."""
    for node, attribute in _plain_columns(tree, known):
        if attribute.kind != "text":
            continue
        if isinstance(node.parent, _COMPARED):
            sides_ = (node.parent.this, node.parent.expression)
            if any(isinstance(side, exp.Literal) and side.is_string for side in sides_):
                yield edited(tree, (node, exp.DPipe(this=node.copy(), expression=exp.Literal.string(""))))
        elif known.last and node.parent is tree:
            yield edited(tree, (node, exp.Trim(this=node.copy())))


def idle_date(tree: Tree, known: Known) -> Iterator[Tree]:
    """A date in the form that it has."""
    for node, attribute in _plain_columns(tree, known):
        shown = known.last and node.parent is tree
        if attribute.kind == "number" or not (shown or isinstance(node.parent, (*_FLIPPED, exp.Ordered))):
            continue
        form = _date_form([v for v, _ in known.values_of(attribute)])
        if form is not None:
            parts = [exp.Literal.string(form), node.copy()]
            yield edited(tree, (node, exp.Anonymous(this="STRFTIME", expressions=parts)))


def _date_form(values: Sequence[object]) -> str | None:
    """The form in which STRFTIME gives back dates as they are; None if they are no dates of one form."""
    for pattern, form in _DATE_FORMS.items():
        if values and all(isinstance(v, str) and re.fullmatch(pattern, v) for v in values):
            return form
    return None


_DATE_FORMS = {
    r"\d{4}-\d\d-\d\d": "%Y-%m-%d",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "%Y-%m-%d %H:%M:%S",
}


def any_case(tree: Tree, known: Known) -> Iterator[Tree]:
    """`LOWER(country) = 'france'` for `country = 'France'`, where no other spelling is in the data; texts
    sorted by their capitals; UPPER of what is in capitals."""
    for node, attribute in _plain_columns(tree, known):
        if attribute.kind == "text" and known.last and node.parent is tree:
            values = [v for v, _ in known.values_of(attribute)]
            for kind, is_so in ((exp.Upper, str.isupper), (exp.Lower, str.islower)):
                if values and all(isinstance(v, str) and is_so(v) for v in values):
                    yield edited(tree, (node, kind(this=node.copy())))
    for key in tree.find_all(exp.Ordered):
        sorted_by = _attribute(key.this, known)
        if sorted_by is not None and sorted_by.kind == "text" and sorted_by.origin:
            yield edited(tree, (key.this, exp.Lower(this=key.this.copy())))
            yield edited(tree, (key.this, exp.Upper(this=key.this.copy())))
    for compared in _comparisons(tree):
        read, text = compared.this, compared.expression
        if not isinstance(compared, exp.EQ) or not isinstance(read, exp.Column) or not _is_word(text):
            continue
        for kind, value in ((exp.Lower, text.name.lower()), (exp.Upper, text.name.upper())):
            new = exp.EQ(this=kind(this=read.copy()), expression=exp.Literal.string(value))
            yield edited(tree, (compared, new))


def _is_word(node: Tree) -> bool:
    ascii_text = isinstance(node, exp.Literal) and node.is_string and node.name.isascii()
    return ascii_text and any(c.isalpha() for c in node.name)


def order_number(tree: Tree, known: Known) -> Iterator[Tree]:
    """`ORDER BY 2` for the second column."""
    for select in tree.find_all(exp.Select):
        order = select.args.get("order")
        for key in order.expressions if order is not None else ():
            for i, shown in enumerate(select.expressions, 1):
                if shown.unalias() == key.this and not any(is_star(p) for p in select.expressions):
                    yield edited(tree, (key.this, _whole(i)))


def alias(tree: Tree, known: Known) -> Iterator[Tree]:
    """A table under a short name, or a column of the answer under another one."""
    for select in tree.find_all(exp.Select):
        sources = source_nodes(select)
        if any(is_star(p) and isinstance(p, exp.Column) for p in select.expressions):
            continue
        nested = any(n is not select for n in select.find_all(exp.Select))
        if sources and all(isinstance(s, exp.Table) and not s.alias for s in sources) and not nested:
            named = {s.name.lower(): f"T{i}" for i, s in enumerate(sources, 1)}
            if len(named) < len(sources) or set(map(str.lower, named.values())) & set(known.relations):
                continue
            edits: list[tuple[Tree, Tree | None]] = []
            for source, short in zip(sources, named.values(), strict=True):
                table = exp.Table(
                    this=source.this.copy(), alias=exp.TableAlias(this=exp.to_identifier(short))
                )
                edits.append((source, table))
            for node in select.find_all(exp.Column):
                where = resolve(node, known)
                if where is not None and where[0].lower() in named:
                    edits.append((node, column_node(node.name, named[where[0].lower()])))
            yield edited(tree, *edits)
    if known.last and isinstance(tree, exp.Select):
        for shown in tree.expressions:
            inner = shown.unalias()
            if isinstance(inner, exp.AggFunc) and not isinstance(shown, exp.Alias):
                yield edited(tree, (shown, exp.alias_(inner.copy(), "result")))


#: Every kind of rewrite of one step.
REWRITES: dict[str, Callable[[Tree, Known], Iterator[Tree]]] = {
    function.__name__: function
    for function in (
        join_order, join_sides, join_in_where, left_join, needless_join, in_exists, in_join, not_in_except,
        sides, condition_order, between, in_list, implied_condition, negated, constant, count, average,
        distinct_group, group_finer, group_extreme, extreme, idle_order, case_count, group_window,
        idle_count, idle_cast, idle_text, idle_date, any_case, order_number, alias,
    )
}  # fmt: skip


# --- rewrites of the chain ----------------------------------------------------------------------------------


def step_order(chain: Sequence[Link], at: int, known: Known) -> list[Link] | None:
    """Step `at` and the next one exchanged, where neither reads the other."""
    if at + 1 >= len(chain) - 1 or _reads(chain[at + 1].tree, chain[at].name):
        return None
    return [*chain[:at], chain[at + 1], chain[at], *chain[at + 2 :]]


def _reads(tree: Tree, name: str) -> int:
    return sum(node.name.lower() == name.lower() for node in tree.find_all(exp.Table))


def one_step(chain: Sequence[Link], at: int, known: Known) -> list[Link] | None:
    """Step `at`, which only joins and filters, written into the next step, which alone reads it."""
    if at + 1 >= len(chain) or sum(_reads(link.tree, chain[at].name) for link in chain[at + 1 :]) != 1:
        return None
    rows, reader = chain[at].tree, chain[at + 1].tree
    if not isinstance(rows, exp.Select) or not isinstance(reader, exp.Select):
        return None
    if any(rows.args.get(k) for k in ("group", "having", "distinct", "order", "limit")):
        return None
    sources = source_nodes(reader)
    if len(sources) != 1 or not isinstance(sources[0], exp.Table) or not _reads(sources[0], chain[at].name):
        return None
    if any(is_star(p) for p in rows.expressions + reader.expressions) or sources[0].alias:
        return None
    shown = {p.alias_or_name.lower(): p.unalias() for p in rows.expressions}
    if any(True for _ in reader.find_all(exp.Subquery, exp.In, exp.Exists)):
        return None  # a name in a subquery may mean something else there
    edits = [
        (node, shown[node.name.lower()])
        for node in reader.find_all(exp.Column)
        if node.name.lower() in shown and not isinstance(node.this, exp.Star)
    ]
    if not all(isinstance(new, exp.Column) and new.name == old.name for old, new in edits):
        return None
    new = edited(reader, *edits)
    new.set(FROM, rows.args[FROM].copy())
    new.set("joins", [join.copy() for join in rows.args.get("joins") or []])
    conditions = [s.args["where"].this for s in (rows, reader) if s.args.get("where")]
    if conditions:
        bracketed = [
            exp.Paren(this=c.copy()) if isinstance(c, exp.Or) and len(conditions) > 1 else c
            for c in conditions
        ]
        new.set("where", exp.Where(this=exp.and_(*bracketed, copy=True, wrap=False)))
    without = [*chain[:at], chain[at + 1], *chain[at + 2 :]]
    return with_variant(without, at, new, known)


def derived_table(chain: Sequence[Link], at: int, known: Known) -> list[Link] | None:
    """Step `at` as a subquery in FROM of the next step, which alone reads it."""
    if at + 1 >= len(chain) or sum(_reads(link.tree, chain[at].name) for link in chain[at + 1 :]) != 1:
        return None
    reader = chain[at + 1].tree
    for node in reader.find_all(exp.Table):
        inside_from = isinstance(node.parent, (exp.From, exp.Join))
        if node.name.lower() == chain[at].name.lower() and inside_from:
            alias_name = node.alias or chain[at].name
            source = exp.Subquery(
                this=chain[at].tree.copy(), alias=exp.TableAlias(this=identifier(alias_name))
            )
            return with_variant([*chain[:at], *chain[at + 1 :]], at, edited(reader, (node, source)), known)
    return None


#: Every kind of rewrite of the chain; each gets the chain, a step and the tables.
CHAIN_REWRITES: dict[str, Callable[[Sequence[Link], int, Known], list[Link] | None]] = {
    function.__name__: function for function in (step_order, one_step, derived_table)
}
