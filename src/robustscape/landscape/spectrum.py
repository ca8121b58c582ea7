"""The largest and smallest eigenvalues of the Hessian of the clean and the robust loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustscape import modes
from robustscape.attacks.pgd import PGD
from robustscape.evaluation.judging import performance
from robustscape.landscape import _vectors
from robustscape.landscape._held import check_coordinates, check_scope, inputs, losses_of
from robustscape.landscape.lanczos import Eigenpairs, Extremes, extremes
from robustscape.landscape.operator import Coordinates, hessian
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, NotApplicable, Params, Plain, Provenance, Subject
from robustscape.weights.space import Scope, select, shifted


@dataclass(frozen=True, kw_only=True)
class SpectrumResult:
    """Both ends of the Hessian's spectrum, for L losses in C coordinates.

    An eigenvalue whose residual is above the tolerance is marked as not converged: it is too near 0, and others may
    lie beyond it.

    Attributes:
        losses: (L,), "clean", and "robust" where there was an attack.
        coordinates: (C,), "raw", "layer" or "filter": what a step of 1 in weight space is.
        eigenvalues: (L, C, k), the largest, largest first; nats per unit of the coordinates squared.
        residuals: (L, C, k), ||H v - value v||: a true eigenvalue lies within it of the value.
        converged: (L, C, k), whether the residual is within the tolerance.
        smallest: (L, C, b), the smallest, smallest first.
        smallest_residuals: (L, C, b), theirs.
        smallest_converged: (L, C, b), the same.
        ratio: (L, C), |smallest| / |largest|; 0 where the largest is 0.
        spectral_norm: (L, C), the largest magnitude.
        nuclear_norm: (L, C), sum of the magnitudes of the k largest, a lower bound of the Hessian's own nuclear norm.
        normalised: (L, C, k), eigenvalues over the loss at random weights (Liu 2020); (L, C, 0) where not asked for.
        random_losses: (L, R), the loss at each of R random weights, nats.
        loss: (L,), the mean loss at the weights and inputs, nats.
        products: (L, C), products with the Hessian that were made.
        curvature: "held": the adversarial inputs stay where they are when the weights move.
        tolerance: Largest residual of a converged one, relative to the eigenvalue.
        scope: Which parameters.
        attack: The attack in words, "" for none.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    losses: tuple[str, ...]
    coordinates: tuple[str, ...]
    eigenvalues: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    smallest: np.ndarray
    smallest_residuals: np.ndarray
    smallest_converged: np.ndarray
    ratio: np.ndarray
    spectral_norm: np.ndarray
    nuclear_norm: np.ndarray
    normalised: np.ndarray
    random_losses: np.ndarray
    loss: np.ndarray
    products: np.ndarray
    curvature: str
    tolerance: float
    scope: str
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The k largest eigenvalues of the Hessian, and the smallest, of the clean and of the robust loss.

    Liu 2020 (https://arxiv.org/abs/2006.08403, figures 2 and 9): the Hessian of the mean cross-entropy in the
    weights, by Lanczos with full reorthogonalisation. That of the robust loss is taken at adversarial inputs that
    are held: it leaves out what the inputs do when they follow the weights. Of the clean and the attacked input of
    an example the one of the larger loss counts.

    Attributes:
        attack: The attack, searched on the fast view; None for the clean loss alone.
        k: How many of the largest.
        bottom: How many of the smallest; at least 1.
        coordinates: "raw" (a step of 1 is 1 in every weight), and relative to the L2 norm of each "layer" or
            "filter", which is scale-free; any of them.
        scope: Which parameters: "weights", "layers" (biases too) or "all" (normalisation too). Under "filter"
            parameters of one dimension do not move.
        tolerance: Largest residual, relative to the eigenvalue.
        most: Most products with the Hessian, and vectors in memory.
        random_weights: At how many random weights the loss is taken that Liu divides by; 0 for none.
        vectors: Folder that the eigenvectors are written to, a file for each Hessian, such as clean-raw.safetensors:
            "top", (k, D), and "bottom", (bottom, D), in the coordinates; None for nowhere.
        start: Folder that ``vectors`` named when nearby weights were measured, such as those of the epoch before: the
            nearer, the fewer products. None for a random start.

    Deviations:
        Liu's code finds eigenvalues by power iteration with deflation, to a relative change of 1e-3 or 50 steps each,
        in train mode's order of magnitude first; here residuals are known. It attacks in train mode and before the
        statistics are held; here all is in eval mode. Its random weights are those of a new network; here each weight
        is normal with variance 1 / (3 fan-in), that of torch's own start, biases are 0, and normalisation
        is as new: weight 1, bias 0, statistics 0 and 1.
    """

    name: ClassVar[str] = "spectrum"
    scale_free: ClassVar[bool] = False
    """Those in raw coordinates change when a layer is rescaled; those in relative ones stay."""

    attack: Attack | None = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    k: int = 20
    bottom: int = 1
    coordinates: tuple[Coordinates, ...] = ("raw", "layer")
    scope: Scope = "all"
    tolerance: float = 1e-2
    most: int = 200
    random_weights: int = 10
    vectors: str | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_coordinates(self.coordinates)
        check_scope(self.scope)
        if self.k < 1 or self.bottom < 1:
            raise BadInput(f"k and bottom must be at least 1, not {self.k} and {self.bottom}")
        if not 0 < self.tolerance < 1:
            raise BadInput(f"tolerance must be between 0 and 1, not {self.tolerance:g}; did you mean 0.01?")
        if self.most < self.k + self.bottom:
            raise BadInput(f"most must be at least k + bottom = {self.k + self.bottom} products, not {self.most}")
        if self.random_weights < 0:
            raise BadInput(f"random_weights must be at least 0, not {self.random_weights}")

    def losses(self) -> tuple[str, ...]:
        """Return which losses are looked at."""
        return losses_of(self.attack)

    def points(self) -> list[Plain]:
        """Return [loss, coordinates] for each Hessian, then ["random", number] for each random network."""
        hessians = [[loss, coordinates] for loss in self.losses() for coordinates in self.coordinates]
        return [*hessians, *(["random", number] for number in range(self.random_weights))]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return both ends of one Hessian's spectrum, or the losses at random weights."""
        what, which = point
        if what == "random":
            return self._at_random(subject, which)
        rng = Streams(subject.seed, (self.name,))
        size = sum(value.numel() for value in select(subject.model, self.scope).values())
        if self.k + self.bottom > size:
            raise NotApplicable(
                f"k + bottom is {self.k + self.bottom}, and there are only {size} weights of {self.scope!r}"
            )
        operator = hessian(subject, inputs(subject, self.attack, what, self.name), scope=self.scope, coordinates=which)
        found = extremes(
            operator,
            operator.like(),
            k=self.k,
            bottom=self.bottom,
            tolerance=self.tolerance,
            most=self.most,
            rng=rng,
            start=_vectors.kept(self.start, what, which) if self.start else None,
        )
        if self.vectors:
            _vectors.keep(found, self.vectors, what, which)
        return {
            "top": _plain(found.top),
            "bottom": _plain(found.bottom),
            "products": found.products,
            "loss": operator.value(),
        }

    def _at_random(self, subject: Subject, number: int) -> Plain:
        """Return clean and robust loss of the network with random weights, as new otherwise."""
        model, rng = subject.model, Streams(subject.seed, (self.name, "random", number))
        with shifted(model, _to_random(model, rng)), modes.frozen_statistics(model):
            for name, buffer in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.fill_(float(name.endswith("running_var")))
            if self.attack is None:
                return {"clean": hessian(subject).value()}
            there = performance(subject, self.attack, self.name, "random")
        return {"clean": there.clean_loss, "robust": there.robust_loss}

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> SpectrumResult:
        """Put the Hessians together."""
        losses, C = self.losses(), len(self.coordinates)
        found = values[: len(losses) * C]
        drawn = [[value[loss] for value in values[len(found) :]] for loss in losses]

        def grid(end: str, name: str) -> np.ndarray:
            return np.array([value[end][name] for value in found]).reshape(len(losses), C, -1)

        top, bottom = grid("top", "values"), grid("bottom", "values")
        largest = np.abs(top[..., 0])
        random = np.array(drawn, dtype=float).reshape(len(losses), self.random_weights)
        return SpectrumResult(
            losses=losses,
            coordinates=tuple(self.coordinates),
            eigenvalues=top,
            residuals=grid("top", "residuals"),
            converged=grid("top", "converged"),
            smallest=bottom,
            smallest_residuals=grid("bottom", "residuals"),
            smallest_converged=grid("bottom", "converged"),
            ratio=np.divide(np.abs(bottom[..., 0]), largest, out=np.zeros_like(largest), where=largest > 0),
            spectral_norm=np.maximum(largest, np.abs(bottom[..., 0])),
            nuclear_norm=np.abs(top).sum(axis=-1),
            normalised=top / random.mean(axis=1)[:, None, None] if self.random_weights else top[..., :0],
            random_losses=random,
            loss=np.array([value["loss"] for value in found]).reshape(len(losses), C)[:, 0],
            products=np.array([value["products"] for value in found]).reshape(len(losses), C),
            curvature="held",
            tolerance=self.tolerance,
            scope=self.scope,
            attack=self.attack.describe() if self.attack else "",
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )


def top(
    subject: Subject,
    x: Tensor | None = None,
    *,
    k: int = 20,
    bottom: int = 0,
    tolerance: float = 1e-2,
    most: int = 200,
    scope: Scope = "all",
    coordinates: Coordinates = "raw",
    start: Tensor | None = None,
) -> Extremes:
    """Return the outermost eigenpairs of the Hessian of a subject's mean loss at inputs that are held.

    ``hessian(subject, scope=..., coordinates=...).params(v)`` is the move of the weights that a vector stands for.

    Args:
        subject: What is looked at, at its model's present weights.
        x: (N, C, H, W), its examples as they are held, for example from ``worst_inputs``; None for the clean ones.
        k: How many of the largest.
        bottom: How many of the smallest.
        tolerance: Largest residual, relative to the eigenvalue.
        most: Most products, and vectors in memory.
        scope: Which parameters.
        coordinates: "raw", or relative to each "layer" or "filter".
        start: (p, D), ``top.vectors`` of an earlier call for nearby weights, such as the last epoch's: the nearer,
            the fewer products. None for none.

    Raises:
        BadInput: a number out of range, or a start of another size.
        Diverged: a loss is not finite.
    """
    operator = hessian(subject, x, scope=scope, coordinates=coordinates)
    rng = Streams(subject.seed, ("spectrum",))
    return extremes(
        operator,
        operator.like(),
        k=k,
        bottom=bottom,
        tolerance=tolerance,
        most=most,
        rng=rng,
        start=start,
    )


def _plain(pairs: Eigenpairs) -> Plain:
    return {name: getattr(pairs, name).tolist() for name in ("values", "residuals", "converged")}


def _to_random(model: nn.Module, rng: Streams) -> Params:
    """Return the move from the weights to random ones; see ``Spectrum``."""
    try:
        layers = select(model, "layers")
    except NotApplicable:  # normalisation alone
        layers = Params()
    moves: Params = {}
    for name, value in select(model, "all").items():
        drawn = torch.full_like(value, float(name not in layers and name.endswith("weight")))
        if name in layers and value.ndim > 1:
            drawn = rng.tag(name).normal(*value.shape, dtype=value.dtype, device=value.device)
            drawn = drawn / math.sqrt(3 * value[0].numel())
        moves[name] = drawn - value
    return moves
