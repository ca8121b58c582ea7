"""Recipes of Liu et al. 2020 (PAS), https://arxiv.org/abs/2006.08403: table 1, figures 1, 4, 8, 13 and 14.

Stated: networks, optimisers, epochs, schedules, attacks and, for table 1, weight decay. Left open: batches (128 here),
augmentation of CIFAR-10 (crops and flips here), weight decay elsewhere (1e-4, the default of their code) and what
judges table 1 (PGD here). Schedules are asked once an epoch, as their formulas and code have it; widths are 4 w for VGG
and ResNet-18. The runs of figures 1 and 8 log their first and last 2,000 and 500 steps one by one. The learning rates
of figure 4 between the ends are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.augment import CropFlip
from robustscape.data.cifar10 import CIFAR10
from robustscape.data.mnist import MNIST
from robustscape.evaluation.accuracy import Evaluating
from robustscape.models.lenet import LeNet
from robustscape.models.resnet import ResNet
from robustscape.models.vgg import VGG
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.recipes.row import Row, rows_of
from robustscape.recipes.run import Run
from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.exponential import Exponential
from robustscape.training.schedules.periodic import Periodic
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.schedules.rise import Rise
from robustscape.training.settings import Training
from robustscape.types import Schedule

_DECAY = 1e-3  # of table 1
_OTHER_DECAY = 1e-4  # of the figures
_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)  # of figure 4
_WARMED_RATES = (1e-4, 3e-4, 1e-3)  # of figure 13
_WIDTHS = (2, 4, 8, 16)  # of figure 14
_MNIST_RADII = (0.0, 0.1, 0.2, 0.3, 0.4)
_CIFAR10_RADII = (0, 2, 4, 8)  # in 255ths


def rows() -> tuple[Row, ...]:
    """Return the rows of Liu 2020."""
    return (
        *rows_of("liu", "table1", _table1()),
        *rows_of("liu", "figure1", _figure1()),
        *rows_of("liu", "figure4", _figure4()),
        *rows_of("liu", "figure8", _figure8()),
        *rows_of("liu", "figure13", _figure13()),
        *rows_of("liu", "figure14", _figure14()),
    )


_Entries = Iterator[tuple[str, str, Run]]


def _lenet(*, lr: float = 1e-4, decay: float = _OTHER_DECAY, width: int = 16, eps: float = 0.4) -> Run:
    """Return the training of LeNet on MNIST: Adam for 100 epochs, steps of 0.01, eps / 0.01 + 10 of them."""
    return Run(
        data=MNIST(),
        model=LeNet(width=width),
        objective=AT(attack=replace(PGD.liu(), threat=ThreatModel(eps=eps))),
        training=Training(
            epochs=100,
            batch_size=128,
            optimizer=Adam(lr=lr, weight_decay=decay),
            lr=Constant(),
            schedules="epoch",
        ),
        evaluation=Evaluating(eps=eps, steps=100, restarts=5, step_size=0.01, n=10_000),
    )


def _cifar10(network: VGG | ResNet, *, decay: float = _OTHER_DECAY, eps: float = 8 / 255) -> Run:
    """Return the training of VGG-8 or ResNet18-8 on CIFAR-10: 200 epochs, PGD-10 with steps of eps / 4."""
    vgg = isinstance(network, VGG)
    return Run(
        data=CIFAR10(),
        model=network,
        objective=AT(attack=PGD(threat=ThreatModel(eps=eps), steps=10, relative_step=0.25)),
        augment=CropFlip(),
        training=Training(
            epochs=200,
            batch_size=128,
            optimizer=Adam(lr=1e-3, weight_decay=decay) if vgg else SGD(lr=0.1, momentum=0.9, weight_decay=decay),
            lr=Exponential.liu() if vgg else Piecewise(at=(0.5, 0.75)),
            schedules="epoch",
        ),
        evaluation=Evaluating(eps=eps, steps=20, restarts=5, n=10_000),
    )


def _schedules(cosine_most: float) -> dict[str, Schedule]:
    """Return the three schedules of eps; ``cosine_most`` is the cosine's eps_max in multiples of the target."""
    return {
        "constant": Constant(),
        "cosine": Rise(shape="cosine", high=cosine_most),
        "linear": Rise(shape="linear", high=2.0),
    }


def _with_eps(run: Run, schedule: Schedule) -> Run:
    return replace(run, training=replace(run.training, eps=schedule))


def _periodic(run: Run) -> Run:
    """Return the run with learning rate and eps reset after 100 and 150 epochs, and a snapshot of each period."""
    settings = run.training
    eps = settings.eps if isinstance(settings.eps, Constant) else Periodic(of=settings.eps, resets=(0.5, 0.75))
    lr = Periodic(of=settings.lr, resets=(0.5, 0.75))
    return replace(run, training=replace(settings, eps=eps, lr=lr, snapshots=True))


def _table1() -> _Entries:
    for schedule, eps in _schedules(0.6 / 0.4).items():
        yield f"MNIST LeNet eps=0.4, {schedule}", "", _with_eps(_lenet(decay=_DECAY), eps)
    for task, network in {"CIFAR10 VGG": VGG(width=32), "CIFAR10 ResNet18": ResNet(width=32)}.items():
        for schedule, eps in _schedules(2.0).items():
            run = _with_eps(_cifar10(network, decay=_DECAY), eps)
            yield f"{task} eps=8/255, {schedule}", "", run
            yield f"{task} eps=8/255, {schedule}, periodic", "3 snapshots", _periodic(run)


def _natural(run: Run) -> Run:
    evaluation = replace(run.evaluation, restarts=0, loss_restarts=0)
    return replace(run, objective=Natural(), evaluation=evaluation)


def _tracked(run: Run, steps: int) -> Run:
    """Return the run with its first and last steps logged one by one."""
    return replace(run, training=replace(run.training, track_first=steps, track_last=steps))


def _figure1() -> _Entries:
    """Also figures 2, 3, 10 and 15, which look at networks trained so."""
    for radius in _CIFAR10_RADII:
        for task, network in {"VGG": VGG(width=32), "ResNet18": ResNet(width=32)}.items():
            run = _tracked(_cifar10(network, eps=radius / 255), 2000)
            yield f"CIFAR10 {task}, eps {radius}/255", "constant eps", run if radius else _natural(run)


def _figure4() -> _Entries:
    for schedule, eps in _schedules(0.6 / 0.4).items():
        for lr in _RATES:
            yield f"{schedule}, learning rate {lr:g}", "LeNet, eps 0.4", _with_eps(_lenet(lr=lr), eps)


def _figure8() -> _Entries:
    """Also figure 9 and the others that look at MNIST networks."""
    for eps in _MNIST_RADII:
        run = _tracked(_lenet(eps=eps), 500)
        yield f"MNIST LeNet, eps {eps:g}", "constant eps", run if eps else _natural(run)


def _figure13() -> _Entries:
    for lr in _WARMED_RATES:
        run = _lenet(lr=lr)
        settings = replace(run.training, lr=Constant(warmup=0.1), schedules="step")
        warmed = "LeNet, eps 0.4; learning rate rising over 10 epochs"
        yield f"warm-up, learning rate {lr:g}", warmed, replace(run, training=settings)


def _figure14() -> _Entries:
    for schedule, eps in _schedules(0.6 / 0.4).items():
        for width in _WIDTHS:
            yield f"{schedule}, w {width}", "LeNet, eps 0.4", _with_eps(_lenet(width=width), eps)
