import json
import sys
from enum import Enum
from types import ModuleType, SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from robustscape.attacks.threat import ThreatModel
from robustscape.config import to_plain
from robustscape.models import describe, load
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.models.preact_resnet import PreActResNet
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput

IMAGE = (1, 8, 8)
NAMES = ["no", "maybe", "yes"]
LENET = LeNet(width=1)


def make(architecture=LENET, seed=1) -> nn.Module:
    return architecture.build(image=IMAGE, classes=3, seed=seed)


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def run(tmp_path):
    """A run's folder with two checkpoints, seeds 1 (best) and 2 (last)."""
    folder = tmp_path / "run"
    folder.mkdir()
    about = {"run": {"model": to_plain(LENET)}, "image": list(IMAGE), "classes": NAMES}
    (folder / "run.json").write_text(json.dumps({"name": "mine", "provenance": {}, **about}))
    header = {"architecture": to_plain(LENET), "image": list(IMAGE), "classes": NAMES, "epoch": 1}
    for name, seed in (("best", 1), ("last", 2)):
        save_weights(make(seed=seed), folder / "checkpoints" / f"{name}.safetensors", header)
    return folder


def test_contract_a_run_gives_its_best_checkpoint_or_the_one_asked_for(run):
    model = load(run)
    assert equal(model, make(seed=1))
    assert not model.training
    assert equal(load(str(run), checkpoint="last"), make(seed=2))


def test_contract_a_run_without_the_checkpoint_says_which_there_are(run):
    with pytest.raises(BadInput, match="no checkpoint 'lsat' \\(did you mean last\\?\\); there are: best, last"):
        load(run, checkpoint="lsat")
    (run / "checkpoints" / "last.safetensors").unlink()
    (run / "checkpoints" / "best.safetensors").rename(run / "checkpoints" / "resume.safetensors")
    with pytest.raises(BadInput, match="no checkpoint 'best' yet"):
        load(run)


def test_contract_a_checkpoint_of_ours_needs_nothing_else(run):
    assert equal(load(run / "checkpoints" / "last.safetensors"), make(seed=2))


@pytest.mark.parametrize("where", ["run", "checkpoint"])
def test_contract_describe_says_what_is_known(run, where):
    about = describe(run if where == "run" else run / "checkpoints" / "best.safetensors")
    assert about == {"architecture": LENET, "image": IMAGE, "classes": tuple(NAMES)}


def test_contract_describe_of_others_knows_nothing(tmp_path):
    torch.save(make().state_dict(), tmp_path / "weights.pt")
    nothing = {"architecture": None, "image": None, "classes": None}
    assert describe(tmp_path / "weights.pt") == describe("timm:resnet18") == describe("package.module:net") == nothing


