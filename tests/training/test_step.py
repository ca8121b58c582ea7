"""One training step against an independent, naive rendering of the formulas, in float64."""

from __future__ import annotations

import copy
import importlib.util
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.runtime import TRUTH
from robustscape.training.method import method
from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.adamw import AdamW
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import BadInput, Batch, Diverged, Loss
from robustscape.weights.awp import AWP

spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)

EPS, STEP, STEPS = naive.EPS, naive.STEP, naive.STEPS
SEED, TOTAL = naive.SEED, 10


def _settings(**changes) -> Training:
    optimizer = SGD(lr=naive.LR, momentum=naive.MOMENTUM, weight_decay=naive.DECAY)
    return Training(epochs=1, optimizer=optimizer, lr=Constant(), **changes)


def _ours(weights, batches, *, net=None, runtime=TRUTH, **changes) -> nn.Module:
    net = net or naive.network()
    objective = AT(attack=PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=STEP))
    settings = _settings(**changes)
    how = method(net, objective, weights, settings, runtime)
    optimizer = settings.optimizer.build(net)
    for done, batch in enumerate(batches):
        step(how, optimizer, batch, done, TOTAL, SEED)
    return net


# -- the naive rendering: no code of the library but its random numbers ---------------------------------


def _naive(batches, *, gamma, official=False, attack_train=None, clean=False, net=None) -> nn.Module:
    net, velocity = net or naive.network(), {}
    for done, batch in enumerate(batches):
        if attack_train is None:
            x_adv = naive.attacked(net.eval(), batch, done)
        else:
            other = net if attack_train == "counted" else copy.deepcopy(net)
            x_adv = naive.attacked(other.train(), batch, done)
        net.train()
        loss = partial(naive.cross_entropy, x=x_adv, y=batch.y)
        v = {}
        if gamma and official:  # as the authors' code: a step of SGD on a proxy, the difference rescaled
            proxy = copy.deepcopy(net)
            (-loss(proxy)).backward()
            for (name, p), (_, old) in zip(proxy.named_parameters(), net.named_parameters(), strict=True):
                if p.ndim > 1:
                    difference = -0.01 * p.grad
                    v[name] = gamma * old.detach().norm() / (difference.norm() + 1e-20) * difference
        elif gamma:  # as the paper's equations
            v = naive.perturbation(net, loss, gamma)
        naive.descended(net, loss, v, velocity, decay_at="w+v" if official else "w")
        if clean:
            net(batch.x)  # still in train mode: for the log
    return net


def test_reference_adversarial_training_float64():
    batches = naive.batches(3)
    naive.same(_ours(None, batches), _naive(batches, gamma=0))


@pytest.mark.parametrize("statistics", ["frozen", "counted"])
def test_reference_adversarial_training_attacked_in_train_mode_float64(statistics):
    batches = naive.batches(3)
    ours = _ours(None, batches, attack_mode="train", attack_statistics=statistics)
    naive.same(ours, _naive(batches, gamma=0, attack_train=statistics))


def test_reference_awp_of_the_paper_float64():
    batches = naive.batches(3)
    naive.same(_ours(AWP(gamma=0.02), batches), _naive(batches, gamma=0.02))


@pytest.mark.parametrize("statistics", ["w+v", "w", "eval"])
def test_reference_awp_above_its_loss_is_plain_training_float64(statistics):
    batches = naive.batches(3)
    naive.same(_ours(AWP(gamma=0.02, below=1e-6, statistics=statistics), batches), _naive(batches, gamma=0))


def test_reference_awp_of_the_authors_code_float64():
    batches = naive.batches(3)
    naive.same(_ours(AWP.official(), batches), _naive(batches, gamma=0.01, official=True))


def test_reference_the_code_of_rice_and_wu_whole_float64():
    """The attack in train mode, counted, AWP with weight decay at w + v, and a clean pass after the step."""
    batches, changes = naive.batches(3), {"attack_mode": "train", "attack_statistics": "counted", "clean_pass": True}
    for weights, gamma in ((None, 0), (AWP.official(), 0.01)):
        ours = _ours(weights, batches, **changes)
        naive.same(ours, _naive(batches, gamma=gamma, official=True, attack_train="counted", clean=True))
        assert int(ours.state_dict()["1.num_batches_tracked"]) == 3 * (STEPS + 2)


