"""The residual network of Stutz et al. 2021, with its reparametrised BatchNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustscape.models._build import BLOCKS, check_fields, check_one_of, check_shape, drawn_by_fan_out, seeded
from robustscape.models.activations import Activation
from robustscape.models.normalise import Channels, normalise
from robustscape.models.resnet import BasicBlock, ResNetNetwork
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class StutzResNet:
    """The ResNet of Stutz et al., "Relating adversarially robust generalization to flat minima", ICCV 2021.

    https://arxiv.org/abs/2104.04448, as their code has it: ``ResNet`` on images that are clamped to [0, 1] and then
    normalised, with biases in the stem and in the shortcuts' convolutions, weights drawn by fan-out (the linear
    layer's by fan-in), biases 0, and the scale that the second normalisation of each block stores 0 at first. Under
    BatchNorm each block then starts as its shortcut. Under the reparametrised one, which stores the scale less 1, it
    does not: its scale starts at 1 as all others do. Order and shapes of the parameters are theirs.

    Attributes:
        depth: 18 or 34 layers; the paper's is 18.
        width: Channels of the first stage, doubled by each later one, at least 1; the paper's is 64.
        norm: "reparametrised" for the paper's normalisation, whose scale weight decay pulls to 1 and which weight
            clipping leaves near 1; "batch" for BatchNorm.
        activation: Activation function after the first normalisation and after the addition of each block.
        dropout: Probability, in [0, 1), that a number between the second convolution and the second normalisation of a
            block is 0 in train mode; the paper's row has 0.1.
        mean: Subtracted from the clamped pixels of each channel, in [0, 1]; None for no normalisation by constants.
        std: Pixels of each channel are divided by it, above 0; None for no normalisation by constants.
        per_image: Normalise every image by its own mean and standard deviation; not with mean and std.

    Deviations:
        Two classes have two logits, of which the code has one. The code keeps mean and std in the state dict, as
        parameters that are frozen.
    """

    depth: Literal[18, 34] = 18
    width: int = 64
    norm: Literal["reparametrised", "batch"] = "reparametrised"
    activation: Activation = "relu"
    dropout: float = 0.0
    mean: Channels | None = None
    std: Channels | None = None
    per_image: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_one_of("depth", self.depth, BLOCKS)
        check_fields(self)
        check_one_of("norm", self.norm, ("reparametrised", "batch"))
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout is a probability in [0, 1), not {self.dropout:g}; did you mean 0.1?")

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> ResNetNetwork:
        """Make the network with the paper's initial weights, drawn from ``seed``.

        Args:
            image: Shape of an image, (C, H, W), of any size.
            classes: Number of classes, K.
            seed: Seed of the initial weights.

        Raises:
            BadInput: a shape that cannot be meant, or constants for another number of channels.
        """
        check_shape(image, classes)
        with seeded(seed):
            network = ResNetNetwork(
                normalise=nn.Sequential(Clamp(), normalise(self.mean, self.std, image[0], per_image=self.per_image)),
                channels=image[0],
                classes=classes,
                blocks=BLOCKS[self.depth],
                width=self.width,
                activation=self.activation,
                norm=ReparametrisedBatchNorm2d if self.norm == "reparametrised" else nn.BatchNorm2d,
                bias=True,
                dropout=self.dropout,
            )
            _initialise(network)
        return network


def _initialise(network: ResNetNetwork) -> None:
    drawn_by_fan_out(network)
    nn.init.kaiming_normal_(network.linear.weight, nonlinearity="relu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, BasicBlock):
            assert isinstance(module.bn2, nn.BatchNorm2d)
            nn.init.zeros_(module.bn2.weight)


class Clamp(nn.Module):
    """Map pixels to the nearest numbers in [0, 1]. Pixels that are 0 or 1 keep their gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the clamped images, (N, C, H, W)."""
        return torch.clamp(x, 0, 1)


class ReparametrisedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that scales by 1 + weight, the weight being 0 at first.

    Args:
        channels: Number of channels, C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def reset_parameters(self) -> None:
        """Set weight and bias to 0 and the running statistics to those of standard normal numbers."""
        super().reset_parameters()
        nn.init.zeros_(self.weight)

    def scale(self) -> Tensor:
        """Return what the normalised channels are multiplied by, (C,)."""
        return 1 + self.weight

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised, scaled and shifted channels, (N, C, H, W)."""
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        mean, var, momentum = self.running_mean, self.running_var, self.momentum
        return F.batch_norm(input, mean, var, self.scale(), self.bias, self.training, momentum or 0.0, self.eps)
