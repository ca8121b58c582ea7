"""Measurements of the landscape while a network trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from robustscape.evaluation.subject import subject
from robustscape.landscape.runner import measuring, stem, under
from robustscape.recipes.begun import Begun
from robustscape.results import save
from robustscape.runtime.ranks import from_first, is_first
from robustscape.types import Measurement, Subject


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
    A measurement that was stopped goes on with the points that are left. Ranks share the points.

    Args:
        begun: The run, between two epochs; in the middle of one nothing is due.
    """
    run, state = begun.run, begun.state
    if not run.watch.due(state.epoch, run.training.epochs) or state.done != state.epoch * len(begun.loader):
        return
    for measurement in run.watch.measurements:
        path = begun.out / "results" / f"{stem(measurement)}-epoch-{state.epoch:04d}.json"
        if from_first(path.exists()):
            continue
        yield from _made(begun, under(run.evaluation.threat(), measurement), looked_at(begun))


def looked_at(begun: Begun) -> Subject:
    """Return what a run's measurements look at: its present network and the first images of a split."""
    run, watch = begun.run, begun.run.watch
    images = getattr(begun.splits, watch.split)
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
        split=watch.split,
        model_name=f"{begun.out}, epoch {begun.state.epoch}",
        data_name=images.name if len(some) == len(images) else f"{images.name}, first {len(some)}",
    )


def _made(begun: Begun, measurement: Measurement, looked_at: Subject) -> Iterator[Measuring]:
    """Carry out one measurement; the first rank writes."""
    epoch = begun.state.epoch
    path = begun.out / "results" / f"{stem(measurement)}-epoch-{epoch:04d}.json"
    partial = path.with_suffix(".partial")
    work = measuring(measurement, looked_at, partial=partial)
    total = 0
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            result = end.value
            break
        yield Measuring(epoch=epoch, name=measurement.name, done=done, total=total)
    if is_first():
        save(result, path)
        partial.unlink(missing_ok=True)
    yield Measuring(epoch=epoch, name=measurement.name, done=total, total=total, file=str(path))
