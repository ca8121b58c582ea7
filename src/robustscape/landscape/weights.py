"""How large the weights are, how far they went, and which units never fire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from robustscape.evaluation.units import relu_units
from robustscape.landscape._other import check_other
from robustscape.landscape.directions.between import read_state
from robustscape.types import BadInput, Params, Plain, Provenance, Subject
from robustscape.weights.space import select


@dataclass(frozen=True, kw_only=True)
class WeightsResult:
    """Norms, distances and dead units of L layers (one tensor each, biases and normalisation too) and A activations.

    Attributes:
        layers: Names of the parameters.
        sizes: (L,), numbers in each.
        norm: (L,), L2 norm of each.
        kurtosis: (L,), fourth central moment over the squared variance, 3 for normal numbers; NaN where all are equal.
        distance: (L,), L2 distance of each from the start; empty without a start.
        relative_distance: (L,), that over the L2 norm at the start, infinite where the start is 0; empty without one.
        cosine: (L,), cosine between a layer and its start, NaN where either is 0; empty without a start.
        whole_norm: L2 norm of all parameters together.
        whole_distance: L2 distance of all parameters from the start; None without one.
        start: What the distances are from, "" for nothing.
        activations: Where a ReLU was seen: the name of the module it ran in, "(2)" for its second ReLU in a forward.
        units: (A,), channels or neurons of each.
        dead: (A,), how many of them are 0 for every example, at every position.
        active: (A,), share of positive outputs, over examples, units and positions.
        dead_share: Dead units over units, of all activations together; None where no ReLU was seen.
        fires_at_most: Share of examples that a unit seen dead may yet fire for, upper end of its 95 % interval.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    layers: tuple[str, ...]
    sizes: np.ndarray
    norm: np.ndarray
    kurtosis: np.ndarray
    distance: np.ndarray
    relative_distance: np.ndarray
    cosine: np.ndarray
    whole_norm: float
    whole_distance: float | None
    start: str
    activations: tuple[str, ...]
    units: np.ndarray
    dead: np.ndarray
    active: np.ndarray
    dead_share: float | None
    fires_at_most: float
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Norm of every layer, its distance from the start of training, and the ReLU units that never fire.

    Liu 2020 (https://arxiv.org/abs/2006.08403, figures 1 and 8) follows ||w - w_0|| through training. A unit is a
    channel (over all positions) or a neuron; it is dead if its ReLU gives 0 for every clean example. ReLUs are seen
    whether they are modules or function calls; other activations have no dead units and are not looked at.

    Attributes:
        start: Where training began: a safetensors file, or a run directory, whose first kept checkpoint it is,
            the initial weights where ``training.keep_every`` was set; "" for no distances.
    """

    name: ClassVar[str] = "weights"
    scale_free: ClassVar[bool] = False
    """Norms and distances grow with the weights; dead shares, kurtosis and cosines do not."""

    start: str = ""

    def points(self) -> list[Plain]:
        """Return the two points: the layers, and the units."""
        return ["layers", "units"]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return the numbers of the layers or of the units, a list for each.

        Raises:
            BadInput: the start cannot be read, or is of another architecture or data set.
        """
        if point == "units":
            return relu_units(subject)
        weights = select(subject.model, "all")
        start, words = _start(self.start, subject) if self.start else ({}, "")
        layers = [_layer(name, value, start.get(name)) for name, value in weights.items()]
        return {"start": words, **{key: [layer[key] for layer in layers] for key in layers[0]}}

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> WeightsResult:
        """Put layers and units together."""
        layers, units = values
        norm, away = _array(layers["norm"]), _array(layers["distance"] if layers["start"] else [])
        start, along = (_array(layers[key] if layers["start"] else []) for key in ("start_norm", "cosine"))
        total, n = sum(units["units"]), len(subject.x)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(away > 0, away / start, 0.0)
        return WeightsResult(
            layers=tuple(layers["layer"]),
            sizes=np.array(layers["size"]),
            norm=norm,
            kurtosis=_array(layers["kurtosis"]),
            distance=away,
            relative_distance=relative,
            cosine=along,
            whole_norm=float(np.linalg.norm(norm)),
            whole_distance=float(np.linalg.norm(away)) if layers["start"] else None,
            start=layers["start"],
            activations=tuple(units["activations"]),
            units=np.array(units["units"], dtype=int),
            dead=np.array(units["dead"], dtype=int),
            active=_array(units["active"]),
            dead_share=sum(units["dead"]) / total if total else None,
            fires_at_most=1 - 0.05 ** (1 / n),
            n=n,
            split=subject.split,
            provenance=provenance,
        )


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array(values, dtype=float)  # None becomes NaN


def _layer(name: str, value: Tensor, start: Tensor | None) -> dict[str, Plain]:
    """Return the numbers of one layer, None where one has no meaning."""
    w = value.double().flatten()
    spread = (w - w.mean()).square()
    variance = float(spread.mean())
    found = {
        "layer": name,
        "size": w.numel(),
        "norm": float(w.norm()),
        "kurtosis": float(spread.square().mean()) / variance**2 if variance > 0 else None,
    }
    w_0 = w if start is None else start.to(w.device).double().flatten()
    lengths = float(w.norm() * w_0.norm())
    return found | {
        "start_norm": float(w_0.norm()),
        "distance": float((w - w_0).norm()),
        "cosine": float(w @ w_0) / lengths if lengths > 0 else None,
    }


# -- where training began ------------------------------------------------------------------------------


def _start(text: str, subject: Subject) -> tuple[Params, str]:
    """Return the parameters at the start, and its file in words.

    Raises:
        BadInput: there is none, it cannot be read, or it is of another architecture or data set.
    """
    path = _file(Path(text))
    check_other(subject, text, name="start")
    found = read_state(subject.model, path)
    return found, f"{path.parent.parent.name} {path.stem}" if Path(text).is_dir() else path.name


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise BadInput(f"start {str(path)!r} is neither a .safetensors file nor a run directory")
    kept = sorted((path / "checkpoints").glob("epoch-*.safetensors"))
    if not kept:
        raise BadInput(
            f"{path} keeps no checkpoint of its beginning; train it with --training.keep-every 1, or give a "
            "safetensors file of the weights it began with"
        )
    return kept[0]
