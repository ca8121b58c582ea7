"""The rise of the loss on other views of the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.views import ViewsResult
from robustscape.pictures.plot import Picture, Plot, alike, beside, mean, runs, seeds, words


def picture(found: Mapping[str, Sequence[ViewsResult]]) -> Picture:
    """Return the rise of the robust and of the clean loss on each view."""
    found = alike(found, lambda r: tuple(on.view for on in r.views))
    unseen = any(r.split != "train" for _, _, results in runs(found) for r in results)
    return Picture(
        kind="inputs",
        title="Loss on other views of the images",
        lead="How much the loss rises when images are mirrored or shifted: of training images, what was memorised.",
        plots=tuple(_rises(found, loss) for loss in ("robust", "clean")),
        how=(words(found, _how), seeds(found, alone="95 % intervals over examples")),
        care=(
            "a view that the network was trained on tells little: it has been seen",
            "of images that it was not trained on it tells what a view costs by itself" if unseen else "",
        ),
    )


def _rises(found: Mapping[str, Sequence[ViewsResult]], loss: str) -> Plot:
    traces, ticks = [], tuple(dict.fromkeys(on.view for _, _, results in runs(found) for on in results[0].views))
    for group, label, results in runs(found):
        x = np.array([ticks.index(on.view) for on in results[0].views]) + beside(group, len(found))
        values, low, high = (
            [np.array([getattr(getattr(on, loss), end) for on in r.views]) for r in results]
            for end in ("value", "low", "high")
        )
        traces.append(mean(label, group, x, values, ends=[(low[0], high[0])], style="points"))
    return Plot(title="", x="", y=f"rise of the {loss} loss, nats", traces=tuple(traces), ticks=ticks)


def _how(r: ViewsResult) -> str:
    shifted = any(on.view == "shift" for on in r.views)
    shifts = f"; shifts by up to {r.shift} pixel{'s' * (r.shift != 1)}" if shifted else ""
    return f"Attacked anew on every view, {r.attack}{shifts}; {r.split}, n = {r.n:,}"
