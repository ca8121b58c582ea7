"""Expected losses under noise against adaptive integration and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from robustscape.linear.logistic import AdversarialLogistic
from robustscape.linear.noise import Gaussian, InBall, expected
from robustscape.types import BadInput

NOISES = [Gaussian(sigma=0.5), InBall(eps=0.8)]


def _density(noise, d):
    if isinstance(noise, Gaussian):
        return (lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)), 12.0
    total = math.exp(math.lgamma(d / 2 + 1) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
    return (lambda z: total * (1 - z * z) ** ((d - 1) / 2)), 1.0


@pytest.mark.parametrize(
    "noise", [*NOISES, Gaussian(sigma=0.0), Gaussian(sigma=20.0), InBall(eps=40.0), InBall(eps=0.01)]
)
@pytest.mark.parametrize("d", [1, 2, 7])
def test_reference_loss_equals_adaptive_integration(noise, d, problem):
    p = problem(n=4, d=d)
    density, end = _density(noise, d)
    r = noise.scale * float(p.w.norm())
    means = []
    for margin in (p.y * (p.x @ p.w + 0.2)).tolist():
        kink = [-margin / r] if r > 0 and abs(margin / r) < end else None
        value, _ = quad(
            lambda z, m=margin: np.logaddexp(0, -m - r * z) * density(z),
            -end,
            end,
            points=kink,
            epsabs=1e-12,
            limit=400,
        )
        means.append(value)
    assert abs(float(expected(p.w, p.x, p.y, noise, intercept=0.2).loss) - np.mean(means)) < 1e-10


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("factor", [1.0, 1e-8, 30.0])
def test_closed_form_gradient_and_hessian_equal_differences(noise, intercept, factor, problem):
    p = problem()
    point = factor * p.w
    point = torch.cat([point, p.w[:1]]) if intercept else point

    def at(v):
        return expected(v[:5], p.x, p.y, noise, intercept=v[5] if intercept else None)

    h = 1e-5
    steps = h * torch.eye(len(point), dtype=torch.float64)
    gradient = torch.stack([(at(point + s).loss - at(point - s).loss) / (2 * h) for s in steps])
    curve = torch.stack([(at(point + s).gradient() - at(point - s).gradient()) / (2 * h) for s in steps])
    assert torch.allclose(at(point).gradient(), gradient, atol=1e-6)
    assert torch.allclose(at(point).hessian(), curve, atol=1e-6)


@pytest.mark.parametrize("noise", NOISES)
def test_closed_form_at_zero_the_noise_adds_its_variance(noise, problem):
    p = problem()
    w = torch.zeros(5, dtype=torch.float64)
    variance = noise.scale**2 / (1 if isinstance(noise, Gaussian) else 7)  # of one coordinate: 1 / (d + 2) in the ball
    found = expected(w, p.x, p.y, noise)
    assert torch.allclose(found.hessian(), (p.x.T @ p.x / 12 + variance * torch.eye(5)) / 4, atol=1e-13)
    assert abs(float(found.loss) - math.log(2)) < 1e-13


def test_closed_form_without_noise_it_is_the_clean_loss(problem):
    p = problem()
    clean = AdversarialLogistic(x=p.x, y=p.y, norm="l2", eps=0.0).at(p.w, 0.4)
    for noise in (Gaussian(sigma=0.0), InBall(eps=0.0)):
        found = expected(p.w, p.x, p.y, noise, intercept=0.4)
        assert torch.allclose(found.loss, clean.loss, atol=1e-13)
        assert torch.allclose(found.gradient(), clean.gradient(), atol=1e-13)


def test_reference_sampling_the_ball_agrees(problem):
    p = problem(d=3)
    generator = torch.Generator().manual_seed(5)
    eta = torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    radius = torch.rand(40_000, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    eta = 0.8 * eta / eta.norm(dim=1, keepdim=True) * radius
    losses = torch.nn.functional.softplus(-p.y[:, None] * (p.x @ p.w[:, None] + (eta @ p.w)[None])).mean(dim=0)
    error = losses.std() / 200
    assert abs(losses.mean() - expected(p.w, p.x, p.y, InBall(eps=0.8)).loss) < 4 * error


@pytest.mark.parametrize("make", [lambda: Gaussian(sigma=-1.0), lambda: InBall(eps=math.nan)])
def test_contract_noise_that_cannot_be_meant_is_refused(make):
    with pytest.raises(BadInput, match="at least 0"):
        make()


@pytest.mark.parametrize("d", [1, 3, 784, 100_000])
@pytest.mark.parametrize("r", [1e-9, 3.0, 200.0])
def test_closed_form_the_rules_have_the_moments_of_their_laws(d, r):
    z, weights, h = InBall(eps=1.0).rule(r, d)
    assert abs(float(weights @ z.square()) * (d + 2) - 1) < 1e-12
    assert abs(float(weights @ z**4) * (d + 2) * (d + 4) / 3 - 1) < 1e-12
    assert abs(float(weights @ h) * (d + 2) - 1) < 1e-12
    z, weights, _ = Gaussian(sigma=1.0).rule(r, d)
    assert abs(float(weights @ z.square()) - 1) < 1e-12
    assert abs(float(weights @ z**4) - 3) < 1e-12
