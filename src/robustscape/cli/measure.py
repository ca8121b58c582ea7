"""Measure the loss around the weights: `robustscape measure SOURCE... MEASUREMENT...`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import follow, note, out
from robustscape.cli.sources import (
    FORMS,
    Look,
    Source,
    folder_of,
    look,
    model_of,
    nouns,
    ranked,
    sources,
    splits_of,
    subject_of,
    wants_help,
)
from robustscape.config import members, named, nearest
from robustscape.results import load, save
from robustscape.runtime import threads
from robustscape.runtime.cluster import Cluster, joined
from robustscape.runtime.launching import launch
from robustscape.runtime.ranks import RankLost, is_first
from robustscape.types import BadInput, Measurement, NotApplicable

if TYPE_CHECKING:
    from robustscape.landscape.headlines import Headline


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Options of ``measure``.

    Attributes:
        measurements: What is measured, each by its own options, such as --flatness.xi.
        look: Which data, network and machine.
        checkpoint: Which checkpoints of a run: last, best (on validation), best_on_test, epoch-0010, snapshot-1, or
            ensemble (of all snapshots).
        split: Which split of the data. A result of another split is not replaced: the new one's file has the split
            behind its name.
        n: Examples, the first of the split; none for all.
        batch_size: Examples per forward.
        processes: Processes of one thread each that share the points, on the CPU; 0 for as many as a trial shows to
            be faster than one process with all threads.
        cluster: Ray cluster whose CPUs share the points: "local" for one that is started on this machine, "auto" for
            the one that this machine is a node of, or HOST:PORT of its head; none for no cluster. It needs Ray: pip
            install 'robustscape[cluster]'.
    """

    measurements: dict[str, Measurement] = field(metadata=SPREAD)
    look: Look = field(metadata=SPREAD)
    checkpoint: tuple[str, ...] = ("last",)
    split: Literal["test", "train", "validation"] = "test"
    n: int | None = 1000
    batch_size: int = 250
    processes: int = 0
    cluster: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.n is not None and self.n < 1:
            raise BadInput(f"n must be at least 1, not {self.n}; did you mean none, for all examples?")
        for name, least in (("batch_size", 1), ("processes", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.cluster is not None and self.processes:
            raise BadInput(f"processes is {self.processes}, but a cluster shares the points; leave one of the two out")


def main(arguments: list[str]) -> None:
    """Carry out every measurement on every source and checkpoint, in as many processes as the options say.

    Raises:
        BadInput: no source, no measurement, or one that cannot be made as asked.
        SystemExit: one of several processes died.
    """
    words, options = nouns(arguments)
    known = members("Measurement")
    names = [word for word in words if word.partition(".")[0] in known or word == "all"]
    if wants_help(options):
        _options(None, names or ["all"], options)
    others = [word for word in words if word not in names]
    if not others or not names:
        guess = next((near for word in others if not Path(word).exists() and (near := nearest(word, known))), "")
        raise BadInput(
            "measure needs sources and measurements first, as in: robustscape measure RUN flatness slices; "
            f"there are: {', '.join(known)}, all{guess}"
        )
    found = sources(others)
    jobs = [(source, _options(source, names, options)) for source in found]
    jobs = [(source, replace(settings, look=_shared(settings))) for source, settings in jobs]
    optional = () if "all" not in names else tuple(name for name in known if name not in _bare(names))
    try:
        launch(measure_all, jobs, optional, runtime=jobs[0][1].look.runtime)
    except RankLost as error:
        sys.exit(f"robustscape: {error}")


def _bare(names: Sequence[str]) -> list[str]:
    """Return names of measurements without their presets."""
    return [name.partition(".")[0] for name in names]


def _shared(settings: Measure) -> Look:
    """Return how to look in as many ranks as the options say.

    Raises:
        BadInput: the points would be shared out twice, or would share an accelerator.
    """
    look = ranked(settings.look, settings.processes)
    if settings.cluster is not None and look.runtime.devices > 1:
        raise BadInput(f"{look.runtime.devices} devices share the points already; leave out the cluster or the devices")
    if settings.cluster is not None and (kind := look.runtime.torch_device().type) != "cpu":
        raise BadInput(f"a cluster shares the work of CPUs, not {kind}; did you mean --device cpu?")
    return look


def measure_all(jobs: Sequence[tuple[Source, Measure]], optional: Sequence[str]) -> None:
    """Carry out every measurement on every source and checkpoint; write the results.

    Args:
        jobs: The sources, and what is measured of each.
        optional: Names of the measurements that are left out, with a line that says why, where they do not apply.
    """
    address = jobs[0][1].cluster
    with nullcontext() if address is None else joined(address) as cluster:
        for source, settings in jobs:
            folder = folder_of(source, settings.look, len(jobs))
            for checkpoint in settings.checkpoint:
                measure(source, settings, checkpoint, folder, optional, cluster)


def _options(source: Source | None, names: list[str], options: list[str]) -> Measure:
    run = source.run if source else None
    names = list(dict.fromkeys(m for name in names for m in (members("Measurement") if name == "all" else [name])))
    asked = dict(zip(_bare(names), (named("Measurement", name) for name in names), strict=True))
    if len(asked) < len(names):
        raise BadInput(
            f"one measurement is named in two forms in {', '.join(names)}: its result has one file; choose one"
        )
    if run is not None:  # a preset keeps its own threat model
        from robustscape.landscape.runner import under

        threat = run.evaluation.threat()
        asked = {name: value if name not in names else under(threat, value) for name, value in asked.items()}
    default = Measure(measurements=asked, look=look(source))
    if run is not None:
        default = replace(default, n=run.evaluation.n, batch_size=run.evaluation.batch_size)
    there = (
        f"There are: {', '.join(members('Measurement'))}; presets as flatness.stutz; and all, which stands for every "
        "one of them: what does not apply to the network is left out then, with a line that says why."
    )
    return parse(
        default,
        options,
        program="robustscape measure SOURCE... MEASUREMENT...",
        description=f"{(__doc__ or '').partition(':')[0]}. {FORMS} {there} Results go to the run's results/.",
    )


def measure(
    source: Source,
    options: Measure,
    checkpoint: str,
    folder: Path,
    optional: Sequence[str],
    cluster: Cluster | None,
) -> None:
    """Carry out the measurements on one checkpoint, going on where an earlier call was stopped; the first rank writes.

    Args:
        source: The run or model.
        options: What and how.
        checkpoint: Which of the run's checkpoints.
        folder: Its ``results/`` is written to.
        optional: Names of the measurements that are left out where they do not apply.
        cluster: What shares the points, in place of processes.
    """
    from robustscape.evaluation.subject import drained, fastest
    from robustscape.landscape.runner import measuring, shareable, stem
    from robustscape.runtime.deciding import side_by_side

    name = f"{source.text}, {checkpoint}" if source.run else source.text
    images = getattr(splits_of(source, options.look), options.split)
    model = model_of(source, options.look, checkpoint, images)
    looked_at = subject_of(model, images, options.look, name=name, split=options.split, n=options.n)
    looked_at = replace(looked_at, batch=options.batch_size)
    for measurement in options.measurements.values():
        path = _file(folder, f"{stem(measurement)}-{checkpoint}", options.split)
        partial = path.with_suffix(".partial")
        attack = getattr(measurement, "attack", None)
        points = len(list(measurement.points()))
        ready, decision = fastest(looked_at, attack, points)
        some = options.processes or (side_by_side(decision, points) if decision else 1)
        if cluster or (options.processes == 0 and some > 1 and not shareable(measurement, ready)):
            some = 1
        work = measuring(measurement, ready, partial=partial, processes=some, cluster=cluster)
        try:
            with threads(ready.runtime):
                result = follow(work, name=f"{measurement.name} of {name}") if is_first() else drained(work)
        except NotApplicable as error:
            if measurement.name not in optional:
                raise
            if is_first():
                partial.unlink(missing_ok=True)
                note(f"robustscape: {measurement.name} of {name} is left out: {error}")
            continue
        if is_first():
            out(f"{save(result, path)}{_numbers(result)}")
            for sentence in _cares(result):
                note(f"robustscape: {measurement.name}: {sentence}")
            partial.unlink()


def _file(folder: Path, name: str, split: str) -> Path:
    """Return a result's file: one of its own, with the split behind it, where that of another split is in the way."""
    path = folder / "results" / f"{name}.json"
    try:
        before = getattr(load(path), "split", split) if path.is_file() else split
    except BadInput:  # damaged, or of another version: to be replaced
        before = split
    return path if before == split else path.with_name(f"{name}-{split}.json")


def _cares(result: object) -> list[str]:
    """Return what must be known of a Result before it is used: eigenvalues and losses that are none."""
    from robustscape.landscape.headlines import unconverged

    found = [f"eigenvalues that did not converge: {'; '.join(lacking)}"] if (lacking := unconverged(result)) else []
    overflowed = getattr(result, "overflowed", None)
    if overflowed is not None and overflowed.any():
        found.append(f"the loss overflows at {overflowed.sum()} of {overflowed.size} points; nearer ones?")
    return found


def _numbers(result: object) -> str:
    """Return in words the numbers that a Result is remembered by, then its other estimates; "" where it has none."""
    from robustscape.landscape.headlines import further, headlines

    found = {number.name: number for number in (*headlines(result), *further(result))}
    parts = [f"{name}{f' ({number.of})' * bool(number.of)} {_within(number)}" for name, number in found.items()]
    return f": {'; '.join(parts)}" if parts else ""


def _within(number: Headline) -> str:
    """Return a number with its interval, where it has one, and its unit."""
    value = f"{number.value:.4g}" if math.isfinite(number.value) else "infinite"
    if number.low is not None and number.high is not None:
        high = f"{number.high:.4g}" if math.isfinite(number.high) else "no upper end"
        value += f" [{number.low:.4g}, {high}]"
    return f"{value} {number.unit}".rstrip()
