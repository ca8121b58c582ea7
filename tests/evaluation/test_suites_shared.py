"""Suites whose examples two ranks share, one of which dies, against one process. This file is also what they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustscape.cli import main
from robustscape.evaluation import accuracy
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.subject import drained, subject
from robustscape.results import load
from robustscape.runtime import TRUTH, Runtime
from robustscape.runtime.launching import launch
from robustscape.runtime.ranks import RankLost, rank, world
from robustscape.types import Subject

CLASSES, N = 5, 13
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
SUITES = [("quick", "linf"), ("quick", "l2"), ("standard", "l2"), ("wu", "linf"), ("autoattack", "linf")]
SUITES += [("autoattack", "l1"), ("autoattack-plus", "l2")]
MOST = {"steps": 4, "queries": 10, "samples": 3, "restarts": 2}

# -- what one process and every rank runs ----------------------------------------------------------------------


class Rowwise(nn.Module):
    """A linear layer that adds up each row by itself: what a rank has of a batch does not move the last bits."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) - 0.5)[:, None] * self.weight).sum(dim=2)


def _subject(n: int = N) -> Subject:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((8, 16), (CLASSES, 8))]
    model = nn.Sequential(Rowwise(weights[0]), nn.Tanh(), Rowwise(weights[1]))
    x = torch.rand(n, 1, 4, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[::6] = (y[::6] + 1) % CLASSES
    classes = [str(k) for k in range(CLASSES)]
    return subject(model, x, y, index=torch.arange(n) + 40, seed=3, runtime=TRUTH, batch=4, classes=classes)


def _settings(suite: Any, norm: Any) -> Evaluating:
    """Return a suite at a radius that about half of the examples hold out."""
    looked_at = _subject()
    x = looked_at.x.clone().requires_grad_()
    top = looked_at.model(x).topk(2, dim=1).values
    (slope,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), x)
    distance = (top[:, 0] - top[:, 1]).detach() / torch.linalg.vector_norm(slope.flatten(1), DUAL[norm], dim=1)
    eps = float(distance.median())
    return Evaluating(suite=suite, norm=norm, eps=eps, steps=4, loss_steps=2, n=None, batch_size=4, sanity=0)


def _short(whole: Any) -> Any:
    """Return ``Evaluating.entries`` with small budgets."""

    def entries(self: Evaluating) -> Any:
        return tuple(
            replace(one, parts={name: _shorter(attack) for name, attack in one.parts.items()}) for one in whole(self)
        )

    return entries


def _shorter(attack: Any) -> Any:
    return replace(
        attack, **{name: min(most, getattr(attack, name)) for name, most in MOST.items() if name in vars(attack)}
    )


def _known(found: Any) -> dict[str, Any]:
    arrays = {name: getattr(found, name) for name in ("fooled", "first", "steps", "losses", "index", "x_adv")}
    notes = [(s.name, s.tried, s.flips, s.robust_error.value, s.unconfirmed, s.again, s.note) for s in found.searches]
    return {**arrays, "notes": notes, "clean": found.clean_error.value}


def _everything(out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluating, "entries", _short(Evaluating.entries))
        found: dict[Any, Any] = {}
        for case in SUITES:
            found[case] = _known(drained(evaluating(_settings(*case), _subject(), adversarial=True)))
        found["one example"] = _known(drained(evaluating(_settings(*SUITES[4]), _subject(1), adversarial=True)))
        work = evaluating(_settings(*SUITES[4]), _subject(), partial=out / "partial", adversarial=True)
        found["began at"] = next(work).done
        found["resumed"] = _known(drained(work))
    torch.save(found, out / f"{rank()}-of-{world()}.pt")


