"""Models from elsewhere on the command line: weights that say nothing, functions with weights, models that fail."""

import json
import random
from dataclasses import replace

import pytest
import torch

from robustscape.cli import main
from robustscape.cli.sources import look, model_of, sources
from robustscape.config import to_plain
from robustscape.data.digits import Digits
from robustscape.models import load
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.models.wide_resnet import WideResNet
from robustscape.recipes.digits import digits_at
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput

QUICK = ["--data", "digits", "--eps", "0.1", "--n", "20", "--steps", "1", "--restarts", "1", "--loss-restarts", "0"]
QUICK += ["--splits", "test", "--images", "0"]
CODE = """
import torch


def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def linear():
    """Weights of a linear layer that tells digits apart: the classes' mean images."""
    images = Digits().load(seed=0).train
    x = images.pixels().flatten(1)
    means = torch.stack([x[images.y == digit].mean(0) for digit in range(10)])
    return {"weight": 10 * means, "bias": -5 * means.square().sum(1)}


@pytest.mark.filterwarnings("default")
def test_end_to_end_a_bare_wide_resnet_is_recognised_and_said_to_be_at_chance(here, capsys):
    state = WideResNet(depth=10, width=1).build(image=(1, 8, 8), classes=10, seed=0).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, "wrn.pth")
    assert main(["evaluate", "wrn.pth", *QUICK]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0].startswith("robustscape: wrn.pth: taken for a WideResNet(depth=10, width=1) with 10 classes")
    assert "is chance for 10 classes" in lines[1] and "wrn.pth" in out
    assert (here / "runs" / "wrn" / "results" / "evaluation-last-test.json").exists()


def test_contract_a_models_own_weights_name_its_results(here, capsys, linear):
    (here / "nets_of_mine.py").write_text(CODE)
    torch.save({f"1.{name}": value for name, value in linear.items()}, "mine.pt")
    assert main(["evaluate", "nets_of_mine:net", "--weights", "mine.pt", *QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    (result,) = json.loads(out)
    assert result["clean_error"]["value"] < 0.3 and "chance" not in err
    assert result["provenance"]["model"] == "nets_of_mine:net, mine.pt"
    assert (here / "runs" / "nets_of_mine-net-mine" / "results" / "evaluation-last-test.json").exists()


def test_contract_a_wrong_order_of_classes_is_said(here, capsys, linear):
    shifted = {f"linear.{name}": value.roll(1, 0) for name, value in linear.items()}
    torch.save(shifted, "off.pt")
    assert main(["evaluate", "off.pt", "--architecture", "linear", *QUICK]) == 0
    assert "classes in another order (9 0 1 2 3 4 5 6 7 8 for 0 to 9) it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["w.pt", "--weights", "w.pt"], "w.pt has weights of its own"),
        (["nowhere:net", "--weights", "w.pt"], "there is no module 'nowhere'"),
        (["strange.pt"], "strange.pt holds weights alone, which fit no network of robustscape"),
        (["three.pt"], "which tells 3 classes apart, not 10"),
        (["w.pt", "--architecture", "lenet"], "w.pt does not hold a LeNet of these settings"),
        (["w.pt", "--architecture", "linear", "--architecture.mean", "0.5", "--mean", "0.5"], "std is missing"),
    ],
)
def test_contract_what_cannot_be_meant_is_one_sentence(here, capsys, linear, words, sentence):
    torch.save({f"linear.{name}": value for name, value in linear.items()}, "w.pt")
    torch.save({"strange.weight": torch.ones(3)}, "strange.pt")
    torch.save(Linear().build(image=(1, 8, 8), classes=3, seed=0).state_dict(), "three.pt")
    assert main(["evaluate", *words, *QUICK]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("robustscape: ") and err.count("\n") == 1
    assert sentence in err
    assert not list(here.rglob("*.json"))


# -- damaged run directories -----------------------------------------------------------------------------

JUNK = (None, True, -1, 0, 10**12, 10**40, 1e300, "", "x", [], {}, [[1]], {"type": "os:system"}, {"type": 3})


def changed(plain, rng):
    """Put something else at a random place of plain data, or take something out."""
    if not isinstance(plain, dict | list) or not plain or rng.random() < 0.1:
        return rng.choice(JUNK)
    new = plain.copy()
    key = rng.choice(list(plain) if isinstance(plain, dict) else range(len(plain)))
    if rng.random() < 0.1:
        del new[key]
    else:
        new[key] = changed(plain[key], rng)
    return new


@pytest.mark.parametrize(
    "cases", [range(60), pytest.param(range(60, 300), marks=pytest.mark.slow)], ids=["quick", "all"]
)
def test_contract_damaged_run_directories_end_in_one_sentence(tmp_path, cases):
    model = LeNet(width=1)
    about = {"image": [1, 8, 8], "classes": ["a", "b", "c"]}
    document = {
        "schema": 2,
        "run": to_plain(replace(digits_at(), model=model)),
        "name": "mine",
        "provenance": {},
        **about,
    }
    weights = tmp_path / "checkpoints" / "best.safetensors"
    save_weights(model.build(image=(1, 8, 8), classes=3, seed=1), weights, {"architecture": to_plain(model), **about})
    (tmp_path / "run.json").write_text(json.dumps(document))
    assert sources([str(tmp_path)])[0].run is not None
    whole, text, refused = weights.read_bytes(), json.dumps(document).encode(), 0
    for case in cases:
        rng = random.Random(case)
        broken = rng.choice([json.dumps(changed(document, rng)).encode(), text[: rng.randrange(len(text))], bytes(9)])
        settings = rng.random() < 0.8
        (tmp_path / "run.json").write_bytes(broken if settings else text)
        weights.write_bytes(whole if settings else whole[: rng.randrange(len(whole))])
        try:
            (source,) = sources([str(tmp_path)])
            load(source.text)
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error) and 10 < len(str(error)) < 900, (case, str(error))
        assert {path.name for path in tmp_path.iterdir()} == {"run.json", "checkpoints"}, case
    assert refused > len(cases) / 3


