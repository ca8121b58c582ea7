"""Pieces of FAB's step that depend on none of its settings but the norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscape.attacks._projections import DUAL, length
from robustscape.attacks.queue import Draws, State, draws

Pair = tuple[Tensor, Tensor]
"""The class whose logit is to rise and the one it is to rise above, each (N,)."""


def wide(values: Tensor, like: Tensor) -> Tensor:
    """Give (N,) values the trailing dimensions that broadcast over images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def tangent(
    model: nn.Module, at: Tensor, pairs: Callable[[Tensor], list[Pair]], norm: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits (N, K), the difference of logits to bring to 0 (N,), and its gradient (N, C, H, W).

    ``pairs`` makes of the logits what may be brought to 0. Of several it is the one nearest by |d| / ||w||_q, and each
    costs a backward.
    """
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        z = model(at).to(at.dtype)
        logits = z.detach()
        gap, slope = torch.zeros_like(logits[:, 0]), torch.zeros_like(at)
        distance, choices = torch.full_like(gap, torch.inf), pairs(logits)
        for number, (up, down) in enumerate(choices, start=1):
            d = (z.gather(1, up[:, None]) - z.gather(1, down[:, None])).squeeze(1)
            (w,) = torch.autograd.grad(d.sum(), at, retain_graph=number < len(choices))
            d = d.detach()
            if len(choices) == 1:
                return logits, d, w
            far = d.abs() / (length(w, DUAL[norm]) + 1e-12)
            nearer = (far < distance) | far.isnan()  # what is not a number is not to be passed over
            gap, distance = torch.where(nearer, d, gap), torch.where(nearer, far, distance)
            slope = torch.where(wide(nearer, w), w, slope)
    return logits, gap, slope.detach()


def judged(logits: Tensor, y: Tensor, *, targeted: bool) -> tuple[Tensor, Tensor]:
    """Return which points are successes, (N,), and how far their logits are on that side, (N,)."""
    own = logits.gather(1, y[:, None])
    margin = (logits.scatter(1, y[:, None], -torch.inf).amax(dim=1, keepdim=True) - own).squeeze(1)
    there = logits.argmax(dim=1) == y
    return (there, -margin) if targeted else (~there, margin)


def health(state: State, logits: Tensor, slope: Tensor) -> State:
    """Return whether all was finite so far, and whether a gradient vanished or two logits were tied."""
    top, going = slope.flatten(1).abs().amax(dim=1), ~state["over"]
    leading = logits.topk(2, dim=1).values
    finite = torch.isfinite(logits).all(dim=1) & torch.isfinite(top)
    dull = (top == 0) | (leading[:, 0] == leading[:, 1])
    return {"finite": state["finite"] & (finite | ~going), "dull": state["dull"] | (dull & going)}


def started(state: State, rng: Draws, norm: str) -> Tensor:
    """Return a point in a random direction from x, at half of eps or of the least norm so far, (N, C, H, W)."""
    x = state["x"]
    if isinstance(rng, torch.Generator):
        t = torch.rand(x.shape, generator=rng) if norm == "linf" else torch.randn(x.shape, generator=rng)
        t = (2 * t - 1 if norm == "linf" else t).to(x)
    else:
        streams, shape = draws(rng, state).tag("start").then(state["part"]), tuple(x.shape[1:])
        if norm == "linf":
            t = streams.uniform(*shape, low=-1, high=1, dtype=x.dtype)
        else:
            t = streams.normal(*shape, dtype=x.dtype)
    radius = torch.minimum(state["least"], state["eps"])
    return (x + wide(radius, x) * t / wide(length(t, norm), x) * 0.5).clamp(0, 1)
