"""The numbers that a measurement's Result is remembered by: what is set beside robustness over many runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from robustscape.landscape.connectivity import ConnectivityResult
from robustscape.landscape.curvature import CurvatureResult
from robustscape.landscape.density import DensityResult
from robustscape.landscape.flatness import Estimate, FlatnessResult
from robustscape.landscape.gradients import GradientResult
from robustscape.landscape.pac_bayes import PACBayesResult
from robustscape.landscape.perturbed import AtGamma, PerturbedResult
from robustscape.landscape.similarity import SimilarityResult
from robustscape.landscape.slices import SliceResult
from robustscape.landscape.spectrum import SpectrumResult
from robustscape.landscape.surface import SurfaceResult
from robustscape.landscape.trace import TraceResult
from robustscape.landscape.views import ViewsResult
from robustscape.landscape.weights import WeightsResult
from robustscape.landscape.worst_flatness import WorstFlatnessResult


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One number of a Result.

    Attributes:
        name: What a table calls it, for example "Flatness".
        unit: Its unit, "" for none.
        value: The number, finite.
        low: Lower end of its 95 % interval, None where it has none.
        high: Its upper end.
    """

    name: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None


def headlines(result: Any) -> tuple[Headline, ...]:
    """Return the numbers of any Result, the main one first; () for one that has none.

    Of the robust loss where there are both. What depends on a second network, and eigenvalues that did not converge
    (``unconverged``), are left out. Of a Result that is not known here: every field that is an ``Estimate``.
    """
    return tuple(found for found in _of(result) if math.isfinite(found.value))


def unconverged(result: Any) -> tuple[str, ...]:
    """Return in words the eigenvalues of a Result that did not converge, a clause for each spectrum; () for none."""
    return tuple(_unconverged(result))


def _of(result: Any) -> Iterable[Headline]:
    match result:
        case FlatnessResult():
            return [
                _estimate("Flatness", "nats", result.robust),
                _estimate("Flatness of the clean loss", "nats", result.clean),
            ]
        case WorstFlatnessResult():
            return [
                _estimate("Worst-case flatness", "nats", result.robust),
                _estimate("Worst-case flatness of the clean loss", "nats", result.clean),
            ]
        case SliceResult():
            name = _along("Mean rise along slices", result.facts.along)
            return [_rise(name, result.robust_loss, result.robust_loss[:, _nearest(result.alpha)])]
        case SurfaceResult():
            centre = result.robust_loss[_nearest(result.beta), _nearest(result.alpha)]
            return [_rise(_along("Mean rise over the surface", result.facts.along), result.robust_loss, centre)]
        case SpectrumResult():
            return _spectrum(result)
        case TraceResult():
            return _trace(result)
        case DensityResult():
            found = result.robust_nuclear or result.clean_nuclear
            return [_estimate(f"Nuclear norm of the Hessian, {result.coordinates}", "", found)]
        case CurvatureResult():
            top = max(result.levels, key=lambda level: level.eps).top
            name = f"Largest eigenvalue of the total Hessian, {result.coordinates}"
            return [Headline(name=name, unit="", value=top.total)] if top is not None and top.converged else []
        case GradientResult():
            return [
                Headline(name="Gradient norm", unit="", value=float(result.norm[-1])),
                _estimate("Gradient noise scale", "examples", result.robust_noise_scale),
            ]
        case WeightsResult():
            return _weights(result)
        case SimilarityResult():
            return _similarity(result)
        case PerturbedResult():
            kinds = (("adversarial", result.adversarial), ("random", result.random))
            return [_perturbed(kind, levels[-1]) for kind, levels in kinds if levels]
        case PACBayesResult():
            name = f"Rise of the error under Gaussian weights, alpha {result.levels[-1].alpha:g}"
            return [_estimate(name, "fraction", result.levels[-1].rise)]
        case ViewsResult():
            views = " and ".join(on.view for on in result.views)
            return [_estimate(f"Rise on other views ({views})", "nats", result.robust)]
        case ConnectivityResult():
            return []
    return _unknown(result)


