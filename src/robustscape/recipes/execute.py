"""Carry out a Run: from its settings to a folder of settings, log and checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from robustscape.recipes.begun import decision_for, fresh, prepared, settled
from robustscape.recipes.folder import held, log_up_to
from robustscape.recipes.given import check, loaded
from robustscape.recipes.run import Run
from robustscape.recipes.watching import Measuring, score_of, watched
from robustscape.runtime import Runtime, threads
from robustscape.runtime.deciding import Decision, side_by_side
from robustscape.runtime.pool import pooled, sendable
from robustscape.runtime.ranks import world
from robustscape.runtime.together import suited
from robustscape.training.loop import Epoch, Step, fit, is_over
from robustscape.training.together import fit_together, fits_together
from robustscape.types import BadInput, Diverged, Plain

T = TypeVar("T")
Event: TypeAlias = Step | Epoch | Measuring
"""What a training gives as it goes on."""


def train(run: Run, out: Path, *, name: str, decision: Decision | None = None) -> Iterator[Event]:
    """Train into a folder, going on where an earlier call with the same Run was stopped; give every step.

    A run that was attacked together with other seeds goes on alone with a warning: its bits may differ.

    Writes ``run.json``, ``log.jsonl`` and ``checkpoints/``: ``last``, ``best`` (on validation), on request
    ``best_on_test`` and every k-th epoch as ``epoch-0010``, and ``resume``, the whole state. Results of a checkpoint
    that is replaced are removed. Ranks share every batch; the first alone writes. Where the Run is watched, what it
    measures goes to ``results/``.

    Args:
        run: What to do.
        out: The folder, new or of the same Run.
        name: What tables call it: the recipe's name.
        decision: How a run that begins here uses the machine; None for what a trial shows to be fastest.

    Raises:
        BadInput: the folder holds another run, the data cannot be had, or there are not as many ranks as
            ``run.runtime.devices``: see ``runtime.launching.launch``.
        Diverged: a number that must be finite is not.
    """
    begun = prepared(run, out, name, decision)
    if begun.decision.together and not is_over(begun.state, run.training):
        warnings.warn(
            f"{out} was attacked together with other seeds and goes on alone: its bits may differ from an "
            "uninterrupted run's",
            stacklevel=2,
        )
    events = fit(
        begun.state,
        begun.loader,
        objective=run.objective,
        weights=run.weights,
        settings=run.training,
        runtime=begun.runtime,
        seed=run.seed,
        tracked=begun.tracked,
        score=score_of(begun),
    )
    yield from _under_threads(watched(begun), begun.runtime)  # what a kill has left to do
    for event in _under_threads(events, begun.runtime):
        begun.keep(event)
        yield event
        if isinstance(event, Epoch):
            yield from _under_threads(watched(begun), begun.runtime)


def train_several(
    runs: Sequence[tuple[Run, Path]], *, name: str, processes: int = 0
) -> Generator[tuple[int, Event], None, None]:
    """Train runs that are equal but for the seed, each into its folder as ``train`` does; give (its number, event).

    Where that is faster they train side by side: linear networks and MLPs in one process, attacked together, others
    in processes of one thread each. What has begun goes on as it began: a run that was attacked alone stays so, one
    that has several threads keeps them, and such runs train first, one after another. An error in one of the runs,
    or closing the generator, stops all; the same call goes on with them. A script that calls this with processes
    other than 1 needs ``if __name__ == "__main__":``.

    Args:
        runs: What to do and the folder of each, at least one; a finished one gives no events.
        name: What tables call them: the recipe's name.
        processes: How many side by side, on the CPU; 0 for as many as a trial of the first run shows to end sooner
            than one run after another with all threads, 1 for one run after another.

    Raises:
        BadInput: what ``train`` refuses in one of them, or processes that make no sense.
        Diverged: a number that must be finite is not: says in which run.
        RankLost: one of the processes died.
    """
    for run, _ in runs:
        check(run)
    documents = [held(run, out) for run, out in runs]
    free = [n for n, document in enumerate(documents) if document is None or _was_together(document)]
    if processes == 0 and (whole := _for_all([runs[n] for n in free], [documents[n] for n in free])):
        yield from _in_turn((tuple(runs), name, None), [n for n in range(len(runs)) if n not in free])
        for n, event in _together([runs[n] for n in free], name, whole):
            yield free[n], event
        return
    decision = _for_each(runs, documents[0], processes)
    parcel = (tuple(runs), name, decision)
    alone = [n for n, document in enumerate(documents) if decision is None or _has_threads(document)]
    beside = [n for n in range(len(runs)) if n not in alone]
    yield from _in_turn(parcel, alone)
    left = sum(not _is_complete(*runs[n]) for n in beside)
    some = min(left, 1 if decision is None else decision.processes)
    yield from pooled(_trained, parcel, beside, processes=some) if some > 1 else _in_turn(parcel, beside)


def _under_threads(events: Iterator[T], runtime: Runtime) -> Iterator[T]:
    """Compute every event under the runtime's threads; between events the caller has its own."""
    while True:
        with threads(runtime):
            event = next(events, None)
        if event is None:
            return
        yield event


