"""The ball, its box and its refusals."""

from __future__ import annotations

import math

import pytest
import torch

from robustscape.attacks.apgd import APGD
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.noise import Noise
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel, l1_norm, l2_norm, shrunk
from robustscape.streams import numbered
from robustscape.types import BadInput


@pytest.mark.parametrize(
    ("norm", "eps", "hint"),
    [
        ("linf", 8, "did you mean 8/255?"),
        ("l2", 128, "did you mean 128/255?"),
        ("l1", 3060, "did you mean 3060/255?"),
        ("linf", -0.1, "outside"),
        ("l1", -1, "outside"),
        ("l3", 1, "not one of linf, l2, l1"),
    ],
)
def test_contract_an_eps_that_cannot_be_meant_is_refused(norm, eps, hint):
    with pytest.raises(BadInput, match=hint.replace("?", r"\?")):
        ThreatModel(norm=norm, eps=eps)


@pytest.mark.parametrize("eps", [math.nan, math.inf])
def test_contract_non_finite_eps_is_refused(eps):
    with pytest.raises(BadInput):
        ThreatModel(eps=eps)


def test_closed_form_projection_linf_by_hand():
    x = torch.tensor([[0.5, 0.05, 0.95]])
    moved = ThreatModel(norm="linf", eps=0.1).project(torch.tensor([[0.9, -1.0, 1.0]]), x)
    assert torch.allclose(moved, torch.tensor([[0.6, 0.0, 1.0]]))


def test_closed_form_projection_l2_by_hand():
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    far = x + torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    moved = ThreatModel(norm="l2", eps=0.1).project(far, x)
    assert torch.allclose(moved, x + torch.tensor([[0.06, 0.08]], dtype=torch.float64), atol=1e-12)


def test_closed_form_steepest_maximises_a_linear_loss():
    gradient = torch.tensor([[3.0, -4.0, 0.0]])
    assert torch.equal(ThreatModel(norm="linf").steepest(gradient), torch.tensor([[1.0, -1.0, 0.0]]))
    assert torch.allclose(ThreatModel(norm="l2").steepest(gradient), torch.tensor([[0.6, -0.8, 0.0]]))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_closed_form_l2_direction_has_unit_norm_at_any_scale(scale):
    gradient = torch.tensor([[3.0, -4.0]]) * scale
    assert torch.allclose(ThreatModel(norm="l2").steepest(gradient), torch.tensor([[0.6, -0.8]]))


