"""What foretells the robust generalisation gap from training images alone? On the committed networks.

    python benchmarks/foretold.py

Of every network in benchmarks/checkpoints, last and best checkpoints, the first 250 training images are looked at:
their robust loss, average-case flatness there (xi 0.5, 6 draws), and the rise of the robust loss on other views of
them, mirrored and shifted by up to 2 pixels (digits: shifted alone, of 8x8 pixels by one). By PGD-10 in float32.
Beside them stands the gap, robust loss and robust error on test minus train, from the runs' own evaluations. Writes
benchmarks/results/foretold.json after every network, goes on where it stands, and correlates over the networks on
CIFAR-10 (JPEG): all, those trained without augmentation, and last checkpoints alone, best ones being of the same runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def looked_at(folder: Path, checkpoint: str) -> dict[str, Any]:
    """Return the line of one network."""
    run: Run = from_plain(read_run(folder)["run"])
    some = run.data.load(seed=run.seed).train.take(slice(0, N))
    model = load(folder, checkpoint=checkpoint).eval()
    made = subject(model, some.pixels(), some.y, index=some.index, runtime=RUNTIME, batch=125, split="train")
    threat = run.evaluation.threat()
    views = measure(under(threat, next(how for of, how in VIEWS.items() if folder.parent.name.startswith(of))), made)
    flat = measure(under(threat, FLATNESS), made)
    train, test = (load_result(folder / "results" / f"evaluation-{checkpoint}-{of}.json") for of in ("train", "test"))
    apart = gap(train, test)
    return {
        "network": f"{folder.parent.name}/{folder.name}",
        "checkpoint": checkpoint,
        "attack": views.attack,
        "n": views.n,
        "gap of the robust loss": to_plain(apart.robust_loss),
        "gap of the robust error": to_plain(apart.robust_error),
        "robust loss": views.reference_robust_loss,
        "flatness": to_plain(flat.robust),
        "views": to_plain(views.robust),
        "each view": {on.view: to_plain(on.robust) for on in views.views},
        "seconds": {"flatness": flat.provenance.seconds, "views": views.provenance.seconds},
    }


def number(line: dict[str, Any], name: str) -> float:
    """Return a number of a line."""
    value = line[name]
    return value["value"] if isinstance(value, dict) else value


def correlated(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the coefficients over some networks, of each gap with each number that foretells it."""
    found: dict[str, Any] = {"networks": len(lines)}
    for what in ("gap of the robust loss", "gap of the robust error"):
        for name in TOLD:
            both = correlation([number(line, name) for line in lines], [number(line, what) for line in lines])
            found[f"{what}, {name}"] = {of: to_plain(getattr(both, of)) for of in ("pearson", "spearman")}
    return found


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the coefficients over the networks on CIFAR-10 (JPEG), by which of them."""
    cifar = [line for line in lines if line["network"].startswith("cifar10")]
    plain = [line for line in cifar if "crop-flip" not in line["network"]]
    chosen = {"all": cifar, "without augmentation": plain, "last": [x for x in plain if x["checkpoint"] == "last"]}
    return {name: correlated(some) for name, some in chosen.items()}


def main() -> int:
    """Return the exit code."""
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = read_json(OUT)["networks"] if OUT.exists() else []
    done = {(line["network"], line["checkpoint"]) for line in lines}
    for folder, checkpoint in networks():
        if (f"{folder.parent.name}/{folder.name}", checkpoint) in done:
            continue
        lines.append({**looked_at(folder, checkpoint), "device": processor(), "commit": commit()})
        write_json(OUT, {"versions": versions(), "networks": lines})
        print(lines[-1]["network"], checkpoint, *(f"{number(lines[-1], name):.3f}" for name in TOLD), flush=True)
    found = summary(lines)
    write_json(OUT, {"versions": versions(), "correlation": found, "networks": lines})
    for which, of in found.items():
        for name in TOLD:
            pearson, spearman = (
                of[f"gap of the robust loss, {name}"][kind]["value"] for kind in ("pearson", "spearman")
            )
            print(f"{which} ({of['networks']}): {name}, Pearson {pearson:.3f}, Spearman {spearman:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
