"""Predicting memory: what a pass needs, what there is, and so how much of a batch is worked through at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from robustscape.modes import evaluating, frozen_statistics, training
from robustscape.runtime.memory import Whole, repeated
from robustscape.runtime.ranks import world
from robustscape.runtime.settings import Runtime
from robustscape.runtime.view import Lowered
from robustscape.types import BadInput

_GIB = 2.0**30
_SHARE = 0.8  # of the memory that is free now; the rest is for what grows beside the activations


def available(runtime: Runtime, *, sharing: int = 1) -> float:
    """Return the bytes that activations may take: the runtime's limit, or most of what is free on the device now.

    Args:
        runtime: How the machine is used.
        sharing: Processes of each rank that work side by side. Without a limit, they and the ranks share the CPU's
            memory.
    """
    if runtime.memory_limit:
        return runtime.memory_limit * _GIB
    device = runtime.torch_device()
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for the next tensor
        return _SHARE * (torch.cuda.mem_get_info(device)[0] + kept)
    return _SHARE * _free() / (sharing * world())


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
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = float(counts["inactive_file"]) + float(counts["active_file"])  # given up where memory is wanted
        return free if allowed == "max" else min(free, float(allowed) - float(used) + files)
    except (OSError, ValueError, KeyError):
        return free


def bytes_per_example(model: nn.Module, x: Tensor, *, again: Sequence[nn.Module] = (), forwards: float = 1.0) -> float:
    """Return the bytes that one example takes in one or several forwards and a backward, from two small batches.

    That is what the forwards keep for the backward, and twice the largest tensor of them: the gradients on both
    sides of a layer.

    Args:
        model: As it is used: its mode and whether its weights need gradients decide what is kept. It is left
            without a trace.
        x: (N, C, H, W), at least 1 input.
        again: Modules of it that ``checkpointed`` would run twice, none inside another: their inputs are kept, and
            all that the largest of them keeps while the backward goes through it.
        forwards: How many times the example goes through the model before the backward.
    """
    x = x[:4].detach()
    x = x.repeat(-(-4 // len(x)), *[1] * (x.ndim - 1))
    few, more = _kept(model, x[:2], again), _kept(model, x[:4], again)
    outside, *inside = [sum(b) - sum(a) for a, b in zip(few, more, strict=True)]
    pairs = [pair for a, b in zip(few, more, strict=True) for pair in zip(a, b, strict=False)]
    largest = max((b - a for a, b in pairs), default=0)
    return (forwards * outside + max(inside, default=0) + 2 * largest) / 2


def _kept(model: nn.Module, x: Tensor, again: Sequence[nn.Module]) -> list[list[int]]:
    """Return the bytes of each storage that the backward would read, in the order of the forward.

    First those outside of the modules ``again``, with their inputs, then those of each forward of one of them.
    """
    kept: list[dict[int, int]] = [{}]
    at, inputs = 0, list[Tensor]()

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept[0]:
            kept[at].setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    def enter(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal at
        if not torch.is_grad_enabled():
            return  # a forward that only looks at something: it is not computed again
        inputs.extend(note(value) for value in given if isinstance(value, Tensor))  # held: nothing takes their places
        kept.append({})
        at = len(kept) - 1

    def leave(*_: object) -> None:
        nonlocal at
        at = 0

    drawn = torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else [])
    with torch.enable_grad(), frozen_statistics(model), drawn, ExitStack() as stack:
        for module in again:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor))
        output = model(x.clone().requires_grad_())
    del output
    return [list(storages.values()) for storages in kept]


def fitting(batch: int, per_example: float, room: float) -> int:
    """Return how many examples of a batch fit at once: the batch, or its largest half, quarter, ... that does.

    Args:
        batch: Examples, at least 1.
        per_example: Bytes that one takes.
        room: Bytes there are.

    Raises:
        BadInput: not even one fits.
    """
    if per_example > room:
        raise BadInput(
            f"one example takes about {_gib(per_example)}, and {_gib(room)} are there; did you mean a smaller network, "
            "or another runtime.memory_limit?"
        )
    size = batch
    while size * per_example > room:
        size = -(-size // 2)
    return size


def _gib(size: float) -> str:
    return f"{size / _GIB:.3g} GiB"


def search_bytes(model: nn.Module, runtime: Runtime, x: Tensor) -> float:
    """Return the bytes that one example takes in a search: a pass in eval mode, in float32 as confirmations are."""
    with evaluating(model):
        return bytes_per_example(Lowered(model, replace(runtime, precision="float32")), x)


def training_fit(
    model: nn.Module, runtime: Runtime, x: Tensor, batch: int, room: float, *, forwards: float = 1.0
) -> tuple[int, bool]:
    """Return how many of a batch's examples a training step takes at once, and whether it is checkpointed.

    Args:
        model: On its device; left as it is.
        runtime: With nothing left to decide.
        x: (N, C, H, W), at least 1 input.
        batch: Examples of a step, on this rank.
        room: Bytes there are.
        forwards: How many times the loss of an example takes it, or its adversarial input, through the model.

    Raises:
        BadInput: not even one example fits, or a batch does not that the network takes whole.
    """
    blocks, run = repeated(model), Lowered(model, runtime)
    with training(model):
        each = bytes_per_example(run, x, again=blocks if runtime.checkpointing else (), forwards=forwards)
        if batch * each <= room or not Whole(model)(x):
            return fitting(batch, each, room), runtime.checkpointing
        each = bytes_per_example(run, x, again=blocks, forwards=forwards)
    if batch * each > room:
        raise BadInput(
            f"{batch} examples, which a network with batch or running statistics takes at once, take about "
            f"{_gib(batch * each)}, and {_gib(room)} are there; did you mean a smaller training.batch_size, or another "
            "runtime.memory_limit?"
        )
    return batch, True
