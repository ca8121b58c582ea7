"""Recipes on MNIST: LeNet of width 16, linf 0.3, PGD-40 with step 0.01."""

from __future__ import annotations

from dataclasses import replace

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.mnist import MNIST
from robustscape.evaluation.accuracy import Evaluating
from robustscape.models.lenet import LeNet
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.recipes.run import Run
from robustscape.training.optimizers.adam import Adam
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.settings import Training
from robustscape.weights.awp import AWP

_ATTACK = PGD(threat=ThreatModel(norm="linf", eps=0.3), steps=40, step_size=0.01)


def mnist_at() -> Run:
    """Train a LeNet on MNIST adversarially: linf 0.3, PGD-40."""
    return Run(
        data=MNIST(),
        model=LeNet(width=16),
        objective=AT(attack=_ATTACK),
        training=Training(
            epochs=5,
            batch_size=128,
            optimizer=Adam(lr=1e-3),
            lr=Cosine(warmup=0.1),
            track=1000,
        ),
        evaluation=Evaluating(eps=0.3, step_size=0.01, steps=100, restarts=5, loss_steps=100, loss_restarts=2, n=1000),
    )


def mnist_natural() -> Run:
    """Train a LeNet on MNIST without an adversary."""
    run = mnist_at()
    return replace(run, objective=Natural(), training=replace(run.training, track_attack=_ATTACK))


def mnist_at_awp() -> Run:
    """Train a LeNet on MNIST adversarially, after the first epoch under adversarial weight perturbation."""
    # From the first step on, AWP keeps the network on the plateau of constant outputs that training at eps 0.3
    # begins with: after one epoch and a half it still gave every image the same class.
    return replace(mnist_at(), weights=AWP(warmup=1.0))
