"""Binary logistic regression under its exact adversary: loss, gradient and subdifferential.

    L(w, b) = mean_n log(1 + exp(-m_n)),   m_n = y_n (w.x_n + b) - rise_n(w),   y_n in {-1, 1},

with rise_n = eps ||w||_q without a box (Yamada 2021, https://arxiv.org/abs/2102.02950, equation 7; Liu 2020,
https://arxiv.org/abs/2006.08403, equation 6), and ``adversary.worst_rise`` with one. The adversary's own movement
adds nothing to the gradient (Danskin): it is that of the loss at the worst inputs, held.

Deviations:
    Yamada's equation 8 prints the numerator with a factor exp(-m_n) too many; its appendix B and this module
    weigh each example by s_n = 1 / (1 + exp(m_n)). Both papers' models have no intercept: here it is optional,
    and the adversary does not move it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.adversary import check_scores, worst_input, worst_range
from robustscape.linear.movement import Movement, l2_movement
from robustscape.linear.norms import Box, Norm, check_box, check_eps, check_norm, dual_norm, steepest
from robustscape.types import BadInput


def check_labels(y: Tensor, x: Tensor) -> None:
    """Refuse labels that are not -1 and 1, or data that are not finite.

    Raises:
        BadInput: another label, another number of them, or features that are NaN or infinite.
    """
    if y.ndim != 1 or len(y) != len(x) or not len(y):
        raise BadInput(f"labels of shape {tuple(y.shape)} came with {len(x)} examples; one label each is meant")
    if not bool(((y == 1) | (y == -1)).all()):
        meant = "; did you mean 2 * y - 1?" if bool(((y == 0) | (y == 1)).all()) else ""
        raise BadInput(f"labels must be -1 and 1, not {sorted(set(y.tolist()))[:4]}{meant}")
    if not bool(torch.isfinite(x).all()):
        raise BadInput(f"{int((~torch.isfinite(x)).sum())} of {x.numel()} features are NaN or infinite")


@dataclass(frozen=True, kw_only=True, eq=False)
class AdversarialLogistic:
    """A data set and a threat: the adversarial logistic loss as a function of the weights.

    Attributes:
        x: (N, d), float32 or float64, finite, N at least 1.
        y: (N,), labels -1 or 1, of any number type.
        norm: Norm of the perturbation.
        eps: Its largest size in the unit of x, at least 0.
        box: (low, high) that perturbed inputs stay in; None for none.
        weight: (N,), how much each example counts, at least 0 and not all 0; None for all alike.
    """

    x: Tensor
    y: Tensor
    norm: Norm
    eps: float
    box: Box | None = None
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse data that cannot be meant."""
        check_norm(self.norm)
        check_scores(self.x.new_zeros(self.x.shape[-1]), self.x)
        check_labels(self.y, self.x)
        check_eps(self.eps, self.x)
        check_box(self.box, self.x)
        if self.weight is not None:
            fits = self.weight.shape == self.y.shape and bool((self.weight >= 0).all())
            if not (fits and 0 < float(self.weight.sum()) < torch.inf):
                raise BadInput("example weights must be one finite number each, at least 0 and not all 0")

    def at(self, w: Tensor, intercept: Tensor | float | None = None) -> Worst:
        """Return the worst case at the weights w, (d,), and an intercept; None where the model has none.

        Raises:
            BadInput: weights of another shape or dtype.
        """
        if w.ndim != 1:
            raise BadInput(f"weights must be (d,), not of shape {tuple(w.shape)}")
        check_scores(w, self.x)
        x, y, held = self.x, self.y.to(self.x), None
        b = None if intercept is None else torch.as_tensor(intercept, dtype=x.dtype, device=x.device)
        if self.box is None:
            margin = y * (x @ w + (0 if b is None else b)) - self.eps * dual_norm(w, self.norm)
        else:
            held = worst_input(w, x, y, norm=self.norm, eps=self.eps, box=self.box)
            margin = y * (held @ w + (0 if b is None else b))
        share = torch.full_like(y, 1 / len(y)) if self.weight is None else (self.weight / self.weight.sum()).to(y)
        return Worst(problem=self, w=w, intercept=b, y=y, share=share, margin=margin, held=held)


