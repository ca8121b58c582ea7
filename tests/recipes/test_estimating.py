"""Work and time of a training, against counts by hand."""

from __future__ import annotations

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
from robustscape.objectives.at import AT
from robustscape.objectives.fat import FAT
from robustscape.objectives.natural import Natural
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.objectives.trades import TRADES
from robustscape.recipes import estimating
from robustscape.recipes.digits import digits_at
from robustscape.recipes.estimating import forwards_of_step, operations, seconds, size_of, work
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


@pytest.mark.parametrize("width", [1, 5, 16])
def test_closed_form_operations_of_a_lenet(width):
    w = width
    convolutions = 25 * 2 * w * 28 * 28 + 25 * 2 * w * 4 * w * 14 * 14
    assert operations(LeNet(width=w), (1, 28, 28), 10) == 2 * (convolutions + 196 * w * 64 * w + 64 * w * 10)


def test_closed_form_operations_of_one_matrix():
    assert operations(Linear(bias=False, outputs="one"), (1, 28, 28), 2) == 2 * 784


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


def test_closed_form_time_is_work_by_rate(monkeypatch):
    run = digits_at()
    assert work(run) == 30 * 1347 * 23 * operations(run.model, (1, 8, 8), 10)
    monkeypatch.setattr(estimating, "rate", lambda runtime: 1e9)
    assert seconds(run) == work(run) / 1e9


def test_contract_unknown_data_have_no_time():
    assert size_of(Folder(path="photos")) is None
