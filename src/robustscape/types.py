"""Nouns and protocols that every room shares.

Units, everywhere in robustscape: pixels are floats in [0, 1], ``eps`` and step sizes are in the same
unit, losses are nats per example, errors and accuracies are fractions in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias, runtime_checkable

from torch import Tensor, nn

if TYPE_CHECKING:
    from robustscape.streams import Streams

Params: TypeAlias = dict[str, Tensor]
"""Parameter name, as in ``model.named_parameters()``, to tensor."""

Plain: TypeAlias = Any
"""Plain data: None, bool, int, float, str, and lists and string-keyed dicts of them."""


class BadInput(ValueError):
    """What a user gave cannot be used. One sentence: what, the value, the likely intention.

    The command line prints it without a traceback and exits with 2; nothing else is treated so.
    """


class NotApplicable(BadInput):
    """A measurement is not one of this network; the sentence says why.

    Where all measurements are asked for at once it is left out, and the others are made.
    """


class Diverged(ArithmeticError):
    """A number that must be finite is not: says where it went first."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some examples on the device.

    Attributes:
        x: Clean images, (N, C, H, W), float32 in [0, 1].
        y: Labels, (N,), int64 in [0, K).
        index: Which example of its data set each row is, (N,), int64: the key of its random numbers.
        target: Soft labels, (N, K), rows summing to 1, or None where the labels themselves are meant.
        labelled: Whether y is a true label, (N,), bool, or None where all are.
        mixed: Shares of the labels that mixed images are made of, (N, K), rows summing to 1: what the attack leads
            away from in place of y, which is the label of the first of them. None where nothing is mixed.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    target: Tensor | None = None
    labelled: Tensor | None = None
    mixed: Tensor | None = None

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.x)

    @property
    def goal(self) -> Tensor:
        """What an attack leads away from: the labels, (N,), or of mixed images the shares of theirs, (N, K)."""
        return self.y if self.mixed is None else self.mixed


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A scalar to minimise and the named parts it is made of (each a scalar, in nats per example)."""

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Images:
    """A labelled set of images, held once as uint8 on one device.

    Attributes:
        x: (N, C, H, W), uint8; pixel value 255 stands for 1.
        y: (N,), int64 in [0, len(classes)).
        index: (N,), int64: the number of each image in the file it came from, unique within the set.
        classes: Name of each class.
        name: What a table calls it, for example "MNIST, test".
    """

    x: Tensor
    y: Tensor
    index: Tensor
    classes: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        """Number of images."""
        return len(self.x)

    def take(self, rows: Tensor | slice) -> Images:
        """Return the images at the given rows, (M,), int64 or a slice, in that order."""
        return replace(self, x=self.x[rows], y=self.y[rows], index=self.index[rows])

    def pixels(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the images at the given rows as float32 in [0, 1], (M, C, H, W)."""
        return self.x[rows].float().div_(255)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Honest splits: nothing is chosen on ``test``. All three on one device."""

    train: Images
    validation: Images
    test: Images


@runtime_checkable
class DataSource(Protocol):
    """A data set, as its configuration: a frozen dataclass in a file of ``data/``."""

    def load(self, *, seed: int) -> Splits:
        """Read (and download if need be) the data; ``seed`` draws the validation split and subsets."""
        ...


class Batches(Protocol):
    """Where a training loop takes its batches from; nothing about them depends on what was taken before."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of epoch ``number`` (from 0), from batch ``start`` on."""
        ...


