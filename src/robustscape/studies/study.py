"""What a study is: parts (tables, figures, checks), and the cells of work that they are made from."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from robustscape.report.study import Shown
from robustscape.types import Plain, Splits


class Cell(Protocol):
    """One piece of a study's work, as its configuration: a frozen dataclass of a file of this room.

    All that its value depends on but the data is in its fields, so cells that are equal are done once, whichever
    parts ask for them.
    """

    @property
    def name(self) -> str:
        """What its file is called, for example "l2-0.2-pgd": unique within a study of given settings."""
        ...

    @property
    def needs(self) -> Sequence[Cell]:
        """The cells whose values it begins with: they are done first, and its file stands for them too."""
        ...

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Do the work, yielding (done, total); returns its value as plain data. Every number is drawn by seed.

        Args:
            data: The study's data.
            values: The values of the cells that it needs, by cell.
        """
        ...


@runtime_checkable
class Resumable(Protocol):
    """What a ``Cell`` also has whose work takes minutes: it keeps what is done, and goes on from there after a kill."""

    def resuming(
        self, folder: Path, data: Splits, values: Mapping[Any, Plain]
    ) -> Generator[tuple[int, int], None, Plain]:
        """Do the work as ``running`` does, in a folder that is its own."""
        ...

    def seconds(self) -> float:
        """Return about how long it takes on this machine, on one thread, from nothing to its end."""
        ...


class Study(Protocol):
    """A study, as its configuration: a frozen dataclass in a file of this room, with defaults throughout."""

    name: ClassVar[str]
    precision: ClassVar[str]
    """What it computes in, in words, for the provenance of its parts."""

    @property
    def scale(self) -> str:
        """How much is done: "paper" for what the paper did."""
        ...

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        ...

    def parts(self) -> tuple[str, ...]:
        """Return the names of its tables (and figures and checks), in the paper's order, for example ("table1",)."""
        ...

    def cells(self, part: str) -> Sequence[Cell]:
        """Return the cells that a part is made from; several parts may share one."""
        ...

    def data(self) -> Splits:
        """Read the data that every cell is given."""
        ...

    def show(self, part: str, values: Mapping[Any, Plain]) -> Shown:
        """Return a part as it is shown, from the values of its cells, by cell."""
        ...
