"""What linear models reach at best, beside what training reaches."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from robustscape.evaluation.subject import drained
from robustscape.linear.estimator import RobustLogisticRegression
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.linear.solve import Solution
from robustscape.studies._yamada_solved import SOLUTIONS
from robustscape.studies.optimum import Margin, Optimum, Reach, vectors
from robustscape.studies.trained import Trained
from robustscape.studies.yamada import Yamada
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.types import BadInput

TRAINING = Training(epochs=3, batch_size=20, optimizer=SGD(lr=0.3, momentum=0.0, weight_decay=0.0), track=0)


@pytest.fixture(scope="module")
def data():
    """The digits 0 and 1, 360 images."""
    return Yamada(scale="small").data()


def _solved(data, norm, eps):
    trained = Trained(norm=norm, eps=eps, train_steps=3, test_steps=3, training=TRAINING)
    cell = Optimum(norm=norm, trained=trained)
    assert cell.needs == (trained, Margin(norm=norm))
    values = {need: drained(need.running(data, {})) for need in cell.needs}
    return cell, values, drained(cell.running(data, values))


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("linf", 0.3)])
def test_closed_form_the_optimum_is_the_estimators_and_below_every_training(data, norm, eps):
    cell, values, value = _solved(data, norm, eps)
    free = value["free"]
    assert free["outcome"] == "optimal"
    x, y = vectors(data.train)
    estimator = RobustLogisticRegression(norm=norm, eps=eps, C=float("inf"), fit_intercept=False, box=(0.0, 1.0))
    estimator.fit(x.numpy(), y.numpy())
    assert free["loss"] == pytest.approx(estimator.objective_[0] / len(x), rel=1e-6)
    assert 0 <= free["gap"] <= 1e-6 * free["loss"]
    assert free["loss"] < free["trained"]
    for split, images in (("train", data.train), ("test", data.test)):
        x, y = vectors(images)
        assert free[split] == pytest.approx(estimator.robust_score(x.numpy(), y.numpy()))
    w = torch.tensor(values[cell.trained]["w"], dtype=torch.float64)
    x, y = vectors(data.train)
    assert free["trained"] == pytest.approx(float(AdversarialLogistic(x=x, y=y, norm=norm, eps=eps).at(w).loss))


def test_closed_form_in_the_box_the_loss_is_lower_and_so_is_the_trained_models(data):
    _, _, value = _solved(data, "linf", 0.3)
    free, boxed = value["free"], value["boxed"]
    assert boxed["outcome"] == "optimal"
    assert boxed["loss"] < free["loss"]
    assert boxed["loss"] <= boxed["trained"] < free["trained"]
    assert boxed["gap"] <= 1e-3 * boxed["loss"]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_below_the_margin_its_direction_stands_in(data, norm):
    margin = drained(Margin(norm=norm).running(data, {}))
    assert margin["upper"] == pytest.approx(margin["margin"], abs=1e-6)
    _, _, value = _solved(data, norm, 0.9 * margin["margin"])
    assert (value["free"]["outcome"], value["free"]["loss"], value["free"]["gap"]) == ("separable", None, None)
    assert value["free"]["train"] == 1.0
    assert value["boxed"] is None
    x, y = vectors(data.train)
    w = torch.tensor(margin["w"], dtype=torch.float64)
    reached = y * (x @ w) / w.norm(2 if norm == "l2" else 1)
    assert float(reached.min()) == pytest.approx(margin["margin"], abs=1e-6)


def test_closed_form_beyond_the_threshold_no_weights_are_best(data):
    _, _, value = _solved(data, "l2", 20.0)
    assert value["free"]["outcome"] == "constant"
    assert value["free"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert value["free"]["weights"] == 0


def test_end_to_end_a_search_is_judged_beside_the_training(data):
    cell, values, value = _solved(data, "linf", 0.3)
    found = drained(Reach(optimum=cell, smaller=0.2).running(data, values))
    assert found["searched"]["train"] >= max(value["boxed"]["train"], values[cell.trained]["exact"]["train"])
    assert found["smaller"]["train"] > values[cell.trained]["exact"]["train"]


def test_contract_every_outcome_of_a_solve_has_words():
    assert set(get_args(get_type_hints(Solution)["outcome"])) | {"constant"} == set(SOLUTIONS)


def test_contract_what_cannot_be_meant_is_refused():
    trained = Trained(norm="l2", eps=0.5, training=TRAINING)
    with pytest.raises(BadInput, match="the optimum under linf does not belong to the training l2-"):
        Optimum(norm="linf", trained=trained)
    with pytest.raises(BadInput, match=r"does not belong to the training l2-0\.5-noise"):
        Optimum(norm="l2", trained=replace(trained, adversary="noise"))
    with pytest.raises(BadInput, match="norm 'l1' is not one of l2, linf"):
        Margin(norm="l1")
    with pytest.raises(BadInput, match="accuracy is searched for under linf, not under l2"):
        Reach(optimum=Optimum(norm="l2", trained=trained), smaller=0.1)
