"""Train a network by a recipe: `robustscape train RECIPE`."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import follow_training, out, show_component, value_words
from robustscape.cli.recipes import recipe
from robustscape.recipes.run import Run
from robustscape.runtime.launching import launch, started
from robustscape.runtime.ranks import RankLost, is_first
from robustscape.types import BadInput


def _whole_numbers(words: list[str]) -> tuple[int, ...]:
    return tuple(int(word) for text in words for word in text.split(",") if word)


Seeds = Annotated[
    tuple[int, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="INT,INT,...",
        instance_from_str=_whole_numbers,
        is_instance=lambda x: isinstance(x, tuple),
        str_from_instance=lambda x: [",".join(map(str, x)) or "none"],
    ),
]
"""Whole numbers, with commas or spaces between them."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Options of ``train``.

    Attributes:
        run: What is trained, and how.
        out: Run directory; by default runs/RECIPE. One that holds this very run is gone on with, one that
            holds another run is refused.
        seeds: Train once with each of these seeds, for example 0,1,2, into OUT/seed-0, OUT/seed-1, ...; every
            verb that takes a run also takes OUT, and groups them.
        dry_run: Print the whole run as it would be trained, and write nothing.
    """

    run: Run = field(metadata=SPREAD)
    out: Path | None = None
    seeds: Seeds = ()
    dry_run: bool = False


def main(arguments: list[str]) -> None:
    """Train the recipe that the first word names, as the options change it, in as many processes as they say.

    Raises:
        BadInput: no recipe, a wrong option, or a directory that holds another run.
        SystemExit: one of several processes died.
    """
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise BadInput("train needs the name of a recipe first: robustscape train RECIPE; see `robustscape recipes`")
    name = arguments[0].replace("-", "_")
    if arguments[0].startswith("-"):
        out("usage: robustscape train RECIPE [--out DIR] [--seeds 0,1,2] [--dry-run] [--PATH VALUE ...]\n")
        out("`robustscape recipes` lists the recipes; `robustscape train RECIPE --help` explains every option of one.")
        return
    options = parse(
        Train(run=recipe(name)),
        arguments[1:],
        program=f"robustscape train {name}",
        description=f"{(__doc__ or '').partition(':')[0]}. `--PATH NAME` takes another component: --weights awp.",
    )
    run = options.run
    runtime = replace(run.runtime, devices=started(run.runtime.devices))
    options = replace(options, run=replace(run, runtime=runtime))
    jobs = _jobs(options, options.out or Path("runs") / name)
    if options.dry_run:
        show_component(options.run, name)
        out("would train into " + ", ".join(str(folder) for _, folder in jobs))
        return
    try:
        launch(train_all, jobs, name, runtime=runtime)
    except RankLost as error:
        sys.exit(f"robustscape: {error}")


def train_all(jobs: Sequence[tuple[Run, Path]], name: str) -> None:
    """Train every run into its folder, or go on with it."""
    for run, folder in jobs:
        train(run, folder, name=name)
        if is_first():
            out(f"{name} is trained: {folder}")


def train(run: Run, folder: Path, *, name: str) -> None:
    """Train a run into a folder, or go on with it; the first rank shows progress."""
    from robustscape.recipes import execute

    events = execute.train(run, folder, name=name)
    if is_first():
        follow_training(events, name=folder.name, epochs=run.training.epochs)
    else:
        deque(events, maxlen=0)


def _jobs(options: Train, folder: Path) -> list[tuple[Run, Path]]:
    if not options.seeds:
        return [(options.run, folder)]
    if len(set(options.seeds)) < len(options.seeds):
        raise BadInput(f"a seed is named twice in {value_words(options.seeds)}")
    if (folder / "run.json").exists():
        raise BadInput(f"{folder} holds a single run, so the seeds cannot go below it; name another --out")
    return [(replace(options.run, seed=seed), folder / f"seed-{seed}") for seed in options.seeds]
