"""What "auto" means here: precision, threads and compilation by a trial of seconds, remembered; batches by memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustscape.modes import evaluating
from robustscape.runtime.predicting import available, fitting, search_bytes, training_fit
from robustscape.runtime.ranks import world
from robustscape.runtime.remembering import cache_file, key_of, processor, read, write
from robustscape.runtime.settings import Runtime, has_fast_bfloat16, has_matrix_units
from robustscape.runtime.trial import CLEARLY, Trial, words_of
from robustscape.runtime.view import Lowered

_WORTH_A_TRIAL = 60.0  # seconds of expected work from which seconds of trial pay
_WORTH_COMPILING = 120.0  # seconds of expected work from which trying the compiler pays: that costs half a minute.
# It is not tried where products take most of the time, in float32 or without matrix units: compiled code was slower.
_BY_MEMORY = "; by memory, "


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was chosen for one model and one shape of batch on one machine, and why.

    Attributes:
        precision: "float32", "bfloat16" or "tf32".
        compile: "yes" or "no".
        threads: CPU threads.
        processes: How many one-thread processes side by side do more than one process with all threads; 1 for
            none, or where that was not tried. Whether they are started ``side_by_side`` says.
        milliseconds: Time of one pass (forward, and gradient to the inputs) of the examples that a search takes at
            once, by what was tried.
        reason: The choice in words.
        format: Memory format of the images: "channels_last", or "contiguous" where the model takes no other. It is
            noted, not obeyed: what runs the model tries anew which one it takes.
        batch: Examples of a batch, over all ranks in training; 0 where that was not noted.
        micro_batch: Examples that a rank works through at once, at most; 0 for all. Training a network with batch or
            running statistics takes the rank's share of a batch whole.
        checkpointing: Whether training computes activations again that memory does not hold.
        ranks: Processes that share a batch.
        processor: The CPU and its vector and matrix instructions, where it computes; "" where that was not noted.
        together: Whether training makes its adversarial inputs in one attack with those of other seeds.
    """

    precision: str
    compile: str
    threads: int
    processes: int
    milliseconds: dict[str, float]
    reason: str
    format: Literal["channels_last", "contiguous"] = "channels_last"
    batch: int = 0
    micro_batch: int = 0
    checkpointing: bool = False
    ranks: int = 1
    processor: str = ""
    together: bool = False

    def applied(self, runtime: Runtime) -> Runtime:
        """Return the runtime with nothing left to decide."""
        cut = self.ranks * self.micro_batch < self.batch
        return replace(
            runtime,
            precision=self.precision,  # pyright: ignore[reportArgumentType]
            compile=self.compile,  # pyright: ignore[reportArgumentType]
            threads=self.threads,
            micro_batch=self.micro_batch if cut else runtime.micro_batch,
            checkpointing=self.checkpointing or runtime.checkpointing,
        )


def decision_of(plain: Any) -> Decision | None:
    """Return the decision that was kept as plain data, None where another version kept it in another form."""
    if not isinstance(plain, Mapping) or not isinstance(plain.get("milliseconds"), Mapping):
        return None
    try:
        return Decision(**plain)
    except TypeError:
        return None


def side_by_side(decision: Decision, tasks: int) -> int:
    """Return in how many one-thread processes equal tasks end soonest; 1: in none, but one task after another.

    It is predicted from the passes that were timed, without compilation.

    Args:
        decision: How one of the tasks uses the machine.
        tasks: How many there are in all, at least 1; done or not, so that a command given again shares them alike.
    """
    one, here = (decision.milliseconds.get(words_of(decision.precision, n)) for n in (1, decision.threads))
    slower = 1.0 if decision.threads == 1 else one / here if one and here else None
    return sharing(tasks, decision.processes, slower)


