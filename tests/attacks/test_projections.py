"""Projections onto a hyperplane inside the box, against solvers of another kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from robustscape.attacks import _projections_reference as as_code
from robustscape.attacks._projections import DUAL, _climbed, _sorted, length, onto_hyperplane

NORMS = ["linf", "l2", "l1"]
D = 6


def _problem(seed, n=40, dtype=torch.float64):
    """Points, some on the box's faces, normals with zeros, and values that the box can mostly reach."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, D, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    w = torch.randn(n, D, generator=generator, dtype=dtype) * 10 ** (4 * torch.rand(n, 1, generator=generator) - 2)
    w[::3, 1] = 0
    reach = torch.where(w > 0, x, 1 - x) * w.abs()  # of a positive value
    return x, w, reach.sum(dim=1) * torch.rand(n, generator=generator, dtype=dtype) * 1.2


def _least(x, w, value, norm):
    """The least p-norm of a move onto the hyperplane by a general solver, None where there is none."""
    low, high = -x, 1 - x
    if norm == "l2":
        found = minimize(
            lambda delta: delta @ delta / 2, np.zeros(D), jac=lambda delta: delta, method="SLSQP",
            bounds=list(zip(low, high, strict=True)), options={"ftol": 1e-15, "maxiter": 500},
            constraints={"type": "eq", "fun": lambda delta: w @ delta + value, "jac": lambda delta: w},
        )  # fmt: skip
        return np.linalg.norm(found.x)
    eye, one = np.eye(D), np.ones((D, 1))
    sizes = one if norm == "linf" else eye  # |delta_i| <= t, or <= t_i
    found = linprog(
        np.r_[np.zeros(D), np.ones(sizes.shape[1])],
        A_ub=np.r_[np.c_[eye, -sizes], np.c_[-eye, -sizes]],
        b_ub=np.zeros(2 * D),
        A_eq=np.r_[w, np.zeros(sizes.shape[1])][None],
        b_eq=[-value],
        bounds=[*zip(low, high, strict=True), *[(0, None)] * sizes.shape[1]],
    )
    return found.fun


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_no_solver_finds_a_shorter_way(norm):
    x, w, value = _problem(1)
    value = torch.where(torch.arange(len(x)) % 2 > 0, value, -value)
    delta = onto_hyperplane(x, w, value, norm)
    reach = torch.where(w * value.sign()[:, None] > 0, x, 1 - x).mul(w.abs()).sum(dim=1)
    possible = reach > value.abs()
    assert 10 < int(possible.sum()) < len(x)
    scale = w.abs().amax(dim=1)
    assert float((((w * delta).sum(dim=1) + value) / scale)[possible].abs().max()) < 1e-12
    for row in possible.nonzero().flatten().tolist():
        s = float(scale[row])
        least = _least(x[row].numpy(), w[row].numpy() / s, float(value[row]) / s, norm)
        assert float(length(delta[row : row + 1], norm)) == pytest.approx(least, abs=1e-6 if norm == "l2" else 1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_reference_roundings_are_those_of_the_code(norm):
    """Also where sums over many pixels rise and fall by rounding: there only the code's own bisection ends alike."""
    from pyautoattack import fab_projections

    generator = torch.Generator().manual_seed(5)
    x = (torch.rand(400, 784, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    w = torch.randn(400, 784, generator=generator) * 10 ** (-9 * torch.rand(400, 784, generator=generator))
    reach = torch.where(w > 0, x, 1 - x).mul(w.abs()).sum(dim=1)
    b = (w * x).sum(dim=1) - reach * torch.cat([torch.linspace(0.02, 1.02, 300), torch.linspace(0.99, 1.001, 100)])
    theirs = getattr(fab_projections, f"projection_{norm}")(x.clone(), w.clone(), b.clone())
    assert torch.equal(as_code.onto_hyperplane(x, w, b, norm), theirs)
    assert float(theirs.abs().max()) > 0.5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_out_of_reach_every_pixel_goes_to_its_end(norm, dtype):
    x, w, value = _problem(2, dtype=dtype)
    value = value * 0 + w.abs().sum(dim=1) * 2
    after = x + onto_hyperplane(x, w, value, norm)
    # x + (1 - x) may be 1 but for rounding.
    torch.testing.assert_close(after, torch.where(w > 0, 0, torch.where(w < 0, 1, x)), rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_far_from_the_box_it_is_the_dual_direction(norm):
    generator = torch.Generator().manual_seed(3)
    x, w = torch.full((8, 50), 0.5).double(), torch.randn(8, 50, generator=generator).double()
    value = torch.linspace(-0.4, 0.4, 8).double()
    delta = onto_hyperplane(x, w, value, norm)
    torch.testing.assert_close(length(delta, norm), value.abs() / length(w, DUAL[norm]))
    torch.testing.assert_close((w * delta).sum(dim=1), -value)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e20])
def test_closed_form_single_precision_at_any_scale_of_the_normals(norm, scale):
    x, w, value = _problem(4, n=200)
    exact = onto_hyperplane(x, w, value, norm)
    single = onto_hyperplane(x.float(), (w * scale).float(), (value * scale).float(), norm)
    # A value within rounding of what the box can reach may be taken for one out of reach.
    near = (w.abs() * torch.where(w > 0, x, 1 - x)).sum(dim=1) / value
    sure = (near - 1).abs() > 1e-4
    assert int(sure.sum()) > 190
    torch.testing.assert_close(single.double()[sure], exact[sure], rtol=0, atol=2e-5)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_both_ways_to_the_level_agree(power, dtype):
    """The sort is for other devices than the CPU; here it is run on it."""
    x, w, _ = _problem(8, n=200, dtype=dtype)
    size = w.abs() / w.abs().amax(dim=1, keepdim=True)
    full, rate = size * torch.where(w > 0, x, 1 - x), size**power
    share = torch.linspace(0, 1.2, 200, dtype=dtype)
    share[160:180] = 0.999
    amount = full.sum(dim=1) * share
    by_sorting, by_climbing = _sorted(full, rate, amount), _climbed(full, rate, amount)
    sums = [torch.minimum(full, rate * s[:, None]).sum(dim=1) for s in (by_sorting, by_climbing)]
    ulp = torch.finfo(dtype).eps
    for s, found in zip((by_sorting, by_climbing), sums, strict=True):
        assert bool(torch.isfinite(s).all()) and float(s[0]) == 0
        torch.testing.assert_close(found, torch.minimum(amount, full.sum(dim=1)), rtol=8 * ulp, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_nothing_to_do_is_nothing_done(norm):
    x, w, value = _problem(5)
    assert torch.equal(onto_hyperplane(x, w, value * 0, norm), x * 0)
    flat = onto_hyperplane(x, w * 0, value, norm)
    assert torch.equal(flat, x * 0)


@pytest.mark.parametrize("norm", NORMS)
def test_contract_rows_do_not_depend_on_each_other(norm):
    x, w, value = _problem(6)
    whole = onto_hyperplane(x, w, value, norm)
    assert torch.equal(onto_hyperplane(x.flip(0), w.flip(0), value.flip(0), norm).flip(0), whole)
    assert onto_hyperplane(x[:0], w[:0], value[:0], norm).shape == (0, D)


@pytest.mark.parametrize("norm", NORMS)
def test_contract_nan_reaches_no_other_row(norm):
    x, w, value = _problem(7)
    broken = w.clone()
    broken[3, 2] = torch.nan
    delta, whole = onto_hyperplane(x, broken, value, norm), onto_hyperplane(x, w, value, norm)
    others = torch.arange(len(x)) != 3
    assert torch.equal(delta[others], whole[others])
