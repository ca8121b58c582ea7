"""Every picture that the results of some runs can give: one of each measurement, found by its file in this room."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from robustscape.config import files
from robustscape.pictures import epochs, training
from robustscape.pictures.plot import Kind, Picture, first
from robustscape.relations import measured_alike
from robustscape.runs import RunFolder, checkpoints, labels

Split: TypeAlias = Literal["test", "train", "validation"]
"""Splits of the data, in the order in which they are shown."""

_SPLIT = re.compile(f"-({'|'.join(get_args(Split))})$")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of some runs.

    Attributes:
        stem: What the files of its results begin with, for example "slices_hessian".
        measure: Which measurement, for example "slices".
        checkpoint: Of which checkpoint, "" for several.
        picture: The picture.
        runs: Label of each group, in their order, to the number of its results.
        split: Which images were looked at, "" where none or several were.
        example: One of the results, None for several measurements.
        file: What a file of the picture is called: that of the result, with the split where others have its name.
        lacking: The runs that this was not measured of.
    """

    stem: str
    measure: str
    checkpoint: str
    picture: Picture
    runs: Mapping[str, int]
    split: str = ""
    example: Any = None
    file: str
    lacking: tuple[RunFolder, ...] = ()


def shown(folders: Sequence[RunFolder], *, every: bool = False) -> list[Shown]:
    """Return the pictures of some runs, in the order in which they are best read: one of each split of the data.

    Args:
        folders: The runs.
        every: Whether all checkpoints are shown, and not the last one alone. Epochs that were measured while training
            count where there is nothing else, the last of them.
    """
    found = []
    for stem, measure in _stems(folders).items():
        names = list(dict.fromkeys(_SPLIT.sub("", name) for name in checkpoints(folders, stem)))
        kept = [name for name in names if not name.startswith("epoch-")] or names[-1:]
        for checkpoint in kept if every else kept[:1]:
            splits = _splits(folders, f"{stem}-{checkpoint}")
            found += [
                one
                for split in splits
                if (one := _shown(folders, stem, measure, checkpoint, split, splits)) is not None
            ]
    order = get_args(Kind)
    found = sorted(found, key=lambda each: (order.index(each.picture.kind), each.stem))
    for name, through in (("epochs", epochs.picture(folders)), ("training", training.picture(folders))):
        if through is not None:
            drawn = {trace.group for plot in through.plots for trace in plot.traces}
            those = [folder.label for folder in folders if folder.group in drawn]
            counts = {label: those.count(label) for label in labels(folders)}
            found.insert(0, Shown(stem=name, measure=name, checkpoint="", picture=through, runs=counts, file=name))
    return found


def _shown(
    folders: Sequence[RunFolder], stem: str, measure: str, checkpoint: str, split: str, splits: Sequence[str]
) -> Shown | None:
    """Return what was measured of a checkpoint on one of the splits that it was measured on."""
    own = {folder.path: _of_split(folder, f"{stem}-{checkpoint}", split) for folder in folders}
    grouped = {label: [own[f.path] for f in folders if f.label == label] for label in labels(folders)}
    results, others = measured_alike({name: [r for r in of if r is not None] for name, of in grouped.items()})
    picture = importlib.import_module(f"{__package__}.{measure}").picture(results)
    if picture is None:
        return None
    care = f"measured otherwise, or of other layers, and left out: {others}" if others else ""
    several = len(splits) > 1
    title = f"{picture.title}: {split} images" if several else picture.title
    return Shown(
        stem=stem,
        measure=measure,
        checkpoint=checkpoint,
        picture=replace(picture, title=title, care=(care, *picture.care)),
        runs={label: len(of) for label, of in results.items()},
        split=split,
        example=first(results),
        file=f"{stem}-{checkpoint}{f'-{split}' if split != splits[0] else ''}",
        lacking=tuple(folder for folder in folders if own[folder.path] is None),
    )


def _splits(folders: Sequence[RunFolder], file: str) -> list[str]:
    """Return the splits that a checkpoint was measured on: first those of most of the files that name none."""
    plain = [getattr(folder.results[file], "split", "") for folder in folders if file in folder.results]
    named = [split for split in get_args(Split) for folder in folders if f"{file}-{split}" in folder.results]
    return sorted(dict.fromkeys([*plain, *named]), key=lambda split: -plain.count(split))


def _of_split(folder: RunFolder, file: str, split: str) -> Any:
    """Return a run's result of one split, which its file may name; None for none."""
    there = [folder.results[name] for name in (file, f"{file}-{split}") if name in folder.results]
    return next((result for result in there if getattr(result, "split", "") == split), None)


def _stems(folders: Sequence[RunFolder]) -> dict[str, str]:
    """Return what files of results begin with, and the measurement that this is, for those that have a picture."""
    drawn = set(files("pictures")) & set(files("landscape"))
    found = {}
    for stem in dict.fromkeys(file.partition("-")[0] for folder in folders for file in folder.results):
        named = [name for name in drawn if stem == name or stem.startswith(f"{name}_")]
        if named:
            found[stem] = max(named, key=len)
    return found
