"""The one runner of measurements: points in turn, by rank or in a pool of processes, resumable, with progress."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

from robustscape.config import is_component, to_plain
from robustscape.evaluation.fingerprint import fingerprint
from robustscape.evaluation.subject import drained, precision
from robustscape.results import provenance, stopwatch, written
from robustscape.runtime import Runtime, fast, threads
from robustscape.runtime.memory import Parts
from robustscape.runtime.pool import pooled, sendable
from robustscape.runtime.predicting import available, fitting, search_bytes
from robustscape.runtime.ranks import from_first, gathered, is_first, rank, world
from robustscape.types import BadInput, Grouped, Measurement, Plain, Provenanced, Subject, Threat


def under(threat: Threat, measurement: Measurement) -> Measurement:
    """Return the measurement with all its attacks under one threat model, such as that which judges a run."""
    parts = {f.name: getattr(measurement, f.name) for f in fields(measurement)}  # pyright: ignore[reportArgumentType]
    attacks = {name: part for name, part in parts.items() if is_component(part) and hasattr(part, "threat")}
    return replace(measurement, **{name: replace(part, threat=threat) for name, part in attacks.items()})  # pyright: ignore[reportArgumentType]


def stem(measurement: Measurement) -> str:
    """Return what its Result's file is called before the checkpoint: its ``stem`` where it has one, or its name."""
    return getattr(measurement, "stem", measurement.name)


def measure(
    measurement: Measurement, subject: Subject, *, partial: Path | None = None, processes: int = 1
) -> Provenanced:
    """Measure all points and return the Result; see ``measuring``."""
    with threads(subject.runtime):
        return drained(measuring(measurement, subject, partial=partial, processes=processes))


def measuring(
    measurement: Measurement, subject: Subject, *, partial: Path | None = None, processes: int = 1
) -> Generator[tuple[int, int], None, Provenanced]:
    """Measure all points, yielding (done, total) after each; returns the Result.

    Ranks share the points, and all return the Result of the whole; only the first keeps ``partial``.

    Args:
        measurement: What is measured.
        subject: What is looked at.
        partial: File that finished points are kept in, a JSON line each: a killed measurement goes on from
            there if settings, model, examples, versions, threads and the points taken in one go are the same, and
            begins anew if not. It stays when the Result is made: remove it once the Result is saved.
        processes: Above 1: that many processes of one thread each, on the CPU, each with its own copy of the
            subject and its share of the memory; fewer where fewer points are left. A script that asks for it needs
            ``if __name__ == "__main__":``.

    Raises:
        BadInput: processes below 1, or above 1 with several ranks, a model on an accelerator, one that cannot be
            pickled, or too little memory for so many.
        Diverged: a loss is not finite.
        RankLost: one of the processes died.
    """
    if processes < 1:
        raise BadInput(f"processes must be at least 1, not {processes}")
    if processes > 1 and world() > 1:
        raise BadInput(f"the points are shared by {world()} ranks already; leave out processes={processes}")
    seconds = stopwatch()
    points = list(measurement.points())
    subject = _in_share(subject, processes)
    size = _task_size(measurement, subject, len(points), max(processes, world()))
    known = _Partial(partial if is_first() else None, fingerprint(subject, to_plain(measurement), size), len(points))
    values, before = from_first(known.read())
    yield len(values), len(points)
    tasks = [range(first, min(first + size, len(points))) for first in range(0, len(points), size)]
    tasks = [task for task in tasks if not values.keys() >= set(task)]
    made = (
        _pooled(measurement, subject, points, tasks, processes)
        if processes > 1  # for a single task too: it has the bits of one thread, as it had before a kill
        else _turn(measurement, subject, points, tasks)
    )
    try:
        for number, value in made:
            if number in values:
                continue
            values[number] = value
            known.add(number, value, before + seconds())
            yield len(values), len(points)
    finally:
        made.close()
    where = provenance(
        seconds=before + seconds(),
        device=subject.x.device,
        precision=precision(subject),
        seed=subject.seed,
        model=subject.model_name,
        data=subject.data_name,
        settings=measurement,
    )
    where = replace(where, threads=1) if processes > 1 else where
    return measurement.collect(subject, [values[i] for i in range(len(points))], where)


