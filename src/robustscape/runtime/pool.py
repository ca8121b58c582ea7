"""Processes side by side on the CPU, of one thread each: for networks too narrow to keep all threads busy.

They end with the process that asked for them, however that one ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

from robustscape.runtime.processes import GRACE, lost, raised, warn_plainly
from robustscape.types import BadInput

P = TypeVar("P")
T = TypeVar("T")
Item = TypeVar("Item")


def pooled(
    work: Callable[[P, T], Iterable[Item]], parcel: P, tasks: Sequence[T], *, processes: int
) -> Generator[tuple[T, Item], None, None]:
    """Run ``work(parcel, task)`` for every task in processes of one thread each; yield (task, item) as items come.

    Tasks begin in their order, as many at a time as there are processes. Closing the generator ends the processes
    in the middle of what they do. They ignore Ctrl-C, which is for this process to answer. A script that calls
    this needs ``if __name__ == "__main__":``.

    Args:
        work: A function of a module. Each of its items is passed on at once, so a generator function can tell how
            far it is.
        parcel: What all tasks have in common, copied to every process once.
        tasks: What tells the tasks apart, small.
        processes: How many, at least 1; no more are started than there are tasks.

    Yields:
        A task and an item that the work gave for it; a task's items in their order.

    Raises:
        BadInput: the parcel cannot be sent to another process.
        RankLost: a process died without a reason of its own, was killed for example.
        Exception: what the work raised on a task.
    """
    sent, waiting = _packed(work, parcel), iter(tasks)
    workers: dict[Connection, _Worker[T]] = {}
    try:
        with _interrupts_ignored():
            for task in islice(waiting, processes):
                worker = _started(task)
                workers[worker.connection] = worker
        for worker in workers.values():
            with _alive(worker):
                worker.connection.send_bytes(sent)
                worker.connection.send((worker.task,))
        busy = dict(workers)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker = busy[ready]
                with _alive(worker):
                    kind, value = ready.recv()
                if kind == "error":
                    raise value
                if kind == "item":
                    yield worker.task, value
                    continue
                following = tuple(islice(waiting, 1))
                with _alive(worker):
                    ready.send(following)
                if following:
                    worker.task = following[0]
                else:
                    del busy[ready]
    finally:
        _ended(workers.values())


def sendable(work: Callable[..., Any], parcel: Any) -> bool:
    """Return whether ``pooled`` could send this to its processes."""
    try:
        return bool(_packed(work, parcel))
    except BadInput:
        return False


# -- where the work is asked for -----------------------------------------------------------------------


@dataclass
class _Worker(Generic[T]):
    """A process and what it does at present."""

    process: BaseProcess
    connection: Connection
    task: T


def _packed(work: Callable[..., Any], parcel: Any) -> bytes:
    """Return both as bytes: copies, so that no process shares memory with another."""
    try:
        return pickle.dumps((work, parcel))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BadInput(f"this cannot be sent to other processes ({error}); did you mean processes=1?") from None


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let the processes that the block starts ignore Ctrl-C from the beginning, long before they can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _started(task: T) -> _Worker[T]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, connection=ours, task=task)


@contextmanager
def _alive(worker: _Worker[Any]) -> Iterator[None]:
    """Say in one sentence what a broken connection to a process means."""
    try:
        yield
    except (EOFError, OSError):
        worker.process.join(GRACE)
        raise lost("a process side by side with others", worker.process.exitcode) from None


def _ended(workers: Iterable[_Worker[Any]]) -> None:
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join()
        worker.process.close()


# -- in the processes ----------------------------------------------------------------------------------


def _serve(connection: Connection) -> None:
    """Work on one task after the other until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    warn_plainly()
    with suppress(OSError):  # whoever asked is gone
        try:
            work, parcel = pickle.loads(connection.recv_bytes())
            while task := connection.recv():
                for item in work(parcel, *task):
                    connection.send(("item", item))
                connection.send(("end", None))
        except Exception as error:  # whatever the work raises is raised where it was asked for
            connection.send(("error", raised(error, "in a process of its own")))


def _end_with_parent() -> None:
    """Wait for the process that started this one to end, and end at once: its work may take long and is not wanted."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
