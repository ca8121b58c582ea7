"""Which measurements see that a network was rescaled without changing its function, and which do not."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.config import hints, protocol_of, to_plain
from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.runner import measure
from robustscape.landscape.spectrum import Spectrum
from robustscape.runtime import TRUTH
from robustscape.weights.rescaling import before_normalisation, between_layers

ATTACK = FGSM(threat=ThreatModel(eps=0.1))

GEOMETRY = ("norm", "length", "distance", "cosine")
"""Endings of the names of lengths and angles in weight space, which change with the weights whatever is measured."""

MOST = {
    "samples": 4, "starts": 2, "restarts": 1, "replicates": 2, "steps": 4, "random_weights": 1, "positions": 5,
    "directions": 1, "curves": 1, "k": 2, "products": 6, "settle": 5, "follow": 2, "bins": 11,
}  # fmt: skip
"""Of settings that would take long: what is promised holds of small ones too."""


def numbers(plain, path=""):
    """Every number of a Result by its place, but for its provenance and lengths in weight space."""
    if isinstance(plain, dict):
        for name, value in plain.items():
            if name != "provenance":
                yield from numbers(value, f"{path}.{name}")
    elif isinstance(plain, list):
        for number, value in enumerate(plain):
            yield from numbers(value, f"{path}[{number}]")
    elif isinstance(plain, (int, float)):
        yield path, float(plain)


def of_geometry(place):
    return any(part.partition("[")[0].endswith(GEOMETRY) for part in place.split("."))


@pytest.fixture
def quick(measurement):
    """The measurement with few steps and samples, and a one-step attack wherever it attacks."""
    kinds = hints(type(measurement))
    attacks = [f.name for f in fields(measurement) if protocol_of(kinds[f.name]) == "Attack"]
    few = {f.name: min(MOST[f.name], getattr(measurement, f.name)) for f in fields(measurement)
           if f.name in MOST and isinstance(getattr(measurement, f.name), int)}  # fmt: skip
    used = [name for name in attacks if getattr(measurement, name) is not None]
    return replace(measurement, **few, **dict.fromkeys(used, ATTACK))


def found(measurement, model, batch):
    looked_at = subject(model, batch.x, batch.y, index=batch.index, seed=2, runtime=TRUTH)
    return dict(numbers(to_plain(measure(measurement, looked_at))))


def test_contract_says_whether_it_is_scale_free_and_is(quick, network, batch):
    model, some = network(dtype=torch.float64).eval(), batch(8, dtype=torch.float64)
    larger = before_normalisation(model, some.x, factor=2.0).model
    both = between_layers(larger, some.x, factor=4.0).model
    before, after = found(quick, model, some), found(quick, both, some)
    assert after.keys() == before.keys()
    if type(quick).scale_free:
        places = [place for place in before if not of_geometry(place)]
        np.testing.assert_allclose([after[p] for p in places], [before[p] for p in places], rtol=1e-6, atol=1e-9)
        assert any("robust" in place for place in places)
    else:
        away = {place: abs(after[place] - before[place]) for place in before}
        assert any(away[place] > max(0.1 * abs(before[place]), 1e-6) for place in before)


def normalised_throughout():
    """A network every weight of which is followed by a BatchNorm."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2), nn.BatchNorm2d(3, eps=0.01), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4),
        nn.BatchNorm1d(4)
    ).double()  # fmt: skip
    model(torch.rand(32, 2, 8, 8, dtype=torch.float64))
    return model.eval()


def test_closed_form_twice_the_weights_keep_flatness_and_quarter_the_largest_eigenvalue(batch):
    model, some = normalised_throughout(), batch(8, dtype=torch.float64)
    twice = before_normalisation(model, some.x, factor=2.0)
    assert twice.pairs == (("0", "1"), ("4", "5"))
    flatness, spectrum = AverageFlatness(attack=ATTACK), Spectrum(attack=ATTACK, k=2, scope="weights", tolerance=1e-9)
    one, other = (
        [measure(settings, subject(m, some.x, some.y, runtime=TRUTH)) for settings in (flatness, spectrum)]
        for m in (model, twice.model)
    )
    assert other[0].robust.value == pytest.approx(one[0].robust.value, rel=1e-9)
    assert other[0].robust.value != 0
    raw, layer = 0, 1
    np.testing.assert_allclose(one[1].eigenvalues[:, raw], 4 * other[1].eigenvalues[:, raw], rtol=1e-6)
    np.testing.assert_allclose(one[1].eigenvalues[:, layer], other[1].eigenvalues[:, layer], rtol=1e-6)
