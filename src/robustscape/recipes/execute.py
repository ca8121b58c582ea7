"""Carry out a Run: from its settings to a folder of settings, log and checkpoints."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch import nn

from robustscape.config import from_plain, to_plain
from robustscape.data.batches import Loader
from robustscape.data.splits import on_device
from robustscape.recipes.run import Run
from robustscape.results import SCHEMA, device_name, provenance, read_run, versions, write_json
from robustscape.runtime import Runtime, place, threads
from robustscape.runtime.deciding import Decision, decide, passes
from robustscape.runtime.ranks import barrier, from_first, gathered, is_first, world
from robustscape.training.checkpoints import digest, load_state, save_state, save_weights
from robustscape.training.log import TrainingLog, read_log, write_log
from robustscape.training.loop import Epoch, State, Step, fit, start
from robustscape.types import BadInput, Images, Plain, Splits


def train(run: Run, out: Path, *, name: str) -> Iterator[Step | Epoch]:
    """Train into a folder, going on where an earlier call with the same Run was stopped; give every step.

    Writes ``run.json``, ``log.jsonl`` and ``checkpoints/``: ``last``, ``best`` (on validation), on request
    ``best_on_test`` and every k-th epoch as ``epoch-0010``, and ``resume``, the whole state. Results of a checkpoint
    that is replaced are removed. Ranks share every batch; the first alone writes.

    Args:
        run: What to do.
        out: The folder, new or of the same Run.
        name: What tables call it: the recipe's name.

    Raises:
        BadInput: the folder holds another run, the data cannot be had, or there are not as many ranks as
            ``run.runtime.devices``: see ``runtime.launching.launch``.
        Diverged: a number that must be finite is not.
    """
    if run.runtime.devices != world():
        raise BadInput(
            f"the run is for {run.runtime.devices} devices, and {world()} process(es) are here; did you mean "
            "`robustscape train`, torchrun or runtime.launching.launch, which start them?"
        )
    document = _claim(run, out)
    barrier()  # nobody looks any more: now it may change
    if is_first():
        _clear(out)
    splits = on_device(_loaded(run), run.runtime.torch_device())
    channels, height, width = splits.train.x.shape[1:]
    image = (channels, height, width)
    about = {"image": list(image), "classes": list(splits.train.classes)}
    with threads(run.runtime):
        model = run.model.build(image=image, classes=len(splits.train.classes), seed=run.seed)
        state = start(place(model, run.runtime), run.objective, run.training)
        resume = out / "checkpoints" / "resume.safetensors"
        if resume.exists():
            load_state(state, resume)
        _agree(state, resume)
        loader = Loader(images=splits.train, batch_size=run.training.batch_size, seed=run.seed, augment=run.augment)
        decision = from_first(_decision(run, document, state.model, loader) if is_first() else None)
        assert decision is not None
        runtime = decision.applied(run.runtime)
    if document is None and is_first():
        with threads(runtime):
            made = {"train_n": len(splits.train), "decided": asdict(decision), **_made(run, runtime)}
        write_json(out / "run.json", {"schema": SCHEMA, "run": to_plain(run), "name": name, **about, **made})
    events = fit(
        state,
        loader,
        objective=run.objective,
        weights=run.weights,
        settings=run.training,
        runtime=runtime,
        seed=run.seed,
        tracked=_tracked(run, splits),
    )
    events = _under_threads(events, runtime)
    yield from _keep(events, state, run, out, about) if is_first() else events


def _decision(run: Run, document: Plain, model: nn.Module, loader: Loader) -> Decision:
    """Return how the machine is used: as the run began, or by the expected work of all its attacks."""
    if document is not None and "decided" in document:
        return Decision(**document["decided"])
    batch = next(loader.epoch(0))  # what cannot be made is refused before anything is written
    if document is not None:
        return decide(run.runtime, model, batch.x, work=0)  # begun by a version that had no trials
    attack = run.objective.attack
    each = 1 if attack is None else passes(attack, model, batch.x[:2], batch.y[:2])
    return decide(run.runtime, model, batch.x, work=each * run.training.epochs * len(loader))


def _clear(out: Path) -> None:
    """Remove what a kill left behind."""
    for folder in (out, out / "checkpoints"):
        for leftover in filter(_is_leftover, folder.iterdir() if folder.is_dir() else ()):
            leftover.unlink(missing_ok=True)


def _loaded(run: Run) -> Splits:
    """Load the data, the first rank before the others, so that it alone downloads."""
    if not is_first():
        barrier()
    splits = run.data.load(seed=run.seed)
    if is_first():
        barrier()
    return splits


def _agree(state: State, resume: Path) -> None:
    """Refuse ranks that would begin from different states."""
    if world() > 1 and len(set(gathered((digest(state.model), state.done)))) > 1:
        raise BadInput(f"the ranks begin from different states; do all of them see the same {resume}?")


def _tracked(run: Run, splits: Splits) -> dict[str, Images]:
    """Return the sets whose accuracy is logged."""
    if not run.training.track:
        return {}
    tracked = {"train": splits.train, "validation": splits.validation}
    return tracked | ({"test": splits.test} if run.training.track_test else {})


def _under_threads(events: Iterator[Step | Epoch], runtime: Runtime) -> Iterator[Step | Epoch]:
    """Compute every event under the runtime's threads; between events the caller has its own."""
    while True:
        with threads(runtime):
            event = next(events, None)
        if event is None:
            return
        yield event


