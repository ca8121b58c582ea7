"""A model that is no better than chance: notice it, and try what is usually wrong with a model from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustscape.evaluation.checks import check_logits
from robustscape.evaluation.judging import predicted
from robustscape.types import BadInput, Subject

FIRST = 256
"""Images that are enough to tell."""

_CHANCE = 0.01  # how likely at least so many right answers must be under guessing to be called chance
_BETTER = 0.2  # of the way from chance to no error: what a remedy must win to be named
_BATCH = 64

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, a number for each channel or one for all."""

_NONE: Constants = ((0.0,), (1.0,))
_USUAL: dict[str, Constants] = {
    "no normalisation": _NONE,
    "mean 0.5 and std 0.5": ((0.5,), (0.5,)),
    "pixels in [0, 255]": ((0.0,), (1 / 255,)),
}
_COLOUR: dict[str, Constants] = {
    "CIFAR-10's mean 0.4914 0.4822 0.4465 and std 0.2471 0.2435 0.2616": (
        (0.4914, 0.4822, 0.4465),
        (0.2471, 0.2435, 0.2616),
    ),
    "ImageNet's mean 0.485 0.456 0.406 and std 0.229 0.224 0.225": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_GREY: dict[str, Constants] = {"MNIST's mean 0.1307 and std 0.3081": ((0.1307,), (0.3081,))}


def doubt(subject: Subject, *, front: Constants | None = None) -> str:
    """Return one sentence where a model's clean accuracy is no better than guessing, "" where it is.

    Guessing is 1 / K for K classes; an accuracy is no better where guessing would be as good or better in one of a
    hundred times. Then the usual normalisations take the place of the model's, and its classes the places of others;
    what helps most is named if it helps much.

    Args:
        subject: The model and the images; the first ``FIRST`` are looked at.
        front: Mean and std that the model is known to normalise by first; None for not known, or not at all.

    Raises:
        BadInput: the model gives what is not logits.
    """
    x, y, classes = subject.x[:FIRST], subject.y[:FIRST], len(subject.classes)
    answers = _answers(subject, x)
    right = float((answers == y).double().mean())
    if not is_chance(int((answers == y).sum()), len(y), classes):
        return ""
    said = f"clean accuracy is {right:.1%} on the first {len(y)} images, which is chance for {classes} classes"
    remedies = [*_other_normalisations(subject, x, y, front), _other_order(answers, y, classes)]
    best = max(remedies, key=lambda remedy: remedy.right)
    if best.right - right > _BETTER * (1 - 1 / classes):
        return f"{said}; {best.words} it is {best.right:.1%}"
    likely = "another normalisation (mean and std), another order of classes, or other weights than it has"
    return f"{said}: likely the model expects {likely}"


def is_chance(right: int, n: int, classes: int) -> bool:
    """Return whether guessing gives at least so many of n right answers in more than one of a hundred times."""
    from scipy.stats import binom

    return bool(binom.sf(right - 1, n, 1 / classes) > _CHANCE)


@dataclass(frozen=True, kw_only=True)
class _Remedy:
    """What would help, as the beginning of a clause, and the accuracy that it gives."""

    words: str
    right: float


def _answers(subject: Subject, x: Tensor) -> Tensor:
    logits = torch.cat([predicted(subject.model, part, subject.parts) for part in x.split(_BATCH)])
    check_logits(logits, len(x), len(subject.classes))
    return logits.argmax(dim=1)


def _other_normalisations(subject: Subject, x: Tensor, y: Tensor, front: Constants | None) -> Iterator[_Remedy]:
    """Give the usual normalisations, each in the place of the model's known one."""
    own = _NONE if front is None else front
    for words, (mean, std) in (_USUAL | {1: _GREY, 3: _COLOUR}.get(x.shape[1], {})).items():
        if (mean, std) != own:
            wanted = (x - _channels(mean, x)) / _channels(std, x)
            try:
                answers = _answers(subject, wanted * _channels(own[1], x) + _channels(own[0], x))
            except BadInput:  # not finite that far from what it was trained on
                continue
            yield _Remedy(words=f"with {words}", right=float((answers == y).double().mean()))


def _channels(values: tuple[float, ...], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1)


def _other_order(answers: Tensor, y: Tensor, classes: int) -> _Remedy | None:
    """Return the order of classes that fits every other image best, and its accuracy on the rest."""
    from scipy.optimize import linear_sum_assignment

    given, meant = answers.cpu().numpy(), y.cpu().numpy()
    counts = np.zeros((classes, classes))
    np.add.at(counts, (given[::2], meant[::2]), 1)
    order = linear_sum_assignment(counts, maximize=True)[1]
    right = float((order[given[1::2]] == meant[1::2]).mean()) if len(given) > 1 else 0.0
    listed = f" ({' '.join(map(str, order))} for 0 to {classes - 1})" if classes <= 20 else ""
    return _Remedy(words=f"with the model's classes in another order{listed}", right=right)
