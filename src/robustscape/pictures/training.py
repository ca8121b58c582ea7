"""What is logged while networks train, beyond accuracy: robust losses by clean prediction, and single steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from robustscape.pictures.plot import Picture, Plot, Style, Trace
from robustscape.runs import RunFolder
from robustscape.training.log import EpochLog, Tracked, TrackedStep

_HELD_OUT: tuple[Style, ...] = ("solid", "dash", "dashdot")
_QUANTITIES = (
    ("gradient_norm", "gradient norm", 1.0),
    ("robust_error", "robust error, %", 100.0),
    ("distance", "distance from the start", 1.0),
)


def picture(folders: Sequence[RunFolder]) -> Picture | None:
    """Return the robust loss of each set over the epochs, split by clean prediction, and steps tracked by themselves.

    None where no log has either of them.
    """
    plots = [*_losses(folders), *_steps(folders)]
    if not plots:
        return None
    sets = _sets(folders)
    return Picture(
        kind="loss",
        title="Robust loss and single steps while training",
        lead="Where the loss on held-out images rises again, the network overfits robustly.",
        plots=tuple(plots),
        keys=tuple((_style(name, sets), name) for name in sets),
        how=("a line a run", _how(folders), "steps: of their own mini-batch, at the weights they begin from"),
        care=("the robust loss of misclassified examples grows with the norm of the weights alone",),
    )


def _how(folders: Sequence[RunFolder]) -> str:
    """Say how many examples of each set there are."""
    found = {(name, of.n) for folder in folders for _, all_of in _tracked(folder) for name, of in all_of.items()}
    return "; ".join(f"{name}, n = {n:,}" for name, n in sorted(found))


# -- by epoch -------------------------------------------------------------------------------------------


def _losses(folders: Sequence[RunFolder]) -> list[Plot]:
    """Stutz 2021, https://arxiv.org/abs/2104.04448, figure 2: of all examples, then by what they are classified as."""
    if not any(
        of.incorrect_robust_loss is not None for f in folders for _, sets in _tracked(f) for of in sets.values()
    ):
        return []
    kinds = (
        ("robust_loss", "All examples", "robust loss, nats"),
        ("correct_robust_loss", "Correct without attack", "robust loss, nats"),
        ("incorrect_robust_loss", "Misclassified without attack", "robust loss, nats"),
    )
    return [
        Plot(title=title, x="epoch", y=y, traces=traces)
        for field, title, y in kinds
        if (traces := tuple(_over_epochs(folders, field)))
    ]


def _over_epochs(folders: Sequence[RunFolder], field: str) -> list[Trace]:
    traces, sets = [], _sets(folders)
    for folder in folders:
        for name in sets:
            found = [(epoch, getattr(of[name], field)) for epoch, of in _tracked(folder) if name in of]
            found = [(epoch, value) for epoch, value in found if value is not None]
            if found:
                x, y = np.array(found, dtype=float).T
                label = f"{folder.label}, seed {folder.seed}, {name}"
                traces.append(Trace(name=label, group=folder.group, x=x, y=y, style=_style(name, sets)))
    return traces


def _epochs(folder: RunFolder) -> Sequence[EpochLog]:
    return () if folder.log is None else folder.log.epochs


def _tracked(folder: RunFolder) -> list[tuple[int, dict[str, Tracked]]]:
    return [(entry.epoch, entry.tracked) for entry in _epochs(folder)]


def _sets(folders: Sequence[RunFolder]) -> list[str]:
    """Return the tracked sets of all runs: training first."""
    names = dict.fromkeys(name for folder in folders for _, of in _tracked(folder) for name in of)
    return sorted(names, key=lambda name: name != "train")


def _style(name: str, sets: Sequence[str]) -> Style:
    """Return how a set is drawn: training dotted, held-out ones solid, then dashed."""
    held_out = [other for other in sets if other != "train"]
    return "dot" if name == "train" else _HELD_OUT[min(held_out.index(name), len(_HELD_OUT) - 1)]


# -- by step --------------------------------------------------------------------------------------------


def _steps(folders: Sequence[RunFolder]) -> list[Plot]:
    """Liu 2020, https://arxiv.org/abs/2006.08403, figure 1: the first steps, then the last ones."""
    ends = {folder.path: _ends(folder) for folder in folders}
    plots = []
    for place, words in ((0, "First steps"), (1, "Last steps")):
        for field, y, scale in _QUANTITIES:
            traces = tuple(_trace(f, some, field, scale) for f in folders if (some := ends[f.path][place]))
            if traces:
                plots.append(Plot(title=words, x="batches used before", y=y, traces=traces))
    return plots


def _ends(folder: RunFolder) -> tuple[list[TrackedStep], list[TrackedStep]]:
    """Return the first steps, as many as the run's settings say, and the last ones."""
    steps = [step for entry in _epochs(folder) for step in entry.steps]
    first = folder.settings.get("training", {}).get("track_first", math.inf)
    return [s for s in steps if s.step < first], [s for s in steps if s.step >= first]


def _trace(folder: RunFolder, steps: Sequence[TrackedStep], field: str, scale: float) -> Trace:
    x = np.array([step.step for step in steps], dtype=float)
    y = scale * np.array([getattr(step, field) for step in steps])
    return Trace(name=f"{folder.label}, seed {folder.seed}", group=folder.group, x=x, y=y)
