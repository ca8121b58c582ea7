"""MNIST: 60,000 and 10,000 handwritten digits of 28 x 28 pixels, from the original idx files."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from robustscape.data import sources
from robustscape.data.fetch import read
from robustscape.data.splits import check_part, make_splits
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
        chosen = self.classes
        if chosen is not None and (
            len(chosen) < 2 or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(10))
        ):
            raise BadInput(f"classes must be two or more different digits from 0 to 9, not {chosen}")
        if self.per_class is not None and self.per_class < 1:
            raise BadInput(f"per_class must be at least 1, not {self.per_class}; leave it out for all images")
        check_part("validation", self.validation)

    def load(self, *, seed: int) -> Splits:
        """Read (and download if need be) the data; ``seed`` draws validation and the images of per_class.

        A file that is damaged, or missing and not to be downloaded, is a BadInput, and so is a per_class of
        more images than there are.
        """
        return make_splits(
            self._images("train"),
            self._images("test"),
            validation=self.validation,
            classes=self.classes,
            per_class=self.per_class,
            seed=seed,
        )

    def _images(self, split: str) -> Images:
        x, y = (
            idx(read(sources.MNIST[f"{split} {part}"], "mnist", self.data_dir), f"MNIST's {split} {part}")
            for part in ("images", "labels")
        )
        only = "" if self.classes is None else f" (classes {', '.join(map(str, self.classes))})"
        return Images(
            x=torch.from_numpy(x)[:, None],
            y=torch.from_numpy(y.astype(np.int64)),
            index=torch.arange(len(y)),
            classes=tuple(str(digit) for digit in range(10)),
            name=f"MNIST{only}",
        )


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
    if len(shape) != content[3] or len(content) - start != math.prod(shape):
        raise BadInput(f"{name} was cut short: {len(content)} bytes do not fit its header")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()
