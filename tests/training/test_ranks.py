"""Training, evaluation and measurements on two ranks against one process. This file is also what the ranks run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.batches import Loader
from robustscape.data.digits import Digits
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.subject import drained, subject
from robustscape.landscape.runner import measure
from robustscape.landscape.slices import Slice
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.models.preact_resnet import PreActResNet
from robustscape.objectives.at import AT
from robustscape.objectives.natural import Natural
from robustscape.recipes.digits import digits_at_awp
from robustscape.recipes.execute import train
from robustscape.recipes.run import Run
from robustscape.runtime import TRUTH, Runtime
from robustscape.runtime.launching import launch
from robustscape.runtime.ranks import RankLost, rank, world
from robustscape.training.averaging import estimate_statistics
from robustscape.training.loop import Epoch, fit, start
from robustscape.training.method import method
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.training.step import long_step, step
from robustscape.types import BadInput, Batch, Images
from robustscape.weights.awp import AWP

ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=2)
SHAPE = (1, 8, 8)

# -- what one process and every rank runs --------------------------------------------------------------


@dataclass(frozen=True)
class Noted:
    """AWP, noting the v that it finds."""

    found: list[Any]
    warmup: float = 0.0
    decay_at: str = "w+v"
    statistics: str = "w+v"

    def __call__(self, model, loss, *, rng=None):
        v = AWP(gamma=0.1, steps=2, alternations=2)(model, loss, rng=rng)
        self.found.append(v)
        return v


def _batch(n: int, dtype: torch.dtype) -> Batch:
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    return Batch(x=x.to(dtype), y=torch.randint(0, 3, (n,), generator=generator), index=torch.arange(n))


def _steps(build: Any, dtype: torch.dtype, n: int, **changes: Any) -> dict[str, Any]:
    """Take two AWP steps on the same batch of n examples."""
    model = build.build(image=SHAPE, classes=3, seed=0).to(dtype)
    settings = Training(epochs=1, optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=0.01), **changes)
    weights = Noted([])
    how = method(model, AT(attack=ATTACK), weights, settings, TRUTH)
    optimizer = settings.optimizer.build(model)
    logs = [step(how, optimizer, _batch(n, dtype), done, 10, seed=5) for done in range(2)]
    return {
        "state": {**model.state_dict(), **dict(model.named_buffers())},
        "v": weights.found,
        "logs": [vars(log) for log in logs],
    }


def _statistics() -> torch.Tensor:
    """Return the running mean of a BatchNorm that sees the pixels themselves, after one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3)).double()
    settings = Training(epochs=1, optimizer=SGD(lr=0.1))
    how = method(model, Natural(), None, settings, TRUTH)
    step(how, settings.optimizer.build(model), _batch(7, torch.float64), 0, 10, seed=5)
    return dict(model.named_buffers())["0.running_mean"]


def _walked() -> dict[str, Any]:
    """Take two steps of Entropy-SGD, penalised and clipped."""
    model = LeNet(width=2).build(image=SHAPE, classes=3, seed=0).double()
    optimizer = EntropySGD(steps=2, gamma=0.2, noise=0.01, weight_decay=0.01)
    settings = Training(epochs=1, optimizer=optimizer, l1=1e-3, l2=1e-2, clip_gradient=0.2, clip_weights=0.3)
    how, built = method(model, AT(attack=ATTACK), None, settings, TRUTH), optimizer.build(model)
    pair = [_batch(7, torch.float64)] * 2
    logs = [long_step(how, built, pair, done, 10, seed=5) for done in (0, 2)]
    return {"state": dict(model.state_dict()), "v": [], "logs": [vars(log) for log in logs]}


