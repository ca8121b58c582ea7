"""The page in a real browser, as a reader with a phone or a desktop sees it."""

import importlib.util
from pathlib import Path

import pytest

from robustscape.report.page import write_report
from robustscape.results import save


def _chromium():
    spec = importlib.util.spec_from_file_location("chromium", Path(__file__).with_name("chromium.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chromium = _chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.found() is None, reason="there is no Chromium"),
]

COLOURS = "[...document.querySelectorAll('#measured-slices-1 path.js-line')].map(line => getComputedStyle(line).stroke)"
LINES = "document.querySelectorAll('#measured-slices-1 path.js-line').length"


@pytest.fixture(scope="module")
def tab():
    with chromium.browser(chromium.found()) as tab:
        yield tab


@pytest.fixture(scope="module")
def report(fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    return write_report(fake.tree(folder), folder / "report.html")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_end_to_end_the_page_is_drawn_fits_and_asks_for_nothing(tab, report, width, dark):
    tab.events.clear()
    tab.look(width=width, dark=dark)
    tab.open(report)
    assert tab.errors() == []
    assert tab.requests() == [report.resolve().as_uri()]
    assert tab.run("performance.getEntriesByType('resource').filter(e => !/^(data|blob):/.test(e.name)).length") == 0
    assert tab.run("document.documentElement.dataset.drawn") == "11"
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    drawn = "[...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('.trace').length > 0)"
    assert tab.run(drawn) == [True] * 11
    assert tab.run("[...document.querySelectorAll('.chart')].every(c => c.scrollWidth <= c.clientWidth)")
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 22, 25)" if dark else "rgb(253, 253, 252)")
    assert tab.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_end_to_end_charts_follow_the_colour_scheme(tab, report):
    tab.look(width=1280, dark=False)
    tab.open(report)
    light = tab.run(COLOURS)
    tab.look(width=1280, dark=True)
    tab.run("new Promise(done => setTimeout(done, 500))")
    dark = tab.run(COLOURS)
    assert len(light) == len(dark) > 0
    assert not set(light) & set(dark)


def test_end_to_end_a_method_can_be_hidden_in_all_charts_and_a_layer_chosen(tab, report):
    tab.events.clear()
    tab.look(width=1280)
    tab.open(report)
    before = tab.run(LINES)
    settled = "; new Promise(done => setTimeout(done, 500))"
    tab.run("document.querySelector('.legend button').click()" + settled)
    assert tab.run(LINES) == before * 2 / 3
    assert tab.run("document.querySelector('.legend button').getAttribute('aria-pressed')") == "false"
    layer = "document.querySelector('#histogram').data.map(trace => trace.visible).indexOf(true)"
    first = tab.run(layer)
    choose = "const s = document.querySelector('[data-chart=histogram]'); s.value = '2'; "
    tab.run(choose + "s.dispatchEvent(new Event('change'))" + settled)
    assert tab.run(layer) == first + 2
    assert tab.errors() == []


def test_end_to_end_another_measure_can_be_set_beside_the_robust_loss(tab, report):
    tab.events.clear()
    tab.look(width=1280)
    tab.open(report)
    shown = "document.querySelector('#relation .xtitle').textContent"
    assert tab.run(shown) == "Flatness, nats"
    choose = "const s = document.querySelector('[data-chart=relation]'); s.value = '2'; "
    tab.run(choose + "s.dispatchEvent(new Event('change')); new Promise(done => setTimeout(done, 500))")
    assert tab.run(shown) == "Mean rise along slices, nats"
    assert tab.run("document.querySelector('#relation').data.filter(trace => trace.visible).length") == 5
    assert tab.errors() == []


def test_end_to_end_a_surface_can_be_turned_without_a_request(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    save(fake.surface(), run / "results" / "surface-last.json")
    page = write_report([run], tmp_path)
    with chromium.browser(chromium.found()) as tab:  # of its own: what the graphics driver says comes late
        tab.look(width=1280)
        tab.open(page)
        assert tab.run("document.querySelectorAll('#measured-surface-1 .contour').length") == 1
        assert tab.run("document.querySelectorAll('#measured-surface-3d canvas').length") > 0
        assert tab.run("document.querySelector('#measured-surface-3d')._fullLayout.scene.dragmode") == "turntable"
        drivers = ("WebGL", "Canvas2D")  # a browser without a graphics card speaks of itself
        assert [error for error in tab.errors() if not any(word in error for word in drivers)] == []
        assert tab.requests() == [page.resolve().as_uri()]


@pytest.fixture(scope="module")
def both(fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    return write_report([fake.run(folder / "at", name="at"), fake.study(folder / "study")], folder / "report.html")


@pytest.mark.parametrize("width", [390, 1280])
def test_end_to_end_studies_are_drawn_and_fit_and_their_lines_hide_on_their_own(tab, both, width):
    tab.events.clear()
    tab.look(width=width)
    tab.open(both)
    assert tab.run("document.documentElement.dataset.drawn") == "8"
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    shown = "['measured-slices-1', 'study-1-part-2-chart-1'].map(id => document.getElementById(id))"
    count = f"{shown}.map(chart => chart.querySelectorAll('path.js-line').length)"
    runs, study = tab.run(count)
    assert study == 10
    click = "document.querySelector('.legend.part button').click(); new Promise(done => setTimeout(done, 500))"
    tab.run(click)
    assert tab.run(count) == [runs, study - 2]
    assert tab.errors() == []
    assert tab.requests() == [both.resolve().as_uri()]


def test_end_to_end_a_page_with_little_in_it_has_no_errors(tab, fake, tmp_path):
    tab.events.clear()
    tab.look(width=390)
    tab.open(write_report([fake.run(tmp_path / "bare", name="at", whole=False)], tmp_path))
    assert tab.errors() == []
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
