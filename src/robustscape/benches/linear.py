"""Robust logistic regression, solved, against PGD training, and at eps 0 against scikit-learn."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.benches.harness import BESIDE, QUICK, Rounds, at_least_one, made, timed
from robustscape.benches.result import BenchResult, Spread, spread
from robustscape.data import sources
from robustscape.data.digits import Digits
from robustscape.data.fetch import VARIABLE
from robustscape.data.mnist import MNIST
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.models.linear import Linear, LinearNetwork
from robustscape.objectives.at import AT
from robustscape.results import stopwatch
from robustscape.runtime import Runtime, place
from robustscape.streams import Streams
from robustscape.training.method import method
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import BadInput, Batch

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

_OURS, _PGD = "robustscape", "PGD training"
_PLAIN, _THEIRS, _LOOSE = "robustscape, eps 0", "scikit-learn, eps 0", "scikit-learn, eps 0, its own tolerance"
_NEAR = 1e-4  # nats per example


@dataclass(frozen=True, kw_only=True)
class LinearBench:
    """Fits per second of ``RobustLogisticRegression``, of its model trained by PGD, and of scikit-learn's at eps 0.

    All minimise the mean loss plus ||w||^2 / (2 N), C = 1, on the digits 0 and 1. The PGD side is robustscape's own
    training step (SGD with momentum, cosine schedule); it ends with the first epoch whose exact worst-case loss is
    within 1e-4 nats of the minimum, or after all epochs: how far it came is shown. Its pixels, and those of our side,
    are squeezed into [eps, 1 - eps], so that the pixel range, which the training's adversary stays in, plays no part.
    scikit-learn's tolerance is the largest power of 10 that brings it within 1e-4 nats too, at most its own, which
    is timed besides; where none down to 1e-11 does, the one that comes nearest. How far both came is shown.

    Attributes:
        data: "mnist", "digits" (scikit-learn's, 8 x 8 pixels), or "auto": MNIST where it is on disk, else digits.
        norm: Norm of the perturbation.
        eps: Its radius, in pixel units.
        steps: Steps of PGD.
        epochs: Most epochs of the PGD side.
        lr: Its learning rate.
        batch: Its batch size.
        runtime: How the PGD side uses the machine.
        rounds: How often.
    """

    name: ClassVar[str] = "linear"

    data: Literal["auto", "mnist", "digits"] = "auto"
    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.1
    steps: int = 40
    epochs: int = 60
    lr: float = 0.5
    batch: int = 128
    runtime: Runtime = field(default_factory=Runtime, metadata=BESIDE)
    rounds: Rounds = field(default_factory=lambda: Rounds(pairs=3, warmup=0.0), metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps", "epochs", "batch")
        ThreatModel(norm=self.norm, eps=self.eps)
        if not 0 < self.eps < 0.5:
            raise BadInput(f"eps must be above 0 and below 0.5, so that pixels fit beside it, not {self.eps:g}")

    def quick(self) -> LinearBench:
        """Return the same bench on something tiny."""
        return replace(self, data="digits", steps=2, epochs=2, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        from sklearn.linear_model import LogisticRegression

        from robustscape.linear.estimator import RobustLogisticRegression

        took = stopwatch()
        x, y, image, name = _images(self.data)
        pixels, signs = x.astype(np.float64), 2 * y - 1
        squeezed = self.eps + (1 - 2 * self.eps) * pixels
        robust = RobustLogisticRegression(self.norm, self.eps)
        plain = RobustLogisticRegression(self.norm, 0.0).fit(pixels, y)
        best = float(plain.objective_[0]) / len(y)

        def above(model: LogisticRegression) -> float:
            """Fit and return how far above our minimum it ends."""
            w, b = model.fit(pixels, y).coef_[0], float(np.ravel(model.intercept_)[0])
            return _loss(pixels, signs, w, b, self.norm, 0.0) - best

        tolerances = [LogisticRegression(max_iter=10_000, tol=10.0**-k) for k in range(4, 12)]
        theirs, beyond = _tight_enough(tolerances, above)
        loose = LogisticRegression(max_iter=10_000)
        least = float(robust.fit(squeezed, y).objective_[0]) / len(y)
        excess: list[float] = []

        def fitted(model: RobustLogisticRegression | LogisticRegression, features: np.ndarray) -> float:
            model.fit(features, y)
            return 1

        def trained() -> float:
            excess.append(self._trained(squeezed, y, image, least) - least)
            return 1

        sides = {
            _OURS: lambda: fitted(robust, squeezed),
            _PGD: trained,
            _PLAIN: lambda: fitted(plain, pixels),
            _THEIRS: lambda: fitted(theirs, pixels),
            _LOOSE: lambda: fitted(loose, pixels),
        }
        seconds = yield from timed(sides, self.rounds, self.runtime)
        result = made(
            self.name,
            f"{name}, {len(y)} x {x.shape[1]}, {self._attack().describe()}, batch {self.batch}",
            unit="fits",
            seconds=seconds,
            ratios={
                _PGD: _over(seconds[_PGD], seconds[_OURS]),
                _THEIRS: _over(seconds[_THEIRS], seconds[_PLAIN]),
                _LOOSE: _over(seconds[_LOOSE], seconds[_PLAIN]),
            },
            notes={
                "PGD training: nats per example above the minimum": spread(excess),
                f"{_THEIRS}: nats per example above ours": spread([beyond]),
                f"{_LOOSE}: nats per example above ours": spread([above(loose)]),
            },
            rounds=self.rounds,
            runtime=self.runtime,
            component=self,
            took=took(),
        )
        return replace(result, provenance=replace(result.provenance, data=name))

    def _attack(self) -> PGD:
        return PGD(threat=ThreatModel(norm=self.norm, eps=self.eps), steps=self.steps, relative_step=2.5 / self.steps)

    def _trained(self, x: np.ndarray, y: np.ndarray, image: tuple[int, int, int], least: float) -> float:
        """Train by PGD until the objective is near its least value; return the objective, nats per example."""
        model = place(Linear(outputs="one").build(image=image, classes=2, seed=0), self.runtime)
        assert isinstance(model, LinearNetwork)
        device = self.runtime.torch_device()
        optimizer = SGD(lr=self.lr, momentum=0.9, weight_decay=1 / len(y), decay="weights")
        settings = Training(batch_size=self.batch, optimizer=optimizer, lr=Cosine(), epochs=self.epochs)
        how, stepper = method(model, AT(attack=self._attack()), None, settings, self.runtime), optimizer.build(model)
        pixels = torch.from_numpy(x).float().view(-1, *image).to(device)
        labels, value = torch.from_numpy(y).to(device), np.inf
        total, done = self.epochs * -(-len(y) // self.batch), 0
        for epoch in range(self.epochs):
            for rows in Streams(0, ("bench", epoch)).order(len(y)).to(device).split(self.batch):
                batch = Batch(x=pixels[rows], y=labels[rows], index=rows)
                step(how, stepper, batch, done=done, total=total, seed=0)
                done += 1
            w, b = (parameter.detach().cpu().double().numpy()[0] for parameter in model.linear.parameters())
            value = _loss(x, 2 * y - 1, w, b, self.norm, self.eps)
            if value - least <= _NEAR:
                break
        return value


def _tight_enough(
    models: Sequence[LogisticRegression], above: Callable[[LogisticRegression], float]
) -> tuple[LogisticRegression, float]:
    """Return the first model near enough to the minimum, else the nearest, and how far above the minimum it is."""
    nearest, least = models[0], np.inf
    for model in models:
        if (value := above(model)) < least:
            nearest, least = model, value
        if value <= _NEAR:
            break
    return nearest, least


def _loss(x: np.ndarray, signs: np.ndarray, w: np.ndarray, b: float, norm: Literal["linf", "l2"], eps: float) -> float:
    """Return the exact worst-case loss and its ridge, nats per example."""
    problem = AdversarialLogistic(x=torch.from_numpy(x), y=torch.from_numpy(signs), norm=norm, eps=eps)
    return float(problem.at(torch.from_numpy(w), float(b)).loss) + float(w @ w) / (2 * len(x))


def _over(theirs: tuple[float, ...], ours: tuple[float, ...]) -> Spread:
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def _images(data: str) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int], str]:
    """Return pixels (N, d), labels 0 and 1, the shape of an image, and what they are called."""
    if data == "mnist" or (data == "auto" and _on_disk()):
        images, name = MNIST(classes=(0, 1)).load(seed=0).train, "MNIST 0 and 1"
    else:
        images, name = Digits().load(seed=0).train, "Digits 0 and 1"
        images = images.take((images.y < 2).nonzero().flatten())
    channels, height, width = images.x.shape[1:]
    return images.pixels().flatten(1).numpy(), images.y.numpy(), (channels, height, width), name


def _on_disk() -> bool:
    """Return whether MNIST is where it would be looked for, so that nothing is downloaded for a bench."""
    import pooch

    roots = [Path(root).expanduser() for root in (os.environ.get(VARIABLE),) if root]
    folders = [*roots, *(root / "mnist" for root in roots), Path(pooch.os_cache("robustscape")) / "mnist"]
    files = [sources.MNIST[f"{split} {part}"].file for split in ("train", "test") for part in ("images", "labels")]
    return all(any((f / name).is_file() or (f / f"{name}.gz").is_file() for f in folders) for name in files)
