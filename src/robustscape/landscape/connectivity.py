"""How well two trained networks are connected: the loss along the line and along trained curves between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustscape.attacks.pgd import PGD
from robustscape.evaluation.judging import performance
from robustscape.landscape._barriers import average, barrier, integral, mode_connectivity
from robustscape.landscape._other import check_other, check_unchanged
from robustscape.landscape.alignment import aligned, shuffled
from robustscape.landscape.curve import (
    CurveTraining,
    Statistics,
    estimated,
    normalisations,
    placed,
    point,
    segment,
    speed,
    train_curve,
)
from robustscape.landscape.directions.between import read_state, weights_file
from robustscape.landscape.flatness import Estimate, t_interval
from robustscape.streams import Streams
from robustscape.training.checkpoints import digest
from robustscape.types import Attack, BadInput, Batch, Params, Plain, Provenance, Subject


@dataclass(frozen=True, kw_only=True)
class ConnectivityResult:
    """Loss and error along P paths between two networks, at T places each.

    A barrier is the largest rise over the straight line between the losses at the path's ends, max over t of
    L(t) - [(1 - t) L(0) + t L(1)], at least 0. A mode connectivity mc is (L(0) + L(1)) / 2 - L(t*), t* where it is
    largest in size: below 0 a barrier, near 0 connected, above 0 ends that were not trained to their end.

    Attributes:
        paths: What each is: "line", "curve 1" and so on, and the same with "aligned" in front.
        t: (T,), from 0 (the measured network) to 1 (the other), evenly spaced.
        clean_loss: (P, T), nats per example.
        clean_error: (P, T), fractions.
        robust_loss: (P, T), nats per example, of adversarial examples retaken at every place.
        robust_error: (P, T), fractions.
        clean_barrier: (P,), nats.
        robust_barrier: (P,), nats.
        clean_mc: (P,), nats.
        robust_mc: (P,), nats.
        length: (P,), L2 length of the path over all parameters.
        clean_average: (P,), clean loss averaged over the length of the path, nats.
        robust_average: (P,), robust loss averaged so, nats.
        curve_barrier: Robust barrier of the trained curves, nats, interval by Student's t over them; None without.
        aligned_curve_barrier: The same after alignment; None without.
        own_clean_loss: (2,), clean loss of the two networks with their own BatchNorm statistics, nats.
        own_robust_loss: (2,), robust loss of these, nats.
        other: The other network: a file, or "itself, neurons in another order".
        order: Of the curves; 1 for none.
        objective: "robust" or "clean": the loss that curves were trained on.
        statistics: Where BatchNorm's statistics on the paths are from; "" for networks without BatchNorm.
        attack: The attack that judged, in words.
        training_attack: The one that curves were trained with; "" for none.
        n: Number of examples that losses and errors are of.
        trained_n: Number of examples that curves were trained and statistics estimated on; others than the n,
            unless train_share is 1.
        split: Which split all of them are from.
        provenance: Where it came from.
    """

    paths: tuple[str, ...]
    t: np.ndarray
    clean_loss: np.ndarray
    clean_error: np.ndarray
    robust_loss: np.ndarray
    robust_error: np.ndarray
    clean_barrier: np.ndarray
    robust_barrier: np.ndarray
    clean_mc: np.ndarray
    robust_mc: np.ndarray
    length: np.ndarray
    clean_average: np.ndarray
    robust_average: np.ndarray
    curve_barrier: Estimate | None
    aligned_curve_barrier: Estimate | None
    own_clean_loss: np.ndarray
    own_robust_loss: np.ndarray
    other: str
    order: int
    objective: str
    statistics: str
    attack: str
    training_attack: str
    n: int
    trained_n: int
    split: str
    provenance: Provenance


class _Path(NamedTuple):
    """A path: after alignment or not; the number of the curve, None for the straight line."""

    name: str
    aligned: bool
    curve: int | None


_ENDS = "ends"
_ITSELF = "itself, neurons in another order"


@dataclass(frozen=True, kw_only=True)
class Connectivity:
    """Mode connectivity of two networks of one architecture, under clean and robust loss.

    Along the straight line, and along Bezier curves B(t) = sum over i of C(n, i) (1 - t)^(n - i) t^i theta_i of
    order n whose inner points are trained (Garipov 2018, https://arxiv.org/abs/1802.10026; for adversarial
    training Liu 2020, https://arxiv.org/abs/2006.08403, appendix C.2.5), also after the neurons of the other
    network were brought into the order of the first (Ainsworth 2023, https://arxiv.org/abs/2209.04836). A
    measurement sees one set of examples: a random share of them trains the curves and estimates BatchNorm's
    statistics, and the losses are those of the others.

    Attributes:
        other: The other network: a run directory, whose last checkpoint is meant, or a .safetensors file. Empty for
            a check: the network itself, its neurons in a random order, which is the same function; a barrier on
            its line is one of order alone, and alignment takes it away.
        align: Whether the paths are measured again after the other network's neurons were aligned.
        order: Of the Bezier curves, at least 1; 1 for the straight line alone. Liu 2020: 2 on MNIST, 4 on CIFAR-10.
        curves: Trained curves, which differ in the random numbers of their training.
        objective: The loss that curves are trained on.
        training: How curves are trained.
        training_attack: The inner maximisation of curves trained on the robust loss.
        train_share: Share of the examples that curves are trained and statistics estimated on, in [0, 1]: these are
            not judged, unless it is 1, where all are trained and judged on. 0 only for a line that estimates nothing.
        statistics: BatchNorm's running statistics on a path: "re_estimate" on clean images at every place, or
            "interpolate" between those of the two networks, which gives exactly these at the ends.
        positions: Places on a path, evenly spaced, the ends included.
        attack: The attack at every place; searched on the fast view, judged in float32.

    Deviations:
        Liu's code re-estimates BatchNorm's statistics on adversarial images while these are searched in train mode,
        so that they depend on each other, and judges the curve's loss in train mode; here they are estimated on clean
        images, then the attack runs in eval mode. No data augmentation in training. Liu trains on the training set
        and judges on it (loss) and on the test set (error), which ``train_share`` 1 on the training split does for
        the loss. The robust loss of an example is the larger of the clean and the attacked one.
    """

    name: ClassVar[str] = "connectivity"
    scale_free: ClassVar[bool] = False
    """Rescaling one of the two networks moves the paths between them; on the straight line rescaling both does not."""

    other: str = ""
    align: bool = False
    order: int = 2
    curves: int = 2
    objective: Literal["robust", "clean"] = "robust"
    training: CurveTraining = field(default_factory=CurveTraining)
    training_attack: Attack = field(default_factory=PGD)
    train_share: float = 0.5
    statistics: Statistics = "re_estimate"
    positions: int = 21
    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.objective not in ("robust", "clean"):
            raise BadInput(f"objective {self.objective!r} is not one of robust, clean")
        if self.statistics not in ("re_estimate", "interpolate"):
            raise BadInput(f"statistics {self.statistics!r} is not one of re_estimate, interpolate")
        for name, least in (("order", 1), ("curves", 1), ("positions", 3)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.train_share <= 1:
            raise BadInput(f"train_share must be in [0, 1], not {self.train_share:g}; did you mean a share of 1?")
        if self.train_share == 0 and (self.order > 1 or self.statistics == "re_estimate"):
            raise BadInput("train_share is 0, but curves and statistics need examples; order 1 and interpolate do not")

    def points(self) -> list[Plain]:
        """Return [path, place]: a place None stands for all; a curve is one point, its training included."""
        line = [["line", place] for place in range(self.positions)]
        return [[_ENDS, None], *line, *([path, None] for path in self._paths() if path != "line")]

    def _paths(self) -> dict[str, _Path]:
        """Return the paths by name, in their order in the Result."""
        numbers = [None, *range(self.curves if self.order > 1 else 0)]
        found = [
            _Path(f"{'aligned ' * moved}{'line' if number is None else f'curve {number + 1}'}", moved, number)
            for moved in ((False, True) if self.align else (False,))
            for number in numbers
        ]
        return {path.name: path for path in found}

    def ts(self) -> np.ndarray:
        """Return the places, (T,), exactly 0 and 1 at the ends."""
        return np.arange(self.positions) / (self.positions - 1)

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return losses, errors and the path's speed at one place, or at all of them."""
        name, place = point
        self._check(subject)
        trained, judged = self._shared(subject)
        here, there, which = self._ends(subject)
        with placed(subject.model, there):
            weights = digest(subject.model)
        # The ends are measured first: a network that cannot be aligned is refused before the line takes its time.
        path = _Path(_ENDS, self.align, None) if name == _ENDS else self._paths()[name]
        there = aligned(subject.model, there, subject.x) if path.aligned else there
        controls = [here, there] if path.curve is None else self._trained(subject, here, there, trained, path)
        ts = [0.0, 1.0] if name == _ENDS else self.ts() if place is None else self.ts()[[place]]
        estimate = name != _ENDS and self.statistics == "re_estimate"
        found = [self._judged(subject, controls, float(t), trained if estimate else None, judged) for t in ts]
        parameters = [name for name, _ in subject.model.named_parameters()]
        values = {key: [value[key] for value in found] for key in found[0]}
        return values | {
            "speed": speed(controls, [float(t) for t in ts], parameters),
            "other": which,
            "weights": weights,
        }

    def _judged(
        self, subject: Subject, controls: Sequence[Params], t: float, trained: Tensor | None, judged: Tensor
    ) -> dict[str, float]:
        """Return losses and errors at one place, BatchNorm's statistics estimated first unless ``trained`` is None."""
        state = point(controls, t)
        if trained is not None:
            state = estimated(subject.model, state, subject.x[trained], self.training.batch_size)
        some = replace(subject, x=subject.x[judged], y=subject.y[judged], index=subject.index[judged])
        with placed(subject.model, state):
            return dict(vars(performance(some, self.attack, self.name)))

    def _trained(self, subject: Subject, here: Params, there: Params, rows: Tensor, path: _Path) -> list[Params]:
        assert path.curve is not None
        return train_curve(
            subject.model,
            segment(here, there, self.order),
            Batch(x=subject.x[rows], y=subject.y[rows], index=subject.index[rows]),
            settings=self.training,
            attack=self.training_attack if self.objective == "robust" else None,
            statistics=self.statistics,
            rng=Streams(subject.seed, (self.name, "curve", path.curve)),
        )

    def _check(self, subject: Subject) -> None:
        """Refuse too few examples to train, to estimate or to judge on."""
        n = len(subject.x)
        trained = round(self.train_share * n)
        if (trained == 0 and self.train_share > 0) or (trained == n and self.train_share < 1):
            raise BadInput(f"{n} examples are too few for a train_share of {self.train_share:g}")
        least = trained // max(-(-trained // self.training.batch_size), 1)
        if trained and least < 2 and normalisations(subject.model):
            raise BadInput(
                f"BatchNorm needs batches of at least 2 examples, and {trained} in batches of "
                f"{self.training.batch_size} leave one with {least}"
            )

    def _shared(self, subject: Subject) -> tuple[Tensor, Tensor]:
        """Return the rows that are trained on and those that are judged, in the subject's order."""
        n = len(subject.x)
        everyone = torch.arange(n, device=subject.x.device)
        if self.train_share == 1:
            return everyone, everyone
        drawn = Streams(subject.seed, (self.name, "share"), subject.index).uniform()
        order = drawn.argsort(stable=True)
        count = round(self.train_share * n)
        return order[:count].sort().values, order[count:].sort().values

    def _ends(self, subject: Subject) -> tuple[Params, Params, str]:
        """Return the two networks, parameters and floating-point buffers, and what the other is in words."""
        model = subject.model
        here = {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}
        here = {name: value for name, value in here.items() if value.is_floating_point()}
        if not self.other:
            there = shuffled(model, subject.x, Streams(subject.seed, (self.name, "order")))
            return here, {name: there[name] for name in here}, _ITSELF
        file = weights_file(self.other)
        check_other(subject, self.other)
        return here, here | read_state(model, file), str(file)

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> ConnectivityResult:
        """Put the places of each path together.

        Raises:
            BadInput: the other network changed on the way.
        """
        check_unchanged((value["weights"] for value in values), self.other)
        paths = self._paths()
        by_path: dict[str, dict[str, list[float]]] = {}
        for (name, _), value in zip(self.points(), values, strict=True):
            known = by_path.setdefault(name, {})
            for key in (*_FIELDS, "speed"):
                known.setdefault(key, []).extend(value[key])
        grids = {key: np.array([by_path[name][key] for name in paths]) for key in (*_FIELDS, "speed")}
        t = self.ts()
        robust_barrier = barrier(grids["robust_loss"], t)
        trained, judged = self._shared(subject)

        def over_curves(moved: bool) -> Estimate | None:
            chosen = [p.aligned == moved and p.curve is not None for p in paths.values()]
            draws = robust_barrier[chosen]
            return t_interval(draws, n=len(draws)) if len(draws) else None

        return ConnectivityResult(
            paths=tuple(paths),
            t=t,
            **{key: grids[key] for key in _FIELDS},
            clean_barrier=barrier(grids["clean_loss"], t),
            robust_barrier=robust_barrier,
            clean_mc=mode_connectivity(grids["clean_loss"]),
            robust_mc=mode_connectivity(grids["robust_loss"]),
            length=integral(grids["speed"], t),
            clean_average=average(grids["clean_loss"], grids["speed"], t),
            robust_average=average(grids["robust_loss"], grids["speed"], t),
            curve_barrier=over_curves(False),
            aligned_curve_barrier=over_curves(True),
            own_clean_loss=np.array(by_path[_ENDS]["clean_loss"]),
            own_robust_loss=np.array(by_path[_ENDS]["robust_loss"]),
            other=values[0]["other"],
            order=self.order,
            objective=self.objective,
            statistics=self.statistics.replace("_", "-") if normalisations(subject.model) else "",
            attack=self.attack.describe(),
            training_attack=self.training_attack.describe() if self.objective == "robust" and self.order > 1 else "",
            n=len(judged),
            trained_n=len(trained),
            split=subject.split,
            provenance=provenance,
        )


_FIELDS = ("clean_loss", "clean_error", "robust_loss", "robust_error")
