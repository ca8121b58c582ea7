"""What every optimiser promises, whoever wrote it."""

from dataclasses import replace

import torch

from robustscape.types import Optimizer


def _stepped(model, optimizer, batch):
    built = optimizer.build(model)
    torch.nn.functional.cross_entropy(model(batch.x), batch.y).backward()
    built.step()
    return built


def test_contract_is_an_optimizer(optimizer):
    assert isinstance(optimizer, Optimizer)
    assert optimizer.lr > 0 and optimizer.weight_decay >= 0


def test_contract_groups_hold_every_parameter_once(optimizer, network):
    model = network()
    built = optimizer.build(model)
    held = [id(p) for group in built.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert all(group["lr"] == optimizer.lr for group in built.param_groups)


def test_contract_one_step_moves_every_parameter(optimizer, network, batch):
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _stepped(model, optimizer, batch(8))
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_contract_decay_of_weights_leaves_vectors_alone(optimizer, network):
    built = replace(optimizer, weight_decay=0.5, decay="weights").build(network())
    decayed = {p.ndim > 1 for g in built.param_groups if g["weight_decay"] for p in g["params"]}
    spared = {p.ndim > 1 for g in built.param_groups if not g["weight_decay"] for p in g["params"]}
    assert decayed == {True} and spared == {False}


def test_contract_two_steps_alike_give_the_same_bits(optimizer, network, batch):
    models = network(), network()
    for model in models:
        _stepped(model, optimizer, batch(8))
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))
