"""What linear models reach at best under L2 in the pixel box, beside what training reaches."""

from dataclasses import replace

import pytest

from robustscape.evaluation.subject import drained
from robustscape.studies.optimum import Margin, Optimum
from robustscape.studies.optimum_box import BoxOptimum
from robustscape.studies.trained import Trained
from robustscape.studies.yamada import Yamada
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.types import BadInput

TRAINING = Training(epochs=2, batch_size=20, optimizer=SGD(lr=0.3, momentum=0.0, weight_decay=0.0), track=0)


@pytest.fixture(scope="module")
def data():
    """The digits 0 and 1, 360 images."""
    return Yamada(scale="small").data()


def _both(data, eps):
    """Return the optima without the box and in it, and the training."""
    trained = Trained(norm="l2", eps=eps, train_steps=3, test_steps=3, training=TRAINING)
    free, boxed = Optimum(norm="l2", trained=trained), BoxOptimum(trained=trained)
    assert set(boxed.needs) == {trained, Margin(norm="l2")} == set(free.needs)
    values = {need: drained(need.running(data, {})) for need in boxed.needs}
    return drained(free.running(data, values))["free"], drained(boxed.running(data, values)), values[trained]


def test_closed_form_in_the_box_the_loss_is_lower_and_so_is_the_trained_models(data):
    free, boxed, trained = _both(data, 1.0)
    assert free["outcome"] == boxed["outcome"] == "optimal"
    assert boxed["loss"] < free["loss"]
    assert boxed["loss"] < boxed["trained"] < free["trained"]
    assert 0 <= boxed["gap"] <= 1e-6 * boxed["loss"]
    assert boxed["train"] >= trained["exact"]["train"] - 0.02
    assert 0 < boxed["weights"] <= 64


def test_closed_form_below_the_margin_nothing_is_solved(data):
    free, boxed, _ = _both(data, 0.3)
    assert free["outcome"] == "separable"
    assert boxed is None
    assert _both(data, 0.0)[1] is None


def test_contract_what_cannot_be_meant_is_refused():
    trained = Trained(norm="l2", eps=0.5, training=TRAINING)
    with pytest.raises(BadInput, match="does not belong to the training linf-"):
        BoxOptimum(trained=replace(trained, norm="linf"))
    with pytest.raises(BadInput, match=r"does not belong to the training l2-0\.5-noise"):
        BoxOptimum(trained=replace(trained, adversary="noise"))
