"""A queue of searches: every example takes its steps alone, fooled ones leave, and others take their place.

So a batch stays full at one shape, whatever its examples need, over all restarts and targets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from robustscape.attacks._common import check, check_labels
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput, Diverged, Threat

State: TypeAlias = dict[str, Tensor]
"""What is known of the examples under search, tensors (N, ...): see ``Walk``."""

Draws: TypeAlias = Streams | torch.Generator
"""Where random numbers come from: streams without an index, or the one generator of ``reference``."""

_LOOK = 4  # steps between two looks where looking waits for the device


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Examples to be searched.

    Attributes:
        x: (N, C, H, W), clean inputs in [0, 1], float32 or float64.
        y: (N,), labels, int64; the wanted classes of a targeted attack.
        eps: (N,), radius of each, of x's dtype.
        index: (N,), int64, the key of each example's random numbers.
        logits: (N, K), of the clean inputs.
        round: (N,), int64, which restart or target, from 0.
    """

    x: Tensor
    y: Tensor
    eps: Tensor
    index: Tensor
    logits: Tensor
    round: Tensor

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.x)

    def take(self, rows: Tensor) -> Rows:
        """Return the given rows, (M,), int64."""
        return Rows(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@runtime_checkable
class Walk(Protocol):
    """An attack as steps that every example takes by itself: what one does depends on no other.

    The state of N examples is a dict of tensors (N, ...). The search keeps what it likes there; these names
    every state has:

    - ``x``, ``y``, ``eps``, ``index``, ``round``: as in ``Rows``.
    - ``step``: int64, steps taken in this round.
    - ``x_adv``: the input that is returned should the search end now.
    - ``wrong``: bool, whether x_adv is a success as the search computed it: misclassified, or as wanted.
    - ``score``: how near x_adv is to success, larger is nearer; comparable between the rounds of an example.
    - ``over``: bool, whether the round is at its end.
    - ``finite``: bool, whether every loss and gradient so far was.
    - ``dull``: bool, whether a gradient was 0 everywhere or the two largest logits were equal.
    """

    @property
    def threat(self) -> Threat:
        """What the adversary may do."""
        ...

    def rounds(self, classes: int) -> int:
        """Return how many restarts or targets there are, tried in turn until one succeeds."""
        ...

    def begin(self, rows: Rows, rng: Draws) -> State:
        """Return the state of examples before their first step; the model is not looked at."""
        ...

    def step(self, model: nn.Module, state: State, rng: Draws) -> State:
        """Return the state after a step: the forward at where each example is comes first, then the move."""
        ...


@runtime_checkable
class Noting(Protocol):
    """An attack that has something to say of how many classes there are."""

    def note(self, classes: int) -> str:
        """Return what its loss or targets become for so few classes, one sentence; "" where they are as they are."""
        ...


@runtime_checkable
class Several(Protocol):
    """A search that can take some steps of each example in one forward, where a batch has room for them."""

    def several(self, model: nn.Module, state: State, rng: Streams, count: int) -> State:
        """Return the state after up to ``count`` steps of each example, the same as one after the other give."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Settled:
    """Examples whose search has ended.

    Attributes:
        rows: (M,), int64, which of the examples given.
        x_adv: (M, C, H, W), inside ball and box: the first success, else what came nearest in any round.
        wrong: (M,), bool, whether it is a success.
        score: (M,), how near it came, as the attack scores.
        steps: (M,), int64, steps that were taken, in all rounds: the success, where there is one, was met in the last.
        dull: (M,), bool, whether a gradient vanished or logits were tied on the way.
    """

    rows: Tensor
    x_adv: Tensor
    wrong: Tensor
    score: Tensor
    steps: Tensor
    dull: Tensor

    def take(self, which: Tensor) -> Settled:
        """Return some of them: (M,) bool, or int64."""
        return Settled(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


def joined(parts: Sequence[Settled]) -> Settled:
    """Return settled examples as one, in the order of the parts, at least one."""
    return Settled(
        **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(parts[0])}
    )


def draws(rng: Streams, state: State | Rows) -> Streams:
    """Return the streams of the examples' present rounds: those of their index and round."""
    index, number = (state.index, state.round) if isinstance(state, Rows) else (state["index"], state["round"])
    return rng.of(index).then(number)


def chosen(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return the rows of ``new`` that ``which``, (N,), bool, says and the others of ``old``, (N, ...), all finite.

    It may be ``new`` or ``old`` itself. On the CPU, where choices by a mask that is broadcast take four times as long,
    nothing is copied where all rows are of one, and otherwise one is drawn from the other by 0 or 1, which is exact.
    """
    wide = which.view(-1, *[1] * (new.ndim - 1))
    if which.device.type != "cpu":
        return torch.where(wide, new, old)
    count = int(which.sum())
    if count in (0, len(which)):
        return new if count else old
    return torch.lerp(old, new, wide.to(new.dtype))


def queued(
    attack: Walk,
    model: nn.Module,
    rows: Rows,
    rng: Streams,
    *,
    width: int,
    shrink: int = 0,
    room: int = 0,
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Generator[Settled, None, None]:
    """Search all examples, ``width`` at a time, and give them as they are settled.

    Args:
        attack: The search.
        model: Pixels in [0, 1] to logits, in eval mode.
        rows: The examples; their ``round`` is where they begin.
        rng: Random numbers; its index is not looked at.
        width: How many at a time. The model sees batches of this size alone, so bits do not depend on the company.
        shrink: How closely the batch follows once no more wait than are under search: less work, but more than one
            shape. 0 keeps it, 1 halves it where half is idle, 4 lets it have four sizes in every halving.
        room: Inputs that the model may see at once where that is more than are under search: an attack that can then
            takes several steps of each in one forward.
        confirm: (x_adv, rows) to bool, (M,): whether a success counts. One that does not goes on being searched.

    Raises:
        Diverged: a loss or a gradient was not finite.
    """
    pool = _Pool(attack, rows, rng, width, shrink=shrink, room=room, confirm=confirm)
    every = 1 if rows.x.device.type == "cpu" else _LOOK
    while pool.busy:
        for _ in range(every):
            pool.step(model, freeze=every > 1)
        if (settled := pool.look()) is not None:
            yield settled


class _Pool:
    """The examples under search, and those that wait."""

    def __init__(
        self,
        attack: Walk,
        rows: Rows,
        rng: Streams,
        width: int,
        *,
        shrink: int,
        room: int,
        confirm: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> None:
        self.attack, self.rows, self.rng, self.shrink, self.confirm = attack, rows, rng, shrink, confirm
        self.several, self.room = attack if isinstance(attack, Several) else None, room
        self.rounds = attack.rounds(rows.logits.shape[1])
        self.best = {
            "x_adv": rows.x.clone(),
            "score": torch.full((len(rows),), -math.inf, dtype=rows.x.dtype, device=rows.x.device),
            "steps": torch.zeros_like(rows.round),
            "dull": torch.zeros_like(rows.round, dtype=torch.bool),
        }
        self.waiting = deque(zip(range(len(rows)), rows.round.tolist(), strict=True))
        first = self._next(width)
        padded = first.repeat(-(-width // max(len(first), 1)))[:width]
        self.row = torch.where(torch.arange(len(padded), device=first.device) < len(first), padded, -1)
        """Which example is where, (width,); -1 where none is."""
        self.state = attack.begin(self.rows.take(padded), rng) if len(first) else {}
        self._settle_in()

    def _settle_in(self) -> None:
        """Let the batch be as large as is needed, and note what is where."""
        self._fit()
        self.here = self.row >= 0
        self.busy = bool(self.here.any())
        """Whether an example is under search."""

    def step(self, model: nn.Module, *, freeze: bool) -> None:
        """Take a step; with ``freeze``, examples that are at their end stay as they are."""
        before, count = self.state, self.room // len(self.row)
        if self.several is None or count < 2:
            self.state = self.attack.step(model, before, self.rng)
        else:
            self.state = self.several.several(model, before, self.rng, count)
        if freeze:
            ended = before["wrong"] | before["over"]
            for name in ("x_adv", "wrong", "score", "step", "over", "finite", "dull"):
                old, new = before[name], self.state[name]
                self.state[name] = torch.where(ended.view(-1, *[1] * (new.ndim - 1)), old, new)

    def look(self) -> Settled | None:
        """Take out who has ended and let others in; return the settled ones, None where there are none."""
        state = self.state
        notable = (state["wrong"] | state["over"] | ~state["finite"]) & self.here
        if not bool(notable.any()):
            return None
        place = notable.nonzero().flatten()
        if not bool(state["finite"][place].all()):
            raise Diverged("the model's loss, or its gradient with respect to the inputs, became NaN under attack")
        row, wrong = self.row[place], state["wrong"][place]
        if self.confirm is not None and bool(wrong.any()):
            claimed = wrong.nonzero().flatten()
            wrong = wrong.clone()
            wrong[claimed] = self.confirm(state["x_adv"][place[claimed]], row[claimed])
            state["wrong"] = state["wrong"].index_put((place,), wrong)
        ended = wrong | state["over"][place]
        place, row, wrong = place[ended], row[ended], wrong[ended]
        self._note(place, row, wrong)
        following = state["round"][place] + 1
        last = wrong | (following >= self.rounds)
        again = (~last).nonzero().flatten()
        self.waiting.extend(zip(row[again].tolist(), following[again].tolist(), strict=True))
        self._refill(place)
        return self._settled(row[last], wrong[last]) if bool(last.any()) else None

    def _note(self, place: Tensor, row: Tensor, wrong: Tensor) -> None:
        """Keep what these rounds came to, where it is better than what was before."""
        state, best = self.state, self.best
        better = wrong | (state["score"][place] > best["score"][row])
        pixels = better.view(-1, *[1] * (state["x_adv"].ndim - 1))
        best["x_adv"][row] = torch.where(pixels, state["x_adv"][place], best["x_adv"][row])
        best["score"][row] = torch.where(better, state["score"][place], best["score"][row])
        best["steps"][row] += state["step"][place]
        best["dull"][row] |= state["dull"][place]

    def _settled(self, row: Tensor, wrong: Tensor) -> Settled:
        return Settled(rows=row, wrong=wrong, **{name: value[row] for name, value in self.best.items()})

    def _next(self, count: int) -> Tensor:
        """Take up to so many that wait; return their numbers, (M,), their rounds set."""
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        device = self.rows.x.device
        row = torch.tensor([row for row, _ in taken], dtype=torch.int64, device=device)
        number = torch.tensor([number for _, number in taken], dtype=torch.int64, device=device)
        if len(row):
            self.rows = replace(self.rows, round=self.rows.round.index_put((row,), number))
        return row

    def _refill(self, place: Tensor) -> None:
        """Put examples that wait in the given places."""
        row = self.row.clone()
        row[place] = -1
        fresh = self._next(len(place))
        if len(fresh):
            where = place[: len(fresh)]
            row[where] = fresh
            begun = self.attack.begin(self.rows.take(fresh), self.rng)
            self.state = {name: value.index_put((where,), begun[name]) for name, value in self.state.items()}
        self.row = row
        self._settle_in()

    def _fit(self) -> None:
        """Keep only as many places as are needed, where the pool may shrink."""
        row, size = self.row, len(self.row)
        here = (row >= 0).nonzero().flatten()
        if not self.shrink or not len(here):
            return
        while size // 2 >= len(here):
            size = -(-size // 2)
        grain = -(-size // (2 * self.shrink))
        size = min(size, -(-len(here) // grain) * grain)
        if size < len(row):
            kept = here.repeat(-(-size // len(here)))[:size]
            self.state = {name: value[kept] for name, value in self.state.items()}
            self.row = torch.where(torch.arange(size, device=row.device) < len(here), row[kept], -1)


def attacked(
    attack: Walk, model: nn.Module, x: Tensor, y: Tensor, rng: Streams | None, eps: Tensor | None, *, targeted: bool
) -> Tensor:
    """Return what an attack made of steps returns when it is called; see ``attacks.apgd`` for the arguments.

    Inputs that the model misclassifies already come back as they are.

    Raises:
        BadInput: half-precision inputs, soft labels, labels or radii that do not fit.
        Diverged: the model gave NaN.
    """
    check(x, y)
    rng = rng or numbered(x, "attack")
    assert rng.index is not None, "an attack's streams have an index"
    with evaluating(model):
        with torch.no_grad():
            logits = model(x)
        check_labels(logits, y)
        done = (logits.argmax(dim=1) == y) if targeted else (logits.argmax(dim=1) != y)
        rows = Rows(
            x=x, y=y, eps=radii(attack.threat, x, eps), index=rng.index, logits=logits, round=torch.zeros_like(y)
        )
        left = (~done).nonzero().flatten()
        x_adv = x.clone()
        for settled in queued(attack, model, rows.take(left), rng, width=len(x)):
            x_adv[left[settled.rows]] = settled.x_adv
    return x_adv


def radii(threat: Threat, x: Tensor, eps: Tensor | None) -> Tensor:
    """Return the radius of each example, (N,), of x's dtype: ``eps``, or that of the threat model.

    Raises:
        BadInput: not one number for each example, or one that is negative or not finite.
    """
    if eps is None:
        return torch.full((len(x),), threat.eps, dtype=x.dtype, device=x.device)
    if eps.shape != (len(x),):
        raise BadInput(f"eps has shape {tuple(eps.shape)}; {len(x)} examples need one radius each")
    if not bool(((eps >= 0) & torch.isfinite(eps)).all()):
        raise BadInput("every eps must be at least 0 and finite")
    return eps.to(x)
