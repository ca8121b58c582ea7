"""Dual norms, steepest directions and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from robustscape.linear.norms import check_box, check_eps, check_norm, dual_norm, size, steepest
from robustscape.types import BadInput

NORMS = ["linf", "l2", "l1"]


@pytest.mark.parametrize(("norm", "dual", "length"), [("linf", 7.0, 4.0), ("l2", 5.0, 5.0), ("l1", 4.0, 7.0)])
def test_closed_form_norms_by_hand(norm, dual, length):
    v = torch.tensor([3.0, -4.0])
    assert float(dual_norm(v, norm)) == dual
    assert float(size(v, norm)) == length


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_closed_form_steepest_has_norm_one_and_attains_the_dual_norm(norm, scale):
    w = scale * torch.tensor([[3.0, -4.0, 0.0], [1.0, 1.0, -1.0]], dtype=torch.float64)
    direction = steepest(w, norm)
    assert torch.allclose(size(direction, norm), torch.ones(2, dtype=torch.float64))
    assert torch.allclose((w / scale * direction).sum(dim=1), dual_norm(w / scale, norm))


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_no_weight_moves_nothing(norm):
    assert not steepest(torch.zeros(2, 3), norm).any()


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, torch.zeros(3)])
def test_contract_an_eps_that_cannot_be_meant_is_refused(eps):
    with pytest.raises(BadInput, match="eps"):
        check_eps(eps, torch.zeros(2, 4))


def test_contract_an_unknown_norm_is_refused():
    with pytest.raises(BadInput, match="linf, l2, l1"):
        check_norm("l3")


def test_contract_inputs_outside_the_box_are_refused():
    with pytest.raises(BadInput, match=r"did you mean x / 255\?"):
        check_box((0.0, 1.0), torch.tensor([[0.0, 255.0]]))
    with pytest.raises(BadInput, match="empty"):
        check_box((1.0, 0.0), torch.zeros(1, 2))
