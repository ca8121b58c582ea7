"""SPSA: gradient ascent without gradients, on slopes along random directions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from robustscape.attacks._common import told
from robustscape.attacks.losses import margin
from robustscape.attacks.queue import attacked
from robustscape.attacks.threat import ThreatModel, refuse_l1
from robustscape.attacks.walk import Draws, Rows, State, draws
from robustscape.streams import Streams
from robustscape.types import BadInput

_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8  # Adam's own
_WORD = 64  # signs in one random number


@dataclass(frozen=True, kw_only=True)
class SPSA:
    """SPSA attack (Uesato 2018, https://arxiv.org/abs/1802.05666, algorithm 1; estimate by Spall 1992).

    The gradient of the margin, the largest wrong logit minus the right one, is estimated as the mean over ``samples``
    directions v of (margin(x + delta v) - margin(x - delta v)) / (2 delta) v, every entry of v -1 or 1. Adam
    ascends it; the result is projected into ball and box. 2 samples + 1 forwards a step, in eval mode, no backward.

    Attributes:
        threat: Ball and box that the inputs stay in; linf or l2.
        steps: Steps of one restart, at least 1; 100 as in Wu 2020, where libraries default to 1.
        samples: Directions of a step, at least 1; 256 as in Wu 2020. What stands on SPSA alone takes 2,048 or more.
        delta: How far along a direction the margin is looked at, in pixel units, in (0, 1]; the literature's c. Needs
            logits in float32, as ``needs_float32`` says: half precision rounds such differences away.
        lr: Adam's learning rate, pixel units, in (0, 1].
        chunk: Most inputs of one forward, at least 1; batches under attack that are larger are not cut.
        restarts: Independent draws of the directions, at least 1; all start at x.
        targeted: Whether y are the wanted classes; the margin is then the wanted logit minus the largest other one.

    Deviations:
        From the usual codes: every image has directions of its own, where they share one among a batch; an image
        leaves when it is misclassified; of a failure the input of largest margin is returned, not the last. As
        there, the inputs that are looked at along the directions are not clipped to [0, 1]. From the paper: none
        known.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    steps: int = 100
    samples: int = 256
    delta: float = 0.001
    lr: float = 0.01
    chunk: int = 256
    restarts: int = 1
    targeted: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        refuse_l1(self.threat, "SPSA")
        counts = {name: getattr(self, name) for name in ("steps", "samples", "chunk", "restarts")}
        for name, count in counts.items():
            if count < 1:
                raise BadInput(f"SPSA's {name} must be at least 1, not {count}")
        for name, length in (("delta", self.delta), ("lr", self.lr)):
            if not 0 < length <= 1:
                meant = f"; did you mean {length:g}/255?" if 1 < length < 256 else ""
                raise BadInput(f"SPSA's {name} is in pixel units, in (0, 1], not {length:g}{meant}")

    @property
    def needs_float32(self) -> bool:
        """Whether lower precision would blind it: yes, a step of ``delta`` moves logits by less than that resolves."""
        return True

    def at(self, eps: float) -> SPSA:
        """Return the same attack at another eps; ``lr`` and ``delta`` stay."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "SPSA-100 (linf 8/255, 256 samples, 1 restart)"."""
        restarts = f"{self.restarts} restart" + "s" * (self.restarts > 1)
        aim = ", targeted" * self.targeted
        return f"SPSA-{self.steps} ({told(self.threat)}, {self.samples} samples, {restarts}{aim})"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None, eps: Tensor | None = None
    ) -> Tensor:
        """Return adversarial inputs; arguments and errors as those of ``Square``, but inputs may be (N, ...)."""
        return attacked(self, model, x, y, rng, eps, targeted=self.targeted)

    def rounds(self, classes: int) -> int:
        """Return the number of restarts."""
        return self.restarts

    def begin(self, rows: Rows, rng: Draws) -> State:
        """Return the state before the first step, at x.

        Raises:
            BadInput: a generator: there is no reference to compare SPSA with.
        """
        if not isinstance(rng, Streams):
            raise BadInput("SPSA is no part of the reference implementation, so it has no reference mode")
        no = torch.zeros(len(rows), dtype=torch.bool, device=rows.x.device)
        stream = draws(rng, rows).index
        assert stream is not None, "streams of examples have an index"
        return {
            "x": rows.x, "y": rows.y, "eps": rows.eps, "index": rows.index, "round": rows.round, "stream": stream,
            "step": torch.zeros_like(rows.round), "x_adv": rows.x, "here": rows.x, "wrong": no, "over": no,
            "score": torch.full_like(rows.eps, -torch.inf), "finite": ~no, "dull": no,
            "first": torch.zeros_like(rows.x), "second": torch.zeros_like(rows.x),
        }  # fmt: skip

    def step(self, model: nn.Module, state: State, rng: Draws) -> State:
        """Return the state after a step: the slope where each example is, the move, and a look at where it leads."""
        assert isinstance(rng, Streams), "begin has refused a generator"
        slope, step = self.estimate(model, state, rng), state["step"] + 1
        state = self._moved(state | {"step": step}, slope)
        with torch.no_grad():
            logits = model(state["here"]).to(slope.dtype)
        gain = self._gain(logits, state["y"])
        found = (logits.argmax(dim=1) == state["y"]) == self.targeted
        better = ~state["wrong"] & (found | (gain > state["score"]))
        flat = (slope == 0).flatten(1).all(dim=1)
        return state | {
            "x_adv": torch.where(_per_example(better, slope), state["here"], state["x_adv"]),
            "wrong": state["wrong"] | found,
            "score": torch.where(better, gain, state["score"]),
            "over": (step >= self.steps) | (state["eps"] == 0),
            "finite": state["finite"] & torch.isfinite(gain) & torch.isfinite(slope).flatten(1).all(dim=1),
            "dull": state["dull"] | flat | (gain == 0),
        }

    def estimate(self, model: nn.Module, state: State, rng: Streams) -> Tensor:
        """Return the estimated gradient of the margin where each example is, (N, ...)."""
        here, y, n = state["here"], state["y"], len(state["here"])
        at_once, size = min(self.samples, max(self.chunk // max(n, 1), 1)), math.prod(here.shape[1:])
        streams = rng.of(state["stream"] + state["step"]).tag("direction")
        slope = here.new_zeros(n, size)
        for start in range(0, self.samples, at_once):
            count = min(at_once, self.samples - start)
            v = _directions(streams, range(start, start + count), size, here)
            around = here.reshape(n, 1, size)
            labels = y.repeat_interleave(count)
            with torch.no_grad():
                above, below = (
                    self._gain(model(torch.add(around, v, alpha=way).view(-1, *here.shape[1:])).to(here.dtype), labels)
                    for way in (self.delta, -self.delta)
                )
            rise = ((above - below) / (2 * self.delta)).view(n, count, 1)
            slope += (rise * v).sum(dim=1)
        return (slope / self.samples).view_as(here)

    def _gain(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the margin that is raised, (N,): above 0 at a success."""
        return -margin(logits, y) if self.targeted else margin(logits, y)

    def _moved(self, state: State, slope: Tensor) -> State:
        """Return the state after a step of Adam, inside ball and box."""
        first = torch.lerp(slope, state["first"], _BETA1)
        second = torch.lerp(slope**2, state["second"], _BETA2)
        done = _per_example(state["step"].double(), slope)
        mean, spread = first / (1 - _BETA1**done).to(slope), second / (1 - _BETA2**done).to(slope)
        moved = state["here"] + self.lr * mean / (spread.sqrt() + _TINY)
        here = self.threat.project(moved, state["x"], state["eps"])
        return state | {"first": first, "second": second, "here": here}


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """Give (N,) values the trailing dimensions that broadcast over images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _directions(rng: Streams, numbers: range, size: int, like: Tensor) -> Tensor:
    """Return directions of -1 and 1, (N, len(numbers), size), each the same whatever is drawn with it."""
    assert rng.index is not None, "streams of examples have an index"
    count, words = len(numbers), -(-size // _WORD)
    number = torch.arange(numbers.start, numbers.stop, device=like.device).repeat(len(rng.index))
    bits = rng.of(rng.index.repeat_interleave(count)).then(number).bits(words, device=like.device)
    place = torch.arange(8, dtype=torch.uint8, device=like.device)
    signs = (bits.view(torch.uint8)[..., None] >> place & 1).flatten(1)[:, :size]
    return signs.to(like.dtype).mul_(2).sub_(1).view(-1, count, size)
