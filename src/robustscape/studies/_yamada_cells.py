"""The cells of Yamada's theory: its checks on made-up problems, and at the weights of the study's trainings."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.display import norm_words
from robustscape.linear.noise import InBall, expected
from robustscape.streams import Streams
from robustscape.studies import _yamada_adversary as adversary
from robustscape.studies import _yamada_noise as noise
from robustscape.studies import _yamada_theorems as theorems
from robustscape.studies._yamada_points import Point, meeting, noisy, random_points, units
from robustscape.studies.checks import Check, judged, to_value
from robustscape.studies.curvatures import Curvature
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import BadInput, Plain, Splits

_ALONG = 3  # directions that derivatives are compared along, and w's own
_FEW = 10  # of the problems: those whose noise is sampled


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """The checks on random problems and on data that meet the conditions of the theorems.

    Attributes:
        problems: How many of each kind, at least 1.
        seed: Seed of all of them.
    """

    problems: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.problems < 1:
            raise BadInput(f"problems must be at least 1, not {self.problems}")

    @property
    def name(self) -> str:
        """What its file is called."""
        return "theory-made-up"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Do the checks, yielding (done, total); returns them. The data are not used."""
        rng, total = Streams(self.seed, ("theory",)), 5
        yield 0, total
        points = random_points(rng.tag("points"), self.problems)
        sharp = random_points(rng.tag("linf"), self.problems, norm="linf")
        met = [meeting(point) for point in points]
        some, made = f"{self.problems} random problems", f"{self.problems} problems made for it"
        checks = adversary.equations(points, some, rng)
        yield 1, total
        checks += adversary.nine(met, made, "condition met", met=True)
        long = [replace(point, x=point.eps * F.normalize(point.x, dim=1)) for point in points]
        checks += adversary.nine(long, some, "‖x‖ = ‖η‖ but not one direction", met=False)
        checks += adversary.nine(points, some, "condition not met", met=False)
        checks += adversary.linf(sharp, some)
        yield 2, total
        with_noise = [noisy(rng.tag("noise", number), point) for number, point in enumerate(points)]
        checks += noise.equations(with_noise, some)
        few = points[:_FEW]
        checks += noise.fifteen(few, f"{len(few)} random problems, entry by entry", rng)
        yield 3, total
        overlapping = theorems.overlapping(rng.tag("overlapping"), self.problems)
        sets = theorems.minima(overlapping)
        at_minima = [point for each in sets for point in each]
        checks.append(adversary.condition(met, f"{made}, every example", expected=True))
        text = f"{len(at_minima)} minima of random data, every example"
        checks.append(adversary.condition(at_minima, text, expected=False))
        checks += theorems.theorem1(points, sets, rng)
        yield 4, total
        checks += theorems.theorem2(points, overlapping, rng)
        return {"checks": to_value(checks)}


