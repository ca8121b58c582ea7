"""Arrays in one .npz file: layouts, names, and what is not one."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

from robustscape.data.npz import Npz
from robustscape.types import BadInput, DataSource

X = np.arange(40 * 3 * 5 * 6).reshape(40, 3, 5, 6).astype(np.uint8)
Y = np.arange(40) % 4
ARRAYS = {"x_train": X, "y_train": Y, "x_test": X[:12], "y_test": Y[:12]}


def loaded(tmp_path, **changes):
    np.savez(tmp_path / "set.npz", **{k: v for k, v in (ARRAYS | changes).items() if v is not None})
    return Npz(path=str(tmp_path / "set.npz"), validation=8).load(seed=0)


def test_closed_form_pixels_labels_and_order(tmp_path):
    splits = loaded(tmp_path)
    assert torch.equal(splits.train.x, torch.from_numpy(X)[splits.train.index])
    assert torch.equal(splits.train.y, splits.train.index % 4)
    assert torch.equal(splits.test.x, torch.from_numpy(X[:12]))
    assert splits.train.classes == ("0", "1", "2", "3") and splits.test.name == "set, test"
    assert isinstance(Npz(), DataSource)


def test_contract_layout_and_type_do_not_matter(tmp_path):
    plain = loaded(tmp_path)
    floats = {name: (ARRAYS[name].transpose(0, 2, 3, 1) / 255).astype(np.float32) for name in ("x_train", "x_test")}
    named = loaded(tmp_path, **floats, classes=np.array(["a", "b", "c", "d"]))
    assert torch.equal(plain.train.x, named.train.x) and named.train.classes == ("a", "b", "c", "d")


def test_contract_compressed_by_name_and_by_class(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "set.npz", **ARRAYS)
    monkeypatch.setenv("ROBUSTSCAPE_DATA", str(tmp_path))
    splits = Npz(path="set", name="Squares", classes=(3, 1), per_class=2, validation=4).load(seed=0)
    assert splits.train.name == "Squares (classes 3, 1), train" and torch.bincount(splits.train.y).tolist() == [2, 2]


def test_contract_a_changed_file_is_read_again(tmp_path):
    loaded(tmp_path)
    assert torch.equal(loaded(tmp_path, x_test=X[12:24]).test.x, torch.from_numpy(X[12:24]))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y_test": None}, "has no y_test; it needs x_train, y_train, x_test, y_test"),
        ({"x_train": X.astype(np.float64)}, "did you mean x / 255"),
        ({"x_train": X[:30]}, "30 images and 40 labels"),
        ({"x_train": X[:, 0, 0]}, "of shape"),
        ({"y_train": Y + 1, "y_test": Y[:12] + 1}, "did you mean to subtract 1"),
        ({"y_test": Y[:12] + 1}, "has a label 4, and 4 classes"),
        ({"y_train": np.eye(4)[Y]}, "argmax"),
        ({"x_test": X[:12, :, :4]}, "in train and"),
        ({"x_train": np.array([{}] * 40)}, "holds no plain arrays: Object arrays cannot be loaded"),
        ({"classes": np.array(["a", "a", "b", "c"])}, "must be different texts"),
        ({"classes": np.array(["a", "b"])}, "each of the 2 from 0 to 1"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "training images of 0 classes"),
    ],
)
def test_contract_arrays_that_do_not_fit_are_refused(tmp_path, changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        loaded(tmp_path, **changes)


def test_contract_other_files_are_refused(tmp_path):
    path = tmp_path / "set.npz"
    for content in (b"", b"PK", pickle.dumps({"x_train": X}), b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="is damaged"):
            Npz(path=str(path)).load(seed=0)
    with pytest.raises(BadInput, match="did you mean --data folder"):
        Npz(path=str(tmp_path)).load(seed=0)
    with pytest.raises(BadInput, match=r"there is no .npz file"):
        Npz(path=str(tmp_path / "nothing")).load(seed=0)


def test_contract_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """Dense beyond belief, or larger than the machine; a header that claims more than there is."""
    np.savez_compressed(tmp_path / "set.npz", **(ARRAYS | {"x_test": np.zeros((3000, 3, 5, 6), np.uint8)}))
    monkeypatch.setattr("robustscape.data.archives._UNSUSPECTED", 1 << 16)
    monkeypatch.setattr("robustscape.data.archives._DENSEST", 10)
    with pytest.raises(BadInput, match=r"would unpack to .*: it is not opened"):
        Npz(path=str(tmp_path / "set.npz")).load(seed=0)
    monkeypatch.undo()
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000, 3, 5, 6), }"
        for name in ARRAYS:
            content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"abc"
            archive.writestr(f"{name}.npy", content)
    with pytest.raises(BadInput, match="is damaged"):
        Npz(path=str(tmp_path / "liar.npz")).load(seed=0)
