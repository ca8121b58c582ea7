"""Theorems 1 and 2 of Yamada 2021 (https://arxiv.org/abs/2102.02950) on data made for them.

Theorem 1 takes each example's gradient to be 0 by w / ||w|| = y x / eps: all y x are then one vector of length eps.
Its Hessian, equation 9, has the eigenvalue eps / (2 ||w||) d - 1 times. But the loss there is log 2, that of w = 0:
eps is exactly the threshold beyond which the constant classifier is best, and every length of w is as good. On other
data the minimum has examples with gradients, and its weights shrink to 0 at the threshold ||mean(y x)||: the largest
eigenvalue goes to infinity there, and times ||w||^2, as filter normalisation has it, to 0.

Theorem 2 takes each example's gradient to be 0 by k = exp(-margin) -> 0, for which the weights must grow without end.
The eigenvalues are then at most max(k) mean ||x + eta||^2. Under an adversary of less than the margin it is the same:
at most max(k) (mean ||x_adv||^2 + eps / ||w||).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.hessian import eigenvalues
from robustscape.linear.noise import Expected, Gaussian, InBall, Noise, expected
from robustscape.linear.objective import Objective
from robustscape.linear.separability import constant_threshold
from robustscape.linear.solve import solve
from robustscape.streams import Streams
from robustscape.studies._yamada_adversary import worst
from robustscape.studies._yamada_noise import held_mean, noisy_hessian, shares
from robustscape.studies._yamada_points import Point, meeting, noisy, units
from robustscape.studies.checks import Check, judged

SHARPER = "Theorem 1: the largest eigenvalue rises with eps"
LINEAR = "Section 5.1: it is nearly a straight line in eps; shown is 1 - R² (0.05 allowed)"
FLAT = "Theorem 2: no eigenvalue is left as the loss of every example goes to 0"
LARGER = "Theorem 2: the largest eigenvalue rises with the size of the noise"
SHARPER_THAN_NOISE = "Section 3.2: the adversary sharpens more than noise of the same eps"

_PARTS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # of the threshold
_RADII = (0.0, 0.25, 0.5, 1.0, 2.0)
_LENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
_N, _D = 60, 4
_TINY = 1e-9
_CROOKED = 0.05


def top(matrix: Tensor) -> float:
    """Return the largest eigenvalue of a symmetric matrix."""
    return float(torch.linalg.eigvalsh(matrix)[-1])


def falls(values: Tensor) -> Tensor:
    """Return how much each value is below the one before it, as a fraction of that, (... R) flattened to (C,)."""
    return (1 - values[..., 1:] / values[..., :-1]).flatten()


def crookedness(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 - R squared of the straight line through points, x (R,), for each row of y, (C, R)."""
    return torch.stack([1 - torch.corrcoef(torch.stack([x, row]))[0, 1].square() for row in y])


def overlapping(rng: Streams, count: int) -> list[Point]:
    """Return data in 4 dimensions whose classes overlap, with weights still to be found."""
    points = []
    for number in range(count):
        of = rng.tag(number)
        y = of.tag("y").sign(_N, dtype=torch.float64)
        x = of.tag("x").normal(_N, _D, dtype=torch.float64) + 0.6 * y[:, None] * units(of.tag("u"), _D)
        points.append(Point(x=x, y=y, w=torch.ones(_D).double(), eps=1.0, directions=torch.eye(_D).double()))
    return points


def minima(data: Sequence[Point]) -> list[list[Point]]:
    """Return for each data set its exact minima under growing eps; those that some weights separate are left out."""
    found = []
    for point in data:
        threshold = constant_threshold(point.x, point.y, norm="l2", intercept=False)
        at = [_minimum(replace(point, eps=part * threshold)) for part in _PARTS]
        whole = [each for each in at if each is not None]
        found += [whole] * (len(whole) == len(_PARTS))
    return found


def theorem1(points: Sequence[Point], sets: Sequence[Sequence[Point]], rng: Streams) -> list[Check]:
    """Return Theorem 1 where its condition is met, and at the minima of data where it is not.

    Args:
        points: Random points, of which labels and weights are taken.
        sets: Minima under growing eps, for each data set.
        rng: For lengths of weights.
    """
    parts = torch.tensor(_PARTS, dtype=torch.float64)
    fixed = _tops([[meeting(point, part * point.eps) for part in _PARTS] for point in points])
    lengths = 0.3 * 10 ** rng.tag("lengths").uniform(*fixed.shape, dtype=torch.float64)
    raw = _tops(sets)
    squares = torch.tensor([[float(point.w.norm()) ** 2 for point in each] for each in sets], dtype=torch.float64)
    met, missed = "condition met, weights of", "condition not met"
    made = f"{len(points)} data sets made for each of {len(_PARTS)} eps"
    drawn = f"minima of {len(sets)} random data sets at {len(_PARTS)} eps"
    return [
        sharper(f"{met} equal length", made, fixed, expected=True),
        sharper(f"{met} any length: all are minima", made, fixed / lengths, expected=False),
        sharper(missed, drawn, raw, expected=None),
        sharper(f"{missed}, filter-normalised", drawn, raw * squares, expected=False),
        linear(f"{met} equal length", made, parts, fixed, expected=True),
        linear(missed, drawn, parts, raw, expected=False),
    ]


def sharper(form: str, tested: str, values: Tensor, *, expected: bool | None) -> Check:
    """Return whether the largest eigenvalues, (C, R), rise with eps."""
    return judged(SHARPER, form=form, tested=tested, errors=falls(values), tolerance=_TINY, expected=expected)


