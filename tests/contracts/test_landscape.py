"""What every measurement promises, whoever wrote it."""

import importlib.util
import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.config import hints, protocol_of
from robustscape.evaluation.subject import subject
from robustscape.landscape.runner import measure
from robustscape.results import load, save
from robustscape.runtime import TRUTH, fast
from robustscape.types import Grouped, Measurement, Provenance

spec = importlib.util.spec_from_file_location("methods", Path(__file__).with_name("methods.py"))
methods = importlib.util.module_from_spec(spec)
spec.loader.exec_module(methods)


@pytest.fixture
def quick(measurement):
    """The measurement with a one-step attack wherever it attacks."""
    kinds = hints(type(measurement))
    attacks = {f.name for f in fields(measurement) if protocol_of(kinds[f.name]) == "Attack"}
    used = [name for name in attacks if getattr(measurement, name) is not None]
    return replace(measurement, **dict.fromkeys(used, FGSM(threat=ThreatModel(eps=0.1))))


@pytest.fixture
def looked_at(network, batch):
    """A model in eval mode and eight images."""
    some = batch(8)
    return subject(network().eval(), some.x, some.y, index=some.index, seed=2, runtime=TRUTH, split="test")


def test_contract_is_a_measurement_named_as_its_file(measurement):
    assert isinstance(measurement, Measurement)
    assert type(measurement).__module__.rpartition(".")[2] == measurement.name


def test_contract_points_and_values_are_plain_data(quick, looked_at):
    points = list(quick.points())
    assert points and json.loads(json.dumps(points)) == points == list(quick.points())
    value = quick.at(looked_at, points[0])
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_contract_points_are_measured_without_a_trace_in_any_order(quick, looked_at, trace):
    points = [quick.points()[0], quick.points()[-1]]
    looked_at.model.bn2.train()
    looked_at.model.linear.weight.grad = torch.full_like(looked_at.model.linear.weight, 3.0)
    x, seen = looked_at.x.clone(), trace(looked_at.model)
    forwards = [quick.at(looked_at, point) for point in points]
    backwards = [quick.at(looked_at, point) for point in reversed(points)]
    assert forwards == backwards[::-1]
    assert seen.found() == [] and torch.equal(looked_at.x, x)


def test_contract_values_are_those_of_any_batch_size_and_mode(quick, network, batch):
    """To 1e-5 without an attack, and to 1e-3 with one; in float64, where rounding does not change which way it goes."""
    attacked = any(hasattr(part, "threat") for part in vars(quick).values())
    model, some = network(dtype=torch.float64), batch(8, torch.float64)
    model.train()
    made = subject(model, some.x, some.y, index=some.index, seed=2, runtime=TRUTH, split="test", batch=3)
    other = replace(made, model=network(dtype=torch.float64).eval(), batch=8)
    other = replace(other, view=fast(other.model, TRUTH))
    for point in (quick.points()[0], quick.points()[-1]):
        values, again = (methods.numbers(quick.at(one, point)) for one in (other, made))
        assert values and again == pytest.approx(values, rel=1e-3 if attacked else 1e-5, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", methods.MEASUREMENTS)
def test_contract_values_in_float32_are_those_of_any_batch_size(name):
    settings, whole, split = methods.MEASUREMENTS[name], *(methods.looked_at(torch.float32, n) for n in (8, 3))
    attacked = any(hasattr(part, "threat") for part in vars(settings).values())
    for point in (settings.points()[0], settings.points()[-1]):
        values, again = (methods.numbers(settings.at(one, point)) for one in (whole, split))
        assert values and again == pytest.approx(values, rel=1e-3 if attacked else 1e-5, abs=1e-6, nan_ok=True)


GROUPED = [name for name, value in methods.MEASUREMENTS.items() if isinstance(value, Grouped)]


@pytest.mark.parametrize("name", GROUPED)
def test_contract_several_points_in_one_pass_are_what_each_is_alone(name):
    settings, made = methods.MEASUREMENTS[name], methods.looked_at()
    points, size = settings.points(), settings.at_once(made)
    assert size > 1
    for first in range(0, len(points), size):
        some = points[first : first + size]
        for point, value in zip(some, settings.several(made, some), strict=True):
            alone = settings.at(made, point)
            assert methods.numbers(value) == pytest.approx(methods.numbers(alone), rel=1e-9, abs=1e-12, nan_ok=True)


@pytest.mark.slow
def test_contract_result_comes_back_from_its_file(quick, looked_at, tmp_path):
    result = measure(quick, looked_at)
    assert isinstance(result.provenance, Provenance) and result.provenance.seed == 2
    path = save(result, tmp_path / "result.json")
    again = load(path)
    assert type(again) is type(result) and is_dataclass(again)
    for field in fields(result):
        old, new = getattr(result, field.name), getattr(again, field.name)
        if isinstance(old, np.ndarray):
            np.testing.assert_array_equal(new, old)
            assert new.shape == old.shape
        else:
            assert new == old
