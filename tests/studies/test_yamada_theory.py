"""The theory of Yamada 2021: what its checks rest on, and what they find."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robustscape.data.digits import Digits
from robustscape.data.splits import of_classes
from robustscape.evaluation.subject import drained
from robustscape.linear.hessian import hessian
from robustscape.linear.noise import Gaussian, InBall
from robustscape.linear.separability import constant_threshold
from robustscape.streams import Streams
from robustscape.studies import _yamada_adversary as adversary
from robustscape.studies import _yamada_noise as noise
from robustscape.studies import _yamada_theorems as theorems
from robustscape.studies._yamada_cells import AtTrained, MadeUp, curve
from robustscape.studies._yamada_points import ROUNDING, compared, meeting, noisy, random_points
from robustscape.studies.checks import from_value, surprises
from robustscape.studies.curvatures import Curvature
from robustscape.studies.runner import studying
from robustscape.studies.trained import Trained
from robustscape.studies.yamada import Yamada
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.types import BadInput, Splits

RNG = Streams(3, ("test",))
POINTS = random_points(RNG.tag("points"), 3)
TRAINING = Training(epochs=1, batch_size=20, optimizer=SGD(lr=0.3, momentum=0.0, weight_decay=0.0), track=0)


def _loss(point, w):
    """The worst-case loss in closed form."""
    rise = point.eps * torch.linalg.vector_norm(w, ord={"l2": 2, "linf": 1}[point.norm])
    return F.softplus(rise - point.y * (point.x @ w)).mean()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_differences_are_the_derivatives_of_the_worst_case_loss(norm):
    for point in random_points(RNG.tag("points"), 3, norm=norm):
        slope = torch.autograd.functional.jacobian(lambda w, point=point: _loss(point, w), point.w)
        bend = torch.autograd.functional.hessian(lambda w, point=point: _loss(point, w), point.w)
        torch.testing.assert_close(point.slopes(), slope, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(point.bends(), bend, rtol=1e-7, atol=1e-9)


def test_closed_form_differences_under_noise_leave_the_noise_where_it_is():
    point = noisy(RNG.tag("noise"), POINTS[0])
    assert float(point.noise.abs().max()) <= point.eps
    bend = torch.autograd.functional.hessian(
        lambda w: F.softplus(-point.y * ((point.x + point.noise) @ w)).mean(), point.w
    )
    torch.testing.assert_close(point.bends(), bend, rtol=1e-7, atol=1e-9)


def test_closed_form_the_condition_of_theorem_1_is_the_threshold_of_the_constant_classifier():
    for point in map(meeting, POINTS):
        assert float(_loss(point, point.w)) == pytest.approx(math.log(2), abs=1e-14)
        assert float(_loss(point, 7 * point.w)) == pytest.approx(math.log(2), abs=1e-13)
        assert float(point.gradient(point.w).abs().max()) < 1e-14
        assert constant_threshold(point.x, point.y, norm="l2", intercept=False) == pytest.approx(point.eps)
        values = torch.linalg.eigvalsh(hessian(adversary.worst(point)))
        expected = torch.full_like(values, point.eps / (2 * float(point.w.norm())))
        expected[0] = 0
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-14)


def test_contract_an_equation_that_is_a_little_wrong_fails():
    true = torch.tensor([3.0, -2.0], dtype=torch.float64)
    pairs = [(true, true), (true + 3e-5, true)]
    check = compared("Equation 0", "as printed", "two", pairs, expected=False)
    assert (check.cases, check.violations, check.holds) == (2, 1, False)
    assert check.worst == pytest.approx(1e-5)
    assert compared("", "", "", [(true * (1 + ROUNDING / 2), true)]).holds


def test_contract_only_what_a_derivation_settles_can_surprise():
    found = [
        compared("", "", "", [(torch.ones(1), torch.tensor([2.0]))], expected=value) for value in (True, False, None)
    ]
    assert surprises(found) == ("Not as expected:  () fails here.",)


def test_closed_form_wrong_readings_of_lemma_1_are_off_by_what_turning_eta_costs():
    """For one example at x = 0, the loss goes from softplus(-r) to softplus(r), r = ||w|| eps, the wrong way."""
    point = replace(POINTS[0], x=torch.zeros(1, 7, dtype=torch.float64), y=torch.ones(1, dtype=torch.float64))
    checks = [check for check in adversary.equations([point], "one", RNG) if check.claim == adversary.LEMMA]
    r = point.eps * float(point.w.norm())
    steps = F.softplus(torch.linspace(-r, r, 21, dtype=torch.float64)).diff()
    assert [check.worst for check in checks] == pytest.approx([float(steps.max()), -float(steps.min())])
    assert [check.holds for check in checks] == [False, True]


def test_closed_form_minima_have_no_gradient_but_their_examples_have():
    data = theorems.overlapping(RNG.tag("data"), 3)
    sets = theorems.minima(data)
    assert [len(points) for points in sets] == [7] * len(sets)
    assert len(sets) >= 2
    for points in sets:
        assert [point.eps for point in points] == sorted(point.eps for point in points)
        for point in points:
            assert float(point.gradient(point.w).norm()) < 1e-6
        lengths = [float(point.w.norm()) for point in points]
        assert lengths == sorted(lengths, reverse=True)
        assert not adversary.condition(points, "", expected=False).holds


@pytest.mark.parametrize("law", [InBall(eps=1.0), Gaussian(sigma=0.5)])
def test_closed_form_the_minimum_under_noise_has_no_gradient(law):
    for point in theorems.overlapping(RNG.tag("data"), 2):
        assert float(theorems._settled(point, law).gradient().norm()) < 1e-8


def test_closed_form_lines_and_falls():
    x = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    found = theorems.crookedness(x, torch.stack([2 - 3 * x, (x - 1.5).square()]))
    assert found.tolist() == pytest.approx([0, 1], abs=1e-14)
    assert theorems.falls(torch.tensor([[4.0, 3.0, 6.0]])).tolist() == [0.25, -1.0]


def test_end_to_end_made_up_checks_come_out_as_derived():
    value = drained(MadeUp(problems=3).running(None, {}))
    checks = from_value(json.loads(json.dumps(value, allow_nan=False))["checks"])
    assert surprises(checks) == ()
    failing = {check.claim for check in checks if check.form.startswith("as printed") and not check.holds}
    assert failing == {adversary.SEVEN, adversary.LEMMA, adversary.EIGHT, adversary.NINE, noise.THIRTEEN}
    assert drained(MadeUp(problems=3, seed=1).running(None, {})) != value


@pytest.fixture(scope="module")
def data():
    """60 images of the digits 0 and 1."""
    whole = Digits().load(seed=0)
    train, test = (of_classes(images, (0, 1)).take(slice(0, 60)) for images in (whole.train, whole.test))
    return Splits(train=train, validation=test, test=test)


def test_end_to_end_checks_at_trained_weights(data):
    natural = Trained(training=TRAINING, train_steps=2, test_steps=2)
    ball, box = replace(natural, norm="l2", eps=0.5), replace(natural, norm="linf", eps=0.05)
    curvatures = tuple(Curvature(trained=cell) for cell in (natural, ball, box))
    shaken = (replace(ball, adversary="noise"), replace(box, adversary="noise"))
    values = {cell: drained(cell.running(data, {})) for cell in (natural, ball, box, *shaken)}
    values |= {cell: drained(cell.running(data, values)) for cell in curvatures}
    cell = AtTrained(curvatures=curvatures, shaken=shaken, rows=30)
    assert set(cell.needs) == set(values)
    found = drained(cell.running(data, values))
    assert surprises(from_value(found["checks"])) == ()
    x, y = data.train.pixels().flatten(1).double(), (2 * data.train.y - 1).double()
    growth = found["growth"]
    for each, training in zip(growth, (natural, ball, box), strict=False):
        w = torch.tensor(values[training]["w"], dtype=torch.float64)
        point = replace(POINTS[0], x=x, y=y, w=w, eps=training.eps, norm=training.norm)
        bend = torch.autograd.functional.hessian(lambda w, point=point: _loss(point, w), w)
        assert each["length"] == pytest.approx(float(w.norm()))
        assert each["total"] == pytest.approx(float(torch.linalg.eigvalsh(bend)[-1]), rel=1e-6)
        assert (each["held"] < each["total"]) == (training is ball)
    assert [(each["adversary"], each["norm"], each["eps"]) for each in growth[3:]] == [
        ("noise", "l2", 0.5),
        ("noise", "linf", 0.05),
    ]
    assert [each["eps"] for each in curve(growth, "noise", "linf")] == [0, 0.05]


def test_end_to_end_the_part_is_shown(tmp_path):
    study = Yamada(scale="small", train_steps=1, test_steps=1)
    study = replace(study, training=replace(study.training, epochs=1))
    (result,) = drained(studying(study, out=tmp_path, only=["theory"]))
    claims = [row[0] for row in result.shown.table.rows]
    assert list(dict.fromkeys(claims))[:3] == [adversary.SEVEN, adversary.LEMMA, adversary.EIGHT]
    assert len(claims) > 40
    notes = " ".join(result.shown.notes)
    assert "Not as expected" not in notes
    assert "Largest eigenvalue at trained weights" in notes
    assert "means nothing" in notes


def test_contract_what_cannot_be_meant_is_refused():
    with pytest.raises(BadInput, match="problems must be at least 1, not 0"):
        MadeUp(problems=0)
