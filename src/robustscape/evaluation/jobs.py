"""The attacks of an evaluation in their order: which examples each searches, and what is noted of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustscape.attacks.walk import Noting
from robustscape.evaluation.searching import Tally
from robustscape.evaluation.standing import Note, Standing
from robustscape.evaluation.suites import Entry
from robustscape.types import Attack

if TYPE_CHECKING:
    from robustscape.evaluation.accuracy import Evaluating

LOSS = "PGD, loss"
"""What the search for the largest loss is called among the attacks."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attack to be made: its name, the entry that it is the ``part``-th attack of, and the tags of its numbers."""

    name: str
    attack: Attack
    entry: Entry | None
    part: int
    tags: tuple[str | int, ...]


def jobs_of(settings: Evaluating) -> Iterator[Job]:
    """Give the searches for the largest loss, then the attacks for a misclassified input."""
    for restart in range(settings.loss_restarts if settings.norm != "l1" else 0):
        tags = ("evaluate", "loss", restart)
        name = f"{LOSS}, start {restart + 1}" if settings.loss_restarts > 1 else LOSS
        yield Job(name=name, attack=settings.loss_attack(), entry=None, part=restart, tags=tags)
    for one in settings.entries():
        for part, (name, attack) in enumerate(one.parts.items()):
            yield Job(name=name, attack=attack, entry=one, part=part, tags=("evaluate", one.name, name))


def rows_of(job: Job, known: Standing, mine: Tensor) -> Tensor:
    """Return the examples that an attack searches: all for the loss, else those that are left to it."""
    if job.entry is None:
        return mine
    if not job.entry.everyone:
        return mine[~known.fooled[mine]]
    return mine[~(known.clean_wrong | known.own)[mine]] if job.part else mine[~known.clean_wrong[mine]]


def note_of(job: Job, known: Standing, mine: Tensor, rows: Tensor, found: Tally, flips: int) -> Note:
    """Return what an attack that has ended came to; what it found of its own is noted in ``known``."""
    own = job.entry is None or job.entry.everyone
    if own:
        fresh = torch.zeros_like(found.wrong) if job.part == 0 else known.own
        known.own = fresh | found.wrong
    wrong = (known.clean_wrong | known.own) if own else known.fooled
    return Note(
        name=job.name if job.entry is None or len(job.entry.parts) == 1 else f"{job.entry.name}: {job.name}",
        attack=job.attack.describe(),
        everyone=own,
        note=job.attack.note(known.logits.shape[1]) if isinstance(job.attack, Noting) else "",
        tried=len(rows),
        flips=flips,
        wrong=int(wrong[mine].sum()),
        forwards=found.forwards,
        backwards=found.backwards,
        seconds=found.seconds,
        unconfirmed=found.unconfirmed,
        again=found.again,
        precision=found.precision,
    )
