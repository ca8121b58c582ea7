"""A network small enough that its worst inputs and Lipschitz constants are found by trying: for Liu 2020, section 3.2.

It has two inputs, one hidden layer and one output z; the loss is log(1 + exp(-y z)). Adversarial losses are maxima
over a grid of points of each L-infinity ball, found by trying all of them. The proofs of Proposition 2 and Theorem 2
hold for the maximum over any part of the ball, so no attack stands between them and what is tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacrev, vmap

from robustscape.models.activations import Activation, activated_by
from robustscape.streams import Streams

HIDDEN = 8
EXAMPLES = 24
SIDE = 3  # points of a ball along each input
PARAMETERS = 4 * HIDDEN + 1
_KINK = 1e-9  # a hidden unit this far from 0 is at its kink
WORDS = {"softplus": "softplus", "silu": "SiLU", "relu": "ReLU"}


def examples() -> tuple[Tensor, Tensor]:
    """Return inputs uniform in the square from -1 to 1, (24, 2), and their labels, -1 or 1, the sign of the product."""
    x = Streams(0, ("liu", "square")).uniform(EXAMPLES, 2, low=-1, high=1, dtype=torch.float64)
    return x, torch.where(x.prod(dim=1) > 0, 1.0, -1.0).double()


def loss(theta: Tensor, x: Tensor, y: Tensor, activation: Activation) -> Tensor:
    """Return the loss, (..., M), nats.

    Args:
        theta: (..., 33), weights of the hidden layer, its biases, weights of the output, its bias.
        x: (..., M, 2).
        y: (..., M), -1 or 1.
        activation: Of the hidden layer.
    """
    inner, bias, outer, last = theta.split([2 * HIDDEN, HIDDEN, HIDDEN, 1], dim=-1)
    hidden = x @ inner.unflatten(-1, (2, HIDDEN)) + bias[..., None, :]
    z = (activated_by(activation)(hidden) @ outer[..., None])[..., 0] + last
    return F.softplus(-y * z)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adversarial:
    """The adversarial loss of R networks of one activation at once, each with its own eps.

    Attributes:
        activation: Of the hidden layer.
        eps: (R,), at least 0.
    """

    activation: Activation
    eps: Tensor

    @cached_property
    def inputs(self) -> Tensor:
        """The points tried, (R, 24, 9, 2): of every ball its corners, edges and centre."""
        x, _ = examples()
        line = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)
        return x[:, None] + self.eps[:, None, None, None] * grid

    def worst(self, theta: Tensor) -> Tensor:
        """Return the worst input of every example, (R, 24, 2), for theta of (R, 33)."""
        _, y = examples()
        inputs = self.inputs
        with torch.no_grad():
            each = loss(theta, inputs.flatten(1, 2), y.repeat_interleave(SIDE**2), self.activation)
        place = each.unflatten(1, (EXAMPLES, SIDE**2)).argmax(dim=2)
        return inputs.gather(2, place[:, :, None, None].expand(-1, -1, 1, 2))[:, :, 0]

    def at(self, theta: Tensor, *shares: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the losses of all examples, (R, 24), and gradients of their weighted sums, (R, 33) each.

        Args:
            theta: (R, 33).
            shares: (R, 24) each: what every example counts.
        """
        _, y = examples()
        point = theta.detach().requires_grad_()
        each = loss(point, self.worst(theta), y, self.activation)
        gradients = tuple(torch.autograd.grad((share * each).sum(), point, retain_graph=True)[0] for share in shares)
        return each.detach(), gradients


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Weights, inputs and labels, each with a partner: what constants are measured on.

    Attributes:
        theta: (S, 33).
        theta2: (S, 33).
        x: (S, 2).
        x2: (S, 2).
        y: (S,), -1 or 1.
    """

    theta: Tensor
    theta2: Tensor
    x: Tensor
    x2: Tensor
    y: Tensor


def draws(theta: Tensor, eps: float, rng: Streams) -> Draws:
    """Return draws at the weights theta, (S, 33), and inputs uniform in the L-infinity balls of the examples.

    In every second draw one hidden unit is moved to its kink (0 at the input), between the partners.
    """
    S = len(theta)
    inputs, labels = examples()
    row = rng.tag("row").integers(EXAMPLES, S)
    x, x2 = (inputs[row] + rng.tag(name).uniform(S, 2, low=-eps, high=eps, dtype=torch.float64) for name in ("x", "x2"))
    away = apart(S, rng)
    unit = rng.tag("unit").integers(HIDDEN, S)
    weights = theta[:, : 2 * HIDDEN].unflatten(1, (2, HIDDEN)).gather(2, unit[:, None, None].expand(-1, 2, 1))[:, :, 0]
    bias = 2 * HIDDEN + unit[:, None]
    at_kink = theta.scatter(1, bias, _KINK - (weights * x).sum(dim=1, keepdim=True))
    second = (torch.arange(S) % 2 == 1)[:, None]
    return Draws(
        theta=torch.where(second, at_kink, theta),
        theta2=torch.where(second, at_kink.scatter_add(1, bias, x.new_full((S, 1), -2 * _KINK)), theta + away),
        x=x,
        x2=torch.where(second, x - 1e3 * _KINK * weights.sign(), x2),
        y=labels[row],
    )


def apart(count: int, rng: Streams) -> Tensor:
    """Return steps in weight space, (count, 33), of random direction and of lengths from 1e-4 to 1."""
    direction = rng.tag("direction").normal(count, PARAMETERS, dtype=torch.float64)
    length = 10 ** rng.tag("length").uniform(count, 1, low=-4, high=0, dtype=torch.float64)
    return length * direction / direction.norm(dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Lipschitz constants of Assumptions 1 and 2; whoever makes them says whether from above or from below.

    Attributes:
        by_theta: L_theta, of the loss.
        theta_theta: L_thetatheta, of its gradient by the weights.
        theta_x: L_thetax, of its gradient by the input, which the largest change of an entry measures.
        jump_theta: D_thetatheta: by how much pairs of weights exceed L_thetatheta times their distance.
        jump_x: D_thetax: by how much pairs of inputs exceed L_thetax times their distance.
    """

    by_theta: float
    theta_theta: float
    theta_x: float
    jump_theta: float
    jump_x: float


def measured(activation: Activation, d: Draws) -> Constants:
    """Measure the constants, from below: the largest that the draws meet.

    The L are the largest local ones: norms of the gradient, of its exact Jacobian by the weights (spectral) and by the
    input (largest over the corners of the box). The D are what pairs exceed them by.
    """

    def one(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return loss(theta, x[None], y[None], activation)[0]

    slope = vmap(grad(one))
    first = slope(d.theta, d.x, d.y)
    bend = torch.linalg.matrix_norm(vmap(jacrev(grad(one)))(d.theta, d.x, d.y), ord=2).max()
    mixed = vmap(jacrev(grad(one), argnums=1))(d.theta, d.x, d.y)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    across = torch.linalg.vector_norm(mixed @ corners.T, dim=1).max()
    moved = (slope(d.theta2, d.x, d.y) - first).norm(dim=1) - bend * (d.theta2 - d.theta).norm(dim=1)
    shifted = (slope(d.theta, d.x2, d.y) - first).norm(dim=1) - across * (d.x2 - d.x).abs().amax(dim=1)
    return Constants(
        by_theta=float(first.norm(dim=1).max()),
        theta_theta=float(bend),
        theta_x=float(across),
        jump_theta=float(moved.max().clamp(min=0)),
        jump_x=float(shifted.max().clamp(min=0)),
    )
