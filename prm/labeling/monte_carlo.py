"""Step labels by trying: how often does a policy reach gold's result from here?

For every prefix of an answer, `rollouts` continuations are sampled from a policy, run on the database and
compared with gold's result. A *hard* label is 1 where any of them is right (Wang et al. 2024, Math-Shepherd),
a *soft* one is the share of right ones. The whole answer needs no rollouts: its last label is what its own
SQL gives.

A result that equals gold's on the database may do so by accident. So the first one of a question has a few
variants of the database made (`prm.sql.variants`, one of each kind in `FEW`, some 5 to 20 ms a question), and
what differs from gold on one of them is wrong. Where an answer's own last label rests on that, its
`label_source` is `monte-carlo:` and the variant's name, so that `prm inspect --databases` can ask it again.
And one that differs from gold's may be right all the same, where gold leaves it to chance
(`prm.labeling.choices`): such a rollout says nothing of its prefix, and such an answer is left out.

What the numbers say of each other is used, so that no label contradicts another:
- a prefix from which a longer prefix of the same answer goes on to a right end can reach it, too. So where
  any later prefix (or the answer itself) was right, a hard label is 1, and a share of 0 becomes
  1 / (rollouts + 1);
- a prefix that two answers share is tried once.

`search="steps"` tries every prefix: steps - 1 times `rollouts` continuations a wrong answer.
`search="binary"` looks for the first error by halving (OmegaPRM, Luo et al. 2024), which takes log2(steps):
it trusts that no prefix behind a bad one is good. It first asks whether the policy can solve the question at
all; where it cannot, its failing from a prefix says nothing of the prefix, and all labels but the last are
null. Null is also what a spent budget leaves.

Labels say what this policy can finish, not what can be finished: a weak policy calls right steps wrong, a
strong one mends small errors. The closing statistics count the questions that the policy never solved.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from prm import __version__
from prm.errors import InputError
from prm.inference.policies import (
    FORMS,
    PROMPT_FORM_VERSION,
    Answered,
    Completion,
    Policy,
    Request,
    StartsOver,
    answer_prompt,
    answer_steps,
    continued,
    form_of,
    prefix_text,
)
from prm.jobs.journal import Journal
from prm.jobs.progress import progress
from prm.labeling.asking import Answers, Record, digest, seed_of
from prm.labeling.cards import rollout_card, write_labelled, write_statistics
from prm.labeling.choices import OPEN, Choices, left_open
from prm.labeling.databases import GOLD_FAULTS, UNDECIDED, gold_fault
from prm.sql.database import DatabasePool, SQLError, check_reachable, open_steadily
from prm.sql.schema import read_schema, schema_text
from prm.sql.scratch import ScratchFolder
from prm.sql.variants import FEW, Suite
from prm.traces.answer import split_answer
from prm.traces.provenance import output_file, relabelled
from prm.traces.questions import Question, find_database
from prm.traces.trace import Label, Step, Trace

#: What becomes of a rollout. "variant" stands for the name of one, "variant:SEED:INDEX:DIGEST".
OUTCOMES = {
    "right": "right",
    "wrong": "another result than gold's",
    "variant": "gold's result, but another one on a variant of the database",
    "error": "SQL that does not run",
    "timeout": "SQL that outlives its time or its limits",
    "crashed": "SQL that ends the process that runs it",
    "no_answer": "no whole statement in the text",
    "starts_over": "the prefix was written anew",
    "undecided": "gold's result, but not compared on all variants of the database",
    "tied": "another choice, it may be, among rows that gold leaves to chance",
    "typed": "gold's result but for whether numbers are text",
}
#: Outcomes that say nothing of the prefix, and are not counted among its rollouts.
_SAY_NOTHING = ("starts_over", "undecided", "crashed", *OPEN)
#: Why an answer gives no trace.
SKIPPED = GOLD_FAULTS | {
    "no_sql": "the answer holds no SQL that could be run",
    "undecided": UNDECIDED,
    "crashed": "the answer ends the process that runs it",
    **OPEN,
}


@dataclass(frozen=True)
class Plan:
    """How prefixes are tried and labelled; see the module docstring.

    `max_rollouts` bounds the continuations for one question (all its answers together); `samples` is the
    number of answers that the policy writes where none are given; `per_request` how many samples one request
    asks for.
    """

    rollouts: int = 8
    label: str = "hard"
    search: str = "steps"
    max_rollouts: int | None = None
    samples: int = 4
    per_request: int = 1
    form: str = "sentences"
    seed: int = 0
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if self.label not in ("hard", "soft") or self.search not in ("steps", "binary"):
            raise InputError("labels are hard or soft, the search goes by steps or is binary")
        if self.label == "soft" and self.search == "binary":
            raise InputError(
                "a binary search finds the first error, not shares: --label soft needs --search steps"
            )
        if self.form not in FORMS:
            raise InputError(f"--form must be one of {', '.join(FORMS)}")
        if not self.timeout > 0:
            raise InputError("--timeout must be more than 0 seconds")


@dataclass(frozen=True)
class Estimate:
    """`right` of `tried` rollouts that say something; nothing is known where `tried` is 0."""

    tried: int
    right: int


# --- labels from estimates: no model, no database ---------------------------------------------------------


def wanted(n: int, right: bool, known: Mapping[int, Estimate], plan: Plan) -> list[int]:
    """The prefixes (as numbers of steps, 0 = the prompt alone) to try next for an answer of `n` steps; [] =
    done.

    `right`: whether the whole answer is; `known`: the prefixes that have been tried.
    """
    if right and plan.label == "hard":
        return []
    if plan.search == "steps":
        return [length for length in range(1, n) if length not in known]
    if n > 1 and 0 not in known:
        return [0]
    good, bad = _bounds(n, known)
    middle = (good + bad) // 2
    return [middle] if bad - good > 1 and known[0].right and middle not in known else []


def labels_of(n: int, right: bool, known: Mapping[int, Estimate], plan: Plan) -> list[Label]:
    """The labels of an answer's `n` steps; `known` maps numbers of steps to what was found there."""
    good, bad = (n, n + 1) if right else _bounds(n, known)
    labels: list[Label] = []
    for length in range(1, n):
        found = known.get(length)
        if plan.label == "soft":
            if found is None or not found.tried:
                labels.append(None)
            elif found.right or length >= good:
                labels.append(found.right / found.tried)
            else:
                labels.append(1 / (found.tried + 1))
        elif length <= good:
            labels.append(1)
        elif length >= bad and not (plan.search == "binary" and _unsolved(known)):
            labels.append(0)
        else:
            labels.append(None)
    return [*labels, int(right)]


