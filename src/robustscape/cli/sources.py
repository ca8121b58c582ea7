"""What stands on the command line before the options: runs, checkpoints, anyone's models."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from robustscape.cli.components import SPREAD
from robustscape.cli.display import note
from robustscape.config import from_plain, to_plain
from robustscape.recipes.run import Run
from robustscape.results import read_run
from robustscape.runtime import Runtime
from robustscape.runtime.launching import started
from robustscape.runtime.ranks import first_alone, from_first, is_first, world
from robustscape.types import Architecture, BadInput, DataSource, Images, Splits, Subject

FORMS = (
    "SOURCE is a run directory, or one of several, a checkpoint (.safetensors, .pt, .pth), package.module:function, "
    "timm:NAME or torchvision:NAME."
)
"""What a SOURCE may be, for help."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One model, or the checkpoints of one run.

    Attributes:
        text: A run directory, a checkpoint, ``package.module:function``, ``timm:NAME`` or ``torchvision:NAME``.
        folder: Directory whose ``results/`` takes what is found out about it.
        run: The run that it came from, None for a model from elsewhere.
    """

    text: str
    folder: Path
    run: Run | None


def nouns(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before the first option, and the rest."""
    first = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]


def wants_help(options: list[str]) -> bool:
    """Return whether help is asked for."""
    return bool({"-h", "--help"} & set(options))


def sources(words: list[str]) -> list[Source]:
    """Return what the words name; a directory of runs stands for all runs below it.

    Raises:
        BadInput: nothing there of that name, a directory without a run, or a run.json that cannot be read.
    """
    from robustscape.models.loading import describe

    found = []
    for word in words:
        path = Path(word)
        runs = sorted(file.parent for file in path.rglob("run.json")) if path.is_dir() else []
        if path.is_dir() and not runs:
            raise BadInput(f"{path} is not a run of robustscape: there is no run.json in it or below it")
        found += [Source(text=str(run), folder=run, run=_run(run)) for run in runs]
        if not runs:
            describe(word)  # refuses what is not there
            found.append(Source(text=word, folder=Path("runs") / _slug(word), run=None))
    return found


