"""How every figure looks, and how it is written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustscape.display import FEW, Band, colour, sign
from robustscape.results import written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#333333"
"""Colour of text and axes."""

FAINT = "#9a9a9a"
"""Colour of reference lines."""

_MARKERS = "osD^vPX*"

WIDTH = 5.5
"""Width of a figure, inches: the text width of most conference papers."""

ROOM = 4
"""Lines of a caption, or rows of a legend, that a figure has room for; more make it higher."""

_ROW, _SMALL = 0.15, 0.1  # height of a legend's row and of a caption's line, inches
_LINE, _KEY = 108, 10  # letters of a legend in the figure's width, and those that the sign before a word takes

_RC: Any = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType, as most venues ask for
    "svg.hashsalt": "robustscape",  # the same names of parts in every file
}


@contextmanager
def styled() -> Iterator[None]:
    """Run the block, making and saving of figures, in robustscape's style."""
    import matplotlib as mpl

    with mpl.rc_context(_RC):
        yield


def figure(rows: int, columns: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of the usual width and its Axes, row by row; ``height`` in inches."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, height), layout="constrained")
    return made, list(made.subplots(rows, columns, squeeze=False).flat)


def group_colour(group: int) -> str:
    """Return the colour of a group, the same in every figure."""
    return colour(group)


def group_marker(group: int) -> str:
    """Return the marker of a group, a second sign beside the colour: both together tell 64 groups apart."""
    return sign(group, _MARKERS)


def draw_band(ax: Axes, curve: Band, *, group: int, scale: float = 1.0, line: str = "-", label: str = "") -> None:
    """Draw a curve in its group's colour, and its band where there are several; values times ``scale``."""
    marker = "." if len(curve.x) <= FEW else ""
    ax.plot(curve.x, scale * curve.mean, line, marker=marker, color=group_colour(group), label=label or "_")
    if curve.count > 1:
        ax.fill_between(
            curve.x, scale * curve.low, scale * curve.high, color=group_colour(group), alpha=0.18, linewidth=0
        )


def legend(made: Figure, names: Sequence[str], lines: Iterable[tuple[Any, str]] = (), *, marked: bool = False) -> None:
    """Draw one legend above all Axes: a colour for each group, and what the line styles mean.

    Args:
        made: The figure.
        names: The groups' labels in their order, "" for one that is not drawn.
        lines: (line style, or how the line is drawn, and its meaning).
        marked: Whether groups are shown by their markers, which the figure has, and not by lines.
    """
    from matplotlib.lines import Line2D

    line = "none" if marked else "-"
    groups = [
        Line2D([], [], color=group_colour(g), linestyle=line, marker=group_marker(g) if marked else "", label=name)
        for g, name in enumerate(names)
        if name
    ]
    looks = [(style if isinstance(style, dict) else {"linestyle": style}, meaning) for style, meaning in lines]
    styles = [Line2D([], [], color=INK, label=meaning, **look) for look, meaning in looks]
    handles = [*groups, *styles]
    columns = _columns([str(h.get_label()) for h in handles])
    _make_room(made, -(-len(handles) // columns) - ROOM, _ROW)
    made.legend(handles=handles, loc="outside upper left", ncols=columns)


def _columns(words: Sequence[str]) -> int:
    """Return the most columns of a legend that the figure's width has room for; each is as wide as its longest."""
    for count in range(len(words), 1, -1):
        rows, more = divmod(len(words), count)
        starts = [place * rows + min(place, more) for place in range(count + 1)]
        parts = [words[low:high] for low, high in pairwise(starts)]
        if sum(max(map(len, part)) + _KEY for part in parts) <= _LINE:
            return count
    return 1


def caption(made: Figure, text: str) -> None:
    """Put the settings that made the numbers under a figure, small."""
    lines = textwrap.wrap(text, 118)
    _make_room(made, len(lines) - ROOM, _SMALL)
    made.supxlabel("\n".join(lines), fontsize=6, x=0.01, ha="left", color=INK)


def _make_room(made: Figure, rows: int, height: float) -> None:
    """Make a figure higher by so many rows, where there are more than its Axes can spare."""
    made.set_figheight(made.get_figheight() + height * max(0, rows))


def save(made: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all; the same figure gives the same bytes. Returns the path.

    Args:
        made: The figure.
        path: Where to; ends in .pdf, .svg or .png.
    """
    form = path.suffix.removeprefix(".")
    dated = {"pdf": "CreationDate", "svg": "Date", "png": "Creation Time"}
    with written(path) as file:
        made.savefig(file, format=form, dpi=200, metadata={dated[form]: None})
    return path
