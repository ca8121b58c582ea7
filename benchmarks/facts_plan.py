"""What ``facts.py`` trains and measures: networks along eps, and what is looked at of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.landscape.connectivity import Connectivity
from robustscape.landscape.curvature import Curvature
from robustscape.landscape.curve import CurveTraining
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.similarity import Similarity
from robustscape.landscape.slices import Slice
from robustscape.landscape.spectrum import Spectrum
from robustscape.models.lenet import LeNet
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.recipes.cifar10 import cifar10_jpeg_at_small, cifar10_jpeg_natural_small
from robustscape.recipes.mnist import mnist_at
from robustscape.recipes.run import Run
from robustscape.runtime import Runtime
from robustscape.training.schedules.rise import Rise
from robustscape.types import Measurement

HERE = Path("benchmarks")  # every path is relative to the repository, as what is stored of them
COMMITTED = HERE / "checkpoints" / "cifar10-jpeg-small"
ONE = Runtime(threads=1, compile="no", precision="float32")  # the same arithmetic on every machine
SEEDS, LONG_SEEDS = (0, 1), (0, 1, 2)
MNIST_EPS, CIFAR_EPS = (0.0, 0.1, 0.2, 0.3, 0.4), (0, 4, 8, 12)
"""In pixel units, and in 255ths; 0 is natural training."""

CURVE_LR = {"mnist": 0.03, "cifar10": 0.1}
"""Of the curves between networks; at Liu's 0.1 that between two natural LeNets ends above the line it began as."""

