"""Where the time goes: the operators of the heaviest paths, as Markdown tables for benchmarks/profiles.md.

    python benchmarks/profiles.py [THREADS]

For each network: one pass of an attack (forward, gradient to the inputs) by the naive float32 loop and on the fast
view, and the outer pass of training (forward, gradient to the weights) in float32 and as robustscape runs it. Batch
128; shares are of the operators' own CPU time, over several passes after a warm-up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from robustscape.benches.problem import Problem
from robustscape.runtime import TRUTH, Lowered, Runtime, fast, threads
from robustscape.types import Batch

PASSES = 8
PROBLEMS = (Problem(width=16), Problem(network="lenet", width=16), Problem(width=64))
LEAST = 0.02  # share below which an operator is not named


def to_inputs(model: nn.Module, batch: Batch) -> None:
    """Make the pass that an attack makes on the fast view."""
    x = batch.x.clone().requires_grad_()
    torch.autograd.grad(F.cross_entropy(model(x), batch.y, reduction="sum"), x)


def naively(model: nn.Module, batch: Batch) -> None:
    """Make the pass that public loops make: through the weights too."""
    x = batch.x.clone().requires_grad_()
    F.cross_entropy(model(x), batch.y).backward()


def timed(work: Callable[[], None], passes: int) -> tuple[float, list[tuple[str, float]]]:
    """Return milliseconds of a pass, and the operators' shares of the profiled time."""
    for _ in range(2):
        work()
    start = time.perf_counter()
    for _ in range(passes):
        work()
    milliseconds = 1e3 * (time.perf_counter() - start) / passes
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(passes):
            work()
    events = seen.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    shares = [(event.key, event.self_cpu_time_total / total) for event in events]
    return milliseconds, sorted(shares, key=lambda pair: -pair[1])


def row(words: str, work: Callable[[], None], passes: int) -> str:
    """Return a line of the table."""
    milliseconds, shares = timed(work, passes)
    named = ", ".join(f"{name.removeprefix('aten::')} {100 * share:.0f} %" for name, share in shares if share > LEAST)
    return f"| {words} | {milliseconds:.1f} | {named} |"


def table(problem: Problem, runtime: Runtime) -> None:
    """Print the table of one network."""
    batch, theirs, model = problem.examples(), problem.model(), problem.placed()
    passes = PASSES if problem.width < 64 else 2
    print(f"\n### {problem.words()}\n\n| pass | ms | operators |\n|---|---|---|")
    print(row("attack, naive float32 loop", lambda: naively(theirs, batch), passes))
    for words, used in (("float32", TRUTH), ("fastest", runtime)):
        with fast(model, used) as view:
            print(row(f"attack, fast view, {words}", lambda view=view: to_inputs(view, batch), passes))
    for words, used in (("float32", TRUTH), ("fastest", runtime)):
        outer: nn.Module = Lowered(model.train(), used)

        def one(outer: nn.Module = outer) -> Tensor:
            return F.cross_entropy(outer(batch.x), batch.y)

        print(row(f"outer pass, {words}", lambda one=one: one().backward(), passes), flush=True)


def main(count: int = 0) -> None:
    """Print all tables."""
    runtime = Runtime(threads=count)
    with threads(runtime):
        print(f"{torch.get_num_threads()} thread(s), {runtime.words()}, torch {torch.__version__}")
        for problem in PROBLEMS:
            table(problem, runtime)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
