"""Modes: the only code that changes a model's mode, or takes back what a forward did to its buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from torch import Tensor, nn


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    if all(was == training for _, was in before):
        yield
        return
    try:
        for module, _ in before:
            module.training = training
        yield
    finally:
        for module, was in before:
            module.training = was


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Run the block with every module in eval mode; each gets its own flag back, on error too."""
    return _mode(model, training=False)


def training(model: nn.Module) -> AbstractContextManager[None]:
    """Run the block with every module in train mode; each gets its own flag back, on error too."""
    return _mode(model, training=True)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Give every buffer (BatchNorm's running statistics among them) its value back after the block.

    Forwards inside may use batch statistics; what they did to the running ones is undone bit for bit.
    """
    buffers = [(m, name, b) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    kept = [buffer.clone() for _, _, buffer in buffers]
    try:
        yield
    finally:
        for (module, name, buffer), value in zip(buffers, kept, strict=True):
            setattr(module, name, buffer)  # where a forward put another tensor into its place
            # Through .data, which autograd does not count as a change: a backward may still come, and in
            # train mode it reads the batch's statistics, never these.
            buffer.data.copy_(value)


class InTrainMode(nn.Module):
    """The model as papers see it that attack in train mode: its eval mode is the model's train mode.

    BatchNorm then normalises by the statistics of the batch under attack.

    Args:
        model: The model; shared, not copied.
        statistics: "frozen" takes back what the forwards did to the running statistics, "counted" lets
            every forward move them, as the code of Rice 2020 and Wu 2020 does.
    """

    def __init__(self, model: nn.Module, statistics: Literal["frozen", "counted"]) -> None:
        super().__init__()
        self.model = model
        self.statistics = statistics

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x, (N, K), with batch statistics."""
        with training(self.model):
            if self.statistics == "counted":
                return self.model(x)
            with frozen_statistics(self.model):
                return self.model(x)
