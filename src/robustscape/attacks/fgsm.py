"""The fast gradient sign method: one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from robustscape.attacks._common import Health, check, gradient, told
from robustscape.attacks.losses import Aimed, CrossEntropy, aimed
from robustscape.attacks.threat import ThreatModel, refuse_l1
from robustscape.attacks.walk import radii
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """One step of steepest ascent (Goodfellow 2015, https://arxiv.org/abs/1412.6572, section 4).

    x_adv = P(x + step * eps * direction): the sign of the gradient under linf, the normalised gradient under
    l2. One forward and one backward pass in eval mode.

    Attributes:
        threat: Ball and box that the inputs stay in.
        step: Length of the step as a multiple of eps, above 0.
        random_start: Start uniformly in the ball (Wong 2020, https://arxiv.org/abs/2001.03994, who step 1.25).
        loss: What is raised: (model, x_adv, target) to a loss per example.
        targeted: Whether y are the classes that are wanted: the loss is lowered.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    step: float = 1.0
    random_start: bool = False
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = field(default_factory=CrossEntropy)
    targeted: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        refuse_l1(self.threat, "FGSM")
        if not self.step > 0:
            raise BadInput(f"FGSM's step must be above 0, not {self.step:g}")
        if self.targeted and isinstance(self.loss, Aimed):
            raise BadInput(
                f"targeted=True wants y to be reached, but the loss {type(self.loss).__name__} does not look at y; "
                "did you mean CrossEntropy or Margin?"
            )

    @classmethod
    def wong(cls) -> FGSM:
        """Return the setting of Wong 2020: a uniform start and a step of 1.25 eps."""
        return cls(step=1.25, random_start=True)

    def at(self, eps: float) -> FGSM:
        """Return the same attack at another eps."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions."""
        return f"{'targeted ' * self.targeted}FGSM ({told(self.threat)})"

    def _raised(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        loss = self.loss(model, x_adv, target)
        return -loss if self.targeted else loss

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None, eps: Tensor | None = None
    ) -> Tensor:
        """Return adversarial inputs, (N, C, H, W); arguments as those of ``PGD``.

        Raises:
            BadInput: half-precision inputs, or shapes that do not fit.
            Diverged: the model gave NaN.
        """
        check(x, y)
        x, rng = x.detach(), rng or numbered(x, "fgsm")
        eps = None if eps is None else radii(self.threat, x, eps)
        radius = self.threat.eps if eps is None else eps.view(-1, *[1] * (x.ndim - 1))
        with evaluating(model):
            x_0 = self.threat.sample(x, rng, eps) if self.random_start else x
            loss, _, slope = gradient(model, self._raised, x_0, aimed(self.loss, model, x, y))
        x_adv = x_0 + self.step * radius * self.threat.steepest(slope)
        health = Health(x)
        health.watch(loss, slope)
        return health.passed(self.threat.project(x_adv, x, eps))
