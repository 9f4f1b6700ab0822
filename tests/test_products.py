"""Products with frozen weights are those of PyTorch's linear layers, whichever library computes them."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from prm.modeling import products
from prm.modeling.products import linear, use_fastest_products

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
ONEDNN = "mkldnn::_linear_pointwise"


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def onednn(request, monkeypatch) -> bool:
    """Both ways on every CPU."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: request.param)
    return request.param


def run_by(function, *args) -> tuple[torch.Tensor, bool]:
    """The result, and whether oneDNN's product was called for it."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        result = function(*args)
    return result, ONEDNN in {event.key for event in profiled.key_averages()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 37, 24), (3, 5, 24), (24,), (1, 0, 24)])
@torch.no_grad()
def test_a_product_is_that_of_f_linear(onednn, shape, bias):
    torch.manual_seed(0)
    x, weight, shift = torch.randn(shape), torch.randn(40, 24), torch.randn(40) if bias else None
    result, by_onednn = run_by(linear, x, weight, shift)
    assert by_onednn == onednn
    torch.testing.assert_close(result, F.linear(x, weight, shift), rtol=1e-5, atol=1e-5)
    backward = torch.randn(7, 40)
    torch.testing.assert_close(linear(backward, weight.T), backward @ weight, rtol=1e-5, atol=1e-5)
    across = torch.randn(5, 24, 2).transpose(1, 2)
    torch.testing.assert_close(linear(across, weight), F.linear(across, weight), rtol=1e-5, atol=1e-5)


def layer() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40))
    use_fastest_products(model)
    return model


def test_with_gradients_and_in_other_dtypes_a_layer_is_pytorchs_own(onednn):
    model, x = layer(), torch.randn(2, 24)
    out, by_onednn = run_by(model, x)
    assert not by_onednn and out.grad_fn is not None
    with torch.inference_mode():
        assert run_by(model, x)[1] == onednn
        with torch.autocast("cpu", torch.bfloat16):
            out, by_onednn = run_by(model, x)
            assert out.dtype == torch.bfloat16 and not by_onednn
        model.bfloat16()
        assert not run_by(model, x.bfloat16())[1]


def test_a_layer_whose_weights_have_changed_computes_with_the_new_ones(onednn):
    model, x = layer(), torch.randn(2, 24)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with torch.no_grad():
        before = model(x)
    model(x).sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = model(x)
    assert (before - after).abs().max() > 0.1
    torch.testing.assert_close(after, F.linear(x, model[0].weight, model[0].bias), rtol=1e-5, atol=1e-5)


def test_a_layer_is_still_a_linear_layer_to_others():
    model = layer()
    assert isinstance(model[0], nn.Linear) and list(model.state_dict()) == ["0.weight", "0.bias"]
    again = pickle.loads(pickle.dumps(model))
    x = torch.randn(2, 24)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_scores_losses_and_gradients_are_the_same_by_both_libraries(make_model, monkeypatch):
    torch.manual_seed(0)
    model = make_model(backbone="lora")
    inputs = {
        "input_ids": torch.randint(3, 200, (2, 12)),
        "attention_mask": torch.ones(2, 12, dtype=torch.long),
        "step_ends": torch.tensor([[5, 11], [17, 23]]),
        "labels": torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
    }
    found = []
    for preferred in (True, False):
        monkeypatch.setattr(products, "prefers_onednn", lambda preferred=preferred: preferred)
        model.zero_grad()
        model.train()
        out, by_onednn = run_by(lambda: model(**inputs))
        assert by_onednn == preferred
        out.loss.backward()
        model.eval()
        with torch.inference_mode():
            scores, by_onednn = run_by(lambda: model(**inputs).logits)
        assert by_onednn == preferred
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((out.loss.detach(), scores, grads))
    (loss, scores, grads), (other_loss, other_scores, other_grads) = found
    torch.testing.assert_close(loss, other_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(scores, other_scores, rtol=1e-5, atol=1e-6)
    assert grads.abs().max() > 0
    assert (grads - other_grads).norm() < 1e-5 * other_grads.norm()
