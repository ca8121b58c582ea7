"""What Yamada 2021 (https://arxiv.org/abs/2102.02950) prints about the adversary, tested: equations 7 to 9, Lemma 1.

Every derivative is compared with differences of the loss (or its gradient) whose inputs are attacked anew at every
weight. With m = y w.x - eps ||w||, s = 1 / (1 + exp(m)):

    7        -y w.(x + eta) = -y w.x - y ||w|| ||eta|| cos(w, eta): the paper prints the last term with a plus
    8        gradient = mean s (-y x + eps w / ||w||): the paper has a factor exp(-m) more, its appendix B has not
    9        Hessian = held + 2 mean(s) (eps / 2 ||w||) (I - w w^T / ||w||^2): the paper has what follows 2 mean(s)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.hessian import hessian_vector
from robustscape.linear.logistic import AdversarialLogistic, Worst
from robustscape.streams import Streams
from robustscape.studies._yamada_points import ROUNDING, Point, compared, units
from robustscape.studies.checks import Check, judged

SEVEN = "Equation 7: the loss by theta"
LEMMA = "Lemma 1: the loss rises with cos(theta) for y = 1, falls for y = -1"
EIGHT = "Equation 8: the gradient"
NINE = "Equation 9: the Hessian"
CONDITION = "Condition of Theorem 1: w / ‖w‖ = y x / ‖η‖ for every example"

_TO_ETA, _FROM_ETA = "as printed, theta between w and η", "theta between w and -η"
_ROWS = 200  # examples of a point that are turned around
_ANGLES = 21
_TINY = 1e-12


def equations(points: Sequence[Point], tested: str, rng: Streams) -> list[Check]:
    """Return equations 7 and 8 and Lemma 1 as printed and as they hold, at points of an L2 adversary."""

    def lemma(form: str, sign: int, *, expected: bool) -> Check:
        falls = _falls(points, rng, sign)
        return judged(LEMMA, form=form, tested=tested, errors=falls, tolerance=_TINY, expected=expected)

    return [
        compared(SEVEN, _TO_ETA, tested, _seven(points, rng, 1), expected=False),
        compared(SEVEN, _FROM_ETA, tested, _seven(points, rng, -1), expected=True),
        lemma(_TO_ETA, 1, expected=False),
        lemma(_FROM_ETA, -1, expected=True),
        compared(EIGHT, "as printed, with exp(-m)", tested, _eight(points, printed=True), expected=False),
        compared(EIGHT, "as in appendix B, without", tested, _eight(points, printed=False), expected=True),
    ]


def nine(points: Sequence[Point], tested: str, where: str, *, met: bool) -> list[Check]:
    """Return equation 9 as printed and with what it drops.

    Args:
        points: Points that meet its condition or do not.
        tested: What they are.
        where: What is known of the condition there, in words.
        met: Whether it is met.
    """
    true = [point.bends() for point in points]
    whole = "times 2 mean(s), plus the Hessian with the worst inputs held"
    return [
        compared(NINE, f"as printed, {where}", tested, zip(map(printed_nine, points), true, strict=True), expected=met),
        compared(NINE, whole, tested, zip(map(_whole_nine, points), true, strict=True), expected=True),
    ]


def linf(points: Sequence[Point], tested: str) -> list[Check]:
    """Return what is left of equation 9 under L-infinity, which Theorem 1 leaves out and figure 3 shows."""
    true = [point.bends() for point in points]
    return [
        compared(
            NINE, "under L∞, as printed", tested, zip(map(printed_nine, points), true, strict=True), expected=False
        ),
        compared(
            NINE, "under L∞, the held Hessian alone", tested, zip(map(_held, points), true, strict=True), expected=True
        ),
    ]


def condition(points: Sequence[Point], tested: str, *, expected: bool) -> Check:
    """Return how far each example is from the condition of Theorem 1: the length of w / ||w|| - y x / eps."""
    missed = torch.cat(
        [(F.normalize(point.w, dim=0) - point.y[:, None] * point.x / point.eps).norm(dim=1) for point in points]
    )
    form = "at these weights"
    return judged(CONDITION, form=form, tested=tested, errors=missed, tolerance=ROUNDING, expected=expected)


def worst(point: Point) -> Worst:
    """Return the closed forms at a point."""
    return AdversarialLogistic(x=point.x, y=point.y, norm=point.norm, eps=point.eps).at(point.w)


def printed_nine(point: Point) -> Tensor:
    """Return equation 9 times the directions, (M, d)."""
    unit, v = F.normalize(point.w, dim=0), point.directions
    return point.eps / (2 * point.w.norm()) * (v - torch.outer(v @ unit, unit))


def _held(point: Point) -> Tensor:
    at = worst(point)
    return torch.stack([hessian_vector(at, v, form="held") for v in point.directions])


def _whole_nine(point: Point) -> Tensor:
    return _held(point) + 2 * worst(point).s.mean() * printed_nine(point)


def _seven(points: Sequence[Point], rng: Streams, sign: int) -> list[tuple[Tensor, Tensor]]:
    """Return equation 7 with theta between w and ``sign`` eta and the loss itself, at random eta in the ball."""
    pairs = []
    for number, point in enumerate(points):
        of = rng.tag("seven", number)
        size = point.eps * of.tag("size").uniform(len(point.x), dtype=torch.float64)
        eta = size[:, None] * units(of.tag("eta"), *point.x.shape)
        cos = sign * F.cosine_similarity(eta, point.w[None])
        exponent = -point.y * (point.x @ point.w) + point.y * point.w.norm() * eta.norm(dim=1) * cos
        pairs.append((F.softplus(exponent).mean(), F.softplus(-point.y * ((point.x + eta) @ point.w)).mean()))
    return pairs


def _falls(points: Sequence[Point], rng: Streams, sign: int) -> Tensor:
    """Return the most that each example's loss goes the wrong way, nats, as eta turns to ``sign`` w, (C,)."""
    cos = torch.linspace(-1, 1, _ANGLES, dtype=torch.float64)
    found = []
    for number, point in enumerate(points):
        x, y, unit = point.x[:_ROWS], point.y[:_ROWS], F.normalize(point.w, dim=0)
        across = units(rng.tag("lemma", number), *x.shape)
        across = F.normalize(across - (across @ unit)[:, None] * unit, dim=1)
        losses = [
            F.softplus(-y * ((x + point.eps * (sign * c * unit + (1 - c**2).sqrt() * across)) @ point.w)) for c in cos
        ]
        found.append((-y * torch.stack(losses).diff(dim=0)).amax(dim=0))
    return torch.cat(found)


def _eight(points: Sequence[Point], *, printed: bool) -> list[tuple[Tensor, Tensor]]:
    pairs = []
    for point in points:
        m = point.y * (point.x @ point.w) - point.w.norm() * point.eps
        share = (torch.exp(-m) if printed else 1) / (1 + torch.exp(m))
        u = -point.y[:, None] * point.x + point.eps * F.normalize(point.w, dim=0)
        pairs.append((point.directions @ (share[:, None] * u).mean(dim=0), point.slopes()))
    return pairs
