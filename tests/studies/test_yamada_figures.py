"""The figures of the study of Yamada 2021."""

from dataclasses import replace

import pytest

from robustscape.evaluation.subject import drained
from robustscape.studies.runner import studying
from robustscape.studies.yamada import Yamada

ALPHA = [-1.0, -0.5, 0.0, 0.5, 1.0]


def parabolas(cell, growth):
    """Return slices of curvature 0.2 + growth * eps along one direction, twice that along another."""
    bends = [(0.2 + growth * cell.trained.eps) * times for times in (1, 2)]
    loss = [[0.01 + bend * alpha**2 / 2 for alpha in ALPHA] for bend in bends]
    return {"alpha": ALPHA, "loss": loss, "error": 0.0, "norm": 4.0, "pgd": 0.0}


def test_closed_form_curvature_and_rise_of_parabolas():
    study = Yamada()
    cells = study.cells("figure1")
    assert len(cells) == 6 + 5 + 5
    growth = {("pgd", "adversary"): 3.0, ("noise", "noise"): 0.01, ("noise", "adversary"): 1.0}
    shown = study.show("figure1", {c: parabolas(c, growth[c.trained.adversary, c.under]) for c in cells})
    names = [column.name for column in shown.table.columns]
    assert len(shown.table.rows) == 3 * 6
    last = dict(zip(names, shown.table.rows[5], strict=True))
    assert (last["Slices"], last["ε"]) == ("trained on PGD, under the adversary", "1")
    assert last["Loss at 0"].value == pytest.approx(0.01)
    assert last["Curvature at 0"].value == pytest.approx(1.5 * 3.2)
    assert last["Curvature at 0"].spread == pytest.approx(3.2 / 2**0.5)
    assert last["Rise at the ends"].value == pytest.approx(1.5 * 3.2 / 2)
    assert last["Curvature over that at ε 0"].value == pytest.approx(16)
    assert last["Rise over that at ε 0"].value == pytest.approx(16)
    assert "adversary, 16; trained on noise, under its noise, 1.05; trained on noise, under the" in shown.notes[0]
    assert shown.notes[1] == "That slices sharpen with ε under PGD holds, from each ε to the next."
    assert (
        "holds for models trained on noise under their noise; for the same models under the adversary it does not"
        in shown.notes[2]
    )
    assert [len(panel.lines) for panel in shown.panels] == [6, 12, 6]
    assert [line.dashed for line in shown.panels[1].lines] == [False] * 6 + [True] * 6
    assert shown.panels[0].lines[5].y[0] == pytest.approx(0.01 + 1.5 * 3.2 / 2)


def test_closed_form_a_line_has_r_squared_1_and_a_parabola_less():
    study = Yamada()
    values = {}
    for cell in study.cells("figure3"):
        eps = cell.trained.eps
        line, square = [0.3 + eps, 0.2 + eps, 0.1 + eps], [1 + eps**2] * 3
        values[cell] = {"measured": line, "held": line, "total": square, "held, no box": line, "total, no box": line}
        values[cell] |= {"pgd": 0.0, "norm": 4.0, "kinks": False}
    assert len(values) == 6 + 8 - 1
    shown = study.show("figure3", values)
    assert "measured 1.000, 1.000, 1.000; held 1.000" in shown.notes[0]
    assert "0.95 at least: 3 of the 3 measured" in shown.notes[0]
    assert "total 0.921, 0.921, 0.921" in shown.notes[0]  # of eps^2 at 0, 0.2 to 1, by hand
    assert len(shown.table.rows) == 3 * (6 + 8)
    assert [len(panel.lines) for panel in shown.panels] == [6, 6, 6]
    assert [len(panel.lines[0].x) for panel in shown.panels] == [6, 5, 8]


def small(tmp_path, part):
    study = Yamada(scale="small", train_steps=3)
    study = replace(study, training=replace(study.training, epochs=1))
    (result,) = drained(studying(study, out=tmp_path, only=[part]))
    assert result.shown.notes[-1] == "Other images than the paper's."
    return result.shown


def test_end_to_end_small_slices_are_drawn_from_trainings(tmp_path):
    shown = small(tmp_path, "figure5")
    (panel,) = shown.panels
    assert [line.name for line in panel.lines] == ["ε 0/255", "ε 25.5/255", "ε 51/255", "ε 76.5/255"]
    middles = [line.y[2] for line in panel.lines]
    assert middles == sorted(middles)
    assert [row[2].value for row in shown.table.rows] == pytest.approx(middles)


@pytest.mark.slow
def test_end_to_end_small_eigenvalues_are_measured_and_exact(tmp_path):
    shown = small(tmp_path, "figure3")
    assert len(shown.table.rows) == 3 * (6 + 8)
    for row in shown.table.rows:
        assert row[3].value == pytest.approx(row[4].value, rel=0.05)  # PGD-100 is not quite the exact adversary
