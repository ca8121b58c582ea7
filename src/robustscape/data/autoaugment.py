"""AutoAugment: a learnt policy of pairs of operations, one pair drawn for each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustscape.data import tone
from robustscape.data.erase import check_colour, colour
from robustscape.streams import Streams
from robustscape.types import BadInput

_Step = tuple[str, float, int]  # operation, probability, level from 0 to 9

POLICY: tuple[tuple[_Step, _Step], ...] = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("colour", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)
"""The 25 sub-policies for CIFAR-10: the appendix of Cubuk 2018."""

_COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "colour": tone.level_colour,
    "contrast": tone.level_contrast,
    "brightness": tone.level_brightness,
    "sharpness": tone.level_sharpness,
    "posterize": tone.level_posterize,
    "solarize": tone.level_solarize,
    "invert": tone.level_invert,
    "autocontrast": tone.level_autocontrast,
    "equalize": tone.level_equalize,
}
_OPERATIONS = (*_COLOURS, "rotate", "shear_y", "translate_x", "translate_y")
_BLENDS = ("colour", "contrast", "brightness", "sharpness")


@dataclass(frozen=True, kw_only=True)
class AutoAugment:
    """The policy that AutoAugment learnt for CIFAR-10 (Cubuk 2018, https://arxiv.org/abs/1805.09501, appendix).

    Of each image one of ``POLICY``'s 25 pairs is drawn, and each of the pair's two operations happens with its own
    probability. Operations are those of Pillow, on 256 levels; what moves is read at the nearest pixel.

    Attributes:
        form: What a level stands for. "paper": one of ten evenly spaced values from no change to the end of the
            operation's range, upwards or downwards at random: enhancement by up to 0.9, 30 degrees, a shear of 0.3,
            150/331 of a side. "code": the authors' code: tenths of other ranges, cut off to whole numbers;
            enhancement by 0.1 + 0.18 level, never downwards.
        fill: Colour of what comes from outside the image, in [0, 1]: one number for all channels, or one for each.

    Deviations:
        From the paper: none known; it does not say what comes from outside.
        From the authors' code, ``official``: that has further sub-policies of other runs, from which it draws too,
        and fills with the data's mean colour at the end.
        From Stutz' code (https://arxiv.org/abs/2104.04448), ``stutz``: it shears bicubically, and rotates in one
        direction alone, there with a fill of 128/255.
    """

    form: Literal["paper", "code"] = "paper"
    fill: tuple[float, ...] = (128 / 255,)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.form not in ("paper", "code"):
            raise BadInput(f"the form of AutoAugment is 'paper' or 'code', not {self.form!r}")
        check_colour(self.fill)

    @classmethod
    def official(cls) -> AutoAugment:
        """Return the setting of the authors' code."""
        return cls(form="code")

    @classmethod
    def stutz(cls) -> AutoAugment:
        """Return the setting of Stutz' code: filled with CIFAR-10's mean colour."""
        return cls(fill=(0.4914, 0.4822, 0.4465))

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """Return the changed images, rounded to multiples of 1/255.

        Args:
            x: Images, (N, C, H, W), float32 or float64 in [0, 1], C 1 or 3, any device.
            rng: One stream per image.

        Returns:
            Images of the same shape, type and device.

        Raises:
            BadInput: another number of channels, or ``fill`` has not as many numbers as they channels.
        """
        tone.check_channels(x, "AutoAugment")
        pair = rng.tag("pair").integers(len(POLICY), device=x.device)
        happens = rng.tag("happens").uniform(2, dtype=torch.float64, device=x.device)
        sign = rng.tag("sign").sign(2, dtype=torch.float64, device=x.device)
        levels = (x.double() * 255).round().float()
        for place in (0, 1):
            probability, number, middle, change = self._table(place, x.device)[pair].unbind(dim=1)
            number = torch.where(happens[:, place] < probability, number, -1)
            levels = self._changed(levels, number, middle + change * sign[:, place])
        return levels.to(x.dtype).div_(255)

    def _table(self, place: int, device: torch.device) -> Tensor:
        """Return probability, operation and the two numbers of its magnitude, (25, 4), float64, of one place of all."""
        steps = [pair[place] for pair in POLICY]
        magnitude = _by_paper if self.form == "paper" else _by_code
        rows = [(chance, _OPERATIONS.index(name), *magnitude(name, level)) for name, chance, level in steps]
        return torch.tensor(rows, dtype=torch.float64, device=device)

    def _changed(self, levels: Tensor, number: Tensor, magnitude: Tensor) -> Tensor:
        """Return the levels, (N, C, H, W), each image by the operation of its number, none where that is negative."""
        changed, places = levels.clone(), number.cpu()
        for place, operation in enumerate(_COLOURS.values()):
            rows = (places == place).nonzero().flatten().to(levels.device)
            if len(rows):
                changed[rows] = operation(levels[rows], magnitude[rows])
        rows = (places >= len(_COLOURS)).nonzero().flatten().to(levels.device)
        if len(rows):
            fill = (colour(self.fill, levels) * 255).round()
            changed[rows] = _moved(levels[rows] - fill, number[rows], magnitude[rows]) + fill
        return changed


def _by_paper(name: str, level: int) -> tuple[float, float]:
    """Return the middle of an operation's magnitudes, and how far a level, one of ten, is from there on either side."""
    part = level / 9
    if name in _BLENDS:
        return 1.0, 0.9 * part
    ends = {"rotate": 30.0, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331}
    middles = {"posterize": float(round(8 - 4 * part)), "solarize": 256 - 256 * part}
    return middles.get(name, 0.0), ends.get(name, 0.0) * part


def _by_code(name: str, level: int) -> tuple[float, float]:
    """Return the same as the authors' code has it; it moves images of 32 pixels by whole ones."""
    if name in _BLENDS:
        return 0.1 + 1.8 * level / 10, 0.0
    sides = {"rotate": float(30 * level // 10), "shear_y": 0.3 * level / 10}
    sides |= {"translate_x": level / 32, "translate_y": level / 32}
    middles = {"posterize": float(4 - 4 * level // 10), "solarize": float(256 - 256 * level // 10)}
    return middles.get(name, 0.0), sides.get(name, 0.0)


def _moved(x: Tensor, number: Tensor, magnitude: Tensor) -> Tensor:
    """Return images turned by degrees, sheared about their top left corner, or shifted by shares of a side; 0 outside.

    Args:
        x: (N, C, H, W).
        number: Which of ``_OPERATIONS``, (N,).
        magnitude: By how much, (N,), float64.
    """
    N, C, H, W = x.shape
    angle, shear, right, down = (
        torch.where(number == _OPERATIONS.index(name), magnitude, 0.0)
        for name in ("rotate", "shear_y", "translate_x", "translate_y")
    )
    sine, cosine = (angle * (math.pi / 180)).sin(), (angle * (math.pi / 180)).cos()
    # Where a pixel is read: of places (column, row) counted from the corner, one matrix row for each.
    column = _positions(cosine, -sine, W / 2 * (1 - cosine) + H / 2 * sine + right * W, size=(H, W))
    row = _positions(sine + shear, cosine, H / 2 * (1 - cosine) - W / 2 * sine + down * H, size=(H, W))
    there = (row >= 0) & (row < H) & (column >= 0) & (column < W)
    source = (row.clamp(0, H - 1) * W + column.clamp(0, W - 1)).view(N, 1, -1).expand(N, C, -1)
    return x.flatten(2).gather(2, source).view(N, C, H, W) * there[:, None]


def _positions(a: Tensor, b: Tensor, c: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Return a column + b row + c of each pixel's middle in whole pixels, (N, H, W), counting in 2^-16 as Pillow."""
    start, across, along = ((v * 2**16 + 0.5).floor().long().view(-1, 1, 1) for v in (a / 2 + b / 2 + c, a, b))
    row, column = (torch.arange(extent, device=a.device) for extent in size)
    return (start + across * column + along * row[:, None]) >> 16
