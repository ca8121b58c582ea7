"""Write what the study of methods found into the documents: its table, and on each method's page our two numbers.

    python benchmarks/methods_pages.py

Reads benchmarks/results/methods/table.csv and table.md, which `robustscape bench methods --out` writes. The table of
docs/studies/methods.md, between its marks, and the last paragraph "Ours, on the small task" of the pages in
docs/methods are replaced; that there is no number at this size is no longer said there.
"""

from __future__ import annotations

import csv
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "methods"
STUDY = ROOT / "docs" / "studies" / "methods.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
SHOWN = (
    "Method",
    "Setting",
    "Clean, last, %",
    "Robust, best, %",
    "Robust, last, %",
    "Train − test, last, points",
    "Robust loss, last, nats",
    "Flatness, average, nats",
    "Flatness, worst, nats",
    "Seeds",
)
PAGES: Mapping[str, Sequence[str]] = {
    "activations": ("SiLU", "GELU", "Mish", "Softplus"),
    "amp": ("AT-AMP",),
    "asam": ("AT-ASAM",),
    "at": (),
    "autoaugment": ("AutoAugment",),
    "awp": ("AT-AWP",),
    "cutout": ("Cutout",),
    "ema": ("EMA",),
    "entropy_sgd": ("Entropy-SGD",),
    "eps_schedules": ("Cosine eps",),
    "fat": ("FAT",),
    "label_noise": ("Label noise",),
    "label_smoothing": ("Label smoothing",),
    "learning_rates": ("Cyclic", "Late multi-step"),
    "mart": ("MART",),
    "mixup": ("Mixup",),
    "noise": ("Noise",),
    "optimisers": ("Adam", "AdamW", "Batches of 512"),
    "part_at": ("AT on a part", "AT, misclassified images clean", "AT, predicted labels attacked"),
    "pas": ("PAS",),
    "random_erasing": ("Random erasing",),
    "regularisation": ("Strong weight decay", "Weight clipping", "Gradient clipping", "L1", "L2"),
    "rst": ("RST of AT", "AT, half of the images"),
    "rwp": ("AT-RWP",),
    "sam": ("AT-SAM",),
    "self_supervised": ("Self-supervision",),
    "swa": ("SWA",),
    "trades": ("TRADES", "TRADES-AWP"),
}
"""Page to the titles of its methods; AT is on each."""


def main() -> None:
    """Write all pages."""
    with (RESULTS / "table.csv").open(newline="") as file:
        found = {row["Method"]: row for row in csv.DictReader(file)}
    for name, titles in PAGES.items():
        page = ROOT / "docs" / "methods" / f"{name}.md"
        page.write_text(with_numbers(page.read_text(), [found[title] for title in titles], found["AT"]))
    before, _, rest = STUDY.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    STUDY.write_text(f"{before}{BEGIN}\n\n{narrowed((RESULTS / 'table.md').read_text())}\n{END}{after}")


def with_numbers(text: str, rows: Sequence[Mapping[str, str]], at: Mapping[str, str]) -> str:
    """Return a page with our numbers of some methods, and AT's, as its last paragraph."""
    said = [f"{_called(row)} {_numbers(row)}" for row in rows] + [f"AT {_numbers(at)}"]
    words = (
        "Ours, on the [small task](../studies/methods.md) that all methods share, robust accuracy against PGD-20, best "
        f"and last: {'; '.join(said)}."
    )
    kept = re.sub(r"\nOurs, on the \[small task\].*", "", text, flags=re.DOTALL)
    kept = re.sub(r"\s+(We|Of networks we)\s+have\s+no\s+numbers?\s+at\s+this\s+(size|scale)\.", "", kept)
    return f"{kept.rstrip()}\n\n{textwrap.fill(words.replace(' %', '~%'), 138).replace('~%', ' %')}\n"


def _called(row: Mapping[str, str]) -> str:
    return f"{row['Method']} ({row['Setting']})" if row["Setting"] else row["Method"]


def _numbers(row: Mapping[str, str]) -> str:
    """Return robust accuracy of the best and the last network in words, of several seeds as a mean with its spread."""
    said = []
    for name in ("Robust, best", "Robust, last"):
        spread = row[f"{name} spread"]
        said.append(f"{float(row[f'{name}, %']):.1f} %" + (f" ± {float(spread):.1f}" if spread else ""))
    seeds = row["Seeds"].partition(" ")[0]
    return f"{', '.join(said)} ({seeds} seed{'s' if seeds != '1' else ''})"


def narrowed(markdown: str) -> str:
    """Return the columns of a table in Markdown that are shown."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    places = [cells[0].index(name) for name in SHOWN]
    return "".join(f"| {' | '.join(row[place] for place in places)} |\n" for row in cells)


if __name__ == "__main__":
    main()
