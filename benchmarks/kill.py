"""Kill a training with SIGKILL at random moments, start it again each time, and compare the weights' SHA-256.

    python benchmarks/kill.py [KILLS] [SEED]

Trains the digits AT-AWP recipe (PGD-3, 40 epochs) once without being killed and once with KILLS (20) kills at
random moments of its time. Writes benchmarks/results/kill.json: exits with 1 unless the bits are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from robustscape.results import commit, processor, versions

COMMAND = [
    *(sys.executable, "-m", "robustscape", "train", "digits_at_awp"),
    *("--training.epochs", "40", "--objective.attack.steps", "3"),
    *("--training.checkpoint-seconds", "0.2", "--training.ema", "0.99", "--out"),
]


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights that a run kept."""
    files = [folder / "checkpoints" / f"{name}.safetensors" for name in ("last", "best")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main(kills: int = 20, seed: int = 0) -> int:
    """Return the exit code."""
    folder = Path(tempfile.mkdtemp())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    subprocess.run([*COMMAND, str(folder / "whole"), "--dry-run"], env=environment, check=True, capture_output=True)
    starting = time.monotonic() - start
    start = time.monotonic()
    subprocess.run([*COMMAND, str(folder / "whole")], env=environment, check=True, capture_output=True)
    seconds = time.monotonic() - start - starting
    moments = random.Random(seed)
    done: list[float] = []
    while len(done) < kills:
        process = subprocess.Popen([*COMMAND, str(folder / "killed")], env=environment, stdout=subprocess.DEVNULL)
        moment = starting + moments.uniform(0, 1.5 * seconds / kills)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done.append(round(moment, 2))
            continue
        if process.returncode:
            return process.returncode
        shutil.rmtree(folder / "killed")  # it ended before it was killed often enough: all anew, and sooner
        seconds, done = seconds * 0.8, []
    subprocess.run([*COMMAND, str(folder / "killed")], env=environment, check=True, capture_output=True)
    whole, killed = digests(folder / "whole"), digests(folder / "killed")
    result = {
        "kills": len(done),
        "seconds_from_each_start": done,
        "same": whole == killed,
        "sha256": whole,
        "command": " ".join(["robustscape", *COMMAND[3:]]),
        "seed": seed,
        "versions": versions(),
        "commit": commit(),
        "device": processor(),
    }
    path = Path(__file__).parent / "results" / "kill.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    shutil.rmtree(folder)
    return 0 if result["same"] else 1


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:])))
