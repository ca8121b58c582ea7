"""What every augmentation that a run may have promises, whoever wrote it."""

import json
import typing
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from robustscape.config import from_plain, hints, to_plain
from robustscape.recipes.run import Run
from robustscape.streams import Streams

KINDS = [kind for kind in typing.get_args(hints(Run)["augment"]) if kind is not type(None)]
INDEX = torch.arange(100, 124)
X = (torch.rand(24, 3, 20, 24, generator=torch.Generator().manual_seed(7)) * 1.4 - 0.2).clamp(0, 1)


@pytest.fixture(params=KINDS, ids=[kind.__name__ for kind in KINDS])
def augment(request):
    return request.param()


def _rng(*tags):
    return Streams(3, ("augment", *tags), INDEX)


def test_contract_is_frozen_keyword_only_and_comes_back_from_json(augment):
    assert all(field.kw_only for field in fields(augment))
    with pytest.raises(FrozenInstanceError):
        augment.anything = 1
    assert from_plain(json.loads(json.dumps(to_plain(augment), allow_nan=False))) == augment


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract_keeps_shape_type_and_pixel_range_and_the_batch_itself(augment, dtype):
    x = X.to(dtype)
    kept, state = x.clone(), torch.get_rng_state()
    out = augment(x, _rng())
    assert out.shape == x.shape and out.dtype == dtype
    assert float(out.min()) >= 0 and float(out.max()) <= 1
    assert torch.equal(x, kept) and torch.equal(state, torch.get_rng_state())
    assert not torch.equal(out, x)


def test_contract_float32_and_float64_see_the_same_images(augment):
    """Apart from rounding: bilinear weights are rounded to float32."""
    single, double = augment(X, _rng()), augment(X.double(), _rng())
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_contract_same_bits_in_any_order_and_company(augment):
    whole = augment(X, _rng())
    for rows in (torch.tensor([5]), torch.tensor([3, 1, 2]), torch.arange(23, -1, -1), torch.arange(0, 24, 5)):
        assert torch.equal(augment(X[rows], _rng().of(INDEX[rows])), whole[rows])


def test_contract_other_epochs_seeds_and_images_draw_other_numbers(augment):
    x = X[:1].expand_as(X)
    first = augment(x, _rng())
    assert not torch.equal(augment(x, _rng(1)), first)
    assert not torch.equal(augment(x, Streams(4, ("augment",), INDEX)), first)
    assert len({row.numpy().tobytes() for row in first}) > 4
