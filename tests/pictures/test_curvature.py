from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from robustscape.figures import pictures as figure
from robustscape.landscape.curvature import CurvatureResult
from robustscape.landscape.curvature_levels import Along, AtEps, AtRadius, Top
from robustscape.landscape.flatness import Estimate
from robustscape.pictures.curvature import picture
from robustscape.pictures.plot import Plot, sentences
from robustscape.report.pictures import line_chart


def estimate(value):
    return Estimate(value=value, low=value - 1, high=value + 1, n=9)


def at(radius):
    """Noise is 0.4 of total - held at radius 0.01, 0.1 at 0.1, and 0.05 at 0.03."""
    loss = estimate(100 * radius)
    return AtRadius(radius=radius, held=loss, total=loss, excess=loss, ratio=1.0, noise=7 * radius,
                    held_by_gradients=3.0, total_by_gradients=5.0,
                    noise_by_gradients={0.01: 0.8, 0.03: 0.1, 0.1: 0.2}[radius])  # fmt: skip


def level(eps, by, base=None):
    along = Along(direction="random 1", converged=True, held=1.0, total=None, reason="not defined", residual=None,
                  ratio=None, differences=(at(0.1), at(0.01), at(0.03)))  # fmt: skip
    top = Top(held=4.0, held_converged=True, total=6.0, residual=0.0, converged=True, products=3, by=by,
              held_by_differences=base)  # fmt: skip
    return AtEps(eps=eps, multiple=eps, loss=1.0, pinned=1.0, stationary=1.0, strict=0.0, along=(along,), top=top)


@pytest.fixture
def result(fake):
    levels = (level(0.0, "held"), level(0.1, "differences at radius 0.1", base=5.0))
    return CurvatureResult(levels=levels, norm="linf", coordinates="raw", settle=1, follow=1, attack="PGD", n=9,
                           split="test", provenance=fake.PROVENANCE)  # fmt: skip


def test_contract_differences_stand_beside_differences_at_the_radius_of_least_noise(result):
    found = picture({"AT": [result]})
    top, along = ({trace.style: trace for trace in plot.traces} for plot in found.plots)
    np.testing.assert_array_equal(top["solid"].y, [6, np.nan])
    np.testing.assert_array_equal(top["dot"].y, [np.nan, 6])
    np.testing.assert_array_equal(top["dashdot"].y, [np.nan, 5])
    assert along["dashdot"].y.tolist() == [3, 3] and along["dot"].y.tolist() == [5, 5] and "solid" not in along
    assert along["dashdot"].low is None
    np.testing.assert_allclose([along["dot"].low, along["dot"].high], [[4.9, 4.9], [5.1, 5.1]])
    said = sentences(found.how)
    assert "slope at radius 0.03, where noise is the smallest" in said and "up to 0.1 nats" in said
    assert "largest eigenvalue by differences at radius 0.1" in said


def test_contract_a_direction_that_adds_nothing_takes_the_radius_of_least_noise(result):
    def still(one):
        return replace(one, total_by_gradients=one.held_by_gradients)

    levels = [
        replace(of, along=tuple(replace(a, differences=tuple(map(still, a.differences))) for a in of.along))
        for of in result.levels
    ]
    assert "radius 0.03" in sentences(picture({"AT": [replace(result, levels=tuple(levels))]}).how)


def test_contract_a_lone_total_by_differences_is_seen(result):
    dot = next(trace for trace in picture({"AT": [result]}).plots[0].traces if trace.style == "dot")
    plot = Plot(title="", x="", y="", traces=(dot,))
    ax = Figure().subplots()
    figure.draw(ax, plot)
    assert ax.lines[0].get_marker() == "^"
    (trace,) = line_chart(plot)["data"]
    assert (trace["mode"], trace["marker"]["symbol"]) == ("lines+markers", "triangle-up")
