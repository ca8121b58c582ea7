"""What every weight perturbation promises, whoever wrote it, alone and under every objective."""

import typing
from dataclasses import replace

import pytest
import torch

from robustscape.config import hints
from robustscape.objectives.natural import Natural
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.batch_loss import BatchLoss
from robustscape.training.method import method
from robustscape.training.settings import Training
from robustscape.types import WeightPerturbation
from robustscape.weights.space import shifted


@pytest.fixture
def loss(batch):
    """Makes the clean loss of a batch as a function of a model's weights."""

    def make(model):
        how = method(model, Natural(), None, Training(), TRUTH)
        some = batch(8)
        return BatchLoss(how, some, some.x, None, Streams(0, ("loss",)))

    return make


def test_contract_is_a_weight_perturbation(perturbation):
    assert isinstance(perturbation, WeightPerturbation)
    assert perturbation.warmup >= 0 and perturbation.decay_at in ("w", "w+v")
    assert perturbation.statistics in ("w+v", "w", "every", "eval")


def _more(perturbation):
    """The component with every other choice of its closed fields, then with more steps and rounds where it has some."""
    for field, kind in hints(type(perturbation)).items():
        for choice in typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ():
            if choice != getattr(perturbation, field):
                yield replace(perturbation, **{field: choice})
    more = {name: 2 for name in ("steps", "alternations") if hasattr(perturbation, name)}
    if more:
        yield replace(perturbation, **more)


def _assert_fits(v, model):
    parameters = dict(model.named_parameters())
    assert v and set(v) <= set(parameters)
    for name, value in v.items():
        assert value.shape == parameters[name].shape and value.dtype == parameters[name].dtype
        assert not value.requires_grad and bool(torch.isfinite(value).all())
        assert value.untyped_storage().data_ptr() != parameters[name].untyped_storage().data_ptr()
    assert any(bool(value.any()) for value in v.values())


def test_contract_leaves_the_model_as_it_was(perturbation, network, loss, trace):
    model = network()
    model.bn2.eval()
    model.linear.weight.grad = torch.full_like(model.linear.weight, 3.0)
    seen = trace(model)
    perturbation(model, loss(model), rng=Streams(1, ("v",)))
    assert seen.found() == []


def test_contract_fits_the_model_and_is_its_own(perturbation, network, loss):
    model = network()
    v = perturbation(model, loss(model), rng=Streams(1, ("v",)))
    _assert_fits(v, model)


def test_contract_every_choice_of_its_fields_fits_and_leaves_the_model_as_it_was(perturbation, network, loss, trace):
    model = network()
    seen = trace(model)
    for other in _more(perturbation):
        _assert_fits(other(model, loss(model), rng=Streams(1, ("v",))), model)
        assert seen.found() == [], other


def test_contract_under_every_objective(perturbation, objective, network, batch, trace):
    """v is found for the objective's own loss, the inputs attacked again where that is asked for; nothing is left."""
    model = objective.prepare(network())
    how, some, attack = method(model, objective, None, Training(), TRUTH), batch(6), objective.attack
    if hasattr(attack, "steps"):
        attack = replace(attack, steps=1)
    x_adv = (some.x + Streams(3, ("x",), some.index).uniform(2, 8, 8, low=-0.03, high=0.03)).clamp(0, 1)
    *_, longest = perturbation, *_more(perturbation)
    seen, found = trace(model), []
    for _ in range(2):
        loss = BatchLoss(how, some, x_adv, attack, Streams(0, ("loss",)))
        found.append(longest(model, loss, rng=Streams(1, ("v",))))
        _assert_fits(found[-1], model)
    assert seen.found() == []
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_contract_inside_its_relative_radius(perturbation, network, loss):
    if not hasattr(perturbation, "gamma"):
        pytest.skip("its radius is not relative to a layer's norm")
    model = network()
    v = perturbation(model, loss(model), rng=Streams(1, ("v",)))
    weights = dict(model.named_parameters())
    ratios = [float(value.norm() / weights[name].detach().norm()) for name, value in v.items()]
    assert max(ratios) <= perturbation.gamma * (1 + 1e-5)  # the norms are sums in float32


def test_contract_deterministic(perturbation, network, loss):
    first, second = network(), network()
    v = perturbation(first, loss(first), rng=Streams(1, ("v",)))
    torch.rand(3)
    again = perturbation(second, loss(second), rng=Streams(1, ("v",)))
    assert list(v) == list(again) and all(torch.equal(v[name], again[name]) for name in v)


def test_contract_shifting_by_it_and_back_restores_every_bit(perturbation, network, loss, trace):
    model = network()
    v = perturbation(model, loss(model), rng=Streams(1, ("v",)))
    seen = trace(model)
    with shifted(model, v):
        assert seen.found() != []
    assert seen.found() == []
