"""What gold leaves to chance: which results would be as good as the one that it happens to give?

A query does not always say which rows it wants. `ORDER BY age LIMIT 1` takes one of the youngest, any of
them; `ORDER BY age` leaves open who of the same age comes first; a bare column of a group may be read from
any of its rows. What differs from gold in such a choice only is not wrong, and where the choices cannot be
counted, nothing is called wrong that might be one of them. Certain are

- the number of columns, always;
- where gold is certain but for the ORDER BY, LIMIT and OFFSET of the whole: each row together with its place
  among those that tie;
- where chance is in bare columns of the whole's groups: the number of rows, the columns that come out the
  same whichever row of a group is read, and for the others that their values are among those of the rows.

On variants of the database nothing of this arises (`prm.sql.variants`).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from prm.sql.compare import Undecided, part_of, results_equal
from prm.sql.database import Database, Rows, SQLError
from prm.sql.decompose import statements, to_sql
from prm.sql.inline import inlined
from prm.sql.schema import Schema
from prm.sql.variants import CHANCE, Suite, Unusable, group_keys, order_counts, order_key

#: Why a result that is not gold's may be right all the same: an answer with it has no label.
OPEN = {
    "tied": "the answer may be another choice among rows that gold leaves to chance (ties, bare columns)",
    "typed": "the answer differs from gold only in whether numbers are text",
}
_MAX_PERMUTED = 7  # columns whose orders are tried


def left_open(choices: Choices, rows: Rows, *, ordered: bool) -> str | None:
    """The key of `OPEN` for rows that are not gold's on the database; None where they are wrong for certain.
    `ordered`: gold orders its rows."""
    if choices.allow(rows):
        return "tied"
    mine, golds = _with_numbers(rows), _with_numbers(choices.rows)
    if mine != rows or golds != choices.rows:
        try:
            return "typed" if results_equal(golds, mine, ordered=ordered) else None
        except Undecided:
            return None
    return None


def _with_numbers(rows: Rows) -> list[tuple]:
    """The rows, with what is a number written as text as that number."""

    def number(value: object) -> object:
        return (
            float(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,15}(\.\d+)?", value) else value
        )

    return [tuple(map(number, row)) for row in rows]


class Choices:
    """The results that `query` leaves open on a database; `rows` is what it gives. A `query` of None is not
    understood: it may leave everything open."""

    #: The query without CTEs and derived tables; None where that cannot be said.
    plain: exp.Query | None = None

    def __init__(self, database: Database, query: exp.Query | None, rows: Rows) -> None:
        self.database, self.query, self.rows = database, query, rows

    @classmethod
    def of(cls, gold: Suite, schema: Schema) -> Choices:
        """What the gold of a suite leaves open on the database itself."""
        try:
            trees = statements(gold.gold_sql)
        except (SqlglotError, RecursionError):
            trees = []
        if len(trees) != 1 or not isinstance(written := trees[0], exp.Query):
            return cls(gold.database, None, gold.gold)
        plain = _plain(written, gold, schema) if gold.gold else written
        choices = cls(gold.database, plain or written, gold.gold)
        choices.plain = plain
        return choices

    @cached_property
    def whole(self) -> exp.Query | None:
        """The query without its ORDER BY, LIMIT and OFFSET."""
        if self.query is None:
            return None
        whole = self.query.copy()
        for clause in ("order", "limit", "offset"):
            whole.set(clause, None)
        return whole

    @cached_property
    def ranked(self) -> Rows | None:
        """The rows of `whole` as the query orders them, with the number of the rows that they tie with in
        front; None where the query is not certain but for ties, or not understood."""
        query, whole = self.query, self.whole
        if query is None or whole is None or not self._is_certain(whole):
            return None
        offset = query.args.get("offset")
        if (offset is not None and not offset.expression.is_int) or CHANCE.search(to_sql(query)):
            return None
        order = query.args.get("order")
        tie: exp.Expr = exp.Literal.number(1)
        ranked = whole.copy()
        if order is not None:
            keys = order.copy()
            for key, original in zip(keys.expressions, order.expressions, strict=True):
                meant = order_key(original.this, query)
                if not isinstance(ranked, exp.Select):  # only its columns can be ordered by
                    meant = exp.column(meant.alias_or_name, quoted=True)
                key.set("this", meant.copy())
            tie = exp.Window(this=exp.DenseRank(), order=keys)
        tie = exp.alias_(tie, "prm_tie")
        if isinstance(ranked, exp.Select):
            ranked.set("expressions", [tie, *ranked.expressions])
        else:
            ranked = exp.select(tie, exp.Star()).from_(ranked.subquery("q"))
        ranked.set("order", exp.Order(expressions=[exp.Ordered(this=exp.Literal.number(1))]))
        try:
            found = self.database.execute(to_sql(ranked))
        except SQLError:
            return None
        if len({row[1:] for row in found}) < len(found) and query.args.get("distinct"):
            found = Rows((1, *row) for row in dict.fromkeys(row[1:] for row in found))  # any place is open
        return found if len(found) >= len(self.rows) else None

    def _is_certain(self, query: exp.Query) -> bool:
        try:
            sql = to_sql(query)
            order_counts(self.database, sql, self.database.execute(sql))
        except (Unusable, SQLError, Undecided):
            return False
        return True

    @cached_property
    def _offset(self) -> int:
        clause = None if self.query is None else self.query.args.get("offset")
        return int(clause.expression.name) if clause is not None else 0

    @cached_property
    def cuts_ties(self) -> bool:
        """Whether a LIMIT keeps some of several rows that tie, or may do so."""
        ranked = self.ranked
        if ranked is None:
            return True
        return any(
            0 < at < len(ranked) and ranked[at - 1][0] == ranked[at][0]
            for at in (self._offset, self._offset + len(self.rows))
        )

    @property
    def counted(self) -> bool:
        """Whether all that is left open are places among rows that tie."""
        return self.ranked is not None and self._allowed_by_rank(self.rows, self.ranked)

    def allow(self, rows: Rows) -> bool:
        """Whether rows that are not gold's may be what gold could have given as well."""
        if rows and self.rows and len(rows[0]) != len(self.rows[0]):
            return False
        if self.ranked is not None:
            return self._allowed_by_rank(rows, self.ranked)
        columns = self._columns
        if columns is None:
            return True
        if len(rows) != len(self.rows):
            return False
        fits = [[column.may_be(values) for column in columns] for values in zip(*rows, strict=True)]
        if len(fits) > _MAX_PERMUTED:
            return True
        return any(
            all(map(list.__getitem__, fits, order)) for order in itertools.permutations(range(len(fits)))
        )

    def _allowed_by_rank(self, rows: Rows, ranked: Rows) -> bool:
        ties = [row[0] for row in ranked[self._offset :][: len(rows)]]
        if len(rows) != len(self.rows) or len(ties) < len(rows):
            return False
        among = [row for row in ranked if row[0] in set(ties)]
        try:
            return part_of(among, [(tie, *row) for tie, row in zip(ties, rows, strict=True)], fixed=1)
        except Undecided:
            return True

    @cached_property
    def _columns(self) -> list[_Column] | None:
        """What is known of the columns of a SELECT whose bare columns alone are open; None of another one."""
        query, whole = self.query, self.whole
        if query is None or not isinstance(whole, exp.Select):
            return None
        if whole.args.get("distinct") or whole.find(exp.Window):
            return None
        if CHANCE.search(to_sql(whole)):
            return None
        nested = [q for q in whole.find_all(exp.Query) if q is not whole]
        if any(q.args.get("limit") or q.args.get("group") for q in nested):
            return None
        having = whole.args.get("having")
        keys = {to_sql(key).lower() for key in group_keys(whole)}
        if any(e.is_star for e in whole.selects) or (having is not None and not _is_settled(having, keys)):
            return None
        rows = whole.copy()
        for clause in ("group", "having"):
            rows.set(clause, None)
        found = []
        for i, shown in enumerate(whole.selects):
            settled = _is_settled(shown.unalias(), keys)
            if settled and not query.args.get("limit"):
                found.append(_Column([row[i] for row in self.rows], certain=True))
            elif shown.find(exp.AggFunc):
                found.append(_Column(None))
            else:
                rows.set("expressions", [shown.unalias().copy()])
                try:
                    found.append(_Column([row[0] for row in self.database.execute(to_sql(rows))]))
                except SQLError:
                    found.append(_Column(None))
        return found


