"""The table of the study of methods, and what is said below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.evaluation.correlation import LEAST, Coefficient, correlation
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.views import Views
from robustscape.landscape.worst_flatness import WorstFlatness
from robustscape.recipes.run import Run
from robustscape.report.quantities import Quantity, mean
from robustscape.report.study import Shown
from robustscape.report.tables import Cell, Column, Table
from robustscape.results import versions
from robustscape.studies._methods_rows import Method
from robustscape.types import Plain

_NUMBERS = (
    (Column(name="Clean, best", unit="%"), "clean_best", 100),
    (Column(name="Clean, last", unit="%"), "clean_last", 100),
    (Column(name="Robust, best", unit="%"), "robust_best", 100),
    (Column(name="Robust, last", unit="%"), "robust_last", 100),
    (Column(name="Best − last", unit="points"), "fall", 100),
    (Column(name="Train − test, best", unit="points"), "gap_best", 100),
    (Column(name="Train − test, last", unit="points"), "gap_last", 100),
    (Column(name="Robust loss, last", unit="nats", decimals=3), "loss", 1),
    (Column(name="Flatness, average", unit="nats", decimals=3), "flatness", 1),
    (Column(name="Flatness, worst", unit="nats", decimals=4), "worst", 1),
)


def shown(
    found: Mapping[Method, Sequence[Plain]],
    *,
    base: Run,
    average: AverageFlatness,
    worst: WorstFlatness,
    views: Views,
    n: int,
    first: int,
) -> Shown:
    """Return the table of methods, a row each, with its notes.

    Args:
        found: Of each method the values of its networks, by seed; AT's row is what others are held against.
        base: Adversarial training on the task.
        average: How average-case flatness was measured.
        worst: How worst-case flatness was.
        views: On which other views of training images the loss was measured.
        n: On how many images.
        first: The first seed.
    """
    reference = next((values for method, values in found.items() if method.name == "at"), None)
    seconds = None if reference is None else _seconds(reference)
    rows = tuple(_row(method, values, seconds, first) for method, values in found.items())
    extra = (
        Column(name="Epoch", unit="s", decimals=2),
        Column(name="Epoch over AT's", decimals=2),
        Column(name="Seeds"),
    )
    columns = (Column(name="Method"), Column(name="Setting"), *(column for column, _, _ in _NUMBERS), *extra)
    return Shown(
        title="Every training method on one small task: accuracy, robust overfitting, flatness and time",
        table=Table(columns=columns, rows=rows),
        notes=(
            *_settings(base, average, worst, views, n),
            *_made_on(found),
            *_correlated(found),
            *_foretold(found),
            *_against(found, reference),
            *_said(found, first),
        ),
    )


def _row(method: Method, values: Sequence[Plain], seconds: float | None, first: int) -> tuple[Cell, ...]:
    own = _seconds(values)
    cells = [_mean(values, name, scale) for _, name, scale in _NUMBERS]
    ratio = None if own is None or seconds is None else Quantity(value=own / seconds)
    seeds = ", ".join(str(first + k) for k, value in enumerate(values) if "numbers" in value)
    epoch = None if own is None else Quantity(value=own)
    return (method.title, method.setting, *cells, epoch, ratio, f"{len(seeds.split(', '))} ({seeds})" if seeds else "–")


def _mean(values: Sequence[Plain], name: str, scale: float) -> Quantity | None:
    """Return a number's mean over the seeds that did not diverge, None for none."""
    numbers = [value["numbers"][name] for value in values if name in value.get("numbers", {})]
    ends = ("value", "low", "high")
    return mean(
        [Quantity(**{end: scale * number[end] for end in ends if number[end] is not None}) for number in numbers]
    )


def _seconds(values: Sequence[Plain]) -> float | None:
    """Return the seconds of an epoch, the fewest of the seeds': what else the machine does only adds to them."""
    return min((value["seconds"] for value in values if "seconds" in value), default=None)


# -- what is said below the table ----------------------------------------------------------------------


