"""Newton's method on losses whose minimum is known."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from robustscape.linear.newton import descended

AIM = torch.tensor([3.0, -1.0], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Valley:
    """sqrt(1 + |w - aim|^2): Newton's full steps diverge beyond a distance of 1."""

    w: Tensor

    @property
    def loss(self):
        return float((1 + (self.w - AIM).square().sum()).sqrt())

    @property
    def slope(self):
        return (self.w - AIM) / self.loss


def _curvature(point):
    return (torch.eye(2, dtype=torch.float64) - torch.outer(point.slope, point.slope)) / point.loss


@pytest.mark.parametrize("far", [0.5, 2.0, 5.0])
def test_closed_form_shortened_steps_reach_the_minimum(far):
    seen = []

    def at(w):
        seen.append(_Valley(w=w))
        return seen[-1]

    begun = _Valley(w=AIM + far)
    found = descended(begun, at=at, curvature=_curvature, done=lambda point: float(point.slope.norm()) < 1e-9)
    assert float((found.w - AIM).norm()) < 1e-8
    assert len(seen) < 40


def test_contract_a_point_that_is_done_is_given_back():
    begun = _Valley(w=AIM + 1)
    assert descended(begun, at=lambda w: _Valley(w=w), curvature=_curvature, done=lambda point: True) is begun


def test_contract_where_the_loss_does_not_fall_it_ends():
    begun = _Valley(w=AIM + 1)
    assert descended(begun, at=lambda w: begun, curvature=_curvature, done=lambda point: False) is begun
