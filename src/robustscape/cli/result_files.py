"""What the files of an evaluation are called, so that numbers of another kind stay."""

from __future__ import annotations

from pathlib import Path

from robustscape.cli.sources import Look, Source
from robustscape.evaluation.accuracy import Evaluating
from robustscape.evaluation.adversarial import Stored
from robustscape.evaluation.result import Evaluation
from robustscape.results import load
from robustscape.types import BadInput, Images


def evaluation_file(folder: Path, checkpoint: str, split: str, other: str) -> Path:
    """Return the file of an evaluation; ``other`` is what ``other_than_own`` says."""
    return folder / "results" / f"evaluation-{checkpoint}-{split}{other}.json"


def other_than_own(
    source: Source, look: Look, settings: Evaluating, folder: Path, checkpoint: str, split: str, images: Images
) -> str:
    """Return what a file's name says of a threat, suite, data or number of images that are not the run's own.

    "" for its own. A model from elsewhere has those as its own that it was first evaluated with. The number is said
    only where a file with the numbers of more or fewer images is in the way.

    Args:
        source: The run or model.
        look: Which data it is looked at with.
        settings: The attacks.
        folder: Its ``results/`` has what was found before.
        checkpoint: Which of the run's checkpoints.
        split: Which split.
        images: That split.
    """
    threat, carried = settings.threat(), [attack for attack in settings.attacks if isinstance(attack, Stored)]
    known, suite, same_data = (threat.norm, threat.eps), settings.suite, True
    own = None if source.run is None else source.run.evaluation
    if source.run is not None and own is not None:
        known, suite, same_data = (own.norm, own.eps), own.suite, look.data == source.run.data
    elif (before := _before(evaluation_file(folder, checkpoint, split, ""))) is not None:
        known, suite = (before.norm, before.eps), before.suite
        same_data = before.provenance.data.partition(", first ")[0] == images.name
    words = "" if known == (threat.norm, threat.eps) else f"-under-{threat.norm}-{threat.eps:.4g}"
    if carried:
        words += f"-transfer-{Path(carried[0].path).stem}-{carried[0].checksum[:6]}"
    elif settings.suite != suite:
        words += f"-by-{settings.suite}"
    words += "" if same_data else f"-on-{type(look.data).__name__.lower()}"
    if not words and own is not None and own.n == settings.n:
        return words
    before, n = _before(evaluation_file(folder, checkpoint, split, words)), len(images)
    n = n if settings.n is None else min(settings.n, n)
    return words if before is None or before.robust_error.n == n else f"{words}-of-{n}"


def _before(path: Path) -> Evaluation | None:
    """Return what a file has from before; None where there is none, or it is damaged and to be replaced."""
    try:
        found = load(path) if path.is_file() else None
    except BadInput:
        return None
    return found if isinstance(found, Evaluation) else None
