"""Errors that a text-to-SQL model really makes, as edits of the syntax tree of one step.

Each kind of error is one small generator: it takes the tree of a step's SELECT and what is known around it
(tables, earlier steps, frequent values) and yields variants, the likeliest slips first, with some chance in
the order. Whether a variant is *wrong* is not decided here: many edits change nothing on a given database,
and `prm.labeling.build` keeps only those whose result differs by execution. What is decided here is that a
variant looks like something a model would write: columns are confused with similar columns, values with
values of the same column, tables with their neighbours.

A variant reads as if it had been written so from the start. Where an edit changes the name of an output
column that later steps read, it is not forced back by an alias: `prm.sql.chain.with_variant` lets the later
steps follow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from difflib import SequenceMatcher
from random import Random

from sqlglot import exp

from prm.sql.chain import (
    Attribute,
    Known,
    Link,
    Relation,
    Tree,
    column_node,
    copied,
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


def variants(category: str, tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """The variants of a step by one kind of error (a key of `CATEGORIES`), lazily, the likeliest slips first.

    `tree` is the step's SELECT or set operation and is not changed. The variants depend on the state of
    `rng` alone.
    """
    seen, idle, absurd = {to_sql(tree)}, _idle(tree, known), _absurd(tree)
    for variant in _MAKERS[category](tree, known, rng):
        text = to_sql(variant)
        if text in seen or (_idle(variant, known) and not idle) or (_absurd(variant) and not absurd):
            continue
        seen.add(text)
        yield variant


def chain_variants(
    category: str, chain: Sequence[Link], at: int, known: Known, rng: Random
) -> Iterator[list[Link]]:
    """Whole chains with one error in step `at`, the later steps following it in names (`with_variant`).

    `known` is what every step may read, the tables; a chain may also end with the step (`partial_query`).
    """
    here = known_at(chain, at, known)
    early = shortened(chain, at) if category == "partial_query" else None
    if early is not None and not _idle(early[-1].tree, replace(here, last=True)):
        yield early
    for variant in variants(category, chain[at].tree, here, rng):
        links = with_variant(chain, at, variant, known)
        if links is not None:
            yield links


# --- editing trees ------------------------------------------------------------------------------------------


def _tidied(tree: Tree) -> Tree:
    """Drop the parentheses that an edit of a condition has made idle, in place."""
    for paren in list(tree.find_all(exp.Paren)):
        inner, parent = paren.this, paren.parent
        condition = isinstance(inner, (exp.Predicate, exp.Not, exp.Connector, exp.Between, exp.In, exp.Like))
        if not condition or not isinstance(parent, (exp.Where, exp.Having, exp.Connector, exp.Paren)):
            continue
        if not isinstance(inner, exp.Or) or not isinstance(parent, exp.And):
            paren.replace(inner)
    return tree


def _selects(tree: Tree) -> list[exp.Select]:
    return list(tree.find_all(exp.Select))


def _outer_selects(tree: Tree) -> list[exp.Select]:
    """The SELECTs that are no subquery of another: one, or the arms of a set operation."""
    return [select for select in _selects(tree) if select.parent_select is None or select is tree]


def _inner_selects(tree: Tree) -> list[exp.Select]:
    outer = _outer_selects(tree)
    return [select for select in _selects(tree) if not any(select is o for o in outer)]


def _idle(tree: Tree, known: Known) -> bool:
    """Whether a step only hands on columns: no right trace has such a step in the middle, nor one that ends
    a chain, so an edit that leaves one behind would be recognised without reading the question."""
    if not isinstance(tree, exp.Select) or len(sources := source_nodes(tree)) != 1:
        return False
    relation = known.relations.get(sources[0].name.lower())
    if known.last and not (relation is not None and relation.step):
        return False
    clauses = ("where", "group", "having", "distinct", "order", "limit")
    plain = all(isinstance(p.unalias(), (exp.Column, exp.Star)) for p in tree.expressions)
    return plain and not any(tree.args.get(clause) for clause in clauses)


def _absurd(tree: Tree) -> bool:
    """What nobody writes: the same column shown twice, a set operation of a query with itself, an aggregate
    of what is the same in the whole group (`COUNT(DISTINCT 1)`, `MAX(year) … GROUP BY year`), and showing the
    very column that a condition holds to one value (`SELECT title … WHERE title = 'Avatar'`)."""
    for select in _selects(tree):
        shown = [to_sql(projection.unalias()).lower() for projection in select.expressions]
        where = select.args.get("where")
        fixed = {
            to_sql(atom.this).lower()
            for atom in (_atoms(where) if where is not None else ())
            if isinstance(atom, exp.EQ) and isinstance(atom.expression, exp.Literal)
        }
        if len(set(shown)) < len(shown) or fixed & set(shown):
            return True
        group = select.args.get("group")
        keys = {to_sql(key).lower() for key in group.expressions} if group else set()
        for call in select.find_all(*_AGGREGATES):
            of = call.this.expressions[0] if isinstance(call.this, exp.Distinct) else call.this
            constant = isinstance(call.this, exp.Distinct) and isinstance(of, exp.Literal)
            if call.parent_select is select and (constant or to_sql(of).lower() in keys):
                return True
    return any(node.this == node.expression for node in tree.find_all(exp.SetOperation))


# --- choosing what is near ----------------------------------------------------------------------------------


def _likeness(a: str, b: str) -> float:
    """How alike two names are, from 0 to 1: by letters, and by the words they share (first_name,
    last_name)."""
    a, b = _words(a), _words(b)
    shared = set(a.split()) & set(b.split())
    return max(SequenceMatcher(None, a, b).ratio(), 0.75 if shared else 0.0)


def _words(name: str) -> str:
    return re.sub(r"[_\s]+|(?<=[a-z])(?=[A-Z])", " ", name).strip().lower()


def _nearest(
    attribute: Attribute,
    home: str,
    sources: Iterable[tuple[str, Relation]],
    rng: Random,
    n: int = 8,
    shown: bool = False,
) -> list[tuple[str, Attribute]]:
    """Other columns (source, attribute) that one could take for `attribute`, the most alike first, with
    some chance; where a column is `shown`, names first: wrong answers to Spider show a name that is not
    asked for nearly as often (11 times in 91) as they show something else for a name (16 times)."""
    found = []
    for alias, relation in sources:
        for other in relation.attributes:
            same_source = alias.lower() == home.lower()
            if other.name.lower() == attribute.name.lower() and same_source:
                continue
            near = _likeness(attribute.name, other.name)
            near += (
                0.5 * (other.kind == attribute.kind) + 0.3 * same_source + 0.3 * (other.key == attribute.key)
            )
            near += 0.5 * (shown and _NAME.search(other.name) is not None)
            found.append((near + 0.6 * rng.random(), alias, other))
    found.sort(key=lambda item: -item[0])
    return [(alias, other) for _, alias, other in found[:n]]


_NAME = re.compile(r"name|title", re.IGNORECASE)


def _shuffled(items: Iterable, rng: Random) -> list:
    items = list(items)
    rng.shuffle(items)
    return items


# --- conditions' parts --------------------------------------------------------------------------------------


def _clauses(tree: Tree, having: bool) -> list[Tree]:
    kinds = (exp.Having,) if having else (exp.Where, exp.If)
    return [clause for clause in tree.find_all(*kinds) if clause.this is not None]


def _atoms(clause: Tree) -> list[Tree]:
    """The conditions that AND and OR connect in a clause."""
    found, stack = [], [clause.this]
    while stack:
        node = stack.pop()
        if isinstance(node, exp.Connector):
            stack += [node.expression, node.this]
        elif isinstance(node, exp.Paren) and isinstance(node.this, (exp.Connector, exp.Paren)):
            stack.append(node.this)
        else:
            found.append(node)
    return found


def _predicates(tree: Tree, having: bool) -> list[Tree]:
    """The comparisons, INs, BETWEENs … of all clauses, with any NOT taken off."""
    found, stack = [], [atom for clause in _clauses(tree, having) for atom in _atoms(clause)]
    while stack:
        node = stack.pop(0)
        if isinstance(node, (exp.Not, exp.Paren)):
            stack += _atoms(node)
        else:
            found.append(node)
    return found


_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)


def _joins_columns(node: Tree) -> bool:
    return isinstance(node.this, exp.Column) and isinstance(node.args.get("expression"), exp.Column)


def _compared(predicate: Tree, known: Known) -> tuple[str, Attribute] | None:
    """The first column in a condition (not one inside a subquery)."""
    for node in predicate.walk(prune=lambda node: isinstance(node, exp.Query)):
        if isinstance(node, exp.Column) and (where := resolve(node, known)) is not None:
            return where[0], where[1]
    return None


def _number(value: Decimal) -> Tree:
    text = format(abs(value), "f")
    literal = exp.Literal.number(text)
    return exp.Neg(this=literal) if value < 0 else literal


def _numeric(node: Tree) -> Decimal | None:
    sign = -1 if isinstance(node, exp.Neg) else 1
    literal = node.this if sign < 0 else node
    if not isinstance(literal, exp.Literal) or literal.is_string:
        return None
    try:
        return sign * Decimal(literal.name)
    except ArithmeticError:
        return None


# --- the errors: what is read -------------------------------------------------------------------------------


def column(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Another column is shown or aggregated."""
    for select in _shuffled(_outer_selects(tree), rng):
        yield from _other_columns(tree, select, known, rng)


