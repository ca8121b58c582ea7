"""Evaluate clean and robust accuracy and loss: `robustscape evaluate SOURCE...`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import follow, note, out, terminal_width
from robustscape.cli.sources import (
    FORMS,
    Look,
    Source,
    folder_of,
    look,
    model_of,
    nouns,
    sources,
    splits_of,
    subject_of,
    wants_help,
)
from robustscape.config import to_plain
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.result import AdversarialImages, Evaluation
from robustscape.evaluation.subject import fastest
from robustscape.results import save
from robustscape.runtime import threads
from robustscape.types import BadInput, Subject


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Options of ``evaluate``.

    Attributes:
        settings: The attacks and examples that judge; by default the run's own.
        look: Which data, network and machine.
        checkpoint: Which checkpoints of a run: last, best (on validation), best_on_test, epoch-0010.
        images: Show this many of the first examples beside their adversarial ones, 0 for none.
        json: Print the whole results as JSON instead of a table.
        csv: Print CSV instead of a table.
        latex: Print a LaTeX tabular instead of a table.
    """

    settings: Evaluating = field(metadata=SPREAD)
    look: Look = field(metadata=SPREAD)
    checkpoint: tuple[str, ...] = ("last", "best")
    images: int = 10
    json: bool = False
    csv: bool = False
    latex: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.json + self.csv + self.latex > 1:
            raise BadInput("--json, --csv and --latex exclude each other")
        if self.images < 0:
            raise BadInput(f"images must be at least 0, not {self.images}")


def main(arguments: list[str]) -> None:
    """Evaluate every source and checkpoint, write the results, print a table.

    Raises:
        BadInput: no source, or one that cannot be evaluated as asked.
    """
    words, options = nouns(arguments)
    if wants_help(options):
        _options(None, options)
    if not words:
        raise BadInput("evaluate needs to know what first: robustscape evaluate SOURCE... (a run, a checkpoint, ...)")
    jobs = [(source, _options(source, options)) for source in sources(words)]
    rows: dict[tuple[str, str, str], list[Evaluation]] = {}
    for source, settings in jobs:
        folder = folder_of(source, settings.look, len(jobs))
        for checkpoint in settings.checkpoint:
            for result in evaluate(source, settings, checkpoint, folder):
                rows[source.text, checkpoint, result.split] = [result]
    _show(rows, jobs[0][1])


def _options(source: Source | None, options: list[str]) -> Evaluate:
    run = source.run if source else None
    default = Evaluate(
        settings=run.evaluation if run else Evaluating(),
        look=look(source),
        checkpoint=("last", "best") if run or source is None else ("last",),
    )
    description = f"{(__doc__ or '').partition(':')[0]}. {FORMS} Results go to the run's results/."
    return parse(default, options, program="robustscape evaluate SOURCE...", description=description)


def evaluate(source: Source, options: Evaluate, checkpoint: str, folder: Path) -> list[Evaluation]:
    """Evaluate one checkpoint on every split asked for; write and return the results.

    Args:
        source: The run or model.
        options: How.
        checkpoint: Which of the run's checkpoints.
        folder: Its ``results/`` is written to.
    """
    found = []
    name = f"{source.text}, {checkpoint}" if source.run else source.text
    splits, other = splits_of(source, options.look), _other(source, options)
    model = model_of(source, options.look, checkpoint, splits.test)
    for split in options.settings.splits:
        images = getattr(splits, split)
        looked_at = subject_of(model, images, options.look, name=name, split=split, n=options.settings.n)
        searches = options.settings.loss_restarts + options.settings.restarts
        looked_at, _ = fastest(looked_at, options.settings.loss_attack() if searches else None, searches)
        with threads(looked_at.runtime):
            result = follow(evaluating(options.settings, looked_at), name=f"evaluate {name}, {split}")
        note(f"wrote {save(result, folder / 'results' / f'evaluation-{checkpoint}-{split}{other}.json')}")
        found.append(result)
        if split == "test" and options.images:
            pictures = _images(looked_at, options)
            note(f"wrote {save(pictures, folder / 'results' / f'images-{checkpoint}{other}.json')}")
    return found


def _other(source: Source, options: Evaluate) -> str:
    """Return what a file's name says of a threat or data that are not the run's own, so that its numbers stay."""
    if source.run is None:
        return ""
    threat, own = options.settings.threat(), source.run.evaluation.threat()
    under = "" if threat == own else f"-under-{threat.norm}-{threat.eps:.4g}"
    return under + ("" if options.look.data == source.run.data else f"-on-{type(options.look.data).__name__.lower()}")


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
    from robustscape.report.tables import evaluation_table, to_csv, to_latex, to_text

    if options.json:
        out(json.dumps([to_plain(result) for results in rows.values() for result in results], indent=1))
        return
    table = evaluation_table(rows)
    if options.csv or options.latex:
        out((to_csv if options.csv else to_latex)(table).rstrip("\n"))
    else:
        out(to_text(table, width=terminal_width()).rstrip("\n"))
