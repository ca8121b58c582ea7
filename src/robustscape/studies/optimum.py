"""What linear models reach at best, solved instead of trained: cells of the study of Yamada 2021."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from robustscape.linear.boxed import minimum, searched
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.linear.norms import Box
from robustscape.linear.objective import Objective
from robustscape.linear.separability import maximum_margin
from robustscape.linear.solve import solve
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import BadInput, Images, Plain, Splits

Norm = Literal["l2", "linf"]

PIXELS: Box = (0.0, 1.0)
"""The pixel range."""

CLOSE = 1e-3
"""Largest gap of what is called an optimum, as a fraction of the loss."""


def vectors(images: Images) -> tuple[Tensor, Tensor]:
    """Return images of two classes as x, (N, d), float64 in [0, 1], and y, (N,), -1 for class 0 and 1 for class 1."""
    return images.pixels().double().flatten(1), 2 * images.y - 1


@dataclass(frozen=True, kw_only=True)
class Margin:
    """The plane through the origin of largest margin between the training images.

    Attributes:
        norm: Norm of the margin, "l2" or "linf".
    """

    norm: Norm

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.norm not in get_args(Norm):
            raise BadInput(f"norm {self.norm!r} is not one of {', '.join(get_args(Norm))}")

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"margin-{self.norm}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Find it, yielding (done, total).

        Args:
            data: The images.
            values: Of no other cell.

        Returns:
            "margin": the largest eps whose balls are separable, reached by "w", without the pixel box; "upper": none
            is larger, the certificate.
        """
        yield 0, 1
        found = maximum_margin(*vectors(data.train), norm=self.norm, intercept=False)
        return {"margin": found.value, "upper": found.upper, "w": found.w.tolist()}


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The minimum of the adversarial logistic loss, without ridge and intercept, beside the model trained for it.

    Attributes:
        norm: Norm of the ball, "l2" or "linf".
        trained: The training; its eps is the radius.
    """

    norm: Norm
    trained: Trained

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.trained.eps and (self.trained.norm != self.norm or self.trained.adversary != "pgd"):
            raise BadInput(f"the optimum under {self.norm} does not belong to the training {self.trained.name}")

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"optimum-{self.norm}-{self.trained.eps:.4g}"

    @property
    def margin(self) -> Margin:
        """The maximum-margin direction, which stands in where there is no optimum."""
        return Margin(norm=self.norm)

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The training and the maximum-margin direction."""
        return self.trained, self.margin

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Solve, yielding (done, total).

        Args:
            data: The images.
            values: Of the cells that it needs.

        Returns:
            "free", solved without the pixel box, and "boxed", with it (under linf where the balls are not separable,
            else None): each "outcome" ("optimal"; "unfinished"; "constant": w = 0; "separable": no minimum;
            "unattained": only weights without limit come to the infimum), the "loss" and its duality "gap" (None where
            "separable"), the "trained" model's loss by the same measure, nats per example on the training images, the
            robust accuracies "train" and "test" of the solution, exact in ball and box, and how many of its "weights"
            are not 0.
        """
        trained = torch.tensor(values[self.trained]["w"], dtype=torch.float64)
        yield 0, 2
        with threadpool_limits(1, user_api="blas"):  # each process has one
            free = self._free(data, trained, values[self.margin])
        yield 1, 2
        boxed = None
        if self.norm == "linf" and free["outcome"] != "separable":
            with threadpool_limits(1, user_api="blas"):
                boxed = self._boxed(data, trained)
        return {"free": free, "boxed": boxed}

    def _free(self, data: Splits, trained: Tensor, margin: Plain) -> dict[str, Plain]:
        """Solve without the box: where eps is below the margin, its direction is all there is."""
        x, y = vectors(data.train)
        problem = Objective(
            x=x.numpy(),
            y=y.double().numpy(),
            cost=np.full(len(y), 1 / len(y)),
            ridge=0.0,
            norm=self.norm,
            eps=self.trained.eps,
            intercept=False,
        )
        if problem.eps < margin["margin"]:
            outcome, loss, gap, w = "separable", None, None, np.array(margin["w"])
        elif problem.eps >= problem.threshold():
            outcome, loss, gap, w = "constant", problem.constant().value, 0.0, problem.constant().w
        else:
            found = solve(problem)
            outcome, loss, gap, w = found.outcome, found.value, found.gap, found.w
        return {
            "outcome": outcome,
            "loss": loss,
            "gap": gap,
            "trained": problem.at(trained.numpy(), 0.0).value,
            **self._judged(torch.from_numpy(w), data),
        }

    def _boxed(self, data: Splits, trained: Tensor) -> dict[str, Plain]:
        """Solve with the box."""
        x, y = vectors(data.train)
        found = minimum(x, y, eps=self.trained.eps)
        at = AdversarialLogistic(x=x, y=y, norm=self.norm, eps=self.trained.eps, box=PIXELS).at(trained)
        close = "optimal" if found.gap <= CLOSE * found.loss else "unfinished"
        return {
            "outcome": "separable" if found.separates else close,
            "loss": None if found.separates else found.loss,
            "gap": None if found.separates else found.gap,
            "trained": float(at.loss),
            **self._judged(found.w, data),
        }

    def _judged(self, w: Tensor, data: Splits) -> dict[str, Plain]:
        """Return the robust accuracies in ball and box, and how many weights there are."""
        return {**robust_accuracies(w, data, norm=self.norm, eps=self.trained.eps), "weights": int((w != 0).sum())}


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What robust accuracy linear models reach at all under linf in the box, as far as a search finds it.

    Attributes:
        optimum: The optimum whose eps is asked about, and with it a training.
        smaller: Another eps, at which the trained model is judged too.
    """

    optimum: Optimum
    smaller: float

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.optimum.norm != "linf":
            raise BadInput(f"accuracy is searched for under linf, not under {self.optimum.norm}")

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"reach-{self.optimum.trained.eps:.4g}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The training."""
        return (self.optimum.trained,)

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Search, yielding (done, total).

        Args:
            data: The images.
            values: Of the training.

        Returns:
            Exact robust accuracies in ball and box, "train" and "test": "searched", of the weights that a search for
            accuracy on the training images found, and "smaller", of the trained model at the smaller eps.
        """
        eps = self.optimum.trained.eps
        yield 0, 1
        with threadpool_limits(1, user_api="blas"):
            found = searched(*vectors(data.train), eps=eps)
        trained = torch.tensor(values[self.optimum.trained]["w"], dtype=torch.float64)
        return {
            "searched": robust_accuracies(found, data, norm="linf", eps=eps),
            "smaller": robust_accuracies(trained, data, norm="linf", eps=self.smaller),
        }


def robust_accuracies(w: Tensor, data: Splits, *, norm: Norm, eps: float) -> dict[str, Plain]:
    """Return the fraction of each split's images of which nothing in ball and box is misclassified, exact."""
    found: dict[str, Plain] = {}
    for name, images in {"train": data.train, "test": data.test}.items():
        x, y = vectors(images)
        found[name] = float(
            (AdversarialLogistic(x=x, y=y, norm=norm, eps=eps, box=PIXELS).at(w).margin > 0).double().mean()
        )
    return found
