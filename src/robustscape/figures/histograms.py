"""Histograms of the weights of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robustscape.figures.style import group_colour
from robustscape.landscape.histograms import WeightResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def layers(results: Mapping[str, Sequence[WeightResult]]) -> tuple[str, ...]:
    """Return the names of all layers, in the order of the networks."""
    return tuple(dict.fromkeys(name for found in results.values() for result in found for name in result.layers))


def draw(ax: Axes, results: Mapping[str, Sequence[WeightResult]], *, layer: str) -> None:
    """Draw the density of one layer's weights, a line a run, on a logarithmic scale; ``ax.legend()`` names groups.

    Args:
        ax: Where.
        results: Label to the histograms of its runs (seeds); those without the layer are left out.
        layer: Name of the layer's weights.
    """
    for group, (label, found) in enumerate(results.items()):
        having = [result for result in found if layer in result.layers]
        for place, result in enumerate(having):
            row = result.layers.index(layer)
            edges, counts = result.edges[row], result.counts[row]
            density = counts / max(counts.sum(), 1) / (edges[1:] - edges[:-1])
            ax.stairs(density, edges, color=group_colour(group), linewidth=1, label="_" if place else label)
    ax.set(yscale="log", title=layer, xlabel="weight", ylabel="density")
