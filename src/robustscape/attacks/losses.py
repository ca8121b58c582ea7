"""What an attack raises: per-example losses ``(model, x_adv, target) -> (N,)``, each its own configuration.

The target is the labels, unless the loss has a method ``target(model, x, y)`` that makes another one of the clean
inputs: attacks call it once, before they search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class Aimed(Protocol):
    """A loss whose target is made of the clean inputs."""

    def target(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the target of each example, (N, ...), from the clean inputs x and their labels y."""
        ...


def aimed(loss: object, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return what the loss is given as its target: what it makes of the clean inputs, or else y."""
    return loss.target(model, x, y) if isinstance(loss, Aimed) else y


def _lead(logits: Tensor, label: Tensor) -> Tensor:
    """Return by how much the logit of each label exceeds the logarithm of the others' summed exponentials, (N,)."""
    own = F.one_hot(label, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, label[:, None]).squeeze(1) - others


def _log_probabilities(logits: Tensor, label: Tensor) -> Tensor:
    """Return log-softmax, (N, K), its value and gradient at each label to full precision at any lead."""
    own = F.one_hot(label, logits.shape[1]).bool()
    return torch.where(own, F.logsigmoid(_lead(logits, label))[:, None], logits.log_softmax(dim=1))


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
        return -F.logsigmoid(_lead(logits, target))


@dataclass(frozen=True, kw_only=True)
class KL:
    """Divergence KL(p(x) || p(x_adv)) of the class probabilities from those of the clean input, nats per example.

    The inner loss of TRADES (Zhang 2019, https://arxiv.org/abs/1901.08573, equation 5), without its labels. It and
    its gradient are 0 at the clean input: a search must start elsewhere. The clean input costs one forward.

    Deviations:
        The authors' code computes the clean probabilities anew at every step. As for ``CrossEntropy``, the largest
        probability is computed from its lead, so that confidence hides nothing.
    """

    def target(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the logarithms of the probabilities of the clean inputs, (N, K); y is not looked at."""
        with torch.no_grad():
            logits = model(x)
            return _log_probabilities(logits, logits.argmax(dim=1))

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the divergence of each example, (N,); ``target`` as the method of that name returns it."""
        there = _log_probabilities(model(x_adv), target.argmax(dim=1))
        return F.kl_div(there, target, reduction="none", log_target=True).sum(dim=1)


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
