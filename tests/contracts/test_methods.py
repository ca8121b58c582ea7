"""Every method of training: stopped and gone on with it has the same bits, and two ranks have the same network.

What a training takes, objectives, weight perturbations, optimisers, schedules and augmentations, is found by its file.
Started as a script this file is one of the processes that a test kills, or that share a training.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.config import members, named, presets, to_plain
from robustscape.data.augment import Augmentation, Chain, CropFlip
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.erase import Cutout
from robustscape.data.jitter import ColorJitter
from robustscape.data.memory import Memory, hold
from robustscape.data.targets import Targets
from robustscape.data.unlabelled import Unlabelled
from robustscape.evaluation.accuracy import Evaluating
from robustscape.evaluation.subject import drained
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.spectrum import Spectrum
from robustscape.models.lenet import LeNet
from robustscape.models.wide_resnet import WideResNet
from robustscape.objectives.at import AT
from robustscape.objectives.rst import RST
from robustscape.recipes.begun import fresh
from robustscape.recipes.execute import train
from robustscape.recipes.given import loaded
from robustscape.recipes.labelling import labelling
from robustscape.recipes.run import Run, Watch
from robustscape.recipes.watching import Measuring
from robustscape.results import load
from robustscape.runtime import TRUTH, Runtime
from robustscape.runtime.launching import launch
from robustscape.runtime.ranks import rank, world
from robustscape.training.averaging import normalisations
from robustscape.training.loop import Epoch, Step, fit
from robustscape.training.optimizers.adamw import AdamW
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.periodic import Periodic
from robustscape.training.schedules.rise import Rise
from robustscape.training.settings import Training
from robustscape.weights.awp import AWP
from robustscape.weights.sam import SAM

ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=2)
MEASURED = PGD(steps=1, result="best_loss")
FLATNESS = AverageFlatness(attack=MEASURED, samples=2)
NORMALISED = WideResNet(depth=10, width=1)
BASE = Run(
    data=Memory(),
    model=LeNet(width=2),
    objective=AT(attack=ATTACK),
    training=Training(
        epochs=2, batch_size=8, optimizer=SGD(lr=0.05), lr=Constant(), track=0, guard="no", checkpoint_seconds=0.0
    ),
    evaluation=Evaluating(eps=0.1),
    runtime=Runtime(device="cpu", threads=1),
    seed=3,
)
TIMES = ("seconds", "tracking_seconds", "examples_per_second")

# -- the table -----------------------------------------------------------------------------------------


def _all(protocol: str) -> dict[str, Any]:
    """Every member of a room with its defaults and in every preset, where attacks and walks are short."""
    names = [name for file, kind in members(protocol).items() for name in (file, *(f"{file}.{p}" for p in presets(kind)))]  # fmt: skip
    return {name: _short(named(protocol, name)) for name in names}


def _short(value: Any) -> Any:
    if isinstance(value, EntropySGD):
        return replace(value, steps=2 - value.dry)
    if getattr(value, "warmup", 0.0) > 1:
        return replace(value, warmup=0.5)
    attack = getattr(value, "attack", None)
    if attack is None:
        return value
    steps = {"steps": 2} if hasattr(attack, "steps") else {}
    return replace(value, attack=replace(attack, threat=replace(attack.threat, eps=0.1), **steps))


def _training(**changes: Any) -> Run:
    return replace(BASE, training=replace(BASE.training, **changes))


def _normalised(**changes: Any) -> Run:
    return replace(_training(**changes), model=NORMALISED)


def _tracked(**changes: Any) -> Run:
    return _training(track=8, track_attack=ATTACK, **changes)


def _cases() -> dict[str, Run]:
    cases = {f"objective {name}": replace(BASE, objective=value) for name, value in _all("Objective").items()}
    perturbations = _all("WeightPerturbation")
    cases |= {f"weights {name}": replace(BASE, weights=value) for name, value in perturbations.items()}
    cases |= {
        f"weights {name}, normalised": replace(BASE, weights=value, model=NORMALISED)
        for name, value in perturbations.items()
        if value.statistics != "w+v"
    }
    cases |= {f"optimizer {name}": _training(optimizer=value) for name, value in _all("Optimizer").items()}
    cases |= {f"schedule {name}": _training(lr=value, eps=value) for name, value in _all("Schedule").items()}
    cases |= {f"augment {kind.__name__}": replace(BASE, augment=_small(kind())) for kind in typing.get_args(Augmentation)}
    for smoothing, noise, mixup in ((0.3, 0, 0), (0, 0.5, 0), (0, 0, 1.4), (0.1, 0.3, 1.0)):
        targets = Targets(smoothing=smoothing, noise=noise, mixup=mixup)
        cases[f"targets {smoothing} {noise} {mixup}"] = replace(BASE, targets=targets)
    return cases | {
        "ema": _training(ema=0.9),
        "ema, estimated": _normalised(ema=0.9, statistics="clean"),
        "swa": _training(swa_start=1, swa_lr=0.01),
        "swa, normalised": _normalised(swa_start=1, swa_lr=0.01, swa_lr_from=0.1),
        "swa, adversarial": _normalised(swa_start=1, statistics="adversarial", statistics_batches=2),
        "penalties and clipping": _training(l1=1e-3, l2=1e-2, clip_gradient=0.1, clip_weights=0.2),
        "clipping of entries": _normalised(clip_gradient=0.05, clip_gradient_by="entry", clip_weights=0.2),
        "attacked in train mode": _normalised(attack_mode="train", attack_statistics="counted"),
        "schedules by the epoch": _training(eps=Rise(high=4), schedules="epoch"),
        "snapshots": _training(lr=Periodic(resets=(0.5,)), snapshots=True),
        "tracking": replace(_tracked(best_on_test=True, keep_every=1, track_first=5, track_last=2), tracking=Memory()),
        "guarded": _tracked(guard="stop", track_every=2),
        "patient": _tracked(select="robust_loss", patience=1),
        "chosen by flatness": replace(_tracked(select="nearby_loss"), flatness=FLATNESS, watch=Watch(n=8)),
        "begun with weights": replace(BASE, start="weights.pt"),
        "SAM in an average": replace(_training(ema=0.5), weights=SAM(), augment=CropFlip(pad=1)),
    }


def _small(augment: Any) -> Any:
    return replace(augment, size=3) if isinstance(augment, Cutout) else augment


CASES = _cases()
BY_RANK = {
    "objective part_at": "the last rows of each rank's share are attacked",
    "objective part_at.official": "likewise",
    "objective self_supervised.stutz": "every second image of a rank's share is rotated, and the head is normalised",
}
"""What two ranks do otherwise than one process, beside BatchNorm, which takes the statistics of a rank's share."""


