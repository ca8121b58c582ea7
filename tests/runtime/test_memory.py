"""Less memory, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustscape.models.preact_resnet import PreActResNet
from robustscape.modes import evaluating
from robustscape.runtime.memory import Parts, checkpointed, mixes_examples, undivided
from robustscape.runtime.predicting import bytes_per_example
from robustscape.types import BadInput

X = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def _resnet() -> nn.Module:
    return PreActResNet(width=4).build(image=(3, 12, 12), classes=4, seed=0)


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


def _too_large(rows: slice) -> Tensor:
    raise torch.OutOfMemoryError("too little")


@pytest.mark.parametrize(("parts", "n"), [(Parts(1), 2), (Parts(), 1)])
def test_contract_what_does_not_fit_one_by_one_is_one_sentence(parts, n):
    with pytest.raises(BadInput, match="out of memory for a single example"):
        parts.run(_too_large, n)


def test_contract_what_must_stay_whole_is_one_sentence():
    with pytest.raises(BadInput, match=r"out of memory for 8 examples.*batch_size"), undivided(8):
        _too_large(slice(8))


def test_contract_only_a_lack_of_memory_halves():
    def work(rows: slice) -> Tensor:
        return X.new_empty(10**15) if rows.stop - rows.start > 4 else X[rows]  # more of the CPU's than there can be

    with pytest.warns(UserWarning, match="going on with 4"):
        assert torch.equal(Parts().run(work, 8), X)
    with pytest.raises(RuntimeError, match="shape"):
        Parts().run(lambda rows: X[rows].view(5), 8)
    with pytest.raises(RuntimeError, match="shape"), undivided(8):
        X.view(5)


def test_contract_only_batch_normalisation_mixes_examples():
    assert mixes_examples(_resnet())
    assert not mixes_examples(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm(4)))
    assert mixes_examples(nn.Sequential(type("FastBatchNorm", (nn.Identity,), {})()))


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


def test_contract_checkpointing_computes_again_in_the_mode_of_the_first_forward():
    plain, less = _resnet().train(), _resnet().train()
    wanted = torch.autograd.grad(plain(X).square().sum(), list(plain.parameters()))
    with checkpointed(less):
        output = less(X).square().sum()
    with evaluating(less):
        found = torch.autograd.grad(output, list(less.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
