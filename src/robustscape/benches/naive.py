"""The loops that public scripts contain: float32, the model as it is, ``loss.backward()``."""

from __future__ import annotations

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
