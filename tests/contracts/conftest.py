"""Every component of every room, and what they are tried on. A test asks for a room by the name of its argument."""

import copy
import random
import typing
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.config import ROOMS, hints, members, named, presets
from robustscape.types import Batch

ARGUMENTS = {
    "attack": "Attack",
    "objective": "Objective",
    "perturbation": "WeightPerturbation",
    "measurement": "Measurement",
    "architecture": "Architecture",
    "source": "DataSource",
    "schedule": "Schedule",
    "optimizer": "Optimizer",
}


def _names(protocol):
    found = members(protocol)
    return [name for file, kind in found.items() for name in (file, *(f"{file}.{p}" for p in presets(kind)))]


_MOST = {"steps": 10, "queries": 40, "samples": 16}
"""Of attacks that would take long: what is promised holds of short ones too."""


def _short(value):
    return replace(
        value, **{name: min(most, getattr(value, name)) for name, most in _MOST.items() if hasattr(value, name)}
    )


def _params(protocol):
    """All members with their defaults, and in every preset; slow are data in files and presets of measurements."""
    for name in _names(protocol):
        value = named(protocol, name)
        value = _short(value) if protocol == "Attack" else value
        slow = {"path", "data_dir"} & set(vars(value)) or (protocol == "Measurement" and "." in name)
        yield pytest.param(value, id=name, marks=[pytest.mark.slow] if slow else [])
        if protocol == "Attack" and "." not in name:
            yield from (pytest.param(other, id=f"{name}-{change}") for change, other in _variants(value))


def _later(param):
    """A preset where every member meets every member of another room: what all pairs come to is slow to try."""
    return pytest.param(*param.values, id=param.id, marks=[*param.marks, *[pytest.mark.slow] * ("." in param.id)])


def _variants(value):
    """The component with every other choice of its closed fields, each with two restarts where it has restarts."""
    more = {"restarts": 2} if hasattr(value, "restarts") else {}
    for field, kind in hints(type(value)).items():
        for choice in typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ():
            if choice != getattr(value, field) or more:
                yield f"{field}={choice}", replace(value, **{field: choice}, **more)


def pytest_generate_tests(metafunc):
    asked = [argument for argument in ARGUMENTS if argument in metafunc.fixturenames]
    for place, argument in enumerate(asked):
        made = list(_params(ARGUMENTS[argument]))
        metafunc.parametrize(argument, [_later(param) for param in made] if place else made)
    if "component" in metafunc.fixturenames:
        pairs = [(protocol, name) for protocol in ROOMS for name in _names(protocol)]
        values = [pytest.param(named(*pair), id=f"{ROOMS[pair[0]]}-{pair[1]}") for pair in pairs]
        metafunc.parametrize("component", values)


@pytest.fixture
def sized(architecture):
    """Makes the architecture narrow, where it has a width, and shallow, where it has a depth: ``sized(width=4)``."""

    def make(*, width):
        changes = {"width": width} if hasattr(architecture, "width") else {}
        if hasattr(architecture, "depth"):
            changes["depth"] = min(typing.get_args(hints(type(architecture))["depth"]), default=10)
        return replace(architecture, **changes)

    return make


class Network(nn.Module):
    """A little of everything that leaves traces: BatchNorm in two places, dropout, a frozen bias."""

    def __init__(self, dropout):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(8 * 9, 4)

    def forward(self, x):
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        return self.linear(self.dropout(h.flatten(1)))


@pytest.fixture
def network():
    """Makes a network in train mode, the same each time: ``network(dropout=0.5, dtype=torch.float64)``."""

    def make(dropout=0.0, dtype=torch.float32):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            made = Network(dropout)
            made(torch.rand(32, 2, 8, 8))
        return made.to(dtype)

    return make


@pytest.fixture
def batch():
    """Makes n images, some of their pixels exactly 0 or 1, the same each time: ``batch(8)``."""

    def make(n=8, dtype=torch.float32):
        generator = torch.Generator().manual_seed(7)
        x = (torch.rand(n, 2, 8, 8, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
        return Batch(x=x, y=torch.arange(n) % 4, index=torch.arange(100, 100 + n))

    return make


class Trace:
    """Everything that a call without a trace must leave as it is."""

    def __init__(self, model):
        self.model = model
        self.before = self._look()

    def _look(self):
        return {
            "weights": {name: _bits(p) for name, p in self.model.named_parameters()},
            "gradients": {name: _bits(p.grad) for name, p in self.model.named_parameters()},
            "buffers": {name: _bits(b) for name, b in self.model.named_buffers()},
            "needs gradient": {name: p.requires_grad for name, p in self.model.named_parameters()},
            "modes": {name: m.training for name, m in self.model.named_modules()},
            "torch's random state": {"": torch.get_rng_state()},
            "NumPy's random state": {"": torch.from_numpy(np.random.get_state()[1].astype(np.int64))},
            "Python's random state": {"": random.getstate()},
            "gradient mode": {"": torch.is_grad_enabled()},
        }

    def found(self):
        """What has changed, as text: empty where nothing has."""
        after = self._look()
        return [f"{what}: {name}" for what, old in self.before.items() for name in old
                if not _same(old[name], after[what].get(name))]  # fmt: skip


def _bits(value):
    return None if value is None else value.detach().clone()


def _same(old, new):
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        return old.dtype == new.dtype and torch.equal(old, new)
    return not isinstance(old, torch.Tensor) and not isinstance(new, torch.Tensor) and old == new


@pytest.fixture
def trace():
    """Notes a model's and the program's state: ``seen = trace(model)``, later ``seen.found() == []``."""
    return Trace


@pytest.fixture
def marked(network):
    """A network whose every kind of state has a value of its own: mixed modes, gradients, a frozen parameter."""
    model = network(dropout=0.5)
    model.bn2.eval()
    model.conv1.bias.requires_grad_(False)
    model.linear.weight.grad = torch.full_like(model.linear.weight, 3.0)
    return model


@pytest.fixture
def twin():
    """Copies a model."""
    return copy.deepcopy
