"""A model no better than chance is noticed, and what is wrong with it is named where it can be told."""

from math import comb

import pytest
import torch
from torch import nn

from robustscape.evaluation.chance import doubt, is_chance
from robustscape.evaluation.subject import subject

CLASSES, LEVELS = 10, 256
TABLE = torch.randint(CLASSES, (LEVELS,), generator=torch.Generator().manual_seed(0))
LEVEL = torch.arange(200) * 7 % LEVELS
Y = TABLE[LEVEL]
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images(channels):
    """Of one grey each, which a table without any order gives a class."""
    return (LEVEL / (LEVELS - 1)).view(-1, 1, 1, 1).expand(-1, channels, 4, 4).clone()


class Greys(nn.Module):
    """Knows the table, for pixels that are normalised by mean and std, and has the classes in an order of its own."""

    def __init__(self, mean=(0.0,), std=(1.0,), order=range(CLASSES)):
        super().__init__()
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self.order = list(order)

    def forward(self, x):
        grey = (x * self.std + self.mean).mean((1, 2, 3))
        level = (grey * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)
        return 9.0 * nn.functional.one_hot(TABLE[level], CLASSES)[:, self.order]


class Behind(nn.Module):
    """The model behind a normalisation."""

    def __init__(self, model, mean, std):
        super().__init__()
        self.model = model
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def forward(self, x):
        return self.model((x - self.mean) / self.std)


def said(model, channels=3, front=None):
    return doubt(subject(model, images(channels), Y, classes=tuple("abcdefghij")), front=front)


def test_closed_form_chance_is_a_binomial_tail():
    for right, n, classes in ((3, 10, 4), (6, 10, 4), (7, 10, 4), (0, 5, 2), (40, 256, 10), (41, 256, 10)):
        tail = sum(comb(n, k) * (classes - 1) ** (n - k) for k in range(right, n + 1)) / classes**n
        assert is_chance(right, n, classes) == (tail > 0.01)


def test_contract_a_model_that_is_right_is_not_doubted():
    assert said(Greys()) == ""
    assert said(Behind(Greys(*CIFAR), *CIFAR), front=CIFAR) == ""


WITH = {
    "pixels in [0, 255]": (((0.0,), (1 / 255,)), 3),
    "MNIST's mean 0.1307 and std 0.3081": (((0.1307,), (0.3081,)), 1),
    "CIFAR-10's mean 0.4914 0.4822 0.4465 and std 0.2471 0.2435 0.2616": (CIFAR, 3),
    "ImageNet's mean 0.485 0.456 0.406 and std 0.229 0.224 0.225": (IMAGENET, 3),
    "mean 0.5 and std 0.5": (((0.5,), (0.5,)), 1),
}


@pytest.mark.parametrize("words", WITH)
def test_contract_the_normalisation_that_a_model_lacks_is_named(words):
    constants, channels = WITH[words]
    sentence = said(Greys(*constants), channels)
    assert sentence.startswith("clean accuracy is ")
    assert sentence.endswith(f"on the first 200 images, which is chance for 10 classes; with {words} it is 100.0%")


def test_contract_a_wrong_normalisation_gives_way_to_the_right_one():
    wrong = (0.5,), (0.5,)
    assert said(Behind(Greys(*CIFAR), *wrong), front=wrong).endswith("0.2435 0.2616 it is 100.0%")
    assert said(Behind(Greys(), *wrong), front=wrong).endswith("; with no normalisation it is 100.0%")


def test_contract_another_order_of_the_classes_is_named():
    order = [3, 2, 4, 0, 5, 9, 1, 8, 6, 7]
    sentence = said(Greys(order=order))  # its output 0 is the data's class 3
    assert "; with the model's classes in another order (3 2 4 0 5 9 1 8 6 7 for 0 to 9) it is 100.0%" in sentence


class Constant(nn.Module):
    def forward(self, x):
        return x.new_zeros(len(x), CLASSES).index_fill(1, torch.tensor([4]), 9.0)


@pytest.mark.parametrize("model", [Greys((-3.0,), (2.5,)), Constant()])
def test_contract_where_nothing_usual_helps_the_causes_are_said(model):
    sentence = said(model)
    assert "which is chance for 10 classes: likely the model expects another normalisation (mean and std)" in sentence


def test_contract_a_model_is_left_without_a_trace():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(), nn.Linear(48, CLASSES)).train()
    before = [value.clone() for value in model.state_dict().values()]
    assert said(model) != ""
    assert all(module.training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
