"""Clean images beside their adversarial ones, with the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robustscape.display import difference
from robustscape.evaluation.result import AdversarialImages

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(ax: Axes, images: AdversarialImages, *, count: int = 8) -> None:
    """Draw rows of clean images, adversarial images and their difference, with the predicted classes.

    Args:
        ax: Where.
        images: The images; one channel is drawn in grey, three in colour.
        count: How many of them at most, the first ones.
    """
    change, factor = difference(images)
    count = min(count, len(images.x))
    rows = (("clean", images.x), ("adversarial", images.x_adv), (f"difference ×{factor:.3g}", change))
    for place, (_, pixels) in enumerate(rows):
        for column in range(count):
            box = (column + 0.03, column + 0.97, 3.3 * (2 - place) / 3 + 0.14, 3.3 * (2 - place) / 3 + 1.08)
            ax.imshow(_shown(pixels[column]), extent=box, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for column in range(count):
        for row, prediction in ((2, images.clean_prediction[column]), (1, images.adversarial_prediction[column])):
            right = prediction == images.y[column]
            ax.text(
                column + 0.5,
                1.1 * row + 0.12,
                images.classes[prediction] if right else f"✗ {images.classes[prediction]}",
                ha="center",
                va="top",
                fontsize=5.5,
                weight="normal" if right else "bold",
            )
    ax.set(xlim=(0, max(count, 1)), ylim=(-0.05, 3.35), xticks=[])
    ax.set_yticks([2.81, 1.71, 0.61], [name for name, _ in rows])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _shown(pixels: np.ndarray) -> np.ndarray:
    """(C, H, W) as matplotlib takes it: (H, W) or (H, W, 3)."""
    return pixels[0] if len(pixels) != 3 else pixels.transpose(1, 2, 0)
