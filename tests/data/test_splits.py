"""Splits: quotas by hand, disjoint, by seed, refused where they cannot be meant."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from robustscape.data.splits import (
    called,
    check_choice,
    check_part,
    chosen_splits,
    make_splits,
    of_classes,
    of_each_class,
    on_device,
    stratified,
)
from robustscape.types import BadInput, Images


def images(*sizes: int, name: str = "Set") -> Images:
    y = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    n = len(y)
    return Images(
        x=torch.arange(n).remainder(256).to(torch.uint8).view(n, 1, 1, 1),
        y=y,
        index=torch.arange(n) + 1000,
        classes=tuple("abcdefghij"[: len(sizes)]),
        name=name,
    )


def counts(y: torch.Tensor) -> dict[int, int]:
    return dict(Counter(y.tolist()))


def test_closed_form_quotas_are_shares_with_largest_remainders():
    # 10 of 100: shares 5.0, 2.7, 1.6 and 0.7; floors 5, 2, 1, 0; the two left go to the remainders .7 and .7
    whole = images(50, 27, 16, 7)
    rest, part = stratified(whole, 10, seed=3, purpose="validation")
    assert counts(whole.y[part]) == {0: 5, 1: 3, 2: 1, 3: 1}
    assert len(rest) == 90


def test_closed_form_a_fraction_is_that_share_of_the_images():
    whole = images(60, 40)
    _, part = stratified(whole, 0.1, seed=0, purpose="test")
    assert counts(whole.y[part]) == {0: 6, 1: 4}


def test_contract_parts_are_disjoint_complete_ordered_and_by_seed():
    whole = images(30, 30, 40)
    rest, part = stratified(whole, 20, seed=1, purpose="validation")
    assert torch.equal(torch.cat([rest, part]).sort().values, torch.arange(100))
    assert (rest.diff() > 0).all() and (part.diff() > 0).all()
    again = stratified(whole, 20, seed=1, purpose="validation")[1]
    other_seed = stratified(whole, 20, seed=2, purpose="validation")[1]
    other_purpose = stratified(whole, 20, seed=1, purpose="test")[1]
    assert torch.equal(part, again)
    assert not torch.equal(part, other_seed) and not torch.equal(part, other_purpose)


def test_closed_form_classes_are_numbered_in_the_order_given():
    whole = images(4, 5, 6)
    two = of_classes(whole, (2, 0))
    assert two.classes == ("c", "a")
    assert counts(two.y) == {0: 6, 1: 4}
    assert torch.equal(two.index, whole.index[whole.y != 1])
    assert [(2, 0)[label] for label in two.y.tolist()] == whole.y[two.index - 1000].tolist()


def test_contract_per_class_is_exact_and_fewer_are_a_subset_of_more():
    whole = images(20, 30, 40)
    five, ten = of_each_class(whole, 5, seed=0), of_each_class(whole, 10, seed=0)
    assert counts(five.y) == {0: 5, 1: 5, 2: 5}
    assert set(five.index.tolist()) < set(ten.index.tolist())
    assert (five.index.diff() > 0).all()


def test_contract_test_is_never_thinned_and_validation_does_not_depend_on_per_class():
    train, test = images(40, 40, 40), images(9, 8, 7)
    asked_for = SimpleNamespace(validation=12, per_class=3, classes=(2, 1))
    small = chosen_splits(asked_for, train, test, seed=5)
    large = make_splits(train, test, validation=12, classes=(2, 1), seed=5)
    assert torch.equal(small.validation.index, large.validation.index)
    assert (len(small.train), len(small.validation), len(small.test)) == (6, 12, 15)
    assert not set(large.train.index.tolist()) & set(large.validation.index.tolist())
    assert small.train.classes == small.validation.classes == small.test.classes == ("c", "b")
    assert [small.train.name, small.validation.name, small.test.name] == ["Set, train", "Set, validation", "Set, test"]


def test_contract_on_device_moves_every_tensor():
    splits = make_splits(images(9, 9), images(3, 3), validation=2, seed=0)
    moved = on_device(splits, "meta")
    for part in (moved.train, moved.validation, moved.test):
        assert {t.device.type for t in (part.x, part.y, part.index)} == {"meta"}


@pytest.mark.parametrize("part", [0, -5, 0.0, 1.0, 1.5, float("nan")])
def test_contract_a_part_is_a_number_or_a_fraction(part: float):
    with pytest.raises(BadInput, match="validation"):
        check_part("validation", part)


def test_contract_a_whole_float_is_answered_with_the_number_meant():
    with pytest.raises(BadInput, match="did you mean 1000 images"):
        check_part("validation", 1000.0)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda s: stratified(s, 30, seed=0, purpose="test"), "cannot take 30 of 30"),
        (lambda s: stratified(s, 29, seed=0, purpose="test"), "every image of class"),
        (lambda s: of_classes(s, (0, 3)), "from 0 to 2"),
        (lambda s: of_classes(s, (1, 1)), "different"),
        (lambda s: of_classes(s, (1,)), "two or more"),
        (lambda s: of_each_class(s, 11, seed=0), "class 'a' has 10"),
    ],
)
def test_contract_impossible_choices_are_refused(act, sentence: str):
    with pytest.raises(BadInput, match=sentence):
        act(images(10, 10, 10))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"classes": (3,)}, r"numbers from 0 to 9, not \(3,\)"),
        ({"classes": ()}, "two or more"),
        ({"classes": (3, 3)}, "different"),
        ({"classes": (3, 10)}, "from 0 to 9"),
        ({"classes": (-1, 3)}, "from 0"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"validation": 1000.0}, "did you mean 1000 images"),
    ],
)
def test_contract_a_choice_that_no_data_set_has_is_refused(fields: dict, sentence: str):
    usual = {"classes": None, "per_class": None, "validation": 0.1}
    check_choice(SimpleNamespace(**usual), known=10)
    with pytest.raises(BadInput, match=sentence):
        check_choice(SimpleNamespace(**(usual | fields)), known=10)


def test_closed_form_the_largest_class_is_unknown_without_files():
    check_choice(SimpleNamespace(classes=(5, 999), per_class=1, validation=1))
    assert called("MNIST", (5, 9)) == "MNIST (classes 5, 9)" and called("MNIST", None) == "MNIST"
