"""Checkpoints: weights as safetensors that load without robustscape, and the state that a training goes on from.

A checkpoint of weights is the network's state dict under its plain names; the header's metadata entry
"robustscape" is JSON that says the architecture. ``safetensors.torch.load_file`` reads it anywhere.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from robustscape.results import written
from robustscape.training.log import TrackedStep
from robustscape.training.loop import State
from robustscape.types import BadInput, Plain

_KEY = "robustscape"
_NUMBERS = ("done", "epoch", "examples", "seconds", "sums", "best", "best_on_test")
_LATER = ("best_epoch", "stopped")  # unknown to states of older versions, which had no use for them


def _write(path: Path, tensors: dict[str, Tensor], metadata: Plain) -> None:
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = safetensors.torch.save(stored, metadata={_KEY: json.dumps(metadata, sort_keys=True)})
    with written(path) as file:
        file.write(content)


def save_weights(model: nn.Module, path: Path, metadata: Plain) -> None:
    """Write the network's state dict, whole or not at all; equal weights and metadata give equal bytes.

    Args:
        model: The network.
        path: Where to; ends in .safetensors.
        metadata: Plain data for the header: the architecture and what else tells what this is.
    """
    _write(path, model.state_dict(), metadata)


def read_metadata(path: Path) -> dict[str, Plain]:
    """Return what ``save_weights`` was told of a file beside the weights; nothing of one from elsewhere.

    Raises:
        BadInput: it is not a safetensors file, or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY, "{}")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} is not a safetensors file, or was cut short: {error}") from None
    try:
        plain = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the header of {path} is not JSON: {error}") from None
    return plain if isinstance(plain, dict) else {}


def digest(model: nn.Module) -> str:
    """Return the SHA-256 of the network's parameters and buffers, names included."""
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def save_state(state: State, path: Path) -> None:
    """Write all that the training changes, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    numbers = {name: getattr(state, name) for name in (*_NUMBERS, *_LATER)}
    _write(path, tensors, numbers | {"steps": [vars(step) for step in state.steps]})


def load_state(state: State, path: Path) -> None:
    """Set a state from ``start`` to the one that was saved.

    Raises:
        BadInput: the file is damaged, or of another architecture or optimiser.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"the saved state {path} cannot be read: {error}; remove it to start afresh") from None
    try:
        state.model.load_state_dict(_under(tensors, "model."))
        if state.average is not None:
            state.average.load_state_dict(_under(tensors, "average."))
    except RuntimeError as error:
        raise BadInput(f"the saved state {path} is of another architecture: {error}") from None
    parameters = dict(state.model.named_parameters())
    for stored, value in _under(tensors, "optimizer.").items():
        key, _, name = stored.partition(".")
        if name not in parameters:
            raise BadInput(f"the saved state {path} is of another architecture: it knows a parameter {name!r}")
        known: dict[str, Any] = state.optimizer.state[parameters[name]]
        # Adam counts its steps on the CPU; all else lives where and as the parameter does.
        known[key] = value if key == "step" else torch.empty_like(parameters[name]).copy_(value)
    if missing := [name for name in _NUMBERS if name not in metadata]:
        raise BadInput(f"the saved state {path} was altered: it lacks {', '.join(missing)}; remove it to start afresh")
    for name in _NUMBERS:
        setattr(state, name, metadata[name])
    for name in _LATER:
        setattr(state, name, metadata.get(name, getattr(state, name)))
    state.steps = [TrackedStep(**values) for values in metadata.get("steps", ())]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
