"""Libraries that the same work can be done with, where they are installed."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.benches.harness import Side
from robustscape.types import Batch


def imported(name: str) -> tuple[Any, str]:
    """Return a library and "", or None and the reason why it cannot be had, in one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name), ""
    except Exception as error:  # a library runs as it is imported: one that does not fit the others raises anything
        how = "`make peers` installs it for .venv-peers/bin/robustscape bench"
        return None, f"cannot be imported ({str(error).partition(chr(10))[0]}); {how}"


def attackers(model: nn.Module, batch: Batch, attack: PGD) -> tuple[dict[str, Side], dict[str, str]]:
    """Return the sides that make the attack on a batch, and the reasons why others cannot.

    Args:
        model: In eval mode.
        batch: The examples.
        attack: linf PGD with a fixed step size.
    """
    eps, size, steps = attack.threat.eps, attack.step_size, attack.steps
    sides: dict[str, Side] = {}
    missing: dict[str, str] = {}
    torchattacks, missing["torchattacks"] = imported("torchattacks")
    if torchattacks is not None:
        search = torchattacks.PGD(model, eps=eps, alpha=size, steps=steps, random_start=True)
        sides["torchattacks"] = lambda: len(search(batch.x, batch.y))
    foolbox, missing["foolbox"] = imported("foolbox")
    if foolbox is not None:
        wrapped, pgd = _foolbox(foolbox, model, attack)
        sides["foolbox"] = lambda: len(pgd.run(wrapped, batch.x, batch.y, epsilon=eps))
    return sides, {name: reason for name, reason in missing.items() if reason}


def evaluators(
    model: nn.Module, x: Tensor, y: Tensor, attack: PGD, *, batch: int
) -> tuple[dict[str, Side], dict[str, str]]:
    """Return the sides that count clean and attacked errors of n examples, and the reasons why others cannot."""
    foolbox, reason = imported("foolbox")
    if foolbox is None:
        return {}, {"foolbox": reason}
    wrapped, pgd = _foolbox(foolbox, model, attack)

    def evaluate() -> float:
        wrong = 0
        for images, labels in zip(x.split(batch), y.split(batch), strict=True):
            wrong += int((wrapped(images).argmax(dim=-1) != labels).sum())
            wrong += int(pgd(wrapped, images, labels, epsilons=attack.threat.eps)[2].sum())
        return len(x)

    return {"foolbox": evaluate}, {}


def _foolbox(foolbox: Any, model: nn.Module, attack: PGD) -> tuple[Any, Any]:
    """Return foolbox's model and its PGD."""
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    kind = foolbox.attacks.LinfProjectedGradientDescentAttack
    return wrapped, kind(abs_stepsize=attack.step_size, steps=attack.steps, random_start=True)
