"""What linear models reach at best under random noise, beside what training reaches."""

from dataclasses import replace

import pytest
import torch

from robustscape.evaluation.subject import drained
from robustscape.linear.noise import InBall, expected
from robustscape.studies.optimum import Margin, vectors
from robustscape.studies.optimum_noise import NoiseOptimum
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


def _solved(data, norm, eps):
    trained = Trained(adversary="noise" if eps else "pgd", norm=norm, eps=eps, training=TRAINING)
    cell = NoiseOptimum(norm=norm, trained=trained)
    values = {need: drained(need.running(data, {})) for need in cell.needs}
    return cell, values, drained(cell.running(data, values))


def test_closed_form_the_optimum_under_the_ball_is_below_every_training(data):
    cell, values, value = _solved(data, "l2", 3.0)
    assert cell.needs == (cell.trained, Margin(norm="l2"))
    assert value["outcome"] == "optimal"
    assert 1e-6 < value["loss"] < value["trained"]
    assert value["gap"] <= 1e-5 * value["loss"]
    x, y = vectors(data.train)
    w = torch.tensor(values[cell.trained]["w"], dtype=torch.float64)
    assert value["trained"] == pytest.approx(float(expected(w, x, y, InBall(eps=3.0)).loss))
    assert value["train"] > 0.99


def test_closed_form_noise_that_hardly_reaches_the_plane_leaves_hardly_a_loss(data):
    _, values, value = _solved(data, "linf", 0.15)
    margins = {cell.norm: found["margin"] for cell, found in values.items() if isinstance(cell, Margin)}
    assert margins["linf"] < 0.15
    assert value["outcome"] == "optimal"
    assert value["loss"] == value["gap"] == pytest.approx(2.718281828459045 ** -(1.5 * (margins["l2"] / 0.15) ** 2))
    assert value["train"] == 1.0


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.0), ("l2", 0.5), ("linf", 0.05)])
def test_closed_form_noise_that_reaches_no_misclassified_point_has_no_optimum(data, norm, eps):
    _, _, value = _solved(data, norm, eps)
    assert (value["outcome"], value["loss"], value["gap"], value["train"]) == ("separable", None, None, 1.0)


def test_contract_the_trained_weights_are_judged_as_the_training_judges_them(data):
    cell, values, _ = _solved(data, "l2", 3.0)
    w = torch.tensor(values[cell.trained]["w"])
    assert cell.trained.accuracies(w, data) == values[cell.trained]["found"]


def test_contract_what_cannot_be_meant_is_refused():
    trained = Trained(adversary="noise", norm="l2", eps=0.5, training=TRAINING)
    with pytest.raises(BadInput, match="the optimum under linf noise does not belong to the training l2-"):
        NoiseOptimum(norm="linf", trained=trained)
    with pytest.raises(BadInput, match=r"does not belong to the training l2-0\.5-pgd"):
        NoiseOptimum(norm="l2", trained=replace(trained, adversary="pgd"))
    with pytest.raises(BadInput, match="norm 'l1' is not one of l2, linf"):
        NoiseOptimum(norm="l1", trained=trained)
