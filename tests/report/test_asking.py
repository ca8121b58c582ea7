import shlex
from dataclasses import replace

import pytest

from robustscape.attacks.losses import Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli.measure import _options
from robustscape.config import from_plain, members, to_plain
from robustscape.landscape.connectivity import Connectivity
from robustscape.landscape.curvature import Curvature
from robustscape.landscape.slices import Slice
from robustscape.landscape.spectrum import Spectrum
from robustscape.landscape.views import Views
from robustscape.report.asking import command
from robustscape.runs import read_runs

THREAT = ThreatModel(norm="linf", eps=0.3)
SETTINGS = [
    Slice(along="other", other="runs/elsewhere", attack=PGD(threat=THREAT, steps=3, loss=Margin())),
    Slice(along="path", other="runs/elsewhere", positions=5),
    Curvature(multiples=(0.0, 1.0), radii=(0.01,), leave_out=0.05),
    Views(views=("shift",), shift=1),
    Connectivity(other="runs/elsewhere"),
    Spectrum(attack=None, k=3, coordinates=("raw",)),
]


@pytest.fixture
def run(fake, tmp_path):
    return read_runs([fake.run(tmp_path / "at", name="at", whole=False)])[0]


def result(fake, settings, *, data="MNIST, train, first 500", split="train"):
    of = replace(fake.PROVENANCE, settings=to_plain(settings), data=data)
    return replace(fake.slices(0.1, 1.0), provenance=of, split=split)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: type(one).__name__)
def test_contract_the_command_asks_for_the_settings_of_what_is_shown(fake, run, settings):
    name = type(settings).__module__.rpartition(".")[2]
    words = shlex.split(command(name, result(fake, settings), "best", [run]))
    assert words[:4] == ["robustscape", "measure", str(run.path), name]
    asked = _options(None, [name], words[4:])
    assert (asked.n, asked.split, asked.checkpoint) == (500, "train", ("best",))
    shown, made = (to_plain(of) for of in (settings, asked.measurements[name]))
    threats = [of["attack"].pop("threat") for of in (shown, made) if of.get("attack")]
    assert all(threat["norm"] == "linf" for threat in threats)  # of each run its own
    if "elsewhere" in str(shown):
        assert made["other"] == "OTHER"
    assert made == {**shown, **({"other": made["other"]} if "other" in made else {})}


def test_contract_defaults_are_not_printed(fake, run):
    usual = result(fake, Views(), data="MNIST, test, first 1000", split="test")
    assert command("views", replace(usual, n=1000), "last", [run]) == f"robustscape measure {run.path} views"
    whole = result(fake, Views(), data="MNIST, test", split="test")
    assert command("views", whole, "last", [run]).endswith("views --n none")
    every = replace(run, settings={"evaluation": {"n": None}})
    assert command("views", whole, "last", [every]).endswith(" views")
    assert command("views", usual, "last", [every]).endswith(" views --n 500")


def test_contract_settings_of_another_version_ask_for_nothing(fake, run):
    unknown = replace(fake.PROVENANCE, settings={"type": "landscape.views:Views", "gone": 1})
    text = command("views", replace(result(fake, Views()), provenance=unknown), "last", [run])
    assert text.endswith("views --split train --n 500")


@pytest.mark.parametrize("name", sorted(members("Measurement")))
def test_contract_every_measurement_is_asked_for_with_its_defaults(fake, run, name):
    default = members("Measurement")[name]()
    assert from_plain(to_plain(default)) == default
    text = command(name, result(fake, default, data="d, test, first 1000", split="test"), "last", [run])
    assert text.endswith(f"{name} --n 500")
