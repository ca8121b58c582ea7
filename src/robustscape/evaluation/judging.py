"""The search that evaluations and measurements make, and what the model itself makes of what it found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape import modes
from robustscape.runtime.memory import Parts
from robustscape.runtime.settings import exact_products
from robustscape.streams import Streams
from robustscape.types import Attack, Diverged, Subject, Threat


def batches(subject: Subject, rows: Tensor | None = None) -> Iterator[tuple[Tensor, int]]:
    """Yield the numbers of the rows of each batch, (B,), and how many of them are meant.

    Every batch has the same size, so that there is one compute shape: the last one repeats its rows.

    Args:
        subject: What is looked at.
        rows: (M,), int64, which examples; by default all.
    """
    rows = torch.arange(len(subject.x), device=subject.x.device) if rows is None else rows
    size = min(subject.batch, len(subject.x))
    for part in rows.split(size) if len(rows) else ():
        yield part.repeat(-(-size // len(part)))[:size], len(part)


def predicted(model: nn.Module, x: Tensor, parts: Parts | None = None) -> Tensor:
    """Return the logits of x, (N, K), without a graph, in eval mode; ``parts`` of x at once, None for all.

    They are computed in the model's own precision, also where the caller has autocast on.
    """
    own = torch.autocast(x.device.type, enabled=False)
    with torch.no_grad(), modes.evaluating(model), exact_products(x.device), own:
        return (parts or Parts()).run(lambda rows: model(x[rows]), len(x))


def judge(model: nn.Module, x: Tensor, y: Tensor, *, parts: Parts | None = None) -> tuple[Tensor, Tensor]:
    """Return cross-entropy (N,), nats, and whether misclassified (N,): one forward of the model itself, eval mode.

    Args:
        model: The model itself.
        x: (N, C, H, W), inputs.
        y: (N,), labels.
        parts: How many are worked through at once; None for all.

    Raises:
        Diverged: a loss is not finite: such an example counts neither as fooled nor as safe.
    """
    logits = predicted(model, x, parts)
    loss = F.cross_entropy(logits, y, reduction="none")
    if not bool(torch.isfinite(loss).all()):
        raise Diverged(f"the model's loss is not finite for {int((~torch.isfinite(loss)).sum())} of {len(x)} inputs")
    return loss, logits.argmax(dim=1) != y


def inside(threat: Threat, x_adv: Tensor, x: Tensor) -> Tensor:
    """Return whether each x_adv may be counted, (N,), bool: in the box exactly, in the ball up to rounding.

    The rounding allowed is that of x + delta in x's own dtype: one unit in the last place of 1 per pixel.
    """
    delta = (x_adv.double() - x.double()).flatten(1)
    ulp = torch.finfo(x.dtype).eps
    if threat.norm == "linf":
        near = delta.abs().amax(dim=1) <= threat.eps + ulp
    elif threat.norm == "l1":
        near = delta.abs().sum(dim=1) <= threat.eps + ulp * delta.shape[1]
    else:
        near = torch.linalg.vector_norm(delta, dim=1) <= threat.eps + ulp * delta.shape[1] ** 0.5
    flat = x_adv.flatten(1)
    return near & (flat >= 0).all(dim=1) & (flat <= 1).all(dim=1)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found for some examples, judged by the model itself.

    Attributes:
        loss: (N,), cross-entropy of what was found, nats; -inf where it left the threat model.
        wrong: (N,), bool, misclassified, and inside the threat model.
        x_adv: (N, C, H, W), what came back.
    """

    loss: Tensor
    wrong: Tensor
    x_adv: Tensor


def search(subject: Subject, searched: nn.Module, attack: Attack, rows: Tensor, *tags: str | int) -> Found:
    """Attack some examples on ``searched`` and judge what comes back by the subject's own model.

    Args:
        subject: What is looked at.
        searched: What the attack differentiates: an entered fast view, or the model itself.
        attack: The search.
        rows: (B,), int64, which examples.
        *tags: Purpose of the random numbers.
    """
    x, y, rng = subject.x[rows], subject.y[rows], Streams(subject.seed, tags, subject.index[rows])
    parts = subject.parts or Parts()

    def some(part: slice) -> Tensor:
        return attack(searched, x[part], y[part], rng=rng.of(subject.index[rows[part]]))

    x_adv = parts.run(some, len(x))
    allowed = inside(attack.threat, x_adv, x)
    loss, wrong = judge(subject.model, x_adv, y, parts=parts)
    return Found(loss=loss.masked_fill(~allowed, -torch.inf), wrong=wrong & allowed, x_adv=x_adv)


@dataclass(frozen=True, kw_only=True)
class Performance:
    """Means over a subject's examples at the weights that its model carries: nats and fractions."""

    clean_loss: float
    clean_error: float
    robust_loss: float
    robust_error: float


def performance(subject: Subject, attack: Attack, *tags: str | int) -> Performance:
    """Return clean and robust loss and error, all from one attack on every example; see ``columns``.

    Raises:
        Diverged: a loss is not finite.
    """
    return mean_of([some for some, _ in columns(subject, attack, *tags)])


def mean_of(some: Sequence[Tensor]) -> Performance:
    """Return the means over all examples of the columns of at least one batch."""
    means = sum((part.sum(dim=1) for part in some), torch.zeros(4, dtype=torch.float64))
    means = (means / sum(part.shape[1] for part in some)).tolist()
    return Performance(clean_loss=means[0], clean_error=means[1], robust_loss=means[2], robust_error=means[3])


def columns(subject: Subject, attack: Attack, *tags: str | int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give for each batch what its examples come to under one attack, and what the attack found, (M, C, H, W).

    What they come to is (4, M), float64, on the CPU: the fields of ``Performance`` for each example, errors 0 or 1. The
    robust ones are the worse of the clean and the attacked input: the clean input is inside the threat model too.

    Args:
        subject: What is looked at, at its model's present weights.
        attack: Run on the fast view; judged by the model itself in its own precision.
        *tags: Purpose of the random numbers: the same tags give the same starts.

    Raises:
        Diverged: a loss is not finite.
    """
    with subject.view as searched:
        for rows, count in batches(subject):
            clean = judge(subject.model, subject.x[rows], subject.y[rows], parts=subject.parts)
            found = search(subject, searched, attack, rows, *tags)
            yield worst_of(*clean, found.loss, found.wrong)[:, :count], found.x_adv[:count]


def worst_of(clean_loss: Tensor, clean_wrong: Tensor, loss: Tensor, wrong: Tensor) -> Tensor:
    """Return the columns, (4, N), of examples judged clean and attacked, (N,) each."""
    found = (clean_loss, clean_wrong, torch.maximum(clean_loss, loss), clean_wrong | wrong)
    return torch.stack([column.double() for column in found]).cpu()
