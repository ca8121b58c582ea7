"""Ranks: several processes that share one job, started here or by ``torchrun``, and what they say to each other.

Every rank runs the same program on its share of the examples, batches or points. Networks are never wrapped:
``mean_over_ranks`` is the one reduction of training. Without a process group there is one rank, number 0, and
nothing here costs anything.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import reduce
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from robustscape.runtime.settings import Runtime
from robustscape.types import BadInput

T = TypeVar("T")

_PATIENCE = timedelta(minutes=30)  # what waits longer for another rank gives it up as hung
_GRACE = 5.0  # seconds that ranks have to stop by themselves once one has failed
_LONGEST = 8000  # characters of a traceback that are passed on


class RankLost(RuntimeError):
    """Another rank is gone, so this one cannot go on."""


# -- who is there --------------------------------------------------------------------------------------


def world() -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, in [0, world())."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Return whether this is rank 0: the one that writes files and prints."""
    return rank() == 0


def share(count: int) -> slice:
    """Return which of ``count`` rows are this rank's: contiguous, sizes differing by at most one, perhaps none."""
    least, more = divmod(count, world())
    start = rank() * least + min(rank(), more)
    return slice(start, start + least + (rank() < more))


def turns(items: Iterable[T]) -> Iterator[T]:
    """Yield this rank's items: every world()-th, so that all ranks together have each once."""
    return islice(items, rank(), None, world())


# -- what they say to each other -----------------------------------------------------------------------


def mean_over_ranks(tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
    """Return the mean of each tensor over the ranks, in one reduction; the same bits on every rank.

    Args:
        tensors: As many of the same shapes and types on every rank.
        weight: How much this rank's count, at least 0: the number of examples that they are means over gives
            the mean over all examples.

    Raises:
        RankLost: another rank is gone.
    """
    if world() == 1:
        return list(tensors)
    dtype = reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    flat = torch.cat([*(t.detach().reshape(-1).to(dtype) for t in tensors), tensors[0].new_ones(1, dtype=dtype)])
    flat = sum_over_ranks(flat.mul_(weight))
    means = (flat[:-1] / flat[-1]).split([tensor.numel() for tensor in tensors])
    return [mean.view(tensor.shape).to(tensor.dtype) for mean, tensor in zip(means, tensors, strict=True)]


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks, on every rank; the tensor itself where there is one rank.

    Raises:
        RankLost: another rank is gone.
    """
    if world() == 1:
        return tensor
    total = tensor.clone() if dist.get_backend() != "nccl" else tensor.clone().cuda()
    with _connected():
        dist.all_reduce(total)
    return total.to(tensor.device)


def gathered(value: T) -> list[T]:
    """Return the values of all ranks, in their order, on every rank; anything that can be pickled.

    Raises:
        RankLost: another rank is gone.
    """
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    with _connected():
        dist.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """Return rank 0's value, on every rank; anything that can be pickled.

    Raises:
        RankLost: another rank is gone.
    """
    if world() == 1:
        return value
    values = [value]
    with _connected():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every rank is here.

    Raises:
        RankLost: another rank is gone.
    """
    gathered(None)


@contextmanager
def _connected() -> Iterator[None]:
    """Say in one sentence what a broken connection means."""
    try:
        yield
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RankLost(
            f"process {rank() + 1} of {world()} stopped because another one is gone ({reason[-120:]}); the same "
            "command goes on from the last saved state"
        ) from error


# -- starting them -------------------------------------------------------------------------------------


def started(devices: int) -> int:
    """Return how many ranks there are to be: as many as ``torchrun`` started, or else ``devices``.

    Raises:
        BadInput: both say something, and not the same.
    """
    if not _under_torchrun():
        return devices
    count = int(os.environ["WORLD_SIZE"])
    if devices not in (1, count):
        raise BadInput(f"devices is {devices}, but torchrun started {count} processes; leave one of the two out")
    return count


def launch(work: Callable[..., None], *arguments: Any, runtime: Runtime) -> None:
    """Run ``work(*arguments)`` on every rank: here, or in ``runtime.devices`` processes of their own.

    Under ``torchrun`` this process is a rank already and joins the others. Processes that are started here get
    copies of the arguments; a script that starts them needs ``if __name__ == "__main__":``.

    Args:
        work: A function of a module, so that other processes can import it.
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
    if _under_torchrun():
        _join(int(os.environ["LOCAL_WORLD_SIZE"]), kind.type)
        work(*arguments)
        dist.destroy_process_group()
        return
    if kind.type == "cuda" and count > torch.cuda.device_count():
        raise BadInput(f"devices is {count}, but torch sees {torch.cuda.device_count()} of CUDA")
    _start(count, kind.type, work, arguments)


def _under_torchrun() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


def _join(local: int, kind: str) -> None:
    """Join the process group that the environment describes, as one of ``local`` ranks on this machine."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets with a banner
    environment = TorchElasticEnvironment() if _under_torchrun() else LightningEnvironment()
    nodes = int(os.environ["WORLD_SIZE"]) // local
    strategy = DDPStrategy(timeout=_PATIENCE)
    Fabric(accelerator=kind, devices=local, num_nodes=nodes, strategy=strategy, plugins=[environment]).launch()


def _start(count: int, kind: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run the work in processes of this machine until all are done, or one fails."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, get_context, start_processes

    reasons = get_context("spawn").SimpleQueue()
    given = (count, kind, _free_port(), reasons, work, arguments)
    running = start_processes(_rank, given, nprocs=count, join=False, start_method="spawn")
    assert running is not None
    try:
        while not running.join(grace_period=_GRACE):
            pass
    except (ProcessExitedException, ProcessRaisedException) as end:
        raise _cause(reasons, str(end), [process.exitcode for process in running.processes]) from None
    finally:
        for process in running.processes:
            if process.is_alive():
                process.terminate()
            process.join()


def _rank(
    local: int, count: int, kind: str, port: int, reasons: Any, work: Callable[..., None], arguments: Any
) -> None:
    """Be one of the processes."""
    place = {"LOCAL_RANK": local, "NODE_RANK": 0, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    try:
        _join(count, kind)
        work(*arguments)
        dist.destroy_process_group()
    except Exception as error:
        error.add_note(f"on rank {local}: {traceback.format_exc()[-_LONGEST:]}")
        reasons.put((local, _portable(error)))
        raise SystemExit(1) from None


def _portable(error: Exception) -> Exception:
    """Return the error, or one that says the same where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("\n".join((f"{type(error).__name__}: {error}", *error.__notes__)))
    return error


def _cause(reasons: Any, end: str, codes: Sequence[int | None]) -> Exception:
    """Return why the processes ended: what one of them raised, or else that one was killed."""
    said: dict[int, Exception] = {}
    while not reasons.empty():
        number, error = reasons.get()
        said[number] = error
    for number in sorted(said):
        if not isinstance(said[number], RankLost):
            return said[number]
    silent = [number for number, code in enumerate(codes) if code and number not in said]
    who = f"process {silent[0] + 1} of {len(codes)}" if silent else "a process"
    return RankLost(
        f"{who} died ({end}), and the others stopped: was it killed, or the machine out of memory? The same command "
        "goes on from the last saved state"
    )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
