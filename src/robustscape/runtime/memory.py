"""Memory: how the same result is had with less of it. What is needed and what there is: ``predicting``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from robustscape.modes import evaluating, frozen_statistics, training
from robustscape.types import BadInput

T = TypeVar("T")

_LACKING = ("DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")  # the CPU, cuBLAS or cuDNN, CUDA


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there was too little memory, of an accelerator or of the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _LACKING)


@dataclass
class Parts:
    """Works through batches in parts that fit. Its size halves where memory runs out, and stays.

    Attributes:
        size: Examples at once, at least 1; by default the whole of any batch.
    """

    size: int = sys.maxsize

    def run(self, work: Callable[[slice], Tensor], n: int) -> Tensor:
        """Return what ``work`` gives for each part of n rows, put together in order; see ``each``."""
        done = list(self.each(work, n))
        return done[0] if len(done) == 1 else torch.cat(done)

    def each(self, work: Callable[[slice], T], n: int) -> Iterator[T]:
        """Give what ``work`` makes of each part of n rows, in order.

        Args:
            work: Is called again, for fewer rows, where memory ran out: it must then leave nothing behind.
            n: Rows.

        Raises:
            BadInput: not even one example fits.
        """
        start = 0
        while start < n:
            rows = slice(start, min(start + self.size, n))
            try:
                yield work(rows)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if rows.stop - rows.start == 1:
                    raise BadInput("out of memory for a single example; did you mean a smaller network?") from error
            else:
                start = rows.stop
                continue
            # Outside the handler, which holds the failed part's tensors.
            self.size = -(-(rows.stop - rows.start) // 2)
            torch.cuda.empty_cache()
            warnings.warn(f"out of memory: going on with {self.size} examples at once", stacklevel=2)


@contextmanager
def undivided(n: int, *, checkpointing: bool) -> Iterator[None]:
    """Run the block, which needs n examples at once, and say what it means where memory runs out.

    Args:
        n: Examples.
        checkpointing: Whether activations are computed again already.

    Raises:
        BadInput: it did.
    """
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        meant = "" if checkpointing else "runtime.checkpointing, or "
        raise BadInput(
            f"out of memory for {n} examples, which a network with batch or running statistics takes at once; did you "
            f"mean {meant}a smaller training.batch_size?"
        ) from error


def mixes_examples(model: nn.Module) -> bool:
    """Return whether an example's output in train mode depends on its company: batch normalisation does that.

    A foreign one that subclasses none of torch's is known by its class name.
    """
    return any(isinstance(module, _BatchNorm) or "BatchNorm" in type(module).__name__ for module in model.modules())


@dataclass
class Whole:
    """Whether training takes the batches of a model whole, found out when it is first asked.

    So it is where examples mix, and where a forward in train mode moves a buffer, such as the statistics of an
    instance normalisation or the vectors of a spectral one: parts of a batch would move it several times.

    Attributes:
        model: Is left without a trace.
        known: The answer, None before it is asked for.
    """

    model: nn.Module
    known: bool | None = None

    def __call__(self, x: Tensor) -> bool:
        """Return the answer; x, (N, C, H, W), are images that the model takes."""
        if self.known is None:
            self.known = mixes_examples(self.model) or _moves_buffers(self.model, x[:2].detach())
        return self.known


def _moves_buffers(model: nn.Module, x: Tensor) -> bool:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    drawn = torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else [])
    with torch.no_grad(), drawn, training(model), frozen_statistics(model):
        model(x)
        return not all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Run the block with the model's repeated blocks keeping no activations: the backward computes them again.

    The same function and gradients, about one forward more. What the second forward does to running statistics
    is taken back.
    """
    blocks = repeated(model)
    own = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = _twice(block, block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def repeated(model: nn.Module) -> list[nn.Module]:
    """Return the modules that follow one another in a sequence and are more than a single layer, each once.

    They are the outermost such ones, but for one that holds most of the network (the network itself behind a
    normalisation, say) those inside it, where there are any.
    """
    most = len(list(model.modules())) / 2
    return list(dict.fromkeys(_repeated(model, most)))


def _repeated(model: nn.Module, most: float) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in model.children():
        size = len(list(child.modules()))
        is_block = isinstance(model, nn.Sequential | nn.ModuleList) and size > 2
        inside = _repeated(child, most) if not is_block or size > most else []
        found += inside or [child] * is_block
    return found


def _twice(block: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(block, (training if block.training else evaluating)(block))

    def again(*inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True, context_fn=contexts)  # pyright: ignore[reportReturnType]

    return again


@contextmanager
def _again(block: nn.Module, mode: AbstractContextManager[None]) -> Iterator[None]:
    """Run the block's second forward in the mode of its first, without moving its statistics again."""
    with mode, frozen_statistics(block):
        yield
