"""Recipes of Stutz, Hein and Schiele 2021, https://arxiv.org/abs/2104.04448: table 1 and the sweeps of figure 7.

The grids and the settings of table 1 are those of the supplement and of the authors' code. Weight decay is 5e-4 with
Nesterov momentum, as in the code: the text's 0.005 is another row of the supplement. The attack is PGD-7 at 8/255 with
steps of 0.007 from a Gaussian direction of uniform length, of which the input of largest loss is kept, as in the code,
whose eps is 0.0314. Their early stopping is on test images; here ``best`` is chosen on validation.

The released settings of +Unlabeled have AutoAugment on; the text says that methods are put on top of the baseline,
whose crops the row has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from robustscape.attacks.friendly import Friendly
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.augment import Chain, CropFlip
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.cifar10 import CIFAR10
from robustscape.data.erase import Cutout
from robustscape.data.pseudo_labelled import CARMON
from robustscape.data.targets import Targets
from robustscape.data.unlabelled import Unlabelled
from robustscape.data.warp import CropResize
from robustscape.evaluation.accuracy import Evaluating
from robustscape.models.activations import Activation
from robustscape.models.stutz_resnet import StutzResNet
from robustscape.objectives.at import AT
from robustscape.objectives.fat import FAT
from robustscape.objectives.mart import MART
from robustscape.objectives.part_at import PartAT
from robustscape.objectives.rst import RST
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.objectives.trades import TRADES
from robustscape.recipes import _rice
from robustscape.recipes.row import Row, rows_of
from robustscape.recipes.run import Run
from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.cyclic import Cyclic
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.settings import Training
from robustscape.types import Objective, Optimizer
from robustscape.weights.awp import AWP

_NETWORK = StutzResNet(mean=_rice.CIFAR10_CONSTANTS[0], std=_rice.CIFAR10_CONSTANTS[1])
_ATTACK = PGD(threat=ThreatModel(eps=8 / 255), steps=7, step_size=0.007, start="direction", result="best_loss")
_SGD = SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
_TRAINING = Training(epochs=150, batch_size=128, optimizer=_SGD, lr=Piecewise.stutz(), track_every=5)


def rows() -> tuple[Row, ...]:
    """Return the rows of Stutz 2021."""
    return (*rows_of("stutz", "table1", _table1()), *rows_of("stutz", "figure7", _figure7()))


_Entries = Iterator[tuple[str, str, Run]]


def _at() -> Run:
    """Return the baseline: their ResNet-18, 150 epochs."""
    return Run(
        data=CIFAR10(),
        model=_NETWORK,
        objective=AT(attack=_ATTACK),
        augment=CropResize(),
        training=_TRAINING,
        evaluation=Evaluating(suite="autoattack", loss_steps=20, loss_restarts=10, step_size=0.007, n=1000),
    )


def _table1() -> _Entries:
    yield "+Unlabeled", "Carmon's images, 70 %", _unlabelled()
    yield "Cyclic", "2 cycles of 30 epochs", _cyclic(2)
    yield "AutoAugment", "and cutout of 16 pixels", _autoaugmented()
    yield "AT-AWP", "xi 0.01", _awp(0.01)
    yield "Label noise", "tau 0.3", _towards(Targets(noise=0.3))
    yield "Weight clipping", "w_max 0.005", _trained(replace(_TRAINING, clip_weights=0.005))
    yield "TRADES", "lambda 6", _minimising(TRADES(attack=_ATTACK, beta=6.0))
    yield "Self-supervision", "lambda 4", _minimising(_self_supervised(4.0))
    yield "Weight decay", "0.05", _decayed(0.05)
    yield "Entropy-SGD", "L 1", _entropy_sgd(1)
    yield "MiSH", "", _activated("mish")
    yield "Late multi-step", "drops after 140 and 145", _trained(replace(_TRAINING, lr=Piecewise.late()))
    yield "SiLU", "", _activated("silu")
    yield "Weight averaging", "tau 0.9975", _averaged(0.9975)
    yield "Larger eps=9/255", "", _minimising(AT(attack=_ATTACK.at(9 / 255)))
    yield "MART", "lambda 6", _minimising(MART(attack=_ATTACK, beta=6.0))
    yield "GeLU", "", _activated("gelu")
    yield "Label smoothing", "tau 0.3", _towards(Targets(smoothing=0.3))
    yield "AT (baseline)", "", _at()


def _figure7() -> _Entries:
    """The supplement's sweeps, of which the figure shows a selection."""
    for decay in (0.05, 0.01, 0.005, 0.001, 0.0001, 0.0):
        yield f"weight decay {decay:g}", "", _decayed(decay)
    for size in (8, 16, 32, 64, 128, 256, 512):
        yield f"batch size {size}", "", _trained(replace(_TRAINING, batch_size=size))
    for lr in (0.2, 0.1, 0.05, 0.01):
        yield f"learning rate {lr:g}", "", _stepped(replace(_SGD, lr=lr))
    yield "constant learning rate", "0.05", _trained(replace(_TRAINING, lr=Constant()))
    yield "Adam", "learning rate 0.1", _stepped(Adam(lr=0.1, weight_decay=5e-4))
    for cycles in (1, 2, 3, 4):
        yield f"cyclic {cycles}", f"{cycles} of 30 epochs", _cyclic(cycles)
    for xi in (0.0005, 0.001, 0.005, 0.01, 0.015, 0.02):
        yield f"AT-AWP, xi {xi:g}", "1 iteration", _awp(xi)
    for steps in range(2, 8):
        yield f"AT-AWP, {steps} iterations", "xi 0.01", _awp(0.01, steps=steps)
    for beta in (1, 3, 6, 9):
        yield f"TRADES, lambda {beta}", "", _minimising(TRADES(attack=_ATTACK, beta=float(beta)))
    for beta in (1, 3, 6, 9):
        yield f"MART, lambda {beta}", "", _minimising(MART(attack=_ATTACK, beta=float(beta)))
    for weight in (0.5, 1.0, 2.0, 4.0, 8.0):
        yield f"self-supervision, lambda {weight:g}", "", _minimising(_self_supervised(weight))
    for tau in (0.1, 0.2, 0.3):
        yield f"label smoothing {tau:g}", "", _towards(Targets(smoothing=tau))
    for tau in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        yield f"label noise {tau:g}", "", _towards(Targets(noise=tau))
    for most in (0.005, 0.01, 0.025):
        yield f"weight clipping {most:g}", "", _trained(replace(_TRAINING, clip_weights=most))
    for tau in (0.98, 0.985, 0.99, 0.9975):
        yield f"weight averaging, tau {tau:g}", "", _averaged(tau)
    for steps in (1, 2, 3, 5):
        yield f"Entropy-SGD, L {steps}", "", _entropy_sgd(steps)
    yield "dropout", "0.1", replace(_at(), model=replace(_NETWORK, dropout=0.1))
    for tau in range(4):
        stopped = FAT(attack=replace(Friendly.stutz(), threat=_ATTACK.threat, tau=tau), rises=())
        yield f"PGD-7-tau, tau {tau}", "early-stopped PGD", _minimising(stopped)
    for steps in (5, 14):
        yield f"PGD-{steps}", "", _minimising(AT(attack=replace(_ATTACK, steps=steps)))
    ignoring = replace(PartAT.ignore_incorrect(), attack=_ATTACK)
    yield "ignore incorrect", "misclassified images stay clean", _minimising(ignoring)
    leaking = replace(PartAT.prevent_label_leaking(), attack=_ATTACK)
    yield "prevent label leaking", "predicted labels are attacked", _minimising(leaking)


