"""One training step against an independent, naive rendering of the formulas, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.training.step import method, step
from robustscape.types import Batch, Diverged, Loss
from robustscape.weights.awp import AWP

EPS, STEP, STEPS = 0.1, 0.03, 3
LR, MOMENTUM, DECAY = 0.2, 0.9, 0.01
SEED, TOTAL = 5, 10


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)
        ).double()


def _batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    return [
        Batch(
            x=torch.rand(8, 1, 6, 6, generator=generator, dtype=torch.float64),
            y=torch.randint(0, 3, (8,), generator=generator),
            index=torch.arange(8) + 8 * k,
        )
        for k in range(count)
    ]


def _settings(**changes) -> Training:
    optimizer = SGD(lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    return Training(epochs=1, optimizer=optimizer, lr=Constant(), **changes)


def _ours(weights, batches, **changes) -> nn.Module:
    net = _net()
    objective = AT(attack=PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=STEP))
    settings = _settings(**changes)
    how = method(net, objective, weights, settings, TRUTH)
    optimizer = settings.optimizer.build(net)
    for done, batch in enumerate(batches):
        step(how, optimizer, batch, done, TOTAL, SEED)
    return net


# -- the naive rendering: no code of the library but its random numbers ---------------------------------


def _naive_pgd(net, batch, done):
    noise = Streams(SEED, ("train", done, 0, "ball"), batch.index).uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    x_adv = (batch.x + EPS * noise).clamp(0, 1)
    for _ in range(STEPS):
        x_adv = x_adv.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(net(x_adv), batch.y), x_adv)
        x_adv = x_adv.detach() + STEP * slope.sign()
        x_adv = torch.min(torch.max(x_adv, batch.x - EPS), batch.x + EPS).clamp(0, 1)
    return x_adv


def _naive(batches, *, gamma, official=False, attack_train=None) -> nn.Module:
    net = _net()
    velocity = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for done, batch in enumerate(batches):
        if attack_train is None:
            x_adv = _naive_pgd(net.eval(), batch, done)
        else:
            other = net if attack_train == "counted" else copy.deepcopy(net)
            x_adv = _naive_pgd(other.train(), batch, done)
        net.train()
        v = {}
        if gamma and official:  # as the authors' code: a step of SGD on a proxy, the difference rescaled
            proxy = copy.deepcopy(net)
            (-F.cross_entropy(proxy(x_adv), batch.y)).backward()
            for (name, p), (_, old) in zip(proxy.named_parameters(), net.named_parameters(), strict=True):
                if p.ndim > 1:
                    difference = -0.01 * p.grad
                    v[name] = gamma * old.detach().norm() / (difference.norm() + 1e-20) * difference
        elif gamma:  # as the paper's equations
            proxy = copy.deepcopy(net)
            F.cross_entropy(proxy(x_adv), batch.y).backward()
            for name, p in proxy.named_parameters():
                if p.ndim > 1:
                    v[name] = gamma * p.detach().norm() * p.grad / p.grad.norm()
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.add_(v.get(name, 0))
        net.zero_grad()
        F.cross_entropy(net(x_adv), batch.y).backward()
        with torch.no_grad():
            for name, p in net.named_parameters():
                if not official:
                    p.sub_(v.get(name, 0))
                velocity[name] = MOMENTUM * velocity[name] + p.grad + DECAY * p
                p.sub_(LR * velocity[name])
                if official:
                    p.sub_(v.get(name, 0))
    return net


def _assert_equal(ours: nn.Module, naive: nn.Module) -> None:
    for (name, a), b in zip(ours.state_dict().items(), naive.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=0, atol=1e-10), name


def test_reference_adversarial_training_float64():
    batches = _batches(3)
    _assert_equal(_ours(None, batches), _naive(batches, gamma=0))


@pytest.mark.parametrize("statistics", ["frozen", "counted"])
def test_reference_adversarial_training_attacked_in_train_mode_float64(statistics):
    batches = _batches(3)
    ours = _ours(None, batches, attack_mode="train", attack_statistics=statistics)
    _assert_equal(ours, _naive(batches, gamma=0, attack_train=statistics))


def test_reference_awp_of_the_paper_float64():
    batches = _batches(3)
    _assert_equal(_ours(AWP(gamma=0.02), batches), _naive(batches, gamma=0.02))


def test_reference_awp_of_the_authors_code_float64():
    batches = _batches(3)
    _assert_equal(_ours(AWP.official(), batches), _naive(batches, gamma=0.01, official=True))


def test_closed_form_awp_waits_for_its_warm_up():
    batches = _batches(2)
    # Two of ten steps in one epoch, warm-up of half an epoch: nothing is perturbed yet.
    _assert_equal(_ours(AWP(gamma=0.02, warmup=0.5), batches), _naive(batches, gamma=0))


def test_closed_form_eps_schedule_scales_the_attack():
    class Half:
        def __call__(self, done, total):
            return 0.5

    net, batch = _net(), _batches(1)[0]
    seen = []

    class Spy(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            seen.append((x - batch.x).abs().max())
            return self.model(x)

    settings = _settings(eps=Half())
    objective = AT(attack=PGD(threat=ThreatModel(eps=EPS), steps=STEPS))
    spied = Spy(net)
    log = step(method(spied, objective, None, settings, TRUTH), settings.optimizer.build(spied), batch, 0, TOTAL, SEED)
    assert log.eps == EPS / 2
    assert max(seen) <= EPS / 2 + 1e-12


def test_contract_a_step_that_would_diverge_says_which_part_and_leaves_the_weights():
    class Sick:
        attack = None

        def prepare(self, model):
            return model

        def __call__(self, model, batch, x_adv):
            fine = F.cross_entropy(model(batch.x), batch.y)
            return Loss(total=fine * torch.nan, parts={"fine": fine, "penalty": fine * torch.nan})

    net, settings = _net(), _settings()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(Diverged, match="'penalty' became nan"):
        step(method(net, Sick(), None, settings, TRUTH), settings.optimizer.build(net), _batches(1)[0], 0, TOTAL, SEED)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())


def test_closed_form_soft_targets_replace_labels():
    net, batch = _net().eval(), _batches(1)[0]
    soft = torch.full((8, 3), 1 / 3, dtype=torch.float64)
    mixed = Batch(x=batch.x, y=batch.y, index=batch.index, target=soft)
    loss = Natural()(net, mixed, batch.x).total
    assert torch.allclose(loss, -net(batch.x).log_softmax(1).mean())
