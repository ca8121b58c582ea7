"""Honest splits: training, validation and test, stratified by class and drawn by seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from robustscape.streams import Streams
from robustscape.types import BadInput, Images, Splits


def check_part(name: str, part: int | float) -> None:
    """Refuse a part of a set that is neither a number of images nor a fraction of them.

    Args:
        name: The field's name, for the message.
        part: An int of at least 1 (images), or a float in (0, 1) (a fraction of the set).

    Raises:
        BadInput: it is neither.
    """
    if isinstance(part, float) and not 0 < part < 1:
        hint = f"; did you mean {round(part)} images?" if part >= 1 and part == round(part) else ""
        raise BadInput(f"{name} as a fraction must be in (0, 1), not {part}{hint}")
    if isinstance(part, int) and part < 1:
        raise BadInput(f"{name} must be at least 1 image or a fraction in (0, 1), not {part}")


class _Chosen(Protocol):
    """The fields that data sets have in common: which of their images are meant."""

    @property
    def classes(self) -> tuple[int, ...] | None: ...
    @property
    def per_class(self) -> int | None: ...
    @property
    def validation(self) -> int | float: ...


def check_choice(dataset: _Chosen, *, known: int | None = None) -> None:
    """Refuse what no data set can give of itself.

    Args:
        dataset: Has fields ``classes``, ``per_class`` and ``validation``, as ``make_splits`` takes them.
        known: How many classes there are, None where only the files can tell.

    Raises:
        BadInput: fewer than two classes, a class twice or one that is not there, no image of a class, or no part.
    """
    if dataset.classes is not None:
        _check_classes(dataset.classes, known)
    if dataset.per_class is not None and dataset.per_class < 1:
        raise BadInput(f"per_class must be at least 1, not {dataset.per_class}; leave it out for all images")
    check_part("validation", dataset.validation)


def _check_classes(classes: tuple[int, ...], known: int | None) -> None:
    below = min(classes, default=0) >= 0 and (known is None or max(classes, default=0) < known)
    if len(classes) < 2 or len(set(classes)) < len(classes) or not below:
        last = "" if known is None else f" to {known - 1}"
        raise BadInput(f"classes must be two or more different numbers from 0{last}, not {classes}")


def called(name: str, classes: tuple[int, ...] | None) -> str:
    """Return a data set's name with the classes that were chosen, for example "MNIST (classes 3, 7)"."""
    return name if classes is None else f"{name} (classes {', '.join(map(str, classes))})"


def stratified(images: Images, part: int | float, *, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Split a set in two so that each class has its share of the second, to within one image.

    The quotas are the classes' exact shares rounded down, and the images still missing go one each to the
    classes with the largest remainders (Hamilton's method; the lower class first where remainders tie).

    Args:
        images: The set.
        part: Size of the second part: an int is a number of images, a float a fraction in (0, 1).
        seed: Seed of the draw.
        purpose: Name of the second part, such as "validation": splits for two purposes are independent.

    Returns:
        Rows of the first and of the second part, int64 on the CPU, each in the set's order.

    Raises:
        BadInput: the part is not smaller than the set, or takes all images of a class.
    """
    check_part(purpose, part)
    y = images.y.cpu()
    count = max(1, round(part * len(y))) if isinstance(part, float) else part
    if count >= len(y):
        raise BadInput(f"{purpose} cannot take {count} of {len(y)} images; did you mean a fraction, such as 0.1?")
    sizes = torch.bincount(y, minlength=len(images.classes))
    quotas, remainders = sizes * count // len(y), sizes * count % len(y)
    quotas[torch.argsort(remainders, descending=True, stable=True)[: count - int(quotas.sum())]] += 1
    chosen = torch.zeros(len(y), dtype=torch.bool)
    for label, (size, quota) in enumerate(zip(sizes.tolist(), quotas.tolist(), strict=True)):
        if size and quota == size:
            raise BadInput(f"{purpose} of {part} would take every image of class {images.classes[label]!r}")
        order = Streams(seed, ("split", purpose, label)).order(size)
        chosen[torch.nonzero(y == label)[order[:quota], 0]] = True
    return torch.nonzero(~chosen)[:, 0], torch.nonzero(chosen)[:, 0]


def of_classes(images: Images, classes: tuple[int, ...]) -> Images:
    """Return the images of the given classes, their labels 0..K-1 in the order given, in the set's order.

    Raises:
        BadInput: fewer than two classes, a class twice, or one that the set does not have.
    """
    _check_classes(classes, len(images.classes))
    label = torch.full((len(images.classes),), -1)
    label[list(classes)] = torch.arange(len(classes))
    y = label.to(images.y.device)[images.y]
    kept = replace(images, y=y).take(torch.nonzero(y >= 0)[:, 0])
    return replace(kept, classes=tuple(images.classes[c] for c in classes))


def of_each_class(images: Images, count: int, *, seed: int) -> Images:
    """Return ``count`` images of each class, drawn by seed, in the set's order; fewer are a subset of more.

    Raises:
        BadInput: a class has fewer images.
    """
    y = images.y.cpu()
    rows = []
    for label, name in enumerate(images.classes):
        there = torch.nonzero(y == label)[:, 0]
        if len(there) < count:
            raise BadInput(f"per_class is {count}, but class {name!r} has {len(there)} training images")
        rows.append(there[Streams(seed, ("subset", label)).order(len(there))[:count]])
    return images.take(torch.cat(rows).sort().values.to(images.y.device))


def make_splits(
    train: Images,
    test: Images,
    *,
    validation: int | float,
    classes: tuple[int, ...] | None = None,
    per_class: int | None = None,
    seed: int,
) -> Splits:
    """Make the three splits out of a published training and test set.

    The classes are chosen first, in both sets; then validation is drawn from the training set; then the
    training set is thinned out. So validation is the same for every ``per_class``. A class or a number of
    images that the set does not have is a BadInput.

    Args:
        train: The published training set, named by the data set alone.
        test: The published test set; never thinned out.
        validation: Size of the validation split: images (int) or a fraction of the training set (float).
        classes: Which classes, None for all.
        per_class: Training images of each class, None for all.
        seed: Seed of both draws.

    Returns:
        The splits; ", train", ", validation" and ", test" are added to their names.
    """
    if classes is not None:
        train, test = of_classes(train, classes), of_classes(test, classes)
    rest, held_out = stratified(train, validation, seed=seed, purpose="validation")
    kept = train.take(rest)
    if per_class is not None:
        kept = of_each_class(kept, per_class, seed=seed)
    return Splits(
        train=replace(kept, name=f"{train.name}, train"),
        validation=replace(train.take(held_out), name=f"{train.name}, validation"),
        test=replace(test, name=f"{test.name}, test"),
    )


def chosen_splits(dataset: _Chosen, train: Images, test: Images, *, seed: int) -> Splits:
    """Make the three splits of a published training and test set as the data set's fields ask for them."""
    return make_splits(
        train,
        test,
        validation=dataset.validation,
        classes=dataset.classes,
        per_class=dataset.per_class,
        seed=seed,
    )


def on_device(splits: Splits, device: torch.device | str) -> Splits:
    """Return the splits with all their tensors on the device."""
    return Splits(
        train=moved(splits.train, device),
        validation=moved(splits.validation, device),
        test=moved(splits.test, device),
    )


def moved(images: Images, device: torch.device | str) -> Images:
    """Return the images with all their tensors on the device."""
    return replace(images, x=images.x.to(device), y=images.y.to(device), index=images.index.to(device))
