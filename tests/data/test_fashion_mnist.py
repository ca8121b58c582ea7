"""Fashion-MNIST from small files of its form."""

import gzip
from dataclasses import replace

import pytest
import torch

from robustscape.data import sources
from robustscape.data.fashion_mnist import FashionMNIST
from robustscape.types import BadInput, DataSource


def written_idx(shape, values):
    return bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape) + values


@pytest.fixture
def folder(monkeypatch, tmp_path, md5):
    """A folder with small files in place of the originals: pixel = number, label = number % 10; MNIST's beside it."""
    described = {}
    for split, n in (("train", 100), ("test", 30)):
        for part in ("images", "labels"):
            shape, count = ((n, 28, 28), 784) if part == "images" else ((n,), 1)
            values = b"".join(bytes([i if part == "images" else i % 10]) * count for i in range(n))
            source = sources.FASHION_MNIST[f"{split} {part}"]
            content = gzip.compress(written_idx(shape, values), mtime=0)
            (tmp_path / "fashion_mnist").mkdir(exist_ok=True)
            (tmp_path / "fashion_mnist" / source.original).write_bytes(content)
            (tmp_path / source.original).write_bytes(b"MNIST's file of the same name")
            described[f"{split} {part}"] = replace(source, addresses=(), archive_md5=md5(content))
    monkeypatch.setattr(sources, "FASHION_MNIST", described)
    return tmp_path


def test_closed_form_pixels_and_labels(folder):
    splits = FashionMNIST(validation=20, data_dir=str(folder)).load(seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (80, 20, 30)
    for images in (splits.train, splits.validation, splits.test):
        assert torch.equal(images.x[:, 0, 3, 5].long(), images.index) and torch.equal(images.y, images.index % 10)
    assert splits.train.classes[0] == "T-shirt/top" and splits.train.classes[9] == "Ankle boot"
    assert splits.test.name == "Fashion-MNIST, test" and isinstance(FashionMNIST(), DataSource)


def test_contract_classes_and_per_class(folder):
    source = FashionMNIST(classes=(6, 0), per_class=3, validation=4, data_dir=str(folder))
    splits = source.load(seed=0)
    assert torch.bincount(splits.train.y).tolist() == [3, 3]
    assert splits.train.classes == ("Shirt", "T-shirt/top") and splits.test.name == "Fashion-MNIST (classes 6, 0), test"


def test_contract_mnists_files_are_not_taken_for_it(folder):
    for path in (folder / "fashion_mnist").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="is another file"):
        FashionMNIST(data_dir=str(folder)).load(seed=0)


@pytest.mark.parametrize("fields", [{"classes": (3,)}, {"classes": (3, 10)}, {"per_class": 0}, {"validation": 1.0}])
def test_contract_impossible_fields_are_refused(fields):
    with pytest.raises(BadInput):
        FashionMNIST(**fields)
