"""Read the weights in anyone's file; nothing that the file holds is executed."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustscape.types import BadInput

FILES = (".safetensors", ".pt", ".pth")
"""Endings of files that hold weights."""

NESTS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "params", "weights"),
    *("ema", "ema_state_dict", "state_dict_ema", "model_ema", "averaged", "averaged_state_dict", "swa", "last", "best"),
)
"""Under which keys training scripts keep a state dict: plain weights first, averaged ones after them."""

_BESIDE = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode", "argparse.Namespace", "types.SimpleNamespace"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "_local.PosixPath", "_local.WindowsPath")),
)
"""What training scripts save beside the weights, an accuracy or their options: passed over, and not made either."""


class _Nothing:
    """Stands for a thing that is passed over: takes all that its file says of it, and does nothing."""

    def __new__(cls, *given: object) -> _Nothing:
        """Take the arguments of a call."""
        return super().__new__(cls)

    def __init__(self, *given: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        """Take a state."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The state dict of a file.

    Attributes:
        path: The file.
        state: Name to tensor, under the file's own names.
        ordered: Whether its order is that in which the network made its parts; safetensors does not keep it.
        nest: Under which keys it was found, for example "state_dict"; "" where it is the whole file.
        others: Keys beside it under which there may be other weights.
    """

    path: Path
    state: Mapping[str, Tensor]
    ordered: bool
    nest: str = ""
    others: tuple[str, ...] = ()


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Say so where the block finds the safetensors file damaged.

    Raises:
        BadInput: it is.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        reason = str(error).partition("\n")[0][:200]
        raise BadInput(f"{path} is not a safetensors file, or was cut short: {reason}") from None


def read(path: Path, checkpoint: str) -> Weights:
    """Return the state dict in a file.

    Args:
        path: A .safetensors file, or one that ``torch.save`` wrote.
        checkpoint: Which one is taken where a file holds several, for example "best" or "state_dict", if there is
            one of that name.

    Raises:
        BadInput: the file is damaged, holds more than tensors and plain values, or holds no state dict.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        with intact(path):
            found = Weights(path=path, state=load_file(path), ordered=False)
    else:
        found = _state_in(path, _unpickled(path), checkpoint)
    for name, value in found.state.items():
        _check_tensor(path, name, value)
    return found


def _unpickled(path: Path) -> Any:
    _check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_Nothing, name) for name in _BESIDE]):
            warnings.simplefilter("ignore")  # of what it refuses torch also warns
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle fails in any way it likes
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        more = f" ({named[1]})" if named else ""
        raise BadInput(
            f"{path} is damaged or holds more than tensors{more}, and nothing in a checkpoint is executed; "
            "save model.state_dict() alone"
        ) from None


def _check_archive(path: Path) -> None:
    """Refuse an archive that would be larger in memory than it is on disk: torch compresses nothing."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch says what is wrong with it
    stored = all(item.compress_type == zipfile.ZIP_STORED for item in inside)
    if not stored or sum(item.file_size for item in inside) > path.stat().st_size:
        raise BadInput(
            f"{path} is no checkpoint of torch, which compresses nothing: it would unpack to more than it is"
        )


def _state_in(path: Path, content: Any, checkpoint: str) -> Weights:
    """Find the state dict in what a file held."""
    nest: list[str] = []
    others: list[str] = []
    while not _is_state(content):
        known = dict.fromkeys((checkpoint, *NESTS))
        keys = [key for key in known if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
        if not keys:
            raise BadInput(f"{path} holds no state dict, neither by itself nor as one of: {', '.join(NESTS)}")
        nest.append(keys[0])
        others += [key for key in keys[1:] if _is_state(content[key])]
        content = content[keys[0]]
    return Weights(path=path, state=dict(content), ordered=True, nest=".".join(nest), others=tuple(others))


def _is_state(content: Any) -> bool:
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _check_tensor(path: Path, name: str, value: Tensor) -> None:
    """Refuse a tensor that no network has: sparse, quantised, or larger than what the file holds of it."""
    plain = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
    if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise BadInput(f"{path} holds {name!r} in a form that is not a network's: save model.state_dict() alone")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise BadInput(f"{path} holds NaN or infinite numbers in {name!r}; was its training stopped by them?")
