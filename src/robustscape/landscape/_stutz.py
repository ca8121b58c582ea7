"""The attack of the code of Stutz 2021, where it is not that of ``attacks.pgd``: its start, the choice of restarts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from robustscape.attacks._common import Health, check, fraction, gradient, told
from robustscape.attacks.losses import CrossEntropy
from robustscape.attacks.threat import ThreatModel, per_example
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput


def gaussian_start(threat: ThreatModel, x: Tensor, rng: Streams) -> Tensor:
    """Return x plus Gaussian noise of largest entry eps * U(0, 1) for each example, in the box: not uniform."""
    noise = rng.tag("gaussian").normal(*x.shape[1:], dtype=x.dtype)
    largest = noise.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
    length = rng.tag("length").uniform(dtype=x.dtype) * threat.eps
    return threat.project(x + noise * per_example(length / largest, x), x)


@dataclass(frozen=True, kw_only=True)
class StutzPGD:
    """PGD as the code of Stutz 2021 runs it (https://arxiv.org/abs/2104.04448), linf alone.

    Signed gradient steps from ``gaussian_start``; of each restart the iterate of largest cross-entropy, start and
    last one included; of the restarts the one of the largest probability of a wrong class.

    Attributes:
        threat: Ball and box that the inputs stay in; linf.
        steps: Steps of one restart, at least 1.
        step_size: Length of a step in pixel units.
        restarts: Independent starts, at least 1.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    steps: int = 20
    step_size: float = 0.007
    restarts: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.threat.norm != "linf":
            raise BadInput(f"the code of Stutz 2021 attacks under linf, not {self.threat.norm}; did you mean PGD?")
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"StutzPGD needs at least 1 step and 1 restart, not {self.steps} and {self.restarts}")
        if not 0 < self.step_size <= 1:
            raise BadInput(f"StutzPGD's step size must be in (0, 1], not {self.step_size:g}")

    def at(self, eps: float) -> StutzPGD:
        """Return the same attack at another eps; the step stays."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions."""
        restarts = f"{self.restarts} restart" + "s" * (self.restarts > 1)
        return f"PGD-{self.steps} of Stutz ({told(self.threat)}, step {fraction(self.step_size)}, {restarts})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None) -> Tensor:
        """Return adversarial inputs, (N, C, H, W), of x's dtype, detached; see ``attacks.pgd.PGD``.

        Args:
            model: Pixels in [0, 1] to logits; run in eval mode, left without a trace.
            x: (N, C, H, W), float32 or float64 in [0, 1].
            y: (N,), labels.
            rng: Random numbers of the starts; by default seed 0, examples numbered in order.

        Raises:
            BadInput: half-precision inputs, or shapes that do not fit.
            Diverged: the model gave NaN.
        """
        check(x, y)
        rng, health = rng or numbered(x, "pgd"), Health(x)
        kept, score = x, torch.full_like(x.flatten(1)[:, 0], -torch.inf)
        with evaluating(model):
            for restart in range(self.restarts):
                found, wrong = self._once(model, x, y, rng.tag(restart), health)
                better = wrong > score
                kept = torch.where(per_example(better, x), found, kept)
                score = torch.where(better, wrong, score)
        return health.passed(kept)

    def _once(self, model: nn.Module, x: Tensor, y: Tensor, rng: Streams, health: Health) -> tuple[Tensor, Tensor]:
        """Return one restart's best iterate and its largest probability of a wrong class."""
        raised = CrossEntropy()
        here = kept = gaussian_start(self.threat, x, rng)
        best = wrong = torch.full_like(x.flatten(1)[:, 0], -torch.inf)
        for step in range(self.steps + 1):
            loss, logits, slope = gradient(model, raised, here, y, backward=step < self.steps)
            health.watch(loss, slope)
            others = logits.softmax(dim=1).scatter(1, y[:, None], -1).amax(dim=1).to(x)
            better = loss.to(x) > best
            kept = torch.where(per_example(better, x), here, kept)
            best, wrong = torch.where(better, loss.to(x), best), torch.where(better, others, wrong)
            here = self.threat.project(here + self.step_size * self.threat.steepest(slope), x)
        return kept, wrong
