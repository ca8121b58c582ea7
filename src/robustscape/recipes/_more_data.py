"""What Wu 2020 and Yan 2022 train on more images than CIFAR-10's: RST of Carmon 2019, pre-training of Hendrycks 2019.

Both papers leave these two methods to their authors. RST is as Carmon's code has it where they state nothing: half of
each batch from its file, an epoch of 50,000 examples, one mean over the batch, TRADES with beta 6, no constants in the
network. Pre-training is a run on ImageNet 32 x 32 as Hendrycks' code has it, and one that begins with its last
checkpoint: 50 epochs at 0.001, on that code's cosine and with its Nesterov momentum; pixels are mapped to [-1, 1].
"""

from __future__ import annotations

from dataclasses import replace

from robustscape.attacks.pgd import PGD
from robustscape.data.augment import CropFlip
from robustscape.data.imagenet32 import ImageNet32
from robustscape.data.pseudo_labelled import CARMON
from robustscape.data.unlabelled import Unlabelled
from robustscape.models.wide_resnet import WideResNet
from robustscape.objectives.rst import RST
from robustscape.recipes import _rice
from robustscape.recipes.run import Run
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.cosine import Cosine

_HALF = (0.5, 0.5, 0.5)
FIRST_STAGE = "Pre-training, first stage"
"""What the row is called that the pre-trained ones begin with."""


def rst(run: Run) -> Run:
    """Return the run by RST with Carmon's images and TRADES, attacked from a normal start, tracked as it was."""
    adversary = run.objective.attack
    assert isinstance(adversary, PGD), "these runs are attacked by PGD"
    return replace(
        run,
        objective=RST(attack=replace(adversary, start="gaussian"), beta=6.0, mean="all"),
        unlabelled=Unlabelled(source=CARMON, size=50_000),
        training=replace(run.training, track_attack=adversary),
    )


def first_stage(depth: int) -> Run:
    """Return adversarial training of a WideResNet of width 10 on ImageNet 32 x 32: 100 epochs, batches of 256."""
    run = _rice.at()
    optimizer = SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    training = replace(
        run.training, epochs=100, batch_size=256, optimizer=optimizer, lr=Cosine(end=1e-5), best_on_test=False
    )
    model = WideResNet(depth=depth, width=10, mean=_HALF, std=_HALF)
    return replace(run, data=ImageNet32(), model=model, augment=CropFlip(), training=training)


def tuned(depth: int, start: str) -> Run:
    """Return 50 epochs on CIFAR-10 that begin with the last checkpoint of such a run, ``start``."""
    run = _rice.at()
    optimizer = SGD(lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    training = replace(run.training, epochs=50, optimizer=optimizer, lr=Cosine())
    return replace(first_stage(depth), data=run.data, start=start, training=training)
