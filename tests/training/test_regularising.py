"""Penalties and clipping against their formulas."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.models.preact_resnet import PreActResNet
from robustscape.models.stutz_resnet import ReparametrisedBatchNorm2d, StutzResNet
from robustscape.objectives.natural import Natural
from robustscape.recipes.digits import digits_at
from robustscape.recipes.execute import train, train_several
from robustscape.runtime import TRUTH
from robustscape.training.loop import start
from robustscape.training.method import method
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.regularising import clip_gradient, clip_weights, penalised
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import BadInput, Batch

LR = 0.3


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).double()


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(8, 1, 6, 6, generator=generator, dtype=torch.float64)
    return Batch(x=x, y=torch.arange(8) % 3, index=torch.arange(8))


def _settings(**changes) -> Training:
    optimizer = SGD(lr=LR, momentum=0.0, weight_decay=0.0)
    return Training(epochs=1, optimizer=optimizer, lr=Constant(), **changes)


def _stepped(settings: Training):
    net = _net()
    log = step(method(net, Natural(), None, settings, TRUTH), settings.optimizer.build(net), _batch(), 0, 10, 0)
    return net, log


def _loss(net, l1=0.0, l2=0.0):
    loss = F.cross_entropy(net(_batch().x), _batch().y)
    for name, p in net.named_parameters():
        if name in ("0.weight", "4.weight"):  # neither biases nor normalisation
            loss = loss + l1 * p.abs().sum() + l2 / 2 * p.square().sum()
    return loss


@pytest.mark.parametrize("terms", [dict(l1=0.05), dict(l2=0.4), dict(l1=0.05, l2=0.4)])
def test_reference_penalties_float64(terms):
    net, log = _stepped(_settings(**terms))
    naive = _net().train()
    loss = _loss(naive, **terms)
    loss.backward()
    for ours, theirs in zip(net.parameters(), naive.parameters(), strict=True):
        assert torch.allclose(ours, theirs - LR * theirs.grad, rtol=0, atol=1e-10)
    assert log.loss["total"] == pytest.approx(float(loss.detach()), abs=1e-12)
    assert set(log.loss) == {"total", "cross_entropy", *terms}


def test_contract_a_penalty_of_what_the_loss_does_not_use():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    terms = penalised(net, _settings(l2=0.5))
    assert torch.equal(net[0].weight.grad, 0.5 * net[0].weight) and net[0].bias.grad is None
    assert float(terms["l2"]) == pytest.approx(0.25 * float(sum(net[k].weight.detach().square().sum() for k in (0, 1))))


def test_reference_gradient_clipping_float64():
    naive = _net().train()
    _loss(naive).backward()
    slopes = [p.grad for p in naive.parameters()]
    length = torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
    most = float(length) / 3
    net, log = _stepped(_settings(clip_gradient=most))
    for ours, theirs, slope in zip(net.parameters(), naive.parameters(), slopes, strict=True):
        assert torch.allclose(ours, theirs - LR * slope / 3, rtol=0, atol=1e-10)
    assert log.gradient_norm == pytest.approx(float(length), rel=1e-12)  # before it was clipped
    net, _ = _stepped(_settings(clip_gradient=1e-3, clip_gradient_by="entry"))
    for ours, theirs, slope in zip(net.parameters(), naive.parameters(), slopes, strict=True):
        assert torch.allclose(ours, theirs - LR * slope.clamp(-1e-3, 1e-3), rtol=0, atol=1e-10)


def test_closed_form_a_short_gradient_is_left_alone():
    net = nn.Linear(2, 1)
    net.weight.grad, net.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    for most, expected in ((5.0, 3.0), (10.0, 3.0), (2.5, 1.5)):
        clip_gradient(net, _settings(clip_gradient=most))
        assert float(net.weight.grad[0, 0]) == pytest.approx(expected)


def test_reference_weight_clipping_float64():
    plain, _ = _stepped(_settings())
    for of in ("all", "weights"):
        net, _ = _stepped(_settings(clip_weights=0.02, clip_weights_of=of))
        for (name, ours), theirs in zip(net.named_parameters(), plain.parameters(), strict=True):
            clipped = of == "all" or name in ("0.weight", "4.weight")
            assert torch.equal(ours, theirs.clamp(-0.02, 0.02) if clipped else theirs), name


def test_closed_form_clipping_all_keeps_a_reparametrised_scale_near_1():
    norm = ReparametrisedBatchNorm2d(2)
    nn.init.constant_(norm.weight, 0.5)
    clip_weights(norm, _settings(clip_weights=0.005))
    assert torch.equal(norm.scale().detach(), torch.full((2,), 1.005))


def test_contract_clipping_what_normalisation_multiplies_by_is_refused_before_anything_is_written(tmp_path):
    """By a stored scale above w_max; one that a module adds to 1 may be any, as of weights trained before."""
    settings = _settings(clip_weights=0.005)
    run = digits_at()
    run = replace(run, model=PreActResNet(width=2), training=replace(run.training, clip_weights=0.005))
    words = r"clip_weights is 0\.005 .* scale of a BatchNorm2d, 1, .*clip-weights-of weights, or --model stutz_resnet"
    for begin in (
        lambda: start(_net(), Natural(), settings),
        lambda: start(
            StutzResNet(width=2, norm="batch").build(image=(1, 8, 8), classes=3, seed=0), Natural(), settings
        ),
        lambda: next(train(run, tmp_path / "run", name="digits_at")),
        lambda: next(train_several([(run, tmp_path / "run")], name="digits_at")),
    ):
        with pytest.raises(BadInput, match=words):
            begin()
    assert not (tmp_path / "run").exists()
    for allowed in (_settings(clip_weights=0.005, clip_weights_of="weights"), _settings(clip_weights=1.0), _settings()):
        assert start(_net(), Natural(), allowed).done == 0
    net = StutzResNet(width=2).build(image=(1, 8, 8), classes=3, seed=0)
    nn.init.constant_(net.bn1.weight, 0.3)
    assert start(net, Natural(), settings).done == 0


def test_contract_without_any_nothing_changes():
    net, before = _net(), copy.deepcopy(_net())
    assert penalised(net, _settings()) == {}
    clip_gradient(net, _settings())
    clip_weights(net, _settings())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))
    assert all(p.grad is None for p in net.parameters())


def test_closed_form_frozen_weights_are_neither_penalised_nor_clipped():
    net = _net()
    before = net[0].weight.detach().clone()
    net[0].weight.requires_grad_(False)
    terms = penalised(net, _settings(l1=0.5))
    assert net[0].weight.grad is None
    assert float(terms["l1"]) == pytest.approx(0.5 * float(net[4].weight.detach().abs().sum()))
    clip_weights(net, _settings(clip_weights=0.01))
    assert torch.equal(net[0].weight, before)
    assert float(net[4].weight.detach().abs().max()) <= 0.01
    net[4].weight.requires_grad_(False)
    assert penalised(net, _settings(l1=0.5)) == {}
