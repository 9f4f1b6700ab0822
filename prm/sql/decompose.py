"""A query taken apart into the steps in which a person would write it: a chain of CTEs and a final SELECT.

    SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id
    WHERE T2.year > 2014 GROUP BY T1.id HAVING count(*) > 2

becomes

    concert_where_year_over_2014 AS (SELECT singer_id FROM concert WHERE year > 2014)
    singer_with_concert AS (SELECT singer.name, singer.id FROM singer JOIN concert_where_year_over_2014
                            ON singer.id = concert_where_year_over_2014.singer_id)
    count_per_id AS (SELECT name, COUNT(*) AS count FROM singer_with_concert GROUP BY id)
    SELECT name FROM count_per_id WHERE count > 2

How it works. Everything that could stand alone is *hoisted*, innermost first: derived tables, the arms of a
set operation, and subqueries that read nothing from outside. What then remains is a SELECT without such
parts, and it is cut by small transformations of the syntax tree, each of which moves something into a step
of its own: the filter of one joined table (`_filter_first`), one join of several (`_split_joins`), the rows
that FROM and WHERE make (`_cut_rows`), the groups (`_cut_groups`; HAVING turns into the WHERE of the step
after it), what a correlated subquery can do without its outer row (`_loosen`, `_extreme_per_group`), and
the one row that a superlative names (`_superlative`). A query that comes as a chain of CTEs has been taken
apart by its author, and stays as it is; only where the answer merely repeats the last CTE is that one the
answer.

Every cut names the columns that later clauses read, so it needs to know whose column an unqualified name is;
where that (or anything else) is not certain, the cut is not made and the step stays coarser. The coarsest
result is the query itself as the only step: never a CTE around all of it.

The order of the output columns is kept, and so is the order of the rows where the query sets one. What a
query leaves open may come out otherwise: in GROUP BY year ORDER BY count(*) DESC LIMIT 1 SQLite groups
backwards and so prefers the latest of two years of the same count, but only while grouping and order stand in
one SELECT (2 % of Spider's queries on its data). A second ORDER BY term would settle that, and would be a
claim that the question does not make.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.generators.sqlite import SQLiteGenerator

from prm.sql.describe import FROM, WITH, describe
from prm.sql.naming import (
    KEYWORDS,
    aggregates,
    column_alias,
    conjuncts,
    cte_name,
    identifier,
    is_aggregate,
    is_star,
    needs_quotes,
    own_nodes,
    slug,
    source_nodes,
    unique,
)

Tables = Mapping[str, Sequence[str]]

#: The clauses beside the output that work on the rows which FROM and WHERE make.
LATER = ("group", "having", "order")
#: Names of the column that every table has without listing it, and no CTE has.
ROWID = frozenset({"rowid", "oid", "_rowid_"})


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
        trees = _parsed(sql)
        if len(trees) != 1 or not isinstance(trees[0], exp.Query):
            raise DecomposeError("not one SELECT statement")
        root = trees[0]
        if any(not select.expressions for select in root.find_all(exp.Select)):
            raise DecomposeError("a SELECT that returns nothing")
        for node in root.walk():
            if any(isinstance(part, list) and None in part for part in node.args.values()):
                raise DecomposeError(f"something is missing in {node.key.upper()}")
            node.comments = None
        chain = _Chain(root, tables)
        final = chain.reduce_statement(root)
        steps = [*chain.steps, ("", final)]
        return [SQLStep(name, render_fragment(name, tree), describe(tree, name)) for name, tree in steps]
    except SqlglotError as error:
        raise DecomposeError(f"cannot write the query: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise DecomposeError("the query is nested too deeply") from None


def statements(sql: str, dialect: str = "sqlite") -> list[exp.Expr]:
    """The statements of a text. A semicolon at the end begins none, nor does a comment behind it."""
    trees = sqlglot.parse(sql, dialect=dialect)
    return [tree for tree in trees if tree is not None and not isinstance(tree, exp.Semicolon)]


def _parsed(sql: str) -> list[exp.Expr]:
    try:
        return statements(sql)
    except RecursionError:
        raise DecomposeError("the query is nested too deeply") from None
    except Exception as error:  # on nonsense the parser fails in ways of its own, not with SqlglotError alone
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DecomposeError(f"cannot parse the query: {reason}") from None


def assemble(fragments: Sequence[str]) -> str:
    """One statement out of the steps' `sql`: the CTEs in their order, then the final SELECT."""
    *ctes, final = fragments
    return "WITH " + ",\n".join(ctes) + "\n" + final if ctes else final


def parse_fragment(fragment: str) -> tuple[str, exp.Query]:
    """The name ("" for a final SELECT) and the syntax tree of one step's `sql`.

    Raises:
        DecomposeError: `fragment` is neither.
    """
    match = re.match(r'\s*("(?:[^"]|"")+"|\w+)\s+AS\s*\((.*)\)\s*$', fragment, re.IGNORECASE | re.DOTALL)
    name, body = (match[1], match[2]) if match else ("", fragment)
    trees = _parsed(body)
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise DecomposeError("the step is not a SELECT")
    return name, trees[0]


def render_fragment(name: str, query: exp.Expr) -> str:
    """A step's `sql` from its name and tree: the opposite of `parse_fragment`."""
    return f"{name} AS ({to_sql(query)})" if name else to_sql(query)


class _Generator(SQLiteGenerator):
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


