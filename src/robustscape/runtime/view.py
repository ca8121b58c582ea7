"""The fast view of a model: the same function of the same weights in the fastest arithmetic of the machine."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscape.modes import frozen_statistics
from robustscape.runtime.rewriting import Refresh, rewritten
from robustscape.runtime.settings import Runtime, channels_last

Code = Callable[[Tensor], Tensor]
_LOW = (nn.Conv2d, nn.Linear)  # modules that autocast runs in low precision, so their copies hold it


class Lowered(nn.Module):
    """A model, shared and not copied, whose matrix products run in the runtime's precision.

    Maps float32 pixels to float32 logits and passes gradients to the model's own float32 weights: what
    training runs its forwards on.
    """

    def __init__(self, model: nn.Module, runtime: Runtime) -> None:
        super().__init__()
        self.model = model
        self.kind = runtime.torch_device().type
        self.low = runtime.dtype()
        self.suited: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x, (N, K), in float32; a float64 x goes through the model as it is."""
        if self.low == torch.float32 or x.dtype == torch.float64:
            return self._run(x)
        with torch.autocast(self.kind, dtype=self.low, cache_enabled=False):
            return self._run(x).float()

    def _run(self, x: Tensor) -> Tensor:
        if self.suited is None:
            self.suited = takes_channels_last(self.model, x)
        return self.model(channels_last(x) if self.suited else x.contiguous())


def lowered(model: nn.Module, runtime: Runtime) -> nn.Module:
    """Return the model, shared and not copied, as the runtime runs it: ``Lowered``, and compiled if it says so."""
    module = Lowered(model, runtime)
    return compiled(module) if runtime.compile == "yes" else module


def takes_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Return whether the model runs on channels-last images; the weights of one that does not become contiguous.

    A forward that flattens by ``view`` does not. It is tried on two examples and leaves no trace but the strides.
    """
    few = channels_last(x[:2].detach())
    with torch.no_grad(), frozen_statistics(model), torch.random.fork_rng(devices=[]):
        try:
            model(few)
        except RuntimeError:
            model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
            return False
    return True


class Prepared(nn.Module):
    """A module that is prepared for the shape that it is first given with gradients enabled: see ``compiled``.

    Anything else (a ragged last batch, a forward without gradients) runs as it is, so that it is prepared once
    whatever is asked. What cannot be prepared runs as it is too, and one warning says why.

    Args:
        module: What is run.
        prepare: Makes something faster of it for inputs like the one given.
        words: What prepared modules do, for the warning: "compile".
    """

    def __init__(self, module: nn.Module, prepare: Callable[[nn.Module, Tensor], Code], words: str) -> None:
        super().__init__()
        self.module = module
        self.prepare = prepare
        self.words = words
        self.shape: torch.Size | None = None
        self.code: Code = module.__call__

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output for x.

        Raises:
            RuntimeError: the code was compiled anew too often: something else than the weights changes.
        """
        if not torch.is_grad_enabled() or self.shape not in (None, x.shape):
            return self.module(x)
        if first := self.shape is None:
            with torch.no_grad(), frozen_statistics(self.module):
                self.module(x[:2])  # what it settles at its first call is not prepared for
        self.shape = x.shape
        try:
            if first:
                self.code = self.prepare(self.module, x)
            return self.code(x)
        except torch.OutOfMemoryError:
            self.shape = None if first else self.shape
            raise
        except Exception as error:
            if not first:
                raise
            reason = first_line(error)
        # Outside the handler: if it is the model's own error, this raises it without the compiler's.
        self.code = self.module.__call__
        output = self.module(x)
        warnings.warn(f"{_name(self.module)} does not {self.words} and runs eagerly: {reason}", stacklevel=2)
        return output


def compiled(module: nn.Module) -> Prepared:
    """Return the module compiled for one shape, as one graph: a model that decides by its data does not compile."""
    return Prepared(module, _compiled, "compile")


