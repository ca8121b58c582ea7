"""What every measurement's Result is remembered by."""

import math
from dataclasses import fields, replace

import pytest

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.config import hints, protocol_of
from robustscape.evaluation.subject import subject
from robustscape.landscape.headlines import further, headlines
from robustscape.landscape.runner import measure
from robustscape.runtime import TRUTH


@pytest.mark.slow
def test_contract_headlines_are_finite_numbers_with_distinct_names(measurement, network, batch):
    kinds = hints(type(measurement))
    attacks = [f.name for f in fields(measurement) if protocol_of(kinds[f.name]) == "Attack"]
    used = [name for name in attacks if getattr(measurement, name) is not None]
    quick = replace(measurement, **dict.fromkeys(used, FGSM(threat=ThreatModel(eps=0.1))))
    some = batch(8)
    result = measure(quick, subject(network().eval(), some.x, some.y, index=some.index, seed=2, runtime=TRUTH))
    found = headlines(result)
    assert len({headline.name for headline in found}) == len(found)
    assert len({other.name for other in further(result)}) == len(further(result))
    for headline in found:
        assert math.isfinite(headline.value)
        low, high = headline.low, headline.high
        assert (low is None) == (high is None)
        assert low is None or high is None or low <= headline.value <= high
