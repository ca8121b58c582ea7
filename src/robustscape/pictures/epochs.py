"""What was measured while networks trained: each measure's main number against the epoch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustscape.landscape.flatness import FlatnessResult
from robustscape.landscape.headlines import Headline, headlines
from robustscape.pictures.plot import Picture, Plot, Trace
from robustscape.relations import measured_by
from robustscape.runs import RunFolder

_FILE = re.compile(r"(?P<stem>.+)-epoch-(?P<epoch>\d+)")


def picture(folders: Sequence[RunFolder]) -> Picture | None:
    """Return the numbers of all measures over the epochs, and robust loss against flatness; None where none are."""
    found = {folder.path: _epochs(folder) for folder in folders}
    stems = sorted({stem for of in found.values() for stem, (_, results) in of.items() if len(results) > 1})
    plots = [plot for stem in stems if (plot := _numbers(folders, [found[f.path].get(stem) for f in folders]))]
    if "flatness" in stems:
        flat = [(folder, found[folder.path].get("flatness", ([], []))) for folder in folders]
        plots += [_trajectory(folder, *of) for folder, of in flat if len(of[0]) > 1]
    if not plots:
        return None
    return Picture(
        kind="loss",
        title="Through training",
        lead="What was measured at the end of some epochs: where flatness is lost, and when.",
        plots=tuple(plots),
        how=("a line a run, with 95 % intervals where there are", _images(stems, list(found.values()))),
        care=("along one run everything changes with the epoch: what goes together need not cause each other",),
    )


def _images(stems: Sequence[str], found: Sequence[Mapping[str, tuple[list[int], list[Any]]]]) -> str:
    """Say on which images everything was measured, and what on which where they differ."""
    on: dict[str, dict[str, None]] = {}
    for stem in stems:
        for result in (result for of in found for result in of.get(stem, ([], []))[1]):
            n = getattr(result, "n", None)
            words = [getattr(result, "split", ""), "" if n is None else f"n = {n:,}"]
            if said := ", ".join(filter(None, words)):
                on.setdefault(said, {})[stem] = None
    if len(on) == 1:
        return next(iter(on))
    return "; ".join(f"{' and '.join(of)}: {said}" for said, of in on.items())


def _epochs(folder: RunFolder) -> dict[str, tuple[list[int], list[Any]]]:
    """Return, by the stem of the file, the epochs that were measured, rising, with their results.

    The last checkpoint is the last epoch's, where it was measured as the others were.
    """
    found: dict[str, dict[int, Any]] = {}
    for file, result in folder.results.items():
        if match := _FILE.fullmatch(file):
            found.setdefault(match["stem"], {})[int(match["epoch"])] = result
    last = _last(folder)
    for stem, of in found.items():
        hows = {measured_by(result) for result in of.values()}
        files = [name for name in folder.results if re.fullmatch(rf"{stem}-last(-(test|train|validation))?", name)]
        ends = [folder.results[name] for name in files if measured_by(folder.results[name]) in hows]
        if ends and last is not None:
            of.setdefault(last, ends[0])
    return {stem: (sorted(of), [of[epoch] for epoch in sorted(of)]) for stem, of in found.items()}


def _last(folder: RunFolder) -> int | None:
    """Return the number of the last epoch, None where nothing says so."""
    if folder.log is not None and folder.log.epochs:
        return folder.log.epochs[-1].epoch
    return folder.settings.get("training", {}).get("epochs")


def _numbers(folders: Sequence[RunFolder], found: Sequence[tuple[list[int], list[Any]] | None]) -> Plot | None:
    """Return the first number of a measure against the epoch, a line a run."""
    of = [of or ([], []) for of in found]
    main = next((there[0] for _, results in of for result in results if (there := headlines(result))), None)
    if main is None:
        return None
    traces, name, unit = [], main.name, main.unit
    for folder, (epochs, results) in zip(folders, of, strict=True):
        shown = [(epoch, n) for epoch, r in zip(epochs, results, strict=True) for n in headlines(r) if n.name == name]
        if shown:
            numbers: list[Headline] = [number for _, number in shown]
            low, high = (np.array([getattr(n, end) for n in numbers], dtype=float) for end in ("low", "high"))
            ends = (low, high) if np.isfinite(low).any() else (None, None)
            x, y = np.array([float(epoch) for epoch, _ in shown]), np.array([n.value for n in numbers])
            label = f"{folder.label}, seed {folder.seed}"
            traces.append(Trace(name=label, group=folder.group, x=x, y=y, low=ends[0], high=ends[1]))
    return Plot(title=name, x="epoch", y=f"{name}, {unit}" if unit else name, traces=tuple(traces))


def _trajectory(folder: RunFolder, epochs: Sequence[int], results: Sequence[FlatnessResult]) -> Plot:
    """Return the robust loss against flatness along one run, coloured by epoch (Stutz 2021, figure 6)."""
    x, y = np.array([r.robust.value for r in results]), np.array([r.reference_robust_loss for r in results])
    trace = Trace(name=folder.label, group=folder.group, x=x, y=y, style="points", shade=np.array(epochs, dtype=float))
    return Plot(
        title=f"{folder.label}, seed {folder.seed}",
        x="flatness: rise of the robust loss, nats",
        y="robust loss, nats",
        traces=(trace,),
        z="epoch",
    )
