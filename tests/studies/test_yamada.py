"""The study of Yamada 2021, and what it shares with every study of the room."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from robustscape.cli.study import studies
from robustscape.config import from_plain, to_plain
from robustscape.evaluation.subject import drained
from robustscape.report.tables import to_csv
from robustscape.studies.published import published
from robustscape.studies.runner import studying
from robustscape.studies.yamada import Yamada
from robustscape.types import BadInput

STUDIES = studies()
TABLES = ("table1", "table2", "table3", "table4")


@pytest.mark.parametrize("name", STUDIES)
def test_contract_a_study_is_a_component_called_as_its_file_and_so_are_its_cells(name):
    study = STUDIES[name]()
    assert study.name == name
    assert all(field.kw_only for field in fields(study))
    with pytest.raises(FrozenInstanceError):
        study.seed = 1
    cells = {cell for part in study.parts() for cell in study.cells(part)}
    assert len({cell.name for cell in cells}) == len(cells)
    for one in (study, *cells):
        assert from_plain(json.loads(json.dumps(to_plain(one), allow_nan=False))) == one


@pytest.mark.parametrize("name", TABLES)
def test_reference_published_rows_are_consistent(name):
    """The printed gap is the difference of the printed accuracies but for their rounding."""
    table = published(f"yamada/{name}")
    assert table.table == f"Table {name[-1]}"
    assert [row.eps for row in table.rows] == sorted(row.eps for row in table.rows)
    for row in table.rows:
        assert abs(row.train - row.test - row.gap) < 0.0151


def test_contract_tables_share_the_training_at_eps_0():
    study = Yamada()
    cells = [study.cells(part) for part in TABLES]
    assert [len(part) for part in cells] == [6, 6, 9, 5]
    assert len({part[0] for part in cells}) == 1
    assert len({cell for part in cells for cell in part}) == 6 + 5 + 8 + 4


def test_end_to_end_a_small_study_shows_our_numbers_beside_the_published(tmp_path):
    study = Yamada(scale="small", train_steps=3, test_steps=5)
    study = replace(study, training=replace(study.training, epochs=2))
    results = drained(studying(study, out=tmp_path, only=["table1", "table4"]))
    assert [result.part for result in results] == ["table1", "table4"]
    for result in results:
        table, printed = result.shown.table, published(f"yamada/{result.part}")
        names = [column.title() for column in table.columns]
        train, paper, difference = (
            names.index(f"Train{what}") for what in (", %", ", paper, %", ", difference, points")
        )
        for row, one in zip(table.rows, printed.rows, strict=True):
            assert row[paper].value == one.train
            assert row[difference].value == pytest.approx(row[train].value - one.train)
        assert any("differences mean nothing" in text for text in result.shown.notes)
    assert to_csv(results[1].shown.table).splitlines()[2].startswith("4/255,")


def test_end_to_end_all_training_images_are_used():
    study = Yamada(scale="small")
    data = study.data()
    assert len(data.train) + len(data.test) == 360
    assert len(set(data.train.index.tolist()) | set(data.test.index.tolist())) == 360
    assert data.train.index.tolist() == sorted(data.train.index.tolist())


@pytest.mark.slow
def test_end_to_end_processes_side_by_side_give_the_same(tmp_path):
    study = Yamada(scale="small", train_steps=3, test_steps=5)
    one, two = (drained(studying(study, out=tmp_path / str(n), only=["table1"], processes=n)) for n in (1, 2))
    assert one[0].shown == two[0].shown


def test_contract_what_cannot_be_meant_is_refused():
    with pytest.raises(BadInput, match="scale 'large' is not one of paper, small"):
        Yamada(scale="large")
    with pytest.raises(BadInput, match="at least 1 step"):
        Yamada(test_steps=0)
