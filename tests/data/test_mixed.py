"""Batches of labelled and pseudo-labelled images: shares, determinism, resuming."""

from dataclasses import replace

import pytest
import torch

from robustscape.data.augment import CropFlip
from robustscape.data.mixed import MixedLoader, hidden_labels, relabelled
from robustscape.streams import Streams
from robustscape.types import BadInput, Images


def images(n, first=0):
    x = torch.randint(0, 256, (n, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(first + 1))
    return Images(x=x, y=torch.arange(n) % 2, index=torch.arange(n) + first, classes=("a", "b"), name="Set")


def loader(**changes):
    given = {"labelled": images(20), "unlabelled": images(50, 1000), "batch_size": 8, "seed": 3, **changes}
    return MixedLoader(**given)


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 4), (0.7, 6), (0.25, 2)])
def test_contract_every_batch_has_its_share_spread_over_the_rows(share, wanted):
    mixed = loader(share=share)
    batches = list(mixed.epoch(0))
    assert [len(b) for b in batches] == [8, 8, 4] and len(mixed) == 3
    for batch in batches[:2]:
        assert int((~batch.labelled).sum()) == wanted
        for start in range(0, 8, 4):  # contiguous parts differ by one at most
            assert abs(int((~batch.labelled[start : start + 4]).sum()) - wanted / 2) <= 1
    for batch in batches:
        assert torch.equal(batch.labelled, batch.index < 1000)
        for source, rows in ((mixed.labelled, batch.labelled), (mixed.unlabelled, ~batch.labelled)):
            place = batch.index[rows] % 1000
            assert torch.equal(batch.x[rows], source.x[place].float() / 255)
            assert torch.equal(batch.y[rows], source.y[place])


def test_contract_no_labelled_image_comes_again_before_all_others():
    taken = torch.cat([b.index[b.labelled] for b in loader(size=80).epoch(0)]).tolist()
    assert len(taken) == 40
    assert sorted(taken[:20]) == sorted(taken[20:]) == list(range(20))
    once = torch.cat([b.index[b.labelled] for b in loader().epoch(1)])
    assert len(once.unique()) == len(once) == 10


@pytest.mark.parametrize("start", [0, 1, 3])
def test_contract_from_a_step_the_batches_are_those_of_the_whole_epoch(start):
    mixed = loader(augment=CropFlip(pad=2))
    whole, rest = list(mixed.epoch(4)), list(mixed.epoch(4, start))
    assert len(rest) == len(mixed) - start
    for a, b in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("x", "y", "index", "labelled"))


def test_contract_draws_are_by_seed_and_epoch():
    def drawn(seed, epoch):
        return tuple(torch.cat([b.index for b in loader(seed=seed).epoch(epoch)]).tolist())

    assert drawn(0, 1) == drawn(0, 1)
    assert len({drawn(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_contract_an_image_that_is_drawn_again_is_changed_in_another_way():
    drawn = []

    def augment(x, rng):
        drawn.extend(rng.uniform(1).flatten().tolist())
        return x

    def drawn_by(**changes):
        drawn.clear()
        index = torch.cat([batch.index for batch in loader(augment=augment, **changes).epoch(0)]).tolist()
        return sorted(zip(index, drawn, strict=True))

    pairs = drawn_by(unlabelled=images(2, 1000), size=60)
    assert len(pairs) == 60 == len({number for _, number in pairs}) > len({index for index, _ in pairs}) == 22
    times = [index for index, _ in pairs].count(1000)
    first = Streams(3, ("augment", 0), torch.full((times,), 1000)).then(torch.arange(times)).uniform(1).flatten()
    assert sorted(first.tolist()) == [number for index, number in pairs if index == 1000]
    labelled = [pair for pair in drawn_by(batch_size=4, size=40) if pair[0] < 1000]
    assert labelled == [pair for pair in drawn_by(batch_size=8, size=40) if pair[0] < 1000]


def test_contract_labels_are_hidden_from_each_class_alike():
    kept, lost = hidden_labels(images(40), 0.75, seed=0)
    assert sorted(torch.cat([kept.index, lost.index]).tolist()) == list(range(40))
    assert len(lost) == 30 and kept.y.bincount().tolist() == [5, 5]
    again = relabelled(lost, 1 - lost.y)
    assert torch.equal(again.y, 1 - lost.y) and torch.equal(again.index, lost.index)
    batch = next(loader(labelled=kept, unlabelled=again, batch_size=4).epoch(0))
    assert torch.equal(batch.y == batch.index % 2, batch.labelled)


def test_contract_what_cannot_be_mixed_is_refused():
    for changes, words in (({"share": 0.0}, "labelled set alone"), ({"share": 1.0}, r"in \(0, 1\)"),
                           ({"batch_size": 1}, "both kinds"), ({"unlabelled": images(0)}, "there are 20 and 0"),
                           ({"unlabelled": replace(images(5), classes=("a", "c"))}, "differ in the shape"),
                           ({"size": 0}, "at least 1 example")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            loader(**changes)
    with pytest.raises(BadInput, match="cannot have"):
        relabelled(images(3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(BadInput, match="there are 2 classes"):
        relabelled(images(3), torch.tensor([0, 1, 2]))
