"""From the results of ``facts.py`` to its rows: what each paper's claim comes to on the networks trained here.

A verdict is "holds" where every seed says so (each step of eps, each pair of networks, each network), "in part" where
the means do, else "does not hold"; "not measured" where a result that it needs is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from robustscape.landscape.connectivity import ConnectivityResult
from robustscape.landscape.curvature import CurvatureResult
from robustscape.landscape.flatness import FlatnessResult
from robustscape.landscape.paired_flatness import compared
from robustscape.landscape.similarity import SimilarityResult
from robustscape.landscape.slices import SliceResult
from robustscape.landscape.spectrum import SpectrumResult
from robustscape.results import commit, now, processor, versions
from robustscape.types import Plain

Found = Mapping[str, Mapping[str, Any]]
"""Name of what was measured to its results, by the stem of their files."""

HOLDS, PART, NOT, MISSING = "holds", "in part", "does not hold", "not measured"
NAMES = {"mnist": "MNIST, LeNet(8)", "cifar10": "CIFAR-10 (JPEG), PreActResNet-18(16)"}
ON_TRAIN = {f"{group}-train": f"{words}, training images" for group, words in NAMES.items()}
ON_TRAIN["cifar10-long-train"] = f"{NAMES['cifar10']} after 30 epochs, training images"


def rows(found: Found, flat: Mapping[str, Sequence[FlatnessResult]]) -> list[Plain]:
    """Return a row for each claim and data set.

    Args:
        found: What was measured; names as ``facts.Plan.looks`` gives them.
        flat: Average-case flatness of the committed networks "at" and "at-awp", a result a seed.
    """
    made: list[Plain] = []
    for group in NAMES:
        made += _over_eps(found, group)
        made.append(_similarity(found, group))
        made.append(_barriers(found, group))
        made.append(_curvature(found, group))
    for group in ON_TRAIN:
        made += _eigenvalues(found, group)
    made += [_awp(flat), _between_methods(found), _rescaling(found)]
    return made


def made(results: Sequence[Any]) -> Plain:
    """Return where the facts are from: of each result's provenance what differs, and the sum of the seconds."""
    of = [result.provenance for result in results]
    return {
        "created": now(),
        "summarised_with": {"versions": versions(), "commit": commit(), "device": processor()},
        "versions": _distinct([p.versions for p in of]),
        "commits": _distinct([p.commit for p in of]),
        "devices": _distinct([p.device for p in of]),
        "precisions": _distinct([p.precision for p in of]),
        "threads": _distinct([p.threads for p in of]),
        "measuring_seeds": _distinct([p.seed for p in of]),
        "measuring_seconds": round(sum(p.seconds for p in of)),
    }


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]


def _row(claim: str, paper: str, where: str, verdict: str, numbers: Plain, results: Sequence[Any]) -> Plain:
    """Return one fact, with what its numbers depend on."""
    about = {
        "attacks": _distinct([r.attack for r in results]),
        "n": _distinct([r.n for r in results]),
        "split": _distinct([r.split for r in results]),
    }
    return {"claim": claim, "paper": paper, "where": where, "verdict": verdict, "numbers": numbers, **about}


def _missing(claim: str, paper: str, where: str) -> Plain:
    return _row(claim, paper, where, MISSING, {}, [])


def spread(values: Sequence[float]) -> Plain:
    """Return values of several seeds or pairs with their mean and range."""
    return {"each": list(values), "mean": float(np.mean(values)), "low": min(values), "high": max(values)}


# -- over eps ------------------------------------------------------------------------------------------


def grows(by_eps: Sequence[Sequence[float]]) -> str:
    """Return the verdict on numbers that are to grow: for each eps, rising, one of each seed.

    In part: the means grow from the smallest eps to the largest, and no step of them falls by more than a tenth.
    """
    if all(after > before for line in zip(*by_eps, strict=True) for before, after in pairwise(line)):
        return HOLDS
    means = [float(np.mean(values)) for values in by_eps]
    nearly = all(after > 0.9 * before for before, after in pairwise(means))
    return PART if nearly and means[-1] > means[0] else NOT


