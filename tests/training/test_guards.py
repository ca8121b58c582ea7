"""Guards: what they notice, on networks planted and networks really trained, and that they leave no trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.batches import Loader
from robustscape.data.digits import Digits
from robustscape.evaluation.judging import predicted
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.objectives.noise import NoiseTraining
from robustscape.runtime import TRUTH
from robustscape.streams import numbered
from robustscape.training.checkpoints import digest
from robustscape.training.guards import noticed
from robustscape.training.loop import Epoch, fit, start
from robustscape.training.method import method
from robustscape.training.optimizers.adam import Adam
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.types import Batch

SETTINGS = Training(batch_size=32, track=0, lr=Constant())


def _mlp(width=64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )


def _batches(n=100):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = Batch(x=x, y=torch.arange(n) % 10, index=torch.arange(n))
    return [Batch(x=whole.x[k : k + 32], y=whole.y[k : k + 32], index=whole.index[k : k + 32]) for k in range(0, n, 32)]


def _noticed(model, objective, *, batches=None, eps=0.1):
    how = method(model, objective, None, SETTINGS, TRUTH)
    return noticed(how, batches or _batches(), examples=100, eps=eps, seed=0, runtime=TRUTH)


def test_closed_form_a_planted_dead_layer_and_its_constant_output_are_named():
    model = _mlp()
    with torch.no_grad():
        model[3].bias.fill_(-1e3)
    before = digest(model)
    dead, constant = _noticed(model, Natural(), eps=None)
    assert dead == "dead layer: none of the 64 units of 4 fires on 64 training images"
    assert constant.startswith("constant output:") and digest(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_closed_form_an_output_that_ignores_the_input_is_constant_with_living_units():
    model = _mlp()
    with torch.no_grad():
        model[5].weight.zero_()
    (only,) = _noticed(model, Natural(), eps=None)
    assert only == "constant output: the class probabilities of 64 training images differ by at most 0"


@pytest.mark.parametrize("objective", [Natural(), AT(attack=PGD(threat=ThreatModel(eps=0.1))), NoiseTraining()])
def test_contract_a_living_network_is_left_in_peace(objective):
    assert _noticed(_mlp(), objective) == ()


def test_contract_nan_is_left_to_the_next_step():
    model = _mlp()
    with torch.no_grad():
        model[5].bias.fill_(torch.nan)
    assert _noticed(model, AT(attack=FGSM(threat=ThreatModel(eps=0.1)))) == ()


class _Masked(nn.Module):
    """Of class 0 near a mean pixel of 0.5 and again 0.1 further, where FGSM lands, and of class 1 between."""

    def forward(self, x):
        z = x.flatten(1).mean(dim=1) - 0.5
        valley = 0.1 - torch.sin(z.abs() * torch.pi / 0.1)
        return torch.stack([valley, torch.zeros_like(z)], dim=1)


@pytest.mark.parametrize(("attack", "warned"), [(FGSM, True), (PGD, False), (Noise, False)])
def test_closed_form_a_network_that_only_the_full_step_spares_has_overfitted(attack, warned):
    x = torch.linspace(0.5005, 0.503, 64).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    batch = Batch(x=x, y=torch.zeros(64, dtype=torch.int64), index=torch.arange(64))
    found = _noticed(_Masked(), AT(attack=attack(threat=ThreatModel(eps=0.1))), batches=[batch])
    assert [text.partition(":")[0] for text in found] == ["catastrophic overfitting"] * warned


def test_closed_form_mixed_images_withstand_as_the_image_of_which_they_have_more():
    x = torch.linspace(0.5005, 0.503, 64).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    shares = torch.tensor([0.7, 0.3]).expand(64, 2)
    batch = Batch(x=x, y=torch.ones(64, dtype=torch.int64), index=torch.arange(64), target=shares, mixed=shares)
    (found,) = _noticed(_Masked(), AT(attack=FGSM(threat=ThreatModel(eps=0.1))), batches=[batch])
    assert found.startswith("catastrophic overfitting")


def _trained(objective, settings, model):
    data = Digits().load(seed=0)
    loader = Loader(images=data.train, batch_size=settings.batch_size, seed=0)
    state = start(model, objective, settings)
    events = fit(state, loader, objective=objective, weights=None, settings=settings, runtime=TRUTH, seed=0, tracked={})
    return data, [event.log for event in events if isinstance(event, Epoch)]


def test_end_to_end_fgsm_with_a_large_eps_overfits_catastrophically_and_stops():
    threat, model = ThreatModel(eps=0.3), _mlp(256)
    settings = replace(SETTINGS, epochs=20, optimizer=Adam(lr=0.003), guard="stop")
    data, logs = _trained(AT(attack=FGSM(threat=threat)), settings, model)
    assert logs[-1].warnings[0].startswith("catastrophic overfitting") and logs[-1].stopped == logs[-1].warnings[0]
    assert not any(log.warnings for log in logs[:-1]) and len(logs) < 20
    x, y = data.train.pixels(slice(400)), data.train.y[:400]  # and on other images, by another PGD, it is so
    rates = []
    for attack in (FGSM(threat=threat), PGD(threat=threat, steps=20)):
        x_adv = attack(model, x, y, rng=numbered(x, "test"))
        rates.append(float((predicted(model, x_adv).argmax(1) == y).double().mean()))
    assert rates[1] < 0.6 * rates[0]


def test_end_to_end_fgsm_with_a_small_eps_does_not():
    settings = replace(SETTINGS, epochs=2, optimizer=Adam(lr=0.003), guard="stop")
    _, logs = _trained(AT(attack=FGSM(threat=ThreatModel(eps=0.05))), settings, _mlp())
    assert len(logs) == 2 and not any(log.warnings or log.stopped for log in logs)


@pytest.mark.parametrize(("guard", "epochs"), [("warn", 2), ("stop", 1), ("no", 2)])
def test_end_to_end_a_learning_rate_of_100_kills_within_an_epoch(guard, epochs):
    settings = replace(SETTINGS, epochs=2, optimizer=Adam(lr=100), guard=guard)
    _, logs = _trained(Natural(), settings, _mlp())
    assert len(logs) == epochs
    assert [bool(log.warnings) for log in logs] == [guard != "no"] * epochs
    if guard != "no":
        kinds = {text.partition(":")[0] for text in logs[0].warnings}
        assert kinds == {"dead layer", "constant output"}
    assert bool(logs[-1].stopped) == (guard == "stop")
