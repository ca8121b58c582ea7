"""The study of all training methods: its cells, its table, and that a kill loses nothing."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from robustscape.attacks.pgd import PGD
from robustscape.cli import main
from robustscape.config import members
from robustscape.evaluation.subject import drained
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.views import Views
from robustscape.landscape.worst_flatness import WorstFlatness
from robustscape.models.activations import Activation
from robustscape.recipes.execute import train
from robustscape.recipes.given import check
from robustscape.results import read_json
from robustscape.runtime import TRUTH, threads
from robustscape.studies import _methods_cells
from robustscape.studies._methods_cells import PseudoLabels
from robustscape.studies._methods_rows import Method, base, changed, methods
from robustscape.studies._methods_table import shown
from robustscape.studies.methods import Methods
from robustscape.studies.runner import planned, studying
from robustscape.types import BadInput, Diverged
from robustscape.weights.awp import AWP

ONE = replace(TRUTH, device="cpu", threads=1)
FEW = PGD(steps=2, result="best_loss")


def _study(*names):
    """The tiny study of some methods, with flatness that takes no time."""
    average = AverageFlatness(attack=FEW, samples=4)
    worst = WorstFlatness(attack=FEW, steps=1, restarts=1)
    return Methods(scale="tiny", methods=names, average=average, worst=worst, views=Views(attack=FEW), n=20)


def _cells(folder):
    """What the finished cells hold but the time that they took."""
    plain = {path.name: read_json(path)["value"] for path in sorted((folder / "cells").glob("*.json"))}
    return {name: {k: v for k, v in value.items() if k != "seconds"} for name, value in plain.items()}


# -- rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["small", "tiny"])
def test_contract_every_method_is_a_run_that_has_a_meaning(scale):
    run = base(scale)
    for method in methods(run):
        made = method.run(run, 3)
        assert made.seed == 3
        if method.name != "rst":  # whose file of images comes with the training
            check(made)
    names = [method.name for method in methods(run)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("protocol", "field"), [("Objective", "objective"), ("WeightPerturbation", "weights")])
def test_contract_every_objective_and_weight_perturbation_has_a_row(protocol, field):
    run = base("small")
    there = {type(getattr(method.run(run, 0), field)) for method in methods(run)}
    assert set(members(protocol).values()) <= there


def test_contract_every_activation_has_a_row():
    run = base("small")
    assert {method.run(run, 0).model.activation for method in methods(run)} == set(get_args(Activation))


def test_closed_form_a_change_reaches_what_it_names_and_nothing_else():
    run = base("small")
    made = changed(run, {"training": {"optimizer": {"weight_decay": 0.5}}, "weights": AWP()})
    assert made.training.optimizer == replace(run.training.optimizer, weight_decay=0.5)
    assert replace(made, training=run.training, weights=None) == run


def test_contract_at_the_tiny_scale_too_gradients_are_longer_than_they_are_clipped_to(tmp_path):
    run = base("tiny")
    (method,) = (method for method in methods(run) if method.name == "gradient-clipping")
    made = method.run(run, 0)
    log = next(train(made, tmp_path / "run", name=method.name)).log
    assert log.gradient_norm > made.training.clip_gradient


def test_contract_one_seed_of_what_has_three_comes_first_then_the_rest_then_further_seeds():
    cells = Methods(methods=("at", "awp", "natural", "rst"), seed=5).cells("table")
    order = [(cell.method, cell.run.seed) for cell in cells]
    assert order == [
        *(("at", 5), ("awp", 5)),
        *(("natural", 5), ("rst", 5)),
        *(("at", 6), ("awp", 6), ("at", 7), ("awp", 7)),
    ]
    (labels,) = cells[3].needs
    assert isinstance(labels, PseudoLabels)
    assert labels.run.unlabelled.hide == cells[3].run.unlabelled.hide == 0.5
    assert all(not cell.needs for cell in cells if cell is not cells[3])


def test_contract_what_cannot_be_meant_is_said():
    with pytest.raises(BadInput, match=r"there is no method 'awb' \(did you mean awp"):
        Methods(methods=("awb",))
    with pytest.raises(BadInput, match="scale 'paper' is not one of small, tiny"):
        Methods(scale="paper")
    with pytest.raises(BadInput, match="n must be at least 1, not 0"):
        Methods(n=0)


# -- cells ---------------------------------------------------------------------------------------------


def test_end_to_end_rst_trains_on_what_a_network_says_of_hidden_images(tmp_path):
    study = _study("rst")
    (cell,) = study.cells("table")
    with threads(ONE):
        (result,) = drained(studying(study, out=tmp_path))
    labels, rst = _cells(tmp_path).values()
    hidden = _methods_cells._hidden(cell.run)
    assert len(labels["y"]) == len(labels["confidence"]) == len(hidden)
    assert labels["right"] == float((torch.tensor(labels["y"]) == hidden.y).double().mean())
    (pseudo,) = tmp_path.glob("cells/rst-0-*/pseudo_labels.npz")
    with np.load(pseudo) as stored:
        assert stored["y"].tolist() == labels["y"]
    numbers = rst["numbers"]
    assert all(number["low"] <= number["value"] <= number["high"] for number in numbers.values())
    fall = numbers["robust_best"]["value"] - numbers["robust_last"]["value"]
    assert numbers["fall"]["value"] == pytest.approx(fall, abs=1e-9)
    (row,) = result.shown.table.rows
    assert all(cell is not None for cell in row[:13])
    made = f"One thread a network, {rst['precision']}, on {rst['device']}; "
    assert any(note.startswith(made) for note in result.shown.notes)


def test_end_to_end_the_snapshots_of_pas_are_judged_as_one_too():
    (cell, *_) = _study("pas").cells("table")
    with threads(ONE):
        value = drained(cell.running(None, {}))
    assert 0 <= value["numbers"]["ensemble"]["value"] <= 1
    assert len(value["history"]) == 4 and value["best"] in (1, 2, 3, 4)


def test_end_to_end_a_kill_within_a_cell_costs_what_was_not_kept_and_changes_no_bit(tmp_path):
    """Killed in training, in the evaluations and in the flatness: what is finished is never done again."""
    study = _study("natural")
    with threads(ONE):
        drained(studying(study, out=tmp_path / "whole"))
        times = 0
        while not list((tmp_path / "killed" / "cells").glob("*.json")) and times < 40:
            work = studying(study, out=tmp_path / "killed")
            for _, (done, total) in zip(range(25 + times), work, strict=False):
                assert done <= total
            work.close()
            times += 1
    assert times > 1
    assert _cells(tmp_path / "killed") == _cells(tmp_path / "whole")


def test_contract_a_training_that_diverges_is_a_row_without_numbers(tmp_path, monkeypatch):
    def diverging(*_, **__):
        raise Diverged("the loss became nan")
        yield

    monkeypatch.setattr(_methods_cells, "train", diverging)
    (result,) = drained(studying(_study("natural"), out=tmp_path))
    (row,) = result.shown.table.rows
    assert row[0] == "Natural" and not any(row[2:-1])
    assert result.shown.notes[-1] == "Natural, seed 0, is left out: the loss became nan."


# -- the table -----------------------------------------------------------------------------------------


def _value(gap, last, *, loss=1.0, flat=0.5, seconds=2.0, **others):
    each = {
        **dict.fromkeys(("clean_best", "clean_last", "robust_best", "fall", "gap_best", "worst"), 0.1),
        **others,
        **{"gap_last": gap, "robust_last": last, "loss": loss, "flatness": flat},
    }
    numbers = {name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name, value in each.items()}
    return {
        "numbers": numbers,
        "seconds": seconds,
        "best": 1,
        "history": [],
        "device": "a CPU",
        "precision": "float32",
        "warnings": [],
    }


def _shown(values):
    found = {Method(name=name, title=name.upper(), lessens=name != "at"): each for name, each in values.items()}
    study = Methods()
    how = {name: getattr(study, name) for name in ("average", "worst", "views", "n")}
    return shown(found, base=base("small"), first=0, **how)


def test_closed_form_means_spread_and_the_ratio_to_at():
    made = _shown({"at": [_value(0.2, 0.3), _value(0.4, 0.3)], "b": [_value(0.1, 0.3, seconds=3.0)]})
    columns = [column.name for column in made.table.columns]
    at, b = made.table.rows
    gap = at[columns.index("Train − test, last")]
    assert (gap.value, gap.spread, gap.runs) == pytest.approx((30.0, 20 / 2**0.5, 2))
    assert b[columns.index("Epoch over AT's")].value == pytest.approx(1.5)
    assert (at[-1], b[-1]) == ("2 (0, 1)", "1 (0)")


def test_closed_form_what_lessens_overfitting_is_told_from_what_does_not():
    values = {
        "at": [_value(0.2, 0.3)],
        "b": [_value(0.1, 0.4)],
        "c": [_value(0.1, 0.2)],
        "d": [_value(0.3, 0.4)],
        "e": [_value(0.2, 0.3)],
    }
    assert (
        "Smaller gap and better last epoch than AT of the same seeds: B; Smaller gap alone: C; Better last epoch "
        "alone: D; Neither, though meant to lessen robust overfitting: E." in _shown(values).notes
    )


def test_closed_form_a_method_of_one_seed_is_held_against_that_seed_of_at():
    """Its gap is below AT's mean, and above that of AT on its own images."""
    values = {"at": [_value(0.2, 0.3), _value(0.4, 0.1)], "b": [_value(0.25, 0.25)], "c": [{"diverged": "so"}]}
    assert "Neither, though meant to lessen robust overfitting: B." in _shown(values).notes


