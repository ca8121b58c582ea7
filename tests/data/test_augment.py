"""Crops and flips against a loop over examples that pads, flips and cuts with slices; chains; how both are chosen."""

import pytest
import torch
import torch.nn.functional as F

from robustscape.cli.arguments import parse
from robustscape.config import from_plain, to_plain
from robustscape.data.augment import Chain, CropFlip
from robustscape.data.erase import Cutout
from robustscape.data.warp import Rotate
from robustscape.recipes.digits import digits_at
from robustscape.streams import Streams, numbered
from robustscape.types import BadInput


def naive(x: torch.Tensor, rng: Streams, augment: CropFlip) -> torch.Tensor:
    shifts = rng.tag("crop").integers(2 * augment.pad + 1, 2)
    flips = rng.tag("flip").integers(2, 1)
    rows = []
    for image, (top, left), (flip,) in zip(x, shifts.tolist(), flips.tolist(), strict=True):
        sides = (augment.pad,) * 4
        if augment.mode == "reflect":
            padded = F.pad(image[None], sides, mode="reflect")[0]
        else:
            fill = augment.fill * (len(image) // len(augment.fill))
            padded = torch.stack([F.pad(channel, sides, value=v) for channel, v in zip(image, fill, strict=True)])
        crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        rows.append(crop.flip(2) if flip and augment.flip else crop)
    return torch.stack(rows)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 9)])
def test_reference_equal_to_a_loop_over_examples(mode, flip: bool, pad: int, shape: tuple[int, ...]):
    x = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0))
    rng = numbered(x, "augment")
    augment = CropFlip(pad=pad, mode=mode, flip=flip)
    assert torch.equal(augment(x, rng), naive(x, rng, augment))


@pytest.mark.parametrize("fill", [(0.5,), (0.25, 0.5, 1.0), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("pad", [0, 3, 12])
def test_reference_what_is_added_has_the_colour(fill, pad: int):
    x = torch.rand(64, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    augment = CropFlip(pad=pad, fill=fill)
    assert torch.equal(augment(x, numbered(x)), naive(x, numbered(x), augment))


def test_closed_form_levels_are_filled_with_the_nearest_one():
    x = torch.zeros(200, 3, 2, 2, dtype=torch.uint8)
    out = CropFlip(fill=(0.4914, 0.4822, 0.4465))(x, numbered(x))
    assert out.dtype == torch.uint8
    assert [set(channel.unique().tolist()) for channel in out.unbind(1)] == [{0, 125}, {0, 123}, {0, 114}]


def test_closed_form_every_crop_and_flip_occurs_equally_often():
    # one lit pixel in the middle of 5 x 5: pad 1 puts it at one of 9 places; the column's sign hides the flip
    n = 4500
    x = torch.zeros(n, 1, 5, 5)
    x[:, 0, 2, 2] = 1
    out = CropFlip(pad=1)(x, numbered(x))
    assert torch.equal(out.flatten(1).sum(1), torch.ones(n))
    hits = out.sum((0, 1))[1:4, 1:4]
    # binomial with mean 500 and standard deviation 21: five of them
    assert (hits - n / 9).abs().max() < 105
    left = torch.zeros(n, 1, 5, 5)
    left[..., 0] = 1
    flipped = CropFlip(pad=0)(left, numbered(left))[:, 0, 0, 4].sum()
    assert abs(float(flipped) - n / 2) < 5 * (n / 4) ** 0.5


def test_closed_form_zero_padding_wider_than_the_image_leaves_only_black_or_its_pixels():
    x = torch.ones(200, 1, 2, 2)
    out = CropFlip(pad=4)(x, numbered(x))
    assert set(out.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_contract_type_is_kept_and_pixels_are_moved_not_mixed(dtype: torch.dtype):
    x = torch.arange(1, 17, dtype=dtype).view(1, 1, 4, 4).expand(50, 2, 4, 4)
    out = CropFlip(pad=2, mode="reflect")(x, numbered(x))
    assert out.dtype == dtype and out.shape == x.shape
    assert set(out.unique().tolist()) <= set(range(1, 17))


def test_contract_impossible_settings_are_refused():
    with pytest.raises(BadInput, match="pad"):
        CropFlip(pad=-1)
    with pytest.raises(BadInput, match="mode"):
        CropFlip(mode="edge")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="did you mean 128/255"):
        CropFlip(fill=(128.0,))
    with pytest.raises(BadInput, match="leave one of them out"):
        CropFlip(mode="reflect", fill=(0.5,))
    x = torch.rand(2, 1, 4, 8)
    with pytest.raises(BadInput, match="must be below 4"):
        CropFlip(pad=4, mode="reflect")(x, numbered(x))
    with pytest.raises(BadInput, match="fill has 3 numbers, and the images 1 channels"):
        CropFlip(fill=(0.1, 0.2, 0.3))(x, numbered(x))


def test_closed_form_a_chain_is_its_kinds_one_after_another():
    x = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rng = numbered(x, "augment")
    crop, rotate, cutout = CropFlip(pad=2), Rotate(degrees=30), Cutout(size=3)
    wanted = cutout(rotate(crop(x, rng.tag("first")), rng.tag("second")), rng.tag("fourth"))
    assert torch.equal(Chain(first=crop, second=rotate, fourth=cutout)(x, rng), wanted)
    nothing = Chain(first=None)
    assert torch.equal(nothing(x, rng), x)


def test_contract_the_same_kind_twice_in_a_chain_draws_twice():
    x = torch.ones(50, 1, 9, 9)
    twice = Chain(first=Cutout(size=3), second=Cutout(size=3))(x, numbered(x))
    holes = (1 - twice).sum((1, 2, 3))
    assert float(holes.min()) >= 9 and float(holes.max()) == 18


def test_contract_on_the_command_line_every_kind_and_chains():
    def run(*words):
        return parse(digits_at(), words, program="train", description="").augment

    assert run("--augment", "rotate", "--augment.degrees", "30", "--augment.mode", "bilinear") == Rotate(
        degrees=30.0, mode="bilinear"
    )
    words = ["--augment", "chain", "--augment.first.mode", "reflect", "--augment.second", "cutout"]
    words += ["--augment.second.size", "3", "--augment.second.fill", "0.5", "--augment.third", "rotate"]
    chain = run(*words)
    assert chain == Chain(first=CropFlip(mode="reflect"), second=Cutout(size=3, fill=(0.5,)), third=Rotate())
    assert from_plain(to_plain(chain)) == chain
    filled = run("--augment", "crop_flip", "--augment.fill", "0.4", "0.5", "0.6")
    assert filled == CropFlip(fill=(0.4, 0.5, 0.6)) == from_plain(to_plain(filled))
    old = to_plain(CropFlip(pad=2))
    del old["fill"]  # as a run that began before there was any
    assert from_plain(old) == CropFlip(pad=2)
    with pytest.raises(BadInput, match=r"did you mean cutout\?"):
        run("--augment", "cut")