def _slug(word: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", re.sub(r"\.(safetensors|pth?)$", "", word)).strip("-.")


def _run(folder: Path) -> Run:
    """Return the run of a directory, on this machine: the runtime it was trained with does not matter here."""
    run = from_plain({**read_run(folder)["run"], "runtime": to_plain(Runtime())})
    if not isinstance(run, Run):
        raise BadInput(f"{folder / 'run.json'} describes a {type(run).__name__}, not a run")
    return run


@dataclass(frozen=True, kw_only=True)
class Look:
    """How to look at a source.

    Attributes:
        data: The data set; by default the run's own.
        architecture: The network that a checkpoint's weights belong to, where it does not say so itself; by default
            the one that fits their shapes.
        weights: Checkpoint whose weights the model of a function, of timm or of torchvision gets.
        mean: Per channel, what a missing normalisation subtracts, in pixel units; with --std.
        std: Per channel, what it divides by.
        seed: Seed of every random number; by default the run's own. A run is always looked at on the splits that it
            was trained with; for a model from elsewhere the seed draws them.
        runtime: How to use the machine.
        out: Directory whose results/ is written to; by default the run itself, or runs/NAME for a model from
            elsewhere.
    """

    data: DataSource | None = None
    architecture: Architecture | None = None
    weights: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: int = 0
    runtime: Runtime = field(metadata=SPREAD)
    out: Path | None = None


def look(source: Source | None) -> Look:
    """Return how a source is looked at unless options say otherwise; None for help without a source."""
    if source is None or source.run is None:
        return Look(runtime=Runtime())
    return Look(data=source.run.data, seed=source.run.seed, runtime=source.run.runtime)


def ranked(look: Look, processes: int) -> Look:
    """Return how to look in as many ranks as the options, or ``torchrun``, say.

    Args:
        look: As the options give it.
        processes: What was asked for by ``--processes``.

    Raises:
        BadInput: the work would be shared out twice, or processes are to share an accelerator.
    """
    runtime = replace(look.runtime, devices=started(look.runtime.devices))
    if processes > 1 and runtime.devices > 1:
        raise BadInput(
            f"processes is {processes}, but {runtime.devices} devices share the work already; leave one of the two out"
        )
    if processes > 1 and (kind := runtime.torch_device().type) != "cpu":
        raise BadInput(f"processes is {processes}, but they share the CPU, not {kind}; did you mean --devices?")
    return replace(look, runtime=runtime)


def folder_of(source: Source, look: Look, count: int) -> Path:
    """Return the directory that takes the results of one of ``count`` sources."""
    if look.out is None:
        own = source.folder
        return own if look.weights is None else own.with_name(f"{own.name}-{_slug(look.weights.name)}")
    return look.out if count == 1 else look.out / _slug(source.text)


def splits_of(source: Source, look: Look) -> Splits:
    """Return the data; those of a run split as in its training, so that nothing trained on is judged as test.

    Raises:
        BadInput: it is not said which data.
    """
    if (data := look.data) is None:
        raise BadInput("a model from elsewhere does not say what it is for; say which data, such as --data mnist")
    if (run := source.run) is None:
        return first_alone(lambda: data.load(seed=look.seed))
    from robustscape.data.unlabelled import labelled_part

    splits = first_alone(lambda: data.load(seed=run.seed))
    return labelled_part(splits, run.unlabelled.hide, seed=run.seed) if data == run.data else splits


def model_of(source: Source, look: Look, checkpoint: str, images: Images) -> nn.Module:
    """Return the model, in eval mode, on the device, the same on every rank; what it does not say the images tell.

    The checkpoint "ensemble" of a run is that of all its snapshots; where the training has not come to all of them,
    that is said. A model that came from elsewhere and is no better than chance on the first images is said to be so.

    Raises:
        BadInput: weights that fit no network, a model that cannot be loaded, or an ensemble without snapshots.
    """
    from robustscape.models.ensemble import Ensemble
    from robustscape.models.loading import describe, load
    from robustscape.training.snapshots import snapshots_in

    if source.run is not None and checkpoint == "ensemble":
        names, training = snapshots_in(Path(source.text) / "checkpoints"), source.run.training
        wanted = sum(training.snapshot_after(epoch) is not None for epoch in range(1, training.epochs + 1))
        if len(names) < wanted and is_first():
            note(f"robustscape: {source.text} has {len(names)} of its {wanted} snapshots; the ensemble is of these")
        return Ensemble(model_of(source, look, name, images) for name in names).eval()
    about = describe(source.text, checkpoint=checkpoint)
    channels, height, width = images.x.shape[1:]
    with warnings.catch_warnings():
        if not is_first():
            warnings.simplefilter("ignore")  # it is said once
        model = first_alone(
            lambda: load(
                source.text,
                checkpoint=checkpoint,
                architecture=look.architecture,
                weights=look.weights,
                image=None if about["image"] else (channels, height, width),
                classes=None if about["classes"] else len(images.classes),
                mean=look.mean,
                std=look.std,
            )
        )
    if world() > 1:  # somebody's function may draw its weights anew at every call
        model.load_state_dict(from_first(model.state_dict()))
    model = model.to(look.runtime.torch_device())
    if source.run is None and is_first():
        _doubt(model, look, images)
    return model


def _doubt(model: nn.Module, look: Look, images: Images) -> None:
    """Say so where a model is no better than chance, and what is likely wrong."""
    from robustscape.evaluation.chance import FIRST, doubt

    few = subject_of(model, images, look, name="", split="", n=FIRST)
    front = None if look.mean is None or look.std is None else (look.mean, look.std)
    if sentence := doubt(few, front=front):
        note(f"robustscape: {sentence}")


def subject_of(model: nn.Module, images: Images, look: Look, *, name: str, split: str, n: int | None) -> Subject:
    """Return the model and the first n images, on its device, as what is measured."""
    from robustscape.evaluation.subject import subject

    some = images if n is None else images.take(slice(0, n))
    name = name if look.weights is None else f"{name}, {look.weights}"
    return subject(
        model,
        some.pixels(),
        some.y,
        index=some.index,
        seed=look.seed,
        runtime=look.runtime,
        classes=images.classes,
        split=split,
        model_name=name,
        data_name=images.name if len(some) == len(images) else f"{images.name}, first {len(some)}",
    )
