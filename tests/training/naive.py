"""A naive rendering of training in float64, with none of the library's code, and something small to train."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.streams import Streams
from robustscape.types import Batch

LR, MOMENTUM, DECAY = 0.2, 0.9, 0.01
EPS, STEP, STEPS = 0.1, 0.03, 3
SEED = 5


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)
        ).double()


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


def ascended(
    x_adv: Tensor, x: Tensor, loss: Callable[[Tensor], Tensor], *, eps: float, size: float, steps: int
) -> Tensor:
    """PGD in the linf ball from a start."""
    for _ in range(steps):
        x_adv = x_adv.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x_adv), x_adv)
        x_adv = x_adv.detach() + size * slope.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def cross_entropy(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def attacked(net: nn.Module, batch: Batch, done: int) -> Tensor:
    """PGD on the cross-entropy, in the mode that the network is in."""
    noise = Streams(SEED, ("train", done, 0, "ball"), batch.index).uniform(1, 6, 6, low=-1, high=1, dtype=torch.float64)
    start = (batch.x + EPS * noise).clamp(0, 1)
    return ascended(start, batch.x, lambda x: cross_entropy(net, x, batch.y), eps=EPS, size=STEP, steps=STEPS)


def same(ours: nn.Module, theirs: nn.Module) -> None:
    """Assert that two networks have the same weights and buffers, to 1e-10."""
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=0, atol=1e-10), name


def perturbation(net: nn.Module, loss: Callable[[nn.Module], Tensor], gamma: float) -> dict[str, Tensor]:
    """AWP by the paper's equations: gamma |w| g / |g|, layer by layer."""
    proxy = copy.deepcopy(net)
    loss(proxy).backward()
    return {
        name: gamma * p.detach().norm() * p.grad / p.grad.norm() for name, p in proxy.named_parameters() if p.ndim > 1
    }


def descended(
    net: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    v: dict[str, Tensor],
    velocity: dict[str, Tensor],
    *,
    decay_at: str = "w",
) -> None:
    """A step of SGD from w by the gradient at w + v; weight decay reads the weights where it is said."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.add_(v.get(name, 0))
    net.zero_grad()
    loss(net).backward()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if decay_at == "w":
                p.sub_(v.get(name, 0))
            velocity[name] = MOMENTUM * velocity.get(name, 0) + p.grad + DECAY * p
            p.sub_(LR * velocity[name])
            if decay_at == "w+v":
                p.sub_(v.get(name, 0))
