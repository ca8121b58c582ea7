"""Recipes of Yamada et al. 2021, https://arxiv.org/abs/2102.02950: tables 1 to 6.

Tables 1 to 4 are logistic regression on MNIST's zeros and ones; optimiser and epochs, which the paper leaves open, are
those of ``robustscape study yamada``, which also compares with what no training can beat. Of tables 5 and 6 the paper
states little: CIFAR-10 as Madry 2018 (7 steps, images normalised by their own mean and deviation), SVHN as Wu 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.augment import CropFlip
from robustscape.data.mnist import MNIST
from robustscape.evaluation.accuracy import Evaluating
from robustscape.models.linear import Linear
from robustscape.models.resnet import ResNet
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.objectives.noise import NoiseTraining
from robustscape.recipes import _rice
from robustscape.recipes.row import Row, rows_of
from robustscape.recipes.run import Run
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training

_L2 = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_LINF = (0.0, 4.0, 8.0, 12.0, 16.0, 25.5, 51.0, 76.5)  # in 255ths
_SMALL = _LINF[:5]


def rows() -> tuple[Row, ...]:
    """Return the rows of Yamada 2021."""
    return (
        *rows_of("yamada", "table1", _logistic("l2", _L2, 1, noise=False)),
        *rows_of("yamada", "table2", _logistic("l2", _L2, 1, noise=True)),
        *rows_of("yamada", "table3", _logistic("linf", _LINF, 255, noise=False)),
        *rows_of("yamada", "table4", _logistic("linf", _SMALL, 255, noise=True)),
        *rows_of("yamada", "table5", _table5()),
        *rows_of("yamada", "table6", _table6()),
    )


_Entries = Iterator[tuple[str, str, Run]]


def _logistic(norm: Literal["linf", "l2"], radii: tuple[float, ...], unit: int, *, noise: bool) -> _Entries:
    for radius in radii:
        threat = ThreatModel(norm=norm, eps=radius / unit)
        run = Run(
            data=MNIST(classes=(0, 1)),
            model=Linear(bias=False, outputs="one"),
            objective=Natural(),
            training=Training(
                epochs=5,
                batch_size=128,
                optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=0.0),
                lr=Constant(),
                track=2115,
                best_on_test=True,
            ),
            evaluation=_judged(threat, step_size=0.01 if norm == "linf" else 0.15 * threat.eps, noise=noise),
        )
        pgd = PGD(threat=threat, steps=40, step_size=0.01 if norm == "linf" else None, relative_step=0.15)
        if radius:
            objective = NoiseTraining(attack=Noise(threat=threat)) if noise else AT(attack=pgd)
            run = replace(run, objective=objective)
        yield _eps(radius, unit), ("noise" if noise else "PGD-40") if radius else "natural", run


def _eps(radius: float, unit: int) -> str:
    return f"eps {radius:g}" + "/255" * (unit == 255)


def _judged(threat: ThreatModel, *, step_size: float, noise: bool) -> Evaluating:
    """Return PGD-100, or the noise; at eps 0 nothing but the clean images."""
    judged = Evaluating(norm=threat.norm, eps=threat.eps, n=None)
    if not threat.eps:
        return replace(judged, restarts=0, loss_restarts=0)
    if noise:
        return replace(judged, attacks=(Noise(threat=threat),), loss_restarts=0)
    return replace(judged, steps=100, restarts=1, step_size=step_size)


def _table5() -> _Entries:
    """As Madry 2018, in 76,600 steps of 128 images for his 80,000: weight decay 2e-4, drops after a half and 3 / 4."""
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=2e-4)
    run = replace(_rice.at("CIFAR-10"), model=ResNet(per_image=True), augment=CropFlip())
    run = replace(run, training=replace(run.training, optimizer=optimizer))
    yield from _over_eps(run, steps=7)


def _table6() -> _Entries:
    """As Wu 2020: PreActResNet-18, learning rate 0.01."""
    run = _rice.at("SVHN")
    optimizer = SGD(lr=0.01, momentum=0.9, weight_decay=5e-4)
    yield from _over_eps(replace(run, training=replace(run.training, optimizer=optimizer)), steps=10)


def _over_eps(run: Run, *, steps: int) -> _Entries:
    attack = run.objective.attack
    assert isinstance(attack, PGD), "these runs are attacked by PGD"
    for radius in _SMALL:
        threat = ThreatModel(norm="linf", eps=radius / 255)
        evaluation = replace(run.evaluation, eps=threat.eps)
        if radius:
            objective = AT(attack=replace(attack, threat=threat, steps=steps))
            yield _eps(radius, 255), f"PGD-{steps}", replace(run, objective=objective, evaluation=evaluation)
        else:
            clean = replace(evaluation, restarts=0, loss_restarts=0)
            yield _eps(radius, 255), "natural", replace(run, objective=Natural(), evaluation=clean)
