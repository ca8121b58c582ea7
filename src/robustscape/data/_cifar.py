"""The python archives of CIFAR-10 and CIFAR-100: a tar of pickles, of which the arrays alone are read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.data.archives import reason
from robustscape.data.arrays import to_images
from robustscape.data.cache import Arrays, decoded
from robustscape.data.fetch import folders_of, read
from robustscape.data.pickles import arrays
from robustscape.data.sources import Source
from robustscape.types import BadInput, Images

_PIXELS = 3 * 32 * 32


def cifar_images(
    source: Source,
    dataset: str,
    data_dir: str | None,
    *,
    members: Mapping[str, Sequence[str]],
    labels: str,
    classes: tuple[str, ...],
    name: str,
) -> tuple[Images, Images]:
    """Return the training and the test set of an archive, decoded once into the user's cache.

    Args:
        source: The archive.
        dataset: Name of the data set's own folder.
        data_dir: A folder of the user's, or None.
        members: "train" and "test": the files inside.
        labels: The entry of each file that holds the labels.
        classes: Name of each class.
        name: What tables call the data set.

    Raises:
        BadInput: the archive is damaged, or missing and not to be downloaded.
    """
    folders_of(dataset, data_dir)  # a data_dir that is none is wrong though the cache has all

    def made() -> Arrays:
        content = read(source, dataset, data_dir)
        return {
            f"{what}_{split}": value
            for split, files in members.items()
            for what, value in batches(content, files, labels).items()
        }

    held = decoded(f"{dataset}-{source.archive_md5}", made)
    train, test = (
        to_images(held[f"x_{split}"], held[f"y_{split}"], classes=classes, name=name) for split in ("train", "test")
    )
    return train, test


def batches(content: bytes, files: Sequence[str], labels: str) -> Arrays:
    """Return the images and labels of some files of a tar: "x", (N, 3, 32, 32), uint8, and "y", (N,), int64.

    Args:
        content: The whole tar, decompressed.
        files: Which files, in their order.
        labels: The entry that holds the labels.

    Raises:
        BadInput: a file is missing, damaged or of another form.
    """
    x, y = [], []
    for file in files:
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
                member = archive.extractfile(file)
                inside = b"" if member is None else member.read()
        except (tarfile.TarError, KeyError, ValueError, OSError, EOFError, OverflowError, RecursionError) as error:
            raise BadInput(f"{file} cannot be read from its archive, which is damaged: {reason(error)}") from None
        found = arrays(inside, ("data", labels), file)
        data, number = found["data"], found[labels]
        if data.dtype != np.uint8 or data.shape != (len(number), _PIXELS) or number.dtype != np.int64:
            raise BadInput(f"{file} has data of {data.shape}, {data.dtype}, and {labels} of {number.shape}")
        x.append(data.reshape(-1, 3, 32, 32))
        y.append(number)
    return {"x": np.concatenate(x), "y": np.concatenate(y)}