@pytest.mark.parametrize("nest", [None, "state_dict", "net", "ema", "state_dict_ema", "averaged", "model.ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "ema_model.module."])
def test_contract_a_state_dict_may_be_wrapped(tmp_path, nest, prefix):
    state = {prefix + name: value for name, value in make().state_dict().items()}
    for key in reversed(nest.split(".") if nest else []):
        state = {key: state, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(state, tmp_path / "weights.pth")
    assert equal(load(tmp_path / "weights.pth", architecture=LENET, image=IMAGE, classes=3), make())


def test_contract_an_average_counts_its_models(tmp_path):
    average = torch.optim.swa_utils.AveragedModel(make())
    torch.save(average.state_dict(), tmp_path / "weights.pt")
    assert equal(load(tmp_path / "weights.pt", architecture=LENET, image=IMAGE, classes=3), make())


def test_contract_of_several_state_dicts_one_may_be_named(tmp_path):
    state = {"last": make(seed=1).state_dict(), "best": make(seed=2).state_dict(), "epoch": 3}
    torch.save(state, tmp_path / "weights.pt")
    for name, seed in (("last", 1), ("best", 2)):
        with pytest.warns(UserWarning, match=f"of its state dicts '{name}' is taken, not '(last|best)'"):
            found = load(tmp_path / "weights.pt", checkpoint=name, architecture=LENET, image=IMAGE, classes=3)
        assert equal(found, make(seed=seed))
    torch.save({"state_dict": state["last"], "ema_state_dict": state["best"]}, tmp_path / "weights.pt")
    with pytest.warns(UserWarning, match="'state_dict' is taken, not 'ema_state_dict'"):
        found = load(tmp_path / "weights.pt", architecture=LENET, image=IMAGE, classes=3)
    assert equal(found, make(seed=1))


def test_contract_anyones_safetensors_file_is_read(tmp_path):
    safetensors.torch.save_file(make().state_dict(), tmp_path / "weights.safetensors")
    assert equal(load(tmp_path / "weights.safetensors", architecture=LENET, image=IMAGE, classes=3), make())


def test_contract_half_precision_weights_become_float32(tmp_path):
    torch.save(make().half().state_dict(), tmp_path / "weights.pt")
    model = load(tmp_path / "weights.pt", architecture=LENET, image=IMAGE, classes=3)
    assert equal(model, make().half().float())


def test_contract_weights_from_before_batches_were_counted_fit(tmp_path):
    network = PreActResNet(width=1)
    state = {name: value for name, value in make(network).state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "weights.pt")
    assert equal(load(tmp_path / "weights.pt", architecture=network, image=IMAGE, classes=3), make(network))


def test_closed_form_mean_and_std_put_a_normalisation_in_front(run):
    x = torch.rand(4, *IMAGE)
    torch.testing.assert_close(load(run, mean=(0.2,), std=(0.5,))(x), make()((x - 0.2) / 0.5))


def test_contract_a_second_normalisation_is_refused(tmp_path):
    inside = Linear(mean=(0.2,), std=(0.5,))
    save_weights(
        make(inside),
        tmp_path / "a.safetensors",
        {"architecture": to_plain(inside), "image": list(IMAGE), "classes": NAMES},
    )
    with pytest.raises(BadInput, match="normalises inside already"):
        load(tmp_path / "a.safetensors", mean=(0.2,), std=(0.5,))
    with pytest.raises(BadInput, match="3 numbers, but the images have 1 channels"):
        load(tmp_path / "a.safetensors", architecture=Linear(), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "architecture, says",
    [
        (LeNet(width=2), r"LeNet of these settings: 'conv1.weight' has the shape \(2, 1, 5, 5\), not \(4, 1, 5, 5\)"),
        (Linear(), "Linear of these settings: 'linear.weight' is missing"),
    ],
)
def test_contract_a_checkpoint_of_another_architecture_is_refused(run, architecture, says):
    with pytest.raises(BadInput, match=says):
        load(run, architecture=architecture)


def test_contract_a_name_too_many_is_refused(tmp_path):
    torch.save(make().state_dict() | {"extra": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="'extra' is unexpected"):
        load(tmp_path / "weights.pt", architecture=LENET, image=IMAGE, classes=3)


def test_contract_weights_alone_need_the_shape_of_an_image(tmp_path):
    torch.save(make().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="weights alone: give the image's shape and the classes with the architecture"):
        load(tmp_path / "weights.pt", architecture=LENET)


class Opened:
    """Writes a file when it is unpickled by something that executes what it reads."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("content", ["code", "module", "text", "short"])
def test_contract_a_pickle_is_not_executed_and_damage_is_said(tmp_path, content):
    file = tmp_path / "weights.pt"
    if content == "code":
        torch.save({"state_dict": Opened(tmp_path / "executed")}, file)
    elif content == "module":
        torch.save(nn.Linear(2, 2), file)
    elif content == "text":
        file.write_text("not a checkpoint")
    else:
        torch.save(make().state_dict(), file)
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(BadInput, match="nothing in a checkpoint is executed"):
        load(file, architecture=LENET, image=IMAGE, classes=3)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, [1, 2]])
def test_contract_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="holds no state dict"):
        load(tmp_path / "weights.pt", architecture=LENET, image=IMAGE, classes=3)


def test_contract_a_short_safetensors_file_is_refused(run):
    file = run / "checkpoints" / "best.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BadInput, match="was cut short"):
        load(run / "checkpoints" / "best.safetensors")
    with pytest.raises(BadInput, match="was cut short"):
        load(run)


@pytest.mark.parametrize(
    "header, says",
    [
        ("{", "is not JSON"),
        ("{}", "has no 'run'"),
        (json.dumps({"architecture": to_plain(LENET), "image": [8, 8], "classes": NAMES}), "not enough values"),
        (json.dumps({"architecture": {"type": "os:system"}, "image": IMAGE, "classes": NAMES}), "no room 'os'"),
        (json.dumps({"architecture": to_plain(ThreatModel(eps=0.1)), "image": IMAGE, "classes": NAMES}), "ThreatModel"),
        (json.dumps({"architecture": "lenet", "image": IMAGE, "classes": NAMES}), "a str, which is no architecture"),
    ],
)
def test_contract_a_header_that_says_nothing_is_refused(tmp_path, header, says):
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file(make().state_dict(), file, metadata={"robustscape": header})
    with pytest.raises(BadInput, match=says):
        load(file)


def test_contract_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"a run's folder, a checkpoint .* package.module:function, .* timm:NAME, or"):
        load("nothing")
    with pytest.raises(BadInput, match=r"there is no checkpoint .*weights\.pt"):
        load(tmp_path / "weights.pt")
    with pytest.raises(BadInput, match=r"no run\.json in it"):
        load(tmp_path)


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
        load(f"{package}:net", architecture=LENET)


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


def test_contract_weights_of_another_network_are_refused(package, run):
    torch.save(nn.Linear(64, 4).state_dict(), "w.pt")
    with pytest.raises(BadInput, match=r"w\.pt does not hold the weights of my_networks:net: '1\.weight' is missing"):
        load(f"{package}:net", weights="w.pt")
    with pytest.raises(BadInput, match=r"there is no checkpoint v\.pt"):
        load(f"{package}:net", weights="v.pt")
    for source in (run, run / "checkpoints" / "best.safetensors"):
        with pytest.raises(BadInput, match="has weights of its own"):
            load(source, weights="w.pt")


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
