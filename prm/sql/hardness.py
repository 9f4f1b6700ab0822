"""How hard is a query by the rules of Spider's official evaluation: easy, medium, hard, extra (Yu et al.
2018, arXiv:1809.08887).

Three counts decide, of the outermost SELECT alone (of a set operation: its first arm): clauses, joins, ORs
and LIKEs; queries nested in its conditions, and set operations; and whether it has several aggregates,
columns, conditions or groupings. The rules are kept as they are, with their oddities, so that figures can be
compared with published ones: a NOT in WHERE or HAVING and an AND in HAVING count as aggregates, an aggregate
in HAVING does not, and an ORDER BY behind a UNION belongs to its last arm. What Spider's grammar lacks is
read in its spirit: a CTE is a nested query.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from prm.sql.decompose import DecomposeError, parse_fragment

HARDNESS = ("easy", "medium", "hard", "extra")
_AGGREGATES = (exp.Count, exp.Min, exp.Max, exp.Sum, exp.Avg)


def hardness(sql: str) -> str | None:
    """One of `HARDNESS`; None where the statement cannot be parsed or is no query."""
    try:
        tree = parse_fragment(sql)[1]
    except (DecomposeError, RecursionError):
        return None
    select, nested = _unwrapped(tree), len(tree.ctes)
    if isinstance(select, exp.SetOperation):
        nested += 1
        while isinstance(select, exp.SetOperation):
            select = _unwrapped(select.left)
    if not isinstance(select, exp.Select):
        return None
    where, where_links = _conditions(select.args.get("where"))
    having, having_links = _conditions(select.args.get("having"))
    joins = select.args.get("joins") or []
    on, on_links = [], []
    for join in joins:
        conditions, links = _conditions(join.args.get("on"))
        on += conditions
        on_links += links
    group = select.args["group"].expressions if select.args.get("group") else []
    order = select.args["order"].expressions if select.args.get("order") else []

    conditions = [*on, *where, *having]
    clauses = bool(where) + bool(group) + bool(order) + (select.args.get("limit") is not None) + len(joins)
    clauses += sum(isinstance(link, exp.Or) for link in [*on_links, *where_links, *having_links])
    clauses += sum(isinstance(_without_not(each), (exp.Like, exp.ILike)) for each in conditions)
    nested += sum(1 for each in conditions for _ in _queries(each))
    aggregates = sum(isinstance(_leftmost(each), _AGGREGATES) for each in select.expressions)
    aggregates += sum(_is_negated(each) for each in where)
    aggregates += sum(_is_negated(each) for each in having) + len(having_links)
    aggregates += sum(isinstance(each, _AGGREGATES) for item in order for each in _operands(item.this))
    others = (aggregates > 1) + (len(select.expressions) > 1) + (len(where) > 1) + (len(group) > 1)
    return _level(clauses, nested, others)


def _level(clauses: int, nested: int, others: int) -> str:
    if nested == 0:
        if clauses <= 1 and others == 0:
            return "easy"
        if (clauses <= 1 and others <= 2) or (clauses <= 2 and others < 2):
            return "medium"
        if clauses <= 2 or (clauses == 3 and others <= 2):
            return "hard"
    elif nested == 1 and clauses <= 1 and others == 0:
        return "hard"
    return "extra"


def _unwrapped(tree: exp.Expr) -> exp.Expr:
    while isinstance(tree, (exp.Subquery, exp.Paren)):
        tree = tree.this
    return tree


def _conditions(clause: exp.Expr | None) -> tuple[list[exp.Expr], list[exp.Expr]]:
    """The single conditions of a clause, and the ANDs and ORs between them."""
    conditions: list[exp.Expr] = []
    links: list[exp.Expr] = []
    todo = [] if clause is None else [clause.this if isinstance(clause, (exp.Where, exp.Having)) else clause]
    while todo:
        each = todo.pop()
        if isinstance(each, exp.Paren):
            todo.append(each.this)
        elif isinstance(each, (exp.And, exp.Or)):
            links.append(each)
            todo += [each.left, each.right]
        else:
            conditions.append(each)
    return conditions, links


def _without_not(condition: exp.Expr) -> exp.Expr:
    while isinstance(condition, (exp.Not, exp.Paren)):
        condition = condition.this
    return condition


def _is_negated(condition: exp.Expr) -> bool:
    """IS NOT NULL is an operator of its own."""
    return isinstance(condition, exp.Not) and not isinstance(_without_not(condition), exp.Is)


def _queries(condition: exp.Expr) -> Iterator[exp.Expr]:
    """The outermost queries in a condition."""
    for node in condition.walk(prune=lambda node: isinstance(node, exp.Query)):
        if isinstance(node, exp.Query):
            yield node


def _leftmost(item: exp.Expr) -> exp.Expr:
    item = item.unalias()
    while isinstance(item, (exp.Binary, exp.Paren)):
        item = item.this
    return item


def _operands(item: exp.Expr) -> Iterator[exp.Expr]:
    if isinstance(item, (exp.Binary, exp.Paren)):
        yield from _operands(item.this)
        if isinstance(item, exp.Binary):
            yield from _operands(item.expression)
    else:
        yield item
