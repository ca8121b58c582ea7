"""What an attack raises: per-example losses ``(model, x_adv, target) -> (N,)``, each its own configuration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy of the logits against labels (N,) or soft targets (N, K), nats per example.

    Deviations:
        For labels it is computed from how far the right logit is ahead, log(1 + exp(-lead)). The usual way takes
        the right class's probability minus 1, which float32 rounds to 0 from a lead of 17 on: the gradient then
        lacks the right logit, and of a network with one output it is 0, so that its confidence hides it from PGD.
    """

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        logits = model(x_adv)
        if target.ndim > 1:
            return F.cross_entropy(logits, target, reduction="none")
        own = F.one_hot(target, logits.shape[1]).bool()
        others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
        return -F.logsigmoid(logits.gather(1, target[:, None]).squeeze(1) - others)


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Largest wrong logit minus the right one, unclamped: positive where misclassified.

    Raised by PGD this is the attack that the literature calls CW-infinity (Carlini and Wagner 2017,
    https://arxiv.org/abs/1608.04644, equation f6 without its confidence).
    """

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the margin of each example, (N,); ``target`` are labels, (N,)."""
        logits = model(x_adv)
        own = F.one_hot(target, logits.shape[1]).bool()
        wrong = logits.masked_fill(own, -torch.inf).amax(dim=1)
        return wrong - logits.gather(1, target[:, None]).squeeze(1)
