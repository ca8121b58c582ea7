"""The runner of studies: nothing is done twice, whatever ends it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from robustscape.evaluation.subject import drained
from robustscape.report.quantities import Quantity
from robustscape.report.study import Shown
from robustscape.report.tables import Column, Table
from robustscape.results import load, read_json, save, write_json
from robustscape.studies.runner import chosen, studying
from robustscape.types import BadInput, Images, Splits


@dataclass(frozen=True, kw_only=True)
class Square:
    """A cell that writes down that it was done."""

    number: int
    log: str
    fails: bool = False

    @property
    def name(self):
        return f"square-{self.number}"

    @property
    def needs(self):
        return ()

    def running(self, data, values):
        yield 0, 2
        if self.fails:
            raise ArithmeticError("the cell failed")
        yield 1, 2
        with Path(self.log).open("a") as file:
            file.write(f"{self.number}\n")
        return {"square": self.number**2 + len(data.test)}


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Two tables that share the cell of 2."""

    name: ClassVar[str] = "squares"
    precision: ClassVar[str] = "integers"

    log: str
    scale: str = "paper"
    seed: int = 0
    images: int = 3
    failing: int = -1

    def parts(self):
        return ("table1", "table2")

    def cells(self, part):
        numbers = {"table1": (1, 2), "table2": (2, 3)}[part]
        return [Square(number=n, log=self.log, fails=n == self.failing) for n in numbers]

    def data(self):
        images = Images(
            x=torch.zeros(self.images, 1, 2, 2, dtype=torch.uint8),
            y=torch.zeros(self.images, dtype=torch.int64),
            index=torch.arange(self.images),
            classes=("a", "b"),
            name="zeros",
        )
        return Splits(train=images, validation=images, test=images)

    def show(self, part, values):
        rows = tuple((cell.name, Quantity(value=value["square"])) for cell, value in values.items())
        return Shown(title=part, table=Table(columns=(Column(name="n"), Column(name="square")), rows=rows))


@pytest.fixture
def study(tmp_path):
    return Squares(log=str(tmp_path / "log"))


def _done(study):
    path = Path(study.log)
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_contract_cells_are_done_once_for_all_parts_and_never_again(study, tmp_path):
    out = tmp_path / "out"
    results = drained(studying(study, out=out))
    assert _done(study) == [1, 2, 3]
    assert [result.part for result in results] == ["table1", "table2"]
    assert [row[1].value for row in results[1].shown.table.rows] == [4 + 3, 9 + 3]
    again = drained(studying(study, out=out))
    assert _done(study) == [1, 2, 3]
    assert [result.shown for result in again] == [result.shown for result in results]
    assert [result.provenance.seconds for result in again] == [result.provenance.seconds for result in results]


@pytest.mark.parametrize("change", [{"images": 4}, {"log": "log2"}])
def test_contract_other_data_or_settings_are_another_cell(study, tmp_path, change):
    drained(studying(study, out=tmp_path / "out"))
    change = {key: str(tmp_path / value) if key == "log" else value for key, value in change.items()}
    other = replace(study, **change)
    results = drained(studying(other, out=tmp_path / "out"))
    assert sorted(_done(other))[-1] == 3
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 6
    assert results[0].shown.table.rows[0][1].value == 1 + other.images


def test_contract_a_study_goes_on_after_a_kill_between_cells(study, tmp_path):
    work = studying(study, out=tmp_path / "out")
    while not _done(study):
        next(work)
    next(work)
    work.close()
    assert _done(study)[0] == 1
    before = len(_done(study))
    drained(studying(study, out=tmp_path / "out"))
    assert _done(study) == [1, 2, 3]
    assert before < 3


def test_contract_a_failing_cell_leaves_those_before_it(study, tmp_path):
    with pytest.raises(ArithmeticError, match="failed"):
        drained(studying(replace(study, failing=2), out=tmp_path / "out"))
    assert len(list((tmp_path / "out" / "cells").glob("square-1-*.json"))) == 1
    drained(studying(study, out=tmp_path / "out"))
    assert _done(study) == [1, 2, 3]


