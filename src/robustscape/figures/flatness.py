"""Robust error against flatness: do flat models stay robust?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from robustscape.evaluation.result import Evaluation
from robustscape.figures.style import group_colour, group_marker
from robustscape.landscape.flatness import FlatnessResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(
    ax: Axes,
    points: Mapping[str, Sequence[tuple[FlatnessResult, Evaluation]]],
    *,
    quantity: Literal["error", "loss"] = "error",
) -> None:
    """Draw a point a run with its 95 % intervals, robust error or loss against average-case flatness.

    ``ax.legend()`` names the groups.

    Args:
        ax: Where.
        points: Label to flatness and evaluation of each of its runs (seeds), of the same checkpoint.
        quantity: "error", drawn in %, or "loss", nats per example.
    """
    scale = 100 if quantity == "error" else 1
    for group, (label, pairs) in enumerate(points.items()):
        for place, (flat, evaluation) in enumerate(pairs):
            y = getattr(evaluation, f"robust_{quantity}")
            ax.errorbar(
                flat.robust.value,
                scale * y.value,
                xerr=[[flat.robust.value - flat.robust.low], [flat.robust.high - flat.robust.value]],
                yerr=[[scale * (y.value - y.low)], [scale * (y.high - y.value)]],
                color=group_colour(group),
                marker=group_marker(group),
                markersize=5,
                elinewidth=0.8,
                linestyle="none",
                label=label if place == 0 else "_",
            )
    ax.set(xlabel="average-case flatness: rise of the robust loss, nats (smaller is flatter)")
    ax.set(ylabel="robust error, %" if quantity == "error" else "robust loss, nats")
