"""Models that are random on purpose: judged by the mean of several passes, on random numbers that a seed gives."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustscape.streams import torch_draws
from robustscape.types import BadInput

P = TypeVar("P")
T = TypeVar("T")


def on_own_draws(work: Generator[P, None, T], seed: int, device: torch.device) -> Generator[P, None, T]:
    """Run a generator on torch's random numbers as they follow from a seed; between its steps they are everyone's.

    So a model that is random on purpose gives one answer in all evaluations that run through, and others' random
    numbers are as if it had not been asked.

    Args:
        work: Any generator; closed with this one.
        seed: What torch's generators begin with.
        device: Where the model draws, beside the CPU.
    """
    cuda = [device] if device.type == "cuda" else []
    own: tuple[Tensor, list[Tensor]] | None = None
    try:
        while True:
            with torch_draws(seed, device):
                if own is not None:
                    torch.set_rng_state(own[0])
                    for one, state in zip(cuda, own[1], strict=True):
                        torch.cuda.set_rng_state(state, one)
                try:
                    step = next(work)
                except StopIteration as end:
                    return end.value
                own = torch.get_rng_state(), [torch.cuda.get_rng_state(one) for one in cuda]
            yield step
    finally:
        work.close()


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
        with torch_draws(self.seed, x.device):
            total = self.model(x)
            for _ in range(self.passes - 1):
                total = total + self.model(x)
        return total / self.passes
