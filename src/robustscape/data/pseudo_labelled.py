"""Images with pseudo-labels: files that a command writes, and the 500,000 of Carmon et al. 2019."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from robustscape.config import to_plain
from robustscape.data import sources
from robustscape.data.archives import BROKEN, opened, reason
from robustscape.data.arrays import class_names, labels, pixels, to_images
from robustscape.data.cache import Arrays, decoded, fingerprint, stamp
from robustscape.data.cifar10 import CLASSES
from robustscape.data.fetch import find
from robustscape.data.imagenet32 import read_batch
from robustscape.results import written
from robustscape.types import BadInput, Images, Provenance

CARMON = "ti_500K_pseudo_labeled.pickle"
"""The authors' file of 500,000 images."""

SMALL = "pseudo_labels_small.npz"
"""The file that small recipes take unlabelled images from: what ``cifar10_jpeg_teacher_small`` sees in them."""

_PAIRS = (("x", "y"), ("image", "label"))
"""What pixels and labels are called: here, and in the published files of generated images."""


def read_pseudo_labelled(path: str = CARMON, *, first: int = 50_000) -> Images:
    """Read the images that the authors took from 80 Million Tiny Images, with the labels that their network gave them.

    Source: Carmon et al. 2019, https://arxiv.org/abs/1905.13736. Not a data set of its own: training mixes it with
    CIFAR-10. It is published without a checksum, so the arrays alone are read and nothing in the file can execute;
    decoded once into the user's cache.

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
    place = find(path, holding=_origin(path), what="file")
    if not place.is_file():
        raise BadInput(f"{place} is a folder; did you mean the file {CARMON} in it?")

    def made() -> Arrays:
        found = read_batch(place, ("data", "extrapolated_targets"))
        x, y = found["data"], found["extrapolated_targets"]
        if x.dtype != np.uint8 or x.shape != (len(y), 32, 32, 3):
            raise BadInput(f"{place} has data of {x.shape}, {x.dtype}, for {y.shape} labels, not (N, 32, 32, 3), uint8")
        return {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2)), "y": y}

    held = decoded(f"pseudo-labelled-{fingerprint(stamp(place))}", made)
    images = to_images(held["x"], held["y"], classes=CLASSES, name="500K pseudo-labelled")
    return replace(images, index=images.index + first)


def read_file(path: str, *, classes: tuple[str, ...]) -> Images:
    """Read a file of pseudo-labelled images; nothing in it can execute. Decoded once into the user's cache.

    Args:
        path: An .npz file with pixels "x" and labels "y" (or "image" and "label"), as ``arrays.pixels`` and
            ``arrays.labels`` take them, and perhaps the names of its "classes"; any other file is taken for Carmon's.
            Also looked for in the folder that the environment variable ROBUSTSCAPE_DATA names.
        classes: What the labels of a file without names stand for.

    Returns:
        The images, with the classes of the file.

    Raises:
        BadInput: the file is missing, damaged or holds something else.
    """
    place = find_file(path)
    if place.suffix != ".npz":
        return read_pseudo_labelled(path)
    held = decoded(f"pseudo-labels-{fingerprint(stamp(place))}", lambda: _arrays(place))
    names = tuple(map(str, held["classes"])) if "classes" in held else classes
    return to_images(held["x"], held["y"], classes=names, name=place.stem)


def find_file(path: str) -> Path:
    """Return where a file of pseudo-labelled images is; ``path`` is as for ``read_file``.

    Raises:
        BadInput: it is missing, or a folder.
    """
    place = find(path, holding=_origin(path), what="file of pseudo-labelled images", ending=".npz")
    if not place.is_file():
        raise BadInput(f"{place} is a folder, not a file of pseudo-labelled images")
    return place


def _origin(path: str) -> str:
    """Return in words where a file is to be had that is missing."""
    if Path(path).name == CARMON:
        return f"the file, which its authors publish at {sources.CARMON},"
    if Path(path).name == SMALL:
        return (
            "the file, which `robustscape train cifar10_jpeg_teacher_small` and then `robustscape label "
            f"runs/cifar10_jpeg_teacher_small --to {SMALL}` write (of another --seed: into another file, given by "
            "--unlabelled.source),"
        )
    return (
        f"the file, which `robustscape label RUN --to {Path(path).name}` writes, RUN being a network trained with the "
        "same --data and --unlabelled.hide,"
    )


def _arrays(path: Path, *, labelled: bool = True) -> Arrays:
    """Return the arrays of an .npz file, pixels as uint8, (N, C, H, W), with or without labels and classes."""
    with opened(path):
        pass  # its sizes can be meant
    try:
        with np.load(path, allow_pickle=False) as stored:
            pair = next((pair for pair in _PAIRS if all(name in stored for name in pair[: 1 + labelled])), None)
            if pair is None:
                wanted = "arrays x and y" if labelled else "array x"
                raise BadInput(f"{path} has no {wanted}; it holds: {', '.join(stored)}")
            x = pixels(stored[pair[0]], path.name)
            if not labelled:
                return {"x": x}
            found = {"x": x, "y": labels(stored[pair[1]], path.name)}
            return found | ({"classes": class_names(stored["classes"], str(path))} if "classes" in stored else {})
    except BadInput:
        raise
    except BROKEN as error:
        raise BadInput(f"{path} is damaged, was cut short, or holds no plain arrays: {reason(error)}") from None


def read_pixels(path: str) -> Images:
    """Read the images of an .npz file, its array "x" (or "image"), without labels.

    Args:
        path: The file; also looked for in the folder that the environment variable ROBUSTSCAPE_DATA names.

    Returns:
        The images, all of the one class "unlabelled".

    Raises:
        BadInput: the file is missing, damaged or holds something else.
    """
    place = find(path, holding="the file", what=".npz file", ending=".npz")
    held = decoded(f"pixels-{fingerprint(stamp(place))}", lambda: _arrays(place, labelled=False))
    return to_images(held["x"], np.zeros(len(held["x"]), np.int64), classes=("unlabelled",), name=place.stem)


def write_file(path: Path, images: Images, confidence: np.ndarray, provenance: Provenance) -> None:
    """Write images with the labels that a network gave them, whole or not at all; ``read_file`` reads it.

    Args:
        path: Where to; ends in .npz.
        images: The images, with pseudo-labels.
        confidence: (N,), the probability that the network gave each label.
        provenance: Where the labels are from: goes into the file as JSON, "provenance".
    """
    about = np.array(json.dumps(to_plain(provenance)))
    x, y, classes = images.x.cpu().numpy(), images.y.cpu().numpy(), np.array(images.classes)
    with written(path) as file:
        np.savez(file, x=x, y=y, classes=classes, confidence=confidence, provenance=about)
