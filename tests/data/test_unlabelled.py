"""Files of pseudo-labelled images, hidden labels, and what of a file a training may see."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustscape.data.digits import Digits
from robustscape.data.pseudo_labelled import read_file, write_file
from robustscape.data.unlabelled import Unlabelled, hidden_part, labelled_part, pseudo_labelled
from robustscape.results import provenance
from robustscape.types import BadInput, Images, Splits

X = (np.arange(12 * 3 * 6 * 5) % 251).reshape(12, 3, 6, 5).astype(np.uint8)
Y = np.arange(12) % 3
NAMES = ("cat", "dog", "owl")


def _images(rows, name, classes=NAMES):
    x, y = torch.from_numpy(X[rows]), torch.from_numpy(Y[rows])
    return Images(x=x, y=y, index=torch.arange(len(y)), classes=classes, name=name)


def _splits(classes=NAMES):
    """Of images that are not in the file, but for the first of the test set."""
    held = replace(_images(slice(0, 6), "validation", classes), x=255 - torch.from_numpy(X[:6]))
    return Splits(train=_images(slice(0, 6), "train", classes), validation=held, test=replace(held, name="test"))


def _file(folder, **arrays):
    path = folder / "labels.npz"
    np.savez(path, **{"x": X, "y": Y, "classes": np.array(NAMES), **arrays})
    return str(path)


def test_closed_form_what_is_written_is_read(tmp_path):
    about = provenance(
        seconds=1.0,
        device=torch.device("cpu"),
        precision="float32",
        seed=4,
        model="net",
        data="set",
        settings={"n": 12},
    )
    path = tmp_path / "to" / "file.npz"
    write_file(path, _images(slice(None), "set"), np.linspace(0, 1, 12), about)
    images = read_file(str(path), classes=())
    assert torch.equal(images.x, torch.from_numpy(X)) and images.y.tolist() == Y.tolist()
    assert images.classes == NAMES and images.name == "file" and images.index.tolist() == list(range(12))
    with np.load(path) as stored:
        assert json.loads(str(stored["provenance"]))["model"] == "net"
        assert stored["confidence"].tolist() == np.linspace(0, 1, 12).tolist()
    assert [file.name for file in path.parent.iterdir()] == ["file.npz"]


def test_closed_form_published_names_and_layouts_of_arrays_are_read(tmp_path):
    path = tmp_path / "generated.npz"
    np.savez(path, image=X.transpose(0, 2, 3, 1), label=Y)
    images = read_file(str(path), classes=NAMES)
    assert torch.equal(images.x, torch.from_numpy(X)) and images.y.tolist() == Y.tolist() and images.classes == NAMES


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": X[:5]}, "5 images and 12 labels"),
        ({"y": Y + 1}, "a label 3, and 3 classes"),
        ({"y": Y.astype(float)}, "whole numbers"),
        ({"classes": np.array(["cat", "cat", "owl"])}, "different texts"),
    ],
)
def test_contract_other_files_are_refused(tmp_path, arrays, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_file(_file(tmp_path, **arrays), classes=NAMES)


def test_contract_files_that_are_none_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", pixels=X)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04half")
    with pytest.raises(BadInput, match="no arrays x and y; it holds: pixels"):
        read_file(str(tmp_path / "other.npz"), classes=NAMES)
    with pytest.raises(BadInput, match="damaged"):
        read_file(str(tmp_path / "broken.npz"), classes=NAMES)
    with pytest.raises(BadInput, match="there is no file of pseudo-labelled images"):
        read_file(str(tmp_path / "none.npz"), classes=NAMES)


def test_contract_images_of_a_file_are_numbered_apart_and_labelled_as_the_data_are(tmp_path):
    images = pseudo_labelled(_file(tmp_path), _splits(("owl", "cat")))
    kept = [place for place in range(12) if Y[place] != 1]
    assert torch.equal(images.x, torch.from_numpy(X[kept])) and images.classes == ("owl", "cat")
    assert images.y.tolist() == [0 if Y[place] == 2 else 1 for place in kept]
    assert images.index.tolist() == [place + 2**32 for place in kept]


def test_contract_carmons_file_is_a_source(tmp_path):
    x = (np.arange(6 * 32 * 32 * 3) % 251).reshape(6, 32, 32, 3).astype(np.uint8)
    path = tmp_path / "ti_500K_pseudo_labeled.pickle"
    path.write_bytes(pickle.dumps({"data": x, "extrapolated_targets": np.array([9, 0, 3, 3, 1, 2])}))
    train = Images(x=torch.zeros(2, 3, 32, 32).byte(), y=torch.arange(2), index=torch.arange(2),
                   classes=("cat", "airplane"), name="photos")  # fmt: skip
    images = pseudo_labelled(str(path), Splits(train=train, validation=train, test=train))
    assert images.y.tolist() == [1, 0, 0] and torch.equal(images.x, torch.from_numpy(x[1:4].transpose(0, 3, 1, 2)))


def test_contract_what_is_held_out_is_left_out_of_a_file_with_a_warning(tmp_path):
    splits = _splits()
    test = replace(splits.test, x=torch.cat([torch.from_numpy(X[7:9]), splits.test.x[2:]]))
    with pytest.warns(UserWarning, match="2 of the 12 images .* in the validation or test set"):
        images = pseudo_labelled(_file(tmp_path), replace(splits, test=test))
    assert [int(number) - 2**32 for number in images.index] == [*range(7), 9, 10, 11]


def test_contract_a_file_of_other_classes_or_sizes_is_refused(tmp_path):
    with pytest.raises(BadInput, match="by the classes cat, dog, owl, not by those of train, cat, bat"):
        pseudo_labelled(_file(tmp_path), _splits(("cat", "bat", "owl")))
    with pytest.raises(BadInput, match=r"\(3, 3, 5\), and train of \(3, 6, 5\)"):
        pseudo_labelled(_file(tmp_path, x=X[:, :, ::2]), _splits())


def test_contract_hidden_and_labelled_part_are_the_training_set():
    splits = Digits().load(seed=3)
    kept, lost = labelled_part(splits, 0.8, seed=3), hidden_part(splits, 0.8, seed=3)
    assert sorted([*kept.train.index.tolist(), *lost.index.tolist()]) == splits.train.index.tolist()
    assert len(lost) == round(0.8 * len(splits.train)) and "labelled" in kept.train.name and "hidden" in lost.name
    assert kept.test is splits.test and labelled_part(splits, None, seed=3) is splits


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"source": "a.npz", "share": 1.0}, r"in \(0, 1\), not 1"),
        ({"source": "a.npz", "size": 0}, "at least 1, not 0"),
        ({"hide": 1.5}, "as a fraction"),
        ({"share": 0.7}, "there are none"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(fields, sentence):
    with pytest.raises(BadInput, match=sentence):
        Unlabelled(**fields)
