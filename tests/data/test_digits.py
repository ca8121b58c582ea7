"""Digits: scikit-learn's values, honest splits."""

import pytest
import torch

from robustscape.data.digits import Digits
from robustscape.types import BadInput, DataSource


def test_closed_form_grey_levels_are_the_nearest_of_256():
    sklearn = pytest.importorskip("sklearn.datasets")
    splits = Digits().load(seed=0)
    values, labels = sklearn.load_digits(return_X_y=True)
    for images in (splits.train, splits.validation, splits.test):
        exact = torch.from_numpy(values)[images.index].view(-1, 1, 8, 8) * 255 / 16
        assert (images.x.double() - exact).abs().max() <= 0.5
        assert images.y.tolist() == labels[images.index].tolist()
        assert images.x.max() == 255 and images.x.min() == 0


def test_contract_splits_are_disjoint_stratified_and_by_seed():
    splits, again, other = Digits().load(seed=0), Digits().load(seed=0), Digits().load(seed=1)
    parts = (splits.train, splits.validation, splits.test)
    assert torch.equal(torch.cat([p.index for p in parts]).sort().values, torch.arange(1797))
    assert (len(splits.test), len(splits.validation)) == (449, 135)
    for part in parts:
        sizes = torch.bincount(part.y, minlength=10)
        # 174 to 183 of 1797 images each; a quota is a share to within one image, at either of two draws
        assert (sizes - len(part) * torch.bincount(torch.cat([p.y for p in parts])) / 1797).abs().max() < 2
    assert torch.equal(splits.train.index, again.train.index)
    assert not torch.equal(splits.test.index, other.test.index)
    assert isinstance(Digits(), DataSource)


def test_contract_sizes_are_fields():
    splits = Digits(validation=50, test=100).load(seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1647, 50, 100)


@pytest.mark.parametrize("fields", [{"validation": 0}, {"test": 1.0}, {"validation": -0.5}])
def test_contract_impossible_sizes_are_refused(fields: dict):
    with pytest.raises(BadInput):
        Digits(**fields)


def test_contract_a_test_of_everything_is_refused():
    with pytest.raises(BadInput, match="test cannot take 1797 of 1797"):
        Digits(test=1797).load(seed=0)
