"""Gold as what is asked of: who gives its result, on the database and on variants of it.

That two results are equal is claimed in one place only, `Gold.same`. Where gold leaves its rows to chance
(`prm.labeling.choices`), another choice is neither gold's result (`reached`) nor one that gold excludes
(`excludes`). Gold that is written in CTEs or derived tables is first said in plain SELECTs
(`prm.sql.inline`), where it then is still gold by execution. What stays a derived table takes a step in its
own SELECT only.
"""

from __future__ import annotations

import os
from functools import cached_property, partial

from sqlglot import exp

from prm.labeling.choices import Choices
from prm.labeling.holdings import tables_held
from prm.sql.compare import Undecided, results_equal
from prm.sql.database import Database, Rows, SQLError, open_steadily
from prm.sql.decompose import to_sql
from prm.sql.schema import Schema
from prm.sql.tables import quote
from prm.sql.variants import Suite, Verdict, neighbours

Tree = exp.Expr


class Gold:
    """Gold on one database and on variants of it: its rows, its SELECTs, and who gives the same.

    A context manager, or to be closed; variants are written to `folder`. `database` stays the caller's.
    """

    def __init__(
        self,
        sql: str,
        database: Database,
        schema: Schema,
        folder: str | os.PathLike[str],
        timeout: float = 5.0,
    ) -> None:
        """Raises: SQLError if gold does not run."""
        self.database, self.schema = database, schema
        # Variants are read by the worker that the database has: to start one for each would cost most.
        opener = partial(open_steadily, timeout=timeout, pool=database.pool)
        self.suite = Suite(database, sql, folder=folder, opener=opener)
        self.rows, self.ordered = self.suite.gold, self.suite.ordered
        if self.rows:
            self.suite.distil(neighbours(sql, database.path))
        self.known = tables_held(schema)
        self._unique: dict[tuple[str, str], bool] = {}
        self.choices = Choices.of(self.suite, schema)
        #: Gold in plain SELECTs; None where it is not understood, or has no rows.
        self.plain = self.choices.plain if self.rows else None

    @property
    def tree(self) -> exp.Query:
        """`plain`, for those who know that it is there."""
        assert self.plain is not None
        return self.plain

    def same(self, sql: str) -> Verdict:
        """Whether a statement gives gold's result on the database and on all variants, and where it does not:
        the one place where anything is claimed to be equal to gold."""
        return self.suite.verdict(sql)

    def reached(self, tree: Tree, prefix: str) -> bool | None:
        """Whether a completed statement gives gold's result, None if it does not run.

        It also does where it takes others of several rows that tie, if without LIMIT it gives the same rows
        as gold, on the database and on all variants, and with LIMIT still gold's result on the variants,
        which are made without such ties.
        """
        sql = with_prefix(prefix, tree)
        verdict = self.same(sql)
        if verdict.equal is not False or verdict.on != "database":
            return verdict.equal
        unlimited, gold_unlimited = _without_limit(tree), _without_limit(self.plain)
        if unlimited is None or gold_unlimited is None:
            return False
        if self.choices.ranked is None or not self.suite.variants:
            return False
        mine, golds = with_prefix(prefix, unlimited), to_sql(gold_unlimited)
        places = [self.database, *(opened for _, opened in self.suite.opened)]
        try:
            alike = all(equal_rows(place.execute(golds), place.execute(mine)) for place in places)
        except SQLError:
            return False
        return alike and bool(self.suite.verdict_on_variants(sql).equal)

    def excludes(self, sql: str) -> bool | None:
        """Whether a statement gives what gold cannot have given, None if it does not run. What may be another
        choice among those that gold leaves open is not excluded, if it is none on the variants either."""
        verdict = self.same(sql)
        if verdict.equal is False and verdict.on == "database":
            try:
                if not self.choices.allow(self.database.execute(sql)):
                    return True
            except SQLError:
                return None
            return self.suite.verdict_on_variants(sql).equal is False
        return None if verdict.equal is None else not verdict.equal

    def __enter__(self) -> Gold:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the variants' workers and delete their files."""
        self.suite.close()

    @cached_property
    def cuts_ties(self) -> bool:
        """Whether a LIMIT of gold keeps some of several rows that tie, or may do so."""
        nested = any(q.args.get("limit") for q in self.tree.find_all(exp.Query) if q is not self.tree)
        return nested or self.choices.cuts_ties

    def unique(self, table: str, column: str) -> bool:
        """Whether the values of a column tell the rows of its table apart, or (of a derived table, whose name
        is "") may do so."""
        if not table:
            return True
        if (table, column) not in self._unique:
            t, c = quote(table), quote(column)
            try:
                rows: Rows = self.database.execute(
                    f"SELECT COUNT(*) = COUNT(DISTINCT {c}) AND COUNT(*) > 0 FROM {t}"
                )
                self._unique[table, column] = bool(rows[0][0])
            except SQLError:
                self._unique[table, column] = True  # nothing is called lost that is not known to be
        return self._unique[table, column]


def with_prefix(prefix: str, tree: Tree) -> str:
    """A statement behind the steps that it reads."""
    return f"{prefix}\n{to_sql(tree)}"


def _without_limit(tree: Tree | None) -> Tree | None:
    if not isinstance(tree, exp.Select) or tree.args.get("limit") is None:
        return None
    tree = tree.copy()
    tree.set("limit", None)
    tree.set("offset", None)
    return tree


def equal_rows(rows: Rows, others: Rows) -> bool:
    """Whether two results have the same rows for certain, in whatever order."""
    try:
        return results_equal(rows, others, ordered=False)
    except Undecided:
        return False