@runtime_checkable
class Architecture(Protocol):
    """A network, as its configuration: a frozen dataclass in a file of ``models/``."""

    def build(self, *, image: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
        """Make the network: (N, C, H, W) pixels in [0, 1] to (N, classes) logits, image = (C, H, W)."""
        ...


class Threat(Protocol):
    """What the adversary may do to an input: see ``attacks.threat.ThreatModel``, the only one so far."""

    @property
    def eps(self) -> float:
        """Radius of the ball, in pixel units."""
        ...

    @property
    def norm(self) -> str:
        """Which norm measures it."""
        ...


@runtime_checkable
class Attack(Protocol):
    """A search for a perturbed input that raises the loss, as its configuration.

    A call leaves no trace: parameters, ``.grad``, buffers, modes and the global random state are as they
    were. The model is run in eval mode.
    """

    @property
    def threat(self) -> Threat:
        """What the adversary may do."""
        ...

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None) -> Tensor:
        """Return x_adv, (N, C, H, W), of x's dtype (float32 or float64), inside ball and box.

        Without ``rng``: seed 0, examples numbered in order.
        """
        ...

    def at(self, eps: float) -> Self:
        """Return the same attack at another eps, its step size following its rule."""
        ...

    def describe(self) -> str:
        """Return the attack in words, with norm, eps and budget, for captions."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What training minimises. Owns its inner maximisation; ``x_adv`` is given to it."""

    @property
    def attack(self) -> Attack | None:
        """The inner maximisation, None where there is none."""
        ...

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return what is trained: usually the model itself."""
        ...

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of a batch, a mean over its examples, with a graph to the weights."""
        ...


@runtime_checkable
class Staged(Protocol):
    """What an ``Objective`` also has that makes something of a step's batch, or of its attack, before the attack."""

    def stage(self, batch: Batch, rng: Streams, done: int, total: int) -> tuple[Batch, Attack]:
        """Return what is attacked and trained on in place of the batch, and by which attack, at its full eps.

        Args:
            batch: The step's examples, of a rank its share.
            rng: The step's random numbers, of the batch's examples.
            done: Steps taken so far.
            total: Steps of the whole training.
        """
        ...


@runtime_checkable
class Selective(Protocol):
    """What an ``Objective`` also has that does not take every kind of label."""

    @property
    def takes(self) -> Literal["labels", "soft", "mixed"]:
        """Return what it takes: one label for each image alone, soft ones in its loss too, or also mixed images."""
        ...


class WeightLoss(Protocol):
    """A loss as a function of the weights that a model carries right now."""

    def value(self) -> Tensor:
        """Return the mean loss, a scalar without a graph."""
        ...

    def gradient(self, names: Sequence[str]) -> Params:
        """Return the gradient of the mean loss with respect to the named parameters."""
        ...

    def refresh(self) -> None:
        """Attack again at the present weights: later calls use the new adversarial inputs."""
        ...


@runtime_checkable
class WeightPerturbation(Protocol):
    """A search for a perturbation v of the weights, as its configuration. Leaves the weights as they were."""

    @property
    def warmup(self) -> float:
        """Epochs before it acts."""
        ...

    @property
    def decay_at(self) -> Literal["w", "w+v"]:
        """Where weight decay reads the weights: the method's own (w) or its code's (w+v)."""
        ...

    @property
    def statistics(self) -> Literal["w+v", "w", "every", "eval"]:
        """Which forwards move BatchNorm's running statistics: the trained one, one at w in its place, or every one.

        "eval" is as "w", but the search for v is in eval mode and moves none: the forward at w is one of its own.
        """
        ...

    def __call__(self, model: nn.Module, loss: WeightLoss, *, rng: Streams | None = None) -> Params:
        """Return v for the parameters that it moves."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """A factor as a pure function of progress: multiplies lr, eps, beta or gamma."""

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done (0 <= done <= total)."""
        ...


@runtime_checkable
class Optimizer(Protocol):
    """An optimiser as its configuration: a frozen dataclass in a file of ``training/optimizers``."""

    @property
    def lr(self) -> float:
        """Learning rate that the schedule multiplies."""
        ...

    @property
    def weight_decay(self) -> float:
        """Coefficient of w in the gradient."""
        ...

    def build(self, model: nn.Module) -> Any:
        """Return the ``torch.optim.Optimizer`` over the model's parameters."""
        ...


