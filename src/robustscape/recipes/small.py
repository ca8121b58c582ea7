"""The small variant of a paper's run: a narrow network, few images, a fifth of the epochs; for two cores."""

from __future__ import annotations

from dataclasses import replace

from robustscape.data.augment import Augmentation, Chain, CropFlip
from robustscape.data.cifar10 import CIFAR10
from robustscape.data.cifar100 import CIFAR100
from robustscape.data.folder import Folder
from robustscape.data.imagenet32 import ImageNet32
from robustscape.data.mnist import MNIST
from robustscape.data.pseudo_labelled import SMALL
from robustscape.data.svhn import SVHN
from robustscape.data.unlabelled import Unlabelled
from robustscape.data.warp import CropResize, Rotate
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.models.preact_resnet import PreActResNet
from robustscape.models.resnet import ResNet
from robustscape.models.stutz_resnet import StutzResNet
from robustscape.models.vgg import VGG
from robustscape.models.wide_resnet import WideResNet
from robustscape.recipes.run import Run
from robustscape.training.settings import Training
from robustscape.types import Architecture, DataSource
from robustscape.weights.amp import AMP
from robustscape.weights.awp import AWP

_SHORTER = 5
_FEWEST_EPOCHS = 5
_PER_CLASS = 400
_IMAGES = 10 * _PER_CLASS
_EVALUATED = 500
_TRACKED, _TRACKED_EVERY = 250, 5  # with the 1,000 of validation a tenth of the training's work at most

_ANIMALS = (2, 3, 4, 5, 6, 7)
_VEHICLES = (0, 1, 8, 9)

HIDDEN = 0.8
"""How much of the training set loses its labels in them."""


def smaller(run: Run) -> Run:
    """Return the small variant of a run, which shows what the paper's scale would, or not: it promises no numbers.

    A quarter of the width (WideResNet: depth 16, width 1; LeNet: half), 4,000 images in all (400 of each class of MNIST
    and SVHN too), a fifth of the epochs but at least five, AWP's warm-up as much shorter, and a fifth of the steps that
    are logged one by one. An average remembers as many epochs as before. No crops, flips and rotations, with which
    narrow networks hardly overfit. CIFAR-10 is taken from the folder ``cifar10-jpeg``. Judged by PGD on 500 images.

    In place of Carmon's images, ``HIDDEN`` of the training set loses its labels and is read from ``SMALL``. In
    place of ImageNet, CIFAR-10's six animals; what begins with another recipe's run begins with that of its small
    variant and learns the four vehicles.
    """
    epochs = max(min(run.training.epochs, _FEWEST_EPOCHS), run.training.epochs // _SHORTER)
    weights = run.weights
    if isinstance(weights, AWP | AMP):
        weights = replace(weights, warmup=weights.warmup * epochs / run.training.epochs)
    evaluation = replace(run.evaluation, suite="quick", restarts=min(run.evaluation.restarts, 2), n=_EVALUATED)
    return replace(
        run,
        data=_fewer(run.data) if run.start is None else _part(_VEHICLES),
        unlabelled=_hidden(run.unlabelled),
        start=None if run.start is None else f"{run.start}_small",
        model=_narrower(run.model),
        weights=weights,
        augment=_unmoved(run.augment),
        training=_shorter(run.training, epochs),
        evaluation=replace(evaluation, loss_restarts=min(evaluation.loss_restarts, 2)),
    )


def _fewer(data: DataSource) -> DataSource:
    """Return a data set with few of its training images."""
    if isinstance(data, CIFAR10):
        return _part(data.classes)
    if isinstance(data, ImageNet32):
        return _part(_ANIMALS)
    if isinstance(data, CIFAR100):
        return replace(data, per_class=_PER_CLASS // 10)
    assert isinstance(data, MNIST | SVHN), "a data set that no row has"
    return replace(data, per_class=_PER_CLASS)


def _part(classes: tuple[int, ...] | None) -> Folder:
    """Return some classes of CIFAR-10, None for all, with about as many images whatever their number."""
    name, count = "CIFAR-10 (JPEG)", 10 if classes is None else len(classes)
    return Folder(path="cifar10-jpeg", name=name, classes=classes, per_class=_IMAGES // count)


def _hidden(unlabelled: Unlabelled) -> Unlabelled:
    """Return unlabelled images that are those of the training set itself, their labels hidden."""
    if unlabelled.source is None:
        return unlabelled
    return replace(unlabelled, source=SMALL, size=_IMAGES, hide=HIDDEN)


def _narrower(model: Architecture) -> Architecture:
    """Return a narrow network of the same kind."""
    if isinstance(model, Linear):
        return model
    if isinstance(model, WideResNet):
        return replace(model, depth=16, width=1)
    if isinstance(model, LeNet):
        return replace(model, width=max(1, model.width // 2))
    assert isinstance(model, PreActResNet | ResNet | StutzResNet | VGG), "a network that no row has"
    return replace(model, width=max(1, model.width // 4))


def _unmoved(augment: Augmentation | Chain | None) -> Augmentation | Chain | None:
    """Return what is left of an augmentation without crops, flips and rotations."""
    if not isinstance(augment, Chain):
        return None if isinstance(augment, CropFlip | CropResize | Rotate) else augment
    left = {place: _unmoved(one) for place, one in vars(augment).items()}
    return replace(augment, **left) if any(left.values()) else None


def _shorter(training: Training, epochs: int) -> Training:
    """Return a training of so many epochs; an average remembers as many of the short epochs as before of the long."""
    ema = training.ema
    if ema is not None:
        ema = max(0.0, 1 - (1 - ema) * 50_000 / _IMAGES)
    return replace(
        training,
        epochs=epochs,
        ema=ema,
        track=min(training.track, _TRACKED),
        track_every=_TRACKED_EVERY,
        track_first=training.track_first // _SHORTER,
        track_last=training.track_last // _SHORTER,
    )