def sharing(tasks: int, processes: int, slower: float | None = None) -> int:
    """Return in how many of the processes that a trial found to do more equal tasks end soonest; 1: in none.

    Args:
        tasks: How many there are in all, at least 1.
        processes: As ``Decision.processes``.
        slower: How many times longer a task takes in one of them than here; None for the most that it can be.
    """
    rounds = -(-tasks // min(tasks, processes))
    slower = CLEARLY * processes if slower is None else slower
    return -(-tasks // rounds) if rounds * slower < tasks else 1


def decide(
    runtime: Runtime,
    model: nn.Module,
    x: Tensor,
    *,
    work: int,
    training: bool = True,
    tasks: int = 1,
    processes: int = 0,
    times: float = 1.0,
    cache: Path | None = None,
) -> Decision:
    """Return what "auto" stands for, by a timed trial where the expected work is worth one.

    What the runtime fixes is left as it is. The same machine, versions, model, shape and class of work (none,
    some, enough to compile for) get the same answer again from the cache, so that two runs of one command
    compute alike. How much of a batch is worked through at once is predicted anew: memory is free or not. Nothing
    is remembered where the usual choice ran out of memory.

    Args:
        runtime: What was asked for.
        model: On its device; left as it is.
        x: (B, C, H, W), a batch of the size that the work will use, pixels.
        work: Passes (forward, and gradient to the inputs) of such batches that are to come.
        training: Whether the weights are trained, or inputs only searched for.
        tasks: How many works like this there are: memory is divided where they are ``side_by_side``.
        processes: In how many processes they are done side by side; 0 for as many as ``side_by_side`` says.
        times: How often the loss of training takes an example through the model, see ``forwards``.
        cache: File of earlier decisions; by default ``decisions.json`` in the user's cache.

    Raises:
        BadInput: there is too little memory for a single example, or for a batch that must stay whole.
    """
    path = cache or cache_file()
    each = search_bytes(model, runtime, x)
    size = fitting(len(x), each, available(runtime))
    few = x[:size]
    key = key_of(runtime, model, few)
    about = {"model": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    entry = read(path).get(key) or {**about, "shape": list(few.shape), "seconds": None, "decisions": {}}
    trial, standing = Trial(model, few), _standing(runtime)
    if entry["seconds"] is None:
        entry["seconds"] = trial.time(standing)
    expected = work * -(-len(x) // size) * entry["seconds"]
    trials = "none" if expected < _WORTH_A_TRIAL else "eager" if expected < _WORTH_COMPILING else "compiled"
    known = entry["decisions"].get(trials)
    decision = decision_of(known) or _decided(runtime, standing, trial, trials)
    some = processes or side_by_side(decision, tasks)
    decision = _fitted(decision, runtime, model, x, each, training=training, processes=some, times=times)
    if asdict(decision) != known and isfinite(entry["seconds"]):
        entry["decisions"][trials] = asdict(decision)
        write(path, key, entry)
    return decision


def _fitted(
    decision: Decision,
    runtime: Runtime,
    model: nn.Module,
    x: Tensor,
    each: float,
    *,
    training: bool,
    processes: int,
    times: float,
) -> Decision:
    """Return the decision with how much of a batch each process's memory holds, ``each`` the bytes of an example."""
    share = -(-len(x) // world()) if training else len(x)
    room = available(runtime, sharing=processes)
    size, checkpointing = fitting(share, each, room), False
    if training:
        chosen = replace(decision.applied(runtime), checkpointing=runtime.checkpointing)
        outer, checkpointing = training_fit(model, chosen, x, share, room, forwards=times)
        size = min(size, outer)
    words = [f"{size} of {share} examples at once"] * (size < share)
    words += ["activations computed again"] * (checkpointing and not runtime.checkpointing)
    if words and training:
        warnings.warn(f"memory does not hold a batch: {', '.join(words)}", stacklevel=3)
    run = Lowered(model, runtime)
    with evaluating(model):
        run.settle(x)
    return replace(
        decision,
        reason=decision.reason.partition(_BY_MEMORY)[0] + (_BY_MEMORY + ", ".join(words) if words else ""),
        format=str(run.format).removeprefix("torch.").removesuffix("_format"),
        batch=len(x),
        micro_batch=min(size, runtime.micro_batch or share),
        checkpointing=checkpointing,
        ranks=world() if training else 1,
    )


def _standing(runtime: Runtime) -> Runtime:
    """Return what is used unless a trial shows something clearly faster."""
    fastest = "bfloat16" if has_fast_bfloat16(runtime.torch_device()) else "float32"
    return replace(
        runtime,
        precision=fastest if runtime.precision == "auto" else runtime.precision,
        compile="no" if runtime.compile == "auto" else runtime.compile,
        threads=runtime.threads or torch.get_num_threads(),
    )


def _decided(runtime: Runtime, standing: Runtime, trial: Trial, trials: str) -> Decision:
    """Return the choice among what was left open."""
    chosen, processes, reason = standing, 1, "the fastest of a trial"
    if trials == "none":
        return _decision(chosen, trial, processes, "too little work for a trial")
    if runtime.precision == "auto" and chosen.precision == "bfloat16":
        chosen = trial.faster(replace(chosen, precision="float32"), chosen)
    if runtime.threads == 0 and standing.threads > 1 and runtime.torch_device().type == "cpu":
        alone = replace(chosen, threads=1)
        if trial.time(alone) < CLEARLY * standing.threads * trial.time(chosen):
            processes = standing.threads
        chosen = trial.faster(alone, chosen)
    device = runtime.torch_device()
    slow = not has_matrix_units(device) or (device.type == "cpu" and chosen.precision == "float32")
    if runtime.compile == "auto" and trials == "compiled" and not slow:
        chosen = trial.faster(replace(chosen, compile="yes"), chosen)
    elif runtime.compile == "auto" and trials == "compiled":
        reason += "; not compiled, since products take most of the time here"
    elif runtime.compile == "auto":
        reason += "; too little work to compile for"
    return _decision(chosen, trial, processes, reason)


def _decision(chosen: Runtime, trial: Trial, processes: int, reason: str) -> Decision:
    on_cpu = chosen.torch_device().type == "cpu"
    return Decision(
        precision=chosen.precision,
        compile=chosen.compile,
        threads=chosen.threads,
        processes=processes,
        milliseconds={words: round(1e3 * s, 2) for words, s in trial.seconds.items() if s < float("inf")},
        reason=reason,
        processor=processor() if on_cpu else "",
    )
