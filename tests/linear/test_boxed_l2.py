"""The best linear score under L2 in the pixel box."""

import pytest
import torch
from scipy.optimize import minimize

from robustscape.linear.boxed_l2 import minimum_l2
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.streams import Streams
from robustscape.types import BadInput

BOX = (0.0, 1.0)


def _problem(n=60, d=6, shift=0.1):
    """Pixels in [0, 1], many of them 0, of two classes that overlap; the last pixel is always 0."""
    streams = Streams(3, ("boxed",))
    y = streams.tag("y").sign(n).long()
    x = streams.tag("x").uniform(n, d, dtype=torch.float64)
    x = (x + shift * y[:, None] * torch.tensor([1.0, -1.0, 1.0, 0.0, -1.0, 0.0])).clamp(0, 1)
    x = torch.where(streams.tag("0").uniform(n, d) < 0.3, 0, x)
    x[:, -1] = 0
    return x, y, streams.tag("start").normal(d, dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.05, 0.2])
def test_reference_the_minimum_is_that_of_a_generic_solver(eps):
    x, y, start = _problem()
    problem = AdversarialLogistic(x=x, y=y, norm="l2", eps=eps, box=BOX)

    def loss(w):
        at = problem.at(torch.from_numpy(w))
        return float(at.loss), at.gradient().numpy()

    found = minimum_l2(x, y, eps=eps, start=start)
    reference = minimize(loss, start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-9}).fun
    assert found.loss == pytest.approx(reference, abs=1e-8)
    assert found.loss == pytest.approx(float(problem.at(found.w).loss), abs=1e-11)
    beside_the_kink_at_0 = minimum_l2(x, y, eps=eps, start=1e-9 * start)
    assert beside_the_kink_at_0.loss - reference <= beside_the_kink_at_0.gap
    assert not found.separates


def test_closed_form_the_minimum_has_no_slope_and_no_neighbour_below_its_gap():
    x, y, start = _problem()
    problem = AdversarialLogistic(x=x, y=y, norm="l2", eps=0.1, box=BOX)
    found = minimum_l2(x, y, eps=0.1, start=start)
    assert found.w[-1] == 0  # of the pixel that is always 0
    assert float(problem.at(found.w).gradient()[:-1].norm()) < 1e-6
    assert 0 <= found.gap <= 1e-6 * found.loss
    for number in range(20):
        other = found.w + 0.1 * Streams(number, ("step",)).normal(6, dtype=torch.float64)
        assert float(problem.at(other).loss) >= found.loss - found.gap


def test_closed_form_balls_that_can_be_classified_in_the_box_alone_have_no_minimum():
    """Without the box the ball at (0.1, 0) reaches beyond the plane of every weight."""
    x = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    found = minimum_l2(x, torch.tensor([1, -1]), eps=0.09, start=torch.tensor([1.0, 0.0, -1.0]))
    assert found.separates
    at = AdversarialLogistic(x=x, y=torch.tensor([1, -1]), norm="l2", eps=0.09, box=BOX).at(found.w)
    assert float(at.accuracy) == 1


def test_contract_what_cannot_be_meant_is_refused():
    x, y, start = _problem()
    with pytest.raises(BadInput, match="eps must be above 0"):
        minimum_l2(x, y, eps=0.0, start=start)
    with pytest.raises(BadInput, match="one weight for each of the 6 pixels"):
        minimum_l2(x, y, eps=0.1, start=start[:3])
    with pytest.raises(BadInput, match="not all 0"):
        minimum_l2(x, y, eps=0.1, start=torch.eye(6, dtype=torch.float64)[5])
    with pytest.raises(BadInput, match="did you mean x / 255"):
        minimum_l2(255 * x, y, eps=0.1, start=start)
