"""Augmentation that changes brightness, contrast, saturation and hue of the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscape.data.tone import check_channels, grey
from robustscape.streams import Streams
from robustscape.types import BadInput

_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # the places of the kinds among the settings; brightness is 0


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue by random amounts, in random order, each image its own.

    The default is that of the robustness library (Engstrom 2019, https://github.com/MadryLab/robustness) for CIFAR-10,
    beside crop, flip and rotation.

    Attributes:
        brightness: Pixels are multiplied by a factor uniform in [1 - brightness, 1 + brightness]; in [0, 1].
        contrast: As much for the differences from the image's mean brightness.
        saturation: As much for the differences from the grey image; of grey images nothing.
        hue: Colours are turned by an angle uniform in [-hue, hue], in turns of the colour circle; in [0, 0.5].

    Deviations:
        Amounts are not rounded to 256 levels, as they are where images are Pillow's.
    """

    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise BadInput(f"{name} is changed by at most {most:g}, at least 0, and cannot be by {value:g}")
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            raise BadInput("colour jitter of 0 everywhere changes nothing; leave it out")

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """Return the changed images.

        Args:
            x: Images, (N, C, H, W), float32 or float64 in [0, 1], C 1 or 3, any device.
            rng: One stream per image.

        Returns:
            Images of the same shape, type and device.

        Raises:
            BadInput: another number of channels.
        """
        check_channels(x, "colour jitter")
        most = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue], device=x.device)
        amount = rng.tag("amount").uniform(4, low=-1.0, dtype=torch.float64, device=x.device) * most
        order = rng.tag("order").bits(4, device=x.device).argsort(dim=1)
        order = order[most[order] > 0].view(len(x), -1)  # each image's own, of the kinds that are asked for
        x = x.clone()
        for kind in order.unbind(dim=1):
            _change(x, kind, amount.gather(1, kind[:, None])[:, 0])
        return x


def _change(x: Tensor, kind: Tensor, amount: Tensor) -> None:
    """Change images in place, each by an amount, (N,), in one kind, (N,): brightness, contrast, saturation or hue."""
    rows = (kind == _HUE).nonzero().flatten()
    turned = _turned(x[rows], amount[rows]) if len(rows) else None
    kind, factor = kind.view(-1, 1, 1, 1), (1 + amount).to(x.dtype).view(-1, 1, 1, 1)
    brightness = grey(x)
    # In float64, where it does not show in which order it is summed.
    mean = brightness.double().mean(dim=(1, 2, 3), keepdim=True).to(x.dtype)
    base = mean * (kind == _CONTRAST) + brightness * (kind == _SATURATION)  # of brightness, black
    x.sub_(base).mul_(factor).add_(base).clamp_(0, 1)
    if turned is not None:
        x[rows] = turned


def _turned(x: Tensor, amount: Tensor) -> Tensor:
    """Turn the hue, keeping the largest and the smallest of a pixel's channels."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(dim=1)
    value, chroma = x.amax(dim=1), x.amax(dim=1) - x.amin(dim=1)
    scale = chroma.clamp(min=1e-12)
    sixth = torch.where(
        value == red,
        (green - blue) / scale,
        torch.where(value == green, (blue - red) / scale + 2, (red - green) / scale + 4),
    )
    sixth = sixth + 6 * amount.to(x.dtype).view(-1, 1, 1)
    channels = []
    for start in (5, 3, 1):  # red, green, blue
        k = (sixth + start).remainder(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1).clamp(0, 1)