def _settings(base: Run, average: AverageFlatness, worst: WorstFlatness, views: Views, n: int) -> tuple[str, ...]:
    """Return the task, how networks were judged and measured, and what the columns mean."""
    training, attack = base.training, base.objective.attack
    assert attack is not None, "AT attacks"
    data, network = (type(part).__name__ for part in (base.data, base.model))
    images = getattr(base.data, "per_class", None)
    some = f", {images} training images of each class" if images else ""
    shrink = getattr(base.data, "shrink", 1)
    some += f", squares of {shrink} x {shrink} pixels averaged to one" if shrink > 1 else ""
    optimizer = f"{type(training.optimizer).__name__}, learning rate {training.optimizer.lr:g}"
    decays = f"weight decay {training.optimizer.weight_decay:g}"
    return (
        f"Task: {getattr(base.data, 'name', '') or data}{some}, no augmentation; {network}{_size(base)}. AT: "
        f"{attack.describe()}, {training.epochs} epochs, batches of {training.batch_size}, {optimizer}, divided by 10 "
        f"at half and at three quarters, {decays}. Each method changes what its setting says and nothing else.",
        f"Judged by {base.evaluation.words()}, on the first {base.evaluation.n} images of test and train; best is the "
        "epoch that is best on validation, by the training's own attack (natural: by clean accuracy). Best − last and "
        "train − test are of robust accuracy, train − test of one network.",
        f"Flatness is of the last network on the first {n} test images: average-case by {average.samples} "
        f"perturbations of radius {average.xi:g} (Stutz 2021, equation 3), worst-case by {worst.restarts} restart(s) "
        f"of {worst.steps} steps, radius {worst.xi:g} (equation 5). Other views of the first {n} training images: "
        f"{' and '.join(views.views)}, by up to {views.shift} pixels.",
        "An epoch's seconds are the median over the training, the fewest of the seeds, without tracking, beside "
        "whatever else the machine did: `robustscape bench overheads` compares times.",
        "± is the sample standard deviation over seeds, which draw weights, order and training images; in brackets the "
        "95 % interval over images of a single network.",
    )


def _made_on(found: Mapping[Method, Sequence[Plain]]) -> tuple[str, ...]:
    """Return arithmetic, processors, and the present versions, for which a cell's file stands."""
    done = [value for values in found.values() for value in values if "device" in value]
    libraries = ", ".join(f"{name} {number}" for name, number in versions().items())
    used, devices = (" and ".join(dict.fromkeys(value[name] for value in done)) for name in ("precision", "device"))
    return (f"One thread a network, {used}, on {devices}; {libraries}.",) if done else ()


def _size(base: Run) -> str:
    """Return depth and width of the network as "-18(16)", of one without a depth "(2)"."""
    depth, width = getattr(base.model, "depth", ""), getattr(base.model, "width", "")
    return f"{'-' if depth else ''}{depth}({width})"


def _correlated(found: Mapping[Method, Sequence[Plain]]) -> tuple[str, ...]:
    """Return how robust loss and flatness go together over the rows, and over those of training with an adversary."""
    with_adversary = {method: values for method, values in found.items() if method.name not in _WITHOUT}
    sides = [(found, "")]
    if len(with_adversary) < len(found):
        sides.append((with_adversary, " of training with an adversary"))
    kinds = (("flatness", "average-case"), ("worst", "worst-case"))
    return tuple(_correlation(rows, which, name, kind) for rows, which in sides for name, kind in kinds)


_WITHOUT = ("natural", "noise")


_MOVED = ("autoaugment",)  # trained on shifted images


def _correlation(found: Mapping[Method, Sequence[Plain]], which: str, measure: str, kind: str) -> str:
    rows = [[_mean(values, name, 1) for name in ("loss", measure)] for values in found.values()]
    pairs = [(loss.value, flat.value) for loss, flat in rows if loss is not None and flat is not None]
    some = f"over the {len(pairs)} rows{which}"
    if len(pairs) < LEAST or any(len({pair[place] for pair in pairs}) == 1 for place in (0, 1)):
        return f"Robust loss and {kind} flatness are not correlated {some}: that needs {LEAST} that differ."
    both = correlation(*zip(*pairs, strict=True))
    return (
        f"Robust loss against {kind} flatness {some}: Pearson {_words(both.pearson)}, Spearman {_words(both.spearman)}."
    )


