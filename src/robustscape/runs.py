"""Run directories and studies' folders, read back: what figures, tables and the report are made from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustscape.config import files, from_plain, to_plain
from robustscape.evaluation.result import AdversarialImages, Evaluation
from robustscape.results import load, read_run
from robustscape.training.log import TrainingLog, read_log
from robustscape.types import BadInput, Plain

_KINDS: dict[str, type] = {"evaluation": Evaluation, "images": AdversarialImages}
_PART = b'"report.study:StudyResult"'  # near the beginning of the file of a study's part


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


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """What a study's folder holds of one study at one scale.

    Attributes:
        path: The folder.
        name: Name of the study, for example "yamada".
        scale: How much was done, "paper" for what the paper did.
        parts: A ``report.study.StudyResult`` for each part that is there, in the study's order.
    """

    path: Path
    name: str
    scale: str
    parts: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Folders:
    """What was read together: runs, grouped by seed, and studies."""

    runs: tuple[RunFolder, ...]
    studies: tuple[StudyFolder, ...]


def read_folders(paths: Sequence[Path]) -> Folders:
    """Read run directories and studies' folders, or directories of them, and group runs equal but for the seed.

    Groups are numbered in the order in which they first appear; the order of runs, and of studies, is that of
    ``paths``.

    Raises:
        BadInput: nothing given, a directory given twice or with neither in it, or a damaged file.
    """
    folders = [folder for path in paths for folder in _folders_in(path)]
    if not folders:
        raise BadInput("no run directory was given")
    for folder in folders:
        if sum(folder.resolve() == other.resolve() for other in folders) > 1:
            raise BadInput(f"{folder} is given twice")
    return Folders(
        runs=_runs([folder for folder in folders if _is_run(folder)]),
        studies=tuple(study for folder in folders for study in _studies(folder)),
    )


def read_runs(paths: Sequence[Path]) -> tuple[RunFolder, ...]:
    """Read run directories as ``read_folders`` does, leaving studies out.

    Raises:
        BadInput: as there, or no run among them.
    """
    found = read_folders(paths).runs
    if not found:
        raise BadInput(f"no run directory was given: {paths[0]} holds a study alone")
    return found


def _runs(folders: Sequence[Path]) -> tuple[RunFolder, ...]:
    """Return the runs of some directories, with their groups."""
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


_EVALUATION = re.compile(r"evaluation-(?P<checkpoint>.+?)-(?P<split>test|train|validation)(?:-(?P<other>.+))?")
_USUAL = {"last": 0, "best": 1, "best_on_test": 2}


def evaluation_files(folders: Sequence[RunFolder]) -> dict[str, tuple[str, str]]:
    """Return the evaluations that any run has: file to (checkpoint, split), the last checkpoint first.

    What is not the run's own, another threat model, suite, data set or number of images, is said behind the split.
    """
    found = {match[0]: match for f in folders for file in f.results if (match := _EVALUATION.fullmatch(file))}
    order = sorted(
        found.values(), key=lambda m: (_USUAL.get(m["checkpoint"], 3), m["checkpoint"], m["other"] or "", m[0])
    )
    return {m[0]: (m["checkpoint"], m["split"] + (f" {m['other']}" if m["other"] else "")) for m in order}


def checkpoints(folders: Sequence[RunFolder], kind: str) -> tuple[str, ...]:
    """Return the checkpoints that any run has a Result of this kind for: "last" first, then "best".

    Args:
        folders: The runs.
        kind: "evaluation", "images", "slices", "flatness" or "histograms".
    """
    if kind == "evaluation":
        return tuple(dict.fromkeys(checkpoint for checkpoint, _ in evaluation_files(folders).values()))
    names = {file.partition("-")[2] for f in folders for file in f.results if file.startswith(f"{kind}-")}
    return tuple(sorted(names, key=lambda name: (_USUAL.get(name, 3), name)))


# -- reading -------------------------------------------------------------------------------------------


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() or (path / "results").is_dir()


def _part_files(folder: Path) -> list[Path]:
    """The files of a study's parts that lie in a folder, in the order of their names."""
    found = []
    for path in filter(Path.is_file, sorted(folder.glob("*.json"))):
        with path.open("rb") as file:
            if _PART in file.read(200):
                found.append(path)
    return found


def _folders_in(path: Path) -> list[Path]:
    """The directory itself, of a run or of a study, or those below it in the order of their names."""
    if _is_run(path) or _part_files(path):
        return [path]
    if not path.is_dir():
        raise BadInput(f"there is no directory {path}")
    below = sorted({file.parent for pattern in ("*.json", "results") for file in path.rglob(pattern)})
    found = [folder for folder in below if _is_run(folder) or _part_files(folder)]
    if not found:
        raise BadInput(
            f"{path} is not a run directory, nor a study's folder: it has neither run.json nor results/ nor a study's "
            "tables, nor do those below it"
        )
    return found


def _studies(folder: Path) -> list[StudyFolder]:
    """What a folder holds of each study and scale, its parts in their order."""
    parts = sorted(map(load, _part_files(folder)), key=lambda part: part.place)
    kinds = dict.fromkeys((part.study, part.scale) for part in parts)
    return [
        StudyFolder(
            path=folder, name=kind[0], scale=kind[1], parts=tuple(p for p in parts if (p.study, p.scale) == kind)
        )
        for kind in kinds
    ]


def _head(folder: Path) -> dict[str, Any]:
    if not (folder / "run.json").is_file():
        return {"name": folder.resolve().name, "run": {}}
    head = read_run(folder)
    return head | {"run": _whole(head["run"])}


def _whole(run: Plain) -> Plain:
    """Return a run with the fields that did not exist when it was written, which stand for what was done then."""
    try:
        return to_plain(from_plain(run))
    except (BadInput, TypeError, ValueError):  # of a version that is too far away
        return run


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
        if not _fits(stem.partition("-")[0], result):
            raise BadInput(f"{folder / stem}.json holds {type(result).__name__}, which is not what its name says")
    return found


def _fits(name: str, result: Any) -> bool:
    """Return whether a result is what its file's name says: where that begins with a measurement, one of this."""
    if name in _KINDS:
        return isinstance(result, _KINDS[name])
    named = [file for file in files("landscape") if name == file or name.startswith(f"{file}_")]
    return not named or type(result).__module__.endswith(f".landscape.{max(named, key=len)}")


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
