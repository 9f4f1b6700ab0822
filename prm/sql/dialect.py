"""Between the dialect of a database and the one in which queries are taken apart and changed: SQLite's.

Decomposition, mutation and description read and write SQLite's dialect only. For a database that speaks
another, gold SQL is translated inward once, and every step is translated outward, word by word as it stands
in the trace, before it is run. SQLite itself never runs such a query: the inner dialect is a notation that
sqlglot can parse and print again, so that `EXTRACT(YEAR FROM day)` passes through unharmed. What a
translation may have changed all the same is caught by execution: `prm build` labels nothing whose translation
does not give the rows of the original.

Four things that sqlglot leaves to the writer are settled here on the way out:

- names are spelled and quoted as the schema has them (PostgreSQL reads a bare `Singer` as `singer`);
- GROUP BY names every column that is returned beside an aggregate. SQLite does not ask for it, and a primary
  key, which would stand for its whole row, is none any more in a later step;
- REAL becomes double precision, which it is in SQLite;
- division by zero stays what it was in gold, not SQLite's NULL (`x / NULLIF(2, 0)`).
"""

from __future__ import annotations

import re

from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from prm.sql.decompose import DecomposeError, parse_fragment, statements, to_sql
from prm.sql.schema import Schema
from prm.sql.tables import quote

FLOAT, DOUBLE, DECIMAL = exp.DataType.Type.FLOAT, exp.DataType.Type.DOUBLE, exp.DataType.Type.DECIMAL


class TranslationError(ValueError):
    """A query that cannot be said in the other dialect."""


class Translator:
    """To and from the dialect of one database, whose schema says how names are spelled."""

    def __init__(self, schema: Schema) -> None:
        self.dialect = schema.dialect
        self._names: dict[str, str] = {}
        for table in schema.tables:
            for name in (table.name, *(column.name for column in table.columns)):
                self._names.setdefault(name.lower(), name)
        self._fragments: dict[str, str] = {}

    def inward(self, sql: str) -> str:
        """A query of the database's dialect in SQLite's.

        Raises:
            TranslationError: it is not one query, or sqlglot cannot say it so.
        """
        if self.dialect == "sqlite":
            return sql
        try:
            trees = statements(sql, self.dialect)
            if len(trees) != 1 or not isinstance(trees[0], exp.Query):
                raise TranslationError("not one query")
            return trees[0].sql(dialect="sqlite", unsupported_level=ErrorLevel.RAISE, comments=False)
        except (SqlglotError, RecursionError) as error:
            raise TranslationError(str(error).partition("\n")[0]) from None

    def outward(self, fragment: str) -> str:
        """A step's `sql` (`name AS (SELECT …)`, or a whole SELECT) in the database's dialect.

        Raises:
            TranslationError: sqlglot cannot say it so.
        """
        if self.dialect == "sqlite":
            return fragment
        if fragment not in self._fragments:
            if len(self._fragments) >= 10_000:
                self._fragments.clear()
            self._fragments[fragment] = self._outward(fragment)
        return self._fragments[fragment]

    def _outward(self, fragment: str) -> str:
        try:
            name, tree = parse_fragment(fragment)
            for node in list(tree.walk()):
                if isinstance(node, exp.Select):
                    _complete_group_by(node)
                elif isinstance(node, exp.DataType) and node.this in (FLOAT, DOUBLE):
                    # `REAL(6, 1)` is what sqlglot makes of a NUMERIC(6, 1).
                    node.set("this", DECIMAL if node.expressions else DOUBLE)
                elif isinstance(node, exp.Div):
                    node.set("safe", False)
                elif isinstance(node, exp.Identifier):
                    self._spell(node)
            text = tree.sql(dialect=self.dialect, unsupported_level=ErrorLevel.RAISE, comments=False)
        except (SqlglotError, DecomposeError, RecursionError) as error:
            raise TranslationError(str(error).partition("\n")[0]) from None
        if not name:
            return text
        bare = name[1:-1].replace('""', '"') if name.startswith('"') else name
        return f"{quote(self._spelled(bare), self.dialect)} AS ({text})"

    def _spelled(self, name: str) -> str:
        known = self._names.get(name.lower())
        if known is not None:
            return known
        return name.lower() if re.fullmatch(r"\w+", name) else name

    def _spell(self, identifier: exp.Identifier) -> None:
        name = self._spelled(identifier.name)
        identifier.set("this", name)
        identifier.set("quoted", quote(name, self.dialect) != name)


def _complete_group_by(select: exp.Select) -> None:
    """Group also by the columns that stand outside of aggregates in what is returned, kept or ordered by."""
    group = select.args.get("group")
    if group is None or not group.expressions or any(group.args.get(k) for k in ("rollup", "cube", "all")):
        return
    aliases = {projection.alias.lower() for projection in select.expressions if projection.alias}
    keys = {to_sql(key).lower() for key in group.expressions}
    numbered = {int(key.this) for key in group.expressions if isinstance(key, exp.Literal) and key.is_int}
    keys |= {
        to_sql(projection.unalias()).lower()
        for i, projection in enumerate(select.expressions, 1)
        if i in numbered or (projection.alias and projection.alias.lower() in keys)
    }
    parts = [projection.unalias() for projection in select.expressions]
    parts += [select.args[name] for name in ("having", "order") if select.args.get(name)]
    for part in parts:
        for column in _free_columns(part, keys):
            text = to_sql(column).lower()
            if text not in keys and not (text in aliases and part not in parts[: len(select.expressions)]):
                keys.add(text)
                group.append("expressions", column.copy())


def _free_columns(node: exp.Expr, keys: set[str]) -> list[exp.Column]:
    """The columns of an expression outside of aggregates, subqueries and expressions that are grouped by."""
    if isinstance(node, (exp.AggFunc, exp.Query, exp.Window)) or to_sql(node).lower() in keys:
        return []
    if isinstance(node, exp.Column):
        return [] if isinstance(node.this, exp.Star) else [node]
    return [column for child in node.iter_expressions() for column in _free_columns(child, keys)]
