"""Peers where they are installed, and what is said where they are not."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.threat import ThreatModel
from robustscape.benches.peers import attackers, ensembles, evaluators, imported
from robustscape.benches.problem import TINY, attack_of


def test_contract_a_peer_that_is_missing_is_a_reason_in_one_sentence(monkeypatch):
    for name in ("torchattacks", "foolbox", "pyautoattack"):
        monkeypatch.setitem(sys.modules, name, None)  # how Python says that a module must not be found
    batch, model, attack = TINY.examples(), TINY.model(), attack_of(0.1, 2)
    sides, missing = attackers(model, batch, attack)
    assert sides == {}
    assert set(missing) == {"torchattacks", "foolbox"}
    assert all("make peers" in reason and "\n" not in reason for reason in missing.values())
    assert evaluators(model, batch.x, batch.y, attack, batch=4) == ({}, missing)
    sides, missing = ensembles(model, batch.x, batch.y, AutoAttack(), batch=4)
    assert sides == {} and "make peers" in missing["pyautoattack"]


def test_contract_a_peer_that_breaks_on_import_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "broken_peer.py").write_text("raise AttributeError('no such thing\\nsecond line')\n")
    monkeypatch.syspath_prepend(tmp_path)
    found, reason = imported("broken_peer")
    assert found is None
    assert "no such thing" in reason and "second line" not in reason


def test_contract_peers_are_asked_for_the_same_attack(monkeypatch):
    asked = []

    class Search:
        def __init__(self, *_, **settings):
            asked.append(settings)

        def __call__(self, *inputs, **_):
            return inputs[0]

        def run(self, _, x, y, *, epsilon):
            asked.append({"epsilon": epsilon})
            return x

    attacks = SimpleNamespace(LinfProjectedGradientDescentAttack=Search)
    monkeypatch.setitem(sys.modules, "torchattacks", SimpleNamespace(PGD=Search))
    fake = SimpleNamespace(PyTorchModel=lambda model, bounds: model, attacks=attacks)
    monkeypatch.setitem(sys.modules, "foolbox", fake)
    sides, missing = attackers(TINY.model(), TINY.examples(), attack_of(0.1, 3))
    assert missing == {}
    assert {name: side() for name, side in sides.items()} == {"torchattacks": TINY.batch, "foolbox": TINY.batch}
    assert {"eps": 0.1, "alpha": 0.025, "steps": 3, "random_start": True} in asked
    assert {"abs_stepsize": 0.025, "steps": 3, "random_start": True} in asked
    assert {"epsilon": 0.1} in asked


@pytest.mark.parametrize("name", ["torchattacks", "foolbox"])
def test_reference_real_peers_stay_in_the_ball(name):
    pytest.importorskip(name)
    sides, _ = attackers(TINY.model(), TINY.examples(), attack_of(0.1, 2))
    assert sides[name]() == TINY.batch


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("name", ["torchattacks", "foolbox"])
def test_reference_real_peers_evaluate_with_every_restart(name, restarts):
    pytest.importorskip(name)
    batch, attack = TINY.examples(6), replace(attack_of(0.1, 2), restarts=restarts)
    sides, _ = evaluators(TINY.model(), batch.x, batch.y, attack, batch=4)
    assert sides[name]() == 6


def test_reference_the_real_autoattack_is_made_and_leaves_the_random_state():
    pytest.importorskip("pyautoattack")
    batch, attack = TINY.examples(6), AutoAttack(threat=ThreatModel(eps=1e-3), steps=2, queries=3)
    before = torch.get_rng_state()
    sides, missing = ensembles(TINY.model(), batch.x, batch.y, attack, batch=4)
    assert missing == {} and sides["pyautoattack"]() == 6
    assert torch.equal(torch.get_rng_state(), before)