def test_closed_form_robust_loss_and_flatness_are_correlated_over_the_rows():
    numbers = [{"loss": k, "flat": k**3, "worst": -k} for k in range(1, 6)]
    values = {name: [_value(0.2, 0.3, **each)] for name, each in zip(("at", "b", "c", "d", "e"), numbers, strict=True)}
    average = "Robust loss against average-case flatness"
    (words,) = (note for note in _shown(values).notes if note.startswith(average))
    assert words.startswith(f"{average} over the 5 rows: Pearson 0.94 [")
    assert "Spearman 1.00 [" in words
    worst = "Robust loss against worst-case flatness over the 5 rows: Pearson -1.00 ["
    assert any(note.startswith(worst) for note in _shown(values).notes)
    far = {**values, "natural": [_value(0.2, 0.3, loss=9, flat=-1000)]}
    (all_rows, without) = (note for note in _shown(far).notes if note.startswith(average))
    assert "over the 6 rows: Pearson -0." in all_rows
    assert without == words.replace("5 rows:", "5 rows of training with an adversary:")


def test_closed_form_the_gap_is_correlated_with_what_training_images_alone_tell():
    told = [{"loss_gap": k, "views": 2 * k, "train_flatness": k**3, "train_loss": -k} for k in range(1, 6)]
    values = {name: [_value(0.2, 0.3, **each)] for name, each in zip(("at", "b", "c", "d", "e"), told, strict=True)}

    def said(values):
        (words,) = (note for note in _shown(values).notes if note.lower().startswith(("gap of", "the gap of")))
        return words

    words = said(values)
    assert "over the 5 rows" in words and "against the rise of the robust loss on other views" in words
    assert "training images, Pearson 1.00 [" in words
    assert "average-case flatness on them, Pearson 0.94 [" in words
    assert "their robust loss, Pearson -1.00 [" in words
    far = {"loss_gap": -50, "views": 9, "train_flatness": 9, "train_loss": 9}
    others = {name: [_value(0.2, 0.3, **far)] for name in ("natural", "noise", "autoaugment")}
    assert said(values | others) == words  # of none of these is it asked
    assert "over the 4 rows" in said(values | {"e": [{"diverged": "so"}]})
    assert "over the 4 rows" in said(values | {"e": [_value(0.2, 0.3)]})
    assert said({"at": values["at"]}).endswith("that needs 4 that differ.")


