"""The falls of many weights at once, against the exact adversary of each."""

import pytest
import torch

from robustscape.linear.adversary import worst_perturbation, worst_rise
from robustscape.linear.falls import l2_moves, worst_falls


@pytest.mark.parametrize("eps", [0.003, 0.2, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_reference_falls_are_those_of_the_exact_adversary(norm, eps):
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(40, 30, generator=draw, dtype=torch.float64) * 3 - 1).clamp(0, 1)
    y = torch.tensor([-1, 1]).repeat(20)
    w = torch.randn(3, 30, generator=draw, dtype=torch.float64)
    w[1, ::3] = 0
    found = worst_falls(x, y, norm=norm, eps=eps)(w)
    for each, falls in zip(w, found, strict=True):
        exact = worst_rise(-y[:, None] * each, x, norm=norm, eps=eps, box=(0.0, 1.0))
        # Newton's steps end within a millionth of eps squared.
        torch.testing.assert_close(falls, exact, rtol=1e-6, atol=1e-9)


def test_reference_l2_moves_are_those_of_the_exact_adversary():
    draw = torch.Generator().manual_seed(1)
    x = (torch.rand(40, 30, generator=draw, dtype=torch.float64) * 3 - 1).clamp(0, 1)
    y = torch.tensor([-1, 1]).repeat(20)
    w = torch.randn(30, generator=draw, dtype=torch.float64)
    w[::5] = 0
    exact = worst_perturbation(-y[:, None] * w, x, norm="l2", eps=0.7, box=(0.0, 1.0)).abs()
    down = torch.where(y[:, None] > 0, x, 1 - x)
    torch.testing.assert_close(l2_moves(w, down, 0.7, tolerance=1e-12), exact, rtol=0, atol=1e-9)
