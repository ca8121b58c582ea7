"""The LeNet of Liu et al. 2020 (PAS), with its width factor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from robustscape.models._build import check_fields, check_shape, seeded
from robustscape.models.activations import Activation, activated_by
from robustscape.models.normalise import Channels, normalise
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class LeNet:
    """LeNet of width w: two 5x5 convolutions (2w, 4w), each with 2x2 max pooling, and two linear layers.

    Liu et al., "On the loss landscape of adversarial training: identifying challenges and how to overcome
    them", NeurIPS 2020, https://arxiv.org/abs/2006.08403, the MNIST network. All layers have biases.

    Attributes:
        width: The paper's width factor w, at least 1.
        activation: Activation function of the three hidden layers.
        mean: Subtracted from the pixels of each channel, in [0, 1]; None for no normalisation by constants.
        std: Pixels of each channel are divided by it, above 0; None for no normalisation by constants.
        per_image: Normalise every image by its own mean and standard deviation; not with mean and std.

    Deviations:
        Pooling comes before the activation, which is the same function for the paper's ReLU (and softplus)
        and costs less.
    """

    width: int = 16
    activation: Activation = "relu"
    mean: Channels | None = None
    std: Channels | None = None
    per_image: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_fields(self)

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> LeNetNetwork:
        """Make the network with torch's default initial weights, drawn from ``seed``.

        Args:
            image: Shape of an image, (C, H, W), of at least 4x4 pixels.
            classes: Number of classes, K.
            seed: Seed of the initial weights.

        Raises:
            BadInput: images too small to be pooled twice, or a shape that cannot be meant.
        """
        check_shape(image, classes)
        if min(image[1:]) < 4:
            raise BadInput(f"LeNet halves images twice, so they need at least 4x4 pixels, not {image[1]}x{image[2]}")
        with seeded(seed):
            return LeNetNetwork(
                normalise=normalise(self.mean, self.std, image[0], per_image=self.per_image),
                image=image,
                classes=classes,
                width=self.width,
                activation=self.activation,
            )


class LeNetNetwork(nn.Module):
    """(N, C, H, W) pixels in [0, 1] to logits, (N, K); see ``LeNet``.

    Args:
        normalise: Comes first.
        image: (C, H, W).
        classes: K.
        width: Width factor.
        activation: Of the hidden layers.
    """

    def __init__(
        self, *, normalise: nn.Module, image: tuple[int, int, int], classes: int, width: int, activation: Activation
    ) -> None:
        super().__init__()
        channels, height, wide = image
        self.normalise = normalise
        self.conv1 = nn.Conv2d(channels, 2 * width, 5, padding=2)
        self.conv2 = nn.Conv2d(2 * width, 4 * width, 5, padding=2)
        self.fc1 = nn.Linear(4 * width * (height // 4) * (wide // 4), 64 * width)
        self.fc2 = nn.Linear(64 * width, classes)
        self.activation = activated_by(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        h = self.activation(F.max_pool2d(self.conv1(self.normalise(x)), 2))
        h = self.activation(F.max_pool2d(self.conv2(h), 2))
        return self.fc2(self.activation(self.fc1(h.flatten(1))))
