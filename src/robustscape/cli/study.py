"""Reproduce a published paper, its numbers beside ours: `robustscape study NAME`."""

from __future__ import annotations

import dataclasses
import inspect
import os
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from textwrap import fill

from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import follow, note, out, terminal_width
from robustscape.cli.recipes import duration
from robustscape.cli.sources import nouns, wants_help
from robustscape.config import found_in, nearest
from robustscape.report.study import StudyResult
from robustscape.report.tables import to_csv, to_markdown, to_text
from robustscape.results import save, written
from robustscape.runtime import TRUTH, threads
from robustscape.studies.runner import chosen, planned, studying
from robustscape.studies.study import Resumable, Study
from robustscape.types import BadInput

_ALONE = dataclasses.replace(TRUTH, device="cpu", threads=1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of ``study``.

    Attributes:
        study: What is reproduced, at which scale.
        only: Parts that are wanted, for example table1 table3; all where none is named.
        out: Folder that tables, figures and finished cells go to; by default runs/studies/NAME-SCALE.
        processes: Processes of one thread each that share the work; 0 for one each core.
        dry_run: Say only which cells are done and which are to do, and about how long those take that can tell.
    """

    study: Study = field(metadata=SPREAD)
    only: tuple[str, ...] | None = None
    out: Path | None = None
    processes: int = 0
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.processes < 0:
            raise BadInput(f"processes must be at least 0, not {self.processes}")
        if self.only == ():
            raise BadInput(f"--only needs the name of a part; there are: {', '.join(self.study.parts())}")
        chosen(self.study, self.only or ())


def main(arguments: list[str]) -> None:
    """Do what is missing of a study; print its tables and write them, and its figures, for programs and people.

    Raises:
        BadInput: no such study or part, or a wrong option.
    """
    words, rest = nouns(arguments)
    known = studies()
    if not words and (wants_help(rest) or not rest):
        _overview(known)
        return
    if len(words) != 1:
        raise BadInput(f"study needs one name first: robustscape study NAME; there are: {', '.join(known)}")
    wrong = words[0]
    if wrong.replace("-", "_") not in known:
        raise BadInput(f"there is no study {wrong!r}{nearest(wrong, known)}; there are: {', '.join(known)}")
    kind = known[words[0].replace("-", "_")]
    options = parse(
        Options(study=kind()),
        rest,
        program=f"robustscape study {words[0]}",
        description=(inspect.getdoc(kind) or "").partition("\n\nAttributes:")[0],
    )
    study = options.study
    folder = options.out or Path("runs/studies") / f"{study.name}-{study.scale}"
    if options.dry_run:
        _plan(study, folder, options)
        return
    with threads(_ALONE):
        work = studying(study, out=folder, only=options.only or (), processes=options.processes or _cores())
        results = follow(work, name=study.name)
    for result in results:
        _shown(result, folder)
    note(f"tables, figures and finished cells are in {folder.resolve()}")
    note(f"as a page: robustscape report {quote(str(folder))}")


def studies() -> dict[str, type[Study]]:
    """Return every study by name: the dataclass with a name and ``parts`` that a file of the room defines."""
    return found_in("studies", "name", "parts")


def _overview(known: dict[str, type[Study]]) -> None:
    out("usage: robustscape study NAME [--only PART ...] [--scale paper|small] [--out DIR] [--OPTION VALUE ...]\n")
    width = max(map(len, known))
    for name, kind in known.items():
        out(f"  {name:<{width}}  {(inspect.getdoc(kind) or '').partition(chr(10))[0]}")
        out(f"  {'':<{width}}  parts: {', '.join(kind().parts())}")
    out("\n`robustscape study NAME --help` explains every option of one.")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _plan(study: Study, folder: Path, options: Options) -> None:
    """Print the cells in the order of the work, done or to do, with their expected time."""
    with threads(_ALONE):
        cells = planned(study, out=folder, only=options.only or ())
        left = {cell: cell.seconds() if isinstance(cell, Resumable) else None for cell, done in cells if not done}
    width = max((len(cell.name) for cell, _ in cells), default=0)
    for cell, done in cells:
        seconds = left.get(cell)
        known = "" if seconds is None else f", about {duration(seconds)}"
        out(f"{cell.name:<{width}}  {'done' if done else 'to do'}{known}")
    processes, whole = options.processes or _cores(), sum(seconds for seconds in left.values() if seconds)
    share = f", about {duration(whole / processes)} in {processes} process(es)" if whole else ""
    out(f"{len(cells) - len(left)} of {len(cells)} cells are done{share}")


def _shown(result: StudyResult, folder: Path) -> None:
    """Print a part, and write it as Result, CSV and Markdown, its figure as PDF and PNG."""
    shown = result.shown
    width = terminal_width()
    out(f"{shown.title}\n\n{to_text(shown.table, width=width)}")
    out("".join(f"{fill(text, width, break_long_words=False, break_on_hyphens=False)}\n" for text in shown.notes))
    save(result, folder / f"{result.part}.json")
    notes = "".join(f"\n- {text}" for text in shown.notes)
    picture = ""
    if shown.panels:
        from robustscape.figures.panels import write

        write(shown.panels, [folder / f"{result.part}.{ending}" for ending in ("pdf", "png")])
        picture = f"\n![{'; '.join(panel.title for panel in shown.panels)}]({result.part}.png)\n"
    page = f"# {shown.title}\n\n{to_markdown(shown.table)}{picture}{notes}\n"
    for ending, text in (("csv", to_csv(shown.table)), ("md", page)):
        with written(folder / f"{result.part}.{ending}", "w") as file:
            file.write(text)
