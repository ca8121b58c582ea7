"""Passes and time of a training, against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustscape.attacks.friendly import Friendly
from robustscape.attacks.pgd import PGD
from robustscape.data.cifar10 import CIFAR10
from robustscape.data.folder import Folder
from robustscape.data.imagenet32 import ImageNet32
from robustscape.data.mnist import MNIST
from robustscape.data.svhn import SVHN
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.models.preact_resnet import PreActResNet
from robustscape.objectives.at import AT
from robustscape.objectives.fat import FAT
from robustscape.objectives.natural import Natural
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.objectives.trades import TRADES
from robustscape.recipes import estimating
from robustscape.recipes.digits import digits_at
from robustscape.recipes.estimating import Pace, forwards_of_step, pace, seconds, size_of
from robustscape.recipes.execute import train
from robustscape.runtime import Runtime
from robustscape.training.loop import Epoch
from robustscape.weights.awp import AWP

_PGD = PGD(steps=10)


@pytest.mark.parametrize(
    ("objective", "weights", "forwards"),
    [
        (Natural(), None, 3),
        (AT(attack=_PGD), None, 10 * 2 + 3),
        (AT(attack=_PGD), AWP(warmup=9.0), 10 * 2 + 3 + 3),
        (AT(attack=_PGD), AWP(steps=2, alternations=3), 3 * 10 * 2 + 6 * 3 + 3),
        (TRADES(), None, 1 + 10 * 2 + 2 * 3),  # the clean outputs under attack once
        (FAT(attack=Friendly(steps=10)), None, 10 * 2 + 3),
        (SelfSupervised(attack=PGD(steps=10), form="five"), None, 5 * (10 * 2 + 3)),
    ],
    ids=["natural", "at", "awp", "awp-alternating", "trades", "fat", "five-copies"],
)
def test_closed_form_forwards_of_a_step(objective, weights, forwards):
    assert forwards_of_step(objective, weights) == forwards


@pytest.mark.parametrize(
    ("data", "classes", "n"),
    [
        (CIFAR10(), 10, 49_000),
        (MNIST(validation=0.1), 10, 54_000),
        (MNIST(classes=(0, 1), per_class=400), 2, 800),
        (SVHN(per_class=400), 10, 4000),
        (ImageNet32(), 1000, 1_271_167),
        (Folder(path="cifar10-jpeg", per_class=1000), 10, 10_000),
    ],
)
def test_closed_form_sizes_of_data(data, classes, n):
    size = size_of(data)
    assert (size.classes, size.n) == (classes, n)


def test_closed_form_size_of_shrunk_images():
    size = size_of(Folder(path="cifar10-jpeg", shrink=2))
    assert size is not None and size.image == (3, 16, 16)


def test_closed_form_time_is_passes_at_their_pace(monkeypatch):
    monkeypatch.setattr(estimating, "pace", lambda *_, **__: Pace(inputs=2e-3, weights=5e-3))
    assert seconds(digits_at()) == pytest.approx(30 * 1347 * (10 * 2e-3 + 5e-3))
    trades = replace(digits_at(), objective=TRADES())  # a forward alone is half of one with a gradient
    assert seconds(trades) == pytest.approx(30 * 1347 * (1e-3 + 10 * 2e-3 + 2 * 5e-3))


def test_closed_form_a_batch_is_on_the_line_through_those_timed(monkeypatch):
    """A pass of n images takes call + each n seconds, and a step twice that."""
    timed = []

    def straight(call, each):
        def taken(model, image, classes, n, *, runtime):
            timed.append(n)
            return call + each * n, 2 * (call + each * n)

        return taken

    def of_a_batch(call, each, batch_size):
        timed.clear()
        monkeypatch.setattr(estimating, "_timed", straight(call, each))
        return pace(LeNet(), (1, 28, 28), 10, batch_size=batch_size, runtime=Runtime(device="cpu"))

    whole = of_a_batch(0.03, 0.0001, 32)
    assert timed == [4, 32] and whole.inputs == pytest.approx(0.0332 / 32) and whole.weights == 2 * whole.inputs
    further = of_a_batch(0.03, 0.001, 128)
    assert timed == [4, 32] and further.inputs == pytest.approx(0.158 / 128)
    assert of_a_batch(1.0, 0.01, 128).inputs == pytest.approx(1.04 / 4) and timed == [4]  # long at once: a multiple


def _inputs(width, batch_size):
    runtime = Runtime(device="cpu", threads=1)
    return pace(PreActResNet(width=width), (3, 32, 32), 10, batch_size=batch_size, runtime=runtime).inputs


def test_contract_a_wide_network_takes_longer_and_a_small_batch_longer_an_image():
    """Width 16 has 256 times the operations of width 1 and takes several times as long; calls come once a batch."""
    assert _inputs(16, 32) > 1.5 * _inputs(1, 32)
    assert _inputs(1, 2) > 1.5 * _inputs(1, 32)


def test_contract_a_narrow_network_takes_its_calls_and_not_its_operations():
    """A network of one matrix has 1,568 operations, a microsecond of any machine; a pass takes more."""
    taken = pace(Linear(outputs="one"), (1, 28, 28), 2, batch_size=1, runtime=Runtime(device="cpu", threads=1))
    assert taken.inputs > 2e-5 and taken.weights > 2e-5


@pytest.mark.slow
def test_end_to_end_a_narrow_network_trains_about_as_long_as_is_said(tmp_path):
    """Operations alone told of less than a tenth; a machine that others use too is given a factor of four."""
    run = replace(digits_at(), model=LeNet(width=2), runtime=Runtime(device="cpu", compile="no", threads=1))
    run = replace(run, training=replace(run.training, epochs=3, track=0))
    epochs = [event.log.seconds for event in train(run, tmp_path, name="narrow") if isinstance(event, Epoch)]
    assert 1 / 4 < 3 * min(epochs) / seconds(run) < 4


def test_contract_unknown_data_have_no_time():
    assert size_of(Folder(path="photos")) is None
