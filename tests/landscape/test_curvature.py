from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape._following import climbed, each_loss, nearest
from robustscape.landscape._implicit import Total, solved
from robustscape.landscape.curvature import Curvature
from robustscape.landscape.operator import hessian, worst_inputs
from robustscape.landscape.runner import measure
from robustscape.linear.hessian import eigenvalues
from robustscape.linear.hessian import hessian as linear_hessian
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.types import BadInput, Diverged

SCALE = 20.0  # so far inside the pixel box that the box never acts


class Logistic(nn.Module):
    """Logits (-w.x, w.x) / 2 of features that pixels around 0.5 stand for: the loss is log(1 + exp(-y w.x))."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        margin = (x.flatten(1) - 0.5) * SCALE @ self.w
        return torch.stack([-margin, margin], dim=1) / 2


def logistic(n=90, d=8):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64).clamp(-4, 4)
    y = torch.arange(n) % 2
    model = Logistic(torch.randn(d, generator=g, dtype=torch.float64) / 2)
    return x, y, model, subject(model, (0.5 + x / SCALE).view(n, 1, 1, d), y, seed=5, batch=50)


def attack(norm, eps, **more):
    return PGD(threat=ThreatModel(norm=norm, eps=eps), steps=20, result="best_loss", **more)


def smooth(kind=nn.Tanh, n=6):
    """A small convolutional network in float64, and images away from the edges of the box."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, 3, 2), kind(), nn.Flatten(), nn.Linear(12, 6), kind(), nn.Linear(6, 3)]
        model = nn.Sequential(*layers).double()
        x = 0.2 + 0.6 * torch.rand(n, 1, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return subject(model, x, torch.arange(n) % 3, seed=3, batch=4, split="test")


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_of_logistic_regression(norm):
    """Under l2 most of the curvature is in the term that held inputs drop; under linf there is none in it."""
    x, y, model, made = logistic()
    settings = Curvature(attack=attack(norm, 1 / SCALE), multiples=(1.0,), radii=(1e-3,), products=20)
    found = measure(settings, made).levels[0]
    worst = AdversarialLogistic(x=x, y=2 * y - 1, norm=norm, eps=1.0).at(model.w.detach())
    held = linear_hessian(worst, form="held")
    vectors = torch.linalg.eigh(held).eigenvectors
    about = found.along[0]
    assert about.direction == "eigenvector 1" and about.converged
    assert about.held == pytest.approx(float(vectors[:, -1] @ held @ vectors[:, -1]), rel=1e-3)  # residual of 1 %
    top = eigenvalues(worst, 1, form="total").values
    assert found.top.by == "implicit" and found.top.converged
    assert float(top[0]) - found.top.residual <= found.top.total <= float(top[0]) * (1 + 1e-9)
    for about in found.along:
        assert about.reason == "" and about.residual < 1e-3
        difference = about.differences[0]
        assert difference.total_by_gradients == pytest.approx(about.total, rel=1e-5)
        assert difference.held_by_gradients == pytest.approx(about.held, rel=1e-5)
    assert found.pinned == (1 if norm == "linf" else 0) and found.stationary == found.strict == 1
    if norm == "linf":
        assert all(about.ratio == pytest.approx(1, abs=1e-12) for about in found.along)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_of_the_whole_matrix(norm):
    x, y, model, made = logistic()
    threat = ThreatModel(norm=norm, eps=1 / SCALE)
    x_adv = climbed(made, worst_inputs(made, attack(norm, 1 / SCALE), "test"), threat, 30)
    held = hessian(made, x_adv)
    times = Total(made, x_adv, threat, held, tolerance=1e-10)
    matrix = torch.stack([times(v) for v in torch.eye(8, dtype=torch.float64)])
    worst = AdversarialLogistic(x=x, y=2 * y - 1, norm=norm, eps=1.0).at(model.w.detach())
    torch.testing.assert_close(matrix, linear_hessian(worst, form="total"), rtol=1e-7, atol=1e-9)
    assert float(matrix.trace()) > 1.2 * float(linear_hessian(worst, form="held").trace()) or norm == "linf"


class Quadratic(nn.Module):
    """A network whose cross-entropy is a quadratic: 3 + w'H w / 2 + w'B d - d'C d / 2, d the pixels less 0.5."""

    def __init__(self, *, outer, mixed, inner):
        super().__init__()
        for name, value in (("H", outer), ("B", mixed), ("C", inner)):
            self.register_buffer(name, value)
        self.w = nn.Parameter(torch.full((len(outer),), 0.02, dtype=torch.float64))

    def forward(self, x):
        d = x.flatten(1) - 0.5
        bends = ((d @ self.C) * d).sum(dim=1) / 2
        q = 3 + self.w @ self.H @ self.w / 2 + d @ (self.B.T @ self.w) - bends
        return torch.stack([torch.zeros_like(q), q.expm1().log()], dim=1)  # of label 0: log(1 + exp(.)) = q


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_closed_form_of_a_quadratic_minimax(norm):
    """The worst d is C^-1 B'w, inside the ball, and the Hessian H + B C^-1 B'; the loss is quadratic in w."""
    g = torch.Generator().manual_seed(4)
    a, B, c = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((4, 4), (4, 3), (3, 3)))
    H, C = a @ a.T, c @ c.T + 2 * torch.eye(3, dtype=torch.float64)
    x = torch.full((3, 1, 1, 3), 0.5, dtype=torch.float64)
    made = subject(Quadratic(outer=H, mixed=B, inner=C), x, torch.zeros(3, dtype=torch.int64), batch=2)
    settings = Curvature(
        attack=attack(norm, 0.4), multiples=(1.0,), eigenvectors=1, random=0, radii=(0.01,), settle=40, follow=25
    )
    found = measure(settings, made).levels[0]
    total = H + B @ torch.linalg.solve(C, B.T)
    about, difference = found.along[0], found.along[0].differences[0]
    assert found.pinned == 0 and found.stationary == found.strict == 1
    assert found.top.total == pytest.approx(float(torch.linalg.eigvalsh(total)[-1]), rel=1e-6)  # all 4 dimensions
    assert found.top.held == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-6)
    assert about.total == pytest.approx(difference.total.value, rel=1e-7)
    assert about.total == pytest.approx(difference.total_by_gradients, rel=1e-7)
    assert about.held == pytest.approx(difference.held.value, rel=1e-7)
    assert about.ratio > 1.03 and difference.excess.value == pytest.approx(about.total - about.held, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l2", 0.5)])
def test_reference_implicit_term_of_a_smooth_network_equals_differences_of_attacked_gradients(norm, eps):
    made = smooth()
    settings = Curvature(attack=attack(norm, eps), multiples=(1.0,), radii=(1e-4,), settle=150, follow=50, products=0)
    found = measure(settings, made).levels[0]
    assert found.stationary == found.strict == 1 and found.pinned < 1
    for about in found.along:
        difference = about.differences[0]
        assert about.reason == "" and about.total > about.held
        assert difference.total_by_gradients == pytest.approx(about.total, rel=1e-4)
        assert difference.held_by_gradients == pytest.approx(about.held, rel=1e-4)
        assert difference.excess.low <= difference.excess.value <= difference.excess.high
        assert difference.total.n == 6


def test_contract_a_relu_network_under_linf_has_no_implicit_term_and_says_why():
    made = smooth(nn.ReLU, n=4)
    settings = Curvature(attack=attack("linf", 0.3), multiples=(0.0, 1.0), radii=(0.01, 0.1), products=6)
    clean, robust = measure(settings, made).levels
    assert (clean.eps, robust.eps) == (0, 0.3)
    for about in robust.along:
        assert about.total is None and about.ratio is None
        assert "not defined" in about.reason and "ReLU" in about.reason
        for difference in about.differences:
            # with its inputs following the loss is nowhere lower than with them held
            assert difference.excess.value >= -difference.noise / 2
    assert robust.strict < 1 and robust.top.by == "differences at radius 0.1"
    assert robust.top.held_by_differences < robust.top.total and clean.top.held_by_differences is None
    assert clean.top.by == "held" and clean.top.total == clean.top.held
    for about in clean.along:
        assert about.total == about.held and about.ratio == 1 and about.reason == ""
        assert about.differences[0].excess.value == 0


def test_contract_examples_may_be_left_out_of_the_implicit_term_where_that_is_asked_for():
    made = smooth(nn.ReLU, n=12)
    settings = Curvature(attack=attack("linf", 0.12), multiples=(1.0,), eigenvectors=0, products=0, radii=(0.1,))
    strictly = measure(settings, made).levels[0]
    partly = measure(replace(settings, leave_out=0.9), made).levels[0]
    assert 0.1 < strictly.stationary < 1 and strictly.stationary == partly.stationary
    for refused, about in zip(strictly.along, partly.along, strict=True):
        assert refused.total is None and about.reason == "" and about.held == refused.held
        assert about.total >= about.held - 1e-12


def test_contract_points_alone_and_other_batches_give_the_same():
    made = smooth()
    settings = Curvature(attack=attack("l2", 0.3), multiples=(0.5, 1.0), radii=(0.03,), settle=20, products=6)
    assert settings.points() == [[0, 0], [0, 1], [0, "top"], [1, 0], [1, 1], [1, "top"]]
    together = settings.several(made, settings.points()[1:5])
    assert together[0] == settings.at(made, [0, 1]) and together[3] == settings.at(made, [1, 1])
    again = settings.at(replace(made, batch=6), [1, 0])
    for name in ("held", "total", "loss"):
        assert again[name] == pytest.approx(together[2][name], rel=1e-6)


def test_contract_under_l1_only_differences():
    made = smooth(n=3)
    settings = Curvature(
        attack=APGD(threat=ThreatModel(norm="l1", eps=0.6), steps=10), multiples=(1.0,), radii=(0.03,), products=0
    )
    found = measure(settings, made).levels[0]
    assert found.pinned is None and found.strict is None
    assert all(a.total is None and "l1" in a.reason and a.differences[0].excess.value >= -1e-9 for a in found.along)


def test_closed_form_relative_coordinates_do_not_see_rescaled_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)).double()
    x = torch.rand(5, 1, 3, 3, dtype=torch.float64)
    settings = Curvature(attack=attack("linf", 0.1), multiples=(0.0,), coordinates="layer", radii=(0.01,), products=0)

    def seen(coordinates):
        made = subject(model, x, torch.arange(5) % 3, batch=5)
        return [about.held for about in measure(replace(settings, coordinates=coordinates), made).levels[0].along]

    relative, raw = seen("layer"), seen("raw")
    with torch.no_grad():
        model[1].weight *= 2
        model[3].weight /= 2
    assert seen("layer") == pytest.approx(relative, rel=1e-6)
    assert seen("raw") != pytest.approx(raw, rel=0.1)


