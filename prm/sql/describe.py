"""One plain-English sentence for one step's SQL.

A step of a trace is a sentence and an SQL fragment, and the sentence must be true of *any* fragment: a
wrong trace is made by changing the syntax tree, and its sentence then says what the wrong SQL does. So
the sentence is read off the tree alone, it names every column, value and operator, and trees that differ
in meaning get different sentences (brackets stand wherever reading order would be open). It is short,
since a small model reads it at every step:

    SELECT name, age FROM singer WHERE age > 30 ORDER BY age DESC LIMIT 1
    From singer, keep rows where age is greater than 30; return name and age; sort by age, highest
    first; keep only the first 1 row.

Identifiers and literals stay as SQL writes them, operators become words. A call of a function without a
phrase of its own stays a call (`ROUND(…, 2)`) with its arguments in words.
"""

from __future__ import annotations

from sqlglot import exp
from sqlglot.errors import ErrorLevel

#: The keys of these two clauses have changed between sqlglot's versions (28 added the underscore).
FROM = "from_" if "from_" in exp.Select.arg_types else "from"
WITH = "with_" if "with_" in exp.Select.arg_types else "with"

#: Binary operators: (as it is, negated by a NOT in front of it or None where "not (…)" serves).
COMPARISONS: dict[type[exp.Expr], tuple[str, str | None]] = {
    exp.EQ: ("equals", None),
    exp.NEQ: ("is not equal to", None),
    exp.GT: ("is greater than", None),
    exp.GTE: ("is at least", None),
    exp.LT: ("is less than", None),
    exp.LTE: ("is at most", None),
    exp.Is: ("is the same as", "is not the same as"),
    exp.NullSafeEQ: ("is the same as", "is not the same as"),
    exp.NullSafeNEQ: ("is not the same as", None),
    exp.Like: ("is like", "is not like"),
    exp.Glob: ("matches the glob", "does not match the glob"),
    exp.RegexpLike: ("matches the pattern", "does not match the pattern"),
}
ARITHMETIC: dict[type[exp.Expr], str] = {
    exp.Add: "plus",
    exp.Sub: "minus",
    exp.Mul: "times",
    exp.Div: "divided by",
    exp.IntDiv: "divided by",
    exp.Mod: "modulo",
    exp.DPipe: "concatenated with",
    exp.BitwiseAnd: "bitwise and",
    exp.BitwiseOr: "bitwise or",
    exp.BitwiseXor: "bitwise xor",
    exp.BitwiseLeftShift: "shifted left by",
    exp.BitwiseRightShift: "shifted right by",
}
AGGREGATES: dict[type[exp.Expr], str] = {
    exp.Count: "the count of",
    exp.Sum: "the sum of",
    exp.Avg: "the average of",
    exp.Min: "the minimum of",
    exp.Max: "the maximum of",
}
#: Operands that need brackets inside another operator, and the nodes that a function call takes in words.
COMPOUND = (
    *(
        *COMPARISONS,
        *ARITHMETIC,
        exp.And,
        exp.Or,
        exp.Not,
        exp.In,
        exp.Between,
        exp.Exists,
        exp.Neg,
        exp.BitwiseNot,
    ),
    *(exp.Cast, exp.Collate, exp.Escape, exp.Filter, exp.Window),
)
IN_WORDS = (*COMPOUND, *AGGREGATES, exp.Case, exp.If, exp.Subquery, exp.Distinct)


def describe(select: exp.Expr, name: str | None = None) -> str:
    """The sentence for a SELECT or set operation; `name` is that of the CTE which it fills, if any."""
    text = _query(select)
    if name:
        text += f"; call it {name}"
    return text[0].upper() + text[1:] + "."


