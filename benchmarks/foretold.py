"""What foretells the robust generalisation gap from training images alone? On the committed networks.

    python benchmarks/foretold.py

Of every network in benchmarks/checkpoints that was evaluated on both splits, last and best checkpoints, the first 250
training images are looked at: their robust loss, average-case flatness there (xi 0.5, 6 draws), and the rise of the
robust loss on other views of them, mirrored and shifted by up to 2 pixels (digits: shifted alone, of 8x8 pixels by
one); as a control the last is measured on the first 250 test images too. By PGD-10 in float32. Beside them stands the
gap, robust loss and robust error on test minus train, from the runs' own evaluations. Writes
benchmarks/results/foretold.json after every network and goes on where it stands. Correlates over the networks on
CIFAR-10 (JPEG) that were not trained on these views, over their last checkpoints (best ones are of the same runs), over
all on CIFAR-10 (JPEG), and over all; with the difference of two coefficients, by a paired bootstrap over the networks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustscape.attacks.pgd import PGD
from robustscape.config import from_plain, to_plain
from robustscape.evaluation.correlation import correlation
from robustscape.evaluation.gap import gap
from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.runner import measure, under
from robustscape.landscape.views import Views
from robustscape.models.loading import load
from robustscape.recipes.run import Run
from robustscape.results import commit, processor, read_json, read_run, versions, write_json
from robustscape.results import load as load_result
from robustscape.runtime import Runtime
from robustscape.types import Images, Subject

HERE = Path(__file__).parent
OUT = HERE / "results" / "foretold.json"
N = 250
ATTACK = PGD(steps=10, result="best_loss")
FLATNESS = AverageFlatness(attack=ATTACK, samples=6)
VIEWS = {
    "cifar10": Views(attack=ATTACK),
    "mnist": Views(attack=ATTACK, views=("shift",)),
    "digits": Views(attack=ATTACK, views=("shift",), shift=1),
}
RUNTIME = Runtime(precision="float32", compile="no", threads=1)
TOLD = ("robust loss", "flatness", "views")
GAPS = ("gap of the robust loss", "gap of the robust error")
DRAWS = 4000


def networks() -> list[tuple[Path, str]]:
    """Return the runs with evaluations of both splits, and which checkpoint."""
    found = []
    for run in sorted((HERE / "checkpoints").glob("*/*/run.json")):
        for checkpoint in ("last", "best"):
            results = [run.parent / "results" / f"evaluation-{checkpoint}-{split}.json" for split in ("test", "train")]
            weights = run.parent / "checkpoints" / f"{checkpoint}.safetensors"
            if weights.exists() and all(path.exists() for path in results):
                found.append((run.parent, checkpoint))
    return found


def views_of(folder: Path) -> Views:
    """Return what changes no label in the data set of a run."""
    return next(how for of, how in VIEWS.items() if folder.parent.name.startswith(of))


def looked_at(folder: Path, checkpoint: str) -> dict[str, Any]:
    """Return the line of one network."""
    run: Run = from_plain(read_run(folder)["run"])
    model, threat = load(folder, checkpoint=checkpoint).eval(), run.evaluation.threat()
    images = run.data.load(seed=run.seed)
    made, unseen = (_subject(model, getattr(images, split), split) for split in ("train", "test"))
    views, control = (measure(under(threat, views_of(folder)), some) for some in (made, unseen))
    flat = measure(under(threat, FLATNESS), made)
    train, test = (load_result(folder / "results" / f"evaluation-{checkpoint}-{of}.json") for of in ("train", "test"))
    apart = gap(train, test)
    return {
        "network": f"{folder.parent.name}/{folder.name}",
        "checkpoint": checkpoint,
        "attack": views.attack,
        "n": views.n,
        GAPS[0]: to_plain(apart.robust_loss),
        GAPS[1]: to_plain(apart.robust_error),
        "robust loss": views.reference_robust_loss,
        "flatness": to_plain(flat.robust),
        "views": to_plain(views.robust),
        "each view": {on.view: to_plain(on.robust) for on in views.views},
        "views on test": to_plain(control.robust),
        "seconds": {"flatness": flat.provenance.seconds, "views": views.provenance.seconds},
        "settings": settings(folder),
        "versions": versions(),
        "device": processor(),
        "commit": commit(),
    }


def settings(folder: Path) -> dict[str, Any]:
    """Return how a network of a folder is measured."""
    return {"flatness": to_plain(FLATNESS), "views": to_plain(views_of(folder))}


def _subject(model: torch.nn.Module, images: Images, split: str) -> Subject:
    some = images.take(slice(0, N))
    return subject(model, some.pixels(), some.y, index=some.index, runtime=RUNTIME, batch=125, split=split)


def number(line: dict[str, Any], name: str) -> float:
    """Return a number of a line."""
    value = line[name]
    return value["value"] if isinstance(value, dict) else value


def correlated(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the coefficients over some networks, of each gap with each number that foretells it."""
    found: dict[str, Any] = {"networks": len(lines)}
    for what in GAPS:
        y = [number(line, what) for line in lines]
        columns = {name: [number(line, name) for line in lines] for name in TOLD}
        for name, x in columns.items():
            both = correlation(x, y)
            found[f"{what}, {name}"] = {of: to_plain(getattr(both, of)) for of in ("pearson", "spearman")}
        found[f"{what}, Pearson's of views minus that of flatness"] = difference(
            columns["views"], columns["flatness"], y
        )
    return found


def difference(one: Sequence[float], other: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Return the difference of two Pearson coefficients with y and its 95 % interval, by resampling networks."""
    values, rng = np.array([one, other, y]), np.random.default_rng(0)

    def of(columns: np.ndarray) -> float:
        table = np.corrcoef(columns)
        return float(table[0, 2] - table[1, 2])

    drawn = [of(values[:, rng.integers(0, len(y), len(y))]) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"value": of(values), "low": float(low), "high": float(high)}


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the coefficients by which networks they are over."""
    cifar = [line for line in lines if line["network"].startswith("cifar10")]
    plain = [line for line in cifar if "crop-flip" not in line["network"]]
    last = [line for line in plain if line["checkpoint"] == "last"]
    chosen = {
        "not trained on these views": plain,
        "their last checkpoints": last,
        "CIFAR-10 (JPEG)": cifar,
        "all": lines,
    }
    return {name: correlated(some) for name, some in chosen.items()}


def main() -> int:
    """Return the exit code."""
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = read_json(OUT)["networks"] if OUT.exists() else []
    wanted = networks()
    how = {(f"{folder.parent.name}/{folder.name}", checkpoint): settings(folder) for folder, checkpoint in wanted}
    known = {
        place: line for line in lines if how.get(place := (line["network"], line["checkpoint"])) == line["settings"]
    }
    for (folder, checkpoint), place in zip(wanted, how, strict=True):
        if place in known:
            continue
        known[place] = looked_at(folder, checkpoint)
        write_json(OUT, {"networks": list(known.values())})
        print(*place, *(f"{number(known[place], name):.3f}" for name in TOLD), flush=True)
    lines = [known[place] for place in how]
    found = summary(lines)
    write_json(OUT, {"correlation": found, "networks": lines})
    for which, of in found.items():
        for what in GAPS:
            pearson = (f"{name} {of[f'{what}, {name}']['pearson']['value']:.3f}" for name in TOLD)
            print(f"{what}, {of['networks']} networks ({which}): Pearson of", ", ".join(pearson))
    return 0


if __name__ == "__main__":
    sys.exit(main())
