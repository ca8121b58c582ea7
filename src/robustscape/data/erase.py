"""Augmentation that covers a rectangle of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscape.streams import Streams
from robustscape.types import BadInput

_ATTEMPTS = 32  # rectangles drawn at once: by default 1 of 19 does not fit, so some always do


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """A square of one colour at a random place (DeVries 2017, https://arxiv.org/abs/1708.04552).

    The default is that of Rice 2020 (https://arxiv.org/abs/2002.11569): 14 pixels, black, inside the image.

    Attributes:
        size: Pixels of a side, at least 1.
        inside: Whether the whole square is in the image. Otherwise its middle is any pixel, as DeVries has it.
        fill: Its colour, in [0, 1]: one number for all channels, or one for each.
    """

    size: int = 14
    inside: bool = True
    fill: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.size < 1:
            raise BadInput(f"the size of a cutout must be at least 1 pixel, not {self.size}")
        check_colour(self.fill)

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """Return the covered images.

        Args:
            x: Images, (N, C, H, W), floats in [0, 1], any device.
            rng: One stream per image.

        Returns:
            Images of the same shape, type and device.

        Raises:
            BadInput: the square is larger than the images, or ``fill`` has not as many numbers as they channels.
        """
        H, W = x.shape[2:]
        if self.inside and self.size > min(H, W):
            raise BadInput(f"a cutout of {self.size} pixels is not inside images of {H} x {W}; did you mean "
                           f"size={min(H, W) // 2}, or inside=False?")  # fmt: skip
        u = rng.tag("cutout").uniform(2, dtype=torch.float64, device=x.device)
        size = torch.full_like(u, self.size)
        extent = u.new_tensor([H, W])
        places = (extent - self.size + 1) if self.inside else extent
        corner = (u * places).floor() - (0 if self.inside else self.size // 2)
        return torch.where(_rectangle(corner, size, x), colour(self.fill, x), x)


@dataclass(frozen=True, kw_only=True)
class Erase:
    """Random erasing: a rectangle of random area and shape (Zhong 2020, https://arxiv.org/abs/1708.04896).

    Algorithm 1: area and aspect ratio (height over width) are uniform, and drawn again where the rectangle does not
    fit; its place is uniform among those inside.

    Attributes:
        probability: Share of the images that it happens to, in (0, 1].
        area: Least and largest area as a share of the image's, rising, in (0, 1).
        aspect: Least and largest aspect ratio, rising, above 0.
        fill: Colour, in [0, 1]: one number for all channels, or one for each; None for random ones, pixel by pixel.

    Deviations:
        The paper draws the place with the rectangle and both again where it reaches over the edge; here, as in the
        authors' code, the place is drawn among those that fit. An image for which none of 32 rectangles fits stays
        as it is.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    fill: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 < self.probability <= 1:
            raise BadInput(f"the probability of erasing is in (0, 1], not {self.probability:g}")
        if not 0 < self.area[0] <= self.area[1] < 1:
            raise BadInput(f"the areas of erasing are rising shares of the image, in (0, 1), not {self.area}")
        if not 0 < self.aspect[0] <= self.aspect[1] < float("inf"):
            raise BadInput(f"the aspect ratios of erasing are rising and above 0, not {self.aspect}")
        check_colour(self.fill or ())

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """Return the images, some of them with a rectangle erased; arguments as those of ``Cutout``."""
        N, C, H, W = x.shape
        u = rng.tag("rectangle").uniform(2, _ATTEMPTS, dtype=torch.float64, device=x.device)
        area = H * W * (self.area[0] + (self.area[1] - self.area[0]) * u[:, 0])
        aspect = self.aspect[0] + (self.aspect[1] - self.aspect[0]) * u[:, 1]
        sizes = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).round()
        extent = sizes.new_tensor([H, W])
        fits = ((sizes >= 1) & (sizes < extent[:, None])).all(dim=1)
        first = fits.int().argmax(dim=1)
        size = sizes.gather(2, first[:, None, None].expand(N, 2, 1))[:, :, 0]
        corner = (rng.tag("place").uniform(2, dtype=torch.float64, device=x.device) * (extent - size + 1)).floor()
        happens = rng.tag("erase").uniform(device=x.device) < self.probability
        cover = _rectangle(corner, size, x) & (happens & fits.any(dim=1)).view(-1, 1, 1, 1)
        if self.fill is not None:
            return torch.where(cover, colour(self.fill, x), x)
        # Eight pixels of 256 levels from each number of 64 bits.
        levels = rng.tag("fill").bits(-(-C * H * W // 8), device=x.device).view(torch.uint8)[:, : C * H * W]
        return torch.where(cover, levels.view(N, C, H, W).to(x.dtype).div_(255), x)


def check_colour(fill: tuple[float, ...]) -> None:
    """Refuse colours outside the pixel range.

    Raises:
        BadInput: a number outside [0, 1].
    """
    for value in fill:
        if not 0 <= value <= 1:
            meant = f"; did you mean {value:g}/255?" if 1 < value < 256 else ""
            raise BadInput(f"a colour is in [0, 1], not {value:g}{meant}")


def colour(fill: tuple[float, ...], x: Tensor) -> Tensor:
    """Return the colour of each channel, (1, 1 or C, 1, 1), of images x, (N, C, H, W).

    Raises:
        BadInput: neither one number nor as many as channels.
    """
    if len(fill) not in (1, x.shape[1]):
        raise BadInput(f"fill has {len(fill)} numbers, and the images {x.shape[1]} channels")
    return x.new_tensor(fill).view(1, -1, 1, 1)


def _rectangle(corner: Tensor, size: Tensor, x: Tensor) -> Tensor:
    """Return where in images the rectangles of given top left corners and sizes, (N, 2), are, (N, 1, H, W)."""
    row, column = (torch.arange(extent, device=x.device) for extent in x.shape[2:])
    end = corner + size
    rows = (row >= corner[:, :1]) & (row < end[:, :1])
    columns = (column >= corner[:, 1:]) & (column < end[:, 1:])
    return (rows[:, :, None] & columns[:, None, :])[:, None]
