"""Images in folders named by their class, or in zip files of such folders."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from robustscape.data.fetch import find
from robustscape.data.splits import check_part, make_splits
from robustscape.results import written
from robustscape.types import BadInput, Images, Splits

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder holding ``train`` and ``test``, each a zip file or a folder of ``<class>/<image file>``.

    The order goes through the classes (sorted by name) in turn, file by file (numbers in names as numbers), so
    the first n images of every split are balanced. Decoded once into the user's cache, in the first image's
    size: all must have one.

    Attributes:
        path: The folder; also looked for in the folder that the environment variable ROBUSTSCAPE_DATA names.
        name: What tables call the data set, for example "CIFAR-10 (JPEG)"; "" for the folder's name.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
    """

    path: str = "cifar10-jpeg"
    name: str = ""
    per_class: int | None = None
    validation: int | float = 1000

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.per_class is not None and self.per_class < 1:
            raise BadInput(f"per_class must be at least 1, not {self.per_class}; leave it out for all images")
        check_part("validation", self.validation)

    def load(self, *, seed: int) -> Splits:
        """Read the data; ``seed`` draws validation and the images of per_class.

        A missing folder, a file that is not an image, or images of several sizes is a BadInput.
        """
        folder = find(self.path, holding="train.zip and test.zip, or folders train and test,")
        train, test = (self._images(folder, split) for split in ("train", "test"))
        if train.classes != test.classes:
            raise BadInput(f"{folder} has classes {train.classes} in train and {test.classes} in test")
        return make_splits(train, test, validation=self.validation, per_class=self.per_class, seed=seed)

    def _images(self, folder: Path, split: str) -> Images:
        source = next((p for p in (folder / f"{split}.zip", folder / split) if p.exists()), None)
        if source is None:
            raise BadInput(f"{folder} has neither {split}.zip nor a folder {split}")
        files = _listed(source)
        classes = tuple(sorted({name for name, _ in files}))
        if len(classes) < 2:
            raise BadInput(f"{source} holds images of {len(classes)} classes; did you mean <class>/<image file>?")
        labels = torch.tensor([classes.index(name) for name, _ in files])
        return Images(
            x=torch.from_numpy(_pixels(source, [file for _, file in files])),
            y=labels,
            index=torch.arange(len(labels)),
            classes=classes,
            name=self.name or folder.name,
        )


def _listed(source: Path) -> list[tuple[str, str]]:
    """Return (class, file inside the source) in the set's order."""
    if source.is_dir():
        names = [str(path.relative_to(source).as_posix()) for path in source.rglob("*") if path.is_file()]
    else:
        with _opened(source) as archive:
            names = archive.namelist()
    by_class: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(_ENDINGS):
            by_class.setdefault(PurePosixPath(name).parent.name, []).append(name)
    ranked = [
        (rank, label, file)
        for label, files in by_class.items()
        for rank, file in enumerate(sorted(files, key=_natural))
    ]
    return [(label, file) for _, label, file in sorted(ranked)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Order "9.jpg" before "10.jpg"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _opened(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(f"{source} is damaged or was cut short: {error}") from None


def _contents(source: Path, files: list[str]) -> Iterator[bytes]:
    if source.is_dir():
        for file in files:
            yield (source / file).read_bytes()
        return
    with _opened(source) as archive:
        for file in files:
            try:
                yield archive.read(file)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                raise BadInput(f"{file} in {source} is damaged: {error}") from None


def _fingerprint(source: Path, files: list[str]) -> str:
    """Name what is in a source without decoding it: names with checksums in a zip, names with sizes and times else."""
    if source.is_dir():
        stats = [(file, (source / file).stat()) for file in files]
        told: object = [(file, s.st_size, s.st_mtime_ns) for file, s in stats]
    else:
        with _opened(source) as archive:
            told = [(file, archive.getinfo(file).CRC) for file in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _pixels(source: Path, files: list[str]) -> np.ndarray:
    """Return the decoded images, (N, C, H, W), uint8, from the cache where they are there."""
    import pooch

    cache = Path(pooch.os_cache("robustscape")) / "decoded" / f"{_fingerprint(source, files)}.npz"
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            return stored["x"]
    images = [_decoded(content, file) for content, file in zip(_contents(source, files), files, strict=True)]
    odd = next((file for file, image in zip(files, images, strict=True) if image.shape != images[0].shape), None)
    if odd is not None:
        raise BadInput(f"{odd} in {source} has another size or number of channels than {files[0]}: resize them first")
    x = np.stack(images)
    with written(cache) as file:
        np.savez(file, x=x)
    return x


def _decoded(content: bytes, name: str) -> np.ndarray:
    """Return one image as (C, H, W), uint8: one channel for grey images, three for all others."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # pillow raises each
        raise BadInput(f"{name} is not an image, or was cut short: {error}") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
