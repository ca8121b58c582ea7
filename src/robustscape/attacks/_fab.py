"""Pieces of FAB's step that depend on none of its settings but the norm."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustscape.attacks._projections import DUAL, length
from robustscape.attacks.walk import Draws, State, draw_number, draws

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


def tangent(model: nn.Module, at: Tensor, z: Tensor, choices: list[Pair], norm: str) -> tuple[Tensor, Tensor]:
    """Return the difference of logits to bring to 0, (N,), and its gradient, (N, C, H, W).

    Of several choices it is the one nearest by |d| / ||w||_q, and each costs a backward.
    """
    logits = z.detach()
    gap, slope = torch.zeros_like(logits[:, 0]), torch.zeros_like(at)
    distance = torch.full_like(gap, torch.inf)
    zero, one = torch.zeros_like(logits), torch.ones_like(gap)[:, None]
    rises = [zero.scatter(1, up[:, None], one).scatter(1, down[:, None], -one) for up, down in choices]
    for (up, down), w in zip(choices, _slopes(model, at, z, rises), strict=True):
        d = (logits.gather(1, up[:, None]) - logits.gather(1, down[:, None])).squeeze(1)
        if len(choices) == 1:
            return d, w
        far = d.abs() / (length(w, DUAL[norm]) + 1e-12)
        nearer = (far < distance) | far.isnan()  # what is not a number is not to be passed over
        gap, distance = torch.where(nearer, d, gap), torch.where(nearer, far, distance)
        slope = torch.where(wide(nearer, w), w, slope)
    return gap, slope.detach()


def tangent_as_code(model: nn.Module, at: Tensor, z: Tensor, y: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Return what ``tangent`` returns of all other classes, with the roundings of pyautoattack 0.2.0; linf and l2.

    It takes the difference of two logits' gradients where ``tangent`` takes the gradient of their difference.
    """
    rows, logits = torch.arange(len(y), device=y.device), z.detach()
    rises = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None].expand(-1, len(y), -1)
    slopes = torch.stack(list(_slopes(model, at, z, list(rises))), dim=1)
    slopes = slopes - slopes[rows, y][:, None]
    gaps = (logits - logits[rows, y][:, None]).scatter(1, y[:, None], 1e10)
    flat = slopes.flatten(2)
    size = flat.abs().sum(dim=2) if norm == "linf" else (flat**2).sum(dim=2).sqrt()
    nearest = (gaps.abs() / (1e-12 + size)).argmin(dim=1)
    return gaps[rows, nearest], slopes[rows, nearest]


def _slopes(model: nn.Module, at: Tensor, z: Tensor, rises: list[Tensor]) -> Iterator[Tensor]:
    """Give for each of ``rises``, (N, K), the gradient of the logits weighted by it, (N, C, H, W).

    All but the last ask that the way back be kept; where it is refused, the logits are computed again for each.
    """
    there = True
    for number, rise in enumerate(rises, start=1):
        at, z = (at, z) if there else seen(model, at)
        slope, there = _back(at, z, rise, keep=there and number < len(rises))
        yield slope


def _back(at: Tensor, z: Tensor, rise: Tensor, *, keep: bool) -> tuple[Tensor, bool]:
    """Return the gradient to ``at``, and whether the way back is still there: compiled code may not keep its own."""
    try:
        return torch.autograd.grad(_along(z, rise), at, retain_graph=keep)[0], keep
    except RuntimeError as error:
        if "donated_buffer" not in str(error):
            raise
    return torch.autograd.grad(_along(z, rise), at)[0], False


def _along(z: Tensor, rise: Tensor) -> Tensor:
    """Return the scalar whose gradient to z is ``rise``: to be given that itself, torch imports a computer algebra."""
    with torch.enable_grad():
        return (z * rise).sum()


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


def started(state: State, rng: Draws, norm: str, restarts: int) -> Tensor:
    """Return a point in a random direction from x, at half of eps or of the least norm so far, (N, C, H, W)."""
    x = state["x"]
    if isinstance(rng, torch.Generator):
        t = torch.rand(x.shape, generator=rng) if norm == "linf" else torch.randn(x.shape, generator=rng)
        t = (2 * t - 1 if norm == "linf" else t).to(x)
    else:
        number, part = (draw_number(state[key], restarts, state["ranked"].shape[1]) for key in ("round", "part"))
        streams, shape = draws(rng, state | {"round": number}).tag("start").then(part), tuple(x.shape[1:])
        if norm == "linf":
            t = streams.uniform(*shape, low=-1, high=1, dtype=x.dtype)
        else:
            t = streams.normal(*shape, dtype=x.dtype)
    radius = torch.minimum(state["least"], state["eps"])
    return (x + wide(radius, x) * t / wide(length(t, norm), x) * 0.5).clamp(0, 1)
