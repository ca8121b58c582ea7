"""What memory an evaluation takes: for each image of a batch, and for each image that is evaluated.

    python benchmarks/memory.py [TENTHOUSAND]

Networks with initial weights judge random images; the attacks are shortened, since what is held at once does not depend
on how long they go on. Measured is the peak of all searches over what there was once network and images were there.
(The intervals that are made of the result afterwards take up to 30 MiB, whatever was searched.)

- "tensors": bytes of all tensors alive after any operation, counted by a dispatch mode, exact and the same every time;
  on CUDA what torch's allocator says.
- "resident": what a fresh process occupies, by Linux' account, on the CPU alone: with what kernels take inside, what
  the allocator does not give back, and code that is loaded when it is first run.

The growth from four batches to sixteen, by tensors, is what an image costs that is not under search; the growth from
one batch size to twice that, for as many images, is what one under search costs. Writes benchmarks/results/memory.json.
Exits with 1 where an image that is not under search costs more than a tenth of one that is, or more than eight images.
With TENTHOUSAND, also 10,000 images by LeNet and PGD-1. One thread.
"""

from __future__ import annotations

import multiprocessing
import sys
import weakref
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustscape.attacks.apgd import APGD
from robustscape.attacks.fab import FAB
from robustscape.attacks.losses import TargetedDLR
from robustscape.attacks.pgd import PGD
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.benches.problem import Problem, likeliest
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.subject import subject
from robustscape.results import commit, processor, versions, write_json
from robustscape.runtime import Runtime, threads
from robustscape.runtime.predicting import search_bytes
from robustscape.types import Attack

FILE = Path(__file__).parent / "results" / "memory.json"
RUNTIME = Runtime(compile="no", threads=1)
THREAT = ThreatModel(eps=1 / 255)
ATTACKS: dict[str, tuple[Attack, ...]] = {
    "PGD": (PGD(threat=THREAT, steps=1, result="misclassified"),),
    "AutoAttack": (
        APGD(threat=THREAT, steps=2),
        APGD(threat=THREAT, steps=2, loss=TargetedDLR(), targets=1),
        FAB(threat=THREAT, steps=2, targets=1),
        Square(threat=THREAT, queries=4, rescale=True),
    ),
}
MOST = 8  # images
MEASURES = ("tensors", "resident")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One evaluation."""

    network: Literal["preact_resnet", "lenet"]
    attack: str
    batch: int
    n: int

    def problem(self) -> Problem:
        """Return network and images."""
        return Problem(network=self.network, width=16, batch=self.batch, runtime=RUNTIME)


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that operations have made: now, and at most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        came = {value.untyped_storage().data_ptr() for value in _tensors((args, kwargs))}
        given = func(*args, **(kwargs or {}))
        for value in _tensors(given):
            storage = value.untyped_storage()
            if storage.data_ptr() not in came:  # otherwise counted already, or there before
                self.note(storage)
        return given

    def note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self.known:
            return
        self.known.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, place, size)

    def free(self, place: int, size: int) -> None:
        """Count it no more."""
        self.known.discard(place)
        self.now -= size


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def status(name: str) -> int:
    """Return an entry of Linux' account of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def peak(case: Case, measure: str) -> dict[str, float]:
    """Return the peak of an evaluation, bytes, and what an image takes; "resident" needs a fresh process."""
    problem = case.problem()
    model, images = problem.placed(), problem.examples(case.n)
    y = likeliest(model, images.x, case.batch)
    settings = Evaluating(
        attacks=ATTACKS[case.attack],
        eps=THREAT.eps,
        loss_steps=1,
        loss_restarts=1,
        n=None,
        batch_size=case.batch,
        sanity=0,
    )
    with threads(RUNTIME):
        looked_at = subject(model, images.x, y, runtime=RUNTIME, batch=case.batch)
        with looked_at.view as view, torch.no_grad():
            view(images.x[:2])  # makes the copy of the network
        about = {"predicted": search_bytes(model, RUNTIME, images.x), "image": float(images.x[0].nbytes)}
        work = evaluating(settings, looked_at)
        if images.x.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            most = [torch.cuda.max_memory_allocated() - before for _ in work]
        elif measure == "tensors":
            with Alive() as alive:
                most = [alive.peak for _ in work]
        else:
            before = status("VmRSS")
            most = [max(status("VmHWM") - before, 0) for _ in work]
    return about | {"peak": most[-1]}


def measured(case: Case, measure: str) -> dict[str, float]:
    """Return what ``peak`` gives, where it needs that in a process of its own."""
    if measure == "tensors":
        return peak(case, measure)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak, case, measure).result()


def row(network: Literal["preact_resnet", "lenet"], attack: str, batch: int, measure: str) -> dict[str, Any]:
    """Return the peaks of a network under an attack, and what an image costs."""
    sizes = {"1 batch": (batch, batch), "4 batches": (batch, 4 * batch), "16 batches": (batch, 16 * batch)}
    sizes["8 batches of twice the size"] = (2 * batch, 16 * batch)
    found = {
        name: measured(Case(network=network, attack=attack, batch=size, n=n), measure)
        for name, (size, n) in sizes.items()
    }
    peaks = {name: one["peak"] for name, one in found.items()}
    waiting = (peaks["16 batches"] - peaks["4 batches"]) / (12 * batch)
    return {
        "network": Problem(network=network, width=16, batch=batch).words(),
        "attack": f"{attack}, shortened",
        "measure": measure,
        "peak MiB": {name: round(value / 2**20, 3) for name, value in peaks.items()},
        "bytes of an image": found["1 batch"]["image"],
        "bytes of an image not under search": round(waiting),
        "bytes of an image under search": round((peaks["8 batches of twice the size"] - peaks["16 batches"]) / batch),
        "predicted bytes of an image under search": found["1 batch"]["predicted"],
    }


def small(row: dict[str, Any]) -> bool:
    """Return whether an image that is not under search costs what examples do, and not activations."""
    waiting, searched = row["bytes of an image not under search"], row["bytes of an image under search"]
    return row["measure"] != "tensors" or waiting <= min(0.1 * searched, MOST * row["bytes of an image"])


def main(*words: str) -> int:
    """Return the exit code."""
    device = RUNTIME.torch_device()
    rows: list[dict[str, Any]] = []
    about = {
        "precision": RUNTIME.words(),
        "versions": versions(),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
    }
    for network, batch in (("lenet", 32), ("preact_resnet", 4)):
        for attack in ATTACKS:
            for measure in MEASURES[: 1 if device.type == "cuda" else 2]:
                rows.append(row(network, attack, batch, measure))
                print(rows[-1], flush=True)
                write_json(FILE, {"rows": rows, **about})
    many: dict[str, float] = {}
    if words:
        for measure in MEASURES[: 1 if device.type == "cuda" else 2]:
            whole = measured(Case(network="lenet", attack="PGD", batch=250, n=10_000), measure)
            many[f"{measure}, peak MiB"] = round(whole["peak"] / 2**20, 1)
        print(many)
    write_json(FILE, {"rows": rows, "10,000 images, LeNet(16), batch 250, PGD-1": many, **about})
    return int(not all(map(small, rows)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
