"""Timing with a clock that the sides themselves move on."""

from types import SimpleNamespace

import pytest
import torch

from robustscape.benches import harness
from robustscape.benches.harness import OURS, Contest, Rounds, compete, competing, made, timed
from robustscape.results import load, save
from robustscape.runtime import Runtime
from robustscape.types import BadInput

CPU = Runtime(device="cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until ``clock.now`` is moved."""
    made_up = SimpleNamespace(now=0.0)
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: made_up.now))

    def stopwatch():
        start = made_up.now
        return lambda: made_up.now - start

    monkeypatch.setattr(harness, "stopwatch", stopwatch)
    return made_up


def _side(clock, seconds, amount=1.0, turns=None, name=""):
    remaining = list(seconds)

    def side():
        if turns is not None:
            turns.append(name)
        clock.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return amount

    return side


def test_closed_form_ratios_are_taken_round_by_round(clock):
    ours, theirs = _side(clock, [1.0, 2.0, 4.0], amount=8), _side(clock, [6.0, 8.0, 32.0], amount=16)
    contest = Contest(name="x", settings="y", unit="examples", ours=ours, peers={"peer": theirs}, missing={"z": "gone"})
    result = compete(contest, rounds=Rounds(pairs=3, warmup=0), runtime=CPU)
    ratio, rate = result.ratios["peer"], result.rates[OURS]
    assert (ratio.low, ratio.median, ratio.high) == (2.5, 3.0, 3.5)  # of 3, 2 and 4
    assert (rate.low, rate.median, rate.high) == (3.0, 4.0, 6.0)  # of 8, 4 and 2 examples a second
    assert result.seconds == {OURS: (0.125, 0.25, 0.5), "peer": (0.375, 0.5, 2.0)}
    assert (result.pairs, result.warmup, result.missing) == (3, 0, {"z": "gone"})


def test_contract_sides_take_turns_in_alternating_order_after_the_warm_up(clock):
    turns = []
    sides = {name: _side(clock, [1.0], turns=turns, name=name) for name in "abc"}
    events = timed(sides, Rounds(pairs=3, warmup=4.0), CPU)
    seen = []
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(next(events))
    assert "".join(turns) == "abcabc" + "abc" + "cba" + "abc"  # 4 seconds lie within the second turn of the warm-up
    assert end.value.value == {name: (1.0, 1.0, 1.0) for name in "abc"}
    assert seen == [(0, 9)] * 7 + [(done, 9) for done in range(1, 10)]


def test_contract_sides_run_under_the_runtimes_threads():
    before, seen = torch.get_num_threads(), []

    def side():
        seen.append(torch.get_num_threads())
        return 1.0

    contest = Contest(name="x", settings="", unit="turns", ours=side, peers={})
    result = compete(contest, rounds=Rounds(pairs=1, warmup=0), runtime=Runtime(device="cpu", threads=before + 1))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    assert result.machine.threads == before + 1


def test_contract_a_result_comes_back_from_its_file(tmp_path, clock):
    contest = Contest(
        name="x", settings="", unit="u", ours=_side(clock, [1.0]), peers={"p": _side(clock, [2.0])}, missing={"q": "r"}
    )
    work = competing(contest, rounds=Rounds(pairs=2, warmup=0), runtime=CPU, component=Rounds())
    with pytest.raises(StopIteration) as end:
        while True:
            next(work)
    result = end.value.value
    assert load(save(result, tmp_path / "bench-x.json")) == result
    assert result.provenance.settings["type"] == "benches.harness:Rounds"


def test_contract_without_a_unit_there_are_no_rates():
    result = made("x", "", rounds=Rounds(), runtime=CPU, component=None, took=0.0, seconds={"a": (1.0, 2.0)})
    assert result.rates == {}
    assert result.seconds == {"a": (1.0, 2.0)}


@pytest.mark.parametrize("wrong", [{"pairs": 0}, {"warmup": -1.0}, {"warmup": float("nan")}])
def test_contract_rounds_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} must be at least"):
        Rounds(**wrong)
