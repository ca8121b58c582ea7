"""What a bench found, with the machine that it ran on, and what became slower since an earlier one."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from robustscape.results import device_name, processor
from robustscape.runtime import Runtime
from robustscape.types import Provenance

_FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2", "asimd", "bf16", "sve")
_TOLERANCE = 0.1  # a change of the median below this is not called one


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What the rounds gave: their median and their quartiles ``low`` and ``high``."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of at least one value."""
    low, median, high = np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75)).tolist()
    return Spread(median=median, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a timing depends on besides the program.

    Attributes:
        processor: The processor's name.
        flags: Its instructions that decide which arithmetic is fast, as the system names them.
        cores: Cores that this process may use.
        threads: Threads of torch.
        memory: Memory of the machine, GiB.
        torch: Version of torch, with its build.
        device: Name of the device that was measured.
    """

    processor: str
    flags: tuple[str, ...]
    cores: int
    threads: int
    memory: float
    torch: str
    device: str


def machine(runtime: Runtime) -> Machine:
    """Return the machine that this process runs on, as the runtime uses it."""
    return Machine(
        processor=processor(),
        flags=_flags(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=runtime.threads or torch.get_num_threads(),
        memory=_memory(),
        torch=str(torch.__version__),
        device=device_name(runtime.torch_device()),
    )


def _flags() -> tuple[str, ...]:
    if sys.platform != "linux":
        return (platform.machine(),)
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith(("flags", "features")):
            there = set(line.partition(":")[2].split())
            return tuple(flag for flag in _FLAGS if flag in there)
    return ()


def _memory() -> float:
    if not hasattr(os, "sysconf"):
        return 0.0
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What one bench found.

    Attributes:
        name: The bench, for example "attack".
        settings: What every side did, in words.
        unit: What work is counted in, for example "examples"; "" where none is.
        rates: Side to units per second.
        ratios: Peer to our rate over its rate, round by round: above 1 where we are faster.
        costs: What should be small, with its unit in its name: a later one is compared with it.
        notes: Further quantities, with their units in their names: shown, never compared.
        missing: Peers that could not be asked: name to reason.
        seconds: Side to what every round took: seconds per unit.
        pairs: Rounds, in each of which every side did its work once.
        warmup: Seconds of warm-up, shared by all sides.
        machine: Where.
        provenance: When, and by which settings.
    """

    name: str
    settings: str
    unit: str
    rates: dict[str, Spread]
    ratios: dict[str, Spread]
    costs: dict[str, Spread]
    notes: dict[str, Spread]
    missing: dict[str, str]
    seconds: dict[str, tuple[float, ...]]
    pairs: int
    warmup: float
    machine: Machine
    provenance: Provenance


def slower(new: BenchResult, old: BenchResult) -> tuple[str, ...]:
    """Return the peers and costs for which the new result is clearly worse.

    That is a median more than 10 % worse, with quartile ranges that do not meet. Absolute rates are not
    compared: on a shared machine only ratios of one run last.
    """
    ratios = [name for name, (now, then) in _common(new.ratios, old.ratios).items() if _less(now, then)]
    costs = [name for name, (now, then) in _common(new.costs, old.costs).items() if _more(now, then)]
    return (*ratios, *costs)


def _common(new: Mapping[str, Spread], old: Mapping[str, Spread]) -> dict[str, tuple[Spread, Spread]]:
    return {name: (new[name], old[name]) for name in new if name in old}


def _less(now: Spread, then: Spread) -> bool:
    return now.median < (1 - _TOLERANCE) * then.median and now.high < then.low


def _more(now: Spread, then: Spread) -> bool:
    return now.median > (1 + _TOLERANCE) * then.median and now.low > then.high
