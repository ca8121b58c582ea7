"""How numbers are shown, the same in figures and in the report: colours, bands, eps in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustscape.evaluation.result import AdversarialImages
from robustscape.landscape.slices import SliceResult
from robustscape.training.log import TrainingLog

LIGHT = ("#0068a6", "#c44e00", "#00805c", "#b04f88", "#8a6700", "#5a54b5", "#3d7f9a", "#555555")
"""Colours of groups on a light ground, in their order: told apart with the usual colour blindnesses (after
Okabe and Ito, https://jfly.uni-koeln.de/color/, darkened), contrast with white at least 4."""

DARK = ("#5ab4f0", "#ff9150", "#34c99c", "#ea9fcc", "#d9b13b", "#a9a3ff", "#8fcbe2", "#b8b8b8")
"""The same on a dark ground."""


FEW = 10
"""Up to this many points of a curve are marked: a single one would not show as a line."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a panel.

    Attributes:
        name: What the legend calls it; lines of one name in several panels share a colour.
        x: Positions, finite.
        y: Values, as many; NaN leaves a hole.
        dashed: Whether it is drawn dashed: what was computed otherwise than the solid line of the same colour.
        group: Number of its colour.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False
    group: int = 0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines in one pair of axes, as plain numbers: a study's figure is made of such.

    Attributes:
        title: What stands above it.
        x: Label of the horizontal axis, with the unit.
        y: Label of the vertical axis, with the unit.
        lines: What is drawn.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]


def colour(group: int, palette: Sequence[str] = LIGHT) -> str:
    """Return the colour of a group by its number, from 0; the palette repeats after its end."""
    return palette[group % len(palette)]


def sign(group: int, signs: Sequence[str]) -> str:
    """Return the sign of a group by its number, from 0: with its colour a pair that no other of the first 64 has.

    Args:
        group: The group's number.
        signs: Eight signs in their order, markers for example; where the colours begin anew they begin one later.
    """
    return signs[(group + group // len(LIGHT)) % len(signs)]


@dataclass(frozen=True, kw_only=True)
class Band:
    """A curve and how it varies.

    Attributes:
        x: (P,), positions.
        mean: (P,), mean over the curves.
        low: (P,), mean minus one standard deviation; the mean itself for a single curve.
        high: (P,), mean plus one standard deviation.
        count: Number of curves.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: int


def band(x: np.ndarray, curves: np.ndarray) -> Band:
    """Return the mean and the sample standard deviation of S curves, (S, P), at the positions x, (P,)."""
    with np.errstate(invalid="ignore"):  # an infinite loss has no spread
        mean = curves.mean(axis=0)
        spread = curves.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros_like(mean)
    return Band(x=x, mean=mean, low=mean - spread, high=mean + spread, count=len(curves))


def slice_band(results: Sequence[SliceResult], field: str) -> Band:
    """Return a field of slices, for example "robust_loss", over all directions (of all seeds).

    Results measured along other directions, or at other positions, than the first are left out.
    """
    first = results[0]
    same = [result for result in results if _along(result) == _along(first)]
    return band(first.alpha, np.concatenate([getattr(result, field) for result in same]))


def _along(result: SliceResult) -> tuple[object, ...]:
    return result.facts.along, result.scheme, tuple(result.alpha)


def accuracy_band(logs: Sequence[TrainingLog], name: str, quantity: Literal["robust", "clean"]) -> Band | None:
    """Return the accuracy on a tracked set against the epoch, over seeds; None where no run has any.

    Args:
        logs: The logs of one group; only epochs that all of them tracked are used.
        name: The tracked set, for example "train".
        quantity: Which accuracy, as a fraction.
    """
    curves = []
    for log in logs:
        tracked = {entry.epoch: entry.tracked[name] for entry in log.epochs if name in entry.tracked}
        values = {epoch: getattr(of, f"{quantity}_accuracy") for epoch, of in tracked.items()}
        curves.append({epoch: value for epoch, value in values.items() if value is not None})
    curves = [curve for curve in curves if curve]
    epochs = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if not epochs:
        return None
    return band(np.array(epochs), np.array([[curve[epoch] for epoch in epochs] for curve in curves]))


def tracked_sets(logs: Mapping[str, Sequence[TrainingLog]]) -> tuple[str, ...]:
    """Return the names of all tracked sets: "train" first, then "test", "validation" and any other."""
    names = {name for group in logs.values() for log in group for entry in log.epochs for name in entry.tracked}
    usual = {"train": 0, "test": 1, "validation": 2}
    return tuple(sorted(names, key=lambda name: (usual.get(name, 3), name)))


def lr_drops(log: TrainingLog) -> tuple[int, ...]:
    """Return the epochs that a piecewise learning rate fell in, to half or less after it had been constant."""
    rates = [entry.lr for entry in log.epochs]
    return tuple(
        log.epochs[place].epoch
        for place in range(1, len(rates))
        if rates[place] <= rates[place - 1] / 2 and rates[place - 1] == rates[max(place - 2, 0)]
    )


def difference(images: AdversarialImages) -> tuple[np.ndarray, float]:
    """Return x_adv - x made visible, (n, C, H, W) in [0, 1] with 0.5 for no change, and its amplification.

    The amplification is one for all images, such that the largest change reaches black or white.
    """
    change = images.x_adv.astype(float) - images.x.astype(float)
    largest = float(np.abs(change).max(initial=0.0))
    factor = 0.5 / largest if largest else 1.0
    return np.clip(0.5 + factor * change, 0, 1), factor


def eps_words(eps: float) -> str:
    """Return eps as people write it: 0.3, or 8/255 where that is shorter than its decimals."""
    text = f"{eps:.6g}"
    levels = round(eps * 255)
    return f"{levels}/255" if len(text) > 5 and levels and abs(eps * 255 - levels) < 1e-3 else text


def norm_words(norm: str) -> str:
    """Return a norm as people write it: "L∞" for "linf", "L2" for "l2", "L1" for "l1", any other as it is."""
    return {"linf": "L∞", "l2": "L2", "l1": "L1"}.get(norm, norm)


def threat_words(norm: str, eps: float) -> str:
    """Return a threat model in words, for example "L∞, ε = 8/255"."""
    return f"{norm_words(norm)}, ε = {eps_words(eps)}"
