"""What an attack raises: per-example losses ``(model, x_adv, target) -> (N,)``, each its own configuration.

The target is the labels, unless the loss has a method ``target(model, x, y)`` that makes another one of the clean
inputs: attacks call it once, before they search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks._common import explain
from robustscape.types import BadInput

_TINY = 1e-12


@runtime_checkable
class Aimed(Protocol):
    """A loss whose target is made of the clean inputs."""

    def target(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the target of each example, (N, ...), from the clean inputs x and their labels y."""
        ...


def aimed(loss: object, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return what the loss is given as its target: what it makes of the clean inputs, or else y.

    Raises:
        BadInput: labels or outputs that it can make nothing of.
    """
    if not isinstance(loss, Aimed):
        return y
    try:
        return loss.target(model, x, y)
    except (IndexError, RuntimeError) as error:
        with torch.no_grad():
            explain(error, model(x), y)
        raise


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest logit but that of the label, minus that of the label, (N,)."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - _of(logits, y)


def _of(logits: Tensor, label: Tensor) -> Tensor:
    """Return the logit of each label, (N,)."""
    return logits.gather(1, label[:, None]).squeeze(1)


def runner_up(logits: Tensor, y: Tensor, rank: Tensor) -> Tensor:
    """Return the class other than y of each rank among the others, (N,): 0 is the most likely one, up to K - 2."""
    first = logits.scatter(1, y[:, None], torch.inf)
    return first.argsort(dim=1, descending=True, stable=True).gather(1, rank[:, None] + 1).squeeze(1)


def _lead(logits: Tensor, label: Tensor) -> Tensor:
    """Return by how much the logit of each label exceeds the logarithm of the others' summed exponentials, (N,)."""
    others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(dim=1)
    return _of(logits, label) - others


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


Direction: TypeAlias = Literal["forward", "reverse", "symmetric"]
"""Which divergence of clean p and adversarial p': "forward" KL(p || p'), "reverse" KL(p' || p), or half their sum."""


def divergence(
    log_p: Tensor, log_p_adv: Tensor, direction: Direction, *, reduction: Literal["none", "batchmean"]
) -> Tensor:
    """Return the divergence of probabilities whose logarithms are given, (N, K), in nats.

    Args:
        log_p: Of the clean inputs, (N, K).
        log_p_adv: Of the adversarial ones, (N, K).
        direction: Which.
        reduction: "none" for the term of each class, (N, K), "batchmean" for the mean over the examples.
    """
    if direction == "symmetric":
        there = divergence(log_p, log_p_adv, "forward", reduction=reduction)
        return (there + divergence(log_p, log_p_adv, "reverse", reduction=reduction)) / 2
    of, from_ = (log_p, log_p_adv) if direction == "forward" else (log_p_adv, log_p)
    return F.kl_div(from_, of, reduction=reduction, log_target=True)


@dataclass(frozen=True, kw_only=True)
class KL:
    """Divergence of the class probabilities p(x_adv) from those of the clean input, p(x), nats per example.

    The inner loss of TRADES (Zhang 2019, https://arxiv.org/abs/1901.08573, equation 5), without its labels. It and
    its gradient are 0 at the clean input: a search must start elsewhere. The clean input costs one forward.

    Attributes:
        direction: "forward" is KL(p(x) || p(x_adv)), as in the authors' code; "reverse" KL(p(x_adv) || p(x));
            "symmetric" half the sum of both.

    Deviations:
        The authors' code computes the clean probabilities anew at every step. As for ``CrossEntropy``, the largest
        probability is computed from its lead, so that confidence hides nothing.
    """

    direction: Direction = "forward"

    def __post_init__(self) -> None:
        """Refuse an unknown direction."""
        if self.direction not in get_args(Direction):
            raise BadInput(f"the direction of the divergence is one of {', '.join(get_args(Direction))}, not "
                           f"{self.direction!r}")  # fmt: skip

    def target(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the logarithms of the probabilities of the clean inputs, (N, K); y is not looked at."""
        with torch.no_grad():
            logits = model(x)
            return _log_probabilities(logits, logits.argmax(dim=1))

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the divergence of each example, (N,); ``target`` as the method of that name returns it."""
        there = _log_probabilities(model(x_adv), target.argmax(dim=1))
        return divergence(target, there, self.direction, reduction="none").sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Largest wrong logit minus the right one, unclamped: positive where misclassified.

    Raised by PGD this is the attack that the literature calls CW-infinity (Carlini and Wagner 2017,
    https://arxiv.org/abs/1608.04644, equation f6 without its confidence).
    """

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the margin of each example, (N,); ``target`` are labels, (N,)."""
        return margin(model(x_adv), target)


@dataclass(frozen=True, kw_only=True)
class DLR:
    """Difference of logits ratio (Croce and Hein 2020, https://arxiv.org/abs/2003.01690, equation 6).

    (max of the wrong logits - z_y) / (z_(1) - z_(3)), z_(k) the k-th largest: like ``Margin``, but the same for
    logits that are scaled or shifted. Positive where misclassified. Two classes have no third logit: there it is the
    margin.
    """

    def note(self, classes: int) -> str:
        """Return what it becomes for so few classes, in a sentence; "" where there are enough."""
        few = f"DLR needs three logits; with {classes} classes it is the margin, the other logit minus z_y"
        return few if classes < 3 else ""

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example, (N,); ``target`` are labels, (N,)."""
        logits = model(x_adv)
        if logits.shape[1] < 3:
            return margin(logits, target)
        ranked, order = logits.sort(dim=1)
        other = torch.where(order[:, -1] == target, ranked[:, -2], ranked[:, -1])
        return (other - _of(logits, target)) / (ranked[:, -1] - ranked[:, -3] + _TINY)


@dataclass(frozen=True, kw_only=True)
class TargetedDLR:
    """Difference of logits ratio towards one class t (Croce and Hein 2020, equation 7).

    (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), z_(k) the k-th largest logit. Its target is the label and t, (N, 2):
    attacks of several targets, such as APGD, choose t themselves; for others it is the most likely wrong class of
    the clean input. Three classes have no fourth logit: there it is z_t - z_y.
    """

    def note(self, classes: int) -> str:
        """Return what it becomes for so few classes, in a sentence; "" where there are enough."""
        few = f"targeted DLR needs four logits; with {classes} classes it is the difference of two, z_t - z_y"
        return few if classes < 4 else ""

    def target(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the labels y and the most likely other classes of the clean inputs x, (N, 2)."""
        with torch.no_grad():
            return torch.stack([y, runner_up(model(x), y, torch.zeros_like(y))], dim=1)

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example, (N,); ``target`` as the method of that name returns it."""
        logits = model(x_adv)
        gained = _of(logits, target[:, 1]) - _of(logits, target[:, 0])
        if logits.shape[1] < 4:
            return gained
        ranked = logits.sort(dim=1).values
        return gained / (ranked[:, -1] - 0.5 * (ranked[:, -3] + ranked[:, -4]) + _TINY)
