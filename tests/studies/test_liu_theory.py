"""Liu 2020's theory: the pieces that it is tested with, and the verdicts of a small run."""

import math

import pytest
import torch
import torch.nn.functional as F

from robustscape.evaluation.subject import drained
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.linear.norms import dual_norm, size
from robustscape.report.tables import to_csv
from robustscape.streams import Streams
from robustscape.studies._liu_bound import follows, printed
from robustscape.studies._liu_constant import ConstantScales, printed_bar
from robustscape.studies._liu_curvature import SeparableCurvature
from robustscape.studies._liu_descent import SCALAR_THETA_X, scalar_gradient
from robustscape.studies._liu_kink import closed_form
from robustscape.studies._liu_linear import NORMS, depth, extreme_points, problem
from robustscape.studies._liu_logistic import logistic_constants
from robustscape.studies._liu_network import HIDDEN, PARAMETERS, Adversarial, draws, examples, loss, measured
from robustscape.studies.checks import from_value, judged
from robustscape.studies.liu_theory import LiuTheory
from robustscape.studies.runner import studying
from robustscape.types import BadInput

F64 = torch.float64


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    study = LiuTheory(scale="small", seed=1)
    return {result.part: result for result in drained(studying(study, out=tmp_path_factory.mktemp("liu")))}


# -- the study -----------------------------------------------------------------------------------------


def test_end_to_end_every_claim_comes_out_as_derived(results):
    assert list(results) == ["proposition1", "theorem1", "proposition2", "theorem2", "theorem3", "figure5"]
    for result in results.values():
        assert not any("Not as expected" in note for note in result.shown.notes)
        assert len(result.shown.table.rows) >= 2


def test_end_to_end_what_is_wrongly_printed_fails_and_what_is_right_holds(results):
    checks = [result.shown.table.rows for part, result in results.items() if part != "figure5"]
    found = {(row[0].partition(":")[0], row[1]): row[-1] for rows in checks for row in rows}
    assert found["Appendix B.3", "equation 26, < 4 / (γ² − 2γ + 4)"] == "no"
    assert found["Appendix B.3", "inequality 25, ≤ 4 / (γ − 2)²"] == "yes"
    assert found["Theorem 1", "closed form, |a·x| ≤ ε‖a‖_q, K = 5"] == "yes"
    assert found["Section 3.1", "as printed, K = 2"] == "no"
    assert found["Section 3.1", "of V_ε and −V_ε together, K = 2"] == "yes"
    assert found["Theorem 3", "equation 29: Loewner order"] == "yes"
    assert found["Theorem 3", "total Hessian: Loewner order"] == "no"
    assert found["Proposition 2", "as printed"] == "yes"
    assert found["Proposition 2", "without 2ε L_θx"] == "no"


def test_end_to_end_figure_5_has_a_panel_for_each_eps_and_a_table_of_its_kinks(results):
    shown = results["figure5"].shown
    assert [panel.title for panel in shown.panels] == ["ε = 0.6", "ε = 1.2"]
    for panel, eps in zip(shown.panels, (0.6, 1.2), strict=True):
        lines = {line.name: line for line in panel.lines}
        theta = torch.tensor(lines["clean, g"].x, dtype=F64)
        assert torch.allclose(torch.tensor(lines["clean, g"].y, dtype=F64), F.softplus(theta))
        worst, best = (F.softplus(theta + sign * eps * theta.abs()) for sign in (1, -1))
        assert torch.allclose(torch.tensor(lines["adversarial, g_ε"].y, dtype=F64), worst)
        assert torch.allclose(torch.tensor(lines["least in the interval"].y, dtype=F64), best)
    for row, eps in zip(shown.table.rows, (0.6, 1.2), strict=True):
        assert [cell.value for cell in row[1:7:2]] == pytest.approx(closed_form(eps), abs=1e-8)
    assert [row[-1].value for row in shown.table.rows] == pytest.approx([-2, 0], abs=1e-12)
    assert to_csv(shown.table).startswith("ε,Gradient left of 0,")


def test_contract_it_needs_no_images_and_refuses_another_scale():
    assert len(LiuTheory().data().train) == 0
    with pytest.raises(BadInput, match="scale 'large' is not one of paper, small"):
        LiuTheory(scale="large")


