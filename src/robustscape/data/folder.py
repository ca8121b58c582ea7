"""Images in folders named by their class, or in zip files of such folders."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F

from robustscape.data.archives import BROKEN, Stamps, contents, listed, memory, reason
from robustscape.data.cache import Arrays, decoded, fingerprint, stamp
from robustscape.data.fetch import find
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import BadInput, Images, Splits

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""The decoders that a file may choose among: others of pillow's run programs."""

_SPLITS = ("train", "test")
_MOST_PIXELS = 1 << 24
_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder, or a zip of one, holding ``train`` and ``test``, each a folder (or a zip) of ``<class>/<image file>``.

    The order goes through the classes (sorted by name) in turn, file by file (numbers in names as numbers), so
    the first n images of every split are balanced. Decoded once into the user's cache, in the first image's
    size: all must have one. Grey images among coloured ones are taken as coloured. Nothing is unpacked onto the disk.

    Attributes:
        path: The folder or the zip; also looked for in the folder that the environment variable ROBUSTSCAPE_DATA
            names.
        name: What tables call the data set, for example "CIFAR-10 (JPEG)"; "" for the folder's name.
        classes: Which classes, by their place among the sorted names, for example 6 8: they become classes 0 and 1
            in every split; None for all.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
        shrink: Squares of so many pixels a side become one, their mean rounded to the nearest of 256 levels (a half to
            the even one); at least 1, which changes nothing. A narrow PreActResNet-18 trains 2.9 to 3.9 times as fast
            on CIFAR-10 shrunk by 2.
    """

    path: str = "cifar10-jpeg"
    name: str = ""
    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 1000
    shrink: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check_choice(self)
        if self.shrink < 1:
            raise BadInput(f"shrink must be at least 1 pixel, which changes nothing, not {self.shrink}")

    def load(self, *, seed: int) -> Splits:
        """Read the data; ``seed`` draws validation and the images of per_class.

        A missing folder, a file that is not an image, images of several sizes, or of one that ``shrink`` does not
        divide is a BadInput.
        """
        place = find(self.path, holding="train.zip and test.zip, or folders train and test,", ending=".zip")
        name = called(self.name or place.name.removesuffix(".zip"), self.classes)
        train, test = (_images(source, inside, name) for source, inside in _sources(place))
        if train.classes != test.classes:
            raise BadInput(f"{place} has classes {_few(train.classes)} in train and {_few(test.classes)} in test")
        if train.x.shape[1:] != test.x.shape[1:]:
            raise BadInput(f"{place} has images of another size in train than in test: resize them first")
        if self.shrink > 1:
            train, test = (_shrunk(images, self.shrink) for images in (train, test))
        return chosen_splits(self, train, test, seed=seed)


def _shrunk(images: Images, by: int) -> Images:
    """Return images that are ``by`` times less high and wide, and say so in their name."""
    height, width = images.x.shape[2:]
    if height % by or width % by:
        raise BadInput(f"shrink {by} does not divide the {height}x{width} pixels of {images.name}")
    x = torch.cat([F.avg_pool2d(part.float(), by).round().to(torch.uint8) for part in images.x.split(_AT_ONCE)])
    return replace(images, x=x, name=f"{images.name} at {height // by}x{width // by}")


def read_images(path: str) -> Images:
    """Read the images of a folder or a zip, in whatever folders they lie, in the order of their names; without labels.

    Args:
        path: The folder or the zip; also looked for in the folder that the environment variable ROBUSTSCAPE_DATA names.

    Returns:
        The images, all of the one class "unlabelled".

    Raises:
        BadInput: it is missing, holds no image or a file that is none, or images of several sizes.
    """
    place = find(path, holding="the images", what="folder or zip of images", ending=".zip")
    stamps = listed(place, _ENDINGS)
    if not stamps:
        raise BadInput(f"{place} holds no images ({', '.join(_ENDINGS)})")
    names = sorted(stamps, key=_natural)
    key = fingerprint((str(place.resolve()), "unlabelled", *stamps.items()))
    held = decoded(f"images-{key}", lambda: {"x": _pixels(place, stamps, names)})
    y = torch.zeros(len(names), dtype=torch.int64)
    return Images(
        x=torch.from_numpy(held["x"]), y=y, index=torch.arange(len(y)), classes=("unlabelled",), name=place.stem
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(map(repr, names[:5]))}{more}"


def _sources(place: Path) -> list[tuple[Path, str]]:
    """Return for train and test what holds the files, and in which folder inside where it holds both."""
    if place.is_file():
        return [(place, split) for split in _SPLITS]
    found = []
    for split in _SPLITS:
        source = next((p for p in (place / f"{split}.zip", place / split) if p.is_file() or p.is_dir()), None)
        if source is None:
            raise BadInput(f"{place} has neither {split}.zip nor a folder {split}")
        found.append((source, ""))
    return found


def _images(source: Path, inside: str, name: str) -> Images:
    if source.is_dir():
        stamps = listed(source, _ENDINGS)
        key = fingerprint((str(source.resolve()), *stamps.items()))  # names, sizes and times alone may be another's
        held = decoded(f"images-{key}", lambda: _decoded(source, stamps))
    else:  # to list 50,000 files takes longer than to read their pixels
        key = fingerprint((inside, *stamp(source)))
        held = decoded(f"images-{key}", lambda: _decoded(source, _listed(source, inside)))
    return Images(
        x=torch.from_numpy(held["x"]),
        y=torch.from_numpy(held["y"]),
        index=torch.arange(len(held["y"])),
        classes=tuple(map(str, held["classes"])),
        name=name,
    )


def _listed(source: Path, inside: str) -> Stamps:
    """Return the images of a zip, or of one of its folders, which may stand in one that holds all."""
    found = listed(source, _ENDINGS)
    if inside:
        found = {name: told for name, told in found.items() if _split(name) == inside}
        if not found:
            raise BadInput(f"{source} has no images in {inside}/<class>/; it needs train and test inside")
    return found


def _split(name: str) -> str | None:
    """Return the split that a file's outermost folders name."""
    return next((part for part in PurePosixPath(name).parts[:-2][:2] if part in _SPLITS), None)


