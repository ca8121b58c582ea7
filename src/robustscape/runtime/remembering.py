"""What earlier trials on this machine have decided: a file in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustscape.runtime.settings import Runtime


def cache_folder() -> Path:
    """Return the folder of what this user's machine has found out; it may be removed at any time."""
    import pooch

    return Path(pooch.os_cache("robustscape"))


def cache_file() -> Path:
    """Return the file of decisions in it."""
    return cache_folder() / "decisions.json"


def key_of(runtime: Runtime, model: nn.Module, x: Tensor) -> str:
    """Return a hash of all that a decision depends on, but the work."""
    shapes = [(name, tuple(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
    device = runtime.torch_device()
    here = [platform.machine(), processor(), os.cpu_count(), torch.get_num_threads()]
    here += [torch.__version__, metadata.version("robustscape")]
    here += [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
    asked = [asdict(runtime), str(model), shapes, tuple(x.shape), str(device)]
    return hashlib.blake2b(json.dumps([here, asked], default=str).encode(), digest_size=16).hexdigest()


def processor() -> str:
    """Return the processor's name and its vector and matrix instructions, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = {flag for line in lines[:60] if line.startswith("flags") for flag in line.split()}
    known = sorted(flags & {"amx_bf16", "avx512_bf16", "avx512f", "avx2"})
    return f"{name or platform.processor()} ({', '.join(known)})"


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a file, by key, without those that another version wrote in another form.

    Each has "model", "parameters", "shape", "seconds" of a pass, and "decisions" by class of work, as plain data.
    """
    kinds = {"model": str, "parameters": int, "shape": list, "seconds": float, "decisions": dict}

    def is_sound(entry: Any) -> bool:
        return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())

    return {key: entry for key, entry in _content(path).items() if is_sound(entry)}


def _content(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, key: str, entry: dict[str, Any]) -> None:
    """Put one entry into a file; where it cannot be written, it is decided again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_text(json.dumps(_content(path) | {key: entry}, indent=1))
        os.replace(beside, path)
