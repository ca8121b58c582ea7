"""Trials of seconds: one pass of a batch (forward, and gradient to the inputs) under different runtimes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscape.runtime.memory import out_of_memory
from robustscape.runtime.settings import Runtime, channels_last, threads
from robustscape.runtime.view import fast

CLEARLY = 0.9
"""Share of the time of what stands that something else must stay below to be taken."""

_REPEATS = 3


def words_of(precision: str, threads: int) -> str:
    """Return what a trial calls an uncompiled pass, for example "float32, 2 threads"."""
    return f"{precision}, {threads} threads"


class Trial:
    """Times one pass of a batch under different runtimes; no trace is left on the model.

    Args:
        model: On its device.
        x: (B, C, H, W), pixels.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model = model
        self.x = channels_last(x.detach())
        self.seconds: dict[str, float] = {}

    def faster(self, other: Runtime, standing: Runtime) -> Runtime:
        """Return the other one where it is clearly faster than what stands."""
        return other if self.time(other) < CLEARLY * self.time(standing) else standing

    def time(self, runtime: Runtime) -> float:
        """Return the seconds of one pass, the least of three; what cannot run takes for ever."""
        words = words_of(runtime.precision, runtime.threads) + ", compiled" * (runtime.compile == "yes")
        if words not in self.seconds:
            with threads(runtime), fast(self.model, runtime) as view:
                try:
                    _pass(view, self.x)
                    self.seconds[words] = min(_timed(lambda: _pass(view, self.x)) for _ in range(_REPEATS))
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    self.seconds[words] = float("inf")
        return self.seconds[words]


def _pass(view: nn.Module, x: Tensor) -> None:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        torch.autograd.grad(view(x).logsumexp(dim=1).sum(), x)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _timed(run: Callable[[], None]) -> float:
    clock = time.perf_counter()
    run()
    return time.perf_counter() - clock
