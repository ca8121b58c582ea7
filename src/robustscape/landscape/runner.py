"""The one runner of measurements: points in turn, by rank, in a pool of processes or on a cluster; resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import fields, replace
from pathlib import Path

from robustscape.config import is_component, to_plain
from robustscape.evaluation.fingerprint import fingerprint
from robustscape.evaluation.subject import drained, precision
from robustscape.results import provenance, stopwatch, versions, written
from robustscape.runtime import Runtime, fast, threads
from robustscape.runtime.cluster import Cluster, clustered
from robustscape.runtime.memory import Parts
from robustscape.runtime.pool import pooled, sendable
from robustscape.runtime.predicting import available, fitting, search_bytes
from robustscape.runtime.ranks import from_first, gathered, is_first, rank, world
from robustscape.streams import torch_draws
from robustscape.types import BadInput, Diverged, Grouped, Measurement, Plain, Provenanced, Subject, Threat


def under(threat: Threat, measurement: Measurement) -> Measurement:
    """Return the measurement with all its attacks under one threat model, such as that which judges a run."""
    parts = {f.name: getattr(measurement, f.name) for f in fields(measurement)}  # pyright: ignore[reportArgumentType]
    attacks = {name: part for name, part in parts.items() if is_component(part) and hasattr(part, "threat")}
    return replace(measurement, **{name: replace(part, threat=threat) for name, part in attacks.items()})  # pyright: ignore[reportArgumentType]


def stem(measurement: Measurement) -> str:
    """Return what its Result's file is called before the checkpoint: its ``stem`` where it has one, or its name."""
    return getattr(measurement, "stem", measurement.name)


def measure(
    measurement: Measurement,
    subject: Subject,
    *,
    partial: Path | None = None,
    processes: int = 1,
    cluster: Cluster | None = None,
) -> Provenanced:
    """Measure all points and return the Result; see ``measuring``."""
    with threads(subject.runtime):
        return drained(measuring(measurement, subject, partial=partial, processes=processes, cluster=cluster))


