"""Decoded arrays in the user's cache: written whole or not at all, verified, mapped into memory where large."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np

from robustscape.data.archives import BROKEN
from robustscape.results import write_json, written

Arrays: TypeAlias = dict[str, np.ndarray]
"""Name to array, of numbers or texts."""

_LARGE = 1 << 26
"""Bytes from which an array is mapped and not read."""

_PART = 1 << 24
"""Bytes that one core hashes at a time."""

_DAY = 86400


def decoded(key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return what ``make`` gives, from the cache where it was put there before and is unchanged.

    Where the cache cannot be written, a warning says so and the arrays are made every time. Two processes at once
    may both make them; each file appears whole, and both write the same.

    Args:
        key: Names what is made, in letters that a file name may have: a hash of all that it depends on.
        make: Makes it; its names are identifiers.
    """
    found = kept(key)
    if found is not None:
        return found
    made = make()
    try:
        keep(key, made)
    except OSError as error:
        warnings.warn(
            f"the decoded data cannot be kept in {_folder()} ({error.strerror or error}) and will be decoded again",
            stacklevel=3,
        )
        return made
    return kept(key) or made


def kept(key: str) -> Arrays | None:
    """Return the arrays under a key, writable, changes kept to the process; None where not there or not unchanged."""
    try:
        about = json.loads((_folder() / f"{key}.json").read_text())
        names = [name for name in about["arrays"] if str(name).isidentifier()]
        found = {name: _read(_path(key, name)) for name in names}
    except BROKEN:
        return None
    return found if digest(found) == about.get("digest") else None


def keep(key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays under a key; OSError where the disk does not allow it."""
    if _folder().is_dir():
        for leftover in _folder().glob(f".{key}.*.tmp"):  # of a process that was killed
            with suppress(OSError):
                if time.time() - leftover.lstat().st_mtime > _DAY:
                    leftover.unlink()
    for name, array in arrays.items():
        with written(_path(key, name)) as file:
            np.save(file, array, allow_pickle=False)
    write_json(_folder() / f"{key}.json", {"arrays": list(arrays), "digest": digest(arrays)})


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a hash of names, types, shapes and values; large arrays are hashed in parts, by all cores."""
    total = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, array in sorted(arrays.items()):
            total.update(repr((name, array.dtype.str, array.shape)).encode())
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            parts = (flat[start : start + _PART].data for start in range(0, flat.size, _PART))
            for part in pool.map(lambda some: hashlib.blake2b(some, digest_size=16).digest(), parts):
                total.update(part)
    return total.hexdigest()


def fingerprint(told: Iterable[object]) -> str:
    """Return a short hash of what names a thing: plain values whose ``repr`` tells them."""
    return hashlib.blake2b(repr(list(told)).encode(), digest_size=16).hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """Return what changes when a file does: its place, its size, its time."""
    about = path.stat()
    return str(path.resolve()), about.st_size, about.st_mtime_ns


def _folder() -> Path:
    import pooch

    return Path(pooch.os_cache("robustscape")) / "decoded"


def _path(key: str, name: str) -> Path:
    return _folder() / f"{key}.{name}.npy"


def _read(path: Path) -> np.ndarray:
    # mapped as copy-on-write: torch warns of memory that must not be written
    mode = "c" if path.stat().st_size >= _LARGE else None
    return np.load(path, mmap_mode=mode, allow_pickle=False)
