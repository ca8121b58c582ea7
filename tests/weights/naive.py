"""One step of training with a weight perturbation, naively and by the library, in float64.

The naive one has none of the library's code but its random numbers. It never writes weights: it looks at copies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives.at import AT
from robustscape.objectives.trades import TRADES
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.training.method import method
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import Batch

LR, MOMENTUM, DECAY = 0.2, 0.9, 0.01
EPS, SIZE, STEPS, BETA = 0.1, 0.04, 2, 3.0
SEED, TOTAL = 5, 10

V = dict[str, Tensor]


def network(frozen: tuple[str, ...] = ()) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)
        ).double()
    for name, p in made.named_parameters():
        p.requires_grad_(name not in frozen)
    return made


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    return [
        Batch(
            x=torch.rand(8, 1, 6, 6, generator=generator, dtype=torch.float64),
            y=torch.randint(0, 3, (8,), generator=generator),
            index=torch.arange(8) + 8 * k,
        )
        for k in range(count)
    ]


def moved(net: nn.Module, v: V) -> nn.Module:
    """A copy at w + v."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.add_(v.get(name, 0))
    return other


class Step:
    """What a method's search for v may ask of a step."""

    def __init__(self, net: nn.Module, batch: Batch, done: int, statistics: str, trades: bool) -> None:
        self.net, self.batch, self.done = net, batch, done
        self.statistics, self.trades = statistics, trades
        self.visits = 0

    def loss(self, net: nn.Module, x_adv: Tensor) -> Tensor:
        if not self.trades:
            return F.cross_entropy(net(x_adv), self.batch.y)
        clean, adversarial = net(self.batch.x), net(x_adv)
        p = clean.softmax(1)
        return (
            F.cross_entropy(clean, self.batch.y) + BETA * (p * (p.log() - adversarial.softmax(1).log())).sum(1).mean()
        )

    def attacked(self, v: V, *tags: str | int) -> Tensor:
        """PGD in eval mode at w + v."""
        x, y, net = self.batch.x, self.batch.y, moved(self.net, v).eval()
        noise = Streams(SEED, ("train", self.done, *tags, 0, "ball"), self.batch.index)
        x_adv = (x + EPS * noise.uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)).clamp(0, 1)
        clean = net(x).softmax(1).detach()
        for _ in range(STEPS):
            x_adv = x_adv.clone().requires_grad_()
            target = clean if self.trades else y  # of the divergence, the part that x_adv moves
            raised = F.cross_entropy(net(x_adv), target)
            (slope,) = torch.autograd.grad(raised, x_adv)
            x_adv = x_adv.detach() + SIZE * slope.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
        return x_adv

    def slope(self, v: V, x_adv: Tensor) -> V:
        """The gradient at w + v; its forward counts for BatchNorm as the statistics say."""
        probe = moved(self.net, v).train(self.statistics != "eval")
        self.loss(probe, x_adv).backward()
        if self.statistics == "every" or (self.statistics == "w" and not self.visits):
            self.count(probe)
        self.visits += 1
        return {name: p.grad for name, p in probe.named_parameters() if p.requires_grad}

    def count(self, probe: nn.Module) -> None:
        for ours, theirs in zip(self.net.buffers(), probe.buffers(), strict=True):
            ours.copy_(theirs)


Search = Callable[[Step, dict[str, Tensor], Tensor], tuple[V, Tensor]]


def naively(
    search: Search,
    *,
    decay_at: str,
    statistics: str,
    trades: bool = False,
    count: int = 2,
    frozen: tuple[str, ...] = (),
) -> list:
    """Train some steps; return for each v, the gradient that the optimiser is given, and the whole state."""
    net, velocity, seen = network(frozen), {}, []
    for done, batch in enumerate(batches(count)):
        now = Step(net, batch, done, statistics, trades)
        w = {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}
        v, x_adv = search(now, w, now.attacked({}))
        if statistics == "eval" or (statistics == "w" and not now.visits):
            beside = moved(net, {}).train()
            now.loss(beside, x_adv)
            now.count(beside)
        trained = moved(net, v).train()
        now.loss(trained, x_adv).backward()
        if statistics not in ("w", "eval"):
            now.count(trained)
        slopes = {name: p.grad for name, p in trained.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, p in net.named_parameters():
                if name in frozen:
                    continue
                read = p + v.get(name, 0) if decay_at == "w+v" else p
                velocity[name] = MOMENTUM * velocity.get(name, 0) + slopes[name] + DECAY * read
                p.sub_(LR * velocity[name])
        added = {name: DECAY * v.get(name, torch.zeros(())) * (decay_at == "w+v") for name in slopes}
        slopes = {name: slope + added[name] for name, slope in slopes.items()}
        seen.append((v, slopes, {name: value.clone() for name, value in net.state_dict().items()}))
    return seen


class Spied:
    """A weight perturbation that remembers what it found."""

    def __init__(self, weights) -> None:
        self.weights, self.found = weights, {}
        self.warmup, self.decay_at, self.statistics = weights.warmup, weights.decay_at, weights.statistics

    def __call__(self, model, loss, *, rng=None):
        self.found = self.weights(model, loss, rng=rng)
        return self.found


def by_library(weights, *, trades: bool = False, count: int = 2, frozen: tuple[str, ...] = ()) -> list:
    """Train the same steps with the library; return the same."""
    attack = PGD(threat=ThreatModel(eps=EPS), steps=STEPS, step_size=SIZE)
    objective = TRADES(attack=attack, beta=BETA) if trades else AT(attack=attack)
    optimizer = SGD(lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    settings = Training(epochs=1, optimizer=optimizer, lr=Constant())
    net, spied, seen = network(frozen), Spied(weights), []
    how, built = method(net, objective, spied, settings, TRUTH), optimizer.build(net)
    for done, batch in enumerate(batches(count)):
        step(how, built, batch, done, TOTAL, SEED)
        slopes = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        found = {name: value for name, value in spied.found.items() if name not in frozen}
        seen.append((found, slopes, {name: value.clone() for name, value in net.state_dict().items()}))
    return seen


def assert_equal(weights, search: Search, *, trades: bool = False, frozen: tuple[str, ...] = ()) -> None:
    """Perturbation, gradients, weights and BatchNorm's buffers agree to 1e-10 after every step."""
    ours = by_library(weights, trades=trades, frozen=frozen)
    how = {"decay_at": weights.decay_at, "statistics": weights.statistics, "trades": trades, "frozen": frozen}
    theirs = naively(search, **how)
    for mine, other in zip(ours, theirs, strict=True):
        for what, a, b in zip(("perturbation", "gradient", "state"), mine, other, strict=True):
            assert set(a) == set(b), what
            for name in a:
                assert torch.allclose(a[name].double(), b[name].double(), rtol=0, atol=1e-10), (what, name)
        assert any(bool(value.any()) for value in mine[0].values())
