"""An epoch's last batch, which may have too few examples for batch statistics."""

from __future__ import annotations

import torch
from torch import nn

from robustscape.modes import frozen_statistics, training
from robustscape.runtime.ranks import world
from robustscape.streams import Streams
from robustscape.training.averaging import normalisations
from robustscape.training.batch_loss import rows_of
from robustscape.types import BadInput, Batches, Objective, Staged

_FEW = 4  # examples of a rank: of more, no objective has a single one normalised


def check_last_batch(model: nn.Module, objective: Objective, batches: Batches) -> None:
    """Refuse epochs that end with too few examples for the network's batch normalisation.

    One that stands behind all pooling has a single value a channel of a single example, and no variance.

    Args:
        model: The network, as ``objective.prepare`` gave it; is left without a trace.
        objective: What is minimised.
        batches: The training examples, of all ranks.

    Raises:
        BadInput: the last batch is such a one.
    """
    if not normalisations(model):
        return
    last = next(batches.epoch(0, len(batches) - 1))
    least = max(1, len(last) // world())
    if least > _FEW:
        return
    some = rows_of(last, slice(least))
    if isinstance(objective, Staged):
        some, _ = objective.stage(some, Streams(index=some.index), 0, 1)
    drawn = torch.random.fork_rng(devices=[some.x.device] if some.x.device.type == "cuda" else [])
    try:
        with torch.no_grad(), drawn, training(model), frozen_statistics(model):
            objective(model, some, some.x)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        ranks = f" for {world()} ranks" if world() > 1 else ""
        raise BadInput(
            f"an epoch's last batch has {len(last)} image{'s' * (len(last) > 1)}{ranks}, too few for the network's "
            "batch normalisation; take another training.batch_size"
        ) from None
