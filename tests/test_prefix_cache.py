"""`PrefixCache`: the scores of `Scorer.score`, and each token read once while there is memory for it."""

from __future__ import annotations

import random

import pytest

from prm.inference.prefix_cache import PrefixCache
from prm.inference.scoring import Scorer
from prm.traces.trace import Step, Trace

SCHEMA = "singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER)"
QUESTIONS = ["How many singers are above 20?", "How many singers are above 30?", "Which singers are there?"]
STEPS = [
    "Take the rows of singer where age is above 20.",
    "Count the rows of S1.\nSELECT COUNT(*) FROM S1",
    "Join stadium and concert on stadium_id.",
    "Order by year, limit 1.",
]


def requests(seed, n=60):
    """Traces as clients send them: few questions, steps that begin alike, repeats."""
    rng = random.Random(seed)
    return [
        Trace(
            rng.choice(QUESTIONS), [Step(rng.choice(STEPS)) for _ in range(rng.randint(1, 4))], schema=SCHEMA
        )
        for _ in range(n)
    ]


def read_by(scorer):
    read = []
    scorer.model.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return read


def scores_in_batches(cache, traces, max_tokens=300):
    waiting = cache.scorer.encoder.encode(traces, drop_long=False)
    scores = []
    while waiting:
        batch = cache.batch(waiting, max_tokens)
        assert batch.size == 1 or batch.new_tokens <= max_tokens
        scores += batch.run()
        waiting = waiting[batch.size :]
        assert cache.bytes <= cache.cache_bytes
        assert cache.bytes == sum(piece.bytes for piece in cache._kept)
    return scores


def distinct_prefixes(scorer, traces):
    encoded = scorer.encoder.encode(traces, drop_long=False)
    return len({tuple(one.input_ids[: n + 1]) for one in encoded for n in range(len(one.input_ids))})


@pytest.mark.parametrize("cache_bytes", [1 << 30, 60_000, 20_000, 0])
@pytest.mark.parametrize(("family", "seed"), [("llama", 0), ("qwen3", 1), ("qwen2", 2)])
def test_scores_are_those_of_the_scorer_whatever_memory_there_is(
    make_model, tokenizer, family, seed, cache_bytes
):
    """60,000 bytes hold some of what is asked for, 20,000 little, 0 nothing from one batch to the next."""
    scorer = Scorer(make_model(family), tokenizer)
    traces = requests(seed)
    expected = scorer.score(traces)
    read = read_by(scorer)
    scores = scores_in_batches(PrefixCache(scorer, cache_bytes=cache_bytes), traces)
    for row, other in zip(scores, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    least = distinct_prefixes(scorer, traces)
    assert sum(read) == least if cache_bytes == 1 << 30 else sum(read) > least


def test_a_known_trace_is_not_read_again(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    cache, traces = PrefixCache(scorer, cache_bytes=1 << 30), requests(3)
    first = scores_in_batches(cache, traces)
    read = read_by(scorer)
    assert scores_in_batches(cache, traces) == first
    assert read == []


def test_a_longer_answer_costs_its_new_steps(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    cache = PrefixCache(scorer, cache_bytes=1 << 30)
    read = read_by(scorer)
    for n in (1, 2, 4):
        trace = Trace(QUESTIONS[0], [Step(text) for text in STEPS[:n]], schema=SCHEMA)
        (scores,) = scores_in_batches(cache, [trace])
        assert len(scores) == n
    (whole,) = scorer.encoder.encode([trace], drop_long=False)
    first, second, _, last = whole.step_ends
    assert read[1:] == [second - first, last - second]


def test_hazards_multiply_up(make_model, tokenizer):
    scorer = Scorer(make_model("llama", loss="first_error"), tokenizer)
    traces = requests(4, 20)
    scores = scores_in_batches(PrefixCache(scorer, cache_bytes=1 << 30), traces)
    for row, other in zip(scores, scorer.score(traces), strict=True):
        assert row == pytest.approx(other, abs=1e-5) and row == sorted(row, reverse=True)


def test_a_backbone_that_reads_no_trees_goes_by_rows(make_model, tokenizer):
    changes = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    scorer = Scorer(make_model("qwen2", changes=changes), tokenizer)
    assert not scorer.model.reads_trees
    traces = requests(5, 20)
    cache = PrefixCache(scorer, cache_bytes=1 << 30)
    for row, other in zip(scores_in_batches(cache, traces), scorer.score(traces), strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    assert cache.bytes == 0


def test_a_forward_that_failed_leaves_nothing_half_known(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    cache, traces = PrefixCache(scorer, cache_bytes=1 << 30), requests(6, 20)
    scores_in_batches(cache, traces[:5])
    before = cache.bytes

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = scorer.model.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        scores_in_batches(cache, traces[5:])
    hook.remove()
    assert cache.bytes == before
    for row, other in zip(scores_in_batches(cache, traces), scorer.score(traces), strict=True):
        assert row == pytest.approx(other, abs=1e-5)
