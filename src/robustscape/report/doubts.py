"""Reasons not to believe a robust error: what the evaluations looked for, and what stronger attacks found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robustscape.evaluation.result import Evaluation
from robustscape.runs import RunFolder, evaluation_files

_MAIN = "evaluation-last-test"


def doubts(folders: Sequence[RunFolder]) -> list[str]:
    """Return each reason as a sentence: findings that fired, then attacks that beat those of the summary's numbers."""
    return [*_found(folders), *_beaten(folders)]


def looks(folders: Sequence[RunFolder]) -> int:
    """Return how many looks for such reasons the evaluations made."""
    return sum(len(e.findings) for _, _, e in _evaluations(folders))


def _evaluations(folders: Sequence[RunFolder]) -> Iterator[tuple[RunFolder, str, Evaluation]]:
    for folder in folders:
        for file in evaluation_files([folder]):
            yield folder, file, folder.results[file]


def _found(folders: Sequence[RunFolder]) -> Iterator[str]:
    for folder, file, result in _evaluations(folders):
        where = f"{folder.label}, seed {folder.seed}, {' '.join(evaluation_files([folder])[file])}"
        for finding in result.findings:
            if finding.fired:
                yield f"{where}: {finding.name}: {finding.evidence}."


def _beaten(folders: Sequence[RunFolder]) -> Iterator[str]:
    """Of the last checkpoint on test, with the same threat model and images."""
    for folder, file, result in _evaluations(folders):
        main = folder.results.get(_MAIN)
        if main is None or not file.startswith(f"{_MAIN}-"):
            continue
        same = (main.norm, main.eps, main.index.tobytes()) == (result.norm, result.eps, result.index.tobytes())
        if same and result.robust_error.value > main.robust_error.value:
            found, less = 100 * result.robust_error.value, 100 * main.robust_error.value
            yield (
                f"{folder.label}, seed {folder.seed}: the robust error is {found:.1f} % under {result.attack}, "
                f"not {less:.1f} % as the summary's attacks found."
            )
