"""Downsampled ImageNet: 1,281,167 and 50,000 photographs of 32 x 32 pixels, from the original batches."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustscape.data.archives import BROKEN, memory, opened, reason
from robustscape.data.arrays import to_images
from robustscape.data.cache import Arrays, decoded, fingerprint, stamp
from robustscape.data.fetch import find
from robustscape.data.pickles import arrays
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import BadInput, Images, Splits

_CLASSES = 1000
_PIXELS = 3 * 32 * 32
_BATCHES = {"train": tuple(f"train_data_batch_{number}" for number in range(1, 11)), "test": ("val_data",)}
_FOLDERS = ("", "Imagenet32_train", "Imagenet32_val", "Imagenet32_train_npz", "Imagenet32_val_npz")


@dataclass(frozen=True, kw_only=True)
class ImageNet32:
    """ImageNet in 32 x 32 pixels, (3, 32, 32), 1,000 classes; from Chrabaszcz et al. 2017, arXiv:1707.08819.

    The test split is the published validation set. ImageNet asks for an account, so nothing is downloaded. Class k is
    the one that the files number k + 1, and is called by that number.

    Attributes:
        path: Folder that holds train_data_batch_1 to train_data_batch_10 and val_data (pickles, of which the arrays
            alone are read, or .npz), or their folders as the archives unpack; also looked for in the folder that
            the environment variable ROBUSTSCAPE_DATA names.
        classes: Which classes, from 0 to 999: they become classes 0, 1, ... in every split; None for all.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
    """

    path: str = "imagenet32"
    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 10000

    def __post_init__(self) -> None:
        """Refuse what it cannot give."""
        check_choice(self, known=_CLASSES)

    def load(self, *, seed: int) -> Splits:
        """Read the data; ``seed`` draws validation and the images of per_class.

        A file that is missing, damaged or holds something else is a BadInput.
        """
        folder = find(self.path, holding="train_data_batch_1 to train_data_batch_10 and val_data")
        return chosen_splits(self, self._images(folder, "train"), self._images(folder, "test"), seed=seed)

    def _images(self, folder: Path, split: str) -> Images:
        paths = [_found(folder, name) for name in _BATCHES[split]]
        held = decoded(f"imagenet32-{fingerprint(map(stamp, paths))}", lambda: _decoded(paths))
        names = tuple(str(number) for number in range(1, _CLASSES + 1))
        return to_images(held["x"], held["y"], classes=names, name=called("ImageNet 32x32", self.classes))


def _found(folder: Path, name: str) -> Path:
    for inside in _FOLDERS:
        for path in (folder / inside / name, folder / inside / f"{name}.npz"):
            if path.is_file():
                return path
    raise BadInput(f"{folder} has no {name}, nor {name}.npz; it needs all {sum(map(len, _BATCHES.values()))} batches")


def _decoded(paths: list[Path]) -> Arrays:
    """Return images, (N, 3, 32, 32), uint8, and labels, (N,), int64 from 0 on."""
    x, y = [], []
    for path in paths:
        found = read_batch(path, ("data", "labels"))
        data, numbers = found["data"], found["labels"].astype(np.int64).ravel()
        if data.dtype != np.uint8 or data.shape != (len(numbers), _PIXELS) or not len(data):
            raise BadInput(f"{path} has data of {data.shape}, {data.dtype}, and {len(numbers)} labels")
        if not 1 <= numbers.min() <= numbers.max() <= _CLASSES:
            raise BadInput(f"{path} has labels from {numbers.min()} to {numbers.max()}, not from 1 to {_CLASSES}")
        x.append(data.reshape(-1, 3, 32, 32))
        y.append(numbers - 1)
    return {"x": np.concatenate(x), "y": np.concatenate(y)}


def read_batch(path: Path, names: tuple[str, ...]) -> Arrays:
    """Return some arrays of an .npz file, or of a pickle without unpickling it.

    Args:
        path: The file; one that ends in .npz is read as such, any other as a pickle of a dict.
        names: Which arrays.

    Raises:
        BadInput: it is damaged, or holds something else.
    """
    if path.stat().st_size > memory():
        raise BadInput(f"{path} has {path.stat().st_size:,} bytes, more than this machine can hold")
    try:
        if path.suffix == ".npz":
            opened(path).close()
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in names}
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return arrays(content, names, str(path))
    except BadInput:
        raise
    except BROKEN as error:
        raise BadInput(f"{path} is damaged, was cut short, or holds no plain arrays: {reason(error)}") from None
