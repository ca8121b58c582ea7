"""What Yamada 2021 (https://arxiv.org/abs/2102.02950) prints about random noise, tested: equations 13 to 15.

With g = 1 + exp(-y w.(x + eta)) and one draw of eta for each example:

    13       gradient = mean -y (g - 1) / g (x + eta): the paper has the other sign, and x where x + eta is meant
    14       Hessian = mean (g - 1) / g^2 (x + eta) (x + eta)^T: as printed
    15       mean of 14 over noise uniform in the box = mean k / (k + 1)^2 (x x^T + eps^2 / 3 I), k = g - 1 being held;
             but k = exp(-y w.(x + eta)) depends on eta
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robustscape.linear.box_noise import sampled
from robustscape.streams import Streams
from robustscape.studies._yamada_points import Point, compared
from robustscape.studies.checks import Check, judged

THIRTEEN = "Equation 13: the gradient under noise"
FOURTEEN = "Equation 14: the Hessian under noise"
FIFTEEN = "Equation 15: its mean over noise, in standard errors (6 allowed)"
CONDITION = "Condition of Theorem 2: κ = 0 for every example (0.01 allowed)"

_DRAWS, _BLOCKS = 4096, 16
_FAR = 6.0  # standard errors


def equations(points: Sequence[Point], tested: str) -> list[Check]:
    """Return equations 13 and 14 as printed and as they hold, at points with noise."""
    slopes = [point.slopes() for point in points]
    bends = [point.bends() for point in points]

    def thirteen(form: str, sign: int, *, noise: bool) -> Check:
        said = [sign * _mean_slope(point, noise=noise) for point in points]
        return compared(THIRTEEN, form, tested, zip(said, slopes, strict=True), expected=noise)

    return [
        thirteen("as printed", 1, noise=False),
        thirteen("with the other sign", -1, noise=False),
        thirteen("with the other sign and x + η for x", -1, noise=True),
        compared(FOURTEEN, "as printed", tested, zip(map(_fourteen, points), bends, strict=True), expected=True),
    ]


def fifteen(points: Sequence[Point], tested: str, rng: Streams) -> list[Check]:
    """Return equation 15 with the k that it assumes, that of the clean input, and with the k that the noise makes."""
    assumed, real = [], []
    for number, point in enumerate(points):
        said = _fifteen(point)
        of = rng.tag("fifteen", number)
        mean, error = held_mean(point, of)
        assumed.append(_far(said, mean, error))
        found = sampled(point.w, point.x, point.y, eps=point.eps, draws=_DRAWS, blocks=_BLOCKS, rng=of)
        real.append(_far(said, found.hessian, found.hessian_error))

    def judge(form: str, errors: list[Tensor], *, expected: bool) -> Check:
        found = torch.cat(errors)
        return judged(FIFTEEN, form=form, tested=tested, errors=found, tolerance=_FAR, expected=expected)

    return [
        judge("κ held, that of the clean input", assumed, expected=True),
        judge("κ as the noise makes it", real, expected=False),
    ]


def shares(point: Point) -> Tensor:
    """Return k = g - 1 of each example, (N,)."""
    return torch.exp(-point.y * (point.inputs(point.w) @ point.w))


def noisy_hessian(point: Point, k: Tensor | None = None) -> Tensor:
    """Return equation 14, (d, d), with the k of the point's noise or another, (N,)."""
    k, inputs = shares(point) if k is None else k, point.inputs(point.w)
    return inputs.T @ ((k / (1 + k).square())[:, None] * inputs) / len(inputs)


def _mean_slope(point: Point, *, noise: bool) -> Tensor:
    """Return mean y (g - 1) / g times x, or times x + eta, along the directions, (M,)."""
    g = 1 + shares(point)
    inputs = point.inputs(point.w) if noise else point.x
    return point.directions @ ((point.y * (g - 1) / g)[:, None] * inputs).mean(dim=0)


def _fourteen(point: Point) -> Tensor:
    return point.directions @ noisy_hessian(point)


def _clean(point: Point) -> Tensor:
    k = shares(replace(point, noise=torch.zeros_like(point.x)))
    return k / (1 + k).square()


def _fifteen(point: Point) -> Tensor:
    c = _clean(point)
    identity = torch.eye(point.x.shape[1], dtype=torch.float64)
    return point.x.T @ (c[:, None] * point.x) / len(c) + c.mean() * point.eps**2 / 3 * identity


def held_mean(point: Point, rng: Streams) -> tuple[Tensor, Tensor]:
    """Return the mean of equation 14 over noise and its negative with k held, and its standard error, both (d, d)."""
    c, d = _clean(point), point.x.shape[1]
    own = point.x.T @ (c[:, None] * point.x) / len(c)
    blocks = []
    for number in range(_BLOCKS):
        eta = point.eps * rng.tag(number).uniform(_DRAWS // _BLOCKS, d, low=-1, high=1, dtype=torch.float64)
        blocks.append(own + c.mean() * (eta.T @ eta) / len(eta))
    found = torch.stack(blocks)
    return found.mean(dim=0), found.std(dim=0) / _BLOCKS**0.5


def _far(said: Tensor, mean: Tensor, error: Tensor) -> Tensor:
    """Return how many standard errors each entry above the diagonal and on it is off, (C,)."""
    rows, columns = torch.triu_indices(*said.shape)
    return ((said - mean).abs() / error)[rows, columns]
