"""Batches: every image once, the same from any step, no trace."""

import pytest
import torch

from robustscape.data.augment import CropFlip
from robustscape.data.batches import Loader
from robustscape.types import BadInput, Images


def images(n: int = 23) -> Images:
    x = torch.randint(0, 256, (n, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Images(x=x, y=torch.arange(n) % 2, index=torch.arange(n) * 7, classes=("a", "b"), name="Set")


def test_contract_an_epoch_gives_every_image_once_as_pixels():
    source = images()
    batches = list(Loader(images=source, batch_size=5, seed=0).epoch(0))
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3]
    index = torch.cat([b.index for b in batches])
    assert torch.equal(index.sort().values, source.index)
    rows = index // 7
    assert torch.equal(torch.cat([b.y for b in batches]), source.y[rows])
    x = torch.cat([b.x for b in batches])
    assert x.dtype == torch.float32
    assert torch.equal(x, source.x[rows].float() / 255)


def test_contract_order_is_by_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([b.index for b in Loader(images=images(), batch_size=4, seed=seed).epoch(epoch)]).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_contract_from_a_step_the_batches_are_those_of_the_whole_epoch(start: int):
    loader = Loader(images=images(), batch_size=5, seed=2, augment=CropFlip(pad=2))
    whole = list(loader.epoch(4))
    rest = list(loader.epoch(4, start))
    assert len(rest) == len(loader) - start
    for a, b in zip(whole[start:], rest, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and torch.equal(a.index, b.index)


def test_contract_augmentation_of_an_image_does_not_depend_on_its_batch():
    def by_index(batch_size: int) -> dict[int, torch.Tensor]:
        loader = Loader(images=images(), batch_size=batch_size, seed=2, augment=CropFlip(pad=2))
        return {int(i): x for b in loader.epoch(1) for i, x in zip(b.index, b.x, strict=True)}

    small, large = by_index(3), by_index(23)
    assert all(torch.equal(small[i], large[i]) for i in large)


def test_contract_epochs_are_augmented_differently():
    loader = Loader(images=images(), batch_size=23, seed=2, augment=CropFlip(pad=2))
    first, second = (next(loader.epoch(k)) for k in (0, 1))
    assert not torch.equal(first.x[first.index.argsort()], second.x[second.index.argsort()])


@pytest.mark.parametrize(("n", "drop_last", "steps"), [(20, False, 4), (23, False, 5), (23, True, 4), (20, True, 4)])
def test_closed_form_length_of_an_epoch(n: int, drop_last: bool, steps: int):
    loader = Loader(images=images(n), batch_size=5, seed=0, drop_last=drop_last)
    assert len(loader) == steps == len(list(loader.epoch(0)))


def test_contract_the_global_random_state_and_the_images_are_left_alone():
    source = images()
    state, kept = torch.get_rng_state(), source.x.clone()
    list(Loader(images=source, batch_size=5, seed=0, augment=CropFlip(pad=1)).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(source.x, kept)


def test_contract_no_batch_is_refused():
    with pytest.raises(BadInput, match="batch_size"):
        Loader(images=images(), batch_size=0, seed=0)
    with pytest.raises(BadInput, match="Set has 3 images"):
        Loader(images=images(3), batch_size=5, seed=0, drop_last=True)
    with pytest.raises(BadInput, match="Set has 0 images"):
        Loader(images=images(0), batch_size=5, seed=0)