def slice_curvature(result: SliceResult) -> float:
    """Return the second difference of the robust loss over the smallest step, mean over directions, nats."""
    centre = int(np.flatnonzero(result.alpha == 0)[0])
    h = result.alpha[centre + 1]
    below, at, above = (result.robust_loss[:, centre + k] for k in (-1, 0, 1))
    return float(((below - 2 * at + above) / h**2).mean())


def _eigenvalue(coordinates: str, loss: str) -> Callable[[SpectrumResult], float]:
    def largest(result: SpectrumResult) -> float:
        which = result.losses.index(loss), result.coordinates.index(coordinates)
        return float(result.eigenvalues[which][0])

    return largest


def _over_eps(found: Found, group: str) -> list[Plain]:
    """Return the rows of what is to grow with eps: eigenvalues, and slices."""
    claim, paper = "slices of the robust loss curve more the larger eps is", "Liu 2020, section 3.2; Wu 2020, figure 2"
    return [*_eigenvalues(found, group), _along(found, group, claim, paper, "slices", slice_curvature)]


def _eigenvalues(found: Found, group: str) -> list[Plain]:
    """Return the rows of the largest eigenvalue, raw and relative, of both losses."""
    made: list[Plain] = []
    for coordinates, loss in product(("raw", "layer"), ("robust", "clean")):
        words = {"raw": "", "layer": ", relative to the layers' norms,"}[coordinates]
        claim = f"the largest eigenvalue of the {loss} loss{words} grows with eps"
        of = _eigenvalue(coordinates, loss)
        made.append(_along(found, group, claim, "Liu 2020, figures 2 and 9", "spectrum", of))
    return made


