"""Guided decoding: a policy writes steps, a process reward model (PRM) says which of them to go on with.

| method | what it does | from |
|---|---|---|
| `greedy` | one answer of the likeliest tokens | |
| `best-of-n` | n whole answers, the best one by score | Cobbe et al. 2021 |
| `beam` | n beams write a step each, the best n / beam_width go on | Snell et al. 2024 |
| `dvts` | n / beam_width trees; each tries beam_width steps | Beeching et al. 2024 |
| `particles` | n particles write a step each and are drawn anew by their scores | Puri et al. 2025 |

`best-of-n`, `beam` and `dvts` choose as Hugging Face's search-and-learn does on the same samples and scores
(`tests/test_search.py` writes its choices out), but for this: lookahead counts in beam search, too; ties go
to the earlier one; finished beams are not copied to fill up n; and an answer without its final SELECT is
never chosen beside one that has it. Particles are drawn with the weights softmax(log-odds of the score /
temperature), finished ones among them, as in the authors' code.

A step ends at the delimiter, a blank line by default, and an answer with its final SELECT, or where the
policy ends it. Each new step costs the PRM its own tokens (`prm.inference.branches`), and a prefix that
several samples share is scored once. With databases, what was written is run as soon as it can be: a prefix
whose CTE does not run is dropped, or the policy is told the error and writes the step again.

A question's search is a generator that says what it needs next: completions, results or scores. `search` runs
many of them side by side. Against a server each goes on as soon as its own answers are there; a model in this
process reads them in common batches; and scores of whatever questions are ready come from one forward. What
a search draws hangs on seed, question and place in the tree alone, so it comes out the same whatever runs
beside it.
"""

from __future__ import annotations

import contextlib
import math
import queue
import random
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol, get_args

from prm.errors import InputError
from prm.inference.choosing import Aggregate, aggregate_scores
from prm.inference.policies import (
    FORMS,
    Answered,
    Completion,
    Failed,
    Policy,
    Request,
    answer_prompt,
    answer_steps,
    through_stop,
)
from prm.sql.database import Database, DatabasePool
from prm.sql.results import SQLError
from prm.traces.answer import split_answer
from prm.traces.trace import Step, Trace

METHODS = ("greedy", "best-of-n", "beam", "dvts", "particles")
#: A run ends after so many requests in a row that nobody answers.
MAX_UNANSWERED = 3
_TOLD = (
    "\n\nAfter what is written so far this next step was tried:\n\n{step}\n\n"
    "The database refuses it: {error}\nWrite another next step."
)


class Branch(Protocol):
    """What a search asks of an answer in the making, the `Branch` of one model or an `EnsembleBranch`."""

    def fork(self) -> Branch: ...


class PRM(Protocol):
    """What a search asks of a `Scorer` or an `Ensemble`."""

    def start(self, prompt: Trace) -> Branch: ...

    def extend(self, steps: Sequence[tuple[Any, str]]) -> list[float]:
        """Add a step to each of several branches, all of which this PRM began; no other can extend them."""


