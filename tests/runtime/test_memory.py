"""Less memory, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustscape.models.normalise import Normalise
from robustscape.models.preact_resnet import PreActResNet
from robustscape.modes import evaluating
from robustscape.runtime.memory import Parts, Whole, checkpointed, mixes_examples, out_of_memory, repeated, undivided
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


@pytest.mark.parametrize(
    ("checkpointing", "meant"), [(False, "runtime.checkpointing, or a smaller"), (True, "a smaller")]
)
def test_contract_what_must_stay_whole_is_one_sentence(checkpointing, meant):
    sentence = f"out of memory for 8 examples.*did you mean {meant} training.batch_size"
    with pytest.raises(BadInput, match=sentence), undivided(8, checkpointing=checkpointing):
        _too_large(slice(8))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_closed_form_what_says_that_memory_ran_out(error, is_one):
    assert out_of_memory(error) is is_one


def test_contract_only_a_lack_of_memory_halves():
    def work(rows: slice) -> Tensor:
        return X.new_empty(10**15) if rows.stop - rows.start > 4 else X[rows]  # more of the CPU's than there can be

    with pytest.warns(UserWarning, match="going on with 4"):
        assert torch.equal(Parts().run(work, 8), X)
    with pytest.raises(RuntimeError, match="shape"):
        Parts().run(lambda rows: X[rows].view(5), 8)
    with pytest.raises(RuntimeError, match="shape"), undivided(8, checkpointing=False):
        X.view(5)


def test_contract_only_batch_normalisation_mixes_examples():
    assert mixes_examples(_resnet())
    assert not mixes_examples(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm(4)))
    assert mixes_examples(nn.Sequential(type("FastBatchNorm", (nn.Identity,), {})()))


def _spectral() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))


@pytest.mark.parametrize(
    ("net", "whole"),
    [
        (_resnet(), True),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)), True),
        (_spectral(), True),
        (nn.Sequential(Normalise((0.5,), (0.5,)), nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Dropout()), False),
    ],
)
def test_contract_a_batch_stays_whole_where_a_forward_moves_a_buffer(net, whole):
    net.eval()
    before, drawn = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    ask = Whole(net)
    assert ask(X) is whole and ask(X) is whole
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state()) and not any(module.training for module in net.modules())


def test_closed_form_the_blocks_that_are_computed_again():
    net = _resnet()
    blocks = repeated(net)
    assert [type(block).__name__ for block in blocks] == ["PreActBlock"] * 8
    assert repeated(nn.Sequential(Normalise((0.5,), (0.5,)), net)) == blocks
    block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert repeated(nn.Sequential(block, nn.Linear(2, 2), block, nn.ModuleList([block]))) == [block]
    assert repeated(nn.Sequential(nn.Identity(), block)) == [block]  # most of the network, but nothing in it repeats


def test_contract_checkpointing_gives_a_block_its_own_forward_back():
    block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net, x = nn.Sequential(nn.Sequential(block, block), nn.Sequential(block, nn.Linear(2, 2))), torch.rand(3, 2)
    plain = block.forward
    own = block.forward = lambda x: 2 * plain(x)
    wanted = net(x)
    with checkpointed(net):
        assert block.forward is not own and torch.equal(net(x), wanted)
    assert block.forward is own


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