def _query(query: exp.Expr) -> str:
    """A query as a sentence without its capital and full stop."""
    if isinstance(query, exp.Subquery):
        inner = _query(query.this)
        tail = _tail(query)
        return f"({inner}){tail}" if tail else inner
    lead = ""
    if query.args.get(WITH):
        parts = [f"{_sql(cte.args['alias'])} is ({_query(cte.this)})" for cte in query.args[WITH].expressions]
        lead = f"where {_list(parts)}: "
    if isinstance(query, exp.SetOperation):
        return lead + _set_operation(query) + _tail(query)
    if not isinstance(query, exp.Select):
        return lead + (
            f"return {_sql(query)}" if not isinstance(query, exp.Table) else f"from {_source(query)}"
        )
    clauses = []
    source = query.args.get(FROM)
    if source:
        text = "from " + _source(source.this)
        for join in query.args.get("joins") or []:
            text += _join(join)
        clauses.append(text)
    if query.args.get("where"):
        where = "keep rows where " + _expr(query.args["where"].this)
        clauses[-1:] = [f"{clauses[-1]}, {where}"] if clauses else [where]
    if query.args.get("group"):
        clauses.append(_group(query.args["group"]))
    if query.args.get("having"):
        clauses.append("keep groups where " + _expr(query.args["having"].this))
    if query.args.get("windows"):
        clauses.append("with " + _list([_sql(window) for window in query.args["windows"]]))
    distinct = "distinct " if query.args.get("distinct") else ""
    clauses.append(f"return {distinct}{_list([_output(e) for e in query.expressions])}")
    return lead + "; ".join(clauses) + _tail(query)


def _set_operation(query: exp.SetOperation) -> str:
    def same(left: exp.Expr) -> bool:  # a chain of one operator needs no brackets
        kind, distinct = type(query), query.args.get("distinct")
        return type(left) is kind and left.args.get("distinct") == distinct and not _tail(left)

    arms, left = [query.expression], query.this
    while same(left) and not left.args.get(WITH):
        arms, left = [left.expression, *arms], left.this
    words = {exp.Except: "except those in", exp.Intersect: "that are also in"}.get(
        type(query), "together with"
    )
    first, text = _plain(left), f"take {_arm(left)}"
    for arm in arms:
        plain = _plain(arm)
        if first and plain and first.expressions == plain.expressions:  # no need to list the columns twice
            text += f" {words} {_source(plain.args[FROM].this)}"
        else:
            text += f" {words} {_arm(arm)}"
    if isinstance(query, exp.Union):
        text += f", {'without' if query.args.get('distinct') else 'keeping'} duplicates"
    return text


def _arm(query: exp.Expr) -> str:
    """One side of a set operation: `name from singer`, or the whole query in brackets."""
    plain = _plain(query)
    if plain:
        return f"{_list([_output(e) for e in plain.expressions])} from {_source(plain.args[FROM].this)}"
    return f"({_query(query)})"


def _plain(query: exp.Expr) -> exp.Select | None:
    """The query if it only reads columns of one table, with no clause beside SELECT and FROM."""
    if isinstance(query, exp.Subquery) and not query.alias and not _tail(query):
        query = query.this
    if not isinstance(query, exp.Select) or not query.args.get(FROM):
        return None
    extra = {key for key, value in query.args.items() if value} - {"expressions", FROM}
    source = query.args[FROM].this
    if extra or not isinstance(source, exp.Table) or source.args.get("joins"):
        return None
    return query if all(isinstance(e, (exp.Column, exp.Star)) for e in query.expressions) else None


def _tail(query: exp.Expr) -> str:
    """ORDER BY, LIMIT and OFFSET."""
    text = ""
    if query.args.get("order"):
        text += "; sort " + _order(query.args["order"])
    limit, offset = query.args.get("limit"), query.args.get("offset")
    count = _operand(limit.args.get("expression") or limit.args.get("count")) if limit else "-1"
    kept = not count.startswith("-")  # SQLite writes OFFSET alone as LIMIT -1 OFFSET n
    if kept:
        text += f"; keep only the first {count} row{'' if count == '1' else 's'}"
    if offset:
        skipped = _operand(offset.expression)
        rows = f"row{'' if skipped == '1' else 's'}"
        text += f" after skipping {skipped}" if kept else f"; skip the first {skipped} {rows}"
    return text


def _order(order: exp.Expr) -> str:
    return ", then ".join(_ordered(term) for term in order.expressions)


def _ordered(term: exp.Expr) -> str:
    if not isinstance(term, exp.Ordered):
        return f"by {_expr(term)}, lowest first"
    desc = bool(term.args.get("desc"))
    text = f"by {_expr(term.this)}, {'highest' if desc else 'lowest'} first"
    nulls_first = term.args.get("nulls_first")
    if nulls_first is not None and bool(nulls_first) == desc:  # SQLite's own place for NULL is the lowest
        text += f" but nulls {'first' if nulls_first else 'last'}"
    return text


def _group(group: exp.Group) -> str:
    rest = [_sql(g) for key in ("rollup", "cube", "grouping_sets") for g in group.args.get(key) or []]
    return "group by " + _list([_expr(e) for e in group.expressions] + rest)


