"""The loss and the error along random directions in weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from robustscape.display import slice_band
from robustscape.figures.style import draw_band
from robustscape.landscape.slices import SliceResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(ax: Axes, results: Mapping[str, Sequence[SliceResult]], *, quantity: Literal["loss", "error"]) -> None:
    """Draw the robust (solid) and clean (dashed) loss or error of each group; ``ax.legend()`` names the groups.

    Args:
        ax: Where.
        results: Label to the slices of its runs (seeds): the mean over all their directions, and a band of
            one standard deviation.
        quantity: "loss", nats per example, or "error", drawn in %.
    """
    for group, (label, of_group) in enumerate(results.items()):
        for inputs, line in (("clean", "--"), ("robust", "-")):
            if of_group:
                curve = slice_band(of_group, f"{inputs}_{quantity}")
                scale = 100 if quantity == "error" else 1
                draw_band(ax, curve, group=group, scale=scale, line=line, label=label if inputs == "robust" else "")
    schemes = dict.fromkeys(result.scheme for of_group in results.values() for result in of_group)
    ax.set(xlabel=f"position, {'- or '.join(schemes)}-normalised")
    ax.set(ylabel="loss, nats" if quantity == "loss" else "error, %")
