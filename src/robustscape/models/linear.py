"""Linear classifiers, also as the single output of a binary problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from robustscape.models._build import check_shape, seeded
from robustscape.models.normalise import Channels, check_constants, normalise
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear map from pixels to logits.

    Attributes:
        bias: Whether it has a bias.
        outputs: "classes" for a logit per class; "one", for two classes, for a single output z that
            becomes the logits (0, z), so that cross-entropy is the logistic loss log(1 + exp(-z)) or
            log(1 + exp(z)).
        mean: Subtracted from the pixels of each channel, in [0, 1]; None for no normalisation.
        std: Pixels of each channel are divided by it, above 0; None for no normalisation.
    """

    bias: bool = True
    outputs: Literal["classes", "one"] = "classes"
    mean: Channels | None = None
    std: Channels | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_constants(self.mean, self.std)
        if self.outputs not in ("classes", "one"):
            raise BadInput(f"outputs must be 'classes' or 'one', not {self.outputs!r}")

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> LinearNetwork:
        """Make the network with torch's default initial weights, drawn from ``seed``.

        Args:
            image: Shape of an image, (C, H, W).
            classes: Number of classes, K; 2 where ``outputs`` is "one".
            seed: Seed of the initial weights.

        Raises:
            BadInput: one output for more than two classes, or a shape that cannot be meant.
        """
        check_shape(image, classes)
        if self.outputs == "one" and classes != 2:
            raise BadInput(f"one output is for 2 classes, not {classes}; did you mean outputs='classes'?")
        channels, height, width = image
        with seeded(seed):
            return LinearNetwork(
                normalise=normalise(self.mean, self.std, channels),
                inputs=channels * height * width,
                outputs=1 if self.outputs == "one" else classes,
                bias=self.bias,
            )


class LinearNetwork(nn.Module):
    """(N, C, H, W) pixels in [0, 1] to logits, (N, K), by one matrix; one output z becomes (0, z).

    Args:
        normalise: Comes first.
        inputs: C * H * W.
        outputs: K, or 1.
        bias: Whether it has a bias.
    """

    def __init__(self, *, normalise: nn.Module, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.normalise = normalise
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.one = outputs == 1  # not asked of the layer, in whose place an objective may put another

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        z = self.linear(self.normalise(x).flatten(1))
        return F.pad(z, (1, 0)) if self.one else z
