"""A run that has begun: what it trains, how it uses the machine, and what it writes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from robustscape.config import to_plain
from robustscape.data.splits import on_device
from robustscape.recipes.folder import clear, forget, held, log_up_to, warn_of_change
from robustscape.recipes.given import Given, batches, check, loaded, network
from robustscape.recipes.run import Run
from robustscape.results import SCHEMA, provenance, write_json
from robustscape.runtime import Runtime, place, threads
from robustscape.runtime.counting import forwards, passes
from robustscape.runtime.deciding import Decision, decide, decision_of
from robustscape.runtime.ranks import barrier, first_alone, from_first, gathered, is_first, world
from robustscape.streams import torch_draws
from robustscape.training.batch_loss import rows_of
from robustscape.training.checkpoints import digest, load_state, save_state, save_weights
from robustscape.training.last_batch import check_last_batch
from robustscape.training.log import TrainingLog, write_log
from robustscape.training.loop import Epoch, State, Step, start
from robustscape.training.step import check_walk
from robustscape.types import Attack, BadInput, Batch, Batches, DataSource, Images, Plain, Splits


@dataclass(kw_only=True, eq=False)
class Begun:
    """A run that trains now, or is about to: what it trains, and what it writes."""

    run: Run
    out: Path
    about: Plain
    state: State
    loader: Batches
    splits: Splits
    tracked: Mapping[str, Images]
    decision: Decision
    runtime: Runtime
    log: TrainingLog
    saved: float

    def keep(self, event: Step | Epoch) -> None:
        """Write log, checkpoints and state as events come; the first rank does."""
        if not is_first():
            return
        folder, state = self.out / "checkpoints", self.state
        if isinstance(event, Step):
            if time.monotonic() - self.saved > self.run.training.checkpoint_seconds:
                save_state(state, folder / "resume.safetensors")
                self.saved = time.monotonic()
            return
        entry = event.log
        metadata = {"architecture": to_plain(self.run.model), **self.about, "epoch": entry.epoch}
        for checkpoint in self._names(event):
            note = {"selected": "on test, as the papers do"} if checkpoint == "best_on_test" else {}
            forget(self.out / "results", checkpoint)
            if checkpoint.startswith("snapshot-"):
                forget(self.out / "results", "ensemble")
            save_weights(state.kept, folder / f"{checkpoint}.safetensors", metadata | note)
        self.log = TrainingLog(epochs=(*self.log.epochs, entry))
        write_log(self.out / "log.jsonl", self.log)
        save_state(state, folder / "resume.safetensors")
        self.saved = time.monotonic()

    def _names(self, event: Epoch) -> Iterator[str]:
        every, epoch = self.run.training.keep_every, event.log.epoch
        yield "last"
        if event.log.selected:
            yield "best"
        if event.best_on_test:
            yield "best_on_test"
        if every and epoch % every == 0:
            yield f"epoch-{epoch:04d}"
        if snapshot := self.run.training.snapshot_after(epoch):
            yield snapshot


def prepared(run: Run, out: Path, name: str, decision: Decision | None) -> Begun:
    """Begin a run or go on with it, up to its next step; see ``train``."""
    if run.runtime.devices != world():
        raise BadInput(
            f"the run is for {run.runtime.devices} devices, and {world()} process(es) are here; did you mean "
            "`robustscape train`, torchrun or runtime.launching.launch, which start them?"
        )
    check(run)
    document = held(run, out)
    if document is not None and is_first():
        warn_of_change(run, out, document)
    barrier()  # nobody looks any more: now it may change
    if is_first():
        clear(out)
    given = loaded(run)
    splits = given.splits
    _same(given, document, out)
    tracked = _tracked(run, splits)  # refused, where it is another kind of data, before anything is written
    about = {"image": list(splits.train.x.shape[1:]), "classes": list(splits.train.classes)}
    with threads(run.runtime):
        state, loader, begins_with = fresh(run, given)
        if document is None:
            check_last_batch(state.model, run.objective, loader)
            check_walk(run.training, loader)
        resume = out / "checkpoints" / "resume.safetensors"
        if resume.exists():
            load_state(state, resume)
        _agree(state, resume)
        decision = from_first(decision_for(run, document, state.model, loader, decision) if is_first() else None)
        assert decision is not None
        runtime = decision.applied(run.runtime)
    if document is None and is_first():
        if begins_with:
            warnings.warn(begins_with, stacklevel=3)
        with threads(runtime):
            made = {"train_n": len(splits.train), "decided": asdict(decision), **_made(run, runtime)}
        if hashes := given.hashes():
            made["given"] = hashes
        if run.training.keep_every:
            begins = {"architecture": to_plain(run.model), **about, "epoch": 0}
            save_weights(state.kept, out / "checkpoints" / "epoch-0000.safetensors", begins)
        write_json(out / "run.json", {"schema": SCHEMA, "run": to_plain(run), "name": name, **about, **made})
    return Begun(
        run=run,
        out=out,
        about=about,
        state=state,
        loader=loader,
        splits=splits,
        tracked=tracked,
        decision=decision,
        runtime=runtime,
        log=log_up_to(out / "log.jsonl", state.epoch),
        saved=time.monotonic(),
    )


def fresh(run: Run, given: Given) -> tuple[State, Batches, str]:
    """Return the state before the first step, what serves the training images, and in words what it begins with."""
    model, begins_with = network(run, given)
    return start(place(model, run.runtime), run.objective, run.training), batches(run, given), begins_with


def settled(document: Plain) -> Decision | None:
    """Return how a run uses the machine that has begun, None for one that has not, or not said it."""
    return None if document is None else decision_of(document.get("decided"))


def decision_for(
    run: Run,
    document: Plain,
    model: nn.Module,
    loader: Batches,
    wanted: Decision | None = None,
    *,
    tasks: int = 1,
    processes: int = 0,
) -> Decision:
    """Return how the machine is used: as the run began, as is wanted, or by the expected work of all its attacks.

    Args:
        run: What is trained.
        document: Its run.json, None for a run that has not begun.
        model: Its network.
        loader: Its batches.
        wanted: How a run that begins here uses the machine, None where that is not known.
        tasks: As for ``decide``: how many runs like this one there are.
        processes: As for ``decide``: how many of them train side by side.
    """
    if begun := settled(document):
        return begun
    batch = next(loader.epoch(0))  # what cannot be made is refused before anything is written
    if document is not None:
        return decide(run.runtime, model, batch.x, work=0)  # begun by a version that had no trials
    if wanted is not None:
        return wanted
    attack = run.objective.attack
    few = rows_of(batch, slice(2))
    with torch_draws(run.seed, batch.x.device):
        each = 1 if attack is None else _passes(attack, model, few)
        work = each * run.training.epochs * len(loader)
        times = forwards(lambda counted: run.objective(counted, few, few.x), model, len(few))
        return decide(run.runtime, model, batch.x, work=work, tasks=tasks, processes=processes, times=times)


def _passes(attack: Attack, model: nn.Module, few: Batch) -> int:
    """Return the passes that an attack makes of one example; refuse one that cannot attack mixed images."""
    try:
        return passes(attack, model, few.x, few.goal)
    except BadInput as error:
        if few.mixed is None:
            raise
        raise BadInput(
            f"{error}; mixup gives each image shares of two: set targets.mixup to 0, or did you mean "
            "--objective.attack pgd?"
        ) from None


def _same(given: Given, document: Plain, out: Path) -> None:
    """Refuse to go on with other files than the run began with."""
    began = {} if document is None else document.get("given", {})
    for option, value in given.hashes().items() if began else ():
        if began.get(option) != value:
            raise BadInput(
                f"the file of --{option} has changed since {out} began with it; put the old one back, or choose "
                "another --out"
            )


def _agree(state: State, resume: Path) -> None:
    """Refuse ranks that would begin from different states."""
    if world() > 1 and len(set(gathered((digest(state.model), state.done)))) > 1:
        raise BadInput(f"the ranks begin from different states; do all of them see the same {resume}?")


def _tracked(run: Run, splits: Splits) -> dict[str, Images]:
    """Return the sets whose accuracy is logged."""
    if not run.training.track:
        return {}
    tracked = {"train": splits.train, "validation": splits.validation}
    tracked |= {"test": splits.test} if run.training.track_test else {}
    return tracked if run.tracking is None else tracked | {"tracking": _further(run, run.tracking, splits.train)}


def _further(run: Run, source: DataSource, like: Images) -> Images:
    """Return the tracking set, of images and classes as those trained on.

    Raises:
        BadInput: they are others.
    """
    splits = first_alone(lambda: source.load(seed=run.seed))
    images = on_device(splits, run.runtime.torch_device()).test
    if images.x.shape[1:] != like.x.shape[1:] or len(images.classes) != len(like.classes):
        there, here = (f"{tuple(i.x.shape[1:])} in {len(i.classes)} classes" for i in (images, like))
        raise BadInput(f"the tracking set {images.name!r} has images {there}, and those trained on are {here}")
    return images


def _made(run: Run, runtime: Runtime) -> Plain:
    device = runtime.torch_device()
    made = provenance(
        seconds=0.0, device=device, precision=runtime.words(), seed=run.seed, model="", data="", settings=None
    )
    return {"provenance": to_plain(made)}
