"""What every objective promises, alone and under every weight perturbation."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.data.targets import Targets
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.method import method
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import BadInput, Objective, Selective

SETTINGS = Training(epochs=1, optimizer=SGD(lr=0.01))


def test_contract_is_an_objective(objective):
    assert isinstance(objective, Objective)


def test_contract_prepares_what_is_trained(objective, network, batch, trace):
    model = network()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    seen = trace(model)
    trained = objective.prepare(model)
    assert isinstance(trained, nn.Module)
    assert {id(p) for p in model.parameters()} <= {id(p) for p in trained.parameters()}
    assert seen.found() == []
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_contract_loss_is_a_finite_mean_with_named_parts(objective, network, batch):
    some = batch(8, torch.float64)
    model = objective.prepare(network(dtype=torch.float64))
    once = objective(model, some, some.x)
    assert once.total.ndim == 0 and once.total.requires_grad and once.parts
    assert all(part.ndim == 0 and math.isfinite(float(part.detach())) for part in once.parts.values())
    parts = {name: torch.cat([getattr(some, name)] * 2) for name in ("x", "y", "index")}
    twice = objective(model, replace(some, **parts), parts["x"])
    torch.testing.assert_close(twice.total, once.total, rtol=1e-10, atol=1e-10)


def test_contract_writes_neither_weights_nor_gradients(objective, network, batch, trace):
    some = batch(8)
    model = objective.prepare(network()).train()
    seen = trace(model)
    objective(model, some, some.x)
    assert not [change for change in seen.found() if not change.startswith("buffers")]


def test_contract_one_step_composes_with_every_weight_perturbation(objective, perturbation, network, batch, twin):
    """The weights move, every loss is finite, and no more forwards count for BatchNorm than are meant to."""
    some = batch(8)
    model = objective.prepare(network())
    alone = twin(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for trained, weights in ((model, replace(perturbation, warmup=0.0)), (alone, None)):
        how = method(trained, objective, weights, SETTINGS, TRUTH)
        log = step(how, SETTINGS.optimizer.build(trained), some, 0, 10, seed=0)
        assert all(map(math.isfinite, log.loss.values())) and math.isfinite(log.gradient_norm)
        assert "total" in log.loss
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), alone.parameters(), strict=True))
    forwards, plain = int(model.bn1.num_batches_tracked), int(alone.bn1.num_batches_tracked)
    assert plain > 1 and (forwards > plain if perturbation.statistics == "every" else forwards == plain)


def test_contract_one_step_is_deterministic(objective, perturbation, network, batch, twin):
    some = batch(8)
    first = objective.prepare(network())
    second = twin(first)
    for model in (first, second):
        how = method(model, objective, replace(perturbation, warmup=0.0), SETTINGS, TRUTH)
        step(how, SETTINGS.optimizer.build(model), some, 3, 10, seed=4)
        torch.rand(1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def _takes(objective):
    return objective.takes if isinstance(objective, Selective) else "mixed"


def test_contract_the_loss_of_soft_labels_is_the_mean_of_their_losses(objective, network, batch):
    """Unless the objective says that it takes labels alone: then it refuses others."""
    some = batch(8, torch.float64)
    model = objective.prepare(network(dtype=torch.float64))
    other = replace(some, y=(some.y + 1) % 4)
    target = 0.3 * F.one_hot(some.y, 4).double() + 0.7 * F.one_hot(other.y, 4).double()
    soft = replace(some, target=target)
    if _takes(objective) == "labels":
        with pytest.raises(BadInput, match="one label"):
            objective(model, soft, some.x)
        return
    losses = [objective(model, labels, some.x).total.item() for labels in (some, other)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)
    assert objective(model, soft, some.x).total.item() == pytest.approx(0.3 * losses[0] + 0.7 * losses[1], rel=1e-10)


def test_contract_mixed_images_are_attacked_or_refused(objective, network, batch):
    plain = batch(8)
    some = Targets(mixup=1.0)(plain, Streams(0, ("targets", 0), plain.index), classes=4)
    model = objective.prepare(network())
    how = method(model, objective, None, SETTINGS, TRUTH)
    optimizer = SETTINGS.optimizer.build(model)
    if _takes(objective) != "mixed":
        with pytest.raises(BadInput, match="mixed"):
            step(how, optimizer, some, 0, 10, seed=0)
        return
    log = step(how, optimizer, some, 0, 10, seed=0)
    assert all(map(math.isfinite, log.loss.values())) and math.isfinite(log.gradient_norm)
