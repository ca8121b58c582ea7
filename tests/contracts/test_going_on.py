"""Every method of training, stopped and gone on with, has the bits of an uninterrupted one.

Started as a script this file is the process that a test kills.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from robustscape.config import to_plain
from robustscape.recipes.execute import train
from robustscape.recipes.watching import Measuring
from robustscape.results import load
from robustscape.training.loop import Step

spec = importlib.util.spec_from_file_location("methods", Path(__file__).with_name("methods.py"))
methods = importlib.util.module_from_spec(spec)
spec.loader.exec_module(methods)


def _killed(folder: Path, out: Path) -> None:
    """Train the whole until the middle of the second epoch, then be killed."""
    for event in train(methods.on_files(methods.whole(), folder, 26), out, name="whole"):
        if isinstance(event, Step) and event.done == 4:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _killed(Path(sys.argv[1]), Path(sys.argv[2]))


def _started(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


# -- tests ---------------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:the training begins with")
QUICK = ("objective rst", "statistics w", "tracking")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that some cases read."""
    made = tmp_path_factory.mktemp("files")
    methods.write(made)
    return made


def _left(out: Path) -> dict[str, Any]:
    """What a run leaves that is to have the same bits: lines without times, checkpoints, the state's tensors."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in (out / "checkpoints").glob("*.safetensors")}
    state = safetensors.torch.load(found.pop("resume.safetensors"))
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    results = {path.stem: to_plain(load(path)) | {"provenance": None} for path in (out / "results").glob("*.json")}
    return found | {
        "lines": [{name: value for name, value in line.items() if name not in methods.TIMES} for line in lines],
        "state": {name: value.numpy().tobytes() for name, value in state.items()},
        "results": results,
    }


def _stopped(events: Any, at: int) -> int:
    """Stop after the first step from batch ``at`` on, whose state was written; return how many are done."""
    done = next(event.done for event in events if isinstance(event, Step) and event.done >= at)
    events.close()
    return done


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in methods.CASES]
)
def test_contract_stopped_within_an_epoch_it_ends_with_the_same_bits(name, folder, tmp_path):
    run = methods.on_files(methods.CASES[name], folder, 22)
    assert len(list(train(run, tmp_path / "whole", name="case"))) >= 6
    assert _stopped(train(run, tmp_path / "stopped", name="case"), 4) in (4, 5)  # of three batches an epoch
    rest = list(train(run, tmp_path / "stopped", name="case"))
    assert isinstance(rest[0], Step) and rest[0].done in (5, 6)
    assert _left(tmp_path / "stopped") == _left(tmp_path / "whole")


@pytest.mark.slow
def test_end_to_end_closed_in_a_measurement_then_killed_as_much_as_goes_together_has_the_same_bits(folder, tmp_path):
    run = methods.on_files(methods.whole(), folder, 26)
    whole = list(train(run, tmp_path / "whole", name="whole"))
    assert sum(isinstance(event, Step) for event in whole) == 6
    events = train(run, tmp_path / "killed", name="whole")
    for event in events:
        if isinstance(event, Measuring) and event.name == "spectrum" and 0 < event.done < event.total:
            break
    events.close()
    ended = _started(folder, tmp_path / "killed")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    rest = list(train(run, tmp_path / "killed", name="whole"))
    assert isinstance(rest[0], Step) and rest[0].done == 5
    left = _left(tmp_path / "killed")
    assert left == _left(tmp_path / "whole")
    assert set(left["results"]) == {f"{name}-epoch-000{epoch}" for name in ("flatness", "spectrum") for epoch in (1, 2)}
