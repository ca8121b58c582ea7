"""What counts as slower, and what a result says of its machine."""

import pytest
import torch

from robustscape.benches.harness import Rounds, made
from robustscape.benches.result import Spread, machine, slower, spread
from robustscape.runtime import Runtime


def _result(ratios=None, costs=None, notes=None):
    parts = {"ratios": ratios, "costs": costs, "notes": notes}
    runtime = Runtime(device="cpu")
    return made("x", "", rounds=Rounds(), runtime=runtime, component=None, took=0.0, **parts)


def _spread(low, median, high):
    return Spread(median=median, low=low, high=high)


def test_closed_form_quartiles():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == _spread(2.0, 3.0, 4.0)
    assert spread([7.0]) == _spread(7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("new", "old", "is_slower"),
    [
        ((7.9, 8.0, 8.1), (9.9, 10.0, 10.1), True),
        ((7.9, 8.0, 9.9), (9.9, 10.0, 10.1), False),  # the ranges meet
        ((9.0, 9.1, 9.2), (9.9, 10.0, 10.1), False),  # less than 10 %
        ((11.9, 12.0, 12.1), (9.9, 10.0, 10.1), False),  # faster
    ],
)
def test_closed_form_a_ratio_is_slower_when_it_is_clearly_less(new, old, is_slower):
    found = slower(_result(ratios={"peer": _spread(*new)}), _result(ratios={"peer": _spread(*old)}))
    assert found == (("peer",) if is_slower else ())


@pytest.mark.parametrize(
    ("new", "is_slower"),
    [((11.2, 12.0, 13.0), True), ((10.0, 12.0, 13.0), False), ((10.2, 10.9, 11.0), False), ((5.0, 6.0, 7.0), False)],
)
def test_closed_form_a_cost_is_worse_when_it_is_clearly_more(new, is_slower):
    old = _result(costs={"seconds": _spread(9.9, 10.0, 10.1)})
    assert slower(_result(costs={"seconds": _spread(*new)}), old) == (("seconds",) if is_slower else ())


def test_contract_notes_and_what_only_one_result_has_are_not_compared():
    new = _result(ratios={"a": _spread(1, 1, 1)}, notes={"n": _spread(9, 9, 9)})
    old = _result(ratios={"b": _spread(9, 9, 9)}, notes={"n": _spread(1, 1, 1)})
    assert slower(new, old) == ()


def test_contract_the_machine_is_this_one():
    found = machine(Runtime(device="cpu", threads=3))
    assert found.torch == str(torch.__version__)
    assert (found.threads, found.device) == (3, found.processor)
    assert found.cores >= 1
    assert all(isinstance(flag, str) for flag in found.flags)
