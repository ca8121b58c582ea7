"""Pre-activation residual networks for small images, as robust training uses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from robustscape.models._build import check_shape, seeded
from robustscape.models.activations import Activation, activated_by, check_activation
from robustscape.models.normalise import Channels, Normalise, check_constants, normalise
from robustscape.types import BadInput

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@dataclass(frozen=True, kw_only=True)
class PreActResNet:
    """Pre-activation ResNet: a 3x3 stem, four stages of basic blocks, BatchNorm, activation, mean over pixels.

    He et al., "Identity mappings in deep residual networks", ECCV 2016, https://arxiv.org/abs/1603.05027,
    in the form of the code of Rice et al. 2020 (https://arxiv.org/abs/2002.11569) and Wu et al. 2020
    (https://arxiv.org/abs/2004.05884): a block's projection sees the normalised and activated input, an identity
    shortcut the raw one, convolutions have no biases, and parameter names are theirs.

    Attributes:
        depth: 18 or 34 layers.
        width: Channels of the first stage, doubled by each later one, at least 1; the papers' is 64.
        activation: Activation function after every BatchNorm.
        mean: Subtracted from the pixels of each channel, in [0, 1]; None for no normalisation.
        std: Pixels of each channel are divided by it, above 0; None for no normalisation.

    Deviations:
        The last pooling is a mean over all pixels, so that any image size works; at 32x32 it is the codes' 4x4.
    """

    depth: Literal[18, 34] = 18
    width: int = 64
    activation: Activation = "relu"
    mean: Channels | None = None
    std: Channels | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.depth not in _BLOCKS:
            raise BadInput(f"depth must be one of {', '.join(map(str, _BLOCKS))}, not {self.depth}")
        if self.width < 1:
            raise BadInput(f"width must be at least 1, not {self.width}")
        check_activation(self.activation)
        check_constants(self.mean, self.std)

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> PreActResNetNetwork:
        """Make the network with torch's default initial weights, drawn from ``seed``.

        Args:
            image: Shape of an image, (C, H, W), of any size.
            classes: Number of classes, K.
            seed: Seed of the initial weights.
        """
        check_shape(image, classes)
        with seeded(seed):
            return PreActResNetNetwork(
                normalise=normalise(self.mean, self.std, image[0]),
                channels=image[0],
                classes=classes,
                blocks=_BLOCKS[self.depth],
                width=self.width,
                activation=self.activation,
            )


class PreActBlock(nn.Module):
    """BatchNorm, activation, 3x3 convolution, twice, and a shortcut around: (N, I, H, W) to (N, O, H/s, W/s).

    Args:
        inputs: Channels that come in, I.
        outputs: Channels that go out, O.
        stride: Of the first convolution, s; sizes are rounded up.
        activation: After each BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, activation: Activation) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.activation = activated_by(activation)
        projects = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        a = self.activation(self.bn1(x))
        around = x if self.shortcut is None else self.shortcut(a)
        return self.conv2(self.activation(self.bn2(self.conv1(a)))) + around


class PreActResNetNetwork(nn.Module):
    """(N, C, H, W) pixels in [0, 1] to logits, (N, K); see ``PreActResNet``.

    Args:
        normalise: Comes first.
        channels: C.
        classes: K.
        blocks: Number of blocks in each of the four stages.
        width: Channels of the first stage.
        activation: After every BatchNorm.
    """

    def __init__(
        self,
        *,
        normalise: Normalise,
        channels: int,
        classes: int,
        blocks: tuple[int, int, int, int],
        width: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.layer1 = _stage(width, width, blocks[0], stride=1, activation=activation)
        self.layer2 = _stage(width, 2 * width, blocks[1], stride=2, activation=activation)
        self.layer3 = _stage(2 * width, 4 * width, blocks[2], stride=2, activation=activation)
        self.layer4 = _stage(4 * width, 8 * width, blocks[3], stride=2, activation=activation)
        self.bn = nn.BatchNorm2d(8 * width)
        self.activation = activated_by(activation)
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        h = self.conv1(self.normalise(x))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return self.linear(self.activation(self.bn(h)).mean((2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int, activation: Activation) -> nn.Sequential:
    """Return a stage: its first block changes channels and size, the others keep them."""
    first = PreActBlock(inputs, outputs, stride=stride, activation=activation)
    others = (PreActBlock(outputs, outputs, stride=1, activation=activation) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)
