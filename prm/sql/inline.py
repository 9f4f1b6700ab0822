"""A query that is written in CTEs and derived tables, as plain SELECTs over the tables of the database.

    WITH old AS (SELECT name, age FROM singer WHERE age > 30) SELECT name FROM old ORDER BY age
    SELECT name FROM singer WHERE age > 30 ORDER BY age

Whoever asks for what a step of somebody's answer stands for in such a query (`prm.labeling.reach`) finds it
only where the query reads tables. What is read in FROM is merged into the SELECT that reads it:

- plain rows (joined, filtered, computed) take their place, and their conditions go into WHERE;
- what is grouped, distinct or cut, and is read alone, becomes the query, and conditions go into HAVING;
- aggregates of a whole table become scalar subqueries;
- everything else stays a derived table.

Names are resolved by sqlglot's optimizer. None of this is proved: whoever uses the outcome compares it with
the original by running both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify

from prm.sql.describe import FROM, WITH
from prm.sql.schema import Schema

Tree = exp.Expr
ROWS = ("expressions", FROM, "joins", "where")  # the clauses of a SELECT that only takes and computes rows


class _NotInlined(Exception):
    """The query has a form that is not understood."""


def inlined(tree: Tree, schema: Schema) -> Tree | None:
    """The query (SQLite's dialect) without CTEs and with as few derived tables as can be; None where its form
    is not understood. Its sources have names of their own all over the tree: `gold_1`, `gold_2` …"""
    tables = {
        table.name.lower(): {column.name.lower(): column.type or "BLOB" for column in table.columns}
        for table in schema.tables
    }
    tree = tree.copy()
    _quote_texts(tree, {name for columns in tables.values() for name in columns})
    try:
        qualified = qualify(
            tree,
            dialect="sqlite",
            schema=dict[str, object](tables),
            validate_qualify_columns=False,
            quote_identifiers=False,
        )
        return _Inliner().inlined(qualified, {})
    except (SqlglotError, RecursionError, _NotInlined):
        return None


def _quote_texts(tree: Tree, names: set[str]) -> None:
    """Write "Rex" as the text that it is in SQLite where no column has that name."""
    names = names | {node.alias.lower() for node in tree.find_all(exp.Alias)}
    names |= {c.name.lower() for node in tree.find_all(exp.TableAlias) for c in node.columns}
    for column in list(tree.find_all(exp.Column)):
        if column.this.args.get("quoted") and not column.table and column.name.lower() not in names:
            column.replace(exp.Literal.string(column.name))


class _Inliner:
    """Inlines one query; `names` are those that its sources get."""

    def __init__(self) -> None:
        self.names = (f"gold_{n}" for n in itertools.count(1))

    def inlined(self, query: Tree, ctes: Mapping[str, Tree]) -> Tree:
        """A query that reads `ctes` (lower-case name -> query, itself inlined) without them."""
        if (clause := query.args.get(WITH)) is not None:
            if clause.args.get("recursive"):
                raise _NotInlined
            ctes = dict(ctes)
            for cte in clause.expressions:
                ctes[cte.alias.lower()] = self.inlined(cte.this, ctes)
            query.set(WITH, None)
        if isinstance(query, exp.Subquery):
            query.set("this", self.inlined(query.this, ctes))
            return query
        if isinstance(query, exp.SetOperation):
            for arm in ("this", "expression"):
                query.set(arm, self.inlined(query.args[arm], ctes))
            return query
        if not isinstance(query, exp.Select):
            raise _NotInlined
        for nested in list(_nested(query)):
            nested.replace(self.inlined(nested, ctes))
        bodies: dict[str, Tree] = {}
        for source in _sources(query):
            name = source.alias_or_name
            if isinstance(source, exp.Table) and source.name.lower() in ctes and not source.args.get("db"):
                body = ctes[source.name.lower()].copy()
            elif isinstance(source, exp.Subquery):
                body = self.inlined(source.this, ctes)
            elif isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
                continue
            else:
                raise _NotInlined
            bodies[name] = body
            source.replace(exp.Subquery(this=body, alias=exp.TableAlias(this=exp.to_identifier(name))))
        self._rename(query)
        for source in _sources(query):
            if isinstance(source, exp.Subquery):
                query = _merged(query, source)
        return query

    def _rename(self, query: Tree) -> None:
        """Give every source in the query a name of its own, and its columns that name."""
        renamed = []
        for column in query.find_all(exp.Column):
            owner = _owner(column, query) if column.table else None
            if owner is not None:
                renamed.append((column, owner))
        for select in query.find_all(exp.Select):
            for source in _sources(select):
                alias = exp.TableAlias(this=exp.to_identifier(next(self.names)))
                source.set("alias", alias)
        for column, owner in renamed:
            column.set("table", exp.to_identifier(owner.alias))


def _owner(column: exp.Column, query: Tree) -> Tree | None:
    """The source within the query that a qualified column names."""
    select = column.parent_select
    while select is not None:
        if isinstance(select, exp.Select):
            for source in _sources(select):
                if source.alias_or_name.lower() == column.table.lower():
                    return source
        select = None if select is query else select.parent_select
    return None


def _sources(select: exp.Select) -> list[Tree]:
    first = select.args.get(FROM)
    return ([] if first is None else [first.this]) + [join.this for join in select.args.get("joins") or []]


def _nested(select: exp.Select) -> Iterator[Tree]:
    """The queries inside a SELECT's expressions, the outermost ones: not its sources, nor what is in them."""
    for query in select.find_all(exp.Query):
        if query is select or isinstance(query.parent, (exp.From, exp.Join)):
            continue
        if query.find_ancestor(exp.Query) is select:
            yield query


# --- one source merged into the SELECT that reads it --------------------------------------------------------


def _merged(query: exp.Select, source: exp.Subquery) -> exp.Select:
    """The SELECT with what it reads from `source` in its own clauses, if that can be done."""
    body, alone = source.this, not query.args.get("joins")
    while isinstance(body, exp.Subquery) and not body.alias:
        body = body.this
    if not isinstance(body, exp.Select) or body.args.get(FROM) is None:
        return query
    columns = {e.alias_or_name.lower(): e.unalias() for e in body.expressions}
    if len(columns) < len(body.expressions) or any(e.is_star for e in body.expressions):
        return query
    reading = [c for c in query.find_all(exp.Column) if c.table == source.alias]
    if any(c.name.lower() not in columns for c in reading):
        return query
    computes_groups = _aggregates(body) or any(body.args.get(k) for k in ("group", "having"))
    windows = any(e.find(exp.Window) for e in body.expressions)
    cut = any(body.args.get(k) for k in ("limit", "offset"))
    if not cut and not (computes_groups or windows or body.args.get("distinct")):
        if alone or (_inner(query) and _inner(body)):
            return _rows_merged(query, source, body, columns, reading)
        return query
    if alone and not _only_rows(query):
        return query
    if alone and _can_be_the_query(query, body, columns, cut, windows):
        _substitute(reading, columns)
        return _as_the_query(query, body, columns, computes_groups)
    if (
        not alone
        and _inner(query)
        and _aggregates(body)
        and not (cut or windows or any(body.args.get(k) for k in ("group", "having", "distinct")))
        and all(e.find(exp.AggFunc) for e in columns.values())
    ):
        return _as_scalars(query, source, body, columns, reading)
    return query


def _rows_merged(
    query: exp.Select,
    source: exp.Subquery,
    body: exp.Select,
    columns: dict[str, Tree],
    reading: list[exp.Column],
) -> exp.Select:
    """Plain rows: tables, joins and conditions of the body become those of the query."""
    _substitute(reading, columns)
    if query.args.get("joins"):
        sources = [s for old in _sources(query) for s in (_sources(body) if old is source else [old])]
        _set_conditions(query, [*_conditions(body, joins=True), *_conditions(query, joins=True)])
        query.set(FROM, exp.From(this=sources[0]))
        query.set("joins", [exp.Join(this=other) for other in sources[1:]])
    else:  # whatever the body's joins are
        _set_conditions(query, [*_conditions(body), *_conditions(query)])
        query.set(FROM, body.args[FROM])
        query.set("joins", body.args.get("joins"))
    return query


def _conditions(select: exp.Select, joins: bool = False) -> list[Tree]:
    """What stands in WHERE and, with `joins`, in ON."""
    on = [join.args["on"] for join in select.args.get("joins") or [] if joins and join.args.get("on")]
    where = select.args.get("where")
    return [c for c in (*on, *([where.this] if where else [])) if c != exp.true()]


def _set_conditions(select: exp.Select, conditions: list[Tree]) -> None:
    select.set("where", exp.Where(this=exp.and_(*conditions)) if conditions else None)


def _can_be_the_query(
    query: exp.Select, body: exp.Select, columns: dict[str, Tree], cut: bool, windows: bool
) -> bool:
    """Whether a SELECT that reads the body alone can be said as the body with other columns."""
    conditions, distinct = query.args.get("where"), query.args.get("distinct")
    if cut:
        return not any(query.args.get(k) for k in ("where", "order", "limit", "offset", "distinct"))
    if windows:
        return not conditions and not distinct and not body.args.get("distinct")
    if body.args.get("distinct") and not distinct:  # all of its columns must be there, and nothing else
        shown = [e.unalias() for e in query.expressions]
        return all(isinstance(e, exp.Column) for e in shown) and {e.name.lower() for e in shown} == set(
            columns
        )
    return True


def _as_the_query(
    query: exp.Select, body: exp.Select, columns: dict[str, Tree], computes_groups: bool
) -> exp.Select:
    order = body.args.get("order")
    for key in list(order.find_all(exp.Column)) if order else []:
        if not key.table and key.name.lower() in columns:
            key.replace(_wrapped(columns[key.name.lower()]))
    body.set("expressions", query.expressions)
    if (where := query.args.get("where")) is not None:
        clause, kind = ("having", exp.Having) if computes_groups else ("where", exp.Where)
        old = body.args.get(clause)
        body.set(clause, kind(this=exp.and_(old.this, where.this) if old else where.this))
    for clause in ("order", "limit", "offset", "distinct"):
        if query.args.get(clause):
            body.set(clause, query.args[clause])
    body.pop()
    return body


def _as_scalars(
    query: exp.Select,
    source: exp.Subquery,
    body: exp.Select,
    columns: dict[str, Tree],
    reading: list[exp.Column],
) -> exp.Select:
    """Aggregates of a whole table, one row, become scalar subqueries."""
    scalars = {}
    for name, column in columns.items():
        scalar = body.copy()
        scalar.set("expressions", [column.copy()])
        scalar.set("order", None)
        scalars[name] = exp.Subquery(this=scalar)
    _substitute(reading, scalars)
    _set_conditions(query, _conditions(query, joins=True))
    rest = [other for other in _sources(query) if other is not source]
    query.set(FROM, exp.From(this=rest[0]))
    query.set("joins", [exp.Join(this=other) for other in rest[1:]])
    return query


def _substitute(reading: list[exp.Column], columns: Mapping[str, Tree]) -> None:
    for column in reading:
        column.replace(_wrapped(columns[column.name.lower()]))


def _wrapped(node: Tree) -> Tree:
    node = node.copy()
    return exp.Paren(this=node) if isinstance(node, (exp.Binary, exp.Unary, exp.Between, exp.In)) else node


def _aggregates(select: exp.Select) -> bool:
    return any(
        node.parent_select is select and node.find_ancestor(exp.Window) is None
        for e in select.expressions
        for node in e.find_all(exp.AggFunc)
    )


def _only_rows(select: exp.Select) -> bool:
    """Whether a SELECT computes each of its rows from one row: no groups, no aggregates, no windows."""
    return not (
        _aggregates(select)
        or any(select.args.get(k) for k in ("group", "having", "windows"))
        or any(e.find(exp.Window) for e in select.expressions)
    )


def _inner(select: exp.Select) -> bool:
    return not any(
        j.side or j.method or j.args.get("using") or (j.kind and j.kind not in ("INNER", "CROSS"))
        for j in select.args.get("joins") or []
    )
