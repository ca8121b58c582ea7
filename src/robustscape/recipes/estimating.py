"""How long a Run takes on this machine: its forwards and backwards counted, the machine timed for a second."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from robustscape.data.cifar10 import CIFAR10
from robustscape.data.cifar100 import CIFAR100
from robustscape.data.digits import Digits
from robustscape.data.folder import Folder
from robustscape.data.imagenet32 import ImageNet32
from robustscape.data.mnist import MNIST
from robustscape.data.svhn import SVHN
from robustscape.models.preact_resnet import PreActResNet
from robustscape.recipes.run import Run
from robustscape.runtime import PlainView, Runtime, threads
from robustscape.runtime.memory import Parts, Whole
from robustscape.runtime.trial import Trial
from robustscape.training.method import Method
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import Architecture, Batch, DataSource, Objective, WeightPerturbation

_PASS = 2  # a forward and a gradient to the inputs, in forwards
_TRAINED = 3  # a forward and gradients to inputs and weights


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is known of a data set before it is read.

    Attributes:
        image: Shape of an image, (C, H, W).
        classes: Number of classes.
        n: Training images, without those of validation.
    """

    image: tuple[int, int, int]
    classes: int
    n: int


_KNOWN: dict[type, Size] = {
    CIFAR10: Size(image=(3, 32, 32), classes=10, n=50_000),
    CIFAR100: Size(image=(3, 32, 32), classes=100, n=50_000),
    SVHN: Size(image=(3, 32, 32), classes=10, n=73_257),
    ImageNet32: Size(image=(3, 32, 32), classes=1000, n=1_281_167),
    MNIST: Size(image=(1, 28, 28), classes=10, n=60_000),
    Digits: Size(image=(1, 8, 8), classes=10, n=1_347),
}


def size_of(data: DataSource) -> Size | None:
    """Return the size of a data set that is known without reading it, None for any other.

    A folder is known where it is CIFAR-10's.
    """
    kind = CIFAR10 if isinstance(data, Folder) and data.path == "cifar10-jpeg" else type(data)
    known = _KNOWN.get(kind)
    if known is None or isinstance(data, Digits):
        return known
    assert isinstance(data, CIFAR10 | CIFAR100 | SVHN | ImageNet32 | MNIST | Folder), "data without a choice of classes"
    classes = known.classes if data.classes is None else len(data.classes)
    held = data.validation if isinstance(data.validation, int) else round(data.validation * known.n)
    n = round((known.n - held) * classes / known.classes)
    return replace(known, classes=classes, n=n if data.per_class is None else min(n, classes * data.per_class))


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How often something takes an example through the network, by what is asked of it; shares of a batch count so.

    Attributes:
        forwards: Forwards alone.
        inputs: Forwards with the gradient to the inputs, in eval mode.
        weights: Forwards with the gradient to the weights, in train mode.
    """

    forwards: float
    inputs: float
    weights: float

    @property
    def work(self) -> float:
        """Return the work of all, in forwards: a gradient to the inputs is one more, one to the weights another."""
        return self.forwards + _PASS * self.inputs + _TRAINED * self.weights


@cache
def passes_of_step(objective: Objective, weights: WeightPerturbation | None) -> Passes:
    """Return the passes of a training step for each example of its batch, the attack included.

    One step is taken on a linear stand-in that always gives the first class, the right one: early-stopped attacks take
    all their steps.
    """
    tally, examples, epochs = _Tally(), 4, 10**6
    model = objective.prepare(_StandIn(tally)).train()
    settings = Training(epochs=epochs, batch_size=examples)
    how = Method(
        model=model,
        objective=objective,
        weights=weights,
        settings=settings,
        lowered=model,
        view=PlainView(model),
        parts=Parts(),
        whole=Whole(model, known=True),
        checkpointing=False,
    )
    index = torch.arange(examples)
    batch = Batch(x=torch.full((examples, 1, 4, 4), 0.5), y=torch.zeros_like(index), index=index)
    step(how, settings.optimizer.build(model), batch, epochs - 1, epochs, seed=0)  # the last one: no warm-up
    return Passes(**{kind: rows / examples for kind, rows in tally.rows.items()})


def forwards_of_step(objective: Objective, weights: WeightPerturbation | None) -> float:
    """Return how many forwards' work a training step is for each example of its batch, the attack included."""
    return passes_of_step(objective, weights).work


