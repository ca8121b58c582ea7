from dataclasses import replace

import numpy as np
import pytest

from robustscape.report import charts


def test_contract_curves_are_in_percent_with_bands_over_seeds(fake):
    logs = {"none": [], "<b>at</b>": [fake.log(0.1, 0.05, seed=s) for s in range(2)]}
    chart = charts.curves(logs, "robust")
    lines = [trace for trace in chart["data"] if "fill" not in trace]
    assert [(line["name"], line["line"]["dash"]) for line in lines] == [
        ("&lt;b&gt;at&lt;/b&gt;, train", "dot"),
        ("&lt;b&gt;at&lt;/b&gt;, validation", "solid"),
    ]
    tracked = [[entry.tracked["train"].robust_accuracy for entry in log.epochs] for log in logs["<b>at</b>"]]
    np.testing.assert_allclose(lines[0]["y"], 100 * np.mean(tracked, axis=0), rtol=1e-5)
    assert {trace["meta"]["group"] for trace in chart["data"]} == {1}
    assert [shape["x0"] for shape in chart["layout"]["shapes"]] == [12.5]


def test_contract_scatter_has_a_point_a_run_with_its_intervals(fake):
    pairs = [
        (fake.flatness(0.2, 0.1), fake.evaluation(0.02, 0.1)),
        (fake.flatness(0.3, 0.1), fake.evaluation(0.02, 0.2)),
    ]
    chart = charts.scatter({"last": {"none": [], "at": pairs}, "best": {"none": [], "at": pairs[:1]}})
    last, best = chart["data"]
    assert (last["x"], last["y"]) == ([0.2, 0.3], [10, 20])
    assert last["error_x"]["array"] == pytest.approx([0.014, 0.021])
    assert (last["marker"]["symbol"], best["marker"]["symbol"]) == ("square", "square-open")


def test_contract_panels_have_a_trace_a_line_and_a_group_a_name(fake):
    first, second = charts.panels(fake.panels(), of="study-1-part-2")
    assert [trace["line"]["dash"] for trace in first["data"]] == ["solid", "dash", *["solid"] * 7, "dot"]
    assert [trace["meta"]["group"] for trace in first["data"]] == [0, 0, *range(1, 9)]
    assert {trace["meta"]["of"] for trace in first["data"] + second["data"]} == {"study-1-part-2"}
    (line,) = second["data"]
    assert (line["x"], line["y"]) == ([0, 0.5, 1], [1, None, 3])
    assert (line["line"], line["meta"]["group"]) == ({"color": "--series-1", "width": 2, "dash": "dash"}, 9)
    assert second["layout"]["xaxis"]["title"]["text"] == "ε &lt;b&gt;"


def test_contract_a_name_is_shown_by_its_solid_line(fake):
    named = charts.names(fake.panels())
    assert list(named)[:2] == ["ε = 0", "ε = 0.1"] and list(named)[-1] == "exact"
    assert [line.dashed for line in named.values()] == [False] * 9 + [True]


def test_contract_histograms_are_densities_a_trace_a_layer(fake):
    result = fake.histograms(0.3)
    other = replace(result, layers=("conv1.weight", "b", "c", "d"))
    layers = ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight", "b", "c", "d")
    chart = charts.histograms({"at": [result], "other": [other]}, layers)
    assert [trace["meta"]["layer"] for trace in chart["data"]] == [0, 1, 2, 3, 0, 4, 5, 6]
    first = chart["data"][0]
    width = first["x"][1] - first["x"][0]
    assert sum(y for y in first["y"] if y is not None) * width == pytest.approx(1, abs=1e-3)