def _whole() -> Run:
    """As much at once as goes together."""
    augment = Chain(
        first=CropFlip(pad=1), second=AutoAugment(), third=ColorJitter(hue=0.1), fourth=Cutout(size=2, fill=(0.5,))
    )
    training = replace(
        BASE.training,
        optimizer=AdamW(lr=0.01),
        lr=Periodic(resets=(0.5,)),
        eps=Rise(high=4),
        ema=0.9,
        statistics="adversarial",
        l1=1e-4,
        l2=1e-4,
        clip_gradient=1.0,
        clip_weights=1.5,
        attack_mode="train",
        attack_statistics="counted",
        track=8,
        track_attack=ATTACK,
        track_first=2,
        track_last=4,
        select="nearby_loss",
        guard="warn",
        keep_every=1,
        snapshots=True,
    )
    spectrum = Spectrum(attack=MEASURED, k=2, most=12, tolerance=0.5, coordinates=("raw",), random_weights=2)
    return replace(
        BASE,
        model=NORMALISED,
        objective=RST(attack=ATTACK),
        unlabelled=Unlabelled(source="pseudo.npz", hide=4),
        start="weights.pt",
        weights=AWP(steps=2, alternations=2, warmup=0.5, statistics="every"),
        augment=augment,
        targets=Targets(smoothing=0.1, noise=0.3),
        training=training,
        watch=Watch(measurements=(FLATNESS, spectrum), every=1, n=8, batch_size=8),
        tracking=Memory(),
        flatness=FLATNESS,
    )


