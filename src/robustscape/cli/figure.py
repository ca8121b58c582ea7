"""Draw the figures of runs and studies, ready for a paper: `robustscape figure RUN...`."""

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
        out: Directory for one set of figures that compares all runs; by default each run's own figures/, and a
            study's own folder.
        form: Kind of file.
    """

    out: Path | None = None
    form: Literal["pdf", "png", "svg"] = "pdf"


def main(arguments: list[str]) -> None:
    """Draw every figure that the results of the runs, and of studies by their folders, give.

    Raises:
        BadInput: neither run nor study, or nothing to draw.
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
    from robustscape.runs import read_folders

    if options.out is not None:
        return draw(paths, options.out, form=options.form)
    found = read_folders(paths)
    folders = dict.fromkeys(each.path for each in (*found.runs, *found.studies))
    return [file for folder in folders for file in draw(folder, form=options.form)]
