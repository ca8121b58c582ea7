"""Clean and robust accuracy at the end of an epoch, on the first examples of a set."""

from __future__ import annotations

import torch
from torch import nn

from robustscape.evaluation.judging import batches, judge, search
from robustscape.runtime import FastView, PlainView, Runtime
from robustscape.runtime.memory import Parts
from robustscape.runtime.ranks import sum_over_ranks, turns
from robustscape.training.log import Tracked
from robustscape.types import Attack, Images, Subject


def track(
    model: nn.Module,
    view: FastView | PlainView,
    images: Images,
    attack: Attack | None,
    *,
    n: int,
    batch_size: int,
    seed: int,
    runtime: Runtime,
    parts: Parts | None = None,
) -> Tracked:
    """Return the performance on the first n images: searched on the fast view, counted in float32.

    The random numbers do not depend on the epoch: epochs differ by their weights alone. Ranks share the batches.
    """
    images = images.take(slice(0, n))
    subject = Subject(
        model=model,
        x=images.pixels(),
        y=images.y,
        index=images.index,
        seed=seed,
        view=view,
        batch=batch_size,
        runtime=runtime,
        parts=parts,
    )
    sums = torch.zeros(4, dtype=torch.float64)
    with view as searched:
        for rows, count in turns(batches(subject)):
            loss, wrong = judge(model, subject.x[rows], subject.y[rows], parts=parts)
            sums[:2] += torch.stack([wrong[:count].sum().double(), loss[:count].double().sum()]).cpu()
            if attack is not None:
                found = search(subject, searched, attack, rows, "track")
                worst = torch.maximum(loss, found.loss)[:count]
                fooled = (wrong | found.wrong)[:count]
                sums[2:] += torch.stack([fooled.sum().double(), worst.double().sum()]).cpu()
    clean_error, clean_loss, robust_error, robust_loss = (sum_over_ranks(sums) / len(images)).tolist()
    return Tracked(
        n=len(images),
        clean_accuracy=1 - clean_error,
        clean_loss=clean_loss,
        robust_accuracy=None if attack is None else 1 - robust_error,
        robust_loss=None if attack is None else robust_loss,
    )
