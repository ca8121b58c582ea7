"""What is known of each example so far in an evaluation, and of each attack; kept on disk while it runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.evaluation.intervals import wilson
from robustscape.evaluation.judging import batches, predicted
from robustscape.evaluation.result import Searched
from robustscape.evaluation.searching import Tally
from robustscape.results import written
from robustscape.runtime.ranks import gathered, sum_over_ranks
from robustscape.types import Diverged, Subject

ROBUST, CLEAN = -1, -2
"""What ``first`` says of an example that nothing fooled, and of one that is misclassified without attack."""


@dataclass(kw_only=True, eq=False)
class Note:
    """What is known of one attack: see ``Searched``; ``wrong`` counts the examples of its robust error."""

    name: str
    attack: str
    everyone: bool
    note: str
    tried: int
    flips: int
    wrong: int
    forwards: int
    backwards: int
    seconds: float
    unconfirmed: int
    again: int
    precision: str = ""

    def searched(self, n: int) -> Searched:
        """Return it as a part of the result, of n examples."""
        fields = {name: value for name, value in asdict(self).items() if name != "wrong"}
        return Searched(robust_error=wilson(self.wrong, n), **fields)


@dataclass(kw_only=True, eq=False)
class Standing:
    """What is known of each of a subject's n examples.

    Attributes:
        logits: (n, K), of the clean inputs.
        clean_loss: (n,), nats.
        clean_wrong: (n,), bool.
        loss: (n,), the largest loss so far, nats.
        first: (n,), int64, the place of the first attack that fooled each, ``ROBUST`` or ``CLEAN``.
        steps: (n,), int64, steps of that attack.
        own: (n,), bool, fooled by the attacks so far of an entry that began with everyone.
        x_adv: (n, C, H, W), the input that fooled it, or the clean one; None where it is not kept.
        notes: What is known of each attack that has ended.
    """

    logits: Tensor
    clean_loss: Tensor
    clean_wrong: Tensor
    loss: Tensor
    first: Tensor
    steps: Tensor
    own: Tensor
    x_adv: Tensor | None
    notes: list[Note] = field(default_factory=list)

    @property
    def fooled(self) -> Tensor:
        """Whether each example is misclassified, without attack or under one, (n,)."""
        return self.first != ROBUST

    def take(self, rows: Tensor, found: Tally) -> int:
        """Take in what an attack that has ended found for ``rows``; returns how many nothing before had fooled."""
        place = len(self.notes)
        new = rows[(found.wrong & (self.first == ROBUST))[rows]]
        self.loss[rows] = torch.maximum(self.loss[rows], found.loss[rows])
        self.first[new], self.steps[new] = place, found.steps[new]
        if self.x_adv is not None and found.x_adv is not None:
            self.x_adv[new] = found.x_adv[new]
        return len(new)

    def join(self) -> None:
        """Take in what the other ranks know of their examples: what a rank knows nothing of is 0 there."""
        self.clean_loss, self.loss = sum_over_ranks(torch.stack([self.clean_loss, self.loss]))
        whole = torch.stack([self.clean_wrong.long(), self.first - ROBUST, self.steps])
        clean_wrong, first, self.steps = sum_over_ranks(whole)
        self.clean_wrong, self.first = clean_wrong.bool(), first + ROBUST
        if self.x_adv is not None:
            self.x_adv = sum_over_ranks(self.x_adv)
        self.notes = [_added(notes) for notes in zip(*gathered(self.notes), strict=True)]


def _added(notes: Sequence[Note]) -> Note:
    """Return what the ranks know of one attack as one note: numbers added up, the seconds of the slowest."""
    counts = ("tried", "flips", "wrong", "forwards", "backwards", "unconfirmed", "again")
    total = {name: sum(getattr(note, name) for note in notes) for name in counts}
    return replace(notes[0], **total, seconds=max(note.seconds for note in notes))


def standing(subject: Subject, rows: Tensor, *, keep: bool) -> Standing:
    """Judge the clean inputs of ``rows``, (M,), and return what is known then.

    Args:
        subject: The model and the examples.
        rows: Which of them are this rank's; of the others nothing is known.
        keep: Whether adversarial inputs are kept.

    Raises:
        Diverged: a loss is not finite.
    """
    x, y = subject.x, subject.y
    parts = [(b[:count], predicted(subject.model, x[b], subject.parts)[:count]) for b, count in batches(subject, rows)]
    classes = parts[0][1].shape[1] if parts else len(subject.classes)  # a rank may have no examples
    logits = torch.zeros(len(x), classes, dtype=x.dtype, device=x.device)
    for some, values in parts:
        logits[some] = values
    loss = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    loss[rows] = F.cross_entropy(logits[rows], y[rows], reduction="none")
    if not bool(torch.isfinite(loss).all()):
        raise Diverged(f"the model's loss is not finite for {int((~torch.isfinite(loss)).sum())} of {len(x)} inputs")
    wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    wrong[rows] = logits[rows].argmax(dim=1) != y[rows]
    mine = torch.zeros_like(x)
    mine[rows] = x[rows]
    return Standing(
        logits=logits,
        clean_loss=loss,
        clean_wrong=wrong,
        loss=loss.clone(),
        first=torch.where(wrong, CLEAN, ROBUST),
        steps=torch.zeros_like(y),
        own=torch.zeros_like(wrong),
        x_adv=mine if keep else None,
    )


# -- on disk -------------------------------------------------------------------------------------------

_ARRAYS = ("loss", "first", "steps", "own", "x_adv")
_SAME = 1e-3  # how far two passes over the clean inputs may be apart, in nats, and relatively, by rounding
_TALLY = ("settled", "wrong", "loss", "steps", "dull", "doubt", "x_adv")
_COUNTS = ("unconfirmed", "again", "forwards", "backwards", "seconds")


def keep_standing(path: Path, fingerprint: str, known: Standing, running: Tally | None, seconds: float) -> None:
    """Write what is known, whole or not at all.

    Args:
        path: The file.
        fingerprint: What all of it depends on.
        known: What ended attacks found.
        running: What the attack that is under way has found so far, None between two.
        seconds: Wall-clock seconds so far.
    """
    arrays = {name: value for name in (*_ARRAYS, "clean_loss") if (value := getattr(known, name)) is not None}
    if running is not None:
        named = {f"running {name}": getattr(running, name) for name in _TALLY}
        arrays |= {name: value for name, value in named.items() if value is not None}
    counts = None if running is None else {name: getattr(running, name) for name in _COUNTS}
    head = {
        "fingerprint": fingerprint,
        "notes": [asdict(n) for n in known.notes],
        "running": counts,
        "seconds": seconds,
    }
    content = io.BytesIO()
    stored = {name: value.cpu().numpy() for name, value in arrays.items()}
    np.savez(content, head=np.array(json.dumps(head)), **stored)  # pyright: ignore[reportArgumentType]
    with written(path) as file:
        file.write(content.getvalue())


def read_standing(path: Path, fingerprint: str, known: Standing, empty: Tally) -> tuple[Standing, Tally | None, float]:
    """Return what was kept (standing, the running attack's tally, seconds), or what is known where nothing fits.

    It does not fit either where the clean losses are others: code that is not in the model's tensors has changed.

    Args:
        path: The file.
        fingerprint: What it must have been written under.
        known: The standing before the first attack.
        empty: A tally before its search.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            head = json.loads(str(stored["head"]))
            if head["fingerprint"] != fingerprint:
                return known, None, 0.0
            device = known.loss.device
            arrays = {name: torch.from_numpy(stored[name]).to(device) for name in stored.files if name != "head"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return known, None, 0.0
    if not torch.allclose(arrays["clean_loss"], known.clean_loss, rtol=_SAME, atol=_SAME):
        return known, None, 0.0
    values = {name: arrays[name] for name in _ARRAYS if name in arrays}
    known = replace(known, notes=[Note(**note) for note in head["notes"]], **values)
    if head["running"] is None:
        return known, None, head["seconds"]
    tensors = {name: arrays[f"running {name}"] for name in _TALLY if f"running {name}" in arrays}
    return known, replace(empty, **tensors, **head["running"]), head["seconds"]


def searches(notes: Sequence[Note], n: int) -> tuple[Searched, ...]:
    """Return the attacks' part of the result."""
    return tuple(note.searched(n) for note in notes)
