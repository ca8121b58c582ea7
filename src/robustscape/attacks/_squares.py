"""The windows, bumps and sizes that Square's proposals are made of."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which of 10,000 iterations the share of pixels in a window is halved."""
_RATED = 10000
TINY = 1e-12
"""What the code adds to a length before it divides by it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What depends on the shape of the images alone.

    Attributes:
        after: (L - 1,), int64, the iterations after which windows become smaller.
        sides: (L,), int64, the side of a window at each of the L levels.
        places: (L, 2), int64, at how many rows and columns such a window fits.
        bumps: (2 L, S + 2, S + 2), the bump of each level, then each transposed, in a border of zeros.
    """

    after: Tensor
    sides: Tensor
    places: Tensor
    bumps: Tensor


@lru_cache(maxsize=16)
def plan(
    *, height: int, width: int, norm: str, p: float, rescaled_to: int | None, dtype: torch.dtype, device: torch.device
) -> Plan:
    """Return the plan for images of one shape, made once.

    Args:
        height: Pixels.
        width: Pixels.
        norm: "linf" (no bumps), "l2" or "l1".
        p: Share of the pixels in a window at the first level, in (0, 1].
        rescaled_to: Iterations that the schedule of 10,000 is compressed to; None leaves it.
        dtype: Of the bumps.
        device: Of all tensors.
    """
    budget = rescaled_to or _RATED
    # The last iteration that counts as at most so many of 10,000.
    after = [bisect_right(range(budget + 1), last, key=lambda i: int(i / budget * _RATED)) - 1 for last in _AFTER]
    sides = [_side(height, width, p / 2**level, odd=norm != "linf") for level in range(len(_AFTER) + 1)]
    bumps = torch.zeros(2 * len(sides), max(sides) + 2, max(sides) + 2, dtype=dtype)
    for level, side in enumerate(sides if norm != "linf" else ()):
        inner = slice(1, side + 1)
        bumps[level, inner, inner] = bump(side, norm, dtype)
        bumps[len(sides) + level, inner, inner] = bump(side, norm, dtype).T
    return Plan(
        after=torch.tensor(after if rescaled_to else _AFTER, device=device),
        sides=torch.tensor(sides, device=device),
        places=torch.tensor([(height + 1 - side, width + 1 - side) for side in sides], device=device),
        bumps=bumps.to(device),
    )


def _side(height: int, width: int, p: float, *, odd: bool) -> int:
    """Return the side of a window that holds the share p of the pixels; with ``odd`` odd and at least 3."""
    side = max(round(math.sqrt(p * height * width)), 3 if odd else 1)
    if odd and side % 2 == 0:
        side += 1
    return min(side, height, width)


def bump(side: int, norm: str, dtype: torch.dtype) -> Tensor:
    """Return a pyramid above its negative, (side, side), of norm 1 under "l2" or "l1"."""
    half = side // 2
    return _unit(torch.cat([_pyramid(half, side, norm, dtype), -_pyramid(side - half, side, norm, dtype)]), norm)


