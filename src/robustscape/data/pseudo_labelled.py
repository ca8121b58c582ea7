"""The 500,000 pseudo-labelled images of Carmon et al. 2019, https://arxiv.org/abs/1905.13736."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robustscape.data.arrays import to_images
from robustscape.data.cache import Arrays, decoded, fingerprint, stamp
from robustscape.data.cifar10 import CLASSES
from robustscape.data.fetch import find
from robustscape.data.imagenet32 import read_batch
from robustscape.types import BadInput, Images


def read_pseudo_labelled(path: str = "ti_500K_pseudo_labeled.pickle", *, first: int = 50_000) -> Images:
    """Read the images that the authors took from 80 Million Tiny Images, with the labels that their network gave them.

    Not a data set of its own: training mixes it with CIFAR-10. It is published without a checksum, so the arrays alone
    are read and nothing in the file can execute; decoded once into the user's cache.

    Args:
        path: The file, a pickle with "data", (N, 32, 32, 3), uint8, and "extrapolated_targets", (N,), from 0 to 9;
            also looked for in the folder that the environment variable ROBUSTSCAPE_DATA names.
        first: Number of the first image; by default they follow CIFAR-10's 50,000 training images, whose random
            numbers are then others.

    Returns:
        The images, (N, 3, 32, 32), with CIFAR-10's classes.

    Raises:
        BadInput: the file is missing, damaged or holds something else.
    """
    place = find(path, holding="the file", what="file")
    if not place.is_file():
        raise BadInput(f"{place} is a folder; did you mean the file ti_500K_pseudo_labeled.pickle in it?")

    def made() -> Arrays:
        found = read_batch(place, ("data", "extrapolated_targets"))
        x, y = found["data"], found["extrapolated_targets"]
        if x.dtype != np.uint8 or x.shape != (len(y), 32, 32, 3):
            raise BadInput(f"{place} has data of {x.shape}, {x.dtype}, for {y.shape} labels, not (N, 32, 32, 3), uint8")
        return {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2)), "y": y}

    held = decoded(f"pseudo-labelled-{fingerprint(stamp(place))}", made)
    images = to_images(held["x"], held["y"], classes=CLASSES, name="500K pseudo-labelled")
    return replace(images, index=images.index + first)
