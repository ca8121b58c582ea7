"""Augmentation of whole batches on their device: crops and flips, and several kinds in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from robustscape.data.autoaugment import AutoAugment
from robustscape.data.erase import Cutout, Erase, check_colour, colour
from robustscape.data.jitter import ColorJitter
from robustscape.data.warp import CropResize, Rotate
from robustscape.streams import Streams
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class CropFlip:
    """Random crop of the padded image and random horizontal flip, as all the papers train CIFAR-10.

    Attributes:
        pad: Pixels added on each side before an image of the old size is cropped, at least 0; 0 for no crop.
        mode: What is added: "zeros" (the colour ``fill``), or "reflect" (the mirrored image, its edge not repeated; as
            in the code of Rice 2020 and Wu 2020).
        flip: Flip left and right with probability 1/2.
        fill: Colour of what is added in mode "zeros", in [0, 1]: one number for all channels, or one for each. Black;
            before AutoAugment the code of Stutz 2021 takes the mean colour of the data.
    """

    pad: int = 4
    mode: Literal["zeros", "reflect"] = "zeros"
    flip: bool = True
    fill: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.pad < 0:
            raise BadInput(f"pad must be at least 0 pixels, not {self.pad}")
        if self.mode not in ("zeros", "reflect"):
            raise BadInput(f"mode must be 'zeros' or 'reflect', not {self.mode!r}")
        check_colour(self.fill)
        if self.mode == "reflect" and any(self.fill):
            raise BadInput(
                f"fill={self.fill} is the colour of what mode 'zeros' adds, and 'reflect' adds the mirrored image; "
                "leave one of them out"
            )

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """Return the augmented images.

        Args:
            x: Images, (N, C, H, W), any type and device.
            rng: One stream per image.

        Returns:
            Images of the same shape, type and device; pixels are moved, never mixed. In images of whole numbers,
            levels from 0 to 255, ``fill`` is the nearest level.

        Raises:
            BadInput: the images are too small to be mirrored so far, or ``fill`` has not as many numbers as they
                channels.
        """
        N, C, H, W = x.shape
        if self.mode == "reflect" and self.pad >= min(H, W):
            raise BadInput(f"pad {self.pad} cannot mirror images of {H} x {W} pixels; it must be below {min(H, W)}")
        shift = rng.tag("crop").integers(2 * self.pad + 1, 2, device=x.device) - self.pad
        row = shift[:, :1] + torch.arange(H, device=x.device)
        column = shift[:, 1:] + torch.arange(W, device=x.device)
        if self.flip:
            flipped = rng.tag("flip").integers(2, 1, device=x.device).bool()
            column = torch.where(flipped, column.flip(1), column)
        source = _inside(row, H)[:, :, None] * W + _inside(column, W)[:, None, :]
        moved = x.flatten(2).gather(2, source.view(N, 1, -1).expand(N, C, -1)).view(N, C, H, W)
        if self.mode == "reflect":
            return moved
        there = ((row >= 0) & (row < H))[:, :, None] & ((column >= 0) & (column < W))[:, None, :]
        if self.fill == (0.0,):
            return moved * there[:, None]
        return torch.where(there[:, None], moved, _shade(self.fill, x))


def _inside(position: Tensor, size: int) -> Tensor:
    """Return positions mirrored into [0, size): -1 is 1, and size is size - 2; far outside, any inside."""
    mirrored = (size - 1) - (size - 1 - position.abs()).abs()
    return mirrored.clamp(0, size - 1)


def _shade(fill: tuple[float, ...], x: Tensor) -> Tensor:
    """Return a colour in [0, 1] as images x have it, (1, 1 or C, 1, 1): as the nearest level where they are levels."""
    if x.is_floating_point():
        return colour(fill, x)
    return (colour(fill, x.float()) * 255).round().to(x.dtype)


Augmentation: TypeAlias = CropFlip | CropResize | Rotate | Cutout | Erase | AutoAugment | ColorJitter
"""Any one kind."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Up to four kinds, one after another, each with random numbers of its own.

    ``Chain(second=Rotate())`` crops, flips and rotates, as Wu 2020's code does on CIFAR-100.

    Attributes:
        first: What is done first, None for nothing.
        second: What is done then.
        third: What is done after that.
        fourth: What is done at last.
    """

    first: Augmentation | None = CropFlip()
    second: Augmentation | None = None
    third: Augmentation | None = None
    fourth: Augmentation | None = None

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """Return the augmented images; arguments, results and errors as those of each kind."""
        for place, augment in vars(self).items():
            if augment is not None:
                x = augment(x, rng.tag(place))
        return x
