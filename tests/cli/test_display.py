"""The progress of trainings, on a terminal and in a pipe."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from robustscape.cli import display
from robustscape.training.log import EpochLog
from robustscape.training.loop import Epoch, Step
from robustscape.training.step import StepLog


def step(epoch, done):
    return Step(epoch=epoch, done=done, total=4, log=StepLog(lr=0.1, eps=None, loss={"total": 1.5}, gradient_norm=1.0))


def ended(epoch):
    numbers = dict.fromkeys(("gradient_norm", "weight_norm", "distance", "seconds", "tracking_seconds"), 1.0)
    log = EpochLog(
        epoch=epoch,
        step=2 * epoch,
        lr=0.1,
        eps=None,
        loss={"total": 1.5},
        tracked={},
        examples_per_second=10.0,
        selected=False,
        **numbers,
    )
    return Epoch(log=log, best_on_test=False)


ALONE = [step(1, 1), step(1, 2), ended(1), step(2, 3), step(2, 4), ended(2)]


@pytest.mark.parametrize("terminal", [False, True])
def test_contract_runs_side_by_side_have_their_own_lines_and_bars(terminal, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(display, "Console", lambda: Console(file=written, force_terminal=terminal, width=120))
    seen = []

    def events():
        bars = display.Progress.get_renderables
        monkeypatch.setattr(display.Progress, "get_renderables", lambda self: seen.append(self) or bars(self))
        for event in ALONE:
            yield 0, event
            yield 1, event
        if seen:  # nothing is running any more
            assert [(task.description, task.visible) for task in seen[-1].tasks] == [("2 runs", True)]

    display.follow_training(events(), names=["seed-0", "seed-1"], epochs=2)
    lines = [line for line in written.getvalue().splitlines() if "examples/s" in line]
    for name in ("seed-0", "seed-1"):
        found = [line[line.index(name) :] for line in lines if name in line]
        assert [line.split("  ")[:2] for line in found] == [[name, "epoch 1/2"], [name, "epoch 2/2"]]
    assert bool(seen) == terminal


def test_contract_what_guards_notice_and_why_training_stopped_are_said():
    log = replace(ended(3).log, warnings=("dead layer: all of it", "constant output: so"), stopped="no better epoch")
    assert display.said_of(log) == [
        "warning, epoch 3: dead layer: all of it",
        "warning, epoch 3: constant output: so",
        "stopped after epoch 3: no better epoch",
    ]
    assert display.said_of(ended(3).log) == []
