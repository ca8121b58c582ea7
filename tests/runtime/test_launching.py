"""How ranks are started and how they end. This file is also what they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from robustscape.runtime import Runtime, ranks
from robustscape.runtime.launching import launch, started
from robustscape.types import BadInput

# -- what the ranks run --------------------------------------------------------------------------------


def _refuse() -> None:
    if ranks.rank() == 1:
        raise BadInput("rank 1 has its reason")
    ranks.barrier()


def _die() -> None:
    ranks.barrier()
    if ranks.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.barrier()


def _break() -> None:
    if ranks.rank() == 0:
        ranks.barrier()
    _without_a_reason({})


def _without_a_reason(empty: dict[str, int]) -> None:
    empty["nothing"] += 1


if __name__ == "__main__":
    try:
        launch({"refuse": _refuse, "die": _die, "break": _break}[sys.argv[1]], runtime=Runtime(device="cpu", devices=2))
    except (BadInput, ranks.RankLost) as error:
        sys.exit(f"{type(error).__name__}: {error}")


# -- tests ---------------------------------------------------------------------------------------------


def test_contract_devices_that_make_no_sense_are_refused(monkeypatch):
    with pytest.raises(BadInput, match="devices must be at least 1"):
        Runtime(devices=0)
    with pytest.raises(BadInput, match="'cpu:0' is one"):
        launch(print, runtime=Runtime(device="cpu:0", devices=2))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert started(1) == started(4) == 4
    with pytest.raises(BadInput, match="torchrun started 4"):
        started(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("refuse", "BadInput: rank 1 has its reason"),
        ("die", "RankLost: rank 1 of 2 was killed by SIGKILL"),
        ("break", "KeyError: 'nothing'"),
    ],
)
def test_end_to_end_one_that_fails_stops_the_others_with_its_reason(name, reason):
    command = [sys.executable, "-W", "error", __file__, name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert ended.returncode == 1 and reason in ended.stderr
    if name == "break":
        assert "on rank 1: Traceback" in ended.stderr and "_without_a_reason" in ended.stderr
    else:
        assert len(ended.stderr.strip().splitlines()) == 1
