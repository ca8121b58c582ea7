"""Projected gradient descent, the attack that the field trains and first evaluates with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.attacks._common import Health, check, fraction, gradient, labels, told
from robustscape.attacks.losses import Aimed, CrossEntropy, aimed
from robustscape.attacks.threat import ThreatModel, refuse_l1
from robustscape.attacks.walk import Draws, Rows, State, draws, radii
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput

_LOOK_EVERY = 4  # steps between two looks at which examples are fooled: each waits for the device


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent (Madry 2018, https://arxiv.org/abs/1706.06083, section 2.1).

    x_0 = P(x + start), x_{k+1} = P(x_k + step_size * direction of steepest ascent), P the projection into
    ball, then box. ``steps`` forward and backward passes a restart, one more forward unless the last iterate
    is returned; all in eval mode. A queue of searches takes it step by step (``Walk``), and then always as
    ``result="misclassified"`` does, with one backward pass more a restart unless all end at once.

    Attributes:
        threat: Ball and box that the inputs stay in.
        steps: Steps of one restart, at least 1.
        more_steps: As many steps as cross eps, rounded up, and these on top, in place of ``steps``, at least 0: their
            number then follows a scheduled eps; needs ``step_size``. None for ``steps``.
        step_size: Length of a step in pixel units, whatever eps is; None for ``relative_step`` times eps.
        relative_step: Length of a step as a multiple of eps, used where ``step_size`` is None.
        start: "uniform" in the ball, "gaussian" (0.001 times standard normal, as TRADES), "direction" (a uniform share
            of eps along a normal one, as Stutz 2021's code), "step" (uniform in the ball of a step's length, then
            projected, as Liu 2020's code), or "none".
        restarts: Independent starts, at least 1.
        result: Which input is returned. "last": the last iterate; over restarts the one of largest loss.
            "best_loss": the iterate of largest loss, the start included. "misclassified": the first misclassified
            iterate where one was met, else the one of largest loss; misclassified examples leave the batch.
        loss: What is raised: (model, x_adv, target) to a loss per example; the target is y unless the loss makes
            its own, see ``losses``.
        targeted: Whether y are the classes that are wanted: the loss is lowered, success is to be classified as y.

    Deviations:
        Madry's code returns the last iterate, as here by default. Rice 2020 and Wu 2020 attack in train mode;
        here the training loop does that (``Training.attack_mode``). Under "misclassified", iterates are
        judged as the search computes them: whoever publishes confirms the returned input in float32.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    steps: int = 10
    more_steps: int | None = None
    step_size: float | None = None
    relative_step: float = 0.25
    start: Literal["uniform", "gaussian", "direction", "step", "none"] = "uniform"
    restarts: int = 1
    result: Literal["last", "best_loss", "misclassified"] = "last"
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = field(default_factory=CrossEntropy)
    targeted: bool = False

    def __post_init__(self) -> None:
        """Count the steps where they follow eps; refuse settings that cannot be meant."""
        refuse_l1(self.threat, "PGD")
        for name, known in (
            ("start", ("uniform", "gaussian", "direction", "step", "none")),
            ("result", ("last", "best_loss", "misclassified")),
        ):
            if getattr(self, name) not in known:
                raise BadInput(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"PGD needs at least 1 step and 1 restart, not {self.steps} and {self.restarts}")
        size = self.relative_step if self.step_size is None else self.step_size
        if not size > 0:
            raise BadInput(f"PGD's step size must be above 0, not {size:g}")
        if self.step_size is not None and self.threat.norm == "linf" and self.step_size > 1:
            raise BadInput(
                f"step_size={self.step_size:g} exceeds the whole pixel range [0, 1]; "
                f"did you mean {self.step_size:g}/255?"
            )
        if self.more_steps is not None:
            self._count(self.more_steps)
        if self.targeted and isinstance(self.loss, Aimed):
            raise BadInput(
                f"targeted=True wants y to be reached, but the loss {type(self.loss).__name__} does not look at y; "
                "did you mean CrossEntropy or Margin?"
            )

    @classmethod
    def liu(cls) -> PGD:
        """Return that of Liu 2020 on MNIST (https://arxiv.org/abs/2006.08403, C.1): eps / 0.01 + 10 steps of 0.01."""
        return cls(threat=ThreatModel(eps=0.4), more_steps=10, step_size=0.01)

    def _count(self, more: int) -> None:
        """Let the number of steps be those that cross eps, and some more."""
        if more < 0:
            raise BadInput(f"more_steps are on top of those that cross eps, at least 0, not {more}")
        if self.step_size is None:
            raise BadInput("more_steps counts steps of one length across eps; set step_size, such as 0.01")
        across = math.ceil(self.threat.eps / self.step_size - 1e-9)
        object.__setattr__(self, "steps", max(1, across + more))

    def at(self, eps: float) -> PGD:
        """Return the same attack at another eps; the step follows it unless ``step_size`` fixes it."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "PGD-10 (linf 8/255, step 2/255, 1 restart)"."""
        restarts = f"{self.restarts} restart" + "s" * (self.restarts > 1)
        name = "targeted PGD" if self.targeted else "PGD"
        return f"{name}-{self.steps} ({told(self.threat)}, step {fraction(self._step())}, {restarts})"

    def note(self, classes: int) -> str:
        """Return a sentence where all steps together are shorter than eps: edges of the ball stay out of reach."""
        size, eps = self._step(), self.threat.eps
        if self.steps * size >= eps * (1 - 1e-9):
            return ""
        far = f"{self.steps * size:.3g}, and eps is {fraction(eps)}"
        return f"{self.steps} step{'s' * (self.steps > 1)} of {fraction(size)} move an input by at most {far}"

    def _step(self) -> float:
        return self.relative_step * self.threat.eps if self.step_size is None else self.step_size

    def _steps(self, eps: Tensor) -> Tensor:
        return self.relative_step * eps if self.step_size is None else torch.full_like(eps, self.step_size)

    def _start(self, x: Tensor, rng: Streams, eps: Tensor | None) -> Tensor:
        if self.start == "none":
            return x
        if self.start == "uniform":
            return self.threat.sample(x, rng, eps)
        if self.start == "direction":
            return self.threat.along(x, rng, eps)
        if self.start == "step":
            return self.threat.nearby(x, rng, self._step() if eps is None else self._steps(eps), eps)
        noise = rng.tag("gaussian").normal(*x.shape[1:], dtype=x.dtype)
        return self.threat.project(x + 0.001 * noise, x, eps)

    def _raised(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        loss = self.loss(model, x_adv, target)
        return -loss if self.targeted else loss

    def _moved(self, x_adv: Tensor, slope: Tensor, x: Tensor, eps: Tensor | None) -> Tensor:
        step = self._step() if eps is None else _rowwise(self._steps(eps), x)
        return self.threat.project(x_adv + step * self.threat.steepest(slope), x, eps)

    def _reached(self, logits: Tensor, y: Tensor) -> Tensor:
        right = logits.argmax(dim=1) == labels(y)
        return right if self.targeted else ~right

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None, eps: Tensor | None = None
    ) -> Tensor:
        """Return adversarial inputs.

        Args:
            model: Pixels in [0, 1] to logits; run in eval mode, left without a trace.
            x: (N, C, H, W), float32 or float64 in [0, 1].
            y: (N,) labels, or (N, K) soft targets; the wanted ones where ``targeted``.
            rng: Random numbers of the starts; by default seed 0, examples numbered in order.
            eps: (N,), radius of each example in pixel units; by default the threat model's.

        Returns:
            x_adv, (N, C, H, W), of x's dtype, detached.

        Raises:
            BadInput: half-precision inputs, or shapes that do not fit.
            Diverged: the model gave NaN.
        """
        check(x, y)
        x, rng = x.detach(), rng or numbered(x, "pgd")
        eps = None if eps is None else radii(self.threat, x, eps)
        kept, health = _Kept(x, self.result), Health(x)
        rows = torch.arange(len(x), device=x.device)
        with evaluating(model):
            target = aimed(self.loss, model, x, y)
            for restart in range(self.restarts):
                x_0 = self._start(x, rng.tag(restart), eps)
                part = kept.open(_Part(rows=rows, x=x, y=y, target=target, x_adv=x_0, eps=eps))
                for step in range(self.steps):
                    if not len(part.rows):
                        break
                    loss, logits, slope = gradient(model, self._raised, part.x_adv, part.target)
                    health.watch(loss, slope)
                    if self.result != "last":
                        kept.offer(part, loss, self._reached(logits, part.y))
                    part = replace(part, x_adv=self._moved(part.x_adv, slope, part.x, part.eps))
                    if step % _LOOK_EVERY == 0:
                        part = kept.open(part)
                if self.result == "last" and self.restarts == 1:
                    return health.passed(part.x_adv)
                if not len(part.rows):
                    break
                loss, logits, _ = gradient(model, self._raised, part.x_adv, part.target, backward=False)
                health.watch(loss, loss)
                kept.offer(part, loss, self._reached(logits, part.y))
        return health.passed(kept.x_adv)

    def rounds(self, classes: int) -> int:
        """Return the number of restarts."""
        return self.restarts

    def begin(self, rows: Rows, rng: Draws) -> State:
        """Return the state of examples at the starts of their rounds.

        Raises:
            BadInput: a generator: there is no reference to compare PGD with.
        """
        if not isinstance(rng, Streams):
            raise BadInput("PGD is no part of the reference implementation, so it has no reference mode")
        x_0 = self._start(rows.x, draws(rng, rows), rows.eps)
        no = torch.zeros_like(rows.y, dtype=torch.bool)
        return {
            **{name: getattr(rows, name) for name in ("x", "y", "eps", "index", "round")},
            "target": aimed(self.loss, _Known(rows.logits), rows.x, rows.y),
            "here": x_0,
            "x_adv": x_0,
            "score": torch.full_like(rows.eps, -torch.inf),
            "step": torch.zeros_like(rows.y),
            **{"wrong": no, "over": no, "finite": ~no, "dull": no},
        }

    def step(self, model: nn.Module, state: State, rng: Draws) -> State:
        """Return the state after a look at where each example is, and a step from there."""
        here, step = state["here"], state["step"] + 1
        # Where asking waits for the device, the last gradient, which leads nowhere, is taken too.
        last = here.device.type == "cpu" and bool((step > self.steps).all())
        loss, logits, slope = gradient(model, self._raised, here, state["target"], backward=not last)
        loss = loss.to(here.dtype)
        still = torch.zeros_like(state["dull"]) if last else (slope == 0).flatten(1).all(dim=1)
        reached, highest = self._reached(logits, state["y"]), logits.topk(2, dim=1).values
        better = ~state["wrong"] & (reached | (loss > state["score"]))
        return state | {
            "here": here if last else self._moved(here, slope, state["x"], state["eps"]),
            "x_adv": torch.where(_rowwise(better, here), here, state["x_adv"]),
            "score": torch.where(better, loss, state["score"]),
            "wrong": state["wrong"] | reached,
            "step": step,
            "over": step > self.steps,
            "finite": state["finite"] & torch.isfinite(loss) & torch.isfinite(slope).flatten(1).all(dim=1),
            "dull": state["dull"] | still | (highest[:, 0] == highest[:, 1]),
        }


def _rowwise(values: Tensor, like: Tensor) -> Tensor:
    """Give (N,) values the trailing dimensions that broadcast over images."""
    return values.view(-1, *[1] * (like.ndim - 1))


class _Known(nn.Module):
    """A model whose logits for the inputs that it will be given are known."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """The examples that are still searched: their rows in the batch, and what belongs to them.

    Rows may stand twice, so that batches have few shapes.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    x_adv: Tensor
    eps: Tensor | None


class _Kept:
    """The input to return, example by example, among those offered so far."""

    def __init__(self, x: Tensor, result: str) -> None:
        self.x_adv = x.clone()
        self.loss = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.prefer_wrong = result == "misclassified"

    def offer(self, part: _Part, loss: Tensor, wrong: Tensor) -> None:
        """Keep what is better."""
        loss = loss.to(self.loss.dtype)
        rows = slice(None) if len(part.rows) == len(self.loss) else part.rows
        better = loss > self.loss[rows]
        if self.prefer_wrong:
            # The first one stays: how long the search goes on is up to the other examples of the batch.
            better = ~self.wrong[rows] & (wrong | better)
        self.x_adv[rows] = torch.where(_rowwise(better, part.x_adv), part.x_adv, self.x_adv[rows])
        self.loss[rows] = torch.where(better, loss, self.loss[rows])
        self.wrong[rows] = torch.where(better, wrong, self.wrong[rows])

    def open(self, part: _Part) -> _Part:
        """Return the part without its fooled examples, once that halves it; where they end the search."""
        if not self.prefer_wrong:
            return part
        left = (~self.wrong[part.rows]).nonzero().flatten()
        size = len(part.rows)
        while len(left) and size // 2 >= len(left):
            size = -(-size // 2)
        if len(left) and size == len(part.rows):
            return part
        left = left.repeat(-(-size // max(len(left), 1)))[:size]
        return replace(part, **{name: value[left] for name, value in vars(part).items() if value is not None})
