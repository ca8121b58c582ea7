"""What a pass needs, and how much of a batch is worked through at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.models.preact_resnet import PreActResNet
from robustscape.runtime import TRUTH, Runtime, predicting
from robustscape.runtime.memory import repeated
from robustscape.runtime.predicting import available, bytes_per_example, fitting, search_bytes, training_fit
from robustscape.types import BadInput

X = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
PIXELS = 3 * 144 * 4  # bytes of one input


def _resnet() -> nn.Module:
    return PreActResNet(width=4).build(image=(3, 12, 12), classes=4, seed=0)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_closed_form_bytes_of_layers_that_keep_one_tensor(n):
    # What is kept, and the gradients on both sides of the layer.
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 10, bias=False))
    assert bytes_per_example(model, X[:n]) == 3 * PIXELS
    assert bytes_per_example(nn.Sequential(nn.Flatten(), nn.Sigmoid()), X[:n]) == 3 * PIXELS
    assert search_bytes(model.train(), Runtime(device="cpu", precision="bfloat16"), X[:n]) == 3 * PIXELS


@pytest.mark.parametrize("blocks", [2, 4])
def test_closed_form_bytes_of_blocks_that_are_computed_again(blocks):
    # A sigmoid keeps its output: of blocks that are computed again the inputs are kept, and all of one block at a time.
    net = nn.Sequential(*[nn.Sequential(nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid()) for _ in range(blocks)])
    for model in (net, nn.Sequential(nn.Identity(), net)):
        assert bytes_per_example(model, X) == (3 * blocks + 2) * PIXELS
        assert bytes_per_example(model, X, again=repeated(model)) == (blocks + 3 + 2) * PIXELS
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_closed_form_bytes_of_several_forwards():
    # What is kept is kept again by every forward; gradients, and a block that is computed again, are there once.
    net = nn.Sequential(*[nn.Sequential(nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid()) for _ in range(2)])
    assert bytes_per_example(net, X, forwards=3) == (3 * 6 + 2) * PIXELS
    assert bytes_per_example(net, X, again=repeated(net), forwards=3) == (3 * 2 + 3 + 2) * PIXELS
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 10, bias=False))
    assert training_fit(linear, TRUTH, X, 8, 8 * 3 * PIXELS) == (8, False)
    assert training_fit(linear, TRUTH, X, 8, 8 * 3 * PIXELS, forwards=2) == (4, False)
    with torch.no_grad():
        each = bytes_per_example(_resnet().train(), X, forwards=2)
    assert training_fit(_resnet(), TRUTH, X, 8, 8 * each, forwards=2) == (8, False)
    assert training_fit(_resnet(), TRUTH, X, 8, 7.9 * each, forwards=2) == (8, True)


def test_contract_predicting_leaves_no_trace():
    model = nn.Sequential(_resnet(), nn.Dropout()).train()
    before, drawn = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert bytes_per_example(model, X) > 0
    assert search_bytes(model, TRUTH, X) > 0
    assert training_fit(model, TRUTH, X, 8, 1e9) == (8, False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters()) and not X.requires_grad
    assert torch.equal(drawn, torch.get_rng_state())


@pytest.mark.parametrize(
    ("batch", "room", "size"), [(128, 1e9, 128), (128, 64, 64), (100, 30, 25), (7, 3, 2), (5, 1, 1)]
)
def test_closed_form_the_largest_half_that_fits(batch, room, size):
    assert fitting(batch, 1.0, room) == size


def test_contract_too_little_for_one_example_is_one_sentence():
    with pytest.raises(BadInput, match=r"one example takes about 2 GiB, and 1 GiB are there; did you mean"):
        fitting(8, 2.0**31, 2.0**30)


def test_closed_form_the_limit_is_what_is_available():
    assert available(Runtime(device="cpu", memory_limit=1.5), sharing=2) == 1.5 * 2**30
    assert 1e7 < available(Runtime(device="cpu")) < 1e15


def test_closed_form_what_torch_has_cached_is_free(monkeypatch):
    asked = Runtime(device="cpu")
    monkeypatch.setattr(Runtime, "torch_device", lambda runtime: torch.device("cuda", 0))
    for name, value in {"mem_get_info": (2e9, 8e9), "memory_reserved": 5e9, "memory_allocated": 1e9}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert available(asked) == 0.8 * 6e9


def test_closed_form_ranks_and_processes_share_what_is_free(monkeypatch):
    monkeypatch.setattr(predicting, "_free", lambda: 1e9)
    monkeypatch.setattr(predicting, "world", lambda: 2)
    assert available(Runtime(device="cpu")) == 0.4e9
    assert available(Runtime(device="cpu"), sharing=4) == 0.1e9


def test_contract_batch_normalisation_keeps_the_batch_and_computes_again():
    model, plain = _resnet(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 10))
    with torch.no_grad():
        each = bytes_per_example(model.train(), X)
    assert training_fit(model, TRUTH, X, 8, 8 * each) == (8, False)
    for net in (model, nn.Sequential(nn.Identity(), model)):
        assert training_fit(net, TRUTH, X, 8, 6 * each) == (8, True)
        assert training_fit(net, replace(TRUTH, checkpointing=True), X, 8, 8 * each) == (8, True)
        # The inputs of all blocks would fit, but not what the largest block keeps when it is computed again.
        with pytest.raises(BadInput, match=r"8 examples, which a network with batch or running .*batch_size"):
            training_fit(net, TRUTH, X, 8, 4 * each)
    assert training_fit(plain, TRUTH, X, 8, 7 * 3 * PIXELS) == (4, False)
