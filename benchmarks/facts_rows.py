"""From the results of ``facts.py`` to its rows: what each paper's claim comes to on the networks trained here.

Verdicts, and the rule of each claim, are those of ``facts_verdicts.py``; "not measured" where a result that a row needs
is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from facts_verdicts import (
    AWP,
    BARRIER,
    CURVATURE,
    EIGENVALUE,
    METHODS,
    MISSING,
    RESCALING,
    SIMILARITY,
    SLICES,
    Claim,
    above,
    falls,
    grows,
    higher,
    judged,
    largest,
    rescales,
    slice_curvature,
    spread,
    together,
    turns,
)

from robustscape.landscape.connectivity import ConnectivityResult
from robustscape.landscape.curvature import CurvatureResult
from robustscape.landscape.flatness import FlatnessResult
from robustscape.landscape.paired_flatness import compared
from robustscape.types import Plain

Found = Mapping[str, Mapping[str, Any]]
"""Name of what was measured to its results, by the stem of their files."""

_CIFAR = "CIFAR-10 (JPEG), PreActResNet-18(16)"
SHORT, LONG, MNIST = f"{_CIFAR} after 7 epochs", f"{_CIFAR} after 30 epochs", "MNIST, LeNet(8)"
NAMES = {
    "mnist": MNIST,
    "cifar10": SHORT,
    "mnist-train": f"{MNIST}, training images",
    "cifar10-train": f"{SHORT}, training images",
    "cifar10-long-train": f"{LONG}, training images",
}
"""Of the groups along eps."""

PATHS = {"line": "on the straight line", "curve 1": "on a trained Bezier curve"}
RELATIVE = {"raw": "", "layer": ", relative to the layers' norms,"}


def rows(found: Found, flat: Mapping[str, Sequence[FlatnessResult]]) -> list[Plain]:
    """Return a row for each claim and data set.

    Args:
        found: What was measured; names as ``facts.Plan.looks`` gives them.
        flat: Average-case flatness of the committed networks "at" and "at-awp", a result a seed.
    """
    every: list[Plain] = []
    for group, others in (("mnist", MNIST), ("cifar10", LONG)):
        every += [*_eigenvalues(found, group), _slices(found, group), _similarity(found, group)]
        every += [*_barriers(found, group, others), _curvature(found, group, others)]
    for group in ("mnist-train", "cifar10-train", "cifar10-long-train"):
        every += _eigenvalues(found, group)
    every.append(_slices(found, "cifar10-long-train"))
    return [*every, _awp(flat), *_between_methods(found), _rescaling(found)]


def distinct(values: Sequence[Any]) -> list[Any]:
    """Return the values without repetition, in their order."""
    return [value for place, value in enumerate(values) if value not in values[:place]]


def _row(claim: Claim, told: str, where: str, verdict: str, numbers: Plain, results: Sequence[Any]) -> Plain:
    """Return one fact, with what its numbers depend on; ``told`` fills the claim's words."""
    return {
        "claim": claim.words.format(told),
        "paper": claim.paper,
        "where": where,
        "verdict": verdict,
        "holds_where": claim.holds_where,
        "numbers": numbers,
        "attacks": distinct([r.attack for r in results]),
        "n": distinct([r.n for r in results]),
        "split": distinct([r.split for r in results]),
    }


def _missing(claim: Claim, told: str, where: str) -> Plain:
    return _row(claim, told, where, MISSING, {}, [])


def _all(found: Found, prefix: str, file: str) -> dict[str, Any]:
    """Return the results of what is named so, by name; none where one is missing."""
    wanted = {name: results for name, results in found.items() if name.startswith(prefix)}
    complete = all(file in results for results in wanted.values())
    return {name: results[file] for name, results in wanted.items()} if complete else {}


# -- over eps ------------------------------------------------------------------------------------------


def _eigenvalues(found: Found, group: str) -> list[Plain]:
    """Return the rows of the largest eigenvalue, raw and relative, of both losses."""
    return [
        _along(found, group, EIGENVALUE, f"the {loss} loss{RELATIVE[by]}", "spectrum", largest(by, loss))
        for by, loss in product(RELATIVE, ("robust", "clean"))
    ]


def _slices(found: Found, group: str) -> Plain:
    return _along(found, group, SLICES, "", "slices", slice_curvature)


def _along(found: Found, group: str, claim: Claim, told: str, file: str, of: Callable[[Any], float]) -> Plain:
    """Return the row of what is to grow with eps."""
    networks, where = series(found, group), NAMES[group]
    if not networks or any(file not in results for seeds in networks.values() for results in seeds.values()):
        return _missing(claim, told, where)
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
    return _row(claim, told, where, grows(list(values.values())), numbers, [r for line in there for r in line])


def series(found: Found, group: str) -> dict[float, dict[int, Mapping[str, Any]]]:
    """Return the results along eps: eps, rising, to seed to the results of one network."""
    seeds: dict[float, dict[int, Mapping[str, Any]]] = {}
    for name, results in found.items():
        if match := re.fullmatch(rf"{group}/(?:natural|at-(?P<eps>[\d.]+))-(?P<seed>\d+)", name):
            seeds.setdefault(float(match["eps"] or 0), {})[int(match["seed"])] = results
    return dict(sorted(seeds.items()))


# -- one claim each ------------------------------------------------------------------------------------


