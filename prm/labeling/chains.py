"""Right and wrong chains of one question, out of its decomposed gold query.

The right chains are gold's own decomposition and rewrites of it that give the same result
(`prm.sql.rewrite`). Each wrong chain is one of them with an error in one step (`prm.sql.mutate`), and often
a second one in a later step, kept only if its result differs from gold's, or if it is of a kind that the
database refuses.

Equal by accident is not equal: a right chain gives gold's result on the database and on variants of it
(`Ground`, `prm.sql.variants`), and a wrong one may differ on a variant only, which it then names.

What would give a wrong chain away without reading the question is kept out. Right and wrong steps come from
the same renderer and have names by the same rules. Each step of a chain makes the same share of the chains
wrong that were right before it, so that its position says nothing. And right chains are rewritten with what
errors bring in, too: NOT, CAST, DISTINCT, needless joins, conditions and orders, CASE, windows.

Which error a step gets is drawn from what the step allows, weighed so that the errors of a whole file come
out about as often as in real wrong answers (`errors="natural"`), or about equally often ("uniform"), as far
as the queries allow it: few have a CASE to get wrong. Natural is the default: a PRM should know the errors
that policies make, and rare kinds (a needless LOWER, a window) are those that words give away most easily.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from prm.sql.chain import Known, Link
from prm.sql.compare import Undecided, results_equal
from prm.sql.database import Rows, SQLError
from prm.sql.decompose import assemble, render_fragment
from prm.sql.describe import describe
from prm.sql.mutate import CATEGORIES, FAILING, chain_variants
from prm.sql.rewrite import alternatives

#: Errors that are nothing but an order of rows; for all others an order of tied rows that differs proves
#: nothing.
_ABOUT_ORDER = frozenset({"order_direction", "order_key", "order_missing"})
_ABOUT_LIMIT = frozenset({"limit", "limit_missing", "limit_extra"})
#: Errors that bring in what rewrites bring in, or that would strike it. Were rewritten chains made wrong by
#: them as often as gold's own, those words would stand in more wrong steps than right ones.
_LIKE_REWRITES = frozenset(
    {
        "aggregate", "conditional", "conversion", "condition_extra", "date_time", "distinct", "group_extra",
        "group_key", "join_extra", "join_kind", "limit_extra", "negation", "order_key", "rounding",
        "string_function", "window",
    }
)  # fmt: skip
_OF_GOLD = 0.9  # how much of their weight falls on gold's own chain, where there is another right one
_TRIES = 8  # statements run for each chain wanted
_CHOICE = 4  # wrong chains from which a hard negative is chosen
_AGAIN = 0.5  # what one use of a kind of error leaves of its weight, for this question


@dataclass(frozen=True)
class Ground:
    """Where chains are set against gold: the database itself, or a variant of it (`source` is then its name).

    `gold` are gold's rows there, `ordered`: in an order that counts; `run` gives the rows of a chain's
    fragments put together, or SQLError. The first ground of a question is the database itself.
    """

    source: str  # the `label_source` of what is seen there
    gold: Rows
    ordered: bool
    run: Callable[[Sequence[str]], Rows]


@dataclass(frozen=True)
class Chain:
    """`written`: sentence and fragment of each step. A wrong chain has `errors` (step -> category) and the
    index of the right chain (`parent`) that it equals before the first of them; `source` is the ground on
    which it differs from gold."""

    links: list[Link]
    written: list[tuple[str, str]]
    errors: dict[int, str] = field(default_factory=dict)
    parent: int | None = None
    source: str = "execution"

    @property
    def first_error(self) -> int:
        return min(self.errors, default=-1)

    @property
    def fragments(self) -> tuple[str, ...]:
        return tuple(fragment for _, fragment in self.written)

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(sentence for sentence, _ in self.written)

    @property
    def sql(self) -> str:
        return assemble(self.fragments)


def written(links: list[Link]) -> Chain:
    """The chain with its sentences and fragments: right and wrong ones come from here."""
    return Chain(links, [_text(link) for link in links])


def _text(link: Link) -> tuple[str, str]:
    return describe(link.tree, link.name or None), render_fragment(link.name, link.tree)


def same_answer(gold: Rows, rows: Rows, *, ordered: bool, errors: Collection[str] = ()) -> bool:
    """Whether `rows` count as gold's answer: when `prm build` labels, and when `prm inspect` checks it.

    Where gold orders (`ordered`), order counts, ties included: a right answer shows gold's very rows. But an
    answer with `errors` of which none is about order is not proved wrong by an order that gold's ORDER BY may
    leave open.
    """
    if errors and all(error in CATEGORIES and error not in _ABOUT_ORDER for error in errors):
        ordered = False
    return results_equal(gold, rows, ordered=ordered)


# --- right ones ---------------------------------------------------------------------------------------------


def right_chains(
    first: Chain, grounds: Sequence[Ground], known: Known, rng: Random, *, n: int
) -> list[Chain]:
    """The decomposition `first` and up to `n` - 1 rewrites that are right, too."""
    found, seen, tries = [first], {first.sentences}, _TRIES * (n - 1)
    rewritten = alternatives(first.links, known, rng)
    while len(found) < n and tries > 0 and (links := next(rewritten, None)) is not None:
        tries -= 1
        chain = written(links)
        if chain.sentences not in seen and is_right(chain, grounds):
            seen.add(chain.sentences)
            found.append(chain)
    return found


def is_right(chain: Chain, grounds: Sequence[Ground]) -> bool:
    """Whether a chain without errors gives gold's result wherever it is tried: the one place that says so."""
    try:
        return all(same_answer(g.gold, g.run(chain.fragments), ordered=g.ordered) for g in grounds)
    except (SQLError, Undecided):
        return False


