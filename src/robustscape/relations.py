"""What is measured of several runs beside how robust they are: the numbers behind figures, charts and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustscape.config import from_plain, to_plain
from robustscape.evaluation.correlation import LEAST
from robustscape.evaluation.overfitting import Overfitting, Term, overfitting
from robustscape.evaluation.result import Evaluation, Number
from robustscape.landscape.headlines import headlines, unconverged
from robustscape.runs import RunFolder
from robustscape.types import BadInput, Plain

LOSS, ERROR = "Robust loss", "Robust error"
GAP, LATE = "Test − train robust loss", "Last − best robust loss"
OUTCOMES = {LOSS: "nats", ERROR: "%", GAP: "nats", LATE: "nats"}
"""What a measure is set beside, all on test images: name to unit."""

ENOUGH = 10
"""Fewest runs that are divided into good, average and poor ones: at least three each."""

CLEAN = "Clean accuracy"
"""What partial correlations hold, %."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number with its 95 % interval, None where it has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Network:
    """One checkpoint of one run.

    Attributes:
        label: What a table calls the run's group.
        group: Number of the group, from 0.
        seed: Seed of the run.
        values: Outcome, ``CLEAN`` or measure to its value; those that are missing are not there.
    """

    label: str
    group: int
    seed: int
    values: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Relations:
    """Runs that were judged alike, with all that was measured of them alike.

    Attributes:
        last: The last checkpoint of each run.
        best: Its early-stopped one, None where that was not judged; as many.
        measures: Name to unit of each measure that at least four of the last checkpoints have, flatness first.
        classes: Number of classes.
        judged: The evaluation of one of them: how all were judged; None for no run.
        notes: What was left out, a sentence each.
    """

    last: tuple[Network, ...]
    best: tuple[Network | None, ...]
    measures: Mapping[str, str]
    classes: int
    judged: Evaluation | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A straight line from one end of some points to the other, by least squares; ``group`` is whose they are."""

    x: tuple[float, float]
    y: tuple[float, float]
    group: int | None = None


@dataclass(frozen=True, kw_only=True)
class Level:
    """Networks of about the same robustness.

    Attributes:
        name: "good", "average" or "poor".
        errors: Which robust errors this means, in words.
        networks: Last checkpoints, the robust error rising.
    """

    name: str
    errors: str
    networks: tuple[Network, ...]


def overfittings(folders: Sequence[RunFolder]) -> dict[str, list[Overfitting]]:
    """Return, by label, the overfitting of each run, taken apart from its log and its evaluations."""
    found: dict[str, list[Overfitting]] = {}
    for folder in sorted(folders, key=lambda folder: folder.group):
        found.setdefault(folder.label, []).append(_overfitting(folder))
    return found


def relations(folders: Sequence[RunFolder]) -> Relations:
    """Return what can be set side by side of some runs.

    Only what was judged, or measured, in the same way on the same images compares: of evaluations, and of every
    measure, the largest set of equals counts.
    """
    some = [folder for folder in folders if "evaluation-last-test" in folder.results]
    alike, others = _alike(some, [_judged_by(folder.results["evaluation-last-test"]) for folder in some])
    judged: Evaluation | None = alike[0].results["evaluation-last-test"] if alike else None
    notes = [f"Judged otherwise, and left out: {_names(others)}."] if others else []
    measures: dict[str, str] = {}
    values: dict[tuple[int, str], dict[str, Value]] = {}
    for name in _measurements(alike):
        found, units, left_out = _measured(alike, name)
        notes += left_out
        measures |= units
        for key, some in found.items():
            values.setdefault(key, {}).update(some)
    last = [_network(folder, "last", values.get((place, "last"), {})) for place, folder in enumerate(alike)]
    best = [_network(folder, "best", values.get((place, "best"), {})) for place, folder in enumerate(alike)]
    counts = {name: sum(name in network.values for network in last if network) for name in measures}
    few = [f"{name} ({counts[name]})" for name in measures if counts[name] < LEAST]
    notes += [f"Measured of fewer than {LEAST} runs, and left out: {', '.join(few)}."] if few else []
    return Relations(
        last=tuple(network for network in last if network is not None),
        best=tuple(best),
        measures={name: unit for name, unit in measures.items() if counts[name] >= LEAST},
        classes=len(judged.classes) if judged is not None else 0,
        judged=judged,
        notes=tuple(notes),
    )


def having(networks: Iterable[Network | None], *names: str) -> list[Network]:
    """Return the networks that have all the named values."""
    return [network for network in networks if network is not None and all(name in network.values for name in names)]


def arrows(found: Relations, x: str, y: str) -> list[tuple[Network, Network]]:
    """Return (last, early-stopped) of each run that has both values of both checkpoints."""
    pairs = zip(found.last, found.best, strict=True)
    return [(last, best) for last, best in pairs if best is not None and len(having((last, best), x, y)) == 2]


def trends(networks: Sequence[Network], x: str, y: str) -> list[Trend]:
    """Return a line for each group with at least three runs."""
    groups = sorted({network.group for network in networks})
    found = [_line([n for n in networks if n.group == group], x, y, group) for group in groups]
    return [line for line in found if line is not None]


def halves(networks: Sequence[Network], classes: int) -> list[Trend]:
    """Return the lines of robust error against robust loss, below and above ln K, where there are three networks.

    From ln K on, the loss of guessing, a network can lower its loss without being right more often: Stutz 2021,
    figure 8.
    """
    kink = math.log(classes)
    below = [network for network in networks if network.values[LOSS].value < kink]
    above = [network for network in networks if network.values[LOSS].value >= kink]
    return [line for half in (below, above) if (line := _line(half, LOSS, ERROR, None)) is not None]


def levels(found: Relations) -> tuple[Level, ...]:
    """Return good, average and poor networks: Stutz 2021, table 1.

    Good is a robust error below the 30 % percentile of all last checkpoints, poor one from the 70 % percentile on.

    Returns:
        The three; () of fewer than ``ENOUGH`` runs, and where equal errors leave one of the three empty.
    """
    if len(found.last) < ENOUGH:
        return ()
    networks = sorted(found.last, key=lambda network: network.values[ERROR].value)
    low, high = np.percentile([network.values[ERROR].value for network in networks], [30, 70])
    parts = (
        ("good", f"below {low:.1f} %", -math.inf, low),
        ("average", f"{low:.1f} to {high:.1f} %", low, high),
        ("poor", f"from {high:.1f} %", high, math.inf),
    )
    made = tuple(
        Level(name=name, errors=said, networks=tuple(n for n in networks if least <= n.values[ERROR].value < most))
        for name, said, least, most in parts
    )
    return made if all(level.networks for level in made) else ()


def spread(place: int, count: int) -> list[float]:
    """Return where the points of a level stand beside each other, about its place."""
    return [place + 0.5 * ((rank + 0.5) / count - 0.5) for rank in range(count)]


def unlevelled(found: Relations) -> str:
    """Return why there are no good, average and poor networks, "" where there are."""
    if levels(found):
        return ""
    count = len(found.last)
    if count < ENOUGH:
        there = f"there {'is' if count == 1 else 'are'} {count}"
        return f"Good, average and poor networks are told apart of {ENOUGH} runs and more; {there}."
    return "Good, average and poor networks cannot be told apart: too many have the same robust error."


# -- pieces --------------------------------------------------------------------------------------------


def _line(networks: Sequence[Network], x: str, y: str, group: int | None) -> Trend | None:
    xs, ys = (np.array([network.values[name].value for network in networks]) for name in (x, y))
    if len(xs) < 3 or np.ptp(xs) <= 1e-9 * np.abs(xs).max():
        return None
    slope = float(((xs - xs.mean()) * (ys - ys.mean())).sum() / ((xs - xs.mean()) ** 2).sum())
    ends = float(xs.min()), float(xs.max())
    at = tuple(float(ys.mean() + slope * (end - xs.mean())) for end in ends)
    return Trend(x=ends, y=(at[0], at[1]), group=group)


def _overfitting(folder: RunFolder) -> Overfitting:
    names = {"train": "evaluation-last-train", "test": "evaluation-last-test", "best": "evaluation-best-test"}
    found = {name: folder.results.get(file) for name, file in names.items()}
    return overfitting(folder.log.epochs if folder.log else (), **found)


def _network(folder: RunFolder, checkpoint: str, measured: Mapping[str, Value]) -> Network | None:
    """Return a checkpoint with its outcomes and measures, None where it was not judged as the last one was."""
    judged: Evaluation | None = folder.results.get(f"evaluation-{checkpoint}-test")
    if judged is None or _judged_by(judged) != _judged_by(folder.results["evaluation-last-test"]):
        return None
    right = Value(value=100 * (1 - judged.clean_error.value))
    values = {LOSS: _value(judged.robust_loss), ERROR: _value(judged.robust_error, 100), CLEAN: right}
    if checkpoint == "last":
        apart = _overfitting(folder)
        for name, term in ((GAP, apart.gap_loss), (LATE, apart.last_minus_best_loss)):
            values |= {name: _of_term(term)} if term.value is not None else {}
    return Network(label=folder.label, group=folder.group, seed=folder.seed, values={**measured, **values})


def _value(number: Number, scale: float = 1.0) -> Value:
    return Value(value=scale * number.value, low=scale * number.low, high=scale * number.high)


def _of_term(term: Term) -> Value:
    assert term.value is not None
    return Value(value=term.value, low=term.low, high=term.high)


def _measurements(folders: Sequence[RunFolder]) -> list[str]:
    """Return the names of all measurements of last checkpoints, flatness first."""
    files = {file.removesuffix("-last") for folder in folders for file in folder.results if file.endswith("-last")}
    usual = ("flatness", "worst_flatness", "slices")
    return sorted(files, key=lambda name: (usual.index(name) if name in usual else len(usual), name))


def _measured(
    folders: Sequence[RunFolder], name: str
) -> tuple[dict[tuple[int, str], dict[str, Value]], dict[str, str], list[str]]:
    """Return one measurement's numbers by run and checkpoint, their units, and what was left out."""
    having = [folder for folder in folders if f"{name}-last" in folder.results]
    hows = [measured_by(folder.results[f"{name}-last"]) for folder in having]
    alike, others = _alike(having, hows)
    how = next((h for folder, h in zip(having, hows, strict=True) if folder in alike), "")
    values, units = {}, {}
    for place, folder in enumerate(folders):
        for checkpoint in ("last", "best"):
            result = folder.results.get(f"{name}-{checkpoint}")
            if result is not None and measured_by(result) == how:
                found = headlines(result)
                values[place, checkpoint] = {h.name: Value(value=h.value, low=h.low, high=h.high) for h in found}
                units |= {h.name: h.unit for h in found}
    notes = [f"{name} was measured otherwise, and is left out, of {_names(others)}."] if others and units else []
    lacking = [folder for folder in alike if unconverged(folder.results[f"{name}-last"])]
    notes += [f"{name}: some eigenvalues of {_names(lacking)} did not converge."] if lacking else []
    return values, units, notes


