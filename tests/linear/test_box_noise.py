"""Sampled expectations under box noise, their standard errors, and their independence of everything but the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from robustscape.linear.box_noise import sampled
from robustscape.linear.hessian import hessian
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.streams import Streams
from robustscape.types import BadInput


def test_reference_one_input_agrees_with_integration(problem):
    p = problem(d=1)
    found = sampled(p.w, p.x, p.y, eps=0.5, draws=4096, intercept=0.1)
    w, values = float(p.w), []
    for x, y in zip(p.x[:, 0].tolist(), p.y.tolist(), strict=True):
        values.append(
            [
                quad(lambda e, f=f, x=x, y=y: f(y * (w * (x + e) + 0.1), x + e, y), -0.5, 0.5, epsabs=1e-12)[0]
                for f in (
                    lambda m, _x, _y: np.logaddexp(0, -m),
                    lambda m, x, y: -y * x / (1 + np.exp(m)),
                    lambda m, x, _y: x * x / (1 + np.exp(m)) / (1 + np.exp(-m)),
                )
            ]
        )
    loss, gradient, curve = np.mean(values, axis=0)
    # Sixteen blocks: Student's t with 15 degrees of freedom leaves 5 standard errors once in 6,000.
    assert abs(found.loss - loss) < 5 * found.loss_error
    assert abs(found.gradient[0] - gradient) < 5 * found.gradient_error[0]
    assert abs(found.hessian[0, 0] - curve) < 5 * found.hessian_error[0, 0]
    assert 0 < found.loss_error < 1e-3


def test_closed_form_without_noise_it_is_the_clean_loss_without_error(problem):
    p = problem()
    found = sampled(p.w, p.x, p.y, eps=0.0, draws=64, intercept=0.4)
    clean = AdversarialLogistic(x=p.x, y=p.y, norm="linf", eps=0.0).at(p.w, 0.4)
    assert torch.allclose(found.loss, clean.loss, atol=1e-13)
    assert torch.allclose(found.gradient, clean.gradient(), atol=1e-13)
    assert torch.allclose(found.hessian, hessian(clean), atol=1e-13)
    assert found.hessian_error.max() < 1e-13


def test_closed_form_derivatives_are_those_of_the_same_draws(problem):
    p, h = problem(), 1e-5
    at = {k: sampled(p.w + k * h * torch.eye(5)[1], p.x, p.y, eps=0.6, draws=64) for k in (-1, 0, 1)}
    assert abs((at[1].loss - at[-1].loss) / (2 * h) - at[0].gradient[1]) < 1e-6
    assert torch.allclose((at[1].gradient - at[-1].gradient) / (2 * h), at[0].hessian[1], atol=1e-6)


def test_contract_the_seed_alone_decides(problem):
    p = problem()
    one, same, other = (
        sampled(p.w, p.x, p.y, eps=0.6, draws=64, rng=Streams(seed=seed, tags=("here",))) for seed in (1, 1, 2)
    )
    assert torch.equal(one.hessian, same.hessian)
    assert one.loss != other.loss


def test_contract_draws_that_do_not_fill_the_blocks_are_refused(problem):
    p = problem()
    with pytest.raises(BadInput, match="multiple of 2"):
        sampled(p.w, p.x, p.y, eps=0.1, draws=100)
