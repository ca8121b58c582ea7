"""Libraries that the same work can be done with, where they are installed."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from robustscape.attacks._apgd import windows
from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.pgd import PGD
from robustscape.attacks.square import Square
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
    """Return the sides that count attacked errors of n examples over all restarts, and the reasons why others cannot.

    torchattacks goes on with those that are left after each restart; foolbox makes all of them.
    """
    sides: dict[str, Side] = {}
    missing: dict[str, str] = {}
    parts = list(zip(x.split(batch), y.split(batch), strict=True))
    torchattacks, missing["torchattacks"] = imported("torchattacks")
    if torchattacks is not None:
        settings = {"eps": attack.threat.eps, "alpha": attack.step_size, "steps": attack.steps, "random_start": True}
        one = [torchattacks.PGD(model, **settings) for _ in range(attack.restarts)]
        search = torchattacks.MultiAttack(one) if len(one) > 1 else one[0]

        def all_of() -> float:
            return sum(len(search(images, labels)) for images, labels in parts)

        sides["torchattacks"] = all_of
    foolbox, missing["foolbox"] = imported("foolbox")
    if foolbox is not None:
        wrapped, pgd = _foolbox(foolbox, model, attack)
        repeated = pgd.repeat(attack.restarts)

        def evaluate() -> float:
            return sum(len(repeated(wrapped, *part, epsilons=attack.threat.eps)[2]) for part in parts)

        sides["foolbox"] = evaluate
    return sides, {name: reason for name, reason in missing.items() if reason}


def ensembles(
    model: nn.Module, x: Tensor, y: Tensor, attack: AutoAttack, *, batch: int
) -> tuple[dict[str, Side], dict[str, str]]:
    """Return the sides that make AutoAttack's standard version on n examples, and the reasons why others cannot.

    Args:
        model: In eval mode.
        x: (N, C, H, W), the examples.
        y: (N,), their labels.
        attack: Under linf; its steps and queries are asked of all.
        batch: Examples at once.
    """
    pyautoattack, reason = imported("pyautoattack")
    if pyautoattack is None:
        return {}, {"pyautoattack": reason}
    steps, square = attack.steps, attack.parts()["Square"]
    assert isinstance(square, Square)

    def evaluate() -> float:
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            judge = pyautoattack.AutoAttack(model, norm="Linf", eps=attack.threat.eps, seed=0, device=x.device)
            judge.logger.setLevel(logging.ERROR)
            judge.apgd.n_iter = judge.apgd_targeted.n_iter = judge.fab.n_iter = steps
            for apgd in (judge.apgd, judge.apgd_targeted):  # what it derives from the steps when it is made
                apgd.n_iter_2, apgd.size_decr, apgd.n_iter_min = windows(steps)
            judge.square.n_queries = attack.queries
            judge.square.rescale_schedule = square.rescale
            judge.run_standard_evaluation(x, y, batch_size=batch)
        return len(x)

    return {"pyautoattack": evaluate}, {}


def _foolbox(foolbox: Any, model: nn.Module, attack: PGD) -> tuple[Any, Any]:
    """Return foolbox's model and its PGD."""
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    kind = foolbox.attacks.LinfProjectedGradientDescentAttack
    return wrapped, kind(abs_stepsize=attack.step_size, steps=attack.steps, random_start=True)