# -- several runs --------------------------------------------------------------------------------------

_BESIDE = "; runs side by side"
_Parcel = tuple[Sequence[tuple[Run, Path]], str, Decision | None]


def _for_each(runs: Sequence[tuple[Run, Path]], document: Plain, processes: int) -> Decision | None:
    """Return how each run begins where they train in processes of their own, None where one after another.

    It depends on nothing that changes while they train, so that those which begin after a kill begin alike.
    """
    run, _ = runs[0]
    kind, given = run.runtime.torch_device().type, run.runtime.threads
    if processes < 0:
        raise BadInput(f"processes must be at least 0, not {processes}")
    if processes > 1 and kind != "cpu":
        raise BadInput(f"processes is {processes}, but they share the CPU, not {kind}; did you mean processes=1?")
    if processes > 1 and world() > 1:
        raise BadInput(f"processes is {processes}, but {world()} ranks share every run already; leave one of them out")
    if processes > 1 and given > 1:
        raise BadInput(f"processes is {processes}, each of one thread, but threads is {given}; leave one of them out")
    if processes == 1 or len(runs) == 1 or kind != "cpu" or world() > 1:
        return None
    if processes == 0 and not sendable(_trained, runs):
        return None
    decision = settled(document) or _tried(run, document, len(runs), processes)
    some = processes or side_by_side(decision, len(runs))
    reason = decision.reason.removesuffix(_BESIDE) + _BESIDE
    return replace(decision, threads=1, processes=some, reason=reason, together=False) if some > 1 else None


def _for_all(runs: Sequence[tuple[Run, Path]], documents: Sequence[Plain]) -> Decision | None:
    """Return how all runs use the machine if attacking them together is faster, None if not.

    It depends on nothing that changes while they train.
    """
    if len(runs) < 2 or world() > 1:
        return None
    run, begun = runs[0][0], [document for document in documents if document is not None]
    alike = all(replace(other, seed=run.seed) == run for other, _ in runs)
    if not alike or any(settled(document) != settled(begun[0]) for document in begun):
        return None
    given = loaded(run)
    with threads(run.runtime):
        state, loader, _ = fresh(run, given)
        batch = next(loader.epoch(0))
        if not suited(state.model):
            return None
        decision = decision_for(run, begun[0] if begun else None, state.model, loader)
    runtime = decision.applied(run.runtime)
    with threads(runtime):
        models = [state.model] * len(runs)
        fits = fits_together(models, batch, objective=run.objective, settings=run.training, runtime=runtime)
    return replace(decision, together=True) if fits else None


def _together(
    runs: Sequence[tuple[Run, Path]], name: str, decision: Decision
) -> Generator[tuple[int, Event], None, None]:
    """Train all runs here, attacked together; finished ones keep their places."""
    begun = [prepared(run, out, name, decision) for run, out in runs]
    run, runtime = begun[0].run, begun[0].runtime
    events = fit_together(
        [one.state for one in begun],
        [one.loader for one in begun],
        objective=run.objective,
        weights=run.weights,
        settings=run.training,
        runtime=runtime,
        seeds=[one.run.seed for one in begun],
        tracked=[one.tracked for one in begun],
        scores=[score_of(one) for one in begun],
    )
    try:
        for number, one in enumerate(begun):
            yield from ((number, event) for event in _under_threads(watched(one), runtime))
        for number, event in _under_threads(events, runtime):
            begun[number].keep(event)
            yield number, event
            if isinstance(event, Epoch):
                yield from ((number, event) for event in _under_threads(watched(begun[number]), runtime))
    except Diverged as error:
        raise Diverged(f"{error}; the same command without this seed goes on with the others") from None


def _tried(run: Run, document: Plain, tasks: int, processes: int) -> Decision:
    """Return what a trial says of one of several runs, without beginning it."""
    given = loaded(run)
    with threads(run.runtime):
        state, loader, _ = fresh(run, given)
        return decision_for(run, document, state.model, loader, tasks=tasks, processes=processes)


def _was_together(document: Plain) -> bool:
    decision = settled(document)
    return decision is not None and decision.together


def _has_threads(document: Plain) -> bool:
    """Return whether a run has begun, and not with one thread."""
    begun = settled(document)
    return document is not None and (begun is None or begun.threads != 1)


def _is_complete(run: Run, out: Path) -> bool:
    epochs = log_up_to(out / "log.jsonl", run.training.epochs).epochs
    return bool(epochs) and (len(epochs) == run.training.epochs or bool(epochs[-1].stopped))


def _in_turn(parcel: _Parcel, numbers: Sequence[int]) -> Iterator[tuple[int, Event]]:
    """Train runs here, one after another."""
    for number in numbers:
        for event in _trained(parcel, number):
            yield number, event


def _trained(parcel: _Parcel, number: int) -> Iterator[Event]:
    """Train one of the runs; what is wrong with it names it where there are others."""
    runs, name, decision = parcel
    run, out = runs[number]
    try:
        yield from train(run, out, name=name, decision=decision)
    except (BadInput, Diverged) as error:
        if len(runs) == 1:
            raise
        raise type(error)(f"{out}: {error}; the same command without this run goes on with the others") from None
