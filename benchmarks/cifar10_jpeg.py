"""CIFAR-10 (JPEG): reads CIFAR-10 re-encoded as JPEG out of two zip files of image folders.

``train.zip`` and ``test.zip`` hold ``<class>/<number>.jpg``. The pixels differ a little from those of the
lossless original, so name numbers from it "CIFAR-10 (JPEG)". Decoded once, then kept in the user's cache.
Run it to decode ahead of time: ``python benchmarks/cifar10_jpeg.py [FOLDER]``.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from robustscape.data.splits import make_splits
from robustscape.results import written
from robustscape.types import BadInput, Images, Splits


@dataclass(frozen=True, kw_only=True)
class CIFAR10Jpeg:
    """CIFAR-10 from JPEG files, (3, 32, 32).

    The set's order goes through the classes (sorted by name) in turn, file number by file number, so the first
    n images of every split are balanced.

    Attributes:
        per_class: Training images of each class, drawn by seed; None for all but the 1,000 of validation.
        folder: Folder of the two zip files; None for ``cifar10-jpeg`` in the folder that the environment
            variable ROBUSTSCAPE_DATA names, or in ``shared/data`` beside the repository.
    """

    per_class: int | None = 1000
    folder: str | None = None

    def load(self, *, seed: int) -> Splits:
        """Read the data; ``seed`` draws the 1,000 validation images and those of per_class."""
        folder = Path(self.folder) if self.folder else _data() / "cifar10-jpeg"
        train, test = (_images(folder / f"{split}.zip") for split in ("train", "test"))
        return make_splits(train, test, validation=1000, per_class=self.per_class, seed=seed)


def _data() -> Path:
    here = Path(__file__).resolve()
    return Path(os.environ.get("ROBUSTSCAPE_DATA") or here.parents[2] / "shared" / "data")


def _images(path: Path) -> Images:
    if not path.is_file():
        raise BadInput(f"there is no {path}; set ROBUSTSCAPE_DATA to the folder that holds cifar10-jpeg/")
    with zipfile.ZipFile(path) as archive:
        entries = [e for e in archive.infolist() if e.filename.endswith(".jpg")]
        pairs = sorted(
            ((int(PurePosixPath(e.filename).stem), PurePosixPath(e.filename).parent.name, e) for e in entries),
            key=lambda p: p[:2],
        )
        classes = tuple(sorted({name for _, name, _ in pairs}))
        content = hashlib.sha256(repr([(e.filename, e.CRC) for _, _, e in pairs]).encode()).hexdigest()[:16]
        x = _decoded(archive, [e for _, _, e in pairs], _cache() / f"{path.stem}-{content}.npz")
    y = torch.tensor([classes.index(name) for _, name, _ in pairs])
    return Images(x=torch.from_numpy(x), y=y, index=torch.arange(len(y)), classes=classes, name="CIFAR-10 (JPEG)")


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("robustscape")) / "cifar10-jpeg"


def _decoded(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], cache: Path) -> np.ndarray:
    """Return the pixels, (N, 3, 32, 32), uint8, from the cache where they are there."""
    from PIL import Image

    if cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            return stored["x"]
    x = np.empty((len(entries), 3, 32, 32), dtype=np.uint8)
    for row, entry in enumerate(entries):
        with Image.open(io.BytesIO(archive.read(entry))) as image:
            x[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    with written(cache) as file:
        np.savez(file, x=x)
    return x


if __name__ == "__main__":
    splits = CIFAR10Jpeg(folder=sys.argv[1] if len(sys.argv) > 1 else None).load(seed=0)
    for images in (splits.train, splits.validation, splits.test):
        print(images.name, tuple(images.x.shape), torch.bincount(images.y).tolist())
