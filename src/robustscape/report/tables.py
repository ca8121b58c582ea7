"""Tables of results, for the terminal, CSV, LaTeX and Markdown."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from robustscape.display import eps_words
from robustscape.evaluation.result import Evaluation
from robustscape.relations import measured_alike
from robustscape.report.layout import GAP, blocks
from robustscape.report.quantities import Quantity, flatness, gap, mean, number, percent
from robustscape.runs import RunFolder, evaluation_files, grouped, labels

Cell: TypeAlias = Quantity | str | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its name, the unit of its numbers ("" for words) and the decimals they are shown with."""

    name: str
    unit: str = ""
    decimals: int = 1

    def title(self) -> str:
        """Return the name with the unit, for example "Clean error, %"."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns and rows; a cell is a Quantity, words, or None where it was not measured."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


# -- contents ------------------------------------------------------------------------------------------


def summary(folders: Sequence[RunFolder]) -> Table:
    """Return one row a group: errors, gap, flatness, seconds of training, n and seeds.

    The errors are those on the test images; the gap is robust error on test minus on train, at the last
    epoch. A checkpoint that was selected on test gets a column of its own, that says so. Flatness that was measured
    otherwise than most is left out.
    """
    last = grouped(folders, "evaluation-last-test")
    chosen = grouped(folders, "evaluation-best-test")
    on_test = grouped(folders, "evaluation-best_on_test-test")
    both = grouped(folders, "evaluation-last-test", "evaluation-last-train")
    flat, _ = measured_alike(grouped(folders, "flatness-last"))
    columns: dict[Column, list[Cell]] = {
        Column(name="Method"): list(labels(folders)),
        Column(name="Clean error", unit="%"): [percent([e.clean_error for e in last[g]]) for g in last],
        Column(name="Robust error, last", unit="%"): [percent([e.robust_error for e in last[g]]) for g in last],
        Column(name="Robust error, best", unit="%"): [percent([e.robust_error for e in chosen[g]]) for g in chosen],
        Column(name="Robust error, best (selected on test)", unit="%"): [
            percent([e.robust_error for e in on_test[g]]) for g in on_test
        ],
        Column(name="Gap", unit="points"): [mean([gap(*pair) for pair in both[g]]) for g in both],
        Column(name="Flatness", unit="nats", decimals=3): [mean([flatness(r) for r in flat[g]]) for g in flat],
        Column(name="Training", unit="s", decimals=0): [_seconds(folders, g) for g in last],
        Column(name="n", decimals=0): [_counts([e.robust_error.n for e in last[g]]) for g in last],
        Column(name="Seeds"): [seeds(folders, g) for g in last],
    }
    if not any(on_test.values()):
        columns = {column: cells for column, cells in columns.items() if "selected on test" not in column.name}
    return Table(columns=tuple(columns), rows=tuple(zip(*columns.values(), strict=True)))


def evaluations(folders: Sequence[RunFolder]) -> Table:
    """Return one row a group, checkpoint and split: every evaluation there is."""
    rows: dict[tuple[str, str, str], list[Evaluation]] = {}
    for label in labels(folders):
        for file, (checkpoint, split) in evaluation_files(folders).items():
            if found := grouped(folders, file)[label]:
                rows[label, checkpoint, split] = found
    return evaluation_table(rows)


def evaluation_table(rows: Mapping[tuple[str, str, str], Sequence[Evaluation]]) -> Table:
    """Return a table of evaluations, each row the mean over its runs.

    Args:
        rows: (model, checkpoint, split) to the evaluations of one or more runs that differ by seed.
    """
    words = ("Model", "Checkpoint", "Split")
    names = ("Clean error", "Robust error", "Clean loss", "Robust loss", "Robust loss, correct", "Robust loss, wrong")
    units = ("%", "%", "nats", "nats", "nats", "nats")
    decimals = (1, 1, 3, 3, 3, 3)
    numbers = [Column(name=n, unit=u, decimals=d) for n, u, d in zip(names, units, decimals, strict=True)]
    columns = (*(Column(name=word) for word in words), *numbers, Column(name="Threat"), Column(name="n", decimals=0))
    return Table(columns=columns, rows=tuple(_evaluation_row(names, found) for names, found in rows.items()))


def _evaluation_row(names: tuple[str, str, str], found: Sequence[Evaluation]) -> tuple[Cell, ...]:
    losses = ("clean_loss", "robust_loss", "robust_loss_correct", "robust_loss_incorrect")
    return (
        *names,
        percent([e.clean_error for e in found]),
        percent([e.robust_error for e in found]),
        *(mean([number(n) for e in found if (n := getattr(e, name)) is not None]) for name in losses),
        ", ".join(dict.fromkeys(f"{e.norm} {eps_words(e.eps)}" for e in found)),
        _counts([e.robust_error.n for e in found]),
    )


def per_class(folders: Sequence[RunFolder], file: str = "evaluation-last-test") -> Table | None:
    """Return the robust error of each class, a row a group; None where nothing was evaluated.

    Args:
        folders: The runs; of those with other classes than the first no number is given.
        file: Which evaluation, for example "evaluation-best-test".
    """
    found = grouped(folders, file)
    classes = next((e.classes for es in found.values() for e in es), None)
    if classes is None:
        return None
    found = {label: [e for e in es if e.classes == classes] for label, es in found.items()}
    rows = [(label, *(_class_error(es, k) for k in range(len(classes)))) for label, es in found.items()]
    columns = (Column(name="Method"), *(Column(name=name, unit="%") for name in classes))
    return Table(columns=columns, rows=tuple(rows))


def seeds(folders: Sequence[RunFolder], label: str) -> str:
    """Return the seeds of a group in words, for example "3 (0, 1, 2)"."""
    found = [folder.seed for folder in folders if folder.label == label]
    return f"{len(found)} ({', '.join(str(seed) for seed in found)})"


def _seconds(folders: Sequence[RunFolder], label: str) -> Quantity | None:
    found = [f.log for f in folders if f.label == label and f.log is not None and f.log.epochs]
    return mean([Quantity(value=sum(entry.seconds for entry in log.epochs)) for log in found])


def _counts(counts: Sequence[int]) -> Cell:
    different = dict.fromkeys(counts)
    return Quantity(value=counts[0]) if len(different) == 1 else " / ".join(f"{n:,}" for n in different) or None


def _class_error(found: Sequence[Evaluation], k: int) -> Quantity | None:
    return mean([Quantity(value=100 * float(v)) for e in found if math.isfinite(v := e.class_robust_error[k])])


# -- forms ---------------------------------------------------------------------------------------------

_MISSING = "–"


def to_words(cell: Cell, column: Column) -> str:
    """Return a cell as people read it: mean ± spread over seeds, or the value with its 95 % interval."""
    if cell is None:
        return _MISSING
    if isinstance(cell, str):
        return cell
    value = _number(cell.value, column)
    if cell.spread is not None:
        return f"{value} ± {_number(cell.spread, column)}"
    if cell.low is None or cell.high is None:
        return value
    return f"{value} [{_number(cell.low, column)}, {_number(cell.high, column)}]"


def _number(value: float, column: Column) -> str:
    text = f"{value:,.{column.decimals}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def is_words(table: Table, place: int) -> bool:
    """Return whether a column holds words, which stand at the left: the first one, or texts that are no numbers."""
    cells = [row[place] for row in table.rows]
    return place == 0 or (
        all(isinstance(cell, str) for cell in cells) and not all(_NUMBER.fullmatch(str(cell)) for cell in cells)
    )


_NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)?|[-+−]?(inf|nan)|" + _MISSING)


def to_text(table: Table, *, width: int = 120) -> str:
    """Return the table for a terminal of the given width, in characters.

    Words wrap; columns that have no room beside the others follow below, with the first ones repeated. It is wider
    where even two columns have no room.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    rows = [
        [to_words(cell, c).replace(" [", "\n[") for cell, c in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    least, wanted = _widths(table, rows)
    texts = []
    for widths in blocks(least, wanted, width=width, keys=_keys(table)):
        wrapped = any(is_words(table, place) and widths[place] < wanted[place] for place in widths)
        drawn = Drawn(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, leading=int(wrapped))
        for place, characters in widths.items():
            justify = "left" if is_words(table, place) else "right"
            title = Text(table.columns[place].title())
            drawn.add_column(title, justify=justify, width=characters, overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(row[place]) for place in widths))
        console = Console(file=io.StringIO(), width=sum(widths.values()) + GAP * len(widths), color_system=None)
        with console.capture() as capture:
            console.print(drawn)
        texts.append("\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n")
    return "\n".join(texts)


def _widths(table: Table, rows: Sequence[Sequence[str]]) -> tuple[list[int], list[int]]:
    """Fewest characters of each column (numbers, short words and single words whole), and those of its whole lines."""
    least, wanted = [], []
    for place, column in enumerate(table.columns):
        lines = [line for row in rows for line in row[place].splitlines()]
        longest = max(map(len, lines), default=0)
        if is_words(table, place) and longest > _SHORT:
            longest = min(24, max(len(word) for line in lines for word in line.split()))
        least.append(max(longest, *map(len, column.title().split())))
        wanted.append(max(len(column.title()), *map(len, lines)) if lines else len(column.title()))
    return least, wanted


_SHORT = 16  # characters of a text that is not wrapped


def _keys(table: Table) -> int:
    """How many of the first columns tell the rows apart: the first, or the first two where that needs both."""
    return 1 if len({row[0] for row in table.rows}) == len(table.rows) or len(table.columns) < 3 else 2


def to_csv(table: Table) -> str:
    """Return the table as CSV in full precision: a number's interval and spread follow in columns of their own."""
    extras = ("low", "high", "spread")
    used = [
        [extra for extra in extras if any(isinstance(r[place], Quantity) and getattr(r[place], extra) is not None
                                          for r in table.rows)]
        for place in range(len(table.columns))
    ]  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            text
            for c, more in zip(table.columns, used, strict=True)
            for text in (c.title(), *(f"{c.name} {m}" for m in more))
        ]
    )
    for row in table.rows:
        writer.writerow([text for cell, more in zip(row, used, strict=True) for text in _csv_cells(cell, more)])
    return out.getvalue()


