"""Theory as checks: what was tested, on what, how often it failed and by how much, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from robustscape.report.quantities import Quantity
from robustscape.report.tables import Column, Table
from robustscape.types import Plain


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claim of a paper, tested.

    Attributes:
        claim: Where it stands and what it says, for example "Lemma 1: for y = 1 the loss rises with cos(w, eta)".
        form: Which reading was tested, for example "as printed" or "with theta between w and -eta".
        tested: On what, with sizes and seeds, and whether the claim's conditions were met.
        cases: How many cases were tested, at least 1.
        violations: In how many of them the claim failed by more than rounding.
        worst: The largest violation, in the claim's own unit (0 or below: none); the largest error of an equation.
        expected: Whether it is known to hold in this form; None where only the test can tell.
    """

    claim: str
    form: str
    tested: str
    cases: int
    violations: int
    worst: float
    expected: bool | None = True

    @property
    def holds(self) -> bool:
        """Whether no case failed."""
        return self.violations == 0


def judged(
    claim: str, *, form: str, tested: str, errors: Tensor, tolerance: float = 0.0, expected: bool | None = True
) -> Check:
    """Return the check of cases whose errors were computed.

    Args:
        claim: Where it stands and what it says.
        form: Which reading was tested.
        tested: On what.
        errors: (C,), by how much each case misses the claim, in its own unit; 0 or below where it does not.
        tolerance: Errors up to this are rounding.
        expected: Whether the claim is known to hold in this form; None where only the test can tell.
    """
    assert errors.numel(), f"{claim} ({form}) was tested on nothing"
    return Check(
        claim=claim,
        form=form,
        tested=tested,
        cases=errors.numel(),
        violations=int((~(errors <= tolerance)).sum()),
        worst=float(errors.max()),
        expected=expected,
    )


def to_value(checks: Sequence[Check]) -> Plain:
    """Return checks as the value of a cell."""
    return [asdict(check) for check in checks]


def from_value(value: Plain) -> tuple[Check, ...]:
    """Return the checks that a cell's value holds."""
    return tuple(Check(**each) for each in value)


def checks_table(checks: Sequence[Check]) -> Table:
    """Return the table of checks, a row each."""
    columns = (
        Column(name="Claim"),
        Column(name="Form"),
        Column(name="Tested on"),
        Column(name="Cases", decimals=0),
        Column(name="Violations", decimals=0),
        Column(name="Worst violation"),
        Column(name="Holds"),
    )
    rows = tuple(
        (
            check.claim,
            check.form,
            check.tested,
            Quantity(value=check.cases),
            Quantity(value=check.violations),
            f"{check.worst:.2g}",
            "yes" if check.holds else "no",
        )
        for check in checks
    )
    return Table(columns=columns, rows=rows)


def surprises(checks: Sequence[Check]) -> tuple[str, ...]:
    """Return one sentence for each check that came out otherwise than is known."""
    return tuple(
        f"Not as expected: {check.claim} ({check.form}) {'holds' if check.holds else 'fails'} here."
        for check in checks
        if check.expected is not None and check.holds != check.expected
    )