def _decoded(source: Path, stamps: Stamps) -> Arrays:
    """Return pixels "x", (N, C, H, W), uint8, labels "y", (N,), int64, and the names of the "classes"."""
    files = _ordered(stamps)
    classes = sorted({label for label, _ in files})
    if len(classes) < 2:
        kinds = ", ".join(_ENDINGS)
        raise BadInput(f"{source} holds {len(classes)} classes of images ({kinds}); did you mean <class>/<image file>?")
    number = {label: place for place, label in enumerate(classes)}
    y = np.array([number[label] for label, _ in files], dtype=np.int64)
    return {"x": _pixels(source, stamps, [file for _, file in files]), "y": y, "classes": np.array(classes)}


def _ordered(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return (class, file inside the source) in the set's order."""
    by_class: dict[str, list[str]] = {}
    for name in names:
        by_class.setdefault(PurePosixPath(name).parent.name, []).append(name)
    ranked = [
        (rank, label, file)
        for label, files in by_class.items()
        for rank, file in enumerate(sorted(files, key=_natural))
    ]
    return [(label, file) for _, label, file in sorted(ranked)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Order "9.jpg" before "10.jpg"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _pixels(source: Path, stamps: Stamps, names: Sequence[str]) -> np.ndarray:
    """Return the decoded images, (N, C, H, W), uint8."""
    x = np.empty((0, 1, 1, 1), np.uint8)
    for place, (name, content) in enumerate(zip(names, contents(source, stamps, names), strict=True)):
        image = _image(content, f"{name} in {source}")
        if place and image.shape[1:] != x.shape[2:]:
            raise BadInput(f"{name} in {source} has another size than {names[0]}: resize them first")
        if not place or len(image) > len(x[0]):  # the first, or the first in colour
            if len(names) * image.size > memory():
                raise BadInput(f"{source} has {len(names):,} images of {image.shape}: more than this machine can hold")
            grey, x = x, np.empty((len(names), *image.shape), np.uint8)
            x[:place] = grey[:place]
        x[place] = image
    return x


def _image(content: bytes, name: str) -> np.ndarray:
    """Return one image as (C, H, W), uint8: one channel for grey images, three for all others."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > _MOST_PIXELS:
                raise BadInput(f"{name} has {width} x {height} pixels, more than can be meant; resize it first")
            if image.mode.startswith(("I", "F")):
                raise BadInput(f"{name} has more than 8 bits per pixel and channel; convert it first")
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except BadInput:
        raise
    except UnidentifiedImageError:
        raise BadInput(f"{name} is not an image, or was cut short: it is none of {', '.join(_FORMATS)}") from None
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise BadInput(f"{name} is not an image, or was cut short: {reason(error)}") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
