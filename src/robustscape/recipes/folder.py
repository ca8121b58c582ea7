"""The folder of a run: whose it is, what a kill has left in it, which of its results still hold."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from robustscape.config import from_plain, to_plain
from robustscape.recipes.run import Run
from robustscape.results import device_name, read_run, versions
from robustscape.runtime.deciding import decision_of
from robustscape.runtime.remembering import processor
from robustscape.training.log import TrainingLog, read_log
from robustscape.types import BadInput, Plain


def held(run: Run, out: Path) -> Plain:
    """Return the folder's run.json, None for a new folder; refuse a folder that holds something else.

    Raises:
        BadInput: it holds another run or no run, or is a file.
    """
    path = out / "run.json"
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file, and a run is a directory; did you mean another --out?")
    if not path.exists():
        if out.exists() and any(not _is_leftover(item) for item in out.iterdir()):
            raise BadInput(f"{out} is not empty and holds no run; did you mean another --out?")
        return None
    document = read_run(out)
    there, wanted = to_plain(from_plain(document["run"])), to_plain(run)
    if there != wanted:
        raise BadInput(
            f"{out} holds another run ({', '.join(_differences(there, wanted))}); choose another --out, or remove it"
        )
    return document


def warn_of_change(run: Run, out: Path, document: Plain) -> None:
    """Warn where the run goes on under other versions, or on another machine, than it was begun with."""
    there, decided = dict(document["provenance"]), decision_of(document.get("decided"))
    here: dict[str, Plain] = {"versions": versions(), "device": device_name(run.runtime.torch_device())}
    if decided is not None and decided.processor and there["device"] == here["device"]:
        # Under one name, as clouds give them, there are processors with other instructions.
        there["processor"], here["processor"] = decided.processor, processor()
    for what, value in here.items():
        if there[what] != value:
            warnings.warn(
                f"{out} was begun with {what} {there[what]} and goes on with {value}: its bits may differ from an "
                "uninterrupted run's",
                stacklevel=3,
            )


def clear(out: Path) -> None:
    """Remove what a kill left behind."""
    for folder in (out, out / "checkpoints"):
        for leftover in filter(_is_leftover, folder.iterdir() if folder.is_dir() else ()):
            leftover.unlink(missing_ok=True)


def forget(results: Path, checkpoint: str) -> None:
    """Remove the results of a checkpoint that is about to be replaced: they are not those of the new weights."""
    for path in results.glob("*") if results.is_dir() else ():
        if re.match(rf"[^-]+-{checkpoint}[-.]", path.name):
            path.unlink()


def log_up_to(path: Path, epochs: int) -> TrainingLog:
    """Read the first epochs of a log, those that the saved state has seen: a later one was written just before a kill.

    Raises:
        BadInput: the log is damaged.
    """
    if not path.exists():
        return TrainingLog(epochs=())
    return TrainingLog(epochs=read_log(path).epochs[:epochs])


def _is_leftover(path: Path) -> bool:
    """Return whether a kill left the file: what ``results.written`` had not yet given its name."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _differences(held: Plain, wanted: Plain, path: str = "") -> list[str]:
    """Name the fields in which two plain Runs differ, with both values."""
    if isinstance(held, dict) and isinstance(wanted, dict) and held.get("type") == wanted.get("type"):
        return [line for key in wanted for line in _differences(held.get(key), wanted[key], f"{path}.{key}".strip("."))]
    return [] if held == wanted else [f"{path} {_short(held)} there, {_short(wanted)} here"]


def _short(plain: Plain) -> str:
    return str(plain["type"].rpartition(":")[2]) if isinstance(plain, dict) and "type" in plain else str(plain)
