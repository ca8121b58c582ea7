"""Exact margins of many classes against brute force, and PGD."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from robustscape.attacks.losses import Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.linear.adversary import worst_rise
from robustscape.linear.bracket import cross_entropy_bracket
from robustscape.linear.multiclass import (
    constant_along,
    largest_eps,
    logits,
    robust,
    worst_gaps,
    worst_margin_input,
)
from robustscape.linear.norms import size
from robustscape.types import BadInput

NORMS = ["linf", "l2", "l1"]
BOX = (0.0, 1.0)


def _corner_inputs(x, eps, box):
    corners = eps * torch.tensor(list(itertools.product([-1.0, 1.0], repeat=x.shape[1])), dtype=torch.float64)
    moved = x[:, None] + corners
    return moved if box is None else moved.clamp(*box)


@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_gaps_against_every_corner(box, four):
    p, eps = four, 0.2
    z = _corner_inputs(p.x, eps, box) @ p.weights.T + p.intercept
    own = p.y[:, None, None].expand(-1, z.shape[1], 1)
    brute = (z - z.gather(2, own)).amax(dim=1).scatter(1, p.y[:, None], -torch.inf)
    gaps = worst_gaps(p.weights, p.x, p.y, norm="linf", eps=eps, box=box, intercept=p.intercept)
    assert torch.allclose(gaps, brute, atol=1e-12)
    safe = robust(p.weights, p.x, p.y, norm="linf", eps=eps, box=box, intercept=p.intercept)
    assert torch.equal(safe, (z.argmax(dim=2) == p.y[:, None]).all(dim=1))
    assert 0 < safe.double().mean() < 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_the_margin_adversary_attains_the_largest_gap(norm, box, four):
    p = four
    gaps = worst_gaps(p.weights, p.x, p.y, norm=norm, eps=0.3, box=box, intercept=p.intercept)
    x_adv = worst_margin_input(p.weights, p.x, p.y, norm=norm, eps=0.3, box=box, intercept=p.intercept)
    z = logits(p.weights, x_adv, p.intercept)
    found = z.scatter(1, p.y[:, None], -torch.inf).amax(dim=1) - z.gather(1, p.y[:, None])[:, 0]
    assert torch.allclose(found, gaps.amax(dim=1), atol=1e-12)
    assert bool((size(x_adv - p.x, norm) <= 0.3 + 1e-12).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_largest_eps_is_where_robustness_ends(norm, box, four):
    p = four
    eps = largest_eps(p.weights, p.x, p.y, norm=norm, box=box, intercept=p.intercept)
    wrong = logits(p.weights, p.x, p.intercept).argmax(dim=1) != p.y
    assert torch.equal(eps == 0, wrong)
    rest, within = ~wrong, torch.isfinite(eps) & ~wrong
    assert bool(within.any())
    for rows, factor, safe in [(rest, 1 - 1e-9, True), (within, 1 + 1e-9, False)]:
        radius = torch.where(torch.isfinite(eps), factor * eps, 99.0)[rows]
        held = robust(p.weights, p.x[rows], p.y[rows], norm=norm, eps=radius, box=box, intercept=p.intercept)
        assert bool((held == safe).all())


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.25)])
def test_contract_pgd_reaches_the_exact_robust_accuracy_and_never_beats_it(norm, eps, four):
    p = four
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Flatten(), nn.Linear(5, 4)).double()
    with torch.no_grad():
        network[1].weight.copy_(p.weights)
        network[1].bias.copy_(p.intercept)
    gaps = worst_gaps(p.weights, p.x, p.y, norm=norm, eps=eps, box=BOX, intercept=p.intercept).amax(dim=1)
    attack = PGD(
        threat=ThreatModel(norm=norm, eps=eps),
        steps=100,
        relative_step=0.05,
        restarts=8,
        result="best_loss",
        loss=Margin(),
    )
    x_adv = attack(network, p.x.view(-1, 1, 1, 5), p.y).flatten(1)
    found = Margin()(network, x_adv.view(-1, 1, 1, 5), p.y).detach()
    assert bool((found <= gaps + 1e-12).all())
    sure = gaps.abs() > 5e-3  # what l2 PGD, clamped into the box, may miss
    assert torch.equal((found < 0)[sure], (gaps < 0)[sure])
    assert 0 < float((gaps < 0).double().mean()) < 1


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_constant_along_is_where_no_scale_does_better(norm, four):
    p = four
    x, h = p.x - 0.5, 1e-6
    bracket = [cross_entropy_bracket(s * p.weights, x, p.y, norm=norm, eps=0.3) for s in (h, -h)]
    # At a small scale the loss is linear in the logits: its worst case is that of the single score a.x.
    a = (p.weights.sum(dim=0) - 4 * p.weights)[p.y]
    slopes = [(s * (a * x).sum(dim=1) + worst_rise(s * a, x, norm=norm, eps=0.3)) / 4 for s in (1.0, -1.0)]
    constant = constant_along(p.weights, x, p.y, norm=norm, eps=0.3)
    assert torch.equal(constant, (slopes[0] >= 0) & (slopes[1] >= 0))
    assert 0 < float(constant.double().mean()) < 1
    log4 = torch.full((30,), 4.0, dtype=torch.float64).log()
    for part, slope in zip(bracket, slopes, strict=True):
        assert bool((part.lower - log4 <= h * slope + 1e-9).all() and (part.upper - log4 >= h * slope - 1e-9).all())


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"y": torch.tensor([0, 4])}, "4 classes"),
        ({"y": torch.tensor([0.0, 1.0])}, "integers"),
        ({"weights": torch.zeros(4, 2)}, "do not fit"),
        ({"x": torch.zeros(2, 3).double()}, "both be float32"),
        ({"intercept": torch.zeros(3)}, "intercept"),
    ],
)
def test_contract_classifiers_that_cannot_be_meant_are_refused(change, hint):
    given = {"weights": torch.zeros(4, 3), "x": torch.zeros(2, 3), "y": torch.tensor([0, 1]), **change}
    with pytest.raises(BadInput, match=hint):
        worst_gaps(**given, norm="l2", eps=0.1)
