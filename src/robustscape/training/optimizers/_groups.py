"""What the optimisers of the room share: parameter groups."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from robustscape.types import BadInput


def check(lr: float, weight_decay: float, decay: str) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        BadInput: lr is not above 0, weight_decay is below 0, or decay is neither "all" nor "weights".
    """
    if not lr > 0:
        raise BadInput(f"lr must be above 0, not {lr:g}")
    if not weight_decay >= 0:
        raise BadInput(f"weight_decay must be at least 0, not {weight_decay:g}")
    if decay not in ("all", "weights"):
        raise BadInput(f"what decays is 'all' or 'weights', not {decay!r}")


def groups(model: nn.Module, weight_decay: float, decay: Literal["all", "weights"]) -> list[dict[str, Any]]:
    """Return the optimiser's parameter groups: what decays, then what does not.

    Each group names its parameters ("names"), in the order of its "params".
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    chosen = [decay == "all" or parameter.ndim > 1 for _, parameter in named]
    split = []
    for wanted, coefficient in ((True, weight_decay), (False, 0.0)):
        part = [pair for pair, is_chosen in zip(named, chosen, strict=True) if is_chosen == wanted]
        if part:
            names, parameters = zip(*part, strict=True)
            split.append({"params": list(parameters), "weight_decay": coefficient, "names": list(names)})
    return split
