"""Cells of the study of methods: a network trained, judged and measured, and pseudo-labels by one trained naturally."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import torch

from robustscape.data.mixed import relabelled
from robustscape.data.pseudo_labelled import write_file
from robustscape.data.unlabelled import hidden_part
from robustscape.evaluation.gap import gap
from robustscape.evaluation.paired import paired
from robustscape.evaluation.result import Evaluation, Number
from robustscape.landscape.flatness import AverageFlatness, Estimate
from robustscape.landscape.views import Views
from robustscape.landscape.worst_flatness import WorstFlatness
from robustscape.models.loading import load as load_model
from robustscape.objectives.rst import RST
from robustscape.recipes import estimating
from robustscape.recipes.execute import train
from robustscape.recipes.given import loaded
from robustscape.recipes.labelling import labelling
from robustscape.recipes.run import Run
from robustscape.results import device_name, provenance
from robustscape.studies._methods_looks import Looks, looking
from robustscape.studies.study import Cell
from robustscape.training.log import EpochLog, read_log
from robustscape.training.loop import Step
from robustscape.types import Diverged, Images, Plain, Splits

_Work: TypeAlias = Generator[tuple[int, int], None, Plain]


@dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """Labels of the hidden training images of a run, by the network that it trains on the others.

    Attributes:
        run: A training with ``unlabelled.hide``.
    """

    run: Run

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"pseudo-labels-{self.run.seed}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def seconds(self) -> float:
        """Return about how long it takes."""
        return estimating.seconds(self.run) or 0.0

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> _Work:
        """Train and label; see ``resuming``."""
        with TemporaryDirectory() as folder:
            return (yield from self.resuming(Path(folder), data, values))

    def resuming(self, folder: Path, data: Splits, values: Mapping[Any, Plain]) -> _Work:
        """Train in a folder and label, yielding (done, total) in steps.

        Args:
            folder: Its own.
            data: Not looked at: the run reads its own.
            values: Of no other cell.

        Returns:
            "y", the labels of the hidden images in their order, "confidence", their probabilities, and "right", the
            fraction of labels that are the true ones.
        """
        yield from _trained(self.run, folder / "run", self.name)
        images = _hidden(self.run)
        model = load_model(folder / "run", checkpoint="best")
        work = labelling(model, images, batch_size=250, partial=folder / "labels.partial")
        found = yield from _as(work, 1, 1)
        right = float((torch.from_numpy(found.y) == images.y).double().mean())
        return {"y": found.y.tolist(), "confidence": found.confidence.tolist(), "right": right}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training by one method, judged and measured.

    Attributes:
        method: The method's name.
        run: The training; of RST without the file of pseudo-labelled images, which are ``labels``.
        average: Average-case flatness of its last network.
        worst: Worst-case flatness of it.
        views: The rise of its loss on other views of training images.
        n: Images that flatness and views are measured on, the first.
        labels: Pseudo-labels that it trains on beside the true ones; None for none.
    """

    method: str
    run: Run
    average: AverageFlatness
    worst: WorstFlatness
    views: Views
    n: int = 250
    labels: PseudoLabels | None = None

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.method}-{self.run.seed}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The pseudo-labels, where there are."""
        return () if self.labels is None else (self.labels,)

    def seconds(self) -> float:
        """Return about how long training, tracking, judging and measuring take, from their passes."""
        return (estimating.seconds(self.run) or 0.0) + self._looks().seconds()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> _Work:
        """Train, judge and measure; see ``resuming``."""
        with TemporaryDirectory() as folder:
            return (yield from self.resuming(Path(folder), data, values))

    def resuming(self, folder: Path, data: Splits, values: Mapping[Any, Plain]) -> _Work:
        """Train in a folder, judge and measure, yielding (done, total).

        Args:
            folder: Its own: ``run`` in it becomes the run's folder, with all results.
            data: Not looked at: the run reads its own.
            values: That of the pseudo-labels, where it needs them.

        Returns:
            "numbers": name to value, low and high, see ``_numbers``. "seconds": median wall-clock seconds of an epoch,
            tracking excluded. "best": the epoch that is best on validation. "history": robust accuracy on validation
            of each epoch that was tracked. "device": the processor. "precision": its arithmetic, in words.
            "warnings": what the guards noticed. Or "diverged": why the training ended.
        """
        run = self.run if self.labels is None else self.with_labels(folder, values[self.labels])
        looks, total = replace(self._looks(), run=run), 1
        try:
            for done, steps in _trained(run, folder / "run", self.method):  # seeds are a group of that name
                total = steps + steps // 2
                yield done, total
            found = yield from _as(looking(looks, folder / "run"), total - total // 3, total)
        except Diverged as error:
            return {"diverged": str(error)}
        epochs = read_log(folder / "run" / "log.jsonl").epochs
        return {
            "numbers": {name: _plain(number) for name, number in _numbers(found).items()},
            "seconds": median(entry.seconds for entry in epochs),
            "best": max(entry.epoch for entry in epochs if entry.selected),
            "history": [_on_validation(entry) for entry in epochs if entry.tracked],
            "device": device_name(run.runtime.torch_device()),
            "precision": found["evaluation-last-test"].provenance.precision,
            "warnings": [f"epoch {entry.epoch}: {text}" for entry in epochs for text in entry.warnings],
        }

    def with_labels(self, folder: Path, value: Plain) -> Run:
        """Return the run on its pseudo-labelled images too, in epochs as long as with all labels.

        Args:
            folder: Where their file is written, unless it is there.
            value: That of the cell of the pseudo-labels.
        """
        path = (folder / "pseudo_labels.npz").resolve()
        hidden = _hidden(self.run)
        if not path.exists():
            made = relabelled(hidden, torch.tensor(value["y"]))
            about = provenance(
                seconds=0.0,
                device=torch.device("cpu"),
                precision="float32",
                seed=self.run.seed,
                model="a network trained naturally on the others",
                data=hidden.name,
                settings=self.labels,
            )
            write_file(path, made, np.array(value["confidence"], dtype=np.float32), about)
        labelled = len(loaded(self.run).splits.train)
        mixed = replace(self.run.unlabelled, source=str(path), size=labelled + len(hidden))
        assert isinstance(self.run.objective, RST), "what takes pseudo-labels"
        return replace(self.run, unlabelled=mixed)

    def _looks(self) -> Looks:
        return Looks(run=self.run, average=self.average, worst=self.worst, views=self.views, n=self.n)


# -- pieces --------------------------------------------------------------------------------------------


def _trained(run: Run, out: Path, name: str) -> Generator[tuple[int, int], None, None]:
    """Train into a folder or go on with it, yielding (done, total) after every step."""
    for event in train(run, out, name=name):
        if isinstance(event, Step):
            yield event.done, event.total


def _as(work: Generator[Any, None, Any], begin: int, total: int) -> Generator[tuple[int, int], None, Any]:
    """Pass on how far some work is as the part from ``begin`` to ``total``; returns its value."""
    while True:
        try:
            done, of, *_ = next(work)
        except StopIteration as end:
            return end.value
        yield begin + (total - begin) * done // max(of, 1), total


def _hidden(run: Run) -> Images:
    assert run.unlabelled.hide is not None, "labels are hidden"
    return hidden_part(run.data.load(seed=run.seed), run.unlabelled.hide, seed=run.seed)


def _on_validation(entry: EpochLog) -> float | None:
    return entry.tracked["validation"].robust_accuracy


def _numbers(found: Mapping[str, Any]) -> dict[str, Number | Estimate]:
    """Return what the table shows.

    Accuracies and gaps as fractions, losses and flatness in nats: "clean", "robust" and "gap" (robust accuracy on
    train minus test) of "last" and "best", "fall" (robust accuracy, best minus last, on the same images); of the last
    "loss" (robust), "flatness" and "worst", "loss_gap" (robust loss on test minus train) and what is known of it from
    training images alone: "train_loss", "train_flatness" and "views"; "ensemble" (robust accuracy) where there are
    snapshots.
    """
    numbers: dict[str, Number | Estimate] = {}
    for checkpoint in ("last", "best"):
        test, train = (found[f"evaluation-{checkpoint}-{split}"] for split in ("test", "train"))
        numbers[f"clean_{checkpoint}"] = _right(test.clean_error)
        numbers[f"robust_{checkpoint}"] = _right(test.robust_error)
        numbers[f"gap_{checkpoint}"] = gap(train, test).robust_error
    last: Evaluation = found["evaluation-last-test"]
    numbers["fall"] = paired(last, found["evaluation-best-test"]).robust_error
    numbers["loss"] = last.robust_loss
    numbers["flatness"] = found["flatness-last"].robust
    numbers["worst"] = found["worst_flatness-last"].robust
    train: Evaluation = found["evaluation-last-train"]
    numbers["loss_gap"], numbers["train_loss"] = gap(train, last).robust_loss, train.robust_loss
    numbers["train_flatness"] = found["flatness-last-train"].robust
    numbers["views"] = found["views-last-train"].robust
    if "evaluation-ensemble-test" in found:
        numbers["ensemble"] = _right(found["evaluation-ensemble-test"].robust_error)
    return numbers


def _right(error: Number) -> Number:
    return replace(error, value=1 - error.value, low=1 - error.high, high=1 - error.low)


def _plain(number: Number | Estimate) -> dict[str, float | None]:
    """Return a number with the ends of its interval, None where that has no end."""
    ends = {end: getattr(number, end) for end in ("low", "high")}
    return {"value": number.value, **{end: value if math.isfinite(value) else None for end, value in ends.items()}}
