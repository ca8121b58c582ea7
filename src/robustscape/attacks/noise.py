"""Random noise: the control that an adversary is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from robustscape.attacks._common import check, fraction
from robustscape.attacks.threat import ThreatModel, refuse_l1
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise in the ball, uniform or Gaussian, then clamped to [0, 1]; the model is not looked at.

    The uniform one is the control of Yamada 2021 (https://arxiv.org/abs/2102.02950), who train on it.

    Attributes:
        threat: Ball and box that the inputs stay in.
        sigma: Standard deviation of Gaussian noise in pixel units, above 0, whatever eps is; None for uniform noise.
            What leaves the ball is moved to its edge: linf 1 cuts nothing but to [0, 1].
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    sigma: float | None = None

    def __post_init__(self) -> None:
        """Refuse a standard deviation that cannot be meant."""
        refuse_l1(self.threat, "Noise")
        if self.sigma is not None and not 0 < self.sigma <= 1:
            meant = f"; did you mean {self.sigma:g}/255?" if 1 < self.sigma < 256 else ""
            raise BadInput(f"sigma is in pixel units, in (0, 1], not {self.sigma:g}{meant}")

    def at(self, eps: float) -> Noise:
        """Return the same noise at another eps."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the noise in words, for captions."""
        ball = f"{self.threat.norm} {fraction(self.threat.eps)}"
        if self.sigma is None:
            return f"uniform noise ({ball})"
        return f"Gaussian noise (sigma {fraction(self.sigma)}, in {ball})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None) -> Tensor:
        """Return noisy inputs, (N, C, H, W); arguments as those of ``PGD``.

        Raises:
            BadInput: half-precision inputs, or shapes that do not fit.
        """
        check(x, y)
        x, rng = x.detach(), rng or numbered(x, "noise")
        if self.sigma is None:
            return self.threat.sample(x, rng)
        return self.threat.project(x + self.sigma * rng.tag("gaussian").normal(*x.shape[1:], dtype=x.dtype), x)
