"""VGG networks for small images, with BatchNorm and a width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from robustscape.models._build import check_fields, check_one_of, check_shape, seeded
from robustscape.models.activations import Activation, activated_by
from robustscape.models.normalise import Channels, normalise

_LAYERS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (1, 2, 4, 8, 8)  # of the five stages, in units of the width


@dataclass(frozen=True, kw_only=True)
class VGG:
    """VGG: five stages of 3x3 convolutions with BatchNorm, each halving the image, and one linear layer.

    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015,
    https://arxiv.org/abs/1409.1556, in the form of Liu et al. 2020 (https://arxiv.org/abs/2006.08403, "VGG16"):
    convolutions have biases, BatchNorm (which is in their code, not in their table) comes before every activation,
    and a single linear layer is the classifier. Order and shapes of the parameters are theirs.

    Attributes:
        depth: 16 or 19 layers.
        width: Channels of the first stage, at least 1; the later ones have 2, 4, 8 and 8 times as many. Usually 64;
            4 w for the width factor w of Liu et al., whose w is 8.
        activation: Activation function after every BatchNorm.
        mean: Subtracted from the pixels of each channel, in [0, 1]; None for no normalisation by constants.
        std: Pixels of each channel are divided by it, above 0; None for no normalisation by constants.
        per_image: Normalise every image by its own mean and standard deviation; not with mean and std.

    Deviations:
        Halving rounds sizes up, and a mean over all pixels comes last, so that any image size works; where 32 divides
        the sides the former, and at 32x32 the latter, changes nothing.
    """

    depth: Literal[16, 19] = 16
    width: int = 64
    activation: Activation = "relu"
    mean: Channels | None = None
    std: Channels | None = None
    per_image: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_one_of("depth", self.depth, _LAYERS)
        check_fields(self)

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> VGGNetwork:
        """Make the network with torch's default initial weights, drawn from ``seed``.

        Args:
            image: Shape of an image, (C, H, W), of any size.
            classes: Number of classes, K.
            seed: Seed of the initial weights.

        Raises:
            BadInput: a shape that cannot be meant, or constants for another number of channels.
        """
        check_shape(image, classes)
        with seeded(seed):
            return VGGNetwork(
                normalise=normalise(self.mean, self.std, image[0], per_image=self.per_image),
                channels=image[0],
                classes=classes,
                layers=_LAYERS[self.depth],
                width=self.width,
                activation=self.activation,
            )


class VGGNetwork(nn.Module):
    """(N, C, H, W) pixels in [0, 1] to logits, (N, K); see ``VGG``.

    Args:
        normalise: Comes first.
        channels: C.
        classes: K.
        layers: Number of convolutions in each of the five stages.
        width: Channels of the first stage.
        activation: After every BatchNorm.
    """

    def __init__(
        self,
        *,
        normalise: nn.Module,
        channels: int,
        classes: int,
        layers: tuple[int, int, int, int, int],
        width: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        features: list[nn.Module] = []
        inputs = channels
        for times, number in zip(_CHANNELS, layers, strict=True):
            for _ in range(number):
                outputs = times * width
                features += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
                features += [activated_by(activation)]
                inputs = outputs
            features += [nn.MaxPool2d(2, ceil_mode=True)]
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        return self.classifier(self.features(self.normalise(x)).mean((2, 3)))
