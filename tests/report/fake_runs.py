"""Makes run directories like those of a real training, without any training."""

import json
from pathlib import Path

import numpy as np

from robustscape.display import Line, Panel
from robustscape.evaluation.result import AdversarialImages, Evaluation, Number
from robustscape.landscape.directions.family import Facts
from robustscape.landscape.flatness import Estimate, FlatnessResult
from robustscape.landscape.histograms import WeightResult
from robustscape.landscape.slices import SliceResult
from robustscape.landscape.surface import SurfaceResult
from robustscape.report.quantities import Quantity
from robustscape.report.study import Shown, StudyResult
from robustscape.report.tables import Column, Table
from robustscape.results import save, write_json
from robustscape.training.log import EpochLog, Tracked, TrainingLog, write_log
from robustscape.types import Provenance

CLASSES = tuple(str(digit) for digit in range(10))
ATTACK = "PGD, 100 steps of 0.01, 5 restarts"
PROVENANCE = Provenance(
    created="2026-01-02T03:04:05+00:00",
    seconds=12.5,
    versions={"robustscape": "0.1.0", "torch": "2.13.0"},
    commit="0" * 40,
    device="a processor",
    precision="bfloat16 search, float32 confirmation",
    threads=2,
    seed=0,
    model="runs/at, last",
    data="MNIST, test, first 1000",
    settings={"type": "attacks.pgd:PGD", "steps": 100, "threat": {"norm": "linf", "eps": 0.3}},
)


def wilson(hits, n):
    p, z = hits / n, 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Number(value=p, low=min(p, max(0.0, centre - half)), high=max(p, min(1.0, centre + half)), n=n)


