"""How to use the machine: device, precision, memory format, compilation, threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustscape.config import nearest
from robustscape.types import BadInput

_Precision = Literal["auto", "float32", "bfloat16", "tf32"]
_Compile = Literal["auto", "yes", "no"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 faster than float32 (AMX or AVX512-BF16; Ampere on)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def has_matrix_units(device: torch.device) -> bool:
    """Return whether the device multiplies matrices so fast that what stands between products matters (AMX, GPUs)."""
    return device.type != "cpu" or torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How to use the machine.

    Attributes:
        device: "auto" (CUDA where there is one), or a device such as "cpu" or "cuda:1".
        precision: Arithmetic of attacks and training: "auto" (bfloat16 where the device multiplies it
            faster), "float32", "bfloat16", or "tf32" (CUDA: float32 whose products are rounded to 10 bits). Losses,
            weights and what is published stay float32.
        compile: Compile what is run most with ``torch.compile``: "yes", "no", or "auto": where the device has matrix
            units, the expected work is worth it and a trial shows that it is faster.
        threads: CPU threads, 0 for what a trial shows to be fastest, or torch's own number without one.
        memory_limit: GiB that one pass may take, 0 for most of what is free: larger batches are worked
            through in parts.
        micro_batch: Examples of a batch that are worked through at once, 0 for as many as memory is predicted to
            hold. Training a network with batch or running statistics takes each process's share of a batch whole.
        checkpointing: Keep fewer activations in training and compute them again: less memory, about one forward a
            step more. Chosen by itself where a batch that must stay whole is predicted not to fit.
        devices: Processes that share a training, an evaluation or a measurement, each with a CUDA device of its own
            or with a part of the CPU.
    """

    device: str = "auto"
    precision: _Precision = "auto"
    compile: _Compile = "auto"
    threads: int = 0
    memory_limit: float = 0.0
    micro_batch: int = 0
    checkpointing: bool = False
    devices: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense, and what this machine does not have."""
        for name, known in (("precision", get_args(_Precision)), ("compile", get_args(_Compile))):
            if (value := getattr(self, name)) not in known:
                raise BadInput(f"{name} is one of {', '.join(known)}, not {value!r}{nearest(str(value), known)}")
        device = self._checked_device()
        if device.type != "cuda" and self.precision == "tf32":
            raise BadInput(f"precision 'tf32' is CUDA's, and the device is {str(device)!r}; did you mean bfloat16?")
        if device.type == "cuda" and self.precision in ("bfloat16", "tf32") and not has_fast_bfloat16(device):
            raise BadInput(
                f"precision {self.precision!r} is not one of {torch.cuda.get_device_name(device)}, which is older than "
                "Ampere; did you mean float32?"
            )
        if self.threads < 0:
            raise BadInput(f"threads must be at least 0, not {self.threads}")
        if not 0 <= self.memory_limit < float("inf"):
            raise BadInput(f"memory_limit must be at least 0 GiB, not {self.memory_limit:g}")
        if self.micro_batch < 0:
            raise BadInput(f"micro_batch must be at least 0, not {self.micro_batch}")
        if self.devices < 1:
            raise BadInput(f"devices must be at least 1, not {self.devices}")

    def _checked_device(self) -> torch.device:
        """Return the device; refuse one that is not there, or not of a kind that is known to compute right."""
        try:
            device = self.torch_device()
        except (RuntimeError, TypeError):
            raise BadInput(f"device {self.device!r} is not one that torch knows; did you mean cpu or cuda?") from None
        if device.type not in ("cpu", "cuda"):
            raise BadInput(f"device {self.device!r} is neither a CPU nor CUDA's; did you mean cpu or cuda?")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"device {self.device!r} was asked for, but torch sees no CUDA device; did you mean cpu?")
        if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            raise BadInput(f"device {self.device!r} was asked for, but the last one is cuda:{last}; did you mean that?")
        return device

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
        low = "tf32" if self.precision == "tf32" else str(self.dtype()).removeprefix("torch.")
        return "float32" if low == "float32" else f"{low} search, float32 confirmation"


TRUTH = Runtime(precision="float32")
"""Plain float32: what confirms, and what a caller gets who asks for nothing."""


def place(model: nn.Module, runtime: Runtime) -> nn.Module:
    """Move the model to the device, convolution weights channels-last: in place. Returns it."""
    return model.to(runtime.torch_device()).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@contextmanager
def threads(runtime: Runtime) -> Iterator[None]:
    """Run the block with the asked number of CPU threads.

    On CUDA also with kernels that give the same bits every time, where there are such, a warning where not, and
    with float32 products as the precision has them. All is given back but ``CUBLAS_WORKSPACE_CONFIG``, which stays
    in the environment: CUDA reads it once.
    """
    before = torch.get_num_threads()
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    try:
        with (
            _deterministic(runtime.torch_device()),
            _products(runtime.torch_device(), tf32=runtime.precision == "tf32"),
        ):
            yield
    finally:
        torch.set_num_threads(before)


def exact_products(device: torch.device) -> AbstractContextManager[None]:
    """Run the block with float32 products that are float32: torch rounds those of convolutions on CUDA to TF32."""
    return _products(device, tf32=False)


@contextmanager
def _products(device: torch.device, *, tf32: bool) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with cudnn.flags(enabled=True, benchmark=False, deterministic=cudnn.deterministic, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    before, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's first product is made
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)


def channels_last(x: Tensor) -> Tensor:
    """Return images in the memory format that convolutions are fastest in; other tensors as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
