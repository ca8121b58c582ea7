"""Projected gradient descent, the attack that the field trains and first evaluates with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.attacks._common import Health, check, fraction, gradient, labels
from robustscape.attacks.losses import CrossEntropy, aimed
from robustscape.attacks.threat import ThreatModel
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput

_LOOK_EVERY = 4  # steps between two looks at which examples are fooled: each waits for the device


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent (Madry 2018, https://arxiv.org/abs/1706.06083, section 2.1).

    x_0 = P(x + start), x_{k+1} = P(x_k + step_size * direction of steepest ascent), P the projection into
    ball, then box. ``steps`` forward and backward passes a restart, one more forward unless the last iterate
    is returned; all in eval mode.

    Attributes:
        threat: Ball and box that the inputs stay in.
        steps: Steps of one restart, at least 1.
        step_size: Length of a step in pixel units, whatever eps is; None for ``relative_step`` times eps.
        relative_step: Length of a step as a multiple of eps, used where ``step_size`` is None.
        start: "uniform" in the ball, "gaussian" (0.001 times standard normal, as TRADES), or "none".
        restarts: Independent starts, at least 1.
        result: Which input is returned. "last": the last iterate; over restarts the one of largest loss.
            "best_loss": the iterate of largest loss, the start included. "misclassified": the first misclassified
            iterate where one was met, else the one of largest loss; misclassified examples leave the batch.
        loss: What is raised: (model, x_adv, target) to a loss per example; the target is y unless the loss makes
            its own, see ``losses``.

    Deviations:
        Madry's code returns the last iterate, as here by default. Rice 2020 and Wu 2020 attack in train mode;
        here the training loop does that (``Training.attack_mode``). Under "misclassified", iterates are
        judged as the search computes them: whoever publishes confirms the returned input in float32.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    steps: int = 10
    step_size: float | None = None
    relative_step: float = 0.25
    start: Literal["uniform", "gaussian", "none"] = "uniform"
    restarts: int = 1
    result: Literal["last", "best_loss", "misclassified"] = "last"
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
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

    def at(self, eps: float) -> PGD:
        """Return the same attack at another eps; the step follows it unless ``step_size`` fixes it."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "PGD-10 (linf 8/255, step 2/255, 1 restart)"."""
        restarts = f"{self.restarts} restart" + "s" * (self.restarts > 1)
        eps, step = fraction(self.threat.eps), fraction(self._step())
        return f"PGD-{self.steps} ({self.threat.norm} {eps}, step {step}, {restarts})"

    def _step(self) -> float:
        return self.relative_step * self.threat.eps if self.step_size is None else self.step_size

    def _start(self, x: Tensor, rng: Streams) -> Tensor:
        if self.start == "none":
            return x
        if self.start == "uniform":
            return self.threat.sample(x, rng)
        noise = rng.tag("gaussian").normal(*x.shape[1:], dtype=x.dtype)
        return self.threat.project(x + 0.001 * noise, x)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None) -> Tensor:
        """Return adversarial inputs.

        Args:
            model: Pixels in [0, 1] to logits; run in eval mode, left without a trace.
            x: (N, C, H, W), float32 or float64 in [0, 1].
            y: (N,) labels, or (N, K) soft targets.
            rng: Random numbers of the starts; by default seed 0, examples numbered in order.

        Returns:
            x_adv, (N, C, H, W), of x's dtype, detached.

        Raises:
            BadInput: half-precision inputs, or shapes that do not fit.
            Diverged: the model gave NaN.
        """
        check(x, y)
        rng = rng or numbered(x, "pgd")
        kept, health = _Kept(x, self.result), Health(x)
        rows = torch.arange(len(x), device=x.device)
        with evaluating(model):
            target = aimed(self.loss, model, x, y)
            for restart in range(self.restarts):
                x_0 = self._start(x, rng.tag(restart))
                part = kept.open(_Part(rows=rows, x=x, y=y, target=target, x_adv=x_0))
                for step in range(self.steps):
                    if not len(part.rows):
                        break
                    loss, logits, slope = gradient(model, self.loss, part.x_adv, part.target)
                    health.watch(loss, slope)
                    if self.result != "last":
                        kept.offer(part, loss, logits)
                    moved = part.x_adv + self._step() * self.threat.steepest(slope)
                    part = replace(part, x_adv=self.threat.project(moved, part.x))
                    if step % _LOOK_EVERY == 0:
                        part = kept.open(part)
                if self.result == "last" and self.restarts == 1:
                    return health.passed(part.x_adv)
                if not len(part.rows):
                    break
                loss, logits, _ = gradient(model, self.loss, part.x_adv, part.target, backward=False)
                health.watch(loss, loss)
                kept.offer(part, loss, logits)
        return health.passed(kept.x_adv)


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


class _Kept:
    """The input to return, example by example, among those offered so far."""

    def __init__(self, x: Tensor, result: str) -> None:
        self.x_adv = x.clone()
        self.loss = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.prefer_wrong = result == "misclassified"

    def offer(self, part: _Part, loss: Tensor, logits: Tensor) -> None:
        """Keep what is better."""
        rows = slice(None) if len(part.rows) == len(self.loss) else part.rows
        wrong = logits.argmax(dim=1) != labels(part.y)
        better = loss > self.loss[rows]
        if self.prefer_wrong:
            # The first one stays: how long the search goes on is up to the other examples of the batch.
            better = ~self.wrong[rows] & (wrong | better)
        pixels = better.view(-1, *[1] * (part.x_adv.ndim - 1))
        self.x_adv[rows] = torch.where(pixels, part.x_adv, self.x_adv[rows])
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
        return _Part(**{name: value[left] for name, value in vars(part).items()})
