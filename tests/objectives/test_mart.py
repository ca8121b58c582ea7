"""MART against a naive rendering of its formulas, in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from robustscape.attacks.losses import KL, CrossEntropy
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli.arguments import parse
from robustscape.objectives.mart import MART
from robustscape.recipes.digits import digits_at
from robustscape.streams import Streams
from robustscape.types import BadInput
from robustscape.weights.awp import AWP

EPS, SIZE, STEPS, BETA, GAMMA = 0.1, 0.03, 3, 4.0, 0.02
ATTACK = PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE)


def _attacked(naive, net, batch, done):
    net.eval()
    noise = Streams(5, ("train", done, 0, "ball"), batch.index).uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    start = (batch.x + EPS * noise).clamp(0, 1)
    return naive.ascended(start, batch.x, lambda x: F.cross_entropy(net(x), batch.y), eps=EPS, size=SIZE, steps=STEPS)


def _loss(net, batch, x_adv, form, first):
    """Image by image, as equation 3 of Wu et al. and the lines of the authors' code say."""
    net.train()
    if first == "clean":
        p, q = net(batch.x).softmax(1), net(x_adv).softmax(1)
    else:
        q, p = net(x_adv).softmax(1), net(batch.x).softmax(1)
    code = form == "code"
    losses = []
    for clean, adversarial, y in zip(p, q, batch.y, strict=True):
        wrong = max(adversarial[k] for k in range(3) if k != y)
        if code:
            boosted = -adversarial[y].log() - (1.0001 - wrong + 1e-12).log()
            divergence = (clean * (clean.log() - (adversarial + 1e-12).log())).sum()
            losses.append(boosted + BETA * divergence * (1.0000001 - clean[y]))
        else:
            boosted = -adversarial[y].log() - (1 - wrong).log()
            divergence = (clean * (clean.log() - adversarial.log())).sum()
            losses.append(boosted + BETA * divergence * (1 - clean[y]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("form", "first"), [("paper", "clean"), ("code", "clean"), ("code", "adversarial")])
@pytest.mark.parametrize("weights", [None, AWP(gamma=GAMMA)], ids=["alone", "awp"])
def test_reference_steps_in_float64(form, first, weights, naive, stepped, rendered, same):
    batches = naive.batches(3)
    ours, logs = stepped(MART(attack=ATTACK, beta=BETA, form=form, first=first), weights, batches)
    for log in logs:
        parts = log.loss["boosted_cross_entropy"] + BETA * log.loss["weighted_kl"]
        assert log.loss["total"] == pytest.approx(parts, rel=1e-12)

    def made(batch, done):
        how = {"form": form, "first": first}
        return lambda net: partial(_loss, batch=batch, x_adv=_attacked(naive, net, batch, done), **how)

    theirs = rendered(naive.network(), [made(*pair[::-1]) for pair in enumerate(batches)], GAMMA if weights else 0.0)
    same(ours, theirs)
    assert int(ours.state_dict()["1.num_batches_tracked"]) == 3 * 2


def test_closed_form_uniform_outputs(naive):
    """Of K equal probabilities: log K - log(1 - 1/K), and no divergence."""
    net, batch = naive.network(), naive.batches(1)[0]
    for parameter in net[-1].parameters():
        parameter.data.zero_()
    loss = MART()(net, batch, batch.x)
    wanted = torch.tensor(3.0).log() - torch.tensor(2 / 3).log()
    assert float(loss.total.detach()) == pytest.approx(float(wanted), abs=1e-6)
    assert float(loss.parts["weighted_kl"].detach()) == pytest.approx(0, abs=1e-12)


def test_closed_form_confident_errors_have_a_finite_loss_and_gradient(naive):
    """Where the probability of a wrong class rounds to 1, its logarithm is computed from the logits."""
    net, batch = naive.network().float(), naive.batches(1)[0]
    batch = replace(batch, x=batch.x.float())
    net[-1].bias.data = torch.tensor([200.0, 0.0, -200.0])
    loss = MART()(net, replace(batch, y=torch.full_like(batch.y, 1)), batch.x)
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(400, rel=0.05)
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())


def test_contract_the_attack_raises_the_cross_entropy():
    assert MART(attack=PGD(loss=KL(), start="gaussian")).attack == PGD(loss=CrossEntropy(), start="gaussian")
    words = ["--objective", "trades", "--objective.beta", "1"]
    trades = parse(digits_at(), words, program="train", description="")
    run = parse(trades, ["--objective", "mart.official"], program="train", description="")
    assert run.objective == MART(attack=digits_at().objective.attack, form="code")


def test_contract_settings_that_cannot_be_meant_are_refused(naive):
    with pytest.raises(BadInput, match="beta must be at least 0"):
        MART(beta=-1.0)
    with pytest.raises(BadInput, match="'paper' or 'code'"):
        MART(form="wrong")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="'clean' or 'adversarial', not 'both'"):
        MART(first="both")  # pyright: ignore[reportArgumentType]
    batch = naive.batches(1)[0]
    soft = replace(batch, target=torch.full((8, 3), 1 / 3, dtype=torch.float64))
    with pytest.raises(BadInput, match="mixup do not go with it"):
        MART()(naive.network(), soft, batch.x)
