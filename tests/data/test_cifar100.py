"""CIFAR-100 from a small archive of its form."""

import gzip
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustscape.data import sources
from robustscape.data.cifar100 import CIFAR100, CLASSES
from robustscape.types import BadInput


def test_closed_form_fine_labels_and_pixels(python2_batch, monkeypatch, tmp_path, md5):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, count in (("train", 300), ("test", 200)):
            number = np.arange(count)
            data = np.repeat((number % 256).astype(np.uint8)[:, None], 3072, axis=1)
            lists = {"coarse_labels": (number % 20).tolist(), "fine_labels": (number % 100).tolist()}
            inside = python2_batch(data, lists)
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(inside)
            archive.addfile(info, io.BytesIO(inside))
    packed = gzip.compress(content.getvalue(), mtime=0)
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(packed)
    monkeypatch.setattr(sources, "CIFAR100", replace(sources.CIFAR100, addresses=(), archive_md5=md5(packed)))
    splits = CIFAR100(validation=100, data_dir=str(tmp_path)).load(seed=0)
    assert torch.equal(splits.train.y, splits.train.index % 100)
    assert torch.equal(splits.test.x[:, 2, 31, 31].long(), splits.test.index)
    assert torch.bincount(splits.validation.y).tolist() == [1] * 100
    assert splits.train.classes == CLASSES and splits.test.name == "CIFAR-100, test"


def test_closed_form_class_names():
    assert len(set(CLASSES)) == 100 and list(CLASSES) == sorted(CLASSES)  # the labels are in the alphabet's order
    # as published: the first, the last, and one of each of some superclasses
    assert (CLASSES[0], CLASSES[19], CLASSES[52], CLASSES[71], CLASSES[99]) == (
        *("apple", "cattle", "oak_tree", "sea"),
        "worm",
    )


def test_contract_impossible_fields_are_refused():
    with pytest.raises(BadInput, match="from 0 to 99"):
        CIFAR100(classes=(3, 100))
