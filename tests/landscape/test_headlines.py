from dataclasses import dataclass, replace

import numpy as np
import pytest

from robustscape.landscape.flatness import Estimate
from robustscape.landscape.headlines import Headline, headlines
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
    assert robust == Headline(name="Flatness", unit="nats", value=0.3, low=0.93 * 0.3, high=1.07 * 0.3)
    assert (clean.name, clean.value) == ("Flatness of the clean loss", pytest.approx(0.1))
    result = fake.slices(0.1, 1.0)
    (rise,) = headlines(result)
    assert rise.value == pytest.approx((result.robust_loss - result.robust_loss[:, [10]]).mean())
    assert rise.low is None


def test_contract_what_is_not_finite_is_left_out(fake):
    result = fake.slices(0.1, 1.0)
    result.robust_loss[0, 0] = np.inf
    assert headlines(result) == ()
    wide = replace(fake.flatness(0.3, 0.1), robust=Estimate(value=0.3, low=-np.inf, high=np.inf, n=1))
    assert headlines(wide)[0] == Headline(name="Flatness", unit="nats", value=0.3)


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