# -- commands ------------------------------------------------------------------------------------------


def test_end_to_end_bench_methods_is_the_study_and_says_what_it_would_do(capsys, tmp_path):
    words = ["--scale", "tiny", "--dry-run", "--processes", "2", "--out", str(tmp_path)]
    assert main(["bench", "methods", "--only", "at", "natural", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["at-0", "natural-0", "at-1", "at-2"]
    assert all("to do, about" in line for line in lines[:-1])
    assert lines[-1].startswith("0 of 4 cells are done, about ")
    assert main(["study", "methods", "--methods", "at", "natural", *words]) == 0
    assert capsys.readouterr().out.splitlines()[0] == lines[0]
    assert main(["bench", "methods", "--only=natural", *words]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[0] == "natural-0"
    assert list(tmp_path.iterdir()) == []
    assert main(["bench", "methods", "train"]) == 2
    assert "ask for it alone" in capsys.readouterr().err


def test_contract_the_plan_is_the_work_in_its_order(tmp_path):
    study = _study("at", "rst")
    cells = planned(study, out=tmp_path)
    assert [cell.name for cell, _ in cells] == ["at-0", "pseudo-labels-0", "rst-0", "at-1", "at-2"]
    assert not any(done for _, done in cells)
    assert Path(tmp_path).exists()
