"""The variants for two cores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustscape.cli.recipes import recipes, rows
from robustscape.data.augment import Chain
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.erase import Cutout
from robustscape.data.folder import Folder
from robustscape.data.pseudo_labelled import SMALL
from robustscape.data.unlabelled import Unlabelled
from robustscape.models.linear import Linear
from robustscape.recipes import estimating
from robustscape.recipes.digits import digits_at
from robustscape.recipes.estimating import Pace, forwards_of_step, seconds, size_of
from robustscape.recipes.small import smaller
from robustscape.training.snapshots import period_ends


def _row(name):
    return next(row for row in rows() if row.name == name)


@pytest.mark.slow
def test_contract_small_runs_are_small():
    for row in rows():
        small = smaller(row.run)
        assert 5 <= small.training.epochs <= max(5, row.run.training.epochs // 5), row.name
        assert size_of(small.data).n <= 4000 and small.evaluation.n == 500
        assert getattr(small.model, "width", 1) <= 16, row.name
        passes = small.training.epochs * size_of(small.data).n * forwards_of_step(small.objective, small.weights)
        assert passes < 1e8, row.name
        assert type(small.objective) is type(row.run.objective) and small.objective == row.run.objective


@pytest.mark.slow
def test_contract_attacks_on_held_out_sets_are_at_most_a_tenth_of_the_training():
    """In forwards, at both scales. Not logistic regression, which the paper chooses by all of test, in seconds."""
    for row in rows():
        if not isinstance(row.run.model, Linear):
            small = smaller(row.run)
            most = 0.10 if small.training.epochs > 6 else 0.115  # of six epochs the fifth and the last are tracked
            assert _tracked(row.run) <= 0.10 and _tracked(small) <= most, row.name
    assert _tracked(digits_at()) <= 0.10


def _tracked(run):
    """Return what tracking takes, in shares of the training's forwards and backwards."""
    training, n = run.training, size_of(run.data).n
    validation = run.data.validation
    held = (validation if isinstance(validation, int) else validation * n) + training.track * (1 + training.track_test)
    attack = training.track_attack or run.objective.attack
    work = 2 + 2 * getattr(attack, "steps", 0)  # clean and attacked, and a forward and a backward a step
    times = -(-training.epochs // training.track_every)
    return held * work * times / (n * training.epochs * forwards_of_step(run.objective, run.weights))


def test_closed_form_what_changes_with_the_length():
    averaged = smaller(_row("stutz_table1_weight_averaging").run)
    # 400 steps of 128 images are about an epoch of 50,000; so are 32 of one of 4,000.
    assert round(1 / (1 - averaged.training.ema)) == 32
    warmed = _row("wu_table2_trades_awp").run
    warmed = replace(warmed, weights=replace(warmed.weights, warmup=9.0))
    assert smaller(warmed).weights.warmup == 9.0 / 5


def test_contract_periods_end_with_epochs():
    run = smaller(_row("liu_table1_cifar10_vgg_eps_8_255_cosine_periodic").run)
    assert period_ends(run.training.epochs, run.training.lr, run.training.eps) == (20, 30, 40)


def test_contract_what_covers_stays_and_what_moves_goes():
    chained = smaller(_row("yan_table4_at_cutout").run)
    assert chained.augment == Chain(first=None, second=Cutout(size=14))
    assert smaller(_row("wu_table1_linf_at_cifar_100").run).augment is None
    assert isinstance(chained.data, Folder) and chained.data.path == "cifar10-jpeg"
    policy = smaller(_row("stutz_table1_autoaugment").run).augment
    assert isinstance(policy, Chain)
    assert (policy.first, policy.second) == (None, AutoAugment.stutz()) and isinstance(policy.third, Cutout)


def test_contract_stutz_pads_with_the_mean_colour_throughout():
    augment = _row("stutz_table1_autoaugment").run.augment
    fills = {part.fill for part in (augment.first, augment.second, augment.third)}
    assert fills == {(0.4914, 0.4822, 0.4465)} and augment.first.mode == "zeros"


def test_contract_the_teacher_sees_the_labels_that_small_runs_keep(monkeypatch):
    teacher = recipes()["cifar10_jpeg_teacher_small"]()
    for name in ("stutz_table1_unlabeled", "wu_table2_rst_awp"):
        row = _row(name).run
        small = smaller(row)
        assert (small.data, small.unlabelled.hide) == (teacher.data, teacher.unlabelled.hide)
        assert small.unlabelled.source == SMALL and small.unlabelled.share == row.unlabelled.share
    monkeypatch.setattr(estimating, "pace", lambda *_, **__: Pace(inputs=1.0, weights=1.0))
    assert seconds(teacher) == seconds(replace(teacher, unlabelled=Unlabelled())) / 5
    assert seconds(small) == seconds(replace(small, unlabelled=Unlabelled()))  # as many examples, of both kinds
