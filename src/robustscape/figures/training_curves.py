"""Clean and robust accuracy against the epoch: where robust overfitting shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from robustscape.display import accuracy_band, lr_drops, tracked_sets
from robustscape.figures.style import FAINT, draw_band, legend
from robustscape.training.log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HELD_OUT = ("-", "--", "-.")


def draw(ax: Axes, logs: Mapping[str, Sequence[TrainingLog]], *, quantity: Literal["robust", "clean"]) -> None:
    """Draw an accuracy, %, of each group; training dotted, held-out sets solid, then dashed.

    Thin vertical lines mark the epochs in which a piecewise learning rate fell.

    Args:
        ax: Where.
        logs: Label to the logs of its runs (seeds): their mean, and a band of one standard deviation.
        quantity: Which accuracy.
    """
    from matplotlib.ticker import MaxNLocator

    sets = tracked_sets(logs)
    held_out = [name for name in sets if name != "train"]
    lines = {name: _HELD_OUT[min(place, 2)] for place, name in enumerate(held_out)} | {"train": ":"}
    drawn = dict.fromkeys(sets, False)
    names = [""] * len(logs)
    for group, (label, of_group) in enumerate(logs.items()):
        for name in sets:
            if (curve := accuracy_band(of_group, name, quantity)) is not None:
                draw_band(ax, curve, group=group, scale=100, line=lines[name])
                drawn[name], names[group] = True, label
    for epoch in sorted({epoch for of_group in logs.values() for log in of_group for epoch in lr_drops(log)}):
        ax.axvline(epoch - 0.5, color=FAINT, linewidth=0.6, linestyle=(0, (1, 2)), zorder=0)
    ax.set(xlabel="epoch", ylabel=f"{quantity} accuracy, %")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    legend(ax, names, [(lines[name], name) for name in sets if drawn[name]])
