"""Training on random noise, against a naive rendering in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli.arguments import parse
from robustscape.objectives.noise import NoiseTraining
from robustscape.recipes.digits import digits_at
from robustscape.streams import Streams
from robustscape.types import BadInput
from robustscape.weights.awp import AWP

EPS, GAMMA = 0.25, 0.02


def _noisy(batch, done, sigma):
    rng = Streams(5, ("train", done), batch.index)
    if sigma is None:
        noise = EPS * rng.tag("ball").uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    else:
        noise = sigma * rng.tag("gaussian").normal(1, 6, 6, dtype=torch.float64).clamp(-EPS / sigma, EPS / sigma)
    return (batch.x + noise).clamp(0, 1)


@pytest.mark.parametrize("sigma", [None, 0.1, 0.5])
@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_reference_steps_in_float64(sigma, gamma, naive, stepped, rendered, same):
    batches = naive.batches(3)
    objective = NoiseTraining(attack=Noise(threat=ThreatModel(eps=EPS), sigma=sigma))
    ours, logs = stepped(objective, AWP(gamma=gamma) if gamma else None, batches)
    assert all(set(log.loss) == {"noisy_cross_entropy", "total"} for log in logs)

    def made(done, batch):
        return lambda net: lambda network: F.cross_entropy(network.train()(_noisy(batch, done, sigma)), batch.y)

    same(ours, rendered(naive.network(), [made(*pair) for pair in enumerate(batches)], gamma))


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
