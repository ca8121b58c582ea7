"""Do robustscape's AutoAttack, as it is by default, and the reference agree on a trained network?

    python benchmarks/agreement.py [--hundreds 0 1 ...]

Standard AutoAttack judges the first test images of MNIST on the committed adversarially trained network, eps 0.3, three
times: once as ``evaluate(suite="autoattack")`` does by default (its queue, its draws, the fastest arithmetic of the
machine), and twice as pyautoattack 0.2.0 does, from seeds 0 and 1, both on one thread. Images are taken a hundred at a
time, in turn; benchmarks/results/agreement.json has the flags of every hundred that is done, and a later call goes on.
A call may do some of the hundreds alone, and on another machine: a hundred is judged by all three on one.

Exits with 1 where ours and the reference's first seed differ in more flags than its two seeds do, plus one, where the
robust accuracies are more than 0.2 points apart, or where ours is higher by more than one image.
"""

from __future__ import annotations

import argparse
import logging
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustscape.config import from_plain
from robustscape.evaluation.accuracy import evaluate
from robustscape.models.loading import load
from robustscape.results import commit, processor, read_json, read_run, stopwatch, versions, write_json
from robustscape.runtime import Runtime
from robustscape.types import DataSource, Images

HERE = Path(__file__).parent
FILE = HERE / "results" / "agreement.json"
RUN = HERE / "checkpoints" / "mnist" / "at"
EPS = 0.3
CHUNK = 100
NEAR = 0.002  # of the robust accuracies

OURS, REFERENCE, AGAIN = "robustscape", "pyautoattack, seed 0", "pyautoattack, seed 1"


def network() -> tuple[nn.Module, Images]:
    """Return the network, in eval mode, and the test images."""
    data: DataSource = from_plain(read_run(RUN)["run"]).data
    return load(RUN, checkpoint="last").eval(), data.load(seed=0).test


def ours(model: nn.Module, x: Tensor, y: Tensor) -> list[bool]:
    """Return which images nothing fools, as robustscape finds it by default."""
    runtime = Runtime(threads=1)
    found = evaluate(model, x, y, eps=EPS, suite="autoattack", sanity=0, batch_size=CHUNK, runtime=runtime)
    return [not fooled for fooled in found.fooled.tolist()]


def theirs(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> list[bool]:
    """Return which images nothing fools, as pyautoattack's standard evaluation finds it."""
    from pyautoattack import AutoAttack

    with torch.random.fork_rng(devices=[]):
        judge = AutoAttack(model, norm="Linf", eps=EPS, seed=seed, device="cpu")
        judge.logger.setLevel(logging.ERROR)
        x_adv, _ = judge.run_standard_evaluation(x.clone(), y.clone(), batch_size=CHUNK)
    with torch.no_grad():
        return (model(x_adv).argmax(dim=1) == y).tolist()


SIDES = {OURS: ours, REFERENCE: lambda *given: theirs(*given, 0), AGAIN: lambda *given: theirs(*given, 1)}


def whole(chunk: dict[str, Any]) -> bool:
    """Return whether all three have judged a hundred."""
    return all(side in chunk for side in SIDES)


def summary(chunks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the three say of the images that all have judged."""
    done = [chunk for _, chunk in sorted(chunks.items()) if whole(chunk)]
    flags = {side: [flag for chunk in done for flag in chunk[side]["robust"]] for side in SIDES}

    def differing(one: str, other: str) -> int:
        return sum(a != b for a, b in zip(flags[one], flags[other], strict=True))

    return {
        "n": len(flags[OURS]),
        "robust": {side: sum(found) for side, found in flags.items()},
        "flags that differ between the reference's seeds": differing(REFERENCE, AGAIN),
        "flags of ours that differ from seed 0": differing(OURS, REFERENCE),
        "flags of ours that differ from seed 1": differing(OURS, AGAIN),
        "seconds": {side: round(sum(chunk[side]["seconds"] for chunk in done), 1) for side in SIDES},
    }


def agrees(found: dict[str, Any]) -> bool:
    """Return whether ours is the reference but for what a seed changes."""
    n, robust = found["n"], found["robust"]
    apart = robust[OURS] - robust[REFERENCE]
    few = found["flags of ours that differ from seed 0"] <= found["flags that differ between the reference's seeds"] + 1
    return few and abs(apart) <= max(NEAR * n, 1) and apart <= 1


def main(numbers: list[int]) -> int:
    """Return the exit code."""
    torch.set_num_threads(1)
    about = {"versions": versions() | {"pyautoattack": metadata.version("pyautoattack")}, "threads": 1}
    about |= {"eps": EPS, "network": "benchmarks/checkpoints/mnist/at, last"}
    before = read_json(FILE) if FILE.is_file() else {}
    chunks = before.get("hundreds", {}) if all(before.get(name) == value for name, value in about.items()) else {}
    model, images = network()
    for number in numbers:
        rows, chunk = slice(number * CHUNK, (number + 1) * CHUNK), chunks.get(str(number), {})
        if not whole(chunk) and chunk.get("device") != processor():
            chunk: dict[str, Any] = {"device": processor()}
        chunks[str(number)] = chunk
        for side, judged in SIDES.items():
            if side in chunk:
                continue
            seconds = stopwatch()
            robust = judged(model, images.pixels(rows), images.y[rows])
            chunk[side] = {"robust": robust, "seconds": round(seconds(), 1), "commit": commit()}
            write_json(FILE, {**about, **summary(chunks), "hundreds": chunks})
    found = summary(chunks)
    print(found)
    return int(not agrees(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--hundreds", type=int, nargs="+", default=list(range(10)), help="which, by default the first ten"
    )
    sys.exit(main(parser.parse_args().hundreds))
