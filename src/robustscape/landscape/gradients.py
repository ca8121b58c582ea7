"""The gradient of the loss with respect to the weights: its norm, layer by layer, and its noise over examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from robustscape.attacks.pgd import PGD
from robustscape.landscape._noise_scale import noise_estimates
from robustscape.landscape._summed import summed_gradient
from robustscape.landscape.flatness import Estimate
from robustscape.landscape.operator import worst_inputs
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Diverged, Params, Plain, Provenance, Subject
from robustscape.weights.space import layer_norms, select

_FEWEST = 8
"""Mini-batches that there are at least, where there are so many examples."""

_GROUPS = 10
"""Groups of mini-batches that the jackknife leaves out one after another; each has a gradient in memory."""


@dataclass(frozen=True, kw_only=True)
class GradientResult:
    """The gradient G of the mean loss over n examples, clean first and robust second where there are two.

    Attributes:
        losses: ("clean", "robust"): the loss that each row belongs to.
        loss: (2,), mean loss, nats.
        norm: (2,), L2 norm of G over all parameters.
        stochastic_norm: (2,), mean over the full mini-batches of the L2 norm of a mini-batch's gradient.
        stochastic_deviation: (2,), its standard deviation over them; NaN for fewer than two.
        minibatch: Examples in a mini-batch.
        minibatches: How many full ones there are.
        clean_signal: |G|^2 of the population that the examples are from: free of the bias that noise adds to ``norm``
            squared, so possibly negative.
        robust_signal: The same of the robust loss.
        clean_noise: Trace of the covariance of one example's gradient.
        robust_noise: The same of the robust loss.
        clean_noise_scale: Noise over signal, in examples: the batch size at which noise and signal are equal. Its
            interval is Fieller's, and has no upper end where the signal may be 0.
        robust_noise_scale: The same of the robust loss.
        layers: Names of the L parameters.
        layer_norm: (2, L), L2 norm of each layer's part of G.
        relative_norm: (2, L), that over the L2 norm of the layer; infinite for a layer that is 0.
        slope: (2, L), that times the L2 norm of the layer: the rise of the loss for a relative step along G, nats.
            It does not change where the network is rescaled without changing its function.
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    losses: tuple[str, ...]
    loss: np.ndarray
    norm: np.ndarray
    stochastic_norm: np.ndarray
    stochastic_deviation: np.ndarray
    minibatch: int
    minibatches: int
    clean_signal: Estimate
    robust_signal: Estimate
    clean_noise: Estimate
    robust_noise: Estimate
    clean_noise_scale: Estimate
    robust_noise_scale: Estimate
    layers: tuple[str, ...]
    layer_norm: np.ndarray
    relative_norm: np.ndarray
    slope: np.ndarray
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradient of the clean and of the robust loss with respect to all parameters, and its noise over examples.

    The robust loss is that of the worse of the clean and the attacked input, held fixed: by Danskin's theorem its
    gradient is the robust loss's own. Liu 2020 (https://arxiv.org/abs/2006.08403, figures 1 and 8) follows the norm of
    mini-batches' gradients. The noise scale is the simple one of McCandlish 2018 (https://arxiv.org/abs/1812.06162,
    section 2.2 and appendix A.1), tr(Sigma) / |G|^2, from the squared norms of gradients of two batch sizes: that of a
    mini-batch and that of all examples. Gradients are computed in the model's own precision, in eval mode.

    Attributes:
        attack: The attack; searched on the fast view, judged in float32.
        minibatch: Examples of a mini-batch, drawn at random without repetition; an eighth of the examples where there
            are fewer than eight such. The last one may be smaller.

    Deviations:
        McCandlish's appendix takes both sizes from one step of several devices and averages over steps; here every
        pair of mini-batches of the examples counts, which is the same estimator at m batches without the averaging.
        Liu's mini-batches are those of training, in train mode.
    """

    name: ClassVar[str] = "gradients"
    scale_free: ClassVar[bool] = False
    """Norms shrink as weights grow, and the noise scale weighs layers by them; ``slope`` alone does not change."""

    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    minibatch: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.minibatch < 1:
            raise BadInput(f"minibatch must be at least 1, not {self.minibatch}")

    def points(self) -> list[Plain]:
        """Return the two losses."""
        return ["clean", "robust"]

    def size(self, n: int) -> int:
        """Return the examples of a mini-batch, of n examples in all.

        Raises:
            BadInput: there are fewer than two examples.
        """
        if n < 2:
            raise BadInput(f"the noise of gradients needs at least 2 examples, not {n}")
        return max(1, min(self.minibatch, n // _FEWEST))

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return loss, norms and noise of one loss's gradient.

        Raises:
            BadInput: there are fewer than two examples.
            Diverged: a loss or a gradient is not finite.
        """
        n = len(subject.x)
        order = Streams(subject.seed, (self.name, "order")).order(n).to(subject.x.device)
        drawn = order.split(self.size(n))
        x = subject.x if point == "clean" else worst_inputs(subject, self.attack, self.name)
        sums = _Sums(select(subject.model, "all"), len(drawn))
        for rows in drawn:
            sums.add(len(rows), *summed_gradient(subject, x, rows))
        return sums.plain()

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> GradientResult:
        """Put both losses together."""
        clean, robust = values
        n = len(subject.x)

        def both(name: str) -> np.ndarray:
            return np.array([clean[name], robust[name]], dtype=float)  # None becomes NaN

        norms, weight_norms = both("layer_norm"), both("weight_norm")
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(norms > 0, norms / weight_norms, 0.0)
        return GradientResult(
            losses=tuple(self.points()),
            loss=both("loss"),
            norm=both("norm"),
            stochastic_norm=both("stochastic_norm"),
            stochastic_deviation=both("stochastic_deviation"),
            minibatch=self.size(n),
            minibatches=n // self.size(n),
            clean_signal=_estimate(clean, "signal"),
            robust_signal=_estimate(robust, "signal"),
            clean_noise=_estimate(clean, "noise"),
            robust_noise=_estimate(robust, "noise"),
            clean_noise_scale=_estimate(clean, "noise_scale"),
            robust_noise_scale=_estimate(robust, "noise_scale"),
            layers=tuple(clean["layers"]),
            layer_norm=norms,
            relative_norm=relative,
            slope=norms * weight_norms,
            attack=self.attack.describe(),
            n=n,
            split=subject.split,
            provenance=provenance,
        )


