"""Every attack of AutoAttack beside pyautoattack's, shortened, on a linear network and two that were trained.

The full lengths, and a further network, are those of benchmarks/parity.py, which this runs a part of.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustscape.attacks.square import Square

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "parity.py"
NETWORK = "digits, LeNet(8), AT"
NETWORKS = ["digits, linear", NETWORK, "digits, LeNet(8), natural"]
NAMES = ["APGD-CE", "APGD-DLR", "FAB", "Square", "APGD-T", "FAB-T"]


@pytest.fixture(scope="module")
def parity():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("parity", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "parity", module)  # its dataclass looks for its module
        spec.loader.exec_module(module)
        yield module


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_reference_every_attack_on_trained_networks(parity, network, name, norm):
    model, x, y = (given[:32] if isinstance(given, torch.Tensor) else given for given in parity.problem(network))
    attack = parity.jobs(network)[f"{name}, {norm}"]
    # A larger radius, for so few images and steps to be fooled in part.
    short = {"queries": 150} if isinstance(attack, Square) else {"steps": 8, "restarts": min(attack.restarts, 2)}
    attack = replace(attack, **short).at(1.6 * attack.threat.eps)
    line = parity.compared(attack, model, x, y) | {"name": f"{name}, {norm}"}
    assert parity.agrees(line), line
    assert 0 < line["robust, ours"] < line["right"] <= len(x)
    assert line["iterates of pyautoattack"] > 100


def test_contract_a_difference_is_seen(parity):
    model, x, y = parity.problem(NETWORK)
    x, y = x[:16], y[:16]
    attack = replace(parity.jobs(NETWORK)["APGD-CE, linf"], steps=12, restarts=1)
    line = parity.compared(attack, model, x, y) | {"name": "APGD-CE, linf"}
    assert parity.agrees(line)
    for name, value in (
        ("flags differing", 1),
        ("largest difference of the inputs returned", 2e-6),
        ("of them, not the same bits as any of ours", 1),
    ):
        assert not parity.agrees(line | {name: value})


def test_contract_the_network_keeps_what_it_was_shown(parity):
    seen = parity.Seen(torch.nn.Flatten())
    x = torch.rand(4, 1, 2, 2)
    seen(x)
    seen(x[:2])
    assert len(seen.inputs) == 4
    seen(torch.nextafter(x[:1], torch.ones(())))
    assert len(seen.inputs) == 5
