"""Operations on the colours of a batch of images, each image by a magnitude of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.types import BadInput

# The weights that Pillow gives to red, green and blue, in units of 2^-16.
_RED, _GREEN, _BLUE = 19595, 38470, 7471


def check_channels(x: Tensor, what: str) -> None:
    """Refuse images, (N, C, H, W), that are neither grey nor red, green and blue.

    Raises:
        BadInput: C is neither 1 nor 3.
    """
    if x.shape[1] not in (1, 3):
        raise BadInput(f"{what} is for images of 1 or 3 channels, not {x.shape[1]}")


def grey(x: Tensor) -> Tensor:
    """Return the brightness of each pixel, (N, 1, H, W), of images of 1 or 3 channels."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(dim=1)
    return (red * _RED).add_(green * _GREEN).add_(blue * _BLUE).mul_(2**-16)[:, None]


def blended(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Return base + factor (x - base), the factor one for each image, (N,): 0 is the base, 1 is x."""
    return (x - base).mul_(factor.to(x.dtype).view(-1, 1, 1, 1)).add_(base)


# -- on 256 levels, as Pillow computes ----------------------------------------------------------------------
#
# Levels are whole numbers in [0, 255] as float32, (N, C, H, W), C 1 or 3; magnitudes are float64, (N,).


def level_colour(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the grey image; magnitude 1 leaves all as it is."""
    return _cut(blended(_grey_levels(levels), levels, magnitude))


def level_contrast(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the mean brightness of the image; magnitude 1 leaves all as it is."""
    mean = _grey_levels(levels).double().mean(dim=(1, 2, 3), keepdim=True)
    return _cut(blended((mean + 0.5).floor().float(), levels, magnitude))


def level_brightness(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with black; magnitude 1 leaves all as it is."""
    return _cut(blended(torch.zeros_like(levels), levels, magnitude))


def level_sharpness(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the smoothed image, whose edge is not smoothed; magnitude 1 leaves all as it is."""
    smooth = levels.clone()
    if min(levels.shape[2:]) > 2:
        # Whole numbers: the sum of nine, the middle one five times, over 13, to the nearest.
        nine = F.avg_pool2d(levels, 3, stride=1, divisor_override=1)
        smooth[:, :, 1:-1, 1:-1] = ((nine + 4 * levels[:, :, 1:-1, 1:-1] + 6) / 13).floor()
    return _cut(blended(smooth, levels, magnitude))


def level_posterize(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Keep so many of the eight bits of each level."""
    width = torch.exp2(8 - magnitude).float().view(-1, 1, 1, 1)
    return (levels / width).floor() * width


def level_solarize(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Invert the levels that are not below a threshold."""
    return torch.where(levels < magnitude.view(-1, 1, 1, 1), levels, 255 - levels)


def level_invert(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Invert all levels; there is no magnitude to it."""
    return 255 - levels


def level_autocontrast(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Stretch each channel to all levels, one of a single level left as it is; there is no magnitude to it."""
    low, high = (ends[..., None].double() for ends in levels.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255) / (high - low)  # of a number and a tensor torch takes the reciprocal
    table = (_all_levels(levels) * scale - low * scale).clamp(0, 255).floor()
    return _looked_up(levels, torch.where(high > low, table, _all_levels(levels)))


def level_equalize(levels: Tensor, magnitude: Tensor) -> Tensor:
    """Spread each channel's levels so that all are about equally frequent; there is no magnitude to it."""
    flat = levels.long().flatten(2)
    count = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=flat.device)
    count.scatter_add_(2, flat, torch.ones_like(flat))
    below = count.cumsum(dim=2) - count  # how many pixels are darker
    step = below.gather(2, flat.amax(dim=2, keepdim=True)) // 255
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255).double()
    return _looked_up(levels, torch.where(step > 0, table, _all_levels(levels)))


def _all_levels(like: Tensor) -> Tensor:
    """Return the numbers from 0 to 255, float64."""
    return torch.arange(256, dtype=torch.float64, device=like.device)


def _looked_up(levels: Tensor, table: Tensor) -> Tensor:
    """Return what a table, (N, C, 256), has for the levels of each channel."""
    return table.to(levels.dtype).gather(2, levels.long().flatten(2)).view_as(levels)


def _grey_levels(levels: Tensor) -> Tensor:
    """Return the brightness of each pixel as a level, rounded as Pillow rounds, (N, 1, H, W)."""
    if levels.shape[1] == 1:
        return levels
    red, green, blue = levels.long().unbind(dim=1)
    return ((red * _RED + green * _GREEN + blue * _BLUE + 2**15) >> 16).float()[:, None]


def _cut(levels: Tensor) -> Tensor:
    """Return whole levels in [0, 255]: what is between two becomes the lower one."""
    return levels.clamp(0, 255).floor()
