"""The curvature of a trained linear model's adversarial loss: measured as for any model, and exactly."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.hessian import eigenvalues
from robustscape.linear.logistic import AdversarialLogistic, Worst
from robustscape.models.linear import LinearNetwork
from robustscape.streams import Streams
from robustscape.studies.landscapes import carrying
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import BadInput, Images, Plain, Splits
from robustscape.weights.space import hessian_vector_product

_ROWS = 250  # images attacked at once


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """The largest eigenvalues of the Hessian at the trained weights (Yamada 2021, figure 3): a cell of a study.

    Paper: https://arxiv.org/abs/2102.02950. The weights are as trained, not normalised. Measured: Lanczos' method on
    Hessian-vector products by autograd, at inputs that PGD found and that are held. Exact: the closed forms of
    ``linear.hessian`` at the exact worst inputs, held or following the weights, with the pixel range or without.

    Attributes:
        trained: The model, and with it norm, eps and PGD.
        top: Eigenvalues, at least 1 and fewer than weights.
        seed: Seed of PGD's starts and of Lanczos' start.
    """

    trained: Trained
    top: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.top < 1:
            raise BadInput(f"top must be at least 1, not {self.top}")

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"curvature-{self.trained.name}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The training."""
        return (self.trained,)

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Attack, measure and compute, yielding (done, total).

        Args:
            data: The images.
            values: That of the training.

        Returns:
            Eigenvalues of the training loss, largest first, nats per unit of weight squared: "measured"; "held" and
            "total", exact in the pixel range; "held, no box" and "total, no box". And "pgd", by how much PGD's loss
            stays below the exact one, nats; "norm", ||w||; and "kinks", whether the exact loss has no gradient here.
        """
        yield 0, 3
        images, w = data.train, torch.tensor(values[self.trained]["w"])
        model = carrying(w, images)
        x_adv = self._attacked(model, images)
        yield 1, 3
        measured = top_eigenvalues(model, x_adv, images.y, self.top, Streams(self.seed, ("lanczos",)))
        with torch.no_grad():
            loss = float(F.cross_entropy(model(x_adv), images.y))
        yield 2, 3
        boxed, free = (self._worst(images, w, box=box) for box in ((0.0, 1.0), None))
        return {
            "measured": measured,
            **self._exact(boxed, ""),
            **self._exact(free, ", no box"),
            "pgd": float(boxed.loss) - loss,
            "norm": float(w.norm()),
            "kinks": not boxed.subdifferential().differentiable,
        }

    def _exact(self, worst: Worst, words: str) -> dict[str, Plain]:
        """Return the eigenvalues of both forms, which are one but under L2."""
        held = eigenvalues(worst, self.top, form="held").values.tolist()
        moves = self.trained.eps > 0 and self.trained.norm == "l2"
        total = eigenvalues(worst, self.top, form="total").values.tolist() if moves else held
        return {f"held{words}": held, f"total{words}": total}

    def _attacked(self, model: LinearNetwork, images: Images) -> Tensor:
        """Return what PGD finds, with the paper's steps of evaluation, (N, C, H, W)."""
        attack = replace(self.trained, adversary="pgd").attack(self.trained.test_steps)
        if attack is None:
            return images.pixels()
        parts = [images.take(slice(first, first + _ROWS)) for first in range(0, len(images), _ROWS)]
        return torch.cat(
            [attack(model, of.pixels(), of.y, rng=Streams(self.seed, ("judge",), of.index)) for of in parts]
        )

    def _worst(self, images: Images, w: Tensor, *, box: tuple[float, float] | None) -> Worst:
        x, threat = images.pixels().flatten(1), self.trained
        box = box if threat.eps else None
        return AdversarialLogistic(x=x, y=2 * images.y - 1, norm=threat.norm, eps=threat.eps, box=box).at(w)


def top_eigenvalues(model: LinearNetwork, x: Tensor, y: Tensor, top: int, rng: Streams) -> list[float]:
    """Return the largest eigenvalues of the Hessian of the mean cross-entropy in the weights, largest first.

    Args:
        model: Pixels in [0, 1] to two logits.
        x: (N, C, H, W); held.
        y: (N,), labels.
        top: How many, fewer than weights.
        rng: Of Lanczos' start, without an index.
    """
    from scipy.sparse import linalg

    sparse: Any = linalg  # whose types say less than its documentation
    weight = model.linear.weight
    size = weight.numel()

    def times(v: Any) -> Any:
        along = {"linear.weight": torch.as_tensor(v, dtype=weight.dtype).view_as(weight)}
        product = hessian_vector_product(lambda: F.cross_entropy(model(x), y), model, along)
        return product["linear.weight"].flatten().numpy()

    operator = sparse.LinearOperator((size, size), matvec=times, dtype="float64")
    start = rng.normal(size, dtype=torch.float64).numpy()
    found = sparse.eigsh(operator, k=top, which="LA", v0=start, tol=1e-5, return_eigenvectors=False)
    return sorted((float(value) for value in found), reverse=True)
