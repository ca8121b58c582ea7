"""Friendly adversarial training: its schedule of tau, and each form against a naive rendering, in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from robustscape.attacks.friendly import Friendly
from robustscape.attacks.losses import KL, CrossEntropy
from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli.arguments import parse
from robustscape.objectives.fat import FAT
from robustscape.recipes.digits import digits_at
from robustscape.streams import Streams
from robustscape.types import BadInput, Staged
from robustscape.weights.awp import AWP

EPS, SIZE, STEPS, BETA, GAMMA = 0.2, 0.03, 5, 4.0, 0.02
RISES = (0.1, 0.2)  # of ten steps: tau is 0, 1, 2 in the first three


def _objective(form, result):
    attack = Friendly(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE, start="gaussian", result=result)
    words, beta = form.split(), None if form == "at" else BETA
    return FAT(attack=attack, form=words[0], beta=beta, constants=words[-1] if words[1:] else "paper", rises=RISES)


def _attacked(net, batch, done, form, result):
    """Image by image, as Algorithm 1 says; for Stutz' result his rule."""
    net.eval()
    noise = Streams(5, ("train", done, 0, "gaussian"), batch.index).normal(1, 6, 6, dtype=torch.float64)
    made = []
    for x, y, shift in zip(batch.x, batch.y, noise, strict=True):
        x, y, left, best = x[None], y[None], done, -float("inf")
        here, kept = (x + 0.001 * shift).clamp(0, 1), x
        p = net(x).softmax(1)
        for k in range(STEPS + 1):
            free = here.clone().requires_grad_()
            output = net(free)
            q = output.softmax(1)
            loss = (p * (p.log() - q.log())).sum() if form == "trades" else F.cross_entropy(output, y)
            wrong = output.argmax() != y
            if result == "misclassified" and wrong and left >= 0 and float(loss.detach()) > best:
                left, best, kept = left - 1, float(loss.detach()), here
            if result == "last" and (k == STEPS or (wrong and left == 0)):
                kept = here
                break
            left = left - int(wrong) if result == "last" else left
            here = here + SIZE * torch.autograd.grad(loss, free, retain_graph=True)[0].sign()
            here = torch.min(torch.max(here, x - EPS), x + EPS).clamp(0, 1).detach()
        made.append(kept)
    return torch.cat(made)


def _loss(net, batch, x_adv, form):
    net.train()
    if form == "at":
        return F.cross_entropy(net(x_adv), batch.y)
    if form == "mart code":
        q, clean, tiny, most, more = net(x_adv).softmax(1), net(batch.x), 1e-12, 1.0001, 1.0000001
    else:
        clean, q, tiny, most, more = net(batch.x), net(x_adv).softmax(1), 0.0, 1.0, 1.0
    p, own = clean.softmax(1), (torch.arange(8), batch.y)
    divergence = (p * (p.log() - (q + tiny).log())).sum(dim=1)
    if form == "trades":
        return F.cross_entropy(clean, batch.y) + BETA * divergence.mean()
    wrong = q.scatter(1, batch.y[:, None], 0.0).amax(dim=1)
    return (-q[own].log() - (most - wrong + tiny).log() + BETA * divergence * (more - p[own])).mean()


@pytest.mark.parametrize("result", ["last", "misclassified"])
@pytest.mark.parametrize("form", ["at", "trades", "mart", "mart code"])
@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_reference_steps_in_float64(form, result, gamma, naive, stepped, rendered, same):
    batches = naive.batches(3)
    ours, _ = stepped(_objective(form, result), AWP(gamma=gamma) if gamma else None, batches)

    def made(done, batch):
        return lambda net: partial(
            _loss, batch=batch, x_adv=_attacked(net, batch, done, form, result).detach(), form=form
        )

    same(ours, rendered(naive.network(), [made(*pair) for pair in enumerate(batches)], gamma))


def _tau(objective, done, total, batch):
    return objective.stage(batch, Streams(), done, total)[1].tau


def test_reference_tau_is_that_of_the_authors_code_in_every_epoch(naive):
    """Their rules count epochs from 1."""
    batch = naive.batches(1)[0]
    rules = {"official": (120, (50, 90)), "trades": (85, (30, 50, 70)), "mart": (85, (20, 40, 60, 80))}
    for preset, (epochs, ends) in rules.items():
        objective = getattr(FAT, preset)()
        for epoch in range(1, epochs + 1):
            wanted = sum(epoch > end for end in ends)
            first, last = (epoch - 1) * 7, epoch * 7 - 1  # of 7 steps an epoch
            assert _tau(objective, first, epochs * 7, batch) == _tau(objective, last, epochs * 7, batch) == wanted
    assert {_tau(FAT.stutz(), done, 10, batch) for done in range(10)} == {0}
    assert _tau(FAT(attack=Friendly(tau=3)), 9, 10, batch) == 5


def test_contract_another_attack_is_stopped_early():
    own = PGD(threat=ThreatModel(norm="l2", eps=0.5), steps=4, relative_step=0.3, start="gaussian")
    wanted = Friendly(threat=own.threat, steps=4, relative_step=0.3, start="gaussian")
    assert FAT(attack=own).attack == wanted
    assert FAT(attack=own, form="trades").attack == replace(wanted, loss=KL())
    assert replace(FAT(attack=own, form="trades"), form="mart").attack == replace(wanted, loss=CrossEntropy())
    assert FAT(attack=Noise(threat=own.threat)).attack == Friendly(threat=own.threat)
    assert isinstance(FAT(), Staged)
    run = parse(digits_at(), ["--objective", "fat", "--objective.form", "trades"], program="train", description="")
    assert run.objective.attack.threat.eps == 0.1 and run.objective.attack.loss == KL()
    stutz = parse(digits_at(), ["--objective", "fat.stutz"], program="train", description="").objective
    assert stutz.attack.result == "misclassified" and stutz.attack.threat.eps == 0.1 and stutz.rises == ()


def test_contract_settings_that_cannot_be_meant_are_refused():
    for rises in ((0.5, 0.2), (0.0,), (50.0,)):
        with pytest.raises(BadInput, match="rising shares of the training"):
            FAT(rises=rises)
    with pytest.raises(BadInput, match="'at' has no divergence"):
        FAT(beta=6.0)
    with pytest.raises(BadInput, match="start='gaussian'"):
        FAT(attack=Friendly(start="none"), form="trades")
    with pytest.raises(BadInput, match="did you mean form='mart'"):
        FAT(constants="code")
    with pytest.raises(BadInput, match="'paper' or the 'code', not 'none'"):
        FAT(form="mart", constants="none")  # pyright: ignore[reportArgumentType]
    assert FAT.mart().constants == "code"
