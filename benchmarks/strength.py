"""Are attacks in bfloat16 as strong as in float32? Robust accuracy of the committed networks under both.

    python benchmarks/strength.py [N] [RUN ...]

Each run's last weights are attacked by PGD-20 and PGD-100 (best loss over the iterates, one start, steps of
2.5 eps / steps) once on the bfloat16 view and once in float32, from the same starts. Only inputs that the network
misclassifies in float32 count. Writes benchmarks/results/strength.json after every network, and exits with 1 where the
two differ by more than 0.2 points.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustscape.attacks.pgd import PGD
from robustscape.config import from_plain
from robustscape.evaluation.judging import batches, judge, search
from robustscape.evaluation.subject import subject
from robustscape.models.loading import load
from robustscape.recipes.run import Run
from robustscape.results import commit, processor, read_run, versions, write_json
from robustscape.runtime import Runtime, fast, threads
from robustscape.types import Subject

HERE = Path(__file__).parent
RUNS = ("digits/at", "digits/at_awp", "mnist/at", "mnist/at-awp", "cifar10-jpeg-small/at", "cifar10-jpeg-small/at-awp")
STEPS = (20, 100)
PRECISIONS = ("bfloat16", "float32")
ALLOWED = 0.2  # points
FEWEST = 1000


def examples(model: torch.nn.Module, run: Run, n: int) -> Subject:
    """Return the model with the first n test images, and training images after them where there are not as many."""
    splits = run.data.load(seed=run.seed)
    parts = [splits.test] if len(splits.test) >= n else [splits.test, splits.train]
    x = torch.cat([part.pixels() for part in parts])[:n]
    y, index = (torch.cat([getattr(part, name) for part in parts])[:n] for name in ("y", "index"))
    return subject(model, x, y, index=index, classes=splits.train.classes)


def fooled(looked_at: Subject, attack: PGD, precision: str) -> np.ndarray:
    """Return which examples are misclassified, clean or attacked, (n,), bool."""
    runtime = Runtime(precision=precision)  # pyright: ignore[reportArgumentType]
    looked_at = replace(looked_at, runtime=runtime, view=fast(looked_at.model, runtime))
    found = []
    with threads(runtime), looked_at.view as searched:
        for rows, count in batches(looked_at):
            _, wrong = judge(looked_at.model, looked_at.x[rows], looked_at.y[rows])
            wrong = wrong | search(looked_at, searched, attack, rows, "strength").wrong
            found.append(wrong[:count].numpy())
    return np.concatenate(found)


def compared(name: str, n: int) -> list[dict[str, Any]]:
    """Return a line for each number of steps."""
    folder = HERE / "checkpoints" / name
    run = from_plain(read_run(folder)["run"])
    looked_at = examples(load(folder, checkpoint="last"), run, n)
    lines = []
    for steps in STEPS:
        threat = run.evaluation.threat()
        attack = PGD(threat=threat, steps=steps, step_size=2.5 * threat.eps / steps, result="best_loss")
        low, high = (fooled(looked_at, attack, precision) for precision in PRECISIONS)
        lines.append(
            {
                "network": name,
                "attack": attack.describe(),
                "n": len(low),
                "robust accuracy, bfloat16": 1 - float(low.mean()),
                "robust accuracy, float32": 1 - float(high.mean()),
                "difference in points": 100 * (float(high.mean()) - float(low.mean())),
                "fooled in bfloat16 only": int((low & ~high).sum()),
                "fooled in float32 only": int((high & ~low).sum()),
            }
        )
        print(lines[-1], flush=True)
    return lines


def main(n: int = FEWEST, *names: str) -> int:
    """Return the exit code."""
    lines: list[dict[str, Any]] = []
    for name in names or RUNS:
        lines += compared(name, n)
        about = {"versions": versions(), "commit": commit(), "device": processor()}
        write_json(HERE / "results" / "strength.json", {**about, "seeds": [0], "networks": lines})
    return int(max(abs(round(line["difference in points"], 6)) for line in lines) > ALLOWED)


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(int(words[0]), *words[1:]) if words else main())
