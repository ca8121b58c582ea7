"""Liu 2020, appendix B.3: what inequality 24 says about how often the gradient is large, and what is printed.

With n the norm of the gradient over eps L_thetax, inequality 24 says that the mean of n^2 / 2 - 2 n over the steps is
at most 0 in the end, and inequality 25, rearranged, that P(n > gamma) < 4 / (gamma - 2)^2; equation 26 prints
4 / (gamma^2 - 2 gamma + 4), which is smaller for gamma above 2 and does not follow.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.streams import Streams
from robustscape.studies.checks import judged, to_value
from robustscape.studies.study import Cell
from robustscape.types import Plain, Splits

GAMMAS = (2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
_ROUNDING = 1e-12


def printed(gamma: Tensor) -> Tensor:
    """Return the bound as printed in equation 4."""
    return 4 / (gamma.square() - 2 * gamma + 4)


def follows(gamma: Tensor) -> Tensor:
    """Return the bound that inequality 25 gives, infinite at gamma = 2."""
    return 4 / (gamma - 2).square()


def gammas() -> Tensor:
    """Return the gammas at which the bounds are tested, (7,)."""
    return torch.tensor(GAMMAS, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Rearranged:
    """Whether inequality 24 gives the bounds: random distributions of gradient norms that meet it with equality.

    Attributes:
        distributions: How many with 6 values each, at least 1; beside them, for each gamma, that of two values.
        seed: Seed of all random numbers.
    """

    distributions: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return "rearranged"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Test, yielding (done, total); returns checks."""
        rng = Streams(self.seed, ("liu", "rearranged"))
        share = torch.softmax(3 * rng.tag("share").normal(self.distributions, 6, dtype=torch.float64), dim=1)
        norm = rng.tag("norm").uniform(self.distributions, 6, dtype=torch.float64)
        norm = norm * 4 * (share * norm).sum(dim=1, keepdim=True) / (share * norm**2).sum(dim=1, keepdim=True)
        large = gammas()[gammas() > 4] + 1e-6
        p = follows(large)
        share, norm = (
            torch.cat([many, F.pad(two, (0, 4))])
            for many, two in (
                (share, torch.stack([p, 1 - p], dim=1)),
                (norm, torch.stack([large, torch.full_like(large, 2.0)], dim=1)),
            )
        )
        found = (share[:, None] * (norm[:, None] > gammas()[:, None])).sum(dim=2)
        yield 1, 1
        words = (
            f"{self.distributions:,} random distributions with mean n² / 2 − 2n = 0, and those of the values 2 and γ"
        )
        claim = "Appendix B.3: inequality 24 gives P(n > γ)"
        return to_value(
            [
                judged(
                    claim,
                    form=form,
                    tested=words,
                    errors=(found - bound(gammas())).flatten(),
                    tolerance=_ROUNDING,
                    expected=expected,
                )
                for form, bound, expected in (
                    ("equation 26, < 4 / (γ² − 2γ + 4)", printed, False),
                    ("inequality 25, ≤ 4 / (γ − 2)²", follows, True),
                )
            ]
        )
