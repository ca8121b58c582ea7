"""Hardware: device, precision, memory format, compilation and threads are decided here and nowhere else.

Searches (attacks) run on the *fast view* of a model, a derived copy in the fastest arithmetic that the
machine has; what they find is judged by the model itself in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.types import BadInput

_LOW = (nn.Conv2d, nn.Linear)  # modules that autocast runs in low precision, so their copies hold it


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 faster than float32 (AMX or AVX512-BF16; Ampere on)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How to use the machine.

    Attributes:
        device: "auto" (CUDA where there is one), or a device such as "cpu" or "cuda:1".
        precision: Arithmetic of attacks and training: "auto" (bfloat16 where the device multiplies it
            faster), "float32" or "bfloat16". Losses, weights and what is published stay float32.
        compile: Compile the fast view with ``torch.compile``: pays on wide networks and many steps.
        threads: CPU threads, 0 for torch's own choice.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        """Refuse what this machine does not have."""
        try:
            device = self.torch_device()
        except RuntimeError:
            raise BadInput(f"device {self.device!r} is not one that torch knows; did you mean cpu or cuda?") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"device {self.device!r} was asked for, but torch sees no CUDA device; did you mean cpu?")
        if self.threads < 0:
            raise BadInput(f"threads must be at least 0, not {self.threads}")

    def torch_device(self) -> torch.device:
        """Return the device."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def dtype(self) -> torch.dtype:
        """Return the type that matrix products of searches and training run in."""
        if self.precision == "auto":
            return torch.bfloat16 if has_fast_bfloat16(self.torch_device()) else torch.float32
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def words(self) -> str:
        """Return the precision in words, as provenance carries it."""
        low = str(self.dtype()).removeprefix("torch.")
        return "float32" if low == "float32" else f"{low} search, float32 confirmation"


TRUTH = Runtime(precision="float32")
"""Plain float32: what confirms, and what a caller gets who asks for nothing."""


def place(model: nn.Module, runtime: Runtime) -> nn.Module:
    """Move the model to the device, convolution weights channels-last: in place. Returns it."""
    return model.to(runtime.torch_device()).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@contextmanager
def threads(runtime: Runtime) -> Iterator[None]:
    """Run the block with the asked number of CPU threads."""
    before = torch.get_num_threads()
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def channels_last(x: Tensor) -> Tensor:
    """Return images in the memory format that convolutions are fastest in; other tensors as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


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

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x, (N, K), in float32; a float64 x goes through the model as it is."""
        if self.low == torch.float32 or x.dtype == torch.float64:
            return self.model(channels_last(x))
        with torch.autocast(self.kind, dtype=self.low, cache_enabled=False):
            return self.model(channels_last(x)).float()


class FastView:
    """The fast view of one model, a context manager that can be entered any number of times.

    Entering copies the model's present weights and buffers into the same derived buffers and gives a
    module in eval mode whose parameters need no gradient: differentiable to inputs only. The model must not
    change while it is entered, and is never changed by it. Entering inside itself is an error.
    """

    def __init__(self, model: nn.Module, runtime: Runtime) -> None:
        self.model = model
        self.runtime = runtime
        self._view: nn.Module | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._entered = False

    def __enter__(self) -> nn.Module:
        """Return the view, holding the weights as they are now."""
        assert not self._entered, "the fast view is entered already"
        if self._view is None:
            self._view = self._derive()
        with torch.no_grad():
            for derived, source in self._pairs:
                derived.copy_(source)
        self._entered = True
        return self._view

    def __exit__(self, *_: object) -> None:
        """Leave; the derived buffers stay for the next time."""
        self._entered = False

    def _derive(self) -> nn.Module:
        """Make the copy: low-precision weights where the arithmetic is low, channels-last."""
        derived = copy.deepcopy(self.model).eval().requires_grad_(False)
        derived = derived.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        low = self.runtime.dtype()
        if low != torch.float32:
            for module in derived.modules():
                if isinstance(module, _LOW):
                    module.to(low)
        sources = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        copies = dict(derived.named_parameters()) | dict(derived.named_buffers())
        self._pairs = [(copies[name], sources[name]) for name in copies]
        if low == torch.float32 and not self.runtime.compile:
            return derived
        view = Lowered(derived, self.runtime) if low != torch.float32 else derived
        if self.runtime.compile:
            view.compile(dynamic=False, fullgraph=False)
        return view


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