RESCALED = ("normalisation", "layers", "both")
"""Layers before a BatchNorm halved; of two layers in a row the first doubled and the second halved; both in turn."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is measured of one network.

    Attributes:
        run: Its run directory; the last checkpoint is meant.
        measurements: What is measured.
        n: Images, the first ones.
        split: Of which part of the data, "train" or "test".
        rescaled: How its weights are rescaled first, one of RESCALED; "" for not at all.
    """

    run: Path
    measurements: tuple[Measurement, ...]
    n: int
    split: str = "test"
    rescaled: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is trained and measured, at one scale.

    Attributes:
        small: Whether a few images and steps do.
        networks: Folder of the networks that are trained here.
        results: Folder of the measurements' results.
        summary: The file of the facts.
    """

    small: bool
    networks: Path
    results: Path
    summary: Path

    def runs(self) -> dict[str, Run]:
        """Return what is trained, by name."""
        found: dict[str, Run] = {}
        for seed in SEEDS:
            found |= {f"mnist/{_kind(eps)}-{seed}": _mnist(eps, seed) for eps in MNIST_EPS}
            found |= {f"cifar10/{_kind(eps)}-{seed}": _cifar(eps, seed) for eps in CIFAR_EPS}
        for seed in LONG_SEEDS:
            found[f"cifar10-long/natural-{seed}"] = _quiet(cifar10_jpeg_natural_small(), seed)
        return {name: _tiny(run) if self.small else run for name, run in found.items()}

    def looks(self) -> dict[str, Look]:
        """Return what is measured, by name."""
        found: dict[str, Look] = {}
        for seed in SEEDS:
            for group, all_eps, unit in (("mnist", MNIST_EPS, 1), ("cifar10", CIFAR_EPS, 255)):
                for eps in all_eps:
                    name, attack = f"{group}/{_kind(eps)}-{seed}", _attack(group, eps / unit)
                    found[name] = self._look(self.networks / name, self._along_eps(attack), 96)
                    found[f"{group}-train/{_kind(eps)}-{seed}"] = self._on_train(self.networks / name, attack)
        for eps in MNIST_EPS:
            kind = _kind(eps)
            one, other = (self.networks / f"mnist/{kind}-{seed}" for seed in SEEDS)
            found[f"barrier/mnist-{kind}"] = self._look(one, [self._barrier(other, "mnist", eps, order=2)], 640)
        for seed in LONG_SEEDS:
            after = (seed + 1) % len(LONG_SEEDS)
            naturals = [self.networks / f"cifar10-long/natural-{s}" for s in (seed, after)]
            robust = [committed("at", s) for s in (seed, after)]
            for kind, (one, other), eps in (("natural", naturals, 0), ("at-8", robust, 8 / 255)):
                measured = [self._barrier(other, "cifar10", eps, order=4)]
                found[f"barrier/cifar10-{kind}-{seed}"] = self._look(one, measured, 640)
            attack = _attack("cifar10", 8 / 255)
            for kind, run, by in (("natural", naturals[0], _attack("cifar10", 0)), ("at-8", robust[0], attack)):
                found[f"cifar10-long-train/{kind}-{seed}"] = self._on_train(run, by, self._slices(by))
            for how in ("", *RESCALED):
                look = self._look(robust[0], self._rescaled(attack), 32)
                found[f"rescaled/cifar10-{how or 'trained'}-{seed}"] = replace(look, rescaled=how)
            for kind in ("trades", "at-awp"):
                look = self._look(committed(kind, seed), self._rescaled(attack)[1:], 32)
                found[f"methods/cifar10-{kind}-{seed}"] = look
            found[f"curvature/cifar10-{seed}"] = self._look(robust[0], [self._curvature(attack)], 32)
        for seed in SEEDS:
            measured = [self._curvature(_attack("mnist", 0.3))]
            found[f"curvature/mnist-{seed}"] = self._look(self.networks / f"mnist/at-0.3-{seed}", measured, 32)
        return found

    def _look(self, run: Path, measurements: Iterable[Measurement], n: int) -> Look:
        few = max(4, n // 40)
        return Look(run=run, measurements=tuple(measurements), n=few if self.small else n)

    def _on_train(self, run: Path, attack: PGD, *others: Measurement) -> Look:
        """Return the look at a spectrum on training images, as the code of Liu 2020 has it, and at others there."""
        return replace(self._look(run, [self._spectrum(attack), *others], 96), split="train")

    def _spectrum(self, attack: PGD) -> Spectrum:
        return Spectrum(attack=self._short(attack), k=3, most=4 if self.small else 30, random_weights=0)

    def _slices(self, attack: PGD) -> Slice:
        positions, directions = (3, 1) if self.small else (5, 4)
        return Slice(attack=self._short(attack), width=0.5, positions=positions, directions=directions)

    def _along_eps(self, attack: PGD) -> list[Measurement]:
        attack = self._short(attack)
        found: list[Measurement] = [self._spectrum(attack), self._slices(attack)]
        if attack.threat.eps == 0:
            return found
        last = replace(attack, result="last")  # what the paper compares
        places = (0.03, 0.3) if self.small else (0.01, 0.03, 0.1, 0.3)
        return [*found, Similarity(attack=last, starts=2, positions=places)]

    def _barrier(self, other: Path, group: str, eps: float, *, order: int) -> Connectivity:
        attack = self._short(_attack(group, eps))
        return Connectivity(
            other=str(other),
            order=order,
            curves=1,
            objective="robust" if eps else "clean",
            training=CurveTraining(epochs=1 if self.small else 20, lr=CURVE_LR[group]),
            training_attack=replace(attack, result="last"),
            train_share=0.8,
            positions=3 if self.small else 7,
            attack=attack,
        )

    def _rescaled(self, attack: PGD) -> list[Measurement]:
        attack = self._short(attack)
        most = 3 if self.small else 20  # the largest is there long before the smallest
        return [
            AverageFlatness(attack=attack, samples=2 if self.small else 4),
            Spectrum(attack=attack, k=1, most=most, random_weights=0),
        ]

    def _curvature(self, attack: PGD) -> Curvature:
        multiples = (0.5, 1.0) if self.small else (0.25, 0.5, 1.0, 1.5)
        return Curvature(
            attack=self._short(attack),
            multiples=multiples,
            random=0,
            radii=(0.1,),
            products=0,
            settle=2 if self.small else 50,
            follow=1 if self.small else 10,
            solves=2 if self.small else 50,
        )

    def _short(self, attack: PGD) -> PGD:
        attack = replace(attack, result="best_loss")
        return replace(attack, steps=1) if self.small else attack


def plan(*, small: bool) -> Plan:
    """Return the plan at one scale."""
    if not small:
        return Plan(
            small=False,
            networks=HERE / "facts",
            results=HERE / "results" / "facts",
            summary=HERE / "results" / "facts.json",
        )
    out = Path("runs") / "facts-small"
    return Plan(small=True, networks=out / "networks", results=out / "results", summary=out / "facts.json")


def committed(kind: str, seed: int) -> Path:
    """Return the run directory of a network in benchmarks/checkpoints, "at", "trades" or "at-awp"."""
    return COMMITTED / (f"{kind}-{seed}" if seed else kind)


# -- networks ------------------------------------------------------------------------------------------


def _kind(eps: float) -> str:
    return f"at-{eps:g}" if eps else "natural"


def _attack(group: str, eps: float) -> PGD:
    """Return the search along eps: the same in shares of eps at every eps."""
    threat = ThreatModel(norm="linf", eps=eps)
    if eps == 0:
        return PGD(threat=threat, steps=1)
    if group == "mnist":
        return PGD(threat=threat, steps=20, relative_step=0.1)
    return PGD(threat=threat, steps=10, relative_step=0.25)


def _quiet(run: Run, seed: int) -> Run:
    """Return a run that is not tracked: it keeps the last epoch alone."""
    return replace(run, training=replace(run.training, track=0, track_attack=None), runtime=ONE, seed=seed)


def _mnist(eps: float, seed: int) -> Run:
    """Return a run on MNIST; eps rises to its end half way, without which nothing is learnt at the largest."""
    run = mnist_at()
    training = replace(run.training, epochs=6, batch_size=64)
    return _quiet(
        replace(
            run,
            data=replace(run.data, per_class=1000),  # pyright: ignore[reportArgumentType]
            model=LeNet(width=8),
            objective=AT(attack=_attack("mnist", eps)) if eps else Natural(),
            training=replace(training, eps=Rise()) if eps else training,
            evaluation=replace(run.evaluation, eps=eps or 0.3),
        ),
        seed,
    )


def _cifar(eps: float, seed: int) -> Run:
    """Return a run on CIFAR-10 (JPEG), eps in 255ths; five steps of the attack, as ten take twice the time."""
    run = cifar10_jpeg_at_small()
    attack = replace(_attack("cifar10", eps / 255), steps=5, relative_step=0.4)
    return _quiet(
        replace(
            run,
            objective=AT(attack=attack) if eps else Natural(),
            training=replace(run.training, epochs=7),
            evaluation=replace(run.evaluation, eps=(eps or 8) / 255),
        ),
        seed,
    )


def _tiny(run: Run) -> Run:
    """Return the run with few images, one epoch and one step of the attack."""
    objective = run.objective
    if isinstance(objective, AT):
        assert isinstance(objective.attack, PGD)
        objective = replace(objective, attack=replace(objective.attack, steps=1))
    data = replace(run.data, per_class=8, validation=20)  # pyright: ignore[reportArgumentType, reportCallIssue]
    training = replace(run.training, epochs=1)
    return replace(run, data=data, objective=objective, training=training)