@dataclass(frozen=True, kw_only=True)
class AtTrained:
    """The checks at the weights of the study's trainings, on its training images.

    Attributes:
        curvatures: Eigenvalues at the weights trained under PGD, one of them at eps 0.
        shaken: The trainings under noise.
        rows: Most images that equations are compared on; eigenvalues are those over all.
        seed: Seed of noise and directions.
    """

    curvatures: tuple[Curvature, ...]
    shaken: tuple[Trained, ...]
    rows: int = 2000
    seed: int = 0

    @property
    def name(self) -> str:
        """What its file is called."""
        return "theory-trained"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The trainings, and the eigenvalues at those under PGD."""
        return (*self.curvatures, *(cell.trained for cell in self.curvatures), *self.shaken)

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Do the checks, yielding (done, total) in trainings under noise, the equations counting as one.

        Returns:
            "checks", and "growth": for each training its "adversary", "norm" and "eps", the "length" of its weights
            and the largest eigenvalue without the pixel range, "total", and under PGD also "held" and with the pixel
            range, "total, pixel range".
        """
        total = len(self.shaken) + 1
        yield 0, total
        growth = [_attacked(cell.trained, values[cell]) for cell in self.curvatures]
        for number, cell in enumerate(self.shaken):
            whole = self._point(cell, values[cell], data, 1)
            bend = theorems.top(_noisy(cell, whole, self._rng("mean")))
            growth.append(_entry(cell, float(whole.w.norm()), bend))
            yield number + 1, total
        every = -(-len(data.train) // self.rows)
        trained = [cell.trained for cell in self.curvatures]
        points = {cell: self._point(cell, values[cell], data, every) for cell in (*trained, *self.shaken)}
        return {"checks": to_value(self._equations(points) + _trends(growth)), "growth": growth}

    def _rng(self, *tags: str | int) -> Streams:
        return Streams(self.seed, ("theory", "trained", *tags))

    def _point(self, cell: Trained, value: Plain, data: Splits, every: int) -> Point:
        """Return the weights of a training on every so manieth training image."""
        w = torch.tensor(value["w"], dtype=torch.float64)
        directions = torch.cat([units(self._rng("directions"), _ALONG, len(w)), F.normalize(w, dim=0)[None]])
        rows = slice(None, None, every)
        x, y = data.train.pixels(rows).flatten(1).double(), (2 * data.train.y[rows] - 1).double()
        return Point(x=x, y=y, w=w, eps=cell.eps, directions=directions, norm=cell.norm)

    def _equations(self, points: Mapping[Trained, Point]) -> list[Check]:
        """Return the checks of equations and conditions, without the pixel range."""
        l2 = [point for cell, point in points.items() if cell.eps and (cell.adversary, cell.norm) == ("pgd", "l2")]
        linf = [point for cell, point in points.items() if (cell.adversary, cell.norm) == ("noise", "linf")]
        box = [noisy(self._rng("noise", number), point) for number, point in enumerate(linf)]
        words = f"{len(box[0].x):,} training images at weights trained under"
        pgd, drawn = f"{words} L2 PGD, {len(l2)} eps", f"{words} noise in the L∞ box, {len(box)} eps"
        k = torch.cat([noise.shares(point) for point in box])
        return [
            *adversary.equations(l2, pgd, self._rng()),
            *adversary.nine(l2, pgd, "condition not met", met=False),
            adversary.condition(l2, pgd, expected=False),
            *noise.equations(box, drawn),
            judged(noise.CONDITION, form="at these weights", tested=drawn, errors=k, tolerance=0.01, expected=False),
        ]


def _entry(cell: Trained, length: float, total: float) -> dict[str, Any]:
    return {"adversary": cell.adversary, "norm": cell.norm, "eps": cell.eps, "length": length, "total": total}


def _attacked(cell: Trained, value: Plain) -> dict[str, Any]:
    """Return the largest eigenvalues at the weights of a training under PGD."""
    found = _entry(cell, value["norm"], value["total, no box"][0])
    return found | {"held": value["held, no box"][0], "total, pixel range": value["total"][0]}


def _noisy(cell: Trained, point: Point, rng: Streams) -> Tensor:
    """Return the Hessian under noise: its mean in the L2 ball; in the L-infinity box, of one draw for each image."""
    if cell.norm == "l2":
        return expected(point.w, point.x, point.y, InBall(eps=cell.eps)).hessian()
    return noise.noisy_hessian(noisy(rng, point))


def curve(growth: Sequence[Mapping[str, Any]], kind: str, norm: str) -> list[Mapping[str, Any]]:
    """Return the trainings under one adversary and norm by eps, the one at eps 0 first."""
    own = [each for each in growth if not each["eps"] or (each["adversary"], each["norm"]) == (kind, norm)]
    return sorted(own, key=lambda each: each["eps"])


def _trends(growth: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Return what the paper says of eigenvalues over eps, at the trained weights: no derivation settles it."""
    checks, here = [], "trained weights"
    for norm in ("l2", "linf"):
        words, attacked, shaken = norm_words(norm), curve(growth, "pgd", norm), curve(growth, "noise", norm)
        eps, total, ranged, length = (
            torch.tensor([each[name] for each in attacked], dtype=torch.float64)
            for name in ("eps", "total", "total, pixel range", "length")
        )
        under_noise = torch.tensor([each["total"] for each in shaken], dtype=torch.float64)
        sharp = {each["eps"]: each["total"] for each in attacked}
        beside = torch.tensor([each["total"] / sharp[each["eps"]] - 1 for each in shaken if each["eps"]])
        pgd = f"weights trained under {words} PGD, {len(eps)} eps"
        drawn = f"weights trained under {words} noise, {len(shaken)} eps" + ", one draw an image" * (norm == "linf")
        both = f"weights trained under {words} PGD and noise, {len(beside)} eps"
        for form, values in ((f"{here}, pixel range", ranged), (f"{here}, no pixel range", total)):
            checks += [
                theorems.sharper(form, pgd, values, expected=None),
                theorems.sharper(f"{form}, filter-normalised", pgd, values * length.square(), expected=None),
                theorems.linear(form, pgd, eps, values[None], expected=None),
            ]
        if norm == "linf":
            form, few = f"{here}, pixel range, eps up to 16/255", eps < 17 / 255
            part = f"weights trained under {words} PGD, {int(few.sum())} eps"
            checks.append(theorems.linear(form, part, eps[few], ranged[few][None], expected=None))
        checks += [
            theorems.larger(f"{here}, no pixel range", drawn, under_noise, expected=None),
            judged(
                theorems.SHARPER_THAN_NOISE, form=f"{here}, no pixel range", tested=both, errors=beside, expected=None
            ),
        ]
    return checks