def _estimated() -> torch.Tensor:
    """Return running mean and variance, estimated on three batches of different sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3)).double()
    how = method(model, Natural(), None, Training(epochs=1, statistics="clean"), TRUTH)
    some = [_batch(n, torch.float64) for n in (3, 8, 5)]
    estimate_statistics(model, how, some, seed=5, done=0, runtime=TRUTH)
    buffers = dict(model.named_buffers())
    return torch.cat([buffers["0.running_mean"], buffers["0.running_var"]])


def _images(n: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.randint(0, 100, (n, *SHAPE), generator=generator) + 120 * y[:, None, None, None]
    return Images(x=x.to(torch.uint8), y=y, index=torch.arange(n), classes=("dark", "light"), name="toy")


def _training() -> list[dict[str, Any]]:
    """Train two epochs with a last batch of one example, tracked."""
    settings = Training(epochs=2, batch_size=8, optimizer=SGD(lr=0.05), track=20, ema=0.9, track_first=4)
    objective = AT(attack=ATTACK)
    state = start(LeNet(width=2).build(image=SHAPE, classes=2, seed=0), objective, settings)
    images = _images(25)
    events = fit(
        state,
        Loader(images=images, batch_size=8, seed=1),
        objective=objective,
        weights=AWP(),
        settings=settings,
        runtime=TRUTH,
        seed=1,
        tracked={"train": images, "validation": images.take(slice(0, 10))},
    )
    logs = [event.log for event in events if isinstance(event, Epoch)]
    return [
        {
            "loss": log.loss,
            "distance": log.distance,
            "tracked": {n: {k: v for k, v in vars(t).items() if v is not None} for n, t in log.tracked.items()},
            "steps": [vars(each) for each in log.steps],
        }
        for log in logs
    ]


def _subject():
    images = _images(11)
    model = Linear().build(image=SHAPE, classes=2, seed=0)
    return subject(model, images.pixels(), images.y, runtime=TRUTH, batch=4)


def _evaluated() -> dict[str, np.ndarray]:
    settings = Evaluating(eps=0.2, steps=3, restarts=1, loss_steps=2, loss_restarts=1, n=None, batch_size=4)
    found = drained(evaluating(settings, _subject()))
    return {"fooled": found.fooled, "losses": found.losses, "clean": np.array(found.clean_loss.value)}


def _measured(partial: Path) -> np.ndarray:
    slices = Slice(attack=PGD(steps=2, result="best_loss"), directions=1, positions=5)
    return measure(slices, _subject(), partial=partial).robust_loss


PLAIN = {
    "float64": (LeNet(width=2), torch.float64, 7),
    "float32": (LeNet(width=2), torch.float32, 8),
    "one example": (LeNet(width=2), torch.float64, 1),
}
NORMALISED = (PreActResNet(width=2, mean=(0.4914,), std=(0.247,)), torch.float32, 7)
COUNTED = {"attack_mode": "train", "attack_statistics": "counted"}


def _everything(out: Path) -> None:
    found: dict[str, Any] = {name: _steps(*case) for name, case in PLAIN.items()}
    found["normalised"], found["counted"] = _steps(*NORMALISED), _steps(*NORMALISED, **COUNTED)
    found["running mean"], found["walked"], found["estimated"] = _statistics(), _walked(), _estimated()
    found["training"], found["evaluated"] = _training(), _evaluated()
    found["measured"] = _measured(out / f"partial-{world()}")
    torch.save(found, out / f"{rank()}-of-{world()}.pt")


def _run() -> Run:
    run = digits_at_awp()
    training = Training(epochs=2, batch_size=64, optimizer=SGD(lr=0.05), track=50, checkpoint_seconds=0.0)
    data = Digits(test=1500, validation=100)
    runtime = Runtime(device="cpu", devices=2)
    return replace(
        run, data=data, model=LeNet(width=2), objective=AT(attack=ATTACK), training=training, runtime=runtime
    )


def _train(out: Path, killed_at: int) -> None:
    for number, _ in enumerate(train(_run(), out, name="digits_at_awp")):
        if number == killed_at and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    if sys.argv[1] == "everything":
        launch(_everything, folder, runtime=Runtime(device="cpu", devices=2))
    else:
        try:
            launch(_train, folder, int(sys.argv[1]), runtime=_run().runtime)
        except RankLost as error:
            sys.exit(str(error))


def _started(what: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", __file__, what, str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)


# -- tests ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, Any]]:
    """What one process found, then what each of two ranks did."""
    out = tmp_path_factory.mktemp("ranks")
    _everything(out)
    ended = _started("everything", out)
    assert ended.returncode == 0, ended.stderr
    files = ("0-of-1.pt", "0-of-2.pt", "1-of-2.pt")
    parts = [torch.load(out / name, weights_only=False) for name in files]
    for part, name in zip(parts, ("partial-1", "partial-2", "partial-2"), strict=True):
        part["lines"] = len((out / name).read_text().splitlines())  # when all ranks have ended: the first writes them
    return parts


def _same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    tensors = [(a["state"], b["state"]), *zip(a["v"], b["v"], strict=True)]
    equal = all(torch.equal(x[name], y[name]) for x, y in tensors for name in x)
    return equal and a["logs"] == b["logs"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tolerance"), [("float64", 1e-12), ("float32", 1e-5), ("one example", 1e-12)])
def test_reference_awp_on_two_ranks_is_one_process_on_the_whole_batch(found, name, tolerance):
    alone, first, second = (part[name] for part in found)
    assert _same_bits(first, second)
    for mine, theirs in ((alone["state"], first["state"]), *zip(alone["v"], first["v"], strict=True)):
        for key in mine:
            assert float((mine[key] - theirs[key]).abs().max()) <= tolerance
    for mine, theirs in zip(alone["logs"], first["logs"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=tolerance)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], abs=tolerance)
    assert any(float(v.abs().max()) > 1e-3 for v in alone["v"][0].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normalised", "counted"])
def test_contract_with_batchnorm_the_ranks_equal_each_other(found, name):
    alone, first, second = (part[name] for part in found)
    assert _same_bits(first, second)
    assert torch.equal(first["state"]["normalise.mean"], alone["state"]["normalise.mean"])  # no rounding wears it
    assert first["state"]["bn.num_batches_tracked"] == alone["state"]["bn.num_batches_tracked"]


@pytest.mark.slow
def test_closed_form_running_means_are_of_the_whole_batch(found):
    expected = float(0.1 * _batch(7, torch.float64).x.mean())
    for part in found:
        assert float(part["running mean"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_reference_entropy_sgd_on_two_ranks_is_one_process_on_the_whole_batches(found):
    alone, first, second = (part["walked"] for part in found)
    assert _same_bits(first, second)
    for name, value in alone["state"].items():
        assert torch.allclose(value, first["state"][name], rtol=0, atol=1e-12), name
    for mine, theirs in zip(alone["logs"], first["logs"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-12)


@pytest.mark.slow
def test_reference_statistics_estimated_by_ranks_are_those_of_one_process(found):
    alone, first, second = (part["estimated"] for part in found)
    assert torch.equal(first, second) and torch.allclose(alone, first, rtol=0, atol=1e-12)
    means = [float(_batch(n, torch.float64).x.mean()) for n in (3, 8, 5)]
    assert float(alone[0]) == pytest.approx(sum(n * mean for n, mean in zip((3, 8, 5), means, strict=True)) / 16)


@pytest.mark.slow
def test_reference_training_with_a_ragged_last_batch_logs_the_same(found):
    alone, first, second = (part["training"] for part in found)
    assert first == second
    for mine, theirs in zip(alone, first, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-4)
        assert theirs["distance"] == pytest.approx(mine["distance"], rel=1e-4)
        for name, tracked in mine["tracked"].items():
            assert theirs["tracked"][name] == pytest.approx(tracked, rel=1e-4)
        assert theirs["steps"] == [pytest.approx(each, rel=1e-4) for each in mine["steps"]]
    assert [len(log["steps"]) for log in alone] == [4, 0]


@pytest.mark.slow
def test_contract_evaluation_and_points_are_shared_and_joined(found):
    alone, *others = found
    for other in others:
        assert other["evaluated"]["fooled"].tolist() == alone["evaluated"]["fooled"].tolist()
        for name in ("losses", "clean"):
            assert other["evaluated"][name] == pytest.approx(alone["evaluated"][name], rel=1e-6)
        assert np.array_equal(other["measured"], alone["measured"])
        assert other["lines"] == alone["lines"] == 6  # one line says what they are, five are points


@pytest.mark.slow
def test_end_to_end_a_killed_worker_stops_the_run_and_it_resumes_to_the_same_bits(tmp_path):
    assert _started("-1", tmp_path / "whole").returncode == 0
    killed = _started("5", tmp_path / "killed")
    assert killed.returncode == 1
    assert "rank 1 of 2 was killed by SIGKILL" in killed.stderr and len(killed.stderr.strip().splitlines()) == 1
    log = tmp_path / "killed" / "log.jsonl"
    assert len(log.read_text().splitlines()) == 1
    resumed = _started("-1", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert len(log.read_text().splitlines()) == 2
    weights = [(tmp_path / name / "checkpoints" / "last.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["run"]["runtime"]["devices"] == 2


def test_contract_as_many_ranks_as_devices(tmp_path):
    with pytest.raises(BadInput, match="for 2 devices, and 1 process"):
        next(train(_run(), tmp_path / "run", name="digits_at_awp"))
    assert not (tmp_path / "run").exists()
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(BadInput, match="devices is 2"):
        subject(model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]), runtime=_run().runtime)