# -- its files -----------------------------------------------------------------------------------------


def _images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of four classes, each a shade of its own."""
    y = np.arange(n) % 4
    x = np.random.default_rng(seed).integers(0, 160, (n, 3, 8, 8)) + 30 * y[:, None, None, None]
    return x.astype(np.uint8), y


def _data(images: int) -> Memory:
    return replace(hold(_images(images + 8, 0), _images(16, 1), name="shades"), validation=8)


def _write(folder: Path) -> None:
    x, y = _images(20, 2)
    np.savez(folder / "pseudo.npz", x=x, y=y)
    for model in (LeNet(width=2), NORMALISED):
        file = folder / f"{type(model).__name__}.pt"
        torch.save(model.build(image=(3, 8, 8), classes=4, seed=9).state_dict(), file)


def _on_files(run: Run, folder: Path, images: int, devices: int = 1) -> Run:
    """The run with the files of a folder, on so many training images."""
    given = run.unlabelled
    if isinstance(run.objective, RST):
        size = images - (0 if given.hide is None else int(given.hide))
        given = replace(given, source=str(folder / "pseudo.npz"), size=size)
    start = None if run.start is None else str(folder / f"{type(run.model).__name__}.pt")
    data, runtime = _data(images), replace(run.runtime, devices=devices)
    tracking = None if run.tracking is None else data
    return replace(run, data=data, unlabelled=given, start=start, tracking=tracking, runtime=runtime)


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
        "alone": bool(normalisations(state.model)),
    }


def _line(log: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(log).items() if name not in TIMES}


def _labelled(folder: Path) -> np.ndarray:
    images = _data(16).load(seed=0).train
    model = NORMALISED.build(image=(3, 8, 8), classes=4, seed=9)
    found = drained(labelling(model, images, batch_size=3, partial=folder / f"partial-{world()}"))
    return np.stack([found.y, found.confidence])


def _everything(folder: Path) -> None:
    """Train all cases, label images, and train the whole by its recipe's way on two ranks."""
    found: dict[str, Any] = {name: _trained(_on_files(run, folder, 16, world())) for name, run in CASES.items()}
    found["labels"] = _labelled(folder)
    if world() > 1:
        events = list(train(_on_files(_whole(), folder, 16, world()), folder / "run", name="whole"))
        found["epochs"] = [_line(event.log) for event in events if isinstance(event, Epoch)]
        found["files"] = [Path(event.file).name for event in events if isinstance(event, Measuring) and event.file]
    torch.save(found, folder / f"{rank()}-of-{world()}.pt")


def _killed(folder: Path, out: Path) -> None:
    """Train the whole until the middle of the second epoch, then be killed."""
    for event in train(_on_files(_whole(), folder, 26), out, name="whole"):
        if isinstance(event, Step) and event.done == 4:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    if sys.argv[1] == "ranks":
        launch(_everything, place, runtime=Runtime(device="cpu", devices=2))
    else:
        _killed(place, Path(sys.argv[3]))


