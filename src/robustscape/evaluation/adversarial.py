"""Adversarial inputs as a file: kept by an evaluation, verified anew, and tried on other models."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustscape.attacks._common import check, told
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.result import Evaluation
from robustscape.results import written
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput, Subject

_KIND = "robustscape adversarial inputs 1"
_TENSORS = ("x_adv", "index", "fooled", "of")


def keep(path: Path, subject: Subject, found: Evaluation) -> Path:
    """Write the inputs that an evaluation found, all or none; returns the path.

    Args:
        path: Ends in .safetensors.
        subject: What was evaluated: its first ``len(found.index)`` examples.
        found: The evaluation, made with ``adversarial=True``.
    """
    from safetensors.torch import save

    assert found.x_adv is not None, "the evaluation kept no adversarial inputs"
    tensors = {
        "x_adv": torch.from_numpy(found.x_adv).contiguous(),
        "index": torch.from_numpy(found.index).contiguous(),
        "fooled": torch.from_numpy(found.fooled).contiguous(),
        "of": _marks(subject.x[: len(found.index)]),
    }
    about = {
        "kind": _KIND,
        "norm": found.norm,
        "eps": found.eps,
        "model": found.provenance.model,
        "data": found.provenance.data,
        "split": found.split,
        "attack": found.attack,
    }
    with written(path) as file:
        file.write(save(tensors, metadata={"robustscape": json.dumps(about)}))
    return path


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Inputs from a file in place of a search: what fools one model, tried on another.

    The model is not looked at. An input that is further from the clean one than ``threat`` allows is moved to the
    edge of the ball.

    Attributes:
        path: A file that ``robustscape evaluate --keep-adversarial`` wrote.
        threat: Ball and box that the inputs stay in.
        checksum: Of the file's content, so that what was begun with one file does not go on with another; see ``of``.
    """

    path: str
    threat: ThreatModel = field(default_factory=ThreatModel)
    checksum: str = ""

    @classmethod
    def of(cls, path: Path, threat: ThreatModel) -> Stored:
        """Return the inputs of a file as it is now.

        Raises:
            BadInput: the file is missing, damaged, or another kind of file.
        """
        described(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
        return cls(path=str(path), threat=threat, checksum=digest.hexdigest())

    def at(self, eps: float) -> Stored:
        """Return the same inputs within another eps."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return where they come from in words."""
        return f"Transfer ({told(self.threat)}, inputs of {Path(self.path).name})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None) -> Tensor:
        """Return the inputs of the examples that ``rng.index`` numbers, (N, C, H, W).

        Raises:
            BadInput: the file is missing, damaged or of other images.
        """
        check(x, y)
        index = (rng or numbered(x, "stored")).index
        assert index is not None, "an attack's streams have an index"
        with _opened(Path(self.path)) as (file, about):
            rows = {number: row for row, number in enumerate(file.get_tensor("index").tolist())}
            missing = [number for number in index.tolist() if number not in rows]
            if missing:
                held = f"it holds {len(rows)}, of {about['data']}"
                raise BadInput(f"{self.path} has no input for image {missing[0]}: {held}")
            chosen = [rows[number] for number in index.tolist()]
            kept = file.get_slice("x_adv")  # a batch of what may be larger than memory
            x_adv = torch.cat([kept[row : row + 1] for row in chosen]).to(x)
            same = torch.equal(file.get_tensor("of")[chosen], _marks(x))
        if x_adv.shape != x.shape or not same:
            raise BadInput(f"{self.path} was made of other images: {about['data']}")
        return self.threat.project(x_adv, x)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str | float]]:
    """Return a file's tensors (x_adv, index, fooled, of) and what it says of itself.

    Raises:
        BadInput: it is missing, damaged, or another kind of file.
    """
    with _opened(path) as (file, about):
        return {name: file.get_tensor(name) for name in _TENSORS}, about


def described(path: Path) -> dict[str, str | float]:
    """Return what a file says of itself: model, data, split, norm, eps and attack; raises as ``read``."""
    with _opened(path) as (_, about):
        return about


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str | float]]]:
    """Open a file of adversarial inputs."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("robustscape", "{}"))
            if not (isinstance(about, dict) and about.get("kind") == _KIND and set(_TENSORS) <= set(file.keys())):
                raise BadInput(
                    f"{path} holds no adversarial inputs; did you mean a file of evaluate --keep-adversarial?"
                )
            yield file, about
    except BadInput:
        raise
    except (SafetensorError, ValueError, OSError) as error:
        raise BadInput(f"{path} cannot be read as a file of adversarial inputs: {error}") from None


def _marks(x: Tensor) -> Tensor:
    """Return a checksum of each clean image in 256 levels, (N,), int64."""
    levels = (x.detach().cpu() * 255).round().to(torch.uint8).contiguous().numpy()
    return torch.from_numpy(np.array([zlib.crc32(image.tobytes()) for image in levels], dtype=np.int64))