def measuring(
    measurement: Measurement,
    subject: Subject,
    *,
    partial: Path | None = None,
    processes: int = 1,
    cluster: Cluster | None = None,
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
        cluster: A Ray cluster, from ``runtime.cluster.joined``, whose CPUs share the points: each by itself, with one
            thread, so that its bits do not depend on how many nodes there are. In place of processes.

    Raises:
        BadInput: processes below 1; several of ranks, processes and a cluster; with processes or a cluster a model
            on an accelerator or one that cannot be pickled, too little memory for so many, or nodes with other
            versions than here.
        NotApplicable: the network is not one that can be measured so.
        Diverged: a loss is not finite.
        RankLost: one of the processes died, or workers of the cluster again and again.
    """
    _check_sharing(processes, cluster)
    seconds = stopwatch()
    points = list(measurement.points())
    alone = processes > 1 or cluster is not None
    subject = _in_share(subject, cluster.most if cluster else processes) if alone else subject
    size = 1 if cluster else _task_size(measurement, subject, len(points), max(processes, world()))
    known = _Partial(partial if is_first() else None, fingerprint(subject, to_plain(measurement), size), len(points))
    values, before = from_first(known.read())
    yield len(values), len(points)
    tasks = [range(first, min(first + size, len(points))) for first in range(0, len(points), size)]
    tasks = [task for task in tasks if not values.keys() >= set(task)]
    made = (
        _clustered(measurement, subject, points, tasks, cluster)
        if cluster
        else _pooled(measurement, subject, points, tasks, processes)
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
    where = replace(where, threads=1) if alone else where
    return measurement.collect(subject, [values[i] for i in range(len(points))], where)


def _check_sharing(processes: int, cluster: Cluster | None) -> None:
    """Refuse points that would be shared out twice."""
    if processes < 1:
        raise BadInput(f"processes must be at least 1, not {processes}")
    if processes > 1 and world() > 1:
        raise BadInput(f"the points are shared by {world()} ranks already; leave out processes={processes}")
    if cluster and (processes > 1 or world() > 1):
        others = f"processes={processes}" if processes > 1 else f"{world()} ranks"
        raise BadInput(f"the points are shared by a cluster already; leave out the {others}, or the cluster")


def _in_share(subject: Subject, processes: int) -> Subject:
    """Return the subject as each of several processes looks at it: with one thread and a part of the memory."""
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
    """Measure the points of a task; a model that draws from torch begins with the subject's seed at each point."""

    def drawing() -> AbstractContextManager[None]:
        return torch_draws(subject.seed, subject.x.device)

    if isinstance(measurement, Grouped) and measurement.at_once(subject) > 1:
        with drawing():
            return _as_stored(measurement.several(subject, points))
    found: list[Plain] = []
    for point in points:
        with drawing():
            found.append(measurement.at(subject, point))
    return _as_stored(found)


def _turn(
    measurement: Measurement, subject: Subject, points: Sequence[Plain], tasks: Sequence[Sequence[int]]
) -> Generator[tuple[int, Plain], None, None]:
    """Measure the missing points here, one task after the other; of several ranks each does one at a time."""
    for first in range(0, len(tasks), world()):
        together = tasks[first : first + world()]
        mine = together[rank()] if rank() < len(together) else []
        for numbers, found in zip(together, gathered(_tried(measurement, subject, points, mine)), strict=False):
            if isinstance(found, Exception):
                raise found
            yield from zip(numbers, found, strict=True)


def _tried(
    measurement: Measurement, subject: Subject, points: Sequence[Plain], numbers: Sequence[int]
) -> list[Plain] | BadInput | Diverged:
    """Return the values of a task, or why there are none: what one rank has found the others must know to go on."""
    try:
        return _values(measurement, subject, [points[number] for number in numbers])
    except (BadInput, Diverged) as error:
        return error


def _as_stored(value: Plain) -> Plain:
    """Return the value as it would come back from a file, so that resuming changes nothing."""
    return json.loads(json.dumps(value))


# -- what is kept of an unfinished measurement ---------------------------------------------------------


class _Partial:
    """The file of finished points: a line that says what they belong to, then a line each; none before the first."""

    def __init__(self, path: Path | None, fingerprint: str, total: int) -> None:
        self.path = path
        self.header = json.dumps({"fingerprint": fingerprint, "points": total})
        self.begun = False

    def read(self) -> tuple[dict[int, Plain], float]:
        """Return the values known and the seconds they took; where there are any the file can be added to."""
        values: dict[int, Plain] = {}
        seconds = 0.0
        if self.path is None or not self.path.exists():
            return values, seconds
        lines, good = self.path.read_text().splitlines(), []
        for text in lines[1:] if lines[:1] == [self.header] else []:
            try:
                entry = json.loads(text)
            except ValueError:
                break  # a kill cut it short
            values[entry["point"]], seconds = entry["value"], entry["seconds"]
            good.append(text)
        if good:
            self._begin(good)
        return values, seconds

    def add(self, number: int, value: Plain, seconds: float) -> None:
        """Keep one more value, safe on disk when this returns."""
        if self.path is None:
            return
        text = json.dumps({"point": number, "value": value, "seconds": round(seconds, 3)})
        if not self.begun:  # so late that what is refused leaves nothing behind
            return self._begin([text])
        with open(self.path, "a") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())

    def _begin(self, lines: Sequence[str]) -> None:
        """Write the file anew."""
        assert self.path is not None
        with written(self.path, "w") as file:
            file.writelines(f"{text}\n" for text in (self.header, *lines))
        self.begun = True


# -- processes side by side, and on a cluster -----------------------------------------------------------

_Parcel = tuple[Measurement, Subject, Sequence[Plain]]


def shareable(measurement: Measurement, subject: Subject) -> bool:
    """Return whether processes of their own can share the points: on the CPU, with a model that can be sent to them."""
    if world() > 1 or subject.x.device.type != "cpu":
        return False
    return sendable(_measured, _parcel(measurement, subject, measurement.points()))


def _parcel(measurement: Measurement, subject: Subject, points: Sequence[Plain]) -> _Parcel:
    """Return what every process is sent: with a view that nothing was derived for yet."""
    if subject.x.device.type != "cpu":
        raise BadInput(
            f"processes and clusters share CPUs, and the model is on {subject.x.device}; did you mean processes=1?"
        )
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


def _clustered(
    measurement: Measurement,
    subject: Subject,
    points: Sequence[Plain],
    tasks: Sequence[Sequence[int]],
    cluster: Cluster,
) -> Generator[tuple[int, Plain], None, None]:
    """Measure the missing points on a cluster; values come in the order they are finished."""
    parcel = versions(), _parcel(measurement, subject, points)
    with closing(clustered(_measured_there, parcel, tasks, cluster=cluster)) as made:
        for _, found in made:
            yield found


def _measured_there(parcel: tuple[dict[str, str], _Parcel], numbers: Sequence[int]) -> Iterator[tuple[int, Plain]]:
    """Measure the points of one task on a node that has the same versions as the machine that asks."""
    wanted, own = parcel
    here = versions()
    if unlike := [name for name in wanted if here.get(name) != wanted[name]]:
        differs = ", ".join(f"{name} {here.get(name)} and not {wanted[name]}" for name in unlike)
        raise BadInput(f"a node of the cluster has {differs}; install the same versions on every node")
    yield from _measured(own, numbers)
