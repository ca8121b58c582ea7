"""AutoAugment against Pillow, image by image: the policy's pairs, levels and operations written out once more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from robustscape.data.augment import Chain
from robustscape.data.autoaugment import POLICY, AutoAugment
from robustscape.data.erase import Cutout
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput

FILL = (128, 10, 250)  # of as many channels as there are


def _images(n: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Smooth colours with noise on them, of other ranges in every image, as multiples of 1/255."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[0:side, 0:side] / side
    phase, frequency = rng.uniform(0, 6, (2, n, channels, 1, 1))
    waves = np.sin(phase + frequency * row + 2 * frequency * column)
    wide, middle = rng.uniform(5, 60, (n, channels, 1, 1)), rng.uniform(60, 190, (n, channels, 1, 1))
    levels = np.clip(middle + wide * waves + rng.normal(0, 8, (n, channels, side, side)), 0, 255)
    return torch.tensor(levels.astype(np.uint8)).float().div(255)


def _enhanced(kind, form: str, image: Image.Image, level: int, sign: float) -> Image.Image:
    factor = 1 + sign * np.linspace(0, 0.9, 10)[level] if form == "paper" else 0.1 + 0.18 * level
    return kind(image).enhance(factor)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    fill = FILL[: len(image.getbands())]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)


def pillow(name: str, form: str, image: Image.Image, level: int, sign: float) -> Image.Image:
    """Do one operation as a user of Pillow would write it."""
    paper = form == "paper"
    share = np.linspace(0, 150 / 331, 10)[level] * image.size[0] if paper else level
    shear = np.linspace(0, 0.3, 10)[level] if paper else 0.03 * level
    angle = np.linspace(0, 30, 10)[level] if paper else 3 * level
    threshold = np.linspace(256, 0, 10)[level] if paper else 256 - int(25.6 * level)
    bits = int(np.round(np.linspace(8, 4, 10))[level]) if paper else 4 - int(0.4 * level)
    fill = FILL[: len(image.getbands())]
    operations = {
        "colour": lambda: _enhanced(ImageEnhance.Color, form, image, level, sign),
        "contrast": lambda: _enhanced(ImageEnhance.Contrast, form, image, level, sign),
        "brightness": lambda: _enhanced(ImageEnhance.Brightness, form, image, level, sign),
        "sharpness": lambda: _enhanced(ImageEnhance.Sharpness, form, image, level, sign),
        "posterize": lambda: ImageOps.posterize(image, bits),
        "solarize": lambda: ImageOps.solarize(image, threshold),
        "invert": lambda: ImageOps.invert(image),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "rotate": lambda: image.rotate(sign * angle, Image.Resampling.NEAREST, fillcolor=fill),
        "shear_y": lambda: _affine(image, 1, 0, 0, sign * shear, 1, 0),
        "translate_x": lambda: _affine(image, 1, 0, sign * share, 0, 1, 0),
        "translate_y": lambda: _affine(image, 1, 0, 0, 0, 1, sign * share),
    }
    return operations[name]()


def _by_pillow(x: torch.Tensor, rng: Streams, form: str) -> torch.Tensor:
    """Draw the same numbers, then do each image alone."""
    pairs = rng.tag("pair").integers(25).tolist()
    happens = rng.tag("happens").uniform(2, dtype=torch.float64).tolist()
    signs = rng.tag("sign").sign(2).tolist()
    out = []
    for levels, pair, u, sign in zip((x * 255).round().byte(), pairs, happens, signs, strict=True):
        image = Image.fromarray(levels.permute(1, 2, 0).squeeze(2).numpy())
        for place, (name, probability, level) in enumerate(POLICY[pair]):
            if u[place] < probability:
                image = pillow(name, form, image, level, sign[place])
        out.append(np.atleast_3d(np.asarray(image)))
    return torch.tensor(np.stack(out)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["paper", "code"])
def test_reference_equal_to_pillow_level_by_level(form, channels):
    x = _images(250, channels)
    rng = numbered(x, "augment")
    augment = AutoAugment(form=form, fill=tuple(level / 255 for level in FILL[:channels]))
    assert torch.equal((augment(x, rng) * 255).round(), _by_pillow(x, rng, form))
    assert set(rng.tag("pair").integers(25).tolist()) == set(range(25))


PAPERS = """
Invert,0.1,7 Contrast,0.2,6; Rotate,0.7,2 TranslateX,0.3,9; Sharpness,0.8,1 Sharpness,0.9,3;
ShearY,0.5,8 TranslateY,0.7,9;
AutoContrast,0.5,8 Equalize,0.9,2; ShearY,0.2,7 Posterize,0.3,7; Color,0.4,3 Brightness,0.6,7;
Sharpness,0.3,9 Brightness,0.7,9; Equalize,0.6,5 Equalize,0.5,1; Contrast,0.6,7 Sharpness,0.6,5;
Color,0.7,7 TranslateX,0.5,8; Equalize,0.3,7 AutoContrast,0.4,8; TranslateY,0.4,3 Sharpness,0.2,6;
Brightness,0.9,6 Color,0.2,8; Solarize,0.5,2 Invert,0.0,3; Equalize,0.2,0 AutoContrast,0.6,0;
Equalize,0.2,8 Equalize,0.6,4; Color,0.9,9 Equalize,0.6,6; AutoContrast,0.8,4 Solarize,0.2,8;
Brightness,0.1,3 Color,0.7,0; Solarize,0.4,5 AutoContrast,0.9,3; TranslateY,0.9,9 TranslateY,0.7,9;
AutoContrast,0.9,2 Solarize,0.8,3; Equalize,0.8,8 Invert,0.1,3; TranslateY,0.7,9 AutoContrast,0.9,1
"""


def test_reference_the_policy_is_that_of_the_papers_appendix():
    steps = [[step.split(",") for step in pair.split()] for pair in PAPERS.split(";")]
    names = {"Color": "colour", "ShearY": "shear_y", "TranslateX": "translate_x", "TranslateY": "translate_y"}
    wanted = [tuple((names.get(n, n.lower()), float(p), int(level)) for n, p, level in pair) for pair in steps]
    assert list(POLICY) == wanted


def test_closed_form_each_pair_and_each_operation_occurs_as_often_as_it_should():
    """One pixel of 51/255 becomes 204/255 by inverting or strong solarising alone; within 5 standard deviations."""
    n = 20_000
    x = torch.full((n, 1, 1, 1), 0.2)
    out = AutoAugment()(x, numbered(x, "augment"))
    inverted = float((out - 0.8).abs().lt(1e-6).float().mean())
    steps = [step for pair in POLICY for step in pair]
    share = sum(p for name, p, level in steps if name == "invert" or (name, level) == ("solarize", 8)) / 25
    assert abs(inverted - share) < 5 * (share / n) ** 0.5


def test_closed_form_what_nothing_happens_to_keeps_its_bits():
    x = _images(300)
    out = AutoAugment()(x, numbered(x, "augment"))
    same = (out == x).flatten(1).all(dim=1)
    assert 0.02 < float(same.float().mean()) < 0.5


def test_contract_refuses_what_cannot_be_meant():
    with pytest.raises(BadInput, match="did you mean 128/255"):
        AutoAugment(fill=(128,))
    with pytest.raises(BadInput, match="'paper' or 'code'"):
        AutoAugment(form="best")
    with pytest.raises(BadInput, match="1 or 3 channels, not 2"):
        AutoAugment()(torch.zeros(1, 2, 4, 4), numbered(torch.zeros(1)))


def test_contract_goes_into_a_chain():
    x = _images(4)
    cutout = Cutout(size=16, inside=False)
    rng = numbered(x, "augment")
    out = Chain(first=AutoAugment(), second=cutout)(x, rng)
    assert torch.equal(out, cutout(AutoAugment()(x, rng.tag("first")), rng.tag("second")))
