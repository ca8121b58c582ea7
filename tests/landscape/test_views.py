import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.runner import measure
from robustscape.landscape.views import Views
from robustscape.runtime import TRUTH
from robustscape.types import BadInput, NotApplicable

EPS = 0.05
ATTACK = FGSM(threat=ThreatModel(eps=EPS))  # the exact adversary of a linear model


class Logistic(nn.Module):
    """Two classes, logits (0, w.x): under linf its robust loss is known exactly."""

    def __init__(self, w):
        super().__init__()
        self.linear = nn.Linear(w.numel(), 1, bias=False, dtype=torch.float64)
        self.linear.weight.data = w.reshape(1, -1).double()

    def forward(self, x):
        z = self.linear(x.flatten(1))
        return torch.cat([torch.zeros_like(z), z], dim=1)


def looked_at(w, n=13, **changes):
    generator = torch.Generator().manual_seed(n)
    x = 0.3 + 0.4 * torch.rand(n, *w.shape, generator=generator, dtype=torch.float64)
    made = {"index": torch.arange(n) * 7, "batch": 4, "runtime": TRUTH, "split": "train"}
    return subject(Logistic(w), x, torch.arange(n) % 2, **{**made, **changes})


def rendered(made, x):
    """The robust and the clean loss of every example, by hand."""
    w = made.model.linear.weight.detach().numpy()[0]
    s = np.where(made.y.numpy() == 1, 1.0, -1.0)
    lead = s * (x.flatten(1).numpy() @ w)
    return np.logaddexp(0, -lead + EPS * np.abs(w).sum()), np.logaddexp(0, -lead)


def test_closed_form_of_logistic_regression():
    made = looked_at(torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(1)))
    settings = Views(attack=ATTACK)
    found = measure(settings, made)
    robust, clean = rendered(made, made.x)
    assert found.reference_robust_loss == pytest.approx(robust.mean(), rel=1e-12)
    assert found.reference_clean_loss == pytest.approx(clean.mean(), rel=1e-12)
    rises = []
    for on in found.views:
        there = rendered(made, settings.seen(made, on.view))
        rises.append(there[0] - robust)
        assert on.robust.value == pytest.approx(rises[-1].mean(), rel=1e-9)
        assert on.clean.value == pytest.approx((there[1] - clean).mean(), rel=1e-9)
        assert on.robust_loss == pytest.approx(there[0].mean(), rel=1e-12)
        half = 2.1788128 * rises[-1].std(ddof=1) / np.sqrt(13)  # t, 12 degrees
        assert on.robust.high - on.robust.value == pytest.approx(half, rel=1e-6)
    assert [on.view for on in found.views] == ["mirror", "shift"]
    both = np.mean(rises, axis=0)
    assert found.robust.value == pytest.approx(both.mean(), rel=1e-9)
    assert found.robust.high - found.robust.value == pytest.approx(2.1788128 * both.std(ddof=1) / np.sqrt(13), rel=1e-6)
    assert (found.robust.n, found.n, found.split) == (13, 13, "train")


def test_closed_form_what_does_not_see_where_pixels_are_does_not_rise_when_they_are_mirrored():
    found = measure(Views(attack=ATTACK, views=("mirror",)), looked_at(torch.ones(1, 4, 4)))
    assert abs(found.robust.value) < 1e-12 and found.robust.high < 1e-12


def test_closed_form_every_image_is_shifted_by_its_own_pixels_and_all_shifts_but_none_occur():
    pixels = torch.arange(49.0, dtype=torch.float64).view(1, 1, 7, 7) / 49
    made = looked_at(torch.ones(1, 7, 7), n=600)
    made.x.copy_(pixels.expand(600, 1, 7, 7))
    seen = Views(shift=1).seen(made, "shift")
    offsets = []
    for image in seen:
        centre = round(float(image[0, 3, 3]) * 49)
        offsets.append((centre // 7 - 3, centre % 7 - 3))
        moved = torch.nn.functional.pad(pixels, (1, 1, 1, 1), mode="reflect")[0]
        down, right = offsets[-1]
        assert torch.equal(image, moved[:, 1 + down : 8 + down, 1 + right : 8 + right])
    counts = {offset: offsets.count(offset) for offset in set(offsets)}
    assert set(counts) == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)} - {(0, 0)}
    assert min(counts.values()) > 75 - 4 * np.sqrt(75)


def test_contract_a_shift_is_of_the_example_whoever_stands_beside_it():
    made = looked_at(torch.ones(1, 5, 5))
    rows = torch.tensor([11, 2])
    alone = looked_at(torch.ones(1, 5, 5), index=made.index[rows], n=2)
    alone.x.copy_(made.x[rows])
    assert torch.equal(Views().seen(alone, "shift"), Views().seen(made, "shift")[rows])


def test_contract_refuses_what_cannot_be_meant():
    for change, words in (
        ({"views": ()}, "at least one of them"),
        ({"views": ("turn",)}, r"not \['turn'\]"),
        ({"views": ("shift", "shift")}, "stands twice"),
        ({"shift": 0}, "at least 1, not 0"),
        ({"shift": 1.5}, "whole number"),
    ):
        with pytest.raises(BadInput, match=words):
            Views(**change)
    with pytest.raises(NotApplicable, match="images of more than that, not of 4x5"):
        measure(Views(attack=ATTACK, shift=4), looked_at(torch.ones(1, 4, 5)))
