"""A module made faster for one shape of batch: compiled code and CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor, nn

from robustscape.modes import frozen_statistics
from robustscape.runtime.memory import out_of_memory

Code = Callable[[Tensor], Tensor]


class Prepared(nn.Module):
    """A module that is prepared for the shape that it is first given with gradients enabled: see ``compiled``.

    Anything else (a ragged last batch, a forward without gradients) runs as it is, so that it is prepared once
    whatever is asked. What cannot be prepared runs as it is too, and one warning says why.

    Args:
        module: What is run.
        prepare: Makes something faster of it for inputs like the one given.
        words: What prepared modules do, for the warning: "compile".
        rows: Examples of the batches that it is prepared for; None for those of the first one.
    """

    def __init__(
        self, module: nn.Module, prepare: Callable[[nn.Module, Tensor], Code], words: str, rows: int | None
    ) -> None:
        super().__init__()
        self.module = module
        self.prepare = prepare
        self.words = words
        self.rows = rows
        self.shape: torch.Size | None = None
        self.code: Code = module.__call__

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output for x.

        Raises:
            RuntimeError: the code was compiled anew too often: something else than the weights changes.
        """
        if not torch.is_grad_enabled() or self.rows not in (None, len(x)) or self.shape not in (None, x.shape):
            return self.module(x)
        if first := self.shape is None:
            drawn = torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else [])
            with torch.no_grad(), frozen_statistics(self.module), drawn:
                self.module(x[:2])  # what it settles at its first call is not prepared for
        self.shape = x.shape
        try:
            if first:
                self.code = self.prepare(self.module, x)
            return self.code(x)
        except Exception as error:  # of the compiler, or of the model, which raises it again below
            if out_of_memory(error):
                self.shape = None if first else self.shape
                raise
            if not first:
                raise
            reason = first_line(error)
        # Outside the handler: if it is the model's own error, this raises it without the compiler's.
        self.code = self.module.__call__
        output = self.module(x)
        warnings.warn(f"{_name(self.module)} does not {self.words} and runs eagerly: {reason}", stacklevel=2)
        return output


def compiled(module: nn.Module, *, rows: int | None = None) -> Prepared:
    """Return the module compiled for one shape, as one graph: a model that decides by its data does not compile."""
    return Prepared(module, _compiled, "compile", rows)


def _compiled(module: nn.Module, _: Tensor) -> Code:
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit

    def forward(x: Tensor) -> Tensor:
        return module(x)

    # Compiled code, and the limit on how much of it, belong to a code object: every module gets one of its own.
    own = FunctionType(forward.__code__.replace(), globals(), closure=forward.__closure__)
    code: Code = torch.compile(own, dynamic=False, fullgraph=True)

    def run(x: Tensor) -> Tensor:
        try:
            with config.patch(fail_on_recompile_limit_hit=True):
                return code(x)
        except FailOnRecompileLimitHit as error:
            raise RuntimeError(f"{_name(module)} is compiled anew at every call: {first_line(error)}") from None

    return run


def graphed(module: nn.Module, *, rows: int | None = None) -> Prepared:
    """Return the module, which needs no gradients of weights, as CUDA graphs for one shape.

    A graph writes into the same memory at every replay, so outputs and gradients are copied out of it.
    """
    return Prepared(module, _captured, "run as a CUDA graph", rows)


def _captured(module: nn.Module, x: Tensor) -> Code:
    sample = x.detach().clone().requires_grad_()
    with torch.cuda.device(x.device):
        torch.cuda.graph.default_capture_stream = None  # torch keeps one for all devices, which captures nothing
        # A function, since a module would have its own forward replaced.
        replay: Code = torch.cuda.make_graphed_callables(lambda x: module(x), (sample,))  # pyright: ignore[reportAssignmentType]

    def run(x: Tensor) -> Tensor:
        inner = x.clone()
        if inner.requires_grad:
            inner.register_hook(torch.clone)
        return replay(inner).clone()

    return run


def _name(module: nn.Module) -> str:
    """Return what the user calls the module."""
    inner = getattr(module, "model", None)
    return type(inner if isinstance(inner, nn.Module) else module).__name__


def first_line(error: BaseException) -> str:
    """Return what went wrong in a line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def graphs_compiled() -> int:
    """Return how many graphs this process has compiled so far: what moved weights must not raise."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]
