"""Guided decoding: the searches beside written-out references, the guard, budgets, and real models."""

from __future__ import annotations

import itertools
import math
import random
import sqlite3
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import pytest
from scripted_server import asked, chat, serving

from prm.errors import InputError
from prm.inference.policies import Answered, Completion, Failed, Sampling, ServerPolicy, TransformersPolicy
from prm.inference.search import METHODS, Plan, Task, search
from prm.sql.database import DatabasePool, open_database
from prm.traces.trace import Step, Trace

ABOUT = Trace("How many pets?", [], id="q", db_id="pets", schema="pet(name TEXT, age INTEGER)")


def chance(*parts):
    """A number in [0, 1) that hangs on the parts alone."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


class Writer:
    """A policy whose next step is drawn from a few by the request's seed; an answer ends at some depth."""

    name, width, remote = "writer", 4, False

    def __init__(self, kinds=5, end=0.35):
        self.kinds, self.end, self.requests = kinds, end, []

    def settings(self):
        return {"policy": self.name}

    def step(self, prefix, seed):
        depth = prefix.count("\n\n")
        kind = int(chance("kind", prefix, seed) * self.kinds)
        if chance("end", prefix, kind) < self.end or depth >= 5:
            return f"Take {kind}.\nSELECT {kind}"
        return f"Keep {kind}.\ns{depth}_{kind} AS (SELECT {kind} FROM pet)\n\n"

    def answer(self, requests):
        self.requests += requests
        for i, request in enumerate(requests):
            seed = 0 if request.greedy else request.seed
            text = self.step(request.prefix, seed)
            while request.stop is None and not text.rpartition("\n")[2].startswith("SELECT"):
                text += self.step(request.prefix + text, seed)
            yield i, Answered([Completion(text, 10, stopped=text.endswith("\n\n"))], 100)


class Judge:
    """A PRM whose scores hang on the steps alone; `.read` holds every step that it was asked for."""

    def __init__(self):
        self.read = []

    def start(self, prompt):
        return self.Branch([step.text for step in prompt.steps])

    def extend(self, steps):
        self.read += [(*branch.steps, text) for branch, text in steps]
        for branch, text in steps:
            branch.steps = [*branch.steps, text]
        return [score(branch.steps) for branch, _ in steps]

    class Branch:
        def __init__(self, steps):
            self.steps = steps

        def fork(self):
            return Judge.Branch(self.steps)


def score(steps):
    return round(chance("score", [step.strip() for step in steps]), 6)


def steps_of(text):
    return [step.strip() for step in text.split("\n\n") if step.strip()]


def found(plan, policy=None, prm=None, task=None, **options):
    ((_, result),) = search(
        [task or Task(ABOUT, "prompt")], policy or Writer(), prm or Judge(), plan, **options
    )
    return result


def texts(result):
    return ["\n\n".join(step["text"] for step in one.to_dict()["steps"]) for one in result.candidates]


# --- search-and-learn, written out --------------------------------------------------------------------------
# Their algorithms on texts: beams are strings, a step is drawn with the seed that our search gives its place.

AGGREGATE = {"last": lambda s: s[-1], "min": min, "product": math.prod}