def test_closed_form_nearest_point_of_ball_and_box_under_l2():
    """By bisection of the multiplier: the nearest point is clip(x + delta / (1 + m))."""
    g = torch.Generator().manual_seed(2)
    x = torch.rand(40, 1, 2, 6, generator=g, dtype=torch.float64).round(decimals=1)
    z = x + 2 * torch.randn(x.shape, generator=g, dtype=torch.float64) * torch.linspace(0.01, 1, 40).view(-1, 1, 1, 1)
    threat = ThreatModel(norm="l2", eps=0.7)
    low, high = torch.zeros(40, dtype=torch.float64), torch.full((40,), 1.0, dtype=torch.float64)

    def at(s):
        return (x + (z - x) * s.view(-1, 1, 1, 1)).clamp(0, 1)

    for _ in range(60):
        middle = (low + high) / 2
        inside = (at(middle) - x).flatten(1).norm(dim=1) <= threat.eps
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    torch.testing.assert_close(nearest(z, x, threat), at(low), rtol=0, atol=1e-9)
    assert bool((at(low) == 0).any()) and bool((low > 0.999).any())


def test_reference_conjugate_gradients_solve_every_row_or_say_why_not():
    g = torch.Generator().manual_seed(3)
    a = torch.randn(4, 5, 5, generator=g, dtype=torch.float64)
    B = a @ a.transpose(1, 2) + torch.eye(5, dtype=torch.float64)
    B[2] -= 30 * torch.eye(5, dtype=torch.float64)
    c = torch.randn(4, 5, generator=g, dtype=torch.float64)
    c[3] = 0
    z, strict, residual = solved(lambda p: torch.einsum("nij,nj->ni", B, p), c, tolerance=1e-12, most=20)
    good = torch.tensor([0, 1, 3])
    torch.testing.assert_close(z[good], torch.linalg.solve(B[good], c[good]))
    assert strict.tolist() == [True, True, False, True]
    assert float(residual[good].max()) < 1e-10 and float(residual[2]) > 0.1 and float(residual[3]) == 0


