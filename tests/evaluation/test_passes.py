"""Models that are random on purpose."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.accuracy import Evaluating, evaluate, evaluating
from robustscape.evaluation.passes import MeanLogits
from robustscape.evaluation.subject import drained, subject
from robustscape.runtime import TRUTH
from robustscape.types import BadInput


class Noisy(nn.Module):
    """A linear model whose logits have normal noise."""

    def __init__(self, scale):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 3)
        self.scale = scale

    def forward(self, x):
        z = self.linear(x.flatten(1))
        return z + self.scale * torch.randn_like(z)


def _images(n=24):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_closed_form_the_mean_of_the_passes_and_one_answer():
    model, x, state = Noisy(0.5), _images(), torch.get_rng_state()
    mean = MeanLogits(model, 4, seed=7)
    first = mean(x)
    assert torch.equal(first, mean(x)) and torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = torch.stack([model(x) for _ in range(4)]).mean(dim=0)
    torch.testing.assert_close(first, expected)
    with pytest.raises(BadInput, match="passes must be at least 1, not 0"):
        MeanLogits(model, 0, seed=0)


def test_end_to_end_a_random_model_is_judged_by_its_mean():
    """One pass misclassifies by luck what the mean of many gets right: that is no robustness lost."""
    model, x = Noisy(0.3), _images()
    with torch.no_grad():
        model.linear.bias -= model.linear(x.flatten(1)).mean(dim=0)
        y = model.linear(x.flatten(1)).argmax(dim=1)
    threat = ThreatModel(eps=0.01)
    attack = AutoAttack(threat=threat, version="rand", steps=5)

    def errors(passes):
        settings = Evaluating(eps=0.01, attacks=(attack,), loss_restarts=0, sanity=0, passes=passes)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return drained(evaluating(settings, subject(model, x, y, runtime=TRUTH)))

    one, many = errors(1), errors(400)
    assert many.clean_error.value < one.clean_error.value
    assert many.clean_error.value <= many.robust_error.value
    with torch.random.fork_rng(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        evaluate(model, x, y, eps=0.01, suite="autoattack-rand", loss_restarts=0, runtime=TRUTH)
    assert any("randomness: two passes differ" in str(one.message) for one in told)