def to_sql(tree: exp.Expr) -> str:
    """The tree as compact SQLite text on one line."""
    return _Generator(dialect="sqlite", comments=False, unsupported_level=ErrorLevel.IGNORE).generate(tree)


def _needs_no_quotes(name: str) -> bool:
    """Whether both SQLite and the parser read the bare word as a name."""
    return not needs_quotes(name) and (
        sqlglot.tokenize(name, dialect="sqlite")[0].token_type == sqlglot.TokenType.VAR
    )


# --- reading a tree


class _Unsafe(Exception):
    """This cut cannot be made with certainty."""


def _outputs(query: exp.Expr, known: Mapping[str, Sequence[str] | None]) -> list[str] | None:
    if isinstance(query, exp.Subquery):
        return _outputs(query.this, known)
    if isinstance(query, exp.SetOperation):
        return _outputs(query.this, known)
    if not isinstance(query, exp.Select):
        return None
    names: list[str] = []
    for e in query.expressions:
        if is_star(e):
            wanted = None if isinstance(e, exp.Star) else e.table.lower()
            for source in source_nodes(query):
                if wanted in (None, source.alias_or_name.lower()):
                    columns = _source_columns(source, known)
                    if columns is None:
                        return None
                    names += columns
        else:
            names.append(e.alias_or_name if isinstance(e, (exp.Alias, exp.Column)) else to_sql(e))
    return names


