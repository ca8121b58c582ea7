"""What tests of objectives share: the naive rendering of training, and a few steps of the real one."""

import importlib.util
from pathlib import Path

import pytest
import torch

from robustscape.runtime import TRUTH
from robustscape.training.method import method
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.training.step import step

SEED, TOTAL = 5, 10


@pytest.fixture(scope="session")
def naive():
    path = Path(__file__).parents[1] / "training" / "naive.py"
    spec = importlib.util.spec_from_file_location("naive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stepped(naive):
    """Makes a network and trains it, a step a batch, of ten: ``net, logs = stepped(objective, weights, batches)``."""

    def run(objective, weights, batches):
        net = objective.prepare(naive.network())
        optimizer = SGD(lr=naive.LR, momentum=naive.MOMENTUM, weight_decay=naive.DECAY)
        settings = Training(epochs=1, optimizer=optimizer, lr=Constant())
        how, built = method(net, objective, weights, settings, TRUTH), settings.optimizer.build(net)
        return net, [step(how, built, batch, done, TOTAL, SEED) for done, batch in enumerate(batches)]

    return run


@pytest.fixture
def rendered(naive):
    """Trains a network by a naive loss, with AWP of a size if that is given: ``rendered(net, losses, gamma)``."""

    def run(net, losses, gamma=0.0):
        velocity = {}
        for make in losses:
            loss = make(net)
            v = naive.perturbation(net, loss, gamma) if gamma else {}
            naive.descended(net, loss, v, velocity)
        return net

    return run


@pytest.fixture
def same():
    """Asserts that two networks have equal tensors, buffers included, in their order."""

    def check(ours, theirs):
        ours, theirs = ours.state_dict(), list(theirs.state_dict().values())
        for (name, value), other in zip(ours.items(), theirs, strict=True):
            torch.testing.assert_close(value, other, rtol=0, atol=1e-10, msg=name)

    return check
