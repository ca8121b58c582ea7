"""Early-stopped projected gradient descent: it stops soon after an example is misclassified. For training alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.attacks._common import Health, check, fraction, gradient, told
from robustscape.attacks.losses import CrossEntropy, aimed
from robustscape.attacks.threat import ThreatModel, per_example, refuse_l1
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput

_LOOK_EVERY = 2  # steps between two looks at which examples have ended: each waits for the device


@dataclass(frozen=True, kw_only=True)
class Friendly:
    """PGD-K-tau (Zhang 2020, https://arxiv.org/abs/2002.11242, Algorithm 1): ends ``tau`` steps after the first error.

    The steps are those of PGD. Before each, an example that is misclassified ends the search if it was so ``tau``
    times before, and counts otherwise. At most ``steps`` forward and backward passes, in eval mode; ended examples
    leave the batch once that halves it. It is weak by intention: judge nothing by it.

    Attributes:
        threat: Ball and box that the inputs stay in.
        steps: Steps at most (K), at least 1.
        step_size: Length of a step in pixel units, whatever eps is; None for ``relative_step`` times eps.
        relative_step: Length of a step as a multiple of eps, used where ``step_size`` is None.
        start: "uniform" in the ball, "gaussian" (0.001 times standard normal), "direction", "step" (see ``PGD``), or
            "none", as in Algorithm 1.
        tau: Misclassified iterates that are stepped from, at least 0. ``objectives.fat`` lets it grow.
        omega: Standard deviation of normal noise that is added to every step, in pixel units, at least 0.
        result: "last": the iterate at which the search ends. "misclassified": as Stutz 2021
            (https://arxiv.org/abs/2104.04448), the last of the first tau + 1 misclassified iterates that each raise
            the loss, the one after the last step among them, and the clean input where there is none: one forward
            more.
        loss: What is raised: (model, x_adv, target) to a loss per example; the target is y unless the loss makes
            its own, see ``losses``.

    Deviations:
        From the paper: Algorithm 1 begins at the clean input, its experiments and code (uniformly) in the ball.
        From the authors' code: it hands the batch back in another order; here rows keep their places.
        From Stutz' code (``stutz``): none known.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    steps: int = 10
    step_size: float | None = None
    relative_step: float = 0.25
    start: Literal["uniform", "gaussian", "direction", "step", "none"] = "uniform"
    tau: int = 0
    omega: float = 0.0
    result: Literal["last", "misclassified"] = "last"
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        refuse_l1(self.threat, "Friendly")
        starts = ("uniform", "gaussian", "direction", "step", "none")
        for name, known in (("start", starts), ("result", ("last", "misclassified"))):
            if getattr(self, name) not in known:
                raise BadInput(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.steps < 1:
            raise BadInput(f"Friendly needs at least 1 step, not {self.steps}")
        if self.tau < 0:
            raise BadInput(f"tau counts misclassified iterates and is at least 0, not {self.tau}")
        size = self.relative_step if self.step_size is None else self.step_size
        if not size > 0:
            raise BadInput(f"the step size of Friendly must be above 0, not {size:g}")
        if self.step_size is not None and self.threat.norm == "linf" and self.step_size > 1:
            raise BadInput(
                f"step_size={self.step_size:g} exceeds the whole pixel range [0, 1]; "
                f"did you mean {self.step_size:g}/255?"
            )
        if not 0 <= self.omega <= 1:
            meant = f"; did you mean {self.omega:g}/255?" if 1 < self.omega < 256 else ""
            raise BadInput(f"omega is in pixel units, in [0, 1], not {self.omega:g}{meant}")

    @classmethod
    def official(cls) -> Friendly:
        """Return the setting of the authors' CIFAR-10 code: eps 0.031, step 0.007, omega 0.001."""
        return cls(threat=ThreatModel(eps=0.031), step_size=0.007, omega=0.001)

    @classmethod
    def stutz(cls) -> Friendly:
        """Return the setting of Stutz' code: 7 steps of 0.007 at eps 0.0314, misclassified iterates alone."""
        threat = ThreatModel(eps=0.0314)
        return cls(threat=threat, steps=7, step_size=0.007, start="direction", result="misclassified")

    def at(self, eps: float) -> Friendly:
        """Return the same attack at another eps; the step follows it unless ``step_size`` fixes it."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "early-stopped PGD-10-0 (linf 8/255, step 2/255)"."""
        return f"early-stopped PGD-{self.steps}-{self.tau} ({told(self.threat)}, step {fraction(self._size())})"

    def _size(self) -> float:
        return self.relative_step * self.threat.eps if self.step_size is None else self.step_size

    def _start(self, x: Tensor, rng: Streams) -> Tensor:
        if self.start == "none":
            return x
        if self.start == "uniform":
            return self.threat.sample(x, rng)
        if self.start == "direction":
            return self.threat.along(x, rng)
        if self.start == "step":
            return self.threat.nearby(x, rng, self._size())
        return self.threat.project(x + 0.001 * rng.tag("gaussian").normal(*x.shape[1:], dtype=x.dtype), x)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None) -> Tensor:
        """Return adversarial inputs, (N, C, H, W); arguments as those of ``PGD``.

        Raises:
            BadInput: half-precision inputs, or shapes that do not fit.
            Diverged: the model gave NaN.
        """
        check(x, y)
        if y.ndim != 1 or y.is_floating_point():
            raise BadInput(
                f"early-stopped PGD knows by one label for each input where to end, not {tuple(y.shape)} of {y.dtype}"
            )
        x, rng, health = x.detach(), rng or numbered(x, "friendly"), Health(x)
        looks = self.steps + (self.result == "misclassified")
        with evaluating(model):
            target = aimed(self.loss, model, x, y)
            here = self._start(x, rng.tag(0))
            search = _Search(x, here if self.result == "last" else x, self.tau, climbing=self.result != "last")
            for step in range(looks):
                rows = search.rows
                ends = step == self.steps
                loss, logits, slope = gradient(model, self.loss, here[rows], target[rows], backward=not ends)
                health.watch(loss, loss if ends else slope)
                search.judge(here[rows], loss, logits.argmax(dim=1) != y[rows])
                if ends:
                    break
                moved = here[rows] + self._size() * self.threat.steepest(slope)
                if self.omega:
                    noise = rng.tag("step", step).normal(*x.shape[1:], dtype=x.dtype)
                    moved = moved + self.omega * noise[rows]
                moved = self.threat.project(moved, x[rows], None)
                open_ = per_example(~search.over[rows], x)
                here = here.index_put((rows,), torch.where(open_, moved, here[rows]))
                if step % _LOOK_EVERY == 0 and not search.narrowed():
                    break
        return health.passed(here if self.result == "last" else search.kept)


class _Search:
    """How far the search of each example is.

    Args:
        x: (N, C, H, W), clean inputs.
        kept: What is returned of an example that is never misclassified.
        tau: Misclassified iterates that are stepped from.
        climbing: Whether a misclassified iterate counts only if its loss is above those that counted before.
    """

    def __init__(self, x: Tensor, kept: Tensor, tau: int, *, climbing: bool) -> None:
        self.rows = torch.arange(len(x), device=x.device)
        self.kept = kept.clone()
        self.left = torch.full((len(x),), tau, device=x.device)
        self.over = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.best = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.climbing = climbing

    def judge(self, here: Tensor, loss: Tensor, wrong: Tensor) -> None:
        """Count the misclassified ones among the present iterates; the search of some of them ends there."""
        rows, loss = self.rows, loss.to(self.best.dtype)
        counts = wrong & ~self.over[rows]
        if self.climbing:
            counts = counts & (loss > self.best[rows])
        self.kept[rows] = torch.where(per_example(counts, here), here, self.kept[rows])
        self.best[rows] = torch.where(counts, loss, self.best[rows])
        self.left[rows] = self.left[rows] - counts.long()
        self.over[rows] = self.left[rows] < 0

    def narrowed(self) -> bool:
        """Leave out ended examples once that halves the batch; return whether any is left.

        Rows may stand twice then, so that batches have few shapes.
        """
        left = self.rows[~self.over[self.rows]].unique()
        size = len(self.rows)
        while len(left) and size // 2 >= len(left):
            size = -(-size // 2)
        if len(left) and size < len(self.rows):
            self.rows = left.repeat(-(-size // len(left)))[:size]
        return len(left) > 0
