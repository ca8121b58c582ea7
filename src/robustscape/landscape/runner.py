"""The one runner of measurements: points in turn, by rank or in a pool of processes, resumable, with progress."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from robustscape.config import to_plain
from robustscape.evaluation.subject import drained, precision
from robustscape.results import provenance, stopwatch, versions, written
from robustscape.runtime import fast, threads
from robustscape.runtime.ranks import from_first, gathered, is_first, rank, world
from robustscape.types import BadInput, Measurement, Plain, Provenanced, Subject


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
            there if settings, model, examples and versions are the same, and begins anew if not. It stays when
            the Result is made: remove it once the Result is saved.
        processes: Above 1: that many processes of one thread each, on the CPU, each with its own copy of the
            subject. A script that asks for it needs ``if __name__ == "__main__":``.

    Raises:
        BadInput: processes below 1, or above 1 with several ranks, a model on an accelerator or one that cannot be
            pickled.
        Diverged: a loss is not finite.
    """
    if processes < 1:
        raise BadInput(f"processes must be at least 1, not {processes}")
    if processes > 1 and world() > 1:
        raise BadInput(f"the points are shared by {world()} ranks already; leave out processes={processes}")
    seconds = stopwatch()
    points = list(measurement.points())
    known = _Partial(partial if is_first() else None, _fingerprint(measurement, subject), len(points))
    values, before = from_first(known.read())
    missing = [i for i in range(len(points)) if i not in values]
    yield len(values), len(points)
    some = min(processes, len(missing))
    made = (
        _pooled(measurement, subject, points, missing, some)
        if some > 1
        else _turn(measurement, subject, points, missing)
    )
    try:
        for number, value in made:
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
    result = measurement.collect(subject, [values[i] for i in range(len(points))], where)
    return result


def _turn(
    measurement: Measurement, subject: Subject, points: Sequence[Plain], missing: Sequence[int]
) -> Generator[tuple[int, Plain], None, None]:
    """Measure the missing points here, one after the other; of several ranks each measures one at a time."""
    for first in range(0, len(missing), world()):
        together = missing[first : first + world()]
        mine = together[rank()] if rank() < len(together) else None
        value = None if mine is None else _as_stored(measurement.at(subject, points[mine]))
        yield from zip(together, gathered(value), strict=False)


def _as_stored(value: Plain) -> Plain:
    """Return the value as it would come back from a file, so that resuming changes nothing."""
    return json.loads(json.dumps(value))


# -- what is kept of an unfinished measurement ---------------------------------------------------------


def _fingerprint(measurement: Measurement, subject: Subject) -> str:
    """Return a hash of all that the values depend on."""
    digest = hashlib.blake2b(digest_size=16)
    settings = [to_plain(measurement), subject.seed, subject.batch, to_plain(subject.runtime), versions()]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    named = {"x": subject.x, "y": subject.y, "index": subject.index, **subject.model.state_dict()}
    for name, value in named.items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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


# -- the process pool ----------------------------------------------------------------------------------


def _pooled(
    measurement: Measurement, subject: Subject, points: Sequence[Plain], missing: Sequence[int], processes: int
) -> Generator[tuple[int, Plain], None, None]:
    """Measure the missing points in processes of their own; values come in the order they are finished."""
    context = multiprocessing.get_context("spawn")
    parcel = _parcel(measurement, subject)
    workers: dict[Connection, Any] = {}
    todo: Iterator[int] = iter(missing)
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            workers[ours] = context.Process(target=_work, args=(theirs,), daemon=True)
            workers[ours].start()
            theirs.close()
        busy = list(workers)
        for connection in busy:
            _asked(connection, parcel, _next(points, todo))
        while busy:
            ready = wait(busy)[0]
            assert isinstance(ready, Connection)
            number, value = _answer(ready)
            following = _next(points, todo)
            _asked(ready, None, following)
            if following is None:
                busy.remove(ready)
            yield number, value
    finally:
        for connection, process in workers.items():
            connection.close()
            process.terminate()
            process.join()


_DIED = "a measuring process died: was the machine out of memory, or a script without `if __name__ == '__main__':`?"


def _asked(connection: Connection, parcel: bytes | None, task: tuple[int, Plain] | None) -> None:
    """Send a worker its next task, None for no more, after the parcel where it has none yet."""
    try:
        if parcel is not None:
            connection.send_bytes(parcel)
        connection.send(task)
    except OSError:
        raise RuntimeError(_DIED) from None


def _answer(connection: Connection) -> tuple[int, Plain]:
    """Return what a worker has measured; an error there is raised here."""
    try:
        number, value = connection.recv()
    except (EOFError, OSError):
        raise RuntimeError(_DIED) from None
    if isinstance(value, BaseException):
        raise value
    return number, value


def _next(points: Sequence[Plain], todo: Iterator[int]) -> tuple[int, Plain] | None:
    number = next(todo, None)
    return None if number is None else (number, points[number])


def shareable(measurement: Measurement, subject: Subject) -> bool:
    """Return whether processes of their own can share the points: on the CPU, with a model that can be sent to them."""
    try:
        return world() == 1 and bool(_parcel(measurement, subject))
    except BadInput:
        return False


def _parcel(measurement: Measurement, subject: Subject) -> bytes:
    """Return both as bytes: copies, so that no process shares weights with another."""
    if subject.x.device.type != "cpu":
        raise BadInput(f"processes share the CPU, and the model is on {subject.x.device}; did you mean processes=1?")
    try:
        return pickle.dumps((measurement, replace(subject, view=fast(subject.model, subject.runtime))))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BadInput(f"the model cannot be sent to other processes ({error}); did you mean processes=1?") from None


def _work(connection: Connection) -> None:
    """Measure what the connection asks for until it asks for nothing, or is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    measurement, subject = pickle.loads(connection.recv_bytes())
    try:
        while (asked := connection.recv()) is not None:
            number, point = asked
            try:
                value = _as_stored(measurement.at(subject, point))
            except Exception as error:
                value = error
            connection.send((number, value))
    except (EOFError, BrokenPipeError):
        return
