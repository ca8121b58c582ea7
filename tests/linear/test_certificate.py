"""The bound on how far a convex loss is above its minimum."""

import pytest
import torch

from robustscape.linear.certificate import REACH, convex_gap

AIM = torch.tensor([3.0, -1.0], dtype=torch.float64)


@pytest.mark.parametrize("far", [0.001, 0.1, 1.0])
def test_closed_form_the_gap_is_at_least_the_distance_to_the_minimum(far):
    """Of sqrt(1 + |w - aim|^2), whose minimum is 1."""
    w = AIM + far
    loss = float((1 + (w - AIM).square().sum()).sqrt())
    slope = (w - AIM) / loss
    assert loss - 1 <= convex_gap(loss, slope, w, unit=1.0) <= loss
    assert convex_gap(loss, 0 * slope, w, unit=1.0) == 0


def test_closed_form_for_a_linear_loss_it_is_the_fall_to_the_furthest_weights():
    slope = torch.tensor([0.3, 0.4], dtype=torch.float64)
    w = 2 * slope
    assert convex_gap(100.0, slope, w, unit=0.1) == pytest.approx(float(slope @ w) + REACH * 1.0 * 0.5)
    assert convex_gap(0.2, slope, w, unit=0.1) == 0.2
    assert convex_gap(100.0, slope, w, unit=3.0, off=0.01) == pytest.approx(float(slope @ w) + 30 * 0.51 + 0.01)


def test_closed_form_weights_of_0_are_no_minimum_for_being_far_from_none():
    assert convex_gap(100.0, torch.tensor([0.3, 0.4]), torch.zeros(2), unit=1.0) == pytest.approx(REACH * 0.5)
