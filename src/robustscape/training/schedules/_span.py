"""The part of a training in which a factor changes."""

from __future__ import annotations

from robustscape.types import BadInput


def check_span(begin: float, until: float) -> None:
    """Refuse a part that is no part.

    Raises:
        BadInput: not 0 <= begin < until <= 1.
    """
    if not 0 <= begin < until <= 1:
        raise BadInput(f"begin and until are rising shares of all steps, in [0, 1], not {begin:g} and {until:g}")


def spanned(progress: float, begin: float, until: float) -> float:
    """Return how much of the part is over, in [0, 1], when so much of the training is."""
    return min(1.0, max(0.0, (progress - begin) / (until - begin)))
