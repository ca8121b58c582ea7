"""What the benches work on: a network with its initial weights, and random pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.benches.harness import BESIDE, at_least_one
from robustscape.models.lenet import LeNet
from robustscape.models.preact_resnet import PreActResNet
from robustscape.runtime import Runtime, place
from robustscape.streams import Streams
from robustscape.types import Batch

CLASSES = 10
_NETWORKS = {
    "preact_resnet": ("PreActResNet-18", PreActResNet, (3, 32, 32)),
    "lenet": ("LeNet", LeNet, (1, 28, 28)),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A network and its input: speed depends on shapes alone, so weights are initial and pixels random.

    Attributes:
        network: "preact_resnet" on 32x32 pixels in colour or "lenet" on 28x28 grey ones, 10 classes each.
        width: The network's width.
        batch: Examples in a batch.
        runtime: How robustscape uses the machine; peers run in float32, as they come.
    """

    network: Literal["preact_resnet", "lenet"] = "preact_resnet"
    width: int = 64
    batch: int = 128
    runtime: Runtime = field(default_factory=Runtime, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "width", "batch")

    def words(self) -> str:
        """Return the problem in words: "PreActResNet-18(64), batch 128"."""
        return f"{_NETWORKS[self.network][0]}({self.width}), batch {self.batch}"

    def model(self) -> nn.Module:
        """Return the network as a peer has it: float32, contiguous, in eval mode, on the device."""
        _, family, image = _NETWORKS[self.network]
        model = family(width=self.width).build(image=image, classes=CLASSES, seed=0)
        return model.to(self.runtime.torch_device()).eval()

    def placed(self) -> nn.Module:
        """Return another copy of the network as robustscape has it."""
        return place(self.model(), self.runtime)

    def examples(self, n: int | None = None) -> Batch:
        """Return n examples, by default a batch of them, on the device; the same every time."""
        index = torch.arange(n or self.batch, device=self.runtime.torch_device())
        rng = Streams(0, ("bench",), index)
        return Batch(x=rng.uniform(*_NETWORKS[self.network][2]), y=rng.tag("labels").integers(CLASSES), index=index)

    def generator(self) -> torch.Generator:
        """Return a generator for sides that draw in torch's own way."""
        return torch.Generator(self.runtime.torch_device()).manual_seed(Streams(0, ("bench",)).torch_seed())


TINY = Problem(network="lenet", width=2, batch=4)
"""For a look at whether a bench runs at all."""


def attack_of(eps: float, steps: int) -> PGD:
    """Return the attack that all sides make: steps of eps / 4 from a uniform start, the last iterate returned."""
    return PGD(threat=ThreatModel(norm="linf", eps=eps), steps=steps, step_size=eps / 4)


def likeliest(model: nn.Module, x: Tensor, size: int) -> Tensor:
    """Return the class of the largest logit of each example, (N,), by batches of ``size``."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(dim=1) for part in x.split(size)])
