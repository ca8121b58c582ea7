"""Random noise: the control that an adversary is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from robustscape.attacks._common import check, fraction
from robustscape.attacks.threat import ThreatModel
from robustscape.streams import Streams, numbered


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise drawn uniformly from the ball, then clamped to [0, 1]; the model is not looked at.

    The control of Yamada 2021 (https://arxiv.org/abs/2102.02950), who train on it.

    Attributes:
        threat: Ball and box that the inputs stay in.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)

    def at(self, eps: float) -> Noise:
        """Return the same noise at another eps."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the noise in words, for captions."""
        return f"uniform noise ({self.threat.norm} {fraction(self.threat.eps)})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None) -> Tensor:
        """Return noisy inputs, (N, C, H, W); arguments as those of ``PGD``.

        Raises:
            BadInput: half-precision inputs, or shapes that do not fit.
        """
        check(x, y)
        return self.threat.sample(x, rng or numbered(x, "noise"))
