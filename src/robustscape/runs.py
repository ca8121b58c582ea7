"""Run directories, read back: what figures, tables and the report are made from, grouped by seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustscape.evaluation.result import AdversarialImages, Evaluation
from robustscape.landscape.flatness import FlatnessResult
from robustscape.landscape.histograms import WeightResult
from robustscape.landscape.slices import SliceResult
from robustscape.results import load, read_run
from robustscape.training.log import TrainingLog, read_log
from robustscape.types import BadInput, Plain

_KINDS: dict[str, type] = {
    "evaluation": Evaluation,
    "images": AdversarialImages,
    "slices": SliceResult,
    "flatness": FlatnessResult,
    "histograms": WeightResult,
}


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run directory, whole.

    Attributes:
        path: The directory.
        name: The recipe it was made from, or the directory's name where there is no ``run.json``.
        label: What a table calls its group: the name, with the fields that tell it from others of that name.
        group: Number of its group among those read together, from 0; runs equal but for the seed share it.
        seed: Seed of the run.
        settings: The Run as plain data, {} without a ``run.json``.
        classes: Class names, () where unknown.
        provenance: Where the run came from, as plain data, {} where unknown.
        log: The training log, None where the run was not trained here.
        results: File name in ``results/`` without its ending, for example "slices-last", to Result.
    """

    path: Path
    name: str
    label: str
    group: int
    seed: int
    settings: Plain
    classes: tuple[str, ...]
    provenance: Plain
    log: TrainingLog | None
    results: dict[str, Any]


def read_runs(paths: Sequence[Path]) -> tuple[RunFolder, ...]:
    """Read run directories, or directories of them, and group those equal but for the seed.

    Groups are numbered in the order in which they first appear; the order of runs is that of ``paths``.

    Raises:
        BadInput: nothing given, a directory given twice or without any run, or a damaged file.
    """
    folders = [folder for path in paths for folder in _folders_in(path)]
    if not folders:
        raise BadInput("no run directory was given")
    for folder in folders:
        if sum(folder.resolve() == other.resolve() for other in folders) > 1:
            raise BadInput(f"{folder} is given twice")
    heads = [_head(folder) for folder in folders]
    keys = [_key(folder, head) for folder, head in zip(folders, heads, strict=True)]
    order = list(dict.fromkeys(keys))
    firsts = [heads[keys.index(key)] for key in order]
    labels = _labels([head["name"] for head in firsts], [head["run"] for head in firsts])
    return tuple(
        RunFolder(
            path=folder,
            name=head["name"],
            label=labels[order.index(key)],
            group=order.index(key),
            seed=head["run"].get("seed", 0),
            settings=head["run"],
            classes=tuple(head.get("classes", ())),
            provenance=head.get("provenance", {}),
            log=read_log(folder / "log.jsonl") if (folder / "log.jsonl").exists() else None,
            results=_results(folder / "results"),
        )
        for folder, head, key in zip(folders, heads, keys, strict=True)
    )


def labels(folders: Sequence[RunFolder]) -> tuple[str, ...]:
    """Return the label of each group, in the order of their numbers."""
    return tuple(dict.fromkeys(f.label for f in sorted(folders, key=lambda f: f.group)))


def grouped(folders: Sequence[RunFolder], *files: str) -> dict[str, list[Any]]:
    """Return, by label, the Results of the runs that have all the named files, for example "slices-last".

    One file: a list of Results; several: a list of tuples of them. A group without any keeps its (empty)
    place, so that the position of a label, and hence its colour, is the same in every figure.
    """
    found: dict[str, list[Any]] = {label: [] for label in labels(folders)}
    for folder in folders:
        if all(file in folder.results for file in files):
            values = tuple(folder.results[file] for file in files)
            found[folder.label].append(values if len(files) > 1 else values[0])
    return found


def logs(folders: Sequence[RunFolder]) -> dict[str, list[TrainingLog]]:
    """Return, by label, the training logs that hold an epoch; groups as in ``grouped``."""
    found: dict[str, list[TrainingLog]] = {label: [] for label in labels(folders)}
    for folder in folders:
        if folder.log is not None and folder.log.epochs:
            found[folder.label].append(folder.log)
    return found


