"""Every figure, drawn from results that look like a real run's; the values read back from its artists."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from robustscape.display import LIGHT
from robustscape.figures import flatness, histograms, images, panels, style, training_curves
from robustscape.figures.all import _counted


@pytest.fixture
def ax():
    return Figure().subplots()


def lines(ax, colour):
    return [line for line in ax.lines if line.get_color() == colour]


def test_contract_training_curves_show_accuracy_in_percent_and_mark_lr_drops(ax, fake):
    logs = {"none": [], "AT": [fake.log(0.1, 0.05)], "AWP": [fake.log(0.1, 0.05, seed=s) for s in range(3)]}
    training_curves.draw(ax, logs, quantity="robust")
    (train, validation) = lines(ax, LIGHT[1])
    assert (train.get_linestyle(), validation.get_linestyle()) == (":", "-")
    tracked = [entry.tracked["validation"].robust_accuracy for entry in logs["AT"][0].epochs]
    np.testing.assert_allclose(validation.get_ydata(), 100 * np.array(tracked))
    assert [line.get_xdata()[0] for line in ax.lines if line.get_color() not in LIGHT] == [12.5]  # lr fell in epoch 13
    assert len(ax.collections) == 2  # bands where there are several seeds
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "robust accuracy, %")
    assert ax.get_legend_handles_labels()[1] == ["AT", "AWP"]


def test_contract_flatness_shows_a_point_with_intervals_for_every_run(ax, fake):
    pairs = [(fake.flatness(0.2 + 0.1 * s, 0.1), fake.evaluation(0.02, 0.1, seed=s)) for s in range(2)]
    flatness.draw(ax, {"AT": pairs}, quantity="error")
    assert [(c[0].get_xdata()[0], c[0].get_ydata()[0]) for c in ax.containers] == [
        (0.2, 10.0),
        (pytest.approx(0.3), 10),
    ]
    (low, _), (high, _) = ax.containers[0][2][0].get_segments()[0]
    assert (low, high) == pytest.approx((0.93 * 0.2, 1.07 * 0.2))
    assert ax.get_legend_handles_labels()[1] == ["AT"]


def test_closed_form_a_figure_of_many_groups_is_higher_and_counts_their_seeds_once():
    few, _ = style.figure(1, 1, height=2.0)
    many, _ = style.figure(1, 1, height=2.0)
    style.legend(few, [f"run {k}" for k in range(4)])
    style.caption(few, "word " * 20)
    assert few.get_figheight() == 2.0
    style.legend(many, [f"run {k}" for k in range(40)])  # at most six of 16 letters side by side
    style.caption(many, "word " * 150)  # 23 to a line
    assert many.get_figheight() == pytest.approx(2.0 + 0.15 * (7 - 4) + 0.1 * (7 - 4))
    assert _counted({"AT": 2, "AWP": 3, "none": 0}) == "Seeds: AT 2, AWP 3."
    assert _counted({str(k): 2 for k in range(9)}) == "Seeds: 2 each."


def test_contract_histograms_are_densities(ax, fake):
    result = fake.histograms(0.3)
    histograms.draw(ax, {"AT": [result], "other": [replace(result, layers=("a", "b", "c", "d"))]}, layer="fc1.weight")
    (step,) = ax.patches
    values, edges, _ = step.get_data()
    assert (values * np.diff(edges)).sum() == pytest.approx(1)
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("channels", [1, 3])
def test_contract_images_are_in_rows_with_predictions(ax, fake, channels):
    made = fake.images(count=5, channels=channels)
    images.draw(ax, made, count=4)
    shown = [np.asarray(image.get_array()) for image in ax.images]
    assert len(shown) == 3 * 4
    first = made.x[0, 0] if channels == 1 else made.x[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(shown[0], first)
    assert [text.get_text() for text in ax.texts][:4] == ["0", "✗ 5", "1", "1"]


def test_contract_panels_show_every_line_and_each_name_once(fake):
    found = fake.panels()
    made = panels.draw(found)
    left, right = made.axes
    assert [line.get_linestyle() for line in left.lines] == ["-", "--", *["-"] * 7, ":"]
    assert [line.get_color() for line in left.lines] == [LIGHT[0], *LIGHT, LIGHT[0]]
    np.testing.assert_array_equal(left.lines[3].get_ydata(), found[0].lines[3].y)
    (line,) = right.lines
    assert (line.get_linestyle(), line.get_marker()) == ("--", ".")
    assert np.isnan(line.get_ydata()[1])
    assert (right.get_title(), right.get_xlabel(), right.get_ylabel()) == ("L2 <b>", "ε <b>", "eigenvalue")
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"ε = {k / 10:g}" for k in range(9)] + ["exact"]
    assert "Dashed" in made.get_supxlabel()
    assert made.canvas.get_width_height()[0] == 550


def test_contract_four_panels_are_three_in_a_row_and_dashed_is_explained_where_it_needs_to_be(fake):
    _, few = fake.panels()
    made = panels.draw([few] * 4)
    assert [ax.get_visible() for ax in made.axes] == [True] * 4 + [False] * 2
    assert made.get_supxlabel() == ""
