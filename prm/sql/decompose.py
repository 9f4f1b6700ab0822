"""A query taken apart into the steps in which a person would write it: a chain of CTEs and a final SELECT.

    SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id
    WHERE T2.year > 2014 GROUP BY T1.id HAVING count(*) > 2

becomes

    singer_with_concert AS (SELECT singer.name, singer.id FROM singer JOIN concert
                            ON singer.id = concert.singer_id WHERE concert.year > 2014)
    count_by_id AS (SELECT name, COUNT(*) AS count FROM singer_with_concert GROUP BY id)
    SELECT name FROM count_by_id WHERE count > 2

How it works. Everything that could stand alone is *hoisted*, innermost first: the query's own CTEs,
derived tables, the arms of a set operation, and subqueries that read nothing from outside. What then
remains is a SELECT without such parts, and it is cut at most twice: after FROM and WHERE (the rows), and
after GROUP BY (the groups); HAVING turns into the WHERE of the step after it. A join whose rows are only
filtered and returned is cut between the join and the filter. Every cut names the columns that later
clauses read, so it needs to know whose column an unqualified name is; where that (or anything else) is
not certain, the cut is not made and the step stays coarser. The coarsest result is the query itself as
the only step: never a CTE around all of it.

The order of the output columns is kept, and so is the order of the rows where the query sets one. What a
query leaves open may come out otherwise: in GROUP BY … ORDER BY count(*) DESC LIMIT 1 SQLite may choose
another of two groups of the same size once the grouping is a step of its own (2 % of Spider's queries on
its data).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

from prm.sql.describe import FROM, WITH, describe

Tables = Mapping[str, Sequence[str]]

#: The clauses beside the output that work on the rows which FROM and WHERE make.
LATER = ("group", "having", "order")


class DecomposeError(ValueError):
    """The text is not one SELECT statement that can be read."""


@dataclass(frozen=True)
class SQLStep:
    """One step: `sql` is `name AS (SELECT …)`, or the final `SELECT …` (named ""); `text` is the sentence."""

    name: str
    sql: str
    text: str


def decompose(sql: str, tables: Tables | None = None) -> list[SQLStep]:
    """Take one SELECT statement (SQLite's dialect) apart into steps.

    `tables` maps each table's name to its columns in their order (upper and lower case do not matter).
    Without it, queries over several tables that do not say whose column they mean stay in one piece.

    Raises:
        DecomposeError: `sql` is not one SELECT statement, or the parser cannot read it.
    """
    try:
        statements = [tree for tree in sqlglot.parse(sql, dialect="sqlite") if tree is not None]
        if len(statements) != 1 or not isinstance(statements[0], exp.Query):
            raise DecomposeError("not one SELECT statement")
        root = statements[0]
        if any(not select.expressions for select in root.find_all(exp.Select)):
            raise DecomposeError("a SELECT that returns nothing")
        for node in root.walk():
            node.comments = None
        chain = _Chain(root, tables)
        final = chain.reduce(root)
        steps = [*chain.steps, ("", final)]
        return [SQLStep(name, render_fragment(name, tree), describe(tree, name)) for name, tree in steps]
    except SqlglotError as error:
        raise DecomposeError(f"cannot parse the query: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise DecomposeError("the query is nested too deeply") from None


def assemble(fragments: Sequence[str]) -> str:
    """One statement out of the steps' `sql`: the CTEs in their order, then the final SELECT."""
    *ctes, final = fragments
    return "WITH " + ",\n".join(ctes) + "\n" + final if ctes else final


def parse_fragment(fragment: str) -> tuple[str, exp.Expression]:
    """The name ("" for a final SELECT) and the syntax tree of one step's `sql`.

    Raises:
        DecomposeError: `fragment` is neither.
    """
    match = re.match(r'\s*("(?:[^"]|"")+"|\w+)\s+AS\s*\((.*)\)\s*$', fragment, re.IGNORECASE | re.DOTALL)
    name, body = (match[1], match[2]) if match else ("", fragment)
    try:
        query = sqlglot.parse_one(body, dialect="sqlite")
    except (SqlglotError, RecursionError) as error:
        raise DecomposeError(f"cannot parse the step: {str(error).splitlines()[0]}") from None
    if not isinstance(query, exp.Query):
        raise DecomposeError("the step is not a SELECT")
    return name, query


def render_fragment(name: str, query: exp.Expression) -> str:
    """A step's `sql` from its name and tree: the opposite of `parse_fragment`."""
    return f"{name} AS ({to_sql(query)})" if name else to_sql(query)


class _Generator(SQLite.Generator):
    """SQLite's generator, but `x NOT IN (…)` for `NOT x IN (…)`, and joins without a condition as written.

    A comma stands for CROSS JOIN: the same rows, and the latter forbids SQLite to reorder the tables.
    """

    def not_sql(self, expression: exp.Not) -> str:
        inner = expression.this
        if isinstance(inner, (exp.In, exp.Like, exp.Between, exp.Is, exp.Glob)):
            if inner.args.get("negate"):
                return super().not_sql(expression)
            left, whole = self.sql(inner, "this"), self.sql(inner)
            if whole.startswith(left + " ") and not isinstance(inner.this, (exp.Binary, exp.Not)):
                rest = whole[len(left) + 1 :]
                return f"{left} IS NOT {rest[3:]}" if rest.startswith("IS ") else f"{left} NOT {rest}"
        return super().not_sql(expression)

    def join_sql(self, expression: exp.Join, *options: str | None) -> str:
        on = expression.args.get("on")
        if not expression.side and not expression.method and not expression.args.get("using"):
            if expression.kind == "CROSS" and on is None:  # what the parser makes of a comma, too
                return f", {self.sql(expression.this)}"
            if on == exp.true():  # what the parser adds to a JOIN without a condition
                return f" JOIN {self.sql(expression.this)}"
        return super().join_sql(expression, *options)


def to_sql(tree: exp.Expression) -> str:
    """The tree as compact SQLite text on one line."""
    return _Generator(dialect="sqlite", comments=False).generate(tree)


# --- names


def cte_name(query: exp.Expression) -> str:
    """What to call a step, by its tree alone, so that a changed tree can get the name that it would have had.

    Values are left out. The caller makes the name unique (`_2`, `_3`, …).
    """
    if isinstance(query, exp.SetOperation):
        kinds = {exp.Union: "combined", exp.Intersect: "common", exp.Except: "remaining"}
        return kinds.get(type(query), "combined") + "_rows"
    sources = [_subject(table) for table in _source_nodes(query)] or ["values"]
    subject = sources[0]
    if len(sources) > 1:
        subject += ("_with_" if len(sources) == 2 else "_to_") + sources[-1]
    if len(subject) > 40:
        subject = sources[0][:40].rstrip("_")
    group, aggregates = query.args.get("group"), list(_aggregates(query))
    value = column_alias(aggregates[0]) if len(aggregates) == 1 else "groups" if group else "summary"
    if query.args.get("limit"):
        return f"top_{subject}"
    if group:
        return f"{value}_by_{_slug('_'.join(key.name or 'key' for key in group.expressions[:2]))}"
    if aggregates:
        return f"{value}_of_{subject}"
    if query.args.get("distinct"):
        return f"distinct_{subject}"
    if query.args.get("where") and len(sources) == 1:
        return f"filtered_{subject}"
    if len(sources) == 1:
        columns = query.expressions
        return (
            f"{subject}_{_slug(columns[0].alias_or_name or 'value')}"
            if len(columns) == 1
            else f"all_{subject}"
        )
    return subject


def column_alias(e: exp.Expression) -> str:
    """A name for an expression that has none: `count`, `max_age`, `count_distinct_country` …"""
    if isinstance(e, exp.Filter):
        e = e.this
    if isinstance(e, exp.Literal) or not isinstance(e, (exp.Func, exp.Anonymous)):
        return e.name.lower() if isinstance(e, exp.Column) else "value"
    function = e.name if isinstance(e, exp.Anonymous) else e.sql_name()
    columns = [c.name for c in e.find_all(exp.Column) if not isinstance(c.this, exp.Star)]
    distinct = "distinct_" if e.find(exp.Distinct) else ""
    return _slug("_".join([function.lower()] + [distinct + c for c in columns[:1]]))


def _subject(table: exp.Expression) -> str:
    """What a source is about: the table, or what the step before it was about."""
    name = re.sub(r"_\d+$", "", _slug(table.name or table.alias or "rows"))
    return "groups" if "_by_" in name else re.sub(r"^(filtered|top|distinct|all)_|^.*_of_(?=\w)", "", name)


def _is_star(e: exp.Expression) -> bool:
    """`*` or `singer.*`, not COUNT(*)."""
    return isinstance(e, exp.Star) or (isinstance(e, exp.Column) and isinstance(e.this, exp.Star))


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_") or "value"


#: Words that SQLite reads as keywords where a column's name could stand.
KEYWORDS = frozenset(
    """add all alter and as autoincrement between case check collate commit constraint create default
    deferrable delete distinct drop else escape except exists foreign from group having if in index insert
    intersect into is isnull join limit not nothing notnull null on or order primary references returning
    select set table then to transaction union unique update using values when where""".split()  # noqa: SIM905
)


def _identifier(name: str) -> exp.Identifier:
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name.lower() not in KEYWORDS
    return exp.to_identifier(name, quoted=not plain)


def _needs_no_quotes(name: str) -> bool:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or name.lower() in KEYWORDS:
        return False
    return sqlglot.tokenize(name, dialect="sqlite")[0].token_type == sqlglot.TokenType.VAR


# --- reading a tree


class _Unsafe(Exception):
    """This cut cannot be made with certainty."""


def _source_nodes(select: exp.Expression) -> list[exp.Expression]:
    """What FROM and JOIN read, in order."""
    if not isinstance(select, exp.Select) or not select.args.get(FROM):
        return []
    return [select.args[FROM].this] + [join.this for join in select.args.get("joins") or []]


def _own(node: exp.Expression | None) -> Iterator[exp.Expression]:
    """The node and all below it, without going into nested queries."""
    if node is None:
        return
    yield node
    for child in node.iter_expressions():
        if not isinstance(child, exp.Query):
            yield from _own(child)


def _is_aggregate(e: exp.Expression) -> bool:
    if isinstance(e, exp.Anonymous):
        return e.name.lower() in ("total", "json_group_array", "json_group_object")
    return isinstance(e, exp.AggFunc) and not (isinstance(e, (exp.Min, exp.Max)) and e.expressions)


def _aggregates(select: exp.Expression) -> Iterator[exp.Expression]:
    """The aggregates (FILTER included) of one SELECT's own clauses, windows left out, doubles too."""
    seen: list[exp.Expression] = []
    for clause in [*select.expressions, select.args.get("having"), select.args.get("order")]:
        for node in _own(clause):
            if _is_aggregate(node) and not isinstance(node.parent, exp.Window):
                whole = node.parent if isinstance(node.parent, exp.Filter) else node
                if whole not in seen and not isinstance(whole.parent, exp.Window):
                    seen.append(whole)
                    yield whole


def _outputs(query: exp.Expression, known: Mapping[str, Sequence[str] | None]) -> list[str] | None:
    if isinstance(query, exp.Subquery):
        return _outputs(query.this, known)
    if isinstance(query, exp.SetOperation):
        return _outputs(query.this, known)
    if not isinstance(query, exp.Select):
        return None
    names: list[str] = []
    for e in query.expressions:
        if _is_star(e):
            wanted = None if isinstance(e, exp.Star) else e.table.lower()
            for source in _source_nodes(query):
                if wanted in (None, source.alias_or_name.lower()):
                    columns = _source_columns(source, known)
                    if columns is None:
                        return None
                    names += columns
        else:
            names.append(e.alias_or_name if isinstance(e, (exp.Alias, exp.Column)) else to_sql(e))
    return names


def _source_columns(source: exp.Expression, known: Mapping[str, Sequence[str] | None]) -> list[str] | None:
    if isinstance(source, exp.Subquery):
        return _outputs(source.this, known)
    if (
        isinstance(source, exp.Table)
        and not source.args.get("db")
        and isinstance(source.this, exp.Identifier)
    ):
        name, node = source.name.lower(), source.parent
        while node is not None:  # a CTE that has not been hoisted yet
            if isinstance(node, exp.Query) and node.args.get(WITH):
                for cte in node.args[WITH].expressions:
                    if cte.alias.lower() == name:
                        listed = cte.args["alias"].args.get("columns")
                        return [c.name for c in listed] if listed else _outputs(cte.this, known)
            node = node.parent
        columns = known.get(name)
        return None if columns is None else list(columns)
    return None


# --- the chain


class _Chain:
    """The steps so far, what they and the tables hold, and every name in use."""

    def __init__(self, root: exp.Expression, tables: Tables | None) -> None:
        self.steps: list[tuple[str, exp.Expression]] = []
        self.known: dict[str, list[str] | None] = {n.lower(): list(c) for n, c in (tables or {}).items()}
        names = {identifier.name.lower() for identifier in root.find_all(exp.Identifier)}
        self.taken = names | set(self.known) | KEYWORDS
        self.hoisted: dict[str, str] = {}  # the text of a hoisted query -> the CTE that holds it
        self._read_strings(root)

    # Reading names

    def _scopes(self, node: exp.Expression) -> Iterator[exp.Select]:
        """The SELECTs around a node, from the inside out."""
        child, parent = node, node.parent
        while parent is not None:
            if isinstance(parent, exp.Select) and not isinstance(child, exp.With):
                yield parent
            child, parent = parent, parent.parent

    def _owns(self, select: exp.Select, column: exp.Column) -> bool | None:
        """Whether `column` is one of `select`'s sources' (or its alias); None where that cannot be known."""
        unknown, name = False, column.name.lower()
        for source in _source_nodes(select):
            if column.table:
                if source.alias_or_name.lower() == column.table.lower():
                    return True
                continue
            columns = _source_columns(source, self.known)
            if columns is None:
                unknown = True
            elif name in (c.lower() for c in columns):
                return True
        if not column.table and any(
            isinstance(e, exp.Alias) and e.alias.lower() == name for e in select.expressions
        ):
            return True
        return None if unknown else False

    def _read_strings(self, root: exp.Expression) -> None:
        """SQLite reads "abc" as a string where there is no such column; say so in the tree.

        Quotes around names that need none are dropped.
        """
        for identifier in list(root.find_all(exp.Identifier)):
            column = identifier.parent
            if not identifier.quoted:
                continue
            if isinstance(column, exp.Column) and not column.table and not _in_set_order(column):
                owned = [self._owns(scope, column) for scope in self._scopes(column)]
                if owned and all(own is False for own in owned):
                    column.replace(exp.Literal.string(column.name))
                    continue
                if not any(owned):
                    continue  # a name or a string: not known
            if _needs_no_quotes(identifier.name):
                identifier.set("quoted", False)

    def _correlated(self, query: exp.Expression) -> bool:
        """Whether the query reads, or may read, a column from outside itself."""
        for column in query.find_all(exp.Column):
            if _in_set_order(column):
                continue
            maybe = False  # whether a source inside may own the column
            for scope in self._scopes(column):
                inside, owns = any(parent is query for parent in _ancestors(scope)), self._owns(scope, column)
                if inside and owns:
                    break
                if owns or (owns is None and not inside and not maybe):
                    return True
                maybe = maybe or owns is None
            else:
                if not maybe:
                    return True
        return False

    # Adding steps

    def _push(self, query: exp.Expression, name: str | None = None) -> str:
        query = self._named(query)
        if name is None:
            text = to_sql(query)
            if text in self.hoisted:
                return self.hoisted[text]
            base = cte_name(query)
            name, n = base, 1
            while name.lower() in self.taken:
                n += 1
                name = f"{base}_{n}"
            self.hoisted[text] = name
        self.taken.add(name.lower())
        self.known[name.lower()] = _outputs(query, self.known)
        self.steps.append((name, query))
        return name

    def _named(self, query: exp.Expression) -> exp.Expression:
        """The query with a name of its own for every output column."""
        if isinstance(query, exp.SetOperation):
            query.set("this", self._named(query.this))
            return query
        names = _outputs(query, self.known)
        if names is None or not isinstance(query, exp.Select):
            return query
        if len({n.lower() for n in names}) < len(names):
            self._expand_stars(query)
        used: set[str] = set()
        for e in list(query.expressions):
            if _is_star(e):
                continue
            if isinstance(e, (exp.Alias, exp.Column)):
                name, inner = e.alias_or_name, e.unalias()
                if name.lower() in used:
                    table = inner.table if isinstance(inner, exp.Column) else ""
                    name = _unique(_slug(f"{table}_{name}"), used)
            else:
                name, inner = _unique(column_alias(e), used | {n.lower() for n in names}), e
            used.add(name.lower())
            if name != e.alias_or_name or (inner is e and not isinstance(e, exp.Column)):
                e.replace(exp.alias_(inner.copy(), _identifier(name)))
        return query

    def _expand_stars(self, select: exp.Select) -> None:
        """Write the columns of every star out. Not with USING or NATURAL, where a star merges columns."""
        many = len(_source_nodes(select)) > 1
        if any(join.args.get("using") or join.args.get("method") for join in select.args.get("joins") or []):
            raise _Unsafe
        expressions: list[exp.Expression] = []
        for e in select.expressions:
            if not _is_star(e):
                expressions.append(e)
                continue
            wanted = None if isinstance(e, exp.Star) else e.table.lower()
            for source in _source_nodes(select):
                columns = _source_columns(source, self.known)
                if wanted in (None, source.alias_or_name.lower()):
                    if columns is None or (many and not source.alias_or_name):
                        raise _Unsafe
                    table = _identifier(source.alias_or_name) if many else None
                    expressions += [exp.column(_identifier(c), table) for c in columns]
        select.set("expressions", expressions)

    def _attempt(
        self, work: Callable[[exp.Expression], exp.Expression], query: exp.Expression
    ) -> exp.Expression | None:
        """What `work` makes of `query` (a copy); None, with the chain as it was, where it is unsafe."""
        saved = (list(self.steps), dict(self.known), set(self.taken), dict(self.hoisted))
        try:
            return work(query)
        except _Unsafe:
            self.steps, self.known, self.taken, self.hoisted = saved
            return None

    # Taking apart

    def reduce(self, query: exp.Expression) -> exp.Expression:
        """Push all steps before the last one of `query`; return the last one."""
        while isinstance(query, exp.Subquery) and not any(
            query.args.get(k) for k in ("order", "limit", "alias")
        ):
            query = query.this
        query = query.copy()
        if query.args.get(WITH):
            query = self._attempt(self._own_ctes, query.copy()) or query
            if query.args.get(WITH):
                return query
        if isinstance(query, exp.SetOperation):
            return self._attempt(self._set_operation, query.copy()) or query
        if isinstance(query, exp.Select):
            query = self._attempt(self._hoist, query.copy()) or query
            self._attempt(self._drop_aliases, query)
            return self._attempt(self._cut, query.copy()) or query
        return query

    def _own_ctes(self, query: exp.Expression) -> exp.Expression:
        ctes = query.args[WITH].expressions
        query.set(WITH, None)
        for cte in ctes:
            if cte.alias.lower() in self.known:
                raise _Unsafe  # a second meaning of one name
            body, columns = cte.this, cte.args["alias"].args.get("columns") or []
            recursive = any(t.name.lower() == cte.alias.lower() for t in body.find_all(exp.Table))
            # names of a WITH inside hold inside only, so it stays where it is
            body = body.copy() if recursive or body.find(exp.With) else self.reduce(body)
            first = body
            while isinstance(first, exp.SetOperation):
                first = first.this
            if columns:
                if len(columns) != len(first.expressions) or any(_is_star(e) for e in first.expressions):
                    raise _Unsafe
                named = [exp.alias_(e.unalias(), c) for e, c in zip(first.expressions, columns, strict=True)]
                first.set("expressions", named)
            self._push(body, to_sql(cte.args["alias"].this))
        return query

    def _set_operation(self, query: exp.Expression) -> exp.Expression:
        """One CTE an arm, then the operation over them."""
        leaves = list(_leaves(query))
        outputs: list[tuple[exp.Expression, str]] = []
        for leaf in leaves:
            expressions = [e.copy() for e in leaf.expressions]
            reduced = self._named(self.reduce(leaf))
            name = self._push(reduced)
            names = self.known[name.lower()]
            star = names is None or (len(expressions) == 1 and isinstance(expressions[0], exp.Star))
            columns = [exp.Star()] if star else [exp.column(_identifier(n)) for n in names]
            if names is not None and len(names) == len(expressions):
                outputs += zip(expressions, names, strict=True)
            elif names is not None:
                outputs += [(exp.column(n), n) for n in names]
            leaf.replace(exp.select(*columns).from_(exp.to_table(name)))
        order = query.args.get("order")
        for term in order.expressions if order else []:
            if term.this.is_int:
                continue
            for e, name in outputs:
                same = e.unalias() == term.this or (
                    isinstance(term.this, exp.Column)
                    and not term.this.table
                    and term.this.name.lower() in (e.alias_or_name.lower(), name.lower())
                )
                if same:
                    term.set("this", exp.column(_identifier(name)))
                    break
            else:
                raise _Unsafe
        return query

    def _hoist(self, query: exp.Expression) -> exp.Expression:
        """Turn derived tables and subqueries that stand alone into CTEs."""
        for source in _source_nodes(query):
            if isinstance(source, exp.Subquery) and isinstance(source.this, exp.Query):
                # "count(*)" may be read by its text, which the CTE would rename
                odd = any(n.quoted and re.search(r"\W", n.name) for n in query.find_all(exp.Identifier))
                if odd or source.this.args.get(WITH) or source.args.get("joins"):
                    continue
                name = self._push(self.reduce(source.this))
                alias = source.args.get("alias")
                source.replace(exp.Table(this=_identifier(name), alias=alias.copy() if alias else None))
        for key in ("expressions", "joins", "where", "group", "having", "order"):
            clause = query.args.get(key)
            for node in clause if isinstance(clause, list) else [clause]:
                if node is not None:
                    self._hoist_below(node)
        return query

    def _hoist_below(self, node: exp.Expression) -> None:
        for child in list(node.iter_expressions()):
            inner = child.this if isinstance(child, exp.Subquery) else child
            from_source = isinstance(node, (exp.From, exp.Join)) and child is node.this
            if not isinstance(inner, (exp.Select, exp.SetOperation)) or from_source:
                self._hoist_below(child)
            elif (
                isinstance(node, exp.Exists)
                or inner.find(exp.With)
                or inner.find(exp.Rand)
                or self._correlated(inner)
            ):
                self._hoist_below(inner)
            else:
                plain = (
                    isinstance(inner, exp.Select)
                    and len(inner.expressions) == 1
                    and isinstance(inner.expressions[0], exp.Column)
                    and {k for k, v in inner.args.items() if v} == {"expressions", FROM}
                    and any(inner.args[FROM].this.name.lower() == name.lower() for name, _ in self.steps)
                )
                if not plain:
                    name = self._push(self.reduce(inner))
                    names = self.known[name.lower()]
                    columns = [exp.Star()] if names is None else [exp.column(_identifier(n)) for n in names]
                    inner.replace(exp.select(*columns).from_(exp.to_table(name)))

    # Cutting one SELECT

    def _own_columns(self, select: exp.Select, *keys: str) -> list[exp.Column]:
        """The columns in the given clauses that stand outside nested queries, stars left out."""
        found: list[exp.Column] = []
        for key in keys:
            clause = select.args.get(key)
            for node in clause if isinstance(clause, list) else [clause]:
                found += [n for n in _own(node) if isinstance(n, exp.Column) and not _is_star(n)]
        return found

    def _nested_reads(self, node: exp.Expression | None) -> bool:
        """Whether a nested query below the node reads from outside itself."""
        if node is None:
            return False
        return any(self._correlated(q) for q in node.find_all(exp.Select, exp.SetOperation) if q is not node)

    def _drop_aliases(self, select: exp.Expression) -> exp.Expression:
        """Write `singer.name` for `T1.name`, and `name` where there is one table only."""
        sources = _source_nodes(select)
        plain = all(isinstance(s, exp.Table) and not s.args.get("joins") for s in sources)
        clauses = [*select.expressions, *(select.args.get(k) for k in ("where", "group", "having", "order"))]
        clauses += select.args.get("joins") or []
        if not plain or any(self._nested_reads(clause) for clause in clauses):
            raise _Unsafe
        names = [s.name.lower() for s in sources]
        every = ("expressions", "joins", "where", "group", "having", "order", "windows")
        stars = [n for e in select.expressions for n in _own(e) if isinstance(n, exp.Column) and _is_star(n)]
        columns = self._own_columns(select, *every) + stars
        for source in sources:
            others = {s.alias_or_name.lower() for s in sources if s is not source}
            if source.alias and names.count(source.name.lower()) == 1 and source.name.lower() not in others:
                old, new = source.alias.lower(), source.this
                source.set("alias", None)
                for column in columns:
                    if column.table.lower() == old:
                        column.set("table", new.copy())
        aliases = {e.alias.lower() for e in select.expressions if isinstance(e, exp.Alias)}
        if len(sources) == 1:
            for column in columns:
                if column.table and column.name.lower() not in aliases and not _is_star(column):
                    column.set("table", None)
        return select

    def _cut(self, query: exp.Expression) -> exp.Expression:
        known = {"expressions", FROM, "joins", "where", *LATER, "limit", "offset", "distinct"}
        if {key for key, value in query.args.items() if value} - known or not query.args.get(FROM):
            return query
        if any(self._nested_reads(part) for part in [*query.expressions, *map(query.args.get, LATER)]):
            return query
        self._resolve_aliases(query)
        query = self._attempt(self._cut_rows, query.copy()) or query
        return self._attempt(self._cut_groups, query.copy()) or query

    def _resolve_aliases(self, query: exp.Expression) -> None:
        """Replace output aliases by what they stand for, where SQLite takes them to be aliases."""
        aliases = {e.alias.lower(): e.this for e in query.expressions if isinstance(e, exp.Alias)}
        for key in ("where", "group", "having", "order"):
            for column in self._own_columns(query, key):
                target = None if column.table else aliases.get(column.name.lower())
                if target is None or target == column:
                    continue
                first = key == "order" and isinstance(column.parent, exp.Ordered)  # there the alias wins
                owners = self._source_of(query, column)
                if not first and any(_source_columns(s, self.known) is None for s in owners):
                    raise _Unsafe  # a column of that name would win
                if first:
                    column.replace(target.copy())
                elif not owners:
                    column.replace(exp.paren(target) if isinstance(target, exp.Binary) else target.copy())
        group = query.args.get("group")
        for term in group.expressions if group else []:
            if term.is_int:
                at = int(term.name) - 1
                if not 0 <= at < len(query.expressions) or _is_star(query.expressions[at]):
                    raise _Unsafe
                term.replace(query.expressions[at].unalias().copy())

    def _source_of(self, select: exp.Expression, column: exp.Column) -> list[exp.Expression]:
        """The sources that may own the column: certain if there is one, unknown or ambiguous otherwise."""
        sources, name = _source_nodes(select), column.name.lower()
        if column.table:
            return [s for s in sources if s.alias_or_name.lower() == column.table.lower()]
        listed = [(s, _source_columns(s, self.known)) for s in sources]
        if name in ("rowid", "oid", "_rowid_"):  # a table has it without listing it, a CTE has not
            return []
        sure = [s for s, columns in listed if columns is not None and name in (c.lower() for c in columns)]
        return sure or [s for s, columns in listed if columns is None]

    def _cut_rows(self, query: exp.Expression) -> exp.Expression:
        """First cut: FROM, JOIN and WHERE make the rows, the rest reads them."""
        sources, where = _source_nodes(query), query.args.get("where")
        many = len(sources) > 1
        more = any(query.args.get(key) for key in ("group", "having", "order", "limit", "distinct"))
        more = more or any(_aggregates(query))
        more = more or any(isinstance(n, exp.Window) for e in query.expressions for n in _own(e))
        inside, outside = where.this if where else None, None
        aliases = {e.alias.lower() for e in query.expressions if isinstance(e, exp.Alias)}
        for column in where.find_all(exp.Column) if where and self._nested_reads(where) else []:
            if not column.table and column.name.lower() in aliases:
                raise _Unsafe  # a nested query may read the alias, which the rows have not yet
        if not more:
            if not (many and where):
                return query
            # conditions over several tables belong to the join, those over one table are a filter after it
            parts = list(_conjuncts(where.this))
            kept = [p for p in parts if self._nested_reads(p) or len(self._tables_of(query, p)) != 1]
            moved = [p for p in parts if not any(p is k for k in kept)]
            inside = exp.and_(*kept, copy=True, wrap=False) if kept else None
            outside = exp.and_(*moved, copy=True, wrap=False) if moved else None
            if outside is None:
                return query
        elif not many and not where:
            return query
        rows = exp.Select(expressions=[])
        rows.set(FROM, query.args[FROM].copy())
        rows.set("joins", [join.copy() for join in query.args.get("joins") or []])
        if inside is not None:
            rows.set("where", exp.Where(this=inside.copy()))
        query.set("where", exp.Where(this=outside) if outside is not None else None)
        bare = any(isinstance(e, exp.Star) for e in query.expressions)
        starred = any(_is_star(e) for e in query.expressions)
        if starred and not many:
            if not bare:
                raise _Unsafe
            if not all(self._source_of(query, c) for c in self._own_columns(query, *LATER)):
                raise _Unsafe
            rows.set("expressions", [exp.Star()])
        else:
            if starred:
                self._expand_stars(query)
            self._carry(query, rows, sources)
        name = self._push(rows)
        query.set(FROM, exp.From(this=exp.to_table(name)))
        query.set("joins", None)
        if starred and not many:
            for column in self._own_columns(query, "expressions", *LATER):
                column.set("table", None)
        return query

    def _carry(self, query: exp.Expression, rows: exp.Select, sources: list[exp.Expression]) -> None:
        """Let `rows` give every column that `query` still reads, and rewrite `query` to read it there."""
        aliases = {e.alias.lower(): e.this for e in query.expressions if isinstance(e, exp.Alias)}
        wanted: dict[tuple[str, str], list[exp.Column]] = {}
        joins = query.args.get("joins") or []
        using = {u.name.lower() for join in joins for u in join.args.get("using") or []}
        natural = any(join.args.get("method") for join in joins)
        for column in self._own_columns(query, "expressions", "where", *LATER):
            owners, name = self._source_of(query, column), column.name.lower()
            merged = not column.table and (natural or name in using)  # by USING, NATURAL: no table's own
            unknown = all(_source_columns(source, self.known) is None for source in owners)
            if not owners or (len(owners) > 1 and not merged and not unknown):
                raise _Unsafe
            owner = "" if merged or len(owners) > 1 else owners[0].alias_or_name.lower()
            wanted.setdefault((owner, name), []).append(column)
        if not wanted:
            where_columns = self._own_columns(rows, "where") or self._own_columns(rows, "joins")
            first = [c.copy() for c in where_columns[:1]]
            rows.set("expressions", first or [exp.alias_(exp.Literal.number(1), "one")])
            return
        used: set[str] = set()
        expressions = []
        for (owner, name), columns in wanted.items():
            column = columns[0]
            shared = sum(n == name for _, n in wanted) > 1
            clash = name in aliases and aliases[name] != column
            new = column.name
            if shared or clash or name in used:
                table = next((s for s in sources if s.alias_or_name.lower() == owner), None)
                twice = table is not None and sum(s.name.lower() == table.name.lower() for s in sources) > 1
                prefix = "" if table is None else table.alias_or_name if twice else table.name
                new = _unique(_slug(f"{prefix}_{name}"), used | set(aliases))
            used.add(new.lower())
            source = column.copy()
            same = new == column.name
            expressions.append(source if same else exp.alias_(source, _identifier(new)))
            for place in columns:
                target = place.this.copy() if same else _identifier(new)
                place.replace(exp.Column(this=target))
        rows.set("expressions", expressions)

    def _tables_of(self, query: exp.Expression, condition: exp.Expression) -> set[str]:
        found: set[str] = set()
        for node in _own(condition):
            if isinstance(node, exp.Column):
                owners = self._source_of(query, node)
                if len(owners) != 1:
                    return {"", "?"}  # not known: stays with the join
                found.add(owners[0].alias_or_name.lower())
        return found

    def _cut_groups(self, query: exp.Expression) -> exp.Expression:
        """Second cut: GROUP BY makes the groups; HAVING, ORDER BY, LIMIT and the output read them."""
        group = query.args.get("group")
        if not group or not any(query.args.get(k) for k in ("having", "order", "limit", "distinct")):
            return query
        if query.args.get("joins") or query.args.get("where") or any(_is_star(e) for e in query.expressions):
            raise _Unsafe
        if {k for k, v in group.args.items() if v} != {"expressions"}:
            raise _Unsafe
        clauses = [*query.expressions, query.args.get("having"), query.args.get("order")]
        if any(isinstance(n, exp.Window) for clause in clauses for n in _own(clause)):
            raise _Unsafe
        keys = [e for e in group.expressions if not isinstance(e, exp.Column)]
        aliases = {e.alias.lower(): e.this for e in query.expressions if isinstance(e, exp.Alias)}
        by_expression = {
            to_sql(e.this): e.args["alias"] for e in query.expressions if isinstance(e, exp.Alias)
        }
        carried: dict[str, tuple[exp.Expression, exp.Identifier]] = {}
        used: set[str] = set()

        def carry(e: exp.Expression) -> exp.Column:
            text = to_sql(e).lower() if isinstance(e, exp.Column) else to_sql(e)
            if text not in carried:
                alias = by_expression.get(to_sql(e))
                if isinstance(e, exp.Column):
                    new = e.this.copy()
                elif alias is not None:
                    new = alias.copy()
                else:
                    new = _identifier(column_alias(e))
                mine = alias is not None and alias.name.lower() == new.name.lower()
                if new.name.lower() in used or (new.name.lower() in aliases and not mine):
                    new = _identifier(_unique(_slug(new.name), used | set(aliases)))
                used.add(new.name.lower())
                same = isinstance(e, exp.Column) and new.name == e.name
                carried[text] = (e.copy() if same else exp.alias_(e.copy(), new), new)
            return exp.Column(this=carried[text][1].copy())

        def rewrite(node: exp.Expression) -> None:
            for child in list(node.iter_expressions()):
                if isinstance(child, exp.Query):
                    continue
                unit = _is_aggregate(child) or child in keys or isinstance(child, (exp.Column, exp.Filter))
                if unit:
                    new = carry(child)
                    if isinstance(node, exp.Alias) and node.alias == new.name:
                        node.replace(new)
                    else:
                        child.replace(new)
                else:
                    rewrite(child)

        holder = exp.Tuple(expressions=query.expressions)
        rewrite(holder)
        query.set("expressions", holder.expressions)
        having, order = query.args.get("having"), query.args.get("order")
        for clause in (having, order):
            if clause is not None:
                rewrite(clause)
        groups = exp.Select(expressions=[e for e, _ in carried.values()])
        groups.set(FROM, query.args[FROM].copy())
        groups.set("group", group.copy())
        name = self._push(groups)
        query.set("group", None)
        query.set("having", None)
        query.set("where", exp.Where(this=having.this.copy()) if having else None)
        query.set(FROM, exp.From(this=exp.to_table(name)))
        return query


def _ancestors(node: exp.Expression) -> Iterator[exp.Expression]:
    current: exp.Expression | None = node
    while current is not None:
        yield current
        current = current.parent


def _in_set_order(column: exp.Expression) -> bool:
    """Whether the column stands in the ORDER BY of a set operation, where it names an output column."""
    order = column.find_ancestor(exp.Order, exp.Select)
    return isinstance(order, exp.Order) and isinstance(order.parent, exp.SetOperation)


def _leaves(query: exp.Expression) -> Iterator[exp.Select]:
    """The SELECTs of a set operation from left to right."""
    for side in (query.this, query.expression):
        while isinstance(side, exp.Subquery):
            side = side.this
        if isinstance(side, exp.SetOperation):
            if any(side.args.get(k) for k in ("order", "limit", WITH)):
                raise _Unsafe
            yield from _leaves(side)
        elif isinstance(side, exp.Select):
            yield side
        else:
            raise _Unsafe


def _conjuncts(condition: exp.Expression) -> Iterator[exp.Expression]:
    if isinstance(condition, exp.And):
        yield from _conjuncts(condition.this)
        yield from _conjuncts(condition.expression)
    else:
        yield condition


def _unique(base: str, used: set[str]) -> str:
    name, n = base, 1
    while name.lower() in used or name.lower() in KEYWORDS:
        n += 1
        name = f"{base}_{n}"
    return name