def _dying(out: Path) -> None:
    """Evaluate until the second rank dies in its third search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluating, "entries", _short(Evaluating.entries))
        patch.setattr(accuracy, "_KEEP_EVERY", 0.0)
        work = evaluating(_settings(*SUITES[4]), _subject(), partial=out / "partial", adversarial=True)
        for progress in work:
            if rank() == 1 and progress.words.startswith("APGD-CE"):
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        launch(
            {"dying": _dying, "everything": _everything}[sys.argv[1]],
            Path(sys.argv[2]),
            runtime=Runtime(device="cpu", devices=2),
        )
    except RankLost as error:
        sys.exit(str(error))


def _started(what: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", __file__, what, str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)


# -- tests -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[Any, Any]]:
    """What one process found, then what each of two ranks did, after others of which one was killed."""
    alone, out = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("ranks")
    _everything(alone)
    ended = _started("dying", out)
    assert ended.returncode == 1 and "rank 1 of 2 was killed by SIGKILL" in ended.stderr, ended.stderr
    assert {path.name for path in out.iterdir()} == {"partial.0-of-2", "partial.1-of-2"}
    ended = _started("everything", out)
    assert ended.returncode == 0, ended.stderr
    files = (alone / "0-of-1.pt", out / "0-of-2.pt", out / "1-of-2.pt")
    return [torch.load(file, weights_only=False) for file in files]


def _assert_same(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name in ("fooled", "first", "steps", "index", "x_adv"):
        assert np.array_equal(mine[name], theirs[name]), name
    assert theirs["losses"] == pytest.approx(mine["losses"], rel=1e-12)
    assert theirs["notes"] == mine["notes"] and theirs["clean"] == mine["clean"]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*SUITES, "one example"], ids=str)
def test_contract_two_ranks_find_what_one_process_finds(found, case):
    alone, *ranks = found
    assert case == "one example" or 0 < alone[case]["fooled"].sum() < N
    for other in ranks:
        _assert_same(alone[case], other[case])


@pytest.mark.slow
def test_end_to_end_ranks_go_on_from_what_they_knew_when_one_died(found):
    alone, *ranks = found
    _assert_same(alone["resumed"], alone[SUITES[4]])
    for other in ranks:
        assert other["began at"] > alone["began at"]
        _assert_same(alone["resumed"], other["resumed"])


def test_contract_a_rank_without_examples_asks_its_attacks_about_the_models_classes(monkeypatch):
    """Some attacks refuse a model of a single class, and a rank that has seen no logits must not say that it is one."""
    monkeypatch.setattr(Evaluating, "entries", _short(Evaluating.entries))
    monkeypatch.setattr(accuracy, "share", lambda count: slice(count, count))
    found = drained(evaluating(_settings("autoattack", "linf"), _subject(2)))
    assert [search.tried for search in found.searches] == [0] * 6
    assert not any("class" in search.note or "logits" in search.note for search in found.searches)


NET = """
import torch


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
"""


@pytest.mark.slow
def test_end_to_end_a_suite_by_command_line_shared_by_processes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "someones.py").write_text(NET)
    words = ["evaluate", "someones:net", "--data", "digits", "--suite", "standard", "--n", "11", "--eps", "0.02"]
    words += ["--batch-size", "4", "--splits", "test", "--images", "0", "--sanity", "0", "--keep-adversarial"]
    for count in ("1", "2"):
        assert main([*words, "--processes", count, "--out", count]) == 0
    capfd.readouterr()
    alone, shared = (load(tmp_path / count / "results" / "evaluation-last-test.json") for count in ("1", "2"))
    assert (alone.provenance.ranks, shared.provenance.ranks) == (1, 2)
    for name in ("fooled", "first", "steps", "index"):
        assert np.array_equal(getattr(alone, name), getattr(shared, name)), name
    counted = [[(s.name, s.tried, s.flips, s.robust_error) for s in result.searches] for result in (alone, shared)]
    assert counted[0] == counted[1]
    names = [sorted(path.name for path in (tmp_path / count / "results").iterdir()) for count in ("1", "2")]
    assert names[0] == names[1] == ["adversarial-last-test.safetensors", "evaluation-last-test.json"]
