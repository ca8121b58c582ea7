"""What linear models reach at best under random noise: a cell of the study of Yamada 2021."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch

from robustscape.linear.noise import InBall, expected
from robustscape.linear.noise_minimum import InBox, noise_minimum
from robustscape.studies.optimum import CLOSE, Margin, Norm, vectors
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import BadInput, Plain, Splits

_NOTHING = 1e-9  # nats: a loss of less is at its minimum


@dataclass(frozen=True, kw_only=True)
class NoiseOptimum:
    """The minimum of the expected logistic loss under noise, without ridge and intercept.

    The noise that is solved for is not kept in the pixel range, as that of the training is: only so the expectation has
    an exact form in all norms.

    Attributes:
        norm: Norm of the ball that the noise is uniform in, "l2" or "linf".
        trained: The training; its eps is the radius.
    """

    norm: Norm
    trained: Trained

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.norm not in get_args(Norm):
            raise BadInput(f"norm {self.norm!r} is not one of {', '.join(get_args(Norm))}")
        if self.trained.eps and (self.trained.norm != self.norm or self.trained.adversary != "noise"):
            raise BadInput(f"the optimum under {self.norm} noise does not belong to the training {self.trained.name}")

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"optimum-noise-{self.norm}-{self.trained.eps:.4g}"

    @property
    def margin(self) -> Margin:
        """The maximum-margin direction in the norm of the ball, which stands in where there is no optimum."""
        return Margin(norm=self.norm)

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The training, that direction, and the one under L2, where the solve begins."""
        return tuple(dict.fromkeys((self.trained, self.margin, Margin(norm="l2"))))

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Solve, yielding (done, total).

        Args:
            data: The images.
            values: Of the cells that it needs.

        Returns:
            "outcome" ("optimal"; "unfinished"; "separable": the noise reaches no misclassified point, and there is no
            minimum), the "loss" of the solution at most and how far that is above the minimum, "gap" (None where there
            is none), the "trained" model's loss by the same measure, nats per example on the training images, and the
            accuracies "train" and "test" of the solution under the noise, in the pixel range, that the trained model
            is judged by.
        """
        yield 0, 1
        eps, (x, y) = self.trained.eps, vectors(data.train)
        law = InBall(eps=eps) if self.norm == "l2" else InBox(eps=eps)
        if eps < values[self.margin]["margin"]:
            outcome, loss, gap = "separable", None, None
            w = torch.tensor(values[self.margin]["w"], dtype=torch.float64)
        else:
            start = torch.tensor(values[Margin(norm="l2")]["w"], dtype=torch.float64)
            found = noise_minimum(x, y, law, start=start)
            w, loss, gap = found.w, found.loss + found.error, found.gap + 2 * found.error
            outcome = "optimal" if gap <= max(CLOSE * loss, _NOTHING) else "unfinished"
        trained = torch.tensor(values[self.trained]["w"], dtype=torch.float64)
        shape = law.normal() if isinstance(law, InBox) else law
        return {
            "outcome": outcome,
            "loss": loss,
            "gap": gap,
            "trained": float(expected(trained, x, y, shape).loss),
            **self.trained.accuracies(w, data),
        }
