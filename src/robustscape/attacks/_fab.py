"""Pieces of FAB's step that depend on none of its settings but the norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustscape.attacks._projections import DUAL, length
from robustscape.attacks.queue import Draws, State, draws

_ENOUGH = 0.6  # a pass back is about as long as one forward, which the others then make again

Pair = tuple[Tensor, Tensor]
"""The class whose logit is to rise and the one it is to rise above, each (N,)."""


def wide(values: Tensor, like: Tensor) -> Tensor:
    """Give (N,) values the trailing dimensions that broadcast over images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def seen(model: nn.Module, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return points that need a gradient, (N, C, H, W), and their logits, (N, K), which hold the way back to them."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        return at, model(at).to(at.dtype)


def tangent(at: Tensor, z: Tensor, choices: list[Pair], norm: str) -> tuple[Tensor, Tensor]:
    """Return the difference of logits to bring to 0, (N,), and its gradient, (N, C, H, W).

    Of several choices it is the one nearest by |d| / ||w||_q, and each costs a backward.
    """
    gap, slope = torch.zeros_like(z.detach()[:, 0]), torch.zeros_like(at)
    distance = torch.full_like(gap, torch.inf)
    for number, (up, down) in enumerate(choices, start=1):
        with torch.enable_grad():
            d = (z.gather(1, up[:, None]) - z.gather(1, down[:, None])).squeeze(1)
            (w,) = torch.autograd.grad(d.sum(), at, retain_graph=number < len(choices))
        d = d.detach()
        if len(choices) == 1:
            return d, w
        far = d.abs() / (length(w, DUAL[norm]) + 1e-12)
        nearer = (far < distance) | far.isnan()  # what is not a number is not to be passed over
        gap, distance = torch.where(nearer, d, gap), torch.where(nearer, far, distance)
        slope = torch.where(wide(nearer, w), w, slope)
    return gap, slope.detach()


def tangent_as_code(at: Tensor, z: Tensor, y: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Return what ``tangent`` returns of all other classes, with the roundings of pyautoattack 0.2.0; linf and l2.

    It takes the difference of two logits' gradients where ``tangent`` takes the gradient of their difference.
    """
    rows, classes, logits = torch.arange(len(y), device=y.device), z.shape[1], z.detach()
    with torch.enable_grad():
        each = [torch.autograd.grad(z[:, k].sum(), at, retain_graph=k + 1 < classes)[0] for k in range(classes)]
    slopes = torch.stack(each, dim=1)
    slopes = slopes - slopes[rows, y][:, None]
    gaps = (logits - logits[rows, y][:, None]).scatter(1, y[:, None], 1e10)
    flat = slopes.flatten(2)
    size = flat.abs().sum(dim=2) if norm == "linf" else (flat**2).sum(dim=2).sqrt()
    nearest = (gaps.abs() / (1e-12 + size)).argmin(dim=1)
    return gaps[rows, nearest], slopes[rows, nearest]


def judged(logits: Tensor, y: Tensor, *, targeted: bool) -> tuple[Tensor, Tensor]:
    """Return which points are successes, (N,), and how far their logits are on that side, (N,)."""
    own = logits.gather(1, y[:, None])
    margin = (logits.scatter(1, y[:, None], -torch.inf).amax(dim=1, keepdim=True) - own).squeeze(1)
    there = logits.argmax(dim=1) == y
    return (there, -margin) if targeted else (~there, margin)


def health(state: State, logits: Tensor, size: Tensor, slope: Tensor | None, used: Tensor) -> State:
    """Return whether all was finite so far, and whether a gradient that was used vanished or two logits were tied.

    The boundary is where FAB goes, so logits that are tied mean something within eps alone, where they hide a success.
    """
    going, leading = ~state["over"], logits.topk(2, dim=1).values
    finite, tied = torch.isfinite(logits).all(dim=1), leading[:, 0] == leading[:, 1]
    dull = tied & (size <= state["eps"])
    if slope is not None:
        top = slope.flatten(1).abs().amax(dim=1)
        finite, dull = finite & (torch.isfinite(top) | ~used), dull | ((top == 0) & used)
    return {"finite": state["finite"] & (finite | ~going), "dull": state["dull"] | (dull & going)}


def worthwhile(needed: Tensor, left: Tensor) -> bool:
    """Return whether a backward of the whole batch is worth it for the examples that need it, of those left, (N,).

    Where asking waits for the device it always is.
    """
    return needed.device.type != "cpu" or bool(needed.sum() > _ENOUGH * left.sum())


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
