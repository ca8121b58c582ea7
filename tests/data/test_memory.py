"""Data sets given from Python: pairs, PyTorch's datasets, and what a Run keeps of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from robustscape.config import from_plain, to_plain
from robustscape.data.memory import Memory, hold
from robustscape.types import BadInput, DataSource

X = np.arange(40 * 3 * 5 * 6).reshape(40, 3, 5, 6).astype(np.uint8)
Y = np.arange(40) % 4


class Pictures(Dataset):
    """Pillow's images, as torchvision's datasets give them."""

    def __init__(self, change=lambda image: image):
        self.change = change

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        from PIL import Image

        return self.change(Image.fromarray(X[i].transpose(1, 2, 0))), int(Y[i])


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(torch.from_numpy(X).float() / 255, torch.from_numpy(Y), strict=True)


@pytest.mark.parametrize(
    "train",
    [
        (X, Y),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (X.transpose(0, 2, 3, 1) / 255, Y.tolist()),
        TensorDataset(torch.from_numpy(X).float() / 255, torch.from_numpy(Y)),
        Pictures(),
        Pictures(np.asarray),
        Stream(),
        [(X[i], Y[i]) for i in range(len(X))],
    ],
    ids=["arrays", "tensors", "floats", "TensorDataset", "pillow", "NumPy images", "iterable", "list"],
)
def test_contract_the_same_pixels_are_the_same_data_set(train):
    source = hold(train, (X[:12], Y[:12]), name="squares")
    assert source == hold((X, Y), (X[:12], Y[:12]), name="squares")
    splits = replace(source, validation=8).load(seed=0)
    assert torch.equal(splits.train.x, torch.from_numpy(X)[splits.train.index])
    assert torch.equal(splits.train.y, splits.train.index % 4) and len(splits.validation) == 8
    assert torch.equal(splits.test.x, torch.from_numpy(X[:12])) and splits.test.name == "squares, test"


def test_contract_other_pixels_labels_or_names_are_another(tmp_path):
    other, test = X.copy(), (X[:12], Y[:12])
    other[39, 2, 4, 5] += 1
    sources = [hold(pair, test) for pair in ((X, Y), (other, Y), (X, (Y + 1) % 4))]
    sources.append(hold((X, Y), test, classes=["a", "b", "c", "d"]))
    assert len({source.digest for source in sources}) == 4
    assert sources[3].load(seed=0).train.classes == ("a", "b", "c", "d")


def test_contract_a_run_finds_it_again_from_its_plain_data(cache):
    source = hold((X, Y), (X, Y))
    again = from_plain(json.loads(json.dumps(to_plain(source))))
    assert again == source and isinstance(again, DataSource)
    assert torch.equal(again.load(seed=1).train.x, source.load(seed=1).train.x)
    for path in (cache / "decoded").glob("*.x_train.npy"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"give it again by robustscape\.data\.memory\.hold"):
        source.load(seed=0)
    hold((X, Y), (X, Y))
    assert len(source.load(seed=0).test) == 40


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ((X, Y, Y), "must each be"),
        ((X[:3], Y), "3 images and 40 labels"),
        (Pictures(lambda image: np.asarray(image) / 127.5 - 1), r"floats must be in \[0, 1\]"),
        (Pictures(lambda image: image.resize((int(np.asarray(image)[0, 0, 0]) % 3 + 5, 7))), "resize them first"),
        (TensorDataset(torch.from_numpy(X)), r"each of its items must be \(image, label\)"),
        ([], "has no images"),
        ([(X[0], "cat")], "labels must be whole numbers"),
    ],
)
def test_contract_what_cannot_be_meant_is_refused(train, sentence):
    with pytest.raises(BadInput, match=sentence):
        hold(train, (X, Y))


def test_contract_classes_may_be_named_by_anything_that_has_a_text():
    x, y = np.zeros((8, 1, 5, 5), np.uint8), np.arange(8) % 2
    assert hold((x, y), (x, y), classes=[None, 3]).load(seed=0).test.classes == ("None", "3")


def test_contract_random_transforms_are_noticed():
    draws = iter(range(10**6))
    with pytest.raises(BadInput, match="another image each time"):
        hold(Pictures(lambda image: np.roll(np.asarray(image), next(draws) % 3, axis=0)), (X, Y))


def test_contract_without_data_it_says_so():
    with pytest.raises(BadInput, match="was given from Python"):
        Memory().load(seed=0)
    with pytest.raises(BadInput, match="digest must be"):
        Memory(digest="../../etc/passwd")


def test_contract_a_cache_that_cannot_be_written_is_said(cache):
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("a file")
    with pytest.raises(BadInput, match="cannot be held in the cache"):
        hold((X, Y), (X, Y))
