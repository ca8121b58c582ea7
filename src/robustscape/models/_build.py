"""What every ``build`` begins with: settings and shapes that can be meant, and seeded weights without a trace."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from robustscape.models.activations import Activation, check_activation
from robustscape.models.normalise import Channels, check_constants
from robustscape.streams import Streams, torch_draws
from robustscape.types import BadInput

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Depth of a residual network of basic blocks to the number of blocks in each of its four stages."""


class _Usual(Protocol):
    """The fields that networks have in common."""

    @property
    def width(self) -> int: ...
    @property
    def activation(self) -> Activation: ...
    @property
    def mean(self) -> Channels | None: ...
    @property
    def std(self) -> Channels | None: ...
    @property
    def per_image(self) -> bool: ...


def check_fields(architecture: _Usual) -> None:
    """Refuse what cannot be meant of the fields that networks have in common.

    Raises:
        BadInput: a width below 1, an unknown activation, or a normalisation that contradicts itself.
    """
    if architecture.width < 1:
        raise BadInput(f"width must be at least 1, not {architecture.width}")
    check_activation(architecture.activation)
    check_constants(architecture.mean, architecture.std, per_image=architecture.per_image)


def check_one_of(name: str, value: int | str, known: Collection[int | str]) -> None:
    """Refuse a value of a field that is none of the known ones.

    Raises:
        BadInput: says which there are.
    """
    if value not in known:
        raise BadInput(f"{name} must be one of {', '.join(map(str, known))}, not {value!r}")


def check_shape(image: tuple[int, int, int], classes: int) -> None:
    """Refuse an image shape (C, H, W) or a number of classes that no network can be built for.

    Raises:
        BadInput: not three positive sizes, or fewer than two classes.
    """
    if len(image) != 3 or min(image) < 1:
        raise BadInput(f"an image's shape is (channels, height, width), all at least 1, not {tuple(image)}")
    if classes < 2:
        raise BadInput(f"a classifier needs at least 2 classes, not {classes}")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the initial weights made in the block, on the CPU, from ``seed``.

    The global random state is the same before and after; generators of other devices are not touched.
    """
    cpu = torch.device("cpu")
    with torch_draws(Streams(seed, ("init",)).torch_seed(), cpu), cpu:
        yield


def drawn_by_fan_out(network: nn.Module) -> None:
    """Draw every convolution's weights anew, of variance 2 / (outputs * kernel size), and set linear biases to 0.

    He et al. 2015 (https://arxiv.org/abs/1502.01852), section 2.2, backward form. Biases of convolutions stay.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