def linear(form: str, tested: str, eps: Tensor, values: Tensor, *, expected: bool | None) -> Check:
    """Return whether the largest eigenvalues, (C, R), are on a straight line over eps, (R,)."""
    errors = crookedness(eps, values)
    return judged(LINEAR, form=form, tested=tested, errors=errors, tolerance=_CROOKED, expected=expected)


def larger(form: str, tested: str, values: Tensor, *, expected: bool | None) -> Check:
    """Return whether the largest eigenvalues, (C, R), rise with the size of the noise."""
    return judged(LARGER, form=form, tested=tested, errors=falls(values), tolerance=_TINY, expected=expected)


def theorem2(points: Sequence[Point], data: Sequence[Point], rng: Streams) -> list[Check]:
    """Return Theorem 2 where its conditions are met and where they are not.

    Args:
        points: Random points, of which shapes and weights are taken.
        data: Data whose classes overlap.
        rng: For separable data and noise.
    """
    noise, attacked = zip(*(_along(point, rng.tag("separable", n)) for n, point in enumerate(points)), strict=True)
    laws = (InBall(eps=1.0), Gaussian(sigma=0.5))
    left = torch.tensor([top(_settled(point, law).hessian()) for point in data for law in laws])
    held = [
        [top(held_mean(replace(point, eps=eps), rng.tag("held", n))[0]) for eps in _RADII]
        for n, point in enumerate(points)
    ]
    longer = [replace(point, w=3 * point.w) for point in points]
    real = [[top(_under(point, eps)) for eps in _RADII] for point in longer]
    lengths, radii = (", ".join(f"{value:g}" for value in values) for values in (_LENGTHS, _RADII))
    made = f"{len(points)} separable data sets, weights of length {lengths}"
    drawn = f"minima of the mean loss of {len(data)} random data sets, noise in the L2 ball and Gaussian"
    many = f"{len(points)} random problems, noise of {radii}"
    return [
        judged(FLAT, form="condition met, noise in the L∞ box", tested=made, errors=torch.cat(noise)),
        judged(FLAT, form="condition met, the worst inputs (L2) for noise", tested=made, errors=torch.cat(attacked)),
        judged(FLAT, form="condition not met", tested=drawn, errors=left, tolerance=1e-3, expected=False),
        larger("κ held, that of the clean input", many, torch.tensor(held, dtype=torch.float64), expected=True),
        larger(
            "κ as the noise makes it (L2 ball, exact mean)",
            many,
            torch.tensor(real, dtype=torch.float64),
            expected=False,
        ),
    ]


def _along(point: Point, rng: Streams) -> tuple[Tensor, Tensor]:
    """Return how far eigenvalues are above their bounds as weights grow, under noise and under an adversary."""
    apart = _apart(rng, point)
    noise, attacked = [], []
    for length in _LENGTHS:
        at = replace(apart, w=length * apart.w)
        noise.append(_over(noisy(rng.tag("noise"), replace(at, eps=0.5 / float(apart.w.abs().sum())))))
        attacked.append(_over(replace(at, eps=0.5)))
    return torch.tensor(noise), torch.tensor(attacked)


def _tops(sets: Sequence[Sequence[Point]]) -> Tensor:
    """Return the largest eigenvalues of the total Hessian, (C, R)."""
    found = [[float(eigenvalues(worst(point), 1).values[0]) for point in each] for each in sets]
    return torch.tensor(found, dtype=torch.float64)


def _minimum(point: Point) -> Point | None:
    """Return the point moved to the minimum of its adversarial loss, None where there is none."""
    x, y = point.x.numpy(), point.y.numpy()
    cost = torch.full_like(point.y, 1 / len(y)).numpy()
    problem = Objective(x=x, y=y, cost=cost, ridge=0.0, norm="l2", eps=point.eps, intercept=False)
    found = solve(problem, tolerance=1e-12)
    return None if found.outcome == "separable" else replace(point, w=torch.from_numpy(found.w))


def _apart(rng: Streams, point: Point) -> Point:
    """Return data that its unit weights separate by a margin of at least 1."""
    w = F.normalize(point.w, dim=0)
    aside = rng.tag("aside").normal(*point.x.shape, dtype=torch.float64)
    margin = 1 + rng.tag("margin").normal(len(point.x), dtype=torch.float64).abs()
    x = aside - (aside @ w)[:, None] * w + (point.y * margin)[:, None] * w
    return replace(point, x=x, w=w)


def _over(point: Point) -> float:
    """Return the largest eigenvalue minus its bound, in parts of the bound: never above 0."""
    inputs, most = point.inputs(point.w), float(shares(point).max())
    bound = float(inputs.square().sum(dim=1).mean())
    if point.noise is None:
        return float(_tops([[point]])) / (most * (bound + point.eps / float(point.w.norm()))) - 1
    return top(noisy_hessian(point)) / (most * bound) - 1


def _settled(point: Point, noise: Noise) -> Expected:
    """Return the mean loss under noise at its minimum, by Newton steps from 0, halved until the loss falls."""
    at = expected(torch.zeros_like(point.w), point.x, point.y, noise)
    while float((slope := at.gradient()).norm()) > 1e-9:
        step, before = torch.linalg.solve(at.hessian(), slope), at
        for halves in range(30):
            at = expected(before.w - step / 2**halves, point.x, point.y, noise)
            if at.loss < before.loss:
                break
        else:
            return before
    return at


def _under(point: Point, eps: float) -> Tensor:
    """Return the Hessian of the mean loss under noise in the L2 ball, (d, d)."""
    return expected(point.w, point.x, point.y, InBall(eps=eps)).hessian()
