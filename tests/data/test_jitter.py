"""Colour jitter against Pillow and colorsys, image by image."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from robustscape.data.jitter import ColorJitter
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput

KINDS = ("brightness", "contrast", "saturation", "hue")


def _images(n: int, channels: int = 3) -> torch.Tensor:
    x = torch.rand(n, channels, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :, 0, 0] = 0.4  # grey: without a hue
    return x


def _drawn(rng: Streams) -> tuple[np.ndarray, np.ndarray]:
    """Return the amounts in [-1, 1] and the order of the kinds of each image."""
    return rng.tag("amount").uniform(4, low=-1, dtype=torch.float64).numpy(), rng.tag("order").bits(4).argsort().numpy()


def _naive(image: np.ndarray, kind: str, amount: float) -> np.ndarray:
    """Change (H, W, 3) pixels by formulas of their own."""
    brightness = image @ np.array([0.299, 0.587, 0.114])
    if kind == "brightness":
        return np.clip(image * (1 + amount), 0, 1)
    if kind == "contrast":
        return np.clip(brightness.mean() * -amount + image * (1 + amount), 0, 1)
    if kind == "saturation":
        return np.clip(brightness[..., None] * -amount + image * (1 + amount), 0, 1)
    flat = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)]
    return np.array([colorsys.hsv_to_rgb((h + amount) % 1, s, v) for h, s, v in flat]).reshape(image.shape)


def test_reference_all_kinds_in_the_order_drawn_are_a_loop_over_images():
    """The weights of red, green and blue are Pillow's, 0.299, 0.587 and 0.114 to 2^-16."""
    x = _images(24)
    rng = numbered(x, "augment")
    most = dict(zip(KINDS, (0.5, 0.8, 0.9, 0.5), strict=True))
    out = ColorJitter(**most)(x, rng)
    for image, ours, amounts, order in zip(x, out, *_drawn(rng), strict=True):
        theirs = image.permute(1, 2, 0).numpy()
        for kind in order:
            theirs = _naive(theirs, KINDS[kind], most[KINDS[kind]] * amounts[kind])
        np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("channels", [1, 3])
def test_reference_each_kind_alone_is_that_of_pillow_to_its_rounding(kind, channels):
    """Pillow cuts off to whole levels, and rounds brightness and its mean: two levels at most."""
    x = (_images(20, channels) * 255).floor() / 255
    rng = numbered(x, "augment")
    out = ColorJitter(**({name: 0.0 for name in KINDS} | {kind: 0.6}))(x, rng)
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    amounts, _ = _drawn(rng)
    for image, ours, amount in zip(x, out, amounts[:, KINDS.index(kind)], strict=True):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy())
        theirs = np.atleast_3d(np.asarray(enhance[kind](picture).enhance(1 + 0.6 * amount))) / 255
        np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), theirs, rtol=0, atol=2 / 255)


def test_closed_form_grey_images_have_neither_saturation_nor_hue():
    x = _images(8, 1)
    assert torch.equal(ColorJitter(brightness=0, contrast=0, saturation=0.9, hue=0.5)(x, numbered(x)), x)


def test_closed_form_orders_and_amounts_are_even():
    """Within 5 standard deviations: every order of three as often, amounts over the whole range."""
    n = 6000
    amounts, order = _drawn(numbered(torch.zeros(n), "augment"))
    for kind in range(4):
        assert abs((order[:, 0] == kind).mean() - 0.25) < 5 * (0.25 * 0.75 / n) ** 0.5
    x = torch.full((n, 1, 1, 1), 0.5, dtype=torch.float64)
    out = ColorJitter(brightness=0.5, contrast=0, saturation=0)(x, numbered(x, "augment")).flatten().numpy()
    assert 0.25 <= out.min() < 0.251 and 0.749 < out.max() <= 0.75
    assert abs(out.mean() - 0.5) < 5 * 0.25 / (3 * n) ** 0.5
    np.testing.assert_allclose(out, 0.5 * (1 + 0.5 * amounts[:, 0]), rtol=0, atol=1e-12)


def test_contract_refuses_what_cannot_be_meant():
    with pytest.raises(BadInput, match=r"hue is changed by at most 0\.5"):
        ColorJitter(hue=0.6)
    with pytest.raises(BadInput, match="changes nothing"):
        ColorJitter(brightness=0, contrast=0, saturation=0)
    with pytest.raises(BadInput, match="1 or 3 channels, not 4"):
        ColorJitter()(torch.zeros(1, 4, 2, 2), numbered(torch.zeros(1)))
