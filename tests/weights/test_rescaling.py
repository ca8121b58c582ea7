import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.models.lenet import LeNet
from robustscape.models.preact_resnet import PreActResNet
from robustscape.models.vgg import VGG
from robustscape.types import BadInput
from robustscape.weights.rescaling import before_normalisation, between_layers

IMAGES = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def built(architecture):
    """The network in float64, with statistics that are not those of a new one."""
    model = architecture.build(image=(1, 16, 16), classes=4, seed=1).double().eval()
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model


def plain(eps=1e-5):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=4), nn.BatchNorm2d(3, eps=eps), nn.ReLU(), nn.Flatten(),
        nn.Linear(48, 5, bias=False), nn.ReLU(), nn.Linear(5, 4)
    )  # fmt: skip
    return model.double().eval()


@pytest.mark.parametrize("rescaling", [before_normalisation, between_layers])
@pytest.mark.parametrize("factor", [2.0, 0.3])
@pytest.mark.parametrize(
    "architecture", [VGG(depth=16, width=2), PreActResNet(width=2), LeNet(width=2)], ids=lambda a: type(a).__name__
)
def test_closed_form_the_function_stays_and_the_weights_do_not(architecture, rescaling, factor):
    model = built(architecture)
    if isinstance(architecture, LeNet) and rescaling is before_normalisation:
        with pytest.raises(BadInput, match="LeNetNetwork has no layer right before a BatchNorm"):
            rescaling(model, IMAGES, factor=factor)
        return
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = rescaling(model, IMAGES, factor=factor)
    others = torch.rand(5, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(found.model(others), model(others), rtol=1e-9, atol=1e-9)  # also away from the probes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    modules, changed = dict(model.named_modules()), dict(found.model.named_modules())
    for first, second in found.pairs:
        torch.testing.assert_close(changed[first].weight, factor * modules[first].weight)
        expected = modules[second].weight / (factor if rescaling is between_layers else 1)
        torch.testing.assert_close(changed[second].weight, expected)


@pytest.mark.parametrize("shortcut", ["raw", "mixed"])
def test_closed_form_a_residual_network_is_rescaled_within_its_branches(shortcut):
    pairs = before_normalisation(built(PreActResNet(width=2, shortcut=shortcut)), IMAGES).pairs
    assert pairs == tuple((f"layer{k}.{b}.conv1", f"layer{k}.{b}.bn2") for k in range(1, 5) for b in range(2))


def test_closed_form_biases_and_statistics_by_hand():
    model = plain(eps=0.1)  # not small beside the variance 1
    found = before_normalisation(model, IMAGES, factor=3.0)
    assert found.pairs == (("0", "1"),)
    made, was = found.model, copy.deepcopy(model)
    torch.testing.assert_close(made[0].bias, 3 * was[0].bias)
    torch.testing.assert_close(made[1].running_var, 9 * (was[1].running_var + 0.1) - 0.1)
    found = between_layers(model, IMAGES, factor=3.0)
    assert found.pairs == (("1", "4"),)  # each module once: 4 is not rescaled again with 6
    torch.testing.assert_close(found.model[1].bias, 3 * was[1].bias)
    model[1].weight.data.zero_()
    model[1].bias.data.fill_(-1)  # ReLU now gives 0: what is not seen in the logits tells nothing
    with pytest.raises(BadInput, match="no two layers"):
        between_layers(model[:5], IMAGES)


class Smooth(nn.Module):
    """Two layers with what is not homogeneous between them, and a BatchNorm that is called after another use."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(256, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.first(x.flatten(1))
        return self.second(F.gelu(self.norm(h)) + h)


def test_contract_only_what_keeps_the_function_is_rescaled():
    torch.manual_seed(0)
    model = Smooth().double().eval()
    with pytest.raises(BadInput, match="Smooth has no layer right before a BatchNorm"):
        before_normalisation(model, IMAGES)
    with pytest.raises(BadInput, match="Smooth has no two layers with but ReLU"):
        between_layers(model, IMAGES)


def test_contract_leaves_no_hooks_modes_or_state_on_either():
    model = plain()
    model[1].train()
    found = before_normalisation(model, IMAGES)
    for one in (model, found.model):
        assert [module.training for module in one.modules()] == [name == "1" for name, _ in model.named_modules()]
        assert not any(module._forward_pre_hooks for module in one.modules())
    assert [p.requires_grad for p in found.model.parameters()] == [True] * 7


@pytest.mark.parametrize("factor", [0.0, -2.0, 1.0, float("inf"), float("nan")])
def test_contract_refuses_factors_that_cannot_be_meant(factor):
    with pytest.raises(BadInput, match="must be above 0, finite and not 1"):
        between_layers(plain(), IMAGES, factor=factor)