def _plain(estimate: Estimate) -> Plain:
    """Return an estimate as plain data that JSON has: None for an end at infinity."""
    return {key: value if math.isfinite(value) else None for key, value in vars(estimate).items()}


def _estimate(value: Plain, name: str) -> Estimate:
    found = value[name]
    ends = {"value": math.inf, "low": -math.inf, "high": math.inf}
    return Estimate(n=found["n"], **{key: end if found[key] is None else found[key] for key, end in ends.items()})


class _Sums:
    """Sums over mini-batches' gradients: what their norms, signal and noise are made from.

    Args:
        weights: The parameters.
        minibatches: How many gradients will come.
    """

    def __init__(self, weights: Params, minibatches: int) -> None:
        self.groups = {name: w.new_zeros(min(_GROUPS, minibatches), w.numel()) for name, w in weights.items()}
        self.weight_norm = [float(norm) for norm in layer_norms(weights).values()]
        self.sizes: list[int] = []
        self.squares: list[float] = []
        self.loss = 0.0

    def add(self, size: int, loss: float, slopes: Params) -> None:
        """Take one more mini-batch's summed loss and gradient."""
        for name, group in self.groups.items():
            group[len(self.sizes) % len(group)] += slopes[name].flatten()
        self.squares.append(sum(float(slope.double().square().sum()) for slope in slopes.values()))
        self.sizes.append(size)
        self.loss += loss

    def plain(self) -> dict[str, Plain]:
        """Return the numbers of ``GradientResult``, for one loss.

        Raises:
            Diverged: a gradient is not finite.
        """
        gram, layers = self._products()
        sizes, squares, n = np.array(self.sizes), np.array(self.squares), sum(self.sizes)
        if not np.isfinite(gram).all():
            raise Diverged("the gradient of the model's loss with respect to its weights is not finite")
        full = np.sqrt(squares[sizes == sizes[0]]) / sizes[0]
        signal, noise, noise_scale = noise_estimates(gram, sizes, squares)
        return {
            "layers": list(self.groups),
            "loss": self.loss / n,
            "norm": math.sqrt(gram.sum()) / n,
            "layer_norm": [value / n for value in layers],
            "weight_norm": self.weight_norm,
            "stochastic_norm": float(full.mean()),
            "stochastic_deviation": float(full.std(ddof=1)) if len(full) > 1 else None,
            "signal": _plain(signal),
            "noise": _plain(noise),
            "noise_scale": _plain(noise_scale),
        }

    def _products(self) -> tuple[np.ndarray, list[float]]:
        """Return the scalar products of the groups' sums, (K, K), and the norm of each layer's whole sum."""
        gram, norms = 0.0, []
        for group in self.groups.values():
            sums = group.double()
            gram = gram + (sums @ sums.T).cpu().numpy()
            norms.append(float(sums.sum(dim=0).norm()))
        return np.asarray(gram), norms
