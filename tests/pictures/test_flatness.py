from dataclasses import replace

import numpy as np

from robustscape.landscape.crossed import Components
from robustscape.landscape.flatness import AtRadius
from robustscape.pictures.flatness import picture
from robustscape.pictures.plot import sentences


def swept(fake, rise):
    one = fake.flatness(rise, 0.1)
    at = AtRadius(xi=0.25, robust=replace(one.robust, value=rise / 4), clean=one.clean, robust_losses=(1.0,),
                  clean_losses=(1.0,))  # fmt: skip
    return replace(one, sweep=(at,))


def test_contract_the_sweep_and_the_first_radius_make_one_rising_line(fake):
    (plot,) = picture({"AT": [swept(fake, 0.2)]}).plots
    clean, robust = plot.traces
    assert (plot.log, clean.style, robust.style) == ("xy", "dash", "solid")
    assert robust.x.tolist() == [0.25, 0.5]
    np.testing.assert_allclose(robust.y, [0.05, 0.2])


def test_closed_form_differences_are_from_the_first_group(fake):
    (plot,) = picture({"AT": [fake.flatness(0.3, 0.1)], "none": [], "AWP": [fake.flatness(0.2, 0.1)]}).plots
    (point,) = plot.traces
    np.testing.assert_allclose(point.y, [-0.1])
    assert (plot.ticks, point.group, plot.levels[0][0]) == (("AWP",), 2, 0)


def test_closed_form_parts_of_the_error_sum_to_all_of_it(fake):
    parts = Components(between_draws=2.0, between_examples=10.0, interaction=0.0, draws=4, examples=20, error=1.0,
                       dominant="draws", best_draws=4, best_examples=32, best_error=0.9)  # fmt: skip
    found = picture({"AT": [replace(fake.flatness(0.3, 0.1), components=parts)]})
    np.testing.assert_allclose(found.plots[0].traces[0].y, [50, 50, 0])
    assert any("4 draws and 32 examples" in part for part in found.how)


def test_contract_a_single_radius_of_one_method_has_no_picture(fake):
    assert picture({"AT": [fake.flatness(0.3, 0.1)]}) is None


def test_contract_bands_over_seeds_and_each_seeds_own_bars_are_told_apart(fake):
    some = [swept(fake, 0.2), swept(fake, 0.3)]
    said = sentences(picture({"AT": some, "AWP": some}).how)
    assert "Bands: one standard deviation over seeds." in said and "Of differences each seed's own bars: 95 %" in said
    said = sentences(picture({"AT": some, "AWP": some[:1]}).how)
    assert "over seeds; of a single run 95 % intervals over draws" in said
    said = sentences(picture({"AT": [fake.flatness(0.3, 0.1)], "AWP": [fake.flatness(0.2, 0.1)]}).how)
    assert "Bands" not in said and "Of differences" in said
    assert "differences" not in sentences(picture({"AT": some}).how)
