"""Schedules at and around their boundaries."""

from __future__ import annotations

import math

import pytest
import torch

from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.schedules.cyclic import Cyclic
from robustscape.training.schedules.exponential import Exponential
from robustscape.training.schedules.linear import Linear
from robustscape.training.schedules.one_cycle import OneCycle
from robustscape.training.schedules.periodic import Periodic
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
        (Linear(end=0.5, begin=0.5, until=0.9), {0: 1, 50: 1, 70: 0.75, 90: 0.5, 100: 0.5}),
        (Piecewise.late(), {93: 1, 94: 0.1, 96: 0.1, 97: 0.01, 100: 0.01}),
        (Piecewise.stutz(), {39: 1, 40: 0.1, 59: 0.1, 60: 0.01, 79: 0.01, 80: 0.001}),
        (Exponential(), {0: 1, 50: 0.1, 100: 0.01}),
        (Exponential.liu(), {0: 1, 50: 1, 60: 10**-0.4, 75: 0.1, 100: 0.1}),
        (OneCycle(), {0: 0.04, 15: 0.52, 30: 1, 65: (1 + 4e-6) / 2, 100: 4e-6}),
        (OneCycle(shape="linear", peak=0.5, start=0, end=0), {0: 0, 25: 0.5, 50: 1, 75: 0.5, 100: 0}),
        (Periodic(), {0: 1, 25: 0.5, 50: 1, 75: 1, 99: (1 + math.cos(math.pi * 24 / 25)) / 2, 100: 0}),
        (Periodic(of=Piecewise()), {24: 1, 25: 0.1, 38: 0.01, 49: 0.01, 50: 1, 62: 1, 63: 0.1, 74: 0.01, 75: 1}),
        (Periodic(of=Rise(shape="linear"), resets=(0.4,)), {0: 0, 10: 0.5, 20: 1, 39: 1, 40: 0, 55: 0.5, 100: 1}),
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
        lambda: Linear(end=math.nan),
        lambda: Linear(start=math.inf),
        lambda: Linear(begin=0.5, until=0.5),
        lambda: Linear(begin=-0.1),
        lambda: Exponential(end=0),
        lambda: Exponential(until=1.1),
        lambda: OneCycle(peak=1),
        lambda: OneCycle(start=2),
        lambda: OneCycle(shape="sine"),
        lambda: Periodic(resets=()),
        lambda: Periodic(resets=(0.5, 0.5)),
        lambda: Periodic(resets=(0.5, 1.0)),
        lambda: Periodic(resets=(100, 150)),
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


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("per_epoch", [1, 7])
def test_closed_form_pas_is_lius_at_every_epoch(shape, per_epoch):
    """CIFAR-10: 200 epochs, reset after 100 and 150, eps_min 0, eps_max 16/255, target 8/255; and ResNet's rate."""
    eps_schedule = Periodic(of=Rise(shape=shape, low=0.0, high=2.0))
    lr_schedule = Periodic(of=Piecewise())
    for epoch in range(201):
        begin, end = (0, 100) if epoch < 100 else (100, 150) if epoch < 150 else (150, 200)
        d, period = epoch - begin, end - begin
        share = (1 - math.cos(d / period * math.pi)) / 2 if shape == "cosine" else d / period
        eps = min(max((16 / 255 - 0) * share + 0, 0), 8 / 255)
        lr = 0.1 * 0.1 ** ((d >= period / 2) + (d >= period * 3 / 4))
        done, total = epoch * per_epoch, 200 * per_epoch
        assert 8 / 255 * eps_schedule(done, total) == pytest.approx(eps, abs=1e-14), epoch
        assert 0.1 * lr_schedule(done, total) == pytest.approx(lr, abs=1e-14), epoch


@pytest.mark.parametrize("per_epoch", [1, 7, 391])
@pytest.mark.parametrize(
    ("schedule", "epochs", "drops"),
    [
        (Piecewise(), 200, (100, 150)),
        (Piecewise.stutz(), 150, (60, 90, 120)),
        (Piecewise.late(), 150, (140, 145)),
        (Piecewise(at=(100 / 110, 105 / 110)), 110, (100, 105)),
    ],
)
def test_closed_form_a_rate_drops_with_the_first_step_of_an_epoch(schedule, epochs, drops, per_epoch):
    for epoch in range(epochs):
        before, after = sum(epoch > drop for drop in drops), sum(epoch >= drop for drop in drops)
        first = epoch * per_epoch
        assert schedule(first, epochs * per_epoch) == 0.1**after, epoch
        if epoch:
            assert schedule(first - 1, epochs * per_epoch) == 0.1**before, epoch


@pytest.mark.parametrize("per_epoch", [1, 7])
def test_closed_form_a_period_begins_with_the_first_step_of_an_epoch(per_epoch):
    """The last step of a period is one short of its end, and the first of the next is at its beginning."""
    rise, total = Periodic(of=Rise(shape="linear", low=0.0, high=1.0)), 200 * per_epoch
    for begin, end in ((0, 100), (100, 150), (150, 200)):
        steps = (end - begin) * per_epoch
        assert rise(begin * per_epoch, total) == 0.0
        assert rise(end * per_epoch - 1, total) == pytest.approx((steps - 1) / steps, abs=1e-15)
    assert rise(total, total) == 1.0


@pytest.mark.parametrize(("rise", "fall"), [(0.25, 0.75), (0.025, 0.975)])
def test_reference_one_cycle_is_torchs_but_for_the_step_it_counts_from(rise, fall):
    """torch has its peak at step rise T - 1 and its end at T - 1; progress is compared within each part."""
    total = 200
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=total, pct_start=rise)
    peak = rise * total - 1
    for step in range(total):
        inside = rise * step / peak if step <= peak else rise + fall * (step - peak) / (total - 1 - peak)
        ours = OneCycle(peak=rise)(round(inside * 10**9), 10**9)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-6), step
        optimizer.step()
        if step < total - 1:
            theirs.step()


def test_closed_form_cycles_begin_anew_where_they_say():
    assert Cyclic(cycles=4).resets == (0.25, 0.5, 0.75) and Cyclic().resets == ()
