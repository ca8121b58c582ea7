"""What a run is given: labelled images, unlabelled ones, and the weights that its training begins with."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

from torch import nn

from robustscape.data.batches import Loader
from robustscape.data.cache import digest
from robustscape.data.mixed import MixedLoader
from robustscape.data.pseudo_labelled import find_file
from robustscape.data.splits import moved, on_device
from robustscape.data.unlabelled import labelled_part, pseudo_labelled
from robustscape.models.pretrained import Pretrained, begun_with, read_pretrained
from robustscape.objectives.rst import RST
from robustscape.recipes.run import Run, check_settings
from robustscape.runtime.ranks import first_alone, is_first
from robustscape.types import BadInput, Images, Splits


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """What a run is given, read.

    Attributes:
        splits: What is trained, chosen and judged on; the training images are those that keep their labels.
        unlabelled: Pseudo-labelled images, None for none.
        start: Weights to begin with, None for those drawn by the seed.
    """

    splits: Splits
    unlabelled: Images | None
    start: Pretrained | None

    def hashes(self) -> dict[str, str]:
        """Return what tells whether files are still those that the run began with: option to a hash of its content."""
        found: dict[str, str] = {}
        if self.unlabelled is not None:
            found["unlabelled.source"] = digest({name: getattr(self.unlabelled, name).cpu().numpy() for name in "xy"})
        if self.start is not None:
            with self.start.known.weights.open("rb") as file:
                found["from"] = hashlib.file_digest(file, "sha256").hexdigest()
        return found


def check(run: Run) -> None:
    """Refuse a run whose settings do not belong together, before anything is read.

    Raises:
        BadInput: what ``check_settings`` refuses; RST without unlabelled images, such images without RST or with
            mixup.
    """
    check_settings(run)
    source = run.unlabelled.source
    if isinstance(run.objective, RST) and source is None:
        raise BadInput(
            "RST needs unlabelled images in its batches, and the run has labelled ones alone; give a file of "
            "pseudo-labelled ones by --unlabelled.source FILE.npz, which `robustscape label RUN --to FILE.npz` writes, "
            f"or take --objective {run.objective.form}"
        )
    if source is not None and run.targets.mixup:
        raise BadInput(
            f"targets.mixup={run.targets.mixup:g} would mix labelled and pseudo-labelled images; leave it at 0"
        )
    if source is not None and not isinstance(run.objective, RST):
        raise BadInput(
            f"unlabelled.source is {source!r}, but {type(run.objective).__name__} does not tell unlabelled images from "
            "labelled ones; did you mean --objective rst, with the --objective.form that you want?"
        )


def check_files(run: Run) -> None:
    """Refuse a run by its files alone, without its data; whether shapes fit and files are whole, ``loaded`` tells.

    Raises:
        BadInput: the weights to begin with are missing, damaged or say that they are of another network; the file of
            unlabelled images is missing.
    """
    if run.start is not None:
        read_pretrained(run.start, run.model)
    if run.unlabelled.source is not None:
        find_file(run.unlabelled.source)


def loaded(run: Run) -> Given:
    """Read what a run is given onto the device, the first rank before the others, so that it alone downloads.

    Raises:
        BadInput: something is missing or damaged, or does not belong to the run.
    """
    given = first_alone(lambda: _read(run))
    device = run.runtime.torch_device()
    unlabelled = None if given.unlabelled is None else moved(given.unlabelled, device)
    return Given(splits=on_device(given.splits, device), unlabelled=unlabelled, start=given.start)


def _read(run: Run) -> Given:
    start = None if run.start is None else read_pretrained(run.start, run.model)
    splits = labelled_part(run.data.load(seed=run.seed), run.unlabelled.hide, seed=run.seed)
    if run.unlabelled.source is None:
        return Given(splits=splits, unlabelled=None, start=start)
    with warnings.catch_warnings():
        if not is_first():
            warnings.simplefilter("ignore")  # it is said once
        images = pseudo_labelled(run.unlabelled.source, splits)
    return Given(splits=splits, unlabelled=images, start=start)


def network(run: Run, given: Given) -> tuple[nn.Module, str]:
    """Return the network before the first step, on the CPU, and in words what it begins with, "" for nothing special.

    Raises:
        BadInput: the weights to begin with are of another network.
    """
    channels, height, width = given.splits.train.x.shape[1:]
    image, classes = (channels, height, width), given.splits.train.classes
    if given.start is None:
        return run.model.build(image=image, classes=len(classes), seed=run.seed), ""
    return begun_with(given.start, run.model, image=image, classes=classes, seed=run.seed)


def batches(run: Run, given: Given) -> Loader | MixedLoader:
    """Return what serves the training images: labelled ones alone, or mixed with unlabelled ones.

    Raises:
        BadInput: they give no batch.
    """
    train, training, mixed = given.splits.train, run.training, run.unlabelled
    if given.unlabelled is None:
        return Loader(
            images=train,
            batch_size=training.batch_size,
            seed=run.seed,
            augment=run.augment,
            targets=run.targets,
        )
    return MixedLoader(
        labelled=train,
        unlabelled=given.unlabelled,
        batch_size=training.batch_size,
        seed=run.seed,
        share=mixed.share,
        size=mixed.size,
        augment=run.augment,
        targets=run.targets,
    )
