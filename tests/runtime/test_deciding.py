"""Decisions: what is asked for stays, the rest is tried and remembered."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from robustscape.models.preact_resnet import PreActResNet
from robustscape.runtime import Runtime, deciding, remembering
from robustscape.runtime import threads as runtime_threads
from robustscape.runtime import trial as trials
from robustscape.runtime.deciding import Decision, decide, decision_of, side_by_side
from robustscape.runtime.remembering import key_of, processor, read
from robustscape.types import BadInput

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

    def time(trial: trials.Trial, runtime: Runtime) -> float:
        key = (runtime.precision, runtime.threads, runtime.compile)
        tried.append(key)
        trial.seconds[str(key)] = seconds.get(key, 1.0)
        return trial.seconds[str(key)]

    monkeypatch.setattr(trials.Trial, "time", time)
    monkeypatch.setattr(deciding, "has_fast_bfloat16", lambda device: True)
    monkeypatch.setattr(deciding, "has_matrix_units", lambda device: True)
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


def test_contract_the_compiler_is_not_tried_where_products_take_most_of_the_time(times, tmp_path, monkeypatch):
    times[0].update({("bfloat16", 2, "yes"): 0.1, ("float32", 2, "yes"): 0.1})
    monkeypatch.setattr(deciding, "has_matrix_units", lambda device: False)
    assert decide(CPU, _net(), X, work=1000, cache=tmp_path / "a.json").compile == "no"
    monkeypatch.setattr(deciding, "has_matrix_units", lambda device: True)
    float32 = decide(replace(CPU, precision="float32"), _net(), X, work=1000, cache=tmp_path / "b.json")
    assert float32.compile == "no" and "products" in float32.reason
    assert not [key for key in times[1] if key[2] == "yes"]
    assert decide(CPU, _net(), X, work=1000, cache=tmp_path / "c.json").compile == "yes"


@pytest.mark.parametrize(("alone", "processes"), [(1.9, 1), (1.7, 2), (0.5, 2)])
def test_contract_processes_side_by_side_where_threads_add_little(times, tmp_path, alone, processes):
    times[0][("bfloat16", 1, "no")] = alone
    assert decide(CPU, _net(), X, work=100, cache=tmp_path / "d.json").processes == processes


@pytest.mark.parametrize(
    ("threads", "slower", "tasks", "wanted"),
    [
        (2, 1.7, 2, 2),
        (2, 1.7, 3, 1),  # two rounds of 1.7 each against three
        (2, 1.4, 3, 2),
        (2, 1.7, 1, 1),
        (64, 20.0, 3, 1),
        (64, 2.0, 3, 3),
        (64, 20.0, 65, 33),  # two rounds anyway
        (64, 20.0, 1000, 63),
    ],
)
def test_closed_form_processes_are_started_where_the_tasks_end_sooner(threads, slower, tasks, wanted):
    tried = {"float32, 1 threads": 5.0 * slower, f"float32, {threads} threads": 5.0}
    decision = Decision(
        precision="float32", compile="no", threads=threads, processes=threads, milliseconds=tried, reason=""
    )
    assert side_by_side(decision, tasks) == wanted
    if wanted > 1:  # as it is written down for those that share
        assert side_by_side(replace(decision, threads=1, processes=wanted), tasks) == wanted
    assert side_by_side(replace(decision, processes=1), tasks) == 1


def test_closed_form_what_was_not_timed_is_taken_at_its_worst():
    decision = Decision(**OLD | {"threads": 4, "processes": 4})
    assert [side_by_side(decision, tasks) for tasks in (1, 3, 4, 5, 8, 11, 38)] == [1, 1, 4, 1, 4, 4, 4]


def test_contract_a_real_trial_is_what_processes_are_decided_by(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_timed", lambda run: 1.7 if torch.get_num_threads() == 1 else 1.0)
    two = Runtime(device="cpu", threads=2)
    with runtime_threads(two):
        decision = decide(replace(two, threads=0, compile="no"), _net(), X, work=100, cache=tmp_path / "d.json")
    assert decision.processes == 2 and side_by_side(decision, 2) == 2 and side_by_side(decision, 3) == 1


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
    assert [entry["shape"] for entry in read(cache).values()] == [[4, 1, 6, 6], [2, 1, 6, 6]]


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


def test_contract_a_trial_without_memory_is_not_remembered(tmp_path, monkeypatch):
    cache, asked = tmp_path / "d.json", replace(CPU, precision="float32", compile="no", threads=1)

    def no_memory(view: nn.Module, x: torch.Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(trials, "_pass", no_memory)
        assert decide(asked, _net(), X, work=10, cache=cache).milliseconds == {}
    assert not cache.exists()
    decide(asked, _net(), X, work=10, cache=cache)
    assert [0 < entry["seconds"] < 1 for entry in read(cache).values()] == [True]
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="1x36"):
        patch.setattr(trials, "_pass", lambda view, x: torch.ones(1, 36) @ torch.ones(3, 1))
        decide(asked, _net(), X[:2], work=10, cache=cache)


def test_contract_another_version_or_other_instructions_decide_anew(times, tmp_path, monkeypatch):
    before = key_of(CPU, _net(), X)
    assert key_of(CPU, _net(), X) == before
    for owner, name in ((remembering.metadata, "version"), (remembering, "processor")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_: "another")
            assert key_of(CPU, _net(), X) != before
    assert decide(CPU, _net(), X, work=10, cache=tmp_path / "d.json").processor == processor()


# -- memory --------------------------------------------------------------------------------------------

FOR_TWO = replace(CPU, memory_limit=2.5 * 3 * 36 * 4 / 2**30)  # a linear layer keeps its input and needs two more


def test_contract_memory_decides_how_many_examples_at_once_and_says_so(times, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(trials, "channels_last", lambda x: tried.append(x) or x)
    with pytest.warns(UserWarning, match="2 of 4 examples at once"):
        decision = decide(FOR_TWO, _net(), X, work=10, cache=tmp_path / "d.json")
    assert (decision.batch, decision.micro_batch, decision.checkpointing, decision.ranks) == (4, 2, False, 1)
    assert decision.reason == "too little work for a trial; by memory, 2 of 4 examples at once"
    assert decision.applied(FOR_TWO).micro_batch == 2
    assert [len(x) for x in tried] == [2]


def test_contract_memory_is_looked_at_anew(times, tmp_path, monkeypatch):
    cache, room = tmp_path / "d.json", [1e9, 1e3, 1e9]
    monkeypatch.setattr(deciding, "available", lambda runtime, sharing=1: 1e9 if sharing == 1 else room[0])
    times[0][("bfloat16", 1, "no")] = 1.5  # two processes side by side: each has what is shared
    first = decide(CPU, _net(), X, work=100, tasks=2, cache=cache)
    assert first.micro_batch == 4 and first.applied(CPU).micro_batch == 0
    room.pop(0)
    with pytest.warns(UserWarning, match="2 of 4"):
        assert decide(CPU, _net(), X, work=100, tasks=2, cache=cache).micro_batch == 2
    alone = decide(CPU, _net(), X, work=100, cache=cache)  # nothing is beside it: all memory is its own
    assert alone == decide(CPU, _net(), X, work=100, tasks=3, processes=1, cache=cache) == first
    room.pop(0)
    assert decide(CPU, _net(), X, work=100, tasks=2, cache=cache) == first


def test_contract_a_search_is_parted_without_a_word(times, tmp_path):
    decision = decide(FOR_TWO, _net(), X, work=10, training=False, cache=tmp_path / "d.json")
    assert decision.micro_batch == 2 and "by memory" in decision.reason


def test_contract_a_smaller_part_than_memory_holds_can_be_asked_for(times, tmp_path):
    asked = replace(CPU, micro_batch=3)
    decision = decide(asked, _net(), X, work=10, cache=tmp_path / "d.json")
    assert decision.micro_batch == 3 and "memory" not in decision.reason and decision.applied(asked).micro_batch == 3


def test_closed_form_ranks_share_a_batch(times, tmp_path, monkeypatch):
    monkeypatch.setattr(deciding, "world", lambda: 2)
    decision = decide(FOR_TWO, _net(), X, work=10, cache=tmp_path / "d.json")
    assert (decision.batch, decision.micro_batch, decision.ranks) == (4, 2, 2)
    assert decision.applied(FOR_TWO).micro_batch == 0


def test_closed_form_a_loss_of_two_forwards_takes_fewer_examples_at_once(times, tmp_path):
    with pytest.warns(UserWarning, match="1 of 4 examples at once"):
        asked = replace(FOR_TWO, precision="float32")
        assert decide(asked, _net(), X, work=10, times=2, cache=tmp_path / "d.json").micro_batch == 1


def test_contract_batch_normalisation_computes_again_by_memory(times, tmp_path):
    x = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    net = PreActResNet(width=4).build(image=(3, 12, 12), classes=4, seed=0)
    little = replace(CPU, memory_limit=8 * 40e3 / 2**30, precision="float32")
    with pytest.warns(UserWarning, match="activations computed again"):
        decision = decide(little, net, x, work=10, cache=tmp_path / "d.json")
    assert decision.checkpointing and decision.applied(little).checkpointing
    assert not decide(replace(CPU, precision="float32"), net, x, work=10, cache=tmp_path / "d.json").checkpointing
    with pytest.raises(BadInput, match="one example takes about"):
        decide(replace(CPU, memory_limit=1e-9), net, x, work=10, cache=tmp_path / "d.json")


class ByView(nn.Module):
    """Flattens by view, which channels-last images do not allow."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(2, 2, 3)

    def forward(self, x):
        return self.inner(x).view(len(x), -1)


