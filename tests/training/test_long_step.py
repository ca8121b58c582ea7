"""Steps on several batches against an independent, naive rendering of Entropy-SGD, in float64."""

from __future__ import annotations

import copy
import importlib.util
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.method import method
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.settings import Training
from robustscape.training.step import long_step
from robustscape.types import Diverged
from robustscape.weights.awp import AWP

spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)

EPS, STEP, STEPS = naive.EPS, naive.STEP, naive.STEPS
SEED, TOTAL = naive.SEED, 10
STEPS_OF_A_WALK = 3
PAPER = EntropySGD(lr=0.7, steps=STEPS_OF_A_WALK, gamma=0.2, scoping=0.5, noise=0.01, weight_decay=0.01)


def _explored(optimizer, batches, *, weights=None) -> nn.Module:
    net = naive.network()
    objective = AT(attack=PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=STEP))
    settings = Training(epochs=1, optimizer=optimizer, lr=Cosine())
    how, built = method(net, objective, weights, settings, TRUTH), optimizer.build(net)
    for done in range(0, len(batches), optimizer.batches):
        long_step(how, built, batches[done : done + optimizer.batches], done, TOTAL, SEED)
    return net


def _naive_slope(net, batch, done, gamma):
    """The gradient of adversarial training at the present weights, under AWP where gamma is not 0."""
    x_adv = naive.attacked(net.eval(), batch, done)
    loss = partial(naive.cross_entropy, x=x_adv, y=batch.y)
    proxy = copy.deepcopy(net.train())
    v = naive.perturbation(net, loss, gamma) if gamma else {}
    with torch.no_grad():
        for name, p in proxy.named_parameters():
            p.add_(v.get(name, 0))
    proxy.zero_grad()
    loss(proxy).backward()
    for buffer, moved in zip(net.buffers(), proxy.buffers(), strict=True):
        buffer.copy_(moved)
    return {name: p.grad.clone() for name, p in proxy.named_parameters()}


def _noise(done, k, name, like):
    return Streams(SEED, ("walk", done, k, name)).normal(*like.shape, dtype=torch.float64)


def _lr(done):
    return (1 + math.cos(math.pi * done / TOTAL)) / 2


@torch.no_grad()
def _set(net, values):
    for name, p in net.named_parameters():
        p.copy_(values[name])


def _naive_paper(batches, gamma_awp) -> nn.Module:
    """Algorithm 1, eta gamma as one learning rate, with weight decay in both gradients."""
    net = naive.network()
    for t, done in enumerate(range(0, len(batches), STEPS_OF_A_WALK)):
        x = {name: p.detach().clone() for name, p in net.named_parameters()}
        inner, mu, gamma = dict(x), dict(x), 0.2 * 1.5**t
        for k, batch in enumerate(batches[done : done + STEPS_OF_A_WALK]):
            with torch.enable_grad():
                slope = _naive_slope(net, batch, done + k, gamma_awp)
            for name in x:
                d = slope[name] + 0.01 * inner[name] - gamma * (x[name] - inner[name])
                inner[name] = inner[name] - 0.1 * d + 0.1**0.5 * 0.01 * _noise(done, k, name, d)
                mu[name] = (1 - 0.75) * mu[name] + 0.75 * inner[name]
            _set(net, inner)
        _set(net, {name: w - 0.7 * _lr(done) * ((w - mu[name]) + 0.01 * w) for name, w in x.items()})
    return net


@pytest.mark.parametrize("gamma", [0, 0.02])
def test_reference_entropy_sgd_of_the_paper_float64(gamma):
    batches = naive.batches(2 * STEPS_OF_A_WALK)
    ours = _explored(PAPER, batches, weights=AWP(gamma=gamma) if gamma else None)
    naive.same(ours, _naive_paper(batches, gamma))


def test_reference_entropy_sgd_of_the_authors_code_float64():
    """Its names: mdw momentum buffers, mw the mean, eta noise; the learning rate follows the schedule here."""
    official = replace(EntropySGD.official(), steps=2, weight_decay=0.01)
    batches = naive.batches(6)
    net, outer = naive.network(), {}
    for done in (0, 3):
        wc = {name: p.detach().clone() for name, p in net.named_parameters()}
        w, mw, mdw = dict(wc), dict(wc), {name: torch.zeros_like(p) for name, p in wc.items()}
        for k in range(3):
            dw = _naive_slope(net, batches[done + k], done + k, 0)
            if k == 0:  # its first closure only reports the loss
                continue
            for name in w:
                d = dw[name] + 0.01 * w[name]
                mdw[name] = 0.9 * mdw[name] + d
                d = d + 0.9 * mdw[name] - 1e-4 * (wc[name] - w[name])
                d = d - 1e-4 / math.sqrt(0.5 * 0.1) * _noise(done, k, name, d)
                w[name] = w[name] - 0.1 * d
                mw[name] = 0.75 * mw[name] + 0.25 * w[name]
            _set(net, w)
        for name in wc:
            d = wc[name] - mw[name] + 0.01 * wc[name]
            outer[name] = 0.9 * outer.get(name, 0) + d
            w[name] = wc[name] - 0.1 * _lr(done) * (d + 0.9 * outer[name])
        _set(net, w)
    naive.same(_explored(official, batches), net)


def test_contract_a_walk_that_diverges_leaves_the_weights():
    net, batches = naive.network(), naive.batches(2)
    batches[1].x.fill_(torch.nan)
    optimizer = EntropySGD(steps=2)
    how = method(net, Natural(), None, Training(epochs=1, optimizer=optimizer), TRUTH)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(Diverged):
        long_step(how, optimizer.build(net), batches, 0, TOTAL, SEED)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())


def test_contract_a_long_step_logs_means_over_its_batches():
    batches, optimizer = naive.batches(2), EntropySGD(steps=2, step_size=1e-12, noise=0.0)
    net = naive.network()
    how = method(net, Natural(), None, Training(epochs=1, optimizer=optimizer, lr=Constant()), TRUTH)
    log = long_step(how, optimizer.build(net), batches, 0, TOTAL, SEED)
    losses = [float(naive.cross_entropy(naive.network(), batch.x, batch.y).detach()) for batch in batches]
    assert log.loss["total"] == pytest.approx(sum(losses) / 2, abs=1e-6) and log.lr == 1.0 and log.eps is None
