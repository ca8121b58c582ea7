"""How long a user waits: from the command to the first training step, and for the import."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from robustscape.benches.harness import BESIDE, QUICK, Rounds, made
from robustscape.benches.result import BenchResult, spread
from robustscape.results import stopwatch
from robustscape.runtime import Runtime
from robustscape.types import BadInput

_FIRST_STEP = b"epoch 1/"  # in the bar from the first step on, which is redrawn ten times a second
_TERMINAL = {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
_IMPORTS = """
import time
start = time.perf_counter()
import torch
between = time.perf_counter()
import robustscape
print(between - start, time.perf_counter() - between)
"""


@dataclass(frozen=True, kw_only=True)
class StartBench:
    """Seconds from `robustscape demo` to its first training step, and of `import robustscape` beyond torch's.

    The demo runs in a process of its own, on a terminal of its own, and is ended when its bar shows a step.

    Attributes:
        rounds: How often, after how many seconds of untimed starts.
    """

    name: ClassVar[str] = "start"

    rounds: Rounds = field(default_factory=lambda: Rounds(warmup=10.0), metadata=BESIDE)

    def quick(self) -> StartBench:
        """Return the same bench with few rounds."""
        return replace(self, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        took, total, pairs = stopwatch(), 2 * self.rounds.pairs, self.rounds.pairs
        yield 0, total
        while took() < self.rounds.warmup:
            _first_step_of_the_demo()
            yield 0, total
        steps, torch_alone, beyond = [], [], []
        for number in range(pairs):
            steps.append(_first_step_of_the_demo())
            yield 2 * number + 1, total
            alone, ours = imports()
            torch_alone.append(alone)
            beyond.append(ours)
            yield 2 * number + 2, total
        return made(
            self.name,
            "robustscape demo; import robustscape",
            costs={
                "seconds from the command to the first training step": spread(steps),
                "seconds of import robustscape beyond torch's": spread(beyond),
            },
            notes={"seconds of import torch": spread(torch_alone)},
            rounds=self.rounds,
            runtime=Runtime(),
            component=self,
            took=took(),
        )


def imports() -> tuple[float, float]:
    """Return the seconds of ``import torch`` and of ``import robustscape`` after it, in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True)
    alone, ours = map(float, done.stdout.split())
    return alone, ours


def _first_step_of_the_demo() -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "robustscape", "demo", "--out", str(Path(folder) / "demo")]
        return seconds_until(_FIRST_STEP, command, os.environ | _TERMINAL)


def seconds_until(shown: bytes, command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the seconds from starting a command to its showing some bytes on a terminal; the command is then ended.

    Args:
        shown: What is waited for.
        command: Program and arguments.
        environment: Its environment variables.

    Raises:
        BadInput: the system has no pseudo-terminals.
        RuntimeError: the command ended without showing them: with the last that it showed.
    """
    if not hasattr(os, "openpty"):
        raise BadInput("this system has no pseudo-terminals, which the start bench needs; leave it out")
    ours, theirs = os.openpty()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=dict(environment))
    os.close(theirs)
    seen = b""
    try:
        while shown not in seen:
            more = _read(ours)
            if not more:
                last = seen[-500:].decode(errors="replace").strip()
                raise RuntimeError(f"{' '.join(command[:4])} ended before its first step: {last}")
            seen += more
        return time.perf_counter() - start
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(terminal: int) -> bytes:
    """Return what was written to a terminal since, b"" when nobody can write any more."""
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other side is closed
        return b""
