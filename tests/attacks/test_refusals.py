"""What no attack can work on is refused in one sentence, before anything is searched: in Python and by command line."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.fab import FAB
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import DLR, CrossEntropy, Margin, TargetedDLR
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli import main
from robustscape.config import hints, members
from robustscape.evaluation.accuracy import Evaluating, evaluate
from robustscape.types import BadInput

CLASSES = 4
SHORT = {"steps": 3, "queries": 5, "samples": 2}
ROOM = sorted(members("Attack").items())
ATTACKS = [pytest.param(kind(**{k: v for k, v in SHORT.items() if k in hints(kind)}), id=name) for name, kind in ROOM]
LOOKING = [case for case, (_, kind) in zip(ATTACKS, ROOM, strict=True) if kind.__name__ != "Noise"]
"""Those that look at the model."""


def _model(outputs=CLASSES):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, outputs))


def _images(n=6):
    x = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, _model()(x).argmax(dim=1)


class _Returns(nn.Module):
    """Returns logits through a function that spoils them."""

    def __init__(self, spoil):
        super().__init__()
        self.model, self.spoil = _model(), spoil

    def forward(self, x):
        return self.spoil(self.model(x))


# -- threats and versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    ("threat", "says"),
    [
        ({"eps": -0.1}, r"eps=-0.1 is outside \[0, 1\] for linf"),
        ({"eps": 8.0}, r"did you mean 8/255\?"),
        ({"norm": "l2", "eps": -1.0}, r"eps=-1 is outside \[0, 30\] for l2"),
        ({"norm": "l3"}, "norm 'l3' is not one of linf, l2, l1"),
        ({"norm": "Linf"}, "norm 'Linf' is not one of linf"),
    ],
    ids=str,
)
def test_contract_balls_that_there_are_not_are_refused(attack, threat, says):
    with pytest.raises(BadInput, match=says) as caught:
        replace(attack, threat=ThreatModel(**threat))
    assert "\n" not in str(caught.value)
    if "norm" not in threat:
        with pytest.raises(BadInput, match=says):
            attack.at(threat["eps"])


@pytest.mark.parametrize("version", ["fast", "Standard", ""])
def test_contract_a_version_that_there_is_not_is_refused(version):
    with pytest.raises(BadInput, match=f"has the versions standard, plus and rand, not '{version}'"):
        AutoAttack(version=version)


@pytest.mark.parametrize("attack", LOOKING)
def test_contract_radii_of_examples_must_fit(attack):
    x, y = _images()
    if "eps" not in inspect.signature(attack.__call__).parameters:
        pytest.skip("it has one radius for all")
    for eps, says in (
        (torch.full((5,), 0.1), "6 examples need one radius each"),
        (torch.full((6, 1), 0.1), "6 examples need one radius each"),
        (torch.full((6,), -0.1), "at least 0"),
        (torch.full((6,), torch.nan), "at least 0 and finite"),
    ):
        with pytest.raises(BadInput, match=says):
            attack(_model(), x, y, eps=eps)
    still = attack(_model(), x, y, eps=torch.zeros(6))
    assert torch.equal(still, x)


# -- labels and outputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", LOOKING)
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda y: y + 1, r"labels lie in \[\d, 4\], but the model has 4 outputs"),
        (lambda y: y - y.max() - 1, r"labels lie in \[-\d, -1\]"),
        (lambda y: y * 100, r"labels lie in \[\d+, \d00\]"),
        (lambda y: y.float(), "float32"),
        (lambda y: y[:, None], r"\(6, 1\)"),
        (lambda y: torch.eye(5)[y], r"\(6, 5\)"),
        (lambda y: y[:-1], "6 inputs came with 5 labels"),
    ],
    ids=["too large", "negative", "far off", "floats", "a column", "soft, of five", "too few"],
)
def test_contract_labels_that_do_not_fit_are_refused(attack, wrong, says):
    x, y = _images()
    y[0] = CLASSES - 1
    with pytest.raises(BadInput, match=says) as caught:
        attack(_model(), x, wrong(y))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attack", LOOKING)
@pytest.mark.parametrize("loss", [CrossEntropy(), Margin(), DLR(), TargetedDLR()], ids=lambda loss: type(loss).__name__)
def test_contract_soft_labels_are_for_the_cross_entropy_of_pgd_and_fgsm_alone(attack, loss):
    x, y = _images()
    soft = 0.9 * torch.eye(CLASSES)[y] + 0.1 / CLASSES
    if hasattr(attack, "loss"):
        attack = replace(attack, loss=loss)
    if isinstance(attack, PGD | FGSM) and isinstance(loss, CrossEntropy):
        assert attack(_model(), x, soft).shape == x.shape
        return
    with pytest.raises(BadInput, match="label for each input"):
        attack(_model(), x, soft)


@pytest.mark.parametrize("attack", LOOKING)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda z: z[:, :1], "at least 2 outputs, not 1"),
        (lambda z: z[:, 0], r"outputs of shape \(6,\) for 6 inputs"),
        (lambda z: z[:-1], r"outputs of shape \(5, 4\) for 6 inputs"),
        (lambda z: z[..., None], r"outputs of shape \(6, 4, 1\) for 6 inputs"),
    ],
    ids=["one column", "no columns", "too few rows", "a dimension more"],
)
def test_contract_outputs_that_are_no_logits_are_refused(attack, spoil, says):
    x, y = _images()
    with pytest.raises(BadInput, match=says) as caught:
        attack(_Returns(spoil), x, torch.zeros_like(y))
    assert "\n" not in str(caught.value)


def test_contract_an_error_of_the_models_own_keeps_its_words():
    x, y = _images()
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        PGD()(_model(), x[:, :2], y)
    assert not isinstance(caught.value, BadInput)


# -- evaluations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"suite": "autoattak"}, "there is no suite 'autoattak'; there are quick, standard"),
        (
            {"suite": "wu", "norm": "l1", "eps": 1.0},
            "the suite wu is of linf and l2, which PGD knows; did you mean autoattack",
        ),
        ({"norm": "l1", "eps": 1.0}, "the suite quick is of linf and l2"),
        ({"norm": "l3"}, "norm 'l3' is not one of linf, l2, l1"),
        ({"eps": -0.1}, r"eps=-0.1 is outside \[0, 1\]"),
        ({"attacks": (AutoAttack(threat=ThreatModel(eps=0.1)),)}, "another threat model than linf, eps 0.0313"),
        ({"attacks": (FAB(targeted=True),)}, "gives it the right one; did you mean targeted=False"),
    ],
    ids=lambda case: str(case)[:30],
)
def test_contract_an_evaluation_that_cannot_be_is_refused_before_it_begins(settings, says):
    with pytest.raises(BadInput, match=says):
        Evaluating(**settings)
    x, y = _images()
    with pytest.raises(BadInput, match=says):
        evaluate(_model(), x, y, **settings)


@pytest.mark.parametrize(
    ("outputs", "change", "says"),
    [
        (1, lambda y: y * 0, "1 logit for each image"),
        (CLASSES, lambda y: y.clamp(max=0) + CLASSES, "labels go up to 4, but the model has 4 outputs"),
        (CLASSES, lambda y: y - 10, "labels go from -"),
        (CLASSES, lambda y: torch.eye(CLASSES)[y], r"did you mean y.argmax\(1\)"),
        (CLASSES, lambda y: y.float(), "integer type, not float32"),
    ],
    ids=["one output", "labels too large", "negative labels", "soft labels", "float labels"],
)
def test_contract_an_evaluation_refuses_labels_and_outputs(outputs, change, says):
    x, y = _images()
    with pytest.raises(BadInput, match=says):
        evaluate(_model(outputs), x, change(y))


# -- by command line -------------------------------------------------------------------------------------------

QUICK = ["--steps", "1", "--restarts", "1", "--loss-steps", "1", "--loss-restarts", "1", "--images", "0"]
QUICK += ["--sanity", "0", "--splits", "test", "--batch-size", "8"]
NETS = """
import torch


