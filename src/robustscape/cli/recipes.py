"""List the recipes: what `robustscape train` can be given.

First our own, then one for every training that a paper reports, at the paper's scale: its name, what its table or
figure calls it, its setting, and about how long it trains on this machine. The same name with _small at its end is a
narrow network on few images. Papers, or single tables such as wu/table1, may be named before the options.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from robustscape.cli.arguments import parse
from robustscape.cli.display import note, out
from robustscape.cli.sources import nouns
from robustscape.config import files, nearest
from robustscape.recipes.row import Row
from robustscape.recipes.run import Run
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Options of ``recipes``.

    Attributes:
        paper: Paper whose recipes are listed, by its first author: wu; none for all.
        times: Say how long each trains here, by the passes of its steps and the pace of its network, which is timed on
            a few images.
    """

    paper: str | None = None
    times: bool = True


def main(arguments: list[str]) -> None:
    """Print the recipes: all of them, or those of the papers and tables that are named.

    Raises:
        BadInput: no such paper or table.
    """
    words, rest = nouns(arguments)
    options = parse(Listing(), rest, program="robustscape recipes", description=__doc__ or "")
    wanted = [*words, *([] if options.paper is None else [options.paper])]
    known = rows()
    places = {place for row in known for place in (row.paper, f"{row.paper}/{row.table}")}
    unknown = next((word for word in wanted if word not in places), None)
    if unknown is not None:
        papers = ", ".join(sorted({row.paper for row in known}))
        raise BadInput(f"no recipe is of {unknown!r}{nearest(unknown, places)}; there are the papers {papers}")
    if not wanted:
        for line in own(times=options.times):
            out(line)
        out()
    chosen = [row for row in known if not wanted or {row.paper, f"{row.paper}/{row.table}"} & set(wanted)]
    for line in table(chosen, times=options.times):
        out(line)
    if options.times:
        note("times: of training alone, to a factor of two or so, on this machine as busy as it is now")


def own(*, times: bool) -> list[str]:
    """Return the lines that list our own recipes: name, time and what each does."""
    lines = []
    for name, make in recipes().items():
        taken = [_taken(make())] if times else []
        lines.append([name, *taken, (inspect.getdoc(make) or "").partition("\n")[0]])
    return _aligned(lines)


def table(chosen: Sequence[Row], *, times: bool) -> list[str]:
    """Return the lines that list rows: name, paper and table, row, setting, and times of the row and its small variant.

    Args:
        chosen: The rows.
        times: Whether to say how long they train.
    """
    from robustscape.recipes.small import smaller

    head = ["recipe", "paper", "row", "setting", *(["time", "with _small"] if times else [])]
    lines = [head]
    for row in chosen:
        taken = [_taken(row.run), _taken(smaller(row.run))] if times else []
        lines.append([row.name, f"{row.paper} {row.table}", row.row, row.setting, *taken])
    return _aligned(lines)


def _taken(run: Run) -> str:
    from robustscape.recipes.estimating import seconds

    return duration(seconds(run))


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def duration(seconds: float | None) -> str:
    """Return a time in words, to two digits: "35 min", "4.5 h", "12 days"; "" where it is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return "< 1 min"
    for unit, length in (("min", 60.0), ("h", 3600.0)):
        if seconds < 60 * length and (unit == "min" or seconds < 48 * length):
            return f"{seconds / length:.2g} {unit}"
    return f"{float(f'{seconds / 86400:.2g}'):g} days"


def recipes() -> dict[str, Callable[[], Run]]:
    """Return every recipe of our own by name: the public functions ``() -> Run`` that a file of the room defines."""
    found: dict[str, Callable[[], Run]] = {}
    for module in _modules():
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == module.__name__:
                signature = inspect.signature(value)
                if signature.return_annotation in (Run, "Run") and not signature.parameters:
                    found[name] = value
    return found


def rows() -> tuple[Row, ...]:
    """Return the rows of every paper: those of the functions ``rows`` that files of the room define."""
    return tuple(row for module in _modules() for row in getattr(module, "rows", tuple)())


def recipe(name: str) -> Run:
    """Return the Run of a recipe; hyphens stand for underscores.

    Raises:
        BadInput: there is no such recipe.
    """
    from robustscape.recipes.small import smaller

    wanted, found = name.replace("-", "_"), recipes()
    if wanted in found:
        return found[wanted]()
    known = {row.name: row for row in rows()}
    if wanted in known:
        return known[wanted].run
    if (row := known.get(wanted.removesuffix("_small"))) is not None:
        return smaller(row.run)
    raise BadInput(f"there is no recipe {name!r}{nearest(name, (*found, *known))}; `robustscape recipes` lists them")


def _modules() -> list[ModuleType]:
    """Return the public files of the room."""
    return [importlib.import_module(f"robustscape.recipes.{file}") for file in files("recipes")]
