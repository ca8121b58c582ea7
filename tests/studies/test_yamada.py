"""The study of Yamada 2021, and what it shares with every study of the room."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from robustscape.cli.study import studies
from robustscape.config import from_plain, to_plain
from robustscape.evaluation.subject import drained
from robustscape.report.tables import to_csv
from robustscape.studies.optimum import Margin, Optimum, Reach
from robustscape.studies.published import published
from robustscape.studies.runner import studying
from robustscape.studies.trained import Trained
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
    cells = [[cell for cell in study.cells(part) if isinstance(cell, Trained)] for part in TABLES]
    assert [len(part) for part in cells] == [6, 6, 9, 5]
    assert len({part[0] for part in cells}) == 1
    assert len({cell for part in cells for cell in part}) == 6 + 5 + 8 + 4
    assert {cell for part in cells for cell in part} == set(study.cells("norms"))


def test_contract_beside_each_row_of_pgd_stands_an_optimum():
    study = Yamada()
    for part, norm in (("table1", "l2"), ("table3", "linf")):
        cells = study.cells(part)
        optima = [cell for cell in cells if isinstance(cell, Optimum)]
        assert [cell.trained for cell in optima] == [cell for cell in cells if isinstance(cell, Trained)]
        assert {cell.norm for cell in optima} == {norm}
        assert set(optima) <= set(study.cells("optimum"))
    assert [cell.name for cell in study.cells("table3") if isinstance(cell, Reach)] == ["reach-0.3"]
    assert not [cell for cell in replace(study, scale="small").cells("table3") if isinstance(cell, Reach)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The tables of a small study, by part, and what stands beside them."""
    study = Yamada(scale="small", train_steps=3, test_steps=5)
    study = replace(study, training=replace(study.training, epochs=2))
    parts = (*TABLES, "optimum", "norms", "cifar2")
    results = drained(studying(study, out=tmp_path_factory.mktemp("small"), only=parts))
    assert tuple(result.part for result in results) == parts
    return {result.part: result.shown for result in results}


def _column(table, title):
    place = [column.title() for column in table.columns].index(title)
    return [getattr(row[place], "value", row[place]) for row in table.rows]


@pytest.mark.parametrize("part", TABLES)
def test_end_to_end_a_small_study_shows_our_numbers_beside_the_published(small, part):
    shown, printed = small[part], published(f"yamada/{part}")
    eps = _column(shown.table, "ε")
    assert [text for text in eps if text != "63.75/255"] == [
        f"{row.eps:g}{'/255' * (printed.unit == 255)}" for row in printed.rows
    ]
    paper, ours, apart = (
        _column(shown.table, f"Train{what}") for what in (", paper, %", ", %", ", difference, points")
    )
    assert [value for value in paper if value is not None] == [row.train for row in printed.rows]
    for one, other, difference in zip(ours, paper, apart, strict=True):
        assert difference is other is None or difference == pytest.approx(one - other)
    assert any("differences mean nothing" in text for text in shown.notes)
    word = "Optimum" if part in ("table1", "table3") else "Optimum, no pixel range"
    assert word in [column.title() for column in shown.table.columns]
    assert len(to_csv(shown.table).splitlines()) == 1 + len(eps)


def test_end_to_end_the_optimum_or_the_largest_margin_stands_beside_each_row(small):
    for part, lasting in (("table1", 3), ("table3", 6)):  # rows that are separable, of the small images
        words = _column(small[part].table, "Optimum")
        assert words == ["none: separable"] * lasting + ["optimum"] * (len(words) - lasting)
        assert _column(small[part].table, "Train, solved, %")[:lasting] == [100.0] * lasting
    for part, lasting in (("table1", 3), ("table3", 6)):
        boxed = _column(small[part].table, "Train, solved in the box, %")
        assert boxed[lasting - 1 : lasting + 1] == [None, pytest.approx(100, abs=5)]
    table = small["optimum"].table
    for words, loss, trained in zip(
        *(_column(table, name) for name in ("Solution", "Loss, nats", "Loss, trained, nats")), strict=True
    ):
        assert loss is None if words == "none: separable" else loss < trained
    assert any("L2 0.59112" in text for text in small["optimum"].notes)


