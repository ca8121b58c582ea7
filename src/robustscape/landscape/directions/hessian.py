"""The directions of largest curvature: eigenvectors of the Hessian."""

from __future__ import annotations

from torch import Tensor

from robustscape.landscape.lanczos import Eigenpairs, extremes
from robustscape.landscape.operator import hessian
from robustscape.streams import Streams
from robustscape.types import Params, Subject

_TOLERANCE = 1e-3  # of the residual, relative to the eigenvalue


def eigenvectors(subject: Subject, x: Tensor | None, count: int, name: str) -> tuple[list[Params], Eigenpairs]:
    """Return unit eigenvectors of the largest eigenvalues of the Hessian at held inputs, and what Lanczos says of them.

    Of the weights and biases outside normalisation, at the weights that the model carries.

    Args:
        subject: What is looked at.
        x: (N, C, H, W), adversarial inputs; None for the clean ones.
        count: How many, largest first.
        name: Purpose of the random start.
    """
    operator = hessian(subject, x, scope="layers")
    found = extremes(
        operator,
        operator.like(),
        k=count,
        tolerance=_TOLERANCE,
        most=40 + 10 * count,
        rng=Streams(subject.seed, (name, "hessian")),
    ).top
    return [operator.params(vector) for vector in found.vectors], found