@dataclass(frozen=True, kw_only=True, eq=False)
class Worst:
    """The worst case at one point: what loss and derivatives are made of. ``AdversarialLogistic.at`` makes it.

    P is the number of parameters, d, or d + 1 with an intercept, which then comes last.

    Attributes:
        problem: Data and threat.
        w: (d,).
        intercept: Scalar, or None.
        y: (N,), -1 or 1, of x's dtype.
        share: (N,), what each example counts for; sums to 1.
        margin: (N,), m_n, the smallest y (w.x + b) inside the threat: above 0 where no input there is misclassified.
        held: (N, d), the worst inputs; None without a box, where they are x - y eps * ``steepest(w)``.
    """

    problem: AdversarialLogistic
    w: Tensor
    intercept: Tensor | None
    y: Tensor
    share: Tensor
    margin: Tensor
    held: Tensor | None

    @cached_property
    def s(self) -> Tensor:
        """Probability of the wrong class at the worst input, 1 / (1 + exp(m)), (N,)."""
        return torch.sigmoid(-self.margin)

    @cached_property
    def slope(self) -> Tensor | None:
        """What the adversary adds to each example's -dm/dw, (d,), the same for all; None with a box."""
        return None if self.held is not None else self.problem.eps * steepest(self.w, self.problem.norm)

    @cached_property
    def movement(self) -> Movement | None:
        """What the adversary's movement adds to the curvature, None where nothing."""
        p = self.problem
        if p.norm != "l2" or p.eps == 0:
            return None
        return l2_movement(self.w, p.x, self.y, self.share * self.s, eps=p.eps, box=p.box)

    @property
    def loss(self) -> Tensor:
        """Mean worst-case loss, nats per example, a scalar."""
        return self.share @ -F.logsigmoid(self.margin)

    @property
    def accuracy(self) -> Tensor:
        """Fraction of examples (by weight) that no input inside the threat is misclassified of, a scalar."""
        return self.share @ (self.margin > 0).to(self.share)

    @property
    def x_adv(self) -> Tensor:
        """The worst inputs, (N, d)."""
        if self.slope is None:
            assert self.held is not None
            return self.held
        return self.problem.x - self.y[:, None] * self.slope

    def times(self, v: Tensor) -> Tensor:
        """Return -dm_n . v with the worst inputs held, (N,), for v of (P,)."""
        d = len(self.w)
        inputs = self.problem.x if self.held is None else self.held
        product = -self.y * (inputs @ v[:d] if self.intercept is None else inputs @ v[:d] + v[d])
        return product if self.slope is None else product + self.slope @ v[:d]

    def back(self, c: Tensor) -> Tensor:
        """Return the sum of -c_n dm_n with the worst inputs held, (P,), for c of (N,)."""
        inputs = self.problem.x if self.held is None else self.held
        total = inputs.T @ (-self.y * c)
        total = total if self.slope is None else total + self.slope * c.sum()
        return total if self.intercept is None else torch.cat([total, -(self.y @ c)[None]])

    def gradient(self) -> Tensor:
        """Return the gradient of the loss, (P,): a subgradient where there is none, that of ``x_adv``."""
        return self.back(self.share * self.s)

    def subdifferential(self) -> Subdifferential:
        """Return the interval that each entry of the subgradients fills.

        Under linf every w_i = 0 is a kink: entry i fills an interval of half-width eps mean(s) without a box,
        less where the box is near, and 0 is a minimiser along w_i while the interval holds 0.
        """
        p, x = self.problem, self.problem.x
        weight = self.share * self.s
        if p.box is None:  # every example's worst perturbation is -y times the same one
            low, high = (end.expand_as(x) for end in worst_range(self.w, x[:1], norm=p.norm, eps=p.eps))
        else:
            toward, delta = -self.y[:, None] * self.w, self.x_adv - x
            ends = worst_range(toward, x, norm=p.norm, eps=p.eps, box=p.box, delta=delta)
            flip = self.y[:, None] > 0
            low, high = (torch.where(flip, -end, other) for end, other in zip(ends[::-1], ends, strict=True))
        clean = -((weight * self.y) @ x)
        rest = [] if self.intercept is None else [-(weight @ self.y)[None]]
        kinks = ((low != high) & (weight[:, None] > 0)).any(dim=0)
        return Subdifferential(
            low=torch.cat([clean + weight @ low, *rest]),
            high=torch.cat([clean + weight @ high, *rest]),
            kinks=torch.cat([kinks, *[kinks.new_zeros(1) for _ in rest]]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Subdifferential:
    """Between what each entry of the subgradients lies.

    Under linf the subdifferential is the product of the intervals; under l2 and l1 it is inside it, and every end
    is met by some subgradient.

    Attributes:
        low: (P,), smallest value.
        high: (P,), largest value; equal to ``low`` where it is a derivative.
        kinks: (P,), bool, where the two differ: the loss has no derivative along that weight.
    """

    low: Tensor
    high: Tensor
    kinks: Tensor

    @property
    def differentiable(self) -> bool:
        """Whether the loss has a gradient here."""
        return not bool(self.kinks.any())

    def least(self) -> Tensor:
        """Return the point of the intervals nearest to 0, (P,): under linf the smallest subgradient.

        It is 0 under linf exactly at a minimiser, and at one under every norm.
        """
        return torch.zeros_like(self.low).clamp(min=self.low, max=self.high)
