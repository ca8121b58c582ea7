"""Settings of a Run that would be without effect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustscape.objectives.natural import Natural
from robustscape.objectives.noise import NoiseTraining
from robustscape.recipes.digits import digits_at, digits_natural
from robustscape.recipes.run import check_settings
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.rise import Rise
from robustscape.types import BadInput
from robustscape.weights.awp import AWP


@pytest.mark.parametrize("epochs", [1, 9])
def test_contract_a_warm_up_as_long_as_the_training_is_refused(epochs):
    run = digits_at()
    run = replace(run, weights=AWP.official_trades(), training=replace(run.training, epochs=epochs))
    with pytest.raises(BadInput, match=f"is 9 epochs, and the training has {epochs}: .* never be perturbed"):
        check_settings(run)


def test_contract_a_schedule_of_eps_without_an_attack_is_refused():
    run = digits_natural()
    for schedule in (Rise(), Constant(warmup=0.1)):
        with pytest.raises(BadInput, match="Natural has no attack; leave it out, or did you mean --objective at"):
            check_settings(replace(run, training=replace(run.training, eps=schedule)))


@pytest.mark.parametrize("objective", [None, Natural(), NoiseTraining()])
def test_contract_what_acts_for_an_epoch_is_let_through(objective):
    run = digits_at()
    eps = Constant() if isinstance(objective, Natural) else Rise()
    training = replace(run.training, epochs=10, eps=eps, track_attack=run.objective.attack)
    run = replace(run, objective=objective or run.objective, weights=AWP.official_trades(), training=training)
    assert check_settings(run) is None
