"""Whether another network may be compared with the one that is measured."""

from __future__ import annotations

from pathlib import Path

from robustscape.results import read_run
from robustscape.types import BadInput, Subject


def check_other(subject: Subject, other: str) -> None:
    """Refuse a run of other classes or images; of another data set or network where both runs are there.

    Args:
        subject: What is measured; its run is read where its name is "RUN, CHECKPOINT", as the command line has it.
        other: The other run directory; of anything else nothing is known, and nothing refused.

    Raises:
        BadInput: they differ.
    """
    if not (Path(other) / "run.json").is_file():
        return
    theirs = read_run(Path(other))
    shape, classes = tuple(subject.x.shape[1:]), list(subject.classes)
    if tuple(theirs["image"]) != shape or list(theirs["classes"]) != classes:
        raise BadInput(
            f"other={other!r} was trained on {len(theirs['classes'])} classes of images of shape "
            f"{tuple(theirs['image'])}, not on those measured here: {len(classes)} of {shape}; another data set?"
        )
    mine = Path(subject.model_name.rpartition(", ")[0])
    if not (mine / "run.json").is_file():
        return
    ours = read_run(mine)["run"]
    for what, part in (("data set", "data"), ("network", "model")):
        a, b = (run.get(part) or {} for run in (ours, theirs["run"]))
        keys = ["type"] if part == "data" else [key for key in a if key in b]
        if unlike := [key for key in keys if a.get(key) != b.get(key)]:
            key = unlike[0]
            raise BadInput(f"other={other!r} is a run of another {what}: {key} is {b.get(key)}, here {a.get(key)}")
