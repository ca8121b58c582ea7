"""Pre-activation residual networks for small images, as robust training uses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from robustscape.models._build import BLOCKS, check_fields, check_one_of, check_shape, drawn_by_fan_out, seeded
from robustscape.models._padding import PADDINGS, Padding, padded
from robustscape.models.activations import Activation, activated_by
from robustscape.models.normalise import Channels, normalise

Shortcut = Literal["mixed", "raw", "activated"]
_CHOICES = {
    "shortcut": ("mixed", "raw", "activated"),
    "projection": (1, 3),
    "padding": PADDINGS,
    "initial": ("torch", "fan_out"),
}


@dataclass(frozen=True, kw_only=True)
class PreActResNet:
    """Pre-activation ResNet: a 3x3 stem, four stages of basic blocks, BatchNorm, activation, mean over pixels.

    He et al., "Identity mappings in deep residual networks", ECCV 2016, https://arxiv.org/abs/1603.05027,
    in the form of the code of Rice et al. 2020 (https://arxiv.org/abs/2002.11569) and Wu et al. 2020
    (https://arxiv.org/abs/2004.05884): a block's projection sees the normalised and activated input, an identity
    shortcut the raw one, convolutions have no biases, and parameter names are theirs. The other forms that papers
    train are presets; order and shapes of the parameters are theirs.

    Attributes:
        depth: 18 or 34 layers.
        width: Channels of the first stage, doubled by each later one, at least 1; the papers' is 64.
        shortcut: What shortcuts see: "raw" for a block's input, "activated" for that behind its first BatchNorm and
            activation, "mixed" for the activated one in projections and the raw one in identities.
        projection: Height and width of the projections' kernels, 1 or 3.
        padding: What the 3x3 convolutions of stride 2 are padded with: "both" is one pixel on every side, "same" one
            on the right and below, and on the other sides too where the size is odd, as JAX and TensorFlow do.
        final_norm: Whether BatchNorm and activation stand before the mean over pixels.
        bias: Whether the convolutions of blocks and projections have biases.
        initial: Initial weights: "torch" for its defaults; "fan_out" for convolutions of variance
            2 / (outputs * kernel size) and a linear bias of 0.
        activation: Activation function after every BatchNorm.
        mean: Subtracted from the pixels of each channel, in [0, 1]; None for no normalisation by constants.
        std: Pixels of each channel are divided by it, above 0; None for no normalisation by constants.
        per_image: Normalise every image by its own mean and standard deviation; not with mean and std.

    Deviations:
        The last pooling is a mean over all pixels, so that any image size works; at 32x32 it is the codes' 4x4.
    """

    depth: Literal[18, 34] = 18
    width: int = 64
    shortcut: Shortcut = "mixed"
    projection: Literal[1, 3] = 1
    padding: Padding = "both"
    final_norm: bool = True
    bias: bool = False
    initial: Literal["torch", "fan_out"] = "torch"
    activation: Activation = "relu"
    mean: Channels | None = None
    std: Channels | None = None
    per_image: bool = False

    @classmethod
    def wong(cls) -> PreActResNet:
        """The form of Wong et al. 2020 (https://arxiv.org/abs/2001.03994): raw shortcuts, no BatchNorm at the end.

        Andriushchenko and Flammarion 2020 (https://arxiv.org/abs/2007.02617) train it too.
        """
        return cls(shortcut="raw", final_norm=False)

    @classmethod
    def zheng(cls) -> PreActResNet:
        """The form of Zheng et al. 2021 (AMP, https://arxiv.org/abs/2010.04925): biases, activated shortcuts."""
        return cls(shortcut="activated", bias=True, initial="fan_out")

    @classmethod
    def gowal(cls) -> PreActResNet:
        """The form of Gowal et al. 2020 (https://arxiv.org/abs/2010.03593): SiLU, raw 3x3 projections, JAX's padding.

        Rebuffi et al. 2021 (https://arxiv.org/abs/2103.01946) and Rade and Moosavi-Dezfooli 2022 train it too. Its
        normalisation constants, mean (0.4914, 0.4822, 0.4465) and std (0.2471, 0.2435, 0.2616) on CIFAR-10, are not
        set.
        """
        return cls(shortcut="raw", projection=3, padding="same", activation="silu")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_one_of("depth", self.depth, BLOCKS)
        for name, known in _CHOICES.items():
            check_one_of(name, getattr(self, name), known)
        check_fields(self)

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> PreActResNetNetwork:
        """Make the network with the initial weights that ``initial`` says, drawn from ``seed``.

        Args:
            image: Shape of an image, (C, H, W), of any size.
            classes: Number of classes, K.
            seed: Seed of the initial weights.

        Raises:
            BadInput: a shape that cannot be meant, or constants for another number of channels.
        """
        check_shape(image, classes)
        with seeded(seed):
            network = PreActResNetNetwork(
                normalise=normalise(self.mean, self.std, image[0], per_image=self.per_image),
                channels=image[0],
                classes=classes,
                blocks=BLOCKS[self.depth],
                width=self.width,
                shortcut=self.shortcut,
                projection=self.projection,
                padding=self.padding,
                final_norm=self.final_norm,
                bias=self.bias,
                activation=self.activation,
            )
            if self.initial == "fan_out":
                drawn_by_fan_out(network)
        return network


class PreActBlock(nn.Module):
    """BatchNorm, activation, 3x3 convolution, twice, and a shortcut around: (N, I, H, W) to (N, O, H/s, W/s).

    Args:
        inputs: Channels that come in, I.
        outputs: Channels that go out, O.
        stride: Of the first convolution, s; sizes are rounded up.
        shortcut: What the shortcut sees, see ``PreActResNet``.
        projection: Size of the projection's kernel.
        padding: Of 3x3 convolutions where the stride is 2, see ``PreActResNet``.
        bias: Whether the convolutions have biases.
        activation: After each BatchNorm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        shortcut: Shortcut,
        projection: int,
        padding: Padding,
        bias: bool,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.same = padding == "same" and stride == 2
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=0 if self.same else 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.activation = activated_by(activation)
        projects = stride != 1 or inputs != outputs
        self.raw = shortcut == "raw" or (shortcut == "mixed" and not projects)
        self.shortcut = None
        if projects:
            around = 0 if self.same else projection // 2
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, projection, stride=stride, padding=around, bias=bias)
            )
        self.pads_shortcut = self.same and projection == 3

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        a = self.activation(self.bn1(x))
        seen = x if self.raw else a
        seen, a = (padded(seen) if self.pads_shortcut else seen), (padded(a) if self.same else a)
        around = seen if self.shortcut is None else self.shortcut(seen)
        return self.conv2(self.activation(self.bn2(self.conv1(a)))) + around


class PreActResNetNetwork(nn.Module):
    """(N, C, H, W) pixels in [0, 1] to logits, (N, K); see ``PreActResNet``.

    Args:
        normalise: Comes first.
        channels: C.
        classes: K.
        blocks: Number of blocks in each of the four stages.
        width: Channels of the first stage.
        shortcut: What shortcuts see.
        projection: Size of the projections' kernels.
        padding: Of 3x3 convolutions of stride 2.
        final_norm: Whether BatchNorm and activation stand before the mean over pixels.
        bias: Whether the convolutions of blocks have biases.
        activation: After every BatchNorm.
    """

    def __init__(
        self,
        *,
        normalise: nn.Module,
        channels: int,
        classes: int,
        blocks: tuple[int, int, int, int],
        width: int,
        shortcut: Shortcut,
        projection: int,
        padding: Padding,
        final_norm: bool,
        bias: bool,
        activation: Activation,
    ) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> PreActBlock:
            return PreActBlock(
                inputs,
                outputs,
                stride=stride,
                shortcut=shortcut,
                projection=projection,
                padding=padding,
                bias=bias,
                activation=activation,
            )

        def stage(inputs: int, outputs: int, number: int) -> nn.Sequential:
            first = block(inputs, outputs, 1 if inputs == outputs else 2)
            return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(number - 1)))

        self.normalise = normalise
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.layer1 = stage(width, width, blocks[0])
        self.layer2 = stage(width, 2 * width, blocks[1])
        self.layer3 = stage(2 * width, 4 * width, blocks[2])
        self.layer4 = stage(4 * width, 8 * width, blocks[3])
        self.bn = nn.BatchNorm2d(8 * width) if final_norm else None
        self.activation = activated_by(activation)
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        h = self.conv1(self.normalise(x))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        h = h if self.bn is None else self.activation(self.bn(h))
        return self.linear(h.mean((2, 3)))
