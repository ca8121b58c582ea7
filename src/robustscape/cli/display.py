"""What the command line shows: text, the progress of a training, the progress of a computation."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.tree import Tree

from robustscape.cli.arguments import number_words
from robustscape.config import hints, is_component
from robustscape.training.log import EpochLog
from robustscape.training.loop import Epoch, Step

if TYPE_CHECKING:
    from robustscape.recipes.watching import Measuring

T = TypeVar("T")


def out(text: str = "") -> None:
    """Write one line to stdout, as it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write one line to stderr: what is not the result itself."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def terminal_width() -> int:
    """Return how many characters a table may be wide: the terminal's width, or 160 where there is none."""
    console = Console()
    return console.width if console.is_terminal else 160


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn())
    left = (TextColumn("ETA"), TimeRemainingColumn())
    return Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal)


def follow_training(
    events: Iterable[tuple[int, Step | Epoch | Measuring]], *, names: Sequence[str], epochs: int
) -> None:
    """Run trainings to their end, showing where they are: a bar with ETA each on a terminal, a line an epoch always.

    Args:
        events: What ``recipes.execute.train_several`` yields.
        names: What the bars and lines call the runs.
        epochs: How many epochs each has.
    """
    from robustscape.recipes.watching import Measuring

    console = Console()
    with _bars(console) as bars:
        waiting = bars.add_task(names[0] if len(names) == 1 else f"{len(names)} runs", total=None)
        running: dict[int, TaskID] = {}
        for number, event in events:
            name = names[number]
            if isinstance(event, Epoch):
                line = f"{name}  {epoch_line(event.log, epochs)}"
                for text in (line, *(f"{name}  {said}" for said in said_of(event.log))):
                    console.print(text, markup=False, highlight=False, soft_wrap=True)
                if not console.is_terminal:
                    console.file.flush()
                elif (event.log.epoch == epochs or event.log.stopped) and number in running:
                    bars.remove_task(running.pop(number))
                    bars.update(waiting, visible=not running)
            elif isinstance(event, Measuring):
                words = f"{name}  epoch {event.epoch}/{epochs}  {event.name} {event.done}/{event.total}"
                if event.file:
                    console.print(f"{name}  {event.file}", markup=False, highlight=False, soft_wrap=True)
                elif number in running:
                    bars.update(running[number], description=words)
            elif console.is_terminal:
                words = f"{name}  epoch {event.epoch}/{epochs}  loss {event.log.loss['total']:.4f}"
                if number not in running:
                    running[number] = bars.add_task(words, total=event.total)
                    bars.update(waiting, visible=False)
                bars.update(running[number], description=words, completed=event.done)


def epoch_line(entry: EpochLog, epochs: int) -> str:
    """Return what a person wants to know of one epoch, in one line."""
    parts = [f"epoch {entry.epoch}/{epochs}", f"lr {entry.lr:.4g}", f"loss {entry.loss['total']:.4f}"]
    for name, tracked in entry.tracked.items():
        robust = "" if tracked.robust_accuracy is None else f", robust {tracked.robust_accuracy:.1%}"
        parts.append(f"{name} clean {tracked.clean_accuracy:.1%}{robust}")
    parts.append(f"{entry.seconds:.1f} s, {entry.examples_per_second:.0f} examples/s")
    return "  ".join((*parts, *["best so far"] * entry.selected))


def said_of(entry: EpochLog) -> list[str]:
    """Return what the guards noticed in an epoch, and why training stopped there, a line each."""
    stopped = [f"stopped after epoch {entry.epoch}: {entry.stopped}"] if entry.stopped else []
    return [f"warning, epoch {entry.epoch}: {text}" for text in entry.warnings] + stopped


def follow(work: Generator[tuple[int, int] | tuple[int, int, str], None, T], *, name: str) -> T:
    """Run a computation to its end and return its value, with a bar and ETA where stderr is a terminal.

    Args:
        work: Yields (done, total), or with words of how it stands, and returns the value.
        name: What the bar calls it.
    """
    console = Console(stderr=True)
    with _bars(console) as bars:
        bar = bars.add_task(name, total=None) if console.is_terminal else None
        while True:
            try:
                done, total, *words = next(work)
            except StopIteration as end:
                return end.value
            if bar is not None:
                bars.update(bar, completed=done, total=total, description=", ".join((name, *words)))


def show_component(value: Any, name: str) -> None:
    """Print a component and all that it is made of as a tree."""
    Console(highlight=False).print(_tree(value, Tree(f"[bold]{name}[/bold]: {type(value).__name__}")))


def _tree(value: Any, tree: Tree) -> Tree:
    for name in hints(type(value)):
        if not hasattr(value, name):
            continue
        item = getattr(value, name)
        if is_component(item):
            _tree(item, tree.add(f"[bold]{name}[/bold]: {type(item).__name__}"))
        else:
            tree.add(f"{name}: {value_words(item)}")
    return tree


def value_words(value: Any) -> str:
    """Return a plain value as it would be written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return number_words(value)
    if isinstance(value, (tuple, list)):
        return " ".join(map(value_words, value)) or "(none)"
    return str(value)