def _plain(written: exp.Query, gold: Suite, schema: Schema) -> exp.Query | None:
    """Gold without its CTEs and derived tables, where it is still gold: by its rows on the database (or by
    what ties with them, for two forms of gold may break ties in two ways) and on all variants. Where it is
    not, derived tables stay; of gold in CTEs there is then no such form."""
    with_ctes = written.find(exp.CTE) is not None
    derived = any(isinstance(s.parent, (exp.From, exp.Join)) for s in written.find_all(exp.Subquery))
    if not (with_ctes or derived):
        return written
    plain = inlined(written, schema)
    if isinstance(plain, exp.Query):
        verdict = gold.verdict(to_sql(plain))
        tied = verdict.equal is False and verdict.on == "database"
        if tied and Choices(gold.database, plain, gold.gold).counted:
            verdict = gold.verdict_on_variants(to_sql(plain))
        if verdict.equal:
            return plain
    return None if with_ctes else written


def _is_settled(node: exp.Expr, keys: set[str]) -> bool:
    """Whether all columns of a part of a grouped SELECT are keys, or inside aggregates."""
    return all(
        column.find_ancestor(exp.AggFunc, exp.Filter)
        or to_sql(column).lower() in keys
        or to_sql(node).lower() in keys
        for column in node.find_all(exp.Column)
    )


@dataclass(frozen=True)
class _Column:
    """The values that a column has (`certain`), or may have; None: any."""

    values: list[Any] | None
    certain: bool = False

    def may_be(self, values: tuple[Any, ...]) -> bool:
        if self.values is None:
            return True
        mine, others = (self.values, values) if self.certain else (set(self.values), set(values))
        return part_of([(value,) for value in mine], [(value,) for value in others])
