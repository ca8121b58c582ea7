"""Training on random noise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli.arguments import parse
from robustscape.objectives.noise import NoiseTraining
from robustscape.recipes.digits import digits_at
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.method import method
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import BadInput, Batch

BATCH = Batch(
    x=torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    y=torch.arange(6) % 3,
    index=torch.arange(10, 16),
)


def _noisy(sigma):
    rng = Streams(3, ("train", 2), BATCH.index)
    if sigma is None:
        noise = 0.25 * rng.tag("ball").uniform(1, 3, 3, low=-1, high=1, dtype=torch.float64)
    else:
        noise = sigma * rng.tag("gaussian").normal(1, 3, 3, dtype=torch.float64).clamp(-0.25 / sigma, 0.25 / sigma)
    return (BATCH.x + noise).clamp(0, 1)


@pytest.mark.parametrize("sigma", [None, 0.1, 0.5])
def test_reference_one_step_in_float64(sigma):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    weight, bias = net[1].weight.detach().clone().requires_grad_(), net[1].bias.detach().clone().requires_grad_()
    objective = NoiseTraining(attack=Noise(threat=ThreatModel(eps=0.25), sigma=sigma))
    settings = Training(epochs=1, optimizer=SGD(lr=0.5, momentum=0.0, weight_decay=0.0), lr=Constant())
    how = method(net, objective, None, settings, TRUTH)
    log = step(how, settings.optimizer.build(net), BATCH, 2, 10, seed=3)
    loss = F.cross_entropy(_noisy(sigma).flatten(1) @ weight.T + bias, BATCH.y)
    loss.backward()
    assert log.loss["noisy_cross_entropy"] == pytest.approx(float(loss.detach()), abs=1e-12)
    torch.testing.assert_close(net[1].weight, weight - 0.5 * weight.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(net[1].bias, bias - 0.5 * bias.grad, rtol=0, atol=1e-12)


def test_contract_of_another_attack_the_ball_is_taken():
    threat = ThreatModel(norm="l2", eps=0.5)
    assert NoiseTraining(attack=PGD(threat=threat)).attack == Noise(threat=threat)
    own = Noise(threat=threat, sigma=0.2)
    assert NoiseTraining(attack=own).attack is own


def test_contract_on_the_command_line():
    run = parse(digits_at(), ["--objective", "noise"], program="train", description="")
    assert run.objective == NoiseTraining(attack=Noise(threat=ThreatModel(eps=0.1)))
    words = ["--objective", "noise", "--objective.attack.sigma", "0.25", "--objective.attack.threat.eps", "1"]
    run = parse(digits_at(), words, program="train", description="")
    assert run.objective.attack == Noise(threat=ThreatModel(eps=1.0), sigma=0.25)


def test_contract_an_attack_without_a_ball_is_refused():
    class Elsewhere:
        threat = None

    with pytest.raises(BadInput, match="Elsewhere has none"):
        NoiseTraining(attack=Elsewhere())  # pyright: ignore[reportArgumentType]
