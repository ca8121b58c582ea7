"""What a picture is made of: lines with their bands, points with their intervals, bars, planes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from robustscape.display import FEW
from robustscape.landscape.flatness import Estimate

Style: TypeAlias = Literal["solid", "dash", "dot", "dashdot", "points", "hollow", "dots", "bars", "hatched"]
"""How a trace is drawn: a line, filled or open markers, small dots, filled or hatched bars."""

Kind: TypeAlias = Literal["loss", "flatness", "curvature", "inputs", "networks", "weights", "bound"]
"""What a picture is about; pictures are shown in this order."""

RESCALED = "changes when a network is rescaled without changing its function"
"""What is said beside a measure that is not scale-free."""

_STEPS = 16  # points of each part of a path over a plane

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """One line, set of points or set of bars.

    Attributes:
        name: What it is, for a reader who points at it.
        group: Number of its colour; None for what belongs to no group.
        x: (P,), positions; of bars 0, 1 and so on.
        y: (P,), values; NaN leaves a hole.
        low: (P,), lower ends of the band around a line, or of the interval of a point; None for none.
        high: (P,), their upper ends.
        style: How it is drawn.
        shade: (P,), numbers whose colour each point has in place of the group's; None for that.
    """

    name: str
    group: int | None
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    style: Style = "solid"
    shade: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """Values over a plane.

    Attributes:
        name: Whose it is.
        group: Number of its group.
        x: (P,), positions.
        y: (B,), positions.
        z: (B, P), values; NaN leaves a hole.
        lowest: End of the scale of colours and heights, the same for all planes that are shown together.
        highest: Its other end.
        path: (T, 2), points of a path in the plane; none where T is 0.
        stops: T names of these.
        form: "contour", or "surface" in three dimensions.
    """

    name: str
    group: int
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    lowest: float
    highest: float
    path: np.ndarray
    stops: tuple[str, ...] = ()
    form: Literal["contour", "surface"] = "contour"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One pair of axes.

    Attributes:
        title: What stands above it.
        x: Label of the horizontal axis, with the unit.
        y: Label of the vertical axis, with the unit.
        traces: What is drawn.
        log: Which axes are logarithmic.
        ticks: Names of the positions 0, 1 and so on of the horizontal axis; () for numbers.
        levels: Horizontal lines for the eye: (value, name).
        floor: Where a logarithmic vertical axis begins; None for where the values do.
        plane: What is drawn in place of traces; ``z`` is what its values are.
        z: What values over a plane, or the colours of ``shade``, are, with the unit.
    """

    title: str
    x: str
    y: str
    traces: tuple[Trace, ...] = ()
    log: Literal["", "x", "y", "xy"] = ""
    ticks: tuple[str, ...] = ()
    levels: tuple[tuple[float, str], ...] = ()
    floor: float | None = None
    plane: Plane | None = None
    z: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Plots that belong together, with the words that they need.

    Attributes:
        kind: What it is about.
        title: What it is called.
        lead: What to look for, in one sentence.
        plots: At least one.
        keys: What the styles mean.
        how: How it was measured, in parts of sentences: attack, examples, units, what the bands are; "" says nothing.
        care: What may mislead, the same.
    """

    kind: Kind
    title: str
    lead: str
    plots: tuple[Plot, ...]
    keys: tuple[tuple[Style, str], ...] = ()
    how: tuple[str, ...] = ()
    care: tuple[str, ...] = ()


# -- pieces of pictures --------------------------------------------------------------------------------


def runs(found: Mapping[str, Sequence[_Result]]) -> Iterator[tuple[int, str, Sequence[_Result]]]:
    """Yield number, label and results of each group that has any."""
    return ((group, label, results) for group, (label, results) in enumerate(found.items()) if results)


def first(found: Mapping[str, Sequence[_Result]]) -> _Result:
    """Return the first result there is."""
    return next(result for results in found.values() for result in results)


def alike(found: Mapping[str, Sequence[_Result]], key: Callable[[_Result], Any]) -> dict[str, list[_Result]]:
    """Return the results that can be drawn together: those of the key that most have, of several the first's."""
    keys = [key(result) for results in found.values() for result in results]
    usual = max(keys, key=keys.count)
    return {label: [r for r in results if key(r) == usual] for label, results in found.items()}


def words(found: Mapping[str, Sequence[_Result]], of: Callable[[_Result], str]) -> str:
    """Return what is said of the results, each saying once."""
    return " / ".join(dict.fromkeys(of(result) for results in found.values() for result in results))


def each(found: Mapping[str, Sequence[_Result]], of: Callable[[_Result], str]) -> str:
    """Return what is said of each run by itself, behind its label; those of whom nothing is said are left out."""
    said = [(label, text) for label, results in found.items() for result in results if (text := of(result))]
    return "; ".join(f"{label}: {text}" for label, text in said)


