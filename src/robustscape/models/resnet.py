"""Residual networks for small images with the activation after the addition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from robustscape.models._build import BLOCKS, check_fields, check_one_of, check_shape, seeded
from robustscape.models.activations import Activation, activated_by
from robustscape.models.normalise import Channels, normalise


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """ResNet: a 3x3 stem, four stages of basic blocks, a mean over pixels, one linear layer.

    He et al., "Deep residual learning for image recognition", CVPR 2016, https://arxiv.org/abs/1512.03385, in the
    form for small images of the code of Zhang et al. 2019 (https://arxiv.org/abs/1901.08573), Wang et al. 2020
    ("MART", https://openreview.net/forum?id=rklOg6EFwS) and Liu et al. 2020 (https://arxiv.org/abs/2006.08403): no
    pooling behind the stem, convolutions without biases. Parameter names are those of Zhang et al.

    Attributes:
        depth: 18 or 34 layers.
        width: Channels of the first stage, doubled by each later one, at least 1. Usually 64; 4 w for the width
            factor w of Liu et al., whose w is 8.
        activation: Activation function after the first BatchNorm and after the addition of each block.
        mean: Subtracted from the pixels of each channel, in [0, 1]; None for no normalisation by constants.
        std: Pixels of each channel are divided by it, above 0; None for no normalisation by constants.
        per_image: Normalise every image by its own mean and standard deviation; not with mean and std.

    Deviations:
        The last pooling is a mean over all pixels, so that any image size works; at 32x32 it is the codes' 4x4.
    """

    depth: Literal[18, 34] = 18
    width: int = 64
    activation: Activation = "relu"
    mean: Channels | None = None
    std: Channels | None = None
    per_image: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_one_of("depth", self.depth, BLOCKS)
        check_fields(self)

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> ResNetNetwork:
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
            return ResNetNetwork(
                normalise=normalise(self.mean, self.std, image[0], per_image=self.per_image),
                channels=image[0],
                classes=classes,
                blocks=BLOCKS[self.depth],
                width=self.width,
                activation=self.activation,
            )


class BasicBlock(nn.Module):
    """3x3 convolution and normalisation, twice, and a shortcut around: (N, I, H, W) to (N, O, H/s, W/s).

    Args:
        inputs: Channels that come in, I.
        outputs: Channels that go out, O.
        stride: Of the first convolution, s; sizes are rounded up.
        activation: Between the two, and after the addition.
        norm: Makes a normalisation of a number of channels.
        bias: Whether the shortcut's convolution has a bias; the others have none.
        dropout: Probability that a number behind the second convolution is dropped in train mode.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        activation: Activation,
        norm: Callable[[int], nn.Module],
        bias: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = norm(outputs)
        self.activation = activated_by(activation)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        around = x if self.shortcut is None else self.shortcut(x)
        h = self.dropout(self.conv2(self.activation(self.bn1(self.conv1(x)))))
        return self.activation(self.bn2(h) + around)


class ResNetNetwork(nn.Module):
    """(N, C, H, W) pixels in [0, 1] to logits, (N, K); see ``ResNet``.

    Args:
        normalise: Comes first.
        channels: C.
        classes: K.
        blocks: Number of blocks in each of the four stages.
        width: Channels of the first stage.
        activation: Everywhere.
        norm: Makes a normalisation of a number of channels.
        bias: Whether the stem and the shortcuts' convolutions have biases.
        dropout: Of every block.
    """

    def __init__(
        self,
        *,
        normalise: nn.Module,
        channels: int,
        classes: int,
        blocks: tuple[int, int, int, int],
        width: int,
        activation: Activation,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int, number: int) -> nn.Sequential:
            stride = 1 if inputs == outputs else 2
            shared = {"activation": activation, "norm": norm, "bias": bias, "dropout": dropout}
            first = BasicBlock(inputs, outputs, stride=stride, **shared)
            others = [BasicBlock(outputs, outputs, stride=1, **shared) for _ in range(number - 1)]
            return nn.Sequential(first, *others)

        self.normalise = normalise
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=bias)
        self.bn1 = norm(width)
        self.activation = activated_by(activation)
        self.layer1 = stage(width, width, blocks[0])
        self.layer2 = stage(width, 2 * width, blocks[1])
        self.layer3 = stage(2 * width, 4 * width, blocks[2])
        self.layer4 = stage(4 * width, 8 * width, blocks[3])
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        h = self.activation(self.bn1(self.conv1(self.normalise(x))))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return self.linear(h.mean((2, 3)))
