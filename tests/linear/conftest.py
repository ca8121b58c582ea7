"""Small problems in float64."""

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="session")
def problem():
    """Give inputs in [0, 1], some pixels at its ends, labels -1 and 1, and weights."""

    def make(n=12, d=5, seed=0):
        generator = torch.Generator().manual_seed(seed)
        x = (1.4 * torch.rand(n, d, generator=generator, dtype=torch.float64) - 0.2).clamp(0, 1)
        w = torch.randn(d, generator=generator, dtype=torch.float64)
        y = torch.where(torch.rand(n, generator=generator) < 0.6, 1, -1)
        return SimpleNamespace(x=x, y=y, w=w)

    return make


@pytest.fixture
def four(problem):
    """A classifier of four classes, its inputs, and labels that are mostly its own."""
    p = problem(n=30, d=5)
    generator = torch.Generator().manual_seed(7)
    p.weights = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    p.intercept = torch.randn(4, generator=generator, dtype=torch.float64) / 5
    p.y = (p.x @ p.weights.T + p.intercept).argmax(dim=1)
    p.y[:4] = (p.y[:4] + 1) % 4
    return p
