"""Warm-up, which every schedule has."""

from __future__ import annotations

from robustscape.types import BadInput


def check_warmup(warmup: float) -> None:
    """Refuse a warm-up outside [0, 1).

    Raises:
        BadInput: it is outside.
    """
    if not 0 <= warmup < 1:
        raise BadInput(f"warmup is a share of all steps, in [0, 1), not {warmup:g}")


def warmed(done: int, total: int, warmup: float) -> float:
    """Return the factor of the warm-up: (done + 1) / (warmup * total) up to 1, so no step has factor 0."""
    steps = warmup * total
    return min(1.0, (done + 1) / steps) if steps > 0 else 1.0
