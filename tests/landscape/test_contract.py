"""What every measurement promises; the room's members are found by their files."""

import json

import pytest
import torch
from torch import nn

from robustscape.config import from_plain, members, to_plain
from robustscape.evaluation.subject import subject
from robustscape.results import load, provenance, save
from robustscape.runtime import TRUTH


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3)
    return nn.Sequential(*layers)


def looked_at(model):
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 1, 4, 4, generator=g), torch.randint(0, 3, (6,), generator=g)
    return subject(model, x, y, runtime=TRUTH, batch=4, split="test")


@pytest.fixture(params=sorted(members("Measurement")))
def measurement(request):
    return members("Measurement")[request.param]()


def test_contract_no_trace(measurement):
    model = network()
    model.train()
    model[4].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags, state = [m.training for m in model.modules()], torch.random.get_rng_state()
    made = looked_at(model)
    for point in (measurement.points()[0], measurement.points()[-1]):
        measurement.at(made, point)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_contract_points_stand_alone(measurement):
    first, last = measurement.points()[0], measurement.points()[-1]
    made, other = looked_at(network()), looked_at(network())
    values = [measurement.at(made, first), measurement.at(made, last)]
    assert [measurement.at(other, last), measurement.at(other, first)] == values[::-1]
    assert json.loads(json.dumps([first, last, *values])) == [first, last, *values]


def test_contract_settings_and_result_are_plain_data(measurement, tmp_path):
    assert from_plain(to_plain(measurement)) == measurement
    made, points = looked_at(network()), measurement.points()
    first, last = measurement.at(made, points[0]), measurement.at(made, points[-1])
    device = torch.device("cpu")
    where = provenance(seconds=1, device=device, precision="", seed=0, model="", data="", settings=measurement)
    result = measurement.collect(made, [first] + [last] * (len(points) - 1), where)
    again = load(save(result, tmp_path / f"{measurement.name}.json"))
    assert type(again) is type(result) and to_plain(again) == to_plain(result)
    assert again.provenance.settings == to_plain(measurement)


def test_contract_named_after_its_file(measurement):
    assert type(measurement).__module__.endswith(f".{measurement.name}")
