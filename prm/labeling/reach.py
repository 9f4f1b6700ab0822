"""Can gold still be reached from here? One step of a wrong answer, judged by running SQL.

**What it means.** A step S of an answer is *fine* if there is a rest, built of gold's own operations, that
reads S in the place of what S stands for and gives gold's result. A rest that reads the base tables anew
beside S would complete anything, even nonsense, and is no evidence; so S has to take over at least one of
gold's tables, and the tables that it takes over are not read again (except by primary key, to fetch columns
for the output). With the steps that S itself reads, a fine S shows that all of them are fine.

**Completed.** With S in the place of tables of one SELECT of gold, and gold's operations behind it
(`prm.labeling.grafts`), the whole gives gold's result on the database and on all its variants.

**Matched.** S gives what a subquery or an arm of gold gives, and gold with S in its place is still gold.

**Lost.** That no completion was found proves nothing. S is called wrong only where it has lost what gold
needs (`prm.labeling.lost`), in whichever SELECT of gold, for whichever of its tables S may stand.

A step that a later one subtracts (NOT IN, EXCEPT, LEFT JOIN) may rightly hold what gold does not, and is
called lost only in comparison with what gold itself subtracts.

Where gold leaves its rows to chance (`prm.labeling.choices`), another choice is not lost, and not yet gold.

Everything else is unknown. That two results are equal is claimed in one place only, `Gold.same`.
"""

from __future__ import annotations

import re

from sqlglot import exp

from prm.labeling.blocks import Block, covers_of, usable_blocks
from prm.labeling.gold import Gold, with_prefix
from prm.labeling.grafts import Impossible, graft, matches, superlative
from prm.labeling.holdings import Holding
from prm.labeling.lost import columns_lost, is_read_elsewhere, other_scalar, other_values, rows_kept

MAX_GRAFTS = 48  # ways to put one step into gold that are tried


def judge(gold: Gold, prefix: str, held: Holding | None, *, subtracted: bool, beside: bool) -> str:
    """Give "completed", "matched", "lost" or "unknown" for the last step of `prefix` (`WITH …, name AS (…)`).

    `subtracted`: a later step uses it for what it does not want; `beside`: it is a single value, and another
    step is one, too. Two counts may be those of two parts, to be added up.
    """
    if gold.plain is None or held is None or held.name.lower() in gold.known or not held.columns:
        return "unknown"
    blocks = [(i, Block(gold, i)) for i in usable_blocks(gold)]
    alike = [i for i, block in blocks if is_subtracted(block.select)]
    if any(held.name.lower() in block.aliases for _, block in blocks):
        return "unknown"
    covers = [(i, cover) for i, block in blocks for cover in covers_of(block, held, alone=True)][:MAX_GRAFTS]
    fitted: list[tuple[int, dict[str, str]]] = []  # those whose graft runs, and gives something else
    for i, cover in covers:
        for distinct in (False, True):
            try:
                tree, _ = graft(gold, i, cover, held, distinct)
            except Impossible:
                continue
            reached = gold.reached(tree, prefix)
            if reached:
                return "completed"
            if not distinct and reached is not None:
                fitted.append((i, cover))
    if held.scalar:
        for i, _ in blocks:
            whole = superlative(gold, i, held)
            if whole is not None and gold.same(with_prefix(prefix, whole)).equal:
                return "completed"
    for tree in matches(gold, prefix, held):
        if gold.same(with_prefix(prefix, tree)).equal:
            return "matched"
    covers = [(i, cover) for i, block in blocks for cover in covers_of(block, held, alone=False)]
    if len(covers) > MAX_GRAFTS or (gold.cuts_ties and re.search(r"\bLIMIT\b", prefix, re.IGNORECASE)):
        return "unknown"
    if subtracted:
        covers = [(i, cover) for i, cover in covers if i in alike]
    if not covers or is_read_elsewhere(gold, {i for i, _ in blocks}, held):
        return "unknown"
    if held.scalar:
        return "lost" if not beside and other_scalar(gold, prefix, blocks, held) else "unknown"
    nested_limit = any(q.args.get("limit") for q in gold.tree.find_all(exp.Query) if q is not gold.tree)
    compared = False
    for i, cover in covers:
        kept = rows_kept(gold, prefix, i, cover, held)
        compared = compared or kept is not None
        if kept is False or (kept is None and not set(cover) & held.tables):
            continue
        if kept is None or not held.single or (nested_limit and (i, cover) in fitted):
            return "unknown"
        if held.aggregated:
            if not other_values(gold, prefix, i, cover, held):
                return "unknown"
        elif not columns_lost(gold, prefix, i, cover, held):
            return "unknown"
    return "lost" if compared else "unknown"


def is_subtracted(node: exp.Expr) -> bool:
    """Whether a query uses a part of it for what it does not want: NOT IN, EXCEPT, an outer join …"""
    while node.parent is not None:
        parent = node.parent
        if isinstance(parent, exp.Except) and parent.expression is node:
            return True
        if isinstance(parent, exp.Join) and (parent.side or parent.method):
            return True
        if isinstance(parent, exp.From):
            select = parent.parent
            if select is not None and any(join.side for join in select.args.get("joins") or []):
                return True
        if isinstance(parent, (exp.Not, exp.NEQ, exp.Case, exp.If)):
            return True
        node = parent
    return False