# --- wrong ones ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Which wrong chains are wanted: `kind` is "natural" or "uniform"; `most` errors at most in one chain;
    `hard` prefers results close to gold's."""

    kind: str = "natural"
    most: int = 2
    hard: bool = False

    @property
    def weights(self) -> dict[str, float]:
        """Kind of error -> how likely it is drawn where it is possible."""
        wanted = FREQUENCIES if self.kind == "natural" else dict.fromkeys(CATEGORIES, 1.0)
        return {name: wanted[name] / max(REACH[name], _RARE) for name in CATEGORIES}

    @property
    def failing(self) -> float:
        """The share of errors that do not run."""
        wanted = FREQUENCIES if self.kind == "natural" else dict.fromkeys(CATEGORIES, 1.0)
        return sum(wanted[name] for name in FAILING) / sum(wanted.values())


def wrong_chains(
    rights: list[Chain], grounds: Sequence[Ground], known: Known, rng: Random, *, n: int, errors: Errors
) -> Iterator[Chain]:
    """Up to `n` wrong chains, made from the right ones in turn."""
    mill = Mill(rights, grounds, known, rng, errors)
    parents = list(range(len(rights)))
    mill.tries = _TRIES * n * (_CHOICE if errors.hard else 1)
    mill.share_right = len(rights) / (len(rights) + n)
    while parents and n > 0:
        parent = rng.choice(parents)
        chain = mill.wrong(parent)
        if chain is None:
            parents.remove(parent)
        else:
            yield chain
            n -= 1


