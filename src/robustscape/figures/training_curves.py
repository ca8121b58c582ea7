"""Clean and robust accuracy against the epoch: where robust overfitting shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from robustscape.display import accuracy_band, lr_drops, tracked_sets
from robustscape.figures.style import FAINT, draw_band
from robustscape.training.log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HELD_OUT = ("-", "--", "-.")


def line_styles(logs: Mapping[str, Sequence[TrainingLog]]) -> dict[str, str]:
    """Return the line style of each tracked set: training dotted, held-out sets solid, then dashed."""
    sets = tracked_sets(logs)
    held_out = {name: _HELD_OUT[min(place, 2)] for place, name in enumerate(n for n in sets if n != "train")}
    return {name: held_out.get(name, ":") for name in sets}


def draw(ax: Axes, logs: Mapping[str, Sequence[TrainingLog]], *, quantity: Literal["robust", "clean"]) -> None:
    """Draw an accuracy, %, of each group, in the line styles of ``line_styles``; ``ax.legend()`` names the groups.

    Thin vertical lines mark the epochs in which a piecewise learning rate fell.

    Args:
        ax: Where.
        logs: Label to the logs of its runs (seeds): their mean, and a band of one standard deviation.
        quantity: Which accuracy.
    """
    from matplotlib.ticker import MaxNLocator

    for group, (label, of_group) in enumerate(logs.items()):
        for name, line in line_styles(logs).items():
            if (curve := accuracy_band(of_group, name, quantity)) is not None:
                draw_band(ax, curve, group=group, scale=100, line=line, label=label if line == "-" else "")
    for epoch in sorted({epoch for of_group in logs.values() for log in of_group for epoch in lr_drops(log)}):
        ax.axvline(epoch - 0.5, color=FAINT, linewidth=0.6, linestyle=(0, (1, 2)), zorder=0)
    ax.set(xlabel="epoch", ylabel=f"{quantity} accuracy, %")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
