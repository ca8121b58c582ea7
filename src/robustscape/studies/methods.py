"""Every way of training on one small task, side by side: what it does to robust overfitting, flatness and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from robustscape.attacks.pgd import PGD
from robustscape.config import nearest
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.views import Views
from robustscape.landscape.worst_flatness import WorstFlatness
from robustscape.objectives.natural import Natural
from robustscape.objectives.rst import RST
from robustscape.recipes.run import Run
from robustscape.report.study import Shown
from robustscape.studies import _methods_rows as rows
from robustscape.studies._methods_cells import PseudoLabels, Trained
from robustscape.studies._methods_table import shown
from robustscape.studies.study import Cell
from robustscape.types import BadInput, Plain, Splits


def _average() -> AverageFlatness:
    return AverageFlatness(attack=PGD(steps=10, result="best_loss"), samples=6)


def _views() -> Views:
    return Views(attack=PGD(steps=10, result="best_loss"))


def _worst() -> WorstFlatness:
    return WorstFlatness(attack=PGD(steps=10, result="best_loss"), steps=10, restarts=1)


@dataclass(frozen=True, kw_only=True)
class Methods:
    """Every training method on the same small task, in one table: accuracy, overfitting, flatness and time.

    Three seeds of AT, AWP, AMP, EMA, PAS, strong weight decay, label noise and AutoAugment, one of the rest. Each
    network is trained into a folder of its own below ``cells``, from where a killed training goes on; that is a run
    as any other. One seed of each method that has three comes first, then the rest, then further seeds. Seeds draw
    weights, order and the images trained on.

    Attributes:
        scale: "small" for 2,000 images of CIFAR-10 (JPEG) at 16 x 16 and a narrow PreActResNet-18, some ten minutes a
            network on one thread; "tiny" for digits, which only shows that everything runs.
        methods: Which methods, by name, for example at awp label-noise; all where none is named.
        average: Average-case flatness, of the robust loss of the last network under the threat model of the task.
        worst: Worst-case flatness, likewise.
        views: The rise of the robust loss on other views of training images, likewise.
        n: Images that these are measured on, the first.
        seed: The first seed.

    Deviations:
        Of no paper: settings are the papers' where they carry over to so short a training. A method may rank otherwise
        here than at full scale.
    """

    name: ClassVar[str] = "methods"
    precision: ClassVar[str] = "what suits the processor, named below the table"

    scale: rows.Scale = "small"
    methods: tuple[str, ...] = ()
    average: AverageFlatness = field(default_factory=_average)
    worst: WorstFlatness = field(default_factory=_worst)
    views: Views = field(default_factory=_views)
    n: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.scale not in ("small", "tiny"):
            raise BadInput(f"scale {self.scale!r} is not one of small, tiny")
        if self.n < 1:
            raise BadInput(f"n must be at least 1, not {self.n}")
        known = [method.name for method in rows.methods(self._base())]
        for name in self.methods:
            if name not in known:
                raise BadInput(f"there is no method {name!r}{nearest(name, known)}; there are: {', '.join(known)}")

    def parts(self) -> tuple[str, ...]:
        """Return the one table."""
        return ("table",)

    def chosen(self) -> tuple[rows.Method, ...]:
        """Return the methods that are trained, in the table's order."""
        return tuple(m for m in rows.methods(self._base()) if not self.methods or m.name in self.methods)

    def cells(self, part: str) -> tuple[Cell, ...]:
        """Return the networks in the order of the work."""
        chosen = self.chosen()
        order = [(method, 0) for method in chosen if method.seeds > 1]
        order += [(method, 0) for method in chosen if method.seeds == 1]
        order += [(method, k) for k in range(1, rows.THREE) for method in chosen if k < method.seeds]
        return tuple(self._cell(method, self.seed + k) for method, k in order)

    def data(self) -> Splits:
        """Read the data of the first seed."""
        return self._base().data.load(seed=self.seed)

    def show(self, part: str, values: Mapping[Any, Plain]) -> Shown:
        """Return the table, from the values of the networks."""
        found = {
            method: [values[self._cell(method, self.seed + k)] for k in range(method.seeds)] for method in self.chosen()
        }
        return shown(
            found,
            base=self._base(),
            average=self.average,
            worst=self.worst,
            views=self.views,
            n=self.n,
            first=self.seed,
        )

    def _base(self) -> Run:
        return rows.base(self.scale)

    def _cell(self, method: rows.Method, seed: int) -> Trained:
        run = method.run(self._base(), seed)
        return Trained(
            method=method.name,
            run=run,
            average=self.average,
            worst=self.worst,
            views=self.views,
            n=self.n,
            labels=self._labels(run) if isinstance(run.objective, RST) else None,
        )

    def _labels(self, run: Run) -> PseudoLabels:
        """Return the pseudo-labels of RST: those of a network that is trained naturally on the images with labels."""
        return PseudoLabels(run=replace(self._base(), objective=Natural(), unlabelled=run.unlabelled, seed=run.seed))
