"""Where the data sets come from: every address and checksum of robustscape is in this file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a data set.

    Attributes:
        file: Its name without ".gz".
        addresses: Where its original is published; tried in order.
        archive_md5: MD5 of the original as it is published, checked when it is downloaded and when it is read.
        content_md5: MD5 of the bytes inside a gzipped original, so that one gzipped by somebody else, or not at all,
            will do; "" where it is not known: then the original alone will do.
        gzipped: Whether the original is gzipped, and its name ends in ".gz".
    """

    file: str
    addresses: tuple[str, ...]
    archive_md5: str
    content_md5: str = ""
    gzipped: bool = True

    @property
    def original(self) -> str:
        """Name of the original as it is published."""
        return f"{self.file}.gz" if self.gzipped else self.file


def _idx(folders: tuple[str, ...], file: str, archive_md5: str, content_md5: str = "") -> Source:
    addresses = tuple(f"{folder}{file}.gz" for folder in folders)
    return Source(file=file, addresses=addresses, archive_md5=archive_md5, content_md5=content_md5)


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")

MNIST = {
    "train images": _idx(
        _MNIST, "train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"
    ),
    "train labels": _idx(
        _MNIST, "train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"
    ),
    "test images": _idx(
        _MNIST, "t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"
    ),
    "test labels": _idx(
        _MNIST, "t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"
    ),
}
"""The four original files of MNIST (LeCun, Cortes, Burges 1998)."""

_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)

FASHION_MNIST = {
    "train images": _idx(_FASHION, "train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "train labels": _idx(_FASHION, "train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
    "test images": _idx(_FASHION, "t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
    "test labels": _idx(_FASHION, "t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
}
"""The four original files of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017); their names are those of MNIST's."""

CIFAR10 = Source(
    file="cifar-10-python.tar",
    addresses=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    archive_md5="c58f30108f718f92721af3d95e74349a",
)
"""The python archive of CIFAR-10 (Krizhevsky 2009)."""

CIFAR100 = Source(
    file="cifar-100-python.tar",
    addresses=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
)
"""The python archive of CIFAR-100 (Krizhevsky 2009)."""

SVHN = {
    "train": Source(
        file="train_32x32.mat",
        addresses=("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
        archive_md5="e26dedcc434d2e4c54c9b2d4a06d8373",
        gzipped=False,
    ),
    "test": Source(
        file="test_32x32.mat",
        addresses=("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
        archive_md5="eb5a983be6a315427106f1b164d9cef3",
        gzipped=False,
    ),
}
"""The cropped digits of SVHN (Netzer et al. 2011); the "extra" part is not used by the papers."""

CARMON = "https://github.com/yaircarmon/semisup-adv"
"""Where the pseudo-labelled images of Carmon et al. 2019 are published: to be fetched by hand, without a checksum."""