def test_contract_a_check_counts_what_exceeds_rounding_and_nan():
    errors = torch.tensor([-1.0, 1e-12, 0.5])
    check = judged("c", form="f", tested="t", errors=errors, tolerance=1e-9)
    assert (check.cases, check.violations, check.worst, check.holds) == (3, 1, 0.5, False)
    assert judged("c", form="f", tested="t", errors=torch.tensor([math.nan])).violations == 1
    with pytest.raises(AssertionError, match="tested on nothing"):
        judged("c", form="f", tested="t", errors=torch.zeros(0))


# -- linear classifiers --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_extreme_points_have_norm_1_and_reach_the_dual_norm(norm):
    points = extreme_points(norm)
    w = Streams(3).normal(7, points.shape[1], dtype=F64)
    assert torch.allclose(size(points, norm), torch.ones(len(points), dtype=F64))
    reached = (w @ points.T).amax(dim=1)
    assert torch.all(reached <= dual_norm(w, norm) + 1e-12)
    assert torch.allclose(reached, dual_norm(w, norm), rtol=1e-3 if norm == "l2" else 1e-12)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_closed_form_the_best_scale_of_two_classes(norm):
    """With two classes the loss at scale s is log(1 + exp(s a.x + eps |s| ||a||_q)): monotone on each side of 0."""
    p = problem(norm, 2, 0, seed=2)
    eps = torch.full_like(p.x[:, 0], 0.4)
    score, rise = (p.a * p.x).sum(dim=1), 0.4 * dual_norm(p.a, norm)
    falls = (score.abs() - rise).clamp(min=0)  # the rate on the better side, 0 inside T
    expected = math.log(2) - F.softplus(-20 * falls)
    assert torch.allclose(depth(p.gaps(eps)), expected, atol=1e-3)
    assert 0 < int((falls == 0).sum()) < len(falls)
    assert torch.all(depth(p.gaps(eps))[falls == 0] <= 1e-12)


def test_closed_form_the_printed_bar_grows_without_bound_as_w_shrinks():
    p = problem("l2", 3, 0, seed=0)
    small, large = (printed_bar(scale * p.weights, p.x, p.y, "l2") for scale in (1e-3, 1.0))
    longest = dual_norm(p.weights[None] - p.weights[p.y][:, None], "l2").amax(dim=1)
    assert torch.allclose(small - large, 999 * math.log(2) / longest)
    assert torch.all(small > size(p.x, "l2"))


def test_closed_form_the_two_bounds_of_theorem_2():
    gamma = torch.tensor([6.0, 12.0], dtype=F64)
    assert printed(gamma).tolist() == pytest.approx([1 / 7, 1 / 31])
    assert follows(gamma).tolist() == pytest.approx([1 / 4, 1 / 25])


def test_contract_cells_tell_how_far_they_are():
    work = ConstantScales(problems=1, seed=0).running(LiuTheory().data(), {})
    assert next(work) == (1, 9)
    work.close()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_only_equation_29_grows(norm):
    checks = from_value(drained(SeparableCurvature(norm=norm, sets=15, seed=5).running(LiuTheory().data(), {})))
    grows = [check for check in checks if check.form.startswith("equation 29") and "any w" not in check.form]
    assert len(grows) == 3
    assert all(check.holds for check in grows)
    along = next(check for check in checks if check.claim.startswith("Why"))
    order = [check for check in checks if check.form.endswith("Loewner order") and check not in grows]
    assert along.holds
    assert order
    assert all(check.violations >= along.cases for check in order)


# -- smoothness and descent ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_logistic_constants_bound_local_ones(norm):
    rng = Streams(0, ("test",))
    x, y = rng.tag("x").normal(20, 5, dtype=F64), rng.tag("y").sign(20, dtype=F64)
    c = logistic_constants(AdversarialLogistic(x=x, y=y, norm=norm, eps=0.3))
    theta = 3 * F.normalize(rng.tag("theta").normal(20, 5, dtype=F64), dim=1)
    s = torch.sigmoid(-y * (x * theta).sum(dim=1))
    outer = torch.einsum("n,ni,nj->nij", s * (1 - s), x, theta)
    mixed = outer - (y * s)[:, None, None] * torch.eye(5, dtype=F64)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 5)
    local = (mixed @ corners.T).norm(dim=1) if norm == "linf" else torch.linalg.matrix_norm(mixed, ord=2)
    assert float(local.max()) <= c.theta_x
    assert float((s * x.norm(dim=1)).max()) <= c.by_theta
    assert float((s * (1 - s) * x.norm(dim=1) ** 2).max()) <= c.theta_theta


