"""Weights of other people's files: found wherever they are kept, and nothing in a file is executed."""

import argparse
import io
import pathlib
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from robustscape.models import load
from robustscape.models.lenet import LeNet
from robustscape.models.preact_resnet import PreActResNet
from robustscape.types import BadInput

NETWORK = {"architecture": LeNet(width=1), "image": (1, 8, 8), "classes": 3}


def make(seed=1, architecture=NETWORK["architecture"]) -> nn.Module:
    return architecture.build(image=(1, 8, 8), classes=3, seed=seed)


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("nest", [None, "state_dict", "net", "ema", "state_dict_ema", "averaged", "model.ema"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "ema_model.module.", "1."]
)
def test_contract_a_state_dict_may_be_wrapped(tmp_path, nest, prefix):
    state = {prefix + name: value for name, value in make().state_dict().items()}
    for key in reversed(nest.split(".") if nest else []):
        state = {key: state, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(state, tmp_path / "weights.pth")
    assert equal(load(tmp_path / "weights.pth", **NETWORK), make())


def test_contract_an_average_counts_its_models(tmp_path):
    average = torch.optim.swa_utils.AveragedModel(make())
    torch.save(average.state_dict(), tmp_path / "weights.pt")
    assert equal(load(tmp_path / "weights.pt", **NETWORK), make())


def test_contract_of_several_state_dicts_one_may_be_named(tmp_path):
    state = {"last": make(seed=1).state_dict(), "best": make(seed=2).state_dict(), "epoch": 3}
    torch.save(state, tmp_path / "weights.pt")
    for name, seed in (("last", 1), ("best", 2)):
        with pytest.warns(UserWarning, match=f"of its state dicts '{name}' is taken, not '(last|best)'"):
            found = load(tmp_path / "weights.pt", checkpoint=name, **NETWORK)
        assert equal(found, make(seed=seed))
    torch.save({"state_dict": state["last"], "ema_state_dict": state["best"]}, tmp_path / "weights.pt")
    with pytest.warns(UserWarning, match="'state_dict' is taken, not 'ema_state_dict'"):
        found = load(tmp_path / "weights.pt", **NETWORK)
    assert equal(found, make(seed=1))


def test_contract_anyones_safetensors_file_is_read(tmp_path):
    safetensors.torch.save_file(make().state_dict(), tmp_path / "weights.safetensors")
    assert equal(load(tmp_path / "weights.safetensors", **NETWORK), make())


def test_contract_half_precision_weights_become_float32(tmp_path):
    torch.save(make().half().state_dict(), tmp_path / "weights.pt")
    model = load(tmp_path / "weights.pt", **NETWORK)
    assert equal(model, make().half().float())


def test_contract_weights_from_before_batches_were_counted_fit(tmp_path):
    network = PreActResNet(width=1)
    whole = make(architecture=network)
    state = {name: value for name, value in whole.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "weights.pt")
    assert equal(load(tmp_path / "weights.pt", **NETWORK | {"architecture": network}), whole)


def test_contract_a_name_too_many_is_refused(tmp_path):
    torch.save(make().state_dict() | {"extra": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="'extra' is unexpected"):
        load(tmp_path / "weights.pt", **NETWORK)


def test_contract_weights_alone_need_the_shape_of_an_image(tmp_path):
    torch.save(make().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="weights alone: give the image's shape and the classes with the architecture"):
        load(tmp_path / "weights.pt", architecture=LeNet(width=1))


class Opened:
    """Writes a file when it is unpickled by something that executes what it reads."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


BESIDE = {
    "acc": np.float64(0.93),
    "epoch": np.int64(3),
    "history": [np.ones(3), np.zeros((2, 2), dtype=np.uint8)],
    "args": argparse.Namespace(lr=0.1, seeds=(1, 2)),
    "options": types.SimpleNamespace(place=pathlib.Path("runs")),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_contract_numbers_and_options_beside_the_weights_are_passed_over(tmp_path, zipped):
    torch.save({"net": make().state_dict(), **BESIDE}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert equal(load(tmp_path / "w.pt", **NETWORK), make())


def test_contract_names_of_numpy_1_are_passed_over_too(tmp_path):
    content = io.BytesIO()
    torch.save({"net": make().state_dict(), **BESIDE}, content, _use_new_zipfile_serialization=False)
    (tmp_path / "w.pt").write_bytes(content.getvalue().replace(b"numpy._core.", b"numpy.core."))
    assert equal(load(tmp_path / "w.pt", **NETWORK), make())


@pytest.mark.parametrize("key", ["args", "net"])
def test_contract_what_would_run_beside_them_is_refused(tmp_path, key):
    options = argparse.Namespace(x=Opened(tmp_path / "executed"))
    torch.save({"state_dict": make().state_dict(), "acc": np.float64(1)} | {key: options}, tmp_path / "w.pt")
    with pytest.raises(BadInput, match="nothing in a checkpoint is executed"):
        load(tmp_path / "w.pt", **NETWORK)
    assert not (tmp_path / "executed").exists()


def test_contract_weights_of_numpy_are_no_state_dict(tmp_path):
    torch.save({name: value.numpy() for name, value in make().state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(BadInput, match="holds no state dict"):
        load(tmp_path / "w.pt", **NETWORK)


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
        load(file, **NETWORK)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, [1, 2]])
def test_contract_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="holds no state dict"):
        load(tmp_path / "weights.pt", **NETWORK)
