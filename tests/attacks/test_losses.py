"""What attacks raise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import DLR, KL, CrossEntropy, Margin, TargetedDLR, runner_up
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.models.linear import Linear
from robustscape.types import BadInput


def _logits(leads: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(len(leads), 4, generator=torch.Generator().manual_seed(0))
    logits[:, 1] = logits.logsumexp(dim=1) + torch.tensor(leads)
    return logits, torch.ones(len(leads), dtype=torch.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_cross_entropy_and_its_gradient_at_any_lead(dtype):
    logits, y = _logits([-200.0, -20.0, 0.0, 3.0, 17.0, 40.0, 80.0])
    logits = logits.to(dtype).requires_grad_()
    loss = CrossEntropy()(nn.Identity(), logits, y)
    torch.testing.assert_close(loss, F.cross_entropy(logits, y, reduction="none"), rtol=1e-5, atol=1e-7)
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    exact = logits.detach().double().softmax(dim=1)
    exact[:, 1] = -exact[:, [0, 2, 3]].sum(dim=1)  # minus 1 would be rounded away in float64 as well
    torch.testing.assert_close(slope.double(), exact, rtol=1e-4, atol=0.0)


def test_closed_form_soft_targets():
    logits, _ = _logits([0.0, 1.0])
    target = torch.tensor([[0.1, 0.7, 0.1, 0.1], [0.0, 1.0, 0.0, 0.0]])
    wanted = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(CrossEntropy()(nn.Identity(), logits, target), wanted)


def test_closed_form_the_margin_is_the_largest_wrong_logit_minus_the_right_one():
    logits, y = torch.tensor([[1.0, 3.0, 2.5], [4.0, 0.0, -1.0]]), torch.tensor([1, 1])
    assert Margin()(nn.Identity(), logits, y).tolist() == [-0.5, 4.0]


def test_closed_form_ratios_of_logit_differences_by_hand():
    logits = torch.tensor([[4.0, 3.0, 1.0, 0.0, -5.0], [4.0, 3.0, 1.0, 0.0, -5.0], [4.0, 3.0, 1.0, 0.0, -5.0]])
    y, towards = torch.tensor([0, 1, 4]), torch.tensor([2, 4, 0])
    assert torch.allclose(DLR()(nn.Identity(), logits, y), torch.tensor([-1 / 3, 1 / 3, 3.0]))
    pairs = torch.stack([y, towards], dim=1)
    assert torch.allclose(TargetedDLR()(nn.Identity(), logits, pairs), torch.tensor([-3.0, -8.0, 9.0]) / 3.5)


def test_closed_form_ratios_do_not_change_when_logits_are_scaled_and_shifted():
    logits, y = _logits([-3.0, 0.0, 1.0, 5.0])
    logits = logits.double()
    pairs = TargetedDLR().target(nn.Identity(), logits, y)
    for loss, target in ((DLR(), y), (TargetedDLR(), pairs)):
        first, other = (loss(nn.Identity(), z, target) for z in (logits, 1000 * logits + 7))
        torch.testing.assert_close(first, other)


def test_closed_form_the_gradient_flows_through_the_denominator():
    """What does not change when logits are scaled has no slope along them."""
    logits, y = _logits([-3.0, 0.0, 1.0, 5.0])
    logits = logits.double().requires_grad_()
    for loss, target in ((DLR(), y), (TargetedDLR(), torch.stack([y, y + 1], dim=1))):
        (slope,) = torch.autograd.grad(loss(nn.Identity(), logits, target).sum(), logits)
        assert float(slope.abs().sum(dim=1).min()) > 0.1
        along = torch.stack([(slope * logits).sum(dim=1), slope.sum(dim=1)]).detach()
        torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-10)


@pytest.mark.parametrize("classes", [2, 3])
def test_closed_form_with_few_classes_they_are_differences(classes):
    logits = torch.tensor([[1.0, 3.0, 2.5], [4.0, 0.0, -1.0]])[:, :classes]
    y, other = torch.tensor([1, 1]), torch.tensor([0, 0])
    pairs = torch.stack([y, other], dim=1)
    assert TargetedDLR()(nn.Identity(), logits, pairs).tolist() == [-2.0, 4.0]
    if classes == 2:
        assert torch.equal(DLR()(nn.Identity(), logits, y), Margin()(nn.Identity(), logits, y))
    assert bool(DLR().note(classes)) is (classes < 3) and TargetedDLR().note(classes).startswith("targeted DLR")
    assert DLR().note(4) == TargetedDLR().note(4) == ""


def test_closed_form_the_other_classes_in_the_order_of_their_logits():
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0], [4.0, 0.0, -1.0, 2.0]])
    y = torch.tensor([3, 1])
    order = torch.stack([runner_up(logits, y, torch.full((2,), rank)) for rank in range(3)], dim=1)
    assert order.tolist() == [[1, 2, 0], [0, 3, 2]]


def test_contract_pgd_raises_the_targeted_ratio_of_the_runner_up():
    x = torch.tensor([[[[0.9, 0.6, 0.5, 0.1]]]])
    attack = PGD(threat=ThreatModel(eps=0.2), steps=8, start="none", loss=TargetedDLR())
    x_adv = attack(nn.Flatten(), x, torch.tensor([0]))
    torch.testing.assert_close(x_adv[0, 0, 0, :2], torch.tensor([0.7, 0.8]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_divergence_and_its_gradient_at_any_lead(dtype):
    """Of outputs that are surer, and less sure, than the clean ones."""
    clean, _ = _logits([0.0, 3.0, 17.0, 40.0, 60.0])
    moved = clean.clone()
    moved[:, 1] += torch.tensor([0.5, -1.0, 1.0, -2.0, 3.0])
    moved[:, 2] += 0.25
    p, q = (logits.double().softmax(dim=1) for logits in (clean, moved))
    for probabilities in (p, q):
        probabilities[:, 1] = -torch.expm1(torch.log(probabilities[:, [0, 2, 3]].sum(dim=1)))
    loss, logits = KL(), moved.to(dtype).requires_grad_()
    target = loss.target(nn.Identity(), clean.to(dtype), torch.zeros(5, dtype=torch.int64))
    value = loss(nn.Identity(), logits, target)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    wanted = q - p
    wanted[:, 1] = -wanted[:, [0, 2, 3]].sum(dim=1)  # near 1 the difference would be rounded away
    torch.testing.assert_close(slope.double(), wanted, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(value.double()[:2], (p * (p / q).log()).sum(dim=1)[:2], rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("direction", ["reverse", "symmetric"])
def test_closed_form_the_divergence_the_other_way_round_and_of_both(direction):
    clean, _ = _logits([-2.0, 0.0, 3.0, 8.0])
    clean = clean.double()
    moved = (clean + torch.tensor([0.5, -1.0, 0.25, 0.0], dtype=torch.float64)).requires_grad_()
    loss = KL(direction=direction)
    value = loss(nn.Identity(), moved, loss.target(nn.Identity(), clean, torch.zeros(4, dtype=torch.int64)))
    p, q = clean.softmax(dim=1), moved.softmax(dim=1)
    there, back = (p * (p / q).log()).sum(dim=1), (q * (q / p).log()).sum(dim=1)
    wanted = back if direction == "reverse" else (there + back) / 2
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad(some.sum(), moved, retain_graph=True)[0] for some in (value, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-12)


def test_contract_an_unknown_direction_is_refused():
    with pytest.raises(BadInput, match="one of forward, reverse, symmetric, not 'up'"):
        KL(direction="up")  # pyright: ignore[reportArgumentType]


def test_closed_form_the_divergence_is_0_at_the_clean_input():
    logits, y = _logits([-3.0, 0.0, 30.0])
    loss = KL()
    x = logits.requires_grad_()
    value = loss(nn.Identity(), x, loss.target(nn.Identity(), x, y))
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert float(value.detach().abs().max()) == 0 and float(slope.abs().max()) < 1e-6


@pytest.mark.parametrize("attack", [PGD(steps=5, start="gaussian"), FGSM(random_start=True)], ids=["pgd", "fgsm"])
def test_contract_attacks_give_the_divergence_the_clean_outputs_once(attack):
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach())
            return x.flatten(1) @ torch.linspace(-1, 1, 12, device=x.device).view(4, 3)

    x, y = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 3
    x_adv = replace(attack, threat=ThreatModel(eps=0.1), loss=KL())(Spy(), x, y)
    steps = attack.steps if isinstance(attack, PGD) else 1
    assert len(seen) == steps + 1 and torch.equal(seen[0], x)
    before, after = (Spy()(inputs).softmax(dim=1) for inputs in (x, x_adv))
    assert float((before * (before / after).log()).sum(dim=1).min()) > 1e-4


def test_contract_under_the_divergence_misclassified_means_by_the_labels():
    """The third image is misclassified from the start: its search ends there, whatever the divergence."""
    x = torch.tensor([[[[0.2, 0.8]]], [[[0.8, 0.2]]], [[[0.45, 0.55]]]])
    y = torch.tensor([1, 0, 0])
    attack = PGD(threat=ThreatModel(eps=0.1), steps=8, start="gaussian", result="misclassified", loss=KL())
    x_adv = attack(nn.Flatten(), x, y)
    assert float((x_adv - x)[2].abs().max()) < 0.01
    assert float((x_adv - x)[:2].abs().amax(dim=(1, 2, 3)).min()) > 0.09


def test_contract_confidence_hides_no_network_from_pgd():
    """One output, ahead by 30: every gradient of the usual cross-entropy is exactly 0."""
    model = Linear(outputs="one").build(image=(1, 2, 2), classes=2, seed=0)
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(15.0 if value.ndim > 1 else 0.0)
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.ones(3, dtype=torch.int64)
    x_adv = PGD(threat=ThreatModel(eps=0.1), steps=5, start="none")(model, x, y)
    torch.testing.assert_close(x_adv, x - 0.1)
