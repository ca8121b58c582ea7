"""What the files of an evaluation are called, so that numbers of another kind stay."""

from __future__ import annotations

from pathlib import Path

from robustscape.cli.sources import Look, Source
from robustscape.evaluation.accuracy import Evaluating
from robustscape.evaluation.adversarial import Stored
from robustscape.evaluation.result import Evaluation
from robustscape.results import load


def evaluation_file(folder: Path, checkpoint: str, split: str, other: str) -> Path:
    """Return the file of an evaluation; ``other`` is what ``other_than_own`` says."""
    return folder / "results" / f"evaluation-{checkpoint}-{split}{other}.json"


def other_than_own(
    source: Source, look: Look, settings: Evaluating, folder: Path, checkpoint: str, split: str, data: str
) -> str:
    """Return what a file's name says of a threat, suite or data that are not the run's own; "" for its own.

    A model from elsewhere has those as its own that it was first evaluated with.

    Args:
        source: The run or model.
        look: Which data it is looked at with.
        settings: The attacks.
        folder: Its ``results/`` has what was found before.
        checkpoint: Which of the run's checkpoints.
        split: Which split.
        data: Name of the images of that split.
    """
    threat, carried = settings.threat(), [attack for attack in settings.attacks if isinstance(attack, Stored)]
    known, suite, same_data = (threat.norm, threat.eps), settings.suite, True
    if source.run is not None:
        own = source.run.evaluation
        known, suite, same_data = (own.norm, own.eps), own.suite, look.data == source.run.data
    elif (first := evaluation_file(folder, checkpoint, split, "")).is_file():
        before = load(first)
        assert isinstance(before, Evaluation), f"{first} is no evaluation"
        known, suite = (before.norm, before.eps), before.suite
        same_data = before.provenance.data.partition(", first ")[0] == data
    words = "" if known == (threat.norm, threat.eps) else f"-under-{threat.norm}-{threat.eps:.4g}"
    if carried:
        words += f"-transfer-{Path(carried[0].path).stem}-{carried[0].checksum[:6]}"
    elif settings.suite != suite:
        words += f"-by-{settings.suite}"
    return words + ("" if same_data else f"-on-{type(look.data).__name__.lower()}")
