"""What every ``build`` begins with: a shape that can be meant, and seeded initial weights without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robustscape.streams import Streams
from robustscape.types import BadInput


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
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(Streams(seed, ("init",)).torch_seed())
        yield
