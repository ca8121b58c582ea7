"""Which units of a network fire: the outputs of its ReLUs over a subject's examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustscape import modes
from robustscape.evaluation.judging import batches, predicted
from robustscape.runtime.memory import Parts
from robustscape.types import Subject

_RELUS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@dataclass
class _Seen:
    """What one ReLU gave so far: which units fired, how many outputs were positive, and how many there were."""

    fired: Tensor
    positive: float
    outputs: int


def relu_units(subject: Subject) -> dict[str, list[Any]]:
    """Return what every ReLU gives over a subject's examples, by clean forwards in eval mode.

    Returns:
        Lists of one entry a ReLU, in the order they run: "activations", the names; "units", how many units; "dead", how
        many of them fire on no example; "active", the share of outputs above 0.
    """
    seen: dict[str, _Seen] = {}

    def some(rows: Tensor) -> dict[str, _Seen]:
        with modes.frozen_statistics(subject.model), _inside(subject.model) as where, _Relus(where) as relus:
            predicted(subject.model, subject.x[rows])
        return relus.seen

    for padded, count in batches(subject):
        real = padded[:count]
        for part in (subject.parts or Parts()).each(lambda rows, real=real: some(real[rows]), count):
            for name, new in part.items():
                old = seen.setdefault(name, _Seen(torch.zeros_like(new.fired), 0.0, 0))
                seen[name] = _Seen(old.fired | new.fired, old.positive + new.positive, old.outputs + new.outputs)
    return {
        "activations": list(seen),
        "units": [len(relu.fired) for relu in seen.values()],
        "dead": [int((~relu.fired).sum()) for relu in seen.values()],
        "active": [relu.positive / relu.outputs for relu in seen.values()],
    }


class _Relus(TorchFunctionMode):
    """Looks at the output of every ReLU that runs in the block, module or not; changes nothing.

    Args:
        where: The names of the modules that are running, the innermost last.
    """

    def __init__(self, where: list[str]) -> None:
        super().__init__()
        self.where = where
        self.seen: dict[str, _Seen] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and look at what a ReLU gave."""
        out = func(*args, **(kwargs or {}))
        if func in _RELUS:
            self._look(out)
        return out

    def _look(self, out: Tensor) -> None:
        if out.ndim < 2:
            return
        name, times = self.where[-1], 1
        while (key := name if times == 1 else f"{name} ({times})") in self.seen:
            times += 1
        unit = out.ndim - 1 if out.ndim == 3 else 1  # channels stand second; of sequences, (N, T, D), last
        positive = out.movedim(unit, 0).flatten(1) > 0
        self.seen[key] = _Seen(positive.any(dim=1), float(positive.sum()), positive.numel())


@contextmanager
def _inside(model: nn.Module) -> Iterator[list[str]]:
    """Run the block with a list of the names of the modules that are running; the network itself has its class's."""
    running: list[str] = []
    names = {module: name or type(model).__name__ for name, module in model.named_modules()}

    def begins(module: nn.Module, *_: object) -> None:
        running.append(names[module])

    def ends(*_: object) -> None:
        running.pop()

    handles = [hook for module in names for hook in (
        module.register_forward_pre_hook(begins), module.register_forward_hook(ends)
    )]  # fmt: skip
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()
