"""Losses against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_lite import losses
from gloro_lite.bottom import bottom_logit


@given(st.integers(0, 10**6), st.sampled_from(["kl", "ce"]))
def test_trades_closed_form_is_the_divergence(seed, kind):
    torch.manual_seed(seed)
    outputs = (3 * torch.randn(7, 5, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, 4, (7,))
    p = torch.cat((outputs[:, :4].softmax(1), torch.zeros(7, 1, dtype=torch.float64)), dim=1)
    q = outputs.softmax(1)
    divergence = -(p * q.log()).sum(1)
    if kind == "kl":
        divergence = divergence + torch.where(p > 0, p * p.clamp_min(1e-300).log(), 0.0).sum(1)
    expected = torch.nn.functional.cross_entropy(outputs[:, :4], labels) + 1.7 * divergence.mean()
    found = losses.trades(outputs, labels, 1.7, kind)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    (a,) = torch.autograd.grad(found, outputs)
    (b,) = torch.autograd.grad(expected, outputs)
    assert torch.allclose(a, b, atol=1e-12)


def test_trades_refuses_another_kind():
    with pytest.raises(ValueError, match="'kl' or 'ce'"):
        losses.trades(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64), 1.0, "js")


def test_cross_entropy_counts_bottom_as_wrong():
    outputs = torch.tensor([[0.0, 0.0, 0.0]])
    assert losses.cross_entropy(outputs, torch.tensor([1])).item() == pytest.approx(torch.tensor(3.0).log().item())


def test_emma_moves_each_rival_as_far_as_it_could_come():
    logits = torch.tensor([[2.0, 1.0, -50.0]], dtype=torch.float64)
    constants = torch.tensor([[0.0, 4.0, 4.0], [4.0, 0.0, 4.0], [4.0, 4.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0])
    # Class 1 overtakes at radius 1/4, below epsilon = 1, so it ties; class 2 cannot within 1 and moves by the whole of it.
    expected = torch.nn.functional.cross_entropy(torch.tensor([[2.0, 2.0, -46.0]], dtype=torch.float64), labels)
    assert losses.emma(logits, labels, constants, 1.0).item() == pytest.approx(expected.item(), abs=1e-12)
    wrong = torch.tensor([1])  # class 0 has overtaken already: the smallest radius, 0.01 epsilon; class 2 moves by the whole
    expected = torch.nn.functional.cross_entropy(torch.tensor([[2.04, 1.0, -46.0]], dtype=torch.float64), wrong)
    assert losses.emma(logits, wrong, constants, 1.0).item() == pytest.approx(expected.item(), abs=1e-12)
    assert bottom_logit(logits, constants, 1.0).item() == 5.0


def test_emma_has_the_gradient_of_the_constants():
    rows = torch.randn(3, 4, requires_grad=True)
    constants = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    losses.emma(torch.randn(6, 3), torch.randint(0, 3, (6,)), constants, 0.5).backward()
    assert rows.grad.isfinite().all() and rows.grad.abs().sum() > 0


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]))
def test_generalised_cross_entropy_is_its_definition_between_two_known_losses(seed, q):
    torch.manual_seed(seed)
    outputs = (3 * torch.randn(7, 5, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, 4, (7,))
    p = outputs.softmax(1).gather(1, labels[:, None]).squeeze(1)
    expected = ((1 - p**q) / q).mean() if q else -p.log().mean()
    found = losses.generalised_cross_entropy(outputs, labels, q)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    # Its gradient is the cross-entropy's, weighted by p^q.
    (gradient,) = torch.autograd.grad(found, outputs)
    (weighted,) = torch.autograd.grad(-(p.detach() ** q * p.log()).mean(), outputs)
    assert torch.allclose(gradient, weighted, atol=1e-12)


def test_by_name_gives_each_loss():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.randint(0, 3, (6,))
    constants = torch.rand(3, 3)
    outputs = torch.cat((logits, bottom_logit(logits, constants, 0.5)[:, None]), dim=1)
    expected = {
        "standard": torch.nn.functional.cross_entropy(logits, labels),
        "cross_entropy": losses.cross_entropy(outputs, labels),
        "gce": losses.generalised_cross_entropy(outputs, labels, 0.7),
        "trades": losses.trades(outputs, labels, 0.7),
        "trades_ce": losses.trades(outputs, labels, 0.7, "ce"),
        "emma": losses.emma(logits, labels, constants, 0.5),
    }
    assert set(expected) == set(losses.LOSSES)
    for name, value in expected.items():
        assert losses.by_name(name, logits, labels, constants, 0.5, 0.7) == value
        both = losses.by_name(name, logits, labels, constants, 0.5, 0.7, 0.2)
        assert both.item() == pytest.approx(value.item() + 0.2 * expected["standard"].item(), rel=1e-6)
    with pytest.raises(ValueError, match="loss must be one of standard, cross_entropy"):
        losses.by_name("hinge", logits, labels, constants, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hinge",), "loss must be one of"),
        (("gce", 1.5), "at most 1 where it is the q"),
        (("trades", -1.0), "finite and at least 0"),
        (("trades", float("nan")), "finite and at least 0"),
        (("emma", 1.0, float("inf")), "clean_weight must be finite"),
    ],
)
def test_weights_that_a_loss_does_not_take(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.check(*arguments)