def _bounds(n: int, known: Mapping[int, Estimate]) -> tuple[int, int]:
    """The longest prefix of a wrong answer that is good, and the shortest behind it that is bad."""
    good = max((length for length, found in known.items() if found.right), default=0)
    return good, min((length for length, found in known.items() if length > good and found.tried), default=n)


def _unsolved(known: Mapping[int, Estimate]) -> bool:
    """Whether the policy could not solve the question from anywhere."""
    return not any(found.right for found in known.values())


# --- questions and their answers ----------------------------------------------------------------------------


@dataclass
class _Answer:
    """One answer with its place in the output; `outcome` (of `OUTCOMES`) once its SQL was run."""

    place: tuple[int, ...]
    trace: Trace
    outcome: str = ""

    def __post_init__(self) -> None:
        self.form = form_of(self.trace.steps)

    @property
    def right(self) -> bool:
        return self.outcome == "right"

    @property
    def label_source(self) -> str:
        return f"monte-carlo:{self.outcome}" if self.outcome.startswith("variant") else "monte-carlo"

    def prefix(self, length: int) -> str:
        return prefix_text(self.trace.steps[:length], self.form)


@dataclass
class _Work:
    """One question on its way: its answers, and what is known of every prefix (by its text)."""

    place: tuple[int, ...]
    about: Trace  # question, schema, evidence, gold_sql …; no steps
    database: Path | str
    answers: list[_Answer] = field(default_factory=list)
    gold: Suite | None = None  # its rows, and variants; once the question is under way
    choices: Choices | None = None  # what it leaves open; of SQLite's databases
    compared_on_variants: bool = False
    known: dict[str, Estimate] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)  # by SQL: samples repeat each other
    spent: int = 0
    over_budget: bool = False


