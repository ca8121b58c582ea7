"""What Wu 2020 and Yan 2022 train as Rice 2020 does: PreActResNet-18 and WideResNet-34-10 against PGD-10."""

from __future__ import annotations

from dataclasses import replace

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.cifar10 import CIFAR10
from robustscape.data.cifar100 import CIFAR100
from robustscape.data.svhn import SVHN
from robustscape.data.targets import Targets
from robustscape.evaluation.accuracy import Evaluating
from robustscape.models.normalise import Channels
from robustscape.models.preact_resnet import PreActResNet
from robustscape.objectives.at import AT
from robustscape.objectives.mart import MART
from robustscape.objectives.trades import TRADES
from robustscape.recipes.run import Run
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.settings import Training
from robustscape.types import DataSource

CIFAR10_CONSTANTS: tuple[Channels, Channels] = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
"""Mean and standard deviation of CIFAR-10's pixels, as Rice 2020's code has them."""

DATA: dict[str, tuple[DataSource, tuple[Channels, Channels]]] = {
    "SVHN": (SVHN(), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
    "CIFAR-10": (CIFAR10(), CIFAR10_CONSTANTS),
    "CIFAR-100": (CIFAR100(), ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
}
"""What papers call a data set, to it and its constants."""

THREATS = ("linf", "l2")
"""The two threat models: 8/255 under linf, 128/255 under l2."""


def attack(data: str, norm: str) -> PGD:
    """Return the PGD-10 that trains on a data set: steps of 2/255 (SVHN: 1/255) under linf, 15/255 under l2."""
    if norm == "l2":
        return PGD(threat=ThreatModel(norm="l2", eps=128 / 255), steps=10, step_size=15 / 255)
    return PGD(threat=ThreatModel(norm="linf", eps=8 / 255), steps=10, step_size=(1 if data == "SVHN" else 2) / 255)


def at(data: str = "CIFAR-10", norm: str = "linf") -> Run:
    """Return adversarial training of PreActResNet-18: 200 epochs, PGD-10, judged by PGD-20 on the test images."""
    source, (mean, std) = DATA[data]
    adversary = attack(data, norm)
    return Run(
        data=source,
        model=PreActResNet(mean=mean, std=std),
        objective=AT(attack=adversary),
        training=Training(
            epochs=200,
            batch_size=128,
            optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
            lr=Piecewise(at=(0.5, 0.75)),
            best_on_test=True,
        ),
        evaluation=Evaluating(
            norm=adversary.threat.norm,
            eps=adversary.threat.eps,
            steps=20,
            restarts=1,
            step_size=adversary.step_size,
            n=26_032 if data == "SVHN" else 10_000,
        ),
    )


def trades(run: Run, *, beta: float = 6.0) -> Run:
    """Return the run by TRADES, attacked from a normal start, tracked as it was."""
    adversary = run.objective.attack
    assert isinstance(adversary, PGD), "these runs are attacked by PGD"
    objective = TRADES(attack=replace(adversary, start="gaussian"), beta=beta)
    return replace(run, objective=objective, training=replace(run.training, track_attack=adversary))


def mart(run: Run, *, beta: float) -> Run:
    """Return the run by MART."""
    adversary = run.objective.attack
    assert adversary is not None, "these runs are attacked"
    return replace(run, objective=MART(attack=adversary, beta=beta))


def with_l1(run: Run) -> Run:
    """Return the run with Rice's best L1 penalty beside weight decay, as that code has it."""
    return replace(run, training=replace(run.training, l1=5e-6))


def with_l2(run: Run) -> Run:
    """Return the run with Rice's best L2 penalty in place of weight decay, of weights alone, as that code has it."""
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=0.0)
    return replace(run, training=replace(run.training, l2=5e-3, optimizer=optimizer))


def with_mixup(run: Run) -> Run:
    """Return the run with Rice's best mixup, alpha 1.4."""
    return replace(run, targets=Targets(mixup=1.4))
