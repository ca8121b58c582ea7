import numpy as np
import pytest

from robustscape.landscape.flatness import Estimate
from robustscape.pictures.plot import (
    Plane,
    Plot,
    Trace,
    alike,
    ends,
    interval,
    joined,
    marked,
    mean,
    seeds,
    sentences,
    way,
)


def trace(y, low, high):
    x = np.arange(float(len(y)))
    return Trace(name="a", group=0, x=x, y=np.array(y), low=np.array(low), high=np.array(high))


def test_closed_form_mean_and_standard_deviation_over_runs():
    x = np.array([0.0, 1.0])
    found = mean("a", 2, x, [np.array([1.0, 5.0]), np.array([3.0, 5.0])])
    np.testing.assert_allclose(found.y, [2, 5])
    np.testing.assert_allclose(found.high - found.y, [np.sqrt(2), 0])
    alone = mean("a", 2, x, [x], ends=[(x - 1, x + 1)])
    np.testing.assert_allclose(alone.low, [-1, 0])
    assert mean("a", 2, x, [x]).low is None


def test_closed_form_ends_that_no_logarithm_has_are_drawn_at_the_edge():
    shown = trace([1.0, 2.0, np.inf], [-1.0, 0.5, 0.0], [3.0, np.inf, np.inf])
    low, high = ends(Plot(title="", x="x", y="y", traces=(shown,), log="y"), shown)
    np.testing.assert_allclose(low, [1 / 3, 0.5, np.nan])
    np.testing.assert_allclose(high, [3, 20, np.nan])
    low, high = ends(Plot(title="", x="x", y="y", traces=(shown,)), shown)
    np.testing.assert_allclose(low, [-1, np.nan, np.nan])
    low, _ = ends(Plot(title="", x="x", y="y", traces=(shown,), log="y", floor=0.8), shown)
    assert low[0] == low[1] == 0.8


@pytest.mark.parametrize(
    ("y", "points", "lines"),
    [([np.nan, 1.0], True, False), ([1.0, 2.0], False, True), ([1.0, np.nan, 2.0], True, False), ([1.0], True, False),
     ([1.0] * 10 + [np.nan], True, True), ([1.0] * 11, False, True)],
)  # fmt: skip
def test_contract_points_that_no_line_would_show_are_marked(y, points, lines):
    one = trace(y, y, y)
    assert (marked(one), joined(one)) == (points, lines)


def test_contract_what_was_measured_otherwise_is_left_out():
    assert alike({"a": [1, 1, 2], "b": [], "c": [3]}, lambda n: n) == {"a": [1, 1], "b": [], "c": []}
    assert alike({"a": [1, 2], "b": [2], "c": [3]}, lambda n: n) == {"a": [2], "b": [2], "c": []}


def test_contract_words():
    assert sentences(("a b", "", "1 c")) == "A b. 1 c."
    assert "seeds" in seeds({"a": [1, 2]}) and "seeds" not in seeds({"a": [1]}) and seeds({"a": [1]}, alone="") == ""
    assert interval(Estimate(value=1.0, low=0.5, high=2.0, n=3)) == "1 [0.5, 2]"
    assert "no interval" in interval(Estimate(value=1.0, low=-np.inf, high=np.inf, n=1))


@pytest.mark.parametrize("low", [None, np.zeros(1)])
def test_contract_no_ends_without_both(low):
    one = Trace(name="a", group=0, x=np.zeros(1), y=np.zeros(1), low=low)
    assert ends(Plot(title="", x="", y="", traces=(one,)), one) is None


def test_closed_form_a_path_lies_on_its_plane():
    x, y = np.array([-1.0, 0.0, 1.0]), np.array([-1.0, 1.0])
    plane = Plane(name="a", group=0, x=x, y=y, z=2 * x + 3 * y[:, None], lowest=-5.0, highest=5.0,
                  path=np.array([[1 + 1e-9, -1.0], [-0.5, 0.5], [-0.5, 2.0]]))  # fmt: skip
    points = way(plane)
    np.testing.assert_array_equal(points[[0, 16, 32], :2], plane.path)
    within = points[:, 1] <= 1
    np.testing.assert_allclose(points[within, 2], points[within] @ [2, 3, 0], atol=1e-8)
    assert within.sum() > 20 and np.isnan(points[~within, 2]).all()
