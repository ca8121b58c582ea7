"""Worst-case flatness of the robust loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.landscape._ascent import Problem
from robustscape.landscape._losses import groups, losses, part, stored
from robustscape.landscape._stutz import StutzPGD
from robustscape.landscape._worst import Found, as_published, sound
from robustscape.landscape.crossed import cells
from robustscape.landscape.flatness import Estimate, check_radii, t_interval
from robustscape.runtime.memory import Parts
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Params, Plain, Provenance, Subject
from robustscape.weights.space import gaussian, normalised, select


@dataclass(frozen=True, kw_only=True)
class WorstAtRadius:
    """Worst-case flatness at one more radius.

    Attributes:
        xi: Radius of the ball of each layer, relative to the layer's L2 norm.
        robust: Rise of the robust loss at the worst weights found, nats; interval as at the first radius.
        clean: Rise of the clean loss at weights found for it alone, nats; the same.
    """

    xi: float
    robust: Estimate
    clean: Estimate


@dataclass(frozen=True, kw_only=True)
class WorstFlatnessResult:
    """Worst-case flatness: how much the loss rises at the worst relative weight perturbation found.

    A lower bound of the largest rise in the ball: how far from it the search may be is told by ``spread``,
    ``doubling_gain`` and ``again_gain``.

    Attributes:
        robust: Rise of the robust loss, nats. The interval, Student's t over the examples (over the groups where
            each has a v of its own), covers the choice of the examples at the v found, not the search. n: restarts.
        clean: Rise of the clean loss at weights found for it alone, nats; the same.
        reference_robust_loss: Robust loss at the weights themselves, nats.
        reference_clean_loss: Clean loss there, nats.
        robust_rises: (R,), rise of the robust loss from each restart alone, nats.
        clean_rises: (R,), the same of the clean loss.
        spread: Largest minus smallest of ``robust_rises``, nats: 0 does not show that the maximum was found.
        doubling_gain: What twice the steps add to the first restart's rise, nats; None under "as published".
        again_gain: Robust loss of a new attack at the best restart's v, minus that of the inputs found with v, nats.
            Below 0 the attack, which judges w too, has not converged: by about as much the rise is uncertain.
        sweep: The further radii, rising.
        xi: Radius of the ball of each layer, relative to the layer's L2 norm.
        steps: Steps of the search.
        scope: "set": one v for all examples; "batch": one for each group of them.
        mode: "sound" or "as published".
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    robust: Estimate
    clean: Estimate
    reference_robust_loss: float
    reference_clean_loss: float
    robust_rises: np.ndarray
    clean_rises: np.ndarray
    spread: float
    doubling_gain: float | None
    again_gain: float
    sweep: tuple[WorstAtRadius, ...]
    xi: float
    steps: int
    scope: str
    mode: str
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class WorstFlatness:
    """Worst-case flatness of the robust loss (Stutz 2021, https://arxiv.org/abs/2104.04448, equation 5).

    F = max over v of [ L(w + v) ] - L(w), each layer's v_l in the ball of L2 radius xi ||w_l||, L the mean over
    examples of the largest cross-entropy in the threat model. Weight and bias of a module are two layers;
    normalisation parameters do not move. Weights and inputs climb together; each restart costs about three passes
    forwards and backwards a step, one of them for the clean loss, and two attacks. The smaller, the flatter.

    Attributes:
        attack: Under "sound" it judges L at w and at the v found: one budget, the same starts; searched on the fast
            view, judged in float32. The search itself is in float32 and starts at what it finds at w.
        reference: The attack on the network itself under "as_published"; None for ``attack``.
        xi: Radius of each layer's ball, relative to the layer's L2 norm, at most 1.
        sweep: Further radii. Under "sound" the v of each is where the search at the next larger one begins, and
            stays if nothing worse is found: the rise never falls with the radius.
        steps: Steps of the weights, at least 1; under "as_published" passes over the groups.
        restarts: Random starts of v, at least 1.
        scope: "set": one v for all examples, as equation 5. "batch": one for each group, which is larger.
        group: Examples of a group, at least 1.
        step: Length of a step of the weights relative to ||w_l||, under "as_published"; "sound" has a schedule.
        input_step: Length of a step of the inputs, pixel units; None for a quarter of eps.
        mode: "sound": steps of 2 xi that are halved as the search stalls, momentum, the best iterate. "as_published":
            steps of one length, the loss of the final iterate, and a reference of its own.

    Deviations:
        Under "as_published": a zero gradient is no step, where the code divides by zero; the code takes
        log(p + 1e-12), which ends at 27.6 nats, here the cross-entropy itself; inputs start as in the code under the
        paper's budgets too, whose text leaves it open; the clean loss is that of the final iterate, where the code
        keeps the best pass.
    """

    name: ClassVar[str] = "worst_flatness"
    scale_free: ClassVar[bool] = True
    """Rescaling that keeps the network's function keeps F: every v_l scales with its layer."""

    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    reference: Attack | None = None
    xi: float = 0.00075
    sweep: tuple[float, ...] = ()
    steps: int = 20
    restarts: int = 3
    scope: Literal["set", "batch"] = "set"
    group: int = 128
    step: float | None = None
    input_step: float | None = None
    mode: Literal["sound", "as_published"] = "sound"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, value, known in (
            ("scope", self.scope, ("set", "batch")),
            ("mode", self.mode, ("sound", "as_published")),
        ):
            if value not in known:
                raise BadInput(f"{name} {value!r} is not one of {', '.join(known)}")
        check_radii(self.xi, self.sweep, "Stutz 2021 uses 0.00075")
        for name in ("steps", "restarts", "group"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("step", "input_step"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise BadInput(f"{name} must be in (0, 1], not {value:g}")
        if self.mode == "sound" and (self.reference is not None or self.step is not None):
            raise BadInput(
                "a reference attack or a step of its own is not sound; leave it out, or did you mean mode as_published?"
            )
        if self.mode == "as_published" and self.step is None:
            raise BadInput("mode as_published needs the step: Stutz 2021 names 0.001, his code 0.01")
        if not isinstance(self.attack.threat, ThreatModel):
            raise BadInput(f"the threat {type(self.attack.threat).__name__} cannot be climbed in, only a ThreatModel")

    @classmethod
    def stutz_paper(cls) -> WorstFlatness:
        """Return the paper's text: step 0.001, 20 steps, v for each batch of 128, the worst of 10 restarts of each."""
        attack = PGD(steps=20, step_size=0.007, result="best_loss")
        reference = PGD(steps=20, step_size=0.007, restarts=10, result="best_loss")
        return cls(
            attack=attack,
            reference=reference,
            scope="batch",
            step=0.001,
            restarts=10,
            input_step=0.007,
            mode="as_published",
        )

    @classmethod
    def stutz_code(cls) -> WorstFlatness:
        """Return the authors' code: step 0.01, above the radius; one v for all batches of 128, moved by each in turn.

        20 passes; the largest of 10 restarts' means over the examples.
        """
        reference = StutzPGD(restarts=10)
        return cls(
            attack=StutzPGD(), reference=reference, step=0.01, restarts=10, input_step=0.007, mode="as_published"
        )

    def points(self) -> list[Plain]:
        """Return "reference", the number of each restart, and under "sound" "doubled"."""
        return ["reference", *range(self.restarts), *(["doubled"] if self.mode == "sound" else [])]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return the losses at w, or those at the worst weights of one restart at every radius, with those of cells."""
        n, shares = len(subject.x), self._cells(subject)
        if point == "reference":
            at_w = losses(subject, self.reference or self.attack, self.name)
            return _told(at_w.robust_loss, at_w.clean_loss, shares)
        restart, steps = (0, 2 * self.steps) if point == "doubled" else (point, self.steps)
        radii = [xi for xi in self._radii() if point != "doubled" or xi <= self.xi]
        blocks = groups(n, None if self.scope == "set" else self.group)
        each = [self._block(part(subject, rows), restart, number, radii, steps) for number, rows in enumerate(blocks)]
        found = []
        for at_radius in zip(*each, strict=True):
            robust, clean = torch.cat([one.robust for one in at_radius]), torch.cat([one.clean for one in at_radius])
            gain = sum(one.gain * len(one.robust) for one in at_radius) / n
            found.append({**_told(robust, clean, shares), "gain": gain})
        return found

    def _radii(self) -> list[float]:
        return sorted((self.xi, *self.sweep))

    def _cells(self, subject: Subject) -> list[Tensor]:
        """Return the examples whose mean is one number in intervals: groups with a v of their own, or random cells."""
        n = len(subject.x)
        if self.scope == "set":
            return cells(n, subject.seed)
        return [torch.arange(rows.start, rows.stop) for rows in groups(n, self.group)]

    def _block(self, subject: Subject, restart: int, block: int, radii: list[float], steps: int) -> list[Found]:
        """Return what one restart finds for examples that share a v, radius by radius."""
        threat = self.attack.threat
        assert isinstance(threat, ThreatModel)
        tags = (self.name, "restart", restart, block)
        weights = select(subject.model, "layers")
        problem = Problem(
            model=subject.model,
            weights=weights,
            x=subject.x,
            y=subject.y,
            threat=threat,
            size=subject.batch,
            parts=subject.parts or Parts(),
        )
        start = _start(weights, Streams(subject.seed, tags))
        input_step = threat.eps / 4 if self.input_step is None else self.input_step
        if self.mode == "sound":
            return sound(subject, problem, self.attack, start, radii, steps=steps, input_step=input_step, tag=self.name)
        return as_published(
            subject,
            problem,
            self.attack,
            start,
            radii,
            steps=steps,
            step=self.step or 0.0,
            input_step=input_step,
            groups=groups(len(subject.x), self.group),
            tags=tags,
        )

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> WorstFlatnessResult:
        """Subtract the reference and keep the worst restart, of each group where each has a v of its own."""
        reference, restarts = values[0], values[1 : 1 + self.restarts]
        radii, sizes = self._radii(), np.array([len(cell) for cell in self._cells(subject)])
        share, first = sizes / sizes.sum(), radii.index(self.xi)

        def worst(k: int, of: str) -> Estimate:
            rises = np.array([value[k][of] for value in restarts]) - np.array(reference[of])
            chosen = rises.max(axis=0) if self.scope == "batch" else rises[int((rises @ share).argmax())]
            value, spread = float(chosen @ share), t_interval(chosen, n=self.restarts)
            half = spread.high - spread.value
            return Estimate(value=value, low=value - half, high=value + half, n=self.restarts)

        robust, clean = (
            np.array([value[first][of] for value in restarts]) - reference[of] for of in ("robust_loss", "clean_loss")
        )
        doubled = values[-1][first]["robust_loss"] - restarts[0][first]["robust_loss"] if self.mode == "sound" else None
        attack = self.attack.describe()
        return WorstFlatnessResult(
            robust=worst(first, "robust"),
            clean=worst(first, "clean"),
            reference_robust_loss=reference["robust_loss"],
            reference_clean_loss=reference["clean_loss"],
            robust_rises=robust,
            clean_rises=clean,
            spread=float(robust.max() - robust.min()),
            doubling_gain=doubled,
            again_gain=restarts[int(robust.argmax())][first]["gain"],
            sweep=tuple(
                WorstAtRadius(xi=xi, robust=worst(k, "robust"), clean=worst(k, "clean"))
                for k, xi in enumerate(radii)
                if k != first
            ),
            xi=self.xi,
            steps=self.steps,
            scope=self.scope,
            mode=self.mode.replace("_", " "),
            attack=attack if self.reference is None else f"{attack}, reference {self.reference.describe()}",
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )


def _start(weights: Params, rng: Streams) -> Params:
    """Return where v begins, for radius 1: a random direction of each layer, of relative length U(0, 1) for all."""
    length = float(rng.tag("length").uniform())
    return {name: v * length for name, v in normalised(gaussian(weights, rng), weights, "layer").items()}


def _told(robust: Tensor, clean: Tensor, shares: Sequence[Tensor]) -> dict[str, Plain]:
    means = {"robust_loss": float(robust.mean()), "clean_loss": float(clean.mean())}
    return {**means, "robust": stored(robust, shares), "clean": stored(clean, shares)}