def test_closed_form_figure_5s_gradient_and_its_lipschitz_constant():
    theta = torch.linspace(-3, 3, 20, dtype=F64, requires_grad=True)
    eps = torch.tensor([[0.1], [1.2]], dtype=F64)
    (slope,) = torch.autograd.grad(F.softplus(theta + eps * theta.abs()).sum(), theta)
    assert torch.allclose(scalar_gradient(theta.detach(), eps).sum(dim=0), slope)
    u = torch.linspace(-10, 10, 200_001, dtype=F64)
    assert float((torch.sigmoid(u) * (1 + u * (1 - torch.sigmoid(u)))).max()) == pytest.approx(SCALAR_THETA_X, abs=1e-8)


def test_closed_form_worst_inputs_of_the_network_are_the_worst_of_all_tried():
    theta = Streams(4).normal(2, PARAMETERS, dtype=F64)
    network = Adversarial(activation="silu", eps=torch.tensor([0.1, 0.4], dtype=F64))
    x, y = examples()
    worst = network.worst(theta)
    assert torch.all((worst - x).abs().amax(dim=(1, 2)) <= network.eps + 1e-12)
    highest = loss(theta, worst, y, "silu")
    for place in range(network.inputs.shape[2]):
        assert torch.all(loss(theta, network.inputs[:, :, place], y, "silu") <= highest)
    each, (gradient,) = network.at(theta, torch.full((2, len(x)), 1 / len(x), dtype=F64))
    step = 1e-6 * F.normalize(gradient, dim=1)
    ahead, behind = (network.at(theta + sign * step)[0].mean(dim=1) for sign in (1, -1))
    assert torch.allclose((ahead - behind) / 2e-6, gradient.norm(dim=1), rtol=1e-6)
    assert torch.allclose(each, highest)


def test_closed_form_measured_constants_are_those_of_the_derivatives():
    d = draws(Streams(5).normal(1, PARAMETERS, dtype=F64), 0.3, Streams(6))
    c = measured("softplus", d)

    def gradient(theta, x):
        at = theta.clone().requires_grad_()
        return torch.autograd.grad(loss(at, x, d.y[:, None], "softplus").sum(), at, create_graph=True)[0][0]

    first = gradient(d.theta, d.x[:, None])
    assert c.by_theta == pytest.approx(first.norm().item())
    hessian = torch.autograd.functional.hessian(
        lambda theta: loss(theta[None], d.x[:, None], d.y[:, None], "softplus").sum(), d.theta[0]
    )
    assert c.theta_theta == pytest.approx(float(torch.linalg.matrix_norm(hessian, ord=2)))
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)
    changes = [gradient(d.theta, (d.x + 1e-6 * corner)[:, None]) - first for corner in corners]
    assert c.theta_x == pytest.approx(max(change.norm().item() for change in changes) / 1e-6, rel=1e-4)


def test_closed_form_the_jump_at_a_hidden_units_kink():
    """There the gradient by the unit's weights and bias jumps by s |v| sqrt(1 + |x|^2), v its outer weight."""
    rng = Streams(7)
    theta = torch.cat([torch.zeros(1, PARAMETERS, dtype=F64), rng.normal(1, PARAMETERS, dtype=F64)])
    d = draws(theta, 0.3, rng)
    c = measured("relu", d)
    changed = (d.theta2[1] - d.theta[1]).nonzero().flatten()
    assert len(changed) == 1
    outer = d.theta[1, changed + HIDDEN]
    s = 1 - torch.exp(-loss(d.theta[1:], d.x[1:, None], d.y[1:, None], "relu"))
    expected = float(s * outer.abs() * (1 + d.x[1].square().sum()).sqrt())
    assert c.jump_theta == pytest.approx(expected, rel=1e-6)
