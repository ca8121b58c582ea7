"""A queue of searches: every example takes its steps alone, fooled ones leave, and others take their place.

So a batch stays full at one shape, whatever its examples need, over all restarts and targets: those of one example are
searched side by side where there is room, and count as if they had been searched in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustscape.attacks._common import check, check_labels, check_pixels
from robustscape.attacks._turns import Turn, Turns
from robustscape.attacks.walk import Rows, Settled, Several, State, Walk, joined, radii
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import Diverged

_LOOK = 4  # steps between two looks where looking waits for the device


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
            Where no more wait, further restarts or targets of those that survived their first take the places left.
        shrink: How closely the batch follows once no more wait than are under search: less work, but more than one
            shape. 0 keeps it, 1 halves it where half is idle, 4 lets it have four sizes in every halving.
        room: Inputs that the model may see at once where that is more: more places for such further rounds, and where
            there are none, several steps of each in one forward, if the attack can.
        confirm: (x_adv, rows) to bool, (M,): whether a success counts. One that does not goes on being searched.

    Raises:
        Diverged: a loss or a gradient was not finite.
    """
    pool = _Pool(attack, rows, rng, width, shrink=shrink, room=room, confirm=confirm)
    every = 1 if rows.x.device.type == "cpu" else _LOOK
    while pool.busy:
        for _ in range(every):
            pool.step(model, freeze=every > 1)
        if settled := pool.look():
            yield joined(settled)


