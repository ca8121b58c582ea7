"""Augmentation beside kornia's, and without it."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from robustscape.benches.augment import AugmentBench, kinds
from robustscape.benches.augment_peers import augmenters, counterpart
from robustscape.benches.problem import TINY
from robustscape.data.augment import Chain, CropFlip
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.erase import Cutout, Erase
from robustscape.data.jitter import ColorJitter
from robustscape.data.warp import CropResize, Rotate
from robustscape.evaluation.subject import drained
from robustscape.streams import Streams

COLOUR = replace(TINY, network="preact_resnet")


def test_end_to_end_without_kornia_it_is_said_and_the_rest_is_timed(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    result = drained(AugmentBench().quick().running())
    assert set(result.missing) == {"kornia"} and "make peers" in result.missing["kornia"]
    assert result.ratios == {}
    assert set(result.rates) == {"AT step", *kinds()}
    assert set(result.costs) == {f"{name} / AT step" for name in kinds()}


class _Kornia:
    """Whatever is asked of it, with what."""

    def __init__(self):
        self.asked = []
        self.auto = SimpleNamespace(AutoAugment=self._kind("AutoAugment"))

    def _kind(self, name):
        def made(*words, **options):
            self.asked.append((name, words, options))
            return torch.nn.Dropout(0.5)  # draws from torch's random state

        return made

    def __getattr__(self, name):
        return self._kind(name)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (CropFlip(pad=2), ("RandomCrop", ((9, 8),), {"padding": 2, "padding_mode": "constant"})),
        (CropFlip(mode="reflect"), ("RandomCrop", ((9, 8),), {"padding": 4, "padding_mode": "reflect"})),
        (Rotate(degrees=7), ("RandomRotation", (7,), {"resample": "nearest", "p": 1.0})),
        (
            Erase(fill=(0.2,), area=(0.1, 0.3), aspect=(0.5, 2.0)),
            ("RandomErasing", (), {"scale": (0.1, 0.3), "ratio": (0.5, 2.0), "value": 0.2, "p": 0.5}),
        ),
        (ColorJitter(hue=0.1), ("ColorJitter", (0.25, 0.25, 0.25, 0.1), {})),
        (AutoAugment(), ("AutoAugment", (), {"policy": "cifar10", "transformation_matrix_mode": "skip"})),
    ],
)
def test_contract_kornia_is_asked_for_our_settings(ours, theirs):
    kornia = _Kornia()
    assert counterpart(kornia, ours, (9, 8)) is not None
    assert kornia.asked[0] == theirs


@pytest.mark.parametrize(
    "ours", [CropResize(), Cutout(), Erase(), CropFlip(flip=False), CropFlip(fill=(0.5,)), Chain(second=Rotate())]
)
def test_contract_what_kornia_has_not_is_passed_over(ours):
    assert counterpart(_Kornia(), ours, (9, 8)) is None


def test_contract_sides_count_their_examples_and_leave_the_random_state(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", _Kornia())
    before = torch.get_rng_state()
    sides, missing = augmenters(kinds(), COLOUR.examples().x, batches=3)
    assert missing == {}
    assert {"AutoAugment, kornia, image by image", "AutoAugment, kornia, one pair for the batch"} <= set(sides)
    assert len(sides) == 9
    assert {side() for side in sides.values()} == {3 * COLOUR.batch}
    assert torch.equal(torch.get_rng_state(), before)


def test_contract_what_is_for_colours_is_left_out_for_grey_images(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", _Kornia())
    sides, missing = augmenters(kinds(), TINY.examples().x, batches=1)
    assert set(missing) == {"AutoAugment, kornia", "colour jitter with hue, kornia"}
    assert "colour jitter, kornia" in sides and len(sides) == 6


@pytest.mark.slow
def test_end_to_end_the_quick_bench_has_a_ratio_to_each_of_kornias(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", _Kornia())
    result = drained(replace(AugmentBench().quick(), problem=COLOUR).running())
    theirs = {name for name in result.rates if "kornia" in name}
    assert set(result.ratios) == theirs and len(theirs) == 9
    for name, ratio in result.ratios.items():
        ours = result.seconds[name.partition(", kornia")[0]]
        low, high = sorted(a / b for a, b in zip(result.seconds[name], ours, strict=True))
        assert low <= ratio.median <= high


@pytest.mark.parametrize("name", [name for name in kinds() if counterpart(_Kornia(), kinds()[name], (32, 32))])
def test_reference_the_real_kornia_changes_images_about_as_much(name):
    """By the mean change of a pixel over 1,000 images or more, all filled with black.

    5 % for how angles are rounded and shapes drawn, as much for chance. AutoAugment draws one pair for a batch, so it
    gets the images one by one; its levels are others, and 25 pairs leave much to chance.
    """
    kornia = pytest.importorskip("kornia.augmentation")
    ours, alone = kinds()[name], name == "AutoAugment"
    theirs = counterpart(kornia, ours, (32, 32))
    assert theirs is not None
    ours = AutoAugment(fill=(0.0,)) if alone else ours
    index = torch.arange(1000 if alone else 1500)
    low = Streams(0, ("images",), index).uniform(3, 8, 8)
    x = torch.nn.functional.interpolate(low, scale_factor=4, mode="bilinear")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        changed = torch.cat([theirs(part) for part in x.split(1 if alone else 50)])
    own = (ours(x, Streams(0, ("augment",), index)) - x).abs().mean()
    assert changed.shape == x.shape
    assert float((changed - x).abs().mean() / own) == pytest.approx(1, abs=0.25 if alone else 0.1)
