"""Networks that begin with weights trained before: what is kept, what is new, what is refused."""

import pytest
import torch
from safetensors.torch import save_file

from robustscape.config import to_plain
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.models.preact_resnet import PreActResNet
from robustscape.models.pretrained import begun_with, read_pretrained
from robustscape.models.wide_resnet import WideResNet
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput

IMAGE = (1, 8, 8)
THREE, FIVE = ("a", "b", "c"), ("a", "b", "c", "d", "e")


def _saved(path, architecture, classes, image=IMAGE):
    model = architecture.build(image=image, classes=len(classes), seed=7)
    about = {"architecture": to_plain(architecture), "image": list(image), "classes": list(classes)}
    save_weights(model, path, about)
    return model.state_dict()


def _begun(path, architecture, classes, image=IMAGE):
    found = read_pretrained(str(path), architecture)
    model, said = begun_with(found, architecture, image=image, classes=classes, seed=1)
    return model.state_dict(), said


def _differing(one, other):
    return {name for name in one if one[name].shape != other[name].shape or not torch.equal(one[name], other[name])}


def test_closed_form_with_the_same_classes_all_weights_are_kept(tmp_path):
    stored = _saved(tmp_path / "a.safetensors", LeNet(width=2), THREE)
    begun, said = _begun(tmp_path / "a.safetensors", LeNet(width=2), THREE)
    assert _differing(begun, stored) == set() and said.endswith("a.safetensors, and its head")


@pytest.mark.parametrize("classes", [FIVE, ("a", "b", "z")])
def test_closed_form_with_other_classes_the_head_is_new_and_said_to_be(tmp_path, classes):
    stored = _saved(tmp_path / "a.safetensors", LeNet(width=2), THREE)
    begun, said = _begun(tmp_path / "a.safetensors", LeNet(width=2), classes)
    head = {"fc2.weight", "fc2.bias"}
    fresh = LeNet(width=2).build(image=IMAGE, classes=len(classes), seed=1).state_dict()
    assert _differing(begun, stored) == head
    assert head.isdisjoint(_differing(begun, fresh))
    assert f"a new head: its own is for 3 other classes, here are {len(classes)}" in said


def test_closed_form_anyones_checkpoint_is_recognised_and_loses_its_head(tmp_path):
    network = WideResNet(depth=10, width=1)
    stored = network.build(image=(3, 32, 32), classes=1000, seed=7).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in stored.items()}}, tmp_path / "theirs.pt")
    begun, said = _begun(tmp_path / "theirs.pt", network, FIVE, image=(3, 16, 16))
    assert _differing(begun, stored) == {"fc.weight", "fc.bias"} and "for 1000 other classes" in said
    same, said = _begun(tmp_path / "theirs.pt", network, tuple(map(str, range(1000))), image=(3, 16, 16))
    assert _differing(same, stored) == set() and said.endswith("and its head")


def test_contract_another_architecture_is_refused_with_what_to_change(tmp_path):
    _saved(tmp_path / "a.safetensors", LeNet(width=2, activation="silu"), THREE)
    for network, options in (
        (LeNet(width=3), "--model.width 2 --model.activation silu"),
        (Linear(), "--model lenet --model.width 2 --model.activation silu"),
    ):
        with pytest.raises(BadInput, match=f"fit no other network.*did you mean {options}"):
            read_pretrained(str(tmp_path / "a.safetensors"), network)
    network = LeNet(width=2, activation="silu", mean=(0.5,), std=(0.5,))
    sentence = "normalises pixels by other constants; did you mean --model.mean none --model.std none"
    with pytest.raises(BadInput, match=sentence):
        read_pretrained(str(tmp_path / "a.safetensors"), network)


def test_contract_bare_weights_of_another_network_are_refused(tmp_path):
    stored = LeNet(width=2).build(image=IMAGE, classes=3, seed=7).state_dict()
    save_file(stored, tmp_path / "bare.safetensors")
    with pytest.raises(BadInput, match=r"LeNet\(width=3\) .*'conv1.weight' has the shape"):
        _begun(tmp_path / "bare.safetensors", LeNet(width=3), THREE)
    with pytest.raises(BadInput, match="did you mean another --model"):
        _begun(tmp_path / "bare.safetensors", PreActResNet(width=2), THREE)


def test_contract_constants_that_the_network_does_not_have_are_refused(tmp_path):
    stored = LeNet(width=2).build(image=IMAGE, classes=3, seed=7).state_dict()
    torch.save({"mean": torch.tensor([0.25]), "std": torch.tensor([0.5]), **stored}, tmp_path / "with.pt")
    with pytest.raises(BadInput, match=r"by --model.mean 0.25 --model.std 0.5"):
        _begun(tmp_path / "with.pt", LeNet(width=2), THREE)
    network = LeNet(width=2, mean=(0.25,), std=(0.5,))
    assert _differing(_begun(tmp_path / "with.pt", network, THREE)[0], stored) == set()


def test_contract_a_network_that_is_all_head_begins_with_its_own_classes_alone(tmp_path):
    stored = _saved(tmp_path / "a.safetensors", Linear(), THREE)
    assert _differing(_begun(tmp_path / "a.safetensors", Linear(), THREE)[0], stored) == set()
    with pytest.raises(BadInput, match="nothing but a head"):
        _begun(tmp_path / "a.safetensors", Linear(), FIVE)


def test_contract_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"train it first .* did you mean another --from"):
        read_pretrained(str(tmp_path / "none.pt"), LeNet())
    with pytest.raises(BadInput, match="not a run of robustscape"):
        read_pretrained(str(tmp_path), LeNet())
