"""Ranks: several processes that share one job, and what they say to each other; ``launching`` starts them.

Every rank runs the same program on its share of the examples, batches or points. Networks are never wrapped:
``mean_over_ranks`` is the one reduction of training. Without a process group there is one rank, number 0, and
nothing here costs anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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


def first_alone(make: Callable[[], T]) -> T:
    """Return what ``make`` gives, called on the first rank and then on the others: what it fetches is there for them.

    Raises:
        RankLost: another rank is gone.
    """
    if not is_first():
        barrier()
    made = make()
    if is_first():
        barrier()
    return made


@contextmanager
def _connected() -> Iterator[None]:
    """Say in one sentence what a broken connection means."""
    try:
        yield
    except RuntimeError as error:
        # gloo's is "[its source file] reason. What it has seen cause that."
        reason = re.sub(r"^\[\S+\] ", "", str(error).strip()).partition("\n")[0].partition(". ")[0]
        raise RankLost(
            f"rank {rank()} of {world()} stopped because another one is gone ({reason}); the same command goes on "
            "from what was saved"
        ) from error
