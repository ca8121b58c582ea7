"""Is speed bought with accuracy? A small training of PreActResNet-18(16), ours against the naive float32 loop.

    python benchmarks/equal.py [SEED ...]

2,000 CIFAR-10 (JPEG) images, 100 steps of 128, PGD-10 at linf 8/255, SGD with a cyclic learning rate. The peer: a
rendering of the loop of Rice 2020 in float32, its attack in train mode, moving BatchNorm's running statistics. Ours:
the machine's fastest arithmetic, once as it is by default (attack in eval mode), once with the peer's attack: only this
one differs from the peer in arithmetic alone. The same initial weights, batches and rates. Robust accuracy is by PGD-20
in float32 on 1,000 test images, for all by the same code. A network that benchmarks/results/equal.json holds already is
not trained again. Exits with 1 where either of ours is below the peer's by more than the seeds of one side differ.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.benches import naive
from robustscape.data.batches import Loader
from robustscape.data.folder import Folder
from robustscape.evaluation.accuracy import evaluate
from robustscape.objectives.at import AT
from robustscape.recipes.cifar10 import cifar10_jpeg_at_small
from robustscape.recipes.run import Run
from robustscape.results import commit, processor, read_json, versions, write_json
from robustscape.runtime import TRUTH, Runtime, place, threads
from robustscape.training.method import method
from robustscape.training.schedules.cyclic import Cyclic
from robustscape.training.step import step
from robustscape.types import Batch, Splits

OUT = Path(__file__).parent / "results" / "equal.json"
STEPS, BATCH, IMAGES, JUDGED = 100, 128, 2000, 1000
OURS, SAME, PEER = "robustscape", "robustscape, attack in train mode", "naive loop"


def small(side: str, seed: int) -> Run:
    """Return what is trained."""
    run = cifar10_jpeg_at_small()
    assert isinstance(run.data, Folder)
    data = replace(run.data, per_class=IMAGES // 10)
    settings = replace(run.training, lr=Cyclic(), batch_size=BATCH)
    if side == SAME:
        settings = replace(settings, attack_mode="train", attack_statistics="counted")
    return replace(run, data=data, training=settings, seed=seed)


def endless(splits: Splits, seed: int) -> Iterator[Batch]:
    """Yield full batches, epoch after epoch."""
    loader = Loader(images=splits.train, batch_size=BATCH, seed=seed, drop_last=True)
    for epoch in count():
        yield from loader.epoch(epoch)


def trained(side: str, run: Run, splits: Splits) -> tuple[nn.Module, float]:
    """Return the network after all steps, and the seconds they took."""
    model = run.model.build(image=(3, 32, 32), classes=10, seed=run.seed)
    runtime, settings, objective = Runtime(), run.training, run.objective
    assert isinstance(objective, AT) and isinstance(objective.attack, PGD)
    model = place(model, runtime) if side != PEER else model
    optimizer = settings.optimizer.build(model)
    how = method(model, objective, None, settings, runtime)
    generator = torch.Generator().manual_seed(run.seed)
    start = time.perf_counter()
    for done, batch in enumerate(islice(endless(splits, run.seed), STEPS)):
        if side != PEER:
            step(how, optimizer, batch, done, STEPS, run.seed)
            continue
        optimizer.param_groups[0]["lr"] = settings.optimizer.lr * settings.lr(done, STEPS)
        naive.train_step(model, optimizer, batch.x, batch.y, objective.attack, generator)
    return model.eval(), time.perf_counter() - start


def measured(side: str, seed: int) -> dict[str, Any]:
    """Return the line of one training."""
    run = small(side, seed)
    splits = run.data.load(seed=0)
    model, seconds = trained(side, run, splits)
    test = splits.test.take(slice(0, JUDGED))
    judged = evaluate(model, test.pixels(), test.y, steps=20, restarts=1, loss_restarts=0, runtime=TRUTH)
    accuracy = {"clean accuracy": 1 - judged.clean_error.value, "robust accuracy": 1 - judged.robust_error.value}
    about = {"versions": versions(), "commit": commit(), "device": processor(), "threads": torch.get_num_threads()}
    return {"side": side, "seed": seed, "seconds": round(seconds, 1), **accuracy, "n": len(test), **about}


def main(*seeds: int) -> int:
    """Return the exit code."""
    lines: list[dict[str, Any]] = read_json(OUT)["trainings"] if OUT.exists() else []
    with threads(Runtime()):
        for seed in seeds or (0, 1, 2):
            for side in (OURS, SAME, PEER):
                if any(line["side"] == side and line["seed"] == seed for line in lines):
                    continue
                lines.append(measured(side, seed))
                print(lines[-1], flush=True)
                write_json(OUT, {"trainings": lines})
    accuracies = {
        side: [line["robust accuracy"] for line in lines if line["side"] == side] for side in (OURS, SAME, PEER)
    }
    means = {side: statistics.mean(values) for side, values in accuracies.items()}
    spread = max(max(values) - min(values) for values in accuracies.values())
    beyond = {side: means[side] - means[PEER] for side in (OURS, SAME)}
    summary = {"mean robust accuracy": means, "minus the naive loop": beyond, "largest range over seeds": spread}
    print(summary)
    write_json(OUT, {"trainings": lines, **summary})
    return int(min(beyond.values()) < -spread)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
