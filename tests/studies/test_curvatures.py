"""Eigenvalues of trained linear models, measured and exact."""

import pytest
import torch

from robustscape.data.digits import Digits
from robustscape.data.splits import of_classes
from robustscape.evaluation.subject import drained
from robustscape.linear.hessian import eigenvalues
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.studies.curvatures import Curvature
from robustscape.studies.trained import Trained
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.types import BadInput, Splits

TRAINING = Training(epochs=1, batch_size=20, optimizer=SGD(lr=0.3, momentum=0.0, weight_decay=0.0), track=0)
EPS = {"l2": 0.7, "linf": 0.1}


@pytest.fixture(scope="module")
def data():
    """120 images of the digits 0 and 1."""
    whole = Digits().load(seed=0)
    train = of_classes(whole.train, (0, 1)).take(slice(0, 120))
    return Splits(train=train, validation=train, test=train)


def weights(data):
    """Return the difference of the classes' means, moved off 0 where no image has ink."""
    x, y = data.train.pixels().flatten(1), data.train.y
    apart = x[y == 1].mean(dim=0) - x[y == 0].mean(dim=0)
    return 1.5 * torch.where(apart == 0, 0.01, apart)


def measured(data, norm, eps):
    cell = Curvature(trained=Trained(norm=norm, eps=eps, training=TRAINING))
    return drained(cell.running(data, {cell.trained: {"w": weights(data).tolist()}}))


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.0), ("l2", EPS["l2"]), ("linf", EPS["linf"])])
def test_closed_form_lanczos_at_held_inputs_of_pgd_finds_the_exact_eigenvalues(data, norm, eps):
    value = measured(data, norm, eps)
    assert value["measured"] == pytest.approx(value["held"], rel=1e-3)  # what PGD leaves
    assert value["measured"] == sorted(value["measured"], reverse=True)
    assert -1e-6 <= value["pgd"] <= 1e-3
    assert not value["kinks"]


def test_closed_form_the_eigenvalues_are_those_of_the_whole_training_loss(data):
    w, x, y = weights(data).double(), data.train.pixels().flatten(1).double(), 2 * data.train.y - 1
    value = measured(data, "l2", EPS["l2"])
    for box, words in (((0.0, 1.0), ""), (None, ", no box")):
        worst = AdversarialLogistic(x=x, y=y, norm="l2", eps=EPS["l2"], box=box).at(w)
        for form in ("held", "total"):
            exact = eigenvalues(worst, 3, form=form).values.tolist()
            assert value[f"{form}{words}"] == pytest.approx(exact, rel=1e-5)  # float32


def test_contract_only_under_l2_do_the_inputs_follow_the_weights(data):
    l2, linf, clean = (measured(data, *each) for each in (("l2", EPS["l2"]), ("linf", EPS["linf"]), ("linf", 0.0)))
    for words in ("", ", no box"):
        assert all(t > h for t, h in zip(l2[f"total{words}"], l2[f"held{words}"], strict=True))
        assert linf[f"total{words}"] == linf[f"held{words}"]
    assert clean["held"] == clean["held, no box"] == clean["total"]


def test_contract_what_cannot_be_meant_is_refused():
    with pytest.raises(BadInput, match="top must be at least 1, not 0"):
        Curvature(trained=Trained(training=TRAINING), top=0)
