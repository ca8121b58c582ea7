"""Learning rate and eps of a step."""

from __future__ import annotations

import pytest

from robustscape.training.optimizers.sgd import SGD
from robustscape.training.rates import learning_rate, radius
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.linear import Linear
from robustscape.training.settings import Training
from robustscape.types import BadInput

BASE = Training(epochs=10, optimizer=SGD(lr=0.2), lr=Linear(), eps=Linear(start=0, end=1))


def _changed(**changes) -> Training:
    return Training(**{**vars(BASE), **changes})


def test_closed_form_every_step_or_every_epoch():
    once = _changed(schedules="epoch")
    for done in range(41):
        assert learning_rate(BASE, done, 40) == pytest.approx(0.2 * (1 - done / 40), abs=1e-15)
        assert radius(BASE, 0.5, done, 40) == pytest.approx(0.5 * done / 40, abs=1e-15)
        assert learning_rate(once, done, 40) == pytest.approx(0.2 * (1 - done // 4 / 10), abs=1e-15)
        assert radius(once, 0.5, done, 40) == pytest.approx(0.5 * (done // 4) / 10, abs=1e-15)


def test_closed_form_the_rate_of_weight_averaging():
    constant = _changed(lr=Constant(), swa_start=6, swa_lr=0.05)
    assert [learning_rate(constant, done, 40) for done in (0, 23, 24, 39)] == [0.2, 0.2, 0.05, 0.05]
    cyclic = _changed(lr=Constant(), swa_start=6, swa_every=2, swa_lr=0.05, swa_lr_from=0.13)
    for i in range(1, 17):  # iterations after the sixth epoch, cycles of c = 8
        t = ((i - 1) % 8 + 1) / 8
        assert learning_rate(cyclic, 24 + i - 1, 40) == pytest.approx((1 - t) * 0.13 + t * 0.05, abs=1e-15)
    assert learning_rate(_changed(swa_start=6), 30, 40) == pytest.approx(0.05)  # the schedule's own


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(swa_lr=0.05), "set training.swa_start to an epoch, for example 8 of 10"),
        (dict(swa_every=2), "swa_every is of averaging that never begins"),
        (dict(swa_start=0), r"in \[1, 9\]"),
        (dict(swa_start=10), r"in \[1, 9\]"),
        (dict(swa_start=5, swa_every=0), "at least 1"),
        (dict(swa_start=5, ema=0.9), "two averages"),
        (dict(swa_start=5, swa_lr=0.0), "above 0"),
        (dict(swa_start=5, swa_lr_from=0.1), "falls to swa_lr"),
        (dict(swa_start=5, swa_lr=0.2, swa_lr_from=0.1), "falls to swa_lr"),
        (dict(statistics_batches=3), "choose statistics too"),
        (dict(statistics="clean", statistics_batches=0), "above 0"),
        (dict(clip_gradient=0.0), "clip_gradient must be above 0"),
        (dict(clip_weights=-1.0), "clip_weights must be above 0"),
        (dict(l1=-1.0), "l1 must be at least 0"),
        (dict(l2=-1.0), "l2 must be at least 0"),
        (dict(l1=float("nan")), "l1 must be at least 0"),
        (dict(swa_start=5, swa_lr=0.1, swa_lr_from=0.2, schedules="epoch"), "asks once an epoch"),
        (dict(schedules="epochs"), "training.schedules is 'epochs', not one of step, epoch"),
        (dict(statistics="batch"), "not one of auto, training, clean, adversarial"),
        (dict(attack_mode="Train"), "not one of eval, train"),
        (dict(select="flat"), "training.select is 'flat'"),
        (dict(snapshots=True), "neither training.lr nor training.eps begins anew"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, words):
    with pytest.raises(BadInput, match=words):
        _changed(**wrong)
