from dataclasses import replace

import numpy as np
import pytest

from robustscape.landscape.directions.family import Facts
from robustscape.landscape.flatness import Estimate
from robustscape.pictures.plot import sentences
from robustscape.pictures.slices import picture


def test_closed_form_random_directions_are_a_mean_with_a_band(fake):
    result = fake.slices(0.1, 1.0)
    found = picture({"none": [], "AT": [result]})
    loss, error = found.plots
    clean, robust = error.traces
    assert (clean.style, robust.style, robust.group) == ("dash", "solid", 1)
    np.testing.assert_allclose(robust.y, 100 * result.robust_error.mean(axis=0))
    spread = 100 * result.robust_error.std(axis=0, ddof=1)
    np.testing.assert_allclose(robust.high - robust.y, spread, atol=1e-12)
    assert "filter" in loss.x and "filter-normalised" in sentences(found.how)


def test_closed_form_adversarial_directions_are_their_largest(fake):
    result = replace(fake.slices(0.1, 1.0), facts=Facts(along="adversarial"), scheme="layer")
    found = picture({"AT": [result]})
    np.testing.assert_allclose(found.plots[0].traces[1].y, result.robust_loss.max(axis=0))
    assert "largest loss over the directions" in sentences(found.how)


def test_contract_eigenvectors_have_a_plot_each_and_are_not_pooled(fake):
    result = fake.slices(0.1, 1.0, directions=2)
    facts = Facts(along="hessian", eigenvalues=(7.0, 3.0), residuals=(0.0, 1.0), converged=(True, False))
    found = picture({"AT": [replace(result, scheme="none", facts=facts)]})
    assert [plot.title for plot in found.plots] == ["Eigenvector 1 (7, inputs held)", "Eigenvector 2 (3, inputs held)"]
    np.testing.assert_allclose(found.plots[1].traces[1].y, result.robust_loss[1])
    assert "not converge" in sentences(found.care) and "none-normalised" not in sentences(found.how)


def test_contract_a_full_attack_is_drawn_where_it_was_made(fake):
    result = fake.slices(0.1, 1.0, directions=2)
    full = np.full_like(result.robust_loss, np.nan)
    full[1, 3] = 9.0
    some = Estimate(value=-0.2, low=-0.3, high=-0.1, n=1)
    result = replace(result, full_robust_loss=full, full_robust_error=full / 10, bias=some, examples="held")
    found = picture({"AT": [result]})
    (dots,) = [trace for trace in found.plots[0].traces if trace.style == "dots"]
    assert (dots.x.tolist(), dots.y.tolist()) == ([result.alpha[3]], [9.0])
    assert "-0.200 [-0.300, -0.100]" in sentences(found.how) and "held" in sentences(found.how)


@pytest.mark.parametrize(("along", "scheme", "changes"), [("random", "filter", False), ("random", "none", True),
                                                          ("other", "none", True)])  # fmt: skip
def test_contract_rescaling_is_named_where_it_matters(fake, along, scheme, changes):
    result = replace(fake.slices(0.1, 1.0), facts=Facts(along=along), scheme=scheme)
    assert ("rescaled" in sentences(picture({"AT": [result]}).care)) == changes
