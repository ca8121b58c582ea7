"""A linear classifier of two classes trained against an adversary or noise, stopped early, judged exactly."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.batches import Loader
from robustscape.data.folder import Folder
from robustscape.data.splits import of_classes
from robustscape.linear.adversary import worst_input
from robustscape.models.linear import Linear, LinearNetwork
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.studies.study import Cell
from robustscape.training.loop import Epoch, fit, start
from robustscape.training.settings import Training
from robustscape.types import Attack, BadInput, Images, Plain, Splits

_ROWS = 250  # images judged at once
_Change: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training of Yamada 2021 (https://arxiv.org/abs/2102.02950, section 5.1): a cell of the study.

    A linear map without bias to one output, from torch's initial weights, the steps of PGD 0.15 eps under L2 and
    0.01 under L-infinity, its start uniform in the ball.

    Attributes:
        adversary: What it is trained and judged on: "pgd", or "noise" drawn uniformly from the ball.
        norm: Norm of the ball, "l2" or "linf".
        eps: Its radius in pixel units; 0 for clean images.
        train_steps: Steps of PGD in training.
        test_steps: Steps of PGD where it is judged.
        training: Epochs, batches and optimiser.
        seed: Seed of initial weights, order and noise.
    """

    adversary: Literal["pgd", "noise"] = "pgd"
    norm: Literal["l2", "linf"] = "l2"
    eps: float = 0.0
    train_steps: int = 40
    test_steps: int = 100
    training: Training
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.adversary not in ("pgd", "noise"):
            raise BadInput(f"adversary {self.adversary!r} is not one of pgd, noise")
        for name in ("ema", "swa_start"):
            if (value := getattr(self.training, name)) is not None:
                raise BadInput(f"training.{name} is {value:g}, but weights are not averaged here; leave it out")
        self.attack(self.train_steps)
        self.attack(self.test_steps)

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.norm}-{self.eps:.4g}-{self.adversary}" if self.eps else "natural"

    def attack(self, steps: int) -> Attack | None:
        """Return the adversary with so many steps, None at eps 0."""
        threat = ThreatModel(norm=self.norm, eps=self.eps)
        pgd = PGD(threat=threat, steps=steps, step_size=0.01 if self.norm == "linf" else None, relative_step=0.15)
        return None if not self.eps else Noise(threat=threat) if self.adversary == "noise" else pgd

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Train, stop early and judge, yielding (done, total) in epochs, the judgement counting as one.

        Early stopping is the paper's: of all epochs the one of highest accuracy on the test images under what the
        model is trained on, the latest where several are equal. Under PGD the exact adversary stands in for it there.

        Args:
            data: The images.
            values: Of no other cell.

        Returns:
            Accuracies as fractions by split, under the paper's adversary ("found"), under the exact one ("exact") and
            on clean images ("clean"); "history": that on test by which the epoch was chosen, for each; "epoch", from
            1; and "w", the weights of one output.
        """
        model = self._built(data)
        attack, total = self.attack(self.train_steps), self.training.epochs + 1
        objective = Natural() if attack is None else AT(attack=attack)
        yield 0, total
        history, kept = [], model.linear.weight.detach().clone()
        events = fit(
            start(model, objective, self.training),
            Loader(images=data.train, batch_size=self.training.batch_size, seed=self.seed),
            objective=objective,
            weights=None,
            settings=self.training,
            runtime=replace(TRUTH, device="cpu"),
            seed=self.seed,
            tracked={},
        )
        judged = self._exact(model) if self.adversary == "pgd" else self._found(model)
        for event in events:
            if isinstance(event, Epoch):
                history.append(accuracy(model, data.test, judged))
                if history[-1] == max(history):
                    kept = model.linear.weight.detach().clone()
                yield len(history), total
        with torch.no_grad():
            model.linear.weight.copy_(kept)
        return self._judged(model, data) | {
            "history": history,
            "epoch": max(range(len(history)), key=lambda number: (history[number], number)) + 1,
            "w": kept.flatten().tolist(),
        }

    def accuracies(self, w: Tensor, data: Splits) -> dict[str, Plain]:
        """Return the accuracies of other weights, (d,), on both splits, under what this training's own are judged by.

        Under noise that is the same draw for each image.
        """
        model = self._built(data)
        with torch.no_grad():
            model.linear.weight.copy_(w.expand_as(model.linear.weight))
        change = self._found(model)
        return {name: accuracy(model, of, change) for name, of in {"train": data.train, "test": data.test}.items()}

    def _built(self, data: Splits) -> LinearNetwork:
        return Linear(bias=False, outputs="one").build(image=_shape(data.train), classes=2, seed=self.seed)

    def _judged(self, model: LinearNetwork, data: Splits) -> dict[str, Plain]:
        """Return the accuracies of the model on both splits."""
        sets = {"train": data.train, "test": data.test}
        changes: dict[str, _Change] = {
            "found": self._found(model),
            "exact": self._exact(model),
            "clean": lambda x, y, index: x,
        }
        return {
            what: {name: accuracy(model, of, change) for name, of in sets.items()} for what, change in changes.items()
        }

    def _found(self, model: LinearNetwork) -> _Change:
        """Return what the paper judges with."""
        attack = self.attack(self.test_steps)
        if attack is None:
            return lambda x, y, index: x
        return lambda x, y, index: attack(model, x, y, rng=Streams(self.seed, ("judge",), index))

    def _exact(self, model: LinearNetwork) -> _Change:
        """Return the worst input in ball and box."""

        def change(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
            w = model.linear.weight.detach().flatten()
            found = worst_input(w, x.flatten(1), 2 * y - 1, norm=self.norm, eps=self.eps, box=(0.0, 1.0))
            return found.view_as(x)

        return change


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """A training on two classes of images in folders instead of the study's images.

    Attributes:
        source: The images. Their content is not part of the cell: other images belong into a folder of another name.
        classes: Names of two of its classes, which become 0 and 1.
        trained: The training.
    """

    source: Folder
    classes: tuple[str, str]
    trained: Trained

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{'-'.join(self.classes)}-{self.trained.name}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Read the images, train and judge, yielding (done, total); returns what ``Trained`` does.

        Args:
            data: Not used.
            values: Of no other cell.

        Raises:
            BadInput: images that are not there or cannot be read, or without these classes.
        """
        whole = self.source.load(seed=self.trained.seed)
        known = whole.train.classes
        missing = next((name for name in self.classes if name not in known), None)
        if missing is not None:
            raise BadInput(f"{self.source.path} has no class {missing!r}; there are: {', '.join(known)}")
        chosen = tuple(known.index(name) for name in self.classes)
        parts = {name: of_classes(getattr(whole, name), chosen) for name in ("train", "validation", "test")}
        return (yield from self.trained.running(with_all(Splits(**parts)), values))


def with_all(splits: Splits) -> Splits:
    """Return the splits with the images of validation back among those of training, in the order of their file."""
    both = (splits.train, splits.validation)
    together = {name: torch.cat([getattr(images, name) for images in both]) for name in ("x", "y", "index")}
    order = together["index"].argsort()
    return replace(splits, train=replace(splits.train, **{name: values[order] for name, values in together.items()}))


def _shape(images: Images) -> tuple[int, int, int]:
    _, channels, height, width = images.x.shape
    return channels, height, width


def accuracy(model: nn.Module, images: Images, change: _Change) -> float:
    """Return the fraction of images classified correctly once changed.

    Args:
        model: Pixels in [0, 1] to logits.
        images: The images.
        change: (x, y, index) to the inputs that are classified, x (N, C, H, W) in [0, 1].
    """
    right = 0
    for first in range(0, len(images), _ROWS):
        rows = slice(first, first + _ROWS)
        x = change(images.pixels(rows), images.y[rows], images.index[rows])
        with torch.no_grad():
            right += int((model(x).argmax(dim=1) == images.y[rows]).sum())
    return right / len(images)
