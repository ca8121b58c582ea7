"""The terms of a PAC-Bayes bound on the robust error, and how loose the bound is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from robustscape.attacks.pgd import PGD
from robustscape.evaluation import together
from robustscape.landscape._losses import losses_at, so_far, stored
from robustscape.landscape.crossed import cells, half_width
from robustscape.landscape.flatness import Estimate, t_interval
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Diverged, Params, Plain, Provenance, Subject
from robustscape.weights.space import gaussian, layer_norms, norm, select


@dataclass(frozen=True, kw_only=True)
class AtAlpha:
    """The terms of the bound at one size of the noise.

    Attributes:
        alpha: Standard deviation of each weight's noise, relative to the L2 norm that ``spread`` says.
        length: Root mean square of ||u|| / ||w||, over all parameters.
        expected: Expected robust error under the noise, a fraction; interval by Student's t over draws, on these
            very examples.
        expected_over_both: The same with an interval that covers the draws and the choice of the examples.
        rise: That less the robust error at w: the second term of the bound, which Wu calls flatness.
        clean: Expected clean error under the noise, a fraction; interval over draws.
        kl: KL divergence of posterior and prior, nats.
        looseness: Third term of the bound: the bound less the expected error.
        bound: On the expected robust error over unseen examples; a mean over draws stands for the expectation.
        vacuous: Whether the bound is at least 1, and so says nothing.
        kl_as_printed: 1 / (2 alpha) in the place of 1 / (2 alpha^2), as the paper prints it.
        looseness_as_printed: The third term with that.
        bound_as_printed: The bound with that, which does not hold.
        errors: Robust error under each draw, S fractions.
    """

    alpha: float
    length: float
    expected: Estimate
    expected_over_both: Estimate
    rise: Estimate
    clean: Estimate
    kl: float
    looseness: float
    bound: float
    vacuous: bool
    kl_as_printed: float
    looseness_as_printed: float
    bound_as_printed: float
    errors: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PACBayesResult:
    """A PAC-Bayes bound on the robust error of a network with Gaussian noise on its weights.

    The bound is on unseen examples if the measured ones are from the training set. On others ``expected`` estimates
    what the bound is on, so the looseness of the bound is that of the training set less that of these.

    Attributes:
        levels: The terms at each alpha, rising.
        bound: The smallest bound over all alphas, and the interval over draws at that alpha.
        bound_alpha: Where it is.
        robust_error: Robust error at the weights themselves, a fraction: the first term.
        clean_error: Clean error there, a fraction.
        delta: Probability that the bound fails, at each alpha alone.
        training_examples: Number of training examples that the bound is for.
        size: D, the number of parameters, all of which have noise.
        spread: "whole" or "layer".
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    levels: tuple[AtAlpha, ...]
    bound: Estimate
    bound_alpha: float
    robust_error: float
    clean_error: float
    delta: float
    training_examples: int
    size: int
    spread: str
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class PACBayes:
    """Expected robust error under Gaussian noise on the weights, and the PAC-Bayes bound that it is a part of.

    Wu 2020 (https://arxiv.org/abs/2004.05884, equation 12 and section 4.3): with probability 1 - delta over the n
    training examples, for prior N(0, sigma^2) and noise u of the same variance, the expected robust error on unseen
    examples is at most rho(w) + (E[rho(w + u)] - rho(w)) + 4 sqrt((KL + ln(2 n / delta)) / n), rho the robust 0-1 error
    of the training examples. With sigma = alpha ||w|| the KL divergence is 1 / (2 alpha^2). Every parameter has noise,
    normalisation too: one without it has an infinite divergence. The directions of the noise are the same at every
    alpha, and so are the random starts of the attack. The attacks cost ``samples`` times the number of alphas, and one.

    Attributes:
        attack: The attack under every draw; searched on the fast view, judged in float32.
        alphas: Sizes of the noise, above 0.
        samples: Draws of the noise at each alpha, at least 2.
        spread: "whole": each weight's noise is alpha times the norm of all parameters, as in the paper. "layer":
            alpha times the norm of the weight's own layer (one parameter tensor), which no rescaling of the network
            changes; the KL divergence is then 1 / (2 alpha^2) for each of the layers that are not 0.
        delta: Probability that the bound fails, in (0, 1).
        training_examples: Number of training examples that the bound is for, of which those measured are some;
            None for just those that are measured.

    Deviations:
        The paper prints 1 / (2 alpha) for the divergence, where 1 / (2 alpha^2) follows; both are given. In its
        equation 12 the root covers the divergence alone; here it covers the logarithm too, as in its next formula.
        Strictly, no prior may depend on w as sigma = alpha ||w|| does, nor alpha be chosen by the result: a union
        over a grid of sigmas adds its logarithm to the divergence. An attack finds less than the worst case that the
        bound is about. BatchNorm's running statistics, from the same examples, have no noise.
    """

    name: ClassVar[str] = "pac_bayes"
    scale_free: ClassVar[bool] = False
    """Noise of one size in all weights is relatively smaller in larger ones; under spread "layer" nothing changes."""

    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    alphas: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    samples: int = 10
    spread: Literal["whole", "layer"] = "whole"
    delta: float = 0.05
    training_examples: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.spread not in ("whole", "layer"):
            raise BadInput(f"spread {self.spread!r} is not one of whole, layer")
        if not self.alphas or not all(0 < alpha < math.inf for alpha in self.alphas):
            raise BadInput(f"alphas must be above 0, and at least one, not {list(self.alphas)}")
        if len(set(self.alphas)) < len(self.alphas):
            raise BadInput(f"an alpha stands twice in {', '.join(f'{alpha:g}' for alpha in self.alphas)}")
        if self.samples < 2:
            raise BadInput(f"samples must be at least 2, for an interval, not {self.samples}")
        if not 0 < self.delta < 1:
            raise BadInput(f"delta is the probability that the bound fails, in (0, 1), not {self.delta:g}")
        if self.training_examples is not None and self.training_examples < 1:
            raise BadInput(
                f"training_examples must be at least 1, not {self.training_examples}; "
                "did you mean none, for those that are measured?"
            )

    def points(self) -> list[Plain]:
        """Return "reference", then [number of the alpha, number of the draw] for each."""
        levels = range(len(self.alphas))
        return ["reference", *([level, sample] for level in levels for sample in range(self.samples))]

    def draw(self, weights: Params, seed: int, sample: int, alpha: float) -> Params:
        """Return the noise of one draw: a function of seed, sample and parameter names, in proportion to alpha."""
        u = gaussian(weights, Streams(seed, (self.name, "weights", sample)))
        if self.spread == "whole":
            sigma = alpha * norm(weights)
            return {name: value * sigma for name, value in u.items()}
        lengths = layer_norms(weights)
        return {name: value * (alpha * lengths[name]) for name, value in u.items()}

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return robust and clean error at w or under one draw, the robust one of cells of examples too.

        Raises:
            BadInput: more examples than ``training_examples``.
            Diverged: a loss is not finite: says at which alpha.
        """
        with nullcontext() if point == "reference" else so_far("alpha", self.alphas[point[0]]):
            return self._together(subject, [point])[0]

    def at_once(self, subject: Subject) -> int:
        """Return how many points ``several`` measures in one pass: more than 1 for narrow networks of matrices."""
        return together.slots(subject, len(self.points()))

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of several points, equal to those of ``at`` but for rounding.

        Raises:
            BadInput: more examples than ``training_examples``.
            Diverged: a loss is not finite: says at which alpha.
        """
        try:
            return self._together(subject, points)
        except Diverged:  # one of them: by itself it says which
            return [self.at(subject, point) for point in points]

    def _together(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        n, known = len(subject.x), self.training_examples
        if known is not None and known < n:
            raise BadInput(
                f"the bound is for {known} training examples, but {n} are measured; did you mean --n {known}?"
            )
        shares, weights = cells(n, subject.seed), select(subject.model, "all")
        moves = [
            {} if point == "reference" else self.draw(weights, subject.seed, point[1], self.alphas[point[0]])
            for point in points
        ]
        found = losses_at(subject, self.attack, moves, [(self.name,)] * len(points))
        return [
            {
                "clean_error": float(one.clean_error.mean()),
                "robust_error": float(one.robust_error.mean()),
                "robust": stored(one.robust_error, shares),
            }
            for one in found
        ]

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> PACBayesResult:
        """Put the draws of each alpha together and add the third term."""
        weights = select(subject.model, "all")
        each = [values[1 + k * self.samples :][: self.samples] for k in range(len(self.alphas))]
        chosen = sorted(zip(self.alphas, each, strict=True), key=lambda pair: pair[0])
        n = self.training_examples or len(subject.x)
        levels = tuple(self._at_alpha(alpha, some, values[0], weights, n) for alpha, some in chosen)
        best = min(levels, key=lambda level: level.bound)
        return PACBayesResult(
            levels=levels,
            bound=_moved(best.expected, best.looseness),
            bound_alpha=best.alpha,
            robust_error=values[0]["robust_error"],
            clean_error=values[0]["clean_error"],
            delta=self.delta,
            training_examples=n,
            size=sum(value.numel() for value in weights.values()),
            spread=self.spread,
            attack=self.attack.describe(),
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )

    def _at_alpha(self, alpha: float, values: Sequence[Plain], at_w: Plain, weights: Params, n: int) -> AtAlpha:
        errors = np.array([value["robust_error"] for value in values])
        matrix = np.array([value["robust"] for value in values])
        expected, half = t_interval(errors, n=self.samples), half_width(errors, matrix.mean(axis=0))
        lengths = np.array([float(length) for length in layer_norms(weights).values()])
        sizes = np.array([value.numel() for value in weights.values()])
        whole = self.spread == "whole"
        parts = 1 if whole else int((lengths > 0).sum())
        square = float((lengths**2).sum())
        variances = sizes * (square if whole else lengths**2)
        kl, printed = parts / (2 * alpha**2), parts / (2 * alpha)
        loose, loose_as_printed = third_term(kl, n=n, delta=self.delta), third_term(printed, n=n, delta=self.delta)
        return AtAlpha(
            alpha=alpha,
            length=alpha * math.sqrt(float(variances.sum()) / square) if square > 0 else 0.0,
            expected=expected,
            expected_over_both=Estimate(
                value=expected.value, low=expected.value - half, high=expected.value + half, n=self.samples
            ),
            rise=_moved(expected, -at_w["robust_error"]),
            clean=t_interval(np.array([value["clean_error"] for value in values]), n=self.samples),
            kl=kl,
            looseness=loose,
            bound=expected.value + loose,
            vacuous=expected.value + loose >= 1,
            kl_as_printed=printed,
            looseness_as_printed=loose_as_printed,
            bound_as_printed=expected.value + loose_as_printed,
            errors=tuple(errors.tolist()),
        )


def third_term(kl: float, *, n: int, delta: float) -> float:
    """Return 4 sqrt((kl + ln(2 n / delta)) / n), an error rate.

    Args:
        kl: Divergence of posterior and prior, nats.
        n: Number of training examples.
        delta: Probability that the bound fails, in (0, 1).
    """
    return 4 * math.sqrt((kl + math.log(2 * n / delta)) / n)


def _moved(estimate: Estimate, by: float) -> Estimate:
    return Estimate(value=estimate.value + by, low=estimate.low + by, high=estimate.high + by, n=estimate.n)