def test_end_to_end_the_optimum_under_noise_stands_beside_each_row_too(small):
    for part, lasting in (("table2", 3), ("table4", 5)):
        table = small[part].table
        words = _column(table, "Optimum, no pixel range")
        assert words == ["none: separable"] * lasting + ["optimum"] * (len(words) - lasting)
        assert _column(table, "Train, solved, %") == [100.0] * len(words)
        losses = zip(
            *(_column(table, f"Loss, {who}") for who in ("solved, at most, nats", "trained, nats")), strict=True
        )
        for word, (solved, trained) in zip(words, losses, strict=True):
            assert solved is None if word == "none: separable" else float(solved) < float(trained)
        assert any("noise that is not kept in the pixel range" in text for text in small[part].notes)
    assert any("but so rarely that the minimum is between 0 and" in text for text in small["table2"].notes)


def test_closed_form_the_row_that_is_not_met_is_explained_by_its_own_numbers():
    study, both = Yamada(), {"train": 0.9, "test": 0.8}
    kinds = {
        Trained: {"found": both, "exact": both, "clean": both, "w": [3.0, -4.0], "epoch": 1},
        Optimum: {"free": {"outcome": "optimal", **both}, "boxed": {"train": 0.92, "test": 0.93}},
        Margin: {"margin": 0.02, "upper": 0.02},
        Reach: {"searched": {"train": 0.94, "test": 0.941}, "smaller": {"train": 0.953, "test": 0.963}},
    }
    shown = study.show("table3", {cell: kinds[type(cell)] for cell in study.cells("table3")})
    note = shown.notes[-1]
    assert "At 76.5/255 the paper prints 95.40 on train and 96.64 on test" in note
    assert "in the box has 92.00 and 93.00" in note
    assert "found on train 94.00 and 94.10" in note
    assert "has 95.30 and 96.30 under 63.75/255" in note
    assert any("up to ε = 0.02000 = 5.10/255" in text for text in shown.notes)
    assert set(_column(shown.table, "‖w‖₂")) == {5.0}


def test_end_to_end_norms_of_all_trainings_are_shown_with_a_figure(small):
    shown = small["norms"]
    assert len(shown.table.rows) == 6 + 6 + 9 + 5
    for table, value in zip(_column(shown.table, "Table"), _column(shown.table, "‖w‖₂ over that at 0"), strict=True):
        assert 0.3 < value < 3, table
    l2, linf = shown.panels
    assert [line.name for line in l2.lines] == [line.name for line in linf.lines] == ["PGD", "noise"]
    assert l2.lines[0].x == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert list(l2.lines[0].y) == _column(shown.table, "‖w‖₂")[:6]
    norms = {"L2 noise": _column(shown.table, "‖w‖₂")[6:12], "L∞ noise": _column(shown.table, "‖w‖₂")[21:]}
    for what, values in norms.items():
        assert f"{max(values) / min(values):.2f} under {what}" in shown.notes[0]


@pytest.mark.slow
def test_contract_cifar2_is_left_out_where_its_images_are_not(small, tmp_path, monkeypatch):
    assert small["cifar2"].table.rows == ()
    assert small["cifar2"].notes[-1] == "Left out: only done at the paper's scale."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTSCAPE_DATA", str(tmp_path))
    assert Yamada().cells("cifar2") == ()
    assert Yamada().show("cifar2", {}).notes[-1] == "Left out: there is no folder cifar10-jpeg."
    (tmp_path / "cifar10-jpeg").mkdir()
    cells = Yamada().cells("cifar2")
    assert [cell.name for cell in cells] == ["frog-ship-natural", "frog-ship-linf-0.03137-pgd"]
    accuracies = {"train": 0.9, "test": 0.8}
    shown = Yamada().show("cifar2", dict.fromkeys(cells, dict.fromkeys(("clean", "found", "exact"), accuracies)))
    assert _column(shown.table, "ε") == ["0/255", "8/255"]
    assert _column(shown.table, "test, clean, %") == [80.0, 80.0]


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
