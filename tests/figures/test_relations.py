import math

import pytest
from matplotlib.figure import Figure

from robustscape.figures import relations as figure
from robustscape.figures.all import draw
from robustscape.relations import LOSS, Network, Relations, Value, relations
from robustscape.runs import read_runs


@pytest.fixture(scope="module")
def found(fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return relations(read_runs([fake.run(folder / str(s), name="at", seed=s, robust=0.6 + 0.1 * s) for s in range(4)]))


def names(ax):
    """Texts of the Axes; an arrow has none."""
    return [text.get_text() for text in ax.texts]


def test_contract_a_point_a_run_an_arrow_a_pair_and_a_line_a_method(found):
    ax = Figure().subplots()
    figure.draw(ax, found, x="Mean rise along slices", y=LOSS)
    assert len(ax.containers) == 4 and "" not in names(ax)
    ax = Figure().subplots()
    figure.draw(ax, found, x="Flatness", y=LOSS)
    assert (len(ax.containers), names(ax).count("")) == (8, 4)
    assert ax.get_xlabel() == "Flatness, nats" and ax.get_ylabel() == "Robust loss, nats"
    xs = sorted(container.lines[0].get_xdata()[0] for container in ax.containers)
    assert xs == sorted(n.values["Flatness"].value for n in (*found.last, *found.best))


def test_contract_errors_show_ln_k(found):
    ax = Figure().subplots()
    figure.draw_errors(ax, found)
    assert "ln K" in [text.get_text() for text in ax.texts]
    assert any(list(line.get_xdata()) == [math.log(10)] * 2 for line in ax.lines)


def test_end_to_end_four_runs_and_more_are_drawn_even_without_a_measure(fake, tmp_path):
    runs = [fake.run(tmp_path / str(s), name="at", seed=s, robust=0.1 * s, whole=False) for s in range(1, 5)]
    (path,) = draw(runs, tmp_path / "out")
    assert path.name == "relations.pdf" and path.read_bytes().startswith(b"%PDF")


def row(*places):
    of = [Network(label="at", group=0, seed=s, values={"m": Value(value=a), LOSS: Value(value=u)})
          for s, (a, u) in enumerate(places)]  # fmt: skip
    return Relations(last=tuple(of), best=(None,) * len(of), measures={"m": ""}, classes=10, judged=None, notes=())


def test_contract_points_have_names_where_these_cover_nothing():
    ax = Figure().subplots()
    figure.draw(ax, row((0, 0), (1, 1), (2, 2), (3, 3)), x="m", y=LOSS)
    assert names(ax) == ["at, 0", "at, 1", "at, 2", "at, 3"]
    crowd = Figure().subplots()
    figure.draw(crowd, row(*[(1 + 0.001 * s, 0.0) for s in range(9)], (0, 1), (2, 1)), x="m", y=LOSS)
    assert names(crowd) == ["at, 0", "at, 8", "at, 9", "at, 10"]  # of the row its ends alone


def test_closed_form_levels_have_their_means(fake, tmp_path):
    runs = [fake.run(tmp_path / str(s), name="at", seed=s, robust=0.2 + 0.05 * s, rise=0.1 * s) for s in range(10)]
    ax = Figure().subplots()
    figure.draw_levels(ax, relations(read_runs(runs)), measure="Flatness")
    means = [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    assert means == [pytest.approx(of) for of in (0.1, 0.45, 0.8)]
    assert len(ax.containers) == 10 and [t.get_text()[:4] for t in ax.get_xticklabels()] == ["good", "aver", "poor"]
    stems = {path.stem for path in draw(runs, tmp_path / "out", form="svg")}
    assert "relations-levels" in stems