def test_contract_an_ascent_never_ends_lower_and_draws_nothing():
    made = smooth()
    threat = ThreatModel(eps=0.3)
    before = each_loss(made, made.x)
    once = climbed(made, made.x, threat, 15)
    assert torch.equal(once, climbed(made, made.x, threat, 15))
    assert bool((each_loss(made, once) > before).all())
    assert float((once - made.x).abs().max()) <= 0.3 + 1e-12
    further = F.cross_entropy(made.model(climbed(made, once, threat, 15)), made.y, reduction="none").detach()
    assert bool((further >= each_loss(made, once) - 1e-12).all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"multiples": ()}, "at least one"),
        ({"multiples": (-1.0,)}, "at least 0"),
        ({"multiples": (255.0,)}, "outside"),
        ({"radii": (0.0,)}, "above 0"),
        ({"eigenvectors": 0, "random": 0, "products": 0}, "something to measure"),
        ({"eigenvectors": -1}, "something to measure"),
        ({"coordinates": "row"}, "row"),
        ({"follow": 0}, "follow"),
        ({"leave_out": 5.0}, "did you mean 5 %"),
    ],
)
def test_contract_refuses_what_cannot_be_meant(change, words):
    with pytest.raises(BadInput, match=words):
        Curvature(**change)


def test_contract_a_radius_at_which_the_loss_overflows_is_named():
    made = smooth()
    settings = Curvature(attack=attack("linf", 0.1), multiples=(0.0,), radii=(1e308,), eigenvectors=0, products=0)
    with pytest.raises(Diverged, match=r"radius 1e\+308.*smaller"):
        measure(settings, made)