@runtime_checkable
class Exploring(Protocol):
    """What an ``Optimizer`` also has that takes several batches a step: it looks around the weights before it moves."""

    @property
    def batches(self) -> int:
        """Batches of a step, at least 1; an epoch's last step has those that are left."""
        ...

    def walking(
        self, model: nn.Module, optimizer: Any, *, steps: float, rng: Streams
    ) -> AbstractContextManager[Callable[[], None]]:
        """Let the block walk: what it is given moves the weights by the gradient in their ``.grad``.

        After the block the weights have their old bits again, on error too, and ``.grad`` is what ``optimizer``, made
        by ``build``, is to step by. ``steps`` is how many steps were taken before.
        """
        ...


class Provenanced(Protocol):
    """Any Result: a frozen dataclass that says where it came from."""

    @property
    def provenance(self) -> Provenance:
        """Where it came from."""
        ...


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a number came from: enough to make it again.

    Attributes:
        created: UTC time, ISO 8601.
        seconds: Wall-clock seconds the computation took.
        versions: Library name to version.
        commit: Commit of the source tree, "" outside one; "+" at the end where it was changed.
        device: The processor in words.
        precision: What the search ran in, for example "bfloat16 search, float32 confirmation".
        threads: CPU threads, of each rank.
        seed: Seed of all random numbers.
        model: What was measured: a run directory and checkpoint, or a name.
        data: Which data, for example "MNIST, test, first 1000".
        settings: The component that made it, as plain data.
        ranks: Processes of one group that shared the work, 1 without a group.
    """

    created: str
    seconds: float
    versions: dict[str, str]
    commit: str
    device: str
    precision: str
    threads: int
    seed: int
    model: str
    data: str
    settings: Plain
    ranks: int = 1


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a measurement looks at.

    Attributes:
        model: Maps pixels in [0, 1] to logits; used in eval mode.
        x: (N, C, H, W), in [0, 1], float32 (float64 under a float64 model), on the model's device.
        y: (N,), int64.
        index: (N,), int64, the key of each example's random numbers.
        seed: Seed of all random numbers.
        view: What attacks run on in place of ``model``: a context manager giving the fast view.
        batch: Examples per forward.
        runtime: The ``runtime.Runtime`` that the view was made with.
        parts: How many of a batch's examples are worked through at once, as ``runtime.memory.Parts``; None for all.
        classes: Class names, K; empty where they are not known.
        split: Which split the examples are from, for example "test"; "" where that is not known.
        model_name: What was measured, for provenance.
        data_name: Which data, for provenance.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    index: Tensor
    seed: int
    view: Any
    batch: int
    runtime: Any
    parts: Any = None
    classes: tuple[str, ...] = ()
    split: str = ""
    model_name: str = ""
    data_name: str = ""


@runtime_checkable
class Measurement(Protocol):
    """A measurement as its configuration: independent points, then a Result.

    Attributes:
        name: What the command line calls it; the name of its file.
        scale_free: Whether its numbers, lengths and angles in weight space left out, stay under its defaults when a
            network is rescaled without changing its function, see ``weights.rescaling``.
    """

    name: ClassVar[str]
    scale_free: ClassVar[bool]

    def points(self) -> Sequence[Plain]:
        """Return the points, plain data, each measurable alone."""
        ...

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Measure one point; leaves no trace on the model. Plain data, so that it can be stored."""
        ...

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> Provenanced:
        """Make the Result from the values of all points, in their order."""
        ...


@runtime_checkable
class Grouped(Measurement, Protocol):
    """A measurement that takes several points of some subjects in one pass."""

    def at_once(self, subject: Subject) -> int:
        """Return how many points ``several`` takes in one pass; 1 where each is to be measured alone."""
        ...

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of up to so many points, equal to those of ``at`` but for rounding."""
        ...
