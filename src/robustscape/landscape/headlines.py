"""The numbers that a measurement's Result is remembered by: what is set beside robustness over many runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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
        of: What the name leaves out: which loss, whether its inputs are held, that a bound is vacuous. For example
            "robust loss".
    """

    name: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None
    of: str = ""


def headlines(result: Any) -> tuple[Headline, ...]:
    """Return the numbers of any Result, the main one first; () for one that has none.

    Of the robust loss where there are both. What depends on a second network, and eigenvalues that did not converge
    (``unconverged``), are left out. Of a Result that is not known here: every field that is an ``Estimate``.
    """
    return tuple(found for found in _of(result) if math.isfinite(found.value))


def further(result: Any) -> tuple[Headline, ...]:
    """Return the other estimates of a Result that are worth a line; () for one that has none.

    Values and upper ends may be infinite here. One of a headline's name stands for it, since it says more of it.
    """
    return tuple(_further(result))


def unconverged(result: Any) -> tuple[str, ...]:
    """Return in words the eigenvalues of a Result that did not converge, a clause for each spectrum; () for none."""
    return tuple(_unconverged(result))


def _of(result: Any) -> Iterable[Headline]:
    match result:
        case FlatnessResult():
            return [
                _estimate("Flatness", "nats", result.robust, of="robust loss"),
                _estimate("Flatness of the clean loss", "nats", result.clean),
            ]
        case WorstFlatnessResult():
            return [
                _estimate("Worst-case flatness", "nats", result.robust, of="robust loss"),
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
            name = f"Nuclear norm of the Hessian, {result.coordinates}"
            return [_estimate(name, "nats", found, of=_held(result.losses))]
        case CurvatureResult():
            top = max(result.levels, key=lambda level: level.eps).top
            name = f"Largest eigenvalue of the total Hessian, {result.coordinates}"
            of = "robust loss, inputs following"
            return [Headline(name=name, unit="nats", value=top.total, of=of)] if top and top.converged else []
        case GradientResult():
            return [
                Headline(name="Gradient norm", unit="nats", value=float(result.norm[-1]), of="robust loss"),
                _estimate("Gradient noise scale", "examples", result.robust_noise_scale, of="robust loss"),
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
            return [_estimate(name, "fraction", result.levels[-1].rise, of="robust error")]
        case ViewsResult():
            return [_estimate(f"Rise on other views ({_views(result)})", "nats", result.robust, of="robust loss")]
        case ConnectivityResult():
            return []
    return _unknown(result)


def _further(result: Any) -> Iterator[Headline]:
    match result:
        case FlatnessResult():
            for name, found in (("", result.robust_over_both), (" of the clean loss", result.clean_over_both)):
                if found is not None and math.isfinite(found.low):
                    of = "" if name else "robust loss"
                    yield _estimate(f"Flatness{name}, interval over draws and examples", "nats", found, of=of)
        case SliceResult() | SurfaceResult():
            if result.bias is not None and result.error_bias is not None:
                yield _estimate("Robust loss less that of full attacks", "nats", result.bias)
                yield _estimate("Robust error less that of full attacks", "fraction", result.error_bias)
        case DensityResult():
            if result.robust_trace is not None:
                name = f"Nuclear norm of the clean loss's Hessian, {result.coordinates}"
                yield _estimate(name, "nats", result.clean_nuclear)
                name, of = f"Trace of the Hessian, {result.coordinates}", _held(result.losses)
                yield _estimate(name, "nats", result.robust_trace, of=of)
            yield _estimate(f"Trace of the clean loss's Hessian, {result.coordinates}", "nats", result.clean_trace)
        case GradientResult():
            yield _scale("Gradient noise scale", result.robust_noise_scale, of="robust loss")
            yield _scale("Gradient noise scale of the clean loss", result.clean_noise_scale)
        case PACBayesResult():
            name, of = f"Bound on the robust error, alpha {result.bound_alpha:g}", ""
            if result.bound.value >= 1:
                of = "vacuous: 1 or more says nothing"
            yield _estimate(name, "fraction", result.bound, of=of)
        case ViewsResult():
            yield _estimate(f"Rise of the clean loss on other views ({_views(result)})", "nats", result.clean)
        case ConnectivityResult():
            for path, rise in zip(result.paths, result.robust_barrier, strict=True):
                yield Headline(name=f"Barrier on the {path}", unit="nats", value=float(rise), of="robust loss")
            for name, found in (("curves", result.curve_barrier), ("aligned curves", result.aligned_curve_barrier)):
                if found is not None:
                    yield _estimate(f"Mean barrier on the {name}", "nats", found, of="robust loss")


def _estimate(name: str, unit: str, found: Estimate, *, of: str = "") -> Headline:
    ends = (found.low, found.high) if math.isfinite(found.low) and math.isfinite(found.high) else (None, None)
    return Headline(name=name, unit=unit, value=found.value, low=ends[0], high=ends[1], of=of)


def _scale(name: str, found: Estimate, *, of: str = "") -> Headline:
    """With its lower end where there is no upper one."""
    return Headline(name=name, unit="examples", value=found.value, low=found.low, high=found.high, of=of)


def _held(losses: Sequence[str]) -> str:
    """The loss that counts, and that its adversarial inputs stay where they are when the weights move."""
    return "robust loss, inputs held" if losses[-1] == "robust" else f"{losses[-1]} loss"


def _views(result: ViewsResult) -> str:
    return " and ".join(on.view for on in result.views)


def _nearest(positions: np.ndarray) -> int:
    return int(np.abs(positions).argmin())


def _along(name: str, along: str) -> str:
    """Each family of directions is a measure of its own; that of random ones goes without saying."""
    return name if along == "random" else f"{name}, {along.replace('_', ' ')}"


def _rise(name: str, losses: np.ndarray, centre: Any) -> Headline:
    """The mean over positions, and directions, of the loss over that at the weights themselves."""
    return Headline(name=name, unit="nats", value=float(losses.mean() - np.mean(centre)), of="robust loss")


def _spectrum(result: SpectrumResult) -> Iterator[Headline]:
    for place, coordinates in enumerate(result.coordinates):
        if result.converged[-1, place, 0]:
            value = float(result.eigenvalues[-1, place, 0])
            name = f"Largest eigenvalue, {coordinates}"
            yield Headline(name=name, unit="nats", value=value, of=_held(result.losses))


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
        name, of = f"Trace of the Hessian, {coordinates}", _held(result.losses)
        yield Headline(name=name, unit="nats", value=value, low=low, high=high, of=of)


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
            yield Headline(name=f"Mean similarity along {name}", unit="", value=float(there.mean()), of="cosine")


def _perturbed(kind: str, level: AtGamma) -> Headline:
    return _estimate(f"Rise under {kind} weights, gamma {level.gamma:g}", "nats", level.rise, of="robust loss")


def _unknown(result: Any) -> Iterator[Headline]:
    """Every estimate, under the names of the Result and of the field."""
    of = type(result).__name__.removesuffix("Result")
    for field in fields(result):
        if isinstance(found := getattr(result, field.name), Estimate):
            yield _estimate(f"{of}: {field.name.replace('_', ' ')}", "", found)
