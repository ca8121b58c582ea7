"""The tables of all methods of training and of all measurements, which tests stop and share among ranks.

What a training takes, objectives, weight perturbations, optimisers, schedules and augmentations, is found by its file;
so is a measurement.
"""

from __future__ import annotations

import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.config import hints, members, named, presets, protocol_of
from robustscape.data.augment import Augmentation, Chain, CropFlip
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.erase import Cutout
from robustscape.data.jitter import ColorJitter
from robustscape.data.memory import Memory, hold
from robustscape.data.targets import Targets
from robustscape.data.unlabelled import Unlabelled
from robustscape.evaluation.accuracy import Evaluating
from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.spectrum import Spectrum
from robustscape.models.lenet import LeNet
from robustscape.models.wide_resnet import WideResNet
from robustscape.objectives.at import AT
from robustscape.objectives.rst import RST
from robustscape.recipes.run import Run, Watch
from robustscape.runtime import TRUTH, Runtime
from robustscape.training.optimizers.adamw import AdamW
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.linear import Linear
from robustscape.training.schedules.periodic import Periodic
from robustscape.training.schedules.rise import Rise
from robustscape.training.settings import Training
from robustscape.types import Measurement, Subject
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
    runtime=Runtime(device="cpu", precision="float32", compile="no", threads=1),
    seed=3,
)
TIMES = ("seconds", "tracking_seconds", "examples_per_second")

# -- the table -----------------------------------------------------------------------------------------


def _all(protocol: str) -> dict[str, Any]:
    """Every member of a room with its defaults and in every preset, where attacks and walks are short."""
    found = members(protocol).items()
    names = [name for file, kind in found for name in (file, *(f"{file}.{preset}" for preset in presets(kind)))]
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
    cases |= {f"weights {name}": replace(BASE, weights=value) for name, value in _all("WeightPerturbation").items()}
    for statistics in ("w", "w+v", "every", "eval"):
        weights = AWP(steps=2, statistics=statistics)
        cases[f"statistics {statistics}"] = replace(BASE, weights=weights, model=NORMALISED)
    cases |= {f"optimizer {name}": _training(optimizer=value) for name, value in _all("Optimizer").items()}
    for name, value in _all("Schedule").items():
        attacks_on = value(100, 100) > 0.011 * max(value(done, 100) for done in range(101))  # else it is refused of eps
        cases[f"schedule {name}"] = _training(lr=value, **({"eps": value} if attacks_on else {}))
    kinds = typing.get_args(Augmentation)
    cases |= {f"augment {kind.__name__}": replace(BASE, augment=_small(kind())) for kind in kinds}
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
        "clipping of entries": _normalised(
            clip_gradient=0.05, clip_gradient_by="entry", clip_weights=0.2, clip_weights_of="weights"
        ),
        "attacked in train mode": _normalised(attack_mode="train", attack_statistics="counted", clean_pass=True),
        "schedules by the epoch": _training(eps=Rise(high=4), schedules="epoch"),
        "snapshots": _training(lr=Periodic(resets=(0.5,)), snapshots=True),
        "tracking": replace(_tracked(best_on_test=True, keep_every=1, track_first=5, track_last=2), tracking=Memory()),
        "guarded": _tracked(guard="stop", track_every=2),
        "patient": _tracked(epochs=4, lr=Linear(until=0.25), select="robust_loss", patience=1),
        "chosen by flatness": replace(_tracked(select="nearby_loss"), flatness=FLATNESS, watch=Watch(n=8)),
        "begun with weights": replace(BASE, start="weights.pt"),
        "SAM in an average": replace(_training(ema=0.5), weights=SAM(), augment=CropFlip(pad=1)),
    }


def _small(augment: Any) -> Any:
    return replace(augment, size=3) if isinstance(augment, Cutout) else augment


CASES = _cases()


def whole() -> Run:
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


# -- measurements --------------------------------------------------------------------------------------

_COUNTS = {
    "directions": 2, "positions": 3, "samples": 2, "starts": 2, "restarts": 2, "replicates": 2, "random_weights": 2,
    "curves": 1, "k": 2, "most": 8, "products": 3, "steps": 3, "settle": 2, "solves": 4, "minibatch": 3,
}  # fmt: skip
"""The most of each that a small measurement has."""


def _small_measurement(name: str) -> Measurement:
    """A measurement of few points, its attacks of one step; of each list of settings the first two."""
    value: Any = named("Measurement", name)
    kinds, changes = hints(type(value)), {}
    for field, now in vars(value).items():
        if protocol_of(kinds[field]) == "Attack" and now is not None:
            changes[field] = FGSM(threat=ThreatModel(eps=0.1))
        elif isinstance(now, tuple):
            changes[field] = now[:2]
        elif isinstance(now, int) and field in _COUNTS:
            changes[field] = min(now, _COUNTS[field])
    if hasattr(value, "training"):
        changes["training"] = replace(value.training, epochs=1)
    return replace(value, **changes)


MEASUREMENTS = {name: _small_measurement(name) for name in members("Measurement")}


def looked_at(dtype: torch.dtype = torch.float64, batch: int = 5) -> Subject:
    """A narrow network of matrices, several points of which fit into one pass, and eight images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 4)).to(dtype).eval()
    x, y = (torch.from_numpy(part) for part in _images(8, 3))
    x, runtime = x.to(dtype) / 255, replace(TRUTH, threads=1)
    return subject(model, x, y, seed=2, runtime=runtime, split="test", batch=batch)


def numbers(value: Any) -> list[float]:
    """The numbers of a Result or of plain data, in its order, without those of where it came from."""
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value) if field.name != "provenance"]
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


# -- a training's files -----------------------------------------------------------------------------------------


def _images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of four classes, each a shade of its own."""
    y = np.arange(n) % 4
    x = np.random.default_rng(seed).integers(0, 160, (n, 3, 8, 8)) + 30 * y[:, None, None, None]
    return x.astype(np.uint8), y


def data_of(images: int) -> Memory:
    return replace(hold(_images(images + 8, 0), _images(16, 1), name="shades"), validation=8)


def write(folder: Path) -> None:
    x, y = _images(20, 2)
    np.savez(folder / "pseudo.npz", x=x, y=y)
    for model in (LeNet(width=2), NORMALISED):
        file = folder / f"{type(model).__name__}.pt"
        torch.save(model.build(image=(3, 8, 8), classes=4, seed=9).state_dict(), file)


def on_files(run: Run, folder: Path, images: int, devices: int = 1) -> Run:
    """The run with the files of a folder, on so many training images."""
    given = run.unlabelled
    if isinstance(run.objective, RST):
        size = images - (0 if given.hide is None else int(given.hide))
        given = replace(given, source=str(folder / "pseudo.npz"), size=size)
    start = None if run.start is None else str(folder / f"{type(run.model).__name__}.pt")
    data, runtime = data_of(images), replace(run.runtime, devices=devices)
    tracking = None if run.tracking is None else data
    return replace(run, data=data, unlabelled=given, start=start, tracking=tracking, runtime=runtime)
