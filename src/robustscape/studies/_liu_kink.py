"""Liu 2020, figure 5: the kink that the adversary makes in the loss of one weight and one input."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.display import Line, Panel
from robustscape.report.quantities import Quantity
from robustscape.report.study import Shown
from robustscape.report.tables import Column, Table
from robustscape.studies.study import Cell
from robustscape.types import Plain, Splits

_X = 1.0
_EPS = (0.6, 1.2)
_INPUTS = 201  # tried in the interval, its ends included
_BESIDE = 1e-9  # the gradient is taken this far from the kink
_NAMES = ("Gradient left of 0", "Gradient right of 0", "Jump")


@dataclass(frozen=True, kw_only=True)
class Kink:
    """Figure 5: g(x, theta) = log(1 + exp(theta x)) at x = 1, its largest and least value in the interval.

    Attributes:
        points: Values of theta from -2 to 2, at least 2.
    """

    points: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return "kink"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Try all inputs, yielding (done, total); returns the curves and, by eps, the gradients beside the kink."""
        theta = torch.linspace(-2, 2, self.points, dtype=torch.float64)
        found = {"theta": theta.tolist(), "clean": F.softplus(theta * _X).tolist(), "eps": []}
        for done, eps in enumerate(_EPS):
            left, right = (_gradient(side, eps) for side in (-_BESIDE, _BESIDE))
            curves = {"worst": _losses(theta, eps).amax(dim=1), "best": _losses(theta, eps).amin(dim=1)}
            found["eps"].append(
                {"eps": eps, "measured": [left, right, right - left]}
                | {name: curve.tolist() for name, curve in curves.items()}
            )
            yield done + 1, len(_EPS)
        return found


def _losses(theta: Tensor, eps: float) -> Tensor:
    """Return the loss at inputs throughout the interval, (T, 201)."""
    inputs = torch.linspace(_X - eps, _X + eps, _INPUTS, dtype=torch.float64)
    return F.softplus(theta[:, None] * inputs)


def _gradient(theta: float, eps: float) -> float:
    """Return the derivative of the worst-case loss by theta, by autograd through the worst input that was found."""
    at = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(_losses(at, eps).amax(), at)
    return float(gradient)


def closed_form(eps: float) -> tuple[float, float, float]:
    """Return the gradients left and right of theta = 0 and their difference, (x - eps) / 2, (x + eps) / 2, eps."""
    return (_X - eps) / 2, (_X + eps) / 2, eps


def show(value: Plain, *, title: str) -> Shown:
    """Return the figure and the table of its kinks."""
    columns = [Column(name="ε", decimals=1)]
    for name in _NAMES:
        columns += [Column(name=name, decimals=6), Column(name=f"{name}, closed form", decimals=6)]
    columns += [Column(name="2ε L_θx at θ = 0", decimals=6), Column(name="Best θ in [−2, 2]", decimals=2)]
    rows = []
    for one in value["eps"]:
        pairs = zip(one["measured"], closed_form(one["eps"]), strict=True)
        numbers = [one["eps"], *(number for pair in pairs for number in pair), 2 * one["eps"] * 0.5]
        best = value["theta"][one["worst"].index(min(one["worst"]))]
        rows.append(tuple(Quantity(value=number) for number in (*numbers, best)))
    return Shown(
        title=title,
        table=Table(columns=tuple(columns), rows=tuple(rows)),
        notes=(
            f"g(x, θ) = log(1 + exp(θx)); {_INPUTS} inputs of [x − ε, x + ε] are tried, its ends included; gradients "
            f"are taken at θ = ±{_BESIDE:g}. The jump is ε = 2ε L_θx with L_θx = 1/2 at θ = 0: Proposition 2 is met "
            "with equality.",
            "Left of the kink the gradient is (x − ε) / 2, which is not above 0, so that θ = 0 is the minimum, from "
            "ε = ‖x‖_p on, the exact bound of Theorem 1.",
        ),
        panels=tuple(_panel(value, one) for one in value["eps"]),
    )


def _panel(value: Plain, one: Plain) -> Panel:
    theta = tuple(value["theta"])
    lines = (
        Line(name="adversarial, g_ε", x=theta, y=tuple(one["worst"]), group=0),
        Line(name="clean, g", x=theta, y=tuple(value["clean"]), group=1),
        Line(name="least in the interval", x=theta, y=tuple(one["best"]), group=2),
    )
    return Panel(title=f"ε = {one['eps']:g}", x="θ", y="loss, nats", lines=lines)
