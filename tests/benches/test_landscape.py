"""The bench of the landscape, beyond what holds for every bench."""

import sys
from dataclasses import replace

import pytest

from robustscape.benches.landscape import LandscapeBench, work_of
from robustscape.evaluation.subject import drained
from robustscape.types import BadInput


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("pyhessian", "hessian_eigenthings"):
        monkeypatch.setitem(sys.modules, name, None)


def test_end_to_end_every_part_says_what_it_found():
    result = drained(LandscapeBench().quick().running())
    assert set(result.ratios) == {"slices, naive loop", "flatness, naive loop"}
    assert set(result.missing) == {"spectrum, pyhessian", "spectrum, hessian-eigenthings"}
    moving = {f"moving weights, share of {what}" for what in ("a point of a slice", "a sample of the flatness")}
    assert set(result.costs) == moving and all(0 < cost.median < 1 for cost in result.costs.values())
    assert "2 eigenvalues" in result.settings and "2 slices of 3 points" in result.settings
    assert not any(name.startswith(("m ", "p ")) for name in result.rates)


def test_end_to_end_one_part_alone():
    result = drained(replace(LandscapeBench().quick(), parts=("flatness",)).running())
    assert set(result.rates) == {"flatness, robustscape", "flatness, naive loop"} and not result.costs


@pytest.mark.parametrize(
    "case",
    [
        "training step",
        "spectrum, robustscape",
        "slices, robustscape",
        "slices, naive loop",
        "flatness, robustscape",
        "flatness, naive loop",
    ],
)
def test_contract_each_work_whose_memory_is_measured_runs(case):
    work = work_of(LandscapeBench().quick(), case)
    assert work() is None or case != "training step"


@pytest.mark.slow
def test_end_to_end_memory_is_measured_in_fresh_processes():
    bench = LandscapeBench().quick()
    result = drained(replace(bench, parts=("memory",)).running())
    assert len(result.costs) == 3 and all(cost.median > 0 for cost in result.costs.values())
    assert result.notes["peak memory of a training step, MiB"].median >= 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"parts": ()}, "parts are spectrum, slices"),
        ({"parts": ("hessian",)}, "at least one of them"),
        ({"k": 0}, "k must be at least 1"),
        ({"tolerance": 2.0}, "tolerance must be between 0 and 1"),
        ({"positions": 4}, "positions must be odd"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"eps": 8.0}, "did you mean 8/255"),
    ],
)
def test_contract_what_cannot_be_meant_is_refused(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        LandscapeBench(**options)
