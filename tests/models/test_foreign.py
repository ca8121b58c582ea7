"""Networks of somebody's code, of timm and of torchvision."""

import sys
from enum import Enum
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from robustscape.models import load
from robustscape.models.lenet import LeNet
from robustscape.types import BadInput

IMAGE = (1, 8, 8)

# -- somebody's code -------------------------------------------------------------------------------------

CODE = """
from torch import nn


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()


def wide(width):
    return nn.Linear(width, 3)


def number():
    return 3


constant = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module of the current directory, forgotten afterwards."""
    (tmp_path / "my_networks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "my_networks"
    sys.modules.pop("my_networks", None)


def test_contract_a_function_of_the_current_directory_is_called(package):
    path = list(sys.path)
    model = load(f"{package}:net", image=IMAGE, classes=3, mean=(0.5,), std=(0.5,))
    assert sys.path == path
    logits = model(torch.rand(2, *IMAGE))
    assert logits.shape == (2, 3)
    assert logits.dtype == torch.float32
    assert not model.training


@pytest.mark.parametrize(
    "name, says",
    [
        ("my_networks:nte", r"no function 'nte' \(did you mean net\?\)"),
        ("my_networks:constant", "no function 'constant'"),
        ("my_networks:wide", "without arguments, but: missing a required argument: 'width'"),
        ("my_networks:number", "returned a int, not a torch.nn.Module"),
        ("my_netwroks:net", "no module 'my_netwroks'"),
        ("my_networks.deep:net", "no module 'my_networks.deep'"),
    ],
)
def test_contract_a_function_that_gives_no_model_is_refused(package, name, says):
    with pytest.raises(BadInput, match=says):
        load(name)


def test_contract_an_error_of_somebodys_code_is_shown_as_it_is(package, tmp_path):
    (tmp_path / "my_networks.py").write_text("import a_library_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        load("my_networks:net")


def test_contract_an_architecture_is_for_checkpoints_only(package):
    with pytest.raises(BadInput, match="only be given with a checkpoint"):
        load(f"{package}:net", architecture=LeNet())


def test_contract_a_functions_model_gets_the_weights_of_a_file(package, tmp_path):
    linear = nn.Linear(64, 3)
    torch.save({"state_dict": {f"module.1.{n}": v for n, v in linear.state_dict().items()}}, "w.pt")
    x = torch.rand(2, *IMAGE)
    torch.testing.assert_close(load(f"{package}:net", weights="w.pt")(x), linear(x.flatten(1)))
    state = {f"model.1.{n}": v for n, v in linear.state_dict().items()}
    torch.save(state | {"normalize.mean": torch.tensor([0.2]), "normalize.std": torch.tensor([0.5])}, "w.pt")
    with pytest.warns(UserWarning, match="^w.pt: pixels are normalised by the mean 0.2 and std 0.5 that it holds"):
        found = load(f"{package}:net", weights="w.pt")
    torch.testing.assert_close(found(x), linear(((x - 0.2) / 0.5).flatten(1)))
    with pytest.raises(BadInput, match=r"normalises inside already, by mean 0\.2 and std 0\.5"):
        load(f"{package}:net", weights="w.pt", mean=(0.5,), std=(0.5,))
    torch.save({"a.weight": linear.weight, "a.bias": linear.bias}, "w.pt")
    with pytest.warns(UserWarning, match="taken in their order"):
        torch.testing.assert_close(load(f"{package}:net", weights="w.pt")(x), linear(x.flatten(1)))


def test_contract_weights_of_another_network_are_refused(package):
    torch.save(nn.Linear(64, 4).state_dict(), "w.pt")
    with pytest.raises(BadInput, match=r"w\.pt does not hold the weights of my_networks:net: '1\.weight' is missing"):
        load(f"{package}:net", weights="w.pt")
    with pytest.raises(BadInput, match=r"there is no checkpoint v\.pt"):
        load(f"{package}:net", weights="v.pt")


@pytest.fixture
def timm(monkeypatch):
    """A stand-in with the three things of timm that are used."""

    def create_model(name, *, pretrained, num_classes=1000, in_chans=3):
        if name.endswith(".lost"):
            raise RuntimeError("Invalid pretrained tag\nand more")
        model = nn.Sequential(nn.Conv2d(in_chans, num_classes, 8, bias=False), nn.Flatten())
        nn.init.constant_(model[0].weight, 1.0 if pretrained else 0.0)
        model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.25,) * 3}  # pyright: ignore[reportAttributeAccessIssue]
        return model

    module = ModuleType("timm")
    module.__dict__.update(create_model=create_model, list_models=lambda: ["resnet18", "vgg11"])
    monkeypatch.setitem(sys.modules, "timm", module)


