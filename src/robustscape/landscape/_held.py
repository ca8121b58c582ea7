"""What the measurements of a Hessian ask alike: of which loss, in which coordinates, of which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from robustscape.landscape.operator import Coordinates, worst_inputs
from robustscape.types import Attack, BadInput, Subject
from robustscape.weights.space import Scope


def inputs(subject: Subject, attack: Attack | None, loss: str, *tags: str | int) -> Tensor:
    """Return the inputs at which a loss is looked at, (N, C, H, W).

    Args:
        subject: What is looked at.
        attack: What makes the adversarial ones.
        loss: "clean" or "robust".
        *tags: Purpose of the random numbers.
    """
    if loss == "clean":
        return subject.x
    assert attack is not None, "a robust loss needs an attack"
    return worst_inputs(subject, attack, *tags)


def losses_of(attack: Attack | None) -> tuple[str, ...]:
    """Return which losses are looked at: "clean", and "robust" where there is an attack."""
    return ("clean",) if attack is None else ("clean", "robust")


def check_coordinates(coordinates: Sequence[str]) -> None:
    """Refuse coordinates that are unknown, named twice, or none.

    Raises:
        BadInput: they are.
    """
    known = get_args(Coordinates)
    if not coordinates or len(set(coordinates)) < len(coordinates) or not set(coordinates) <= set(known):
        raise BadInput(f"coordinates are some of {', '.join(known)}, each once, not {' '.join(coordinates) or 'none'}")


def check_scope(scope: str) -> None:
    """Refuse an unknown scope.

    Raises:
        BadInput: it is.
    """
    if scope not in get_args(Scope):
        raise BadInput(f"scope {scope!r} is not one of {', '.join(get_args(Scope))}")