def _estimate(name: str, unit: str, found: Estimate) -> Headline:
    ends = (found.low, found.high) if math.isfinite(found.low) and math.isfinite(found.high) else (None, None)
    return Headline(name=name, unit=unit, value=found.value, low=ends[0], high=ends[1])


def _nearest(positions: np.ndarray) -> int:
    return int(np.abs(positions).argmin())


def _along(name: str, along: str) -> str:
    """Each family of directions is a measure of its own; that of random ones goes without saying."""
    return name if along == "random" else f"{name}, {along.replace('_', ' ')}"


def _rise(name: str, losses: np.ndarray, centre: Any) -> Headline:
    """The mean over positions, and directions, of the loss over that at the weights themselves."""
    return Headline(name=name, unit="nats", value=float(losses.mean() - np.mean(centre)))


def _spectrum(result: SpectrumResult) -> Iterator[Headline]:
    for place, coordinates in enumerate(result.coordinates):
        if result.converged[-1, place, 0]:
            value = float(result.eigenvalues[-1, place, 0])
            yield Headline(name=f"Largest eigenvalue, {coordinates}", unit="", value=value)


def _unconverged(result: Any) -> Iterator[str]:
    if isinstance(result, SpectrumResult):
        for which, ends in (("largest", result.converged), ("smallest", result.smallest_converged)):
            for (row, place), found in _spectra(result, ends):
                yield f"{found} of the {which}, {result.losses[row]}, {result.coordinates[place]}"
    if isinstance(result, CurvatureResult):
        for level in result.levels:
            vectors = [along.direction for along in level.along if not along.converged]
            top = level.top
            vectors += ["the largest held one"] if top is not None and not top.held_converged else []
            vectors += ["the largest total one"] if top is not None and not top.converged else []
            if vectors:
                yield f"{', '.join(vectors)} at eps {level.eps:.4g}"
    if isinstance(result, SimilarityResult):
        yield from (name for name, good in zip(result.directions, result.converged, strict=True) if not good)
    if isinstance(result, SliceResult | SurfaceResult) and not all(result.facts.converged):
        places = [str(k + 1) for k, good in enumerate(result.facts.converged) if not good]
        yield f"eigenvector{'s' * (len(places) > 1)} {', '.join(places)}"


def _spectra(result: SpectrumResult, converged: np.ndarray) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield loss and coordinates of each spectrum with eigenvalues that did not converge, and how many of how many."""
    for row, place in np.ndindex(len(result.losses), len(result.coordinates)):
        count, lacking = converged.shape[-1], int((~converged[row, place]).sum())
        if lacking:
            yield (row, place), f"{lacking} of {count}" if count > 1 else "1"


def _trace(result: TraceResult) -> Iterator[Headline]:
    for place, coordinates in enumerate(result.coordinates):
        value, low, high = (float(of[-1, place]) for of in (result.trace, result.low, result.high))
        yield Headline(name=f"Trace of the Hessian, {coordinates}", unit="", value=value, low=low, high=high)


def _weights(result: WeightsResult) -> Iterator[Headline]:
    found = {
        "Norm of the weights": result.whole_norm,
        "Distance from the start": result.whole_distance,
        "Share of dead units": result.dead_share,
    }
    return (Headline(name=name, unit="", value=value) for name, value in found.items() if value is not None)


def _similarity(result: SimilarityResult) -> Iterator[Headline]:
    for name, values in zip(result.directions, result.similarity, strict=True):
        there = values[np.isfinite(values)]
        if len(there):
            yield Headline(name=f"Mean similarity along {name}", unit="", value=float(there.mean()))


def _perturbed(kind: str, level: AtGamma) -> Headline:
    return _estimate(f"Rise under {kind} weights, gamma {level.gamma:g}", "nats", level.rise)


def _unknown(result: Any) -> Iterator[Headline]:
    """Every estimate, under the names of the Result and of the field."""
    of = type(result).__name__.removesuffix("Result")
    for field in fields(result):
        if isinstance(found := getattr(result, field.name), Estimate):
            yield _estimate(f"{of}: {field.name.replace('_', ' ')}", "", found)
