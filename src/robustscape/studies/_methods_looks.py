"""What is found out about a finished run of the study of methods: evaluations and flatness, each kept when done."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from robustscape.evaluation.accuracy import evaluating
from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.runner import measuring, under
from robustscape.landscape.views import Views
from robustscape.landscape.worst_flatness import WorstFlatness
from robustscape.models.ensemble import Ensemble
from robustscape.models.loading import load as load_model
from robustscape.recipes import estimating
from robustscape.recipes.given import loaded
from robustscape.recipes.run import Run
from robustscape.results import load, save
from robustscape.training.log import read_log
from robustscape.training.snapshots import snapshots_in
from robustscape.types import Measurement, Splits, Subject


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How a run's networks are judged and measured.

    Attributes:
        run: The run.
        average: Average-case flatness of the last network.
        worst: Worst-case flatness of it.
        views: The rise of its loss on other views of training images.
        n: How many images: the first of test for both flatnesses, the first of train for views and the average case.
    """

    run: Run
    average: AverageFlatness
    worst: WorstFlatness
    views: Views
    n: int

    def seconds(self) -> float:
        """Return about how long all of it takes, with the tracking of the training: from the passes, at most."""
        size, pace = estimating.size_of(self.run.data), estimating.pace_of(self.run)
        training, judge = self.run.training, self.run.evaluation
        if size is None or pace is None:
            return 0.0
        validation = getattr(self.run.data, "validation", 0)
        tracked = (training.track + validation) * getattr(training.track_attack, "steps", 0)
        passes = tracked * (training.epochs // training.track_every)
        passes += 4 * (judge.n or size.n) * (judge.loss_steps * judge.loss_restarts + judge.steps * judge.restarts)
        flat, worst, view = (getattr(part.attack, "steps", 0) for part in (self.average, self.worst, self.views))
        passes += self.n * (2 * flat * (1 + self.average.samples) + view * (1 + len(self.views.views)))
        passes += self.n * (worst * (3 + 2 * self.worst.restarts) + 4 * self.worst.steps * (2 + self.worst.restarts))
        return passes * pace.inputs


def looking(looks: Looks, out: Path) -> Generator[tuple[int, int], None, dict[str, Any]]:
    """Judge and measure what a run's folder holds, yielding (done, total); returns the Results by name.

    The last and the best network on test and train, and of snapshots their ensemble on test; flatness of the last
    network, the average case on train too, and there other views of the images. What is in the folder's ``results``
    already is not done again; the best is the last where no epoch was better.

    Args:
        looks: How.
        out: The folder of the finished run.

    Raises:
        Diverged: a loss is not finite.
    """
    splits = loaded(looks.run).splits
    epochs = read_log(out / "log.jsonl").epochs
    same = epochs[-1].selected
    names = [f"evaluation-{checkpoint}-{split}" for checkpoint in ("last", "best") for split in ("test", "train")]
    names += ["evaluation-ensemble-test"] if looks.run.training.snapshots else []
    names += ["flatness-last", "worst_flatness-last", "flatness-last-train", "views-last-train"]
    found: dict[str, Any] = {}
    for place, name in enumerate(names):
        if same and "-best-" in name:
            found[name] = found[name.replace("-best-", "-last-")]
            continue
        path = out / "results" / f"{name}.json"
        if not path.exists():
            partial = path.with_suffix(".partial")
            work = _work(looks, out, name, splits, partial)
            save((yield from _share(work, place, len(names))), path)
            partial.unlink(missing_ok=True)
        found[name] = load(path)
    return found


def _share(work: Generator[Any, None, Any], place: int, places: int) -> Generator[tuple[int, int], None, Any]:
    """Pass on how far one of several works is; returns its value."""
    while True:
        try:
            done, total, *_ = next(work)
        except StopIteration as end:
            return end.value
        yield 1000 * place + 1000 * done // max(total, 1), 1000 * places


def _work(looks: Looks, out: Path, name: str, splits: Splits, partial: Path) -> Generator[Any, None, Any]:
    """Return the evaluation or measurement of a name."""
    kind, checkpoint, *of = name.split("-")
    run, split = looks.run, of[0] if of else "test"
    if kind == "evaluation":
        looked_at = _subject(run, _network(out, checkpoint), splits, split, run.evaluation.n)
        return evaluating(run.evaluation, looked_at, partial=partial)
    measurements: dict[str, Measurement] = {
        "flatness": looks.average,
        "worst_flatness": looks.worst,
        "views": looks.views,
    }
    looked_at = _subject(run, _network(out, checkpoint), splits, split, looks.n)
    return measuring(under(run.evaluation.threat(), measurements[kind]), looked_at, partial=partial)


def _network(out: Path, checkpoint: str) -> nn.Module:
    if checkpoint != "ensemble":
        return load_model(out, checkpoint=checkpoint)
    return Ensemble(load_model(out, checkpoint=name) for name in snapshots_in(out / "checkpoints")).eval()


def _subject(run: Run, model: nn.Module, splits: Splits, split: str, n: int | None) -> Subject:
    images = getattr(splits, split)
    some = images.take(slice(0, n))
    made = subject(
        model,
        some.pixels(),
        some.y,
        index=some.index,
        seed=run.seed,
        runtime=run.runtime,
        classes=images.classes,
        split=split,
        data_name=images.name if len(some) == len(images) else f"{images.name}, first {len(some)}",
    )
    return replace(made, batch=min(made.batch, 250))