@cache
def operations(model: Architecture, image: tuple[int, int, int], classes: int) -> float:
    """Return the additions and multiplications of one example's forward through the convolutions and linear layers.

    They are a polynomial of second degree in a network's width, so three narrow ones tell of a wide one.
    """
    known: Any = model
    plain = {"mean": None, "std": None} if "mean" in {field.name for field in fields(known)} else {}
    plain_model = replace(known, **plain)
    if not hasattr(model, "width"):
        return float(_counted(plain_model, image, classes))
    one, two, three = (_counted(replace(plain_model, width=width), image, classes) for width in (1, 2, 3))
    w = known.width - 1
    return one + w * (two - one) + w * (w - 1) / 2 * (three - 2 * two + one)


def _counted(model: Architecture, image: tuple[int, int, int], classes: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    network = model.build(image=image, classes=classes, seed=0).eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, *image, device="meta"))
    return counter.get_total_flops()


@cache
def rate(runtime: Runtime) -> float:
    """Return the additions and multiplications a second of passes through a ResNet, timed once: about a second.

    A forward and the gradient to the inputs by PreActResNet-18, uncompiled, in the precision and on the device that the
    runtime stands for: of width 16 for 32 images, on CUDA of width 64 for 128.
    """
    device = runtime.torch_device()
    timed, examples = (PreActResNet(width=16), 32) if device.type == "cpu" else (PreActResNet(), 128)
    model = timed.build(image=(3, 32, 32), classes=10, seed=0).eval().to(device)
    x = torch.full((examples, 3, 32, 32), 0.5, device=device)
    with threads(runtime):
        taken = Trial(model, x).time(runtime)
    return _PASS * examples * operations(timed, (3, 32, 32), 10) / taken


def work(run: Run) -> float | None:
    """Return the additions and multiplications of a whole training, None where its data are not known.

    Tracking and measurements on the way, weight averaging and augmentation are left out.
    """
    size = size_of(run.data)
    if size is None:
        return None
    forwards = run.training.epochs * _examples(run, size) * forwards_of_step(run.objective, run.weights)
    return forwards * operations(run.model, size.image, size.classes)


def _examples(run: Run, size: Size) -> int:
    """Return the examples of an epoch: those that keep their labels, or as many as a mixture is said to have."""
    hide = run.unlabelled.hide or 0
    return run.unlabelled.size or size.n - (hide if isinstance(hide, int) else round(hide * size.n))


def seconds(run: Run) -> float | None:
    """Return about how long a run trains on this machine, from ``work`` and ``rate``; None where that is not known.

    Good to a factor of two or so: other networks use more or less of the machine than the one that is timed, compiled
    code is not counted on, and a linear model takes longer than its few operations.
    """
    amount = work(run)
    return None if amount is None else amount / rate(replace(run.runtime, devices=1))


class _Tally:
    """Examples counted by kind of pass; copies of a network count into the same one."""

    def __init__(self) -> None:
        self.rows = {"forwards": 0, "inputs": 0, "weights": 0}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Tally:
        return self


class _StandIn(nn.Module):
    """A linear network whose weights are 0: it gives the first class, and counts what its forwards cost."""

    def __init__(self, tally: _Tally) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 10)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.tally = tally

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        kind = ("weights" if self.training else "inputs") if torch.is_grad_enabled() else "forwards"
        self.tally.rows[kind] += len(x)
        return self.linear(x.flatten(1))
