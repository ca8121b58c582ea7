"""Slices of the loss of trained linear models."""

from dataclasses import replace

import pytest
import torch

from robustscape.data.digits import Digits
from robustscape.data.splits import of_classes
from robustscape.evaluation.subject import drained
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.studies.landscapes import Slices
from robustscape.studies.trained import Trained
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.types import BadInput, Splits

TRAINING = Training(epochs=1, batch_size=20, optimizer=SGD(lr=0.3, momentum=0.0, weight_decay=0.0), track=0)
EPS = {"l2": 0.7, "linf": 0.15}


@pytest.fixture(scope="module")
def data():
    """80 images of the digits 0 and 1."""
    whole = Digits().load(seed=0)
    train = of_classes(whole.train, (0, 1)).take(slice(0, 80))
    return Splits(train=train, validation=train, test=train)


def weights(data):
    """Return the difference of the classes' means: a classifier that needs no training."""
    x, y = data.train.pixels().flatten(1), data.train.y
    return 1.5 * (x[y == 1].mean(dim=0) - x[y == 0].mean(dim=0))


def cell(norm="l2", eps=None, **settings):
    trained = Trained(norm=norm, eps=EPS[norm] if eps is None else eps, training=TRAINING)
    return Slices(trained=trained, **{"positions": 5, "directions": 2, **settings})


def measured(made, data, w=None):
    w = weights(data) if w is None else w
    return drained(made.running(data, {made.trained: {"w": w.tolist()}}))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_every_position_has_the_exact_adversarial_loss_there(data, norm):
    made, w = cell(norm), weights(data)
    x, y = data.train.pixels().flatten(1), 2 * data.train.y - 1
    problem = AdversarialLogistic(x=x, y=y, norm=norm, eps=EPS[norm], box=(0.0, 1.0))
    value = measured(made, data)
    for number, curve in enumerate(value["loss"]):
        h = made.direction(w, number)
        exact = [float(problem.at(w + alpha * h).loss) for alpha in value["alpha"]]
        assert curve == pytest.approx(exact, rel=1e-5)  # float32
    assert value["alpha"] == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_closed_form_directions_have_the_norm_of_the_weights_and_are_the_same_for_all_models(data):
    made, w = cell(), weights(data)
    first, second = made.direction(w, 0), made.direction(w, 1)
    assert float(first.norm()) == pytest.approx(float(w.norm()), rel=1e-6)
    assert float(second.norm()) == pytest.approx(float(w.norm()), rel=1e-6)
    assert abs(float(first @ second)) < 0.5 * float(w.norm()) ** 2
    torch.testing.assert_close(made.direction(2 * w.flip(0), 0), 2 * first)
    assert not torch.equal(replace(made, seed=1).direction(w, 0), first)
    assert measured(made, data)["norm"] == pytest.approx(float(w.norm()))


@pytest.mark.parametrize("under", ["adversary", "noise"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_contract_slices_are_convex_and_the_same_again(data, norm, under):
    made = cell(norm, under=under)
    value = measured(made, data)
    loss = torch.tensor(value["loss"])
    assert loss.shape == (2, 5)
    assert bool((loss[:, 2:] + loss[:, :-2] - 2 * loss[:, 1:-1] > -1e-6).all())
    assert measured(made, data) == value
    assert measured(replace(made, seed=1), data)["loss"] != value["loss"]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_contract_pgd_never_beats_the_exact_adversary_and_nearly_reaches_it(data, norm):
    value = measured(cell(norm), data)
    assert value["pgd"] >= -1e-6  # float32
    # Under L2 the steps end short of the worst input: into the ball, then into the box, is not the nearest point.
    assert value["pgd"] <= {"l2": 0.02, "linf": 1e-5}[norm] * max(value["loss"][0])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_contract_noise_costs_less_than_the_adversary_and_its_error_is_told(data, norm):
    noise = [measured(cell(norm, under="noise", draws=8, seed=seed), data) for seed in (0, 1)]
    adversary = measured(cell(norm), data)
    middle = [value["loss"][0][2] for value in noise]
    assert max(middle) < adversary["loss"][0][2]
    assert 0 < abs(middle[0] - middle[1]) < 6 * max(value["error"] for value in noise)
    assert noise[0]["pgd"] == adversary["error"] == 0


def test_closed_form_without_eps_it_is_the_clean_loss(data):
    x, y = data.train.pixels().flatten(1), 2 * data.train.y - 1
    clean = torch.nn.functional.softplus(-y * (x @ weights(data))).mean()
    both = [measured(cell(eps=0.0, under=under), data) for under in ("adversary", "noise")]
    assert both[0] == both[1]
    assert both[0]["loss"][1][2] == pytest.approx(float(clean), rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"under": "pgd"}, "under 'pgd' is not one of adversary, noise"),
        ({"positions": 4}, "must be odd and at least 3"),
        ({"width": 0.0}, "width must be above 0"),
        ({"directions": 0}, "not 0 and 4"),
        ({"draws": 1}, "not 2 and 1"),
    ],
)
def test_contract_what_cannot_be_meant_is_refused(wrong, words):
    with pytest.raises(BadInput, match=words):
        cell(**wrong)
