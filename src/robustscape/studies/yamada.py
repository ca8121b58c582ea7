"""Yamada et al. 2021: is the loss landscape in weight space sharp under an adversary? Logistic regression on MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, ClassVar, Literal

from robustscape.data.digits import Digits
from robustscape.data.mnist import MNIST
from robustscape.data.splits import of_classes
from robustscape.report.study import Shown
from robustscape.studies import _yamada_beside, _yamada_figures, _yamada_tables, _yamada_theory
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained, with_all
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.types import BadInput, Plain, Splits

_MODULES = (_yamada_tables, _yamada_beside, _yamada_figures, _yamada_theory)


def _training() -> Training:
    """The settings that the paper leaves open, chosen so that all rows but one of its Tables 1 to 4 are met."""
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=0.0)
    return Training(epochs=5, batch_size=128, optimizer=optimizer, lr=Constant(), track=0, guard="no")


@dataclass(frozen=True, kw_only=True)
class Yamada:
    """Logistic regression under an adversary and under noise, MNIST 0 and 1: tables, figures and theory.

    Paper: Yamada et al. 2021, https://arxiv.org/abs/2102.02950, section 5.1. Beside each accuracy the published one
    and the difference, the accuracy under the exact adversary in ball and pixel range, and what the optimum of the
    loss has. CIFAR2 (frog and ship) is trained where the folder cifar10-jpeg is.

    Attributes:
        scale: "paper" for all images of MNIST's classes 0 and 1; "small" for scikit-learn's digits 0 and 1, which
            only shows that everything runs.
        seed: Seed of all random numbers.
        train_steps: Steps of PGD in training.
        test_steps: Steps of PGD where a model is judged.
        training: Epochs, batches and optimiser, the same for all rows.

    Deviations:
        The paper leaves open optimiser, learning rate, batch and epochs: here they were chosen by its Tables 1 to 4.
        It stops early on the test robust accuracy, and so does this, so no test accuracy is an estimate for new
        images. Whether its PGD starts at random is open too: here it does.
    """

    name: ClassVar[str] = "yamada"
    precision: ClassVar[str] = "float32 trainings, attacks and slices, float64 optima and theory"

    scale: Literal["paper", "small"] = "paper"
    seed: int = 0
    train_steps: int = 40
    test_steps: int = 100
    training: Training = field(default_factory=_training)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.scale not in ("paper", "small"):
            raise BadInput(f"scale {self.scale!r} is not one of paper, small")
        self.trained(norm="l2", eps=0.1)

    def parts(self) -> tuple[str, ...]:
        """Return the names of the tables, figures and checks."""
        return tuple(part for module in _MODULES for part in module.PARTS)

    def cells(self, part: str) -> tuple[Cell, ...]:
        """Return the cells of a part; several parts share trainings."""
        return _module(part).cells(self, part)

    def show(self, part: str, values: Mapping[Any, Plain]) -> Shown:
        """Return a part from the values of its cells."""
        return _module(part).show(self, part, values)

    def trained(
        self, *, norm: Literal["l2", "linf"], eps: float, adversary: Literal["pgd", "noise"] = "pgd"
    ) -> Trained:
        """Return a training of this study; at eps 0 the natural one, whatever norm and adversary."""
        natural = Trained(
            train_steps=self.train_steps, test_steps=self.test_steps, training=self.training, seed=self.seed
        )
        return replace(natural, adversary=adversary, norm=norm, eps=eps) if eps else natural

    def data(self) -> Splits:
        """Read the images of classes 0 and 1; the training images are all there are, without a validation split."""
        if self.scale == "paper":
            splits = MNIST(classes=(0, 1)).load(seed=self.seed)
        else:
            whole = Digits().load(seed=self.seed)
            parts = (whole.train, whole.validation, whole.test)
            train, validation, test = (of_classes(images, (0, 1)) for images in parts)
            splits = Splits(train=train, validation=validation, test=test)
        return with_all(splits)


def _module(part: str) -> ModuleType:
    """Return the module that a part is made in."""
    return next(module for module in _MODULES if part in module.PARTS)
