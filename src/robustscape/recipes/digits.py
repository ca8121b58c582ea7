"""Recipes on scikit-learn's digits: seconds each, for a first look and for tests."""

from __future__ import annotations

from dataclasses import replace

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.digits import Digits
from robustscape.evaluation.accuracy import Evaluating
from robustscape.models.lenet import LeNet
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.recipes.run import Run
from robustscape.training.optimizers.adam import Adam
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.settings import Training
from robustscape.weights.awp import AWP

_ATTACK = PGD(threat=ThreatModel(norm="linf", eps=0.1), steps=10)


def digits_at() -> Run:
    """Train a LeNet on 8x8 digits adversarially: linf 0.1, PGD-10."""
    return Run(
        data=Digits(),
        model=LeNet(width=8),
        objective=AT(attack=_ATTACK),
        training=Training(
            epochs=30,
            batch_size=64,
            optimizer=Adam(lr=2e-3),
            lr=Cosine(),
            track=100,
            track_every=5,
        ),
        evaluation=Evaluating(eps=0.1, steps=50, restarts=2, loss_steps=20, loss_restarts=2, n=None),
    )


def digits_natural() -> Run:
    """Train a LeNet on 8x8 digits without an adversary."""
    run = digits_at()
    return replace(run, objective=Natural(), training=replace(run.training, track_attack=_ATTACK))


def digits_at_awp() -> Run:
    """Train a LeNet on 8x8 digits adversarially under adversarial weight perturbation."""
    return replace(digits_at(), weights=AWP())
