"""Snapshots: the network at the end of every period of a periodic training, an ensemble together.

Liu 2020, https://arxiv.org/abs/2006.08403, section 5, after Huang 2017, https://arxiv.org/abs/1704.00109: one
classifier by the mean of the probabilities, ``models.ensemble.Ensemble``, attacked as one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from robustscape.types import BadInput, Schedule


@runtime_checkable
class Resetting(Protocol):
    """A schedule that begins anew."""

    @property
    def resets(self) -> tuple[float, ...]:
        """Shares of all steps at which it does, in (0, 1)."""
        ...


def period_ends(epochs: int, *schedules: Schedule) -> tuple[int, ...]:
    """Return the epochs, from 1, at whose ends a period of so long a training ends, the last epoch included.

    A period ends wherever one of the schedules begins anew.

    Raises:
        BadInput: none of them does, or one does within an epoch.
    """
    shares = {share for part in schedules if isinstance(part, Resetting) for share in part.resets}
    if not shares:
        raise BadInput(
            "snapshots are of the network at the end of every period, but neither training.lr nor training.eps begins "
            "anew; did you mean --training.lr periodic?"
        )
    for end in sorted(share * epochs for share in shares):
        if abs(end - round(end)) > 1e-9:
            raise BadInput(
                f"snapshots are of ends of epochs, but a period ends after {end:g} of {epochs} epochs; change "
                "training.epochs or the resets"
            )
    return tuple(sorted({*(round(share * epochs) for share in shares), epochs}))


def snapshot(number: int) -> str:
    """Return what the checkpoint at the end of a period, from 1, is called: "snapshot-1"."""
    return f"snapshot-{number}"


def has_snapshots(checkpoints: Path) -> bool:
    """Return whether a run's folder of checkpoints holds snapshots."""
    return (checkpoints / f"{snapshot(1)}.safetensors").is_file()


def snapshots_in(checkpoints: Path) -> tuple[str, ...]:
    """Return the names of the snapshots in a run's folder of checkpoints, in their order.

    Raises:
        BadInput: there are none.
    """
    names: list[str] = []
    while (checkpoints / f"{snapshot(len(names) + 1)}.safetensors").is_file():
        names.append(snapshot(len(names) + 1))
    if not names:
        raise BadInput(
            f"{checkpoints} holds no snapshots, which an ensemble is made of; train with --training.snapshots"
        )
    return tuple(names)
