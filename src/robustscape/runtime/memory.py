"""Memory: what a pass needs, how much there is, and how the same result is had with less."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from robustscape.modes import frozen_statistics
from robustscape.runtime.settings import Runtime, channels_last

_GIB = 2.0**30
_SHARE = 0.8  # of the memory that is free now; the rest is for what grows beside the activations


def available(runtime: Runtime) -> float:
    """Return the bytes that activations may take: the runtime's limit, or most of what is free on the device now."""
    if runtime.memory_limit:
        return runtime.memory_limit * _GIB
    device = runtime.torch_device()
    if device.type == "cuda":
        return _SHARE * torch.cuda.mem_get_info(device)[0]
    return _SHARE * _free()


def _free() -> float:
    """Return the bytes free for this process: the machine's, or what its container still allows."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    free = next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)
    if free is None:
        free = float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    try:
        folder = Path("/sys/fs/cgroup")
        allowed, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if allowed == "max" else min(free, float(allowed) - float(used))
    except (OSError, ValueError):
        return free


def bytes_per_example(model: nn.Module, x: Tensor) -> float:
    """Return the bytes that one example's forward keeps for the backward, from two small batches.

    Args:
        model: As it is used: its mode and whether its weights need gradients decide what is kept. It is left
            without a trace.
        x: (N, C, H, W), at least 4 inputs.
    """
    few, more = (_kept(model, channels_last(x[:n].detach())) for n in (2, 4))
    return (more - few) / 2


def _kept(model: nn.Module, x: Tensor) -> float:
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with torch.enable_grad(), frozen_statistics(model), hooks:
        output = model(x.requires_grad_())
    del output
    return float(sum(storages.values()))


def fitting(batch: int, per_example: float, room: float) -> int:
    """Return how many examples of a batch fit at once: the batch, or its largest half, quarter, ... that does.

    Args:
        batch: Examples, at least 1.
        per_example: Bytes that one takes.
        room: Bytes there are.
    """
    size = batch
    while size > 1 and size * per_example > room:
        size = -(-size // 2)
    return size


@dataclass
class Parts:
    """Works through a batch in parts that fit. Its size halves where the device runs out of memory, and stays.

    Attributes:
        size: Examples at once, at least 1.
    """

    size: int

    def run(self, work: Callable[[slice], Tensor], n: int) -> Tensor:
        """Return what ``work`` gives for each part of n rows, put together in order.

        Raises:
            torch.OutOfMemoryError: not even one example fits.
        """
        done: list[Tensor] = []
        start = 0
        while start < n:
            rows = slice(start, min(start + self.size, n))
            try:
                done.append(work(rows))
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
            else:
                start = rows.stop
                continue
            # Outside the handler, which holds the failed part's tensors.
            self.size = -(-min(self.size, n) // 2)
            torch.cuda.empty_cache()
            warnings.warn(f"out of memory: going on with {self.size} examples at once", stacklevel=2)
        return done[0] if len(done) == 1 else torch.cat(done)


def mixes_examples(model: nn.Module) -> bool:
    """Return whether an example's output in train mode depends on its company: batch normalisation does that."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Run the block with the model's repeated blocks keeping no activations: the backward computes them again.

    The same function and gradients, about one forward more. What the second forward does to running statistics
    is taken back.
    """
    blocks = _repeated(model)
    for block in blocks:
        block.forward = _twice(block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _repeated(model: nn.Module) -> list[nn.Module]:
    """Return the outermost modules that follow one another in a sequence and are more than a single layer."""
    found: list[nn.Module] = []
    for child in model.children():
        if isinstance(model, nn.Sequential | nn.ModuleList) and len(list(child.modules())) > 2:
            found.append(child)
        else:
            found += _repeated(child)
    return found


def _twice(block: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), frozen_statistics(block)

    def again(*inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True, context_fn=contexts)  # pyright: ignore[reportReturnType]

    return again
