"""The matrix work of a network alone: what an attack on it would cost if all else were free."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustscape.benches.harness import Side
from robustscape.runtime import Runtime, channels_last

_MATRIX = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One use of a layer: a copy in the view's arithmetic, random input and gradient in its shapes."""

    module: nn.Module
    x: Tensor
    slope: Tensor


def matrix_work(model: nn.Module, x: Tensor, runtime: Runtime, *, passes: int, generator: torch.Generator) -> Side:
    """Return a side that runs convolutions and linear layers alone, one after the other.

    Each runs ``passes`` times forward and backward to its input (not to its weights), as torch has it, in the
    runtime's precision and memory format, on random numbers of the shapes that it meets in the network.

    Args:
        model: In eval mode; is run once.
        x: Its input, (N, C, H, W).
        runtime: Gives the arithmetic.
        passes: How often.
        generator: Draws the numbers.
    """
    low = runtime.dtype()

    def random(shape: torch.Size) -> Tensor:
        return channels_last(torch.randn(shape, generator=generator, device=x.device).to(low))

    layers = []
    for module, taken, given in _uses(model, x):
        alone = copy.deepcopy(module).requires_grad_(False).to(low).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        layers.append(_Layer(module=alone, x=random(taken).requires_grad_(), slope=random(given)))

    def side() -> float:
        for layer in layers:
            for _ in range(passes):
                torch.autograd.grad(layer.module(layer.x), layer.x, layer.slope)
        return len(x)

    return side


def _uses(model: nn.Module, x: Tensor) -> list[tuple[nn.Module, torch.Size, torch.Size]]:
    """Return every layer that multiplies matrices in a forward, in order, with its input's and output's shape."""
    found: list[tuple[nn.Module, torch.Size, torch.Size]] = []

    def note(module: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        found.append((module, taken[0].shape, given.shape))

    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, _MATRIX)]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found
