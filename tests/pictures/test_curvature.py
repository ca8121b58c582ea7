import numpy as np

from robustscape.landscape.curvature import CurvatureResult
from robustscape.landscape.curvature_levels import Along, AtEps, AtRadius, Top
from robustscape.landscape.flatness import Estimate
from robustscape.pictures.curvature import picture


def estimate(value):
    return Estimate(value=value, low=value - 1, high=value + 1, n=9)


def at(radius):
    held, total = estimate(100 * radius), estimate(200 * radius)
    return AtRadius(radius=radius, held=held, total=total, excess=held, ratio=2.0, noise=7 * radius,
                    held_by_gradients=1.0, total_by_gradients=1.0, noise_by_gradients=0.0)  # fmt: skip


def level(eps, by, base=None):
    along = Along(direction="random 1", converged=True, held=1.0, total=None, reason="not defined", residual=None,
                  ratio=None, differences=(at(0.1), at(0.01), at(0.03)))  # fmt: skip
    top = Top(held=4.0, held_converged=True, total=6.0, residual=0.0, converged=True, products=3, by=by,
              held_by_differences=base)  # fmt: skip
    return AtEps(eps=eps, multiple=eps, loss=1.0, pinned=1.0, stationary=1.0, strict=0.0, along=(along,), top=top)


def test_contract_differences_stand_beside_differences_at_the_radius_that_is_named(fake):
    levels = (level(0.0, "held"), level(0.1, "differences at radius 0.03", base=5.0))
    result = CurvatureResult(levels=levels, norm="linf", coordinates="raw", settle=1, follow=1, attack="PGD", n=9,
                             split="test", provenance=fake.PROVENANCE)  # fmt: skip
    found = picture({"AT": [result]})
    top, along = ({trace.style: trace for trace in plot.traces} for plot in found.plots)
    np.testing.assert_array_equal(top["solid"].y, [6, np.nan])
    np.testing.assert_array_equal(top["dot"].y, [np.nan, 6])
    np.testing.assert_array_equal(top["dashdot"].y, [np.nan, 5])
    assert along["dashdot"].y.tolist() == [3, 3] and along["dot"].y.tolist() == [6, 6]
    assert along["dot"].low.tolist() == [5, 5] and "solid" not in along
    assert any("radius 0.03" in part for part in found.how) and any("up to 0.21 nats" in part for part in found.how)