@pytest.mark.parametrize("decay", ["all", "weights"])
@pytest.mark.parametrize("kind", [AdamW, Adam, SGD])
def test_reference_an_optimiser_that_steps_at_w_and_v_decays_there_float64(kind, decay):
    """As the authors' code: torch's own step at w + v, from which v is then subtracted."""
    batches, weights = naive.batches(3), AWP(gamma=0.02, decay_at="w+v")
    settings = replace(_settings(), optimizer=kind(lr=0.05, weight_decay=0.3, decay=decay), lr=Cosine())
    # Where a normalisation undoes a bias, its gradient is rounding, of which Adam makes a step.
    ours, theirs = _blocks(normalised=False), _blocks(normalised=False)
    objective = AT(attack=PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=STEP))
    how, built = method(ours, objective, weights, settings, TRUTH), settings.optimizer.build(ours)
    torchs = {SGD: partial(torch.optim.SGD, momentum=0.9), Adam: torch.optim.Adam, AdamW: torch.optim.AdamW}[kind]
    decaying, others = ([p for p in theirs.parameters() if (decay == "all" or p.ndim > 1) == yes] for yes in (1, 0))
    wanted = torchs([{"params": decaying, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}], lr=0.05)
    for done, batch in enumerate(batches):
        step(how, built, batch, done, TOTAL, SEED)
        x_adv = naive.attacked(theirs.eval(), batch, done)
        theirs.train()
        v = naive.perturbation(theirs, partial(naive.cross_entropy, x=x_adv, y=batch.y), 0.02)
        moved = {name: p for name, p in theirs.named_parameters() if name in v}
        with torch.no_grad():
            for name, p in moved.items():
                p.add_(v[name])
        wanted.zero_grad()
        naive.cross_entropy(theirs, x_adv, batch.y).backward()
        for group in wanted.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * done / TOTAL)) / 2
        wanted.step()
        with torch.no_grad():
            for name, p in moved.items():
                p.sub_(v[name])
    naive.same(ours, theirs)


def test_closed_form_decay_beside_the_gradient_takes_a_share_of_v_off_the_weights():
    batch, found = naive.batches(1)[0], {}
    for decay_at in ("w", "w+v"):
        net, seen = naive.network(), []

        class Kept(AWP):
            def __call__(self, model, loss, *, rng=None, seen=seen):
                seen.append(super().__call__(model, loss, rng=rng))
                return seen[-1]

        settings = replace(_settings(), optimizer=AdamW(lr=0.05, weight_decay=0.3))
        how = method(net, Natural(), Kept(gamma=0.02, decay_at=decay_at), settings, TRUTH)
        step(how, settings.optimizer.build(net), batch, 0, TOTAL, SEED)
        found[decay_at] = (seen[0], dict(net.named_parameters()))
    (v, at_w), (_, there) = found["w"], found["w+v"]
    for name, w in at_w.items():
        wanted = w - 0.05 * 0.3 * v[name] if name in v else w
        torch.testing.assert_close(there[name], wanted, rtol=0, atol=1e-12)


def test_closed_form_without_running_statistics_a_clean_pass_is_not_made():
    batches, seen = naive.batches(2), []
    ours = _ours(None, batches, net=_watched(_blocks(normalised=False), seen), clean_pass=True)
    naive.same(ours, _naive(batches, gamma=0, net=_blocks(normalised=False)))
    assert seen.count(8) == 2 * (STEPS + 1)


def test_closed_form_awp_waits_for_its_warm_up():
    batches = naive.batches(2)
    # Two of ten steps in one epoch, warm-up of half an epoch: nothing is perturbed yet.
    naive.same(_ours(AWP(gamma=0.02, warmup=0.5), batches), _naive(batches, gamma=0))


def test_closed_form_eps_schedule_scales_the_attack():
    class Half:
        def __call__(self, done, total):
            return 0.5

    net, batch = naive.network(), naive.batches(1)[0]
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

    net, batch, settings = naive.network(), naive.batches(1)[0], _settings()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(Diverged, match="'penalty' became nan"):
        step(method(net, Sick(), None, settings, TRUTH), settings.optimizer.build(net), batch, 0, TOTAL, SEED)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())


def test_closed_form_soft_targets_replace_labels():
    net, batch = naive.network().eval(), naive.batches(1)[0]
    soft = torch.full((8, 3), 1 / 3, dtype=torch.float64)
    mixed = Batch(x=batch.x, y=batch.y, index=batch.index, target=soft)
    loss = Natural()(net, mixed, batch.x).total
    assert torch.allclose(loss, -net(batch.x).log_softmax(1).mean())


# -- less memory ---------------------------------------------------------------------------------------


