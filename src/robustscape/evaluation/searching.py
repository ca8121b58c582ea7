"""One attack on many examples of a subject: searched on the fast view, counted only where the model itself agrees."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robustscape import modes
from robustscape.attacks.queue import queued
from robustscape.attacks.walk import Rows, Settled, Walk, joined, radii
from robustscape.evaluation.judging import batches, inside, judge, predicted, search
from robustscape.evaluation.passes import MeanLogits
from robustscape.results import stopwatch
from robustscape.runtime import FastView, fast
from robustscape.runtime.memory import Parts, out_of_memory
from robustscape.runtime.settings import exact_products
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Subject

_LOW = ("bfloat16", "tf32")  # arithmetic whose rounding may hide a gradient
_FULL_CPU, _FULL = 64, 256  # inputs from which on a larger batch takes hardly less time for each


@runtime_checkable
class NeedsFloat32(Protocol):
    """An attack that lower precision may blind."""

    @property
    def needs_float32(self) -> bool:
        """Whether what it looks for is lost in the rounding of bfloat16 and TF32."""
        ...


class Counted(nn.Module):
    """The model, counting the examples that pass through it forwards and backwards, those that fill a batch too.

    Args:
        model: Pixels in [0, 1] to logits; shared, not copied.
        exact: Whether float32 products of its forward are to be float32 on any device.

    Attributes:
        dull: (B,), bool, of a batch that is attacked whole: whether a gradient vanished or logits were tied so far;
            None where that is not watched. Where the model is given other than B inputs, it is said of all.
    """

    def __init__(self, model: nn.Module, *, exact: bool = False) -> None:
        super().__init__()
        self.model = model
        self.exact = exact
        self.forwards = 0
        self.backwards = 0
        self.dull: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits."""
        with exact_products(x.device) if self.exact else nullcontext():
            logits = self.model(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        if self.dull is not None:
            highest = logits.detach().topk(2, dim=1).values
            self._doubt(highest[:, 0] == highest[:, 1])
            if x.requires_grad:
                x.register_hook(lambda slope: self._doubt((slope == 0).flatten(1).all(dim=1)))
        return logits

    def _back(self, slope: Tensor) -> None:
        self.backwards += len(slope)

    def _doubt(self, which: Tensor) -> None:
        assert self.dull is not None, "dullness is not watched"
        self.dull |= which if len(which) == len(self.dull) else which.any()


@dataclass(kw_only=True, eq=False)
class Tally:
    """What an attack came to, (n,) each, so far.

    Attributes:
        settled: Whether the search has ended.
        wrong: Whether an input inside the threat model was found that the model itself misclassifies.
        loss: Cross-entropy of what was found, nats; -inf where nothing was.
        steps: Steps taken, where the attack says; else 0.
        dull: Whether a gradient vanished or logits were tied in the search.
        doubt: Whether the search claimed a success that the model did not confirm.
        x_adv: (n, C, H, W), what was found; None where it is not kept.
        unconfirmed: Successes of the search that the model did not confirm.
        again: Examples that are searched a second time on the model itself.
        forwards: Examples that went through the network, those that fill a batch too.
        backwards: The same for the gradients.
        seconds: Wall-clock seconds.
        precision: Arithmetic of the first search: "bfloat16", "tf32", "float32" or "float64".
    """

    settled: Tensor
    wrong: Tensor
    loss: Tensor
    steps: Tensor
    dull: Tensor
    doubt: Tensor
    x_adv: Tensor | None
    unconfirmed: int = 0
    again: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    precision: str = ""


def tally(subject: Subject, *, keep: bool) -> Tally:
    """Return an empty tally for all of the subject's examples; ``keep`` for one that holds what is found."""
    no = torch.zeros(len(subject.x), dtype=torch.bool, device=subject.x.device)
    return Tally(
        settled=no,
        wrong=no.clone(),
        loss=torch.full_like(no, -torch.inf, dtype=subject.x.dtype),
        steps=no.long(),
        dull=no.clone(),
        doubt=no.clone(),
        x_adv=subject.x.clone() if keep else None,
    )


def searching(
    subject: Subject, attack: Attack, rows: Tensor, logits: Tensor, found: Tally, *tags: str | int
) -> Generator[int, None, None]:
    """Search the given examples and note in ``found`` what comes of it; yields how many are settled.

    The search runs on the fast view, one in float32 where the attack needs that. A success counts once the model
    itself, in its own precision, misclassifies exactly the input found and that input lies in ball and box; where it
    does not, a search made of steps goes on. Examples that survive though a success was claimed, or though gradients
    vanished or logits were tied in lower precision, are searched once more on the model itself, together, in batches
    as small as holds them: of the size of all others, or a half of it, a quarter, and so on.

    Args:
        subject: What is looked at.
        attack: The search.
        rows: (M,), int64, which examples; those that are settled already are passed over.
        logits: (n, K), of all clean inputs.
        found: Is filled in.
        *tags: Purpose of the random numbers.

    Raises:
        Diverged: a loss or a gradient is not finite.
    """
    took, before, size = stopwatch(), found.seconds, min(subject.batch, max(len(subject.x), 1))
    fine = isinstance(attack, NeedsFloat32) and attack.needs_float32
    view, precision = _view(subject, fine=fine)
    found.precision = found.precision or precision
    if not found.again:  # otherwise it was interrupted in the second search
        left = rows[~found.settled[rows]]
        with view as searched, modes.evaluating(searched):
            counted = Counted(searched, exact=fine)
            for _ in _once(subject, counted, attack, left, logits, found, *tags, size=size):
                found.seconds = before + took()
                yield int(found.settled[rows].sum())
        if precision == "bfloat16" and isinstance(view, FastView) and view.low() == torch.float32:
            found.precision = "float32"  # the model does not run in less
        low = found.precision in _LOW
        doubtful = rows[((found.doubt | (found.dull & low)) & ~found.wrong)[rows]]
        found.again = len(doubtful)
        found.settled[doubtful] = False
    while found.again and size // 2 >= found.again:
        size = -(-size // 2)
    left, model = rows[~found.settled[rows]], subject.model
    # One that is random draws as it likes, too: against the draws that judge it, success would be luck.
    own = model.model if isinstance(model, MeanLogits) else model
    with modes.evaluating(model):
        counted = Counted(own, exact=True)
        for _ in _once(subject, counted, attack, left, logits, found, *tags, "again", size=size):
            found.seconds = before + took()
            yield int(found.settled[rows].sum())
    found.seconds = before + took()


def _view(subject: Subject, *, fine: bool) -> tuple[Any, str]:
    """Return what is searched on, to be entered, and its arithmetic in a word; ``fine`` for float32."""
    if subject.x.dtype == torch.float64:
        return subject.view, "float64"
    view, runtime = subject.view, subject.runtime
    if fine and isinstance(view, FastView) and runtime.words() != "float32":
        runtime = replace(runtime, precision="float32", compile="no")
        view = fast(view.model, runtime)
    return view, runtime.words().partition(" ")[0]


def _once(
    subject: Subject,
    counted: Counted,
    attack: Attack,
    rows: Tensor,
    logits: Tensor,
    found: Tally,
    *tags: str | int,
    size: int,
) -> Generator[None, None, None]:
    """Search the given examples, ``size`` at a time, or fewer where memory runs out."""
    room = min(subject.batch, (subject.parts or Parts()).size)
    walk = _walk(attack)
    while len(rows):
        width = min(room, size)
        try:
            made = (
                _queue(subject, counted, walk, rows, logits, found, width, room, *tags)
                if walk is not None
                else _batches(replace(subject, batch=size), counted, attack, rows, found, *tags)
            )
            for _ in made:
                found.forwards += counted.forwards
                found.backwards += counted.backwards
                counted.forwards = counted.backwards = 0
                yield
            return
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if width == 1:
                raise BadInput("out of memory for a single example; did you mean a smaller network?") from error
        room = -(-width // 2)
        rows = rows[~found.settled[rows]]


def _walk(attack: Attack) -> Walk | None:
    """Return a search that can go through the queue, one that ends with a success and not with the largest loss."""
    ends = getattr(attack, "result", "misclassified") == "misclassified"
    return attack if ends and isinstance(attack, Walk) else None


def _queue(
    subject: Subject,
    model: nn.Module,
    attack: Walk,
    rows: Tensor,
    logits: Tensor,
    found: Tally,
    width: int,
    room: int,
    *tags: str | int,
) -> Generator[None, None, None]:
    """Search in steps: examples leave once the model confirms that they are fooled."""
    x = subject.x[rows]
    some = Rows(
        x=x,
        y=subject.y[rows],
        eps=radii(attack.threat, x, None),
        index=subject.index[rows],
        logits=logits[rows],
        round=torch.zeros_like(rows),
    )
    losses = torch.full_like(x.flatten(1)[:, 0], -torch.inf)

    def judged(x_adv: Tensor, which: Tensor) -> Tensor:
        loss, wrong = judge(subject.model, x_adv, some.y[which], parts=subject.parts)
        allowed = inside(attack.threat, x_adv, x[which])
        losses[which] = torch.maximum(losses[which], loss.masked_fill(~allowed, -torch.inf))
        return wrong & allowed

    def confirm(x_adv: Tensor, which: Tensor) -> Tensor:
        wrong = judged(x_adv, which)
        found.unconfirmed += int((~wrong).sum())
        found.doubt[rows[which]] |= ~wrong
        return wrong

    def note(ended: Settled, wrong: Tensor) -> None:
        here = rows[ended.rows]
        found.wrong[here] |= wrong
        found.loss[here] = torch.maximum(found.loss[here], losses[ended.rows])
        found.steps[here] += ended.steps
        found.dull[here] |= ended.dull
        found.settled[here] = True
        if found.x_adv is not None:
            found.x_adv[here] = ended.x_adv

    failed: list[Settled] = []  # judged in batches of one size: the loss of an input then has the same bits anywhere
    # CUDA graphs are for one shape; memory is predicted for a batch, and no more than that is looked at at once.
    shrink, full = (4, _FULL_CPU) if x.device.type == "cpu" else (1, _FULL)
    rng = Streams(subject.seed, tags)
    settling = queued(attack, model, some, rng, width=width, shrink=shrink, room=min(room, full), confirm=confirm)
    for ended in settling:
        note(won := ended.take(ended.wrong), won.wrong)
        failed += [ended.take(row) for row in (~ended.wrong).nonzero()]
        while len(failed) >= width:
            note(batch := joined(failed[:width]), judged(batch.x_adv, batch.rows))
            failed = failed[width:]
        yield
    if failed:
        batch = joined([*failed, *[failed[0]] * (width - len(failed))])
        note(last := joined(failed), judged(batch.x_adv, batch.rows)[: len(last.rows)])
        yield


def _batches(
    subject: Subject, model: Counted, attack: Attack, rows: Tensor, found: Tally, *tags: str | int
) -> Generator[None, None, None]:
    """Search batch by batch."""
    for batch, count in batches(subject, rows):
        model.dull = torch.zeros_like(subject.y[batch], dtype=torch.bool) if found.precision in _LOW else None
        made, here = search(subject, model, attack, batch, *tags), batch[:count]
        if model.dull is not None:
            found.dull[here] |= model.dull[:count]
        claimed = predicted(model.model, made.x_adv, subject.parts).argmax(dim=1) != subject.y[batch]
        doubt = (claimed & ~made.wrong)[:count]
        found.unconfirmed += int(doubt.sum())
        found.doubt[here] |= doubt
        found.wrong[here] |= made.wrong[:count]
        found.loss[here] = torch.maximum(found.loss[here], made.loss[:count])
        found.settled[here] = True
        if found.x_adv is not None:
            found.x_adv[here] = made.x_adv[:count]
        yield
