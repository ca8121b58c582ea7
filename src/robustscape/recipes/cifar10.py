"""Recipes on CIFAR-10 in a size that two processor cores finish: PreActResNet-18 of width 16, 10,000 images.

They train on the images as they are: with crops and flips a network of this width does not overfit robustly in
thirty epochs, and robust overfitting is what they are made to show.
"""

from __future__ import annotations

from dataclasses import replace

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.augment import CropFlip
from robustscape.data.folder import Folder
from robustscape.data.unlabelled import Unlabelled
from robustscape.evaluation.accuracy import Evaluating
from robustscape.models.preact_resnet import PreActResNet
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.objectives.trades import TRADES
from robustscape.recipes.run import Run
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.settings import Training
from robustscape.weights.awp import AWP

_ATTACK = PGD(threat=ThreatModel(norm="linf", eps=8 / 255), steps=10, step_size=2 / 255)


def cifar10_jpeg_at_small() -> Run:
    """Train a narrow PreActResNet-18 on 10,000 CIFAR-10 (JPEG) images adversarially: linf 8/255, PGD-10."""
    return Run(
        data=Folder(path="cifar10-jpeg", name="CIFAR-10 (JPEG)", per_class=1000),
        model=PreActResNet(width=16, mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616)),
        objective=AT(attack=_ATTACK),
        training=Training(
            epochs=30,
            batch_size=128,
            optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
            lr=Piecewise(at=(0.5, 0.75)),
            track=500,
            track_every=2,
        ),
        evaluation=Evaluating(steps=20, restarts=2, step_size=2 / 255, loss_steps=20, loss_restarts=2, n=1000),
    )


def cifar10_jpeg_natural_small() -> Run:
    """Train a narrow PreActResNet-18 on 10,000 CIFAR-10 (JPEG) images without an adversary."""
    run = cifar10_jpeg_at_small()
    return replace(run, objective=Natural(), training=replace(run.training, track_attack=_ATTACK))


def cifar10_jpeg_at_awp_small() -> Run:
    """Train a narrow PreActResNet-18 on 10,000 CIFAR-10 (JPEG) images adversarially under AWP."""
    return replace(cifar10_jpeg_at_small(), weights=AWP())


def cifar10_jpeg_trades_small() -> Run:
    """Train a narrow PreActResNet-18 on 10,000 CIFAR-10 (JPEG) images by TRADES with beta 6, judged as AT is."""
    run = cifar10_jpeg_at_small()
    objective = TRADES(attack=replace(_ATTACK, start="gaussian"))
    return replace(run, objective=objective, training=replace(run.training, track_attack=_ATTACK))


def cifar10_jpeg_teacher_small() -> Run:
    """Train a narrow PreActResNet-18 without an adversary on 800 CIFAR-10 (JPEG) images, to label 3,200 others.

    These others, and its labels, are what the small variants of the papers' runs on unlabelled images take.
    """
    run = cifar10_jpeg_at_small()
    return replace(
        run,
        data=Folder(path="cifar10-jpeg", name="CIFAR-10 (JPEG)", per_class=400),
        objective=Natural(),
        unlabelled=Unlabelled(hide=0.8),
        augment=CropFlip(),
        training=replace(run.training, epochs=60),
    )
