"""Decisions: what is asked for stays, the rest is tried and remembered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.runtime import Runtime, deciding
from robustscape.runtime.deciding import decide, passes, remembered

CPU = Runtime(device="cpu")
X = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


@pytest.fixture
def times(monkeypatch):
    """Seconds that a pass takes, by precision, threads and compilation; what is tried is noted."""
    seconds, tried = {}, []

    def time(trial: deciding._Trial, runtime: Runtime) -> float:
        key = (runtime.precision, runtime.threads, runtime.compile)
        tried.append(key)
        trial.seconds[str(key)] = seconds.get(key, 1.0)
        return trial.seconds[str(key)]

    monkeypatch.setattr(deciding._Trial, "time", time)
    monkeypatch.setattr(deciding, "has_fast_bfloat16", lambda device: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return seconds, tried


def test_contract_little_work_is_worth_no_trial(times, tmp_path):
    decision = decide(CPU, _net(), X, work=10, cache=tmp_path / "d.json")
    assert (decision.precision, decision.threads, decision.compile) == ("bfloat16", 2, "no")
    assert set(times[1]) == {("bfloat16", 2, "no")}


@pytest.mark.parametrize(
    ("seconds", "work", "wanted"),
    [
        ({}, 1000, ("bfloat16", 2, "no")),
        ({("float32", 2, "no"): 0.8}, 100, ("float32", 2, "no")),
        ({("float32", 2, "no"): 0.95}, 100, ("bfloat16", 2, "no")),
        ({("bfloat16", 1, "no"): 0.5}, 100, ("bfloat16", 1, "no")),
        ({("bfloat16", 2, "yes"): 0.5}, 100, ("bfloat16", 2, "no")),
        ({("bfloat16", 2, "yes"): 0.5}, 1000, ("bfloat16", 2, "yes")),
    ],
)
def test_contract_only_what_is_clearly_faster_is_taken(times, tmp_path, seconds, work, wanted):
    times[0].update(seconds)
    decision = decide(CPU, _net(), X, work=work, cache=tmp_path / "d.json")
    assert (decision.precision, decision.threads, decision.compile) == wanted
    applied = decision.applied(CPU)
    assert (applied.precision, applied.threads, applied.compile, applied.device) == (*wanted, "cpu")


@pytest.mark.parametrize(("alone", "processes"), [(1.9, 1), (1.7, 2), (0.5, 2)])
def test_contract_processes_side_by_side_where_threads_add_little(times, tmp_path, alone, processes):
    times[0][("bfloat16", 1, "no")] = alone
    assert decide(CPU, _net(), X, work=100, cache=tmp_path / "d.json").processes == processes


def test_contract_what_is_asked_for_is_not_tried(times, tmp_path):
    asked = replace(CPU, precision="float32", threads=2, compile="no")
    assert decide(asked, _net(), X, work=10**6, cache=tmp_path / "d.json").applied(asked) == asked
    assert set(times[1]) == {("float32", 2, "no")}


def test_contract_a_decision_is_remembered_by_model_shape_and_class_of_work(times, tmp_path):
    cache = tmp_path / "d.json"
    first = decide(CPU, _net(), X, work=1000, cache=cache)
    times[0][("float32", 2, "no")] = 0.1
    times[1].clear()
    assert decide(CPU, _net(), X, work=2000, cache=cache) == first and not times[1]
    assert decide(CPU, _net(), X[:2], work=1000, cache=cache).precision == "float32"
    assert decide(CPU, _net(), X, work=100, cache=cache).precision == "float32"
    assert decide(CPU, _net(), X, work=1000, cache=cache) == first
    assert [entry["shape"] for entry in remembered(cache)] == [[4, 1, 6, 6], [2, 1, 6, 6]]


def test_contract_a_broken_cache_is_made_anew(times, tmp_path):
    cache = tmp_path / "d.json"
    cache.write_text('{"cut')
    decide(CPU, _net(), X, work=1, cache=cache)
    assert len(json.loads(cache.read_text())) == 1
    (tmp_path / "file").write_text("")
    assert decide(CPU, _net(), X, work=1, cache=tmp_path / "file" / "d.json").precision == "bfloat16"


def test_closed_form_a_real_trial_times_passes_and_leaves_no_trace(tmp_path):
    net = _net().train()
    decision = decide(replace(CPU, compile="no"), net, X, work=10**9, cache=tmp_path / "d.json")
    assert all(0 < ms < 1e3 for ms in decision.milliseconds.values()) and len(decision.milliseconds) >= 1
    assert net.training and all(p.grad is None for p in net.parameters())


def test_closed_form_passes_of_an_attack():
    y = torch.tensor([0, 1, 2, 0])
    assert passes(PGD(steps=7), _net(), X, y) == 7
    assert passes(PGD(steps=7, restarts=3, result="best_loss"), _net(), X, y) == 24
