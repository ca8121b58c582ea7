"""How long a Run takes on this machine: its forwards and backwards counted, its network timed on some images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.data.cifar10 import CIFAR10
from robustscape.data.cifar100 import CIFAR100
from robustscape.data.digits import Digits
from robustscape.data.folder import Folder
from robustscape.data.imagenet32 import ImageNet32
from robustscape.data.mnist import MNIST
from robustscape.data.svhn import SVHN
from robustscape.objectives.natural import Natural
from robustscape.recipes.run import Run
from robustscape.runtime import PlainView, Runtime, place, threads
from robustscape.runtime.memory import Parts, Whole
from robustscape.streams import Streams
from robustscape.training.batch_loss import attacked
from robustscape.training.method import Method, method
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import Architecture, Batch, DataSource, Objective, WeightPerturbation

_PASS = 2  # a forward and a gradient to the inputs, in forwards
_TRAINED = 3  # a forward and gradients to inputs and weights
_FEW = 4  # images that a network is timed on first: fewer use a wide one badly
_MORE = 8  # times as many next
_ENOUGH = 0.15  # seconds that are told from noise
_LONG = 0.5  # seconds of what is not timed again, nor the step of a network whose pass takes as long
_CLASSES = 10  # that a network of more than two is timed with


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
    channels, height, width = known.image
    by = data.shrink if isinstance(data, Folder) else 1
    known = replace(known, image=(channels, height // by, width // by))
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

    One step is taken on a linear stand-in that is sure of the first class, the right one: early-stopped attacks take
    all their steps, and AWP acts that does so below a loss, of 0.06 nats or more.
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


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What passes through a network take of the machine, in seconds for each example.

    Attributes:
        inputs: A forward with the gradient to the inputs, as an attack of the training's takes it.
        weights: A forward with the gradient to the weights, and the optimiser's step.
    """

    inputs: float
    weights: float

    def seconds(self, passes: Passes) -> float:
        """Return the seconds of so many passes; a forward alone is half of one with the gradient to the inputs."""
        return (passes.forwards / _PASS + passes.inputs) * self.inputs + passes.weights * self.weights


def pace(model: Architecture, image: tuple[int, int, int], classes: int, *, batch_size: int, runtime: Runtime) -> Pace:
    """Return what passes through a network take here, in batches of a size, timed once: mostly less than a second.

    The network itself is timed, a step of PGD and one of natural training, on four images and then on eight times as
    many and again, until both take 0.15 seconds or the batch is whole. What the last images took beyond those before,
    further ones are taken to take: calls and copies of weights, which narrow networks spend their time on, come once a
    batch. On CUDA a whole batch is timed. Nothing is compiled.

    Args:
        model: The network; constants that pixels are normalised by are left out.
        image: Shape of an image, (C, H, W).
        classes: Number of classes: two, or more, of which ten are timed, since the last layer is a small part.
        batch_size: Images of a batch.
        runtime: How to use the machine; of several devices it is one's pace.
    """
    known: Any = model
    plain = {"mean": None, "std": None} if "mean" in {field.name for field in fields(known)} else {}
    timed = partial(
        _timed,
        replace(known, **plain),
        image,
        2 if classes == 2 else _CLASSES,
        runtime=replace(runtime, devices=1, compile="no"),
    )
    few, n = 0, min(_FEW, batch_size) if runtime.torch_device().type == "cpu" else batch_size
    less, more = (0.0, 0.0), timed(n)
    while n < batch_size and sum(more) < _ENOUGH:
        few, n = n, min(_MORE * n, batch_size)
        less, more = more, timed(n)
    inputs, weights = (
        at + (batch_size - n) * max(at - was, 0.0) / (n - few) for was, at in zip(less, more, strict=True)
    )
    return Pace(inputs=inputs / batch_size, weights=weights / batch_size)


@cache
def _timed(
    model: Architecture, image: tuple[int, int, int], classes: int, n: int, *, runtime: Runtime
) -> tuple[float, float]:
    """Return the seconds of a pass for an attack and of a natural step, both of n images."""
    objective, settings, attack = Natural(), Training(epochs=1, batch_size=n), PGD(steps=1, start="none")
    index = torch.arange(n)
    pixels = torch.linspace(0, 1, n * prod(image)).reshape(n, *image)
    device = runtime.torch_device()
    batch = Batch(x=pixels.to(device), y=(index % classes).to(device), index=index.to(device))
    with threads(runtime):
        network = place(model.build(image=image, classes=classes, seed=0), runtime).train()
        how = method(network, objective, None, settings, runtime)
        optimizer = settings.optimizer.build(network)
        inputs = _least(lambda: attacked(how, batch, attack, Streams(seed=0)), device)
        if inputs > _LONG:
            return inputs, inputs * _TRAINED / _PASS
        return inputs, _least(lambda: step(how, optimizer, batch, 0, 1, seed=0), device)


def _least(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that some work takes, the least of two, since the first prepares; of one where it is long."""

    def once() -> float:
        clock = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - clock

    first = once()
    return first if first > _LONG and device.type == "cpu" else min(first, once())


def _examples(run: Run, size: Size) -> int:
    """Return the examples of an epoch: those that keep their labels, or as many as a mixture is said to have."""
    hide = run.unlabelled.hide or 0
    return run.unlabelled.size or size.n - (hide if isinstance(hide, int) else round(hide * size.n))


def pace_of(run: Run) -> Pace | None:
    """Return the pace of a run's network in its batches, None where its data are not known."""
    size = size_of(run.data)
    if size is None:
        return None
    batch_size = min(run.training.batch_size, _examples(run, size))
    return pace(run.model, size.image, size.classes, batch_size=batch_size, runtime=run.runtime)


def seconds(run: Run) -> float | None:
    """Return about how long a run trains on this machine, None where its data are not known.

    The passes of its steps, ``passes_of_step``, at the pace of its own network, ``pace``. Tracking and measurements on
    the way, weight averaging and augmentation are left out, and compiled code is not counted on. Steps of AT and of
    natural training of fifteen networks, from one matrix to WideResNet-28-10, took 0.6 to 1.4 times the CPU time that
    this says, on one thread; wide networks, which are timed on four images, are the ones that took less.
    """
    size, taken = size_of(run.data), pace_of(run)
    if size is None or taken is None:
        return None
    return run.training.epochs * _examples(run, size) * taken.seconds(passes_of_step(run.objective, run.weights))


class _Tally:
    """Examples counted by kind of pass; copies of a network count into the same one."""

    def __init__(self) -> None:
        self.rows = {"forwards": 0, "inputs": 0, "weights": 0}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Tally:
        return self


class _StandIn(nn.Module):
    """A linear network whose weights are 0: it is sure of the first class, and counts what its forwards cost."""

    def __init__(self, tally: _Tally) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 10)
        nn.init.zeros_(self.linear.weight)
        self.linear.bias = nn.Parameter(5.0 * torch.eye(10)[0])
        self.tally = tally

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        kind = ("weights" if self.training else "inputs") if torch.is_grad_enabled() else "forwards"
        self.tally.rows[kind] += len(x)
        return self.linear(x.flatten(1))
