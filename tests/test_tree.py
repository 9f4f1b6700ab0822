"""Token trees: what they hold, and that a model cannot tell them from one sequence a trace."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch

from prm.modeling.reading import step_states
from prm.modeling.tree_attention import (
    Joined,
    TreeMask,
    dense_attention,
    flex_attention,
    tree_attention,
    tree_blocks,
)
from prm.traces.encoding import EncodedTrace, Encoder
from prm.traces.tree import collate, distinct_tokens, plan_forwards, worth_sharing


def encoded(ids, ends=None, question="q", labels=None):
    ends = [len(ids) - 1] if ends is None else ends
    return EncodedTrace(list(ids), ends, labels or [1] * len(ends), question)


def one_tree(traces):
    ((tree,),) = plan_forwards(traces, max_tokens=None)
    return tree


def test_a_tree_by_hand():
    """1 2 3 4        0 1 2 3
    5 6  at        4 5       and a first token of its own: 7 8 at 6 7
    """
    traces = [encoded([7, 8]), encoded([1, 2, 5, 6], [1, 3]), encoded([1, 2, 3, 4], [1, 3]), encoded([1, 2])]
    tree = one_tree(traces)
    assert tree.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert tree.depths.tolist() == [0, 1, 2, 3, 2, 3, 0, 1]
    assert tree.subtree_ends.tolist() == [6, 6, 4, 4, 6, 6, 8, 8]
    assert tree.members == [3, 2, 1, 0]
    assert [ends.tolist() for ends in tree.step_ends] == [[1], [1, 3], [1, 5], [7]]
    assert TreeMask(torch.tensor(tree.subtree_ends)).dense[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ]


def random_traces(seed, n=8, longest=8, tokens=2):
    rng = random.Random(seed)
    return [encoded(rng.choices(range(tokens), k=rng.randint(1, longest))) for _ in range(n)]


@pytest.mark.parametrize("seed", range(20))
def test_a_token_sees_its_own_trace_and_no_other_token(seed):
    traces = random_traces(seed)
    tree = one_tree(traces)
    mask = TreeMask(torch.tensor(tree.subtree_ends)).dense[0, 0]
    for member, ends in zip(tree.members, tree.step_ends, strict=True):
        seen = mask[int(ends[-1])].nonzero().flatten().numpy()
        assert tree.ids[seen].tolist() == traces[member].input_ids
        assert tree.depths[seen].tolist() == list(range(len(seen)))
    prefixes = {tuple(t.input_ids[:n]) for t in traces for n in range(1, len(t.input_ids) + 1)}
    assert len(tree) == len(prefixes) == distinct_tokens(traces)  # every distinct token once


def test_questions_on_one_database_share_its_schema():
    traces = [encoded([1, 2, 3, 4]), encoded([1, 2, 5, 6]), encoded([1, 2, 3, 9], question="other")]
    assert len(one_tree(traces)) == 7


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("budget", [4, 9, 14])
def test_a_tree_too_large_is_cut_where_least_is_repeated(seed, budget, monkeypatch):
    """Against every way to cut the traces, in their order, into trees within the budget."""
    monkeypatch.setattr("prm.traces.tree.CUT_COST", 0)
    traces = sorted(random_traces(seed, n=7), key=lambda t: t.input_ids)
    trees = [tree for forward in plan_forwards(traces, max_tokens=budget) for tree in forward]
    assert sorted(m for tree in trees for m in tree.members) == list(range(7))
    for tree in trees:
        assert len(tree) <= budget or len(tree.members) == 1  # a trace is never cut

    def tokens(part):
        size = len({tuple(t.input_ids[:n]) for t in part for n in range(1, len(t.input_ids) + 1)})
        return size if size <= budget or len(part) == 1 else math.inf

    def cheapest(rest):
        return min(tokens(rest[:k]) + cheapest(rest[k:]) for k in range(1, len(rest) + 1)) if rest else 0

    assert sum(map(len, trees)) == cheapest(traces)


def test_a_cut_that_saves_next_to_nothing_is_not_made():
    traces = [encoded([1, *[k] * 50]) for k in range(4)]
    assert [len(tree) for (tree,) in plan_forwards(traces, max_tokens=101)] == [101, 101]


@pytest.mark.parametrize(
    ("budget", "forwards"),
    [
        (None, [[25]]),
        (20, [[9, 8, 2, 1], [5]]),
        (12, [[9, 2, 1], [8], [5]]),
        (9, [[9], [8, 1], [5, 2]]),
        (4, [[9], [8], [5], [2, 1]]),
    ],
)
def test_forwards_hold_at_most_the_budget(budget, forwards, monkeypatch):
    monkeypatch.setattr("prm.traces.tree.CUT_COST", -1)  # cut wherever it costs nothing
    traces = [encoded([k * 100 + i for i in range(n)]) for k, n in enumerate((2, 9, 1, 5, 8))]
    planned = plan_forwards(traces, max_tokens=budget)
    assert [[len(tree) for tree in forward] for forward in planned] == forwards


@pytest.mark.parametrize(
    ("budget", "sizes"),
    [
        (None, [[9, 8, 5, 2, 1]]),
        (20, [[9, 8], [5, 2, 1]]),
        (18, [[9, 8], [5, 2, 1]]),
        (15, [[9], [8], [5, 2, 1]]),
        (4, [[9], [8], [5], [2, 1]]),  # rows x longest row, so padding counts
    ],
)
def test_rows_hold_at_most_the_budget_padding_counted(budget, sizes):
    traces = [encoded(range(n)) for n in (2, 9, 1, 5, 8)]
    planned = plan_forwards(traces, max_tokens=budget, share=False)
    assert [[len(row) for row in forward] for forward in planned] == sizes


def test_collate_by_hand():
    traces = [
        encoded([1, 2, 3], [0, 2], labels=[1, None]),
        encoded([1, 4], [1], labels=[0.5]),
        encoded([9, 9], [0], "other", [0]),
    ]
    (trees,) = plan_forwards(traces, max_tokens=None)
    batch = collate(trees, traces, pad_id=7)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 9, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 1, 0, 1]]
    assert batch["subtree_ends"].tolist() == [[4, 3, 3, 4, 6, 6]]
    assert batch["step_ends"].tolist() == [[0, 2], [3, -1], [4, -1]]
    assert batch["labels"].tolist() == [[1, -100], [0.5, -100], [0, -100]]
    assert batch["index"].tolist() == [0, 1, 2]
    two = [tree for forward in plan_forwards(traces, max_tokens=4) for tree in forward]
    assert collate(two, traces, pad_id=7)["subtree_ends"].tolist() == [
        [4, 3, 3, 4, 6, 6]
    ]  # one behind the other
    (rows,) = plan_forwards(traces, max_tokens=None, share=False)
    batch = collate(rows, traces, pad_id=7, share=False)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [1, 4, 7], [9, 9, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    assert batch["step_ends"].tolist() == [[0, 2], [4, -1], [6, -1]]  # flat: row k begins at 3 k


# Attention put together from blocks


@pytest.mark.parametrize("many", [2, 8, 512])
@pytest.mark.parametrize("small", [1, 3, 8, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_blocks_join_each_token_to_each_ancestor_once(seed, small, many, monkeypatch):
    monkeypatch.setattr("prm.modeling.tree_attention.MANY", many)
    monkeypatch.setattr("prm.modeling.tree_attention.SHORT", 4)
    monkeypatch.setattr("prm.modeling.tree_attention.PIECE", 3)
    ends = one_tree(random_traces(seed, n=12, longest=12)).subtree_ends
    met = torch.zeros(len(ends), len(ends), dtype=torch.int)
    blocks = tree_blocks(ends.tolist(), small)
    done = set()
    for block in blocks:
        at = 0
        for keys in block.keys:
            n = keys.stop - keys.start
            met[block.queries, keys] += 1 if block.mask is None else block.mask[:, at : at + n].int()
            at += n
        tokens = set(range(block.queries.start, block.queries.stop))
        assert (
            (tokens <= done) if block.mask is None else not tokens & done
        )  # a token's own block comes first
        done |= tokens
    assert torch.equal(met, TreeMask(torch.tensor(ends)).dense[0, 0].int())
    assert (small == 1000) == (len(blocks) == 1)


@pytest.fixture(scope="module")
def qkv():
    """A tree of several levels, with queries, keys and values as a layer with grouped heads makes them."""
    # Each question is a short chain with much below, so that its keys and the schema's are read together.
    rng = random.Random(0)
    schema = rng.choices(range(50), k=200)
    traces = []
    for _ in range(3):
        question = schema + rng.choices(range(50), k=20)
        traces += [encoded(question + rng.choices(range(2), k=120)) for _ in range(6)]
    ends = torch.tensor(one_tree(traces).subtree_ends)
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, len(ends), heads, 16) for heads in (6, 2, 2))
    return ends, [torch.randn(shape, generator=generator).transpose(1, 2) for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_blocks_give_what_the_mask_gives_and_its_gradients(qkv, dtype, tolerance):
    ends, inputs = qkv
    tree = TreeMask(ends)
    assert len(tree.blocks) > 8
    assert {(b.mask is None, len(b.keys)) for b in tree.blocks} >= {(False, 1), (True, 1), (True, 2)}

    def run(attend):
        q, k, v = (x.detach().to(dtype, copy=True).requires_grad_() for x in inputs)
        out = attend(q, k, v)
        return out, *torch.autograd.grad(out, (q, k, v), torch.ones_like(out).cumsum(-1))

    module = SimpleNamespace(layer_idx=0)
    mask = tree.as_argument()
    blocks = run(lambda q, k, v: tree_attention(module, q, k, v, mask, scaling=0.25)[0].transpose(1, 2))
    dense = run(lambda q, k, v: dense_attention(q, k, v, tree, 0.25))
    for a, b in zip(blocks, dense, strict=True):
        assert a.dtype == dtype and (a - b).float().norm() < tolerance * b.float().norm()
    with torch.no_grad():
        again = tree_attention(module, *(x.to(dtype) for x in inputs), mask, scaling=0.25)[0].transpose(1, 2)
    assert torch.equal(again, blocks[0])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_what_the_mask_gives(qkv):
    ends, inputs = qkv
    tree = TreeMask(ends)
    torch.testing.assert_close(
        flex_attention(*inputs, tree, 0.25), dense_attention(*inputs, tree, 0.25), rtol=1e-5, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("calls", ["pieces", "searches", "branches"])
@pytest.mark.parametrize("searches", [1, 3])
def test_past_keys_are_seen_by_their_range_alone(qkv, monkeypatch, searches, calls):
    """Rows computed at once, and their second halves side by side with the keys of the first: each piece of
    them by itself, or together with the new tokens of its search, or with those of each of its branches.
    """
    monkeypatch.setattr("prm.modeling.tree_attention.JOINED_PAIRS", 0 if calls == "pieces" else 1 << 18)
    monkeypatch.setattr("prm.modeling.tree_attention.CALL_PAIRS", 0 if calls == "branches" else 1 << 13)
    _, qkv = qkv
    n, module = 200, SimpleNamespace(layer_idx=0)  # two branches of 50 behind 100
    ends = torch.tensor([n] * 100 + [150] * 50 + [n] * 50)
    wanted, new, past, new_ends = [], [], [], []
    for search in range(searches):
        q, k, v = (x[:, :, search * n : (search + 1) * n] for x in qkv)
        wanted.append(dense_attention(q, k, v, TreeMask(ends), 0.25)[:, :, 120:])
        at = 80 * search
        # The first branch's last tokens see both pasts, the second branch sees one.
        past += [
            (slice(at, at + 80), [(k[:, :, :100], v[:, :, :100])]),
            (slice(at, at + 30), [(k[:, :, 100:120], v[:, :, 100:120])]),
        ]
        new.append([x[:, :, 120:] for x in (q, k, v)])
        new_ends += [at + 30] * 30 + [at + 80] * 50
    tree = TreeMask(torch.tensor(new_ends), past, kept={})
    new = [torch.cat(parts, dim=2) for parts in zip(*new, strict=True)]
    wanted_calls = {
        "pieces": [],
        "searches": [Joined(slice(80 * k, 80 * k + 80), [2 * k, 2 * k + 1]) for k in range(searches)],
        "branches": [
            joined
            for k in range(searches)
            for joined in (
                Joined(slice(80 * k, 80 * k + 30), [2 * k, 2 * k + 1]),
                Joined(slice(80 * k + 30, 80 * k + 80), [2 * k]),
            )
        ],
    }
    assert tree.joined == wanted_calls[calls]
    with torch.no_grad():
        got = tree_attention(module, *new, tree.as_argument(), scaling=0.25)[0].transpose(1, 2)
    torch.testing.assert_close(got, torch.cat(wanted, dim=2), rtol=1e-5, atol=1e-6)
    pairs = [(queries, keys[0]) for queries, keys in past]
    torch.testing.assert_close(dense_attention(*new, tree, 0.25, pairs), got, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flex_attention(*new, tree, 0.25, pairs), got, rtol=1e-5, atol=1e-6)
    assert torch.equal(tree.kept[0][0], new[1])


# A model cannot tell them apart


def gradients(model, traces, *, share, max_tokens):
    """Logits, loss and gradients of one optimiser step over `traces`, in as many forwards as it takes."""
    count = sum(label is not None for trace in traces for label in trace.labels)
    model.zero_grad()
    logits, total, shapes = {}, 0.0, []
    for forward in plan_forwards(traces, max_tokens=max_tokens, share=share):
        batch = collate(forward, traces, pad_id=2, share=share)
        index = batch.pop("index").tolist()
        shapes.append(tuple(batch["input_ids"].shape))
        output = model(**batch, num_items_in_batch=count)
        if output.loss.requires_grad:
            output.loss.backward()
        total += output.loss.item()
        for member, row in zip(index, output.logits.detach(), strict=True):
            logits[member] = row[: len(traces[member].step_ends)]
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return [logits[i] for i in range(len(traces))], total, grads, shapes


def assert_same(one, other, *, rtol=1e-5):
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-5)
    assert one[1] == pytest.approx(other[1], rel=rtol)
    assert one[2].keys() == other[2].keys() and one[2]
    for name, grad in one[2].items():
        distance = (grad - other[2][name]).norm() / max(other[2][name].norm(), 1e-4)
        assert distance < 3 * rtol, (name, distance)


@pytest.fixture(scope="module")
def many(tokenizer, traces):
    return Encoder(tokenizer).encode(traces, drop_long=False)


@pytest.mark.parametrize("backbone", ["full", "lora", "frozen"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_tree_gives_the_scores_loss_and_gradients_of_single_sequences(make_model, many, family, backbone):
    model = make_model(family, backbone=backbone)
    assert model.reads_trees
    rows = gradients(model, many, share=False, max_tokens=1)  # every trace alone, nothing padded
    assert len(rows[3]) == len(many)
    trees = gradients(model, many, share=True, max_tokens=None)
    distinct = {tuple(t.input_ids[:n]) for t in many for n in range(1, len(t.input_ids) + 1)}
    assert trees[3] == [(1, len(distinct))]  # both questions in one row, every token once
    assert_same(rows, trees)
    assert any("lora" in name for name in trees[2]) == (backbone == "lora")


@pytest.mark.parametrize("max_tokens", [150, 200, 250])
def test_splitting_by_tokens_changes_nothing(make_model, many, max_tokens):
    model = make_model("qwen3")
    whole = gradients(model, many, share=True, max_tokens=None)
    split = gradients(model, many, share=True, max_tokens=max_tokens)
    assert len(split[3]) > 1
    assert_same(whole, split)
    padded = gradients(model, many, share=False, max_tokens=4096)
    assert len(padded[3]) == 1 and padded[3][0][0] == len(many)  # all rows in one forward, padded
    assert_same(whole, padded)


@pytest.mark.parametrize("backbone", ["full", "lora"])
def test_activation_checkpointing_changes_nothing(make_model, many, backbone):
    model = make_model("llama", backbone=backbone).train()
    plain = gradients(model, many, share=True, max_tokens=None)
    model.gradient_checkpointing_enable()
    assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    again = gradients(model, many, share=True, max_tokens=None)
    assert_same(plain, again)
    assert_same(gradients(model, many, share=False, max_tokens=1), again)
    model.gradient_checkpointing_disable()
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())


@pytest.mark.parametrize("max_tokens", [1, 7, 40, 150, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_states_read_in_windows_are_those_of_single_sequences(make_model, seed, max_tokens):
    """Windows end anywhere in the forest: in a prompt, in a step, between branches."""
    model = make_model("llama").eval()
    rng = random.Random(seed)
    traces = []
    for trace in random_traces(seed, n=12, longest=14):
        n = len(trace.input_ids)
        traces.append(encoded(trace.input_ids, sorted({*rng.choices(range(n), k=3), n - 1})))
    lengths, forward = [], model.backbone.forward
    model.backbone.forward = lambda **inputs: (
        lengths.append(inputs["input_ids"].numel()), forward(**inputs)
    )[1]  # fmt: skip
    read = step_states(model, traces, pad_id=0, max_tokens=max_tokens)
    found = {k: rows for members, states in read for k, rows in zip(members, states, strict=True)}
    model.backbone.forward = forward
    assert max(lengths) <= max_tokens and sum(lengths) == len(one_tree(traces))
    assert len(found) == len(traces)
    for k, trace in enumerate(traces):
        inputs = collate([one_tree([trace])], [trace], 0, share=False)
        with torch.no_grad():
            expected = model.features(**{n: v for n, v in inputs.items() if n not in ("labels", "index")})[0]
        torch.testing.assert_close(found[k], expected, rtol=1e-4, atol=1e-5)


def test_what_shares_nothing_is_read_in_rows(make_model):
    model = make_model("llama").eval()
    apart, alike = [encoded([k, 1, 2]) for k in range(4)], [encoded([1, 2, k]) for k in range(4)]
    assert not worth_sharing(apart) and worth_sharing(alike)
    shapes, forward = [], model.backbone.forward
    model.backbone.forward = lambda **inputs: (shapes.append(inputs["input_ids"].shape), forward(**inputs))[1]
    for traces in (apart, alike):
        assert len(dict(pair for pair in step_states(model, traces, pad_id=0, max_tokens=100)
                        for pair in zip(*pair, strict=True))) == 4  # fmt: skip
    assert shapes == [(4, 3), (1, 6)]


def test_shared_steps_count_as_often_as_they_occur(make_model, many):
    """Two equal traces weigh twice: tokens once, loss and gradients of both."""
    model = make_model("llama")
    trace, other = many[1], many[2]
    assert len(one_tree([trace, trace, other])) == len(one_tree([trace, other]))
    three = [trace, trace, other]
    twice = gradients(model, three, share=True, max_tokens=None)
    assert_same(gradients(model, three, share=False, max_tokens=1), twice)
    once = gradients(model, [trace, other], share=True, max_tokens=None)
    assert abs(twice[1] - once[1]) > 1e-3


@pytest.mark.parametrize(
    ("family", "changes", "attention"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, None),
        ("mistral", {"sliding_window": 8}, None),
        ("llama", {}, "eager"),
        ("llama", {}, "sdpa"),  # transformers' own, where it is asked for
        ("gemma2", {"layer_types": ["full_attention"] * 2}, None),  # caps its attention scores
        ("bloom", {"n_head": 4, "n_layer": 2}, None),  # positions by ALiBi, from the 2D mask
    ],
)
def test_attention_that_cannot_read_trees_gets_rows(tiny_model_dir, family, changes, attention):
    from prm.modeling import ProcessRewardModel

    model = ProcessRewardModel.from_backbone(
        str(tiny_model_dir(family, **changes)), attn_implementation=attention
    )
    assert not model.reads_trees


def test_rows_of_a_sliding_window_model_are_right(make_model, tokenizer, traces, many):
    from prm.inference.scoring import Scorer

    changes = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    model = make_model("qwen2", changes=changes)
    rows = gradients(model, many, share=False, max_tokens=1)
    with pytest.raises(ValueError, match="reads no token trees"):
        gradients(model, many, share=True, max_tokens=None)
    scored = Scorer(model, tokenizer).score(traces)
    for row, logits in zip(scored, rows[0], strict=True):
        assert row == pytest.approx(torch.sigmoid(logits).tolist(), abs=1e-5)
