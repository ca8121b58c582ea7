"""Augmentation that moves pixels to places between pixels: rotation, and cropping or padding with resizing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.streams import Streams
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """Rotation about the middle of the image by a random angle; what comes from outside is black.

    Wu 2020's code trains CIFAR-100 so, after crop and flip: by up to 15 degrees, to the nearest pixel.

    Attributes:
        degrees: Largest angle; it is drawn uniformly from [-degrees, degrees]. Above 0, at most 180.
        mode: How a place between pixels is read: "nearest", or "bilinear", which mixes the four around it.
    """

    degrees: float = 15.0
    mode: Literal["nearest", "bilinear"] = "nearest"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 < self.degrees <= 180:
            raise BadInput(f"a rotation is by up to degrees, in (0, 180], not {self.degrees:g}")
        if self.mode not in ("nearest", "bilinear"):
            raise BadInput(f"mode must be 'nearest' or 'bilinear', not {self.mode!r}")

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """Return the rotated images.

        Args:
            x: Images, (N, C, H, W), float32 or float64 in [0, 1], any device.
            rng: One stream per image.

        Returns:
            Images of the same shape, type and device.
        """
        H, W = x.shape[2:]
        angle = rng.tag("rotate").uniform(low=-self.degrees, high=self.degrees, dtype=torch.float64, device=x.device)
        angle = (angle * (math.pi / 180)).view(-1, 1, 1)
        # In float64, where it does not show in which order a sine is computed.
        row = _centred(H, x)[:, None]
        column = _centred(W, x)[None, :]
        turned_row = column * angle.sin() + row * angle.cos()
        turned_column = column * angle.cos() - row * angle.sin()
        return _read(x, turned_row, turned_column, self.mode)


@dataclass(frozen=True, kw_only=True)
class CropResize:
    """Each side padded with black, or cropped, by a random number of pixels; resized to the old size; then flipped.

    The augmentation of Stutz 2021 (https://arxiv.org/abs/2104.04448), whose code pads each side by 0 to 4 pixels.

    Attributes:
        least: Pixels that are added on a side at least; negative ones are cropped.
        most: Pixels that are added at most, at least ``least``: each side draws its own number from [least, most].
        flip: Flip left and right with probability 1/2.

    Deviations:
        The authors' code resizes by averages over areas, here it is bilinear.
    """

    least: int = 0
    most: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.least > self.most:
            raise BadInput(f"least must be at most most, not {self.least} and {self.most}; did you mean the reverse?")

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """Return the resized images.

        Args:
            x: Images, (N, C, H, W), float32 or float64 in [0, 1], any device.
            rng: One stream per image.

        Returns:
            Images of the same shape, type and device.

        Raises:
            BadInput: the images are too small to be cropped so far.
        """
        H, W = x.shape[2:]
        if 2 * self.least + min(H, W) < 1:
            raise BadInput(f"nothing is left of {H} x {W} pixels where {-self.least} are cropped on each side")
        added = self.least + rng.tag("crop").integers(self.most - self.least + 1, 4, device=x.device)
        top, bottom, left, right = added.double().T[..., None]
        row = _centred(H, x) * ((H + top + bottom) / H) + (bottom - top) / 2
        column = _centred(W, x) * ((W + left + right) / W) + (right - left) / 2
        if self.flip:
            flipped = rng.tag("flip").integers(2, 1, device=x.device).bool()
            column = torch.where(flipped, column.flip(1), column)
        return _read(x, row[:, :, None], column[:, None, :], "bilinear")


def _centred(size: int, like: Tensor) -> Tensor:
    """Return the places of the pixels of a row, measured from its middle, (size,), float64."""
    return torch.arange(size, dtype=torch.float64, device=like.device) - (size - 1) / 2


def _read(x: Tensor, row: Tensor, column: Tensor, mode: str) -> Tensor:
    """Return what stands at places measured from the middle, each broadcast to (N, H, W); black outside."""
    N, C, H, W = x.shape
    if mode == "nearest":
        row, column = (row + (H - 1) / 2).round().long(), (column + (W - 1) / 2).round().long()
        there = (row >= 0) & (row < H) & (column >= 0) & (column < W)
        source = (row.clamp(0, H - 1) * W + column.clamp(0, W - 1)).view(N, 1, -1).expand(N, C, -1)
        return x.flatten(2).gather(2, source).view(N, C, H, W) * there[:, None]
    places = torch.stack([(column * (2 / W)).expand(N, H, W), (row * (2 / H)).expand(N, H, W)], dim=3)
    read = F.grid_sample(x, places.to(x.dtype), mode=mode, padding_mode="zeros", align_corners=False)
    return read.clamp_(0, 1)  # weights may add up to more than 1 by a rounding