def test_closed_form_zero_gradient_moves_nothing():
    zero = torch.zeros(2, 3)
    for norm in ("linf", "l2", "l1"):
        assert torch.equal(ThreatModel(norm=norm).steepest(zero), zero)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_closed_form_samples_fill_the_ball_uniformly(norm):
    x = torch.full((20_000, 2), 0.5, dtype=torch.float64)
    delta = ThreatModel(norm=norm, eps=0.2).sample(x, numbered(x, "s")) - x
    length = {"linf": delta.abs().amax(dim=1), "l2": l2_norm(delta), "l1": l1_norm(delta)}[norm]
    # The share of a uniform ball within half its radius is 2^-d; here d = 2; four standard errors.
    assert length.max() <= 0.2 + 1e-12
    assert abs((length < 0.1).double().mean() - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5
    # And every quadrant, and each half of it, holds its share.
    above, right, wide = (delta[:, 0] > 0).double(), (delta[:, 1] > 0).double(), delta[:, 0].abs() > delta[:, 1].abs()
    for share in (above.mean(), right.mean(), (above == right).double().mean(), wide.double().mean()):
        assert abs(share - 0.5) < 4 * (0.25 / 20_000) ** 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_closed_form_a_start_along_a_direction_is_a_uniform_share_of_the_radius_away(norm):
    """Normal directions: under linf every pixel is as often the largest one, of either sign."""
    x = torch.full((4000, 1, 2, 2), 0.5, dtype=torch.float64)
    moved = (ThreatModel(norm=norm, eps=0.3).along(x, numbered(x, "x")) - x).flatten(1)
    away = moved.abs().amax(dim=1) if norm == "linf" else moved.norm(dim=1)
    expected = 0.3 * (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    assert float((away.sort().values - expected).abs().max()) < 0.3 * 0.026  # Kolmogorov: 1 in 100 above 1.63 / sqrt(N)
    largest = moved.abs().argmax(dim=1)
    counts = torch.stack([((largest == k) & (moved[:, k].sign() == s)).sum() for k in range(4) for s in (-1, 1)])
    assert float((counts - 500).abs().max()) < 4 * 21  # a standard deviation is 21
    halves = ThreatModel(norm=norm, eps=0.3).along(x, numbered(x, "x"), torch.full((4000,), 0.15, dtype=torch.float64))
    torch.testing.assert_close((halves - x).flatten(1), moved / 2, rtol=1e-9, atol=1e-12)


def test_closed_form_a_start_within_another_ball_is_uniform_there_and_then_moved():
    """Beyond eps, the share of the other ball that lies outside ends at the edge, half of it on each side."""
    x = torch.full((4000, 1), 0.5, dtype=torch.float64)
    threat = ThreatModel(eps=0.1)
    near = (threat.nearby(x, numbered(x, "x"), 0.04) - x).flatten()
    expected = 0.04 * (2 * (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 - 1)
    assert float((near.sort().values - expected).abs().max()) < 0.08 * 0.026  # Kolmogorov, as above
    far = (threat.nearby(x, numbered(x, "x"), torch.full((4000,), 0.25, dtype=torch.float64)) - x).flatten()
    torch.testing.assert_close(far, (near * 0.25 / 0.04).clamp(-0.1, 0.1), rtol=0, atol=1e-12)
    assert abs(float((far.abs() > 0.1 - 1e-12).double().mean()) - 0.6) < 4 * (0.6 * 0.4 / 4000) ** 0.5
    flat = torch.full((4000, 2), 0.5, dtype=torch.float64)
    away = l2_norm(ThreatModel(norm="l2", eps=0.1).nearby(flat, numbered(flat, "x"), 0.2) - flat)
    inside = float((away < 0.1 - 1e-9).double().mean())  # a disc of half the radius has a quarter of the area
    assert float(away.max()) < 0.1 + 1e-12 and abs(inside - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    with_eps = threat.nearby(x, numbered(x, "x"), 0.25, torch.full((4000,), 0.02, dtype=torch.float64)) - x
    assert float(with_eps.abs().max()) <= 0.02 + 1e-12


def test_contract_eps_of_each_example():
    x = torch.full((3, 4), 0.5)
    eps = torch.tensor([0.0, 0.1, 0.2])
    for norm, measure in (("linf", lambda d: d.abs().amax(dim=1)), ("l2", l2_norm), ("l1", l1_norm)):
        threat = ThreatModel(norm=norm, eps=0.05)
        moved = threat.project(x + 1, x, eps) - x
        length = measure(moved)
        assert torch.allclose(length, eps, atol=1e-6)


def _brute(delta, x, eps):
    """The nearest point of the L1 ball inside the box, by halving the threshold's interval."""
    low, high = 0.0, float(delta.abs().max())

    def at(t):
        return torch.minimum(torch.maximum(delta.sign() * (delta.abs() - t).clamp(min=0), -x), 1 - x)

    if float(at(0.0).abs().sum()) <= eps:
        return at(0.0)
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if float(at(t).abs().sum()) > eps else (low, t)
    return at(high)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 0.3, 2.0, 50.0])
def test_closed_form_projection_onto_the_l1_ball_and_the_box(eps, dtype):
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(12, 2, 3, 4, generator=generator, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    delta = torch.randn(x.shape, generator=generator, dtype=torch.float64) * torch.logspace(-2, 1, 12).view(-1, 1, 1, 1)
    delta[:, 0, 0] = delta[:, 0, 1].abs()  # ties
    delta[3] = 0
    wanted = torch.stack([_brute(*pair, eps) for pair in zip(delta, x, strict=True)])
    found = shrunk(delta.to(dtype), x.to(dtype), torch.full((12,), eps, dtype=dtype))
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)
    moved = ThreatModel(norm="l1", eps=eps).project((x + delta).to(dtype), x.to(dtype))
    torch.testing.assert_close(moved.double(), x + wanted, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-12)
    rounding = torch.finfo(dtype).eps * x[0].numel()
    assert float(l1_norm(moved.double() - x.to(dtype).double()).max()) <= eps + rounding
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    inside = shrunk(moved.double() - x, x, torch.full((12,), eps + 1e-4, dtype=torch.float64))
    torch.testing.assert_close(inside, moved.double() - x, rtol=0, atol=1e-6)


def test_closed_form_steepest_under_l1_is_one_pixel():
    gradient = torch.tensor([[[3.0, -4.0], [0.0, 1.0]]])
    assert torch.equal(ThreatModel(norm="l1").steepest(gradient), torch.tensor([[[0.0, -1.0], [0.0, 0.0]]]))


@pytest.mark.parametrize("kind", [PGD, FGSM, Noise])
def test_contract_attacks_that_do_not_know_l1_say_who_does(kind):
    with pytest.raises(BadInput, match=f"{kind.__name__} knows the norms linf and l2, not l1; APGD"):
        kind(threat=ThreatModel(norm="l1", eps=12))
    assert APGD(threat=ThreatModel(norm="l1", eps=12)).threat.norm == "l1"
