"""Covered rectangles: where they are, how large, and what is in them."""

from __future__ import annotations

import pytest
import torch

from robustscape.data.erase import Cutout, Erase
from robustscape.streams import numbered
from robustscape.types import BadInput


def _extents(covered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the first row and column, height and width of what is covered in (N, H, W), and that it is a rectangle."""
    rows, columns = covered.any(dim=2), covered.any(dim=1)
    assert torch.equal(covered, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        assert bool((line.int().diff(dim=1).abs().sum(dim=1) + line[:, 0].int() + line[:, -1].int() <= 2).all())
    return rows.int().argmax(dim=1), columns.int().argmax(dim=1), rows.sum(dim=1), columns.sum(dim=1)


def test_closed_form_a_cutout_inside_is_whole_and_anywhere_equally_often():
    n = 3000
    x = torch.ones(n, 2, 6, 8)
    out = Cutout(size=4, fill=(0.25, 0.5))(x, numbered(x))
    assert set(out[:, 0].unique().tolist()) == {0.25, 1.0} and set(out[:, 1].unique().tolist()) == {0.5, 1.0}
    assert torch.equal(out[:, 0] < 1, out[:, 1] < 1)
    top, left, height, width = _extents(out[:, 0] < 1)
    assert bool((height == 4).all() and (width == 4).all())
    hits = torch.bincount(top * 5 + left, minlength=15)
    # binomial with mean 200 and standard deviation 13.7: five of them
    assert len(hits) == 15 and float((hits - n / 15).abs().max()) < 68


def test_closed_form_a_cutout_with_any_pixel_as_its_middle_is_cut_at_the_edge():
    n = 3000
    x = torch.ones(n, 1, 6, 5)
    top, left, height, width = _extents(Cutout(size=4, inside=False)(x, numbered(x))[:, 0] < 1)
    for first, extent, size in ((top, height, 6), (left, width, 5)):
        # Middle m covers [m - 2, m + 2), cut to the image.
        wanted = [(max(m - 2, 0), min(m + 2, size) - max(m - 2, 0)) for m in range(size)]
        counts = {pair: wanted.count(pair) * n / size for pair in wanted}
        found = list(zip(first.tolist(), extent.tolist(), strict=True))
        assert set(found) == set(counts)
        assert all(abs(found.count(pair) - count) < 5 * count**0.5 for pair, count in counts.items())


def test_closed_form_erased_areas_and_shapes():
    """At 64 x 64 rounding is small: areas lie in their range, ratios in theirs, half of the images are erased."""
    n = 2000
    x = torch.ones(n, 1, 64, 64)
    out = Erase(fill=(0.0,))(x, numbered(x))
    erased = (out < 1).flatten(1).any(dim=1)
    assert abs(int(erased.sum()) - n / 2) < 5 * (n / 4) ** 0.5
    top, left, height, width = _extents(out[erased, 0] < 1)
    area, aspect = height * width / 64**2, height / width
    assert 0.018 < float(area.min()) < 0.05 and 0.35 < float(area.max()) < 0.41
    assert 0.27 < float(aspect.min()) < 0.4 and 2.9 < float(aspect.max()) < 3.8
    assert (
        int((top + height).max()) == 64 and int((left + width).max()) == 64 and int(top.min()) == int(left.min()) == 0
    )
    # The ratio is uniform in [0.3, 3.33] before what does not fit is drawn again: below 1 is 0.23 of it.
    assert 0.18 < float((aspect < 1).float().mean()) < 0.31


def test_closed_form_an_exact_rectangle():
    """Area and ratio fixed: 4 by 4 of 8 by 8, at 25 places."""
    x = torch.ones(500, 1, 8, 8)
    erase = Erase(probability=1.0, area=(0.25, 0.25), aspect=(1.0, 1.0), fill=(0.5,))
    top, left, height, width = _extents(erase(x, numbered(x))[:, 0] < 1)
    assert bool((height == 4).all() and (width == 4).all())
    assert len((top * 5 + left).unique()) == 25 and int(top.max()) == int(left.max()) == 4


def test_closed_form_random_colours_are_uniform_levels():
    x = torch.full((300, 3, 16, 16), 2.0)
    erased = Erase(probability=1.0)(x, numbered(x))
    levels = erased[erased < 2] * 255
    assert bool((levels == levels.round()).all()) and len(levels.unique()) == 256
    n = len(levels)
    assert n > 10_000
    # uniform on 0 to 255: standard deviation 73.9, five standard errors
    assert abs(float(levels.mean()) - 127.5) < 5 * 73.9 / n**0.5


def test_closed_form_what_never_fits_is_left_alone():
    x = torch.rand(20, 1, 4, 40)
    tall = Erase(probability=1.0, area=(0.3, 0.4), aspect=(1.0, 1.0), fill=(0.0,))
    assert torch.equal(tall(x, numbered(x)), x)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Cutout(size=0), "at least 1 pixel"),
        (lambda: Cutout(fill=(128.0,)), "did you mean 128/255"),
        (lambda: Cutout()(torch.rand(1, 1, 8, 8), numbered(torch.rand(1))), "did you mean size=4, or inside=False"),
        (lambda: Cutout(size=2, fill=(0.1, 0.2))(torch.rand(1, 3, 8, 8), numbered(torch.rand(1))), "3 channels"),
        (lambda: Erase(probability=0.0), "probability"),
        (lambda: Erase(area=(0.4, 0.02)), "rising"),
        (lambda: Erase(aspect=(-1.0, 2.0)), "above 0"),
        (lambda: Erase(fill=(-0.5,)), "a colour is in"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, words):
    with pytest.raises(BadInput, match=words):
        wrong()
