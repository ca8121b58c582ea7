"""Robust self-training against a naive rendering of equation 4, in float64."""

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
from robustscape.objectives.at import AT
from robustscape.objectives.mart import MART
from robustscape.objectives.part_at import PartAT
from robustscape.objectives.rst import RST
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.objectives.trades import TRADES
from robustscape.recipes.digits import digits_at
from robustscape.streams import Streams
from robustscape.types import BadInput
from robustscape.weights.awp import AWP

EPS, SIZE, STEPS, GAMMA = 0.1, 0.03, 3, 0.02
BETA, WEIGHT = 4.0, 0.7
ATTACK = PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE, start="gaussian")


def _mixed(batches):
    return [replace(batch, labelled=torch.arange(8) % 3 == k) for k, batch in enumerate(batches)]


def _attacked(naive, net, batch, done, form):
    net.eval()
    noise = Streams(5, ("train", done, 0, "gaussian"), batch.index).normal(1, 6, 6, dtype=torch.float64)

    def loss(x):
        if form == "trades":
            p, q = net(batch.x).softmax(1), net(x).softmax(1)
            return (p * (p.log() - q.log())).sum()
        return F.cross_entropy(net(x), batch.y)

    start = (batch.x + 0.001 * noise).clamp(0, 1)
    return naive.ascended(start, batch.x, loss, eps=EPS, size=SIZE, steps=STEPS)


def _each(net, batch, x_adv, form):
    """The loss of every image, (N,), all through the network at once."""
    net.train()
    p = None if form == "at" else net(batch.x).softmax(1)
    q = net(x_adv).softmax(1)
    own = torch.arange(8), batch.y
    if form == "at":
        return -q[own].log()
    divergence = (p * (p.log() - q.log())).sum(dim=1)
    if form == "trades":
        return -p[own].log() + BETA * divergence
    wrong = q.scatter(1, batch.y[:, None], 0.0).amax(dim=1)
    return -q[own].log() - (1 - wrong).log() + BETA * divergence * (1 - p[own])


def _loss(net, batch, x_adv, form, mean):
    each, true = _each(net, batch, x_adv, form), batch.labelled
    if mean == "each":
        return each[true].mean() + WEIGHT * each[~true].mean()
    return torch.where(true, each, WEIGHT * each).sum() / 8


@pytest.mark.parametrize("mean", ["each", "all"])
@pytest.mark.parametrize("form", ["trades", "mart", "at"])
@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_reference_steps_in_float64(form, mean, gamma, naive, stepped, rendered, same):
    batches = _mixed(naive.batches(3))
    beta = None if form == "at" else BETA
    objective = RST(attack=ATTACK, form=form, beta=beta, weight=WEIGHT, mean=mean)
    ours, logs = stepped(objective, AWP(gamma=gamma) if gamma else None, batches)
    assert all({n.split("_")[0] for n in log.loss} == {"labelled", "unlabelled", "total"} for log in logs)

    def made(done, batch):
        return lambda net: partial(
            _loss, batch=batch, x_adv=_attacked(naive, net, batch, done, form), form=form, mean=mean
        )

    same(ours, rendered(naive.network(), [made(*pair) for pair in enumerate(batches)], gamma))
    assert int(ours.state_dict()["1.num_batches_tracked"]) == 3 * (1 if form == "at" else 2)


def test_closed_form_one_mean_of_weight_1_is_the_objective_of_the_form(naive):
    batch = _mixed(naive.batches(1))[0]
    x_adv = (batch.x + 0.1).clamp(0, 1)
    for form, plain in (("trades", TRADES()), ("mart", MART()), ("at", AT())):
        net = naive.network()
        mixed = RST(form=form, mean="all")(net, batch, x_adv).total
        torch.testing.assert_close(mixed, plain(naive.network(), batch, x_adv).total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("labelled", [None, torch.ones(8, dtype=torch.bool)])
def test_closed_form_with_labels_alone_it_is_the_objective_of_the_form(labelled, naive):
    batch = replace(naive.batches(1)[0], labelled=labelled)
    x_adv = (batch.x + 0.1).clamp(0, 1)
    loss = RST()(naive.network(), batch, x_adv).total
    torch.testing.assert_close(loss, TRADES()(naive.network(), batch, x_adv).total, rtol=1e-12, atol=1e-12)


def test_contract_without_a_true_label_the_others_are_trained_on(naive):
    batch = replace(naive.batches(1)[0], labelled=torch.zeros(8, dtype=torch.bool))
    loss = RST(weight=2.0)(naive.network(), batch, batch.x)
    assert float(loss.parts["labelled_cross_entropy"].detach()) == 0
    torch.testing.assert_close(loss.total, 2 * TRADES()(naive.network(), batch, batch.x).total)


def test_contract_the_attack_raises_what_the_form_says():
    own = PGD(threat=ThreatModel(eps=0.3), steps=5)
    assert RST(attack=own).attack == replace(own, loss=KL())
    for form in ("mart", "at"):
        back = replace(RST(attack=own), form=form)
        assert back.attack == replace(own, loss=CrossEntropy())
    run = parse(digits_at(), ["--objective", "rst", "--objective.form", "mart"], program="train", description="")
    assert run.objective == RST(attack=digits_at().objective.attack, form="mart")
    assert RST.official().attack.loss == KL() and RST.stutz().attack.loss == CrossEntropy()
    assert (
        RST.stutz().attack == PartAT.official().attack == SelfSupervised.stutz().attack
    )  # one attack in all that code


def test_contract_settings_that_cannot_be_meant_are_refused():
    with pytest.raises(BadInput, match="at least 0, not -1"):
        RST(weight=-1.0)
    with pytest.raises(BadInput, match="'at' has no divergence"):
        RST(form="at", beta=6.0)
    with pytest.raises(BadInput, match="'each' kind of image"):
        RST(mean="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="'at', 'trades' or 'mart'"):
        RST(form="sam")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="start='gaussian'"):
        RST(attack=PGD(start="none"))
