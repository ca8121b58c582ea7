"""A data set in one .npz file: x_train, y_train, x_test and y_test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustscape.data.archives import BROKEN, opened, reason
from robustscape.data.arrays import both, class_names, labels, pixels
from robustscape.data.cache import Arrays, decoded, fingerprint, stamp
from robustscape.data.fetch import find
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import BadInput, Splits

_PARTS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, kw_only=True)
class Npz:
    """Arrays as ``np.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...)`` writes them.

    Pixels are uint8, or floats in [0, 1], which are rounded to the nearest of 256 levels; (N, C, H, W), (N, H, W, C)
    or (N, H, W). Labels count from 0; an array ``classes`` of texts may name them. The order is the file's. Nothing
    in the file can execute.

    Attributes:
        path: The file; also looked for in the folder that the environment variable ROBUSTSCAPE_DATA names.
        name: What tables call the data set; "" for the file's name.
        classes: Which classes, for example 6 8: they become classes 0 and 1 in every split; None for all.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
    """

    path: str = "data.npz"
    name: str = ""
    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check_choice(self)

    def load(self, *, seed: int) -> Splits:
        """Read the data; ``seed`` draws validation and the images of per_class.

        A file that is missing, damaged or holds something else is a BadInput.
        """
        path = find(self.path, holding="the file", what=".npz file", ending=".npz")
        held = decoded(f"npz-{fingerprint(stamp(path))}", lambda: _arrays(path))
        names = tuple(map(str, held["classes"])) if "classes" in held else None
        train, test = both(
            (held["x_train"], held["y_train"]),
            (held["x_test"], held["y_test"]),
            classes=names,
            name=called(self.name or path.stem, self.classes),
        )
        return chosen_splits(self, train, test, seed=seed)


def _arrays(path: Path) -> Arrays:
    """Return the arrays of a file, pixels as uint8, (N, C, H, W)."""
    if not path.is_file():
        raise BadInput(f"{path} is a folder, not an .npz file; did you mean --data folder?")
    with opened(path):
        pass  # its sizes can be meant
    found: Arrays = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            if missing := [part for part in _PARTS if part not in stored]:
                raise BadInput(f"{path} has no {', '.join(missing)}; it needs {', '.join(_PARTS)}")
            for part in _PARTS:
                found[part] = (pixels if part.startswith("x") else labels)(stored[part], f"{path.name}: {part}")
            if "classes" in stored:
                found["classes"] = class_names(stored["classes"], str(path))
    except BadInput:
        raise
    except BROKEN as error:
        raise BadInput(f"{path} is damaged, was cut short, or holds no plain arrays: {reason(error)}") from None
    return found