class Mill:
    """Makes wrong chains of one question; remembers what has been tried."""

    def __init__(
        self, rights: list[Chain], grounds: Sequence[Ground], known: Known, rng: Random, errors: Errors
    ) -> None:
        self.rights, self.grounds, self.known, self.rng = rights, grounds, known, rng
        self.errors, self.weights = errors, errors.weights
        self.tries = 0
        self.share_right = 0.5  # of the question's chains
        self.used: Counter[str] = Counter()
        self.seen = {right.sentences for right in rights}
        self.right_beginnings = {
            right.sentences[: i + 1] for right in rights for i in range(len(right.links))
        }
        self.steps = [list(range(len(right.links))) for right in rights]  # where errors are possible
        self.variants: dict[tuple[int, int, str], Iterator[list[Link]]] = {}

    def wrong(self, parent: int) -> Chain | None:
        """A wrong chain made from one of the right ones; None when nothing new can be made of it.

        Of the chains that are right so far, each step makes the same share wrong; a step where no error
        changes the result drops out.
        """
        steps = self.steps[parent]
        still_right = self.share_right ** (1 / len(self.rights[parent].links))
        while steps and self.tries > 0:
            at = self.rng.choices(steps, [still_right**i for i in steps])[0]
            found = self._at(parent, at)
            if found is not None:
                self.used.update(found.errors.values())
                self.seen.add(found.sentences)
                return found
            steps.remove(at)
        return None

    def _at(self, parent: int, at: int) -> Chain | None:
        found = []
        for category in self._drawn(failing=None, parent=parent):
            made = self.next(parent, at, category)
            if made is not None:
                found.append((made.closeness if self.errors.hard else 0.0, made.chain))
            if self.tries <= 0 or len(found) >= (_CHOICE if self.errors.hard else 1):
                break
        if not found:
            return None
        best = max(found, key=lambda item: item[0])[1]
        return self._with_more(best)

    def next(self, parent: int, at: int, category: str) -> Wrong | None:
        """The next wrong chain by one kind of error in one step of a right chain."""
        right, key = self.rights[parent], (parent, at, category)
        if key not in self.variants:
            self.variants[key] = chain_variants(category, right.links, at, self.known, self.rng)
        for links in self.variants[key]:
            chain = self._changed(right, parent, links, {at: category})
            if chain is None:
                continue
            self.tries -= 1
            wrong = self._proved(chain, category)
            if wrong is not None:
                return wrong
            if self.tries <= 0:
                break
        return None

    def _drawn(self, failing: bool | None, parent: int | None = None) -> list[str]:
        """The kinds of errors in a random order by weight, for a right chain (`parent`) by what suits it;
        with `failing=None` chance decides whether those that do not run come first or not at all."""
        weights = {name: self.weights[name] * _AGAIN ** self.used[name] for name in CATEGORIES}
        if parent is not None and len(self.rights) > 1:
            share = _OF_GOLD if parent == 0 else 1 - _OF_GOLD
            weights |= {name: 2 * share * weights[name] for name in _LIKE_REWRITES}
        if failing is None:
            failing = self.rng.random() < self.errors.failing and not self.errors.hard
        late = {name: self.rng.expovariate(weight) for name, weight in weights.items()}
        names = [name for name in CATEGORIES if failing or name not in FAILING]
        return sorted(names, key=lambda name: (failing and name not in FAILING, late[name]))

    def _changed(self, base: Chain, parent: int, links: list[Link], errors: dict[int, str]) -> Chain | None:
        """The chain of `links`, equal to `base` before its last error; None if it has been made before, or
        reads there like a right one."""
        at = max(errors)  # a chain that ends early has fewer steps, never more
        pairs = zip(links, base.links, base.written, strict=False)
        texts = [text if link is was else _text(link) for link, was, text in pairs]
        chain = Chain(links, texts, errors, parent)
        changed = at < len(base.written) and texts[at][0] != base.written[at][0]
        if not changed or chain.sentences in self.seen:
            return None
        return None if chain.sentences[: at + 1] in self.right_beginnings else chain

    def _proved(self, chain: Chain, category: str) -> Wrong | None:
        """The changed chain with the first ground on which its result differs from gold's for certain (it
        has none where its error is of a kind that does not run); None where it does not differ, or only by
        chance."""
        if category in FAILING:
            try:
                self.grounds[0].run(chain.fragments)
            except SQLError as error:
                return Wrong(chain, self.grounds[0], Rows()) if error.kind == "error" else None
            return None
        for ground in self.grounds:
            try:
                rows = ground.run(chain.fragments)
                same = same_answer(ground.gold, rows, ordered=ground.ordered, errors=chain.errors.values())
                if not same and not self._by_ties(chain, category, ground):
                    return Wrong(replace(chain, source=ground.source), ground, rows)
            except (SQLError, Undecided):
                if ground is self.grounds[0]:  # it should run
                    return None
        return None

    def _by_ties(self, chain: Chain, category: str, ground: Ground) -> bool:
        """Whether a result differs only in which rows LIMIT keeps: of several that tie, that is chance."""
        assert chain.parent is not None  # it is a wrong one
        both = (chain.links, self.rights[chain.parent].links)
        limited = all(links[-1].tree.args.get("limit") for links in both)
        if category in _ABOUT_ORDER | _ABOUT_LIMIT or not limited:
            return False
        return results_equal(*(ground.run(_unlimited(links)) for links in both), ordered=False)

    def _with_more(self, chain: Chain) -> Chain:
        """The wrong chain with further errors in later steps, as many as real wrong answers have."""
        wanted = self.rng.choices(list(ERRORS_PER_ANSWER), list(ERRORS_PER_ANSWER.values()))[0]
        wanted = min(wanted, self.errors.most)
        later = list(range(chain.first_error + 1, len(chain.links)))
        self.rng.shuffle(later)
        if chain.errors[chain.first_error] in FAILING:
            return chain  # whether a second error changes anything could not be seen
        for at in sorted(later[: wanted - 1]):
            chain = self._one_more(chain, at) or chain
        return chain

    def _one_more(self, chain: Chain, at: int) -> Chain | None:
        """The wrong chain with an error in step `at`, too: with a result unlike gold's and unlike its own."""
        assert chain.parent is not None
        for category in self._drawn(failing=False)[:_TRIES]:
            links = next(chain_variants(category, chain.links, at, self.known, self.rng), None)
            if links is None:
                continue
            more = self._changed(chain, chain.parent, links, chain.errors | {at: category})
            wrong = self._proved(more, category) if more is not None else None
            if wrong is None:
                continue
            try:
                own = wrong.ground.run(chain.fragments)
            except SQLError:
                continue
            if not results_equal(own, wrong.rows, ordered=wrong.ground.ordered):
                return wrong.chain
        return None


