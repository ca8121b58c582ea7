"""A data set given from Python: arrays, tensors, or any dataset of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from robustscape.data import cache
from robustscape.data.arrays import both, labels, pixels
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import BadInput, Splits

_LOOKED_AT_TWICE = 10
"""Images of a dataset that are taken again, to see whether its transforms are random."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A data set that ``hold`` was given; its pixels and labels wait in the user's cache under their own hash.

    So a run on it goes on, and is evaluated, like any other on this machine: the same pixels are the same data set.

    Attributes:
        digest: Hash of pixels, labels and class names, as ``hold`` returns it.
        name: What tables call the data set.
        classes: Which classes, for example 6 8: they become classes 0 and 1 in every split; None for all.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
    """

    digest: str = ""
    name: str = "memory"
    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check_choice(self)
        if self.digest and not self.digest.isalnum():
            raise BadInput(f"digest must be what robustscape.data.memory.hold returned, not {self.digest!r}")

    def load(self, *, seed: int) -> Splits:
        """Give the data; ``seed`` draws validation and the images of per_class.

        A digest that ``hold`` has not been given on this machine is a BadInput.
        """
        held = cache.kept(_key(self.digest)) if self.digest else None
        if held is None or cache.digest(held) != self.digest:
            raise BadInput(
                f"the data set {self.name!r} was given from Python, and this machine's cache does not hold it;"
                " give it again by robustscape.data.memory.hold(train, test)"
            )
        train, test = both(
            (held["x_train"], held["y_train"]),
            (held["x_test"], held["y_test"]),
            classes=tuple(map(str, held["classes"])),
            name=called(self.name, self.classes),
        )
        return chosen_splits(self, train, test, seed=seed)


def hold(train: Any, test: Any, *, name: str = "memory", classes: Sequence[str] | None = None) -> Memory:
    """Put a data set into the user's cache and return what a Run takes as its data.

    Example:
        >>> import numpy as np
        >>> x, y = np.zeros((8, 1, 5, 5), np.uint8), np.arange(8) % 2
        >>> hold((x, y), (x, y), name="dark").load(seed=0).test.name
        'dark, test'

    Args:
        train: (pixels, labels), or a dataset that gives (image, label) by number, as PyTorch's do. Pixels are NumPy
            arrays or tensors, uint8 or float in [0, 1] (rounded to the nearest of 256 levels), (N, C, H, W),
            (N, H, W, C) or (N, H, W); images of a dataset one of them each, or pillow's, all of one size and
            without random transforms. Labels count from 0. The order is kept.
        test: The same for the test set.
        name: What tables call it.
        classes: Name of each class, None for their numbers.

    Returns:
        The data set; ``dataclasses.replace`` sets its validation, classes and per_class.

    Raises:
        BadInput: what is given cannot be meant so, or the cache cannot be written.
    """
    pairs = [part if isinstance(part, tuple) else _pair(part, f"{name}, {word}") for part, word in _parts(train, test)]
    if any(len(pair) != 2 for pair in pairs):
        raise BadInput("train and test must each be (pixels, labels), or a dataset that gives (image, label)")
    sets = both(pairs[0], pairs[1], classes=None if classes is None else tuple(map(str, classes)), name=name)
    arrays = {"classes": np.array(sets[0].classes)}
    for images, word in _parts(*sets):
        arrays |= {f"x_{word}": images.x.numpy(), f"y_{word}": images.y.numpy()}
    digest = cache.digest(arrays)
    if cache.kept(_key(digest)) is None:
        try:
            cache.keep(_key(digest), arrays)
        except OSError as error:
            raise BadInput(f"{name} cannot be held in the cache: {error.strerror or error}; make room there") from None
    return Memory(digest=digest, name=name)


def _key(digest: str) -> str:
    return f"memory-{digest}"


def _parts(train: Any, test: Any) -> tuple[tuple[Any, str], tuple[Any, str]]:
    return (train, "train"), (test, "test")


def _pair(dataset: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels, (N, C, H, W), uint8, and the labels of a dataset."""
    items = (dataset[i] for i in range(len(dataset))) if hasattr(dataset, "__len__") else iter(dataset)
    images, numbers = [], []
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise BadInput(f"{name} gives a {type(item).__name__}; each of its items must be (image, label)")
        image = _one(item[0], name)
        if images and image.shape != images[0].shape:
            raise BadInput(f"{name} has images of {images[0].shape} and of {image.shape}: resize them first")
        images.append(image)
        try:
            numbers.append(index(item[1]))
        except TypeError:
            raise BadInput(f"{name} gives a label {item[1]!r}; labels must be whole numbers") from None
    if not images:
        raise BadInput(f"{name} has no images")
    again = range(min(_LOOKED_AT_TWICE, len(images))) if hasattr(dataset, "__len__") else ()
    if not all(np.array_equal(_one(dataset[i][0], name), images[i]) for i in again):
        raise BadInput(f"{name} gives another image each time; leave its random transforms out: training adds its own")
    return np.stack(images), labels(numbers, name)


def _one(image: Any, name: str) -> np.ndarray:
    """Return one image, (C, H, W), uint8."""
    array = image if hasattr(image, "detach") else np.asarray(image)
    return pixels(array[None], name)[0]
