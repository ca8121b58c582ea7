from dataclasses import replace

import numpy as np

from robustscape.landscape.directions.family import Facts
from robustscape.pictures.plot import sentences
from robustscape.pictures.surface import picture


def test_contract_surfaces_share_one_scale_and_end_where_the_loss_overflows(fake):
    found = picture({"a": [fake.surface()], "b": [fake.surface(top=1.0)]})
    planes = [plot.plane for plot in found.plots]
    assert [plane.form for plane in planes] == ["contour", "contour", "surface", "surface"]
    assert {(plane.lowest, plane.highest) for plane in planes} == {(0.0, 4.0)}
    assert all(np.isnan(plane.z[0, 0]) and np.isfinite(plane.z).sum() == plane.z.size - 1 for plane in planes)
    assert "Holes are where the loss overflows" in sentences(found.care)


def test_contract_a_level_surface_has_a_scale_too(fake):
    level = fake.surface()
    level = replace(level, robust_loss=np.full_like(level.robust_loss, 2.0), overflowed=level.overflowed & False)
    planes = [plot.plane for plot in picture({"a": [level]}).plots]
    assert {(plane.lowest, plane.highest) for plane in planes} == {(2.0, 3.0)}


def test_contract_a_path_is_drawn_with_its_checkpoints(fake):
    facts = Facts(along="path", explained=(0.8, 0.1), path=((1.0, 0.0), (0.5, 1.0)), checkpoints=("a", "b"))
    plot = picture({"a": [fake.surface(facts=facts)]}).plots[0]
    assert (
        plot.x == "α: component 1, 80 % of the path; 1 is as far as it goes"
        and plot.y == "β: component 2, 10 % of the path; 1 is as far as it goes"
    )
    assert plot.plane.path.tolist() == [[1, 0], [0.5, 1]] and plot.plane.stops == ("a", "b")