def _similarity(found: Found, group: str) -> Plain:
    networks = series(found, group)
    robust = {(e, s): r for e, seeds in networks.items() if e for s, r in seeds.items()}
    if not robust or any("similarity" not in results for results in robust.values()):
        return _missing(SIMILARITY, "", NAMES[group])
    results = {f"eps {e:g}, seed {s}": r["similarity"] for (e, s), r in robust.items()}
    numbers = {name: falls(result) for name, result in results.items()}
    return _row(SIMILARITY, "", NAMES[group], turns(list(numbers.values())), numbers, list(results.values()))


def _barriers(found: Found, group: str, where: str) -> list[Plain]:
    """Return a row for each path."""
    there: dict[str, ConnectivityResult] = _all(found, f"barrier/{group}-", "connectivity")
    if not there:
        return [_missing(BARRIER, told, where) for told in PATHS.values()]
    every: list[Plain] = []
    for path, told in PATHS.items():
        place = next(iter(there.values())).paths.index(path)
        natural = [float(r.clean_barrier[place]) for name, r in there.items() if "natural" in name]
        robust = {name: float(r.robust_barrier[place]) for name, r in there.items() if "natural" not in name}
        numbers: Plain = {"natural, clean loss": spread(natural), "adversarial, robust loss": robust}
        verdict = higher(list(robust.values()), natural)
        every.append(_row(BARRIER, told, where, verdict, numbers, list(there.values())))
    return every


def _curvature(found: Found, group: str, where: str) -> Plain:
    there: dict[str, CurvatureResult] = _all(found, f"curvature/{group}-", "curvature")
    if not there:
        return _missing(CURVATURE, "", where)
    numbers: Plain = {}
    excesses, verdicts = [], []
    for number, level in enumerate(next(iter(there.values())).levels):
        at = [result.levels[number].along[0].differences[0] for result in there.values()]
        excess, noise = [one.excess.value for one in at], [one.noise for one in at]
        excesses.append(excess)
        verdicts.append(above(excess, noise))
        numbers[f"eps {level.eps:.4g}"] = {
            "radius": at[0].radius,
            "held": spread([one.held.value for one in at]),
            "total": spread([one.total.value for one in at]),
            "excess": spread(excess),
            "noise": spread(noise),
            "excess is above its noise": verdicts[-1],
        }
    return _row(CURVATURE, "", where, together([grows(excesses), *verdicts]), numbers, list(there.values()))


def _awp(flat: Mapping[str, Sequence[FlatnessResult]]) -> Plain:
    pairs = [compared(second, first).difference for first, second in zip(flat["at"], flat["at-awp"], strict=True)]
    numbers: Plain = {kind: spread([r.robust.value for r in results]) for kind, results in flat.items()}
    numbers["AT-AWP minus AT"] = [{"value": p.value, "low": p.low, "high": p.high} for p in pairs]
    verdict = judged((pair.high < 0 for pair in pairs), bool(np.mean([pair.value for pair in pairs]) < 0))
    return _row(AWP, "", LONG, verdict, numbers, [r for results in flat.values() for r in results])


def _between_methods(found: Found) -> list[Plain]:
    """Return the rows of the largest eigenvalue, raw and relative."""
    kinds = {"at": "rescaled/cifar10-trained", "trades": "methods/cifar10-trades", "at-awp": "methods/cifar10-at-awp"}
    spectra = {kind: list(_all(found, f"{prefix}-", "spectrum").values()) for kind, prefix in kinds.items()}
    if not all(spectra.values()):
        return [_missing(METHODS, told, LONG) for told in RELATIVE.values()]
    every: list[Plain] = []
    for coordinates, told in RELATIVE.items():
        of = largest(coordinates, "robust")
        values = {kind: [of(result) for result in each] for kind, each in spectra.items()}
        numbers: Plain = {kind: spread(each) for kind, each in values.items()}
        results = [result for each in spectra.values() for result in each]
        every.append(_row(METHODS, told, LONG, higher(values["at"], values["at-awp"]), numbers, results))
    return every


def _rescaling(found: Found) -> Plain:
    seeds: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, results in found.items():
        if match := re.fullmatch(r"rescaled/cifar10-(?P<how>\w+)-(?P<seed>\d+)", name):
            seeds.setdefault(match["seed"], {})[match["how"]] = results
    if not seeds or any(len(results) < 2 for of in seeds.values() for results in of.values()):
        return _missing(RESCALING, "", LONG)
    numbers, flat, times = {}, [], []
    for how in (how for how in next(iter(seeds.values())) if how != "trained"):
        pairs = [(of["trained"], of[how]) for of in seeds.values()]
        flat.append([after["flatness"].robust.value / before["flatness"].robust.value for before, after in pairs])
        numbers[how] = {"flatness": spread(flat[-1])}
        for coordinates, loss in product(("raw", "layer"), ("robust", "clean")):
            of = largest(coordinates, loss)
            ratios = [of(after["spectrum"]) / of(before["spectrum"]) for before, after in pairs]
            numbers[how][f"largest eigenvalue, {coordinates}, {loss} loss"] = spread(ratios)
        times.append(numbers[how]["largest eigenvalue, raw, robust loss"]["each"])
    results = [result for of in seeds.values() for each in of.values() for result in each.values()]
    return _row(RESCALING, "", LONG, rescales(flat, times), {"rescaled over trained": numbers}, results)
