"""Where the data sets come from: every address and checksum of robustscape is in this file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a data set.

    Attributes:
        file: Its name without ".gz".
        addresses: Where its gzipped original is published; tried in order.
        archive_md5: MD5 of the gzipped original, checked when it is downloaded.
        content_md5: MD5 of the bytes inside, checked whenever it is read, gzipped by whomever or not at all.
    """

    file: str
    addresses: tuple[str, ...]
    archive_md5: str
    content_md5: str


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")


def _mnist(file: str, archive_md5: str, content_md5: str) -> Source:
    addresses = tuple(f"{folder}{file}.gz" for folder in _MNIST)
    return Source(file=file, addresses=addresses, archive_md5=archive_md5, content_md5=content_md5)


MNIST = {
    "train images": _mnist(
        "train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"
    ),
    "train labels": _mnist(
        "train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"
    ),
    "test images": _mnist(
        "t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"
    ),
    "test labels": _mnist(
        "t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"
    ),
}
"""The four original files of MNIST (LeCun, Cortes, Burges 1998)."""
