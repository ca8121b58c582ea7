import math

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.density import Density, quadrature
from robustscape.landscape.operator import hessian, worst_inputs
from robustscape.landscape.runner import measure
from robustscape.results import load, save
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput

ATTACK = PGD(threat=ThreatModel(eps=0.05), steps=3, result="best_loss")


def looked_at():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Softplus(), nn.Linear(6, 3)).double()
    x = torch.rand(10, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return subject(model, x, torch.arange(10) % 3, seed=3, batch=4, runtime=TRUTH)


def test_closed_form_quadrature_is_exact_for_polynomials():
    values = torch.linspace(-2, 5, 60, dtype=torch.float64)
    start = Streams(0).normal(60, dtype=torch.float64)
    nodes, weights = quadrature(lambda v: values * v, start, 6)
    assert len(nodes) == 6 and float(weights.sum()) == pytest.approx(1, rel=1e-12)
    for power in range(12):
        exact = float((start**2 * values**power).sum() / (start**2).sum())
        assert float((weights * nodes**power).sum()) == pytest.approx(exact, rel=1e-9)


def test_closed_form_few_different_eigenvalues_take_few_steps():
    values = torch.tensor([1.0, 1, 1, 4, 4, -2], dtype=torch.float64)
    nodes, weights = quadrature(lambda v: values * v, torch.ones(6, dtype=torch.float64), 50)
    torch.testing.assert_close(nodes, torch.tensor([-2.0, 1, 4], dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor([1 / 6, 3 / 6, 2 / 6], dtype=torch.float64))


@pytest.mark.slow
def test_reference_density_of_a_small_network(tmp_path):
    made = looked_at()
    found = measure(Density(attack=ATTACK, starts=12, steps=20, sigma=0.02), made)
    assert found.losses == ("clean", "robust") and found.size == 81 and found.curvature == "held"
    np.testing.assert_allclose(found.weights.sum(axis=2), 1, rtol=1e-12)
    step = found.positions[1] - found.positions[0]
    np.testing.assert_allclose(found.density.sum(axis=1) * step, 1, rtol=1e-3)
    held = worst_inputs(made, ATTACK, "density")
    for row, (x, trace, nuclear) in enumerate(
        ((made.x, found.clean_trace, found.clean_nuclear), (held, found.robust_trace, found.robust_nuclear))
    ):
        operator = hessian(made, x)
        H = torch.stack([operator(e) for e in torch.eye(81, dtype=torch.float64)])
        exact = torch.linalg.eigvalsh(H).numpy()
        # The trace is Hutchinson's, on the given draws exactly, and within 4 standard errors of the truth.
        signs = [Streams(3, ("density", "start", v)).sign(81, dtype=torch.float64) for v in range(12)]
        assert trace.value == pytest.approx(float(np.mean([s @ H @ s for s in signs])), rel=1e-9)
        assert abs(trace.value - exact.sum()) < 4 * (trace.high - trace.value) / 2.2
        assert abs(nuclear.value - np.abs(exact).sum()) < 4 * (nuclear.high - nuclear.value) / 2.2 + 1e-3
        kernel = np.exp(-(((found.positions[:, None] - exact) / 0.02) ** 2) / 2) / (0.02 * math.sqrt(2 * math.pi))
        apart = np.abs(found.density[row] - kernel.mean(axis=1))
        assert (apart <= 4 * found.error[row] + 0.02 * kernel.mean(axis=1).max()).all()
    again = load(save(found, tmp_path / "density.json"))
    assert again.robust_trace == found.robust_trace


def test_contract_kernel_is_stated_and_the_robust_loss_may_be_left_out():
    found = measure(Density(attack=None, starts=2, steps=5, coordinates="layer"), looked_at())
    assert found.robust_trace is None and found.robust_nuclear is None and found.attack == ""
    assert found.sigma == pytest.approx(0.01 * (found.nodes.max() - found.nodes.min()))
    assert found.density.shape == (1, len(found.positions)) and found.nodes.shape == (1, 2, 5)


def test_contract_says_what_cannot_be_meant():
    for change, words in (
        ({"starts": 1}, "starts must be at least 2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"coordinates": "rows"}, "not rows"),
        ({"scope": "none"}, "scope 'none'"),
    ):
        with pytest.raises(BadInput, match=words):
            Density(**change)
