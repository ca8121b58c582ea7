"""Show the whole way on scikit-learn's digits in a few minutes: `robustscape demo`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robustscape.cli import evaluate, figure, measure, report, train
from robustscape.cli.arguments import parse
from robustscape.cli.display import out

RECIPES = ("digits_natural", "digits_at", "digits_at_awp")
"""What the demo compares: standard, adversarial, and adversarial training under weight perturbation."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Options of ``demo``.

    Attributes:
        out: Directory for the runs and the report. What an interrupted demo left there is gone on with.
    """

    out: Path = Path("runs/demo")


def main(arguments: list[str]) -> None:
    """Train, evaluate, measure, draw and report, printing each command as a user would type it."""
    description = f"{(__doc__ or '').partition(':')[0]}: train, evaluate, measure, figure, report."
    folder = parse(Demo(), arguments, program="robustscape demo", description=description).out
    runs = [str(folder / name) for name in RECIPES]
    for name, run in zip(RECIPES, runs, strict=True):
        _step("train", train.main, [name, "--out", run])
    _step("evaluate", evaluate.main, runs)
    _step("measure", measure.main, [*runs, "flatness", "slices", "histograms", "gradients"])
    _step("figure", figure.main, runs)
    _step("report", report.main, [*runs, "--out", str(folder / "report.html")])


def _step(verb: str, command: Callable[[list[str]], None], arguments: list[str]) -> None:
    out(f"\n$ robustscape {verb} {' '.join(arguments)}")
    command(arguments)
