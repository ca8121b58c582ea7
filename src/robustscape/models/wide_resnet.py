"""Wide residual networks for small images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustscape.models._build import check_fields, check_one_of, check_shape, drawn_by_fan_out, seeded
from robustscape.models._padding import PADDINGS, Padding, padded
from robustscape.models.activations import Activation, activated_by
from robustscape.models.normalise import Channels, normalise
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class WideResNet:
    """WideResNet: a 3x3 stem, three stages of pre-activation blocks, BatchNorm, activation, mean over pixels.

    Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016, https://arxiv.org/abs/1605.07146, in the form of
    the code of Zhang et al. 2019 (https://arxiv.org/abs/1901.08573) and Wu et al. 2020
    (https://arxiv.org/abs/2004.05884): a block that changes the number of channels projects the normalised and
    activated input, others add the raw one, convolutions have no biases and no dropout, and parameter names are theirs.

    Attributes:
        depth: Layers, 6 n + 4 for n blocks in each stage: 34 and 28 are usual.
        width: Widening factor k, at least 1: the stages have 16 k, 32 k and 64 k channels. Usually 10.
        padding: What the 3x3 convolutions of stride 2 are padded with: "both" is one pixel on every side, "same" one
            on the right and below, and on the other sides too where the size is odd, as JAX and TensorFlow do.
        activation: Activation function after every BatchNorm.
        mean: Subtracted from the pixels of each channel, in [0, 1]; None for no normalisation by constants.
        std: Pixels of each channel are divided by it, above 0; None for no normalisation by constants.
        per_image: Normalise every image by its own mean and standard deviation; not with mean and std.

    Deviations:
        The last pooling is a mean over all pixels, so that any image size works; at 32x32 it is the codes' 8x8. The
        code of Zhang et al. also holds a stage ``sub_block1``, which is in its checkpoints and is never run.
    """

    depth: int = 34
    width: int = 10
    padding: Padding = "both"
    activation: Activation = "relu"
    mean: Channels | None = None
    std: Channels | None = None
    per_image: bool = False

    @classmethod
    def gowal(cls) -> WideResNet:
        """WRN-28-10 of Gowal et al. 2020 (https://arxiv.org/abs/2010.03593): SiLU, and padding as JAX has it.

        Its normalisation constants, mean (0.4914, 0.4822, 0.4465) and std (0.2471, 0.2435, 0.2616) on CIFAR-10, are
        not set.
        """
        return cls(depth=28, padding="same", activation="silu")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        blocks = max(1, round((self.depth - 4) / 6))
        if self.depth != 6 * blocks + 4:
            raise BadInput(f"depth must be 6 n + 4 and at least 10, not {self.depth}; did you mean {6 * blocks + 4}?")
        check_one_of("padding", self.padding, PADDINGS)
        check_fields(self)

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> WideResNetNetwork:
        """Make the network with convolutions drawn by fan-out and a linear bias of 0, from ``seed``.

        Args:
            image: Shape of an image, (C, H, W), of any size.
            classes: Number of classes, K.
            seed: Seed of the initial weights.

        Raises:
            BadInput: a shape that cannot be meant, or constants for another number of channels.
        """
        check_shape(image, classes)
        with seeded(seed):
            network = WideResNetNetwork(
                normalise=normalise(self.mean, self.std, image[0], per_image=self.per_image),
                channels=image[0],
                classes=classes,
                blocks=(self.depth - 4) // 6,
                width=self.width,
                padding=self.padding,
                activation=self.activation,
            )
            drawn_by_fan_out(network)
        return network


class WideBlock(nn.Module):
    """BatchNorm, activation, 3x3 convolution, twice, and a shortcut around: (N, I, H, W) to (N, O, H/s, W/s).

    Args:
        inputs: Channels that come in, I.
        outputs: Channels that go out, O.
        stride: Of the first convolution, s; sizes are rounded up.
        padding: Of the first convolution where its stride is 2, see ``WideResNet``.
        activation: After each BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, padding: Padding, activation: Activation) -> None:
        super().__init__()
        self.same = padding == "same" and stride == 2
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=0 if self.same else 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.activation = activated_by(activation)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        a = self.activation(self.bn1(x))
        around = x if self.convShortcut is None else self.convShortcut(a)
        if self.same:
            a = padded(a)
        return self.conv2(self.activation(self.bn2(self.conv1(a)))) + around


class WideStage(nn.Module):
    """Blocks that follow one another, under the name that they have in checkpoints.

    Args:
        blocks: The blocks.
    """

    def __init__(self, *blocks: WideBlock) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last block's output."""
        return self.layer(x)


class WideResNetNetwork(nn.Module):
    """(N, C, H, W) pixels in [0, 1] to logits, (N, K); see ``WideResNet``.

    Args:
        normalise: Comes first.
        channels: C.
        classes: K.
        blocks: Number of blocks in each of the three stages.
        width: Widening factor.
        padding: Of convolutions of stride 2.
        activation: After every BatchNorm.
    """

    def __init__(
        self,
        *,
        normalise: nn.Module,
        channels: int,
        classes: int,
        blocks: int,
        width: int,
        padding: Padding,
        activation: Activation,
    ) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int, stride: int) -> WideStage:
            first = WideBlock(inputs, outputs, stride=stride, padding=padding, activation=activation)
            others = [
                WideBlock(outputs, outputs, stride=1, padding=padding, activation=activation) for _ in range(blocks - 1)
            ]
            return WideStage(first, *others)

        self.normalise = normalise
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = stage(16, 16 * width, 1)
        self.block2 = stage(16 * width, 32 * width, 2)
        self.block3 = stage(32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.activation = activated_by(activation)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        h = self.block3(self.block2(self.block1(self.conv1(self.normalise(x)))))
        return self.fc(self.activation(self.bn1(h)).mean((2, 3)))
