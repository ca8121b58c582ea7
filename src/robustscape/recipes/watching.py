"""Measurements of the landscape while a network trains."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import AverageFlatness, FlatnessResult
from robustscape.landscape.runner import measure, measuring, stem, under
from robustscape.landscape.spectrum import Spectrum
from robustscape.recipes.begun import Begun
from robustscape.results import save
from robustscape.runtime.ranks import from_first, is_first
from robustscape.training.stopping import Score
from robustscape.types import BadInput, Diverged, Measurement, Subject


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """A measurement is on its way, or done: ``done`` of ``total`` points, after epoch ``epoch``.

    ``file`` is where its result lies once it is done, "" until then.
    """

    epoch: int
    name: str
    done: int
    total: int
    file: str = ""


def watched(begun: Begun) -> Iterator[Measuring]:
    """Make the measurements that are due at the end of the epoch that a run has reached, and that it does not hold.

    They are made of the network that is kept (the averaged one, where there is one), and written to the run's
    results as those of ``robustscape measure`` are, under the epoch's name: ``results/flatness-epoch-0010.json``.
    A measurement that was stopped goes on with the points that are left. Ranks share the points. One that cannot be
    made is left out with a warning, and the training goes on. The eigenvectors of a spectrum are kept beside its
    result until the next one has started from them.

    Args:
        begun: The run, between two epochs; in the middle of one nothing is due.
    """
    run, state = begun.run, begun.state
    last = state.epoch if state.stopped else run.training.epochs
    if not run.watch.due(state.epoch, last) or state.done != state.epoch * len(begun.loader):
        return
    for measurement in run.watch.measurements:
        path = _file(begun, measurement, state.epoch)
        if from_first(path.exists()):
            if is_first():
                path.with_suffix(".partial").unlink(missing_ok=True)  # of a kill between the two
            continue
        yield from _made(begun, under(run.evaluation.threat(), measurement), looked_at(begun))


def score_of(begun: Begun) -> Score | None:
    """Return what the best epoch of a run has most of, where it is chosen by flatness; None for other runs.

    The negative of the rise of the robust loss under random weights, or of the robust loss there, on validation.
    """
    run = begun.run
    if not run.training.scored:
        return None
    measurement = under(run.evaluation.threat(), run.flatness or AverageFlatness())

    def score(kept: nn.Module) -> float:
        assert kept is begun.state.kept, "the network that is kept is the one that is looked at"
        result = measure(measurement, looked_at(begun, "validation"))
        assert isinstance(result, FlatnessResult), "the Run takes no other measurement"
        rise = result.robust.value
        return -rise if run.training.select == "flatness" else -(result.reference_robust_loss + rise)

    return score


def looked_at(begun: Begun, split: str = "") -> Subject:
    """Return what a run's measurements look at: its present network and the first images of a split, the watch's."""
    run, watch = begun.run, begun.run.watch
    split = split or watch.split
    images = getattr(begun.splits, split)
    some = images.take(slice(0, watch.n))
    return subject(
        begun.state.kept,
        some.pixels(),
        some.y,
        index=some.index,
        seed=run.seed,
        runtime=begun.runtime,
        batch=watch.batch_size,
        classes=images.classes,
        split=split,
        model_name=f"{begun.out}, epoch {begun.state.epoch}",
        data_name=images.name if len(some) == len(images) else f"{images.name}, first {len(some)}",
    )


def _made(begun: Begun, measurement: Measurement, looked_at: Subject) -> Iterator[Measuring]:
    """Carry out one measurement; the first rank writes."""
    epoch = begun.state.epoch
    path = _file(begun, measurement, epoch)
    partial = path.with_suffix(".partial")
    work = measuring(_going_on(measurement, path), looked_at, partial=partial)
    total = 0
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            result = end.value
            break
        except (BadInput, Diverged) as error:
            if is_first():
                partial.unlink(missing_ok=True)
                shutil.rmtree(_vectors(path), ignore_errors=True)
                warnings.warn(f"{measurement.name} is left out: {error}", stacklevel=2)
            return
        yield Measuring(epoch=epoch, name=measurement.name, done=done, total=total)
    if is_first():
        save(result, path)
        partial.unlink(missing_ok=True)
        for old in _earlier(path):
            shutil.rmtree(_vectors(old), ignore_errors=True)
    yield Measuring(epoch=epoch, name=measurement.name, done=total, total=total, file=str(path))


def _file(begun: Begun, measurement: Measurement, epoch: int) -> Path:
    """Return where the result of one epoch lies."""
    return begun.out / "results" / f"{stem(measurement)}-epoch-{epoch:04d}.json"


def _going_on(measurement: Measurement, path: Path) -> Measurement:
    """Return a spectrum that keeps its eigenvectors and starts from the last ones, unless it says from which itself."""
    if not isinstance(measurement, Spectrum) or measurement.vectors or measurement.start:
        return measurement
    last = [_vectors(old) for old in _earlier(path) if _vectors(old).is_dir()][-1:]
    return replace(measurement, vectors=str(_vectors(path)), start=str(last[0]) if last else None)


def _vectors(path: Path) -> Path:
    """Return the folder of the eigenvectors that belong to a result."""
    return path.with_suffix("")


def _earlier(path: Path) -> list[Path]:
    """Return the results of the same measurement at earlier epochs, in their order."""
    name, _, _ = path.name.rpartition("-")
    return sorted(other for other in path.parent.glob(f"{name}-[0-9]*.json") if other.name < path.name)
