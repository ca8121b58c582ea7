"""What speaks against a model before it is attacked: each look a finding."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustscape import modes
from robustscape.attacks.losses import CrossEntropy
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.chance import is_chance
from robustscape.evaluation.judging import predicted
from robustscape.evaluation.result import Finding
from robustscape.runtime.memory import Parts
from robustscape.streams import Streams
from robustscape.types import Subject

_NARROW = 0.1  # range of pixels below which they look divided twice
_ANEW = 1e-4  # of the largest logit: how far two equal passes may be apart
_APART = 1e-3  # of the largest logit: what the company of a batch may change, by rounding
_VANISHED = 0.05  # of the examples
_COMPANY = 4


def of_the_model(subject: Subject, logits: Tensor) -> Iterator[Finding]:
    """Give what pixels and outputs say: "pixels", "randomness", "train mode", "probabilities", "chance".

    Args:
        subject: The model and the examples; its forwards may move buffers, which the caller takes back.
        logits: (n, K), of all examples.
    """
    yield _pixels(subject)
    random = _randomness(subject)
    yield random
    yield _train_mode(subject, random=random.fired)
    yield _probabilities(logits)
    n, right = len(logits), int((logits.argmax(dim=1) == subject.y).sum())
    yield Finding(
        name="chance",
        fired=is_chance(right, n, logits.shape[1]),
        evidence=f"{right} of {n} are classified correctly without attack, for {logits.shape[1]} classes",
        value=right / n,
        limit=1 / logits.shape[1],
        n=n,
    )


def vanishing(subject: Subject, threat: ThreatModel) -> Finding:
    """Return for how many examples a search has nothing to follow: clean, or where it starts in the ball.

    A gradient has vanished where its largest entry is so small that float32 cannot hold the others to full
    precision. The model itself is looked at, in its own precision.
    """
    x, y, model = subject.x, subject.y, subject.model
    starts = threat.sample(x, Streams(subject.seed, ("sanity", "start"), subject.index))
    loss, least = CrossEntropy(), torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps

    def largest(inputs: Tensor, rows: slice) -> Tensor:
        with torch.enable_grad():
            leaf = inputs[rows].detach().requires_grad_()
            (slope,) = torch.autograd.grad(loss(model, leaf, y[rows]).sum(), leaf)
        return slope.flatten(1).abs().amax(dim=1)

    parts = Parts(min(subject.batch, (subject.parts or Parts()).size))
    with modes.evaluating(model):
        gone = [parts.run(lambda rows, inputs=inputs: largest(inputs, rows), len(x)) <= least for inputs in (x, starts)]
    n, count = len(x), int((gone[0] | gone[1]).sum())
    return Finding(
        name="vanishing gradients",
        fired=count / n > _VANISHED,
        evidence=f"the loss has no gradient at {count} of {n} images, clean or where the search starts",
        value=count / n,
        limit=_VANISHED,
        n=n,
    )


def _pixels(subject: Subject) -> Finding:
    low, high = float(subject.x.min()), float(subject.x.max())
    return Finding(
        name="pixels",
        fired=high - low < _NARROW,
        evidence=f"pixels go from {low:.3g} to {high:.3g}" + "; divided by 255 twice?" * (high - low < _NARROW),
        value=high - low,
        limit=_NARROW,
        n=len(subject.x),
    )


def _randomness(subject: Subject) -> Finding:
    """Compare two passes over the same batch."""
    x = subject.x[: subject.batch]
    first, second = (predicted(subject.model, x, subject.parts) for _ in range(2))
    value, changed = _apart(first, second), int((first.argmax(dim=1) != second.argmax(dim=1)).sum())
    return Finding(
        name="randomness",
        fired=value > _ANEW,
        evidence=f"two passes differ by {value:.2g} of the largest logit; {changed} of {len(x)} predictions change",
        value=value,
        limit=_ANEW,
        n=len(x),
    )


def _train_mode(subject: Subject, *, random: bool) -> Finding:
    """Compare some images among others with the same alone, in eval mode, and watch the buffers.

    A model that is given in train mode as a whole is said to be; parts that alone are in it are on purpose: a finding.
    """
    x = subject.x[: subject.batch]
    few = x[: min(_COMPANY, max(1, len(x) // 2))]
    buffers = [(buffer, buffer.clone()) for buffer in subject.model.buffers()]
    among, alone = (predicted(subject.model, images, subject.parts)[: len(few)] for images in (x, few))
    moved = sum(not torch.equal(buffer, before) for buffer, before in buffers)
    value = 0.0 if random else _apart(among, alone)
    seen = f"in eval mode {moved} buffers move, and logits depend on the other images of the batch by {value:.2g}"
    said = f"in eval mode {moved} buffers move; the model is random" if random else seen
    left = [module for module in subject.model.modules() if module.training]
    some = bool(left) and not subject.model.training
    if left:
        whole = f"{len(left)} of its modules were" if some else "the model was"
        said += f"; {whole} given in train mode, and judged in eval mode"
    return Finding(
        name="train mode",
        fired=moved > 0 or value > _APART or some,
        evidence=said,
        value=value,
        limit=_APART,
        n=len(few),
    )


def _probabilities(logits: Tensor) -> Finding:
    """Look for outputs that went through a sigmoid, or a softmax times a number."""
    low, high, sums = float(logits.min()), float(logits.max()), logits.double().sum(dim=1)
    one = float(sums.max() - sums.min()) <= 1e-3 * float(sums.abs().max())
    bounded = 0 <= low < high and (high <= 1 or one)
    return Finding(
        name="probabilities",
        fired=bounded,
        evidence=f"outputs go from {low:.3g} to {high:.3g}" + ", with one sum for all" * (bounded and one),
        value=high,
        limit=1.0,
        n=len(logits),
    )


def _apart(first: Tensor, second: Tensor) -> float:
    """Return how far logits are apart, as a share of the largest."""
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-12))