def _net(outputs):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, outputs))


def ten():
    return _net(10)


def seven():
    return _net(7)


def one():
    return _net(1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with networks of 10, 7 and 1 outputs and two data sets of 10 classes, the second of other pixels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    draw = np.random.default_rng(0)
    for name in ("one", "two"):
        x = draw.integers(0, 256, (40, 8, 8)).astype(np.uint8)
        y = np.arange(40) % 10
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    np.savez(tmp_path / "soft.npz", x_train=x, y_train=np.eye(10)[y], x_test=x, y_test=np.eye(10)[y])
    np.savez(tmp_path / "minus.npz", x_train=x, y_train=y - 1, x_test=x, y_test=y - 1)
    return tmp_path


def _command(net, *words, data="one"):
    return ["evaluate", f"nets:{net}", "--data", "npz", "--data.path", f"{data}.npz", *QUICK, *words]


def _refused(capsys, words):
    """Return the sentence of a command that is refused; that the networks guess is said before."""
    before = capsys.readouterr()
    assert main(words) == 2, before
    out, err = capsys.readouterr()
    *warned, sentence = err.splitlines()
    assert out == "" and sentence.startswith("robustscape: ") and all("chance" in line for line in warned)
    return sentence


@pytest.mark.parametrize(
    ("net", "words", "data", "says"),
    [
        ("one", [], "one", "shape (20, 1) for 20 images; it must be (20, 10)"),
        ("seven", [], "one", "shape (20, 7) for 20 images; it must be (20, 10)"),
        ("ten", ["--eps", "-0.1"], "one", "eps=-0.1 is outside [0, 1]"),
        ("ten", ["--eps", "8"], "one", "did you mean 8/255?"),
        ("ten", ["--norm", "l1", "--suite", "wu"], "one", "the suite wu is of linf and l2"),
        ("ten", [], "soft", "did you mean y.argmax"),
        ("ten", [], "minus", "-1"),
        ("ten", ["--transfer", "none.safetensors"], "one", "there is no file none.safetensors"),
        ("ten", ["--transfer", "one.npz"], "one", "one.npz cannot be read as a file of adversarial inputs"),
    ],
    ids=lambda case: str(case)[:30],
)
def test_contract_a_command_refuses_in_one_sentence(net, words, data, says, folder, capsys):
    assert says in _refused(capsys, _command(net, *words, data=data))
    assert not list(folder.rglob("*.json"))


@pytest.mark.parametrize("words", [["--norm", "l3"], ["--suite", "autoattack-fast"], ["--eps", "much"]])
def test_contract_a_command_that_cannot_be_parsed_names_the_choices(words, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(_command("ten", *words))
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert words[1] in err and words[0] in err and "Traceback" not in err


def test_contract_an_eps_of_zero_is_legal(folder, capsys):
    assert main(_command("ten", "--eps", "0", "--csv")) == 0
    assert "linf 0" in capsys.readouterr().out


def test_contract_a_file_of_other_images_is_refused_and_one_of_another_network_is_tried(folder, capsys):
    assert main(_command("ten", "--eps", "0.3", "--keep-adversarial", "--out", "kept")) == 0
    (kept,) = folder.rglob("*.safetensors")
    transfer = ["--eps", "0.3", "--transfer", str(kept), "--out", "again"]
    capsys.readouterr()
    assert "made of other images" in _refused(capsys, _command("ten", *transfer, data="two"))
    assert "it must be (20, 10)" in _refused(capsys, _command("seven", *transfer))
    assert main(_command("ten", *transfer, "--csv")) == 0
