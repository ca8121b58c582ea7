"""Averages of weights over training, and the running statistics that suit them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from robustscape.modes import evaluating, training
from robustscape.runtime import Lowered, Runtime
from robustscape.runtime.memory import Whole
from robustscape.runtime.ranks import mean_over_ranks, turns
from robustscape.streams import Streams
from robustscape.training.batch_loss import attacked
from robustscape.training.method import Method
from robustscape.types import Batch


def average_of(model: nn.Module) -> nn.Module:
    """Return the copy that an average starts from; needs no gradient."""
    return copy.deepcopy(model).requires_grad_(False)


def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the exponential moving average: parameters a <- decay a + (1 - decay) w, buffers copied.

    Source: Stutz 2021, https://arxiv.org/abs/2104.04448, section 4, from step 0 on, without bias correction.
    """
    with torch.no_grad():
        mean: list[Tensor] = list(average.parameters())
        present: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(mean, present, 1 - decay)
        for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)


def take_into_average(average: nn.Module, model: nn.Module, taken: int) -> None:
    """Take a network into the mean of so many: parameters a <- a + (w - a) / (taken + 1), buffers copied.

    Source: Izmailov 2018, https://arxiv.org/abs/1803.05407, Algorithm 1. Of none before, the mean is the network.
    """
    update_average(average, model, taken / (taken + 1))


def normalisations(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the modules that hold running statistics of batches."""
    kind = nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kind) and module.running_mean is not None]


def estimate_statistics(
    model: nn.Module, how: Method, batches: Iterable[Batch], *, seed: int, done: int, runtime: Runtime
) -> None:
    """Set BatchNorm's running statistics to their means over batches, each counting by its examples.

    As in the code of Izmailov 2018, its epoch of clean examples; dropout is off. Adversarial examples are of the
    objective's attack at its full eps, which sees the batch's statistics. Ranks share the batches.

    Args:
        model: Whose statistics; one that a method trains, or an average of it.
        how: The method: says on what and on how many batches.
        batches: Examples.
        seed: Seed of the attack.
        done: Batches trained on so far.
        runtime: How to use the machine.
    """
    modules, lowered = normalisations(model), Lowered(model, runtime)
    attack = how.objective.attack if how.settings.estimated == "adversarial" else None
    settings = replace(how.settings, attack_mode="train", attack_statistics="frozen")
    here = replace(how, model=model, lowered=lowered, whole=Whole(model), settings=settings)
    momenta = [module.momentum for module in modules]
    counts = [(count, count.clone()) for module in modules if (count := module.num_batches_tracked) is not None]
    seen = 0
    try:
        for batch in turns(islice(batches, how.settings.statistics_batches)):
            rng = Streams(seed=seed, tags=("statistics", done), index=batch.index)
            x = batch.x if attack is None else attacked(here, batch, attack, rng)
            seen += len(batch)
            with ExitStack() as modes, torch.no_grad():
                modes.enter_context(evaluating(model))
                for module in modules:
                    module.momentum = len(batch) / seen
                    modes.enter_context(training(module))
                lowered(x)
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.momentum = momentum
        for count, before in counts:
            count.copy_(before)  # what moved them here is no training
    buffers = [b for module in modules for b in (module.running_mean, module.running_var) if b is not None]
    for buffer, mean in zip(buffers, mean_over_ranks(buffers, seen), strict=True):
        buffer.copy_(mean)
