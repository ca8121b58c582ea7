"""Pixels and labels from elsewhere: their layout, range and numbering."""

import numpy as np
import pytest
import torch

from robustscape.data.arrays import both, labels, pixels, to_images
from robustscape.types import BadInput

LEVELS = np.arange(2 * 3 * 5 * 6).reshape(2, 3, 5, 6).astype(np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        LEVELS,
        LEVELS.transpose(0, 2, 3, 1),
        torch.from_numpy(LEVELS),
        LEVELS / 255,
        (LEVELS / 255).astype(np.float32),
        torch.from_numpy(LEVELS).permute(0, 2, 3, 1).float() / 255,
        LEVELS[:, :, :, ::-1][:, :, :, ::-1],
    ],
)
def test_closed_form_the_same_pixels_however_they_are_held(given):
    found = pixels(given, "x")
    assert found.dtype == np.uint8 and np.array_equal(found, LEVELS) and found.flags.c_contiguous


def test_closed_form_floats_are_rounded_to_the_nearest_level():
    x = np.full((1, 5, 5), 0.5 / 255)
    x[0, 0, 0], x[0, 0, 1] = 0.49 / 255, 254.51 / 255
    found = pixels(x, "x")
    assert found.shape == (1, 1, 5, 5) and found[0, 0, 0, :2].tolist() == [0, 255]


def test_closed_form_many_images_are_rounded_part_by_part(monkeypatch):
    monkeypatch.setattr("robustscape.data.arrays._AT_ONCE", 3)
    x = np.arange(10 * 25).reshape(10, 5, 5).astype(np.uint8)
    assert np.array_equal(pixels(x / 255, "x")[:, 0], x)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (LEVELS.astype(np.float32), r"from 0 to 179; floats must be in \[0, 1\]; did you mean x / 255"),
        (LEVELS / 255 - 0.5, r"floats must be in \[0, 1\]$"),
        (np.full((2, 5, 5), np.nan), "floats must be in"),
        (LEVELS.astype(np.int64), r"of type int64; they must be uint8, .* did you mean x.astype\(np.uint8\)"),
        (LEVELS > 3, "of type bool"),
        (LEVELS[0, 0], r"of shape \(5, 6\)"),
        (np.zeros((2, 3, 5, 3), np.uint8), "is not clear"),
        (np.zeros((2, 7, 5, 6), np.uint8), "is not clear"),
        (np.zeros((2, 0, 5, 6), np.uint8), "of shape"),
        ([[1], [2, 3]], "no array|of shape"),
        (np.array([{}]), "of shape"),
    ],
)
def test_contract_pixels_that_cannot_be_meant_are_refused(x, sentence):
    with pytest.raises(BadInput, match=sentence):
        pixels(x, "x")


@pytest.mark.parametrize("given", [[1, 0, 2], np.array([[1], [0], [2]], np.uint8), torch.tensor([1, 0, 2])])
def test_closed_form_labels(given):
    found = labels(given, "y")
    assert found.tolist() == [1, 0, 2] and found.dtype == np.int64


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (np.eye(3), r"did you mean y.argmax\(axis=1\)"),
        ([0.0, 1.0], "whole numbers"),
        (["cat", "dog"], "whole numbers"),
        ([-1, 0], "count from 0"),
        ([0, 2**40], "count from 0"),
    ],
)
def test_contract_labels_that_cannot_be_meant_are_refused(y, sentence):
    with pytest.raises(BadInput, match=sentence):
        labels(y, "y")


def test_contract_images_are_numbered_in_their_order():
    images = to_images(LEVELS, [1, 0], classes=("a", "b"), name="two")
    assert torch.equal(images.index, torch.arange(2)) and images.y.tolist() == [1, 0] and images.name == "two"


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [(LEVELS, [0], "2 images and 1 labels"), (LEVELS, [0, 2], "a label 2, and 2 classes"), (LEVELS[:0], [], "no")],
)
def test_contract_images_that_do_not_fit_are_refused(x, y, sentence):
    with pytest.raises(BadInput, match=sentence):
        to_images(x, np.array(y, dtype=np.int64), classes=("a", "b"), name="two")


def test_contract_train_and_test_belong_together():
    train, test = both((LEVELS, [1, 0]), (LEVELS[:1], [1]), name="two")
    assert train.classes == test.classes == ("0", "1")
    for first, second, sentence in (
        (((LEVELS, [1, 2])), (LEVELS, [1, 2]), "did you mean to subtract 1"),
        (((LEVELS, [0, 2])), (LEVELS, [0, 2]), "each of the 3 from 0 to 2$"),
        (((LEVELS, [0, 0])), (LEVELS, [0, 0]), "it needs two or more"),
        (((LEVELS, [0, 1])), (LEVELS, [0, 2]), "a label 2"),
        (((LEVELS, [0, 1])), (LEVELS[:, :, :4], [0, 1]), r"\(3, 5, 6\) in train and \(3, 4, 6\) in test"),
    ):
        with pytest.raises(BadInput, match=sentence):
            both(first, second, name="two")
