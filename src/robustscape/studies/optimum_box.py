"""What linear models reach at best under L2 in the pixel box: a cell of the study of Yamada 2021."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from robustscape.linear.boxed_l2 import minimum_l2
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.studies.optimum import CLOSE, PIXELS, Margin, robust_accuracies, vectors
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import BadInput, Plain, Splits


@dataclass(frozen=True, kw_only=True)
class BoxOptimum:
    """The minimum of the adversarial logistic loss in L2 ball and pixel box, without ridge and intercept.

    Attributes:
        trained: The training; its eps is the radius, and the search begins at its weights.
    """

    trained: Trained

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.trained.eps and (self.trained.norm != "l2" or self.trained.adversary != "pgd"):
            raise BadInput(f"the optimum under l2 in the box does not belong to the training {self.trained.name}")

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"optimum-box-l2-{self.trained.eps:.4g}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The training, and the largest margin without the box."""
        return self.trained, Margin(norm="l2")

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Solve, yielding (done, total).

        Args:
            data: The images.
            values: Of the cells that it needs.

        Returns:
            What ``Optimum`` returns as "boxed"; None where eps is 0 or all balls can be classified without the box.
        """
        eps = self.trained.eps
        yield 0, 1
        if not eps or eps < values[Margin(norm="l2")]["margin"]:
            return None
        x, y = vectors(data.train)
        begun = torch.tensor(values[self.trained]["w"], dtype=torch.float64)
        found = minimum_l2(x, y, eps=eps, start=begun)
        close = "optimal" if found.gap <= CLOSE * found.loss else "unfinished"
        return {
            "outcome": "separable" if found.separates else close,
            "loss": None if found.separates else found.loss,
            "gap": None if found.separates else found.gap,
            "trained": float(AdversarialLogistic(x=x, y=y, norm="l2", eps=eps, box=PIXELS).at(begun).loss),
            **robust_accuracies(found.w, data, norm="l2", eps=eps),
            "weights": int((found.w != 0).sum()),
        }
