"""A Ray cluster that shares independent tasks between machines; with the extra ``cluster``.

Tasks are of one thread and one CPU each. One whose worker is lost is done again by another.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch

from robustscape.runtime.processes import raised, warn_plainly
from robustscape.runtime.ranks import RankLost
from robustscape.types import BadInput

P = TypeVar("P")
T = TypeVar("T")
Item = TypeVar("Item")

_AGAIN = 3  # times that a task is begun anew because its worker was lost
_PATIENCE = 5.0  # seconds that the head of a cluster has to answer
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # else a cluster started here reports to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of how a later Ray will treat accelerators
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray cluster that this process has joined, see ``joined``.

    Attributes:
        cpus: CPUs of all nodes together, at least 1.
        most: CPUs of the largest node: as many tasks may share the memory of one machine.
    """

    cpus: int
    most: int


@contextmanager
def joined(address: str) -> Iterator[Cluster]:
    """Join a Ray cluster for the block, without usage reports and dashboard.

    A program that has called ``ray.init`` already stays in the cluster that it is in, whatever the address, also
    after the block.

    Args:
        address: "local" for a cluster of this machine's CPUs, which ends with the block; "auto" for the one that this
            machine is a node of; or "HOST:PORT" of its head.

    Raises:
        BadInput: Ray is not installed, there is no such cluster, or none of its nodes has a CPU to give.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _join(ray, address)
    try:
        counts = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        if not any(counts):
            raise BadInput(f"no node of the Ray cluster {address!r} has a CPU to give")
        yield Cluster(cpus=sum(counts), most=max(counts))
    finally:
        if ours:
            ray.shutdown()


def clustered(
    work: Callable[[P, T], Iterable[Item]], parcel: P, tasks: Sequence[T], *, cluster: Cluster
) -> Generator[tuple[T, Item], None, None]:
    """Run ``work(parcel, task)`` for every task on a cluster; yield (task, item) as tasks are finished.

    Closing the generator ends what is still to be done. Every node needs the same installation of robustscape, and
    of what ``work`` and ``parcel`` import; what is defined in the script itself travels with them.

    Args:
        work: A function; its items are passed on together, once the task is finished.
        parcel: What all tasks have in common, copied to every node once.
        tasks: What tells the tasks apart, small.
        cluster: The cluster that ``joined`` gave; inside its block.

    Yields:
        A task and an item that the work gave for it; a task's items in their order.

    Raises:
        BadInput: the parcel cannot be sent.
        RankLost: workers died again and again over the same task, or a node has no robustscape.
        Exception: what the work raised on a task.
    """
    ray, waiting = _ray(), iter(tasks)
    try:
        sent = ray.put(ray.cloudpickle.dumps((work, parcel)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BadInput(f"this cannot be sent to a cluster ({error}); did you mean to leave cluster out?") from None
    # Actors rather than Ray's tasks, which cannot be cancelled safely: as these end, Ray 2.60 may abort this process.
    kind = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=_AGAIN)(_Worker)
    workers = [kind.remote() for _ in range(min(cluster.cpus, len(tasks)))]
    running: dict[Any, tuple[Any, tuple[T, ...]]] = {worker.begun.remote(): (worker, ()) for worker in workers}
    left = len(tasks)
    try:
        while left:  # a worker that other users of the cluster leave no CPU for has no task yet
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            worker, done = running.pop(ready)
            with _reachable(ray):
                how, value = ray.get(ready)
            if how == "error":
                raise value
            if following := tuple(islice(waiting, 1)):
                running[worker.done.remote(sent, *following)] = worker, following
            left -= len(done)
            for item in value:
                yield done[0], item
    finally:
        for worker in workers:
            ray.kill(worker)


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput("a cluster needs Ray, which is not installed; pip install 'robustscape[cluster]'") from None
    return ray


def _check_address(address: str) -> None:
    """Refuse what is no address, and where nobody listens: Ray itself would try for minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise BadInput(f"a cluster is local, auto or HOST:PORT, such as head:6379, not {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"there is no Ray cluster at {address!r} ({error}); did you mean local?") from None


def _join(ray: Any, address: str) -> None:
    _check_address(address)
    own = {"include_dashboard": False} if address == "local" else {}
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise BadInput(f"no Ray cluster could be joined at {address!r} ({reason}); did you mean local?") from None
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _reachable(ray: Any) -> Iterator[None]:
    """Say in one sentence what Ray's own errors mean."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise RankLost(
            f"the cluster lost {_AGAIN + 1} workers over the same task ({type(error).__name__}; was a node out of "
            "memory, or without robustscape?); the same command goes on from what was saved"
        ) from None


# -- on the nodes --------------------------------------------------------------------------------------


class _Worker:
    """A process of a node that does one task after the other; begun anew where it was lost."""

    def __init__(self) -> None:
        self.opened: Any = None
        torch.set_num_threads(1)
        warn_plainly()

    def begun(self) -> tuple[str, Any]:
        """Say that it has a CPU."""
        return "items", []

    def done(self, sent: bytes, task: Any) -> tuple[str, Any]:
        """Return ("items", all of a task's), or ("error", what the work raised); what is sent is always the same."""
        try:
            if self.opened is None:
                self.opened = pickle.loads(sent)
            work, parcel = self.opened
            return "items", list(work(parcel, task))
        except Exception as error:  # whatever the work raises is raised where it was asked for
            return "error", raised(error, "on the cluster")
