"""Step losses against numbers worked out by hand, and what a head's output means under each."""

from __future__ import annotations

import math

import pytest
import torch

from prm.modeling.losses import SCORE_KINDS, loss_mask, scores_from_logits, step_loss

LN2 = math.log(2)
LN4 = math.log(4)
#: sigmoid(logit 3/1) = 3/4: -log is ln(4/3) for a right step, ln 4 for a wrong one.
THREE = math.log(3)
X = -100.0


def loss(logits, labels, kind="bce", **options):
    return step_loss(torch.tensor(logits), torch.tensor(labels), loss=kind, **options).item()


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([[0.0]], [[1.0]], LN2),
        ([[THREE, THREE]], [[1.0, 0.0]], (math.log(4 / 3) + LN4) / 2),
        # a soft label is a mixture: 0.25 ln(4/3) + 0.75 ln 4
        ([[THREE]], [[0.25]], 0.25 * math.log(4 / 3) + 0.75 * LN4),
        # unlabelled steps and padding count nowhere, whatever their logit
        ([[THREE, 50.0], [0.0, -50.0]], [[0.0, X], [1.0, X]], (LN4 + LN2) / 2),
        ([[7.0, -7.0]], [[X, X]], 0.0),
    ],
)
def test_bce(logits, labels, expected):
    assert loss(logits, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "bce", "first_error"),
    [
        ([1, 1, 1], [1, 1, 1], [1, 1, 1]),
        ([1, 0, 0], [1, 1, 1], [1, 1, 0]),
        ([0, 0, 0], [1, 1, 1], [1, 0, 0]),
        ([1, X, 0, X, 0], [1, 0, 1, 0, 1], [1, 0, 1, 0, 0]),
        ([0.6, 0.4, 0.9], [1, 1, 1], [1, 1, 0]),  # soft labels: below 0.5 is wrong
        ([0.5, 0.0, X], [1, 1, 0], [1, 1, 0]),
        ([X, X], [0, 0], [0, 0]),
    ],
)
def test_which_steps_each_loss_looks_at(labels, bce, first_error):
    labels = torch.tensor([labels, [1.0] * len(labels)], dtype=torch.float)
    for kind, expected in (("bce", bce), ("first_error", first_error)):
        assert loss_mask(labels, kind).int().tolist() == [expected, [1] * len(expected)]


def test_first_error_is_the_likelihood_of_a_survival_model():
    """Hazards 3/4, 1/2, and anything after the error: right, then wrong at step 1: -(ln 3/4 + ln 1/2) / 2."""
    expected = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    for after in (-9.0, 0.0, 9.0):
        assert loss([[THREE, 0.0, after]], [[1.0, 0.0, 0.0]], "first_error") == pytest.approx(expected)


def test_no_gradient_flows_from_steps_that_do_not_count():
    logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    step_loss(logits, torch.tensor([[0.0, 0.0, X]]), loss="first_error").backward()
    assert logits.grad[0, 0] > 0 and logits.grad[0, 1:].tolist() == [0, 0]
    logits.grad = None
    empty = step_loss(logits, torch.full((1, 3), X), loss="bce")
    empty.backward()  # a micro-batch without labels must still take part in the backward pass
    assert empty.item() == 0 and logits.grad.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "weights", "expected"),
    [
        ([1.0, 0.0], (1.0, 1.0), (math.log(4 / 3) + LN4) / 2),
        ([1.0, 0.0], (2.0, 0.5), (0.5 * math.log(4 / 3) + 2 * LN4) / 2),
        # a soft label takes the mean weight by its share: 0.25 x 0.5 + 0.75 x 2 = 1.625
        ([0.25, X], (2.0, 0.5), 1.625 * (0.25 * math.log(4 / 3) + 0.75 * LN4)),
    ],
)
def test_class_weights(labels, weights, expected):
    assert loss([[THREE, THREE]], [labels], class_weights=weights) == pytest.approx(expected)


@pytest.mark.parametrize("kind", list(SCORE_KINDS))
def test_parts_of_a_batch_add_up_by_num_items(kind):
    """However a batch is split, the sum of the parts' losses is the loss of the whole."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator)
    labels = torch.randint(0, 3, (6, 4), generator=generator).float()
    labels[labels == 2] = X
    count = loss_mask(labels, kind).sum()
    whole = step_loss(logits, labels, loss=kind)
    for cuts in ([3, 3], [1, 5], [2, 2, 2]):
        parts = zip(logits.split(cuts), labels.split(cuts), strict=True)
        total = sum(step_loss(a, b, loss=kind, num_items=count) for a, b in parts)
        assert total.item() == pytest.approx(whole.item(), rel=1e-6)


def test_losses_are_float32_in_half_precision():
    logits = torch.tensor([[THREE, 1e4]], dtype=torch.bfloat16)
    value = step_loss(logits, torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16), loss="bce")
    assert value.dtype == torch.float32 and value.item() == pytest.approx(5000, rel=1e-2)


@pytest.mark.parametrize(
    ("kind", "temperature", "expected"),
    [
        ("prefix", 1.0, [0.75, 0.5, 0.25]),
        ("hazard", 1.0, [0.75, 0.375, 0.09375]),  # the running product
        ("prefix", 2.0, [0.6339745962155614, 0.5, 0.3660254037844386]),  # sqrt(3) / (1 + sqrt(3))
        ("hazard", 2.0, [0.6339745962155614, 0.3169872981077807, 0.11602540378443859]),
    ],
)
def test_scores(kind, temperature, expected):
    logits = torch.tensor([[THREE, 0.0, -THREE]], dtype=torch.float64)
    scores = scores_from_logits(logits, score_kind=kind, temperature=temperature)
    assert scores.dtype == torch.float64
    assert scores[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_score_kinds():
    assert SCORE_KINDS == {"bce": "prefix", "first_error": "hazard"}
