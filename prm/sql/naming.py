"""What steps and columns are called: names that say what a step holds, read off its syntax tree alone.

    SELECT name FROM singer WHERE age > 30                    singer_where_age_over_30
    SELECT country, COUNT(*) FROM singer GROUP BY country     singer_count_per_country
    SELECT … FROM singer JOIN concert ON …                    singer_with_concert
    SELECT name FROM singer ORDER BY age DESC LIMIT 3         top_3_singer_by_age

The tree alone decides, so that a step which is changed to be wrong gets the name that decomposition would
have given it: a name never tells right from wrong. Sources bear the names of earlier steps, and `_subject`
reads from such a name what its rows are, so that names do not grow with the chain. Nothing is put into
plural or singular: the words are the schema's own, in whatever language.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sqlglot import exp

from prm.sql.describe import FROM

#: Longer names lose their values first, then their conditions.
LONGEST = 48

#: Words that SQLite reads as keywords where a column's name could stand.
KEYWORDS = frozenset(
    """add all alter and as autoincrement between case check collate commit constraint create default
    deferrable delete distinct drop else escape except exists foreign from group having if in index insert
    intersect into is isnull join limit not nothing notnull null on or order primary references returning
    select set table then to transaction union unique update using values when where""".split()  # noqa: SIM905
)
#: Comparisons as they stand in a name.
_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "",
    exp.Is: "",
    exp.NEQ: "not_",
    exp.GT: "over_",
    exp.LT: "under_",
    exp.GTE: "at_least_",
    exp.LTE: "at_most_",
    exp.Like: "like_",
    exp.Glob: "like_",
}


def cte_name(query: exp.Expr) -> str:
    """What to call a step, by its tree alone. The caller makes the name unique (`_2`, `_3`, …)."""
    name = _name(query)
    return name if re.match(r"[^\W\d]", name) else f"rows_{name}"


def _name(query: exp.Expr) -> str:
    if isinstance(query, exp.SetOperation):
        word = {exp.Intersect: "common", exp.Except: "remaining"}.get(type(query), "combined")
        first: exp.Expr = query
        while isinstance(first, (exp.SetOperation, exp.Subquery)):
            first = first.this
        return f"{word}_{_columns(first.expressions) or 'rows'}"
    sources = [_subject(table.name or table.alias) for table in source_nodes(query)]
    subject = _join(sources) if sources else "values"
    group, found = query.args.get("group"), list(aggregates(query))
    if query.args.get("limit"):
        return _top(query, subject)
    if group:
        value = column_alias(found[0]) if len(found) == 1 else "summary" if found else subject
        if value == "count" and len(sources) == 1 and "_with_" not in subject:
            value = f"{subject}_count"
        return f"{value[:LONGEST]}_per_{_list(map(_word, group.expressions))}"
    where = query.args.get("where")
    if found:
        rows = _where(subject, where.this) if where else subject
        return f"{column_alias(found[0]) if len(found) == 1 else 'summary'}_of_{rows}"
    if any(isinstance(e.unalias(), exp.Window) for e in query.expressions):
        return f"ranked_{subject}"
    if query.args.get("distinct"):
        return f"distinct_{_columns(query.expressions) or subject}"
    if where:
        return _where(subject, where.this)
    if len(sources) == 1:
        columns = _columns(query.expressions)
        return f"{subject}_{columns}" if columns else f"all_{subject}"
    return subject


def _join(subjects: list[str]) -> str:
    if len(subjects) == 1:
        return subjects[0]
    joined = f"{subjects[0]}{'_and_' if '_with_' in subjects[0] else '_with_'}{'_and_'.join(subjects[1:])}"
    if len(joined) > LONGEST:
        joined = f"{subjects[0].split('_with_')[0]}_to_{subjects[-1]}"
    return joined if len(joined) <= LONGEST else subjects[0][:LONGEST].rstrip("_")


def _top(query: exp.Expr, subject: str) -> str:
    count = query.args["limit"].args.get("expression")
    many = f"{slug(count.name)}_" if isinstance(count, exp.Literal) and count.name != "1" else ""
    order = query.args.get("order")
    if not order:
        return f"first_{many}{subject}"
    term = order.expressions[0]
    word = "top" if term.args.get("desc") else "bottom"
    return f"{word}_{many}{subject}_by_{_word(term.this)}"


def _where(subject: str, condition: exp.Expr) -> str:
    parts = list(conjuncts(condition))
    names = [_condition(part) for part in parts]
    columns = [next((slug(c.name) for c in part.find_all(exp.Column)), None) for part in parts]
    for words, between in ((names, "_where_"), (columns, "_by_")):
        known = [word for word in words if word]
        if len(known) == len(words):
            name = subject + between + _list(dict.fromkeys(known))
            if len(name) <= LONGEST:
                return name
    return f"filtered_{subject}"


def _condition(e: exp.Expr) -> str | None:
    """A condition in a few words, None where there are none for it."""
    e = e.unnest()
    if isinstance(e, exp.Not):
        inner, read = _condition(e.this), e.this.unnest().this
        column = slug(read.name) if isinstance(read, exp.Column) else ""
        if inner and column and inner.startswith(f"{column}_"):
            return f"{column}_not_{inner.removeprefix(f'{column}_')}"
        return f"not_{inner}" if inner else None
    if isinstance(e, exp.Or):
        one, other = _condition(e.this), _condition(e.expression)
        return f"{one}_or_{other}" if one and other else None
    left = e.this.unnest() if isinstance(e.this, exp.Expr) else None
    if not isinstance(left, exp.Column):
        return None
    column, word = slug(left.name), _COMPARISONS.get(type(e))
    negated = "not_" if e.args.get("negate") else ""
    if word is not None:
        value = _value(e.expression)
        return f"{column}_{negated}{word}{value}" if value else None
    if isinstance(e, exp.Between):
        low, high = _value(e.args["low"]), _value(e.args["high"])
        return f"{column}_{negated}between_{low}_and_{high}" if low and high else None
    if isinstance(e, exp.In):
        values = [_value(e.args["query"])] if e.args.get("query") else [_value(v) for v in e.expressions]
        return f"{column}_{negated}in_{'_'.join(v or '' for v in values)}" if values and all(values) else None
    return None


def _value(e: exp.Expr) -> str | None:
    e = e.unnest()
    if isinstance(e, exp.Null):
        return "null"
    if isinstance(e, exp.Neg):
        inner = _value(e.this)
        return f"minus_{inner}" if inner else None
    if isinstance(e, exp.Literal):
        words = slug(e.name, "blank").split("_")
        return "_".join(words[:4]) if len(words[0]) <= LONGEST else None
    if isinstance(e, exp.Column):
        return slug(e.name)
    if isinstance(e, exp.Select):
        nodes = source_nodes(e)
        name = slug(nodes[0].name) if len(nodes) == 1 and nodes[0].name else ""
        return name.partition("_where_")[0].partition("_by_")[0] or None
    return None


def column_alias(e: exp.Expr) -> str:
    """A name for an expression that has none: `count`, `max_age`, `count_distinct_country` …"""
    if isinstance(e, exp.Filter):
        e = e.this
    if isinstance(e, exp.Literal) or not isinstance(e, (exp.Func, exp.Anonymous)):
        return e.name.lower() if isinstance(e, exp.Column) else "value"
    function = e.name if isinstance(e, exp.Anonymous) else e.sql_name()
    columns = [c.name for c in e.find_all(exp.Column) if not isinstance(c.this, exp.Star)]
    distinct = "distinct_" if e.find(exp.Distinct) else ""
    return slug("_".join([function.lower()] + [distinct + c for c in columns[:1]]))


def _word(e: exp.Expr) -> str:
    return slug(e.name) if isinstance(e, exp.Column) else column_alias(e)


def _columns(expressions: list[exp.Expr]) -> str | None:
    """One or two output columns by name; None for more, and for stars."""
    names = [slug(e.alias) if isinstance(e, exp.Alias) else _word(e) for e in expressions]
    return _list(names) if len(names) <= 2 and not any(is_star(e) for e in expressions) else None


def _subject(source: str) -> str:
    """What the rows of a source are: a table's name, or what the name of an earlier step tells of it."""
    name = re.sub(r"_\d+\Z", "", slug(source, "rows"))
    name = name.partition("_where_")[0]
    if "_per_" in name:
        return name.rpartition("_per_")[2].partition("_by_")[0]
    name = re.sub(r"\A(top|bottom|first)_(\d+_)?|\A(distinct|filtered|ranked|all)_|\A.*_of_(?=\w)", "", name)
    return name.partition("_by_")[0] or "rows"


