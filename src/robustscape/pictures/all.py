"""Every picture that the results of some runs can give: one of each measurement, found by its file in this room."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from robustscape.config import files
from robustscape.pictures import epochs, training
from robustscape.pictures.plot import Kind, Picture
from robustscape.relations import measured_alike
from robustscape.runs import RunFolder, checkpoints, grouped, labels


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of some runs.

    Attributes:
        stem: What the files of its results begin with, for example "slices_hessian".
        measure: Which measurement, for example "slices".
        checkpoint: Of which checkpoint, "" for several.
        picture: The picture.
        runs: Label of each group, in their order, to the number of its results.
    """

    stem: str
    measure: str
    checkpoint: str
    picture: Picture
    runs: Mapping[str, int]


def shown(folders: Sequence[RunFolder], *, every: bool = False) -> list[Shown]:
    """Return the pictures of some runs, in the order in which they are best read.

    Args:
        folders: The runs.
        every: Whether all checkpoints are shown, and not the last one alone. Epochs that were measured while training
            count where there is nothing else, the last of them.
    """
    found = []
    for stem, measure in _stems(folders).items():
        names = checkpoints(folders, stem)
        kept = [name for name in names if not name.startswith("epoch-")] or list(names[-1:])
        for checkpoint in kept if every else kept[:1]:
            results, others = measured_alike(grouped(folders, f"{stem}-{checkpoint}"))
            picture = importlib.import_module(f"{__package__}.{measure}").picture(results)
            if picture is not None:
                care = f"measured otherwise, or of other layers, and left out: {others}" if others else ""
                picture = replace(picture, care=(care, *picture.care))
                counts = {label: len(of) for label, of in results.items()}
                found.append(Shown(stem=stem, measure=measure, checkpoint=checkpoint, picture=picture, runs=counts))
    order = get_args(Kind)
    found = sorted(found, key=lambda each: (order.index(each.picture.kind), each.stem))
    for name, through in (("epochs", epochs.picture(folders)), ("training", training.picture(folders))):
        if through is not None:
            drawn = {trace.group for plot in through.plots for trace in plot.traces}
            those = [folder.label for folder in folders if folder.group in drawn]
            counts = {label: those.count(label) for label in labels(folders)}
            found.insert(0, Shown(stem=name, measure=name, checkpoint="", picture=through, runs=counts))
    return found


def _stems(folders: Sequence[RunFolder]) -> dict[str, str]:
    """Return what files of results begin with, and the measurement that this is, for those that have a picture."""
    drawn = set(files("pictures")) & set(files("landscape"))
    found = {}
    for stem in dict.fromkeys(file.partition("-")[0] for folder in folders for file in folder.results):
        named = [name for name in drawn if stem == name or stem.startswith(f"{name}_")]
        if named:
            found[stem] = max(named, key=len)
    return found
