"""What attacks raise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.losses import CrossEntropy, Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.models.linear import Linear


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


def test_contract_confidence_hides_no_network_from_pgd():
    """One output, ahead by 30: every gradient of the usual cross-entropy is exactly 0."""
    model = Linear(outputs="one").build(image=(1, 2, 2), classes=2, seed=0)
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(15.0 if value.ndim > 1 else 0.0)
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.ones(3, dtype=torch.int64)
    x_adv = PGD(threat=ThreatModel(eps=0.1), steps=5, start="none")(model, x, y)
    torch.testing.assert_close(x_adv, x - 0.1)
