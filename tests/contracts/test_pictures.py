"""What every picture of a measurement promises: it is drawn in both ways, by itself, with the words it needs."""

import importlib
import json
from dataclasses import fields, replace

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.config import files, hints, members, named, protocol_of
from robustscape.evaluation.subject import subject
from robustscape.figures import pictures as drawn
from robustscape.landscape.runner import measure
from robustscape.pictures.plot import RESCALED, sentences
from robustscape.report import pictures as charted
from robustscape.runtime import TRUTH

NAMES = sorted(set(files("pictures")) & set(files("landscape")))
_LESS = {"positions": 3, "samples": 2, "curves": 1, "starts": 2, "replicates": 2, "random_weights": 1, "steps": 2,
         "restarts": 1, "directions": 2, "settle": 2, "follow": 1, "solves": 2, "k": 2, "order": 1}  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def measured(request):
    """A measurement, made smaller, with its result on a network of its own."""
    measurement = named("Measurement", request.param)
    kinds = hints(type(measurement))
    attacks = {f.name for f in fields(measurement) if protocol_of(kinds[f.name]) == "Attack"}
    changes = {name: FGSM(threat=ThreatModel(eps=0.1)) for name in attacks if getattr(measurement, name) is not None}
    known = {f.name: getattr(measurement, f.name) for f in fields(measurement)}
    changes |= {name: less for name, less in _LESS.items() if isinstance(known.get(name), int)}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
        x = torch.rand(8, 1, 4, 4)
    looked_at = subject(model, x, torch.arange(8) % 4, seed=2, runtime=TRUTH, split="test")
    small = replace(measurement, **changes)
    if "positions" in known and isinstance(known["positions"], tuple):
        small = replace(small, positions=known["positions"][:2])
    return small, measure(small, looked_at)


@pytest.fixture
def picture(measured):
    measurement, result = measured
    made = importlib.import_module(f"robustscape.pictures.{measurement.name}").picture
    return made({"none": [], "one": [result], "two": [result, result]})


def test_contract_has_axes_words_and_colours_of_its_groups(picture, measured):
    assert picture.title and picture.lead.endswith(".") and picture.plots
    assert f"n = {measured[1].n}" in sentences(picture.how)
    for plot in picture.plots:
        assert plot.y and (plot.x or plot.ticks)
        assert {trace.group for trace in plot.traces} <= {1, 2, None}
        assert all(len(trace.x) == len(trace.y) for trace in plot.traces)
        assert all(trace.x.max() <= len(plot.ticks) - 0.5 for trace in plot.traces if plot.ticks)


def test_contract_every_style_is_explained(picture):
    used = {trace.style for plot in picture.plots for trace in plot.traces}
    styles = {style for style, _ in picture.keys}
    alone = {"solid"} if not styles & {"dash", "dot"} else set()
    assert used - styles <= alone | {"points", "hollow", "dots", "bars"}


def test_contract_says_so_where_rescaling_changes_it(picture, measured):
    assert (RESCALED in sentences(picture.care).lower()) == (not type(measured[0]).scale_free)


@pytest.mark.slow
def test_contract_is_drawn_by_matplotlib(picture, tmp_path):
    for plot in picture.plots:
        surface = plot.plane is not None and plot.plane.form == "surface"
        ax = Figure().add_subplot(projection="3d" if surface else None)
        drawn.draw(ax, plot)
        assert ax.lines or ax.collections or ax.patches
        assert ax.get_ylabel()
    path = drawn.write(picture, ["", "one", "two"], "Some words.", tmp_path / "picture.svg")
    assert path.read_bytes().startswith(b"<?xml")


def test_contract_is_a_chart_that_json_can_hold(picture):
    for plot in picture.plots:
        if plot.plane is None:
            chart = charted.line_chart(plot)
        elif plot.plane.form == "contour":
            chart = charted.contour(plot, plot.plane)
        else:
            chart = charted.surfaces([plot])
        assert "NaN" not in json.dumps(chart, allow_nan=False)
        assert chart["data"] and all("group" in trace["meta"] for trace in chart["data"])


def test_contract_every_measurement_of_numbers_has_a_picture():
    assert set(members("Measurement")) - set(NAMES) == {"histograms"}, "which has a section of its own"
    assert set(NAMES) <= set(members("Measurement"))
