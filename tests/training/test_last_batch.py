"""Epochs that end with too few examples for batch normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.data.batches import Loader
from robustscape.objectives.natural import Natural
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.training.checkpoints import digest
from robustscape.training.last_batch import check_last_batch
from robustscape.types import BadInput, Images


def _batches(n: int) -> Loader:
    x = torch.randint(0, 256, (n, 1, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = Images(x=x, y=torch.arange(n) % 2, index=torch.arange(n), classes=("a", "b"), name="toy")
    return Loader(images=images, batch_size=4, seed=0)


def _pooled() -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)]
    return nn.Sequential(*layers).eval()


def _spatial() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))


@pytest.mark.parametrize("n", [1, 9])
def test_contract_a_single_value_a_channel_is_refused_before_the_first_step(n):
    with pytest.raises(BadInput, match=r"last batch has 1 image, too few .* another training\.batch_size"):
        check_last_batch(_pooled(), Natural(), _batches(n))


def test_contract_a_head_that_the_objective_adds_is_asked_too():
    objective = SelfSupervised.stutz()
    model = objective.prepare(nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 2)))
    check_last_batch(model, objective, _batches(10))
    with pytest.raises(BadInput, match="a batch of 1 image has no statistics"):
        check_last_batch(model, objective, _batches(9))


def _linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


@pytest.mark.parametrize(("network", "n"), [(_pooled, 10), (_pooled, 8), (_spatial, 9), (_linear, 9)])
def test_contract_what_can_be_trained_is_let_through_without_a_trace(network, n):
    model = network()
    before, modes = digest(model), [module.training for module in model.modules()]
    drawn = torch.random.get_rng_state()
    check_last_batch(model, Natural(), _batches(n))
    assert digest(model) == before and [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), drawn)
