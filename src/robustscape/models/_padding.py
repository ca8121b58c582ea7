"""What 3x3 convolutions of stride 2 are padded with: as torch has it, or as JAX and TensorFlow do."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional as F

Padding = Literal["both", "same"]
"""One pixel on every side; or one on the right and below, and on the other sides too where the size is odd."""

PADDINGS = get_args(Padding)


def padded(h: Tensor) -> Tensor:
    """Return h, (N, C, H, W), with what "same" adds to it: the convolution itself then pads nothing."""
    return F.pad(h, (h.shape[3] % 2, 1, h.shape[2] % 2, 1))
