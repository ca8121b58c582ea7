"""The pass of clean inputs after a step, and what a forward in train mode moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustscape.modes import training
from robustscape.runtime.memory import undivided
from robustscape.runtime.ranks import mean_over_ranks, world
from robustscape.training.batch_loss import share_of
from robustscape.training.method import Method
from robustscape.types import Batch


def moving(model: nn.Module) -> list[Tensor]:
    """Return the buffers that a forward may move differently on every rank."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def pass_clean(how: Method, batch: Batch) -> None:
    """Let a forward of a step's clean inputs, at the new weights, move the running statistics, if the settings ask it.

    Source: the code of Rice 2020 (https://arxiv.org/abs/2002.11569), on which that of Wu 2020 builds: it logs their
    accuracy by a forward in train mode.

    Args:
        how: The method; its network's running statistics are changed, where it has any.
        batch: The step's examples; each rank takes its share of them.
    """
    if not how.settings.clean_pass or not how.whole(batch.x):
        return
    batch, weight = share_of(batch)
    before = [(buffer, buffer.clone()) for buffer in moving(how.model)] if world() > 1 else []
    with torch.no_grad(), training(how.model), undivided(len(batch), checkpointing=how.checkpointing):
        how.lowered(batch.x)
        if not before:
            return
        means = mean_over_ranks([buffer - old for buffer, old in before], weight)
        for (buffer, old), mean in zip(before, means, strict=True):
            buffer.copy_(old + mean)