def _claim(run: Run, out: Path) -> Plain:
    """Return the folder's run.json, None for a new folder; refuse a folder that holds something else."""
    path = out / "run.json"
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file, and a run is a directory; did you mean another --out?")
    if not path.exists():
        if out.exists() and any(not _is_leftover(item) for item in out.iterdir()):
            raise BadInput(f"{out} is not empty and holds no run; did you mean another --out?")
        return None
    document = read_run(out)
    held, wanted = to_plain(from_plain(document["run"])), to_plain(run)
    if held != wanted:
        raise BadInput(
            f"{out} holds another run ({', '.join(_differences(held, wanted))}); choose another --out, or remove it"
        )
    there = document["provenance"]
    here = {
        "versions": versions(),
        "device": device_name(run.runtime.torch_device()),
    }
    for what, value in here.items():
        if there[what] != value and is_first():
            warnings.warn(
                f"{out} was begun with {what} {there[what]} and goes on with {value}: its bits may differ from an "
                "uninterrupted run's",
                stacklevel=3,
            )
    return document


def _is_leftover(path: Path) -> bool:
    """Return whether a kill left the file: what ``results.written`` had not yet given its name."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _differences(held: Plain, wanted: Plain, path: str = "") -> list[str]:
    """Name the fields in which two plain Runs differ, with both values."""
    if isinstance(held, dict) and isinstance(wanted, dict) and held.get("type") == wanted.get("type"):
        return [line for key in wanted for line in _differences(held.get(key), wanted[key], f"{path}.{key}".strip("."))]
    return [] if held == wanted else [f"{path} {_short(held)} there, {_short(wanted)} here"]


def _short(plain: Plain) -> str:
    return str(plain["type"].rpartition(":")[2]) if isinstance(plain, dict) and "type" in plain else str(plain)


def _made(run: Run, runtime: Runtime) -> Plain:
    device = runtime.torch_device()
    made = provenance(
        seconds=0.0, device=device, precision=runtime.words(), seed=run.seed, model="", data="", settings=None
    )
    return {"provenance": to_plain(made)}


def _keep(events: Iterator[Step | Epoch], state: State, run: Run, out: Path, about: Plain) -> Iterator[Step | Epoch]:
    """Pass the events on; write log, checkpoints and state as they come."""
    folder = out / "checkpoints"
    log = _log_up_to(out / "log.jsonl", state.epoch)
    saved = time.monotonic()
    for event in events:
        if isinstance(event, Step):
            if time.monotonic() - saved > run.training.checkpoint_seconds:
                save_state(state, folder / "resume.safetensors")
                saved = time.monotonic()
            yield event
            continue
        entry = event.log
        metadata = {"architecture": to_plain(run.model), **about, "epoch": entry.epoch}
        names = ["last"]
        names += ["best"] if entry.selected else []
        names += ["best_on_test"] if event.best_on_test else []
        every = run.training.keep_every
        names += [f"epoch-{entry.epoch:04d}"] if every and entry.epoch % every == 0 else []
        for checkpoint in names:
            note = {"selected": "on test, as the papers do"} if checkpoint == "best_on_test" else {}
            _forget(out / "results", checkpoint)
            save_weights(state.kept, folder / f"{checkpoint}.safetensors", metadata | note)
        log = TrainingLog(epochs=(*log.epochs, entry))
        write_log(out / "log.jsonl", log)
        save_state(state, folder / "resume.safetensors")
        saved = time.monotonic()
        yield event


def _forget(results: Path, checkpoint: str) -> None:
    """Remove the results of a checkpoint that is about to be replaced: they are not those of the new weights."""
    for path in results.glob("*") if results.is_dir() else ():
        if re.match(rf"[^-]+-{checkpoint}[-.]", path.name):
            path.unlink()


def _log_up_to(path: Path, epochs: int) -> TrainingLog:
    """Read the log of the epochs that the saved state has seen: a later line was written just before a kill."""
    if not path.exists():
        return TrainingLog(epochs=())
    return TrainingLog(epochs=read_log(path).epochs[:epochs])
