"""Train a network by a recipe: `robustscape train RECIPE`."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import follow_training, out, show_component, value_words
from robustscape.cli.recipes import recipe
from robustscape.recipes.given import check, check_files
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
        processes: Processes of one thread each that train the seeds side by side, on the CPU; 0 for as many as a
            trial shows to be faster than one process with all threads, 1 for one seed after another.
        dry_run: Print the whole run as it would be trained, and write nothing. Settings that do not go together are
            refused, weights that say that they are of another network, and missing files of weights or unlabelled
            images; the data are not read, and what OUT holds is not looked at.
    """

    run: Run = field(metadata=SPREAD)
    out: Path | None = None
    seeds: Seeds = ()
    processes: int = 0
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.processes < 0:
            raise BadInput(f"processes must be at least 0, not {self.processes}")


def main(arguments: list[str]) -> None:
    """Train the recipe that the first word names, as the options change it, in as many processes as they say.

    Raises:
        BadInput: no recipe, a wrong option, several processes for one seed, or a directory that holds another run.
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
    check(run)
    runtime = replace(run.runtime, devices=started(run.runtime.devices))
    options = replace(options, run=replace(run, runtime=runtime))
    jobs = _jobs(options, options.out or Path("runs") / name)
    if options.processes > 1 and len(jobs) == 1:
        raise BadInput(
            f"--processes {options.processes} is for seeds that train side by side, and there is one seed: name more, "
            f"as in --seeds 0,1,2, or let processes share the training with --devices {options.processes}"
        )
    check(options.run)
    if options.dry_run:
        show_component(options.run, name)
        check_files(options.run)
        out("would train into " + ", ".join(str(folder) for _, folder in jobs))
        return
    try:
        launch(train_all, jobs, name, options.processes, runtime=runtime)
    except RankLost as error:
        sys.exit(f"robustscape: {error}")


def train_all(jobs: Sequence[tuple[Run, Path]], name: str, processes: int = 0) -> None:
    """Train every run into its folder, or go on with it; the first rank shows progress.

    Args:
        jobs: The runs, equal but for the seed, with their folders.
        name: The recipe's name.
        processes: As ``Train.processes``.
    """
    from robustscape.recipes import execute

    with closing(execute.train_several(jobs, name=name, processes=processes)) as events:
        if is_first():
            names = [folder.name for _, folder in jobs]
            follow_training(events, names=names, epochs=jobs[0][0].training.epochs)
        else:
            deque(events, maxlen=0)
    for _, folder in jobs if is_first() else ():
        out(f"{name} is trained: {folder}")


def _jobs(options: Train, folder: Path) -> list[tuple[Run, Path]]:
    if not options.seeds:
        return [(options.run, folder)]
    if options.run.seed:
        raise BadInput(f"--seed {options.run.seed} and --seeds both say which seed; leave one of the two out")
    if len(set(options.seeds)) < len(options.seeds):
        raise BadInput(f"a seed is named twice in {value_words(options.seeds)}")
    if (folder / "run.json").exists():
        raise BadInput(f"{folder} holds a single run, so the seeds cannot go below it; name another --out")
    return [(replace(options.run, seed=seed), folder / f"seed-{seed}") for seed in options.seeds]
