"""Draw the figures of runs, ready for a paper: `robustscape figure RUN...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustscape.cli.arguments import parse
from robustscape.cli.display import out
from robustscape.cli.sources import nouns, wants_help
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Options of ``figure``.

    Attributes:
        out: Directory for one set of figures that compares all runs; by default each run's own figures/.
        form: Kind of file.
    """

    out: Path | None = None
    form: Literal["pdf", "png", "svg"] = "pdf"


def main(arguments: list[str]) -> None:
    """Draw every figure that the results of the runs give.

    Raises:
        BadInput: no run, or nothing to draw.
    """
    words, rest = nouns(arguments)
    if not words and not wants_help(rest):
        raise BadInput("figure needs runs first: robustscape figure RUN...")
    description = f"{(__doc__ or '').partition(':')[0]}. Made from saved results alone."
    options = parse(Figure(), rest, program="robustscape figure RUN...", description=description)
    paths = [Path(word) for word in words]
    for path in _drawn(paths, options):
        out(str(path))


def _drawn(paths: list[Path], options: Figure) -> list[Path]:
    from robustscape.figures.all import draw
    from robustscape.runs import read_runs

    if options.out is not None:
        return draw(paths, options.out, form=options.form)
    return [file for run in read_runs(paths) for file in draw(run.path, form=options.form)]
