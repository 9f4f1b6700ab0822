"""Token trees: what they hold, and that a model cannot tell them from one sequence a trace."""

from __future__ import annotations

import pytest
import torch

from prm.traces.encoding import EncodedTrace, Encoder
from prm.traces.tree import TokenTree, collate, merge, pack


def encoded(ids, ends=None, question="q", labels=None):
    ends = [len(ids) - 1] if ends is None else ends
    return EncodedTrace(list(ids), ends, labels or [1] * len(ends), question)


def test_a_tree_by_hand():
    """1 2 3 4        0 1 2 3
    5 6  at        4 5       and a first token of its own: 7 8 at 6 7
    """
    traces = [encoded([1, 2, 3, 4], [1, 3]), encoded([1, 2, 5, 6], [1, 3]), encoded([7, 8]), encoded([1, 2])]
    (tree,) = merge(traces)
    assert tree.ids == [1, 2, 3, 4, 5, 6, 7, 8]
    assert tree.parents == [-1, 0, 1, 2, 1, 4, -1, 6]
    assert tree.depths == [0, 1, 2, 3, 2, 3, 0, 1]
    assert tree.step_ends == [[1, 3], [1, 5], [7], [1]]
    assert tree.members == [0, 1, 2, 3]
    assert tree.branches
    assert tree.attention_mask(9).int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1],  # padding sees itself, so that no row of the softmax is empty
    ]


def test_the_mask_is_ancestry_for_random_trees():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        tree = TokenTree()
        for member in range(8):
            n = int(torch.randint(1, 9, (1,), generator=generator))
            tree.add(encoded(torch.randint(0, 2, (n,), generator=generator).tolist()), member)
        mask = tree.attention_mask(len(tree))
        for i in range(len(tree)):
            seen, j = set(), i
            while j >= 0:
                seen.add(j)
                j = tree.parents[j]
            assert set(mask[i].nonzero().flatten().tolist()) == seen
            assert tree.depths[i] == len(seen) - 1


def test_one_trace_or_equal_traces_do_not_branch():
    for traces in ([encoded([1, 2, 3])], [encoded([1, 2, 3])] * 3, [encoded([1, 2, 3]), encoded([1, 2])]):
        (tree,) = merge(traces)
        assert (len(tree), tree.branches, len(tree.members)) == (3, False, len(traces))


@pytest.mark.parametrize(
    ("max_tokens", "share", "members", "sizes"),
    [
        (None, True, [[0, 1], [2]], [6, 4]),
        (6, True, [[0, 1], [2]], [6, 4]),
        (5, True, [[0], [1], [2]], [4, 4, 4]),
        (1, True, [[0], [1], [2]], [4, 4, 4]),  # a trace is never cut, however small the budget
        (None, False, [[0], [1], [2]], [4, 4, 4]),
    ],
)
def test_who_shares_a_tree(max_tokens, share, members, sizes):
    traces = [encoded([1, 2, 3, 4]), encoded([1, 2, 5, 6]), encoded([1, 2, 3, 9], question="other")]
    trees = merge(traces, max_tokens=max_tokens, share=share)
    assert [tree.members for tree in trees] == members
    assert [len(tree) for tree in trees] == sizes


def test_new_tokens_is_what_adding_adds():
    tree = TokenTree()
    for member, trace in enumerate([encoded([1, 2, 3]), encoded([1, 2]), encoded([1, 4]), encoded([5])]):
        expected, before = tree.new_tokens(trace), len(tree)
        tree.add(trace, member)
        assert len(tree) - before == expected


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
def test_forwards_hold_at_most_the_budget_padding_counted(budget, sizes):
    trees = [merge([encoded(range(n))])[0] for n in (2, 9, 1, 5, 8)]
    assert [[len(tree) for tree in forward] for forward in pack(trees, budget)] == sizes


def test_collate_by_hand():
    traces = [
        encoded([1, 2, 3], [0, 2], labels=[1, None]),
        encoded([1, 4], [1], labels=[0.5]),
        encoded([9, 9], [0], "other", [0]),
    ]
    batch = collate(merge(traces), traces, pad_id=7)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [9, 9, 7, 7]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 1], [0, 1, 0, 0]]
    assert batch["attention_mask"].shape == (2, 1, 4, 4)
    assert batch["step_ends"].tolist() == [[0, 2], [3, -1], [4, -1]]  # flat: row 1 begins at 4
    assert batch["labels"].tolist() == [[1, -100], [0.5, -100], [0, -100]]
    assert batch["index"].tolist() == [0, 1, 2]
    rows = collate(merge(traces, share=False), traces, pad_id=7)
    assert rows["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]


# A model cannot tell them apart


def gradients(model, traces, *, share, max_tokens):
    """Logits, loss and gradients of one optimiser step over `traces`, in as many forwards as it takes."""
    count = sum(label is not None for trace in traces for label in trace.labels)
    model.zero_grad()
    logits, total, shapes = {}, 0.0, []
    for forward in pack(merge(traces, max_tokens=max_tokens, share=share), max_tokens):
        batch = collate(forward, traces, pad_id=2)
        index = batch.pop("index").tolist()
        shapes.append(tuple(batch["attention_mask"].shape))
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
    assert len(trees[3]) == 1 and len(trees[3][0]) == 4  # both questions in one forward, by a tree mask
    assert_same(rows, trees)
    assert any("lora" in name for name in trees[2]) == (backbone == "lora")


@pytest.mark.parametrize("max_tokens", [150, 250, 400])
def test_splitting_by_tokens_changes_nothing(make_model, many, max_tokens):
    model = make_model("qwen3")
    whole = gradients(model, many, share=True, max_tokens=None)
    split = gradients(model, many, share=True, max_tokens=max_tokens)
    assert len(split[3]) > 1
    assert_same(whole, split)
    padded = gradients(model, many, share=False, max_tokens=4096)
    assert len(padded[3]) == 1 and len(padded[3][0]) == 2  # all rows in one forward, of different lengths
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


def test_shared_steps_count_as_often_as_they_occur(make_model, many):
    """Two equal traces weigh twice: tokens once, loss and gradients of both."""
    model = make_model("llama")
    trace, other = many[1], many[2]
    (tree,) = merge([trace, trace, other])
    assert len(tree) == len(merge([trace, other])[0])
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
    trees = gradients(model, many, share=True, max_tokens=None)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(rows[0], trees[0], strict=True))  # why it matters
    scored = Scorer(model, tokenizer).score(traces)
    for row, logits in zip(scored, rows[0], strict=True):
        assert row == pytest.approx(torch.sigmoid(logits).tolist(), abs=1e-5)
