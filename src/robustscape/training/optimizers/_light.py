"""Torch's optimisers without its compiler."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import unwrap

import torch


@cache
def light(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return one of torch's optimisers that steps to the same bits and never imports torch's compiler.

    Torch wraps an optimiser's methods so that compiled code leaves them out, and the wrappers import the whole compiler
    at their first call: 1.2 to 1.5 of the 3 seconds in which a training is to begin. What they wrap works as well
    without, outside of compiled code.

    Args:
        kind: A class of ``torch.optim``.
    """
    methods = {
        name: unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    }
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(unwrap(kind.step))})
