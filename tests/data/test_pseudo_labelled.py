"""Carmon's file, small: read as arrays."""

import pickle

import numpy as np
import pytest
import torch

from robustscape.data.cifar10 import CLASSES
from robustscape.data.pseudo_labelled import SMALL, read_file, read_pseudo_labelled
from robustscape.types import BadInput

X = np.arange(6 * 32 * 32 * 3).reshape(6, 32, 32, 3).astype(np.uint8)
Y = np.array([9, 0, 3, 3, 1, 2])


@pytest.mark.parametrize("protocol", [2, 4])
def test_closed_form_pixels_labels_and_numbers(tmp_path, monkeypatch, protocol):
    content = pickle.dumps({"data": X, "extrapolated_targets": Y}, protocol=protocol)
    (tmp_path / "ti_500K_pseudo_labeled.pickle").write_bytes(content)
    monkeypatch.setenv("ROBUSTSCAPE_DATA", str(tmp_path))
    images = read_pseudo_labelled()
    assert torch.equal(images.x, torch.from_numpy(X.transpose(0, 3, 1, 2))) and images.y.tolist() == Y.tolist()
    assert images.index.tolist() == list(range(50_000, 50_006)) and images.classes == CLASSES


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"data": X}, "no entry extrapolated_targets"),
        ({"data": X, "extrapolated_targets": Y[:5]}, r"not \(N, 32, 32, 3\)"),
        ({"data": X.transpose(0, 3, 1, 2), "extrapolated_targets": Y}, r"not \(N, 32, 32, 3\)"),
        ({"data": X, "extrapolated_targets": Y + 1}, "a label 10"),
        ({"data": X, "extrapolated_targets": Y, "more": print}, "asks for 'builtins print'"),
    ],
)
def test_contract_other_files_are_refused(tmp_path, document, sentence):
    path = tmp_path / "file.pickle"
    path.write_bytes(pickle.dumps(document))
    with pytest.raises(BadInput, match=sentence):
        read_pseudo_labelled(str(path))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ti_500K_pseudo_labeled.pickle", "its authors publish at https://"),
        (SMALL, "train cifar10_jpeg_teacher_small` and then `robustscape label runs/cifar10_jpeg_teacher_small --to"),
        ("mine.npz", "`robustscape label RUN --to mine.npz` writes"),
    ],
)
def test_contract_a_missing_file_is_refused_with_where_it_is_to_be_had(tmp_path, monkeypatch, name, sentence):
    monkeypatch.setenv("ROBUSTSCAPE_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=sentence):
        read_file(name, classes=CLASSES)
