"""What a queue of searches is told: the examples, and an attack as steps that every example takes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from robustscape.attacks.threat import ThreatModel
from robustscape.streams import Streams
from robustscape.types import BadInput, Threat

State: TypeAlias = dict[str, Tensor]
"""What is known of the examples under search, tensors (N, ...): see ``Walk``."""

Draws: TypeAlias = Streams | torch.Generator
"""Where random numbers come from: streams without an index, or the one generator of ``reference``."""


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
    """An attack that has something to say of its settings or of how many classes there are."""

    def note(self, classes: int) -> str:
        """Return what weakens it, or what so few classes make of its loss or targets, one sentence; "" for nothing."""
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


def draw_number(number: Tensor, restarts: int, targets: int) -> Tensor:
    """Return what the random numbers of rounds, (N,), int64, are drawn by: target and restart, whatever follows.

    Of several targets one goes through all its restarts before the next, so a round's number alone would give a
    restart other numbers where there are more of them.
    """
    return number if targets == 1 or restarts == 1 else number // restarts + (number % restarts << 20)


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


def radii(threat: Threat, x: Tensor, eps: Tensor | None) -> Tensor:
    """Return the radius of each example, (N,), of x's dtype: ``eps``, or that of the threat model.

    Raises:
        BadInput: not one number for each example, or one that no threat model of this norm may have.
    """
    if eps is None:
        return torch.full((len(x),), threat.eps, dtype=x.dtype, device=x.device)
    if not isinstance(eps, Tensor):
        raise BadInput(f"eps={eps} is no tensor of one radius for each example; did you mean attack.at({eps})?")
    if eps.shape != (len(x),):
        raise BadInput(f"eps has shape {tuple(eps.shape)}; {len(x)} examples need one radius each")
    if not bool(((eps >= 0) & torch.isfinite(eps)).all()):
        raise BadInput("every eps must be at least 0 and finite")
    if len(eps) and isinstance(threat, ThreatModel):
        replace(threat, eps=float(eps.max()))  # refuses what cannot be meant
    return eps.to(x)
