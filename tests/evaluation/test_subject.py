from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import batches, inside, judge, search, subject
from robustscape.types import BadInput, Diverged


def linear(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


X, Y = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])


def test_contract_arrays_become_tensors_of_the_models_type():
    made = subject(linear().double(), X.numpy(), Y.numpy().astype(np.int32))
    assert made.x.dtype == torch.float64 and made.y.dtype == torch.int64
    assert made.classes == ("0", "1", "2") and made.index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("model", "x", "y", "options", "says"),
    [
        (linear(), X * 255, Y, {}, "255"),
        (linear(), X * 2 - 1, Y, {}, "normalised"),
        (linear(2), X, Y, {}, "2 outputs"),
        (linear(), X, Y.clamp(max=2) + 1, {}, "did you mean y - 1"),
        (torch.sin, X, Y, {}, "must be a torch.nn.Module"),
        (linear(), X, Y, {"classes": ("cat", "dog")}, "2 classes"),
        (linear(), X, Y, {"index": torch.arange(4)}, "4 indices"),
        (linear(), X, Y, {"batch": 0}, "batch"),
        (linear().half(), X, Y, {}, "half"),
        (nn.Sequential(linear(), nn.Softmax(1)), X, Y, {}, "softmax"),
        (linear(), torch.rand(5, 3, 2, 2), Y, {}, "3, 2, 2"),
    ],
)
def test_contract_bad_input_is_one_sentence(model, x, y, options, says):
    with pytest.raises(BadInput, match=says) as caught:
        subject(model, x, y, **options)
    assert "\n" not in str(caught.value)


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


def test_contract_a_float64_buffer_does_not_make_a_float32_model_a_float64_one():
    model = linear()
    model.register_buffer("seen", torch.zeros(1, dtype=torch.float64))
    made = subject(model, X, torch.zeros(len(X), dtype=torch.int64))
    assert made.x.dtype == torch.float32
    with made.view as searched:
        assert searched(made.x).dtype == torch.float32
