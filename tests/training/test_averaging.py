"""Averages of weights, and the running statistics estimated for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.averaging import average_of, estimate_statistics, take_into_average
from robustscape.training.loop import start
from robustscape.training.method import method
from robustscape.training.settings import Training
from robustscape.types import BadInput, Batch

ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=2, step_size=0.04)
SIZES = (4, 8, 5)


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 6)]
        return nn.Sequential(*layers, nn.BatchNorm1d(6), nn.Linear(6, 2)).double()


def _batches() -> list[Batch]:
    generator, first, batches = torch.Generator().manual_seed(4), 0, []
    for size in SIZES:
        x = torch.rand(size, 1, 6, 6, generator=generator, dtype=torch.float64)
        batches.append(Batch(x=x, y=torch.arange(size) % 2, index=torch.arange(first, first + size)))
        first += size
    return batches


def test_closed_form_mean_of_what_is_taken():
    net = nn.Linear(3, 1)
    average, seen = average_of(net), []
    for taken in range(4):
        nn.init.normal_(net.weight)
        seen.append(net.weight.detach().clone())
        take_into_average(average, net, taken)
        assert torch.allclose(average.weight, torch.stack(seen).mean(0), atol=1e-6)
    assert not average.weight.requires_grad


def _estimated(statistics: str, objective, limit=None) -> nn.Module:
    net = _net().train()
    settings = Training(epochs=1, statistics=statistics, statistics_batches=limit)
    how = method(net, objective, None, settings, TRUTH)
    estimate_statistics(net, how, _batches(), seed=5, done=7, runtime=TRUTH)
    return net


def _naive(inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Means over batches, by their examples, of the mean and the unbiased variance before each normalisation."""
    net, sums, count = _net(), {}, 0
    for x in inputs:
        first = net[0](x)
        mean, var = first.mean((0, 2, 3)), first.var((0, 2, 3))
        biased = first.var((0, 2, 3), unbiased=False)
        normal = (first - mean[None, :, None, None]) / (biased[None, :, None, None] + 1e-5).sqrt()
        second = net[5](normal.tanh().flatten(1))
        found = {"1.running_mean": mean, "1.running_var": var}
        found |= {"6.running_mean": second.mean(0), "6.running_var": second.var(0)}
        sums = {name: sums.get(name, 0) + len(x) * value.detach() for name, value in found.items()}
        count += len(x)
    return {name: value / count for name, value in sums.items()}


def _assert_equal(net: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    buffers = dict(net.named_buffers())
    for name, value in expected.items():
        assert torch.allclose(buffers[name], value, rtol=0, atol=1e-10), name


def test_reference_statistics_of_clean_examples_float64():
    _assert_equal(_estimated("clean", Natural()), _naive([batch.x for batch in _batches()]))
    _assert_equal(_estimated("clean", AT(attack=ATTACK), limit=2), _naive([batch.x for batch in _batches()[:2]]))


def _attacked(batch: Batch) -> torch.Tensor:
    """PGD on the network in train mode, by the batch's statistics; without dropout, so that it can be told."""
    net = _net().train()
    noise = Streams(5, ("statistics", 7, 0, "ball"), batch.index).uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    x_adv = (batch.x + 0.1 * noise).clamp(0, 1)
    net[3].p = 0.0
    for _ in range(2):
        x_adv = x_adv.clone().requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(x_adv), batch.y), x_adv)
        x_adv = x_adv.detach() + 0.04 * slope.sign()
        x_adv = torch.min(torch.max(x_adv, batch.x - 0.1), batch.x + 0.1).clamp(0, 1)
    return x_adv


def test_reference_statistics_of_adversarial_examples_float64():
    net = _net().train()
    net[3].p = 0.0
    settings = Training(epochs=1, statistics="adversarial")
    how = method(net, AT(attack=ATTACK), None, settings, TRUTH)
    estimate_statistics(net, how, _batches(), seed=5, done=7, runtime=TRUTH)
    _assert_equal(net, _naive([_attacked(batch) for batch in _batches()]))


def test_contract_estimating_changes_nothing_else():
    net, before = _estimated("clean", Natural()), _net()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))
    assert all(module.training for module in net.modules())
    assert [net[1].momentum, net[6].momentum] == [0.1, 0.1]
    assert int(net[1].num_batches_tracked) == int(before[1].num_batches_tracked)


@pytest.mark.parametrize(
    ("model", "objective", "statistics", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), Natural(), "clean", "no BatchNorm"),
        (_net(), Natural(), "adversarial", "did you mean clean"),
    ],
)
def test_contract_statistics_that_cannot_be_estimated_are_refused(model, objective, statistics, words):
    with pytest.raises(BadInput, match=words):
        start(model, objective, Training(epochs=1, statistics=statistics))