def _source(source: exp.Expr) -> str:
    """One table or derived table of FROM or JOIN, with its alias."""
    alias = source.args.get("alias")
    suffix = f" as {_sql(alias)}" if alias and alias.this else ""
    if isinstance(source, exp.Subquery):
        text = f"({_query(source.this)}{_tail(source)}){suffix}"
    elif isinstance(source, exp.Paren):
        text = f"({_source(source.this)}){suffix}"
    else:
        bare = source.copy()
        for key in ("alias", "joins"):
            bare.set(key, None)
        text = _sql(bare) + suffix
    for join in source.args.get("joins") or []:
        text += _join(join)
    return text


def _join(join: exp.Join) -> str:
    kinds = " ".join(str(join.args.get(key) or "") for key in ("method", "side", "kind")).lower().split()
    kinds = [kind for kind in kinds if kind not in ("inner", "outer")]
    on, using = join.args.get("on"), join.args.get("using")
    if on == exp.true() and not kinds:
        on = None  # the parser's addition to a JOIN without a condition
    if kinds in ([], ["cross"]) and not on and not using:
        words = "combined with"  # every row with every row: a comma, CROSS JOIN, a JOIN without a condition
    else:
        words = " ".join([*kinds, "joined with"])
    text = f" {words} {_source(join.this)}"
    if on:
        text += f" on {_expr(on)}"
    if using:
        text += f" using the same {_list([_sql(u) for u in using])}"
    return text


def _output(e: exp.Expr) -> str:
    if isinstance(e, exp.Star):
        return "all columns"
    if isinstance(e, exp.Column) and isinstance(e.this, exp.Star):
        return f"all columns of {e.table}"
    return _expr(e)


def _sql(e: exp.Expr) -> str:
    return e.sql("sqlite", comments=False, unsupported_level=ErrorLevel.IGNORE)


def _list(parts: list[str]) -> str:
    return (
        parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else "nothing"
    )


def _operand(e: exp.Expr) -> str:
    """An expression inside another: in brackets where it is an operation itself."""
    while isinstance(e, exp.Paren):
        e = e.this
    return f"({_expr(e)})" if isinstance(e, COMPOUND) and not _number(e) else _expr(e)


def _number(e: exp.Expr) -> bool:
    return isinstance(e, exp.Neg) and isinstance(e.this, exp.Literal)


def _expr(e: exp.Expr) -> str:
    """Any expression in words; what has no words of its own stays SQL."""
    while isinstance(e, exp.Paren):
        e = e.this
    kind = type(e)
    if isinstance(e, exp.Alias):
        return f"{_expr(e.this)} as {_sql(e.args['alias'])}"
    if kind in (exp.And, exp.Or):
        word = " and " if kind is exp.And else " or "
        other = (exp.Or,) if kind is exp.And else (exp.And,)
        return word.join(f"({_expr(p)})" if isinstance(p, other) else _expr(p) for p in _flat(e, kind))
    if kind in COMPARISONS:
        return _comparison(e, negated=False)
    if kind in ARITHMETIC:
        left = e.this.unnest()
        # a - b - c reads from the left, as SQL does; everything else is bracketed
        head = _expr(left) if type(left) is kind else _operand(left)
        return f"{head} {ARITHMETIC[kind]} {_operand(e.expression)}"
    if isinstance(e, exp.Not):
        inner = e.this.unnest()
        if (type(inner) in COMPARISONS and COMPARISONS[type(inner)][1]) or isinstance(
            inner, (exp.In, exp.Between)
        ):
            return _comparison(inner, negated=True)
        if isinstance(inner, exp.Exists):
            return f"there is no row in {_subquery(inner.this)}"
        return f"not ({_expr(inner)})"
    if isinstance(e, (exp.In, exp.Between)):
        return _comparison(e, negated=False)
    if isinstance(e, exp.Exists):
        return f"there is a row in {_subquery(e.this)}"
    if kind in AGGREGATES:
        return _aggregate(e)
    if isinstance(e, exp.Neg):
        return f"-{_sql(e.this)}" if _number(e) else f"minus {_operand(e.this)}"
    if isinstance(e, exp.BitwiseNot):
        return f"bitwise not {_operand(e.this)}"
    if isinstance(e, exp.Case):
        return _case(e)
    if isinstance(e, exp.If):
        text = f"{_operand(e.args['true'])} if {_expr(e.this)}"
        return f"({text} else {_operand(e.args['false'])})" if e.args.get("false") else f"({text})"
    if isinstance(e, exp.Window):
        return _window(e)
    if isinstance(e, exp.Filter):
        return f"{_expr(e.this)} only where ({_expr(e.expression.this)})"
    if kind in (exp.Cast, exp.TryCast):
        return f"{_operand(e.this)} cast to {_sql(e.args['to'])}"
    if isinstance(e, exp.Collate):
        return f"{_operand(e.this)} under {_sql(e.expression)} collation"
    if isinstance(e, exp.Distinct):
        return "distinct " + _list([_operand(x) for x in e.expressions])
    if isinstance(e, exp.Ordered):
        return _ordered(e)
    if isinstance(e, exp.Tuple):
        return f"({', '.join(_expr(x) for x in e.expressions)})"
    if isinstance(e, exp.Escape):
        return f"{_expr(e.this)} with escape {_sql(e.expression)}"
    if isinstance(e, (exp.Subquery, exp.Query)):
        return _subquery(e)
    if isinstance(e, exp.Null):
        return "null"
    return _call(e)


