"""Schedules at and around their boundaries."""

from __future__ import annotations

import math

import pytest

from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.schedules.cyclic import Cyclic
from robustscape.training.schedules.linear import Linear
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.schedules.rise import Rise
from robustscape.types import BadInput


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), {0: 1, 50: 1, 100: 1}),
        (Piecewise(), {0: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 100: 0.01}),
        (Piecewise(at=(0.9,), factor=0.5), {89: 1, 90: 0.5}),
        (Cosine(), {0: 1, 50: 0.5, 100: 0, 25: (1 + math.cos(math.pi / 4)) / 2}),
        (Cosine(end=0.2), {0: 1, 50: 0.6, 100: 0.2}),
        (Linear(), {0: 1, 25: 0.75, 100: 0}),
        (Linear(start=0, end=2), {0: 0, 50: 1, 100: 2}),
        (Cyclic(), {0: 0, 20: 0.5, 40: 1, 70: 0.5, 100: 0}),
        (Cyclic(cycles=2, peak=0.5), {0: 0, 25: 1, 50: 0, 75: 1, 100: 0}),
        (Rise(), {0: 0, 25: 1 - math.cos(math.pi / 4), 50: 1, 51: 1, 100: 1}),
        (Rise(shape="linear"), {0: 0, 25: 0.5, 50: 1, 75: 1, 100: 1}),
        (Rise(shape="linear", low=-1, high=1), {0: 0, 49: 0, 50: 0, 75: 0.5, 100: 1}),
        (Rise(shape="linear", low=0.5, high=0.75, period=0.5), {0: 0.5, 25: 0.625, 50: 0.75, 100: 0.75}),
        (Rise(low=-0.5, high=1.5, period=0.8), {0: 0, 40: 0.5, 80: 1, 90: 1}),
        (Constant(warmup=0.1), {0: 0.1, 4: 0.5, 9: 1, 10: 1, 100: 1}),
        (Piecewise(warmup=0.1), {0: 0.1, 9: 1, 50: 0.1}),
    ],
)
def test_closed_form_values_at_boundaries(schedule, expected):
    for done, value in expected.items():
        assert schedule(done, 100) == pytest.approx(value, abs=1e-12), done


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Constant(warmup=1.0),
        lambda: Piecewise(at=(0.7, 0.5)),
        lambda: Piecewise(at=(50, 75)),
        lambda: Piecewise(factor=10),
        lambda: Cosine(end=2),
        lambda: Linear(start=-1),
        lambda: Cyclic(cycles=0),
        lambda: Cyclic(peak=1),
        lambda: Rise(shape="sine"),
        lambda: Rise(low=0.5, high=0.2),
        lambda: Rise(low=1.0, high=2.0),
        lambda: Rise(low=-1.0, high=0.0),
        lambda: Rise(high=math.inf),
        lambda: Rise(period=0),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(BadInput):
        wrong()


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_closed_form_rise_is_equation_5_of_liu_cut_off_at_the_target(shape):
    """MNIST: eps_max 0.6 under the cosine and 0.8 under the line, target 0.4; eps_min below 0 to see it cut off."""
    target, low, high = 0.4, -0.1, 0.6 if shape == "cosine" else 0.8
    schedule = Rise(shape=shape, low=low / target, high=high / target)
    for d in range(101):
        share = (1 - math.cos(d / 100 * math.pi)) / 2 if shape == "cosine" else d / 100
        eps = min(max((high - low) * share + low, 0), target)
        assert target * schedule(d, 100) == pytest.approx(eps, abs=1e-12)