def label_answers(
    traces: Iterable[Trace],
    databases: str | Path,
    policy: Policy,
    output: str | Path,
    plan: Plan,
    *,
    price: tuple[float, float] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Label the steps of given answers and write them to `output`, statistics to `<output>.stats.json` and a
    data card to `<output>.md`. Returns the statistics.

    Every trace needs `db_id` and `gold_sql`; labels that it has are replaced. `price` is what a million
    prompt tokens and a million new tokens cost; `command` the line that was typed, for the card. What the
    policy has written is kept in `<output>.journal`.

    Raises:
        InputError: a trace lacks what is needed, a database is missing, or the policy fails for good.
    """
    works: dict[tuple[str, ...], _Work] = {}
    for place, trace in enumerate(traces):
        name = f"trace {trace.id or place}"
        if trace.db_id is None or trace.gold_sql is None or not trace.gold_sql.strip():
            missing = "'gold_sql'" if trace.db_id is not None else "'db_id'"
            raise InputError(f"{name} has no {missing}, without which no rollout can be judged")
        key = (trace.question_key, trace.db_id, trace.gold_sql)
        if key not in works:
            told = {"prompt": trace.extra["prompt"]} if "prompt" in trace.extra else {}
            about = replace(trace, steps=[], extra=told)
            works[key] = _Work((place,), about, find_database(databases, trace.db_id))
        works[key].answers.append(_Answer((place,), trace))
    return _run(list(works.values()), False, policy, output, plan, price, command)


def sample_and_label(
    questions: Iterable[Question],
    policy: Policy,
    output: str | Path,
    plan: Plan,
    *,
    price: tuple[float, float] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """The same for `plan.samples` answers that the policy writes itself to every question."""
    works = []
    for place, q in enumerate(questions):
        about = Trace(q.question, [], id=q.id, group=q.id, db_id=q.db_id, evidence=q.evidence, gold_sql=q.sql)
        works.append(_Work((place,), about, q.database))
    return _run(works, True, policy, output, plan, price, command)


def _run(
    works: list[_Work],
    sampled: bool,
    policy: Policy,
    output: str | Path,
    plan: Plan,
    price: tuple[float, float] | None,
    command: str | None,
) -> dict[str, Any]:
    output = output_file(output)
    settings = policy.settings() | {
        "seed": plan.seed,
        "prompt": PROMPT_FORM_VERSION,
        "sql_timeout": plan.timeout,
        "variants": list(FEW),  # outcomes are remembered, too …
        "left_open": sorted(OPEN),  # … with what says nothing
    }
    with (
        Journal(f"{output}.journal", "rollout", settings, paid=True) as journal,
        DatabasePool(1) as pool,
        ScratchFolder() as folder,
    ):
        run = _Rollouts(Answers(journal, policy), plan, pool, folder, sampled)
        run.all(works)
        run.answers.check()
        statistics = run.statistics(works, price)
        traces = [trace for _, trace in sorted(run.labelled, key=lambda item: item[0])]
        if not traces:
            write_statistics(statistics, output)
            reasons = (
                ", ".join(f"{n} x {SKIPPED[why]}" for why, n in statistics["skipped"].items()) or "no answers"
            )
            raise InputError(
                f"nothing could be labelled ({reasons}), so nothing was written; see {output}.stats.json"
            )
        statistics = write_labelled(traces, output, statistics, rollout_card, command)
    _show(statistics, str(output))
    return statistics


@dataclass(frozen=True)
class _Prefix:
    """The first steps of an answer, and their text as the policy reads it; no steps: the prompt alone."""

    text: str
    steps: tuple[Step, ...]
    form: str


class _Rollouts:
    """One run: rounds of requests over a window of questions, until no question wants more."""

    def __init__(self, answers: Answers, plan: Plan, pool: DatabasePool, folder: Path, sampled: bool) -> None:
        self.answers, self.plan, self.folder, self.sampled = answers, plan, folder, sampled
        self.open = partial(open_steadily, timeout=plan.timeout, pool=pool)
        self.labelled: list[tuple[tuple[int, ...], Trace]] = []  # with their place in the output
        self.outcomes: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.began = time.monotonic()

    def all(self, works: list[_Work]) -> None:
        """Label every question.

        A window of questions is on its way at a time, so large that the policy is busy, and no larger.
        """
        waiting = iter(works)
        active: list[_Work] = []
        with progress("questions", len(works)) as advance:
            while True:
                wants: list[tuple[_Work, list[_Prefix]]] = []
                asked = 0
                going_on, active = active, []
                while asked < 4 * self.answers.policy.width:
                    work = going_on.pop(0) if going_on else next(waiting, None)
                    if work is None:
                        break
                    prefixes = self._prefixes(work) if work.gold is not None or self._begin(work) else []
                    if prefixes:
                        wants.append((work, prefixes))
                        active.append(work)
                        asked += len(prefixes) * self.plan.rollouts
                    else:
                        self._finish(work)
                        advance()
                active += going_on
                if not wants:
                    return
                for _ in self._round(wants):
                    advance(0, so_far=self._so_far())

    def _begin(self, work: _Work) -> bool:
        """Run gold and the given answers; False where there is nothing to label."""
        reason, gold_sql, database = None, work.about.gold_sql or "", self.open(work.database)
        try:
            work.gold = Suite(database, gold_sql, folder=self.folder, opener=self.open)
        except SQLError as error:
            check_reachable(error, database)
            reason = gold_fault(error)
        if work.gold is None or not work.gold.gold:
            self.skipped[reason or "gold_empty"] += 1 if self.sampled else len(work.answers)
            work.answers = []
            return False
        schema = read_schema(work.database)
        if database.dialect == "sqlite":
            work.choices = Choices.of(work.gold, schema)
        if work.about.schema is None:
            work.about.schema = schema_text(schema, work.about.question)
        given, work.answers = work.answers, []
        for answer in given:
            sql = _whole_sql(answer.trace)
            if sql is None:
                self.skipped["no_sql"] += 1
                continue
            answer.outcome = self._outcome(work, sql)
            if answer.outcome in SKIPPED:
                self.skipped[answer.outcome] += 1
                continue
            answer.trace = replace(answer.trace, sql=sql)  # what was run, for who checks the label
            work.answers.append(answer)
        return self.sampled or bool(work.answers)

    def _prefixes(self, work: _Work) -> list[_Prefix]:
        """The prefixes to try next, within the budget."""
        root = _Prefix("", (), self.plan.form if self.sampled else work.answers[0].form)
        if self.sampled and "" not in work.known:
            return [root]
        found: dict[str, _Prefix] = {}
        for answer in work.answers:
            steps = answer.trace.steps
            for length in wanted(len(steps), answer.right, _known(work, answer), self.plan):
                prefix = (
                    _Prefix(answer.prefix(length), tuple(steps[:length]), answer.form) if length else root
                )
                found.setdefault(prefix.text, prefix)
        if self.plan.max_rollouts is not None:
            affordable = max(self.plan.max_rollouts - work.spent, 0) // self.plan.rollouts
            if len(found) > affordable:
                work.over_budget = True
            return list(found.values())[:affordable]
        return list(found.values())

    def _round(self, wants: list[tuple[_Work, list[_Prefix]]]) -> Iterator[None]:
        """Try the prefixes; yields after every answer of the policy."""
        plan = self.plan
        asked: list[tuple[_Work, _Prefix]] = []
        requests: list[tuple[str, Request]] = []
        for work, prefixes in wants:
            for prefix in prefixes:
                sampling = self.sampled and not prefix.steps
                n = plan.samples if sampling else plan.rollouts
                work.spent += 0 if sampling else n
                prompt = answer_prompt(work.about, prefix.form)
                for first in range(0, n, plan.per_request):
                    seed = seed_of(plan.seed, work.about.question_key, prefix.text, first)
                    request = Request(prompt, prefix.text, seed, min(plan.per_request, n - first))
                    key = digest(work.about.db_id, work.about.gold_sql, prompt, prefix.text, seed, request.n)
                    requests.append((key, request))
                    asked.append((work, prefix))

        def record(i: int, answered: Answered) -> Record:
            work, prefix = asked[i]
            return {
                "texts": [completion.text for completion in answered.completions],
                "cut": [completion.cut for completion in answered.completions],
                "outcomes": [self._rollout(work, prefix, c) for c in answered.completions],
                "tokens": sum(completion.tokens for completion in answered.completions),
                "prompt_tokens": answered.prompt_tokens,
            }

        came: list[Record] = [{}] * len(requests)
        for i, made in self.answers.ask(requests, record):
            came[i] = made
            self._count(made, requests[i][1].n)
            yield
        records: dict[tuple[int, str], list[Record]] = {}
        for (work, prefix), made in zip(asked, came, strict=True):
            records.setdefault((id(work), prefix.text), []).append(made)
        for work, prefixes in wants:
            for prefix in prefixes:
                mine = records[id(work), prefix.text]
                tried = [o for made in mine for o in made.get("outcomes", ()) if o not in _SAY_NOTHING]
                work.known[prefix.text] = Estimate(len(tried), tried.count("right"))
                if self.sampled and not prefix.steps:
                    self._take_samples(work, mine)

    def _count(self, made: Record, n: int) -> None:
        for kind in ("refused", "unanswered"):
            self.counts[kind] += n if kind in made else 0
        self.outcomes.update(outcome.partition(":")[0] for outcome in made.get("outcomes", ()))
        self.counts["tokens"] += made.get("tokens", 0)
        self.counts["prompt_tokens"] += made.get("prompt_tokens", 0)

    def _take_samples(self, work: _Work, records: list[Record]) -> None:
        """The different whole answers among the policy's samples become the answers to label."""
        seen: set[tuple[str, ...]] = set()
        for made in records:
            for text, cut, outcome in zip(
                made.get("texts", ()), made.get("cut", ()), made.get("outcomes", ()), strict=True
            ):
                answer = split_answer(text)
                if answer is None or not answer.whole or (cut and not answer.closed):
                    self.counts["samples_without_answer"] += 1
                    continue
                steps = answer_steps(answer, self.plan.form)
                texts = tuple(step.text for step in steps)
                if texts in seen:
                    self.counts["samples_repeated"] += 1
                    continue
                seen.add(texts)
                if outcome in SKIPPED:
                    self.skipped[outcome] += 1
                    continue
                name = f"{work.about.id}-{len(work.answers)}"
                trace = replace(work.about, id=name, steps=steps, sql=answer.sql, extra={})
                work.answers.append(_Answer((*work.place, len(work.answers)), trace, outcome))

    def _rollout(self, work: _Work, prefix: _Prefix, completion: Completion) -> str:
        try:
            sql = continued(prefix.steps, completion)
        except StartsOver:
            return "starts_over"
        return "no_answer" if sql is None else self._outcome(work, sql)

    def _outcome(self, work: _Work, sql: str) -> str:
        if sql not in work.outcomes:
            work.outcomes[sql] = self._compared(work, sql)
        return work.outcomes[sql]

    def _compared(self, work: _Work, sql: str) -> str:
        """A statement's result beside gold's, a key of `OUTCOMES` or the name of a variant."""
        gold = work.gold
        assert gold is not None
        try:
            rows = gold.database.execute(sql)
        except SQLError as error:
            check_reachable(error, gold.database)
            kinds = {"error": "error", "refused": "error", "crashed": "crashed"}
            return kinds.get(error.kind, "timeout")
        verdict = gold.verdict(sql)
        if verdict.equal and not work.compared_on_variants and gold.database.dialect == "sqlite":
            work.compared_on_variants = True
            gold.distil((), kinds=FEW)
            verdict = gold.verdict(sql)
        if verdict.equal is None:
            return "undecided"
        if verdict.equal:
            return "right"
        if verdict.on != "database":
            return verdict.on
        reason = None if work.choices is None else left_open(work.choices, rows, ordered=gold.ordered)
        return reason or "wrong"

    def _finish(self, work: _Work) -> None:
        if work.gold is not None:
            work.gold.close()
        plan, work.gold, work.choices, work.outcomes = self.plan, None, None, {}
        for answer in work.answers:
            trace, known = answer.trace, _known(work, answer)
            labels = labels_of(len(trace.steps), answer.right, known, plan)
            steps = []
            for length, (step, label) in enumerate(zip(trace.steps, labels, strict=True), 1):
                extra = dict(step.extra)
                if length in known:
                    extra |= {"rollouts": known[length].tried, "right": known[length].right}
                steps.append(replace(step, label=label, error=None, extra=extra))
            about = self.answers.policy.settings() | {
                "rollouts": plan.rollouts,
                "label": plan.label,
                "search": plan.search,
                "seed": plan.seed,
                "version": __version__,
            }
            trace = replace(trace, schema=trace.schema or work.about.schema)
            made = relabelled(trace, steps, answer.label_source, "rollout", plan.seed, monte_carlo=about)
            self.labelled.append((answer.place, made))
            self.counts["answers_right"] += answer.right
            for label in labels:
                kind = (
                    "unknown"
                    if label is None
                    else "right"
                    if label == 1
                    else "wrong"
                    if label == 0
                    else "soft"
                )
                self.counts[f"labels_{kind}"] += 1
        self.counts["prefixes"] += sum(1 for text in work.known if text or not self.sampled)
        self.counts["over_budget"] += work.over_budget
        solved = any(found.right for found in work.known.values())
        self.counts["never_solved"] += bool(work.known) and not solved

    def _so_far(self) -> str:
        n, right = self.outcomes.total(), self.outcomes["right"]
        return f"{n:,} rollouts, {right / n:.1%} right, {self.counts['tokens']:,} tokens" if n else ""

    def statistics(self, works: list[_Work], price: tuple[float, float] | None) -> dict[str, Any]:
        """What `<output>.stats.json` holds; rollouts, tokens and cost of earlier runs of the journal
        included."""
        n, counts = self.outcomes.total(), self.counts
        cost = None
        if price is not None:
            cost = (counts["prompt_tokens"] * price[0] + counts["tokens"] * price[1]) / 1e6
        return {
            "policy": self.answers.policy.settings()["policy"],
            "rollouts_per_prefix": self.plan.rollouts,
            "label": self.plan.label,
            "search": self.plan.search,
            "questions": len(works),
            "answers": len(self.labelled),
            "answers_right": counts["answers_right"],
            "skipped": dict(self.skipped),
            "samples_without_answer": counts["samples_without_answer"],
            "samples_repeated": counts["samples_repeated"],
            "labels": {kind: counts[f"labels_{kind}"] for kind in ("right", "wrong", "soft", "unknown")},
            "prefixes": counts["prefixes"],
            "rollouts": n,
            "requests_from_journal": self.answers.resumed,
            "share_right": self.outcomes["right"] / n if n else None,
            "outcomes": {kind: self.outcomes[kind] for kind in OUTCOMES if self.outcomes[kind]},
            "refused": counts["refused"],
            "unanswered": counts["unanswered"],
            "questions_never_solved": counts["never_solved"],
            "questions_over_budget": counts["over_budget"],
            "prompt_tokens": counts["prompt_tokens"],
            "tokens": counts["tokens"],
            "cost": cost,
            "seconds": round(time.monotonic() - self.began, 1),
        }


def _known(work: _Work, answer: _Answer) -> dict[int, Estimate]:
    texts = [answer.prefix(length) for length in range(len(answer.trace.steps))]
    return {length: work.known[text] for length, text in enumerate(texts) if text in work.known}


def _whole_sql(trace: Trace) -> str | None:
    """The statement that an answer comes to: its `sql`, else what its steps hold."""
    if trace.sql is not None and trace.sql.strip():
        return trace.sql
    parts = [step.sql if step.sql is not None else step.text for step in trace.steps]
    answer = split_answer("\n\n".join(parts))
    return answer.sql if answer is not None and answer.whole else None


def _show(statistics: dict[str, Any], output: str) -> None:
    """The closing statistics on stderr."""
    s = statistics
    lines = [
        f"{s['answers']} answers to {s['questions']} questions, {s['answers_right']} right -> {output}",
        "steps labelled " + ", ".join(f"{kind} {n}" for kind, n in s["labels"].items() if n),
    ]
    share = "" if s["share_right"] is None else f", {s['share_right']:.1%} right"
    lines.append(
        f"{s['rollouts']} rollouts of {s['prefixes']} prefixes{share}; {s['requests_from_journal']} requests "
        f"from the journal; {s['prompt_tokens']:,} prompt tokens, {s['tokens']:,} new, {s['seconds']:g} s"
        + ("" if s["cost"] is None else f", cost {s['cost']:.2f}")
    )
    lines += [f"  {n} x {OUTCOMES[kind]}" for kind, n in s["outcomes"].items() if kind != "right"]
    lines += [f"skipped {n}: {SKIPPED[why]}" for why, n in s["skipped"].items()]
    told = {
        "samples_without_answer": "samples held no whole answer",
        "samples_repeated": "samples repeated another",
        "refused": "rollouts were refused by the model (see the journal)",
        "unanswered": "rollouts got no answer; run the same command again to try them once more",
        "questions_never_solved": "questions were never solved by the policy: their labels 0 say little",
        "questions_over_budget": "questions ran out of their budget: some of their labels are null",
    }
    lines += [f"{s[name]} {text}" for name, text in told.items() if s[name]]
    print("\n".join(lines), file=sys.stderr)
