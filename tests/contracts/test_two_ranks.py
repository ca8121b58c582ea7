"""Every method of training and every measurement on two ranks: what one process has, on the whole batch.

Started as a script this file is the ranks, started once for all of them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustscape.evaluation.subject import drained
from robustscape.landscape.runner import measure
from robustscape.recipes.begun import fresh
from robustscape.recipes.execute import train
from robustscape.recipes.given import loaded
from robustscape.recipes.labelling import labelling
from robustscape.recipes.run import Run
from robustscape.recipes.watching import Measuring
from robustscape.runtime import TRUTH, Runtime
from robustscape.runtime.launching import launch
from robustscape.runtime.ranks import rank, world
from robustscape.training.averaging import normalisations
from robustscape.training.loop import Epoch, fit

spec = importlib.util.spec_from_file_location("methods", Path(__file__).with_name("methods.py"))
methods = importlib.util.module_from_spec(spec)
spec.loader.exec_module(methods)

BY_RANK = {
    "objective part_at": "the last rows of each rank's share are attacked",
    "objective part_at.official": "likewise",
    "objective self_supervised.stutz": "every second image of a rank's share is rotated, and the head is normalised",
}
"""What two ranks do otherwise than one process, beside BatchNorm, which takes the statistics of a rank's share."""


# -- what a started process does -----------------------------------------------------------------------


@dataclass(frozen=True)
class Noted:
    """A weight perturbation, noting what it finds."""

    of: Any
    found: list[Any]
    warmup: float
    decay_at: str
    statistics: str

    def __call__(self, model, loss, *, rng=None):
        self.found.append(self.of(model, loss, rng=rng))
        return self.found[-1]


@dataclass(frozen=True)
class Doubled:
    """Batches in float64, where one process and two agree to more than a sign's worth of rounding."""

    of: Any

    def __len__(self) -> int:
        return len(self.of)

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        for batch in self.of.epoch(number, start):
            soft = {name: getattr(batch, name) for name in ("target", "mixed")}
            yield replace(batch, x=batch.x.double(), **{n: v if v is None else v.double() for n, v in soft.items()})


def _trained(run: Run) -> dict[str, Any]:
    """Train a case in float64, two batches an epoch, on as many ranks as there are."""
    state, batches, _ = fresh(run, loaded(run))
    state.model.double()
    if state.average is not None:
        state.average.double()
    state.initial.update({name: value.double() for name, value in state.initial.items()})
    given = run.weights
    noted = given and Noted(given, [], given.warmup, given.decay_at, given.statistics)
    how = {"objective": run.objective, "weights": noted, "settings": run.training, "runtime": TRUTH, "seed": run.seed}
    events = list(fit(state, Doubled(batches), tracked={}, score=lambda _: 0.0, **how))
    return {
        "state": {**state.model.state_dict(), **{f"kept {n}": v for n, v in state.kept.state_dict().items()}},
        "v": noted.found if noted else [],
        "logs": [_line(event.log) for event in events if isinstance(event, Epoch)],
        "normalised": bool(normalisations(state.model)),
    }


def _line(log: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(log).items() if name not in methods.TIMES}


def _labelled(folder: Path) -> np.ndarray:
    images = methods.data_of(16).load(seed=0).train
    model = methods.NORMALISED.build(image=(3, 8, 8), classes=4, seed=9)
    found = drained(labelling(model, images, batch_size=3, partial=folder / f"partial-{world()}"))
    return np.stack([found.y, found.confidence])


def _everything(folder: Path) -> None:
    """Train all cases, label images, measure, and train the whole by its recipe's way on two ranks."""
    found: dict[str, Any] = {
        name: _trained(methods.on_files(run, folder, 16, world())) for name, run in methods.CASES.items()
    }
    found["labels"] = _labelled(folder)
    looked_at, small = methods.looked_at(), methods.MEASUREMENTS
    found["measured"] = {name: methods.numbers(measure(value, looked_at)) for name, value in small.items()}
    if world() > 1:
        events = list(train(methods.on_files(methods.whole(), folder, 16, world()), folder / "run", name="whole"))
        found["epochs"] = [_line(event.log) for event in events if isinstance(event, Epoch)]
        found["files"] = [Path(event.file).name for event in events if isinstance(event, Measuring) and event.file]
    torch.save(found, folder / f"{rank()}-of-{world()}.pt")


if __name__ == "__main__":
    launch(_everything, Path(sys.argv[1]), runtime=Runtime(device="cpu", devices=2))


# -- tests ---------------------------------------------------------------------------------------------


def _differences(name: str, alone: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """What is not as it should be in the networks, perturbations and lines of one case."""
    for mine, theirs in ((first["state"], second["state"]), *zip(first["v"], second["v"], strict=True)):
        yield from (f"{name}: the ranks' {key}" for key in mine if not torch.equal(mine[key], theirs[key]))
    if first["logs"] != second["logs"]:
        yield f"{name}: the ranks' lines"
    if alone["normalised"] or name in BY_RANK:
        return
    for mine, theirs in ((alone["state"], first["state"]), *zip(alone["v"], first["v"], strict=True)):
        wrong = [key for key in mine if not torch.allclose(mine[key], theirs[key], rtol=0, atol=1e-9)]
        yield from (f"{name}: {key} of one process" for key in wrong)
    for mine, theirs in zip(alone["logs"], first["logs"], strict=True):
        if theirs["loss"]["total"] != pytest.approx(mine["loss"]["total"], abs=1e-9):
            yield f"{name}: the loss of one process"


@pytest.mark.slow
def test_contract_two_ranks_have_one_network_of_every_method_and_measure_and_label_as_one(tmp_path):
    """One test: starting the ranks is what costs."""
    methods.write(tmp_path)
    _everything(tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert ended.returncode == 0, ended.stderr
    files = ("0-of-1", "0-of-2", "1-of-2")
    alone, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=False) for name in files)
    assert [line for name in methods.CASES for line in _differences(name, alone[name], first[name], second[name])] == []
    compared = [name for name in methods.CASES if not alone[name]["normalised"] and name not in BY_RANK]
    assert len(compared) > len(methods.CASES) / 2
    assert first["epochs"] == second["epochs"] and len(first["epochs"]) == 2
    assert first["files"] == second["files"] and len(first["files"]) == 4
    assert all((tmp_path / "run" / "results" / file).exists() for file in first["files"])
    assert np.array_equal(first["labels"], second["labels"])
    np.testing.assert_allclose(first["labels"], alone["labels"], atol=1e-6)
    for name, values in alone["measured"].items():
        assert values and first["measured"][name] == pytest.approx(values, rel=1e-5, abs=1e-9, nan_ok=True), name
        assert second["measured"][name] == pytest.approx(first["measured"][name], rel=0, abs=0, nan_ok=True), name