_FROM_TRAIN = {
    "views": "the rise of the robust loss on other views of training images",
    "train_flatness": "average-case flatness on them",
    "train_loss": "their robust loss",
}


def _foretold(found: Mapping[Method, Sequence[Plain]]) -> tuple[str, ...]:
    """Return how the gap of the robust loss goes together, over the rows, with what training images alone tell.

    Over those of training with an adversary on images in their places: on views that it was trained on the loss does
    not rise, whatever the gap is.
    """
    some = {method: values for method, values in found.items() if method.name not in (*_WITHOUT, *_MOVED)}
    rows = [[_mean(values, name, 1) for name in ("loss_gap", *_FROM_TRAIN)] for values in some.values()]
    there = [row for row in ([number.value for number in row if number is not None] for row in rows) if len(row) == 4]
    which = f"over the {len(there)} rows of training with an adversary on images in their places"
    columns = np.array(there).reshape(-1, 4).T
    if len(there) < LEAST or any(np.allclose(column, column[0], rtol=1e-9) for column in columns):
        return (f"The gap of the robust loss is not correlated {which}: that needs {LEAST} that differ.",)
    said = []
    for column, words in zip(columns[1:], _FROM_TRAIN.values(), strict=True):
        both = correlation(column, columns[0])
        said.append(f"{words}, Pearson {_words(both.pearson)}, Spearman {_words(both.spearman)}")
    return (f"Gap of the robust loss, test minus train, {which} against {'; '.join(said)}.",)


def _words(coefficient: Coefficient) -> str:
    if coefficient.low is None or coefficient.high is None:
        return f"{coefficient.value:.2f}"
    return f"{coefficient.value:.2f} [{coefficient.low:.2f}, {coefficient.high:.2f}]"


def _against(found: Mapping[Method, Sequence[Plain]], reference: Sequence[Plain] | None) -> tuple[str, ...]:
    """Return which methods that are meant to lessen robust overfitting do so, in the mean over their seeds."""
    some: dict[str, list[str]] = {"both": [], "gap": [], "last": [], "neither": []}
    for method, values in found.items():
        pairs = [pair for pair in zip(values, reference or (), strict=False) if all("numbers" in one for one in pair)]
        if not method.lessens or not pairs:
            continue
        gap, last = (_more(pairs, name) for name in ("gap_last", "robust_last"))
        smaller, better = gap < 0, last > 0
        kind = "both" if smaller and better else "gap" if smaller else "last" if better else "neither"
        some[kind].append(method.title)
    words = {
        "both": "Smaller gap and better last epoch than AT of the same seeds",
        "gap": "Smaller gap alone",
        "last": "Better last epoch alone",
        "neither": "Neither, though meant to lessen robust overfitting",
    }
    said = [f"{words[kind]}: {', '.join(titles)}" for kind, titles in some.items() if titles]
    return (f"{'; '.join(said)}.",) if said else ()


def _more(pairs: Sequence[tuple[Plain, Plain]], name: str) -> float:
    """Return by how much a number is larger in the first of the pairs than in the second, in the mean."""
    return sum(mine["numbers"][name]["value"] - at["numbers"][name]["value"] for mine, at in pairs) / len(pairs)


def _said(found: Mapping[Method, Sequence[Plain]], first: int) -> tuple[str, ...]:
    """Return what must be said of single networks: ensembles, warnings, trainings that ended."""
    said = []
    for method, values in found.items():
        ensemble = _mean(values, "ensemble", 100)
        if ensemble is not None:
            said.append(f"{method.title}: the ensemble of its snapshots has robust accuracy {ensemble.value:.1f} %.")
        for k, value in enumerate(values):
            name = f"{method.title}, seed {first + k}"
            if "diverged" in value:
                said.append(f"{name}, is left out: {value['diverged']}.")
            elif value["warnings"]:
                said.append(
                    f"{name}, {len(value['warnings'])} warning(s) in training, the first: {value['warnings'][0]}."
                )
    return tuple(said)