# -- what the rows change of the baseline ---------------------------------------------------------------


def _trained(training: Training) -> Run:
    """Return the baseline with another training."""
    return replace(_at(), training=training)


def _stepped(optimizer: Optimizer) -> Run:
    return _trained(replace(_TRAINING, optimizer=optimizer))


def _decayed(decay: float) -> Run:
    return _stepped(replace(_SGD, weight_decay=decay))


def _minimising(objective: Objective) -> Run:
    """Return the baseline with another objective, tracked as it was."""
    return replace(_trained(replace(_TRAINING, track_attack=_ATTACK)), objective=objective)


def _towards(targets: Targets) -> Run:
    """Return the baseline with soft or noisy labels."""
    return replace(_at(), targets=targets)


def _unlabelled() -> Run:
    """Return the baseline with pseudo-labelled images in its batches, an epoch as long as it was."""
    run = _minimising(replace(RST.stutz(), attack=_ATTACK))
    return replace(run, unlabelled=Unlabelled(source=CARMON, share=0.7))


def _autoaugmented() -> Run:
    policy = AutoAugment.stutz()
    crop, cutout = CropFlip(fill=policy.fill), Cutout(size=16, inside=False, fill=policy.fill)
    return replace(_at(), augment=Chain(first=crop, second=policy, third=cutout))


def _activated(activation: Activation) -> Run:
    return replace(_at(), model=replace(_NETWORK, activation=activation))


def _cyclic(cycles: int) -> Run:
    """Return the baseline with cycles of 30 epochs, each from 0 to 0.2 and back along lines.

    The released settings are the same for one to four cycles; that each has 30 epochs is our reading. Theirs also move
    the momentum, from 0.9 to 0.8 and back, against the rate.
    """
    schedule = Cyclic(cycles=cycles, peak=0.5)
    return _trained(replace(_TRAINING, epochs=30 * cycles, optimizer=replace(_SGD, lr=0.2), lr=schedule))


def _awp(xi: float, *, steps: int = 1) -> Run:
    """Return AT-AWP as their code has it, each entry of the gradient clipped."""
    training = replace(_TRAINING, clip_gradient=0.05, clip_gradient_by="entry")
    return replace(_trained(training), weights=replace(AWP.stutz(), gamma=xi, steps=steps))


def _averaged(tau: float) -> Run:
    return _trained(replace(_TRAINING, ema=tau, statistics="clean"))


def _self_supervised(weight: float) -> SelfSupervised:
    return replace(SelfSupervised.stutz(), attack=_ATTACK, weight=weight)


def _entropy_sgd(steps: int) -> Run:
    """Return Entropy-SGD as their code runs it: no momentum, one learning rate throughout, gamma that does not grow.

    150 / L epochs of steps, each of which takes L + 1 batches.
    """
    walking = replace(EntropySGD.official(), lr=0.05, momentum=0.0, nesterov=False, inner_momentum=0.0)
    optimizer = replace(walking, steps=steps, weight_decay=5e-4)
    epochs = 150 * (steps + 1) // steps
    training = replace(_TRAINING, epochs=epochs, optimizer=optimizer, lr=Constant())
    return _trained(training)
