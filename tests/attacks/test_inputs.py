"""Inputs of any layout, dtype of logits and history: every attack takes them as it takes plain ones, or says no."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.cw import CW
from robustscape.attacks.fab import FAB
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.pgd import PGD
from robustscape.attacks.reference import reference
from robustscape.attacks.spsa import SPSA
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.config import hints, members
from robustscape.types import BadInput

SHORT = {"steps": 3, "queries": 5, "samples": 2}
ROOM = sorted(members("Attack").items())
ATTACKS = [pytest.param(kind(**{k: v for k, v in SHORT.items() if k in hints(kind)}), id=name) for name, kind in ROOM]
SEARCHES = [APGD(steps=3), FAB(steps=3), Square(queries=5), CW(steps=3), SPSA(steps=2, samples=2), AutoAttack(steps=3)]
LOOKING = [*SEARCHES, PGD(), FGSM()]


def _called(attacks):
    return [pytest.param(attack, id=type(attack).__name__) for attack in attacks]


def _problem(n=6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(90, 10))
    x = torch.rand(n, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, x, model(x).argmax(dim=1)


class _Double(nn.Module):
    """Gives logits in float64 of inputs in float32."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).double()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "changed",
    [lambda x: x.to(memory_format=torch.channels_last), lambda x: x.clone().requires_grad_()],
    ids=["channels last", "needs a gradient"],
)
def test_contract_layout_and_gradients_of_the_input_change_nothing(attack, changed):
    model, x, y = _problem()
    x_adv = attack(model, changed(x), y)
    assert not x_adv.requires_grad
    assert torch.equal(x_adv, attack(model, x, y))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_contract_no_images_are_no_error(version, norm):
    model, x, y = _problem()
    attack = AutoAttack(threat=ThreatModel(norm=norm, eps=0.1), version=version, steps=3, queries=5)
    assert attack(model, x[:0], y[:0]).shape == (0, 3, 6, 5)


def test_contract_logits_of_more_precision_than_the_inputs():
    model, x, y = _problem()
    attack = PGD(threat=ThreatModel(eps=0.03), result="misclassified", restarts=2)
    x_adv = attack(_Double(model), x, y)
    fooled = (model(x_adv).argmax(dim=1) != y).sum()
    assert x_adv.dtype == torch.float32 and 2 * int(fooled) >= len(x)  # so some have left the batch


@pytest.mark.parametrize("attack", _called(LOOKING))
def test_contract_one_image_without_a_batch_is_refused(attack):
    model, x, y = _problem()
    with pytest.raises(BadInput, match=r"did you mean x\[None\] and y\[None\]\?"):
        attack(model, x[0], y[0])


@pytest.mark.parametrize("attack", _called(SEARCHES))
def test_contract_labels_of_other_integer_types_are_refused(attack):
    model, x, y = _problem()
    for dtype in (torch.int32, torch.uint8):
        with pytest.raises(BadInput, match=rf"int64, not \(6,\) of {dtype}; did you mean y.long\(\)\?"):
            attack(model, x, y.to(dtype))


@pytest.mark.parametrize("attack", _called(SEARCHES))
def test_contract_pixels_outside_the_box_are_refused_but_for_rounding(attack):
    model, x, y = _problem()
    with pytest.raises(BadInput, match=r"pixels lie in \[-2, .*normalisation belongs into the model"):
        attack(model, (4 * x - 2).clamp(min=-2).index_fill(0, torch.tensor([0]), -2), y)
    x[0, 0, 0, 0] = -3e-8
    assert attack(model, x, y).shape == x.shape


@pytest.mark.parametrize("attack", _called(LOOKING))
def test_contract_radii_that_no_ball_has_are_refused(attack):
    model, x, y = _problem()
    with pytest.raises(BadInput, match=r"did you mean 8/255\?"):
        attack(model, x, y, eps=torch.tensor([0, 0, 0, 0, 0, 8.0]))
    with pytest.raises(BadInput, match=r"did you mean attack.at\(0.1\)\?"):
        attack(model, x, y, eps=0.1)


@pytest.mark.parametrize("attack", _called(LOOKING))
def test_contract_inference_mode_is_refused(attack):
    model, x, y = _problem()
    with torch.inference_mode():
        made = x.clone()
        with pytest.raises(BadInput, match=r"did you mean torch\.no_grad"):
            attack(model, x, y)
    with pytest.raises(BadInput, match=r"did you mean torch\.no_grad"):
        attack(model, made, y)


@pytest.mark.parametrize("attack", _called([PGD(), CW(), SPSA(), FGSM(), AutoAttack(), APGD(targeted=True)]))
def test_contract_what_has_no_reference_is_refused_there(attack):
    model, x, y = _problem()
    with pytest.raises(BadInput, match="reference"):
        reference(attack, model, x, y, seed=0)


@pytest.mark.parametrize("version", [None, 3])
def test_contract_a_version_that_is_no_word_is_refused(version):
    with pytest.raises(BadInput, match=f"has the versions standard, plus and rand, not {version}"):
        replace(AutoAttack(), version=version)