def _compiled(module: nn.Module, _: Tensor) -> Code:
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit

    code: Code = torch.compile(module, dynamic=False, fullgraph=True)

    def run(x: Tensor) -> Tensor:
        try:
            with config.patch(fail_on_recompile_limit_hit=True):
                return code(x)
        except FailOnRecompileLimitHit as error:
            raise RuntimeError(f"{_name(module)} is compiled anew at every call: {first_line(error)}") from None

    return run


def graphed(module: nn.Module) -> Prepared:
    """Return the module, which needs no gradients of weights, as CUDA graphs for one shape.

    A graph writes into the same memory at every replay, so outputs and gradients are copied out of it.
    """
    return Prepared(module, _captured, "run as a CUDA graph")


def _captured(module: nn.Module, x: Tensor) -> Code:
    sample = x.detach().clone().requires_grad_()
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
    return type(module.model if isinstance(module, Lowered) else module).__name__


def first_line(error: BaseException) -> str:
    """Return what went wrong in a line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class FastView:
    """The fast view of one model, a context manager that can be entered any number of times.

    Entering copies the model's present weights and buffers into the same derived buffers and gives a
    module in eval mode whose parameters need no gradient: differentiable to inputs only. The model must not
    change while it is entered, and is never changed by it. Entering inside itself is an error. A model that
    cannot be copied is used as it is.
    """

    def __init__(self, model: nn.Module, runtime: Runtime) -> None:
        self.model = model
        self.runtime = runtime
        self._view: nn.Module | None = None
        self._copy: nn.Module | None = None
        self._refreshes: list[Refresh] = []
        self._entered = False

    def __enter__(self) -> nn.Module:
        """Return the view, holding the weights as they are now."""
        assert not self._entered, "the fast view is entered already"
        if self._view is None:
            self._view = self._derive()
        if self._copy is not None:
            # By name: a forward may have put other tensors into the model's buffers.
            derived = _tensors(self._copy)
            with torch.no_grad():
                for name, source in _tensors(self.model).items():
                    derived[name].copy_(source)
                for refresh in self._refreshes:
                    refresh()
        self._entered = True
        return self._view

    def __exit__(self, *_: object) -> None:
        """Leave; the derived buffers stay for the next time."""
        self._entered = False

    def _derive(self) -> nn.Module:
        """Make the copy: low-precision weights where the arithmetic is low, channels-last, fewer passes."""
        try:
            self._copy = derived = copy.deepcopy(self.model).eval().requires_grad_(False)
        except RuntimeError as error:
            warnings.warn(f"the model cannot be copied and runs as it is: {first_line(error)}", stacklevel=3)
            return self.model
        low = self.runtime.dtype()
        if low != torch.float32:
            for module in derived.modules():
                if isinstance(module, _LOW):
                    module.to(low)
        # Last, since a change of type forgets the format of weights of one input channel.
        derived = derived.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        derived, self._refreshes = rewritten(derived, self.model, fused=self.runtime.compile != "yes")
        view = lowered(derived, self.runtime)
        return graphed(view) if self.runtime.torch_device().type == "cuda" else view


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


class PlainView:
    """The model itself where a fast view would stand: nothing is copied. For float64 and for tests."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> nn.Module:
        """Return the model."""
        return self.model

    def __exit__(self, *_: object) -> None:
        """Nothing to leave."""


def graphs_compiled() -> int:
    """Return how many graphs this process has compiled so far: what moved weights must not raise."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def fast(model: nn.Module, runtime: Runtime | None = None) -> FastView | PlainView:
    """Return the fast view of a model, to be entered with ``with``; searches run on what that gives.

    ``with fast(model) as f: x_adv = attack(f, x, y)``. Keep the object to enter it again: compiled code and
    buffers are reused for moved weights.

    Args:
        model: Any model of pixels in [0, 1] to logits, in any mode; a float64 one is used as it is.
        runtime: How to use the machine; by default the fastest arithmetic that is known to be right.
    """
    if any(value.dtype == torch.float64 for value in model.parameters()):
        return PlainView(model)
    return FastView(model, runtime or Runtime())