def _alike(folders: Sequence[RunFolder], keys: Sequence[str]) -> tuple[list[RunFolder], list[RunFolder]]:
    """Return the largest set of runs of one key, and the others."""
    if not folders:
        return [], []
    usual = max(dict.fromkeys(keys), key=list(keys).count)
    return (
        [folder for folder, key in zip(folders, keys, strict=True) if key == usual],
        [folder for folder, key in zip(folders, keys, strict=True) if key != usual],
    )


def _judged_by(of: Evaluation) -> str:
    return repr((of.norm, of.eps, of.attack, of.classes, of.provenance.data, of.index.tobytes()))


def measured_alike(found: Mapping[str, Sequence[Any]]) -> tuple[dict[str, list[Any]], str]:
    """Return the largest set of results that can be shown together, and in words what this leaves out, "" for nothing.

    They share settings, split, number of images and layers; threat models and data sets may differ.

    Args:
        found: Label of each group to its results.
    """
    hows = {label: [_shown_by(result) for result in results] for label, results in found.items()}
    every = [how for of in hows.values() for how in of]
    usual = max(dict.fromkeys(every), key=every.count, default=None)
    kept = {
        label: [r for r, how in zip(results, hows[label], strict=True) if how == usual]
        for label, results in found.items()
    }
    fewer = {label: len(results) - len(kept[label]) for label, results in found.items()}
    return kept, ", ".join(f"{label} ({count})" for label, count in fewer.items() if count)