def test_contract_a_timm_name_gives_an_untrained_model_of_the_asked_shape(timm):
    assert torch.equal(load("timm:resnet18", image=IMAGE, classes=3)(torch.rand(2, *IMAGE)), torch.zeros(2, 3))


def test_contract_a_timm_name_with_a_tag_is_pretrained_and_normalises(timm):
    x = torch.ones(2, 3, 8, 8)
    assert torch.equal(load("timm:resnet18.tag")(x), torch.full((2, 1000), 3 * 64 * 2.0))
    own = load("timm:resnet18.tag", mean=(0.0,), std=(1.0,))
    assert torch.equal(own(x), torch.full((2, 1000), 3 * 64.0))


@pytest.mark.parametrize(
    "name, says",
    [
        ("timm:resnet81", r"timm has no model 'resnet81' \(did you mean resnet18\?\)"),
        ("timm:resnet18.lost", "timm cannot make resnet18.lost: Invalid pretrained tag$"),
    ],
)
def test_contract_what_timm_does_not_have_is_refused(timm, name, says):
    with pytest.raises(BadInput, match=says):
        load(name)


def test_contract_without_timm_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match="timm:resnet18 needs timm, which is not installed: pip install timm"):
        load("timm:resnet18")


# -- torchvision -----------------------------------------------------------------------------------------


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in with the three functions of torchvision that are used."""

    class Weights(Enum):
        V1 = 1

        def transforms(self):
            return SimpleNamespace(mean=[0.5] * 3, std=[0.25] * 3)

    def get_model(name, *, weights, num_classes=1000):
        if weights and num_classes != 1000:
            raise ValueError("expected value 1000 but got 3 instead")
        model = nn.Sequential(nn.Conv2d(3, num_classes, 8, bias=False), nn.Flatten())
        nn.init.constant_(model[0].weight, 1.0 if weights else 0.0)
        return model

    models = ModuleType("torchvision.models")
    models.__dict__.update(
        get_model=get_model,
        list_models=lambda module: ["resnet18", "vgg11"] if module is models else [],
        get_model_weights=lambda name: Weights,
    )
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_contract_a_torchvision_name_gives_an_untrained_or_a_pretrained_model(torchvision):
    x = torch.ones(2, 3, 8, 8)
    assert torch.equal(load("torchvision:resnet18", image=(3, 8, 8), classes=3)(x), torch.zeros(2, 3))
    assert torch.equal(load("torchvision:resnet18.V1")(x), torch.full((2, 1000), 3 * 64 * 2.0))
    assert torch.equal(load("torchvision:resnet18.V1", mean=(0.0,), std=(1.0,))(x), torch.full((2, 1000), 3 * 64.0))


@pytest.mark.parametrize(
    "name, settings, says",
    [
        ("torchvision:resnet81", {}, r"torchvision has no classifier 'resnet81' \(did you mean resnet18\?\)"),
        ("torchvision:resnet18.V2", {}, r"has no weights 'V2' of resnet18 \(did you mean V1\?\); there are: V1"),
        ("torchvision:resnet18.V1", {"classes": 3}, "cannot make resnet18.V1: expected value 1000 but got 3"),
        ("torchvision:resnet18", {"image": (1, 8, 8)}, "take images of 3 channels, not 1"),
    ],
)
def test_contract_what_torchvision_does_not_have_is_refused(torchvision, name, settings, says):
    with pytest.raises(BadInput, match=says):
        load(name, **settings)


def test_contract_without_torchvision_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(BadInput, match="torchvision:resnet18 needs torchvision, which is not installed: pip install"):
        load("torchvision:resnet18")
