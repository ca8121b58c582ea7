"""Evaluate clean and robust accuracy and loss: `robustscape evaluate SOURCE...`."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Literal

from torch import nn

from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import follow, note, out, terminal_width
from robustscape.cli.result_files import evaluation_file, other_than_own
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
from robustscape.config import to_plain
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.adversarial import Stored, described, keep
from robustscape.evaluation.result import AdversarialImages, Evaluation
from robustscape.evaluation.subject import drained, fastest
from robustscape.results import load, save
from robustscape.runtime import Runtime, threads
from robustscape.runtime.deciding import Decision, side_by_side
from robustscape.runtime.launching import launch, under_torchrun
from robustscape.runtime.ranks import RankLost, is_first, world
from robustscape.training.snapshots import has_snapshots
from robustscape.types import BadInput, Images, Subject


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Options of ``evaluate``.

    Attributes:
        settings: The attacks and examples that judge; by default the run's own.
        look: Which data, network and machine.
        checkpoint: Which checkpoints of a run: last, best (on validation), best_on_test, epoch-0010, snapshot-1, or
            ensemble (of all snapshots). By default last and best, and where there are snapshots their ensemble.
        processes: Processes of one thread each that share the examples, on the CPU; 0 for as many as a trial shows to
            be faster than one process with all threads, where there is a minute of work or more.
        keep_adversarial: Write the inputs that fooled the network beside the results, to be tried on others.
        transfer: Try the inputs of such a file on the network, in place of attacks, on the split that they are of.
        surrogate: Another network, in the same words as SOURCE: what an attack finds for it is tried on this one too,
            and said where it is stronger than the attacks.
        images: Show this many of the first examples beside their adversarial ones, 0 for none.
        json: Print the whole results as JSON instead of a table.
        csv: Print CSV instead of a table.
        latex: Print a LaTeX tabular instead of a table.
    """

    settings: Evaluating = field(metadata=SPREAD)
    look: Look = field(metadata=SPREAD)
    checkpoint: tuple[str, ...] = ("last", "best")
    processes: int = 0
    keep_adversarial: bool = False
    transfer: Path | None = None
    surrogate: str | None = None
    images: int = 10
    json: bool = False
    csv: bool = False
    latex: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.json + self.csv + self.latex > 1:
            raise BadInput("--json, --csv and --latex exclude each other")
        for name in ("processes", "images"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.surrogate is not None and not self.settings.sanity:
            raise BadInput("--surrogate is tried by the sanity checks, and --sanity 0 leaves them out; leave one out")


def main(arguments: list[str]) -> None:
    """Evaluate every source and checkpoint, in as many processes as the options say.

    Raises:
        BadInput: no source, or one that cannot be evaluated as asked.
        SystemExit: one of several processes died.
    """
    words, options = nouns(arguments)
    if wants_help(options):
        _options(None, options)
    if not words:
        raise BadInput("evaluate needs to know what first: robustscape evaluate SOURCE... (a run, a checkpoint, ...)")
    jobs = [(source, _spread(_options(source, options))) for source in sources(words)]
    try:
        launch(evaluate_all, jobs, runtime=jobs[0][1].look.runtime)
    except RankLost as error:
        sys.exit(f"robustscape: {error}")


def evaluate_all(jobs: Sequence[tuple[Source, Evaluate]]) -> None:
    """Evaluate every source and checkpoint, write the results, print tables; of several ranks the first does."""
    rows: dict[tuple[str, str, str], list[Evaluation]] = {}
    for source, settings in jobs:
        folder = folder_of(source, settings.look, len(jobs))
        for checkpoint in settings.checkpoint:
            for result in evaluate(source, settings, checkpoint, folder):
                rows[source.text, checkpoint, result.split] = [result]
    if is_first():
        _show(rows, jobs[0][1])


def _options(source: Source | None, options: list[str]) -> Evaluate:
    run = source.run if source else None
    default = Evaluate(
        settings=run.evaluation if run else Evaluating(),
        look=look(source),
        checkpoint=_checkpoints(source),
    )
    description = f"{(__doc__ or '').partition(':')[0]}. {FORMS} Results go to the run's results/."
    return parse(default, options, program="robustscape evaluate SOURCE...", description=description)


def _checkpoints(source: Source | None) -> tuple[str, ...]:
    """Return which checkpoints are evaluated unless it is said: of snapshots their ensemble too."""
    if source is not None and source.run is None:
        return ("last",)
    if source is None or not has_snapshots(source.folder / "checkpoints"):
        return ("last", "best")
    return ("last", "best", "ensemble")


def _spread(options: Evaluate) -> Evaluate:
    """Return the options for as many ranks as there are to be: processes asked for are ranks of one thread each."""
    look = ranked(options.look, options.processes)
    if options.processes > 1:
        look = replace(look, runtime=_side_by_side(look.runtime, options.processes))
    settings = options.settings
    if (file := options.transfer) is not None:
        stored = Stored.of(file, settings.threat())
        settings = replace(settings, attacks=(stored,), loss_restarts=0, splits=_splits(file, settings))
    return replace(options, look=look, settings=settings)


def _splits(file: Path, settings: Evaluating) -> tuple[Literal["test", "train", "validation"], ...]:
    """Return the split that a file's inputs are of; all that were asked for where the file does not say."""
    of = described(file).get("split", "")
    if of and of not in settings.splits:
        raise BadInput(f"{file} has inputs of the split {of}, not of {', '.join(settings.splits)}")
    return tuple(split for split in settings.splits if split == of) if of else settings.splits


def _side_by_side(runtime: Runtime, processes: int) -> Runtime:
    return replace(runtime, devices=processes, threads=1)


def evaluate(source: Source, options: Evaluate, checkpoint: str, folder: Path) -> list[Evaluation]:
    """Evaluate one checkpoint on every split asked for; write and return the results.

    Ranks share the examples, and the first one writes. Alone, where one-thread processes side by side are faster,
    it starts them for the splits that are left.

    Args:
        source: The run or model.
        options: How.
        checkpoint: Which of the run's checkpoints.
        folder: Its ``results/`` is written to.
    """
    found: list[Evaluation] = []
    settings = options.settings
    name = f"{source.text}, {checkpoint}" if source.run else source.text
    splits = splits_of(source, options.look)
    surrogate = None if options.surrogate is None else _surrogate(options.surrogate, source, options, splits.test)
    model = model_of(source, options.look, checkpoint, splits.test)
    others = {
        split: other_than_own(source, options.look, settings, folder, checkpoint, split, getattr(splits, split))
        for split in settings.splits
    }
    searches = settings.loss_restarts + settings.restarts
    for place, split in enumerate(settings.splits):
        images = getattr(splits, split)
        other = others[split]
        looked_at = subject_of(model, images, options.look, name=name, split=split, n=settings.n)
        looked_at = replace(looked_at, batch=settings.batch_size)
        pgd = settings.loss_attack() if searches and settings.norm != "l1" else None
        looked_at, decision = fastest(looked_at, pgd, searches)
        processes = options.processes or _worth_starting(decision, looked_at)
        if options.processes == 0 and processes > 1:
            runtime = _side_by_side(looked_at.runtime, processes)
            left = replace(settings, splits=settings.splits[place:])
            shared = replace(options, settings=left, look=replace(options.look, runtime=runtime))
            launch(evaluate, source, shared, checkpoint, folder, runtime=runtime)
            return found + [load(evaluation_file(folder, checkpoint, split, others[split])) for split in left.splits]
        path = evaluation_file(folder, checkpoint, split, other)
        once = settings if place == 0 else replace(settings, sanity=0)  # the same network is looked at once
        partial = path.with_name(f".{path.stem}.partial")
        with threads(looked_at.runtime):
            other_model = surrogate if once.sanity else None
            work = evaluating(
                once, looked_at, partial=partial, adversarial=options.keep_adversarial, surrogate=other_model
            )
            result = follow(work, name=f"evaluate {name}, {split}") if is_first() else drained(work)
        if is_first() and options.keep_adversarial:
            kept = path.with_name(f"{path.stem.replace('evaluation', 'adversarial', 1)}.safetensors")
            note(f"wrote {keep(kept, looked_at, result)}")
        result = replace(result, x_adv=None)
        found.append(result)
        if is_first():
            note(f"wrote {save(result, path)}")
        for done in path.parent.glob(f"{glob.escape(partial.name)}*"):
            done.unlink(missing_ok=True)
        if is_first() and split == "test" and options.images and settings.norm != "l1":
            pictures = _images(looked_at, options)
            note(f"wrote {save(pictures, folder / 'results' / f'images-{checkpoint}{other}.json')}")
    return found


def _worth_starting(decision: Decision | None, looked_at: Subject) -> int:
    """Return how many processes are to share the examples where it was not said; 1 for none.

    A share is worked through in batches of the full size, the last one padded: as if the batches were shared.
    """
    if decision is None or world() > 1 or under_torchrun():
        return 1
    return side_by_side(decision, ceil(len(looked_at.x) / looked_at.batch))


def _surrogate(word: str, source: Source, options: Evaluate, images: Images) -> nn.Module:
    """Return the network that another one is to be tried with.

    Raises:
        BadInput: it is several, cannot be loaded, or is for other images or classes.
    """
    found = sources([word])
    if len(found) > 1:
        raise BadInput(f"{word} holds {len(found)} runs; did you mean one of them, such as {found[0].text}?")
    own = look(found[0])
    data = options.look.data if own.data is None else own.data
    here = replace(own, data=data, runtime=options.look.runtime)
    if own.data is not None and own.data != options.look.data:
        raise BadInput(f"the surrogate {word} is for other data than {source.text}")
    return model_of(found[0], here, "last", images)


def _images(looked_at: Subject, options: Evaluate) -> AdversarialImages:
    from robustscape.evaluation.images import adversarial_images

    return adversarial_images(
        looked_at.model,
        looked_at.x,
        looked_at.y,
        options.settings.loss_attack(),
        n=options.images,
        index=looked_at.index,
        seed=looked_at.seed,
        runtime=looked_at.runtime,
        classes=looked_at.classes,
        model_name=looked_at.model_name,
        data_name=looked_at.data_name,
    )


def _show(rows: dict[tuple[str, str, str], list[Evaluation]], options: Evaluate) -> None:
    from robustscape.report.attacks import attack_table
    from robustscape.report.attacks import to_lines as attack_lines
    from robustscape.report.comparing import model_comparisons, to_lines
    from robustscape.report.tables import evaluation_table, to_csv, to_latex, to_text

    if options.json:
        out(json.dumps([to_plain(result) for results in rows.values() for result in results], indent=1))
        return
    table = evaluation_table(rows)
    if options.csv or options.latex:
        out((to_csv if options.csv else to_latex)(table).rstrip("\n"))
        return
    out(to_text(table, width=terminal_width()).rstrip("\n"))
    if attacks := attack_table(rows):
        out("\n" + attack_lines(attacks, width=terminal_width()).rstrip("\n"))
    for names, results in rows.items():
        for search in results[0].searches:
            if search.note:
                out(f"\n{names[0]}, {names[1]}: {search.name}: {search.note}")
        for finding in results[0].findings:
            if finding.fired:
                out(f"\n! {names[0]}, {names[1]}: {finding.name}: {finding.evidence}")
    if compared := model_comparisons({names: results[0] for names, results in rows.items()}):
        out("\n" + to_lines(compared, width=terminal_width()).rstrip("\n"))