def _shown_by(result: Any) -> str:
    return repr((measured_by(result, any_threat=True), getattr(result, "layers", None)))


_PLACES = ("other", "start", "vectors")


def measured_by(result: Any, *, any_threat: bool = False) -> str:
    """Return how a number was measured: its settings, with fields that did not exist yet, the split and the images.

    Where another network or its vectors lie is left out: every seed has its own.

    Args:
        result: What was measured.
        any_threat: Whether threat models and data sets may differ.
    """
    settings = _whole(result.provenance.settings)
    settings = {name: value for name, value in settings.items() if name not in _PLACES}
    images = [getattr(result, "split", None), getattr(result, "n", None)]
    if any_threat:
        settings = _without_threats(settings)
    else:
        images.append(result.provenance.data)
    return json.dumps([settings, images], sort_keys=True)


def _without_threats(settings: Plain) -> Plain:
    if not isinstance(settings, dict):
        return settings
    return {name: _without_threats(value) for name, value in settings.items() if name != "threat"}


def _whole(settings: Plain) -> Plain:
    try:
        return to_plain(from_plain(settings))
    except (BadInput, TypeError, ValueError):  # of a version that is too far away
        return settings


def _names(folders: Sequence[RunFolder]) -> str:
    return ", ".join(f"{folder.label} (seed {folder.seed})" for folder in folders)
