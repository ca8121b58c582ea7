"""Ball and box together, against generic solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from robustscape.linear.box import fill, level, reach
from robustscape.linear.norms import size

NORMS = ["linf", "l2", "l1"]


def _problems(n=8, d=5):
    generator = torch.Generator().manual_seed(3)
    a = torch.rand(n, d, generator=generator, dtype=torch.float64)
    room = 0.6 * torch.rand(n, d, generator=generator, dtype=torch.float64)
    a[0, 1], room[1, 2], a[2] = 0, 0, 0
    return a, room, torch.linspace(0, 1.4, n, dtype=torch.float64)


def _generic(a, room, eps, norm):
    """Return the largest a . t by a solver that knows nothing of the structure."""
    if norm == "l2":
        constraint = {"type": "ineq", "fun": lambda t: eps**2 - t @ t, "jac": lambda t: -2 * t}
        found = minimize(
            lambda t: -a @ t,
            np.minimum(room, eps / 4),
            jac=lambda t: -a,
            bounds=[(0, r) for r in room],
            constraints=[constraint],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return -found.fun
    if norm == "linf":
        return -linprog(-a, bounds=[(0, min(r, eps)) for r in room]).fun
    return -linprog(-a, A_ub=np.ones((1, len(a))), b_ub=[eps], bounds=[(0, r) for r in room]).fun


def test_closed_form_level_by_hand():
    full, rate = torch.tensor([[1.0, 4.0, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    for target, s in [(0.0, 0.0), (1.0, 0.5), (3.0, 2.0), (5.0, 4.0), (5.1, torch.inf)]:
        assert float(level(full, rate, torch.tensor([target]))) == s


@pytest.mark.parametrize("norm", NORMS)
def test_reference_no_generic_solver_fills_better(norm):
    a, room, eps = _problems()
    t = fill(a, room, eps, norm)
    assert bool((t >= 0).all() and (t <= room).all() and (size(t, norm) <= eps + 1e-12).all())
    best = [_generic(*(v.numpy() for v in row), norm) for row in zip(a, room, eps, strict=True)]
    # SLSQP's own accuracy is a few 1e-8 here.
    assert np.allclose((a * t).sum(dim=1), best, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_reach_is_the_inverse_of_fill(norm):
    a, room, _ = _problems()
    whole = (a * room).sum(dim=1)
    for share in (0.0, 0.3, 0.999):
        eps = reach(a, room, share * whole, norm)
        assert torch.allclose((a * fill(a, room, eps, norm)).sum(dim=1), share * whole, atol=1e-12)
    assert bool(torch.isinf(reach(a, room, whole + 0.01, norm)).all())
    assert not reach(a, room, -whole - 1, norm).any()


@pytest.mark.parametrize("norm", NORMS)
def test_contract_scales_far_apart_stay_exact(norm):
    a = torch.tensor([[1e-30, 1.0, 1e-9], [1e-25, 3e-25, 0.0]])
    room = torch.full_like(a, 0.5)
    t = fill(a, room, torch.tensor([0.1, 0.1]), norm)
    assert torch.isfinite(t).all()
    assert torch.allclose(size(t, norm), torch.full((2,), 0.1))
    assert torch.allclose((a * t).sum(dim=1)[0], torch.tensor(0.1))