def _other_columns(tree: Tree, select: exp.Select, known: Known, rng: Random) -> Iterator[Tree]:
    group = select.args.get("group")
    grouped = {to_sql(key) for key in group.expressions} if group else set()
    sites = [
        node
        for projection in select.expressions
        for node in projection.find_all(exp.Column)
        if node.parent_select is select
        and to_sql(node) not in grouped
        and not isinstance(node.this, exp.Star)
    ]
    for node in _shuffled(sites, rng):
        where = resolve(node, known)
        if where is None:
            continue
        alias, attribute, _ = where
        summed = node.find_ancestor(exp.Sum, exp.Avg) is not None
        for source, other in _nearest(attribute, alias, sources_of(select, known), rng, shown=True):
            if summed and (other.kind != "number" or other.key):
                continue
            if attribute.origin is not None and other.origin is None:
                continue  # nobody takes a count for a name
            yield edited(tree, (node, written_like(select, source, other.name, known)))


def condition_column(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A condition is put on another column."""
    for predicate in _shuffled(_predicates(tree, having=False), rng):
        if _joins_columns(predicate):
            continue
        for node in predicate.walk(prune=lambda node: isinstance(node, exp.Query)):
            if not isinstance(node, exp.Column) or (where := resolve(node, known)) is None:
                continue
            select = node.parent_select
            assert select is not None  # else nothing would have been resolved
            texts = {literal.name for literal in predicate.find_all(exp.Literal) if literal.is_string}
            for source, other in _nearest(where[1], where[0], sources_of(select, known), rng):
                # 'Village' is looked for where a village may stand: in a column that holds it, or is named
                # alike.
                held = {v for v, _ in known.values_of(other)} if texts else set()
                fits = not texts or texts & held or _likeness(where[1].name, other.name) >= 0.6
                if other.kind == where[1].kind and fits:
                    yield edited(tree, (node, written_like(select, source, other.name, known)))


def extra_column(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """The answer shows a column that nobody asked for (only the last step: elsewhere it does no harm)."""
    if not known.last or not isinstance(tree, exp.Select):
        return
    shown = {to_sql(p.unalias()) for p in tree.expressions}
    if any(p.find(exp.Star) and not p.find(exp.Count) for p in tree.expressions):
        return
    extra: list[Tree] = []
    order = tree.args.get("order")
    if order is not None:
        extra += [key.this for key in order.expressions if not isinstance(key.this, exp.Literal)]
    # Beside an aggregate over all rows a bare column would be absurd; beside a group it is a usual slip.
    if tree.args.get("group") or not any(p.find(exp.AggFunc) for p in tree.expressions):
        for alias, relation in sources_of(tree, known):
            keys = [a for a in relation.attributes if a.key] + _shuffled(relation.attributes, rng)
            extra += [written_like(tree, alias, a.name, known) for a in keys[:2]]
    elif not tree.args.get("group"):
        extra.append(exp.Count(this=exp.Star()))
    for new in extra:
        if to_sql(new) not in shown:
            copy = tree.copy()
            copy.set("expressions", [*copy.expressions, new.copy()])
            yield copy


def missing_column(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """The answer lacks a column (only the last step: elsewhere a later step would fail)."""
    if known.last and isinstance(tree, exp.Select) and len(tree.expressions) > 1:
        for projection in _shuffled(tree.expressions, rng):
            yield edited(tree, (projection, None))


def table(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Another table, or another earlier step, is read; its columns of the same or nearly the same name are
    used."""
    for select in _shuffled(_outer_selects(tree), rng):
        yield from _other_sources(tree, select, known, rng)


def _other_sources(tree: Tree, select: exp.Select, known: Known, rng: Random) -> Iterator[Tree]:
    used = {node.name.lower() for node in source_nodes(select)}
    for node in _shuffled(source_nodes(select), rng):
        home = known.relations.get(node.name.lower()) if isinstance(node, exp.Table) else None
        if home is None:
            continue
        neighbours = {b[0] for a, b in known.links if a[0] == home.name.lower()}
        ranked = []
        for other in known.relations.values():
            if other.name.lower() in used:
                continue
            near = 0.5 * _likeness(home.name, other.name) + 0.6 * (other.step and home.step)
            near += 0.6 * (other.name.lower() in neighbours) + 0.3 * rng.random()
            # An earlier step in the place of a table (or the reverse) is a slip only where the columns
            # agree.
            ranked.append((near - 0.4 * (other.step != home.step), other))
        ranked.sort(key=lambda item: -item[0])
        for _, other in ranked[:6]:
            least = 0.7 if other.name.lower() in neighbours else 0.8
            variant = _read_instead(tree, select, node, home, other, known, least)
            if variant is not None:
                yield variant


def _read_instead(
    tree: Tree,
    select: exp.Select,
    node: exp.Table,
    home: Relation,
    other: Relation,
    known: Known,
    least: float,
) -> Tree | None:
    """`least`: how alike the name of a column must be to stand for one that `other` does not have."""
    alias = node.alias_or_name
    new_table = exp.Table(this=identifier(other.name), alias=node.args.get("alias"))
    edits: list[tuple[Tree, Tree | None]] = [(node, new_table)]
    for c in tree.find_all(exp.Column):
        where = resolve(c, known)
        if where is None or where[2] is not home or where[0].lower() != alias.lower():
            continue
        if c.parent_select is not select and not c.table:
            continue
        match = other.get(where[1].name) or _counterpart(where[1], other, least)
        if match is None:
            return None
        qualifier = c.table if not c.table or node.alias else other.name
        edits.append((c, column_node(match.name, qualifier)))
    return edited(tree, *edits)


def _counterpart(attribute: Attribute, other: Relation, least: float) -> Attribute | None:
    near = [
        (_likeness(attribute.name, a.name), a.name, a) for a in other.attributes if a.kind == attribute.kind
    ]
    best = max(near, default=None, key=lambda item: item[:2])
    return best[2] if best is not None and best[0] >= least else None


def join_key(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Two relations are joined on the wrong columns."""
    for select in _shuffled(_selects(tree), rng):
        sources = dict(sources_of(select, known))
        pairs = [
            pair
            for join in select.args.get("joins") or []
            if join.args.get("on") is not None
            for pair in join.args["on"].find_all(exp.EQ)
            if _joins_columns(pair)
        ]
        for pair in _shuffled(pairs, rng):
            for side in _shuffled((pair.this, pair.expression), rng):
                where = resolve(side, known)
                if where is None or where[0] not in sources:
                    continue
                same = [(where[0], sources[where[0]])]
                for source, other in _nearest(where[1], where[0], same, rng, n=4):
                    if other.kind == where[1].kind and (
                        other.key or not where[1].key or other.kind == "number"
                    ):
                        yield edited(tree, (side, column_node(other.name, side.table and source)))


def join_kind(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """INNER where LEFT is wanted, or the reverse."""
    joins = [join for select in _selects(tree) for join in select.args.get("joins") or []]
    for join in _shuffled(joins, rng):
        if not (join.args.get("on") or join.args.get("using")) or (not join.side and rng.random() > _SELDOM):
            continue
        new = join.copy()
        new.set("side", None if join.side else "LEFT")
        new.set("kind", None)
        yield edited(tree, (join, new))


def join_missing(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A relation that only sifts the rows is left out of the join."""
    for select in _shuffled(_selects(tree), rng):
        joins = select.args.get("joins") or []
        if any(isinstance(p.unalias(), exp.Star) for p in select.expressions):
            continue
        for join in _shuffled(joins, rng):
            if not _used_elsewhere(select, join.this, [join]):
                yield edited(tree, (join, None))
        first = source_nodes(select)[0] if joins else None
        single = len(joins) == 1 and joins[0].args.get("on") is not None
        if single and isinstance(first, exp.Table) and not _used_elsewhere(select, first, joins):
            yield edited(tree, (first, joins[0].this), (joins[0], None))


def _used_elsewhere(select: exp.Select, source: Tree, outside: Sequence[Tree]) -> bool:
    """Whether a column of `source` is read outside the given joins (unqualified columns count as read)."""
    name = source.alias_or_name.lower()
    for node in select.find_all(exp.Column):
        if node.table and node.table.lower() != name:
            continue
        if not any(join is node.find_ancestor(exp.Join) for join in outside):
            return True
    return False


# --- the errors: conditions ---------------------------------------------------------------------------------


def comparison(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """`>` for `>=`, `<` for `>`, `!=` for `=` …"""
    yield from _other_comparison(tree, known, rng, having=False)


def _other_comparison(tree: Tree, known: Known, rng: Random, having: bool) -> Iterator[Tree]:
    found = []
    for node in _predicates(tree, having):
        if not isinstance(node, _COMPARISONS) or _joins_columns(node):
            continue
        others: list[type[Tree]] = list(_SLIPS[type(node)])
        if isinstance(node, exp.EQ) and (
            _numeric(node.expression) is not None or _numeric(node.this) is not None
        ):
            where = _compared(node, known)
            if where is None or not where[1].key:  # nobody asks for ids above 3
                others += [exp.GTE, exp.GT, exp.LTE]
        found += [(node, other) for other in others if other is not exp.NEQ or rng.random() < _SELDOM / 2]
    for node, other in _shuffled(found, rng):
        yield edited(tree, (node, other(this=node.this.copy(), expression=node.expression.copy())))


#: Queries are full of `=`, inner joins and plain SELECTs. If each of them were turned into `<>`, LEFT JOIN
#: and DISTINCT whenever possible, those words would stand in wrong steps nearly always, and give them away.
_SELDOM = 0.3

_SLIPS: dict[type[Tree], tuple[type[Tree], ...]] = {
    exp.GT: (exp.GTE, exp.LT),
    exp.GTE: (exp.GT, exp.LTE),
    exp.LT: (exp.LTE, exp.GT),
    exp.LTE: (exp.LT, exp.GTE),
    exp.EQ: (exp.NEQ,),
    exp.NEQ: (exp.EQ,),
}


def value(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Another value: a number a little off, another value of the same column, a part of a name."""
    yield from _other_value(tree, known, rng, having=False)


def _constants(tree: Tree, having: bool) -> list[tuple[Tree, Tree]]:
    """(condition, constant or what else stands there) of comparisons, BETWEEN and IN."""
    sites: list[tuple[Tree, Tree]] = []
    for predicate in _predicates(tree, having):
        if isinstance(predicate, _COMPARISONS):
            nodes = [predicate.this, predicate.expression]
        elif isinstance(predicate, exp.Between):
            nodes = [predicate.args["low"], predicate.args["high"]]
        elif isinstance(predicate, exp.In):
            nodes = list(predicate.expressions)
        else:
            continue
        sites += [(predicate, node) for node in nodes]
    return sites


def _other_value(tree: Tree, known: Known, rng: Random, having: bool) -> Iterator[Tree]:
    for predicate, node in _shuffled(_constants(tree, having), rng):
        number = _numeric(node)
        where = _compared(predicate, known)
        frequent = [v for v, _ in known.values_of(where[1])] if where else []
        if number is not None:
            for new in _near_numbers(number, frequent, rng):
                yield edited(tree, (node, _number(new)))
        elif isinstance(node, exp.Literal) and node.is_string:
            for text in _near_texts(node.name, frequent, rng):
                yield edited(tree, (node, exp.Literal.string(text)))
        if isinstance(predicate, exp.In) and len(predicate.expressions) > 2:
            yield edited(tree, (node, None))


def _near_numbers(number: Decimal, frequent: Sequence[object], rng: Random) -> list[Decimal]:
    """A number a little off: by one in its last digit, by ten, a digit too many, or the neighbour in the
    data."""
    digits = number.as_tuple()
    zeros = len(digits.digits) - len("".join(map(str, digits.digits)).rstrip("0"))
    last = Decimal(1).scaleb(int(digits.exponent))
    round_step = last.scaleb(zeros) if number else last
    steps = {last, round_step, Decimal(10)} if abs(number) >= 20 else {last, round_step}
    found = [number + sign * step for step in sorted(steps) for sign in (1, -1)]
    year = number == number.to_integral_value() and 1800 <= number <= 2100
    if abs(number) >= 10 and not year:
        found.append(number * 10)
    data = sorted(_plain(Decimal(str(v))) for v in _numbers(frequent) if math.isfinite(v))
    found += [v for v in data if v > number][:1] + [v for v in data if v < number][-1:]
    kept = [v for v in dict.fromkeys(found) if v != number and (v > 0 or number <= 0) and len(str(v)) < 16]
    return _shuffled(kept, rng)


def _numbers(values: Iterable[object]) -> list[float]:
    """The numbers among the values of a column; True and False are none."""
    return [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]


_DATE = re.compile(r"(\d{4})((?:-\d{2}){0,2}.*)\Z")


def _near_texts(text: str, frequent: Sequence[object], rng: Random) -> list[str]:
    """Another value of the column (similar ones first), another date or number, or a part of the text."""
    others = [v for v in frequent if isinstance(v, str) and v != text and 0 < len(v) < 60 and v.isprintable()]
    others.sort(key=lambda v: -(SequenceMatcher(None, v.lower(), text.lower()).ratio() + 0.5 * rng.random()))
    parts = []
    if (date := _DATE.match(text)) and 1000 <= int(date[1]) <= 2999:
        parts += [f"{int(date[1]) + sign}{date[2]}" for sign in (1, -1)]
    elif text.lstrip("-").isdigit():
        parts += [str(int(text) + sign) for sign in (1, -1) if int(text) + sign]
    elif len(words := text.split()) > 1 and any(c.isalpha() for c in text):
        parts += [" ".join(words[:-1]), words[-1]]
    rng.shuffle(parts)
    # Two values of the data to one part: the first is the commoner slip, and the harder one to see.
    mixed: list[str] = []
    for i in range(max(len(others[:8]), len(parts))):
        mixed += others[2 * i : 2 * i + 2] + parts[i : i + 1]
    return [v for v in dict.fromkeys(mixed) if v != text]


def data_format(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """The right value as the data does not write it: another case, singular for plural, another form of a
    date, a share for a percentage."""
    for _, node in _shuffled(_constants(tree, False), rng):
        number = _numeric(node)
        if number is not None and abs(number) >= 1 and not 1800 <= number <= 2100:
            for factor in _shuffled((Decimal("0.01"), Decimal("0.001"), Decimal(1000)), rng):
                yield edited(tree, (node, _number(_plain(number * factor))))
        elif isinstance(node, exp.Literal) and node.is_string:
            for text in _shuffled(_spellings(node.name), rng):
                yield edited(tree, (node, exp.Literal.string(text)))


def _spellings(text: str) -> list[str]:
    found: list[str] = []
    if (date := re.match(r"(\d{4})-(\d{2})-(\d{2})(.*)\Z", text)) is not None:
        year, month, day, rest = date.groups()
        found += [f"{year}/{month}/{day}{rest}", f"{month}/{day}/{year}{rest}", f"{year}{month}{day}{rest}"]
    elif any(c.isalpha() for c in text):
        found += [text.lower(), text.capitalize(), text.title(), text.replace(" ", "_")]
        if len(text) <= 4:
            found += [text.upper(), text[0]]
        elif len(text.split()) == 1:
            found.append(text[:-1] if text.endswith("s") else text + "s")
    return [v for v in dict.fromkeys(found) if v != text]


def condition_missing(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A condition that the question states is forgotten."""
    for clause, atom in _shuffled(_stated(tree), rng):
        if not _joins_columns(atom) and not _implied(atom) and not atom.find(exp.Query):
            yield _without(tree, clause, atom)


def implicit_condition_missing(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A condition that goes without saying is forgotten: IS NOT NULL, not empty, not the row itself."""
    for clause, atom in _shuffled(_stated(tree), rng):
        if _implied(atom):
            yield _without(tree, clause, atom)


def subquery_missing(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A condition on a subquery is forgotten, or a guess stands in the place of the value it finds."""
    for clause, atom in _shuffled(_stated(tree), rng):
        if not atom.find(exp.Query):
            continue
        yield _without(tree, clause, atom)
        where = _compared(atom, known) if isinstance(atom, _COMPARISONS) else None
        if where is not None and where[1].origin and isinstance(atom.expression, (exp.Subquery, exp.Query)):
            for guess, _ in _shuffled(list(known.values(*where[1].origin))[:8], rng)[:3]:
                if type(guess) in (int, float) and math.isfinite(guess):
                    yield edited(tree, (atom.expression, _number(_plain(Decimal(str(guess))))))
                elif isinstance(guess, str) and 0 < len(guess) < 60 and guess.isprintable():
                    yield edited(tree, (atom.expression, exp.Literal.string(guess)))


def subquery(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A subquery finds something else: another column, table or aggregate, or its condition is lost."""
    for select in _shuffled(_inner_selects(tree), rng):
        where = select.args.get("where")
        made: list[Iterator[Tree]] = [
            _other_columns(tree, select, known, rng),
            _other_sources(tree, select, known, rng),
        ]
        for node in select.find_all(*_AGGREGATES):
            if node.parent_select is select:
                made.append(_other_aggregate(tree, select, node, known, rng))
        if where is not None:
            atoms = [atom for atom in _atoms(where) if not _joins_columns(atom)]
            made.append(_without(tree, where, atom) for atom in atoms)
        for variants_ in _shuffled(made, rng):
            yield from variants_


def _stated(tree: Tree) -> list[tuple[Tree, Tree]]:
    """(clause, condition) of everything that AND and OR connect in WHERE and HAVING."""
    return [(clause, atom) for clause in tree.find_all(exp.Where, exp.Having) for atom in _atoms(clause)]


def _implied(atom: Tree) -> bool:
    """`x IS NOT NULL`, `x <> ''`, and `a.id <> b.id`: questions rarely say so."""
    if isinstance(atom, exp.Not):
        inner = atom.this.unnest()
        return isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null)
    if isinstance(atom, exp.Is):
        return bool(atom.args.get("negate")) and isinstance(atom.expression, exp.Null)
    if isinstance(atom, _COMPARISONS) and not isinstance(atom, exp.EQ) and _joins_columns(atom):
        return True
    empty = atom.args.get("expression")
    return isinstance(atom, exp.NEQ) and isinstance(empty, exp.Literal) and not empty.name


def _without(tree: Tree, clause: Tree, atom: Tree) -> Tree:
    node, parent = atom, atom.parent
    while parent is not None and parent is not clause and not isinstance(parent, exp.Connector):
        node, parent = parent, parent.parent
    if isinstance(parent, exp.Connector):
        sibling = parent.expression if parent.this is node else parent.this
        return _tidied(edited(tree, (parent, sibling)))
    if isinstance(clause.parent, exp.Filter):  # FILTER without WHERE is no SQL: the aggregate stays alone
        return edited(tree, (clause.parent, clause.parent.this))
    return edited(tree, (clause, None))


def condition_extra(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A condition that the question does not state."""
    for select in _shuffled(_selects(tree), rng):
        if isinstance(select.parent, (exp.SetOperation, exp.Subquery, exp.In)) and not select.args.get(
            "where"
        ):
            continue  # an arm or subquery that only hands on an earlier step
        where = select.args.get("where")
        used = {node.name.lower() for node in where.find_all(exp.Column)} if where else set()
        found = [
            (alias, attribute)
            for alias, relation in sources_of(select, known)
            for attribute in relation.attributes
            if attribute.name.lower() not in used and not attribute.key
        ]
        for alias, attribute in _shuffled(found, rng)[:8]:
            new_column = written_like(select, alias, attribute.name, known)
            for condition in _conditions_on(new_column, attribute, known, rng):
                copy = tree.copy()
                target = next(
                    s for s, old in zip(_selects(copy), _selects(tree), strict=True) if old is select
                )
                if where is None:
                    target.set("where", exp.Where(this=condition))
                else:
                    old = target.args["where"].this
                    old = exp.Paren(this=old) if isinstance(old, exp.Or) else old
                    target.set("where", exp.Where(this=exp.And(this=old, expression=condition)))
                yield copy


def _conditions_on(column: exp.Column, attribute: Attribute, known: Known, rng: Random) -> list[Tree]:
    frequent = known.values_of(attribute)
    numbers = sorted(v for v in _numbers(v for v, _ in frequent) if 0 < v < math.inf)
    if attribute.kind == "number" and (numbers or not attribute.origin):
        middle = _rounded(Decimal(str(numbers[len(numbers) // 2]))) if numbers else Decimal(1)
        kind = rng.choice((exp.GT, exp.GTE, exp.LT))
        return [kind(this=column, expression=_number(middle))]
    # Equality with one of few values that return; a filter on a free text such as a name would be absurd.
    texts = [v for v, n in frequent if n > 1 and isinstance(v, str) and 0 < len(v) < 40 and v.isprintable()]
    if attribute.kind == "text" and 1 < len(frequent) <= 12 and len(texts) * 2 > len(frequent):
        return [exp.EQ(this=column, expression=exp.Literal.string(rng.choice(texts[:4])))]
    return []


def _rounded(number: Decimal) -> Decimal:
    """A number as people write limits: two significant digits (4161.2 -> 4200), but years and small whole
    ones whole."""
    if number == number.to_integral_value() and (number < 100 or 1800 <= number <= 2100):
        return number
    places = 1 - number.adjusted()
    return _plain(number.scaleb(places).to_integral_value().scaleb(-places))


def _plain(number: Decimal) -> Decimal:
    """The number without an idle fraction: 6.0 -> 6."""
    return number.quantize(Decimal(1)) if number == number.to_integral_value() else number.normalize()


def logic(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """AND for OR, or the reverse."""
    sites = [
        node
        for clause in [*_clauses(tree, having=False), *_clauses(tree, having=True)]
        for node in clause.this.walk(prune=lambda node: isinstance(node, exp.Query))
        if isinstance(node, (exp.And, exp.Or))
    ]
    for node in _shuffled(sites, rng):
        if any(_joins_columns(side) for side in (node.this, node.expression)):
            continue  # one side joins two relations: OR would make a cross product
        other = exp.Or if isinstance(node, exp.And) else exp.And
        new: Tree = other(this=node.this.copy(), expression=node.expression.copy())
        if isinstance(new, exp.Or) and isinstance(node.parent, exp.And):
            new = exp.Paren(this=new)
        yield _tidied(edited(tree, (node, new)))


def negation(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A NOT too many or forgotten: IN, LIKE, BETWEEN, EXISTS, IS NULL."""
    sites = []
    for having in (False, True):
        for node in _predicates(tree, having):
            where = _compared(node, known) if isinstance(node, exp.Is) else None
            if where is not None and where[1].key:
                continue  # nobody asks for rows without a key
            if isinstance(node, (exp.In, exp.Like, exp.Between, exp.Exists, exp.Is)):
                sites.append(node)
    for node in _shuffled(sites, rng):
        if isinstance(node.parent, exp.Not):
            yield edited(tree, (node.parent, node))
        elif node.args.get("negate"):
            new = node.copy()
            new.set("negate", None)
            yield edited(tree, (node, new))
        else:
            yield edited(tree, (node, exp.Not(this=node.copy())))


def like_pattern(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Another LIKE pattern: anchored on one side, on both, or on none; or the pattern as a plain value."""
    for node in _shuffled(tree.find_all(exp.Like), rng):
        literal = node.expression
        if not isinstance(literal, exp.Literal) or not literal.is_string:
            continue
        core = literal.name.strip("%")
        if core:
            for text in _shuffled((f"%{core}%", f"{core}%", f"%{core}", core), rng):
                yield edited(tree, (literal, exp.Literal.string(text)))
            yield edited(tree, (node, exp.EQ(this=node.this.copy(), expression=literal.copy())))


# --- the errors: groups and aggregates ----------------------------------------------------------------------


def aggregate(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """SUM for COUNT, AVG for MAX …"""
    found = []
    for select in _selects(tree):
        having = select.args.get("having")
        for node in select.find_all(*_AGGREGATES):
            if node.parent_select is select and not (having is not None and _inside(node, having)):
                found.append((select, node))
    for select, node in _shuffled(found, rng):
        yield from _other_aggregate(tree, select, node, known, rng)


_AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)


def _inside(node: Tree, ancestor: Tree) -> bool:
    at: Tree | None = node
    while at is not None and at is not ancestor:
        at = at.parent
    return at is not None


def _other_aggregate(tree: Tree, select: exp.Select, node: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    # The same aggregate often stands in the answer, in HAVING and in ORDER BY: a model that mistakes it,
    # mistakes it once.
    same = [other for other in select.find_all(type(node)) if other == node and other.parent_select is select]
    argument = node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this
    where = resolve(argument, known) if isinstance(argument, exp.Column) else None
    if isinstance(node, exp.Count):
        sources = sources_of(select, known)
        numbers = [
            (alias, a) for alias, r in sources for a in r.attributes if a.kind == "number" and not a.key
        ]
        for alias, attribute in _shuffled(numbers, rng)[:3]:
            new = rng.choice((exp.Sum, exp.Sum, exp.Avg, exp.Max))
            inner = written_like(select, alias, attribute.name, known)
            yield edited(tree, *((other, new(this=inner)) for other in same))
        return
    number = where is None or (where[1].kind == "number" and not where[1].key)
    others = [exp.Min, exp.Max] + ([exp.Sum, exp.Avg] if number else []) + [exp.Count]
    if isinstance(node, (exp.Min, exp.Max)):  # the opposite extreme first
        others.sort(key=lambda kind: kind not in (exp.Min, exp.Max))
    else:
        rng.shuffle(others)
    for kind in others:
        if kind is not type(node):
            yield edited(tree, *((other, kind(this=argument.copy())) for other in same))


def distinct(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """DISTINCT added or dropped, for rows and inside COUNT."""
    sites: list[Tree] = [*_selects(tree), *tree.find_all(exp.Count)]
    for node in _shuffled(sites, rng):
        if isinstance(node, exp.Select):
            bare = not node.args.get("group") and any(p.find(exp.AggFunc) for p in node.expressions)
            if bare or node.find_ancestor(exp.In, exp.Exists):
                continue
            if not node.args.get("distinct") and rng.random() > _SELDOM:
                continue
            new = node.copy()
            new.set("distinct", None if node.args.get("distinct") else exp.Distinct())
            yield edited(tree, (node, new))
        elif isinstance(node.this, exp.Distinct):
            if len(node.this.expressions) == 1:
                yield edited(tree, (node, exp.Count(this=node.this.expressions[0].copy())))
        elif isinstance(node.this, exp.Star):
            select = node.parent_select
            if isinstance(select, exp.Select) and rng.random() < _SELDOM:
                for alias, attribute in _shuffled(
                    [
                        (a, x)
                        for a, r in sources_of(select, known)
                        for x in r.attributes
                        if x.kind != "number" or x.key
                    ],
                    rng,
                )[:3]:
                    inner = written_like(select, alias, attribute.name, known)
                    yield edited(tree, (node, exp.Count(this=exp.Distinct(expressions=[inner]))))
        else:
            yield edited(tree, (node, exp.Count(this=exp.Distinct(expressions=[node.this.copy()]))))


def group_key(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Groups are made by another column (shown in the place of the right one, where that is shown)."""
    for select, key in _group_keys(tree, rng):
        where = resolve(key, known) if isinstance(key, exp.Column) else None
        if where is None:
            continue
        same = [node for node in select.find_all(exp.Column) if node.parent_select is select and node == key]
        same = [n for n in same if not n.find_ancestor(exp.AggFunc, exp.Where, exp.Join)]
        for source, other in _nearest(where[1], where[0], sources_of(select, known), rng):
            new = written_like(select, source, other.name, known)
            yield edited(tree, *((node, new) for node in same))
            if len(same) > 1:
                yield edited(tree, (key, new))


def group_missing(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A group key is forgotten."""
    for select, key in _group_keys(tree, rng):
        group = select.args["group"]
        if len(group.expressions) > 1:
            yield edited(tree, (key, None))
        elif not select.args.get("having"):
            yield edited(tree, (group, None))


def group_extra(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Groups are made finer than asked, or made where none were asked for."""
    for select in _shuffled(_selects(tree), rng):
        group = select.args.get("group")
        if group is None and not any(projection.find(exp.AggFunc) for projection in select.expressions):
            continue
        keys = {to_sql(key) for key in group.expressions} if group else set()
        found = [(alias, a) for alias, r in sources_of(select, known) for a in r.attributes]
        for alias, attribute in _shuffled(found, rng)[:4]:
            new = written_like(select, alias, attribute.name, known)
            if to_sql(new) not in keys:
                wider = select.copy()
                old_keys = [key.copy() for key in group.expressions] if group else []
                wider.set("group", exp.Group(expressions=[*old_keys, new]))
                yield edited(tree, (select, wider))


def _group_keys(tree: Tree, rng: Random) -> list[tuple[exp.Select, Tree]]:
    groups = [(select, select.args.get("group")) for select in _selects(tree)]
    return _shuffled([(select, key) for select, group in groups if group for key in group.expressions], rng)


def having(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """The condition on groups: another comparison, value or aggregate."""
    made = [
        _other_comparison(tree, known, rng, having=True),
        _other_value(tree, known, rng, having=True),
        _having_aggregate(tree, known, rng),
    ]
    for variants_ in _shuffled(made, rng):
        yield from variants_


def _having_aggregate(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    for clause in tree.find_all(exp.Having):
        select = clause.parent_select
        for node in clause.find_all(*_AGGREGATES):
            if isinstance(select, exp.Select) and node.parent_select is select:
                yield from _other_aggregate(tree, select, node, known, rng)


def arithmetic(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Operands exchanged, plus for minus, or a constant part forgotten (`100.0 *`, `+ 1`)."""
    for node in _shuffled(tree.find_all(exp.Sub, exp.Add, exp.Mul, exp.Div), rng):
        constant = [side for side in (node.this, node.expression) if not side.find(exp.Column, exp.Star)]
        if len(constant) == 1:
            rest = node.expression if constant[0] is node.this else node.this
            idle = isinstance(node.parent, exp.Paren) and not isinstance(rest, exp.Binary)
            yield edited(tree, (node.parent if idle else node, rest))
        elif not constant:
            if isinstance(node, (exp.Sub, exp.Div)):
                swapped = node.copy()
                swapped.set("this", _operand(node.expression))
                swapped.set("expression", _operand(node.this))
                yield edited(tree, (node, swapped))
            if isinstance(node, (exp.Sub, exp.Add)):
                other = exp.Add if isinstance(node, exp.Sub) else exp.Sub
                yield edited(tree, (node, other(this=node.this.copy(), expression=node.expression.copy())))


def _operand(node: Tree) -> Tree:
    return exp.Paren(this=node.copy()) if isinstance(node, exp.Binary) else node.copy()


# --- the errors: order, limit, sets -------------------------------------------------------------------------


def _order_keys(tree: Tree) -> list[Tree]:
    """The keys by which queries sort, not windows."""
    return [key for key in tree.find_all(exp.Ordered) if not key.find_ancestor(exp.Window)]


def order_direction(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Ascending for descending, or the reverse."""
    for key in _shuffled(_order_keys(tree), rng):
        new = key.copy()
        descending = not key.args.get("desc")
        new.set("desc", descending or None)
        new.set("nulls_first", not descending)  # SQLite's own order of NULLs, which is therefore not written
        yield edited(tree, (key, new))


def order_key(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Sorted by something else."""
    for key in _shuffled(_order_keys(tree), rng):
        select = key.parent_select
        if not isinstance(select, exp.Select):
            continue
        inner = key.find(exp.Column)
        where = resolve(inner, known) if inner is not None else None
        found: list[Tree] = []
        if where is not None and isinstance(key.this, exp.Column):
            near = _nearest(where[1], where[0], sources_of(select, known), rng, n=5)
            found += [written_like(select, source, other.name, known) for source, other in near]
        found += [p.unalias() for p in select.expressions if not p.find(exp.Star) or p.find(exp.Count)]
        for new in found:
            if new != key.this and not isinstance(new, exp.Literal):
                yield edited(tree, (key.this, new))


def order_missing(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """The rows are not sorted, or not by the last key."""
    orders = [order for order in tree.find_all(exp.Order) if not isinstance(order.parent, exp.Window)]
    for order in _shuffled(orders, rng):
        yield edited(tree, (order, None))
        if len(order.expressions) > 1:
            yield edited(tree, (order.expressions[-1], None))


def limit(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Too many or too few rows are kept."""
    found = []
    for node in tree.find_all(exp.Limit):
        number = _numeric(node.expression)
        if number is not None:
            near = [n for n in (number - 1, number + 1, Decimal(rng.randint(1, 10))) if 0 < n != number]
            found += [edited(tree, (node.expression, _number(n))) for n in dict.fromkeys(near)]
    yield from _shuffled(found, rng)


def limit_missing(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """All rows are kept where the first ones were asked for."""
    for node in _shuffled(tree.find_all(exp.Limit), rng):
        yield edited(tree, (node, None))


def limit_extra(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Only the first rows are kept where all were asked for."""
    for order in _shuffled(tree.find_all(exp.Order), rng):
        if isinstance(order.parent, exp.Query) and not order.parent.args.get("limit"):
            for n in (1, rng.randint(2, 5)):
                cut = order.parent.copy()
                cut.set("limit", exp.Limit(expression=exp.Literal.number(n)))
                yield edited(tree, (order.parent, cut))


def set_operation(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """UNION for INTERSECT, the arms of EXCEPT exchanged, UNION ALL for UNION."""
    for node in _shuffled(tree.find_all(exp.SetOperation), rng):
        found: list[Tree] = []
        for kind in (exp.Union, exp.Intersect, exp.Except):
            if type(node) is not kind:
                new = kind(**{k: copied(v) for k, v in node.args.items()})
                new.set("distinct", True)
                found.append(new)
        if isinstance(node, exp.Union):
            new = node.copy()
            new.set("distinct", not node.args.get("distinct"))
            found.append(new)
        elif isinstance(node, exp.Except):
            new = node.copy()
            new.set("this", node.expression.copy())
            new.set("expression", node.this.copy())
            found.append(new)
        for new in _shuffled(found, rng):
            yield edited(tree, (node, new))


def join_extra(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A table is joined that the answer does not need: it repeats rows, or drops those without a partner."""
    for select in _shuffled(_outer_selects(tree), rng):
        sources = sources_of(select, known)
        if len(sources) != len(source_nodes(select)) or any(is_star(p) for p in select.expressions):
            continue
        used = {relation.name.lower() for _, relation in sources}
        found = []
        for alias, relation in sources:
            for attribute in relation.attributes:
                place = attribute.place
                found += [(alias, attribute, b) for a, b in sorted(known.links) if a == place]
        for alias, attribute, (table_name, column_name) in _shuffled(found, rng):
            other = known.relations.get(table_name)
            key = other.get(column_name) if other is not None else None
            if other is None or key is None or table_name in used:
                continue
            on = exp.EQ(this=column_node(attribute.name, alias), expression=column_node(key.name, other.name))
            wider = qualified(select, known)
            joins = wider.args.get("joins") or []
            wider.set("joins", [*joins, exp.Join(this=exp.Table(this=identifier(other.name)), on=on)])
            yield edited(tree, (select, wider))


def is_star(projection: Tree) -> bool:
    inner = projection.unalias()
    return isinstance(inner, exp.Star) or (isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star))


def qualified(select: exp.Select, known: Known) -> exp.Select:
    """A copy whose own columns all say from which source they are."""
    own = {alias.lower() for alias, _ in sources_of(select, known)}
    edits: list[tuple[Tree, Tree | None]] = []
    for node in select.find_all(exp.Column):
        where = resolve(node, known) if not node.table else None
        if where is not None and node.parent_select is select and where[0].lower() in own:
            edits.append((node, column_node(node.name, where[0])))
    wider = edited(select, *edits)
    assert isinstance(wider, exp.Select)  # only columns of it are replaced
    return wider


# --- the errors: functions ----------------------------------------------------------------------------------


Edits = Sequence[tuple[Tree, Tree | None]]


def _each(tree: Tree, made: list[Edits], rng: Random) -> Iterator[Tree]:
    """The variants by each of the edits, in a random order; a tree is copied only when it is asked for."""
    return (edited(tree, *edits) for edits in _shuffled(made, rng))


def conditional(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """CASE: the branches exchanged, ELSE forgotten, counted where a sum is meant (COUNT also counts the
    zeros); or NULLs counted as zero."""
    made: list[Edits] = []
    for case in tree.find_all(exp.Case):
        default, branches = case.args.get("default"), case.args["ifs"]
        if default is not None:
            made.append([(default, branches[0].args["true"]), (branches[0].args["true"], default)])
            without = case.copy()
            without.set("default", None)
            made.append([(case, without)])
        if isinstance(case.parent, exp.Sum):
            made.append([(case.parent, exp.Count(this=case.copy()))])
        if len(branches) > 1:
            made.append([(branches[rng.randrange(len(branches))], None)])
    for node in tree.find_all(exp.Avg, exp.Min, exp.Count):
        if isinstance(node.this, exp.Column):
            filled = exp.Coalesce(this=node.this.copy(), expressions=[exp.Literal.number(0)])
            made.append([(node.this, filled)])
    for select in _outer_selects(tree):
        where = select.args.get("where")
        counts = [p.unalias() for p in select.expressions]
        if where is not None and len(counts) == 1 and isinstance(counts[0], exp.Count):
            one, zero = exp.Literal.number(1), exp.Literal.number(0)
            case = exp.Case(ifs=[exp.If(this=where.this.copy(), true=one)], default=zero)
            made.append([(counts[0], exp.Count(this=case)), (where, None)])
    yield from _each(tree, made, rng)


def conversion(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """CAST forgotten (whole numbers are then divided without a fraction), to another type, or where it cuts
    fractions off or compares numbers as text."""
    made: list[Edits] = []
    for cast in tree.find_all(exp.Cast):
        made.append([(cast, cast.this)])
        other = "INTEGER" if cast.to.this != exp.DataType.Type.INT else "REAL"
        made.append([(cast, _cast(cast.this, other))])
    for node, where in _columns(tree, known, outside_joins=True):
        if where[1].kind == "number" and not where[1].key:
            if not isinstance(node.parent, (exp.Cast, exp.Count)) and not node.find_ancestor(exp.Group):
                made.append([(node, _cast(node, "INTEGER"))])
            if isinstance(node.parent, (*_COMPARISONS, exp.Ordered, exp.Max, exp.Min)):
                made.append([(node, _cast(node, "TEXT"))])
        elif where[1].kind == "text" and isinstance(node.parent, (exp.Ordered, exp.Max, exp.Min)):
            made.append([(node, _cast(node, "INTEGER"))])
    yield from _each(tree, made, rng)


def _cast(node: Tree, kind: str) -> exp.Cast:
    return exp.Cast(this=node.copy(), to=exp.DataType.build(kind, dialect="sqlite"))


def _columns(
    tree: Tree, known: Known, outside_joins: bool = False
) -> list[tuple[exp.Column, tuple[str, Attribute, Relation]]]:
    """The columns that can be resolved, and what they are; `outside_joins`: not those of join conditions."""
    found = []
    for node in tree.find_all(exp.Column):
        if isinstance(node.this, exp.Star) or (outside_joins and node.find_ancestor(exp.Join)):
            continue
        where = resolve(node, known)
        if where is not None:
            found.append((node, where))
    return found


_DATE_LIKE = re.compile(r"date|year|month|day|time|birth|since", re.IGNORECASE)


def date_time(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """The wrong part of a date is taken, none where one is needed, or a part of what is no date (STRFTIME
    reads the number 2014 as the 2014th day of the Julian calendar)."""
    made: list[Edits] = []
    for call in tree.find_all(exp.TimeToStr, exp.Anonymous):
        texts = [node for node in call.find_all(exp.Literal) if node.is_string and "%" in node.name]
        for literal in texts[:1]:
            for part in ("%Y", "%m", "%d", "%H"):
                if part != literal.name:
                    made.append([(literal, exp.Literal.string(part))])
        inner = call.find(exp.Column)
        if texts and inner is not None:
            made.append([(call, inner)])
    for node, where in _columns(tree, known, outside_joins=True):
        dated = where[1].kind == "date" or (_DATE_LIKE.search(where[1].name) and not where[1].key)
        if dated and not node.find_ancestor(exp.TimeToStr, exp.Anonymous, exp.Group):
            part = rng.choice(("%Y", "%Y", "%m", "%d"))
            call = exp.Anonymous(this="STRFTIME", expressions=[exp.Literal.string(part), node.copy()])
            made.append([(node, call)])
    yield from _each(tree, made, rng)


def rounding(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """ROUND or ABS too many or forgotten, or rounded to other digits."""
    made: list[Edits] = []
    for call in tree.find_all(exp.Round):
        made.append([(call, call.this)])
        digits = 0 if call.args.get("decimals") else 1
        made.append([(call, _rounded_to(call.this, digits))])
    made += [[(node, node.this)] for node in tree.find_all(exp.Abs)]
    for node in tree.find_all(exp.Avg, exp.Div):
        if not node.find_ancestor(exp.Round):
            made.append([(node, _rounded_to(node, rng.choice((0, 0, 1))))])
    made += [[(node, exp.Abs(this=node.copy()))] for node in tree.find_all(exp.Sub)]
    yield from _each(tree, made, rng)


def _rounded_to(node: Tree, digits: int) -> exp.Round:
    return exp.Round(this=node.copy(), decimals=exp.Literal.number(digits) if digits else None)


def string_function(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A text is changed, cut or measured: LENGTH for the text itself, SUBSTR off by one, two columns glued
    together, upper case."""
    made: list[Edits] = []
    for call in tree.find_all(exp.Length, exp.Upper, exp.Lower, exp.Trim):
        made.append([(call, call.this)])
    for call in tree.find_all(exp.Substring):
        for key in ("start", "length"):
            number = _numeric(call.args[key]) if call.args.get(key) is not None else None
            if number is not None:
                made += [[(call.args[key], _number(n))] for n in (number - 1, number + 1) if n >= 0]
    for pair in tree.find_all(exp.DPipe):
        made += [[(pair, pair.this)], [(pair, pair.expression)]]
    for node, where in _columns(tree, known, outside_joins=True):
        if where[1].kind != "text" or where[1].key or node.find_ancestor(exp.Group):
            continue
        if isinstance(node.parent, (exp.Ordered, exp.Max, exp.Min)):
            made.append([(node, exp.Length(this=node.copy()))])
        elif isinstance(node.parent, (exp.Select, exp.Alias, exp.EQ, exp.In)):
            kind = rng.choice((exp.Upper, exp.Lower))
            made.append([(node, kind(this=node.copy()))])
    for select in _outer_selects(tree):
        texts = [
            p for p in select.expressions
            if isinstance(p, exp.Column) and (w := resolve(p, known)) is not None and w[1].kind == "text"
        ]  # fmt: skip
        if len(texts) > 1 and known.last:
            glued = exp.DPipe(this=texts[0].copy(), expression=texts[1].copy())
            made.append([(texts[0], glued), (texts[1], None)])
    yield from _each(tree, made, rng)


def window(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Window functions: the partition or order forgotten or turned, RANK for ROW_NUMBER, or a window in the
    place of groups, so that every row is kept."""
    made: list[Edits] = []
    for node in tree.find_all(exp.Window):
        if node.args.get("partition_by"):
            without = node.copy()
            without.set("partition_by", None)
            made.append([(node, without)])
        for key in node.args["order"].expressions if node.args.get("order") else ():
            turned = key.copy()
            turned.set("desc", not key.args.get("desc"))
            turned.set("nulls_first", bool(key.args.get("desc")))
            made.append([(key, turned)])
        for kind in _RANKS:
            if isinstance(node.this, _RANKS) and not isinstance(node.this, kind):
                made.append([(node.this, kind())])
    for select in _outer_selects(tree):
        group = select.args.get("group")
        if group is None or any(select.args.get(k) for k in ("having", "order", "limit")):
            continue
        calls = [node for p in select.expressions for node in p.find_all(*_AGGREGATES)]
        if calls and not any(node.find(exp.Distinct) for node in calls):
            keys = [key.copy() for key in group.expressions]
            windows = [(node, exp.Window(this=node.copy(), partition_by=keys)) for node in calls]
            made.append([*windows, (group, None)])
    yield from _each(tree, made, rng)


_RANKS = (exp.RowNumber, exp.Rank, exp.DenseRank)


# --- the errors: what does not run --------------------------------------------------------------------------


def unknown_column(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A column is read where it is not: of another table, or under a name that it does not bear."""
    names = {a.name.lower(): a.name for r in known.relations.values() for a in r.attributes}
    for node, (alias, attribute, relation) in _shuffled(_columns(tree, known), rng):
        reachable: set[str] = set()  # from here, also in the queries around a subquery
        select = node.parent_select
        while select is not None:
            if isinstance(select, exp.Select):
                reachable |= {a.name.lower() for _, r in sources_of(select, known) for a in r.attributes}
                reachable |= {p.alias_or_name.lower() for p in select.expressions}
            select = select.parent_select
        elsewhere = [n for lower, n in names.items() if lower not in reachable]
        elsewhere.sort(key=lambda n: -(_likeness(n, attribute.name) + 0.3 * rng.random()))
        subject = relation.name if not relation.step else alias
        invented = [f"{subject}_{attribute.name}", attribute.name.rpartition("_")[2]]
        invented.append(attribute.name[:-1] if attribute.name.endswith("s") else attribute.name + "s")
        for name in _shuffled(elsewhere[:3], rng) + _shuffled(invented, rng):
            # A name in quotes that is no column would be read as a text, not refused.
            new = column_node(name, node.table or None)
            if name.lower() not in reachable and name and not (new.this.quoted and not new.table):
                yield edited(tree, (node, new))


def unknown_table(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A table or step is read that does not exist."""
    for node in _shuffled(tree.find_all(exp.Table), rng):
        name = node.name
        invented = [name[:-1] if name.endswith("s") else name + "s", f"{name}_info", name.partition("_")[0]]
        for new in _shuffled(invented, rng):
            if new and new.lower() not in known.relations:
                edits: list[tuple[Tree, Tree | None]] = [
                    (c, column_node(c.name, new))
                    for c in tree.find_all(exp.Column)
                    if c.table.lower() == name.lower() and not node.alias
                ]
                table_node = exp.Table(this=identifier(new), alias=copied(node.args.get("alias")))
                yield edited(tree, (node, table_node), *edits)


def ambiguous_column(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A column that several sources have, without saying which."""
    for node, _ in _shuffled(_columns(tree, known), rng):
        select = node.parent_select
        if node.table and isinstance(select, exp.Select):
            owners = [r for _, r in sources_of(select, known) if r.get(node.name) is not None]
            if len(owners) > 1:
                yield edited(tree, (node, column_node(node.name)))


def aggregate_misuse(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """An aggregate in WHERE, where there are no groups yet: `WHERE age = MAX(age)`."""
    made: list[Edits] = []
    for select in _outer_selects(tree):
        order, where = select.args.get("order"), select.args.get("where")
        if order is not None and select.args.get("limit") is not None and where is None:
            key = order.expressions[0]
            if isinstance(key.this, exp.Column):
                kind: type[exp.AggFunc] = exp.Max if key.args.get("desc") else exp.Min
                condition = exp.EQ(this=key.this.copy(), expression=kind(this=key.this.copy()))
                other = select.copy()
                for clause in ("order", "limit", "offset"):
                    other.set(clause, None)
                other.set("where", exp.Where(this=condition))
                made.append([(select, other)])
        for atom in _atoms(where) if where is not None else ():
            if not isinstance(atom, _COMPARISONS) or not isinstance(atom.this, exp.Column):
                continue
            attribute = resolve(atom.this, known)
            if attribute is None or attribute[1].kind != "number":
                continue
            if isinstance(atom.expression, exp.Subquery):
                inner = atom.expression.find(*_AGGREGATES)
                kind = type(inner) if inner is not None else rng.choice((exp.Avg, exp.Max, exp.Min))
                made.append([(atom.expression, kind(this=atom.this.copy()))])
            elif not attribute[1].key:
                kind = rng.choice((exp.Avg, exp.Max, exp.Sum))
                called = (
                    exp.Count(this=exp.Star())
                    if "count" in atom.this.name.lower()
                    else kind(this=atom.this.copy())
                )
                made.append([(atom.this, called)])
    yield from _each(tree, made, rng)


def unknown_function(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """A function of another database: YEAR(…), MONTH(…)."""
    for node, where in _shuffled(_columns(tree, known, outside_joins=True), rng):
        if where[1].kind == "date" or (_DATE_LIKE.search(where[1].name) and not where[1].key):
            name = rng.choice(("YEAR", "YEAR", "MONTH", "TO_DATE"))
            yield edited(tree, (node, exp.Anonymous(this=name, expressions=[node.copy()])))


# --- the errors: half an answer -----------------------------------------------------------------------------


def shortened(chain: Sequence[Link], at: int) -> list[Link] | None:
    """The chain that takes step `at` for the answer; None where an earlier step would then serve nobody."""
    if at == len(chain) - 1:
        return None
    read = {node.name.lower() for link in chain[: at + 1] for node in link.tree.find_all(exp.Table)}
    if any(link.name.lower() not in read for link in chain[:at]):
        return None
    tree = chain[at].tree.copy()
    select = tree if isinstance(tree, exp.Select) else None
    if select is not None and not select.args.get("order"):
        # The answer's own columns have no names of ours, in right chains neither.
        select.set(
            "expressions",
            [e if isinstance(e.unalias(), exp.Column) else e.unalias() for e in select.expressions],
        )
    return [*chain[:at], Link("", tree)]


def partial_query(tree: Tree, known: Known, rng: Random) -> Iterator[Tree]:
    """Only a part of the answer: one arm of a set operation. (`chain_variants` also ends chains early.)"""
    for node in _shuffled(tree.find_all(exp.SetOperation), rng):
        for arm in _shuffled((node.this, node.expression), rng):
            yield edited(tree, (node, arm.unnest()))


# --- the table ----------------------------------------------------------------------------------------------

#: Every kind of error, by what makes it -> type and subtype in the NL2SQL-BUGs taxonomy (Liu et al. 2025).
_TAXONOMY: dict[Callable[[Tree, Known, Random], Iterator[Tree]], tuple[str, str]] = {
    column: ("Attribute-Related Errors", "Attribute Mismatch"),
    order_key: ("Attribute-Related Errors", "Attribute Mismatch"),
    group_key: ("Attribute-Related Errors", "Attribute Mismatch"),
    unknown_column: ("Attribute-Related Errors", "Attribute Mismatch"),
    ambiguous_column: ("Attribute-Related Errors", "Attribute Mismatch"),
    missing_column: ("Attribute-Related Errors", "Attribute Missing"),
    extra_column: ("Attribute-Related Errors", "Attribute Redundancy"),
    table: ("Table-Related Errors", "Table Mismatch"),
    unknown_table: ("Table-Related Errors", "Table Mismatch"),
    join_missing: ("Table-Related Errors", "Table Missing"),
    join_extra: ("Table-Related Errors", "Table Redundancy"),
    join_key: ("Table-Related Errors", "Join Condition Mismatch"),
    join_kind: ("Table-Related Errors", "Join Type Mismatch"),
    value: ("Value-Related Errors", "Value Mismatch"),
    like_pattern: ("Value-Related Errors", "Value Mismatch"),
    limit: ("Value-Related Errors", "Value Mismatch"),
    data_format: ("Value-Related Errors", "Data Format Mismatch"),
    comparison: ("Operator-Related Errors", "Comparison Operator Mismatch"),
    logic: ("Operator-Related Errors", "Logical Operator Mismatch"),
    negation: ("Operator-Related Errors", "Logical Operator Mismatch"),
    condition_column: ("Condition-Related Errors", "Explicit Condition Mismatch"),
    having: ("Condition-Related Errors", "Explicit Condition Mismatch"),
    condition_missing: ("Condition-Related Errors", "Explicit Condition Missing"),
    condition_extra: ("Condition-Related Errors", "Explicit Condition Redundancy"),
    implicit_condition_missing: ("Condition-Related Errors", "Implicit Condition Missing"),
    aggregate: ("Function-Related Errors", "Aggregate Functions"),
    aggregate_misuse: ("Function-Related Errors", "Aggregate Functions"),
    conditional: ("Function-Related Errors", "Conditional Functions"),
    conversion: ("Function-Related Errors", "Conversion Functions"),
    date_time: ("Function-Related Errors", "Date/Time Functions"),
    unknown_function: ("Function-Related Errors", "Date/Time Functions"),
    arithmetic: ("Function-Related Errors", "Math Functions"),
    rounding: ("Function-Related Errors", "Math Functions"),
    string_function: ("Function-Related Errors", "String Functions"),
    window: ("Function-Related Errors", "Window Functions"),
    group_missing: ("Clause-Related Errors", "Clause Missing"),
    order_missing: ("Clause-Related Errors", "Clause Missing"),
    limit_missing: ("Clause-Related Errors", "Clause Missing"),
    group_extra: ("Clause-Related Errors", "Clause Redundancy"),
    limit_extra: ("Clause-Related Errors", "Clause Redundancy"),
    subquery: ("Subquery-Related Errors", "Subquery Mismatch"),
    subquery_missing: ("Subquery-Related Errors", "Subquery Missing"),
    partial_query: ("Subquery-Related Errors", "Partial Query"),
    order_direction: ("Other Errors", "ASC/DESC"),
    distinct: ("Other Errors", "DISTINCT"),
    set_operation: ("Other Errors", "Other"),
}

_MAKERS = {function.__name__: function for function in _TAXONOMY}

#: The name that stands in `steps[].error` -> type and subtype in the NL2SQL-BUGs taxonomy.
CATEGORIES: dict[str, tuple[str, str]] = {function.__name__: kind for function, kind in _TAXONOMY.items()}

#: The errors that the database refuses to run; all others give a result, and a wrong one.
FAILING = frozenset(
    {"unknown_column", "unknown_table", "ambiguous_column", "aggregate_misuse", "unknown_function"}
)