def _started(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


# -- tests ---------------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:the training begins with")
QUICK = ("objective rst", "weights sam, normalised", "tracking")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that some cases read."""
    made = tmp_path_factory.mktemp("files")
    _write(made)
    return made


def _left(out: Path) -> dict[str, Any]:
    """What a run leaves that is to have the same bits: lines without times, checkpoints, the state's tensors."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in (out / "checkpoints").glob("*.safetensors")}
    state = safetensors.torch.load(found.pop("resume.safetensors"))
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    results = {path.stem: to_plain(load(path)) | {"provenance": None} for path in (out / "results").glob("*.json")}
    return found | {
        "lines": [{name: value for name, value in line.items() if name not in TIMES} for line in lines],
        "state": {name: value.numpy().tobytes() for name, value in state.items()},
        "results": results,
    }


def _stopped(events: Any, at: int) -> int:
    """Stop after the first step from batch ``at`` on, whose state was written; return how many are done."""
    done = next(event.done for event in events if isinstance(event, Step) and event.done >= at)
    events.close()
    return done


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in CASES])
def test_contract_stopped_within_an_epoch_it_ends_with_the_same_bits(name, folder, tmp_path):
    run = _on_files(CASES[name], folder, 22)
    assert len(list(train(run, tmp_path / "whole", name="case"))) >= 6
    assert _stopped(train(run, tmp_path / "stopped", name="case"), 4) in (4, 5)  # of three batches an epoch
    rest = list(train(run, tmp_path / "stopped", name="case"))
    assert isinstance(rest[0], Step) and rest[0].done in (5, 6)
    assert _left(tmp_path / "stopped") == _left(tmp_path / "whole")


@pytest.mark.slow
def test_end_to_end_closed_in_a_measurement_then_killed_as_much_as_goes_together_has_the_same_bits(folder, tmp_path):
    run = _on_files(_whole(), folder, 26)
    whole = list(train(run, tmp_path / "whole", name="whole"))
    assert sum(isinstance(event, Step) for event in whole) == 6
    events = train(run, tmp_path / "killed", name="whole")
    for event in events:
        if isinstance(event, Measuring) and event.name == "spectrum" and 0 < event.done < event.total:
            break
    events.close()
    ended = _started("killed", folder, tmp_path / "killed")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    rest = list(train(run, tmp_path / "killed", name="whole"))
    assert isinstance(rest[0], Step) and rest[0].done == 5
    left = _left(tmp_path / "killed")
    assert left == _left(tmp_path / "whole")
    assert set(left["results"]) == {f"{name}-epoch-000{epoch}" for name in ("flatness", "spectrum") for epoch in (1, 2)}


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict[str, Any]]:
    """What one process found, then what each of two ranks did."""
    _everything(folder)
    ended = _started("ranks", folder)
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"{name}.pt", weights_only=False) for name in ("0-of-1", "0-of-2", "1-of-2")]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_contract_two_ranks_have_the_same_network_and_that_of_one_process(ranks, name):
    alone, first, second = (part[name] for part in ranks)
    pairs = [(first["state"], second["state"]), *zip(first["v"], second["v"], strict=True)]
    assert all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)
    assert first["logs"] == second["logs"]
    if alone["alone"] or name in BY_RANK:
        return
    for mine, theirs in ((alone["state"], first["state"]), *zip(alone["v"], first["v"], strict=True)):
        for key, value in mine.items():
            torch.testing.assert_close(theirs[key], value, rtol=0, atol=1e-5, msg=key)
    for mine, theirs in zip(alone["logs"], first["logs"], strict=True):
        assert theirs["loss"]["total"] == pytest.approx(mine["loss"]["total"], abs=1e-5)


@pytest.mark.slow
def test_end_to_end_two_ranks_train_measure_and_label_as_one_command(ranks, folder):
    alone, first, second = ranks
    assert first["epochs"] == second["epochs"] and len(first["epochs"]) == 2
    assert first["files"] == second["files"] and len(first["files"]) == 4
    assert all((folder / "run" / "results" / file).exists() for file in first["files"])
    assert np.array_equal(first["labels"], second["labels"])
    np.testing.assert_allclose(first["labels"], alone["labels"], atol=1e-6)
