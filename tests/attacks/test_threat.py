"""The ball, its box and its refusals."""

from __future__ import annotations

import math

import pytest
import torch

from robustscape.attacks.threat import ThreatModel, l2_norm
from robustscape.streams import numbered
from robustscape.types import BadInput


@pytest.mark.parametrize(
    ("norm", "eps", "hint"),
    [("linf", 8, "did you mean 8/255?"), ("l2", 128, "did you mean 128/255?"), ("linf", -0.1, "outside")],
)
def test_contract_an_eps_that_cannot_be_meant_is_refused(norm, eps, hint):
    with pytest.raises(BadInput, match=hint.replace("?", r"\?")):
        ThreatModel(norm=norm, eps=eps)


@pytest.mark.parametrize("eps", [math.nan, math.inf])
def test_contract_non_finite_eps_is_refused(eps):
    with pytest.raises(BadInput):
        ThreatModel(eps=eps)


def test_closed_form_projection_linf_by_hand():
    x = torch.tensor([[0.5, 0.05, 0.95]])
    moved = ThreatModel(norm="linf", eps=0.1).project(torch.tensor([[0.9, -1.0, 1.0]]), x)
    assert torch.allclose(moved, torch.tensor([[0.6, 0.0, 1.0]]))


def test_closed_form_projection_l2_by_hand():
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    far = x + torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    moved = ThreatModel(norm="l2", eps=0.1).project(far, x)
    assert torch.allclose(moved, x + torch.tensor([[0.06, 0.08]], dtype=torch.float64), atol=1e-12)


def test_closed_form_steepest_maximises_a_linear_loss():
    gradient = torch.tensor([[3.0, -4.0, 0.0]])
    assert torch.equal(ThreatModel(norm="linf").steepest(gradient), torch.tensor([[1.0, -1.0, 0.0]]))
    assert torch.allclose(ThreatModel(norm="l2").steepest(gradient), torch.tensor([[0.6, -0.8, 0.0]]))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_closed_form_l2_direction_has_unit_norm_at_any_scale(scale):
    gradient = torch.tensor([[3.0, -4.0]]) * scale
    assert torch.allclose(ThreatModel(norm="l2").steepest(gradient), torch.tensor([[0.6, -0.8]]))


def test_closed_form_zero_gradient_moves_nothing():
    zero = torch.zeros(2, 3)
    for norm in ("linf", "l2"):
        assert torch.equal(ThreatModel(norm=norm).steepest(zero), zero)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_closed_form_samples_fill_the_ball_uniformly(norm):
    x = torch.full((20_000, 2), 0.5, dtype=torch.float64)
    delta = ThreatModel(norm=norm, eps=0.2).sample(x, numbered(x, "s")) - x
    length = delta.abs().amax(dim=1) if norm == "linf" else l2_norm(delta)
    # The share of a uniform ball within half its radius is 2^-d; here d = 2; four standard errors.
    assert length.max() <= 0.2 + 1e-12
    assert abs((length < 0.1).double().mean() - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5


def test_contract_eps_of_each_example():
    x = torch.full((3, 4), 0.5)
    eps = torch.tensor([0.0, 0.1, 0.2])
    for norm in ("linf", "l2"):
        threat = ThreatModel(norm=norm, eps=0.05)
        moved = threat.project(x + 1, x, eps) - x
        length = moved.abs().amax(dim=1) if norm == "linf" else l2_norm(moved)
        assert torch.allclose(length, eps, atol=1e-6)
