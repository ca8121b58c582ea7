"""SVHN: 73,257 and 26,032 house numbers of 32 x 32 pixels, from the original files of cropped digits."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from robustscape.data import sources
from robustscape.data.arrays import to_images
from robustscape.data.cache import Arrays, decoded
from robustscape.data.fetch import folders_of, read
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import BadInput, Images, Splits

_ZERO = 10
"""The label that the files give to the digit 0."""


@dataclass(frozen=True, kw_only=True)
class SVHN:
    """SVHN's cropped digits, (3, 32, 32); from Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers.

    Class 0 is the digit 0, which the files label 10. Its part "extra" is not used.

    Attributes:
        classes: Which digits, for example 3 7: they become classes 0 and 1 in every split; None for all ten.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
        data_dir: Folder that holds train_32x32.mat and test_32x32.mat, or a folder svhn with them; None for the
            folder in the environment variable ROBUSTSCAPE_DATA. Where they are in neither, they are downloaded
            once into the user's cache. They are decoded once, also into that cache.
    """

    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 1000
    data_dir: str | None = None

    def __post_init__(self) -> None:
        """Refuse what SVHN cannot give."""
        check_choice(self, known=10)

    def load(self, *, seed: int) -> Splits:
        """Read (and download if need be) the data; ``seed`` draws validation and the images of per_class.

        A file that is damaged, or missing and not to be downloaded, is a BadInput, and so is a per_class of
        more images than there are.
        """
        return chosen_splits(self, self._images("train"), self._images("test"), seed=seed)

    def _images(self, split: str) -> Images:
        folders_of("svhn", self.data_dir)  # a data_dir that is none is wrong though the cache has all
        source = sources.SVHN[split]
        held = decoded(f"svhn-{source.archive_md5}", lambda: _arrays(read(source, "svhn", self.data_dir), source.file))
        names = tuple(str(digit) for digit in range(10))
        return to_images(held["x"], held["y"], classes=names, name=called("SVHN", self.classes))


def _arrays(content: bytes, file: str) -> Arrays:
    """Return pixels and labels of a .mat file whose checksum holds: X is (32, 32, 3, N) and y (N, 1), from 1 to 10."""
    from scipy.io import loadmat

    found = loadmat(io.BytesIO(content), variable_names=["X", "y"])
    if not {"X", "y"} <= set(found):
        raise BadInput(f"{file} has no X and y, as SVHN's cropped digits have")
    x, y = found["X"].transpose(3, 2, 0, 1), found["y"].astype(np.int64).ravel()
    return {"x": np.ascontiguousarray(x), "y": np.where(y == _ZERO, 0, y)}
