"""MNIST: 60,000 and 10,000 handwritten digits of 28 x 28 pixels, from the original idx files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robustscape.data import sources
from robustscape.data.arrays import to_images
from robustscape.data.fetch import read
from robustscape.data.sources import Source
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import BadInput, Images, Splits

_UNSIGNED_BYTES = 0x08


@dataclass(frozen=True, kw_only=True)
class MNIST:
    """MNIST, (1, 28, 28); from LeCun, Bottou, Bengio and Haffner 1998, https://doi.org/10.1109/5.726791.

    Attributes:
        classes: Which digits, for example 3 7: they become classes 0 and 1 in every split; None for all ten.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
        data_dir: Folder that holds the four original idx files, gzipped or not, or a folder mnist with
            them; None for the folder in the environment variable ROBUSTSCAPE_DATA. Where they are in
            neither, they are downloaded once into the user's cache.
    """

    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 1000
    data_dir: str | None = None

    def __post_init__(self) -> None:
        """Refuse what MNIST cannot give."""
        check_choice(self, known=10)

    def load(self, *, seed: int) -> Splits:
        """Read (and download if need be) the data; ``seed`` draws validation and the images of per_class.

        A file that is damaged, or missing and not to be downloaded, is a BadInput, and so is a per_class of
        more images than there are.
        """
        names = tuple(str(digit) for digit in range(10))
        train, test = idx_images(sources.MNIST, "mnist", self.data_dir, names, called("MNIST", self.classes))
        return chosen_splits(self, train, test, seed=seed)


def idx_images(
    files: Mapping[str, Source], dataset: str, data_dir: str | None, classes: tuple[str, ...], name: str
) -> tuple[Images, Images]:
    """Return the training and the test set that are in four idx files of grey images and labels.

    Args:
        files: The sources "train images", "train labels", "test images" and "test labels".
        dataset: Name of the data set's own folder.
        data_dir: A folder of the user's, or None.
        classes: Name of each class.
        name: What tables call the data set.

    Raises:
        BadInput: a file is damaged, or missing and not to be downloaded.
    """

    def images(split: str) -> Images:
        x, y = (
            idx(read(files[f"{split} {part}"], dataset, data_dir), f"{name}'s {split} {part}")
            for part in ("images", "labels")
        )
        return to_images(x, y, classes=classes, name=name)

    return images("train"), images("test")


def idx(content: bytes, name: str) -> np.ndarray:
    """Return the array in the bytes of an idx file of unsigned bytes.

    The form: two zero bytes, the type 0x08, the number of dimensions, each as 4 bytes big-endian, the data.

    Args:
        content: The whole file, decompressed.
        name: What to call it in a message.

    Returns:
        The array, uint8, writable.

    Raises:
        BadInput: the bytes are not of this form.
    """
    if len(content) < 4 or content[:3] != bytes((0, 0, _UNSIGNED_BYTES)):
        raise BadInput(f"{name} is not an idx file of unsigned bytes: it begins with {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], dtype=">u4").tolist() if len(content) >= start else []
    if len(shape) != content[3] or not shape or len(content) - start != math.prod(shape):
        raise BadInput(f"{name} was cut short: {len(content)} bytes do not fit its header")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()