class _Pool:
    """The rounds under search, those that wait, and those that ended before it was their turn."""

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
        self.attack, self.rows, self.rng, self.confirm = attack, rows, rng, confirm
        self.width, self.shrink, self.room = width, shrink, room
        self.several = attack if isinstance(attack, Several) else None
        self.turns = Turns(rows.round.tolist(), attack.rounds(rows.logits.shape[1]))
        self.early: dict[Turn, State] = {}
        """Rounds that ended before it was their turn."""
        self.best = {
            "x_adv": rows.x.clone(),
            "score": torch.full((len(rows),), -math.inf, dtype=rows.x.dtype, device=rows.x.device),
            "steps": torch.zeros_like(rows.round),
            "dull": torch.zeros_like(rows.round, dtype=torch.bool),
        }
        self.row = rows.round[:0]
        """Which example is where; -1 where none is."""
        self.state: State = {}
        self._fill(set())

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

    def look(self) -> list[Settled]:
        """Take out what has ended and let others in; return the settled examples."""
        settled: list[Settled] = []
        failed: set[int] = set()
        freed = False
        while len(place := self._notable()) or freed:
            now = torch.tensor([self.turns.now[one] for one in self.row[place].tolist()], device=place.device)
            turn = now == self.state["round"][place]
            if bool(turn.any()):
                settled += self._ended(place[turn], failed)
                freed = True
                continue  # the next round of one that failed may have ended, too
            self._lay_aside(place)
            self._fill(failed)
            failed, freed = set(), False
        return settled

    def _ended(self, place: Tensor, failed: set[int]) -> list[Settled]:
        """Take out the rounds that are over of these, whose turn it is; return the settled examples, add the others."""
        row = self.row[place]
        wrong = self._confirmed(place, row)
        ended = wrong | self.state["over"][place]
        place, row, wrong = place[ended], row[ended], wrong[ended]
        self._note(place, row, wrong)
        self.row = self.row.index_fill(0, place, -1)
        go_on = [not won and self.turns.failed(one) for one, won in zip(row.tolist(), wrong.tolist(), strict=True)]
        last = ~torch.tensor(go_on, dtype=torch.bool, device=row.device)
        failed.update(row[~last].tolist())
        return [self._settled(row[last], wrong[last])] if bool(last.any()) else []

    def _notable(self) -> Tensor:
        """Return the places where something has come to its end, (M,), int64."""
        state = self.state
        if not self.busy:
            return self.row[:0]
        notable = (state["wrong"] | state["over"] | ~state["finite"]) & (self.row >= 0)
        return notable.nonzero().flatten() if bool(notable.any()) else self.row[:0]

    def _lay_aside(self, place: Tensor) -> None:
        """Keep what has ended before it was its turn."""
        for one in place[:, None]:
            state = {name: value[one] for name, value in self.state.items()}
            self.early[int(self.row[one]), int(state["round"])] = state
        self.row = self.row.index_fill(0, place, -1)

    def _confirmed(self, place: Tensor, row: Tensor) -> Tensor:
        """Return which of these are successes, (M,), bool, and mark those that are none to go on."""
        state, wrong = self.state, self.state["wrong"][place]
        if not bool(state["finite"][place].all()):
            raise Diverged("the model's loss, or its gradient with respect to the inputs, became NaN under attack")
        if self.confirm is not None and bool(wrong.any()):
            claimed = wrong.nonzero().flatten()
            wrong[claimed] = self.confirm(state["x_adv"][place[claimed]], row[claimed])
            state["wrong"] = state["wrong"].index_put((place,), wrong)
        return wrong

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
        """Return the examples as settled; what was searched ahead of their turn is thrown away."""
        rows = set(row.tolist())
        self.turns.done(rows)
        self.early = {turn: state for turn, state in self.early.items() if turn[0] not in rows}
        self.row = self.row.masked_fill(torch.isin(self.row, row), -1)
        return Settled(rows=row, wrong=wrong, **{name: value[row] for name, value in self.best.items()})

    def _fill(self, failed: set[int]) -> None:
        """Put in what has ended early of the examples whose round failed, then what waits; choose the batch's size."""
        here = (self.row >= 0).nonzero().flatten()
        early = [turn for row in sorted(failed) if (turn := (row, self.turns.now[row])) in self.early]
        taken = len(here) + len(early)
        most = max(self.width, len(self.row))
        turns = self.turns.started(max(most - taken, 0), max(most, self.room) - taken)
        parts = [self.early.pop(turn) for turn in early]
        if turns:
            row, number = torch.tensor(turns, device=self.row.device).unbind(dim=1)
            parts.append(self.attack.begin(replace(self.rows.take(row), round=number), self.rng))
        rows = [row for row, _ in [*early, *turns]]
        self.busy = bool(len(here) or rows)
        size = self._size(len(here) + len(rows))
        if not self.busy or (not rows and size == len(self.row)):
            return
        inside = torch.cat([self.row[here], self.row.new_tensor(rows)])
        order = torch.arange(size, device=here.device)
        self.row = torch.where(order < len(inside), inside[order % len(inside)], -1)
        order = order % len(inside)
        parts = [{name: value[here] for name, value in self.state.items()}, *parts] if len(here) else parts
        names = parts[0]
        self.state = {name: torch.cat([part[name] for part in parts])[order] for name in names}

    def _size(self, count: int) -> int:
        """Return how large a batch is for so many: as few sizes as ``shrink`` says."""
        size = self.width if count <= self.width else self.room
        if not self.shrink or not count:
            return size
        while size // 2 >= count:
            size = -(-size // 2)
        grain = -(-size // (2 * self.shrink))
        return min(size, -(-count // grain) * grain)


def attacked(
    attack: Walk, model: nn.Module, x: Tensor, y: Tensor, rng: Streams | None, eps: Tensor | None, *, targeted: bool
) -> Tensor:
    """Return what an attack made of steps returns when it is called; see ``attacks.apgd`` for the arguments.

    Inputs that the model misclassifies already come back as they are.

    Raises:
        BadInput: half-precision inputs, pixels outside [0, 1], soft labels, labels or radii that do not fit.
        Diverged: the model gave NaN.
    """
    check(x, y)
    x = x.detach()
    check_pixels(x)
    rng = rng or numbered(x, "attack")
    assert rng.index is not None, "an attack's streams have an index"
    with evaluating(model):
        with torch.no_grad():
            logits = mean_logits(model, x, getattr(attack, "eot", 1))
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


def mean_logits(model: nn.Module, x: Tensor, passes: int) -> Tensor:
    """Return the logits of x, (N, K), of several passes their mean: what a model random on purpose is judged by."""
    logits = model(x)
    for _ in range(passes - 1):
        logits = logits + model(x)
    return logits if passes == 1 else logits / passes
