"""Checkpoints of other people: the network that they fit, their names, their normalisation, and what is said."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from robustscape.models import load
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.models.preact_resnet import PreActResNet
from robustscape.models.resnet import ResNet
from robustscape.models.stutz_resnet import StutzResNet
from robustscape.models.vgg import VGG
from robustscape.models.wide_resnet import WideResNet
from robustscape.types import BadInput

spec = importlib.util.spec_from_file_location("layouts", Path(__file__).with_name("layouts.py"))
layouts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layouts)

IMAGE = (3, 8, 8)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def drawn(architecture, classes=4, image=IMAGE):
    """The network with statistics, scales and biases of its own, in eval mode."""
    model = architecture.build(image=image, classes=classes, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.ndim == 1:  # scales and scales less 1, shifts, statistics
                value.add_(0.4 * torch.rand(value.shape, generator=generator) - 0.2)
            assert torch.isfinite(value).all(), name
    return model.eval()


def written(tmp_path, model, names, *, more=(), ending=".pt"):
    """Save the network's weights under other names, in their order, between others."""
    own = model.state_dict()
    assert len(names) == len(own)
    state = {**dict(more), **dict(zip(names, own.values(), strict=True))}
    file = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, file)
    else:
        torch.save(state, file)
    return file


def same(one, other, image=IMAGE):
    x = torch.rand(3, *image, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(one(x), other(x), rtol=1e-5, atol=1e-6)  # float32, the order of sums may differ
    assert str(one) == str(other)


GOWAL = replace(WideResNet.gowal(), depth=10, width=2)
FAMILIES = {
    "trades": (WideResNet(depth=16, width=2), layouts.trades(2), "WideResNet(depth=16, width=2) with 4 classes"),
    "narrow": (WideResNet(depth=22, width=1), None, "WideResNet(depth=22, width=1) with 4 classes"),
    "gowal": (
        GOWAL,
        layouts.gowal(1),
        "WideResNet(depth=10, width=2, padding='same', activation='silu') in the form of Gowal et al. 2020",
    ),
    "gowal's preact": (
        replace(PreActResNet.gowal(), width=2),
        layouts.gowal_preact(),
        "PreActResNet(depth=18, width=2, shortcut='raw', projection=3, padding='same', activation='silu')",
    ),
    "rice": (PreActResNet(width=2), layouts.preact(final_norm=True), "PreActResNet(depth=18, width=2) with"),
    "wong": (
        replace(PreActResNet.wong(), width=2),
        layouts.preact(final_norm=False),
        "PreActResNet(depth=18, width=2, shortcut='raw', final_norm=False)",
    ),
    "zheng": (replace(PreActResNet.zheng(), width=2), None, "PreActResNet(depth=18, width=2, shortcut='activated'"),
    "resnet": (ResNet(width=2), layouts.resnet(), "ResNet(depth=18, width=2) with 4 classes"),
    "torchvision's names": (ResNet(width=2), layouts.resnet("downsample", "fc"), "ResNet(depth=18, width=2) with"),
    "stutz": (StutzResNet(width=2), layouts.stutz("rebn"), "StutzResNet(depth=18, width=2) with"),
    "stutz, batch": (
        StutzResNet(width=2, norm="batch"),
        layouts.stutz("bn"),
        "StutzResNet(depth=18, width=2, norm='batch')",
    ),
    "vgg": (VGG(width=2), layouts.vgg(), "VGG(depth=16, width=2) with 4 classes"),
    "liu's vgg": (VGG(width=2), layouts.vgg("feature_extractor"), "VGG(depth=16, width=2) with 4 classes"),
}


UNORDERED = ("gowal", "gowal's preact", "stutz", "liu's vgg")


@pytest.mark.parametrize(
    "family, ending", [*((family, ".pt") for family in FAMILIES), *((family, ".safetensors") for family in UNORDERED)]
)
def test_reference_a_bare_state_dict_is_recognised_by_its_shapes(tmp_path, family, ending):
    architecture, names, words = FAMILIES[family]
    image = (3, 32, 32) if isinstance(architecture, VGG) else IMAGE
    model = drawn(architecture, image=image)
    file = written(tmp_path, model, names or list(model.state_dict()), ending=ending)
    with pytest.warns(UserWarning) as said:
        found = load(file)
    (sentence,) = {str(warning.message) for warning in said}
    assert f"{file}: taken for a {words}" in sentence and "order" not in sentence
    same(found, model, image)


@pytest.mark.parametrize("family", FAMILIES)
def test_contract_unknown_names_are_taken_in_their_order_and_it_is_said(tmp_path, family):
    architecture = FAMILIES[family][0]
    if family.startswith("gowal") or family == "stutz, batch":  # a padding, an activation, a scale have no shape
        pytest.skip("shapes do not tell it")
    model = drawn(architecture)
    file = written(tmp_path, model, layouts.numbered(model.state_dict()))
    with pytest.warns(UserWarning, match="its weights are taken in their order, in which all shapes agree"):
        same(load(file), model)


def test_contract_a_safetensors_file_has_no_order_to_go_by(tmp_path):
    model = drawn(ResNet(width=2))
    file = written(tmp_path, model, layouts.numbered(model.state_dict()), ending=".safetensors")
    with pytest.raises(BadInput, match=r"fit no network of robustscape: nearest is a ResNet\(depth=18, width=2\), but"):
        load(file)


@pytest.mark.parametrize("architecture", [None, WideResNet(depth=10, width=1)])
def test_contract_the_stage_that_is_never_run_is_left_out(tmp_path, architecture):
    model = drawn(WideResNet(depth=10, width=1))
    surplus = {f"sub_block1.{name}": value for name, value in model.block1.state_dict().items()}
    file = written(tmp_path, model, list(model.state_dict()), more=surplus)
    settings = {} if architecture is None else {"architecture": architecture, "image": IMAGE, "classes": 4}
    if architecture is None:
        with pytest.warns(UserWarning, match="taken for a WideResNet"):
            same(load(file), model)
    else:
        same(load(file, **settings), model)


@pytest.mark.parametrize(
    "names, prefix",
    [
        *((("mu", "sigma"), ""), (("mean", "std"), "module."), (("whiten.bias", "whiten.weight"), "")),
        *((("normalize.mean", "normalize.std"), "model."), (("module.mu", "module.sigma"), "module.")),
    ],
)
def test_contract_a_mean_and_std_that_it_holds_become_the_models(tmp_path, names, prefix):
    plain = WideResNet(depth=10, width=1)
    normalising = drawn(replace(plain, mean=MEAN, std=STD))
    shape = (3,) if names[0] == "whiten.bias" else (1, 3, 1, 1)
    more = {names[1]: torch.tensor(STD).view(shape), names[0]: torch.tensor(MEAN).view(shape)}
    own = [prefix + name for name in normalising.state_dict()]
    file = written(tmp_path, normalising, own, more=more.items())
    with pytest.warns(UserWarning, match=r"normalised by the mean 0\.4914 0\.4822 0\.4465 and std 0\.2471 .* it holds"):
        same(load(file), normalising)
    given = {"image": IMAGE, "classes": 4}
    with pytest.warns(UserWarning, match="that it holds"):
        same(load(file, architecture=plain, **given), normalising)
    with pytest.warns(UserWarning, match="that it holds"):
        same(load(file, architecture=replace(plain, mean=MEAN, std=STD), **given), normalising)
    with pytest.raises(BadInput, match=r"normalises inside already, by mean 0\.4914"):
        load(file, architecture=plain, **given, mean=(0.5,), std=(0.5,))
    for other in (replace(plain, mean=(0.5,), std=(0.5,)), replace(plain, per_image=True)):
        with pytest.raises(BadInput, match=r"normalises by mean 0\.4914 .* but the architecture by"):
            load(file, architecture=other, **given)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_contract_a_network_behind_a_normalisation_is_known_by_its_authors_names(tmp_path, ending):
    """Shapes do not tell Gowal's activation and padding: only the names do, behind their place in a Sequential."""
    model = drawn(replace(GOWAL, mean=MEAN, std=STD))
    more = {"module.0.mean": torch.tensor(MEAN).view(3, 1, 1), "module.0.std": torch.tensor(STD).view(3, 1, 1)}
    file = written(tmp_path, model, [f"module.1.{name}" for name in layouts.gowal(1)], more=more, ending=ending)
    with pytest.warns(UserWarning, match=r"activation='silu'\) in the form of Gowal et al. 2020"):
        same(load(file), model)


def test_contract_per_image_normalisation_is_not_put_behind_another(tmp_path):
    network = WideResNet(depth=10, width=1, per_image=True)
    model = drawn(network)
    file = written(tmp_path, model, list(model.state_dict()))
    with pytest.raises(BadInput, match="normalises inside already, by every image's own mean and std"):
        load(file, architecture=network, image=IMAGE, classes=4, mean=(0.5,), std=(0.5,))


def test_contract_the_networks_of_other_names_may_be_given_with_their_settings(tmp_path):
    model = drawn(GOWAL)
    file = written(tmp_path, model, layouts.gowal(1))
    same(load(file, architecture=GOWAL, image=IMAGE, classes=4), model)
    with pytest.warns(UserWarning, match="Gowal et al. 2020, whose networks have padding='same', activation='silu'"):
        load(file, architecture=WideResNet(depth=10, width=2), image=IMAGE, classes=4)


@pytest.mark.parametrize("architecture", [LeNet(width=2), Linear(), Linear(bias=False)])
def test_contract_networks_for_one_image_size_are_recognised_with_it(tmp_path, architecture):
    image = (1, 8, 8)
    model = architecture.build(image=image, classes=3, seed=1)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    with pytest.warns(UserWarning, match=f"taken for a {type(architecture).__name__}"):
        found = load(tmp_path / "w.pt", image=image, classes=3)
    x = torch.rand(2, *image)
    assert torch.equal(found(x), model(x))


def _state(model):
    return model.state_dict()


@pytest.mark.parametrize(
    "change, settings, says",
    [
        (_state, {"classes": 10}, r"ResNet\(depth=18, width=2\), which tells 4 classes apart, not 10"),
        (_state, {"image": (1, 8, 8)}, r"ResNet\(depth=18, width=2\), whose images have 3 channels, not 1"),
        (lambda m: _state(m) | {"head.weight": torch.ones(2)}, {}, "nearest is a ResNet.*'head.weight' is unexpected"),
        (lambda m: {n: v for n, v in _state(m).items() if n != "bn1.bias"}, {}, "'bn1.bias' is missing"),
        (lambda m: {"conv.weight": torch.ones(4, 3, 7, 7), "fc.weight": torch.ones(4, 4)}, {}, "fit no network of"),
        (lambda m: {"a": torch.ones(3)}, {}, "fit no network of robustscape; give its architecture"),
        (lambda m: {"fc.weight": torch.ones(3, 64)}, {}, "do not tell the shape of an image"),
        (lambda m: _state(m) | {"conv1.weight": torch.ones(2, 3, 3, 3, dtype=torch.int32)}, {}, "has the type int32"),
    ],
)
def test_contract_weights_that_fit_nothing_are_refused_by_what_differs(tmp_path, change, settings, says):
    torch.save(change(drawn(ResNet(width=2))), tmp_path / "w.pt")
    with pytest.raises(BadInput, match=says):
        load(tmp_path / "w.pt", **settings)


def test_contract_a_guess_costs_no_more_than_the_file_holds(tmp_path):
    """A stem that asks for a network of terabytes is not built: the file has no such layers."""
    claims = {"conv1.weight": torch.ones(1000, 3, 3, 3), "fc.weight": torch.ones(10, 8000)}
    torch.save(claims | {f"c{place}.weight": torch.ones(1, 1, 3, 3) for place in range(19)}, tmp_path / "w.pt")
    with pytest.raises(BadInput, match="fit no network"):
        load(tmp_path / "w.pt")