@dataclass(frozen=True)
class Plan:
    """How a question is searched; see the module docstring.

    Args:
        n: answers, beams or particles.
        beam_width: tries of each prefix that goes on, of which there are n / beam_width.
        lookahead: steps that are written ahead, greedily, before a prefix is judged; they are not kept.
        aggregate: how the scores of an answer's steps become one, see `aggregate_scores`.
        particle_temperature: of the particles' weights; higher ones make them more alike.
        max_steps: of one answer; the last one is written without a stop.
        max_tokens, max_prm_calls: what one question may cost, in new tokens of the policy and in steps that
            the PRM reads. They are looked at before each round, and no request asks for more than is left:
            the requests of one round together may pass the number of tokens, the PRM's calls never.
        on_error: "drop" a prefix that does not run, or "retry" it once with the error. Only with databases.
        filter_duplicates, sort_finished: of `beam`.
        form: of the steps, one of `FORMS`.
    """

    method: str = "best-of-n"
    n: int = 8
    beam_width: int = 4
    lookahead: int = 0
    aggregate: Aggregate = "last"
    particle_temperature: float = 1.0
    delimiter: str = "\n\n"
    max_steps: int = 16
    max_tokens: int | None = None
    max_prm_calls: int | None = None
    on_error: str = "drop"
    filter_duplicates: bool = True
    sort_finished: bool = True
    form: str = "sentences"
    seed: int = 0

    def __post_init__(self) -> None:
        def known(name: str, value: str, values: Iterable[str]) -> None:
            if value not in values:
                raise InputError(f"--{name} must be one of {', '.join(values)}, not {value!r}")

        known("method", self.method, METHODS)
        known("aggregate", self.aggregate, get_args(Aggregate))
        known("on-error", self.on_error, ("drop", "retry"))
        known("form", self.form, FORMS)
        for name in ("n", "beam_width", "max_steps", "max_tokens", "max_prm_calls"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.lookahead < 0:
            raise InputError(f"--lookahead must be at least 0, not {self.lookahead}")
        if self.method in ("beam", "dvts") and self.n % self.beam_width:
            raise InputError(f"--n must be a multiple of --beam-width ({self.beam_width}), not {self.n}")
        if not 0 < self.particle_temperature < math.inf:
            raise InputError(
                f"--particle-temperature must be a number above 0, not {self.particle_temperature}"
            )
        if not self.delimiter.strip("\r\n\t ") and "\n" not in self.delimiter:
            raise InputError("--delimiter must hold a line break, or more than white space")


@dataclass
class Task:
    """A question to answer: `about` is what the PRM reads (no steps), `prompt` what the policy reads (by
    default what `answer_prompt` makes of `about`), `database` where SQL is run, if anywhere."""

    about: Trace
    prompt: str | None = None
    database: Database | None = None


@dataclass(eq=False)
class Node:
    """A step in a search tree. `text` is what the policy wrote, `step` how traces hold it; the root has none.

    `state`: "open", "finished" (the answer ends with it), or "dropped" with an `error`. `ahead` is the last
    of the steps that were written ahead of it. `score` is the PRM's, None where it was not asked.
    """

    number: int
    parent: Node | None
    text: str = ""
    step: Step | None = None
    state: str = "open"
    error: str | None = None
    score: float | None = None
    tokens: int = 0
    sql: str | None = None  # of a finished node: the whole statement
    refused: bool = False  # by the database
    looked_ahead: bool = False
    ahead: Node | None = None
    branch: Branch | None = None
    children: dict[str, Node] = field(default_factory=dict)

    def path(self) -> list[Node]:
        """From the first step to this one."""
        path: list[Node] = []
        node = self
        while node.parent is not None:
            path.append(node)
            node = node.parent
        return path[::-1]

    @property
    def written(self) -> str:
        return "".join(node.text for node in self.path())

    @property
    def scores(self) -> list[float]:
        return [node.score for node in self.path() if node.score is not None]

    def to_dict(self) -> dict[str, Any]:
        found = {
            "id": self.number,
            "parent": None if self.parent is None else self.parent.number,
            "text": None if self.step is None else self.step.text,
            "score": self.score,
            "state": self.state,
            "error": self.error,
            "tokens": self.tokens,
        }
        return found | ({"lookahead": True} if self.looked_ahead else {})


@dataclass(frozen=True)
class Candidate:
    """One answer: `value` is its aggregated score, `sql` its statement, None where it has no final SELECT."""

    node: Node
    value: float

    @property
    def sql(self) -> str | None:
        return self.node.sql

    def to_dict(self) -> dict[str, Any]:
        """As a line of candidates holds it."""
        steps = []
        for node in self.node.path():
            assert node.step is not None
            steps.append({"text": node.step.text} | ({"sql": node.step.sql} if node.step.sql else {}))
        found: dict[str, Any] = {"steps": steps, "scores": self.node.scores}
        return found | ({"sql": self.sql} if self.sql is not None else {"finished": False})


@dataclass(frozen=True)
class Found:
    """What came of a question. `chosen` is an index into `candidates`, None where there are none; `failed`
    says why none of them is a whole answer, None where one is. `spent` counts the policy's tokens and
    requests and the steps that the PRM read."""

    candidates: list[Candidate]
    chosen: int | None
    spent: dict[str, int]
    nodes: list[Node]
    failed: str | None = None

    def tree(self) -> dict[str, Any]:
        """The search tree, for a file and for the report."""
        return {
            "nodes": [node.to_dict() for node in self.nodes],
            "candidates": [candidate.node.number for candidate in self.candidates],
            "chosen": None if self.chosen is None else self.candidates[self.chosen].node.number,
        }


# --- one question -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ask:
    requests: list[Request]


@dataclass(frozen=True)
class _Run:
    statements: list[str]


@dataclass(frozen=True)
class _Score:
    steps: list[tuple[Branch, str]]


#: What a search needs next. It is sent a list of as many answers: completions or failures, errors (None where
#: a statement ran), scores (None where the PRM cannot read as much).
_Need = _Ask | _Run | _Score
_Searching = Generator[_Need, list[Any], Any]


class _Search:
    """The search tree of one question, and the methods that let it grow."""

    def __init__(self, task: Task, plan: Plan, root: Branch) -> None:
        self.task, self.plan = task, plan
        self.prompt = task.prompt if task.prompt is not None else answer_prompt(task.about, plan.form)
        self.key = task.about.question_key
        self.root = Node(0, None, branch=root)
        self.nodes = [self.root]
        self.spent = {"tokens": 0, "prompt_tokens": 0, "requests": 0, "unanswered": 0, "prm_calls": 0}
        self.rounds = 0
        self.barren = 0  # rounds one after the other of which nothing is left
        self.refused: str | None = None

    def run(self) -> _Searching:
        """The whole search; returns a `Found`."""
        method = {
            "greedy": self._best_of_n, "best-of-n": self._best_of_n, "beam": self._beam, "dvts": self._dvts,
            "particles": self._particles,
        }[self.plan.method]  # fmt: skip
        nodes = yield from method()
        nodes = [node for node in nodes if node.state != "dropped" and node.scores]
        candidates = [Candidate(node, self.value(node)) for node in nodes]
        whole = [i for i, one in enumerate(candidates) if one.sql is not None] or range(len(candidates))
        chosen = max(whole, key=lambda i: candidates[i].value, default=None)  # the first of equals
        failed = None
        if chosen is None or candidates[chosen].sql is None:
            errors = [node.error for node in self.nodes if node.error is not None]
            failed = self.refused or (errors[-1] if errors else "it has no final SELECT yet")
        for node in self.nodes:
            node.branch = None  # what it stands on may leave the memory
        return Found(candidates, chosen, self.spent, self.nodes, failed)

    def value(self, node: Node) -> float:
        """By what prefixes are compared: the aggregated scores, those of steps written ahead included."""
        return aggregate_scores((node.ahead or node).scores, self.plan.aggregate)

    # Methods: each returns the nodes at which answers end.

    def _best_of_n(self) -> _Searching:
        n = 1 if self.plan.method == "greedy" else self.plan.n
        at_once = n if self.plan.max_tokens is None else min(n, self.plan.beam_width)
        nodes: list[Node] = []
        while len(nodes) < n:
            grown = yield from self._grow([self.root] * min(at_once, n - len(nodes)), whole=True)
            if grown is None:
                break
            nodes += grown
        return nodes

    def _beam(self) -> _Searching:
        plan = self.plan
        active, finished = [self.root], []
        for depth in range(plan.max_steps):
            beams = [active[i % len(active)] for i in range(plan.n)]
            grown = yield from self._grow(beams, whole=depth == plan.max_steps - 1)
            if grown is None:
                break
            finished += [node for node in grown if node.state == "finished"]
            opened = [node for node in grown if node.state == "open"]
            if plan.filter_duplicates:
                opened = list(dict.fromkeys(opened))
            if not opened and finished:
                active = []
                break
            best = sorted(range(len(opened)), key=lambda i: -self.value(opened[i]))
            # Where all were dropped, others are tried.
            active = [opened[i] for i in sorted(best[: plan.n // plan.beam_width])] or active
        if plan.sort_finished:
            finished.sort(key=lambda node: -self.value(node))
        return finished[: plan.n] or active

    def _dvts(self) -> _Searching:
        width = self.plan.beam_width
        ends = [self.root] * (self.plan.n // width)
        tried: list[list[Node]] = [[] for _ in ends]
        for depth in range(self.plan.max_steps):
            going_on = [i for i, end in enumerate(ends) if end.state == "open"]
            if not going_on:
                break
            beams = [ends[i] for i in going_on for _ in range(width)]
            grown = yield from self._grow(beams, whole=depth == self.plan.max_steps - 1)
            if grown is None:
                break
            for k, i in enumerate(going_on):
                usable = [node for node in grown[k * width : (k + 1) * width] if node.state != "dropped"]
                if usable:
                    tried[i], ends[i] = usable, max(usable, key=self.value)
        return [node for nodes in tried for node in nodes]

    def _particles(self) -> _Searching:
        chance = random.Random(_seed(self.plan.seed, self.key, "resampling"))
        particles = [self.root] * self.plan.n
        for depth in range(self.plan.max_steps):
            going_on = [i for i, node in enumerate(particles) if node.state == "open"]
            if not going_on:
                break
            last = depth == self.plan.max_steps - 1
            grown = yield from self._grow([particles[i] for i in going_on], whole=last)
            if grown is None:
                break
            before = list(particles)
            for i, node in zip(going_on, grown, strict=True):
                particles[i] = node
            alive = [node for node in particles if node.state != "dropped"]
            if not alive:
                particles = before
            elif any(node.state == "open" for node in alive) and not last:
                particles = chance.choices(alive, self.weights(alive), k=self.plan.n)
        return particles

    def weights(self, nodes: Sequence[Node]) -> list[float]:
        """Softmax of the log-odds of the values, divided by the temperature."""
        values = [min(max(self.value(node), 1e-9), 1 - 1e-9) for node in nodes]
        logits = [math.log(v / (1 - v)) / self.plan.particle_temperature for v in values]
        powers = [math.exp(logit - max(logits)) for logit in logits]
        return [power / sum(powers) for power in powers]

    # Growing

    def _grow(self, parents: Sequence[Node], *, whole: bool) -> _Searching:
        """One step behind each of the parents, or with `whole` all that is left of the answer: a node for
        each of them, which may be dropped. None where the budget is spent, or twice nothing came of it."""
        if self._tokens_left() == 0 or self._calls_left() == 0 or (self.barren > 1 and not whole):
            return None
        self.rounds += 1
        greedy = self.plan.method == "greedy"
        requests = [
            self._request(parent, slot, stop=not whole, greedy=greedy) for slot, parent in enumerate(parents)
        ]
        completions = yield from self._ask(requests)
        if not any(completions):
            return None  # nobody answers, or the prompt is too long: asking on helps nothing
        grown = [self._taken(parent, one) for parent, one in zip(parents, completions, strict=True)]
        yield from self._check(grown)
        if self.plan.on_error == "retry":
            grown = yield from self._again(parents, requests, grown)
        yield from self._judge(grown)
        if self.plan.lookahead and not whole:
            yield from self._look_ahead(grown)
        self.barren = 0 if any(node.state != "dropped" for node in grown) else self.barren + 1
        return grown

    def _request(self, parent: Node, slot: int, *, stop: bool, greedy: bool = False) -> Request:
        return Request(
            self.prompt,
            parent.written,
            _seed(self.plan.seed, self.key, self.rounds, slot),
            stop=self.plan.delimiter if stop else None,
            greedy=greedy,
            max_new_tokens=self._tokens_left(),
        )

    def _tokens_left(self) -> int | None:
        return None if self.plan.max_tokens is None else max(self.plan.max_tokens - self.spent["tokens"], 0)

    def _calls_left(self) -> int | None:
        calls = self.plan.max_prm_calls
        return None if calls is None else calls - self.spent["prm_calls"]

    def _ask(self, requests: list[Request]) -> _Searching:
        answers = yield _Ask(requests)
        completions: list[Completion | None] = []
        for answer in answers:
            if isinstance(answer, Failed):
                self.refused = answer.why
                self.spent["unanswered"] += not answer.refused
                completions.append(None)
                continue
            self.spent["prompt_tokens"] += answer.prompt_tokens
            self.spent["tokens"] += answer.completions[0].tokens
            self.spent["requests"] += 1
            completions.append(answer.completions[0])
        return completions

    def _taken(self, parent: Node, completion: Completion | None, *, ahead: bool = False) -> Node:
        """The node that a completion leads to: finished where the answer has its final SELECT, dropped where
        it ends without one. Equal steps behind one parent are one node."""
        if completion is None:
            return Node(-1, parent, state="dropped", error=self.refused)
        node, rest = parent, completion.text
        while rest.strip():
            text = through_stop(rest, self.plan.delimiter) or rest
            rest = rest[len(text) :]
            answer = split_answer(node.written + text)
            if answer is not None and answer.whole and (answer.closed or rest.strip() or not completion.cut):
                node = self._child(node, text, ahead)
                node.tokens += completion.tokens
                if node.state == "open":
                    node.state, node.sql = "finished", answer.sql
                return node  # what follows is no part of it
            if node.step is not None and _step(text, self.plan.form).text == node.step.text:
                node = self._child(node, text, ahead, "it says the same again")
                break
            if rest.strip() or completion.stopped:
                node = self._child(node, text, ahead)
            else:
                why = "it was cut for want of tokens" if completion.cut else "it ends without a final SELECT"
                node = self._child(node, text, ahead, why)
        if node is parent:
            node = self._child(parent, "", ahead, "it ends without a final SELECT")
        node.tokens += completion.tokens
        return node

    def _child(self, parent: Node, text: str, ahead: bool, error: str | None = None) -> Node:
        step = _step(text, self.plan.form)
        key = step.text if error is None else f"{step.text}\0{error}"
        if key not in parent.children:
            state = "open" if error is None else "dropped"
            node = Node(len(self.nodes), parent, text, step, state, error, looked_ahead=ahead)
            parent.children[key] = node
            self.nodes.append(node)
        node = parent.children[key]
        node.looked_ahead = node.looked_ahead and ahead
        return node

    def _check(self, grown: Sequence[Node]) -> _Searching:
        """Run what was not run yet, and drop what does not run."""
        if self.task.database is None:
            return
        statements: dict[Node, str] = {}
        for node in dict.fromkeys(grown):
            if node.state != "dropped" and node.score is None and (sql := _statement(node)) is not None:
                statements[node] = sql
        if not statements:
            return
        errors = yield _Run(list(statements.values()))
        for node, error in zip(statements, errors, strict=True):
            if error is not None:
                node.state, node.error, node.refused = "dropped", error, True

    def _again(self, parents: Sequence[Node], requests: list[Request], grown: list[Node]) -> _Searching:
        """The nodes; for those that do not run, what the policy writes once it is told the error."""
        wrong = [i for i, node in enumerate(grown) if node.refused]
        if not wrong or self._tokens_left() == 0:
            return grown
        told = []
        for i in wrong:
            new = grown[i].path()[len(parents[i].path()) :]
            step = "\n\n".join(node.step.text for node in new if node.step is not None)
            note = _TOLD.format(step=step, error=grown[i].error)
            told.append(
                Request(
                    self.prompt + note,
                    requests[i].prefix,
                    _seed(requests[i].seed, "again"),
                    stop=requests[i].stop,
                    greedy=requests[i].greedy,
                    max_new_tokens=self._tokens_left(),
                )
            )
        completions = yield from self._ask(told)
        grown = list(grown)
        for i, completion in zip(wrong, completions, strict=True):
            if completion is not None:
                grown[i] = self._taken(parents[i], completion)
        yield from self._check([grown[i] for i in wrong])
        return grown

    def _judge(self, grown: Sequence[Node]) -> _Searching:
        """Have the PRM read what it has not read yet, one step of each node at a time."""
        alive = [node for node in dict.fromkeys(grown) if node.state != "dropped"]
        while True:
            new: dict[Node, None] = {}
            for node in alive:
                unread = [one for one in node.path() if one.score is None]
                if node.state != "dropped" and unread:
                    new[unread[0]] = None
            if not new:
                return
            left = self._calls_left()
            read = list(new)[:left]
            if not read:
                for node in alive:
                    if any(one in new for one in node.path()):
                        node.state, node.error = "dropped", "no call of the PRM is left"
                return
            steps = []
            for one in read:
                assert one.step is not None and one.parent is not None and one.parent.branch is not None
                one.branch = one.parent.branch.fork()
                steps.append((one.branch, one.step.text))
            scores = yield _Score(steps)
            self.spent["prm_calls"] += len(read)
            for one, score in zip(read, scores, strict=True):
                # What is computed beside it shows in the last bits, and would show in a run that is taken up.
                one.score = None if score is None else round(score, 6)
                if score is None:
                    for node in alive:
                        if one in node.path():
                            node.state, node.error = "dropped", "the answer is longer than the PRM reads"

    def _look_ahead(self, grown: Sequence[Node]) -> _Searching:
        """Write on greedily behind each open node, so far as that runs, and judge the node by where it
        leads."""
        ends = {node: node for node in grown if node.state == "open" and node.ahead is None}
        going_on = list(ends)
        for _ in range(self.plan.lookahead):
            going_on = [node for node in going_on if ends[node].state == "open"]
            if not going_on or self._tokens_left() == 0 or self._calls_left() == 0:
                break
            requests = [self._request(ends[node], 0, stop=True, greedy=True) for node in going_on]
            completions = yield from self._ask(requests)
            made = [
                self._taken(ends[node], one, ahead=True)
                for node, one in zip(going_on, completions, strict=True)
            ]
            yield from self._check(made)
            yield from self._judge(made)
            alive = [(node, end) for node, end in zip(going_on, made, strict=True) if end.state != "dropped"]
            ends.update(alive)
            going_on = [node for node, _ in alive]
        for node, end in ends.items():
            if end is not node:
                node.ahead = end


def _step(text: str, form: str) -> Step:
    """What the policy wrote, as traces hold it."""
    answer = split_answer(text)
    if answer is not None and len(answer.steps) == 1:
        return answer_steps(answer, form)[0]
    return Step(text.strip())


def _statement(node: Node) -> str | None:
    """What can be run once the node's step is there: its CTE, or the whole answer; None for prose."""
    if node.sql is not None:
        return node.sql
    answer = split_answer(node.written)
    if answer is None or not answer.steps or not answer.steps[-1].name:
        return None
    before = split_answer(node.parent.written) if node.parent is not None else None
    if before is not None and len(before.steps) >= len(answer.steps):
        return None
    head = "WITH RECURSIVE " if answer.recursive else "WITH "
    ctes = ",\n".join(step.sql for step in answer.steps)
    return f"{head}{ctes}\nSELECT * FROM {answer.steps[-1].name} LIMIT 1"


def _seed(*parts: object) -> int:
    """A seed of 31 bits, which every server takes, from what the parts say."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "replace")
    return int.from_bytes(sha256(text).digest()[:4], "big") & 0x7FFFFFFF


# --- many questions -----------------------------------------------------------------------------------------


class Memory(Protocol):
    """Where answers are kept for a run that goes on later: `prm.jobs.journal.Journal`."""

    def __contains__(self, key: str) -> bool: ...

    def __getitem__(self, key: str) -> Any: ...

    def add(self, key: str, result: Any) -> None: ...


class _Asking:
    """Requests under way with a policy: `put` them at any time, `get` what has come of any of them."""

    def __init__(self, policy: Policy, memory: Memory | None) -> None:
        self.policy, self.memory = policy, memory
        self.under_way = 0
        self._done: deque[tuple[Any, Answered | Failed]] = deque()
        self._put: list[tuple[Any, str, Request]] = []  # for a model in this process
        self._answers: Iterator[tuple[Any, str, Answered | Failed]] | None = None
        self._requests: queue.SimpleQueue[tuple[Any, str, Request] | None] = queue.SimpleQueue()
        self._came: queue.SimpleQueue[tuple[Any, str, Any]] = queue.SimpleQueue()
        self._left = 0  # answers that are still to come of those batches
        self._unanswered = 0
        self._threads = 0

    def put(self, tag: Any, question: str, request: Request) -> None:
        """Ask; `tag` comes back with the answer."""
        self.under_way += 1
        key = sha256(repr((question, request)).encode("utf-8", "replace")).hexdigest()[:32]
        if self.memory is not None and key in self.memory:
            text, tokens, cut, stopped, prompt_tokens = self.memory[key]
            self._done.append((tag, Answered([Completion(text, tokens, cut, stopped)], prompt_tokens)))
        elif self.policy.remote:
            self._requests.put((tag, key, request))
            if self._threads < self.policy.width:  # daemons: an interrupt must not wait for answers
                self._threads += 1
                threading.Thread(target=self._work, daemon=True).start()
        else:
            self._put.append((tag, key, request))

    def get(self) -> tuple[Any, Answered | Failed]:
        """The next answer; waits for it.

        Raises:
            InputError: nobody answers, several times in a row, or the policy fails for good.
        """
        self.under_way -= 1
        if self._done:
            return self._done.popleft()
        tag, key, came = self._came.get() if self.policy.remote else self._computed()
        if isinstance(came, BaseException):
            raise came
        if isinstance(came, Failed):
            self._unanswered += not came.refused
            if self._unanswered >= MAX_UNANSWERED:
                raise InputError(f"{came.why}; run the same command again to go on where this ended")
        else:
            self._unanswered = 0
            if self.memory is not None:
                one = came.completions[0]
                self.memory.add(key, [one.text, one.tokens, one.cut, one.stopped, came.prompt_tokens])
        return tag, came

    @property
    def at_hand(self) -> bool:
        """Whether `get` gives something before anything else need be done."""
        if self._done:
            return True
        if self.policy.remote:
            return not self._came.empty()
        return self._answers is not None  # of the batches that were begun

    def close(self) -> None:
        """Ask nothing more; the threads end with what they are at."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._requests.get_nowait()
        for _ in range(self._threads):
            self._requests.put(None)

    def _work(self) -> None:
        while (asked := self._requests.get()) is not None:
            tag, key, request = asked
            try:
                ((_, came),) = self.policy.answer([request])
                self._came.put((tag, key, came))
            except BaseException as error:
                self._came.put((tag, key, error))

    def _computed(self) -> tuple[Any, str, Any]:
        if self._answers is None:
            put, self._put = self._put, []
            came = self.policy.answer([request for _, _, request in put])
            self._answers = ((*put[i][:2], answer) for i, answer in came)
            self._left = len(put)
        found = next(self._answers)
        self._left -= 1
        if not self._left:
            self._answers = None
        return found


def search(
    tasks: Sequence[Task],
    policy: Policy,
    prm: PRM,
    plan: Plan,
    *,
    pool: DatabasePool | None = None,
    memory: Memory | None = None,
) -> Iterator[tuple[int, Found]]:
    """(index, what was found) of every task, as they are finished.

    Args:
        pool: that runs the statements of tasks with a database, all of them open on it; each by the
            database's own where there is none.
        memory: where the policy's answers are kept for a run that goes on later.

    Raises:
        InputError: the policy fails for good, a server does not answer, or a database cannot be read.
    """
    asking = _Asking(policy, memory)
    try:
        yield from _SideBySide(tasks, asking, prm, plan, pool).all()
    finally:
        asking.close()


class _SideBySide:
    """The searches under way: what each waits for, and what has come for it."""

    def __init__(
        self, tasks: Sequence[Task], asking: _Asking, prm: PRM, plan: Plan, pool: DatabasePool | None
    ) -> None:
        self.tasks, self.asking, self.prm, self.plan, self.pool = tasks, asking, prm, plan, pool
        self.searches: dict[int, _Searching] = {}
        self.ready: deque[tuple[int, list[Any] | None]] = deque()
        self.answers: dict[int, list[Any]] = {}  # to the requests of each, as they come
        self.missing: dict[int, int] = {}
        self.runs: dict[int, list[str]] = {}
        self.scores: dict[int, list[tuple[Branch, str]]] = {}

    def all(self) -> Iterator[tuple[int, Found]]:
        """Begin as many searches as keep the policy busy; score and run when there is nothing else to do."""
        waiting = iter(enumerate(self.tasks))
        asking, most = self.asking, 4 * self.asking.policy.width
        while True:
            while asking.under_way < most and (new := next(waiting, None)) is not None:
                i, task = new
                self.searches[i] = _Search(task, self.plan, self.prm.start(task.about)).run()
                self.ready.append((i, None))
                yield from self._go_on()
            yield from self._go_on()
            if asking.under_way and (asking.at_hand or not (self.runs or self.scores)):
                (i, slot), answer = asking.get()
                self.answers[i][slot] = answer
                self.missing[i] -= 1
                if not self.missing[i]:
                    self.ready.append((i, self.answers.pop(i)))
            elif self.runs:
                statements = [(self.tasks[i].database, sql) for i, run in self.runs.items() for sql in run]
                self._deal(self.runs, _executed(statements, self.pool))
            elif self.scores:
                steps = [step for steps in self.scores.values() for step in steps]
                self._deal(self.scores, _scored(self.prm, steps))
            elif not self.searches:
                return

    def _go_on(self) -> Iterator[tuple[int, Found]]:
        """Let every search that has what it needed go on until it needs something else."""
        while self.ready:
            i, value = self.ready.popleft()
            try:
                need = next(self.searches[i]) if value is None else self.searches[i].send(value)
            except StopIteration as end:
                del self.searches[i]
                yield i, end.value
                continue
            if isinstance(need, _Run):
                self.runs[i] = need.statements
            elif isinstance(need, _Score):
                self.scores[i] = need.steps
            else:
                self.answers[i], self.missing[i] = [None] * len(need.requests), len(need.requests)
                for slot, request in enumerate(need.requests):
                    self.asking.put((i, slot), self.tasks[i].about.question_key, request)

    def _deal(self, needs: dict[int, list[Any]], came: list[Any]) -> None:
        """Give each search its part of what came for all of them."""
        at = 0
        for i, need in needs.items():
            self.ready.append((i, came[at : at + len(need)]))
            at += len(need)
        needs.clear()


def _executed(
    statements: Sequence[tuple[Database | None, str]], pool: DatabasePool | None
) -> list[str | None]:
    """Why each of the statements does not run, None where it does. Too many rows are no fault."""
    pairs = [(database, sql) for database, sql in statements if database is not None]
    results: list[Any] = []
    if pool is not None:
        results = pool.execute_all(pairs)
    else:
        for database, sql in pairs:
            results += database.pool.execute_all([(database, sql)])
    for (database, _), result in zip(pairs, results, strict=True):
        if isinstance(result, SQLError) and result.kind == "unavailable":
            raise InputError(str(result), file=str(database.path))
    return [str(r) if isinstance(r, SQLError) and r.kind != "too_large" else None for r in results]


def _scored(prm: PRM, steps: Sequence[tuple[Branch, str]]) -> list[float | None]:
    """The scores of new steps; None where an answer has become longer than the PRM reads."""
    try:
        return list(prm.extend(steps))
    except InputError:
        if len(steps) == 1:
            return [None]
        return [score for step in steps for score in _scored(prm, [step])]
