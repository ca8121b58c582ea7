"""Give images the labels that a trained network sees in them: `robustscape label SOURCE --to FILE.npz`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import nn

from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import follow, out
from robustscape.cli.sources import (
    FORMS,
    Look,
    Source,
    folder_of,
    look,
    model_of,
    nouns,
    ranked,
    sources,
    splits_of,
    wants_help,
)
from robustscape.results import read_run, stopwatch
from robustscape.runtime import threads
from robustscape.runtime.launching import launch
from robustscape.runtime.ranks import RankLost, first_alone, is_first
from robustscape.types import BadInput, Images, Splits


@dataclass(frozen=True, kw_only=True)
class Label:
    """Options of ``label``.

    Attributes:
        look: Which data, network and machine.
        checkpoint: Which checkpoint of a run: best (on validation), last, best_on_test, epoch-0010, ...
        images: Images without labels, in place of those of a split: a folder or a zip of them, in whatever folders
            they lie, or an .npz file with an array x. --data then only says what the classes of a model from elsewhere
            are.
        splits: Which images of the data: train, validation, test, or hidden: those whose labels the run's own
            unlabelled.hide took away. By default these, or train where the run hides none.
        n: The first so many images; none for all.
        batch_size: Images per forward.
        to: The file that is written, ending in .npz; by default pseudo_labels.npz in the run's folder.
    """

    look: Look = field(metadata=SPREAD)
    checkpoint: str = "best"
    images: Path | None = None
    splits: tuple[Literal["hidden", "train", "validation", "test"], ...] = ()
    n: int | None = None
    batch_size: int = 250
    to: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("n", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadInput(f"{name} must be at least 1, not {value}")
        if self.images is not None and self.splits:
            raise BadInput("--images and --splits both say which images; leave one of the two out")
        if self.to is not None and self.to.suffix != ".npz":
            raise BadInput(f"--to must name an .npz file, and {str(self.to)!r} is none")


def main(arguments: list[str]) -> None:
    """Label images by one source, in as many processes as the options say.

    Raises:
        BadInput: no source or several, images that are not there, or a file that is there already.
        SystemExit: one of several processes died.
    """
    words, options = nouns(arguments)
    if wants_help(options):
        _options(None, options)
    found = sources(words)
    if len(found) != 1:
        raise BadInput("label needs one network: robustscape label SOURCE --to FILE.npz (a run, a checkpoint, ...)")
    asked = _options(found[0], options)
    asked = replace(asked, look=ranked(asked.look, 1))
    path = asked.to or folder_of(found[0], asked.look, 1) / "pseudo_labels.npz"
    if path.exists():
        raise BadInput(f"{path} is there already; remove it, or name another file by --to")
    try:
        launch(label, found[0], asked, path, runtime=asked.look.runtime)
    except RankLost as error:
        sys.exit(f"robustscape: {error}")


def _options(source: Source | None, options: list[str]) -> Label:
    description = f"{(__doc__ or '').partition(':')[0]}. {FORMS} Training reads the file: --unlabelled.source FILE.npz."
    return parse(Label(look=look(source)), options, program="robustscape label SOURCE", description=description)


def label(source: Source, options: Label, path: Path) -> None:
    """Label the images and write the file, with its provenance inside; of several ranks the first writes.

    Args:
        source: The run or model.
        options: Which images, and how.
        path: The file.

    Raises:
        BadInput: images or classes that the network is not for.
    """
    from robustscape.data.mixed import relabelled
    from robustscape.data.pseudo_labelled import write_file
    from robustscape.evaluation.subject import drained
    from robustscape.recipes.labelling import labelling
    from robustscape.results import provenance

    seconds, runtime = stopwatch(), options.look.runtime
    splits = splits_of(source, options.look)
    images = _chosen(source, options, splits)
    with threads(runtime):
        model = model_of(source, options.look, options.checkpoint, splits.test)
        classes = _classes(source, options, model, images, splits)
        partial = path.with_name(f".{path.stem}.partial")
        work = labelling(model, images, batch_size=options.batch_size, partial=partial)
        found = follow(work, name=f"label {images.name}") if is_first() else drained(work)
    if not is_first():
        return
    import torch

    made = relabelled(replace(images, classes=classes), torch.from_numpy(found.y))
    about = provenance(
        seconds=seconds(),
        device=runtime.torch_device(),
        precision="float32",
        seed=options.look.seed,
        model=f"{source.text}, {options.checkpoint}" if source.run else source.text,
        data=images.name,
        settings={"n": options.n, "batch_size": options.batch_size},
    )
    write_file(path, made, found.confidence, about)
    partial.unlink(missing_ok=True)
    agree = ""
    if images.classes == classes:
        agree = f", {float((made.y == images.y).float().mean()):.1%} of the labels as in {images.name}"
    out(f"wrote {path}: {len(made)} images, mean confidence {float(found.confidence.mean()):.3f}{agree}")


def _chosen(source: Source, options: Label, splits: Splits) -> Images:
    """Return the images that are to be labelled."""
    from robustscape.data.folder import read_images
    from robustscape.data.pseudo_labelled import read_pixels
    from robustscape.data.unlabelled import hidden_part

    if options.images is not None:
        folder = str(options.images)
        read = read_pixels if options.images.suffix == ".npz" else read_images
        images = first_alone(lambda: read(folder))
        return images if options.n is None else images.take(slice(0, options.n))
    run = source.run
    hide = run.unlabelled.hide if run is not None and options.look.data == run.data else None
    names = options.splits or (("train",) if hide is None else ("hidden",))
    parts = []
    for name in names:
        if name != "hidden":
            parts.append(getattr(splits, name))
        elif run is None or hide is None:
            raise BadInput("--splits hidden: no labels of these data were hidden from this network in its training")
        else:
            parts.append(hidden_part(run.data.load(seed=run.seed), hide, seed=run.seed))
    return _joined(parts, options.n)


def _joined(parts: Sequence[Images], n: int | None) -> Images:
    """Return the first n images of several parts of a data set, in their order."""
    import torch

    joined = {name: torch.cat([getattr(part, name) for part in parts])[:n] for name in ("x", "y", "index")}
    name = " and ".join(part.name for part in parts)
    return replace(parts[0], **joined, name=name if n is None else f"{name}, first {n}")


def _classes(source: Source, options: Label, model: nn.Module, images: Images, splits: Splits) -> tuple[str, ...]:
    """Return the names of the network's classes; its own, those of the data, or numbers.

    Raises:
        BadInput: the network cannot take the images.
    """
    import torch

    from robustscape.evaluation.subject import subject
    from robustscape.models.loading import describe

    few = images.pixels(slice(0, 2))
    outputs = subject(model, few, torch.zeros(len(few), dtype=torch.int64), runtime=options.look.runtime).classes
    known = read_run(source.folder)["classes"] if source.run else describe(source.text)["classes"]
    names = tuple(map(str, known)) if known else splits.train.classes
    return names if len(names) == len(outputs) else outputs
