"""The loss over some examples at given inputs, and its gradient with respect to the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape import modes
from robustscape.runtime.memory import Parts
from robustscape.runtime.settings import exact_products
from robustscape.types import Diverged, Params, Subject
from robustscape.weights.space import gradient, select


def summed_gradient(subject: Subject, x: Tensor, rows: Tensor) -> tuple[float, Params]:
    """Return cross-entropy, nats, and its gradient with respect to all parameters, summed over some examples.

    Args:
        subject: What is looked at; is left without a trace.
        x: (N, C, H, W), the inputs in place of the subject's own.
        rows: (M,), int64, which examples.

    Raises:
        Diverged: a loss is not finite.
    """
    model, total = subject.model, 0.0
    names = list(select(model, "all"))
    slopes: Params = {}

    def some(part: slice) -> tuple[Tensor, Params]:
        loss = F.cross_entropy(model(x[rows[part]]), subject.y[rows[part]], reduction="sum")
        return loss.detach(), gradient(loss, model, names)

    parts = Parts(min(subject.batch, (subject.parts or Parts()).size))
    with _differentiable(model):
        for loss, slope in parts.each(some, len(rows)):
            total += float(loss)
            slopes = {name: slopes[name] + value if slopes else value for name, value in slope.items()}
    if not math.isfinite(total):
        raise Diverged(f"the model's loss is not finite for some of {len(rows)} inputs")
    return total, slopes


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Run the block in eval mode and in the model's own precision, with a graph to every parameter, frozen or not."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    device = next(model.parameters()).device
    own = torch.autocast(device.type, enabled=False)
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with modes.evaluating(model), modes.frozen_statistics(model), exact_products(device), own, torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