def test_end_to_end_the_snapshots_of_a_run_are_one_network(here, capsys):
    """The mean of their probabilities; one that is not there yet is missed in a sentence."""
    words = "--training.epochs 2 --training.batch-size 300 --training.track 20 --model.width 2"
    words += " --objective.attack.steps 1 --training.lr periodic --training.lr.resets 0.5 --training.snapshots"
    assert main(["train", "digits_at", *words.split(), "--out", "tiny"]) == 0
    (source,), images = sources(["tiny"]), Digits().load(seed=0).test.take(slice(0, 30))
    both = [load("tiny", checkpoint=f"snapshot-{number}")(images.pixels()).softmax(dim=1) for number in (1, 2)]
    capsys.readouterr()
    ensemble = model_of(source, look(source), "ensemble", images)
    torch.testing.assert_close(ensemble(images.pixels()), ((both[0] + both[1]) / 2).log(), rtol=0, atol=1e-5)
    assert capsys.readouterr().err == "" and not torch.allclose(*both, atol=1e-3)
    few = "--n 40 --steps 2 --restarts 1 --loss-steps 2 --loss-restarts 1 --images 0 --sanity 0 --splits test --json"
    assert main(["evaluate", "tiny", *few.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(path.stem for path in (here / "tiny" / "results").glob("evaluation-*")) == [
        f"evaluation-{checkpoint}-test" for checkpoint in ("best", "ensemble", "last")
    ]
    test = Digits().load(seed=0).test.take(slice(0, 40))
    members = [load("tiny", checkpoint=f"snapshot-{number}")(test.pixels()).softmax(dim=1) for number in (1, 2)]
    wrong = sum(members).argmax(dim=1) != test.y
    assert found[2]["clean_error"]["value"] == pytest.approx(float(wrong.double().mean()))
    (here / "tiny" / "checkpoints" / "snapshot-2.safetensors").unlink()
    first = model_of(source, look(source), "ensemble", images)
    torch.testing.assert_close(first(images.pixels()), both[0].log(), rtol=0, atol=1e-5)
    assert "tiny has 1 of its 2 snapshots; the ensemble is of these" in capsys.readouterr().err
