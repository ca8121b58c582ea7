"""SVHN from small .mat files of its form."""

import io
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import torch

from robustscape.data import sources
from robustscape.data.svhn import SVHN
from robustscape.types import BadInput


@pytest.fixture
def lay(monkeypatch, tmp_path, md5):
    """Writes what stands in place of the two files, and gives the folder: ``lay(train=arrays, test=arrays)``."""

    def laid(**files):
        described = {}
        for split, arrays in files.items():
            content = io.BytesIO()
            scipy.io.savemat(content, arrays, do_compression=True)
            source = sources.SVHN[split]
            (tmp_path / source.file).write_bytes(content.getvalue())
            described[split] = replace(source, addresses=(), archive_md5=md5(content.getvalue()))
        monkeypatch.setattr(sources, "SVHN", described)
        return str(tmp_path)

    return laid


def digits(n, first=0):
    """Images whose red channel is their number, whose green is the row and blue the column; labels 1 to 10."""
    x = np.zeros((32, 32, 3, n), np.uint8)
    x[:, :, 0], x[:, :, 1], x[:, :, 2] = first + np.arange(n), np.arange(32)[:, None, None], np.arange(32)[:, None]
    return {"X": x, "y": (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]}


def test_closed_form_axes_and_the_label_of_zero(lay):
    splits = SVHN(validation=20, data_dir=lay(train=digits(100), test=digits(30, 200))).load(seed=0)
    assert splits.test.x[4, :, 5, 9].tolist() == [204, 5, 9] and splits.test.x.shape == (30, 3, 32, 32)
    assert splits.test.y[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert torch.equal(splits.train.y, (splits.train.index + 1) % 10)
    assert splits.train.classes == tuple("0123456789") and splits.train.name == "SVHN, train"


def test_contract_altered_files_are_refused_unopened(lay, monkeypatch, tmp_path):
    folder = lay(train=digits(100), test=digits(30))
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("it was opened"))
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="altered or cut short"):
        SVHN(data_dir=folder).load(seed=0)


def test_contract_other_content_is_refused(lay):
    with pytest.raises(BadInput, match="has no X and y"):
        SVHN(data_dir=lay(train={"X": np.zeros(3)}, test=digits(30))).load(seed=0)
    with pytest.raises(BadInput, match="a label 11"):
        SVHN(data_dir=lay(train=digits(20) | {"y": np.full((20, 1), 11)}, test=digits(30))).load(seed=0)
