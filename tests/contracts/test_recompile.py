"""The fast view of a model is compiled once, however often its weights move."""

import functools

import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.runtime import Runtime, fast
from robustscape.streams import Streams
from robustscape.weights.space import gaussian, normalised, select, shifted

pytestmark = pytest.mark.slow


@pytest.fixture
def graphs(monkeypatch):
    """Counts the graphs compiled so far. What is compiled to does not matter, so no C++ compiler is needed."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("width", [4, 8])
def test_contract_moved_weights_compile_nothing_anew(sized, width, graphs):
    model = sized(width=width).build(image=(1, 8, 8), classes=4, seed=0)
    x, y = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    view = fast(model, Runtime(device="cpu", precision="float32", compile="yes"))
    attack, found = PGD(steps=2), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    weights = select(model, "weights")
    direction = normalised(gaussian(weights, Streams(1)), weights, "layer")

    def search():
        with view as searched:
            found.append(attack(searched, x, y))

    before = graphs()
    search()
    assert graphs() - before == 1
    for scale in (-1.0, 1.0):
        with shifted(model, direction, scale):
            search()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    search()
    assert graphs() - before == 1
    assert len({tuple(x_adv.flatten().tolist()) for x_adv in found}) > 1
