"""Several networks as one, by the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robustscape.types import BadInput


class Ensemble(nn.Module):
    """(N, C, H, W) pixels in [0, 1] to the log of the members' mean probabilities, (N, K): logits as any others.

    An adversary faces all members at once: attacks follow the gradient through every one of them, and an input counts
    only where the mean is fooled. A forward of the ensemble is a forward of each member.

    Args:
        members: Networks of the same images and classes, at least one, each of pixels to logits; not copied.

    Raises:
        BadInput: no member, or one that is no module.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        given = list(members)
        if not given:
            raise BadInput("an ensemble needs at least one member")
        for member in given:
            if not isinstance(member, nn.Module):
                raise BadInput(f"an ensemble is made of torch.nn.Module, not of {type(member).__name__}")
        self.members = nn.ModuleList(given)

    def forward(self, x: Tensor) -> Tensor:
        """Return log((p_1 + ... + p_M) / M), (N, K), without leaving the logarithms."""
        each = torch.stack([member(x).log_softmax(dim=1) for member in self.members])
        return each.logsumexp(dim=0) - math.log(len(self.members))
