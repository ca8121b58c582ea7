"""Random noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robustscape.attacks.noise import Noise
from robustscape.attacks.threat import ThreatModel
from robustscape.streams import numbered
from robustscape.types import BadInput

X, Y = torch.full((40, 1, 16, 16), 0.5), torch.zeros(40, dtype=torch.int64)


def test_closed_form_moments_of_gaussian_noise():
    """Within 5 standard errors; at sigma 0.1 nothing reaches the ends of the pixel range, which is 5 sigma away."""
    noise = Noise(threat=ThreatModel(eps=1.0), sigma=0.1)(nn.Identity(), X, Y) - X
    n = noise.numel()
    assert abs(float(noise.mean())) < 5 * 0.1 / math.sqrt(n)
    assert abs(float(noise.var()) / 0.01 - 1) < 5 * math.sqrt(2 / n)
    within = float((noise.abs() < 0.1).float().mean())
    assert abs(within - math.erf(math.sqrt(0.5))) < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.5)])
def test_closed_form_what_leaves_the_ball_is_moved_to_its_edge(norm, eps):
    rng = numbered(X, "noise")
    noise = Noise(threat=ThreatModel(norm=norm, eps=eps), sigma=0.1)(nn.Identity(), X, Y) - X
    free = 0.1 * rng.tag("gaussian").normal(1, 16, 16)
    scale = (eps / free.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
    wanted = free.clamp(-eps, eps) if norm == "linf" else free * scale
    torch.testing.assert_close(noise, wanted, rtol=0, atol=2e-7)


def test_contract_words():
    assert Noise().describe() == "uniform noise (linf 8/255)"
    assert Noise(sigma=0.1, threat=ThreatModel(norm="l2", eps=2.0)).describe() == "Gaussian noise (sigma 0.1, in l2 2)"


@pytest.mark.parametrize("sigma", [0.0, -0.1, 25.0, float("nan")])
def test_contract_a_sigma_that_cannot_be_meant_is_refused(sigma):
    with pytest.raises(BadInput, match="sigma is in pixel units"):
        Noise(sigma=sigma)