def _source_columns(source: exp.Expr, known: Mapping[str, Sequence[str] | None]) -> list[str] | None:
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

    def __init__(self, root: exp.Expr, tables: Tables | None) -> None:
        self.steps: list[tuple[str, exp.Expr]] = []
        self.known: dict[str, list[str] | None] = {n.lower(): list(c) for n, c in (tables or {}).items()}
        names = {node.name.lower() for node in root.find_all(exp.Identifier)}
        self.taken = names | set(self.known) | KEYWORDS
        self.hoisted: dict[str, str] = {}  # the text of a hoisted query -> the CTE that holds it
        self._read_strings(root)

    # Reading names

    def _scopes(self, node: exp.Expr) -> Iterator[exp.Select]:
        """The SELECTs around a node whose columns it may read, from the inside out."""
        below, child, parent = node, node, node.parent
        while parent is not None:
            source = isinstance(child, (exp.From, exp.Join)) and below is child.this
            derived = source and isinstance(below, exp.Subquery)  # it does not see the sources beside it
            if isinstance(parent, exp.Select) and not isinstance(child, exp.With) and not derived:
                yield parent
            below, child, parent = child, parent, parent.parent

    def _owns(self, select: exp.Select, column: exp.Column) -> bool | None:
        """Whether `column` is one of `select`'s sources' (or its alias); None where that cannot be known."""
        unknown, name = False, column.name.lower()
        for source in source_nodes(select):
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

    def _read_strings(self, root: exp.Expr) -> None:
        """SQLite reads "abc" as a string where there is no such column; say so in the tree.

        Quotes around names that need none are dropped.
        """
        for name in list(root.find_all(exp.Identifier)):
            column = name.parent
            if not name.quoted:
                continue
            if isinstance(column, exp.Column) and not column.table and not _in_set_order(column):
                owned = [self._owns(scope, column) for scope in self._scopes(column)]
                if owned and all(own is False for own in owned):
                    column.replace(exp.Literal.string(column.name))
                    continue
                if not any(owned):
                    continue  # a name or a string: not known
            if _needs_no_quotes(name.name):
                name.set("quoted", False)

    def _correlated(self, query: exp.Expr) -> bool:
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

    def _push(self, query: exp.Expr, name: str | None = None) -> str:
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

    def _named(self, query: exp.Expr) -> exp.Expr:
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
            if is_star(e):
                continue
            if isinstance(e, (exp.Alias, exp.Column)):
                name, inner = e.alias_or_name, e.unalias()
                if name.lower() in used:
                    table = inner.table if isinstance(inner, exp.Column) else ""
                    name = unique(slug(f"{table}_{name}"), used)
            else:
                name, inner = unique(column_alias(e), used | {n.lower() for n in names}), e
            used.add(name.lower())
            if name != e.alias_or_name or (inner is e and not isinstance(e, exp.Column)):
                e.replace(exp.alias_(inner.copy(), identifier(name)))
        return query

    def _expand_stars(self, select: exp.Expr) -> None:
        """Write the columns of every star out. Not with USING or NATURAL, where a star merges columns."""
        many = len(source_nodes(select)) > 1
        if any(join.args.get("using") or join.args.get("method") for join in select.args.get("joins") or []):
            raise _Unsafe
        expressions: list[exp.Expr] = []
        for e in select.expressions:
            if not is_star(e):
                expressions.append(e)
                continue
            wanted = None if isinstance(e, exp.Star) else e.table.lower()
            for source in source_nodes(select):
                columns = _source_columns(source, self.known)
                if wanted in (None, source.alias_or_name.lower()):
                    if columns is None or (many and not source.alias_or_name):
                        raise _Unsafe
                    table = identifier(source.alias_or_name) if many else None
                    expressions += [exp.column(identifier(c), table) for c in columns]
        select.set("expressions", expressions)

    def _attempt(self, work: Callable[[exp.Expr], exp.Expr], query: exp.Expr) -> exp.Expr | None:
        """What `work` makes of `query` (a copy); None, with the chain as it was, where it is unsafe."""
        saved = (list(self.steps), dict(self.known), set(self.taken), dict(self.hoisted))
        try:
            return work(query)
        except _Unsafe:
            self.steps, self.known, self.taken, self.hoisted = saved
            return None

    # Taking apart

    def reduce_statement(self, root: exp.Expr) -> exp.Expr:
        """Push all steps before the last one of the whole statement; return the last one."""
        if root.args.get(WITH):
            return self._attempt(self._authors_chain, root.copy()) or root
        return self._superlative(self._unwrapped(self.reduce(root, top=True)))

    def _unwrapped(self, final: exp.Expr) -> exp.Expr:
        """The last step in place of an answer that only repeats it."""
        while self.steps and self._repeats(final, *self.steps[-1]):
            final = self.steps.pop()[1]
        return final

    def _superlative(self, final: exp.Expr) -> exp.Expr:
        """Cut an answer that names the first one of joined rows or of their groups: which it is, and what is
        asked of it (unless it also returns all that it sorts by, so that nothing would be left to say)."""
        sources, limit, order = source_nodes(final), final.args.get("limit"), final.args.get("order")
        if not limit or not order or len(sources) != 1 or not isinstance(final, exp.Select):
            return final
        plain = all(isinstance(e, exp.Column) and not is_star(e) for e in final.expressions)
        read = {e.name.lower() for e in final.expressions}
        keys = [c for c in self._own_columns(final, "order") if c.name.lower() not in read]
        others = {k for k, v in final.args.items() if v} - {"expressions", FROM, "limit", "order"}
        count = limit.args.get("expression")
        one = isinstance(count, exp.Literal) and count.name == "1"
        made = any(name.lower() == sources[0].name.lower() for name, _ in self.steps)
        joined = any(len(source_nodes(tree)) > 1 for _, tree in self.steps)
        if not (plain and keys and one and made and joined) or others:
            return final
        asked = [e.copy() for e in final.expressions]
        final.set("expressions", [*final.expressions, *(key.copy() for key in dict.fromkeys(keys))])
        return exp.select(*asked).from_(exp.to_table(self._push(final)))

    def _authors_chain(self, query: exp.Expr) -> exp.Expr:
        """A statement with CTEs of its own: they are its steps, unless one of them is the whole query."""
        ctes = query.args[WITH].expressions
        query.set(WITH, None)
        for cte in ctes:
            body = cte.this
            if cte.alias.lower() in (name.strip('"').lower() for name, _ in self.steps):
                raise _Unsafe  # a second meaning of one name
            listed = cte.args["alias"].args.get("columns") or []
            first = body
            while isinstance(first, (exp.SetOperation, exp.Subquery)):
                first = first.this
            if listed:
                if not isinstance(first, exp.Select) or len(listed) != len(first.expressions):
                    raise _Unsafe
                if any(is_star(e) for e in first.expressions):
                    raise _Unsafe
                named = [exp.alias_(e.unalias(), c) for e, c in zip(first.expressions, listed, strict=True)]
                first.set("expressions", named)
            elif not isinstance(body, exp.Query):
                raise _Unsafe
            self.steps.append((to_sql(cte.args["alias"].this), body))
            self.known[cte.alias.lower()] = _outputs(body, self.known)
        final = self._unwrapped(query)
        return final if self.steps else self.reduce_statement(final)

    def _repeats(self, query: exp.Expr, name: str, body: exp.Expr) -> bool:
        """Whether the query gives just what the CTE gives."""
        name = name.strip('"').lower()
        if not isinstance(query, exp.Select) or {k for k, v in query.args.items() if v} != {
            FROM,
            "expressions",
        }:
            return False
        source = query.args[FROM].this
        if not isinstance(source, exp.Table) or source.name.lower() != name or source.args.get("joins"):
            return False
        if any(table.name.lower() == name for table in body.find_all(exp.Table)):
            return False  # recursive
        if len(query.expressions) == 1 and is_star(query.expressions[0]):
            return True
        read = [e.name.lower() if isinstance(e, exp.Column) else None for e in query.expressions]
        return read == [column.lower() for column in self.known[name] or []]

    def reduce(self, query: exp.Expr, *, top: bool = False) -> exp.Expr:
        """Push all steps before the last one of `query`; return the last one. `top`: it is the answer."""
        while isinstance(query, exp.Subquery) and not any(
            query.args.get(k) for k in ("order", "limit", "alias")
        ):
            query = query.this
        query = query.copy()
        if query.args.get(WITH):
            return query  # names of a WITH inside hold inside only, so it stays where it is
        if isinstance(query, exp.SetOperation):
            return self._attempt(self._set_operation, query.copy()) or query
        if isinstance(query, exp.Select):
            query = self._attempt(self._hoist, query.copy()) or query
            self._attempt(self._drop_aliases, query)
            return self._attempt(lambda q: self._cut(q, top), query.copy()) or query
        return query

    def _set_operation(self, query: exp.Expr) -> exp.Expr:
        """One CTE an arm, then the operation over them."""
        leaves = list(_leaves(query))
        outputs: list[tuple[exp.Expr, str]] = []
        for leaf in leaves:
            if not source_nodes(leaf) or _whole_table(leaf) is not None:
                outputs += [(exp.column(n), n) for n in _outputs(leaf, self.known) or []]
                continue  # nothing to do in a step of its own
            expressions = [e.copy() for e in leaf.expressions]
            reduced = self._named(self.reduce(leaf))
            name = self._push(reduced)
            names = self.known[name.lower()]
            star = len(expressions) == 1 and isinstance(expressions[0], exp.Star)
            columns = [exp.Star()] if names is None or star else [exp.column(identifier(n)) for n in names]
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
                    term.set("this", exp.column(identifier(name)))
                    break
            else:
                raise _Unsafe
        return query

    def _hoist(self, query: exp.Expr) -> exp.Expr:
        """Turn derived tables and subqueries that stand alone into CTEs."""
        for source in source_nodes(query):
            if isinstance(source, exp.Subquery) and isinstance(source.this, exp.Query):
                # "count(*)" may be read by its text, which the CTE would rename
                odd = any(n.quoted and re.search(r"\W", n.name) for n in query.find_all(exp.Identifier))
                if odd or source.this.args.get(WITH) or source.args.get("joins"):
                    continue
                table = _whole_table(source.this)
                name = identifier(self._push(self.reduce(source.this))) if table is None else table.this
                alias = source.args.get("alias")
                if not alias and any(other.alias_or_name == name.name for other in source_nodes(query)):
                    alias = exp.TableAlias(this=identifier(unique(name.name, self.taken)))
                    self.taken.add(alias.name.lower())
                source.replace(exp.Table(this=name.copy(), alias=alias.copy() if alias else None))
        for key in ("expressions", "joins", "where", "group", "having", "order"):
            clause = query.args.get(key)
            for node in clause if isinstance(clause, list) else [clause]:
                if node is not None:
                    self._hoist_below(node)
        return query

    def _hoist_below(self, node: exp.Expr) -> None:
        for child in list(node.iter_expressions()):
            inner = child.this if isinstance(child, exp.Subquery) else child
            from_source = isinstance(node, (exp.From, exp.Join)) and child is node.this
            if not isinstance(inner, (exp.Select, exp.SetOperation)) or from_source:
                self._hoist_below(child)
            elif inner.args.get(WITH):
                continue  # its names hold inside only
            elif inner.find(exp.With) or inner.find(exp.Rand):
                self._hoist_below(inner)
            elif self._correlated(inner):
                self._hoist_below(inner)
                for loosen in (self._extreme_per_group, self._loosen):
                    loose = self._attempt(loosen, inner)
                    if loose is not None:
                        inner.replace(loose)
                        break
            elif isinstance(node, exp.Exists):
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
                    columns = [exp.Star()] if names is None else [exp.column(identifier(n)) for n in names]
                    inner.replace(exp.select(*columns).from_(exp.to_table(name)))

    def _loosen(self, inner: exp.Expr) -> exp.Expr:
        """Let a step of its own do the filters of a correlated subquery that need no outer row."""
        where = inner.args.get("where")
        sources = source_nodes(inner)
        if not where or len(sources) != 1 or any(True for s in inner.find_all(exp.Query) if s is not inner):
            raise _Unsafe
        if not isinstance(sources[0], exp.Table) or sources[0].args.get("joins"):
            raise _Unsafe
        select = inner.copy()
        source = source_nodes(select)[0]
        parts = list(conjuncts(select.args["where"].this))
        free = [p for p in parts if self._reads_only(select, p)]
        if not free or len(free) == len(parts):
            raise _Unsafe
        rows = exp.Select(expressions=[])
        rows.set(FROM, exp.From(this=source.copy()))
        rows.set("where", _where(free))
        select.set("where", _where([p for p in parts if not any(p is f for f in free)]))
        self._gather(select, rows, [source], whole=False, nested=True)
        return select

    def _extreme_per_group(self, inner: exp.Expr) -> exp.Expr:
        """`(SELECT MAX(age) FROM singer AS b WHERE b.country = a.country)`, a itself a singer: the maximum of
        every country is a step of its own, from which the outer row takes its country's.

        Only for one column of one table on both sides, where two groups can never be equal to one outer row;
        and not for COUNT, which gives 0 where there is no group.
        """
        sources = source_nodes(inner)
        if {k for k, v in inner.args.items() if v} != {"expressions", FROM, "where"} or len(sources) != 1:
            raise _Unsafe
        value, outer = inner.expressions[0].unalias(), inner.find_ancestor(exp.Select)
        simple = (exp.Max, exp.Min, exp.Avg, exp.Sum)
        if (
            len(inner.expressions) != 1
            or type(value) not in simple
            or not is_aggregate(value)
            or outer is None
        ):
            raise _Unsafe
        plain = isinstance(sources[0], exp.Table) and not any(sources[0].args.get(k) for k in ("db", "joins"))
        if not plain or any(q is not inner for q in inner.find_all(exp.Query)):
            raise _Unsafe
        parts = list(conjuncts(inner.args["where"].this))
        bound = [p for p in parts if not self._reads_only(inner, p)]
        if len(bound) != 1 or not isinstance(bound[0], exp.EQ) or not self._reads_only(inner, value):
            raise _Unsafe
        sides = [bound[0].this, bound[0].expression]
        if not all(isinstance(side, exp.Column) for side in sides):
            raise _Unsafe
        sides.sort(key=lambda side: not self._reads_only(inner, side))
        key, other = sides
        owners = self._source_of(outer, other)
        if len(owners) != 1 or not other.table or key.name.lower() != other.name.lower():
            raise _Unsafe
        if not isinstance(owners[0], exp.Table) or owners[0].name.lower() != sources[0].name.lower():
            raise _Unsafe
        alias = identifier(column_alias(value))
        columns = [exp.column(key.this.copy()), exp.alias_(value.copy(), alias)]
        groups = exp.Select(expressions=columns)
        groups.set(FROM, exp.From(this=exp.Table(this=sources[0].this.copy())))
        groups.set("where", _where([p for p in parts if p is not bound[0]]))
        groups.set("group", exp.Group(expressions=[exp.column(key.this.copy())]))
        for column in groups.find_all(exp.Column):
            column.set("table", None)
        name = self._push(groups)
        select = exp.Select(expressions=[exp.column(alias.copy())])
        select.set(FROM, exp.From(this=exp.to_table(name)))
        condition = exp.EQ(this=exp.column(key.this.copy(), identifier(name)), expression=other.copy())
        select.set("where", exp.Where(this=condition))
        return select

    def _reads_only(self, select: exp.Expr, e: exp.Expr) -> bool:
        """Whether every column below `e` is certainly one of `select`'s own."""
        found = [n for n in own_nodes(e) if isinstance(n, exp.Column)]
        if any(_source_columns(s, self.known) is None for s in source_nodes(select)):
            return all(len(self._source_of(select, c)) == 1 and bool(c.table) for c in found)
        return all(len(self._source_of(select, c)) == 1 for c in found)

    # Cutting one SELECT

    def _own_columns(self, select: exp.Expr, *keys: str) -> list[exp.Column]:
        """The columns in the given clauses that stand outside nested queries, stars left out."""
        found: list[exp.Column] = []
        for key in keys:
            clause = select.args.get(key)
            for node in clause if isinstance(clause, list) else [clause]:
                found += [n for n in own_nodes(node) if isinstance(n, exp.Column) and not is_star(n)]
        return found

    def _nested_reads(self, node: exp.Expr | None) -> bool:
        """Whether a nested query below the node reads from outside itself."""
        if node is None:
            return False
        return any(self._correlated(q) for q in node.find_all(exp.Select, exp.SetOperation) if q is not node)

    def _drop_aliases(self, select: exp.Expr) -> exp.Expr:
        """Write `singer.name` for `T1.name`, and `name` where there is one table only."""
        sources = source_nodes(select)
        plain = all(isinstance(s, exp.Table) and not s.args.get("joins") for s in sources)
        clauses = [*select.expressions, *(select.args.get(k) for k in ("where", "group", "having", "order"))]
        clauses += select.args.get("joins") or []
        if not plain or any(self._nested_reads(clause) for clause in clauses):
            raise _Unsafe
        names = [s.name.lower() for s in sources]
        every = ("expressions", "joins", "where", "group", "having", "order", "windows")
        stars = [
            n for e in select.expressions for n in own_nodes(e) if isinstance(n, exp.Column) and is_star(n)
        ]
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
                if column.table and column.name.lower() not in aliases and not is_star(column):
                    column.set("table", None)
        return select

    def _cut(self, query: exp.Expr, top: bool) -> exp.Expr:
        known = {"expressions", FROM, "joins", "where", *LATER, "limit", "offset", "distinct"}
        if {key for key, value in query.args.items() if value} - known or not query.args.get(FROM):
            return query
        if any(self._nested_reads(part) for part in [*query.expressions, *map(query.args.get, LATER)]):
            return query
        if any(self._may_be_string(query, c) for c in self._own_columns(query, *known - {FROM, "limit"})):
            return query
        self._resolve_aliases(query)
        many = len(source_nodes(query))
        for at in range(many if many > 1 and query.args.get("where") else 0):
            query = self._attempt(partial(self._filter_first, at=at), query.copy()) or query
        if many > 2:
            query = self._attempt(self._split_joins, query.copy()) or query
        query = self._attempt(lambda q: self._cut_rows(q, top), query.copy()) or query
        return self._attempt(self._cut_groups, query.copy()) or query

    def _may_be_string(self, select: exp.Expr, column: exp.Column) -> bool:
        """Whether `"abc"` may be a string: SQLite reads it so where it finds no column of that name."""
        if not column.this.args.get("quoted") or column.table:
            return False
        owners = self._source_of(select, column)
        return not owners or _source_columns(owners[0], self.known) is None

    def _resolve_aliases(self, query: exp.Expr) -> None:
        """Replace output aliases by what they stand for, where SQLite takes them to be aliases."""
        aliases = {e.alias.lower(): e.this for e in query.expressions if isinstance(e, exp.Alias)}
        for key in ("where", "group", "having", "order"):
            for column in self._own_columns(query, key):
                target = None if column.table else aliases.get(column.name.lower())
                if target is None or target == column:
                    continue
                if key != "where" and not target.find(exp.Column, exp.AggFunc):
                    raise _Unsafe  # a bare number there would be the place of an output column
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
                if not 0 <= at < len(query.expressions) or is_star(query.expressions[at]):
                    raise _Unsafe
                term.replace(query.expressions[at].unalias().copy())

    def _source_of(self, select: exp.Expr, column: exp.Column) -> list[exp.Expr]:
        """The sources that may own the column: certain if there is one, unknown or ambiguous otherwise."""
        sources, name = source_nodes(select), column.name.lower()
        if column.table:
            return [s for s in sources if s.alias_or_name.lower() == column.table.lower()]
        listed = [(s, _source_columns(s, self.known)) for s in sources]
        if name in ("rowid", "oid", "_rowid_"):  # a table has it without listing it, a CTE has not
            return []
        sure = [s for s, columns in listed if columns is not None and name in (c.lower() for c in columns)]
        return sure or [s for s, columns in listed if columns is None]

    def _filter_first(self, query: exp.Expr, at: int) -> exp.Expr:
        """Cut: what one of several joined tables must fulfil by itself is a step before the join.

        An outer join keeps rows without a partner, which a filter after it drops: there only the table that
        keeps all its rows, the first one of LEFT JOINs, may be filtered before.
        """
        sources, joins, where = source_nodes(query), query.args.get("joins") or [], query.args.get("where")
        inner = all(_is_inner(join) for join in joins)
        left = all(_is_inner(join, "LEFT") for join in joins)
        if not where or not (inner or (left and at == 0)):
            raise _Unsafe
        source = sources[at]
        if not isinstance(source, exp.Table) or source.args.get("joins") or self._nested_reads(query):
            raise _Unsafe
        alias, parts = {source.alias_or_name.lower()}, list(conjuncts(where.this))
        mine = [p for p in parts if self._tables_of(query, p) == alias and not p.find(exp.Rand)]
        if not mine:
            raise _Unsafe
        if any(is_star(e) for e in query.expressions):
            self._expand_stars(query)
        rows = exp.Select(expressions=[])
        rows.set(FROM, exp.From(this=source.copy()))
        rows.set("where", _where(mine))
        query.set("where", _where([p for p in parts if not any(p is m for m in mine)]))
        self._gather(query, rows, [source], whole=False)
        return query

    def _split_joins(self, query: exp.Expr) -> exp.Expr:
        """Cut: of several joins every one but the last is a step, as far as conditions connect the tables."""
        if not all(_is_inner(join) for join in query.args.get("joins") or []) or self._nested_reads(query):
            raise _Unsafe
        if any(is_star(e) for e in query.expressions):
            self._expand_stars(query)
        self._start_filtered(query)
        while len(source_nodes(query)) > 2 and self._join_two(query):
            pass
        return query

    def _start_filtered(self, query: exp.Expr) -> None:
        """Let the joins begin at the first table that is a step already, and stand where all that a condition
        of theirs reads has come before."""
        sources, joins = source_nodes(query), query.args["joins"]
        made = {name.lower() for name, _ in self.steps}
        start = next((s for s in sources if s.name.lower() in made), sources[0])
        order = [start, *(s for s in sources if s is not start)]
        place = {s.alias_or_name.lower(): at for at, s in enumerate(order)}
        conditions: dict[int, list[exp.Expr]] = {}
        for join in joins:
            for p in conjuncts(join.args["on"]) if join.args.get("on") else []:
                if p != exp.true():
                    at = max((place.get(t, 0) for t in self._tables_of(query, p)), default=0)
                    conditions.setdefault(max(at, 1), []).append(p)
        query.set(FROM, exp.From(this=start.copy()))
        query.set(
            "joins",
            [exp.Join(this=s.copy(), on=_all(conditions.get(at, []))) for at, s in enumerate(order) if at],
        )

    def _join_two(self, query: exp.Expr) -> bool:
        """Push the join of the first table with the first other one that a condition connects to it."""
        first = source_nodes(query)[0]
        where, joins = query.args.get("where"), query.args["joins"]
        filters = list(conjuncts(where.this)) if where else []
        ons = [(join, p) for join in joins if join.args.get("on") for p in conjuncts(join.args["on"])]
        tables = {id(p): self._tables_of(query, p) for p in [*filters, *(p for _, p in ons)]}
        for join in joins:
            both = {first.alias_or_name.lower(), join.this.alias_or_name.lower()}
            if both in tables.values():
                break
        else:
            return False
        if not all(isinstance(source, exp.Table) for source in (first, join.this)):
            raise _Unsafe
        inside = [p for _, p in ons if tables[id(p)] <= both] + [p for p in filters if tables[id(p)] == both]
        taken = {id(p) for p in inside}
        filters += [p for owner, p in ons if owner is join]  # what this join says of later tables
        query.set("where", _where([p for p in filters if id(p) not in taken]))
        for other in joins:
            rest = [p for owner, p in ons if owner is other and other is not join and id(p) not in taken]
            other.set("on", _all(rest))
        rows = exp.Select(expressions=[])
        rows.set(FROM, exp.From(this=first.copy()))
        rows.set("joins", [exp.Join(this=join.this.copy(), on=_all(inside))])
        self._gather(query, rows, [first, join.this], whole=False)
        query.set("joins", [other for other in joins if other is not join])
        return True

    def _cut_rows(self, query: exp.Expr, top: bool) -> exp.Expr:
        """Cut: FROM, JOIN and WHERE make the rows, the rest reads them."""
        sources, where = source_nodes(query), query.args.get("where")
        many = len(sources) > 1
        more = any(query.args.get(key) for key in ("group", "having", "order", "limit"))
        # "the average price of red wines": one thing to say where it only serves a later step
        more = more or ((top or many) and (bool(query.args.get("distinct")) or any(aggregates(query))))
        more = more or any(isinstance(n, exp.Window) for e in query.expressions for n in own_nodes(e))
        parts = list(conjuncts(where.this)) if where else []
        inside, outside = parts, []
        aliases = {e.alias.lower() for e in query.expressions if isinstance(e, exp.Alias)}
        for column in where.find_all(exp.Column) if where and self._nested_reads(where) else []:
            if not column.table and column.name.lower() in aliases:
                raise _Unsafe  # a nested query may read the alias, which the rows have not yet
        if not more:
            if not (many and where):
                return query
            # conditions over several tables belong to the join, those over one table are a filter after it
            inside = [p for p in parts if self._nested_reads(p) or len(self._tables_of(query, p)) != 1]
            outside = [p for p in parts if not any(p is i for i in inside)]
            if not outside:
                return query
        elif not many and not where:
            return query
        if many and any(is_star(e) for e in query.expressions):
            self._expand_stars(query)
        rows = exp.Select(expressions=[])
        rows.set(FROM, query.args[FROM].copy())
        rows.set("joins", [join.copy() for join in query.args.get("joins") or []])
        rows.set("where", _where(inside))
        query.set("where", _where(outside))
        self._gather(query, rows, sources, whole=True)
        return query

    def _gather(
        self,
        query: exp.Expr,
        rows: exp.Select,
        moved: list[exp.Expr],
        *,
        whole: bool,
        nested: bool = False,
    ) -> None:
        """Make `rows` a step that gives every column which `query` still reads of the sources `moved`, and
        let `query` read them there. `whole`: these are all its sources.

        `rows` has FROM, JOIN and WHERE; conditions that it took are gone from `query`, whose sources are all
        in place. `nested`: columns that belong to none of them are those of outer queries.
        """
        sources, (first, *_) = source_nodes(query), moved
        if not whole and not all(s.alias_or_name for s in sources):
            raise _Unsafe  # a table-valued function, whose columns cannot be qualified
        bare = len(moved) == 1 and (whole or nested) and any(is_star(e) for e in query.expressions)
        if bare and not all(isinstance(e, exp.Star) for e in query.expressions if is_star(e)):
            raise _Unsafe
        aliases = {e.alias.lower(): e.this for e in query.expressions if isinstance(e, exp.Alias)}
        joins = query.args.get("joins") or []
        using = {u.name.lower() for join in joins for u in join.args.get("using") or []}
        natural = any(join.args.get("method") for join in joins)
        wanted: dict[tuple[str, str], list[exp.Column]] = {}
        others: list[tuple[exp.Column, exp.Expr]] = []
        clauses = ("expressions", "where", *LATER) if whole else ("expressions", "joins", "where", *LATER)
        for column in self._own_columns(query, *clauses):
            owners, name = self._source_of(query, column), column.name.lower()
            if not owners and nested and name not in ROWID:
                continue
            if self._may_be_string(query, column):
                raise _Unsafe
            merged = not column.table and (natural or name in using)  # by USING, NATURAL: no table's own
            unknown = all(_source_columns(source, self.known) is None for source in owners)
            if nested and unknown and not column.table:
                raise _Unsafe  # perhaps an outer query's
            if not owners or (len(owners) > 1 and not (whole and (merged or unknown))):
                raise _Unsafe
            if len(owners) == 1 and not any(owners[0] is source for source in moved):
                others.append((column, owners[0]))
                continue
            owner = "" if merged or len(owners) > 1 else owners[0].alias_or_name.lower()
            wanted.setdefault((owner, name), []).append(column)
        used: set[str] = set()
        expressions: list[exp.Expr] = []
        places: list[tuple[exp.Column, exp.Identifier]] = []
        for (owner, name), columns in wanted.items():
            column = columns[0]
            shared = sum(n == name for _, n in wanted) > 1
            clash = whole and name in aliases and aliases[name] != column
            new = column.name
            if not bare and (shared or clash or name in used):
                table = next((s for s in sources if s.alias_or_name.lower() == owner), None)
                twice = table is not None and sum(s.name.lower() == table.name.lower() for s in sources) > 1
                prefix = (
                    "" if table is None else table.alias_or_name if twice else self._origin(table.name, name)
                )
                new = unique(slug(f"{prefix}_{name}"), used | set(aliases) | {n for _, n in wanted})
            used.add(new.lower())
            same = new == column.name
            expressions.append(column.copy() if same else exp.alias_(column.copy(), identifier(new)))
            places += [(place, place.this.copy() if same else identifier(new)) for place in columns]
        if bare:
            expressions = [exp.Star()]
        elif not expressions:
            read = self._own_columns(rows, "where") or self._own_columns(rows, "joins")
            expressions = [read[0].copy()] if read else [exp.alias_(exp.Literal.number(1), "one")]
        if len(moved) == 1 and not whole:
            self._unqualify(rows, expressions, first)
        rows.set("expressions", expressions)
        table = exp.to_table(self._push(rows))
        if not whole and any(s.alias_or_name.lower() == table.name.lower() for s in sources):
            # a self join of rows with the same filter: one step, read under two names
            table.set("alias", exp.TableAlias(this=identifier(first.alias_or_name)))
        for column, source in others:
            column.set("table", identifier(source.alias_or_name))
        for place, named in places:
            place.replace(exp.Column(this=named, table=None if whole else identifier(table.alias_or_name)))
        if whole:
            query.set(FROM, exp.From(this=table))
            query.set("joins", None)
        else:
            first.replace(table)

    def _origin(self, source: str, column: str) -> str:
        """The table that a column of a table or step comes from; the step itself for what it computes."""
        body = next((tree for name, tree in self.steps if name.lower() == source.lower()), None)
        if not isinstance(body, exp.Select):
            return source
        for e in body.expressions:
            read, sources = e.unalias(), source_nodes(body)
            if e.alias_or_name.lower() == column.lower() and isinstance(read, exp.Column):
                owner = next(
                    (s for s in sources if s.alias_or_name.lower() == read.table.lower()), sources[0]
                )
                alias = owner.alias if len(sources) > 1 else ""
                return alias or self._origin(owner.name, read.name)
        return source

    def _unqualify(self, rows: exp.Select, expressions: list[exp.Expr], source: exp.Expr) -> None:
        """A step over one table needs neither the alias nor `table.` before its columns."""
        source_nodes(rows)[0].set("alias", None)
        for e in [*expressions, rows.args["where"]]:
            for column in [n for n in own_nodes(e) if isinstance(n, exp.Column)]:
                if column.table.lower() == source.alias_or_name.lower():
                    column.set("table", None)

    def _tables_of(self, query: exp.Expr, condition: exp.Expr) -> set[str]:
        found: set[str] = set()
        for node in own_nodes(condition):
            if isinstance(node, exp.Column):
                owners = self._source_of(query, node)
                if len(owners) != 1:
                    return {"", "?"}  # not known: stays with the join
                found.add(owners[0].alias_or_name.lower())
        return found

    def _cut_groups(self, query: exp.Expr) -> exp.Expr:
        """Second cut: GROUP BY makes the groups; HAVING, ORDER BY, LIMIT and the output read them."""
        group = query.args.get("group")
        if not group or not any(query.args.get(k) for k in ("having", "order", "limit", "distinct")):
            return query
        if query.args.get("joins") or query.args.get("where") or any(is_star(e) for e in query.expressions):
            raise _Unsafe
        if {k for k, v in group.args.items() if v} != {"expressions"}:
            raise _Unsafe
        clauses = [*query.expressions, query.args.get("having"), query.args.get("order")]
        if any(isinstance(n, exp.Window) for clause in clauses for n in own_nodes(clause)):
            raise _Unsafe
        keys = [e for e in group.expressions if not isinstance(e, exp.Column)]
        aliases = {e.alias.lower(): e.this for e in query.expressions if isinstance(e, exp.Alias)}
        by_expression = {
            to_sql(e.this): e.args["alias"] for e in query.expressions if isinstance(e, exp.Alias)
        }
        carried: dict[str, tuple[exp.Expr, exp.Identifier]] = {}
        used: set[str] = set()

        def carry(e: exp.Expr) -> exp.Column:
            text = to_sql(e).lower() if isinstance(e, exp.Column) else to_sql(e)
            if text not in carried:
                alias = by_expression.get(to_sql(e))
                if isinstance(e, exp.Column):
                    new = e.this.copy()
                elif alias is not None:
                    new = alias.copy()
                else:
                    new = identifier(column_alias(e))
                mine = alias is not None and alias.name.lower() == new.name.lower()
                if new.name.lower() in used or (new.name.lower() in aliases and not mine):
                    new = identifier(unique(slug(new.name), used | set(aliases)))
                used.add(new.name.lower())
                same = isinstance(e, exp.Column) and new.name == e.name
                carried[text] = (e.copy() if same else exp.alias_(e.copy(), new), new)
            return exp.Column(this=carried[text][1].copy())

        def rewrite(node: exp.Expr) -> None:
            for child in list(node.iter_expressions()):
                if isinstance(child, exp.Query):
                    continue
                unit = is_aggregate(child) or child in keys or isinstance(child, (exp.Column, exp.Filter))
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


