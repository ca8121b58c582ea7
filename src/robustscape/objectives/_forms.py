"""AT, TRADES and MART as what other objectives are made of."""

from __future__ import annotations

from typing import Literal, TypeAlias

from robustscape.attacks.losses import CrossEntropy
from robustscape.objectives._raising import raising
from robustscape.objectives.at import AT
from robustscape.objectives.mart import MART
from robustscape.objectives.trades import TRADES
from robustscape.types import Attack, BadInput, Objective

Form: TypeAlias = Literal["at", "trades", "mart"]


def formed(form: Form, attack: Attack, beta: float | None) -> Objective:
    """Return the objective of a form, whose attack raises what the form says.

    Args:
        form: Which.
        attack: The inner maximisation.
        beta: Weight of the divergence of TRADES or MART; None for their own.

    Raises:
        BadInput: an unknown form, or what the objective refuses.
    """
    if form == "at":
        if beta is not None:
            raise BadInput(f"beta is {beta:g}, but the form 'at' has no divergence to weigh; leave it out, or did you "
                           "mean form='trades'?")  # fmt: skip
        return AT(attack=raising(attack, CrossEntropy()))
    if form == "mart":
        return MART(attack=attack) if beta is None else MART(attack=attack, beta=beta)
    if form != "trades":
        raise BadInput(f"the form is 'at', 'trades' or 'mart', not {form!r}")
    return TRADES(attack=attack) if beta is None else TRADES(attack=attack, beta=beta)
