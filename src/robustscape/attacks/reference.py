"""An attack run as the reference implementation of AutoAttack runs it, so that the two can be compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robustscape.attacks._common import check, check_labels, check_pixels
from robustscape.attacks.walk import Rows, Walk, radii
from robustscape.modes import evaluating
from robustscape.types import BadInput


def reference(attack: Walk, model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Tensor:
    """Return what pyautoattack 0.2.0 returns for one attack and one batch with this seed.

    One generator draws for the whole batch, on the CPU; nothing leaves the batch within a round; the next round is
    for those that are left. Slow, and what an example gets depends on the company it is in: for comparisons only.

    Args:
        attack: An untargeted search (that picks targets by itself or not).
        model: Pixels in [0, 1] to logits; run in eval mode.
        x: (N, C, H, W), clean inputs in [0, 1].
        y: (N,), labels, int64.
        seed: Of the generator, as AutoAttack seeds it before every attack on every batch.

    Returns:
        x_adv, (N, C, H, W): the successes; x where the search failed or the model is wrong from the start.

    Raises:
        BadInput: a targeted attack, one that is no search of steps, half-precision inputs, pixels outside [0, 1], soft
            labels, labels that do not fit.
        Diverged: logits that are not finite for clean inputs.
    """
    if not isinstance(attack, Walk) or getattr(attack, "targeted", False):
        raise BadInput(
            "the reference mode is for one untargeted search, such as APGD(), FAB() or Square(); "
            "reference_in_turn takes those of AutoAttack().parts().values()"
        )
    check(x, y)
    x = x.detach()
    check_pixels(x)
    generator, eps = torch.Generator().manual_seed(seed), radii(attack.threat, x, None)
    x_adv = x.clone()
    with evaluating(model), torch.no_grad():
        logits = model(x)
        check_labels(logits, y)
        left = (logits.argmax(dim=1) == y).nonzero().flatten()
        for number in range(attack.rounds(logits.shape[1])):
            if not len(left):
                break
            part = x[left]
            rows = Rows(
                x=part, y=y[left], eps=eps[left], index=left, logits=model(part), round=torch.full_like(left, number)
            )
            state = attack.begin(rows, generator)
            while not bool(state["over"].all()):
                state = attack.step(model, state, generator)
            wrong = state["wrong"]
            x_adv[left[wrong]] = state["x_adv"][wrong]
            left = left[~wrong]
    return x_adv


def reference_in_turn(
    attacks: Iterable[Walk], model: nn.Module, x: Tensor, y: Tensor, *, seed: int, batch: int = 250
) -> Tensor:
    """Return what pyautoattack 0.2.0 returns for some attacks in turn, such as ``AutoAttack().parts().values()``.

    Each searches the inputs that those before it left, in new batches, the generator seeded anew for every one.

    Args:
        attacks: Untargeted searches, in their order.
        model: Pixels in [0, 1] to logits; run in eval mode.
        x: (N, C, H, W), clean inputs in [0, 1].
        y: (N,), labels, int64.
        seed: Of the generators.
        batch: Inputs at once.

    Returns:
        x_adv, (N, C, H, W): the first success of each input; x where there is none.

    Raises:
        BadInput: half-precision inputs, soft labels, labels that do not fit.
        Diverged: logits that are not finite for clean inputs.
    """
    x_adv, left = x.clone(), torch.ones_like(y, dtype=torch.bool)
    with evaluating(model), torch.no_grad():
        for rows in torch.arange(len(x), device=x.device).split(batch):
            left[rows] = model(x[rows]).argmax(dim=1) == y[rows]
        for attack in attacks:
            for rows in left.nonzero().flatten().split(batch):
                found = reference(attack, model, x[rows], y[rows], seed=seed)
                wrong = model(found).argmax(dim=1) != y[rows]
                x_adv[rows[wrong]] = found[wrong]
                left[rows[wrong]] = False
    return x_adv