def _pyramid(height: int, width: int, norm: str, dtype: torch.dtype) -> Tensor:
    """Return the boxes around the centre summed, each of less weight than the one inside it; of norm 1."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    distance = torch.maximum(rows[:, None], columns)
    total = torch.zeros(height, width, dtype=dtype)
    for reach in range(max(height, width) // 2 + 1):
        total += (distance <= reach).to(dtype) / (reach + 1) ** (2 if norm == "l2" else 4)
    return _unit(total, norm)


def _unit(values: Tensor, norm: str) -> Tensor:
    return values / ((values**2).sum(dim=(0, 1)).sqrt() if norm == "l2" else values.abs().sum())


def tiling(height: int, width: int) -> tuple[int, int, int]:
    """Return the side of the bumps that an image begins with, and how many there are down and across."""
    side = max(min(height, width) // 5, 1)
    return side, height // side, width // side


def tiled(side: int, sign: Tensor, flip: Tensor, height: int, width: int, norm: str) -> Tensor:
    """Return bumps side by side, as near to the middle of the image as whole pixels allow, (N, C, height, width).

    Args:
        side: Of each bump.
        sign: (N, C, down, across), -1 or 1.
        flip: (N, down, across) or (1, down, across), bool, whether it is transposed.
        height: Of the image.
        width: Of the image.
        norm: "l2" or "l1".
    """
    one, (down, across) = bump(side, norm, sign.dtype).to(sign.device), sign.shape[2:]
    tiles = torch.where(flip[:, None, :, :, None, None], one.T, one) * sign[..., None, None]
    image = tiles.transpose(3, 4).reshape(*sign.shape[:2], down * side, across * side)
    above, left = (height - down * side) // 2, (width - across * side) // 2
    return F.pad(image, (left, width - across * side - left, above, height - down * side - above))


def masks(corner: Tensor, side: Tensor, like: Tensor) -> Tensor:
    """Return 1 inside square windows and 0 outside, (N, 1, H, W), of the dtype of ``like``.

    Args:
        corner: (N, 2), int64, the row and the column of the upper left pixel.
        side: (N,), int64.
        like: (N, C, H, W), the images.
    """
    rows = torch.arange(like.shape[2], device=side.device) - corner[:, :1]
    columns = torch.arange(like.shape[3], device=side.device) - corner[:, 1:]
    side = side[:, None]
    inside = [((at >= 0) & (at < side)).to(like.dtype) for at in (rows, columns)]
    return inside[0][:, None, :, None] * inside[1][:, None, None, :]


def placed(bumps: Tensor, which: Tensor, corner: Tensor, height: int, width: int) -> Tensor:
    """Return a bump with its corner at the place given and zeros around it, (N, 1, height, width).

    Args:
        bumps: ``Plan.bumps``.
        which: (N,), int64, which of them.
        corner: (N, 2), int64.
        height: Of the images.
        width: Of the images.
    """
    size = bumps.shape[-1]
    rows = (torch.arange(1, height + 1, device=which.device) - corner[:, :1]).clamp(0, size - 1)
    columns = (torch.arange(1, width + 1, device=which.device) - corner[:, 1:]).clamp(0, size - 1)
    place = ((which[:, None] * size + rows) * size)[:, :, None] + columns[:, None, :]
    return bumps.flatten().index_select(0, place.flatten()).view(-1, 1, height, width)


def gathered(
    delta: Tensor, eps: Tensor, bumps: Tensor, sign: Tensor, first: Tensor, second: Tensor, norm: str
) -> Tensor:
    """Return perturbations whose mass in two windows is gathered in the first, with a bump added there.

    In each channel, the mass in the first window becomes that of both together and a part of what the image lacks to
    eps; the second window becomes 0 outside the first.

    Args:
        delta: (N, C, H, W), the perturbations; overwritten.
        eps: (N, 1, 1, 1).
        bumps: (N, 1, H, W), 0 outside the first window.
        sign: (N, C, 1, 1), -1 or 1.
        first: (N, 1, H, W), 1 inside the window that the mass goes to, 0 outside.
        second: (N, 1, H, W), the same for the one that it comes from.
        norm: "l2" or "l1".
    """
    channels, both = delta.shape[1], torch.maximum(first, second)
    size = delta**2 if norm == "l2" else delta.abs()
    image = size.flatten(1).sum(dim=1).view(-1, 1, 1, 1)
    here, around = ((size * inside).sum(dim=(-2, -1), keepdim=True) for inside in (first, both))
    if norm == "l2":
        here, mass = here.sqrt(), ((eps**2 - image).clamp(min=0) / channels + around).sqrt()
    else:
        mass = (eps - image).clamp(min=0) + around * channels
    shape = torch.addcmul(delta / (TINY + here), bumps, sign).mul_(first)
    length = torch.linalg.vector_norm(shape, ord=2 if norm == "l2" else 1, dim=(-2, -1), keepdim=True)
    return delta.mul_(1 - both).addcmul_(shape, mass / (TINY + length))


def gathered_as_code(
    delta: Tensor, eps: Tensor, bumps: Tensor, sign: Tensor, first: Tensor, second: Tensor, norm: str
) -> Tensor:
    """Return what ``gathered`` returns, in the authors' order of operations, so with the same rounding.

    All examples have the same windows.
    """
    channels, both = delta.shape[1], torch.maximum(first, second)
    size = delta**2 if norm == "l2" else delta.abs()
    image = size.flatten(1).sum(dim=1).view(-1, 1, 1, 1)
    here, around = _cut(size, first), (size * both).sum(dim=(-2, -1), keepdim=True)
    if norm == "l2":
        shape = delta / (TINY + here.sqrt()) + bumps * sign
        length = _cut(shape**2, first).sqrt()
        mass = ((eps**2 - image.sqrt() ** 2).clamp(min=0) / channels + around.sqrt() ** 2).sqrt()
    else:
        shape = delta / (TINY + here) + bumps * sign
        length = _cut(shape.abs(), first)
        mass = ((eps - image).clamp(min=0) / channels + around) * channels
    return delta * (1 - both) + shape / (TINY + length) * mass * first


def _cut(values: Tensor, window: Tensor) -> Tensor:
    """Return the sum inside the one window of all images, (N, C, 1, 1), which the code cuts out before it sums."""
    inside = window[:1] > 0
    side = int(inside.any(dim=-1).sum())
    return values.masked_select(inside).view(*values.shape[:2], side, side).sum(dim=(-2, -1), keepdim=True)