def test_contract_the_format_is_what_the_model_takes(times, tmp_path):
    x = torch.rand(4, 2, 6, 6)
    formats = [decide(CPU, net, x, work=1, cache=tmp_path / "d.json").format for net in (nn.Conv2d(2, 2, 6), ByView())]
    assert formats == ["channels_last", "contiguous"]


# -- other versions ------------------------------------------------------------------------------------

OLD = {"precision": "float32", "compile": "no", "threads": 1, "processes": 1, "milliseconds": {}, "reason": "as ever"}


def test_contract_what_an_older_version_decided_is_obeyed_as_it_was():
    decision = decision_of(OLD)
    assert decision == Decision(**OLD) and decision.micro_batch == 0 and not decision.checkpointing
    assert decision.applied(CPU) == replace(CPU, precision="float32", compile="no", threads=1)
    assert decision_of(asdict(decision)) == decision


@pytest.mark.parametrize(
    "plain", [OLD | {"tiles": 3}, {"precision": "float32", "milliseconds": {}}, OLD | {"milliseconds": 3}, None, "no"]
)
def test_contract_what_another_version_kept_is_decided_anew(times, tmp_path, plain):
    cache = tmp_path / "d.json"
    first = decide(CPU, _net(), X, work=10, cache=cache)
    (key, entry), *_ = json.loads(cache.read_text()).items()
    entry["decisions"] = dict.fromkeys(entry["decisions"], plain)
    cache.write_text(json.dumps({key: entry, "other": plain, "another": {"model": "LeNet", "decisions": []}}))
    assert decision_of(plain) is None
    assert len(read(cache)) == 1
    again = decide(CPU, _net(), X, work=10, cache=cache)  # by what is known of the seconds, which is sound
    assert replace(again, milliseconds=first.milliseconds) == first
    cache.write_text(json.dumps({key: plain}))
    assert decide(CPU, _net(), X, work=10, cache=cache) == first