def _in_share(subject: Subject, processes: int) -> Subject:
    """Return the subject as each of several processes looks at it: with one thread and a part of the memory."""
    if processes == 1:
        return subject
    runtime: Runtime = replace(subject.runtime, threads=1)
    n = min(subject.batch, len(subject.x))
    size = fitting(n, search_bytes(subject.model, runtime, subject.x), available(runtime, sharing=processes))
    whole = subject.parts is None or size < subject.parts.size
    return replace(subject, runtime=runtime, parts=Parts(size) if size < n and whole else subject.parts)


def _task_size(measurement: Measurement, subject: Subject, count: int, workers: int) -> int:
    """Return how many points are measured in one go: one, or as many as one pass takes.

    The same points always go together, also with some that are known already, so that each has the same bits.
    """
    most = measurement.at_once(subject) if isinstance(measurement, Grouped) else 1
    return max(1, min(most, -(-count // workers)))


def _values(measurement: Measurement, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
    """Measure the points of a task."""
    if isinstance(measurement, Grouped) and measurement.at_once(subject) > 1:
        return _as_stored(measurement.several(subject, points))
    return _as_stored([measurement.at(subject, point) for point in points])


def _turn(
    measurement: Measurement, subject: Subject, points: Sequence[Plain], tasks: Sequence[Sequence[int]]
) -> Generator[tuple[int, Plain], None, None]:
    """Measure the missing points here, one task after the other; of several ranks each does one at a time."""
    for first in range(0, len(tasks), world()):
        together = tasks[first : first + world()]
        mine = together[rank()] if rank() < len(together) else []
        values = _values(measurement, subject, [points[number] for number in mine])
        for numbers, found in zip(together, gathered(values), strict=False):
            yield from zip(numbers, found, strict=True)


def _as_stored(value: Plain) -> Plain:
    """Return the value as it would come back from a file, so that resuming changes nothing."""
    return json.loads(json.dumps(value))


# -- what is kept of an unfinished measurement ---------------------------------------------------------


class _Partial:
    """The file of finished points: a line that says what they belong to, then a line each."""

    def __init__(self, path: Path | None, fingerprint: str, total: int) -> None:
        self.path = path
        self.header = {"fingerprint": fingerprint, "points": total}

    def read(self) -> tuple[dict[int, Plain], float]:
        """Return the values known and the seconds they took; leaves a file that can be added to."""
        values: dict[int, Plain] = {}
        seconds = 0.0
        if self.path is None:
            return values, seconds
        good = [json.dumps(self.header)]
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            for text in lines[1:] if lines[:1] == good else []:
                try:
                    entry = json.loads(text)
                except ValueError:
                    break  # a kill cut it short
                values[entry["point"]], seconds = entry["value"], entry["seconds"]
                good.append(text)
        with written(self.path, "w") as file:
            file.writelines(f"{text}\n" for text in good)
        return values, seconds

    def add(self, number: int, value: Plain, seconds: float) -> None:
        """Keep one more value, safe on disk when this returns."""
        if self.path is None:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps({"point": number, "value": value, "seconds": round(seconds, 3)}) + "\n")
            file.flush()
            os.fsync(file.fileno())


# -- processes side by side -----------------------------------------------------------------------------

_Parcel = tuple[Measurement, Subject, Sequence[Plain]]


def shareable(measurement: Measurement, subject: Subject) -> bool:
    """Return whether processes of their own can share the points: on the CPU, with a model that can be sent to them."""
    if world() > 1 or subject.x.device.type != "cpu":
        return False
    return sendable(_measured, _parcel(measurement, subject, measurement.points()))


def _parcel(measurement: Measurement, subject: Subject, points: Sequence[Plain]) -> _Parcel:
    """Return what every process is sent: with a view that nothing was derived for yet."""
    if subject.x.device.type != "cpu":
        raise BadInput(f"processes share the CPU, and the model is on {subject.x.device}; did you mean processes=1?")
    return measurement, replace(subject, view=fast(subject.model, subject.runtime)), points


def _pooled(
    measurement: Measurement,
    subject: Subject,
    points: Sequence[Plain],
    tasks: Sequence[Sequence[int]],
    processes: int,
) -> Generator[tuple[int, Plain], None, None]:
    """Measure the missing points in processes of their own; values come in the order they are finished."""
    with closing(pooled(_measured, _parcel(measurement, subject, points), tasks, processes=processes)) as made:
        for _, found in made:
            yield found


def _measured(parcel: _Parcel, numbers: Sequence[int]) -> Iterator[tuple[int, Plain]]:
    """Measure the points of one task in a process of its own."""
    measurement, subject, points = parcel
    yield from zip(numbers, _values(measurement, subject, [points[number] for number in numbers]), strict=True)