def checkpoints(folders: Sequence[RunFolder], kind: str) -> tuple[str, ...]:
    """Return the checkpoints that any run has a Result of this kind for: "last" first, then "best".

    Args:
        folders: The runs.
        kind: "evaluation", "images", "slices", "flatness" or "histograms".
    """
    stems = {file.partition("-")[2] for f in folders for file in f.results if file.startswith(f"{kind}-")}
    names = {stem.rpartition("-")[0] if kind == "evaluation" else stem for stem in stems}
    usual = {"last": 0, "best": 1, "best_on_test": 2}
    return tuple(sorted(names, key=lambda name: (usual.get(name, 3), name)))


# -- reading -------------------------------------------------------------------------------------------


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() or (path / "results").is_dir()


def _folders_in(path: Path) -> list[Path]:
    """The run directory itself, or those below it in the order of their names."""
    if _is_run(path):
        return [path]
    if not path.is_dir():
        raise BadInput(f"there is no directory {path}")
    below = sorted({file.parent for pattern in ("run.json", "results") for file in path.rglob(pattern)})
    found = [folder for folder in below if _is_run(folder)]
    if not found:
        raise BadInput(f"{path} is not a run directory: it has neither run.json nor results/, nor do those below it")
    return found


def _head(folder: Path) -> dict[str, Any]:
    if not (folder / "run.json").is_file():
        return {"name": folder.resolve().name, "run": {}}
    return read_run(folder)


def _key(folder: Path, head: Mapping[str, Any]) -> str:
    """What runs of one group share: all but the seed, and how the machine was used where that changes no method."""
    if not head["run"]:
        return str(folder.resolve())
    method = {key: value for key, value in head["run"].items() if key not in ("seed", "runtime")}
    runtime = head["run"].get("runtime", {})
    return json.dumps([method, runtime.get("precision", "auto"), runtime.get("devices", 1)], sort_keys=True)


def _results(folder: Path) -> dict[str, Any]:
    found = {path.stem: load(path) for path in sorted(folder.glob("*.json"))}
    for stem, result in found.items():
        kind = _KINDS.get(stem.partition("-")[0])
        if kind is not None and not isinstance(result, kind):
            raise BadInput(f"{folder / stem}.json holds {type(result).__name__}, not {kind.__name__}")
    return found


# -- labels --------------------------------------------------------------------------------------------


def _labels(names: Sequence[str], runs: Sequence[Plain]) -> list[str]:
    """The name where no other group has it, else the name with the fields that differ; always distinct."""
    found = []
    for name, run in zip(names, runs, strict=True):
        same = [other for other, its in zip(runs, names, strict=True) if its == name]
        changed = _differences(same, ()) if len(same) > 1 else {}
        short = {path: path[-1] for path in changed}
        clear = {
            path: word if list(short.values()).count(word) == 1 else ".".join(path) for path, word in short.items()
        }
        parts = [f"{clear[path]} {_words(_value(run, path))}" for path in changed]
        found.append(f"{name} ({', '.join(parts)})" if parts else name)
    return [text if found.count(text) == 1 else f"{text} #{place + 1}" for place, text in enumerate(found)]


def _differences(values: Sequence[Plain], path: tuple[str, ...]) -> dict[tuple[str, ...], None]:
    """Paths of the fields that differ, as high up as two components differ in type."""
    if all(value == values[0] for value in values):
        return {}
    if all(isinstance(value, dict) and value.get("type") == values[0].get("type") for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        nested = (_differences([value.get(key) for value in values], (*path, key)) for key in keys if key != "seed")
        return {found: None for paths in nested for found in paths}
    return {path: None}


def _value(plain: Plain, path: tuple[str, ...]) -> Plain:
    for key in path:
        plain = plain.get(key) if isinstance(plain, dict) else None
    return plain


def _words(plain: Plain) -> str:
    if isinstance(plain, dict):
        return str(plain.get("type", "other")).rpartition(":")[2]
    return f"{plain:.4g}" if isinstance(plain, float) else "none" if plain is None else str(plain)