def test_contract_only_the_cells_of_the_parts_that_are_wanted_are_done(study, tmp_path):
    (result,) = drained(studying(study, out=tmp_path / "out", only=["table2"]))
    assert result.part == "table2"
    assert _done(study) == [2, 3]
    assert chosen(study, ["table2", "table1"]) == ("table1", "table2")


def test_contract_progress_rises_to_its_end_and_counts_what_was_done(study, tmp_path):
    drained(studying(study, out=tmp_path / "out", only=["table1"]))
    steps = list(studying(study, out=tmp_path / "out"))
    assert steps[0] == (200, 300)
    assert steps[-1] == (300, 300)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert (250, 300) in steps


def test_contract_a_result_comes_back_from_its_file(study, tmp_path):
    result = drained(studying(study, out=tmp_path / "out", only=["table1"]))[0]
    assert load(save(result, tmp_path / "result.json")) == replace(
        result, provenance=load(tmp_path / "result.json").provenance
    )
    assert load(tmp_path / "result.json").provenance.data == "zeros (3), zeros (3)"


def test_contract_what_cannot_be_meant_is_said(study, tmp_path):
    with pytest.raises(BadInput, match=r"squares has no 'tabel2' \(did you mean table2\?\); there are: table1, table2"):
        drained(studying(study, out=tmp_path, only=["tabel2"]))
    with pytest.raises(BadInput, match="processes must be at least 1, not 0"):
        drained(studying(study, out=tmp_path, processes=0))


@dataclass(frozen=True, kw_only=True)
class Sum:
    """A cell that adds up what others found."""

    of: tuple[Square, ...]

    @property
    def name(self):
        return "sum"

    @property
    def needs(self):
        return self.of

    def running(self, data, values):
        yield 0, 1
        return {"square": sum(values[cell]["square"] for cell in self.of)}


@dataclass(frozen=True, kw_only=True)
class Sums(Squares):
    """One table of a cell that needs the others, which is asked for first."""

    def cells(self, part):
        squares = super().cells(part)
        return [Sum(of=tuple(squares)), *squares]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_closed_form_a_cell_is_given_the_values_that_it_needs(study, tmp_path, processes):
    sums = Sums(log=study.log)
    found = drained(studying(sums, out=tmp_path, only=["table1"], processes=processes))
    assert found[0].shown.table.rows[0][1].value == (1 + 3) + (4 + 3)
    assert sorted(_done(study)) == [1, 2]
    drained(studying(sums, out=tmp_path, only=["table1"], processes=processes))
    assert sorted(_done(study)) == [1, 2]


@pytest.mark.parametrize("content", ["{}", '{"value": {}}', "[]"])
def test_contract_a_file_that_is_no_cell_is_refused(study, tmp_path, content):
    drained(studying(study, out=tmp_path, only=["table1"]))
    (tmp_path / "cells").joinpath(next((tmp_path / "cells").glob("square-1-*")).name).write_text(content)
    with pytest.raises(BadInput, match="not a finished cell"):
        drained(studying(study, out=tmp_path, only=["table1"]))


def test_contract_a_part_says_when_and_by_what_its_cells_were_made(study, tmp_path):
    (first,) = drained(studying(study, out=tmp_path, only=["table1"]))
    for path in (tmp_path / "cells").iterdir():
        cell = read_json(path)
        write_json(path, cell | {"created": "2020-01-01T00:00:00+00:00", "commit": "f" * 40})
    (again,) = drained(studying(study, out=tmp_path, only=["table1"]))
    assert first.provenance.precision == "integers"
    assert "scipy" in first.provenance.versions
    assert (again.provenance.created, again.provenance.commit) == ("2020-01-01T00:00:00+00:00", "f" * 40)
