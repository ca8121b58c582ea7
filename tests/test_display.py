from dataclasses import replace

import numpy as np
import pytest

from robustscape.display import (
    DARK,
    LIGHT,
    accuracy_band,
    band,
    colour,
    difference,
    eps_words,
    lr_drops,
    sign,
    slice_band,
    threat_words,
    tracked_sets,
)
from robustscape.landscape.directions.family import Facts
from robustscape.training.log import TrainingLog


def contrast(one, other):
    """Contrast of two colours, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""

    def luminance(colour):
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contract_colours_stand_out_on_their_ground():
    assert min(contrast(colour, "#fdfdfc") for colour in LIGHT) >= 4
    assert min(contrast(colour, "#141619") for colour in DARK) >= 7
    assert len(set(LIGHT)) == len(set(DARK)) == len(LIGHT) == len(DARK)


def test_closed_form_colour_and_sign_together_tell_64_groups_apart():
    assert [sign(group, "abcdefgh") for group in (0, 1, 7, 8, 9, 15)] == ["a", "b", "h", "b", "c", "a"]
    assert len({(colour(group), sign(group, "abcdefgh")) for group in range(64)}) == 64


def test_closed_form_band():
    found = band(np.array([0.0, 1.0]), np.array([[1.0, 2.0], [3.0, 2.0]]))
    np.testing.assert_allclose(found.mean, [2, 2])
    np.testing.assert_allclose(found.high - found.mean, [np.sqrt(2), 0])
    np.testing.assert_allclose(found.mean - found.low, [np.sqrt(2), 0])
    single = band(np.array([0.0]), np.array([[1.0]]))
    assert single.low == single.high == single.mean == 1


def test_contract_slices_at_other_positions_or_along_other_directions_are_left_out(fake):
    one = fake.slices(0.1, 1.0)
    others = [
        replace(one, alpha=2 * one.alpha),
        replace(one, facts=Facts(along="hessian")),
        replace(one, scheme="layer"),
    ]
    assert slice_band([one, fake.slices(0.1, 1.0, seed=1), *others], "robust_loss").count == 10


def test_contract_accuracy_is_over_the_epochs_that_all_seeds_have(fake):
    long, short = fake.log(0.1, 0.05), TrainingLog(epochs=fake.log(0.1, 0.05, seed=1).epochs[:7])
    found = accuracy_band([long, short], "train", "robust")
    assert (found.count, found.x.tolist()) == (2, [1, 2, 3, 4, 5, 6, 7])
    assert accuracy_band([long], "nowhere", "robust") is None
    assert accuracy_band([], "train", "robust") is None
    assert tracked_sets({"a": [long], "b": []}) == ("train", "validation")


@pytest.mark.parametrize(
    ("rates", "drops"),
    [
        ([1.0, 1.0, 0.1, 0.1, 0.01], (3, 5)),
        ([1.0, 0.1], (2,)),
        ([1.0, 0.7, 0.3, 0.1, 0.0], ()),  # cosine: no drop
        ([0.1, 0.1, 0.1], ()),
    ],
)
def test_closed_form_lr_drops(fake, rates, drops):
    epochs = fake.log(0.1, 0.05).epochs
    log = TrainingLog(epochs=tuple(replace(entry, lr=lr) for entry, lr in zip(epochs, rates, strict=False)))
    assert lr_drops(log) == drops


def test_closed_form_difference_is_grey_where_nothing_changed(fake):
    made = fake.images(count=2)
    made = replace(made, x_adv=made.x.copy())
    assert (difference(made)[0] == 0.5).all()
    made.x_adv[0, 0, 3, 4] += 0.02
    made.x_adv[1, 0, 0, 0] -= 0.01
    found, factor = difference(made)
    assert factor == pytest.approx(25)
    assert (found[0, 0, 3, 4], found[1, 0, 0, 0], found[0, 0, 0, 0]) == (pytest.approx(1), pytest.approx(0.25), 0.5)


@pytest.mark.parametrize(
    ("eps", "words"), [(8 / 255, "8/255"), (0.3, "0.3"), (0.2, "0.2"), (0.5, "0.5"), (1 / 255, "1/255"), (0, "0")]
)
def test_closed_form_eps_in_words(eps, words):
    assert eps_words(eps) == words
    assert threat_words("linf", eps) == f"L∞, ε = {words}"
    assert threat_words("l2", eps) == f"L2, ε = {words}"
