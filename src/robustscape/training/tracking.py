"""Clean and robust accuracy at the end of an epoch, on the first examples of a set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
    sums = torch.zeros(7, dtype=torch.float64)
    with view as searched:
        for rows, count in turns(batches(subject)):
            loss, wrong = judge(model, subject.x[rows], subject.y[rows], parts=parts)
            sums[:2] += torch.stack([wrong[:count].sum().double(), loss[:count].double().sum()]).cpu()
            if attack is not None:
                found = search(subject, searched, attack, rows, "track")
                worst = torch.maximum(loss, found.loss)[:count]
                fooled = (wrong | found.wrong)[:count]
                sums[2:4] += torch.stack([fooled.sum().double(), worst.double().sum()]).cpu()
                sums[4:] += _split(wrong[:count], fooled, worst).cpu()
    sums = sum_over_ranks(sums)
    clean_error, clean_loss, robust_error, robust_loss, *_ = (sums / len(images)).tolist()
    incorrect, fooled, correct_loss, incorrect_loss = (float(sums[place]) for place in (0, 4, 5, 6))
    correct = len(images) - incorrect
    return Tracked(
        n=len(images),
        clean_accuracy=1 - clean_error,
        clean_loss=clean_loss,
        robust_accuracy=None if attack is None else 1 - robust_error,
        robust_loss=None if attack is None else robust_loss,
        correct_robust_error=fooled / correct if attack is not None and correct else None,
        correct_robust_loss=correct_loss / correct if attack is not None and correct else None,
        incorrect_robust_loss=incorrect_loss / incorrect if attack is not None and incorrect else None,
    )


def _split(wrong: Tensor, fooled: Tensor, loss: Tensor) -> Tensor:
    """Return sums: fooled ones and robust loss of the examples that are correct clean, robust loss of the others, (3,).

    Stutz 2021, https://arxiv.org/abs/2104.04448, figure 2.
    """
    right, loss = ~wrong, loss.double()
    return torch.stack([(fooled & right).sum().double(), loss[right].sum(), loss[wrong].sum()])