def _ancestors(node: exp.Expr) -> Iterator[exp.Expr]:
    current: exp.Expr | None = node
    while current is not None:
        yield current
        current = current.parent


def _in_set_order(column: exp.Expr) -> bool:
    """Whether the column stands in the ORDER BY of a set operation, where it names an output column."""
    order = column.find_ancestor(exp.Order, exp.Select)
    return isinstance(order, exp.Order) and isinstance(order.parent, exp.SetOperation)


def _leaves(query: exp.Expr) -> Iterator[exp.Select]:
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


def _all(conditions: list[exp.Expr]) -> exp.Expr | None:
    """The conditions held together by AND; an OR that stood alone now needs its brackets."""
    if len(conditions) > 1:
        conditions = [exp.paren(p) if isinstance(p, exp.Or) else p for p in conditions]
    return exp.and_(*conditions, copy=True, wrap=False) if conditions else None


def _where(conditions: list[exp.Expr]) -> exp.Where | None:
    return exp.Where(this=_all(conditions)) if conditions else None


def _is_inner(join: exp.Join, side: str = "") -> bool:
    """Whether a join only combines rows and tests them (`side`: or is an outer join of that side)."""
    plain = not any(join.args.get(key) for key in ("method", "using", "global"))
    return plain and join.side in ("", side) and join.kind in ("", "INNER", "CROSS", "OUTER")


def _whole_table(query: exp.Expr) -> exp.Table | None:
    """The table if the query is `SELECT * FROM table`, which says nothing more than the table."""
    if not isinstance(query, exp.Select) or {k for k, v in query.args.items() if v} != {"expressions", FROM}:
        return None
    source = query.args[FROM].this
    plain = isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier)
    if not plain or any(source.args.get(k) for k in ("db", "alias", "joins")):
        return None
    return source if len(query.expressions) == 1 and isinstance(query.expressions[0], exp.Star) else None
