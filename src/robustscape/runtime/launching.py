"""Starting ranks: processes of this machine, or those that ``torchrun`` has started, joined under Lightning Fabric.

Whatever fails on a rank is raised where they were started, once: the first reason that is one. What is lost stops
the others.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.distributed as dist

from robustscape.runtime.processes import GRACE, lost, raised, warn_plainly
from robustscape.runtime.ranks import RankLost
from robustscape.runtime.settings import Runtime
from robustscape.types import BadInput

_PATIENCE = timedelta(minutes=30)  # what waits longer for another rank gives it up as hung


def started(devices: int) -> int:
    """Return how many ranks there are to be: as many as ``torchrun`` started, or else ``devices``.

    Raises:
        BadInput: both say something, and not the same.
    """
    if not under_torchrun():
        return devices
    count = int(os.environ["WORLD_SIZE"])
    if devices not in (1, count):
        raise BadInput(f"devices is {devices}, but torchrun started {count} processes; leave one of the two out")
    return count


def launch(work: Callable[..., object], *arguments: Any, runtime: Runtime) -> None:
    """Run ``work(*arguments)`` on every rank: here, or in ``runtime.devices`` processes of their own.

    Under ``torchrun`` this process is a rank already and joins the others. Processes that are started here get
    copies of the arguments; a script that starts them needs ``if __name__ == "__main__":``.

    Args:
        work: A function of a module, so that other processes can import it; what it returns is dropped.
        *arguments: What it is called with; anything that can be pickled.
        runtime: How many processes, on the CPU or one on each of the first CUDA devices.

    Raises:
        BadInput: devices that are not there, or that cannot be shared out.
        RankLost: a rank died without a reason of its own, was killed for example.
        Exception: what the work raised on any rank.
    """
    count, kind = started(runtime.devices), runtime.torch_device()
    if count == 1:
        work(*arguments)
        return
    if kind.type not in ("cpu", "cuda") or kind.index is not None:
        raise BadInput(f"devices is {count}, and device {str(kind)!r} is one; did you mean device cpu or cuda?")
    if under_torchrun():
        _join(int(os.environ["LOCAL_WORLD_SIZE"]), kind.type)
        work(*arguments)
        dist.destroy_process_group()
        return
    if kind.type == "cuda" and count > torch.cuda.device_count():
        raise BadInput(f"devices is {count}, but torch sees {torch.cuda.device_count()} of CUDA")
    _start(count, kind.type, work, arguments)


def under_torchrun() -> bool:
    """Return whether ``torchrun`` has started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def _join(local: int, kind: str) -> None:
    """Join the process group that the environment describes, as one of ``local`` ranks on this machine."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets with a banner
    environment = TorchElasticEnvironment() if under_torchrun() else LightningEnvironment()
    nodes = int(os.environ["WORLD_SIZE"]) // local
    strategy = DDPStrategy(timeout=_PATIENCE)
    Fabric(accelerator=kind, devices=local, num_nodes=nodes, strategy=strategy, plugins=[environment]).launch()


def _start(count: int, kind: str, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Run the work in processes of this machine until all are done, or one fails."""
    from torch.multiprocessing import get_context, start_processes

    reasons = get_context("spawn").SimpleQueue()
    given = (count, kind, _free_port(), reasons, work, arguments)
    running: Any = start_processes(_rank, given, nprocs=count, join=False, start_method="spawn")
    processes: list[Any] = running.processes
    try:
        _watch(processes)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join(GRACE)
                process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise _cause(reasons, codes)


def _watch(processes: Sequence[Any]) -> None:
    """Wait until all are done; where one fails, the others have a while to see it and stop."""
    while running := [process.sentinel for process in processes if process.is_alive()]:
        if any(process.exitcode for process in processes):
            break
        wait(running)  # waits for ever where it is given nothing
    end = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))


def _rank(
    local: int, count: int, kind: str, port: int, reasons: Any, work: Callable[..., object], arguments: Any
) -> None:
    """Be one of the processes."""
    place = {"LOCAL_RANK": local, "NODE_RANK": 0, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    warn_plainly()
    try:
        _join(count, kind)
        work(*arguments)
        dist.destroy_process_group()
    except Exception as error:  # whatever the work raises is raised where the ranks were started
        reasons.put((local, raised(error, f"on rank {local}")))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # an orderly end would wait for the connections to the others


def _cause(reasons: Any, codes: Sequence[int | None]) -> Exception:
    """Return why the processes ended: what one of them raised, or else that one was killed."""
    said: dict[int, Exception] = {}
    while not reasons.empty():
        number, error = reasons.get()
        said[number] = error
    for number in sorted(said):
        if not isinstance(said[number], RankLost):
            return said[number]
    # One that had to be terminated, because it did not stop by itself, is not the one that began it.
    silent = sorted((code == -signal.SIGTERM, n, code) for n, code in enumerate(codes) if code and n not in said)
    if not silent:
        return said[min(said)]
    _, number, code = silent[0]
    return lost(f"rank {number} of {len(codes)}", code)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
