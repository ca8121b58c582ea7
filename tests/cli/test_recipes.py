"""`robustscape recipes`, and the papers' recipes by name."""

from __future__ import annotations

import pytest

from robustscape.cli import main
from robustscape.cli.recipes import duration, recipe, rows
from robustscape.recipes.estimating import Pace
from robustscape.recipes.small import smaller
from robustscape.training.log import read_log


@pytest.fixture(autouse=True)
def _a_machine(monkeypatch):
    """A machine of a known speed."""
    monkeypatch.setattr("robustscape.recipes.estimating.pace", lambda *_, **__: Pace(inputs=0.0014, weights=0.0028))


@pytest.mark.slow
def test_contract_a_table_is_listed_with_row_setting_and_times(capsys):
    assert main(["recipes", "wu/table1"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["recipe", "paper", "row", "setting", "time", "with", "_small"]
    assert len(lines) == 12
    line = next(line for line in lines if line.startswith("wu_table1_l2_at_awp_cifar_10 "))
    assert all(word in line for word in ("wu table1", "l2, AT-AWP, CIFAR-10", "gamma 0.01", " days  ", " min"))


def test_contract_a_paper_is_chosen_by_word_or_option(capsys):
    assert main(["recipes", "yamada", "--no-times"]) == 0
    by_word = capsys.readouterr().out
    assert main(["recipes", "--paper", "yamada", "--no-times"]) == 0
    assert capsys.readouterr().out == by_word
    assert len(by_word.splitlines()) == 1 + sum(row.paper == "yamada" for row in rows())


def test_contract_an_unknown_paper_is_refused(capsys):
    assert main(["recipes", "wu/table7"]) == 2
    assert "did you mean wu/table" in capsys.readouterr().err


def test_contract_rows_are_recipes_at_both_scales():
    row = rows()[0]
    assert recipe(row.name.replace("_", "-")) == row.run
    assert recipe(f"{row.name}_small") == smaller(row.run) != row.run


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (59.0, "< 1 min"),
        (90.0, "1.5 min"),
        (3000.0, "50 min"),
        (3599.0, "60 min"),
        (16_200.0, "4.5 h"),
        (1e6, "12 days"),
        (1e8, "1200 days"),
    ],
)
def test_closed_form_times_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.slow
def test_end_to_end_steps_and_eps_of_liu_rise_together(tmp_path):
    """eps 0 in the first of four epochs, then 0.2, 0.4, 0.4; so it trains on clean images at first."""
    words = "--data digits --model.width 1 --training.epochs 4 --training.batch-size 700 --training.track 0"
    name = "liu_table1_mnist_lenet_eps_0_4_linear_small"
    assert main(["train", name, *words.split(), "--out", str(tmp_path / "run")]) == 0
    epochs = read_log(tmp_path / "run" / "log.jsonl").epochs
    assert [round(epoch.eps, 6) for epoch in epochs] == [0.0, 0.2, 0.4, 0.4]