def _csv_cells(cell: Cell, extras: Sequence[str]) -> list[str]:
    if not isinstance(cell, Quantity):
        return [cell or "", *("" for _ in extras)]
    values = [cell.value, *(getattr(cell, extra) for extra in extras)]
    return ["" if value is None else f"{value:.10g}" for value in values]


def to_markdown(table: Table) -> str:
    """Return the table as Markdown; a number's interval stands behind it."""
    right = [any(isinstance(row[place], Quantity) for row in table.rows) for place in range(len(table.columns))]
    lines = [[column.title() for column in table.columns], ["---:" if r else "---" for r in right]]
    lines += [
        [" ".join(to_words(cell, column).split()) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "∞": r"$\infty$", "ε": r"$\varepsilon$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def to_latex(table: Table) -> str:
    """Return the table as a LaTeX tabular; it needs the package booktabs."""
    kinds = ["l" if all(isinstance(r[p], str) for r in table.rows) else "r" for p in range(len(table.columns))]
    head = " & ".join(_latex(column.title()) for column in table.columns)
    body = [
        " & ".join(_latex(to_words(cell, column)) for cell, column in zip(row, table.columns, strict=True)) + r" \\"
        for row in table.rows
    ]
    lines = [rf"\begin{{tabular}}{{{''.join(kinds)}}}", r"\toprule", rf"{head} \\", r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
