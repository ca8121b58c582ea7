"""Whether another network may be compared with the one that is measured, and whether it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from robustscape.results import read_run
from robustscape.training.checkpoints import read_metadata
from robustscape.types import BadInput, Plain, Subject


def check_other(subject: Subject, other: str, *, name: str = "other") -> None:
    """Refuse a network of other classes or images; one of another data set or architecture where both are known.

    Args:
        subject: What is measured; its run or file is read where its name is "RUN, CHECKPOINT" or "FILE", as the
            command line has it.
        other: The other run directory or .safetensors file. A file says its classes, images and architecture itself
            if robustscape wrote it, and its data set where it still lies in its run; of anything else nothing is
            known, and nothing refused.
        name: What the user calls it.

    Raises:
        BadInput: they differ, or the file or run is damaged.
    """
    theirs, ours = _known(Path(other)), _ours(subject.model_name)
    shape, classes = list(subject.x.shape[1:]), list(subject.classes)
    images, names = theirs.get("image", shape), theirs.get("classes", classes)
    unnamed = not ours and classes == [str(k) for k in range(len(classes))]  # as a subject without names has them
    if images != shape or (len(names) != len(classes) if unnamed else names != classes):
        raise BadInput(
            f"{name}={other!r} was trained on {len(names)} classes of images of shape {tuple(images)}, not on those "
            f"measured here: {len(classes)} of {tuple(shape)}; another data set?"
        )
    for what, part in (("data set", "data"), ("network", "model")):
        a, b = (known.get(part, {}) for known in (ours, theirs))
        keys = ["type"] if part == "data" and a and b else [key for key in a if key in b]
        if unlike := [key for key in keys if a.get(key) != b.get(key)]:
            key = unlike[0]
            raise BadInput(f"{name}={other!r} is of another {what}: {key} is {b.get(key)}, here {a.get(key)}")


def _ours(name: str) -> dict[str, Plain]:
    """Return what is known of the network that is measured: of the run or file that its name begins with."""
    folder = name.rpartition(", ")[0]
    return _known(Path(name)) or (_known(Path(folder)) if folder else {})


def _known(path: Path) -> dict[str, Plain]:
    """Return "image", "classes", "model" and "data" of a run directory or a file of weights, as far as they are known.

    Raises:
        BadInput: it is damaged.
    """
    is_file = path.suffix == ".safetensors" and path.is_file()
    folder = path.parent.parent if is_file and path.parent.name == "checkpoints" else path
    document = read_run(folder) if (folder / "run.json").is_file() else {}
    found = {**document.get("run", {}), **document, **(read_metadata(path) if is_file else {})}
    found["model"] = found.get("architecture", found.get("model"))
    return {key: found[key] for key in ("image", "classes", "model", "data") if found.get(key)}


def contents(files: Iterable[Path]) -> str:
    """Return one SHA-256 of the contents of some files, in their order."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def check_unchanged(found: Iterable[Plain], other: str) -> None:
    """Refuse values that are of another network before and after it changed.

    Args:
        found: Of each value what tells the other network's weights, None where there is none.
        other: Its run directory or file.

    Raises:
        BadInput: they are not all the same.
    """
    if len(set(found)) > 1:
        raise BadInput(f"{other} changed while it was measured; remove the .partial file and measure anew")
