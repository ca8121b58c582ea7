"""The schedules of Liu 2020's table 1: eps and learning rate of every epoch, by the paper's formulas."""

from __future__ import annotations

import math

import pytest

from robustscape.cli.recipes import rows
from robustscape.recipes.small import smaller
from robustscape.training.rates import learning_rate, radius

LOGGED = {"figure1": 2000, "figure8": 500}
"""Steps at either end that the figures show."""

TABLE = {row.row: row.run for row in rows() if (row.paper, row.table) == ("liu", "table1")}


def _eps(kind: str, d: int, length: int, most: float, target: float) -> float:
    """Equation 5 with eps_min = 0, clipped between 0 and the target."""
    if kind == "constant":
        return target
    rising = 0.5 * (1 - math.cos(d / length * math.pi)) * most if kind == "cosine" else most * d / length
    return min(max(rising, 0.0), target)


def _lr(network: str, share: float) -> float:
    """Appendix C.1: of the share of the period (of the training, without resets) that is over."""
    if network == "LeNet":
        return 1e-4
    if network == "VGG":
        return 1e-3 * 0.1 ** min(1.0, max(0.0, (share - 0.5) / 0.25))
    return 0.1 * 0.1 ** ((share >= 0.5) + (share >= 0.75))


@pytest.mark.parametrize("row", TABLE)
def test_closed_form_every_epoch_of_table_1_has_the_papers_eps_and_learning_rate(row):
    (task, kind, *periodic), settings = row.split(", "), TABLE[row].training
    data, network, _ = task.split(" ")
    target, most, epochs = 8 / 255, 16 / 255, 200
    if data == "MNIST":
        target, most, epochs = 0.4, {"cosine": 0.6}.get(kind, 0.8), 100
    assert settings.epochs == epochs and TABLE[row].objective.attack.threat.eps == target
    for epoch in range(epochs):
        begin, end = 0, epochs
        if periodic:
            begin, end = (0, 100) if epoch < 100 else (100, 150) if epoch < 150 else (150, 200)
        d, length = epoch - begin, end - begin
        for step in (3 * epoch, 3 * epoch + 2):  # of three steps an epoch: all have the epoch's
            eps, lr = radius(settings, target, step, 3 * epochs), learning_rate(settings, step, 3 * epochs)
            assert eps == pytest.approx(_eps(kind, d, length, most, target), abs=1e-14), epoch
            assert lr == pytest.approx(_lr(network, d / length), abs=1e-14), epoch
    ends = [epoch for epoch in range(1, epochs + 1) if settings.snapshot_after(epoch)]
    assert ends == ([100, 150, 200] if periodic else [])


def test_contract_the_figures_of_single_steps_have_as_many_logged_as_the_paper_shows():
    for row in rows():
        if row.paper == "liu":
            at_each_end = LOGGED.get(row.table, 0)
            for run, shorter in ((row.run, 1), (smaller(row.run), 5)):
                logged = (run.training.track_first, run.training.track_last)
                assert logged == (at_each_end // shorter,) * 2, row.name