class Reference:
    def __init__(self, writer, plan):
        self.writer, self.plan = writer, plan
        self.round = 0

    def value(self, text):
        steps = steps_of(text)
        scores = [score(steps[: k + 1]) for k in range(len(steps))]
        return AGGREGATE[self.plan.aggregate](scores)

    def draw(self, prefixes):
        """The next step of each prefix."""
        from prm.inference.search import _seed

        self.round += 1
        return [
            self.writer.step(prefix, _seed(self.plan.seed, ABOUT.question_key, self.round, slot))
            for slot, prefix in enumerate(prefixes)
        ]

    @staticmethod
    def over(text):
        return not text.endswith("\n\n")

    def best_of_n(self):
        from prm.inference.search import _seed

        made = []
        for slot in range(self.plan.n):
            text, seed = "", _seed(self.plan.seed, ABOUT.question_key, 1, slot)
            while not text or not self.over(text):
                text += self.writer.step(text, seed)
            made.append(text)
        return made, max(range(len(made)), key=lambda i: self.value(made[i]))

    def beam_search(self):
        n, keep = self.plan.n, self.plan.n // self.plan.beam_width
        active, completed = [""] * n, []
        while True:
            active = (active * (n // len(active) + 1))[:n]
            active = [text + step for text, step in zip(active, self.draw(active), strict=True)]
            completed += [text for text in active if self.over(text)]
            active = [text for text in active if not self.over(text)]
            if not active:
                break
            if self.plan.filter_duplicates:
                active = list(dict.fromkeys(active))
            ascending = sorted(range(len(active)), key=lambda i: (self.value(active[i]), -i))
            active = [text for i, text in enumerate(active) if i in ascending[-keep:]]
        if self.plan.sort_finished:
            completed = sorted(completed, key=self.value, reverse=True)
        completed = completed[:n]
        return completed, max(range(len(completed)), key=lambda i: self.value(completed[i]))

    def ahead(self, text):
        """The text with greedy steps behind it."""
        for _ in range(self.plan.lookahead):
            if self.over(text):
                break
            text += self.writer.step(text, 0)
        return text

    def dvts(self):
        width = self.plan.beam_width
        beams = [{"text": "", "last": [], "done": False} for _ in range(self.plan.n // width)]
        while any(not beam["done"] for beam in beams):
            going_on = [beam for beam in beams if not beam["done"]]
            drawn = iter(self.draw([beam["text"] for beam in going_on for _ in range(width)]))
            for beam in going_on:
                tried = [beam["text"] + next(drawn) for _ in range(width)]
                values = [self.value(self.ahead(text)) for text in tried]
                beam["text"], beam["last"] = tried[values.index(max(values))], tried
                beam["done"] = self.over(beam["text"])
        made = [text for beam in beams for text in beam["last"]]
        whole = [i for i, text in enumerate(made) if self.over(text)]  # an answer is SQL
        return made, max(whole, key=lambda i: self.value(made[i]))


SAL = {"best-of-n": "best_of_n", "beam": "beam_search", "dvts": "dvts"}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("aggregate", AGGREGATE)
@pytest.mark.parametrize("method", SAL)
def test_choices_are_those_of_search_and_learn(method, aggregate, seed):
    rng = random.Random(repr((method, aggregate, seed)))
    width = rng.choice([1, 2, 4])
    plan = Plan(
        method,
        n=width * rng.choice([1, 2, 4]),
        beam_width=width,
        aggregate=aggregate,
        filter_duplicates=rng.random() < 0.5,
        sort_finished=rng.random() < 0.5,
        lookahead=rng.choice([0, 0, 1, 2]) if method == "dvts" else 0,
        seed=seed,
        max_steps=40,
    )
    writer = Writer(kinds=rng.choice([2, 5]))
    completions, pred = getattr(Reference(writer, plan), SAL[method])()
    result = found(plan, writer)
    assert texts(result) == ["\n\n".join(steps_of(text)) for text in completions]
    assert result.chosen == pred
    reference = Reference(writer, plan)
    whole = [i for i, one in enumerate(result.candidates) if one.sql is not None]
    for i in whole:
        assert result.candidates[i].value == pytest.approx(reference.value(completions[i]))


def test_every_step_is_scored_once():
    """However many samples share a prefix; and its score is what the PRM says of exactly that prefix."""
    for method in METHODS:
        judge = Judge()
        result = found(Plan(method, n=16, beam_width=4, lookahead=1), Writer(kinds=2), judge)
        assert len(judge.read) == len(set(judge.read)) == result.spent["prm_calls"] > 0
        for candidate in result.candidates:
            steps = [step["text"] for step in candidate.to_dict()["steps"]]
            assert candidate.node.scores == [score(steps[: k + 1]) for k in range(len(steps))]


def test_ties_go_to_the_first(monkeypatch):
    monkeypatch.setitem(globals(), "score", lambda steps: 0.5)
    for method in ("best-of-n", "beam", "dvts"):
        result = found(Plan(method, n=8, beam_width=4))
        assert result.candidates[result.chosen].sql is not None
        assert all(one.sql is None for one in result.candidates[: result.chosen])


# --- particles ----------------------------------------------------------------------------------------------


def test_particles_are_drawn_by_softmax_of_their_log_odds():
    from prm.inference.search import Node, _Search

    root = Node(0, None)
    nodes = [Node(k, root, step=Step("s"), score=value) for k, value in enumerate((0.9, 0.5, 0.1), 1)]
    for temperature in (1.0, 2.0, 0.5):
        plan = Plan("particles", particle_temperature=temperature)
        weights = _Search(Task(ABOUT, "p"), plan, None).weights(nodes)
        odds = [(v / (1 - v)) ** (1 / temperature) for v in (0.9, 0.5, 0.1)]
        assert weights == pytest.approx([o / sum(odds) for o in odds])
    nodes[0].score, nodes[2].score = 1.0, 0.0  # no odds; still a distribution
    weights = _Search(Task(ABOUT, "p"), Plan("particles"), None).weights(nodes)
    assert sum(weights) == pytest.approx(1) and weights[0] > 0.999999


def test_good_particles_multiply():
    """Of two first steps one has the better score: after it was drawn anew, most particles stand on it."""

    class TwoWays(Writer):
        def step(self, prefix, seed):
            if prefix.count("\n\n") < 2:
                kind = int(chance("way", prefix, seed) * 2) if not prefix else 0
                return f"s{prefix.count('s')}_{kind} AS (SELECT {kind})\n\n"
            return "SELECT 1"

    class Prefers(Judge):
        def extend(self, steps):
            super().extend(steps)
            return [0.95 if branch.steps[0].startswith("s0_1") else 0.05 for branch, _ in steps]

    result = found(Plan("particles", n=64, seed=3), TwoWays(), Prefers())
    first = Counter(candidate.node.path()[0].step.text for candidate in result.candidates)
    assert len(result.candidates) == 64
    assert first["s0_1 AS (SELECT 1)"] > 58  # odds of 361 to 1, where the policy draws both alike
    even = found(Plan("particles", n=64, seed=3, particle_temperature=1e6), TwoWays(), Prefers())
    first = Counter(candidate.node.path()[0].step.text for candidate in even.candidates)
    assert 15 < first["s0_1 AS (SELECT 1)"] < 49


# --- budgets, ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_budgets(method):
    free = found(Plan(method, n=8, beam_width=4, seed=1), Writer(end=0.1))
    plan = Plan(method, n=8, beam_width=4, seed=1, max_prm_calls=3)
    judge = Judge()
    bound = found(plan, prm=judge)
    assert bound.spent["prm_calls"] == len(judge.read) <= 3
    plan = Plan(method, n=8, beam_width=4, seed=1, max_tokens=30)
    writer = Writer(end=0.1)
    bound = found(plan, writer)
    rounds = [len(list(same)) for _, same in itertools.groupby(r.max_new_tokens for r in writer.requests)]
    assert bound.spent["tokens"] - 10 * rounds[-1] < 30  # the last round began within the budget
    assert all(request.max_new_tokens <= 30 for request in writer.requests)
    assert free.spent["tokens"] == 10 * free.spent["requests"] and free.spent["requests"] > 0
    assert method == "greedy" or bound.spent["tokens"] < free.spent["tokens"]


def test_a_spent_budget_leaves_what_there_is():
    class Endless(Writer):
        def step(self, prefix, seed):
            return f"s{len(prefix)} AS (SELECT {seed % 3})\n\n"

    for method in ("beam", "dvts", "particles"):
        result = found(Plan(method, n=4, beam_width=2, max_tokens=100), Endless())
        assert result.candidates and result.candidates[result.chosen].sql is None
        assert result.candidates[0].to_dict()["finished"] is False


class Says(Writer):
    """Writes what it is told to, one text after the other."""

    def __init__(self, *said):
        super().__init__()
        self.said = list(said)

    def answer(self, requests):
        self.requests += requests
        for i, _ in enumerate(requests):
            one = self.said.pop(0)
            one = Completion(one, 1, stopped=one.endswith("\n\n")) if isinstance(one, str) else one
            yield i, one if isinstance(one, Failed) else Answered([one], 1)


@pytest.mark.parametrize(
    ("said", "sql"),
    [
        ("SELECT 1", "SELECT 1"),
        ("Count.\nSELECT 1\n\n", "SELECT 1"),  # stopped behind the final SELECT
        ("a AS (SELECT 1)\n\nSELECT * FROM a", "WITH a AS (SELECT 1)\nSELECT * FROM a"),
        ("SELECT 1;\n\nThis counts them.", "SELECT 1"),  # what follows is no part of it
        ("```sql\nWITH a AS (SELECT 1)\nSELECT * FROM a\n```", "WITH a AS (SELECT 1)\nSELECT * FROM a"),
        (Completion("SELECT 1 FROM", 5, cut=True), None),
        ("I do not know.", None),
        ("a AS (SELECT 1)", None),
        ("", None),
    ],
)
def test_where_an_answer_ends(said, sql):
    result = found(Plan("best-of-n", n=1), Says(said))
    assert [one.sql for one in result.candidates] == ([] if sql is None else [sql])
    if sql is None:
        assert result.chosen is None and result.failed in (
            "it was cut for want of tokens",
            "it ends without a final SELECT",
        )


def test_a_step_that_ends_an_answer_is_not_one_that_goes_on():
    """Two samples with the same text: behind one the answer ends, the other goes on."""
    ends, goes_on = Completion("a AS (SELECT 1)", 3), Completion("a AS (SELECT 1)\n\n", 3, stopped=True)
    result = found(Plan("beam", n=2, beam_width=2), Says(ends, goes_on, "SELECT 2", "SELECT 3"))
    assert sorted(one.sql for one in result.candidates) == [
        f"WITH a AS (SELECT 1)\nSELECT {k}" for k in (2, 3)
    ]


def test_what_a_policy_refuses():
    too_long = Failed("the prompt has 9 tokens", refused=True)
    for method in METHODS:
        result = found(Plan(method, n=2, beam_width=2), Says(*[too_long] * 2))
        assert (result.candidates, result.chosen, result.failed) == ([], None, "the prompt has 9 tokens")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mcts"}, "--method must be one of greedy, best-of-n, beam, dvts, particles, not 'mcts'"),
        ({"method": "dvts", "n": 6}, "--n must be a multiple of --beam-width"),
        ({"aggregate": "max"}, "--aggregate must be one of"),
        ({"on_error": "ignore"}, "--on-error must be one of drop, retry"),
        ({"max_tokens": 0}, "--max-tokens must be at least 1"),
        ({"lookahead": -1}, "--lookahead must be at least 0"),
        ({"particle_temperature": 0.0}, "--particle-temperature must be a number above 0"),
        ({"delimiter": " "}, "--delimiter must hold"),
    ],
)
def test_bad_plans(options, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        Plan(**options)


# --- the database as a guard --------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    path = tmp_path / "pets.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE pet(name TEXT, age INTEGER); INSERT INTO pet VALUES ('Tim', 3)"
        )
    connection.close()
    with DatabasePool(1) as pool, open_database(path, pool=pool) as database:
        yield database, pool


def guarded(plan, policy, pets):
    database, pool = pets
    return found(plan, policy, task=Task(ABOUT, "prompt", database), pool=pool)


def test_a_prefix_that_does_not_run_is_dropped(pets):
    said = [
        "a AS (SELECT nme FROM pet)\n\n",
        "a AS (SELECT name FROM pet)\n\n",
        "SELECT * FROM a",
        "SELECT x",
    ]
    judge = Judge()
    database, pool = pets
    result = found(Plan("beam", n=2, beam_width=2), Says(*said), judge, Task(ABOUT, "p", database), pool=pool)
    assert [one.sql for one in result.candidates] == ["WITH a AS (SELECT name FROM pet)\nSELECT * FROM a"]
    dropped = [node for node in result.nodes if node.state == "dropped"]
    assert [node.error for node in dropped] == ["no such column: nme", "no such column: x"]
    assert judge.read == [(said[1].strip(),), (said[1].strip(), said[2])]  # what fails costs the PRM nothing


def test_where_all_are_dropped_others_are_tried(pets):
    for method in ("beam", "dvts", "particles"):
        said = ["a AS (SELECT x)\n\n", "b AS (SELECT y)\n\n", "SELECT name FROM pet", "SELECT z"]
        result = guarded(Plan(method, n=2, beam_width=2), Says(*said), pets)
        assert [one.sql for one in result.candidates] == ["SELECT name FROM pet"]


@pytest.mark.parametrize("method", ["best-of-n", "beam"])
def test_an_error_is_sent_back(pets, method):
    wrong, right = "a AS (SELECT nme FROM pet)", "a AS (SELECT name FROM pet)"
    if method == "beam":
        said = [f"{wrong}\n\n", f"{right}\n\n", "SELECT * FROM a"]
    else:
        said = [f"{wrong}\n\nSELECT * FROM a", f"{right}\n\nSELECT * FROM a"]
    policy = Says(*said)
    result = guarded(Plan(method, n=1, beam_width=1, on_error="retry"), policy, pets)
    assert [one.sql for one in result.candidates] == [f"WITH {right}\nSELECT * FROM a"]
    told = policy.requests[1]
    assert (
        told.prompt.startswith("prompt\n") and wrong in told.prompt and "no such column: nme" in told.prompt
    )
    assert told.prefix == "" and told.stop == policy.requests[0].stop
    assert policy.requests[0].prompt == "prompt" and told.seed != policy.requests[0].seed


def test_too_many_rows_are_no_error_of_a_prefix(pets):
    many = "a AS (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n)"
    result = guarded(Plan("beam", n=1, beam_width=1), Says(f"{many}\n\n", "SELECT i FROM a LIMIT 1"), pets)
    assert result.candidates[0].sql.endswith("SELECT i FROM a LIMIT 1")


# --- many questions -----------------------------------------------------------------------------------------


def many(n):
    return [Task(replace(ABOUT, question=f"Question {k}?"), f"prompt {k}") for k in range(n)]


@pytest.mark.parametrize("method", METHODS)
def test_a_search_hangs_on_its_question_alone(method):
    """Not on what runs beside it, nor on how much of that."""
    plan = Plan(method, n=4, beam_width=2, lookahead=1)
    alone = [found(plan, task=task) for task in many(7)]
    for width in (1, 4, 100):
        policy = Writer()
        policy.width = width
        together = dict(search(many(7), policy, Judge(), plan))
        assert [together[i].tree() for i in range(7)] == [one.tree() for one in alone]
        assert [together[i].spent for i in range(7)] == [one.spent for one in alone]
    assert found(replace(plan, seed=1)).tree() != alone[0].tree() or method == "greedy"


def test_scores_of_several_questions_come_from_one_call():
    calls = []

    class Counts(Judge):
        def extend(self, steps):
            calls.append(len(steps))
            return super().extend(steps)

    policy = Writer()
    policy.width = 100
    list(search(many(6), policy, Counts(), Plan("beam", n=4, beam_width=2)))
    assert calls[0] > 6 and len(calls) < 12  # six questions, up to six steps each


def test_remembered_answers_are_not_asked_for_again():
    class Memory(dict):
        add = dict.__setitem__

    memory, plan = Memory(), Plan("dvts", n=4, beam_width=2)
    first = dict(search(many(3), Writer(), Judge(), plan, memory=memory))
    kept = dict(list(memory.items())[: len(memory) // 2])
    for known, asked_for in ((memory, 0), (kept, len(memory) - len(kept))):
        policy = Writer()
        again = dict(search(many(3), policy, Judge(), plan, memory=Memory(known)))
        assert {i: one.tree() for i, one in again.items()} == {i: one.tree() for i, one in first.items()}
        assert len(policy.requests) == asked_for


# --- a server -----------------------------------------------------------------------------------------------


def server_policy(url, **options):
    return ServerPolicy(url, "m", Sampling(0.7, 1.0, 64), tries=1, **options)


def test_questions_run_side_by_side_against_a_server():
    """A question whose answers are slow holds up no other: all others end while it waits."""
    import threading

    others_done = threading.Event()
    writer = Writer(end=1.0)

    def answer(body, _):
        prompt, prefix = asked(body)
        if prompt == "prompt 0":
            assert others_done.wait(30)
        return chat(writer.step(prefix, body["seed"]).removesuffix("\n\n"))

    with serving(answer) as server:
        ended = []
        for i, result in search(
            many(8), server_policy(server.url, concurrency=4), Judge(), Plan("beam", n=2, beam_width=2)
        ):
            ended.append(i)
            assert result.chosen is not None
            if len(ended) == 7:
                others_done.set()
        assert ended[-1] == 0 and sorted(ended) == list(range(8))


def test_a_server_finds_what_a_local_policy_finds():
    plan = Plan("beam", n=4, beam_width=2)
    with serving(
        lambda body, _: chat(Writer().step(asked(body)[1], body["seed"]).removesuffix("\n\n"))
    ) as server:
        served = dict(search(many(5), server_policy(server.url), Judge(), plan))
        stops = {tuple(body.get("stop", ())) for _, _, body in server.log}
    local = dict(search(many(5), Writer(), Judge(), plan))
    assert [texts(served[i]) for i in range(5)] == [texts(local[i]) for i in range(5)]
    assert [served[i].chosen for i in range(5)] == [local[i].chosen for i in range(5)]
    assert stops == {("\n\n",)}


def test_a_search_that_is_left_asks_nothing_more():
    """Whoever stops listening does not go on paying: of the requests that wait none is sent."""
    with serving(lambda body, _: chat("SELECT 1")) as server:
        policy = server_policy(server.url, concurrency=2)
        results = search(many(50), policy, Judge(), Plan("best-of-n", n=2))
        next(results)
        results.close()
        time.sleep(0.3)
        sent = len(server.log)
        time.sleep(0.3)
        assert len(server.log) == sent < 20


def test_a_server_that_nobody_runs_ends_the_search(monkeypatch):
    monkeypatch.setattr("prm.inference.policies.BACKOFF", 0.01)
    with pytest.raises(InputError, match=r"cannot be reached.*run the same command again"):
        list(search(many(5), server_policy("http://127.0.0.1:9/v1"), Judge(), Plan(n=2)))


# --- real models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_with_a_real_policy_and_prm(tiny_model_dir, make_model, tokenizer, family):
    """Random weights write no SQL, so steps go on until the end. Scores are those of whole traces; the
    PRM reads the prompt and every distinct step once."""
    from prm.inference.scoring import Scorer

    scorer = Scorer(make_model("llama"), tokenizer)
    policy = TransformersPolicy(str(tiny_model_dir(family)), Sampling(1.0, 1.0, 24), dtype="float32")
    plan = Plan("beam", n=4, beam_width=2, max_steps=4, delimiter="a")
    tasks = [Task(replace(ABOUT, question=f"How many, {k}?")) for k in range(2)]
    runs, read = [], []
    scorer.model.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for width in (16, 3):  # other batches
        policy.width = width
        runs.append(dict(search(tasks, policy, scorer, plan)))
    first, again = runs
    scored = [node for one in first.values() for node in one.nodes if node.score is not None]
    new = sum(len(scorer.encoder.step_ids(node.step.text, len(node.path()) - 1)) for node in scored)
    assert sum(read) == 2 * (new + sum(len(scorer.encoder.prompt_ids(task.about)) for task in tasks))
    n = 0
    for i, task in enumerate(tasks):
        assert [node.text for node in first[i].nodes] == [node.text for node in again[i].nodes]
        for node in first[i].nodes:
            if node.score is not None:
                trace = replace(task.about, steps=[one.step for one in node.path()])
                assert node.scores == pytest.approx(scorer.score([trace])[0], abs=1e-5)
                n += 1
        assert [c.value for c in first[i].candidates] == pytest.approx(
            [c.value for c in again[i].candidates], abs=1e-5
        )
    assert n > 4