def _flat(e: exp.Expr, kind: type[exp.Expr]) -> list[exp.Expr]:
    """The operands of a chain of ANDs (or ORs): those are associative, so their own brackets say nothing."""
    while isinstance(e, exp.Paren):
        e = e.this
    return [*_flat(e.this, kind), *_flat(e.expression, kind)] if type(e) is kind else [e]


def _comparison(e: exp.Expr, negated: bool) -> str:
    negated = negated != bool(e.args.get("negate"))  # how sqlglot 30 reads x NOT LIKE y
    left, negation = _operand(e.this), "not " if negated else ""
    if isinstance(e, exp.Between):
        return f"{left} is {negation}between {_operand(e.args['low'])} and {_operand(e.args['high'])}"
    if isinstance(e, exp.In):
        if e.args.get("query"):
            return f"{left} is {negation}in {_subquery(e.args['query'])}"
        if e.args.get("field"):
            return f"{left} is {negation}in {_sql(e.args['field'])}"
        return f"{left} is {negation}one of ({', '.join(_operand(x) for x in e.expressions)})"
    if isinstance(e, exp.Is) and isinstance(e.expression, exp.Null):
        return f"{left} is {negation}null"
    words = COMPARISONS[type(e)][negated]
    return f"{left} {words} {_operand(e.expression)}"


def _subquery(query: exp.Expr) -> str:
    """A query used as a value or a set, in brackets: `(max_age from oldest)`, or all of it."""
    return f"({_arm(query)})" if _plain(query) else _arm(query)


def _aggregate(e: exp.Expr) -> str:
    words, operand = AGGREGATES[type(e)], e.this
    if isinstance(operand, exp.Star):
        return "the number of rows"
    if operand is None:
        return f"{words} nothing"
    rest = e.expressions
    if rest:  # min(a, b) and max(a, b) are no aggregates
        return f"{words} ({', '.join(_expr(x) for x in [operand, *rest])})"
    return f"{words} {_operand(operand)}"


def _case(e: exp.Case) -> str:
    text = f"case {_operand(e.this)} " if e.this else "case "
    text += " ".join(f"when {_expr(w.this)} then {_expr(w.args['true'])}" for w in e.args["ifs"])
    if e.args.get("default") is not None:
        text += f" otherwise {_expr(e.args['default'])}"
    return text + " end"


def _window(e: exp.Window) -> str:
    parts = []
    if e.args.get("alias"):
        parts.append(_sql(e.args["alias"]))
    if e.args.get("partition_by"):
        parts.append("each " + _list([_expr(x) for x in e.args["partition_by"]]))
    if e.args.get("order"):
        parts.append("sorted " + _order(e.args["order"]))
    if e.args.get("spec"):
        parts.append(_sql(e.args["spec"]).lower())
    return f"{_expr(e.this)} over ({'; '.join(parts) or 'all rows'})"


def _call(e: exp.Expr) -> str:
    """A column, a literal or a function call: SQL, but arguments that are operations are put into words."""
    if not any(isinstance(node, IN_WORDS) for node in e.walk() if node is not e):
        return _sql(e)
    holes: list[exp.Expr] = []

    def dig(node: exp.Expr) -> exp.Expr:
        if node.parent is not None and isinstance(node, IN_WORDS):
            holes.append(node)
            return exp.column(f"__{len(holes) - 1}__")
        return node

    copy = e.copy()
    text = _sql(copy.transform(dig, copy=False))
    for i, node in reversed(list(enumerate(holes))):
        text = text.replace(f"__{i}__", _expr(node))
    return text
