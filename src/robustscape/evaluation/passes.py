"""Models that are random on purpose: judged by the mean of several passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustscape.types import BadInput


class MeanLogits(nn.Module):
    """A model whose logits are the mean over several passes of another, which draws anew in each.

    Args:
        model: Pixels in [0, 1] to logits; shared, not copied.
        passes: At least 1.
        seed: What torch's generators begin with in every forward, so that it has one answer; they are then as before.
    """

    def __init__(self, model: nn.Module, passes: int, seed: int) -> None:
        super().__init__()
        if passes < 1:
            raise BadInput(f"passes must be at least 1, not {passes}")
        self.model, self.passes, self.seed = model, passes, seed

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits of x, (N, K)."""
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(self.seed)
            total = self.model(x)
            for _ in range(self.passes - 1):
                total = total + self.model(x)
        return total / self.passes
