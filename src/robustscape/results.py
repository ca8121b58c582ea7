"""Results on disk: frozen, typed, as JSON with large arrays beside it, never half-written.

A Result is a frozen dataclass with a field ``provenance``. Its file holds the schema version, its type
and its fields; arrays of more than 1,000 numbers go into an ``.npz`` beside it, which the JSON names.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import io
import json
import os
import platform
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.distributed as dist

from robustscape.config import from_plain, to_plain
from robustscape.types import BadInput, Plain, Provenance

SCHEMA = 2
"""Version of the files' form; a file of a newer one is refused with a sentence."""

_LARGE = 1000

_BROKEN = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, SyntaxError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What the reader of an .npz file raises for a damaged one."""


@contextmanager
def written(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name whole or not at all.

    It is written to a temporary name in the same folder, synced and renamed; on error it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too: nothing half written stays
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, plain: Plain) -> None:
    """Write plain data as indented JSON, whole or not at all."""
    with written(path, "w") as file:
        json.dump(plain, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> Plain:
    """Read JSON.

    Raises:
        BadInput: the file is missing or is not JSON.
    """
    if not path.is_file():  # nor a link to a device, which never ends
        raise BadInput(f"there is no file {path}")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON, or was cut short: {error}") from None


def read_run(folder: Path) -> dict[str, Plain]:
    """Read a run directory's ``run.json``: its "run" as plain data, "name", "image", "classes", "provenance".

    Raises:
        BadInput: there is none, it is another program's, or a newer robustscape's.
    """
    path = folder / "run.json"
    document = read_json(path)
    document = document if isinstance(document, dict) else {}
    schema = document.get("schema", 0)
    if isinstance(schema, int) and schema > SCHEMA:
        raise BadInput(f"{path} was written by a newer robustscape (schema {schema}, this one reads {SCHEMA})")
    needed = {"run": dict, "name": str, "image": list, "classes": list, "provenance": dict}
    if not isinstance(schema, int) or not all(isinstance(document.get(name), kind) for name, kind in needed.items()):
        raise BadInput(f"{path} is not the run.json of robustscape: it needs {', '.join(needed)}")
    runtime = document["run"].get("runtime", {})
    if not isinstance(runtime, dict):
        raise BadInput(f"{path} is not the run.json of robustscape: its runtime is {runtime!r}")
    if schema == 1 and isinstance(runtime.get("compile"), bool):
        runtime |= {"type": "runtime.settings:Runtime", "compile": "yes" if runtime["compile"] else "no"}
    return document


def save(result: Any, path: Path) -> Path:
    """Write a Result to ``path`` (ending in .json), its large arrays to an .npz beside it. Returns the path."""
    arrays = {
        f.name: value
        for f in dataclasses.fields(result)
        if isinstance(value := getattr(result, f.name), np.ndarray) and value.size > _LARGE
    }
    small = dataclasses.replace(result, **{name: np.empty(0) for name in arrays})
    plain = to_plain(small)
    beside = None
    if arrays:
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # pyright: ignore[reportArgumentType] (no array is named allow_pickle)
        # Named by its content: a kill before the JSON is written leaves the old pair whole.
        tag = hashlib.sha256(content.getvalue()).hexdigest()[:8]
        beside = path.with_name(f"{path.stem}.{tag}.npz")
        with written(beside) as file:
            file.write(content.getvalue())
        plain |= {name: {"npz": beside.name} for name in arrays}
    write_json(path, {"schema": SCHEMA, "result": plain})
    for old in path.parent.glob(f"{glob.escape(path.stem)}.*.npz"):
        if old != beside:
            old.unlink(missing_ok=True)
    return path


def load(path: Path) -> Any:
    """Read a Result that ``save`` wrote.

    Raises:
        BadInput: the file is missing, damaged, not a Result, or of a newer robustscape.
    """
    plain = read_json(path)
    plain = plain if isinstance(plain, dict) else {}
    schema, found = plain.get("schema"), plain.get("result")
    if not isinstance(schema, int) or not isinstance(found, dict) or "type" not in found:
        raise BadInput(f"{path} is not a result of robustscape")
    if schema > SCHEMA:
        raise BadInput(f"{path} was written by a newer robustscape (schema {schema}, this one reads {SCHEMA})")
    fields = dict(found)
    large = {k: v["npz"] for k, v in fields.items() if isinstance(v, dict) and set(v) == {"npz"}}
    arrays = {name: _array(path, name, file) for name, file in large.items()}
    fields |= {name: [] for name in arrays}
    try:
        return dataclasses.replace(from_plain(fields), **arrays)
    except (BadInput, TypeError) as error:
        raise BadInput(f"{path} is damaged: {error}") from None


def _array(path: Path, name: str, file: Plain) -> np.ndarray:
    """Return an array of the .npz file beside a result."""
    try:
        if not path.with_name(file).is_file():
            raise BadInput(f"the arrays of {path} are not there: it needs {file} beside it")
        with path.with_name(file).open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return stored[name]
    except BadInput:
        raise
    except _BROKEN as error:
        raise BadInput(f"the arrays of {path} cannot be read from {file}: {str(error)[:200]}") from None


def loads(folder: Path) -> list[Any]:
    """Read every Result in a folder, in the order of their names."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


# -- provenance ----------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return the versions that a number may depend on."""
    names = ("robustscape", "torch", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def now() -> str:
    """Return the time as results state it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Return the commit of robustscape's source tree, "+" at the end where it was changed, "" outside one."""
    here = Path(__file__).resolve().parent
    if not (here.parents[1] / ".git").exists():
        return ""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    """Return the name of the processor, as the system gives it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Return the device in words: the processor's or the accelerator's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def stopwatch() -> Callable[[], float]:
    """Return a function giving the seconds since now."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start


def provenance(
    *, seconds: float, device: torch.device, precision: str, seed: int, model: str, data: str, settings: Any
) -> Provenance:
    """Return the provenance of a number computed just now; ``settings`` is the component that made it."""
    return Provenance(
        created=now(),
        seconds=round(seconds, 3),
        versions=versions(),
        commit=commit(),
        device=device_name(device),
        precision=precision,
        threads=torch.get_num_threads(),
        seed=seed,
        model=model,
        data=data,
        settings=to_plain(settings),
        ranks=dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
    )
