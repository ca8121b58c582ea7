"""What "auto" means here: precision, threads and compilation, found by a trial of seconds and remembered."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustscape.runtime.settings import Runtime, channels_last, has_fast_bfloat16, threads
from robustscape.runtime.view import fast
from robustscape.types import Attack

_WORTH_A_TRIAL = 60.0  # seconds of expected work from which seconds of trial pay
_WORTH_COMPILING = 120.0  # seconds of expected work from which trying the compiler pays: that costs half a minute
_CLEARLY = 0.9  # share of the time of what stands that something else must stay below to be taken
_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was chosen for one model and one shape of batch on one machine, and why.

    Attributes:
        precision: "float32" or "bfloat16".
        compile: "yes" or "no".
        threads: CPU threads.
        processes: How many one-thread processes side by side do more than one process with all threads; 1 for
            none, or where that was not tried.
        milliseconds: Time of one pass (forward, and gradient to the inputs) of a batch, by what was tried.
        reason: The choice in words.
    """

    precision: str
    compile: str
    threads: int
    processes: int
    milliseconds: dict[str, float]
    reason: str

    def applied(self, runtime: Runtime) -> Runtime:
        """Return the runtime with nothing left to decide."""
        return replace(runtime, precision=self.precision, compile=self.compile, threads=self.threads)  # pyright: ignore[reportArgumentType]


def passes(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return how many forwards of the model one call of the attack takes: it is run on the few inputs given."""
    counted = _Counted(model)
    attack(counted, x, y)
    return counted.calls


class _Counted(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.model(x)


def decide(runtime: Runtime, model: nn.Module, x: Tensor, *, work: int, cache: Path | None = None) -> Decision:
    """Return what "auto" stands for, by a timed trial where the expected work is worth one.

    What the runtime fixes is left as it is. The same machine, versions, model, shape and class of work (none,
    some, enough to compile for) get the same answer again from the cache, so that two runs of one command
    compute alike.

    Args:
        runtime: What was asked for.
        model: On its device; left as it is.
        x: (B, C, H, W), a batch of the size that the work will use, pixels.
        work: Passes (forward, and gradient to the inputs) of such batches that are to come.
        cache: File of earlier decisions; by default ``decisions.json`` in the user's cache.
    """
    path = cache or cache_folder() / "decisions.json"
    key = _key(runtime, model, x)
    about = {"model": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    entry = _read(path).get(key) or {**about, "shape": list(x.shape), "seconds": None, "decisions": {}}
    trial, standing = _Trial(model, x), _standing(runtime)
    if entry["seconds"] is None:
        entry["seconds"] = trial.time(standing)
    expected = work * entry["seconds"]
    trials = "none" if expected < _WORTH_A_TRIAL else "eager" if expected < _WORTH_COMPILING else "compiled"
    if trials not in entry["decisions"]:
        decision = _decided(runtime, standing, trial, trials)
        entry["decisions"][trials] = asdict(decision)
        _write(path, key, entry)
    return Decision(**entry["decisions"][trials])


def remembered(cache: Path | None = None) -> list[dict[str, Any]]:
    """Return what this machine has decided so far: "model", "parameters", "shape" and "decisions" each."""
    return list(_read(cache or cache_folder() / "decisions.json").values())


def _standing(runtime: Runtime) -> Runtime:
    """Return what is used unless a trial shows something clearly faster."""
    low = has_fast_bfloat16(runtime.torch_device()) if runtime.precision == "auto" else runtime.precision == "bfloat16"
    return replace(
        runtime,
        precision="bfloat16" if low else "float32",
        compile="no" if runtime.compile == "auto" else runtime.compile,
        threads=runtime.threads or torch.get_num_threads(),
    )


def _decided(runtime: Runtime, standing: Runtime, trial: _Trial, trials: str) -> Decision:
    """Return the choice among what was left open."""
    chosen, processes, reason = standing, 1, "the fastest of a trial"
    if trials == "none":
        return _decision(chosen, trial, processes, "too little work for a trial")
    if runtime.precision == "auto" and chosen.precision == "bfloat16":
        chosen = trial.faster(replace(chosen, precision="float32"), chosen)
    if runtime.threads == 0 and standing.threads > 1 and runtime.torch_device().type == "cpu":
        alone = replace(chosen, threads=1)
        if trial.time(alone) < _CLEARLY * standing.threads * trial.time(chosen):
            processes = standing.threads
        chosen = trial.faster(alone, chosen)
    if runtime.compile == "auto" and trials == "compiled":
        chosen = trial.faster(replace(chosen, compile="yes"), chosen)
    elif runtime.compile == "auto":
        reason += "; too little work to compile for"
    return _decision(chosen, trial, processes, reason)


def _decision(chosen: Runtime, trial: _Trial, processes: int, reason: str) -> Decision:
    return Decision(
        precision=chosen.precision,
        compile=chosen.compile,
        threads=chosen.threads,
        processes=processes,
        milliseconds={words: round(1e3 * seconds, 2) for words, seconds in trial.seconds.items()},
        reason=reason,
    )


class _Trial:
    """Times one pass of a batch under different runtimes; no trace is left on the model."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model = model
        self.x = channels_last(x.detach())
        self.seconds: dict[str, float] = {}

    def faster(self, other: Runtime, standing: Runtime) -> Runtime:
        """Return the other one where it is clearly faster than what stands."""
        return other if self.time(other) < _CLEARLY * self.time(standing) else standing

    def time(self, runtime: Runtime) -> float:
        """Return the seconds of one pass, the least of three; what cannot run takes for ever."""
        words = f"{runtime.precision}, {runtime.threads} threads" + ", compiled" * (runtime.compile == "yes")
        if words not in self.seconds:
            with threads(runtime), fast(self.model, runtime) as view:
                try:
                    _pass(view, self.x)
                    self.seconds[words] = min(_timed(lambda: _pass(view, self.x)) for _ in range(_REPEATS))
                except torch.OutOfMemoryError:
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


# -- what is remembered ---------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder of what this user's machine has found out; it may be removed at any time."""
    import pooch

    return Path(pooch.os_cache("robustscape"))


def _key(runtime: Runtime, model: nn.Module, x: Tensor) -> str:
    """Return a hash of all that a decision depends on, but the work."""
    shapes = [(name, tuple(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
    device = runtime.torch_device()
    here = [platform.machine(), _processor(), os.cpu_count(), torch.get_num_threads(), torch.__version__]
    here += [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
    asked = [asdict(runtime), str(model), shapes, tuple(x.shape), str(device)]
    return hashlib.blake2b(json.dumps([here, asked], default=str).encode(), digest_size=16).hexdigest()


def _processor() -> str:
    """Return the processor's name and its matrix instructions, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = {flag for line in lines[:60] if line.startswith("flags") for flag in line.split()}
    return f"{name or platform.processor()} {sorted(flags & {'amx_bf16', 'avx512_bf16', 'avx512f', 'avx2'})}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, key: str, entry: dict[str, Any]) -> None:
    """Remember what was decided; where the cache cannot be written it is decided again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_text(json.dumps(_read(path) | {key: entry}, indent=1))
        os.replace(beside, path)
