"""Step losses, and what a head's output means under each.

Both losses are binary cross-entropy on one logit a step; they differ in the steps they look at.

* `bce`: every labelled step. The head learns P(no error up to and including this step) itself
  (`score_kind="prefix"`), as PRM800K-style process reward models do (Lightman et al. 2023).
* `first_error`: only the steps up to and including the first error. After it nothing can be learnt about
  *when* a trace goes wrong; what remains is the likelihood of a discrete-time survival model (Singer and
  Willett 1993). The head learns P(step right | all before it right) (`score_kind="hazard"`), and the score is
  the running product.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from prm.traces.encoding import IGNORE

SCORE_KINDS = {"bce": "prefix", "first_error": "hazard"}


def loss_mask(labels: torch.Tensor, loss: str) -> torch.Tensor:
    """Which steps the loss looks at: bool of the shape of `labels` (n_traces, n_steps; -100 = unlabelled)."""
    labelled = labels != IGNORE
    if loss == "bce":
        return labelled
    wrong = labelled & (labels < 0.5)
    return labelled & (wrong.cumsum(-1) - wrong.long() == 0)


def step_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    loss: str,
    num_items: torch.Tensor | float | None = None,
    class_weights: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Sum over the steps that count, divided by their number.

    Args:
        logits: (n_traces, n_steps), one logit a step; the sigmoid is the probability that the step is right.
        labels: same shape, in [0, 1], soft labels allowed; -100 where a step counts nowhere.
        num_items: the number of steps that count in the whole optimiser step, over all accumulation steps and
            processes. Without it, those of this call.
        class_weights: (weight of wrong steps, weight of right steps); soft labels take the mean by their
            share.

    Returns:
        A float32 scalar; 0 (with a gradient of 0) where no step counts.
    """
    mask = loss_mask(labels, loss)
    logits = logits.float()
    target = torch.where(mask, labels.float(), 0.0)
    values = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if class_weights is not None:
        wrong, right = class_weights
        values = values * (wrong * (1 - target) + right * target)
    if num_items is None:
        num_items = mask.sum().clamp(min=1)
    return torch.where(mask, values, 0.0).sum() / num_items


def scores_from_logits(logits: torch.Tensor, *, score_kind: str, temperature: float = 1.0) -> torch.Tensor:
    """P(no error up to and including each step), float64 of the shape of `logits`.

    A head of hazards gives P(right | right so far); its running product over the steps is that probability.
    """
    probability = torch.sigmoid(logits.double() / temperature)
    return probability.cumprod(-1) if score_kind == "hazard" else probability
