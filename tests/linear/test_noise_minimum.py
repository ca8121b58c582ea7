"""The minimum of the expected loss under noise: by its bound in many dimensions, by Newton's steps in few."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize, minimize_scalar

from robustscape.linear.box_noise import sampled
from robustscape.linear.noise import Gaussian, InBall, expected
from robustscape.linear.noise_minimum import InBox, noise_minimum, variance
from robustscape.types import BadInput

NOISES = [Gaussian(sigma=0.5), InBall(eps=1.5), InBox(eps=0.9)]


def _apart(d, margin=0.5):
    """Two points at the margin from the plane across the first input, and one further away."""
    x = torch.zeros(3, d, dtype=torch.float64)
    x[:, 0] = margin * torch.tensor([1.0, -1.0, 3.0])
    return x, torch.tensor([1, -1, 1]), torch.eye(d, dtype=torch.float64)[0]


@pytest.mark.parametrize(("noise", "exponent"), [(InBall(eps=0.8), -0.25 * 402 / 1.28), (InBox(eps=0.1), -37.5)])
def test_closed_form_in_many_dimensions_the_bound_is_all(noise, exponent):
    x, y, w = _apart(400)
    found = noise_minimum(x, y, noise, start=7 * w)
    assert found.loss == found.gap == pytest.approx(math.exp(exponent))
    assert found.error == 0
    torch.testing.assert_close(found.w, w * 0.5 / variance(noise, 400))


def test_closed_form_in_the_box_the_bound_holds_where_the_normal_law_says_less():
    x, y, w = _apart(5)
    found = noise_minimum(x, y, InBox(eps=0.15), start=w)
    assert found.loss == found.gap == pytest.approx(math.exp(-1.5 * (0.5 / 0.15) ** 2))


@pytest.mark.parametrize("noise", [Gaussian(sigma=0.15), InBall(eps=0.7)])
def test_reference_the_expected_loss_is_below_the_bound(noise):
    x, y, w = _apart(20)
    spread = variance(noise, 20)
    loss = float(expected(w * 0.5 / spread, x, y, noise).loss)
    assert 1e-10 < loss < math.exp(-0.125 / spread) < 0.01


@pytest.mark.parametrize("noise", NOISES)
def test_reference_the_minimum_is_that_of_a_generic_solver(problem, noise):
    p = problem(n=40)
    law = noise.normal() if isinstance(noise, InBox) else noise

    def loss(w):
        at = expected(torch.from_numpy(w), p.x, p.y, law)
        return float(at.loss), at.gradient().numpy()

    found = noise_minimum(p.x, p.y, noise, start=p.w)
    reference = minimize(loss, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-9}).fun
    assert found.loss == pytest.approx(reference, abs=1e-9)
    assert (found.error > 0) == isinstance(noise, InBox)
    assert 0 <= found.gap <= (1 if found.error else 1e-6) * found.loss
    for start in (torch.zeros(5), 1e-9 * p.w):
        assert noise_minimum(p.x, p.y, noise, start=start).loss == pytest.approx(found.loss, rel=1e-5)


def test_reference_a_start_that_classifies_all_ends_at_the_same_minimum():
    x, y, w = _apart(3)
    noise = InBall(eps=1.0)
    found, other = noise_minimum(x, y, noise, start=w), noise_minimum(x, y, noise, start=-w)
    assert found.loss == pytest.approx(other.loss, rel=1e-5)
    assert found.loss < math.exp(-0.5 * 0.25 * 5)


@pytest.mark.parametrize("w", [0.3, 1.0, 3.0])
def test_closed_form_the_normal_law_is_off_by_no_more_than_said(w):
    noise, x = InBox(eps=1.0), torch.tensor([[0.4]], dtype=torch.float64)
    weights = torch.tensor([w], dtype=torch.float64)
    exact, _ = quad(lambda e: np.logaddexp(0, -w * (0.4 + e)) / 2, -1, 1, epsabs=1e-12)
    normal = float(expected(weights, x, torch.tensor([1]), noise.normal()).loss)
    assert 0 < abs(normal - exact) <= noise.normal_error(weights)


@pytest.mark.parametrize("eps", [0.1, 0.3, 0.6])
def test_closed_form_the_certificate_in_the_box_is_that_of_its_own_noise(eps):
    """At a margin of 2 the normal law has the larger loss: its minimum is above that under the noise itself."""
    noise, x, y = InBox(eps=eps), torch.ones(25, 1), torch.where(torch.arange(25) < 22, 1, -1)

    def loss(w):
        both = lambda e: 0.88 * np.logaddexp(0, -w * (1 + e)) + 0.12 * np.logaddexp(0, w * (1 + e))  # noqa: E731
        return quad(both, -eps, eps, epsabs=1e-13)[0] / (2 * eps)

    found = noise_minimum(x, y, noise, start=torch.ones(1))
    least = float(minimize_scalar(loss, bounds=(0, 10), method="bounded", options={"xatol": 1e-9}).fun)
    assert abs(loss(found.w.item()) - found.loss) <= found.error
    assert found.loss - least > 1e-8
    assert loss(found.w.item()) - least <= found.gap


@pytest.mark.parametrize("w", [0.3, 1.0, 3.0])
def test_closed_form_the_gradient_under_the_normal_law_is_off_by_no_more_than_said(w):
    noise, x = InBox(eps=1.0), torch.tensor([[0.4]], dtype=torch.float64)
    weights = torch.tensor([w], dtype=torch.float64)
    exact, _ = quad(lambda e: -(0.4 + e) / (1 + np.exp(w * (0.4 + e))) / 2, -1, 1, epsabs=1e-12)
    normal = float(expected(weights, x, torch.tensor([1]), noise.normal()).gradient())
    assert 0 < abs(normal - exact) <= noise.slope_error(weights, x)


def test_reference_the_loss_under_the_box_is_the_sampled_one(problem):
    p = problem(n=40)
    found = noise_minimum(p.x, p.y, InBox(eps=0.3), start=p.w)
    drawn = sampled(found.w, p.x, p.y, eps=0.3, draws=4096)
    assert abs(float(drawn.loss) - found.loss) < 5 * float(drawn.loss_error) + found.error


def test_contract_what_cannot_be_meant_is_refused(problem):
    p = problem()
    with pytest.raises(BadInput, match="there must be some noise"):
        noise_minimum(p.x, p.y, InBox(eps=0.0), start=p.w)
    with pytest.raises(BadInput, match="one weight for each of the 5 inputs"):
        noise_minimum(p.x, p.y, InBox(eps=0.1), start=p.w[:2])
    with pytest.raises(BadInput, match="eps must be finite and at least 0, not -1"):
        InBox(eps=-1.0)
    with pytest.raises(BadInput, match="did you mean 2"):
        noise_minimum(p.x, (p.y + 1) // 2, InBall(eps=0.1), start=p.w)
