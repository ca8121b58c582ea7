"""Do the papers' facts about the loss landscape hold on networks trained here? On real MNIST and CIFAR-10 (JPEG).

    python benchmarks/facts.py train [NAME] [--small]
    python benchmarks/facts.py measure [NAME] [--small]
    python benchmarks/facts.py summarise [--small]
    python benchmarks/facts.py list [--small]

``train`` trains the networks whose names begin with NAME (all of them without), ``measure`` makes the measurements
whose names do, and ``summarise`` writes benchmarks/results/facts.json: a row a fact, with its claim, its numbers for
every seed, whether it holds and when it would (``facts_rows.py``, ``facts_verdicts.py``). Each stage skips what is
there, goes on with what was stopped to the same bits, and uses one thread. Networks are in benchmarks/facts, of each
the last epoch's float32 weights, and results in benchmarks/results/facts.

Along eps: MNIST, LeNet of width 8 at 0 to 0.4, and CIFAR-10 (JPEG), PreActResNet-18 of width 16 at 0 to 12/255, each
on 10,000 images, two seeds, alike but for eps; each is measured at its own eps. The adversarially trained networks of
30 epochs and those under AWP, three seeds, are the ones in benchmarks/checkpoints; natural ones of their recipe are
trained here. All measurements are on the first test images, the same for all; eigenvalues, and slices of the networks
of 30 epochs, on the first training images too, where the code of Liu 2020 has them. On a core of a Xeon at 2.8 GHz an
adversarially trained MNIST network takes 8 minutes.
``--small`` does everything with a few images and steps, in runs/facts-small.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import facts_rows
import torch
from facts_plan import LONG_SEEDS, ONE, Look, Plan, committed, plan

from robustscape.config import from_plain, to_plain
from robustscape.evaluation.subject import subject
from robustscape.landscape.runner import measure, stem
from robustscape.models.loading import load
from robustscape.recipes.execute import train
from robustscape.recipes.run import Run
from robustscape.results import commit, now, processor, read_run, save, versions, write_json
from robustscape.results import load as load_result
from robustscape.training.checkpoints import digest
from robustscape.training.log import read_log
from robustscape.types import BadInput, Plain
from robustscape.weights.rescaling import before_normalisation, between_layers


def trained(name: str, run: Run, folder: Path) -> None:
    """Train a network that is not there yet, and keep its last checkpoint."""
    log = folder / "log.jsonl"
    done = log.is_file() and len(read_log(log).epochs) == run.training.epochs
    if not done or to_plain(from_plain(read_run(folder)["run"])) != to_plain(run):
        for _ in train(run, folder, name=name):
            pass
    for other in ("resume", "best"):
        (folder / "checkpoints" / f"{other}.safetensors").unlink(missing_ok=True)


def measured(name: str, look: Look, folder: Path) -> None:
    """Make the measurements of one network that are not there yet."""
    run: Run = from_plain(read_run(look.run)["run"])
    images = getattr(run.data.load(seed=run.seed), look.split)
    model, some = load(look.run, checkpoint="last").eval(), images.take(slice(0, look.n))
    if look.rescaled:
        model = rescaled(model, some.pixels(slice(0, 16)), look.rescaled)
    looked_at = subject(
        model,
        some.pixels(),
        some.y,
        index=some.index,
        runtime=ONE,
        batch=128,
        classes=images.classes,
        split=look.split,
        model_name=f"{name}, last, {digest(model)[:12]}",
        data_name=f"{images.name}, first {len(some)}",
    )
    for measurement in look.measurements:
        path = folder / f"{stem(measurement)}.json"
        if path.exists():
            before = load_result(path).provenance
            known = (before.settings, before.model, before.data)
            if known == (to_plain(measurement), looked_at.model_name, looked_at.data_name):
                continue
        partial = path.with_suffix(".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        save(measure(measurement, looked_at, partial=partial), path)
        partial.unlink(missing_ok=True)
        print(path, flush=True)


def rescaled(model: torch.nn.Module, x: torch.Tensor, how: str) -> torch.nn.Module:
    """Return the same function at other weights, in one of the ways of RESCALED."""
    if how != "layers":
        model = before_normalisation(model, x, factor=0.5).model
    return model if how == "normalisation" else between_layers(model, x, factor=2.0).model


def summarised(made: Plan) -> bool:
    """Write the facts; return whether everything that they need was there."""
    looks = made.looks()
    found = {name: _results(made.results / name) for name in looks}
    flat = {
        kind: [load_result(committed(kind, seed) / "results" / "flatness-last.json") for seed in LONG_SEEDS]
        for kind in ("at", "at-awp")
    }
    rows = facts_rows.rows(found, flat)
    missing = [name for name, look in looks.items() if len(found[name]) < len(look.measurements)]
    networks = {name: to_plain(run) for name, run in made.runs().items() if (made.networks / name).is_dir()}
    results = [*(result for of in found.values() for result in of.values()), *(r for of in flat.values() for r in of)]
    about = provenance_of(results)
    write_json(made.summary, {**about, "small": made.small, "facts": rows, "missing": missing, "networks": networks})
    if made.small:
        print("a trial on a few images and steps: nothing follows from it")
    for row in rows:
        print(f"{row['verdict']:>14}: {row['claim']} ({row['where']})")
    print(f"{len(missing)} of {len(found)} measurements are missing" if missing else made.summary)
    return not missing


def provenance_of(results: Sequence[Any]) -> Plain:
    """Return where the facts are from: of each result's provenance what differs, and the sum of the seconds."""
    of = [result.provenance for result in results]
    return {
        "created": now(),
        "summarised_with": {"versions": versions(), "commit": commit(), "device": processor()},
        "versions": facts_rows.distinct([p.versions for p in of]),
        "commits": facts_rows.distinct([p.commit for p in of]),
        "devices": facts_rows.distinct([p.device for p in of]),
        "precisions": facts_rows.distinct([p.precision for p in of]),
        "threads": facts_rows.distinct([p.threads for p in of]),
        "measuring_seeds": facts_rows.distinct([p.seed for p in of]),
        "measuring_seconds": round(sum(p.seconds for p in of)),
    }


def _results(folder: Path) -> dict[str, Any]:
    return {path.stem: load_result(path) for path in sorted(folder.glob("*.json"))}


def main(stage: str, name: str, *, small: bool) -> int:
    """Return the exit code."""
    made = plan(small=small)
    runs, looks = made.runs(), made.looks()
    known = list(looks if stage == "measure" else runs)
    names = [n for n in known if n.startswith(name)]
    if not names:
        sys.exit(f"nothing begins with {name!r}; there are: {', '.join(known)}")
    if stage == "list":
        print(*(f"train {n}" for n in runs), *(f"measure {n}" for n in looks), sep="\n")
    if stage == "summarise":
        return int(not summarised(made))
    for n in names if stage == "train" else ():
        trained(n, runs[n], made.networks / n)
        print(made.networks / n, flush=True)
    for n in names if stage == "measure" else ():
        measured(n, looks[n], made.results / n)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.chdir(Path(__file__).resolve().parents[1])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "measure", "summarise", "list"))
    parser.add_argument("name", nargs="?", default="", help="what the names to take begin with; all without")
    parser.add_argument("--small", action="store_true", help="a few images and steps, in runs/facts-small")
    given = parser.parse_args()
    try:
        sys.exit(main(given.stage, given.name, small=given.small))
    except BadInput as error:  # another run in the folder, or a network that is not trained yet
        sys.exit(f"{error}")
