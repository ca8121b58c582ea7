import math

import pytest
from matplotlib.figure import Figure

from robustscape.figures import relations as figure
from robustscape.figures.all import draw
from robustscape.relations import LOSS, relations
from robustscape.runs import read_runs


@pytest.fixture(scope="module")
def found(fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return relations(read_runs([fake.run(folder / str(s), name="at", seed=s, robust=0.6 + 0.1 * s) for s in range(4)]))


def test_contract_a_point_a_run_an_arrow_a_pair_and_a_line_a_method(found):
    ax = Figure().subplots()
    figure.draw(ax, found, x="Mean rise along slices", y=LOSS)
    assert len(ax.containers) == 4 and len(ax.texts) == 0
    ax = Figure().subplots()
    figure.draw(ax, found, x="Flatness", y=LOSS)
    assert (len(ax.containers), len(ax.texts)) == (8, 4)
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
