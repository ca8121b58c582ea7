"""Beside the tables of Yamada 2021: the optima, the norms of the weights, and the paper's word on CIFAR2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from robustscape.data.fetch import find
from robustscape.data.folder import Folder
from robustscape.display import Line, Panel, norm_words
from robustscape.report.quantities import Quantity
from robustscape.report.study import Shown
from robustscape.report.tables import Cell as Entry
from robustscape.report.tables import Column, Table
from robustscape.studies import _yamada_solved as solved
from robustscape.studies import _yamada_tables as tables
from robustscape.studies.optimum import Margin, Optimum
from robustscape.studies.study import Cell
from robustscape.studies.trained import TrainedOn
from robustscape.training.optimizers.sgd import SGD
from robustscape.types import BadInput, Plain

if TYPE_CHECKING:
    from robustscape.studies.yamada import Yamada

PARTS: tuple[str, ...] = ("optimum", "norms", "cifar2")

_PAPER = "Yamada et al. 2021"
_ALIKE = 1.25  # norms that differ by no more are called alike
_CIFAR = Folder(path="cifar10-jpeg", name="CIFAR-10 (JPEG)")
_CLASSES = ("frog", "ship")


def cells(study: Yamada, part: str) -> tuple[Cell, ...]:
    """Return the cells of a part."""
    if part == "optimum":
        found = [cell for table in solved.SOLVED for cell in tables.optima(study, table)]
        parts = [(cell.trained, cell, solved.boxed_cell(cell), cell.margin) for cell in found]
        return tuple(dict.fromkeys(cell for part in parts for cell in part))
    if part == "norms":
        return tuple(dict.fromkeys(cell for table in tables.PARTS for cell in tables.trainings(study, table)))
    return _cifar2(study)


def show(study: Yamada, part: str, values: Mapping[Any, Plain]) -> Shown:
    """Return a part from the values of its cells."""
    return {"optimum": _optima, "norms": _norms, "cifar2": _other}[part](study, values)


# -- optima --------------------------------------------------------------------------------------------


def _optima(study: Yamada, values: Mapping[Any, Plain]) -> Shown:
    columns = (
        *(Column(name=name) for name in ("Norm", "ε", "Pixel box", "Solution")),
        *(Column(name=name, unit="nats", decimals=5) for name in ("Loss", "Loss, trained")),
        Column(name="Duality gap, nats"),
        *(Column(name=name, unit="%", decimals=2) for name in ("Train", "Train, trained", "Test", "Test, trained")),
        Column(name="Weights not 0", decimals=0),
    )
    rows = [
        _optimum_row(cell, found, values[cell.trained]["exact"], box)
        for table in solved.SOLVED
        for cell in tables.optima(study, table)
        for box, found in (("no", values[cell]["free"]), ("yes", solved.boxed_value(cell, values)))
        if found is not None
    ]
    reached = "; ".join(
        f"{norm_words(norm)} {solved.largest(values[Margin(norm=norm)], norm)}" for norm in solved.SOLVED.values()
    )
    notes = (
        "Solved without ridge and intercept; the loss is the mean over the training images at their worst inputs, with "
        "or without the pixel box as the row says. The accuracies are exact in ball and box throughout.",
        f"Largest ε at which all balls can be classified, without the box: {reached}. Up to it there is no optimum, as "
        "the loss comes as near to 0 as one likes; the row shows the direction of largest margin.",
        "Duality gap: how far the loss is above its minimum at most, among weights of up to ten times the size.",
        "In the box where not all balls can be classified without it; where they can only there, the row shows weights "
        "that do it.",
    )
    title = f"{_PAPER}: what the trained models of Tables 1 and 3 could reach"
    return Shown(title=title, table=Table(columns=columns, rows=tuple(rows)), notes=notes)


def _optimum_row(cell: Optimum, found: Plain, trained: Plain, box: str) -> tuple[Entry, ...]:
    eps = f"{255 * cell.trained.eps:g}/255" if cell.norm == "linf" else f"{cell.trained.eps:g}"
    accuracies = (100 * of[split] for split in ("train", "test") for of in (found, trained))
    return (
        norm_words(cell.norm),
        eps,
        box,
        solved.SOLUTIONS[found["outcome"]],
        None if found["loss"] is None else Quantity(value=found["loss"]),
        Quantity(value=found["trained"]),
        None if found["gap"] is None else f"{found['gap']:.1e}",
        *(Quantity(value=accuracy) for accuracy in accuracies),
        Quantity(value=found["weights"]),
    )


# -- norms ---------------------------------------------------------------------------------------------


def _norms(study: Yamada, values: Mapping[Any, Plain]) -> Shown:
    columns = (
        *(Column(name=name) for name in ("Table", "Trained on", "ε")),
        Column(name="‖w‖₂", decimals=3),
        Column(name="‖w‖₁", decimals=2),
        Column(name="‖w‖₂ over that at 0", decimals=3),
        Column(name="‖w‖₁ over that at 0", decimals=3),
    )
    rows: list[tuple[Entry, ...]] = []
    lines: dict[str, list[Line]] = {"l2": [], "linf": []}
    sizes: dict[str, tuple[tuple[float, ...], list[float]]] = {}
    for part in tables.PARTS:
        table, trainings = tables.printed(part), tables.trainings(study, part)
        weights = [torch.tensor(values[cell]["w"]) for cell in trainings]
        l2, l1 = ([float(w.norm(p)) for w in weights] for p in (2, 1))
        adversary = "PGD" if tables.ADVERSARY[part] == "pgd" else "noise"
        what = f"{norm_words(table.norm)} {adversary}"
        for row, one, other in zip(tables.rows(part), l2, l1, strict=True):
            numbers = (one, other, one / l2[0], other / l1[0])
            rows.append((table.table, what, tables.eps_in(row, table), *(Quantity(value=n) for n in numbers)))
        eps = tuple(cell.eps for cell in trainings)
        sizes[what] = eps, l2
        lines[table.norm].append(Line(name=adversary, x=eps, y=tuple(l2), group=len(lines[table.norm])))
    panels = tuple(
        Panel(title=f"{norm_words(norm)} threat", x="ε, pixels in [0, 1]", y="‖w‖₂", lines=tuple(drawn))
        for norm, drawn in lines.items()
    )
    notes = (_verdict(sizes), "The weights are those of the epoch that was kept, before the loss is at its minimum.")
    title = f"{_PAPER}, section 5.1: the norm of the weights over ε"
    return Shown(title=title, table=Table(columns=columns, rows=tuple(rows)), notes=notes, panels=panels)


def _verdict(sizes: Mapping[str, tuple[tuple[float, ...], list[float]]]) -> str:
    """Say whether the norms are alike over eps, for each kind of training."""
    said, unlike = [], []
    for what, (eps, norms) in sizes.items():
        ratios = [max(norms[: end + 1]) / min(norms[: end + 1]) for end in range(len(norms))]
        said.append(f"{ratios[-1]:.2f} under {what}")
        if ratios[-1] > _ALIKE:
            unlike.append(
                f"{what} above ε = {max(e for e, ratio in zip(eps, ratios, strict=True) if ratio <= _ALIKE):.3g}"
            )
    but = f" but for {' and '.join(unlike)}" if unlike else ""
    return (
        'The paper: "the norm of weight does not change significantly with each epsilon". Here the largest ‖w‖₂ over '
        f"the smallest is {', '.join(said)}: at most {_ALIKE:g}{but}."
    )


# -- CIFAR2 --------------------------------------------------------------------------------------------


def _cifar2(study: Yamada) -> tuple[TrainedOn, ...]:
    """Return a training on clean images and one under PGD, none where the images are not there."""
    try:
        find(_CIFAR.path, holding="train.zip and test.zip")
    except BadInput:
        return ()
    if study.scale != "paper":
        return ()
    training = replace(study.training, epochs=10, optimizer=SGD(lr=0.001, momentum=0.9, weight_decay=0.0))
    natural = replace(study.trained(norm="linf", eps=0.0), training=training, train_steps=7, test_steps=20)
    return tuple(
        TrainedOn(source=_CIFAR, classes=_CLASSES, trained=trained)
        for trained in (natural, replace(natural, norm="linf", eps=8 / 255))
    )


def _other(study: Yamada, values: Mapping[Any, Plain]) -> Shown:
    names = [f"{split}, {what}" for what in ("clean", "robust", "exact adversary") for split in ("train", "test")]
    columns = (Column(name="Images"), Column(name="ε"), *(Column(name=n, unit="%", decimals=2) for n in names))
    rows = tuple(
        (
            f"{cell.source.name}, {' and '.join(cell.classes)}",
            f"{255 * cell.trained.eps:g}/255",
            *(
                Quantity(value=100 * value[w][split])
                for w in ("clean", "found", "exact")
                for split in ("train", "test")
            ),
        )
        for cell, value in values.items()
    )
    said = (
        'The paper: "the linear logistic regression model did not perform well in classifying the two-class CIFAR10".'
    )
    if rows:
        notes = (
            f"{said} It prints no number.",
            "The images are JPEG files made from CIFAR-10, not the originals, and not standardised as the paper's.",
            "SGD with learning rate 0.001 and momentum 0.9, 10 epochs, stopped early on test; PGD with 7 steps in "
            "training and 20 where it is judged, of 0.01.",
        )
    else:
        why = f"there is no folder {_CIFAR.path}" if study.scale == "paper" else "only done at the paper's scale"
        notes = (said, f"Left out: {why}.")
    title = f"{_PAPER}, section 5.1: logistic regression on two classes of CIFAR-10"
    return Shown(title=title, table=Table(columns=columns, rows=rows), notes=notes)
