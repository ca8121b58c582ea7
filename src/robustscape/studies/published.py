"""The numbers that papers print, beside which ours are shown; the file ``published.json`` names each one's source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

from robustscape.config import from_plain


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of a table of accuracies.

    Attributes:
        eps: In the table's own unit.
        train: Accuracy on the training images, %.
        test: Accuracy on the test images, %.
        gap: Training minus test, in points, as printed.
    """

    eps: float
    train: float
    test: float
    gap: float


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table of accuracies as printed.

    Attributes:
        paper: Authors and year.
        address: Where the paper is.
        table: What the paper calls it, for example "Table 1".
        what: What it shows.
        norm: Norm of the perturbations, "l2" or "linf".
        unit: 1 over this is the unit of ``eps``: 255 for 1/255.
        rows: In the printed order.
    """

    paper: str
    address: str
    table: str
    what: str
    norm: str
    unit: int
    rows: tuple[PublishedRow, ...]


def published(name: str) -> PublishedTable:
    """Return a table by its name in the file, for example "yamada/table1"."""
    text = resources.files("robustscape.studies").joinpath("published.json").read_text()
    return from_plain(json.loads(text)[name])
