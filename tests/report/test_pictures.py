from dataclasses import replace

import numpy as np
import pytest

from robustscape.config import to_plain
from robustscape.landscape.slices import Slice
from robustscape.pictures.plot import Plane, Plot, Trace
from robustscape.pictures.slices import picture
from robustscape.report.pictures import contour, line_chart, sections, surfaces
from robustscape.results import save
from robustscape.runs import read_runs


def test_contract_slices_hold_no_number_that_json_has_not(fake):
    result = fake.slices(0.1, 1.0)
    result.robust_loss[:, 0] = np.inf
    chart = line_chart(picture({"<b>": [result]}).plots[0])
    robust = next(trace for trace in chart["data"] if trace.get("name") == "&lt;b&gt;, robust")
    assert robust["y"][0] is None and robust["y"][1] is not None
    assert (robust["line"]["dash"], robust["meta"]) == ("solid", {"group": 0})


def test_contract_axes_levels_and_ticks():
    point = Trace(name="p", group=1, x=np.array([0.0]), y=np.array([2.0]), low=np.array([1.0]), high=np.array([4.0]),
                  style="points")  # fmt: skip
    plot = Plot(title="", x="", y="y", traces=(point,), log="y", ticks=("<i>",), levels=((10.0, "ten"),))
    chart = line_chart(plot)
    assert chart["layout"]["xaxis"]["ticktext"] == ["&lt;i&gt;"]
    assert chart["layout"]["annotations"][0]["y"] == 1 and chart["layout"]["shapes"][0]["y0"] == 10
    (trace,) = chart["data"]
    assert (trace["error_y"]["arrayminus"], trace["error_y"]["array"]) == ([1], [2])
    assert trace["marker"]["symbol"] == "square"


def test_contract_surfaces_are_shown_one_at_a_time_on_one_scale():
    at = np.linspace(-1, 1, 3)
    plots = [
        Plot(title=name, x="α", y="β", z="loss", plane=Plane(name=name, group=group, x=at, y=at, z=np.ones((3, 3)),
             lowest=0.0, highest=2.0, path=np.array([[0.0, 1.0]]), stops=("start",), form="surface"))
        for group, name in enumerate("ab")
    ]  # fmt: skip
    chart = surfaces(plots)
    assert [(trace["type"], trace["meta"]["layer"]) for trace in chart["data"]] == [
        (kind, layer) for layer in (0, 1) for kind in ("surface", "scatter3d")
    ]
    assert chart["data"][1]["z"] == [1]  # the path lies on the surface
    assert chart["layout"]["scene"]["zaxis"]["range"] == [0, 2]
    filled, path = contour(plots[0], plots[0].plane)["data"]
    assert (filled["zmin"], filled["zmax"], path["text"]) == (0, 2, ["start"])


@pytest.mark.parametrize("along", ["random", "adversarial"])
def test_contract_what_some_runs_lack_is_named_with_its_command(fake, tmp_path, along):
    kinds = (("at", None), ("awp", fake.AWP))
    runs = [fake.run(tmp_path / name, name=name, weights=weights, whole=False) for name, weights in kinds]
    stem = "slices" if along == "random" else f"slices_{along}"
    settings = to_plain(Slice(along=along, positions=21, directions=5))
    shown = replace(fake.slices(0.1, 1.0), provenance=replace(fake.PROVENANCE, settings=settings))
    save(shown, runs[0] / "results" / f"{stem}-last.json")
    drawn = {}
    (text,) = sections(read_runs(runs), drawn)
    assert list(drawn) == [f"measured-{stem}-1", f"measured-{stem}-2"]
    asked = "--slices.directions 5" + ("" if along == "random" else " --slices.along adversarial")
    assert f"robustscape measure {runs[1]} slices --n 500 {asked}</code>" in text
    assert "Not measured of awp (seed 0)" in text


def test_contract_a_second_split_has_a_section_of_its_own(fake, tmp_path):
    run = fake.run(tmp_path / "at", name="at", whole=False)
    for split in ("test", "train"):
        file = "slices-last" + ("-train" if split == "train" else "")
        save(replace(fake.slices(0.1, 1.0), split=split), run / "results" / f"{file}.json")
    drawn = {}
    test, train = sections(read_runs([run]), drawn)
    assert list(drawn) == [f"measured-slices{split}-{place}" for split in ("", "-train") for place in (1, 2)]
    assert 'id="measured-slices-train"' in train and "directions: test images" in test


@pytest.mark.parametrize(("most", "step"), [(2.0, "D1"), (50.0, "D2"), (1000.0, 1)])
def test_contract_a_logarithmic_axis_names_no_more_than_there_is_room_for(most, step):
    line = Trace(name="a", group=0, x=np.arange(3.0), y=np.array([1.0, most, np.nan]))
    point = Trace(name="a", group=0, x=np.zeros(1), y=np.ones(1), low=np.ones(1), high=np.array([most]), style="points")
    for trace in (line, point):
        assert line_chart(Plot(title="", x="", y="", traces=(trace,), log="y"))["layout"]["yaxis"]["dtick"] == step


def test_contract_long_names_stand_upright_and_long_titles_are_broken():
    names = tuple(f"layer{k}.bias" for k in range(8))
    line = Trace(name="a", group=0, x=np.arange(8.0), y=np.ones(8), style="bars")
    layout = line_chart(Plot(title="", x="", y="eigenvalue over the loss at random weights", traces=(line,),
                             ticks=names))["layout"]  # fmt: skip
    assert layout["xaxis"]["tickangle"] == -90
    assert layout["yaxis"]["title"]["text"] == "eigenvalue over the loss at random<br>weights"
    few = line_chart(Plot(title="", x="", y="y", traces=(line,), ticks=("a", "b")))["layout"]
    assert "tickangle" not in few["xaxis"]
