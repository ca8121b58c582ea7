"""Train, evaluate and look at robust image classifiers: will they stay robust on unseen data?

``robustscape.evaluate(model, x, y, eps=8/255)`` says how robust a model is, ``robustscape.load(source)`` brings
one in. All else is imported from the room that it lives in, for example ``robustscape.attacks.pgd.PGD``.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustscape.evaluation.accuracy import evaluate as evaluate
    from robustscape.models.loading import load as load

__version__ = metadata.version("robustscape")

_LATE = {"evaluate": "robustscape.evaluation.accuracy", "load": "robustscape.models.loading"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``import robustscape`` itself stays quick."""
    if name not in _LATE:
        raise AttributeError(f"module 'robustscape' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
