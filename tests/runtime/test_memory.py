"""Less memory, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustscape.models.preact_resnet import PreActResNet
from robustscape.runtime import Runtime
from robustscape.runtime.memory import Parts, available, bytes_per_example, checkpointed, fitting, mixes_examples

X = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def _resnet() -> nn.Module:
    return PreActResNet(width=4).build(image=(3, 12, 12), classes=4, seed=0)


def test_closed_form_bytes_of_a_layer_that_keeps_its_input():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 10, bias=False))
    assert bytes_per_example(model, X) == 3 * 144 * 4
    assert bytes_per_example(nn.Sequential(nn.Flatten(), nn.Sigmoid()), X) == 3 * 144 * 4


def test_contract_predicting_leaves_no_trace():
    model = _resnet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert bytes_per_example(model, X) > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters()) and not X.requires_grad


@pytest.mark.parametrize(
    ("batch", "room", "size"), [(128, 1e9, 128), (128, 64, 64), (100, 30, 25), (7, 3, 2), (5, 0, 1)]
)
def test_closed_form_the_largest_half_that_fits(batch, room, size):
    assert fitting(batch, 1.0, room) == size


def test_closed_form_the_limit_is_what_is_available():
    assert available(Runtime(device="cpu", memory_limit=1.5)) == 1.5 * 2**30
    free = available(Runtime(device="cpu"))
    assert 1e7 < free < 1e15


def test_contract_parts_are_put_together_in_order():
    assert torch.equal(Parts(3).run(lambda rows: X[rows] * 2, len(X)), X * 2)
    assert torch.equal(Parts(8).run(lambda rows: X[rows] * 2, len(X)), X * 2)


def test_contract_out_of_memory_halves_until_it_fits_and_stays_there():
    parts, asked = Parts(8), []

    def work(rows: slice) -> Tensor:
        asked.append(rows.stop - rows.start)
        if asked[-1] > 2:
            raise torch.OutOfMemoryError
        return X[rows]

    with pytest.warns(UserWarning, match="out of memory: going on with") as told:
        assert torch.equal(parts.run(work, 8), X)
    assert asked == [8, 4, 2, 2, 2, 2] and parts.size == 2 and len(told) == 2
    assert torch.equal(parts.run(work, 8), X)
    assert asked[6:] == [2, 2, 2, 2]


def test_contract_what_does_not_fit_one_by_one_is_an_error():
    def work(rows: slice) -> Tensor:
        raise torch.OutOfMemoryError("too little")

    with pytest.raises(torch.OutOfMemoryError, match="too little"):
        Parts(1).run(work, 2)


def test_contract_only_batch_normalisation_mixes_examples():
    assert mixes_examples(_resnet())
    assert not mixes_examples(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm(4)))


def test_contract_checkpointing_gives_the_same_gradients_and_statistics_with_less():
    plain, less = _resnet().train(), _resnet().train()
    plain(X).square().sum().backward()
    with checkpointed(less):
        kept = bytes_per_example(less, X)
        less(X).square().sum().backward()
    assert kept < 0.5 * bytes_per_example(plain, X)
    for (name, a), b in zip(plain.named_parameters(), less.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), less.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert all("forward" not in vars(module) for module in less.modules())
