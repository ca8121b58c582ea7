"""CIFAR-10 from small archives of its form, as Python 2 wrote them."""

import gzip
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustscape.data import sources
from robustscape.data._cifar import batches
from robustscape.data.cifar10 import CIFAR10, CLASSES
from robustscape.types import BadInput, DataSource

FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def packed(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def archive(python2_batch):
    """Six batches of 20 images: the red channel is the image's number, green 1, blue the column; label number % 10."""
    files = {}
    for place, name in enumerate(FILES):
        number = np.arange(20 * place, 20 * place + 20)
        data = np.zeros((20, 3, 32, 32), np.uint8)
        data[:, 0], data[:, 1], data[:, 2] = number[:, None, None], 1, np.arange(32)
        files[f"cifar-10-batches-py/{name}"] = python2_batch(data.reshape(20, -1), {"labels": (number % 10).tolist()})
    return packed(files)


@pytest.fixture
def folder(archive, monkeypatch, tmp_path, md5):
    content = gzip.compress(archive, mtime=0)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-python.tar.gz").write_bytes(content)
    monkeypatch.setattr(sources, "CIFAR10", replace(sources.CIFAR10, addresses=(), archive_md5=md5(content)))
    return tmp_path


def test_closed_form_pixels_labels_and_order(folder):
    splits = CIFAR10(validation=20, data_dir=str(folder)).load(seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (80, 20, 20)
    for images in (splits.train, splits.validation):
        assert torch.equal(images.x[:, 0, 7, 9].long(), images.index) and torch.equal(images.y, images.index % 10)
    assert splits.test.x[3, :, 5, 8].tolist() == [103, 1, 8] and splits.test.x.shape == (20, 3, 32, 32)
    assert splits.train.classes == CLASSES and splits.train.name == "CIFAR-10, train"
    assert isinstance(CIFAR10(), DataSource)


def test_contract_decoded_once_and_later_without_the_archive(folder, cache):
    first = CIFAR10(validation=20, data_dir=str(folder)).load(seed=0)
    (folder / "cifar10" / "cifar-10-python.tar.gz").unlink()
    again = CIFAR10(validation=20).load(seed=0)
    assert torch.equal(first.train.x, again.train.x) and torch.equal(first.test.y, again.test.y)
    for path in (cache / "decoded").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"cifar-10-python.tar.gz was not found"):
        CIFAR10(validation=20).load(seed=0)


def test_contract_an_archive_is_not_opened_unless_its_checksum_holds(folder, monkeypatch):
    monkeypatch.setattr("robustscape.data._cifar.batches", lambda *_: pytest.fail("it was opened"))
    path = folder / "cifar10" / "cifar-10-python.tar.gz"
    content = bytearray(path.read_bytes())
    for place in (0, 200, len(content) - 3):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(BadInput, match="altered or cut short"):
            CIFAR10(data_dir=str(folder)).load(seed=0)


def test_contract_a_data_dir_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        CIFAR10(data_dir=str(tmp_path / "nothing")).load(seed=0)


def test_contract_classes(folder):
    splits = CIFAR10(classes=(8, 6), per_class=2, validation=4, data_dir=str(folder)).load(seed=0)
    assert splits.train.classes == ("ship", "frog") and torch.bincount(splits.train.y).tolist() == [2, 2]
    assert splits.test.name == "CIFAR-10 (classes 8, 6), test"


def test_contract_files_of_another_form_are_refused(archive, python2_batch):
    names = [f"cifar-10-batches-py/{name}" for name in FILES]
    small = packed({names[0]: python2_batch(np.zeros((2, 3000), np.uint8), {"labels": [0, 1]})})
    uneven = packed({names[0]: python2_batch(np.zeros((2, 3072), np.uint8), {"labels": [0]})})
    for content, sentence in (
        (small, r"has data of \(2, 3000\)"),
        (uneven, r"labels of \(1,\)"),
        (archive[:-30_000], "damaged"),
        (archive[:600], "damaged"),
        (b"", "damaged"),
        (packed({}), "damaged"),
    ):
        with pytest.raises(BadInput, match=sentence):
            batches(content, names, "labels")
    with pytest.raises(BadInput, match="it has no entry fine_labels"):
        batches(archive, names, "fine_labels")
