"""Normalisation of pixels inside the model, by constants or per image: attacks and eps stay in pixel units."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustscape.types import BadInput

Channels = tuple[float, ...]
"""One number for each channel, or a single one for all of them."""


def check_constants(mean: Channels | None, std: Channels | None, *, per_image: bool = False) -> None:
    """Refuse normalisation constants that cannot be meant; both None is no normalisation by constants.

    Raises:
        BadInput: one of the two alone, different lengths, numbers of [0, 255] images, a std not above 0, or
            constants where images are normalised by their own.
    """
    if mean is None and std is None:
        return
    if per_image:
        raise BadInput(f"per_image takes each image's own mean and std, so mean {mean} and std {std} must be left out")
    if mean is None or std is None:
        missing = "mean" if mean is None else "std"
        raise BadInput(f"normalisation needs mean and std, but {missing} is missing")
    if len(mean) != len(std) or not mean:
        raise BadInput(f"mean and std must have one number per channel, not {len(mean)} and {len(std)}")
    if not all(math.isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise BadInput(f"std must be above 0 and mean and std finite, not mean {mean} and std {std}")
    if max(mean) > 1:
        raise BadInput(f"mean {mean} is not one of pixels in [0, 1]; did you mean to divide mean and std by 255?")


class Normalise(nn.Module):
    """Map pixels x in [0, 1], (N, C, H, W), to (x - mean) / std per channel; the identity without constants.

    The constants are buffers that follow the module's device and type. They are left out of the state
    dict, since they are the architecture's and not learnt: weights trained elsewhere then fit as they are.

    Args:
        mean: One number per channel or a single one, in pixel units; None for the identity.
        std: The same, above 0.

    Raises:
        BadInput: constants that cannot be meant, see ``check_constants``.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, mean: Channels | None = None, std: Channels | None = None) -> None:
        super().__init__()
        check_constants(mean, std)
        for name, values in (("mean", mean), ("std", std)):
            constants = None if values is None else torch.tensor(values).view(-1, 1, 1)
            self.register_buffer(name, constants, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images, (N, C, H, W)."""
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std


class PerImage(nn.Module):
    """Map every image x to (x - m) / max(s, 1 / sqrt(n)): m and s are the mean and deviation of its n numbers.

    TensorFlow's ``per_image_standardization``, as the network of Madry et al. 2018
    (https://arxiv.org/abs/1706.06083) begins. The lower bound is for images of one colour, whose gradient is finite.

    Deviations:
        The bound is in units of pixels in [0, 1]. Madry's code has pixels in [0, 255], where it is 255 times lower.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images, (N, C, H, W)."""
        numbers = x.shape[1] * x.shape[2] * x.shape[3]
        variance, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
        return (x - mean) * variance.clamp(min=1 / numbers).rsqrt()


def normalise(
    mean: Channels | None, std: Channels | None, channels: int, *, per_image: bool = False
) -> Normalise | PerImage:
    """Return the normalisation of images with the given number of channels.

    Raises:
        BadInput: constants for another number of channels, or constants and ``per_image``.
    """
    check_constants(mean, std, per_image=per_image)
    if per_image:
        return PerImage()
    if mean is not None and len(mean) not in (1, channels):
        raise BadInput(f"mean and std have {len(mean)} numbers, but the images have {channels} channels")
    return Normalise(mean, std)
