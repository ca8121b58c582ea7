"""The peak of memory that some work takes, in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

Work = Callable[[], object]


def fresh_peak(prepare: Callable[..., Work], *arguments: object) -> float:
    """Return the memory that work takes at its peak beyond what there was before it, MiB, in a fresh process.

    Below 1 MiB it is given as 1.

    Args:
        prepare: Makes the work, and what is there before it; a function of a module.
        *arguments: Its arguments, which can be pickled.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak, prepare, *arguments).result()


def peak(prepare: Callable[..., Work], *arguments: object) -> float:
    """Return the same in this process, whose earlier peak counts where it cannot be forgotten."""
    work = prepare(*arguments)
    before = _begun_anew()
    work()
    return max((_highest() - before) / 2**20, 1.0)


def _begun_anew() -> float:
    """Forget the peak so far; return the present memory, bytes."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is the present memory from here on
    except OSError:
        return _status("VmHWM") or _highest()
    return _status("VmRSS")


def _highest() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> float:
    """Return an entry of Linux' account of this process in bytes, 0 elsewhere."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0.0)