def _unlimited(links: list[Link]) -> list[str]:
    last = links[-1].tree.copy()
    last.set("limit", None)
    last.set("offset", None)
    fragments = [render_fragment(link.name, link.tree) for link in links[:-1]]
    return [*fragments, render_fragment("", last)]


@dataclass(frozen=True)
class Wrong:
    """A wrong chain, the ground on which it differs from gold, and its rows there."""

    chain: Chain
    ground: Ground
    rows: Rows

    @property
    def closeness(self) -> float:
        return closeness(self.ground.gold, self.rows)


def closeness(gold: Rows, rows: Rows) -> float:
    """How close a result is to gold's, from 0 to 1: the F1 of its cells as a multiset (a cell is its value
    wherever it stands), so that a row or a column too many costs little and a wrong number in one cell
    much."""
    a, b = (Counter(cell for row in result for cell in row) for result in (gold, rows))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 0.0


# --- how often real answers go wrong how --------------------------------------------------------------------

#: Kind of error -> per cent of all errors, from benchmarks/error_frequencies.py: the subtypes as people
#: annotated them 1,079 times in 574 wrong answers of models to BIRD's questions (NL2SQL-BUGs, Liu et al.
#: 2025); within a subtype, and for SQL that does not run (8.3 %), 1,147 wrong answers of 14 published systems
#: to Spider's dev questions.
FREQUENCIES: dict[str, float] = {
    "column": 9.68, "order_key": 3.02, "group_key": 5.48, "unknown_column": 6.21, "ambiguous_column": 0.17,
    "missing_column": 3.15, "extra_column": 2.38, "table": 4.93, "unknown_table": 0.66,
    "join_missing": 3.06, "join_extra": 6.29, "join_key": 3.49, "join_kind": 0.26, "value": 8.15,
    "like_pattern": 2.84, "limit": 0.23, "data_format": 0.68, "comparison": 0.60, "logic": 0.28,
    "negation": 0.32, "condition_column": 3.04, "having": 1.04, "condition_missing": 5.61,
    "condition_extra": 1.70, "implicit_condition_missing": 1.70, "aggregate": 3.66,
    "aggregate_misuse": 1.16, "conditional": 1.53, "conversion": 0.60, "date_time": 1.02,
    "unknown_function": 0.08, "arithmetic": 0.45, "rounding": 0.23, "string_function": 0.85, "window": 0.26,
    "group_missing": 0.34, "order_missing": 1.77, "limit_missing": 1.71, "group_extra": 1.65,
    "limit_extra": 0.13, "subquery": 0.43, "subquery_missing": 2.21, "partial_query": 0.26,
    "order_direction": 0.60, "distinct": 4.00, "set_operation": 2.13,
}  # fmt: skip

#: Kind of error -> share of the steps (of Spider's train questions) in which it makes a wrong chain, by the
#: same benchmark. Nearly every step can show another column, few have a LIMIT: what is drawn for a step is
#: weighed by the inverse, so that the errors of a file come out about as often as they should.
REACH: dict[str, float] = {
    "column": 0.62, "order_key": 0.10, "group_key": 0.07, "unknown_column": 0.96, "ambiguous_column": 0.21,
    "missing_column": 0.16, "extra_column": 0.35, "table": 0.51, "unknown_table": 1.00,
    "join_missing": 0.04, "join_extra": 0.34, "join_key": 0.19, "join_kind": 0.03, "value": 0.23,
    "like_pattern": 0.01, "limit": 0.07, "data_format": 0.23, "comparison": 0.14, "logic": 0.03,
    "negation": 0.04, "condition_column": 0.13, "having": 0.00, "condition_missing": 0.08,
    "condition_extra": 0.50, "implicit_condition_missing": 0.00, "aggregate": 0.10,
    "aggregate_misuse": 0.17, "conditional": 0.00, "conversion": 0.09, "date_time": 0.05,
    "unknown_function": 0.06, "arithmetic": 0.00, "rounding": 0.03, "string_function": 0.57, "window": 0.08,
    "group_missing": 0.11, "order_missing": 0.07, "limit_missing": 0.07, "group_extra": 0.12,
    "limit_extra": 0.05, "subquery": 0.03, "subquery_missing": 0.02, "partial_query": 0.43,
    "order_direction": 0.11, "distinct": 0.05, "set_operation": 0.03,
}  # fmt: skip
_RARE = 0.02  # kinds that are possible still more rarely are weighed like these

#: Errors in one wrong answer -> answers, by the same annotations.
ERRORS_PER_ANSWER: dict[int, int] = {1: 210, 2: 250, 3: 89, 4: 23, 5: 2}
