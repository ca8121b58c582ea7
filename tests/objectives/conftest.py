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


def _module(folder):
    """The naive rendering that is written down in a folder of tests."""
    path = Path(__file__).parents[1] / folder / "naive.py"
    spec = importlib.util.spec_from_file_location("naive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def naive():
    return _module("training")


def _slopes(net):
    return {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.fixture
def stepped(naive):
    """Makes a network and trains it, a step a batch, of ten: ``net, logs = stepped(objective, weights, batches)``.

    ``net.seen`` has v of every step, and the gradient that the optimiser was given.
    """

    def run(objective, weights, batches):
        net, logs, seen = objective.prepare(naive.network()), [], []
        spied = weights and _module("weights").Spied(weights)
        optimizer = SGD(lr=naive.LR, momentum=naive.MOMENTUM, weight_decay=naive.DECAY)
        settings = Training(epochs=1, optimizer=optimizer, lr=Constant())
        how, built = method(net, objective, spied, settings, TRUTH), settings.optimizer.build(net)
        for done, batch in enumerate(batches):
            logs.append(step(how, built, batch, done, TOTAL, SEED))
            seen.append((spied.found if spied else {}, _slopes(net)))
        net.seen = seen
        return net, logs

    return run


@pytest.fixture
def rendered(naive):
    """Trains a network by a naive loss, with AWP of a size if that is given: ``rendered(net, losses, gamma)``."""

    def run(net, losses, gamma=0.0):
        velocity, seen = {}, []
        for make in losses:
            loss = make(net)
            v = naive.perturbation(net, loss, gamma) if gamma else {}
            naive.descended(net, loss, v, velocity)
            seen.append((v, _slopes(net)))
        net.seen = seen
        return net

    return run


@pytest.fixture
def same():
    """Asserts that two networks have had equal perturbations and gradients, to 1e-10 of the size of each, and have
    equal tensors, buffers included, in their order.
    """

    def check(ours, theirs):
        for mine, other in zip(ours.seen, theirs.seen, strict=True):
            for what, a, b in zip(("perturbation", "gradient"), mine, other, strict=True):
                assert [value.shape for value in a.values()] == [value.shape for value in b.values()], what
                size = sum(float(value.square().sum()) for value in b.values()) ** 0.5
                for value, (name, wanted) in zip(a.values(), b.items(), strict=True):
                    torch.testing.assert_close(value, wanted, rtol=0, atol=1e-10 * size, msg=f"{what} of {name}")
        ours, theirs = ours.state_dict(), list(theirs.state_dict().values())
        for (name, value), other in zip(ours.items(), theirs, strict=True):
            torch.testing.assert_close(value, other, rtol=0, atol=1e-10, msg=name)

    return check
