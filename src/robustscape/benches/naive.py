"""The loops that public scripts contain: float32, the model as it is, ``loss.backward()``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD


def perturbed(model: nn.Module, x: Tensor, y: Tensor, attack: PGD, generator: torch.Generator) -> Tensor:
    """Return delta of linf PGD, (N, C, H, W), in the mode that the model is in.

    The backward pass goes through the weights too, and leaves their gradients behind.

    Args:
        model: Pixels in [0, 1] to logits.
        x: (N, C, H, W), in [0, 1].
        y: (N,), int64.
        attack: Its eps, steps and step size are taken.
        generator: Draws the start, uniform in the ball.
    """
    eps, size = attack.threat.eps, attack.relative_step * attack.threat.eps
    size = size if attack.step_size is None else attack.step_size
    delta = torch.empty_like(x).uniform_(-eps, eps, generator=generator)
    delta = torch.max(torch.min(delta, 1 - x), 0 - x).requires_grad_()
    for _ in range(attack.steps):
        F.cross_entropy(model(x + delta), y).backward()
        assert delta.grad is not None
        with torch.no_grad():
            moved = torch.clamp(delta + size * delta.grad.sign(), -eps, eps)
            delta.copy_(torch.max(torch.min(moved, 1 - x), 0 - x))
        delta.grad.zero_()
    return delta.detach()


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, attack: PGD, generator: torch.Generator
) -> tuple[float, float, int]:
    """Take a step of adversarial training as the code of Rice 2020 does (https://arxiv.org/abs/2002.11569).

    The attack runs in train mode, every pass moving BatchNorm's running statistics. After the optimiser's step a
    clean pass in train mode is made for the log alone.

    Returns:
        Robust loss and clean loss, nats, and how many adversarial inputs were classified correctly.
    """
    model.train()
    delta = perturbed(model, x, y, attack, generator)
    robust = model(torch.clamp(x + delta, 0, 1))
    robust_loss = F.cross_entropy(robust, y)
    optimizer.zero_grad()
    robust_loss.backward()
    optimizer.step()
    clean_loss = F.cross_entropy(model(x), y)
    correct = int((robust.argmax(dim=1) == y).sum())
    return robust_loss.item(), clean_loss.item(), correct


def evaluated(
    model: nn.Module, x: Tensor, y: Tensor, attack: PGD, generator: torch.Generator, *, batch: int
) -> tuple[int, int]:
    """Return how many of the examples are classified correctly, clean and after every restart of PGD, in eval mode."""
    model.eval()
    clean = robust = 0
    for images, labels in zip(x.split(batch), y.split(batch), strict=True):
        with torch.no_grad():
            right = model(images).argmax(dim=1) == labels
        clean += int(right.sum())
        for _ in range(attack.restarts):
            delta = perturbed(model, images, labels, attack, generator)
            with torch.no_grad():
                right &= model(images + delta).argmax(dim=1) == labels
        robust += int(right.sum())
    return clean, robust


# -- the loss around the weights -------------------------------------------------------------------------


def filter_normalised(model: nn.Module, generator: torch.Generator) -> list[Tensor]:
    """Return a Gaussian direction in the weights, filter by filter of the filter's norm, as the code of Li 2018 does.

    Parameters of one dimension do not move.
    """
    direction = []
    for weight in model.parameters():
        drawn = torch.randn(weight.shape, generator=generator, device=weight.device)
        if drawn.dim() <= 1:
            drawn.fill_(0)
        for d, w in zip(drawn, weight.data, strict=True):
            d.mul_(w.norm() / (d.norm() + 1e-10))
        direction.append(drawn)
    return direction


def sliced(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: PGD,
    alphas: Sequence[float],
    directions: int,
    generator: torch.Generator,
    *,
    batch: int,
) -> list[list[tuple[float, float]]]:
    """Return (clean loss, robust loss) at every alpha along every direction: Li 2018 with the attack made anew.

    The weights are set parameter by parameter, and PGD is run at every point, as Wu 2020 says
    (https://arxiv.org/abs/2004.05884).
    """
    model.eval()
    weights = [weight.data.clone() for weight in model.parameters()]
    curves = []
    for _ in range(directions):
        direction, curve = filter_normalised(model, generator), []
        for alpha in alphas:
            for weight, w, d in zip(model.parameters(), weights, direction, strict=True):
                weight.data = w + alpha * d
            clean = robust = 0.0
            for images, labels in zip(x.split(batch), y.split(batch), strict=True):
                delta = perturbed(model, images, labels, attack, generator)
                with torch.no_grad():
                    clean += F.cross_entropy(model(images), labels, reduction="sum").item()
                    robust += F.cross_entropy(model(images + delta), labels, reduction="sum").item()
            curve.append((clean / len(x), robust / len(x)))
        for weight, w in zip(model.parameters(), weights, strict=True):
            weight.data = w
        curves.append(curve)
    return curves


def worst_iterates(
    model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, *, eps: float, steps: int, step_size: float
) -> tuple[Tensor, Tensor]:
    """Return the largest loss of each example over the iterates of PGD, and its largest wrong probability there.

    As the code of Stutz 2021 attacks (https://arxiv.org/abs/2104.04448): a Gaussian start scaled at random, signed
    steps, the start and the last iterate counted too.
    """
    shape = (len(x), *[1] * (x.dim() - 1))
    delta = torch.randn(x.shape, generator=generator, device=x.device)
    delta = delta / delta.abs().flatten(1).amax(dim=1).view(shape)
    delta = delta * eps * torch.rand(shape, generator=generator, device=x.device)
    delta = torch.max(torch.min(delta, 1 - x), 0 - x).requires_grad_()
    best = torch.full((len(x),), -1.0, device=x.device)
    wrong = torch.zeros(len(x), device=x.device)
    for step in range(steps + 1):
        logits = model(x + delta)
        loss = F.cross_entropy(logits, y, reduction="none")
        with torch.no_grad():
            others = logits.softmax(dim=1).scatter(1, y[:, None], 0).amax(dim=1)
            wrong = torch.where(loss > best, others, wrong)
            best = torch.where(loss > best, loss, best)
        if step == steps:
            break
        loss.sum().backward()
        assert delta.grad is not None
        with torch.no_grad():
            moved = torch.clamp(delta + step_size * delta.grad.sign(), -eps, eps)
            delta.copy_(torch.max(torch.min(moved, 1 - x), 0 - x))
        delta.grad.zero_()
    return best, wrong


def flatness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    *,
    eps: float,
    steps: int,
    step_size: float,
    restarts: int,
    xi: float,
    samples: int,
    batch: int,
) -> float:
    """Return the average-case flatness of the robust loss as the code of Stutz 2021 takes it.

    The mean over random weights, each layer's on the sphere of relative radius xi, of the loss under PGD, minus that
    at the weights themselves under the restart of largest wrong probability for each example.
    """
    model.eval()

    def attacked() -> tuple[Tensor, Tensor]:
        parts = zip(x.split(batch), y.split(batch), strict=True)
        found = [worst_iterates(model, *part, generator, eps=eps, steps=steps, step_size=step_size) for part in parts]
        return torch.cat([loss for loss, _ in found]), torch.cat([wrong for _, wrong in found])

    reference, largest = attacked()
    for _ in range(restarts - 1):
        loss, wrong = attacked()
        reference, largest = torch.where(wrong > largest, loss, reference), torch.maximum(wrong, largest)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    layers = [w for part in model.modules() if not isinstance(part, norms) for w in part.parameters(recurse=False)]
    rises = []
    for _ in range(samples):
        kept = [layer.data for layer in layers]
        for layer in layers:
            nu = torch.randn(layer.shape, generator=generator, device=layer.device)
            layer.data = layer.data + nu * (xi * layer.data.norm() / nu.norm())
        rises.append((attacked()[0].mean() - reference.mean()).item())
        for layer, w in zip(layers, kept, strict=True):
            layer.data = w
    return sum(rises) / samples
