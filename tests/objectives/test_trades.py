"""TRADES against a naive rendering of its formulas, in float64."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.friendly import Friendly
from robustscape.attacks.losses import KL, CrossEntropy, Margin
from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli.arguments import parse
from robustscape.objectives.at import AT
from robustscape.objectives.trades import TRADES
from robustscape.recipes.digits import digits_at
from robustscape.runtime.together import Together
from robustscape.streams import Streams, joined
from robustscape.types import BadInput, Batch
from robustscape.weights.awp import AWP

spec = importlib.util.spec_from_file_location("naive", Path(__file__).parents[1] / "training" / "naive.py")
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)

EPS, SIZE, STEPS, BETA, GAMMA = 0.1, 0.03, 3, 4.0, 0.02
SEED, TOTAL = 5, 10


# -- the naive rendering: no code of the library but its random numbers ---------------------------------


def _divergence(p: Tensor, q: Tensor, which: str = "forward") -> Tensor:
    there, back = (p * (p.log() - q.log())).sum(), (q * (q.log() - p.log())).sum()
    return {"forward": there, "reverse": back, "symmetric": (there + back) / 2}[which]


def _attacked(net: nn.Module, batch: Batch, done: int, which: str) -> Tensor:
    net.eval()
    noise = Streams(SEED, ("train", done, 0, "gaussian"), batch.index).normal(1, 6, 6, dtype=torch.float64)
    start = (batch.x + 0.001 * noise).clamp(0, 1)

    def loss(x_adv: Tensor) -> Tensor:
        return _divergence(net(batch.x).softmax(1), net(x_adv).softmax(1), which)

    return naive.ascended(start, batch.x, loss, eps=EPS, size=SIZE, steps=STEPS)


def _loss(net: nn.Module, batch: Batch, x_adv: Tensor, forwards=2, first="clean", divergence="forward", detached=False):
    net.train()
    if forwards == 1:
        both = net(torch.cat([batch.x, x_adv]))
        clean = again = both[:8]
        adversarial = both[8:]
    elif first == "clean":
        clean = again = net(batch.x)
        adversarial = net(x_adv)
        again = net(batch.x) if forwards == 3 else again
    else:
        adversarial = net(x_adv)
        clean = again = net(batch.x)
        clean = net(batch.x) if forwards == 3 else clean
    p = again.softmax(1).detach() if detached else again.softmax(1)
    return F.cross_entropy(clean, batch.y) + BETA * _divergence(p, adversarial.softmax(1), divergence) / 8


@pytest.mark.parametrize(
    "changes",
    [{"forwards": 1}, {"forwards": 2}, {"forwards": 3}, {"first": "adversarial"},
     {"forwards": 3, "first": "adversarial"}, {"divergence": "reverse"}, {"divergence": "symmetric"},
     {"detached": True}, {"forwards": 3, "first": "adversarial", "divergence": "symmetric", "detached": True}],
)  # fmt: skip
@pytest.mark.parametrize("weights", [None, AWP(gamma=GAMMA)], ids=["alone", "awp"])
def test_reference_steps_in_float64(changes, weights, stepped, rendered, same):
    """Gradients, v, weights, running statistics and their count: what three forwards do to them as well."""
    batches = naive.batches(3)
    attack = PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE, start="gaussian")
    ours, logs = stepped(TRADES(attack=attack, beta=BETA, **changes), weights, batches)
    for log in logs:
        assert log.loss["total"] == pytest.approx(log.loss["cross_entropy"] + BETA * log.loss["kl"], rel=1e-12)
        assert log.loss["kl"] > 1e-6

    def made(done, batch):
        def of(net):
            x_adv = _attacked(net, batch, done, changes.get("divergence", "forward"))
            return partial(_loss, batch=batch, x_adv=x_adv, **changes)

        return of

    gamma = GAMMA if weights else 0.0
    same(ours, rendered(naive.network(), [made(*pair) for pair in enumerate(batches)], gamma))
    assert int(ours.state_dict()["1.num_batches_tracked"]) == 3 * changes.get("forwards", 2)


def test_contract_attacked_together_with_other_seeds_each_finds_the_same():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        nets = [nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double() for _ in range(2)]
    attack, batches = TRADES().attack, naive.batches(2)
    rngs = [Streams(seed, ("train", 0), batch.index) for seed, batch in enumerate(batches)]
    whole = Together(nets[0], [dict(net.named_parameters()) for net in nets], rows=8)
    x, y = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "y"))
    made = attack(whole, x, y, rng=joined(rngs)).chunk(2)
    for net, batch, rng, x_adv in zip(nets, batches, rngs, made, strict=True):
        torch.testing.assert_close(x_adv, attack(net, batch.x, batch.y, rng=rng), rtol=0, atol=1e-12)


def test_closed_form_without_a_perturbation_it_is_the_clean_cross_entropy():
    net, batch = naive.network().eval(), naive.batches(1)[0]
    loss = TRADES()(net, batch, batch.x)
    assert float(loss.parts["kl"].detach()) == 0
    torch.testing.assert_close(loss.total, F.cross_entropy(net(batch.x), batch.y))


def test_closed_form_soft_targets_are_those_of_the_clean_part():
    net, batch = naive.network().eval(), naive.batches(1)[0]
    target = torch.full((8, 3), 1 / 3, dtype=torch.float64)
    parts = TRADES()(net, replace(batch, target=target), batch.x).parts
    wanted = -net(batch.x).log_softmax(dim=1).mean()
    torch.testing.assert_close(parts["cross_entropy"], wanted)


# -- settings -------------------------------------------------------------------------------------------


def test_contract_an_attack_on_the_cross_entropy_raises_the_divergence_here():
    own = PGD(threat=ThreatModel(eps=0.3), steps=40, step_size=0.01)
    assert TRADES(attack=own).attack == replace(own, loss=KL())
    assert TRADES(attack=FGSM(random_start=True)).attack == FGSM(random_start=True, loss=KL())
    assert TRADES(attack=Friendly(tau=1)).attack == Friendly(tau=1, loss=KL())
    turned = replace(TRADES(attack=own), divergence="reverse")
    assert turned.attack == replace(own, loss=KL(direction="reverse"))
    assert replace(turned, divergence="forward") == TRADES(attack=own)
    for other in (PGD(loss=Margin()), Noise()):
        assert TRADES(attack=other).attack is other
    assert AT(attack=own).attack.loss == CrossEntropy()


def test_contract_on_the_command_line_it_keeps_the_ball_and_steps_of_the_recipe():
    words = ["--objective", "trades", "--objective.beta", "1", "--objective.forwards", "3"]
    run = parse(digits_at(), words, program="train", description="")
    wanted = replace(digits_at().objective.attack, loss=KL())
    assert run.objective == TRADES(attack=wanted, beta=1.0, forwards=3)
    assert run.objective.attack.threat.eps == 0.1


def test_contract_settings_that_cannot_be_meant_are_refused():
    with pytest.raises(BadInput, match=r"no gradient at the clean input.*start='gaussian'"):
        TRADES(attack=PGD(start="none"))
    with pytest.raises(BadInput, match="random_start"):
        TRADES(attack=FGSM())
    with pytest.raises(BadInput, match="beta must be at least 0"):
        TRADES(beta=-1.0)
    with pytest.raises(BadInput, match="1, 2 or 3 forwards, not 4"):
        TRADES(forwards=4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="'clean' or 'adversarial', not 'noisy'"):
        TRADES(first="noisy")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="forwards=1 has no first forward"):
        TRADES(forwards=1, first="adversarial")
    with pytest.raises(BadInput, match="forward, reverse, symmetric, not 'sideways'"):
        TRADES(divergence="sideways")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="start='gaussian'"):
        TRADES(attack=Friendly(start="none"))
