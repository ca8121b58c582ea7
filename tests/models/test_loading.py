"""What is loaded from a run, from one of its checkpoints, or refused."""

import json

import pytest
import safetensors.torch
import torch
from torch import nn

from robustscape.attacks.threat import ThreatModel
from robustscape.config import to_plain
from robustscape.models import describe, load
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
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


def test_contract_what_has_weights_of_its_own_takes_no_others(run):
    for source in (run, run / "checkpoints" / "best.safetensors"):
        with pytest.raises(BadInput, match="has weights of its own"):
            load(source, weights="w.pt")
