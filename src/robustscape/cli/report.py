"""Show runs and studies on one page that opens offline: `robustscape report RUN...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustscape.cli.arguments import parse
from robustscape.cli.display import out, terminal_width
from robustscape.cli.sources import nouns, wants_help
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Report:
    """Options of ``report``.

    Attributes:
        out: The HTML file.
    """

    out: Path = Path("report.html")


def main(arguments: list[str]) -> None:
    """Write the report of any number of runs, grouped by seed, and of studies by their folders.

    It prints the table of the runs that the page starts with, their comparisons image by image at the last epoch, what
    goes with robustness where there are enough of them, and a line for each part of a study.

    Raises:
        BadInput: neither run nor study, or nothing to show.
    """
    words, rest = nouns(arguments)
    if not words and not wants_help(rest):
        raise BadInput("report needs runs or studies' folders first: robustscape report RUN...")
    first = (__doc__ or "").partition(":")[0]
    description = (
        f"{first}. Made from saved results alone; runs equal but for the seed are one group. RUN is a run directory, a "
        "study's folder (such as runs/studies/yamada-paper), or a directory of them."
    )
    options = parse(Report(), rest, program="robustscape report RUN...", description=description)
    from robustscape.report.comparing import comparisons, to_lines
    from robustscape.report.page import write_report
    from robustscape.report.relations import to_lines as related_lines
    from robustscape.report.tables import summary, to_text
    from robustscape.runs import read_folders

    paths = [Path(word) for word in words]
    path = write_report(paths, options.out)
    found = read_folders(paths)
    if found.runs:
        out(to_text(summary(found.runs), width=terminal_width()))
    if compared := comparisons(found.runs):
        out(to_lines(compared, width=terminal_width()))
    if related := related_lines(found.runs, width=terminal_width()):
        out(related)
    for study in found.studies:
        out("".join(f"{study.name} ({study.scale}), {part.part}: {part.shown.title}\n" for part in study.parts))
    out(f"the report is {path.resolve()}")
