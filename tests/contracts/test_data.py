"""What every data set promises, whoever wrote it; one that lies in files is tested where they are."""

import os
from pathlib import Path

import pytest
import torch

from robustscape.data.fetch import VARIABLE
from robustscape.types import BadInput, DataSource

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def load(monkeypatch):
    """Loads a data set that needs no network; skips the test where its files are not here."""

    def refuse(address, *_, **__):
        raise BadInput(f"no test downloads: {address}")

    monkeypatch.setattr("pooch.retrieve", refuse)
    if not os.environ.get(VARIABLE) and SHARED.is_dir():
        monkeypatch.setenv(VARIABLE, str(SHARED))

    def loaded(source, seed):
        try:
            return source.load(seed=seed)
        except BadInput as error:
            pytest.skip(f"its files are not here: {error}")

    return loaded


def test_contract_is_a_data_source(source):
    assert isinstance(source, DataSource)


def test_contract_splits_are_honest(source, load):
    """Well-formed, stratified, and no image in two of them; nothing random is left moved."""
    before = torch.get_rng_state()
    splits = load(source, 3)
    assert torch.equal(torch.get_rng_state(), before)
    parts = (splits.train, splits.validation, splits.test)
    for images in parts:
        assert images.x.dtype == torch.uint8 and images.x.ndim == 4 and images.x.shape[1:] == splits.train.x.shape[1:]
        assert images.y.dtype == images.index.dtype == torch.int64
        assert len(images.x) == len(images.y) == len(images.index) == len(images.index.unique()) > 0
        assert images.classes == splits.train.classes
        assert sorted(images.y.unique().tolist()) == list(range(len(images.classes)))
    assert not set(splits.train.index.tolist()) & set(splits.validation.index.tolist())
    for images in parts[:2]:
        assert _shared(images, splits.test) == 0
    train, held = (torch.bincount(images.y).double() for images in parts[:2])
    wanted = (train + held) * (held.sum() / (train + held).sum())
    assert float((held - wanted).abs().max()) <= 1


def test_contract_splits_are_a_function_of_the_seed(source, load):
    first, again, other = load(source, 3), load(source, 3), load(source, 4)
    for split in ("train", "validation", "test"):
        one, two = getattr(first, split), getattr(again, split)
        assert torch.equal(one.x, two.x) and torch.equal(one.y, two.y) and torch.equal(one.index, two.index)
    assert not torch.equal(first.validation.index, other.validation.index)


def _shared(images, test):
    """Number of images that are in the test set too: of the same number in their file, and the same pixels."""
    row = {number: place for place, number in enumerate(test.index.tolist())}
    pairs = [(place, row[number]) for place, number in enumerate(images.index.tolist()) if number in row]
    if not pairs:
        return 0
    ours, theirs = torch.tensor(pairs).T
    return int((images.x[ours] == test.x[theirs]).flatten(1).all(dim=1).sum())
