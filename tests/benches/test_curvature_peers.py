"""Eigenvalues by libraries for them, and what is said of what they find."""

import sys
from types import SimpleNamespace

import pytest
import torch

from robustscape.benches.curvature_peers import (
    LANCZOS,
    POWER,
    by_lanczos,
    by_power,
    lanczos_steps,
    rayleigh,
    spectra,
)
from robustscape.benches.harness import OURS
from robustscape.benches.judged import judged
from robustscape.benches.problem import TINY
from robustscape.landscape.operator import hessian
from robustscape.landscape.spectrum import top

DIAGONAL = torch.tensor([1.0, -2.0, 5.0, 3.0], dtype=torch.float64)


def times(v):
    return DIAGONAL * v


@pytest.fixture
def tiny():
    given = judged(TINY, None, n=6, eps=None)
    return given, given.subject(TINY.runtime, TINY.batch)


def asked(tiny, **options):
    return spectra(*tiny, **{"k": 2, "power_steps": 3, "change": 1e-3, "tolerance": None, **options})


def test_closed_form_an_eigenvector_has_no_residual_and_a_mixture_the_spread_of_its_values():
    values, residuals = rayleigh(times, torch.tensor([[0, 0, -3.0, 0], [0, 0, 1, 1]], dtype=torch.float64))
    torch.testing.assert_close(values, torch.tensor([5.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(residuals, torch.tensor([0.0, 0.25], dtype=torch.float64))


def test_closed_form_lanczos_needs_a_step_for_every_eigenvalue_and_no_more():
    start = torch.ones(4, dtype=torch.float64)
    assert lanczos_steps(times, start, k=2, tolerance=1e-9) == 4
    assert lanczos_steps(times, start, k=2, tolerance=10.0) == 2
    assert lanczos_steps(times, torch.tensor([1.0, 0, 1, 0], dtype=torch.float64), k=2, tolerance=1e-9) == 2


def test_contract_without_peers_ours_goes_to_a_residual_of_1_percent(tiny, monkeypatch):
    for name in ("pyhessian", "hessian_eigenthings"):
        monkeypatch.setitem(sys.modules, name, None)
    made = asked(tiny)
    assert set(made.sides) == {OURS} and set(made.missing) == {POWER, LANCZOS}
    assert made.sides[OURS]() == 6
    notes = made.notes()
    assert notes[f"spectrum, {OURS}, largest relative residual"].median <= 0.0101
    assert notes[f"spectrum, {OURS}, products"].median >= 2


def test_contract_all_go_to_the_residual_that_power_iteration_ends_at(tiny, monkeypatch):
    given, subject = tiny
    operator = hessian(subject)
    vectors = top(subject, k=2, tolerance=1e-4).top.vectors + 0.1 * operator.gradient() / operator.gradient().norm()

    class Power:
        def __init__(self, model, criterion, *, data, cuda):
            assert model is given.model and data[0] is given.x and not cuda
            criterion(model(data[0]), data[1]).backward()

        def eigenvalues(self, *, maxIter, tol, top_n):  # noqa: N803
            assert (maxIter, tol, top_n) == (3, 1e-3, 2)
            torch.randn(1)
            return [0.0, 0.0], [[vector] for vector in vectors]

    monkeypatch.setitem(sys.modules, "pyhessian", SimpleNamespace(hessian=Power))
    monkeypatch.setitem(sys.modules, "hessian_eigenthings", None)
    before = torch.get_rng_state()
    made = asked(tiny)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in given.model.parameters())
    largest = float(rayleigh(operator, vectors)[1].max())
    assert f"residual of {largest:.2g}" in made.words
    assert [side() for side in made.sides.values()] == [6, 6]
    notes = made.notes()
    assert notes[f"spectrum, {POWER}, largest relative residual"].median == pytest.approx(largest, rel=1e-3)
    assert notes[f"spectrum, {OURS}, largest relative residual"].median <= 1.01 * largest
    assert notes[f"spectrum, {POWER}, largest relative difference to ours"].median < largest


@pytest.mark.parametrize("make", [by_power, by_lanczos])
def test_reference_real_peers_find_the_same_eigenvalues(make, tiny):
    pytest.importorskip("pyhessian" if make is by_power else "hessian_eigenthings")
    given, subject = tiny
    options = {"steps": 300, "change": 1e-7} if make is by_power else {"steps": 40}
    solve, reason = make(given, k=1, **options)
    assert solve is not None and reason == ""
    (value,), _ = rayleigh(hessian(subject), solve())
    found = top(subject, k=1, bottom=1, tolerance=1e-4)
    ends = [float(found.top.values[0]), float(found.bottom.values[0])]
    assert float(value) == pytest.approx(max(ends, key=abs) if make is by_power else ends[0], rel=1e-3)
