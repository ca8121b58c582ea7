"""The fast view of a model: the same function of the same weights in the fastest arithmetic of the machine."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscape.modes import frozen_statistics
from robustscape.runtime.preparing import compiled, first_line, graphed
from robustscape.runtime.rewriting import Refresh, is_own, rewritten
from robustscape.runtime.settings import Runtime, channels_last

_LOW = (nn.Conv2d, nn.Linear)  # modules that autocast runs in low precision, so their copies hold it


class Lowered(nn.Module):
    """A model, shared and not copied, whose matrix products run in the runtime's precision.

    Maps float32 pixels to float32 logits and passes gradients to the model's own float32 weights: what
    training runs its forwards on.

    Args:
        model: The model.
        runtime: How to use the machine.
        refill: Puts the weights into ``model`` again, where it is a copy whose weights were rounded.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, refill: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.model = model
        self.refill = refill
        self.kind = runtime.torch_device().type
        self.low = runtime.dtype()
        self.format: torch.memory_format | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x, (N, K), in float32; a float64 x goes through the model as it is."""
        if self.format is None:
            self.settle(x)
        assert self.format is not None
        x = channels_last(x) if self.format is torch.channels_last else x.contiguous()
        return self._run(x, torch.float32 if x.dtype == torch.float64 else self.low)

    def _run(self, x: Tensor, low: torch.dtype) -> Tensor:
        with torch.autocast(self.kind, dtype=torch.bfloat16, enabled=low != torch.float32, cache_enabled=False):
            logits = self.model(x)
        return logits if low == torch.float32 else logits.float()

    def settle(self, x: Tensor) -> None:
        """Find out, on two examples, in which format and arithmetic the model runs; leaves no trace but strides.

        A forward that flattens by ``view`` takes contiguous images alone; one that mixes its own float32 tensors
        with what a layer gives does not run in bfloat16, which is said.
        """
        few = x[:2].detach()
        low = torch.float32 if x.dtype == torch.float64 else self.low
        reason = self._refused(channels_last(few), low)
        if reason is None:
            self.format = torch.channels_last
            return
        self.format = torch.contiguous_format
        self.model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        reason = self._refused(few.contiguous(), low)
        if reason is None or low == torch.float32:
            return  # the model's own error is raised where it is run
        self.model.float()
        if self.refill is not None:
            self.refill()
        if self._refused(few.contiguous(), torch.float32) is None:
            self.low = torch.float32
            warnings.warn(f"{type(self.model).__name__} runs in float32, not in bfloat16: {reason}", stacklevel=2)

    def _refused(self, few: Tensor, low: torch.dtype) -> str | None:
        """Return why the model does not run so, None if it does."""
        drawn = torch.random.fork_rng(devices=[few.device] if few.device.type == "cuda" else [])
        with torch.no_grad(), frozen_statistics(self.model), drawn:
            try:
                self._run(few, low)
            except RuntimeError as error:
                return first_line(error)
        return None


def lowered(model: nn.Module, runtime: Runtime, *, rows: int | None = None) -> nn.Module:
    """Return the model, shared and not copied, as the runtime runs it: ``Lowered``, and compiled if it says so.

    Args:
        model: The model.
        runtime: How to use the machine.
        rows: Examples of the batches that it is compiled for; None for those of the first one.
    """
    module = Lowered(model, runtime)
    return compiled(module, rows=rows) if runtime.compile == "yes" else module


class FastView:
    """The fast view of one model, a context manager that can be entered any number of times.

    Entering copies the model's present weights and buffers into the same derived buffers and gives a
    module in eval mode whose parameters need no gradient: differentiable to inputs only. The model must not
    change while it is entered, and is never changed by it. Entering inside itself is an error. A model that
    cannot be copied is used as it is.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, rows: int | None = None) -> None:
        self.model = model
        self.runtime = runtime
        self.rows = rows
        self._view: nn.Module | None = None
        self._copy: nn.Module | None = None
        self._refreshes: list[Refresh] = []
        self._entered = False

    def __enter__(self) -> nn.Module:
        """Return the view, holding the weights as they are now."""
        assert not self._entered, "the fast view is entered already"
        if self._view is None:
            self._view = self._derive()
        self._fill()
        self._entered = True
        return self._view

    def low(self) -> torch.dtype:
        """Return what products run in: float32 for a model that, as the first forward shows, does not run lower."""
        modules = () if self._view is None else self._view.modules()
        return next((module.low for module in modules if isinstance(module, Lowered)), torch.float32)

    def _fill(self) -> None:
        """Copy the model's present weights and buffers into the derived ones."""
        if self._copy is None:
            return
        derived = _tensors(self._copy)
        with torch.no_grad():
            for name, source in _tensors(self.model).items():  # a forward may have put in other tensors
                derived[name].copy_(source)
            for refresh in self._refreshes:
                refresh()

    def __exit__(self, *_: object) -> None:
        """Leave; the derived buffers stay for the next time."""
        self._entered = False

    def _derive(self) -> nn.Module:
        """Make the copy: low-precision weights where the arithmetic is low, channels-last, fewer passes."""
        try:
            self._copy = derived = copy.deepcopy(self.model).eval().requires_grad_(False)
        except Exception as error:  # of copying what anyone's model may hold
            warnings.warn(f"the model cannot be copied and runs as it is: {first_line(error)}", stacklevel=3)
            return self.model
        low, own = self.runtime.dtype(), is_own(derived)
        if low != torch.float32:
            for module in derived.modules():
                if isinstance(module, _LOW):
                    module.to(low)
        # Last, since a change of type forgets the format of weights of one input channel.
        derived = derived.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        derived, self._refreshes = rewritten(derived, self.model, fused=self.runtime.compile != "yes")
        view: nn.Module = Lowered(derived, self.runtime, self._fill)
        view = compiled(view, rows=self.rows) if self.runtime.compile == "yes" else view
        # A graph keeps what Python decided when it was captured, so only forwards that are known are captured.
        graphs = own and self.runtime.torch_device().type == "cuda"
        return graphed(view, rows=self.rows) if graphs else view


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


def fast(model: nn.Module, runtime: Runtime | None = None, *, rows: int | None = None) -> FastView | PlainView:
    """Return the fast view of a model, to be entered with ``with``; searches run on what that gives.

    ``with fast(model) as f: x_adv = attack(f, x, y)``. Keep the object to enter it again: compiled code and
    buffers are reused for moved weights.

    Args:
        model: Any model of pixels in [0, 1] to logits, in any mode; a float64 one is used as it is.
        runtime: How to use the machine; by default the fastest arithmetic that is known to be right.
        rows: Examples of the batches that code is compiled for; None for those of the first one.
    """
    if any(value.dtype == torch.float64 for value in model.parameters()):
        return PlainView(model)
    return FastView(model, runtime or Runtime(), rows)
