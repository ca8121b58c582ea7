"""The small runs on digits that tests of training a Run begin with, and what they compare."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives.at import AT
from robustscape.recipes.run import Run

_MAKE = """
from dataclasses import replace
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.augment import CropFlip
from robustscape.models.linear import Linear
from robustscape.objectives.at import AT
from robustscape.recipes.digits import digits_at_awp
def make():
    run = digits_at_awp()
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    training = replace(run.training, epochs=2, track=50, track_attack=attack, checkpoint_seconds=0.0, ema=0.9)
    return replace(run, objective=AT(attack=attack), training=training)
"""


def small(run: Run, **changes) -> Run:
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    training = replace(run.training, epochs=2, track=50, track_attack=attack, **changes)
    return replace(run, objective=AT(attack=attack), training=training)


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "checkpoints").glob("*.safetensors"))}


def killable(folder: Path, script: str) -> Callable[[int, Path], int]:
    """Give what runs a script, which makes its Run by ``tests_run.make``, and returns how it ended.

    The script is told after how many events it kills itself, and where to train.
    """
    (folder / "tests_run.py").write_text(_MAKE)
    (folder / "killed.py").write_text(script)

    def run(at: int, out: Path) -> int:
        command = [sys.executable, str(folder / "killed.py"), str(at), str(out)]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(folder)}, check=False).returncode

    return run