def sentences(parts: Sequence[str]) -> str:
    """Return the parts that are not empty as sentences."""
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def seeds(found: Mapping[str, Sequence[Any]], *, what: str = "bands and bars", alone: str = "95 % intervals") -> str:
    """Return in words what bands and bars are, ``alone`` for a single run."""
    numbers = {len(results) for results in found.values() if results}
    if max(numbers, default=1) == 1:
        return f"{what}: {alone}" if alone else ""
    single = f"; of a single run {alone}" if alone and 1 in numbers else ""
    return f"{what}: one standard deviation over seeds{single}"


def mean(
    name: str,
    group: int,
    x: np.ndarray,
    values: Sequence[np.ndarray],
    *,
    ends: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    style: Style = "solid",
) -> Trace:
    """Return the mean over a group's runs, with a band of one standard deviation over them.

    Args:
        name: What it is.
        group: Number of the group.
        x: (P,), positions.
        values: (P,) of each run.
        ends: (low, high), (P,) each, of a single run's own interval.
        style: How it is drawn.
    """
    y = np.mean(values, axis=0)
    low = high = None
    if len(values) > 1:
        with np.errstate(invalid="ignore"):  # an infinite value has no spread
            spread = np.std(values, axis=0, ddof=1)
        low, high = y - spread, y + spread
    elif ends:
        low, high = ends[0]
    return Trace(name=name, group=group, x=x, y=y, low=low, high=high, style=style)


def beside(group: int, groups: int) -> float:
    """Return how far a group's points stand beside a tick, so that groups do not cover each other."""
    return 0.1 * (group - (groups - 1) / 2)


def interval(of: Estimate, form: str = ".3g") -> str:
    """Return an estimate with its interval in words."""
    ends = f"[{of.low:{form}}, {of.high:{form}}]" if np.isfinite([of.low, of.high]).all() else "[no interval]"
    return f"{of.value:{form}} {ends}"


def marked(trace: Trace) -> bool:
    """Return whether the points of a line are marked: few of them, unless they are the two ends of a level."""
    there = np.isfinite(trace.y)
    return int(there.sum()) <= FEW and not (len(there) == 2 and there.all())


def joined(trace: Trace) -> bool:
    """Return whether a line has two neighbours to join: without, it is points, and a band around it not seen."""
    there = np.isfinite(trace.y)
    return bool((there[1:] & there[:-1]).any())


def way(plane: Plane) -> np.ndarray:
    """Return points close together along the path over a plane with their heights, (S, 3); NaN where it leaves it."""
    between = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    parts = [start + between * (end - start) for start, end in zip(plane.path[:-1], plane.path[1:], strict=True)]
    points = np.concatenate([*parts, plane.path[-1:]])
    return np.column_stack([points, [_height(plane, x, y) for x, y in points]])


def _within(at: np.ndarray, value: float, near: float) -> bool:
    return bool(at[0] - near * np.ptp(at) <= value <= at[-1] + near * np.ptp(at))


def _height(plane: Plane, x: float, y: float) -> float:
    """Return the value at a point of a plane, linear between those around it."""
    near = 1e-6  # of the edge: a path that ends there is within but for rounding
    if not (_within(plane.x, x, near) and _within(plane.y, y, near)):
        return float("nan")
    column, row = (int(np.clip(np.searchsorted(at, value, side="right") - 1, 0, len(at) - 2))
                   for at, value in ((plane.x, x), (plane.y, y)))  # fmt: skip
    right = (x - plane.x[column]) / (plane.x[column + 1] - plane.x[column])
    up = (y - plane.y[row]) / (plane.y[row + 1] - plane.y[row])
    corners = plane.z[row : row + 2, column : column + 2]
    return float(np.array([1 - up, up]) @ corners @ np.array([1 - right, right]))


def ends(plot: Plot, trace: Trace) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the ends of a trace's band or intervals as they can be drawn; None where it has none.

    On a logarithmic axis an end at 0 or below is drawn a little below the smallest value, one at infinity at ten times
    the largest; on others an infinite one is left out (NaN).
    """
    if trace.low is None or trace.high is None:
        return None
    low, high = trace.low.astype(float), trace.high.astype(float)
    if "y" in plot.log:
        values = np.concatenate([of.y for of in plot.traces])
        values = values[np.isfinite(values) & (values > 0)]
        least, most = (values.min() / 3, 10 * values.max()) if len(values) else (1.0, 1.0)
        low = np.maximum(np.where(low > 0, low, least), plot.floor or least / 10)
        high = np.maximum(np.where(np.isinf(high), most, high), low)
    there = np.isfinite(trace.y) & np.isfinite(low) & np.isfinite(high)
    return np.where(there, low, np.nan), np.where(there, high, np.nan)
