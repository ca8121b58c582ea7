"""Unlabelled images in a training: a file of pseudo-labelled ones, and labels that are hidden for the experiment."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch

from robustscape.data.mixed import hidden_labels
from robustscape.data.pseudo_labelled import read_file
from robustscape.data.splits import check_part, of_classes
from robustscape.types import BadInput, Images, Splits

_APART = 1 << 32
"""What is added to the numbers of unlabelled images: their random numbers are no labelled image's."""


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Unlabelled images that a training takes beside the labelled ones; by default none.

    Attributes:
        source: File of pseudo-labelled images: an .npz that ``robustscape label`` wrote, any with arrays x and y, or
            Carmon's pickle; also looked for in the folder that ROBUSTSCAPE_DATA names. None for no such images.
        share: Share of them in every batch, in (0, 1), to the nearest image.
        size: Examples of an epoch, of both kinds; None for as many as there are labelled images.
        hide: How much of the training set loses its labels, each class alike, drawn by the run's seed, and is not
            trained on by itself: an int is a number of images, a float a fraction in (0, 1). None for nothing.
            ``robustscape label`` gives them pseudo-labels.
    """

    source: str | None = None
    share: float = 0.5
    size: int | None = None
    hide: int | float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 < self.share < 1:
            raise BadInput(f"unlabelled.share is in (0, 1), not {self.share:g}; leave unlabelled.source out for none")
        if self.size is not None and self.size < 1:
            raise BadInput(f"unlabelled.size must be at least 1, not {self.size}; leave it out for a usual epoch")
        if self.hide is not None:
            check_part("unlabelled.hide", self.hide)
        if self.source is None and (self.share != 0.5 or self.size is not None):
            raise BadInput(
                "unlabelled.share and unlabelled.size are of unlabelled images, and there are none; give their file by "
                "unlabelled.source"
            )


def labelled_part(splits: Splits, hide: int | float | None, *, seed: int) -> Splits:
    """Return the splits with a training set of those images alone that keep their labels.

    Args:
        splits: The splits.
        hide: As ``Unlabelled.hide``.
        seed: Draws which.

    Raises:
        BadInput: it takes all images, or all of a class.
    """
    if hide is None:
        return splits
    kept, _ = hidden_labels(splits.train, hide, seed=seed)
    return replace(splits, train=replace(kept, name=f"{kept.name}, labelled part"))


def hidden_part(splits: Splits, hide: int | float, *, seed: int) -> Images:
    """Return the training images that ``labelled_part`` leaves out; they still hold their true labels."""
    _, lost = hidden_labels(splits.train, hide, seed=seed)
    return replace(lost, name=f"{lost.name}, hidden part")


def pseudo_labelled(source: str, splits: Splits) -> Images:
    """Return the images of a file, without those of other classes and those that are held out.

    Images with the pixels of a validation or test image are left out with a warning: a network that had seen them
    could not be judged by these sets.

    Args:
        source: As ``Unlabelled.source``.
        splits: What is trained and judged on.

    Returns:
        The images, labelled as the splits are; their numbers are apart from those of any data set.

    Raises:
        BadInput: the file is missing or damaged, or is of other classes or shapes.
    """
    classes = splits.train.classes
    images = read_file(source, classes=classes)
    if images.x.shape[1:] != splits.train.x.shape[1:]:
        raise BadInput(
            f"{source} has images of {tuple(images.x.shape[1:])}, and {splits.train.name} of "
            f"{tuple(splits.train.x.shape[1:])}: they cannot be in one batch"
        )
    if images.classes != classes:
        if not set(classes) <= set(images.classes):
            raise BadInput(
                f"{source} is labelled by the classes {_few(images.classes)}, not by those of {splits.train.name}, "
                f"{_few(classes)}; did you mean another file, or other --data?"
            )
        images = of_classes(images, tuple(map(images.classes.index, classes)))
    images = _not_held_out(images, splits, source)
    return replace(images, index=images.index + _APART)


def _not_held_out(images: Images, splits: Splits, source: str) -> Images:
    """Return the images whose pixels are not those of a validation or test image."""
    held = {row.tobytes() for part in (splits.validation, splits.test) for row in part.x.cpu().numpy()}
    rows = [place for place, row in enumerate(images.x.cpu().numpy()) if row.tobytes() not in held]
    if len(rows) == len(images):
        return images
    warnings.warn(
        f"{len(images) - len(rows)} of the {len(images)} images of {source} are in the validation or test set and are "
        "left out",
        stacklevel=2,
    )
    return images.take(torch.tensor(rows, dtype=torch.int64))


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
