"""Eigenvectors in files: what a later measurement of nearby weights starts from."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from robustscape.landscape.lanczos import Extremes
from robustscape.results import written
from robustscape.types import BadInput


def keep(found: Extremes, folder: str, loss: str, coordinates: str) -> None:
    """Write the eigenvectors of one Hessian, whole or not at all: "top", (k, D), and "bottom", (b, D)."""
    vectors = {"top": found.top.vectors, "bottom": found.bottom.vectors}
    with written(_file(folder, loss, coordinates)) as file:
        file.write(safetensors.torch.save({end: v.detach().cpu().contiguous() for end, v in vectors.items()}))


def kept(folder: str, loss: str, coordinates: str) -> Tensor:
    """Return the eigenvectors of one Hessian that ``keep`` wrote, (k + b, D), on the CPU.

    Raises:
        BadInput: there are none, or the file is damaged.
    """
    path = _file(folder, loss, coordinates)
    if not path.is_file():
        raise BadInput(
            f"{folder!r} holds no eigenvectors of the {loss} loss in {coordinates} coordinates ({path.name}); did you "
            "mean a folder that --spectrum.vectors named before?"
        )
    try:
        found = safetensors.torch.load_file(path)
        return torch.cat([found["top"], found["bottom"]])
    except (SafetensorError, KeyError) as error:
        raise BadInput(f"{str(path)!r} holds no eigenvectors, or is damaged: {error}") from None


def _file(folder: str, loss: str, coordinates: str) -> Path:
    return Path(folder) / f"{loss}-{coordinates}.safetensors"
