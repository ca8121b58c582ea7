"""The best linear score under L-infinity in the pixel box."""

import numpy as np
import pytest
import torch

from robustscape.linear.boxed import minimum, searched, worst_features
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.streams import Streams
from robustscape.types import BadInput

BOX = (0.0, 1.0)


def _problem(n=60, d=6, shift=0.1):
    """Pixels in [0, 1], many of them 0, of two classes that overlap."""
    streams = Streams(3, ("boxed",))
    y = streams.tag("y").sign(n).long()
    x = streams.tag("x").uniform(n, d, dtype=torch.float64)
    x = (x + shift * y[:, None] * torch.tensor([1.0, -1.0, 1.0, 0.0, -1.0, 0.0])).clamp(0, 1)
    return torch.where(streams.tag("0").uniform(n, d) < 0.3, 0, x), y


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.6])
def test_closed_form_the_features_give_the_worst_margin_of_every_weight(eps):
    x, y = _problem()
    z = worst_features(x, y, eps=eps)
    for number in range(5):
        w = Streams(number, ("w",)).normal(6, dtype=torch.float64)
        margin = AdversarialLogistic(x=x, y=y, norm="linf", eps=eps, box=BOX).at(w).margin
        torch.testing.assert_close(z @ torch.cat([w.clamp(min=0), (-w).clamp(min=0)]), margin, rtol=0, atol=1e-12)


def test_closed_form_the_minimum_is_one_by_its_subdifferential_and_its_gap():
    """Under linf in the box the subdifferential is a product of intervals: 0 is in it exactly at a minimum."""
    x, y = _problem()
    problem = AdversarialLogistic(x=x, y=y, norm="linf", eps=0.1, box=BOX)
    found = minimum(x, y, eps=0.1)
    at = problem.at(found.w)
    assert found.loss == pytest.approx(float(at.loss), abs=1e-12)
    assert not found.separates
    assert float(at.subdifferential().least().abs().max()) < 1e-6
    assert 0 <= found.gap < 1e-5
    assert found.loss < np.log(2)
    for number in range(20):
        other = found.w + 0.1 * Streams(number, ("step",)).normal(6, dtype=torch.float64)
        assert float(problem.at(other).loss) >= found.loss - found.gap


def test_closed_form_balls_that_can_be_classified_have_no_minimum():
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.8]])
    found = minimum(x, torch.tensor([1, 1, -1, -1]), eps=0.2)
    assert found.separates
    assert found.loss < 1e-3


def test_closed_form_a_search_for_accuracy_leaves_the_outlier_that_the_loss_gives_way_to():
    """A heavy example on the wrong side pulls the loss over; accuracy is best without it."""
    x = torch.tensor([[0.6, 0.0], [0.6, 0.1], [0.5, 0.0], [0.0, 0.6], [0.1, 0.6], [0.0, 0.5], [0.0, 1.0], [0.1, 1.0]])
    y = torch.tensor([1, 1, 1, -1, -1, -1, 1, -1])
    problem = AdversarialLogistic(x=x.double(), y=y, norm="linf", eps=0.05, box=BOX)
    assert float(problem.at(searched(x, y, eps=0.05)).accuracy) == pytest.approx(7 / 8)


def test_end_to_end_a_search_finds_at_least_what_the_loss_has():
    x, y = _problem(n=200, shift=0.15)
    problem = AdversarialLogistic(x=x, y=y, norm="linf", eps=0.08, box=BOX)
    by_loss, by_accuracy = (
        float(problem.at(w).accuracy) for w in (minimum(x, y, eps=0.08).w, searched(x, y, eps=0.08))
    )
    assert by_accuracy >= by_loss > 0.5


def test_closed_form_balls_that_hide_every_pixel_leave_weights_of_0():
    x, y = torch.rand(20, 4), torch.where(torch.arange(20) < 10, 1, -1)
    found = minimum(x, y, eps=1.0)
    assert not found.w.any()
    assert (found.loss, found.gap, found.separates) == (pytest.approx(np.log(2)), pytest.approx(0, abs=1e-12), False)
    assert not searched(x, y, eps=1.0).any()


def test_contract_what_cannot_be_meant_is_refused():
    x = torch.rand(3, 2)
    with pytest.raises(BadInput, match="did you mean 2"):
        worst_features(x, torch.tensor([0, 1, 1]), eps=0.1)
    with pytest.raises(BadInput, match="did you mean x / 255"):
        worst_features(255 * x, torch.tensor([-1, 1, 1]), eps=0.1)
    with pytest.raises(BadInput, match="eps must be finite and at least 0"):
        worst_features(x, torch.tensor([-1, 1, 1]), eps=-0.1)
