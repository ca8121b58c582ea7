"""Rotation and resizing against Pillow and a loop over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from robustscape.data.warp import CropResize, Rotate
from robustscape.streams import numbered
from robustscape.types import BadInput


def _images(n: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(n, 2, height, width, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _bilinear(image: torch.Tensor, row: float, column: float) -> torch.Tensor:
    """Read (C, H, W) at one place, in pixels from the first one's centre; black outside."""
    top, left = math.floor(row), math.floor(column)
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return total


# -- rotation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (9, 14)])
@pytest.mark.parametrize("degrees", [15.0, 180.0])
def test_reference_nearest_is_the_rotation_of_pillow(shape, degrees):
    """Pillow counts in steps of 2^-16, so a few places at equal distance from two pixels fall to the other one."""
    x = _images(20, *shape, dtype=torch.float32)
    rng = numbered(x, "augment")
    angles = rng.tag("rotate").uniform(low=-degrees, high=degrees, dtype=torch.float64)
    out = Rotate(degrees=degrees)(x, rng)
    different = 0
    for image, angle, ours in zip(x, angles.tolist(), out, strict=True):
        for channel, mine in zip(image, ours, strict=True):
            theirs = np.asarray(Image.fromarray(channel.numpy()).rotate(angle))
            different += int((theirs != mine.numpy()).sum())
    assert different <= 0.001 * out.numel()
    assert float(angles.abs().max()) > 0.8 * degrees


def test_reference_bilinear_is_a_loop_over_pixels():
    x = _images(3, 5, 6)
    rng = numbered(x, "augment")
    angles = rng.tag("rotate").uniform(low=-40, high=40, dtype=torch.float64)
    out = Rotate(degrees=40, mode="bilinear")(x, rng)
    for image, angle, ours in zip(x, angles.tolist(), out, strict=True):
        turn = complex(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
        # Counter-clockwise, where rows count downwards: read at the place that turns into this one.
        places = [complex(j - 2.5, 2 - i) / turn for i in range(5) for j in range(6)]
        wanted = torch.stack([_bilinear(image, 2 - place.imag, place.real + 2.5) for place in places], dim=1)
        torch.testing.assert_close(ours.flatten(1), wanted, rtol=0, atol=1e-12)


def test_closed_form_angles_are_uniform():
    """A line through the middle of a large image shows its angle; mean and spread within 5 standard errors."""
    n = 400
    x = torch.zeros(n, 1, 61, 61)
    x[:, :, 30, 31:] = 1
    out = Rotate(degrees=20)(x, numbered(x))
    grid = torch.arange(61.0) - 30
    rise = -(out[:, 0] * grid[:, None]).sum((1, 2))
    run = (out[:, 0] * grid[None, :]).sum((1, 2))
    angles = torch.atan2(rise, run) * (180 / math.pi)
    spread = 20 / math.sqrt(3)
    assert float(angles.abs().max()) < 21
    assert abs(float(angles.mean())) < 5 * spread / math.sqrt(n)
    assert abs(float(angles.std()) / spread - 1) < 0.15


# -- resizing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "most"), [(0, 4), (-2, 1), (-2, -1)])
@pytest.mark.parametrize("flip", [True, False])
def test_reference_resizing_is_a_loop_over_pixels(least, most, flip):
    x = _images(6, 5, 6)
    rng = numbered(x, "augment")
    added = (least + rng.tag("crop").integers(most - least + 1, 4)).tolist()
    flips = rng.tag("flip").integers(2, 1).flatten().tolist()
    out = CropResize(least=least, most=most, flip=flip)(x, rng)
    for image, (top, bottom, left, right), flipped, ours in zip(x, added, flips, out, strict=True):
        mine = ours.flip(2) if flip and flipped else ours
        rows = [(i + 0.5) / 5 * (5 + top + bottom) - 0.5 - top for i in range(5)]
        columns = [(j + 0.5) / 6 * (6 + left + right) - 0.5 - left for j in range(6)]
        wanted = torch.stack([_bilinear(image, row, column) for row in rows for column in columns], dim=1)
        torch.testing.assert_close(mine.flatten(1), wanted, rtol=0, atol=1e-12)


def test_closed_form_nothing_added_is_the_image_or_its_mirror():
    x = _images(60, 6, 6, dtype=torch.float32)
    out = CropResize(most=0)(x, numbered(x))
    same = (out - x).flatten(1).abs().amax(dim=1) < 1e-5
    mirrored = (out - x.flip(3)).flatten(1).abs().amax(dim=1) < 1e-5
    assert bool((same ^ mirrored).all()) and 10 < int(same.sum()) < 50


# -- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Rotate(degrees=0), "degrees"),
        (lambda: Rotate(degrees=270), "degrees"),
        (lambda: Rotate(mode="cubic"), "mode"),  # pyright: ignore[reportArgumentType]
        (lambda: CropResize(least=4, most=0), "did you mean the reverse"),
        (lambda: CropResize(least=-3)(torch.rand(2, 1, 6, 8), numbered(torch.rand(2))), "nothing is left of 6 x 8"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, words):
    with pytest.raises(BadInput, match=words):
        wrong()