def _along(found: Found, group: str, claim: str, paper: str, file: str, of: Callable[[Any], float]) -> Plain:
    networks, where = series(found, group), {**NAMES, **ON_TRAIN}[group]
    if not networks or any(file not in results for seeds in networks.values() for results in seeds.values()):
        return _missing(claim, paper, where)
    there = [[results[file] for results in seeds.values()] for seeds in networks.values()]
    values = {eps: [of(r) for r in line] for eps, line in zip(networks, there, strict=True)}
    numbers: Plain = {f"eps {eps:g}": spread(line) for eps, line in values.items()}
    if file == "slices":
        numbers["robust error there"] = {
            f"eps {eps:g}": [float(r.robust_error[0, len(r.alpha) // 2]) for r in line]
            for eps, line in zip(networks, there, strict=True)
        }
    else:
        numbers["converged"] = all(bool(r.converged[..., 0].all()) for line in there for r in line)
        numbers["loss there"] = {
            f"eps {eps:g}": [float(r.loss[r.losses.index("robust")]) for r in line]
            for eps, line in zip(networks, there, strict=True)
        }
    return _row(claim, paper, where, grows(list(values.values())), numbers, [r for line in there for r in line])


def series(found: Found, group: str) -> dict[float, dict[int, Mapping[str, Any]]]:
    """Return the results along eps: eps, rising, to seed to the results of one network."""
    made: dict[float, dict[int, Mapping[str, Any]]] = {}
    for name, results in found.items():
        if match := re.fullmatch(rf"{group}/(?:natural|at-(?P<eps>[\d.]+))-(?P<seed>\d+)", name):
            made.setdefault(float(match["eps"] or 0), {})[int(match["seed"])] = results
    return dict(sorted(made.items()))


# -- similarity ----------------------------------------------------------------------------------------


def falls(result: SimilarityResult) -> Plain:
    """Return how far similarity falls, along the top eigenvector and along a random direction of the same length.

    At the largest position where moving along the eigenvector leaves half of the robust accuracy, or at the first.
    """
    kept = 1 - result.robust_error[-1].max(axis=1) >= (1 - result.same_weights_robust_error) / 2
    place = int(np.flatnonzero(kept).max(initial=0))
    same = result.same_weights if result.same_weights is not None else float("nan")
    random, eigen = (same - float(result.similarity[d, place]) for d in (0, -1))
    return {
        "position": float(result.position[place]),
        "at w": same,
        "fall along the eigenvector": eigen,
        "fall along a random direction": random,
        "standard error": float(np.hypot(*result.standard_error[[0, -1], place])),
        "similarity along the eigenvector": result.similarity[-1].tolist(),
        "similarity along a random direction": result.similarity[0].tolist(),
    }


def _similarity(found: Found, group: str) -> Plain:
    claim = "adversarial perturbations change along the top eigenvector of the Hessian, not along random directions"
    paper, networks = "Liu 2020, figures 3 and 10", series(found, group)
    robust = {(e, s): r for e, seeds in networks.items() if e for s, r in seeds.items()}
    if not robust or any("similarity" not in results for results in robust.values()):
        return _missing(claim, paper, NAMES[group])
    results = {f"eps {e:g}, seed {s}": r["similarity"] for (e, s), r in robust.items()}
    numbers = {name: falls(result) for name, result in results.items()}
    apart = [n["fall along the eigenvector"] - n["fall along a random direction"] for n in numbers.values()]
    clear = all(
        gap > 2 * n["standard error"] and n["fall along a random direction"] < n["fall along the eigenvector"] / 2
        for gap, n in zip(apart, numbers.values(), strict=True)
    )
    verdict = HOLDS if clear else PART if np.mean(apart) > 0 else NOT
    return _row(claim, paper, NAMES[group], verdict, numbers, list(results.values()))


# -- barriers ------------------------------------------------------------------------------------------


def higher(values: Sequence[float], others: Sequence[float]) -> str:
    """Return the verdict on values that are to be higher than others: all, or the mean."""
    if min(values) > max(others):
        return HOLDS
    return PART if np.mean(values) > np.mean(others) else NOT


def _barriers(found: Found, group: str) -> Plain:
    claim = "the barrier between two adversarially trained networks is higher than between two natural ones"
    paper = "Liu 2020, appendix C.2.5"
    wanted = {name: results for name, results in found.items() if name.startswith(f"barrier/{group}-")}
    if not wanted or any("connectivity" not in results for results in wanted.values()):
        return _missing(claim, paper, NAMES[group])
    there: dict[str, ConnectivityResult] = {name: results["connectivity"] for name, results in wanted.items()}
    paths = next(iter(there.values())).paths
    numbers: Plain = {path: {} for path in paths}
    verdicts = []
    for place, path in enumerate(paths):
        natural = [float(r.clean_barrier[place]) for name, r in there.items() if "natural" in name]
        robust = {name: float(r.robust_barrier[place]) for name, r in there.items() if "natural" not in name}
        numbers[path] = {"natural, clean loss": spread(natural), "adversarial, robust loss": robust}
        verdicts.append(higher(list(robust.values()), natural))
    verdict = verdicts[0] if len(set(verdicts)) == 1 else PART
    return _row(claim, paper, NAMES[group], verdict, numbers, list(there.values()))


# -- curvature -----------------------------------------------------------------------------------------


def _curvature(found: Found, group: str) -> Plain:
    claim = "curvature with the inputs following the weights exceeds that with inputs held, the more the larger eps is"
    paper = "Yamada 2021, theorem 1, where held curvature is 0; here on networks, by differences"
    wanted = {name: results for name, results in found.items() if name.startswith(f"curvature/{group}-")}
    if not wanted or any("curvature" not in results for results in wanted.values()):
        return _missing(claim, paper, NAMES[group])
    there: dict[str, CurvatureResult] = {name: results["curvature"] for name, results in wanted.items()}
    numbers: Plain = {}
    by_eps: list[list[float]] = []
    for number, level in enumerate(next(iter(there.values())).levels):
        at = [result.levels[number].along[0].differences[0] for result in there.values()]
        excess = [one.excess.value for one in at]
        by_eps.append(excess)
        numbers[f"eps {level.eps:.4g}"] = {
            "radius": at[0].radius,
            "held": spread([one.held.value for one in at]),
            "total": spread([one.total.value for one in at]),
            "excess": spread(excess),
            "noise": spread([one.noise for one in at]),
        }
    above = all(excess > 0 for line in by_eps for excess in line)
    growing = grows(by_eps)
    verdict = HOLDS if above and growing == HOLDS else PART if above else NOT
    return _row(claim, paper, NAMES[group], verdict, numbers, list(there.values()))


# -- flatness ------------------------------------------------------------------------------------------


def _awp(flat: Mapping[str, Sequence[FlatnessResult]]) -> Plain:
    claim, paper = "AT-AWP is flatter than AT on average", "Wu 2020, figure 2; Stutz 2021, figure 1"
    pairs = [compared(second, first).difference for first, second in zip(flat["at"], flat["at-awp"], strict=True)]
    numbers: Plain = {kind: spread([r.robust.value for r in results]) for kind, results in flat.items()}
    numbers["AT-AWP minus AT"] = [{"value": p.value, "low": p.low, "high": p.high} for p in pairs]
    mean = np.mean([pair.value for pair in pairs])
    verdict = HOLDS if all(pair.high < 0 for pair in pairs) else PART if mean < 0 else NOT
    return _row(claim, paper, NAMES["cifar10"], verdict, numbers, [r for results in flat.values() for r in results])


def _between_methods(found: Found) -> Plain:
    claim, where = "the largest eigenvalue of AT's robust loss is larger than that of AT-AWP's", NAMES["cifar10"]
    paper = "Wu 2020, figure 2, which shows slices"
    kinds = {"at": "rescaled/cifar10-trained", "trades": "methods/cifar10-trades", "at-awp": "methods/cifar10-at-awp"}
    there = {
        kind: [results for name, results in found.items() if name.startswith(f"{prefix}-")]
        for kind, prefix in kinds.items()
    }
    if any(not each or any("spectrum" not in results for results in each) for each in there.values()):
        return _missing(claim, paper, where)
    spectra = {kind: [results["spectrum"] for results in each] for kind, each in there.items()}
    values = {kind: [_eigenvalue("raw", "robust")(result) for result in each] for kind, each in spectra.items()}
    numbers: Plain = {kind: spread(each) for kind, each in values.items()}
    verdict = higher(values["at"], values["at-awp"])
    return _row(claim, paper, where, verdict, numbers, [result for each in spectra.values() for result in each])


def _rescaling(found: Found) -> Plain:
    """Return the row of rescaled networks: it holds where one of the ways moves the eigenvalue threefold or more."""
    claim = "rescaled without a change of the function, flatness stays and the largest eigenvalue moves about fourfold"
    paper, where = "Stutz 2021, figure 4 (1990 to 7936 and 505)", NAMES["cifar10"]
    seeds: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, results in found.items():
        if match := re.fullmatch(r"rescaled/cifar10-(?P<how>\w+)-(?P<seed>\d+)", name):
            seeds.setdefault(match["seed"], {})[match["how"]] = results
    if not seeds or any(len(results) < 2 for of in seeds.values() for results in of.values()):
        return _missing(claim, paper, where)
    numbers: Plain = {}
    moved, largest = [], []
    for how in (how for how in next(iter(seeds.values())) if how != "trained"):
        pairs = [(of["trained"], of[how]) for of in seeds.values()]
        flat = [after["flatness"].robust.value / before["flatness"].robust.value for before, after in pairs]
        numbers[how] = {"flatness": spread(flat)}
        for coordinates, loss in product(("raw", "layer"), ("robust", "clean")):
            of = _eigenvalue(coordinates, loss)
            ratios = [of(after["spectrum"]) / of(before["spectrum"]) for before, after in pairs]
            numbers[how][f"largest eigenvalue, {coordinates}, {loss} loss"] = spread(ratios)
        moved += [abs(ratio - 1) for ratio in flat]
        largest.append(numbers[how]["largest eigenvalue, raw, robust loss"]["each"])
    stays, most = max(moved) < 1e-2, [max(line) for line in zip(*largest, strict=True)]
    verdict = HOLDS if stays and min(most) > 3 else PART if stays and np.mean(most) > 1.5 else NOT
    results = [result for of in seeds.values() for each in of.values() for result in each.values()]
    return _row(claim, paper, where, verdict, {"rescaled over trained": numbers}, results)
