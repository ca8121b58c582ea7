"""Kill a training by every method twice with SIGKILL, go on each time, and compare the weights with an unbroken one's.

    python benchmarks/kill_methods.py [FOLDER] [SEED]

The methods are those of ``robustscape bench methods --scale tiny`` (digits, LeNet of width 2), one seed of each. A
process trains one method after another and saves its state every few steps. Another kills it twice during each method:
once a step in the first half of the training is done, and once one in the second half is, after a random time of up to
two steps, so in whatever it then does; a training that ends before its second kill begins anew. Every checkpoint is
compared by its SHA-256 with those of a training that was not killed. Writes benchmarks/results/kill-methods.json after
each method: a method that it holds, of the same commit, versions and seed, is not trained again. Of each kill it says
the last step done before it ("step" of "of"), how long after a step it was sent, and the first step done after it.
Trainings stand in FOLDER (runs/kill-methods). Exits with 1 unless all the bits are the same, and, before anything is
killed, where two methods end with the same weights: one of them does not act, and its kills would show nothing.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustscape.config import to_plain
from robustscape.recipes.execute import train
from robustscape.recipes.run import Run
from robustscape.results import commit, processor, read_json, versions, write_json
from robustscape.studies._methods_cells import PseudoLabels, Trained
from robustscape.studies.methods import Methods
from robustscape.training.log import read_log
from robustscape.training.loop import Step

OUT = Path(__file__).parent / "results" / "kill-methods.json"
KILLS = 2
CHECKPOINT_SECONDS = 0.02
ATTEMPTS = 20


def cells() -> dict[str, Trained]:
    """Return the study's networks of the first seed, by method."""
    study = Methods(scale="tiny")
    return {cell.method: cell for cell in study.cells("table") if isinstance(cell, Trained) and cell.run.seed == 0}


def run_of(cell: Trained, folder: Path) -> Run:
    """Return what is trained: RST with the pseudo-labels that are in the folder, or are made now."""
    run = cell.run if cell.labels is None else cell.with_labels(folder, labels_of(cell.labels, folder))
    return replace(run, training=replace(run.training, checkpoint_seconds=CHECKPOINT_SECONDS))


def labels_of(cell: PseudoLabels, folder: Path) -> Any:
    """Return the value of a cell of pseudo-labels, kept in the folder."""
    path = folder / "pseudo_labels.json"
    if not path.exists():
        work = cell.resuming(folder / "teacher", cell.run.data.load(seed=cell.run.seed), {})
        while True:
            try:
                next(work)
            except StopIteration as end:
                write_json(path, end.value)
                break
    return read_json(path)


def child(folder: Path, side: str, names: Sequence[str]) -> None:
    """Train methods in turn, saying every step that is done and what is over."""
    known = cells()
    for name in names:
        run = run_of(known[name], folder / "given")
        for event in train(run, folder / side / name, name=name):
            if isinstance(event, Step):
                print(name, event.done, event.total, flush=True)
        print(name, "over", flush=True)


def started(folder: Path, side: str, names: Sequence[str]) -> subprocess.Popen[str]:
    """Start the process that trains methods."""
    command = [sys.executable, __file__, "--train", str(folder), side, *names]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights that a run kept."""
    files = sorted((folder / "checkpoints").glob("*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.stem != "resume"}


def killed_once(folder: Path, left: list[str], done: dict[str, list[dict[str, Any]]], moments: random.Random) -> bool:
    """Train what is left until it is time to kill, and kill; returns whether it was, False where nothing is left.

    Methods that have ended, often enough killed, are taken from ``left``; a kill is added to ``done``. A method that
    ended too soon begins anew in the next process.
    """
    process = started(folder, "killed", left)
    assert process.stdout is not None, "a pipe"
    at = 0.0  # the share of the training after which it is killed
    for line in process.stdout:
        name, *words = line.split()
        if words != ["over"] and done[name]:
            done[name][-1].setdefault("next_step", int(words[0]))
        if words == ["over"] and len(done[name]) == KILLS:
            left.remove(name)
            at = 0.0
        if len(done[name]) == KILLS:
            continue
        at = at or (len(done[name]) + moments.random()) / KILLS
        step, of, wait = 0, 0, 0.0
        if words != ["over"]:
            step, of = map(int, words)
            if step < at * of:
                continue
            epochs = read_log(folder / "whole" / name / "log.jsonl").epochs
            wait = moments.uniform(0, 2 * sum(epoch.seconds for epoch in epochs) / of)
            time.sleep(wait)
        process.kill()
        rest = [words, *(words for other, *words in map(str.split, process.stdout) if other == name)]
        process.wait()
        if ["over"] in rest:
            shutil.rmtree(folder / "killed" / name)
            done[name].clear()
        else:
            done[name].append({"step": int(rest[-1][0]), "of": of, "seconds_after": round(wait, 4)})
        return True
    if process.wait():
        raise SystemExit(process.returncode)
    return False


def check_that_all_act(ends: Mapping[str, Mapping[str, str]]) -> None:
    """Exit where two methods have ended with the same weights; ``ends`` is each one's SHA-256 by file."""
    first: dict[str, str] = {}
    for name, files in ends.items():
        other = first.setdefault(files["last.safetensors"], name)
        if other != name:
            raise SystemExit(f"{name} and {other} end with the same weights: one does not act at this scale")


def main(folder: Path, seed: int) -> int:
    """Return the exit code."""
    known = cells()
    about = {
        "kills": KILLS,
        "seed": seed,
        "settings": to_plain(Methods(scale="tiny")),
        "checkpoint_seconds": CHECKPOINT_SECONDS,
        "versions": versions(),
        "commit": commit(),
        "device": processor(),
    }
    held = read_json(OUT) if OUT.exists() else {}
    result = {"same": False, "methods": {}, **about}
    if {key: held.get(key) for key in about} == about:
        result = held
    left = [name for name in known if name not in result["methods"]]
    whole = started(folder, "whole", left)
    for line in whole.stdout or ():
        if line.endswith(" over\n"):
            print("whole:", line.split()[0], flush=True)
    if whole.wait():
        return whole.returncode
    ends = {name: method["sha256"] for name, method in result["methods"].items()}
    check_that_all_act(ends | {name: digests(folder / "whole" / name) for name in left})
    shutil.rmtree(folder / "killed", ignore_errors=True)
    done: dict[str, list[dict[str, Any]]] = {name: [] for name in left}
    moments = random.Random(seed)
    for _ in range(ATTEMPTS * len(left)):
        before = list(left)
        goes_on = killed_once(folder, left, done, moments)
        for name in [name for name in before if name not in left]:
            bits, broken = (digests(folder / side / name) for side in ("whole", "killed"))
            result["methods"][name] = {"kills": done[name], "same": bits == broken, "sha256": bits}
            print(name, "the same bits" if bits == broken else "OTHER BITS", done[name], flush=True)
        result["same"] = set(result["methods"]) == set(known) and all(m["same"] for m in result["methods"].values())
        write_json(OUT, result)
        if not goes_on:
            break
    return 0 if result["same"] else 1


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--train"]:
        child(Path(words[1]), words[2], words[3:])
    else:
        place, number = [*words, *("runs/kill-methods", "0")[len(words) :]]
        sys.exit(main(Path(place).resolve(), int(number)))
