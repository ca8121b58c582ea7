"""Histograms of the weights of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robustscape.figures.style import group_colour, legend
from robustscape.landscape.histograms import WeightResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def layers(results: Mapping[str, Sequence[WeightResult]]) -> tuple[str, ...]:
    """Return the names of all layers, in the order of the networks."""
    return tuple(dict.fromkeys(name for found in results.values() for result in found for name in result.layers))


def draw(ax: Axes, results: Mapping[str, Sequence[WeightResult]], *, layer: str) -> None:
    """Draw the density of one layer's weights, a line a run, on a logarithmic scale; no legend, see ``key``.

    Args:
        ax: Where.
        results: Label to the histograms of its runs (seeds); those without the layer are left out.
        layer: Name of the layer's weights.
    """
    for group, found in enumerate(results.values()):
        having = [result for result in found if layer in result.layers]
        for result in having:
            row = result.layers.index(layer)
            edges, counts = result.edges[row], result.counts[row]
            density = counts / max(counts.sum(), 1) / (edges[1:] - edges[:-1])
            ax.stairs(density, edges, color=group_colour(group), linewidth=1)
    ax.set(yscale="log", title=layer, xlabel="weight", ylabel="density")


def key(ax: Axes, results: Mapping[str, Sequence[WeightResult]]) -> None:
    """Draw the legend that all layers share: which colour is which group."""
    legend(ax, [label if found else "" for label, found in results.items()])