def evaluation(clean, robust, *, split="test", n=1000, seed=0, eps=0.3, norm="linf"):
    rng = np.random.default_rng([seed, round(1e4 * robust)])
    fooled = np.arange(n) < round(robust * n)
    spread = np.clip(robust + rng.normal(0, 0.05, 10), 0, 1)
    losses = rng.exponential(0.05 + 3 * robust, n)
    loss = Number(value=losses.mean(), low=losses.mean() * 0.93, high=losses.mean() * 1.07, n=n)
    return Evaluation(
        clean_error=wilson(round(clean * n), n),
        robust_error=wilson(round(robust * n), n),
        clean_loss=Number(value=clean * 3, low=clean * 2.8, high=clean * 3.2, n=n),
        robust_loss=loss,
        robust_loss_correct=loss,
        robust_loss_incorrect=None,
        classes=CLASSES,
        class_clean_error=np.full(10, clean),
        class_robust_error=spread,
        class_n=np.full(10, n // 10),
        norm=norm,
        eps=eps,
        attack=ATTACK,
        split=split,
        fooled=fooled,
        index=np.arange(n),
        losses=losses,
        provenance=PROVENANCE,
    )


def digits(count):
    """Strokes on black, (count, 1, 28, 28)."""
    y, x = np.mgrid[:28, :28]
    return np.stack(
        [np.exp(-(((x - 14 - 5 * np.sin(y / (3 + k))) / 2) ** 2)) * ((y > 4) & (y < 24)) for k in range(count)]
    )[:, None]


def images(*, count=10, channels=1, eps=0.3):
    rng = np.random.default_rng(0)
    x = np.repeat(digits(count), channels, axis=1)
    x_adv = np.clip(x + eps * rng.choice([-1.0, 0.0, 1.0], size=x.shape, p=[0.2, 0.6, 0.2]), 0, 1)
    labels = np.arange(count) % 10
    return AdversarialImages(
        x=x,
        x_adv=x_adv,
        y=labels,
        clean_prediction=labels,
        adversarial_prediction=np.where(labels % 3 == 0, (labels + 5) % 10, labels),
        classes=CLASSES,
        norm="linf",
        eps=eps,
        attack=ATTACK,
        provenance=PROVENANCE,
    )


def slices(robust, sharpness, *, directions=5, seed=0):
    rng = np.random.default_rng([seed, 1])
    alpha = np.linspace(-1, 1, 21)
    steep = sharpness * (1 + 0.25 * rng.random((directions, 1)))
    return SliceResult(
        alpha=alpha,
        clean_loss=0.05 + 0.5 * steep * alpha**2,
        clean_error=np.clip(0.01 + 0.3 * steep * alpha**2, 0, 0.9),
        robust_loss=3 * robust + steep * alpha**2,
        robust_error=np.clip(robust + 0.4 * steep * alpha**2, 0, 0.95),
        scheme="filter",
        direction_norm=np.full(directions, 12.0),
        attack="PGD, 20 steps of 0.02",
        n=500,
        split="test",
        provenance=PROVENANCE,
    )


def surface(*, top=3.0, facts=None):
    alpha = np.linspace(-1, 1, 5)
    loss = alpha[:, None] ** 2 + top * alpha**2
    loss[0, 0] = np.inf
    return SurfaceResult(
        alpha=alpha,
        beta=alpha,
        **dict.fromkeys(("clean_loss", "clean_error", "robust_loss", "robust_error"), loss),
        **dict.fromkeys(("full_robust_loss", "full_robust_error"), np.zeros(0)),
        overflowed=np.isinf(loss),
        scheme="filter",
        direction_norm=np.ones(2),
        cosine=0.0,
        attack="PGD",
        examples="retaken",
        bias=None,
        error_bias=None,
        facts=facts or Facts(),
        n=8,
        split="test",
        provenance=PROVENANCE,
    )


def flatness(rise, robust):
    draws = rise + np.linspace(-0.1, 0.1, 10) * rise
    value = Estimate(value=rise, low=0.93 * rise, high=1.07 * rise, n=10)
    clean = Estimate(value=rise / 3, low=rise / 4, high=rise / 2, n=10)
    return FlatnessResult(
        robust=value,
        clean=clean,
        reference_robust_loss=3 * robust,
        reference_clean_loss=0.05,
        robust_losses=3 * robust + draws,
        clean_losses=0.05 + draws / 3,
        xi=0.5,
        mode="sound",
        attack="PGD, 20 steps of 0.02",
        n=500,
        split="test",
        provenance=PROVENANCE,
    )


def histograms(scale):
    layers = ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight")
    edges = np.stack([np.linspace(-1, 1, 41) * scale * (1 + k) for k in range(4)])
    centre = (edges[:, 1:] + edges[:, :-1]) / 2
    counts = np.rint(2000 * np.exp(-np.abs(centre) / (0.2 * scale))).astype(int)
    return WeightResult(layers=layers, edges=edges, counts=counts, norm=np.ones(4), provenance=PROVENANCE)


def log(robust, gap, *, epochs=20, seed=0):
    rng = np.random.default_rng([seed, 2])
    entries = []
    for epoch in range(1, epochs + 1):
        done = 1 - np.exp(-epoch / 4)
        noise = 0.01 * rng.normal(size=2)
        train = (1 - robust + gap) * done + noise[0]
        test = (1 - robust) * done + noise[1] - (0.3 * gap * max(0, epoch - 12) / 8)
        tracked = {
            name: Tracked(n=n, clean_accuracy=min(1, 0.3 + 0.69 * done), robust_accuracy=float(np.clip(accuracy, 0, 1)),
                          clean_loss=0.1, robust_loss=0.5)
            for name, n, accuracy in (("train", 1000, train), ("validation", 1200, test))
        }  # fmt: skip
        entries.append(
            EpochLog(
                epoch=epoch,
                step=100 * epoch,
                lr=0.1 if epoch <= 12 else 0.01,
                eps=0.3,
                loss={"total": 1.0},
                tracked=tracked,
                gradient_norm=1.0,
                weight_norm=10.0,
                distance=3.0,
                seconds=12.0 + seed,
                tracking_seconds=1.0,
                examples_per_second=5000.0,
                selected=epoch == 12,
            )
        )
    return TrainingLog(epochs=tuple(entries))


def run(folder: Path, *, name, seed=0, clean=0.02, robust=0.1, gap=0.05, rise=0.2, weights=None, whole=True) -> Path:
    """Write one run directory; ``whole=False`` leaves everything but run.json and the last evaluation out."""
    settings = {
        "type": "recipes.run:Run",
        "data": {"type": "data.mnist:MNIST", "classes": None},
        "objective": {"type": f"objectives.{'natural:Natural' if name == 'natural' else 'at:AT'}", "eps": 0.3},
        "weights": weights,
        "training": {"type": "training.settings:Training", "epochs": 20},
        "seed": seed,
    }
    write_json(
        folder / "run.json",
        {"schema": 1, "run": settings, "name": name, "image": [1, 28, 28], "classes": list(CLASSES),
         "provenance": json.loads(json.dumps(vars(PROVENANCE)))},
    )  # fmt: skip
    results = folder / "results"
    save(evaluation(clean, robust, seed=seed), results / "evaluation-last-test.json")
    if not whole:
        return folder
    write_log(folder / "log.jsonl", log(robust, gap, seed=seed))
    save(evaluation(clean, max(0, robust - gap), split="train", seed=seed), results / "evaluation-last-train.json")
    save(evaluation(clean, robust - 0.01, seed=seed), results / "evaluation-best-test.json")
    save(images(), results / "images-last.json")
    save(slices(robust, 4 * rise, seed=seed), results / "slices-last.json")
    save(flatness(rise, robust), results / "flatness-last.json")
    save(flatness(0.8 * rise, robust), results / "flatness-best.json")
    save(histograms(0.1 + rise), results / "histograms-last.json")
    return folder


AWP = {"type": "weights.awp:AWP", "gamma": 0.01}


def tree(folder: Path) -> list[Path]:
    """Write natural (one seed), AT (three seeds) and AT-AWP (three seeds); return the run directories."""
    return [
        run(folder / "natural", name="natural", clean=0.008, robust=0.998, gap=0.001, rise=1.4),
        *(run(folder / f"at-{s}", name="at", seed=s, robust=0.112 + 0.004 * s, gap=0.071 + 0.003 * s,
              rise=0.42 + 0.02 * s) for s in range(3)),
        *(run(folder / f"awp-{s}", name="at_awp", seed=s, clean=0.018, robust=0.081 + 0.003 * s, gap=0.024,
              rise=0.19 + 0.01 * s, weights=AWP) for s in range(3)),
    ]  # fmt: skip


def panels() -> tuple[Panel, ...]:
    """Two panels: nine names, one more than the palette has colours, the first of them solid and dashed."""
    x = tuple(np.linspace(-1, 1, 21).tolist())
    lines = tuple(
        Line(name=f"ε = {k / 10:g}", x=x, y=tuple((k + 1) * at**2 for at in x), group=k, dashed=dashed)
        for k in range(9)
        for dashed in ((False, True) if k == 0 else (False,))
    )
    hole = Line(name="exact", x=(0.0, 0.5, 1.0), y=(1.0, float("nan"), 3.0), dashed=True, group=1)
    few = Panel(title="L2 <b>", x="ε <b>", y="eigenvalue", lines=(hole,))
    return (Panel(title="PGD", x="position", y="loss, nats", lines=lines), few)


def part(name: str, place: int, *, title: str | None = None, drawn: bool = False, words: int = 1) -> StudyResult:
    """Make one part of a study: a table of numbers and of words, perhaps with panels."""
    columns = (Column(name="Claim"), Column(name="Ours", unit="%"), Column(name="Worst"), Column(name="Tested on"))
    rows = (
        ("0.1 " + "as printed " * words, Quantity(value=99.5), "1.2e-05", "random problems " * words),
        ("0.2", None, "-3", "trained weights"),
    )
    table = Table(columns=columns, rows=rows)
    shown = Shown(
        title=title or f"Somebody 2021, {name}",
        table=table,
        notes=(f"A note on {name}.",),
        panels=panels() if drawn else (),
    )
    return StudyResult(study="made_up", part=name, scale="small", shown=shown, provenance=PROVENANCE, place=place)


def study(folder: Path) -> Path:
    """Write a study's folder of three parts, in another order than that of their names, with a finished cell."""
    save(part("table", 0), folder / "table.json")
    save(part("figure", 1, drawn=True), folder / "figure.json")
    save(part("checks", 2, words=8), folder / "checks.json")
    write_json(folder / "cells" / "one-0123.json", {"schema": 2, "value": {"found": 1}})
    return folder