def _blocks(*, normalised: bool) -> nn.Module:
    """Return a network of two blocks, without batch normalisation on request."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        norms = [nn.BatchNorm2d(4) if normalised else nn.GroupNorm(2, 4) for _ in range(2)]
        blocks = [
            nn.Sequential(nn.Conv2d(c, 4, 3, padding=p), norm, nn.Tanh())
            for c, p, norm in zip((1, 4), (0, 1), norms, strict=True)
        ]
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 3)).double()


def _watched(net: nn.Module, seen: list[int]) -> nn.Module:
    net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    return net


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_reference_micro_batches_float64(mode):
    batches, seen = naive.batches(3), []
    runtime = replace(TRUTH, micro_batch=3)
    net = _watched(_blocks(normalised=False), seen)
    ours = _ours(AWP(gamma=0.02), batches, net=net, runtime=runtime, attack_mode=mode)
    naive.same(ours, _naive(batches, gamma=0.02, net=_blocks(normalised=False)))
    assert set(seen) - {2} == {3} and seen[-3:] == [3, 3, 2]


def _moving(kind: str) -> nn.Module:
    """Return a network without batch normalisation whose buffers a forward in train mode moves."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        conv = nn.Conv2d(1, 4, 3)
        if kind == "spectral":
            return nn.Sequential(nn.utils.parametrizations.spectral_norm(conv), nn.Flatten(), nn.Linear(64, 3)).double()
        norm = nn.InstanceNorm2d(4, track_running_stats=True)
        return nn.Sequential(conv, norm, nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).double()


@pytest.mark.parametrize("kind", ["instance", "spectral"])
def test_reference_what_a_forward_moves_is_moved_once_a_step_float64(kind):
    batches = naive.batches(2)
    ours = _ours(None, batches, net=_moving(kind), runtime=replace(TRUTH, micro_batch=3))
    naive.same(ours, _naive(batches, gamma=0, net=_moving(kind)))


@pytest.mark.parametrize("mode", [None, "frozen", "counted"])
def test_reference_batch_normalisation_computes_again_float64(mode):
    batches, seen = naive.batches(3), []
    runtime = replace(TRUTH, micro_batch=3, checkpointing=True)
    changes = {} if mode is None else {"attack_mode": "train", "attack_statistics": mode}
    net = _watched(_blocks(normalised=True), seen)
    ours = _ours(AWP(gamma=0.02), batches, net=net, runtime=runtime, **changes)
    naive.same(ours, _naive(batches, gamma=0.02, attack_train=mode, net=_blocks(normalised=True)))
    assert set(seen) - {2} == ({3, 8} if mode is None else {8})  # only what is attacked in eval mode can be parted


def _short_of_memory(net: nn.Module, most: int, during: str) -> nn.Module:
    """Return the network, which runs out of memory with more than ``most`` examples."""

    def refuse(*_):
        raise torch.OutOfMemoryError

    def hook(module, inputs, output):
        if len(output) > most and during == "forward":
            refuse()
        if len(output) > most and output.requires_grad:
            output.register_hook(refuse)  # when the later layers have their gradients

    net[0].register_forward_hook(hook)
    return net


@pytest.mark.parametrize("during", ["forward", "backward"])
@pytest.mark.parametrize("objective", [AT(attack=PGD(threat=ThreatModel(eps=EPS), steps=1)), Natural()])
def test_contract_a_step_out_of_memory_goes_on_with_less(during, objective):
    batch, settings = naive.batches(1)[0], _settings()
    nets = [_blocks(normalised=False), _short_of_memory(_blocks(normalised=False), 2, during)]
    hows = [method(net, objective, AWP(gamma=0.02), settings, TRUTH) for net in nets]
    wanted = step(hows[0], settings.optimizer.build(nets[0]), batch, 0, TOTAL, SEED)
    with pytest.warns(UserWarning, match="going on with") as told:
        found = step(hows[1], settings.optimizer.build(nets[1]), batch, 0, TOTAL, SEED)
    assert [str(warning.message)[-23:] for warning in told] == ["with 4 examples at once", "with 2 examples at once"]
    naive.same(nets[1], nets[0])
    assert found.loss == pytest.approx(wanted.loss, rel=1e-12)
    assert found.gradient_norm == pytest.approx(wanted.gradient_norm, rel=1e-12)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_contract_batch_normalisation_out_of_memory_is_one_sentence(mode):
    net, settings = _short_of_memory(_blocks(normalised=True), 4, "forward"), _settings(attack_mode=mode)
    objective = AT(attack=PGD(threat=ThreatModel(eps=EPS), steps=1))
    how = method(net, objective, None, settings, replace(TRUTH, micro_batch=4))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(BadInput, match="out of memory for 8 examples"):
        step(how, settings.optimizer.build(net), naive.batches(1)[0], 0, TOTAL, SEED)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())