def _list(names: Iterable[str]) -> str:
    return "_and_".join(list(names)[:2])


def slug(name: str, default: str = "value") -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_") or default


def needs_quotes(name: str) -> bool:
    # By the letters of any script, as `tables.quote` has it: were only some traces to quote "avg_年龄", it
    # would tell which are right.
    return name.lower() in KEYWORDS or not re.fullmatch(r"[^\W\d]\w*", name)


def identifier(name: str) -> exp.Identifier:
    return exp.to_identifier(name, quoted=needs_quotes(name))


def unique(base: str, used: Iterable[str]) -> str:
    """`base`, or `base_2`, `base_3` …: the first that is neither in `used` (lower case) nor a keyword."""
    name, n = base, 1
    while name.lower() in used or name.lower() in KEYWORDS:
        n += 1
        name = f"{base}_{n}"
    return name


# --- what a name is read off


def source_nodes(select: exp.Expr) -> list[exp.Expr]:
    """What FROM and JOIN read, in order."""
    if not isinstance(select, exp.Select) or not select.args.get(FROM):
        return []
    return [select.args[FROM].this] + [join.this for join in select.args.get("joins") or []]


def own_nodes(node: exp.Expr | None) -> Iterator[exp.Expr]:
    """The node and all below it, without going into nested queries."""
    if node is None:
        return
    yield node
    for child in node.iter_expressions():
        if not isinstance(child, exp.Query):
            yield from own_nodes(child)


def conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    """The conditions that an AND holds together."""
    if isinstance(condition, exp.And):
        yield from conjuncts(condition.this)
        yield from conjuncts(condition.expression)
    elif isinstance(condition, exp.Paren) and isinstance(condition.unnest(), exp.And):
        yield from conjuncts(condition.unnest())
    else:
        yield condition


def is_aggregate(e: exp.Expr) -> bool:
    if isinstance(e, exp.Anonymous):
        return e.name.lower() in ("total", "json_group_array", "json_group_object")
    return isinstance(e, exp.AggFunc) and not (isinstance(e, (exp.Min, exp.Max)) and e.expressions)


def aggregates(select: exp.Expr) -> Iterator[exp.Expr]:
    """The aggregates (FILTER included) of one SELECT's own clauses, windows left out, doubles too."""
    seen: list[exp.Expr] = []
    for clause in [*select.expressions, select.args.get("having"), select.args.get("order")]:
        for node in own_nodes(clause):
            if is_aggregate(node) and not isinstance(node.parent, exp.Window):
                whole = node.parent if isinstance(node.parent, exp.Filter) else node
                if whole not in seen and not isinstance(whole.parent, exp.Window):
                    seen.append(whole)
                    yield whole


def is_star(e: exp.Expr) -> bool:
    """`*` or `singer.*`, not COUNT(*)."""
    return isinstance(e, exp.Star) or (isinstance(e, exp.Column) and isinstance(e.this, exp.Star))
