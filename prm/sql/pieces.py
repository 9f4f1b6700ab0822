"""An answer as a chain of pieces: one that is given as SQL is cut into steps, one that is given as steps
stays as its author cut it. `prm label` judges the pieces, `prm rerank` scores them: both must cut alike.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from prm.sql.chain import Known, Link, respelled
from prm.sql.compare import Undecided, results_equal
from prm.sql.database import Database, Rows, SQLError
from prm.sql.decompose import DecomposeError, assemble, decompose, parse_fragment, render_fragment
from prm.sql.describe import describe

MAX_DECOMPOSED = 20_000  # characters; parsing longer statements takes minutes


@dataclass(frozen=True)
class Piece:
    """One step of an answer: `sql` is its fragment, None where it is prose alone; `tree` None where the
    fragment cannot be parsed."""

    text: str
    sql: str | None
    name: str = ""
    tree: exp.Expr | None = None


_FRAGMENT = re.compile(
    r"""(?:\bWITH\s+(?:RECURSIVE\s+)?)?(?P<cte>(?:"[^"]+"|\w+)\s+AS\s*\(\s*(?:SELECT|WITH|VALUES)\b)
    |(?:^|\n|:\s|```(?:sql)?\s)\s*(?P<select>SELECT\b)""",
    re.IGNORECASE | re.VERBOSE,
)


def pieces_of_steps(steps: Sequence[dict[str, Any]]) -> list[Piece]:
    """An answer as its author cut it: a step's SQL is its `sql`, or what looks like it at the end of its
    text."""
    pieces = []
    for step in steps:
        sql = step["sql"]
        if sql is None:
            found = _FRAGMENT.search(step["text"])
            if found:
                sql = step["text"][found.start() if found["cte"] else found.start("select") :]
        if sql is None or not sql.strip():
            pieces.append(Piece(step["text"], None))
            continue
        sql = re.sub(r"[\s,;`]+\Z", "", sql)
        bare = re.sub(r"\A\s*WITH\s+(?:RECURSIVE\s+)?(?=(?:\"[^\"]+\"|\w+)\s+AS\s*\()", "", sql, flags=re.I)
        if bare != sql and not _is_query(sql):
            sql = bare  # the first CTE of a chain, written with its WITH
        named = re.match(r'\s*("(?:[^"]|"")+"|\w+)\s+AS\s*\(', sql, re.IGNORECASE)
        name, tree = named[1] if named else "", None
        if len(sql) <= MAX_DECOMPOSED:
            with contextlib.suppress(DecomposeError, RecursionError):
                name, tree = parse_fragment(sql)
        pieces.append(Piece(step["text"], sql, name, tree))
    return pieces


def statement_of(pieces: Sequence[Piece]) -> str | None:
    """The SQL of all pieces as one statement; None where they are no chain: CTEs, then one final SELECT."""
    fragments = [piece.sql for piece in pieces if piece.sql is not None]
    *before, last = [piece.name for piece in pieces if piece.sql is not None] or ["no SQL"]
    if last or not all(before) or (before and re.match(r"\s*WITH\b", fragments[-1], re.IGNORECASE)):
        return None
    return assemble(fragments)


def _is_query(sql: str) -> bool:
    """Whether a text is a statement on its own."""
    try:
        return len(sql) <= MAX_DECOMPOSED and not parse_fragment(sql)[0]
    except (DecomposeError, RecursionError):
        return False


def pieces_of_sql(
    sql: str,
    rows: Rows | None,
    database: Database,
    columns: Mapping[str, Sequence[str]],
    known: Known,
    *,
    ordered: bool,
) -> list[Piece]:
    """SQL cut into steps, if they run on `database` and give its `rows`; else the statement as the only step.

    Args:
        rows: None where it does not run, and its steps shall tell where.
        columns: of every table, for stars.
        known: how the schema spells its names.
        ordered: whether the order of the rows counts.
    """
    whole = [Piece(sql.strip(), sql.strip())]
    try:
        links = _links(sql, columns)
        spelled = links if rows is None else respelled(links, known)
    except (DecomposeError, RecursionError):
        return whole
    for chain in (spelled, links):
        fragments = [render_fragment(link.name, link.tree) for link in chain]
        try:
            there = database.execute(assemble(fragments))
            same = rows is not None and results_equal(rows, there, ordered=ordered)
        except SQLError:
            same = rows is None
        except Undecided:
            same = False
        if same:
            return [_piece(link, sql) for link, sql in zip(chain, fragments, strict=True)]
    return whole


def pieces_unchecked(sql: str) -> list[Piece]:
    """SQL cut into steps where there is no database that could tell whether they give its result."""
    try:
        return [_piece(link, render_fragment(link.name, link.tree)) for link in _links(sql, None)]
    except (DecomposeError, RecursionError):
        return [Piece(sql.strip(), sql.strip())]


def _links(sql: str, columns: Mapping[str, Sequence[str]] | None) -> list[Link]:
    if len(sql) > MAX_DECOMPOSED:
        raise DecomposeError("the statement is too long to be cut into steps")
    return [Link(*parse_fragment(step.sql)) for step in decompose(sql, columns)]


def _piece(link: Link, fragment: str) -> Piece:
    return Piece(f"{describe(link.tree, link.name or None)}\n{fragment}", fragment, link.name, link.tree)
