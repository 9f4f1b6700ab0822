"""Scoring answers while they are written: the scores of `Scorer.score`, for the new tokens only."""

from __future__ import annotations

import gc
import random
from dataclasses import replace

import pytest

from prm.errors import InputError
from prm.inference.scoring import Scorer
from prm.traces.trace import Step, Trace

SCHEMA = "singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER)"
PROMPT = Trace("How many singers are above 20?", [], schema=SCHEMA)
STEPS = [
    "Take the rows of singer where age is above 20.",
    "Count the rows of S1.\nSELECT COUNT(*) FROM S1",
    "Join stadium and concert on stadium_id.",
    "Order by year, limit 1.",
]


def whole(scorer, branch):
    """The scores of the same answer, read at once."""
    (scores,) = scorer.score([Trace(PROMPT.question, [Step(s) for s in branch.steps], schema=PROMPT.schema)])
    return scores


def count_tokens(scorer):
    read = []
    scorer.model.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return read


@pytest.mark.parametrize("backbone", ["full", "lora", "frozen"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_branch_has_the_scores_of_the_whole_answer(make_model, tokenizer, family, backbone):
    scorer = Scorer(make_model(family, backbone=backbone), tokenizer)
    branch = scorer.start(PROMPT)
    assert (branch.steps, branch.scores) == ([], [])
    scores = [branch.extend(step) for step in STEPS]
    assert branch.steps == STEPS and branch.scores == pytest.approx(scores, abs=0)
    assert scores == pytest.approx(whole(scorer, branch), abs=1e-5)


def guided(scorer, seed, rounds=6):
    """A search as guided decoding makes it: extend, fork, drop, at random. The branches that are left."""
    rng = random.Random(seed)
    branches = [scorer.start(PROMPT)]
    for _ in range(rounds):
        steps = [rng.choice(STEPS) for _ in branches]
        scores = scorer.extend(list(zip(branches, steps, strict=True)))
        assert scores == [branch.scores[-1] for branch in branches]
        branches += [branch.fork() for branch in branches if rng.random() < 0.7]
        rng.shuffle(branches)
        for branch in branches[4:]:
            branch.drop()
        branches = branches[:4]
        assert scorer.branches.bytes <= scorer.branches.cache_bytes
    return branches


def test_searches_side_by_side_have_the_scores_of_whole_answers(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    prompts = [
        Trace(f"How many singers are {what}?", [], schema=SCHEMA) for what in ("old", "above 20", "in")
    ]
    beams = [[branch, branch.fork()] for branch in map(scorer.start, prompts)]
    for k in range(4):
        steps = [(branch, STEPS[(k + i) % 4]) for beam in beams for i, branch in enumerate(beam)]
        scorer.extend(steps)
        beams = [[beam[k % 2], beam[k % 2].fork()] for beam in beams]
    for prompt, (branch, _) in zip(prompts, beams, strict=True):
        (scores,) = scorer.score([replace(prompt, steps=[Step(text) for text in branch.steps])])
        assert branch.scores == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 60_000, 30_000, 0])
@pytest.mark.parametrize("seed", range(3))
def test_a_search_has_the_same_scores_whatever_memory_it_has(make_model, tokenizer, seed, cache_bytes):
    """60,000 bytes hold some of the branches, 30,000 hardly one, 0 none at all."""
    scorer = Scorer(make_model("qwen3"), tokenizer, cache_bytes=cache_bytes)
    read = count_tokens(scorer)
    branches = guided(scorer, seed)
    enough = Scorer(make_model("qwen3"), tokenizer)
    least = count_tokens(enough)
    guided(enough, seed)
    assert sum(read) == sum(least) if cache_bytes == 1 << 30 else sum(read) >= sum(least)
    assert cache_bytes > 30_000 or sum(read) > sum(least)
    for branch in branches:
        assert branch.scores == pytest.approx(whole(scorer, branch), abs=1e-5)


def test_a_step_costs_its_own_tokens(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    read = count_tokens(scorer)
    branch = scorer.start(PROMPT)
    branch.extend(STEPS[0])
    other = branch.fork()
    ids = [len(scorer.encoder.step_ids(step, k)) for k, step in enumerate(STEPS)]
    assert read == [len(scorer.encoder.prompt_ids(PROMPT)) + ids[0]]
    scorer.extend([(branch, STEPS[1]), (other, STEPS[2])])
    assert read[1:] == [ids[1] + ids[2]]  # both in one forward
    branch.extend(STEPS[3])
    assert read[2:] == [ids[3]]
    assert len(branch.scores) == 3 and len(read) == 3  # known scores cost nothing


def test_a_fork_goes_its_own_way(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    branch = scorer.start(PROMPT)
    branch.extend(STEPS[0])
    other = branch.fork()
    other.extend(STEPS[1])
    assert (branch.steps, other.steps) == (STEPS[:1], STEPS[:2])


def test_a_branch_may_start_with_steps(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    start = Trace(PROMPT.question, [Step(STEPS[0]), Step(STEPS[1])], schema=PROMPT.schema)
    branch = scorer.start(start)
    assert branch.scores == pytest.approx(scorer.score([start])[0], abs=1e-5)
    branch.extend(STEPS[2])
    assert branch.scores == pytest.approx(whole(scorer, branch), abs=1e-5)


def test_what_no_branch_stands_on_leaves_the_memory(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    branch = scorer.start(PROMPT)
    branch.extend(STEPS[0])
    one = scorer.branches.bytes
    other = branch.fork()
    assert scorer.branches.bytes == one  # nothing is copied
    other.extend(STEPS[1])
    assert scorer.branches.bytes > one
    other.drop()
    gc.collect()
    assert scorer.branches.bytes == one
    with pytest.raises(ValueError, match="was dropped"):
        other.extend(STEPS[2])
    del branch
    gc.collect()
    assert scorer.branches.bytes == 0


def test_scores_of_hazards_are_running_products(make_model, tokenizer):
    scorer = Scorer(make_model("llama", loss="first_error"), tokenizer)
    branch = scorer.start(PROMPT)
    for step in STEPS:
        branch.extend(step)
    assert branch.scores == sorted(branch.scores, reverse=True)
    assert branch.scores == pytest.approx(whole(scorer, branch), abs=1e-5)


def test_a_backbone_that_reads_no_trees_gives_the_same_by_rows(make_model, tokenizer):
    changes = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    scorer = Scorer(make_model("qwen2", changes=changes), tokenizer)
    assert not scorer.model.reads_trees
    for branch in guided(scorer, seed=0):
        assert branch.scores == pytest.approx(whole(scorer, branch), abs=1e-5)


def test_bfloat16_agrees_as_far_as_bfloat16_goes(make_model, tokenizer):
    scorer = Scorer(make_model("llama", dtype="bfloat16"), tokenizer)
    branch = scorer.start(PROMPT)
    for step in STEPS:
        branch.extend(step)
    assert branch.scores == pytest.approx(whole(scorer, branch), abs=0.05)


def test_what_goes_wrong_extends_no_branch(make_model, tokenizer):
    scorer = Scorer(make_model("llama", changes={"max_position_embeddings": 200}), tokenizer)
    branch, other = scorer.start(PROMPT), scorer.start(PROMPT)
    branch.extend(STEPS[0])
    with pytest.raises(InputError, match="the model reads 200"):
        scorer.extend([(branch, STEPS[1]), (other, "very long " * 300)])
    assert (branch.steps, other.steps) == (STEPS[:1], [])
    with pytest.raises(ValueError, match="named twice"):
        scorer.extend([(branch, STEPS[1]), (branch, STEPS[2])])
    branch.extend(STEPS[1])
    assert branch.scores == pytest.approx(whole(scorer, branch), abs=1e-5)
