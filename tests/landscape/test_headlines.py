from dataclasses import dataclass, replace

import numpy as np
import pytest

from robustscape.landscape.curvature import CurvatureResult
from robustscape.landscape.curvature_levels import AtEps, Top
from robustscape.landscape.directions.family import Facts
from robustscape.landscape.flatness import Estimate
from robustscape.landscape.headlines import Headline, further, headlines, unconverged
from robustscape.landscape.spectrum import SpectrumResult
from robustscape.types import Provenance


@dataclass(frozen=True, kw_only=True)
class NewcomerResult:
    depth: Estimate
    slow_rise: Estimate
    other: Estimate | None
    n: int
    provenance: Provenance


def test_closed_form_flatness_and_the_mean_rise_of_slices(fake):
    robust, clean = headlines(fake.flatness(0.3, 0.1))
    assert robust == Headline(
        name="Flatness", unit="nats", value=0.3, low=0.93 * 0.3, high=1.07 * 0.3, of="robust loss"
    )
    assert (clean.name, clean.value) == ("Flatness of the clean loss", pytest.approx(0.1))
    result = fake.slices(0.1, 1.0)
    (rise,) = headlines(result)
    assert rise.value == pytest.approx((result.robust_loss - result.robust_loss[:, [10]]).mean())
    assert rise.low is None


def test_contract_further_estimates_are_others_than_the_headlines(fake):
    plain = fake.flatness(0.3, 0.1)
    assert further(plain) == () and further(fake.slices(0.1, 1.0)) == ()
    wide = Estimate(value=0.3, low=0.1, high=0.5, n=9)
    (found,) = further(replace(plain, robust_over_both=wide))
    assert (found.of, found.low, found.high) == ("robust loss", 0.1, 0.5)
    assert found.name not in {headline.name for headline in headlines(plain)}
    assert further(replace(plain, robust_over_both=replace(wide, low=-np.inf, high=np.inf))) == ()


def test_contract_what_is_not_finite_is_left_out(fake):
    result = fake.slices(0.1, 1.0)
    result.robust_loss[0, 0] = np.inf
    assert headlines(result) == ()
    wide = replace(fake.flatness(0.3, 0.1), robust=Estimate(value=0.3, low=-np.inf, high=np.inf, n=1))
    assert headlines(wide)[0] == Headline(name="Flatness", unit="nats", value=0.3, of="robust loss")


def test_contract_a_measure_that_nobody_listed_gives_its_estimates(fake):
    made = NewcomerResult(
        depth=Estimate(value=2.0, low=1.0, high=3.0, n=4),
        slow_rise=Estimate(value=0.5, low=0.4, high=0.6, n=4),
        other=None,
        n=10,
        provenance=fake.PROVENANCE,
    )
    assert [(h.name, h.value) for h in headlines(made)] == [("Newcomer: depth", 2.0), ("Newcomer: slow rise", 0.5)]


def test_contract_results_without_such_a_number_give_none(fake):
    assert headlines(fake.histograms(0.1)) == () and headlines(fake.images(count=2)) == ()


def test_contract_slices_along_other_directions_are_another_measure(fake):
    result = fake.slices(0.1, 1.0)
    (random,) = headlines(result)
    (along,) = headlines(replace(result, facts=Facts(along="clean_hessian")))
    assert random.name == "Mean rise along slices"
    assert along == replace(random, name="Mean rise along slices, clean hessian")


def spectrum(provenance, converged, smallest):
    values = np.array([[[3.0, 2.0]]])
    one = np.ones((1, 1))
    return SpectrumResult(
        losses=("robust",), coordinates=("raw",), eigenvalues=values, residuals=values, smallest=-one[..., None],
        converged=np.array([[converged]]), smallest_residuals=one[..., None],
        smallest_converged=np.array([[[smallest]]]), ratio=one, spectral_norm=one, nuclear_norm=one,
        normalised=values[..., :0], random_losses=one[:, :0], loss=one[0], products=one, curvature="held",
        tolerance=0.01, scope="all", attack="", n=9, split="test", provenance=provenance,
    )  # fmt: skip


def test_contract_eigenvalues_that_did_not_converge_are_named_and_are_no_number(fake):
    found = spectrum(fake.PROVENANCE, [False, False], smallest=False)
    assert headlines(found) == ()
    assert unconverged(found) == ("2 of 2 of the largest, robust, raw", "1 of the smallest, robust, raw")
    good = spectrum(fake.PROVENANCE, [True, True], smallest=True)
    assert unconverged(good) == () and headlines(good)[0].value == 3.0
    assert (headlines(good)[0].of, headlines(good)[0].unit) == ("robust loss, inputs held", "nats")
    assert headlines(replace(good, losses=("clean",)))[0].of == "clean loss"
    assert unconverged(fake.flatness(0.3, 0.1)) == ()
    lines = replace(fake.slices(0.1, 1.0), facts=Facts(along="hessian", converged=(True, False)))
    assert unconverged(lines) == ("eigenvector 2",)


def test_contract_the_curvature_of_a_network_is_that_at_its_largest_eps(fake):
    def level(eps, total):
        top = Top(
            held=1.0, held_converged=True, total=total, residual=0.0, converged=eps > 0, products=3, by="implicit"
        )
        return AtEps(eps=eps, multiple=eps, loss=1.0, pinned=1.0, stationary=1.0, strict=1.0, along=(), top=top)

    result = CurvatureResult(
        levels=(level(0.1, 5.0), level(0.0, 2.0)), norm="linf", coordinates="raw", settle=1, follow=1, attack="PGD",
        n=9, split="test", provenance=fake.PROVENANCE,
    )  # fmt: skip
    assert [(h.value, h.of) for h in headlines(result)] == [(5.0, "robust loss, inputs following")]
    assert unconverged(result) == ("the largest total one at eps 0",)
