"""Waiting for what a command shows."""

import os
import sys

import pytest

from robustscape.benches.harness import Rounds
from robustscape.benches.start import StartBench, imports, seconds_until
from robustscape.evaluation.subject import drained

_LASTING = (
    "import sys, time; print('epoch ' if sys.stdout.isatty() else 'no terminal', end='1/', flush=True); time.sleep(99)"
)


def test_contract_a_command_is_ended_when_it_shows_what_is_waited_for():
    assert 0 < seconds_until(b"epoch 1/", [sys.executable, "-c", _LASTING], os.environ) < 99


def test_contract_a_command_that_ends_early_is_an_error_with_its_last_words():
    with pytest.raises(RuntimeError, match="ended before its first step: it broke"):
        seconds_until(b"epoch 1/", [sys.executable, "-c", "print('it broke')"], os.environ)


@pytest.mark.slow
def test_end_to_end_the_demo_starts():
    result = drained(StartBench(rounds=Rounds(pairs=1, warmup=0)).running())
    assert all(value.median > 0 for value in (*result.costs.values(), *result.notes.values()))
    assert set(result.notes) == {"seconds of import torch"}
    assert min(imports()) > 0
