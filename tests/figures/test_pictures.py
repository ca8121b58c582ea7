"""Pictures in matplotlib, the values read back from the artists."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from robustscape.display import LIGHT
from robustscape.figures import pictures
from robustscape.figures.style import figure, legend, styled
from robustscape.pictures.plot import Picture, Plane, Plot, Trace
from robustscape.pictures.slices import picture


@pytest.fixture
def ax():
    return Figure().subplots()


def test_contract_slices_show_mean_and_band_over_directions(ax, fake):
    result = fake.slices(0.1, 1.0)
    pictures.draw(ax, picture({"none": [], "AT": [result]}).plots[1])
    clean, robust = ax.lines
    assert {line.get_color() for line in ax.lines} == {LIGHT[1]}
    assert (clean.get_linestyle(), robust.get_linestyle()) == ("--", "-")
    np.testing.assert_allclose(robust.get_ydata(), 100 * result.robust_error.mean(axis=0))
    top = ax.collections[1].get_paths()[0].vertices[:, 1].max()
    spread = result.robust_error.std(axis=0, ddof=1)
    assert top == pytest.approx(100 * (result.robust_error.mean(axis=0) + spread).max())
    assert "filter" in ax.get_xlabel()


def test_contract_bars_stand_beside_each_other_under_their_names(ax):
    bars = tuple(Trace(name=s, group=g, x=np.arange(2.0), y=np.array([1.0, 2.0]), style=s)
                 for g, s in enumerate(("bars", "hatched")))  # fmt: skip
    pictures.draw(ax, Plot(title="", x="", y="y", traces=bars, ticks=("one", "two")))
    centres = [patch.get_x() + patch.get_width() / 2 for patch in ax.patches]
    np.testing.assert_allclose(centres, [-0.2, 0.8, 0.2, 1.2])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["one", "two"]
    assert [patch.get_hatch() for patch in ax.patches] == [None, None, "////", "////"]


def test_contract_points_have_intervals_and_levels_have_names(ax):
    point = Trace(name="p", group=0, x=np.array([0.0]), y=np.array([2.0]), low=np.array([1.0]), high=np.array([4.0]),
                  style="points")  # fmt: skip
    pictures.draw(ax, Plot(title="", x="x", y="y", traces=(point,), log="y", levels=((3.0, "here"),)))
    (container,) = ax.containers
    np.testing.assert_allclose(container[2][0].get_segments()[0][:, 1], [1, 4])
    assert ax.get_yscale() == "log" and [text.get_text() for text in ax.texts] == ["here"]


def test_contract_a_density_begins_at_its_floor(ax):
    x = np.linspace(-1, 1, 30)
    line = Trace(name="d", group=0, x=x, y=np.exp(-500 * x**2))
    pictures.draw(ax, Plot(title="", x="x", y="y", traces=(line,), log="y", floor=1e-6))
    low, high = ax.get_ylim()
    assert low == 1e-6 and 1 < high < 10


def test_contract_points_coloured_by_a_number_have_a_scale(ax):
    trace = Trace(
        name="way", group=0, x=np.arange(3.0), y=np.arange(3.0), style="points", shade=np.array([1.0, 5.0, 9.0])
    )
    pictures.draw(ax, Plot(title="", x="x", y="y", traces=(trace,), z="epoch"))
    np.testing.assert_array_equal(ax.collections[0].get_array(), [1, 5, 9])
    assert [other.get_ylabel() for other in ax.figure.axes if other is not ax] == ["epoch"]


def test_end_to_end_a_path_is_drawn_over_contours_and_the_same_bytes_again(tmp_path):
    at = np.linspace(-1, 1, 5)
    plane = Plane(name="AT", group=0, x=at, y=at, z=at[:, None] ** 2 + at**2, lowest=0.0, highest=2.0,
                  path=np.array([[1.0, 1.0], [0.0, 0.0]]), stops=("start", "end"))  # fmt: skip
    plot = Plot(title="AT", x="α", y="β", plane=plane, z="loss, nats")
    ax = Figure().subplots()
    pictures.draw(ax, plot)
    assert ax.lines[0].get_xydata().tolist() == [[1, 1], [0, 0]]
    assert [text.get_text() for text in ax.texts] == ["start", "end"]
    found = Picture(kind="loss", title="t", lead="l", plots=(plot,), how=("n = 3",))
    with styled():
        paths = [pictures.write(found, ["AT"], "Words.", tmp_path / f"{k}.pdf") for k in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_contract_the_last_of_many_names_is_there(ax):
    bars = Trace(name="a", group=0, x=np.arange(50.0), y=np.ones(50), style="bars")
    pictures.draw(ax, Plot(title="", x="", y="y", traces=(bars,), ticks=tuple(f"w{k}" for k in range(50))))
    there = [text.get_text() for text in ax.get_xticklabels()]
    assert there[0] == "w0" and there[-1] == "w49" and len(there) <= 24


def test_end_to_end_all_that_is_written_lies_within_the_page():
    at = np.linspace(-1, 1, 5)
    plane = Plane(name="AT", group=0, x=at, y=at, z=at[:, None] ** 2 + at**2, lowest=0.0, highest=2.0,
                  path=np.array([[1.0, 0.5], [0.0, 0.0]]), stops=("epoch-0000", "epoch-0009"))  # fmt: skip
    long = "digits_at (training.keep_every 4, threat.eps 0.1, evaluation.threat.eps 0.1)"
    words = "α: component 1, 80 % of the path; 1 is as far as it goes"
    with styled():
        made, (left, right) = figure(1, 2, height=2.8)
        place = right.get_subplotspec()
        right.remove()
        right = made.add_subplot(place, projection="3d")
        for ax, form in ((left, "contour"), (right, "surface")):
            pictures.draw(
                ax, Plot(title=long, x=words, y=words, z="robust loss, nats", plane=replace(plane, form=form))
            )
        keys = ("held", "total", "held by differences", "total by differences", "not converged")
        legend(
            made, [f"cifar10_jpeg_{name}_small" for name in ("at", "at_awp", "trades")], [("-", key) for key in keys]
        )
        canvas = FigureCanvasAgg(made)
        canvas.draw()
    shown = [text for text in made.findobj(Text) if len(text.get_text()) > 4]  # no ticks
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in shown]
    inside = made.bbox.padded(1)
    named = [text.get_text() for text, box in zip(shown, boxes, strict=True)
             if not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1))]  # fmt: skip
    assert named == []
    (start,) = [box for text, box in zip(shown, boxes, strict=True) if text.get_text() == "epoch-0000"]
    assert start.x1 <= left.get_window_extent().x1 + 1
    z = right.lines[0].get_data_3d()[2]
    np.testing.assert_allclose([z[0], z[-1]], [1.25, 0], atol=1e-12)


def test_contract_a_lone_point_says_which_line_it_is_of(ax):
    lone = [Trace(name="a", group=0, x=np.arange(2.0), y=np.array([np.nan, 1.0]), style=s) for s in ("dot", "dashdot")]
    pictures.draw(ax, Plot(title="", x="", y="", traces=tuple(lone)))
    assert [line.get_marker() for line in ax.lines] == ["^", "v"]
