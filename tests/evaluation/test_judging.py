from dataclasses import dataclass

import pytest
import torch
from torch import nn

from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import batches, inside, judge, predicted, search
from robustscape.evaluation.subject import subject
from robustscape.types import Diverged

X, Y = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def test_contract_batches_have_one_size_and_hold_each_row_once():
    made = subject(linear(), X, Y, batch=2)
    rows = torch.tensor([4, 0, 3])
    found = [(part.tolist(), count) for part, count in batches(made, rows)]
    assert found == [([4, 0], 2), ([3, 3], 1)]
    assert list(batches(made, rows[:0])) == []


def test_closed_form_inside_ball_and_box():
    x = torch.full((4, 1, 2, 2), 0.5)
    moved = x + torch.tensor([0.1, 0.1001, 0.6, -0.1])[:, None, None, None]
    assert inside(ThreatModel(eps=0.1), moved, x).tolist() == [True, False, False, True]
    assert inside(ThreatModel(eps=1.0), moved, x).tolist() == [True, True, False, True]
    assert inside(ThreatModel(norm="l2", eps=0.2), moved, x).tolist() == [True, False, False, True]
    assert inside(ThreatModel(norm="l1", eps=0.4), moved, x).tolist() == [True, False, False, True]


@dataclass(frozen=True, kw_only=True)
class Leaps:
    """Not an attack: leaves the ball."""

    threat: ThreatModel
    to: float

    def at(self, eps):
        return Leaps(threat=ThreatModel(eps=eps), to=self.to)

    def __call__(self, model, x, y, *, rng=None):
        return torch.full_like(x, self.to)


@pytest.mark.parametrize("to", [1.0, -0.01])
def test_contract_what_leaves_the_threat_model_is_not_counted(to):
    model = linear()
    y = (model(torch.full((1, 1, 2, 2), to)).argmax(1) + 1).expand(5) % 3
    made = subject(model, X, y)
    found = search(made, model, Leaps(threat=ThreatModel(eps=0.01), to=to), torch.arange(5))
    assert not found.wrong.any() and torch.isinf(found.loss).all()


def test_contract_a_loss_that_is_not_finite_stops():
    model = linear()
    with torch.no_grad():
        model[1].weight[0, 0] = torch.inf
    with pytest.raises(Diverged, match="not finite"):
        judge(model, X, Y)


def test_contract_what_judges_is_float32_inside_the_callers_autocast():
    model = linear()
    alone = predicted(model, X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(X).dtype == torch.bfloat16
        found = predicted(model, X)
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32 and torch.equal(found, alone)
