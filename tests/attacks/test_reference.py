"""An attack run as AutoAttack runs it: one generator, whole batches, survivors in the next round."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from robustscape.attacks.reference import reference
from robustscape.attacks.threat import ThreatModel
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class _Guess:
    """Draws a number for every example in each of two steps; fooled are those whose second one is above a half."""

    threat: ThreatModel = field(default_factory=lambda: ThreatModel(eps=0.25))
    targets: int = 3

    def rounds(self, classes):
        return min(self.targets, classes - 1)

    def begin(self, rows, rng):
        assert torch.equal(rows.logits.argmax(dim=1), rows.y) and bool((rows.eps == 0.25).all())
        no = torch.zeros(len(rows), dtype=torch.bool)
        return {
            "x": rows.x,
            "round": rows.round,
            "step": torch.zeros_like(rows.y),
            "x_adv": rows.x,
            "wrong": no,
            "over": no,
        }

    def step(self, model, state, rng):
        draw = torch.rand(len(state["x"]), generator=rng)
        step = state["step"] + 1
        mark = state["round"].to(draw) + draw
        return state | {"step": step, "over": step >= 2, "wrong": draw > 0.5,
                        "x_adv": mark.view(-1, 1, 1, 1).expand_as(state["x"])}  # fmt: skip


class _First(nn.Module):
    """The first three pixels as logits."""

    def forward(self, x):
        assert not self.training
        return x.flatten(1)[:, :3]


def _problem():
    x = torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    y = _First().eval()(x).argmax(dim=1)
    y[3] = (y[3] + 1) % 3
    return x, y


def test_closed_form_the_draws_of_one_generator_go_to_the_survivors_of_each_round():
    x, y = _problem()
    generator, wanted = torch.Generator().manual_seed(7), x.clone()
    left = [k for k in range(12) if k != 3]
    for number in range(2):
        torch.rand(len(left), generator=generator)
        draws = torch.rand(len(left), generator=generator)
        for k, draw in zip(left, draws.tolist(), strict=True):
            if draw > 0.5:
                wanted[k] = number + draw
        left = [k for k, draw in zip(left, draws.tolist(), strict=True) if draw <= 0.5]
    before = torch.get_rng_state()
    model = _First().train()
    x_adv = reference(_Guess(), model, x, y, seed=7)
    assert torch.equal(x_adv, wanted) and model.training and torch.equal(torch.get_rng_state(), before)
    assert 0 < len(left) < 11 and torch.equal(x_adv[[3, *left]], x[[3, *left]])


def test_contract_where_nobody_is_left_nothing_is_searched():
    x, y = _problem()
    y = (_First().eval()(x).argmax(dim=1) + 1) % 3
    assert torch.equal(reference(_Guess(), _First(), x, y, seed=0), x)


def test_contract_labels_that_do_not_fit_are_refused():
    x = _problem()[0][:3]
    with pytest.raises(BadInput, match="3 outputs"):
        reference(_Guess(), _First(), x, torch.tensor([0, 1, 3]), seed=0)
    with pytest.raises(BadInput, match="float32 or float64"):
        reference(_Guess(), _First(), x.half(), torch.tensor([0, 1, 2]), seed=0)
